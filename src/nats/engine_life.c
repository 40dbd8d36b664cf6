/* The states of a connection, on the loop (engine.h). Runs in the parent. */
#include "nats/engine_private.h"

#include <errno.h>
#include <fcntl.h>
#include <moonfork.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_timer(uv_timer_t *timer);
static void finish(struct engine *e);

/* ---- what it says ---- */

int engine_is_foreign(const struct engine *e) {
  return e->made_by != getpid();
}

enum engine_state engine_state(const struct engine *e) {
  return e->state;
}

const char *engine_reason(const struct engine *e) {
  return e->reason;
}

int engine_is_refused(const struct engine *e) {
  return e->refused;
}

int engine_was_up(const struct engine *e) {
  return e->was_up;
}

int engine_has_tried(const struct engine *e) {
  return e->has_tried;
}

size_t engine_max_payload(const struct engine *e) {
  return e->max_payload;
}

const char *engine_id(const struct engine *e) {
  return e->id;
}

void engine_get_stats(const struct engine *e, struct engine_stats *s) {
  *s = e->stats;
  int n = e->nc ? natsConnection_Buffered(e->nc) : 0;
  s->unwritten = n > 0 ? (size_t)n : 0;
}

static void tell(struct engine *e) {
  if (e->on_state && !e->closing)
    e->on_state(e, e->data);
}

/* ---- the loop stays alive for those who wait ---- */

void engine_hold(struct engine *e) {
  if (e->holds++ == 0)
    uv_ref((uv_handle_t *)&e->wake);
}

void engine_release(struct engine *e) {
  if (--e->holds == 0)
    uv_unref((uv_handle_t *)&e->wake);
}

/* ---- the socket ---- */

static void on_poll_closed(uv_handle_t *poll) {
  struct engine *e = poll->data;
  free(poll);
  e->handles--;
  finish(e);
}

static void close_poll(struct engine *e) {
  if (!e->poll)
    return;
  uv_close((uv_handle_t *)e->poll, on_poll_closed);
  e->poll = e->box->poll = NULL;
}

/* One of libnats's functions that read, write or close. Over TLS they raise SIGPIPE. */
static void process(struct engine *e, void (*f)(natsConnection *), natsConnection *nc) {
  struct engine_quiet quiet;
  if (!e->tls) {
    f(nc);
    return;
  }
  engine_quiet_begin(&quiet);
  f(nc);
  engine_quiet_end(&quiet);
}

static void retry_later(struct engine *e) {
  uint64_t jitter = (uint64_t)(unsigned char)e->id[e->stats.connects % ENGINE_ID] % 16;
  uv_timer_start(&e->timer, on_timer, e->retry_ms + e->retry_ms * jitter / 64, 0);
  e->retry_ms = e->retry_ms * 2 < RETRY_MAX_MS ? e->retry_ms * 2 : RETRY_MAX_MS;
}

/* The connection is no more; reason NULL: libnats knows. */
static void drop(struct engine *e, const char *reason) {
  natsConnection *nc = e->nc;
  const char *text = NULL;
  if (!nc)
    return;
  if (!e->box->lost) { /* libnats must not wait until what is not written has gone */
    shutdown(e->box->fd, SHUT_RDWR);
    for (int i = 0; i < READS_MAX && !e->box->lost; i++)
      process(e, natsConnection_ProcessReadEvent, nc);
  }
  e->nc = NULL;
  if (!reason && natsConnection_GetLastError(nc, &text) == NATS_OK)
    text = NULL;
  snprintf(e->reason, sizeof e->reason, "the connection was lost%s%s",
           reason || text ? ": " : "",
           reason ? reason
           : text ? text
                  : "");
  close_poll(e);
  engine_subs_down(e);
  process(e, natsConnection_Destroy, nc);
  uv_idle_stop(&e->flush);
  uv_timer_stop(&e->timer);
  if (e->closing)
    return;
  e->state = ENGINE_DOWN;
  retry_later(e);
  engine_fail_requests(e, MF_EENGINE);
  engine_fences_down(e, UINT64_MAX);
  tell(e);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct engine *e) {
  if (e->poll)
    uv_poll_start(e->poll, e->box->writing ? UV_READABLE | UV_WRITABLE : UV_READABLE,
                  on_poll);
}

/* What was collected for this turn is published. */
static void collect(struct engine *e) {
  if (e->on_flush && !e->closing)
    e->on_flush(e->flush_data);
}

static void write_out(struct engine *e) {
  if (!e->nc) /* aborted meanwhile */
    return;
  if (e->box->writing)
    process(e, natsConnection_ProcessWriteEvent, e->nc);
  if (e->box->lost)
    return;
  int watched = uv_is_active((uv_handle_t *)e->poll) && e->watches_writing;
  if (watched != e->box->writing) {
    e->watches_writing = e->box->writing;
    watch(e);
  }
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  struct engine *e = poll->data;
  natsConnection *nc = e->nc;
  if (status < 0 || (events & UV_READABLE)) {
    e->silent = 0;
    process(e, natsConnection_ProcessReadEvent, nc);
    engine_read_subs(e); /* what came before the end is given out, too */
    if (e->passed > 0)
      engine_fences_down(e, e->passed);
  }
  if (e->nc == nc && !e->box->lost) {
    collect(e);
    write_out(e);
  }
  if (e->nc && e->nc == nc && e->box->lost)
    drop(e, NULL);
  finish(e);
}

static void on_flush(uv_idle_t *idle) {
  struct engine *e = idle->data;
  uv_idle_stop(idle);
  collect(e);
  write_out(e);
  if (!e->nc)
    engine_fences_down(e, UINT64_MAX);
  if (e->nc && e->box->lost)
    drop(e, NULL);
  finish(e);
}

void engine_on_flush(struct engine *e, void (*cb)(void *data), void *data) {
  e->on_flush = cb;
  e->flush_data = data;
}

void engine_touch(struct engine *e) {
  if (e->closing < 2 && !uv_is_active((uv_handle_t *)&e->flush))
    uv_idle_start(&e->flush, on_flush);
}

/* ---- attempts ---- */

static void begin(struct engine *e) {
  e->state = ENGINE_CONNECTING;
  e->stats.connects++;
  int rc = engine_attempt(e);
  if (rc == 0) {
    uv_timer_start(&e->timer, on_timer, PING_MS, PING_MS); /* looks at its handshake */
    return;
  }
  e->state = ENGINE_DOWN;
  snprintf(e->reason, sizeof e->reason, "no thread for the connection (%s)%s",
           strerror(-rc), rc == -EAGAIN ? ": " ENGINE_THREADS_HINT : "");
  retry_later(e);
}

static int is_refusal(natsStatus s) {
  switch (s) {
  case NATS_CONNECTION_AUTH_FAILED:
  case NATS_SECURE_CONNECTION_WANTED:
  case NATS_SECURE_CONNECTION_REQUIRED:
  case NATS_SSL_ERROR:
  case NATS_NOT_PERMITTED:
  case NATS_ADDRESS_MISSING:
  case NATS_INVALID_ARG:
  case NATS_NOT_FOUND:
    return 1;
  default:
    return 0;
  }
}

/* The URL without what stands before an @: that may be a password. */
static void put_servers(const char *url, char *to, size_t size) {
  size_t n = 0;
  while (*url && n + 1 < size) {
    size_t word = strcspn(url, ",");
    const char *at = memrchr(url, '@', word), *scheme = strstr(url, "://");
    size_t skip = at ? (size_t)(at + 1 - url) : 0;
    size_t head = at && scheme && scheme < at ? (size_t)(scheme + 3 - url) : 0;
    int wrote = snprintf(to + n, size - n, "%.*s%.*s%s", (int)head, url,
                         (int)(word - skip), url + skip, url[word] ? ", " : "");
    n += wrote > 0 ? (size_t)wrote : 0;
    url += word + (url[word] == ',');
  }
}

void engine_put_servers(const struct engine *e, char *to, size_t size) {
  put_servers(e->o.url, to, size);
}

static void failed(struct engine *e, natsStatus s, const char *text) {
  char servers[REASON_MAX / 2] = "";
  put_servers(e->o.url, servers, sizeof servers);
  e->state = ENGINE_DOWN;
  e->refused = is_refusal(s);
  if (s == NATS_NO_SERVER)
    snprintf(e->reason, sizeof e->reason, "no server answers at %s", servers);
  else
    snprintf(e->reason, sizeof e->reason, "%.*s (%s)", REASON_MAX / 2 - 4, text, servers);
  retry_later(e);
  tell(e);
}

/* Servers of the same cluster, for the next attempt. */
static void learn_servers(struct engine *e) {
  char **list = NULL;
  int n = 0;
  if (natsConnection_GetDiscoveredServers(e->nc, &list, &n) != NATS_OK)
    return;
  size_t size = 1;
  for (int i = 0; i < n && i < 32; i++)
    size += strlen(list[i]) + 1;
  char *all = n > 0 ? malloc(size) : NULL;
  if (all) {
    char *p = all;
    for (int i = 0; i < n && i < 32; i++)
      p += sprintf(p, "%s%s", i ? "," : "", list[i]);
    free(e->discovered);
    e->discovered = all;
  }
  for (int i = 0; i < n; i++)
    free(list[i]);
  free(list);
}

static int open_poll(struct engine *e) {
  uv_poll_t *poll = malloc(sizeof *poll);
  if (!poll)
    return -ENOMEM;
  fcntl(e->box->fd, F_SETFD, FD_CLOEXEC);
  int rc = uv_poll_init(e->loop, poll, e->box->fd);
  if (rc < 0) {
    free(poll);
    return rc;
  }
  poll->data = e;
  uv_unref((uv_handle_t *)poll);
  e->handles++;
  e->poll = e->box->poll = poll;
  e->watches_writing = e->box->writing;
  watch(e);
  return 0;
}

static void up(struct engine *e) {
  int rc = open_poll(e);
  if (rc < 0) {
    drop(e, uv_strerror(rc));
    return;
  }
  e->state = ENGINE_UP;
  e->was_up = 1;
  e->refused = 0;
  e->silent = 0;
  e->retry_ms = RETRY_MIN_MS;
  e->reason[0] = '\0';
  int64_t most = natsConnection_GetMaxPayload(e->nc);
  e->max_payload = most > 0 ? (size_t)most : 0;
  learn_servers(e);
  engine_subs_up(e);
  uv_timer_start(&e->timer, on_timer, PING_MS, PING_MS);
  tell(e);
  if (!list_empty(&e->fences)) /* of the time before */
    engine_ping(e);
}

static void attempt_over(struct engine *e) {
  pthread_join(e->thread, NULL);
  uv_timer_stop(&e->timer);
  e->box->loop_thread = pthread_self();
  e->connecting = 0;
  e->has_tried = 1;
  e->tls |= e->box->is_secure;
  e->nc = e->box->nc;
  e->box->nc = NULL;
  if (e->closing)
    drop(e, "closed");
  else if (!e->nc)
    failed(e, e->box->status, e->box->text);
  else if (e->box->lost)
    drop(e, NULL);
  else
    up(e);
}

/* A closing engine waits no more for the thread, which ends by itself. */
static void abandon(struct engine *e) {
  pthread_mutex_lock(&e->box->mutex);
  int tried = e->box->tried;
  e->is_abandoned = e->box->is_abandoned = !tried;
  if (!tried)
    e->box->wake = NULL;
  pthread_mutex_unlock(&e->box->mutex);
  if (tried) {
    attempt_over(e);
    return;
  }
  engine_handshake_cut(e->box, 0); /* one that begins later is cut, too */
  pthread_detach(e->thread);
  e->connecting = 0;
}

static void on_wake(uv_async_t *wake) {
  struct engine *e = wake->data;
  pthread_mutex_lock(&e->box->mutex);
  int tried = e->box->tried;
  pthread_mutex_unlock(&e->box->mutex);
  if (e->connecting && tried)
    attempt_over(e);
  engine_take_mail(e);
  if (e->nc && e->box->writing)
    engine_touch(e);
  finish(e);
}

/* ---- looks at the connection ---- */

/* With the number of the fence that was the newest, 0 where there was none. */
static void on_ping(const struct engine_message *m, void *data) {
  struct engine *e = data;
  uint64_t number = 0;
  if (e->closing)
    e->said_goodbye = 1;
  if (m->length != sizeof number)
    return;
  memcpy(&number, m->data, sizeof number);
  e->passed = number; /* told when everything that was read is given out */
}

static void look(struct engine *e) {
  const char *text = NULL;
  if (e->silent++ >= PINGS_MAX) {
    drop(e, "the server does not answer");
    return;
  }
  if (natsConnection_GetLastError(e->nc, &text) != NATS_OK)
    snprintf(e->reason, sizeof e->reason, "%s", text); /* a subject is forbidden, say */
  engine_ping(e);
}

static void on_timer(uv_timer_t *timer) {
  struct engine *e = timer->data;
  if (e->closing && e->connecting)
    abandon(e);
  else if (e->closing)
    drop(e, "closed");
  else if (e->nc)
    look(e);
  else if (e->connecting)
    engine_handshake_cut(e->box, HANDSHAKE_MS);
  else
    begin(e);
  finish(e);
}

/* ---- beginning and end ---- */

/* Letters and digits, in equal shares but for a little. */
static int make_id(char *id) {
  static const char letters[] =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  unsigned char bytes[ENGINE_ID * 2];
  if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
    return -errno;
  for (int i = 0; i < ENGINE_ID; i++)
    id[i] = letters[(bytes[2 * i] << 8 | bytes[2 * i + 1]) % (sizeof letters - 1)];
  id[ENGINE_ID] = '\0';
  return 0;
}

static void free_all(struct engine *e) {
  engine_subs_free(e);
  engine_options_free(&e->o);
  free(e->discovered);
  idmap_deinit(&e->ids);
  if (e->box)
    mailbox_drop(e->box);
  free(e);
}

static void on_handle_closed(uv_handle_t *handle) {
  struct engine *e = handle->data;
  e->handles--;
  finish(e);
}

static void close_handles(struct engine *e) {
  e->closing = 2;
  pthread_mutex_lock(&e->box->mutex);
  e->box->wake = NULL;
  pthread_mutex_unlock(&e->box->mutex);
  uv_close((uv_handle_t *)&e->wake, on_handle_closed);
  uv_close((uv_handle_t *)&e->timer, on_handle_closed);
  uv_close((uv_handle_t *)&e->expiry, on_handle_closed);
  uv_close((uv_handle_t *)&e->flush, on_handle_closed);
}

/* Where it is closing: the next step, if it is time for that. May free it: the last thing
 * that a callback does. */
static void finish(struct engine *e) {
  if (!e->closing)
    return;
  if (e->nc && e->said_goodbye)
    drop(e, "closed");
  if (e->closing == 1 && !e->nc && !e->connecting)
    close_handles(e);
  if (e->closing < 2 || e->handles > 0)
    return;
  void (*done)(void *) = e->on_closed;
  void *data = e->closed_data;
  int is_abandoned = e->is_abandoned;
  free_all(e);
  if (!is_abandoned)
    engine_library_close();
  if (done)
    done(data);
}

static void begin_close(struct engine *e) {
  e->closing = 1;
  e->state = ENGINE_CLOSED;
  snprintf(e->reason, sizeof e->reason, "it is closed");
  uv_timer_stop(&e->timer);
  uv_timer_stop(&e->expiry);
}

void engine_close(struct engine *e, void (*done)(void *data), void *data) {
  engine_fail_requests(e, MF_ECANCELLED);
  begin_close(e);
  e->on_closed = done;
  e->closed_data = data;
  engine_hold(e);
  if (e->nc) {
    natsConnection_PublishString(e->nc, e->pings->subject, "");
    engine_touch(e);
  } else {
    uv_async_send(&e->wake); /* the end comes from the loop */
  }
  if (e->nc || e->connecting) {
    uv_update_time(e->loop);
    uv_timer_start(&e->timer, on_timer, CLOSE_MS, 0);
  }
}

void engine_abort(struct engine *e, void (*done)(void *data), void *data) {
  e->on_closed = done;
  e->closed_data = data;
  engine_fail_requests(e, MF_ECANCELLED);
  begin_close(e);
  if (e->nc) {
    write_out(e);
    drop(e, "closed");
  }
  if (e->connecting)
    abandon(e);
  close_handles(e);
}

static int init_handles(struct engine *e) {
  int rc = uv_async_init(e->loop, &e->wake, on_wake);
  if (rc < 0)
    return rc;
  uv_timer_init(e->loop, &e->timer);
  uv_timer_init(e->loop, &e->expiry);
  uv_idle_init(e->loop, &e->flush);
  uv_handle_t *all[] = {(uv_handle_t *)&e->wake, (uv_handle_t *)&e->timer,
                        (uv_handle_t *)&e->expiry, (uv_handle_t *)&e->flush};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    all[i]->data = e;
    uv_unref(all[i]);
    e->handles++;
  }
  return 0;
}

int engine_new(uv_loop_t *loop, const struct engine_options *o, engine_state_cb *on_state,
               void *data, struct engine **ret) {
  struct engine *e = calloc(1, sizeof *e);
  char subject[64];
  if (!e)
    return -ENOMEM;
  e->loop = loop;
  e->made_by = getpid();
  list_init(&e->subs);
  list_init(&e->removed);
  list_init(&e->requests);
  list_init(&e->fences);
  idmap_init(&e->ids);
  e->on_state = on_state;
  e->data = data;
  e->retry_ms = RETRY_MIN_MS;
  e->max_payload = 1 << 20; /* the servers' default, until it says */
  snprintf(e->reason, sizeof e->reason, "it is being connected");
  int rc = make_id(e->id);
  if (rc == 0)
    rc = engine_options_copy(&e->o, o);
  e->tls = engine_wants_tls(o);
  if (rc == 0 && !(e->box = mailbox_new(&e->wake)))
    rc = -ENOMEM;
  snprintf(subject, sizeof subject, "_INBOX.%s.p", e->id);
  if (rc == 0)
    rc = engine_subscribe(e, subject, 0, on_ping, e, &e->pings);
  if (rc == 0)
    rc = engine_library_open();
  if (rc < 0) {
    free_all(e);
    return rc;
  }
  rc = init_handles(e);
  if (rc < 0) {
    free_all(e);
    engine_library_close();
    return rc;
  }
  begin(e);
  *ret = e;
  return 0;
}
