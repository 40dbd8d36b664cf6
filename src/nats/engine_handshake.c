/* A TLS handshake has a time limit, too: libnats makes the socket blocking for it, so that
 * a server that is stopped, or is none, holds the thread of an attempt for ever; and it
 * begins one whatever the URL says, when the server asks for it. OpenSSL tells of each SSL
 * object that is made in such a thread; the loop shuts its socket down when it is late.
 * Runs in the parent. */
#include "nats/engine_private.h"

#include <sys/socket.h>

/* libnats brings OpenSSL; a build of it without has none of these. Of <openssl/crypto.h>
 * and <openssl/ssl.h>: */
typedef void ex_func(void *parent, void *ptr, void *ad, int idx, long argl, void *argp);
enum { EX_INDEX_SSL = 0 };
extern int CRYPTO_get_ex_new_index(int class_index, long argl, void *argp,
                                   ex_func *new_func, void *dup_func, ex_func *free_func)
    __attribute__((weak));
extern int SSL_get_fd(const void *ssl) __attribute__((weak));

static _Thread_local struct mailbox *connecting; /* whose attempt this thread is */

static void on_ssl_new(void *parent, void *ptr, void *ad, int idx, long argl,
                       void *argp) {
  struct mailbox *box = connecting;
  (void)ptr, (void)ad, (void)idx, (void)argl, (void)argp;
  if (!box)
    return; /* somebody else's */
  pthread_mutex_lock(&box->mutex);
  box->ssl = parent;
  box->ssl_ms = uv_hrtime() / 1000000;
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
    box->ssl = NULL;
  pthread_mutex_unlock(&box->mutex);
}

static void watch_openssl(void) {
  if (CRYPTO_get_ex_new_index && SSL_get_fd)
    CRYPTO_get_ex_new_index(EX_INDEX_SSL, 0, NULL, on_ssl_new, NULL, on_ssl_free);
}

void engine_handshake_begin(struct mailbox *box) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_openssl);
  connecting = box;
}

void engine_handshake_end(struct mailbox *box) {
  connecting = NULL;
  pthread_mutex_lock(&box->mutex);
  box->ssl = NULL;
  pthread_mutex_unlock(&box->mutex);
}

void engine_handshake_cut(struct mailbox *box, unsigned after_ms) {
  pthread_mutex_lock(&box->mutex);
  int is_late = box->ssl && uv_hrtime() / 1000000 - box->ssl_ms >= after_ms;
  int fd = is_late ? SSL_get_fd(box->ssl) : -1;
  if (fd >= 0) {
    shutdown(fd, SHUT_RDWR);
    box->was_late = 1;
  }
  pthread_mutex_unlock(&box->mutex);
}
