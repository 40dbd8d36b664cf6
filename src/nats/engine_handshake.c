/* A TLS handshake has a time limit, too: libnats makes the socket blocking for it, so that
 * a server that is stopped, or is none, holds the thread of an attempt for ever; and it
 * begins one whatever the URL says, when the server asks for it. OpenSSL tells of each SSL
 * object that is made in such a thread, and of the beginning of its handshake; the loop
 * shuts its socket down when it is late. Where nobody waits for the attempt any more,
 * because its engine is gone or the process exits, it is shut down at once.
 * Runs in the parent. */
#include "nats/engine_private.h"

#include <sys/socket.h>

/* libnats brings OpenSSL; a build of it without has none of these. Of <openssl/crypto.h>
 * and <openssl/ssl.h>: */
typedef void ex_func(void *parent, void *ptr, void *ad, int idx, long argl, void *argp);
typedef void info_func(const void *ssl, int where, int ret);
enum { EX_INDEX_SSL = 0, HANDSHAKE_START = 0x10 };
extern int CRYPTO_get_ex_new_index(int class_index, long argl, void *argp,
                                   ex_func *new_func, void *dup_func, ex_func *free_func)
    __attribute__((weak));
extern void SSL_set_info_callback(void *ssl, info_func *f) __attribute__((weak));
extern int SSL_get_fd(const void *ssl) __attribute__((weak));

static _Thread_local struct mailbox *connecting; /* whose attempt this thread is */

/* All attempts. A mailbox's own mutex is taken inside of this one. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list attempts = {&attempts, &attempts};
static int is_exiting;

/* Its mutex is held. */
static void shut(struct mailbox *box) {
  if (box->handshake_fd >= 0)
    shutdown(box->handshake_fd, SHUT_RDWR);
}

static void on_info(const void *ssl, int where, int ret) {
  struct mailbox *box = connecting;
  (void)ret;
  if (!box || !(where & HANDSHAKE_START))
    return;
  pthread_mutex_lock(&mutex);
  pthread_mutex_lock(&box->mutex);
  box->ssl = ssl;
  box->handshake_fd = SSL_get_fd(ssl);
  box->handshake_ms = uv_hrtime() / 1000000;
  if (box->is_abandoned || is_exiting)
    shut(box);
  pthread_mutex_unlock(&box->mutex);
  pthread_mutex_unlock(&mutex);
}

static void on_ssl_new(void *parent, void *ptr, void *ad, int idx, long argl,
                       void *argp) {
  struct mailbox *box = connecting;
  (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
  if (!box)
    return; /* somebody else's */
  SSL_set_info_callback(parent, on_info);
  pthread_mutex_lock(&box->mutex);
  int is_first = !box->is_secure;
  box->is_secure = 1;
  pthread_mutex_unlock(&box->mutex);
  if (is_first) { /* the server asked for it, not the URL */
    engine_secure_begin();
    engine_secure_ready();
  }
}

/* Its socket is closed after this. */
static void on_ssl_free(void *parent, void *ptr, void *ad, int idx, long argl,
                        void *argp) {
  struct mailbox *box = connecting;
  (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
  if (!box)
    return;
  pthread_mutex_lock(&box->mutex);
  if (box->ssl == parent)
    box->handshake_fd = -1;
  pthread_mutex_unlock(&box->mutex);
}

static void watch_openssl(void) {
  if (CRYPTO_get_ex_new_index && SSL_set_info_callback && SSL_get_fd)
    CRYPTO_get_ex_new_index(EX_INDEX_SSL, 0, NULL, on_ssl_new, NULL, on_ssl_free);
}

void engine_handshake_begin(struct mailbox *box) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_openssl);
  connecting = box;
  pthread_mutex_lock(&mutex);
  list_push(&attempts, &box->attempt);
  pthread_mutex_unlock(&mutex);
}

void engine_handshake_end(struct mailbox *box) {
  connecting = NULL;
  pthread_mutex_lock(&mutex);
  list_remove(&box->attempt);
  pthread_mutex_unlock(&mutex);
  pthread_mutex_lock(&box->mutex);
  box->handshake_fd = -1;
  pthread_mutex_unlock(&box->mutex);
}

void engine_handshake_cut(struct mailbox *box, unsigned after_ms) {
  pthread_mutex_lock(&box->mutex);
  if (box->handshake_fd >= 0 && uv_hrtime() / 1000000 - box->handshake_ms >= after_ms) {
    shut(box);
    box->was_late = 1;
  }
  pthread_mutex_unlock(&box->mutex);
}

void engine_handshake_exit(void) {
  pthread_mutex_lock(&mutex);
  is_exiting = 1;
  list_each(it, &attempts) {
    struct mailbox *box = list_entry(it, struct mailbox, attempt);
    pthread_mutex_lock(&box->mutex);
    shut(box);
    pthread_mutex_unlock(&box->mutex);
  }
  pthread_mutex_unlock(&mutex);
}
