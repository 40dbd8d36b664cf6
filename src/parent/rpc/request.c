/* What an rpc and a pool do with their calls in the same way. */
#include "parent/rpc/request.h"

#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
  NOTIFIED_A_TURN = 512
}; /* callbacks, so that 10^5 of them leave the loop its turns */

void requests_init(struct request_set *s, const struct request_ops *ops,
                   struct context *context, struct task *task) {
  *s = (struct request_set){.ops = ops, .context = context, .task = task};
  idmap_init(&s->ids);
  list_init(&s->pending);
  list_init(&s->spare);
}

void requests_deinit(struct request_set *s) {
  idmap_deinit(&s->ids);
  list_each_safe(it, next, &s->spare) {
    free(list_entry(it, struct request, link));
  }
}

static int started_of(const struct request *r) {
  return r->away ? MF_STARTED_UNKNOWN : MF_STARTED_NO;
}

static void on_timeout(struct deadline *d) {
  struct request *r = list_entry(d, struct request, deadline);
  struct backend *b = r->set->context->backend;
  if (trace_is_on())
    trace_mark(
        NULL, b->ops->now_us(b), "timeout",
        TRACE_ARGS(TRACE_NUMBER("call", r->id), TRACE_NUMBER("after_ms", r->timeout_ms)));
  request_fail(r, MF_ETIMEOUT, started_of(r));
}

static struct request *take_record(struct request_set *s) {
  struct request *r;
  if (list_empty(&s->spare))
    return malloc(s->ops->size);
  r = list_entry(s->spare.next, struct request, link);
  list_remove(&r->link);
  s->nspare--;
  return r;
}

/* The exact time costs what a short call costs otherwise. */
static uint64_t now_us(const struct request_set *s) {
  struct backend *b = s->context->backend;
  return s->ops->timed || trace_is_on() ? b->ops->now_us(b) : b->ops->now_coarse_us(b);
}

void *request_new(struct request_set *s, mf_reply_cb cb, void *data) {
  struct request *r = take_record(s);
  if (!r)
    return NULL;
  memset(r, 0, s->ops->size);
  list_init(&r->link);
  list_init(&r->pending_link);
  deadline_init(&r->deadline, on_timeout);
  r->set = s;
  r->cb = cb;
  r->data = data;
  if (idmap_add(&s->ids, r, &r->id) < 0) {
    free(r);
    return NULL;
  }
  r->made_us = now_us(s);
  s->nwaiting++;
  return r;
}

void request_free(struct request *r) {
  struct request_set *s = r->set;
  if (!r->notified)
    s->nwaiting--;
  idmap_remove(&s->ids, r->id);
  deadline_clear(&r->deadline);
  s->ops->let_go(r);
  list_remove(&r->link);
  list_remove(&r->pending_link);
  if (s->nspare == s->ops->spare_max) {
    free(r);
    return;
  }
  list_push(&s->spare, &r->link);
  s->nspare++;
}

void request_set_timeout(struct request *r, unsigned timeout_ms) {
  r->timeout_ms = timeout_ms;
  if (timeout_ms != MF_NO_TIMEOUT)
    deadline_set(&r->set->context->deadlines, &r->deadline, timeout_ms);
}

void request_fail(struct request *r, int code, int started) {
  struct request_set *s = r->set;
  if (request_is_settled(r))
    return;
  deadline_clear(&r->deadline);
  if (!r->away)
    s->ops->leave_queue(r);
  r->code = code;
  r->started = started;
  list_push(&s->pending, &r->pending_link);
  context_task(s->context, PHASE_WORK, s->task);
}

int requests_cancel(struct request_set *s, uint64_t id) {
  struct request *r = idmap_get(&s->ids, id);
  if (!r || request_is_settled(r))
    return -ESRCH;
  request_fail(r, MF_ECANCELLED, started_of(r));
  return 0;
}

int requests_notify(struct request_set *s) {
  for (int i = 0; i < NOTIFIED_A_TURN && !list_empty(&s->pending); i++) {
    struct request *r = list_entry(s->pending.next, struct request, pending_link);
    mf_reply_cb cb = r->cb;
    void *data = r->data;
    char text[64];
    mf_error e;
    s->ops->describe(r, text, sizeof text, &e);
    list_remove(&r->pending_link);
    if (r->away) {
      r->notified = 1;
      s->nwaiting--;
    } else {
      request_free(r);
    }
    if (cb)
      cb(&e, NULL, data);
  }
  return !list_empty(&s->pending);
}
