/* A far pool from its beginning to its end, and what it says of itself. Runs in the
 * parent. */
#include "nats/caller_private.h"

#include "nats/options.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t MS = 1000000;

/* ---- the tick ---- */

static void on_tick(uv_timer_t *timer) {
  mf_far *far = timer->data;
  far_tick(far);
  far_look_at_engine(far);
  far_look_at_versions(far);
  far_watch(far);
}

/* While nothing is to be watched nobody is waked up. */
void far_watch(mf_far *far) {
  int needed = far->room.n > 0 || far->other.version >= 0 ||
               (engine_state(far->engine) != ENGINE_UP && !list_empty(&far->waiting));
  int active = uv_is_active((uv_handle_t *)&far->tick);
  unsigned ms = far->silent_ms / ROOM_TICKS > 0 ? far->silent_ms / ROOM_TICKS : 1;
  if (needed && !active && !far->closing) {
    uv_update_time(far->loop);
    uv_timer_start(&far->tick, on_tick, ms, ms);
  } else if (!needed && active) {
    uv_timer_stop(&far->tick);
  }
}

static void on_state(struct engine *e, void *data) {
  mf_far *far = data;
  if (far->jobs)
    job_caller_turn(far->jobs);
  if (engine_state(e) == ENGINE_UP) {
    far_hello(far);
  } else {
    if (far->down_ms == 0)
      far->down_ms = uv_hrtime() / MS;
    far_drop_nodes(far, engine_reason(e));
    far_look_at_engine(far);
  }
  if (engine_state(e) == ENGINE_UP)
    far->down_ms = 0;
  far_watch(far);
}

/* ---- beginning ---- */

static void on_handle_closed(uv_handle_t *handle);

static void free_far(mf_far *far) {
  far_forget_nodes(far);
  idmap_deinit(&far->ids);
  idmap_deinit(&far->sent);
  free(far);
}

static void never_was(void *data) {
  free_far(data);
}

static void set_options(mf_far *far, const mf_nats_options *o) {
  snprintf(far->subject, sizeof far->subject, "%s", o->subject);
  far->timeout_ms = o->timeout_ms;
  far->queue_max = o->queue_max;
  far->queue_bytes_max = o->queue_bytes_max;
  far->silent_ms = o->silent_ms;
}

static size_t count_nodes(void *data) {
  const mf_far *far = data;
  return far->room.n;
}

static int start_jobs(mf_far *far) {
  const struct job_caller_options o = {far->subject, count_nodes, far};
  return job_caller_new(far->loop, far->engine, &o, &far->jobs);
}

int far_new(struct uv_loop_s *loop, const mf_nats_options *given, mf_far **ret) {
  mf_nats_options o;
  struct engine_options eo;
  int rc = nats_options_read(given, &o, &eo);
  if (rc < 0)
    return rc;
  mf_far *far = calloc(1, sizeof *far);
  if (!far)
    return -ENOMEM;
  far->loop = loop ? loop : uv_default_loop();
  set_options(far, &o);
  list_init(&far->waiting);
  list_init(&far->cancelled);
  idmap_init(&far->ids);
  idmap_init(&far->sent);
  minheap_init(&far->deadlines);
  room_init(&far->room);
  far->other.version = -1;
  far->drain_by = UINT64_MAX;
  far->down_ms = uv_hrtime() / MS;
  rc = engine_new(far->loop, &eo, on_state, far, &far->engine);
  if (rc < 0) {
    free_far(far);
    return rc;
  }
  rc = far_listen(far);
  if (rc == 0)
    rc = start_jobs(far);
  if (rc < 0) {
    engine_abort(far->engine, never_was, far);
    return rc;
  }
  uv_timer_init(far->loop, &far->expiry);
  uv_timer_init(far->loop, &far->tick);
  far->expiry.data = far->tick.data = far;
  uv_unref((uv_handle_t *)&far->expiry);
  uv_unref((uv_handle_t *)&far->tick);
  far->handles = 2;
  *ret = far;
  return 0;
}

int far_check(const mf_far *far) {
  if (!far)
    return MF_EINVAL;
  return engine_is_foreign(far->engine) ? MF_EFORKED : 0;
}

/* ---- the end ---- */

static void cancel_all(mf_far *far, const char *text) {
  while (!list_empty(&far->waiting))
    far_fail(list_entry(far->waiting.next, struct far_call, link), MF_ECANCELLED,
             MF_STARTED_NO, text);
  list_each(it, &far->room.nodes) {
    struct far_node *node = list_entry(it, struct room_node, link)->user;
    for (struct list *at = node->calls.next; at != &node->calls;) {
      struct far_call *c = list_entry(at, struct far_call, link);
      at = at->next;
      if (c->state == CALL_SENT)
        far_give_up(c, MF_ECANCELLED, text);
    }
  }
}

static void finish(mf_far *far) {
  if (far->handles > 0)
    return;
  mf_far_close_cb cb = far->on_closed;
  void *data = far->closed_data;
  nats_unlist(&far->listed);
  if (cb)
    cb(far, data);
  free_far(far);
}

static void on_handle_closed(uv_handle_t *handle) {
  mf_far *far = handle->data;
  far->handles--;
  finish(far);
}

static void on_engine_closed(void *data) {
  mf_far *far = data;
  far->handles--;
  finish(far);
}

/* They use the engine up to here. */
static void on_jobs_closed(void *data) {
  mf_far *far = data;
  engine_release(far->engine);
  if (far->aborted)
    engine_abort(far->engine, on_engine_closed, far);
  else
    engine_close(far->engine, on_engine_closed, far);
}

static void close_all(mf_far *far) {
  struct job_caller *jobs = far->jobs;
  far->closing = 2;
  far->handles++; /* the engine */
  far->jobs = NULL;
  job_caller_close(jobs, on_jobs_closed, far);
  uv_close((uv_handle_t *)&far->expiry, on_handle_closed);
  uv_close((uv_handle_t *)&far->tick, on_handle_closed);
}

/* Once all calls are over, or the time is. Nothing of the far pool is touched by who
 * calls this, after it. */
void far_check_drained(mf_far *far) {
  if (!far->draining || far->closing == 2 || far->checking)
    return;
  if (far->drain_late && far_pending(far) > 0) {
    far->checking = 1;
    cancel_all(far, "the far pool was drained, and its time was over");
    job_caller_end(far->jobs, 1);
    far->checking = 0;
  }
  if (far_pending(far) > 0)
    return;
  if (!far->drained) {
    mf_error e = {.code = MF_ETIMEOUT,
                  .message = "calls were left when the time was over",
                  .started = MF_STARTED_UNKNOWN};
    far->drained = 1;
    far->drain_by = UINT64_MAX;
    engine_release(far->engine);
    if (far->on_drained)
      far->on_drained(far, far->drain_late ? &e : NULL, far->drained_data);
  }
  if (far->closing == 1)
    close_all(far);
}

static void begin_drain(mf_far *far) {
  far->draining = 1;
  engine_hold(far->engine);
  job_caller_end(far->jobs, 0);
  list_each(it, &far->waiting) list_entry(it, struct far_call, link)->counted = 1;
  list_each(it, &far->room.nodes) {
    struct far_node *node = list_entry(it, struct room_node, link)->user;
    list_each(at, &node->calls) list_entry(at, struct far_call, link)->counted = 1;
  }
  engine_touch(far->engine); /* which looks, from the loop, whether it is over already */
}

int mf_far_drain(mf_far *far, unsigned timeout_ms, mf_far_cb cb, void *data) {
  int rc = far_check(far);
  if (rc < 0)
    return rc;
  if (far->draining || far->closing || far->aborted)
    return MF_ECLOSED;
  far->on_drained = cb;
  far->drained_data = data;
  if (timeout_ms != MF_NO_TIMEOUT) {
    far->drain_by = uv_hrtime() / MS + timeout_ms;
    uv_update_time(far->loop);
    far_schedule(far);
  }
  begin_drain(far);
  return 0;
}

int mf_far_drain_report(const mf_far *far, mf_drain_report *ret) {
  size_t size = ret ? ret->size : 0;
  int rc = far_check(far);
  if (rc < 0)
    return rc;
  if (size < sizeof ret->size)
    return MF_EINVAL;
  if (!far->draining)
    return MF_ESTATE;
  mf_drain_report report = far->report;
  report.size = size;
  memcpy(ret, &report, size < sizeof report ? size : sizeof report);
  return 0;
}

void mf_far_abort(mf_far *far) {
  if (far_check(far) < 0 || far->aborted || far->closing == 2)
    return;
  far->aborted = 1;
  if (!far->draining)
    begin_drain(far);
  far->drain_late = 1;
  engine_touch(far->engine); /* calls are told from the loop */
}

void mf_far_close(mf_far *far, mf_far_close_cb cb, void *data) {
  if (far_check(far) < 0 || far->closing)
    return;
  far->on_closed = cb;
  far->closed_data = data;
  far->closing = 1;
  engine_hold(far->engine); /* also when it was drained before; until on_jobs_closed */
  if (!far->draining)
    begin_drain(far);
  engine_touch(far->engine);
}

/* ---- what it says ---- */

int mf_far_stats(const mf_far *far, mf_far_info *ret) {
  size_t size = ret ? ret->size : 0;
  int rc = far_check(far);
  if (rc < 0)
    return rc;
  if (size < sizeof ret->size)
    return MF_EINVAL;
  mf_far_info i = far->info;
  struct engine_stats s;
  engine_get_stats(far->engine, &s);
  i.size = size;
  i.engine = (int)engine_state(far->engine);
  snprintf(i.engine_reason, sizeof i.engine_reason, "%s", engine_reason(far->engine));
  i.state = far->closing    ? MF_POOL_CLOSED
            : far->draining ? MF_POOL_DRAINING
                            : MF_POOL_RUNNING;
  i.nodes = far->room.n;
  list_each(it, &far->room.nodes) i.workers +=
      list_entry(it, struct room_node, link)->beat.workers;
  i.queued = far->nwaiting;
  i.running = far->nsent;
  i.connects = s.connects;
  i.bytes_in = s.bytes_in;
  i.bytes_out = s.bytes_out;
  call_times_read(&far->times, &i.times);
  memcpy(ret, &i, size < sizeof i ? size : sizeof i);
  return 0;
}

void far_describe_node(const struct room_node *n, mf_far_node *ret) {
  const struct node_beat *b = &n->beat;
  const struct far_node *node = n->user;
  memset(ret, 0, sizeof *ret);
  snprintf(ret->id, sizeof ret->id, "%s", b->node);
  snprintf(ret->name, sizeof ret->name, "%s", b->name);
  ret->window = b->window;
  ret->held = b->held;
  ret->workers = b->workers;
  ret->draining = b->draining;
  ret->failed = b->failed;
  ret->calls = b->calls;
  ret->silent_ms = uv_hrtime() / MS - n->heard_ms;
  if (!node)
    return;
  list_each(it, &node->calls) ret->running +=
      list_entry(it, struct far_call, link)->state == CALL_SENT;
}

size_t mf_far_nodes(const mf_far *far, mf_far_node *nodes, size_t size, size_t n) {
  size_t i = 0;
  if (far_check(far) < 0)
    return 0;
  list_each(it, &far->room.nodes) {
    mf_far_node one;
    if (!nodes || i >= n)
      break;
    far_describe_node(list_entry(it, struct room_node, link), &one);
    memcpy((char *)nodes + i++ * size, &one, size < sizeof one ? size : sizeof one);
  }
  return far->room.n;
}
