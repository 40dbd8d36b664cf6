/* See call.h. */
#include "parent/rpc/call.h"

#include "parent/trace/trace.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void calls_init(struct call_set *s, const struct call_ops *ops, struct context *context,
                struct task *task) {
  *s = (struct call_set){.ops = ops, .context = context, .task = task};
  idmap_init(&s->ids);
  list_init(&s->pending);
  list_init(&s->spare);
}

void calls_deinit(struct call_set *s) {
  idmap_deinit(&s->ids);
  list_each_safe(it, next, &s->spare) {
    free(list_entry(it, struct call, link));
  }
}

static int started_of(const struct call *c) {
  return c->away ? MF_STARTED_UNKNOWN : MF_STARTED_NO;
}

static void on_timeout(struct deadline *d) {
  struct call *c = list_entry(d, struct call, deadline);
  struct backend *b = c->set->context->backend;
  if (trace_is_on())
    trace_mark(
        NULL, b->ops->now_us(b), "timeout",
        TRACE_ARGS(TRACE_NUMBER("call", c->id), TRACE_NUMBER("after_ms", c->timeout_ms)));
  call_fail(c, MF_ETIMEOUT, started_of(c));
}

static struct call *take_record(struct call_set *s) {
  struct call *c;
  if (list_empty(&s->spare))
    return malloc(s->ops->size);
  c = list_entry(s->spare.next, struct call, link);
  list_remove(&c->link);
  s->nspare--;
  return c;
}

/* The exact time costs what a short call costs otherwise. */
static uint64_t now_us(const struct call_set *s) {
  struct backend *b = s->context->backend;
  return s->ops->timed || trace_is_on() ? b->ops->now_us(b) : b->ops->now_coarse_us(b);
}

void *call_new(struct call_set *s, mf_reply_cb cb, void *data) {
  struct call *c = take_record(s);
  if (!c)
    return NULL;
  memset(c, 0, s->ops->size);
  list_init(&c->link);
  list_init(&c->pending_link);
  deadline_init(&c->deadline, on_timeout);
  c->set = s;
  c->cb = cb;
  c->data = data;
  if (idmap_add(&s->ids, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  c->made_us = now_us(s);
  s->nwaiting++;
  return c;
}

void call_free(struct call *c) {
  struct call_set *s = c->set;
  if (!c->notified)
    s->nwaiting--;
  idmap_remove(&s->ids, c->id);
  deadline_clear(&c->deadline);
  s->ops->let_go(c);
  list_remove(&c->link);
  list_remove(&c->pending_link);
  if (s->nspare == s->ops->spare_max) {
    free(c);
    return;
  }
  list_push(&s->spare, &c->link);
  s->nspare++;
}

void call_set_timeout(struct call *c, unsigned timeout_ms) {
  c->timeout_ms = timeout_ms;
  if (timeout_ms != MF_NO_TIMEOUT)
    deadline_set(&c->set->context->deadlines, &c->deadline, timeout_ms);
}

void call_fail(struct call *c, int code, int started) {
  struct call_set *s = c->set;
  if (call_is_settled(c))
    return;
  deadline_clear(&c->deadline);
  if (!c->away)
    s->ops->leave_queue(c);
  c->code = code;
  c->started = started;
  list_push(&s->pending, &c->pending_link);
  context_task(s->context, PHASE_WORK, s->task);
}

int calls_cancel(struct call_set *s, uint64_t id) {
  struct call *c = idmap_get(&s->ids, id);
  if (!c || call_is_settled(c))
    return -ESRCH;
  call_fail(c, MF_ECANCELLED, started_of(c));
  return 0;
}

int calls_notify(struct call_set *s) {
  while (!list_empty(&s->pending) && context_step(s->context, PHASE_WORK)) {
    struct call *c = list_entry(s->pending.next, struct call, pending_link);
    mf_reply_cb cb = c->cb;
    void *data = c->data;
    char text[64];
    mf_error e;
    s->ops->describe(c, text, sizeof text, &e);
    list_remove(&c->pending_link);
    if (c->away) {
      c->notified = 1;
      s->nwaiting--;
    } else {
      call_free(c);
    }
    if (cb)
      cb(&e, NULL, data);
  }
  return !list_empty(&s->pending);
}
