/* Messages of an engine: subscriptions, what is published, and requests (engine.h).
 *
 * libnats keeps what it has read in queues, which are emptied after every read. Of a
 * synchronous subscription it tells "no responders" without telling whose they are, so
 * subscriptions that want to know have libnats's delivery thread, which puts messages
 * into the mailbox. Runs in the parent. */
#include "nats/engine_private.h"

#include <errno.h>
#include <moonfork.h>
#include <stdlib.h>
#include <string.h>

/* ---- publishing ---- */

static int code_of(natsStatus s) {
  switch (s) {
  case NATS_OK:
    return 0;
  case NATS_MAX_PAYLOAD:
    return MF_ELIMIT;
  case NATS_NO_MEMORY:
    return -ENOMEM;
  case NATS_INVALID_SUBJECT:
  case NATS_INVALID_ARG:
  case NATS_NO_SERVER_SUPPORT:
    return -EINVAL;
  default:
    return -ENOTCONN;
  }
}

static natsStatus publish_with_headers(struct engine *e, const char *subject,
                                       const char *reply,
                                       const struct engine_header *headers, size_t n,
                                       const void *data, size_t length) {
  natsMsg *m = NULL;
  natsStatus s = natsMsg_Create(&m, subject, reply, data, (int)length);
  for (size_t i = 0; i < n && s == NATS_OK; i++)
    s = natsMsgHeader_Set(m, headers[i].name, headers[i].value);
  if (s == NATS_OK)
    s = natsConnection_PublishMsg(e->nc, m);
  natsMsg_Destroy(m);
  return s;
}

int engine_publish(struct engine *e, const char *subject, const char *reply,
                   const struct engine_header *headers, size_t nheaders, const void *data,
                   size_t length) {
  natsStatus s;
  if (e->state != ENGINE_UP || e->box->lost)
    return -ENOTCONN;
  if (length > e->max_payload)
    return MF_ELIMIT;
  int unwritten = natsConnection_Buffered(e->nc);
  if (unwritten > 0 && (size_t)unwritten + length > UNWRITTEN_MAX)
    return -ENOBUFS;
  if (nheaders > 0)
    s = publish_with_headers(e, subject, reply, headers, nheaders, data, length);
  else if (reply)
    s = natsConnection_PublishRequest(e->nc, subject, reply, data, (int)length);
  else
    s = natsConnection_Publish(e->nc, subject, data, (int)length);
  if (s != NATS_OK)
    return code_of(s);
  e->stats.messages_out++;
  e->stats.bytes_out += length;
  engine_touch(e);
  return 0;
}

/* ---- subscriptions ---- */

const char *engine_header_of(const struct engine_message *m, const char *name) {
  const char *value = NULL;
  return natsMsgHeader_Get(m->source, name, &value) == NATS_OK ? value : NULL;
}

static void give(struct engine *e, struct engine_sub *s, natsMsg *msg) {
  int length = natsMsg_GetDataLength(msg);
  struct engine_message m = {.subject = natsMsg_GetSubject(msg),
                             .reply = natsMsg_GetReply(msg),
                             .data = (const unsigned char *)natsMsg_GetData(msg),
                             .length = length > 0 ? (size_t)length : 0,
                             .no_responders = natsMsg_IsNoResponders(msg),
                             .source = msg};
  e->stats.messages_in++;
  e->stats.bytes_in += m.length;
  if (s->cb)
    s->cb(&m, s->data);
  natsMsg_Destroy(msg);
}

/* In libnats's thread. */
static void on_delivered(natsConnection *nc, natsSubscription *sub, natsMsg *msg,
                         void *data) {
  struct post *post = data;
  struct mail *m = malloc(sizeof *m);
  (void)nc;
  (void)sub;
  pthread_mutex_lock(&post->box->mutex);
  int taken = m && post->box->wake && post->box->waiting < MAIL_MAX;
  if (taken) {
    *m = (struct mail){.sub = post->sub, .msg = msg};
    list_push(&post->box->mail, &m->link);
    if (post->box->waiting++ == 0)
      uv_async_send(post->box->wake);
  }
  pthread_mutex_unlock(&post->box->mutex);
  if (taken)
    return;
  free(m);
  natsMsg_Destroy(msg);
}

static void on_complete(void *data) {
  struct post *post = data;
  mailbox_drop(post->box);
  free(post);
  engine_post_end();
}

static void sub_free(struct engine_sub *s) {
  list_remove(&s->link);
  free(s->subject);
  free(s);
}

static void free_removed(struct engine *e) {
  if (e->reading > 0)
    return;
  while (!list_empty(&e->removed))
    sub_free(list_entry(e->removed.next, struct engine_sub, link));
}

void engine_take_mail(struct engine *e) {
  struct list mail;
  pthread_mutex_lock(&e->box->mutex);
  list_move(&mail, &e->box->mail);
  e->box->waiting = 0;
  pthread_mutex_unlock(&e->box->mutex);
  e->reading++;
  list_each_safe(it, tmp, &mail) {
    struct mail *m = list_entry(it, struct mail, link);
    struct engine_sub *s = idmap_get(&e->ids, m->sub);
    if (s)
      give(e, s, m->msg);
    else
      natsMsg_Destroy(m->msg);
    free(m);
  }
  e->reading--;
  free_removed(e);
}

static void read_sub(struct engine *e, struct engine_sub *s) {
  natsConnection *nc = e->nc;
  uint64_t n = 0;
  natsMsg *msg;
  while (e->nc == nc && s->nats && natsSubscription_QueuedMsgs(s->nats, &n) == NATS_OK &&
         n > 0) {
    natsStatus rc = natsSubscription_NextMsg(&msg, s->nats, 0);
    if (rc == NATS_OK)
      give(e, s, msg);
    else if (rc != NATS_NO_RESPONDERS)
      return;
  }
}

/* A callback may end subscriptions: those move to the list `removed`, where they stay
 * until this is over. */
void engine_read_subs(struct engine *e) {
  struct list *it = e->subs.next;
  natsConnection *nc = e->nc;
  e->reading++;
  while (it != &e->subs && e->nc == nc) {
    struct engine_sub *s = list_entry(it, struct engine_sub, link);
    if (!(s->flags & ENGINE_STATUS))
      read_sub(e, s);
    it = s->cb ? s->link.next : e->subs.next; /* from the start where it has gone */
  }
  e->reading--;
  free_removed(e);
}

static natsStatus subscribe_by_thread(struct engine *e, struct engine_sub *s) {
  struct post *post = malloc(sizeof *post);
  if (!post)
    return NATS_NO_MEMORY;
  *post = (struct post){e->box, s->id};
  natsStatus rc =
      natsConnection_Subscribe(&s->nats, e->nc, s->subject, on_delivered, post);
  if (rc != NATS_OK) {
    free(post);
    return rc;
  }
  engine_post_begin();
  pthread_mutex_lock(&e->box->mutex);
  e->box->refs++;
  pthread_mutex_unlock(&e->box->mutex);
  rc = natsSubscription_SetOnCompleteCB(s->nats, on_complete, post);
  if (rc != NATS_OK)
    engine_post_end();
  return rc;
}

/* What fails is tried again with the next connection. */
static void subscribe(struct engine *e, struct engine_sub *s) {
  natsStatus rc = s->flags & ENGINE_STATUS
                      ? subscribe_by_thread(e, s)
                      : natsConnection_SubscribeSync(&s->nats, e->nc, s->subject);
  if (rc == NATS_OK && !(s->flags & ENGINE_STATUS))
    natsSubscription_SetPendingLimits(s->nats, -1, -1);
  if (rc != NATS_OK)
    s->nats = NULL;
  else
    engine_touch(e);
}

void engine_subs_up(struct engine *e) {
  list_each(it, &e->subs) subscribe(e, list_entry(it, struct engine_sub, link));
}

void engine_subs_down(struct engine *e) {
  list_each(it, &e->subs) {
    struct engine_sub *s = list_entry(it, struct engine_sub, link);
    natsSubscription_Destroy(s->nats);
    s->nats = NULL;
  }
}

int engine_subscribe(struct engine *e, const char *subject, int flags,
                     engine_message_cb *cb, void *data, struct engine_sub **ret) {
  struct engine_sub *s = calloc(1, sizeof *s);
  if (!s)
    return -ENOMEM;
  list_init(&s->link);
  s->subject = strdup(subject);
  if (!s->subject || idmap_add(&e->ids, s, &s->id) < 0) {
    sub_free(s);
    return -ENOMEM;
  }
  s->engine = e;
  s->flags = flags;
  s->cb = cb;
  s->data = data;
  list_push(&e->subs, &s->link);
  if (e->state == ENGINE_UP)
    subscribe(e, s);
  *ret = s;
  return 0;
}

void engine_unsubscribe(struct engine_sub *s) {
  if (!s)
    return;
  struct engine *e = s->engine;
  natsSubscription_Destroy(s->nats);
  s->nats = NULL;
  s->cb = NULL;
  idmap_remove(&e->ids, s->id);
  list_remove(&s->link);
  list_push(&e->removed, &s->link);
  if (e->state == ENGINE_UP)
    engine_touch(e);
  free_removed(e);
}

void engine_subs_free(struct engine *e) {
  while (!list_empty(&e->subs))
    sub_free(list_entry(e->subs.next, struct engine_sub, link));
  while (!list_empty(&e->removed))
    sub_free(list_entry(e->removed.next, struct engine_sub, link));
}

void engine_quit(struct engine_sub *s) {
  if (!s->nats)
    return;
  natsSubscription_Drain(s->nats);
  engine_touch(s->engine);
}

/* ---- fences ---- */

/* Comes back when all that was published before has been taken, and ends all fences that
 * there are. Those that a connection did not take go with the next ping. */
void engine_ping(struct engine *e) {
  engine_publish(e, e->pings->subject, NULL, NULL, 0, &e->nfences, sizeof e->nfences);
}

void engine_fence(struct engine *e, struct engine_fence *f, void (*cb)(void *data),
                  void *data) {
  *f = (struct engine_fence){.number = ++e->nfences, .cb = cb, .data = data};
  list_push(&e->fences, &f->link);
  engine_ping(e);
  engine_touch(e);
}

void engine_fence_cancel(struct engine_fence *f) {
  if (f->number == 0)
    return;
  f->number = 0;
  list_remove(&f->link);
}

/* A message of hostile people may have any number: one that was not given out yet ends
 * those that are there, no more. */
void engine_fences_down(struct engine *e, uint64_t number) {
  uint64_t last = e->nfences;
  e->passed = 0;
  while (!list_empty(&e->fences)) {
    struct engine_fence *f = list_entry(e->fences.next, struct engine_fence, link);
    if (f->number > number || f->number > last)
      return;
    f->number = 0;
    list_remove(&f->link);
    f->cb(f->data);
  }
}

/* ---- requests ---- */

static void expire(struct engine *e);

static void on_expiry(uv_timer_t *timer) {
  expire(timer->data);
}

static void schedule(struct engine *e) {
  uint64_t first = UINT64_MAX, now = uv_now(e->loop);
  list_each(it, &e->requests) {
    const struct engine_request *r = list_entry(it, struct engine_request, link);
    if (r->deadline < first)
      first = r->deadline;
  }
  if (first == UINT64_MAX)
    uv_timer_stop(&e->expiry);
  else
    uv_timer_start(&e->expiry, on_expiry, first > now ? first - now : 0, 0);
}

static void request_over(struct engine_request *r, int code,
                         const struct engine_message *m) {
  engine_answer_cb *cb = r->cb;
  void *data = r->data;
  struct engine *e = r->engine;
  list_remove(&r->link);
  free(r);
  engine_release(e);
  cb(code, m, data);
}

static void on_answer(const struct engine_message *m, void *data) {
  struct engine *e = data;
  const char *token = strrchr(m->subject, '.');
  uint64_t id = token ? strtoull(token + 1, NULL, 16) : 0;
  list_each(it, &e->requests) {
    struct engine_request *r = list_entry(it, struct engine_request, link);
    if (r->id != id || r->code)
      continue;
    request_over(r, m->no_responders ? MF_EENGINE : 0, m);
    return;
  }
  e->stats.dropped++;
}

static void expire(struct engine *e) {
  for (int again = 1; again;) {
    again = 0;
    list_each(it, &e->requests) {
      struct engine_request *r = list_entry(it, struct engine_request, link);
      if (r->deadline > uv_now(e->loop))
        continue;
      request_over(r, r->code ? r->code : MF_ETIMEOUT, NULL);
      again = 1; /* the callback may have changed the list */
      break;
    }
  }
  schedule(e);
}

/* All that are there now. */
void engine_fail_requests(struct engine *e, int code) {
  uint64_t last = e->nrequests;
  while (!list_empty(&e->requests)) {
    struct engine_request *r = list_entry(e->requests.next, struct engine_request, link);
    if (r->id > last)
      return;
    request_over(r, r->code ? r->code : code, NULL);
  }
}

static int need_answers(struct engine *e) {
  char subject[64];
  if (e->answers)
    return 0;
  snprintf(subject, sizeof subject, "_INBOX.%s.r.*", e->id);
  return engine_subscribe(e, subject, ENGINE_STATUS, on_answer, e, &e->answers);
}

int engine_request(struct engine *e, const char *subject,
                   const struct engine_header *headers, size_t nheaders, const void *data,
                   size_t length, unsigned timeout_ms, engine_answer_cb *cb,
                   void *cb_data, struct engine_request **ret) {
  char reply[80];
  struct engine_request *r = calloc(1, sizeof *r);
  if (!r || need_answers(e) < 0) {
    free(r);
    return -ENOMEM;
  }
  r->engine = e;
  r->id = ++e->nrequests;
  r->cb = cb;
  r->data = cb_data;
  snprintf(reply, sizeof reply, "_INBOX.%s.r.%llx", e->id, (unsigned long long)r->id);
  int rc = engine_publish(e, subject, reply, headers, nheaders, data, length);
  r->code = rc == -ENOTCONN ? MF_EENGINE : rc;
  r->deadline = rc < 0 ? 0 : uv_now(e->loop) + timeout_ms;
  list_push(&e->requests, &r->link);
  engine_hold(e);
  schedule(e);
  if (ret)
    *ret = r;
  return 0;
}

void engine_request_cancel(struct engine_request *r) {
  struct engine *e = r->engine;
  list_remove(&r->link);
  free(r);
  engine_release(e);
  schedule(e);
}
