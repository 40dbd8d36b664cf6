/* Calls of a far pool, from mf_far_call to their callback.
 *
 *   waiting -> sent -> answered
 *      ^--------'         refused, nobody was there, or its node is gone and it is
 *                         idempotent
 *
 * Runs in the parent. */
#include "nats/caller_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t MS = 1000000;

size_t far_pending(const mf_far *far) {
  return far->nwaiting + far->nsent + (far->jobs ? job_caller_pending(far->jobs) : 0);
}

/* ---- ends ---- */

void far_call_free(struct far_call *c) {
  far_chunk_free(c->chunk);
  free(c);
}

static void take_out(struct far_call *c) {
  mf_far *far = c->far;
  if (c->state == CALL_WAITS) {
    list_remove(&c->link);
    far->nwaiting--;
    far->queue_bytes -= c->length;
  } else {
    far_leave(c);
  }
}

static void count_end(mf_far *far, const struct far_call *c, const mf_error *e) {
  mf_far_info *i = &far->info;
  if (e)
    i->failed++;
  else
    i->done++;
  i->timeouts += e && e->code == MF_ETIMEOUT;
  i->cancelled += e && e->code == MF_ECANCELLED;
  if (!c->counted)
    return;
  if (!e || e->code == MF_EREMOTE)
    far->report.answered++;
  else if (e->started == MF_STARTED_NO)
    far->report.dropped++;
  else
    far->report.interrupted++;
}

/* The callback, and all that has to happen before it. Its memory stays. */
static void conclude(struct far_call *c, const mf_error *error, const mf_message *reply) {
  mf_far *far = c->far;
  mf_reply_cb cb = c->cb;
  void *data = c->data;
  mf_error e;
  if (error && c->runs > 0) { /* a node that is gone may have entered it */
    e = *error;
    e.started = MF_STARTED_UNKNOWN;
    error = &e;
  }
  minheap_remove(&c->deadline);
  list_remove(&c->cancel_link);
  idmap_remove(&far->ids, c->id);
  count_end(far, c, error);
  if (!error)
    call_times_add(&far->times, (uv_hrtime() - c->begun_ns) / 1000);
  else if (c->chunk)
    far_chunk_tell(c->chunk, error);
  engine_release(far->engine);
  struct far_chunk *chunk = c->chunk; /* the reply may lie in it */
  c->chunk = NULL;
  if (c->state != CALL_LEFT)
    free(c);
  if (cb)
    cb(error, reply, data);
  far_chunk_free(chunk);
  far_check_drained(far);
}

void far_finish(struct far_call *c, const mf_error *error, const mf_message *reply) {
  take_out(c);
  if (c->state == CALL_LEFT) { /* told already */
    far_call_free(c);
    return;
  }
  conclude(c, error, reply);
}

void far_fail(struct far_call *c, int code, int started, const char *text) {
  mf_error e = {.code = code, .message = text, .started = started};
  far_finish(c, &e, NULL);
}

/* Told now; its node still has it, and its place there is free when that says so. */
void far_give_up(struct far_call *c, int code, const char *text) {
  mf_error e = {.code = code, .message = text, .started = MF_STARTED_UNKNOWN};
  if (c->state == CALL_WAITS) {
    far_fail(c, code, MF_STARTED_NO, text);
    return;
  }
  c->far->nsent--;
  c->far->nleft++;
  c->state = CALL_LEFT;
  conclude(c, &e, NULL);
}

/* ---- back and again ---- */

static void wait_first(struct far_call *c) {
  mf_far *far = c->far;
  take_out(c);
  if (c->state == CALL_LEFT) {
    far_call_free(c);
    return;
  }
  c->state = CALL_WAITS;
  far->info.retried++;
  far->nwaiting++;
  far->queue_bytes += c->length;
  c->link.next = far->waiting.next; /* before the others */
  c->link.prev = &far->waiting;
  far->waiting.next->prev = &c->link;
  far->waiting.next = &c->link;
}

void far_requeue(struct far_call *c) {
  wait_first(c);
}

void far_lose(struct far_call *c, int code, const char *text) {
  if (c->state != CALL_LEFT && c->idempotent && c->runs < RUNS_MAX) {
    c->runs++;
    wait_first(c);
    return;
  }
  far_fail(c, code, MF_STARTED_UNKNOWN, text);
}

void far_dispatch(mf_far *far) {
  struct room_node *n;
  if (engine_state(far->engine) != ENGINE_UP)
    return;
  while (!list_empty(&far->waiting) && (n = room_pick(&far->room))) {
    struct far_call *c = list_entry(far->waiting.next, struct far_call, link);
    if (envelope_call_size(c->length) > engine_max_payload(far->engine)) {
      far_fail(c, MF_ELIMIT, MF_STARTED_NO,
               "the call is longer than the engine's max_payload");
      continue;
    }
    if (c->chunk && c->chunk->overdue) { /* its node had no room, and its time is over */
      far_fail(c, MF_ETIMEOUT, MF_STARTED_NO, "timed out; no node had room");
      continue;
    }
    if (c->chunk && !n->beat.chunks) { /* whoever has made it sends its items as calls */
      far_fail(
          c, MF_ELIMIT, MF_STARTED_NO,
          "the node with room takes no chunks: it is of an older release, or its pool "
          "is asynchronous or has a small message_max");
      continue;
    }
    list_remove(&c->link);
    far->nwaiting--;
    far->queue_bytes -= c->length;
    far_send(c, n);
  }
}

/* ---- time limits ---- */

static void on_expiry(uv_timer_t *timer);

void far_schedule(mf_far *far) {
  struct minheap_node *first = minheap_first(&far->deadlines);
  uint64_t at = first ? first->key : UINT64_MAX, now = uv_hrtime() / MS;
  if (far->drain_by < at)
    at = far->drain_by;
  if (at == UINT64_MAX)
    uv_timer_stop(&far->expiry);
  else
    uv_timer_start(&far->expiry, on_expiry, at > now ? at - now : 0, 0);
}

static void expire(struct far_call *c) {
  mf_far *far = c->far;
  char text[VERSION_TEXT + 100];
  enum engine_state state = engine_state(far->engine);
  if (c->state != CALL_WAITS && c->chunk && !c->chunk->overdue) {
    uint64_t grace = far->silent_ms < CHUNK_GRACE_MS ? far->silent_ms : CHUNK_GRACE_MS;
    c->chunk->overdue = 1;
    minheap_set(&far->deadlines, &c->deadline, uv_hrtime() / MS + grace);
    return;
  }
  if (c->state != CALL_WAITS) {
    far_give_up(c, MF_ETIMEOUT, "timed out; a node has the call");
    return;
  }
  if (state == ENGINE_UP) {
    char version[VERSION_TEXT] = "no node has announced itself";
    if (far->other.version >= 0)
      envelope_describe_version(far->other.version, &far->other.node, version);
    snprintf(text, sizeof text, "timed out; %s",
             far->room.n > 0 ? "no node had room" : version);
    far_fail(c, MF_ETIMEOUT, MF_STARTED_NO, text);
    return;
  }
  snprintf(text, sizeof text, "timed out; the engine can't be reached: %s",
           engine_reason(far->engine));
  far_fail(c, engine_was_up(far->engine) ? MF_ETIMEOUT : MF_EENGINE, MF_STARTED_NO, text);
}

static void on_expiry(uv_timer_t *timer) {
  mf_far *far = timer->data;
  uint64_t now = uv_hrtime() / MS;
  struct minheap_node *first;
  while ((first = minheap_first(&far->deadlines)) && first->key <= now)
    expire(minheap_entry(first, struct far_call, deadline));
  if (far->drain_by <= now) {
    far->drain_by = UINT64_MAX;
    far->drain_late = 1;
    far_check_drained(far);
  }
  far_schedule(far);
}

static int has_patience(const struct far_call *c, uint64_t now_ms) {
  const mf_far *far = c->far;
  if (engine_is_refused(far->engine))
    return 0;
  uint64_t age = now_ms - c->begun_ns / MS, down = now_ms - far->down_ms;
  if (!engine_was_up(far->engine)) /* a first attempt on a busy machine takes its time */
    return age < FIRST_MS || (!engine_has_tried(far->engine) && age < AGAIN_MS);
  return minheap_holds(&c->deadline) || age < AGAIN_MS || down < AGAIN_MS;
}

/* Those that wait and have no patience. */
static void fail_waiting(mf_far *far,
                         int (*waits)(const struct far_call *c, uint64_t now_ms),
                         int code, const char *text) {
  uint64_t now = uv_hrtime() / MS;
  struct list waiting;
  list_move(&waiting, &far->waiting);
  while (!list_empty(&waiting)) {
    struct far_call *c = list_entry(waiting.next, struct far_call, link);
    list_remove(&c->link);
    list_push(&far->waiting, &c->link);
    if (!waits(c, now))
      far_fail(c, code, MF_STARTED_NO, text);
  }
}

void far_look_at_engine(mf_far *far) {
  char text[400];
  if (engine_state(far->engine) == ENGINE_UP || list_empty(&far->waiting))
    return;
  snprintf(text, sizeof text, "the engine %s: %s",
           engine_is_refused(far->engine) ? "refused" : "can't be reached",
           engine_reason(far->engine));
  fail_waiting(far, has_patience, MF_EENGINE, text);
}

static int is_young(const struct far_call *c, uint64_t now_ms) {
  return now_ms - c->begun_ns / MS < FIRST_MS;
}

void far_look_at_versions(mf_far *far) {
  char text[VERSION_TEXT];
  if (far->other.version >= 0 && uv_hrtime() / MS - far->other.heard_ms > far->silent_ms)
    far->other.version = -1;
  if (far->other.version < 0 || far->room.n > 0 || list_empty(&far->waiting))
    return;
  envelope_describe_version(far->other.version, &far->other.node, text);
  fail_waiting(far, is_young, MF_EPROTOCOL, text);
}

/* ---- the calls of users ---- */

static int refuse(mf_far *far, int code) {
  far->info.refused++;
  return code;
}

/* Those of a program that was compiled for another version have another size. */
static int read_options(const mf_call_options *given, mf_call_options *o) {
  *o = (mf_call_options)MF_CALL_OPTIONS_INIT;
  if (!given)
    return 0;
  if (given->size < sizeof given->size)
    return MF_EINVAL;
  memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
  return 0;
}

static int check_call(mf_far *far, const mf_message *m, const mf_call_options *o) {
  if (far->draining || far->closing || far->aborted)
    return MF_ECLOSED;
  if (m->nfds > (o->chunk ? 1 : 0) || (m->length > 0 && !m->data))
    return MF_EINVAL;
  if (envelope_call_size(m->length) > engine_max_payload(far->engine))
    return refuse(far, MF_ELIMIT);
  if (far->nwaiting >= far->queue_max &&
      far->nwaiting - far->queue_max >= room_places(&far->room))
    return refuse(far, MF_ELIMIT);
  if (far->nwaiting > 0 && far->queue_bytes + m->length > far->queue_bytes_max)
    return refuse(far, MF_ELIMIT);
  return 0;
}

static struct far_call *call_new(mf_far *far, const mf_message *m, mf_reply_cb cb,
                                 void *data) {
  struct far_call *c = malloc(sizeof *c + m->length);
  if (!c)
    return NULL;
  memset(c, 0, sizeof *c);
  if (idmap_add(&far->ids, c, &c->id) < 0) {
    free(c);
    return NULL;
  }
  c->far = far;
  c->cb = cb;
  c->data = data;
  c->begun_ns = uv_hrtime();
  c->length = m->length;
  if (m->length > 0)
    memcpy(c->bytes, m->data, m->length);
  list_init(&c->link);
  list_init(&c->cancel_link);
  minheap_node_init(&c->deadline);
  return c;
}

int mf_far_call(mf_far *far, const mf_message *m, const mf_call_options *options,
                mf_reply_cb cb, void *data, uint64_t *ret_id) {
  mf_call_options o = {0};
  int rc = far_check(far);
  if (rc == 0)
    rc = m ? read_options(options, &o) : MF_EINVAL;
  if (rc == 0)
    rc = check_call(far, m, &o);
  if (rc < 0)
    return rc;
  struct far_chunk *chunk = NULL;
  if (o.chunk && (rc = far_chunk_new(m, &chunk)) < 0)
    return rc;
  struct far_call *c = call_new(far, m, cb, data);
  if (!c) {
    far_chunk_free(chunk);
    return -ENOMEM;
  }
  c->chunk = chunk;
  unsigned ms = o.timeout_ms ? o.timeout_ms : far->timeout_ms;
  c->idempotent = o.idempotent;
  far->info.calls++;
  far->nwaiting++;
  far->queue_bytes += c->length;
  list_push(&far->waiting, &c->link);
  engine_hold(far->engine);
  if (ms != MF_NO_TIMEOUT) {
    struct minheap_node *first = minheap_first(&far->deadlines);
    minheap_set(&far->deadlines, &c->deadline,
                c->begun_ns / MS + 1 + ms); /* not before */
    if (!first || first->key > c->deadline.key) {
      uv_update_time(far->loop);
      far_schedule(far);
    }
  }
  if (ret_id)
    *ret_id = c->id;
  engine_touch(far->engine); /* it is sent when that flushes */
  far_watch(far);
  return 0;
}

void far_cancel_waiting(mf_far *far) {
  while (!list_empty(&far->cancelled)) {
    struct far_call *c = list_entry(far->cancelled.next, struct far_call, cancel_link);
    list_remove(&c->cancel_link);
    if (c->state == CALL_SENT)
      far_cancel_sent(c);
    far_give_up(c, MF_ECANCELLED, "cancelled");
  }
}

int mf_far_cancel(mf_far *far, uint64_t id) {
  int rc = far_check(far);
  if (rc < 0)
    return rc;
  struct far_call *c = idmap_get(&far->ids, id);
  if (!c || c->cancelled)
    return -ESRCH;
  c->cancelled = 1;
  list_push(&far->cancelled, &c->cancel_link);
  engine_touch(far->engine);
  return 0;
}
