/* An attempt to connect, in a thread that ends with it: libnats looks up names, connects
 * and shakes hands there. What came of it is left in the mailbox. Where the engine is
 * gone meanwhile the thread ends the connection itself. Runs in the parent. */
#include "nats/engine_private.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OPTION_STRINGS(X)                                                                \
  X(url) X(name) X(user) X(password) X(token) X(creds) X(ca) X(cert) X(key)

void engine_options_free(struct engine_options *o) {
#define FREE(field) free((char *)o->field);
  OPTION_STRINGS(FREE)
#undef FREE
  memset(o, 0, sizeof *o);
}

int engine_options_copy(struct engine_options *to, const struct engine_options *from) {
  int missing = 0;
  memset(to, 0, sizeof *to);
#define COPY(field)                                                                      \
  if (from->field && !(to->field = strdup(from->field)))                                 \
    missing = 1;
  OPTION_STRINGS(COPY)
#undef COPY
  if (!missing)
    return 0;
  engine_options_free(to);
  return -ENOMEM;
}

int engine_wants_tls(const struct engine_options *o) {
  return o->ca || o->cert || strstr(o->url, "tls://") != NULL;
}

/* ---- the mailbox ---- */

struct mailbox *mailbox_new(uv_async_t *wake) {
  struct mailbox *box = calloc(1, sizeof *box);
  if (!box)
    return NULL;
  pthread_mutex_init(&box->mutex, NULL);
  list_init(&box->mail);
  box->refs = 1;
  box->handshake_fd = -1;
  box->wake = wake;
  return box;
}

void mailbox_drop(struct mailbox *box) {
  pthread_mutex_lock(&box->mutex);
  unsigned left = --box->refs;
  pthread_mutex_unlock(&box->mutex);
  if (left > 0)
    return;
  list_each_safe(it, tmp, &box->mail) {
    struct mail *m = list_entry(it, struct mail, link);
    natsMsg_Destroy(m->msg);
    free(m);
  }
  pthread_mutex_destroy(&box->mutex);
  free(box);
}

/* ---- libnats's adapter ----
 * In the thread of the attempt these only note; from then on all that libnats does is
 * done on the loop, but for the thread of a subscription that is drained (engine_quit):
 * it flushes the connection, which the loop has to be told of. */

static natsStatus on_attach(void **user, void *loop, natsConnection *nc, natsSock fd) {
  struct mailbox *box = loop;
  (void)nc;
  *user = box;
  box->fd = fd;
  return NATS_OK;
}

static natsStatus on_read(void *user, bool add) {
  struct mailbox *box = user;
  if (!add && box->poll)
    uv_poll_stop(box->poll); /* the socket is about to be closed */
  return NATS_OK;
}

static natsStatus on_write(void *user, bool add) {
  struct mailbox *box = user;
  box->writing = add;
  if (add && !pthread_equal(pthread_self(), box->loop_thread)) {
    pthread_mutex_lock(&box->mutex);
    if (box->tried && box->wake)
      uv_async_send(box->wake);
    pthread_mutex_unlock(&box->mutex);
  }
  return NATS_OK;
}

static natsStatus on_detach(void *user) {
  struct mailbox *box = user;
  box->lost = 1;
  box->fd = -1;
  return NATS_OK;
}

/* libnats's own prints. What the server said is asked for later. */
static void on_error(natsConnection *nc, natsSubscription *sub, natsStatus s,
                     void *data) {
  (void)nc;
  (void)sub;
  (void)s;
  (void)data;
}

/* ---- the thread ---- */

static int split(char *servers, char **list, int most) {
  int n = 0;
  for (char *one; (one = strsep(&servers, ",")) && n < most;)
    if (*one)
      list[n++] = one;
  return n;
}

static natsStatus set_servers(natsOptions *opts, char **list, int n) {
  return n > 0 ? natsOptions_SetServers(opts, (const char **)list, n) : NATS_INVALID_ARG;
}

static natsStatus set_tls(natsOptions *opts, const struct engine_options *o) {
  natsStatus s = NATS_OK;
  if (engine_wants_tls(o)) {
    /* libnats takes "tls:" for a wish that the server may refuse */
    s = natsOptions_SetSecure(opts, true);
    engine_secure_ready();
  }
  if (s == NATS_OK && o->ca)
    s = natsOptions_LoadCATrustedCertificates(opts, o->ca);
  if (s == NATS_OK && o->cert)
    s = natsOptions_LoadCertificatesChain(opts, o->cert, o->key);
  return s;
}

static natsStatus set_login(natsOptions *opts, const struct engine_login *login) {
  natsStatus s = NATS_OK;
  if (login->name)
    s = natsOptions_SetName(opts, login->name);
  if (s == NATS_OK && login->user)
    s = natsOptions_SetUserInfo(opts, login->user,
                                login->password ? login->password : "");
  if (s == NATS_OK && login->token)
    s = natsOptions_SetToken(opts, login->token);
  return s;
}

static natsStatus set_options(natsOptions *opts, struct attempt *a) {
  const struct engine_options *o = &a->o;
  struct engine_login login;
  char *list[64];
  int n = split(a->servers, list, 64);
  natsStatus s = engine_login_make(o, list, n, &login) < 0 ? NATS_NO_MEMORY : NATS_OK;
#define DO(call)                                                                         \
  if (s == NATS_OK)                                                                      \
    s = call;
  DO(set_servers(opts, list, n))
  DO(natsOptions_SetNoRandomize(opts, false))
  DO(set_login(opts, &login))
  DO(o->creds ? engine_creds_set(&a->creds, opts) : NATS_OK)
  DO(set_tls(opts, o))
  DO(natsOptions_SetTimeout(opts, CONNECT_MS))
  DO(natsOptions_SetAllowReconnect(opts, false))
  DO(natsOptions_SetPingInterval(opts, 0)) /* its timer would end us in its thread */
  DO(natsOptions_SetSendAsap(opts, true))  /* else its flusher sleeps a millisecond */
  DO(natsOptions_UseGlobalMessageDelivery(opts, true))
  DO(natsOptions_SetErrorHandler(opts, on_error, NULL))
  DO(natsOptions_SetEventLoop(opts, a->box, on_attach, on_read, on_write, on_detach))
#undef DO
  engine_login_free(&login);
  return s;
}

/* What it says of the last error is more than the status does, but for the place in its
 * sources, "(conn.c:12): ". */
static void note_error(struct mailbox *box, natsStatus s) {
  natsStatus last = NATS_OK;
  const char *text = nats_GetLastError(&last);
  const char *rest = text && *text == '(' ? strstr(text, "): ") : NULL;
  if (rest)
    text = rest + 3;
  snprintf(box->text, sizeof box->text, "%s",
           text && *text && last == s ? text : natsStatus_GetText(s));
}

/* libnats then says that no server answers. What else fails has closed its socket, and left
 * that descriptor free. */
static int no_descriptor(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return errno == EMFILE || errno == ENFILE ? errno : 0;
  close(fd);
  return 0;
}

static void *run(void *data) {
  struct attempt *a = data;
  struct mailbox *box = a->box;
  natsOptions *opts = NULL;
  natsConnection *nc = NULL;
  char fault[REASON_MAX] = "";
  natsStatus s = natsOptions_Create(&opts);
  if (s == NATS_OK && a->o.creds &&
      engine_creds_read(a->o.creds, &a->creds, fault, sizeof fault) < 0)
    s = NATS_INVALID_ARG;
  if (s == NATS_OK)
    s = set_options(opts, a);
  engine_handshake_begin(box);
  if (s == NATS_OK)
    s = engine_creds_connect(&a->creds, &nc, opts);
  engine_handshake_end(box);
  int missing = s != NATS_OK ? no_descriptor() : 0;
  pthread_mutex_lock(&box->mutex);
  if (s != NATS_OK && box->was_late) { /* no refusal: it may be better next time */
    s = NATS_TIMEOUT;
    snprintf(box->text, sizeof box->text,
             "the server does not answer in its TLS handshake");
  } else if (fault[0])
    memcpy(box->text, fault, sizeof fault);
  else if (missing) { /* no refusal either */
    s = NATS_SYS_ERROR;
    snprintf(box->text, sizeof box->text, "%s", strerror(missing));
  } else if (s != NATS_OK)
    note_error(box, s);
  box->status = s;
  box->tried = 1;
  if (box->wake) {
    box->nc = nc;
    nc = NULL;
    uv_async_send(box->wake);
  }
  int is_abandoned = box->is_abandoned, is_secure = box->is_secure;
  pthread_mutex_unlock(&box->mutex);
  natsConnection_Destroy(nc);
  natsOptions_Destroy(opts);
  engine_creds_free(&a->creds);
  engine_options_free(&a->o);
  free(a->servers);
  free(a);
  mailbox_drop(box);
  nats_ReleaseThreadMemory();
  if (is_secure)
    engine_secure_end();
  if (is_abandoned)
    engine_library_close();
  return NULL;
}

static char *joined(const char *url, const char *more) {
  size_t n = strlen(url) + (more ? strlen(more) : 0) + 2;
  char *s = malloc(n);
  if (s)
    snprintf(s, n, "%s%s%s", url, more ? "," : "", more ? more : "");
  return s;
}

int engine_attempt(struct engine *e) {
  struct attempt *a = calloc(1, sizeof *a);
  sigset_t all, old;
  if (!a)
    return -ENOMEM;
  a->box = e->box;
  a->servers = joined(e->o.url, e->discovered);
  if (!a->servers || engine_options_copy(&a->o, &e->o) < 0) {
    free(a->servers);
    free(a);
    return -ENOMEM;
  }
  pthread_mutex_lock(&e->box->mutex);
  e->box->refs++;
  e->box->tried = e->box->lost = e->box->was_late = 0;
  e->box->writing = 0;
  e->box->fd = -1;
  pthread_mutex_unlock(&e->box->mutex);
  int is_secure = e->box->is_secure = engine_wants_tls(&e->o);
  if (is_secure)
    engine_secure_begin();
  sigfillset(&all); /* the program's handlers run in its own threads */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int rc = pthread_create(&e->thread, NULL, run, a);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (rc != 0) {
    if (is_secure)
      engine_secure_end();
    engine_options_free(&a->o);
    free(a->servers);
    free(a);
    mailbox_drop(e->box);
    return -rc;
  }
  e->connecting = 1;
  return 0;
}
