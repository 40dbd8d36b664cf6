/* A node from its beginning to its end: beats, draining, what it says of itself
 * (node_private.h). Runs in the parent. */
#include "nats/node_private.h"

#include "nats/options.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- jobs ---- */

unsigned node_held(const mf_node *node) {
  return node->held + (node->jobs ? (unsigned)job_worker_held(node->jobs) : 0);
}

static size_t room_for_jobs(void *data) {
  const mf_node *node = data;
  return node->window > node_held(node) ? node->window - node_held(node) : 0;
}

static void on_jobs_drained(void *data) {
  mf_node *node = data;
  node->jobs_over = 1;
  node_step(node);
}

static int start_jobs(mf_node *node, const mf_nats_options *o) {
  struct job_worker_options w = {.subject = node->subject,
                                 .stream = o->jobs,
                                 .keep_s = o->keep_s,
                                 .room = room_for_jobs,
                                 .data = node};
  node->jobs_over = o->jobs == NULL;
  return node->jobs_over
             ? 0
             : job_worker_new(node->loop, node->engine, &node->pool, &w, &node->jobs);
}

/* ---- beats ---- */

static void set_window(mf_node *node, const mf_pool_info *pool) {
  uint64_t most = node->window_given ? node->window_given
                                     : (uint64_t)pool->max * node->load + WINDOW_MORE;
  node->window = most < UINT32_MAX ? (unsigned)most : UINT32_MAX;
}

void node_say(mf_node *node) {
  struct node_beat beat = {.held = node_held(node),
                           .load = node->load,
                           .beat_ms = node->beat_ms,
                           .draining = node->phase != NODE_OPEN,
                           .calls = node->info.calls};
  mf_pool_info pool = {.size = sizeof pool};
  char subject[SUBJECT_MAX + 32];
  unsigned char home[256];
  struct buf b;
  if (node->pool.stats(node->pool.pool, &pool) < 0 || pool.state >= MF_POOL_DRAINING)
    beat.draining = 1; /* it takes no calls any more */
  else
    set_window(node, &pool);
  beat.failed = pool.state == MF_POOL_FAILED;
  beat.chunks = pool.chunks && !node->no_chunks;
  beat.window = node->window;
  beat.workers = pool.max;
  snprintf(beat.node, sizeof beat.node, "%s", engine_id(node->engine));
  snprintf(beat.name, sizeof beat.name, "%s", node->name);
  node->beat_at = uv_hrtime() / 1000000;
  node->refused_some = node->asked = 0;
  buf_init(&b, sizeof home);
  buf_lend(&b, home, sizeof home);
  snprintf(subject, sizeof subject, "%s.beat", node->subject);
  if (beat_write(&b, &beat) == 0)
    engine_publish(node->engine, subject, NULL, NULL, 0, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

static void on_beat(uv_timer_t *timer) {
  mf_node *node = timer->data;
  if (engine_state(node->engine) == ENGINE_UP)
    node_say(node);
  node_step(node);
}

void node_beat_in(mf_node *node, unsigned ms) {
  if (ms > node->beat_ms)
    ms = node->beat_ms;
  uv_update_time(node->loop);
  uv_timer_start(&node->beat, on_beat, ms, node->beat_ms);
}

static void on_state(struct engine *e, void *data) {
  mf_node *node = data;
  if (engine_state(e) == ENGINE_UP)
    node_say(node);
  if (node->jobs)
    job_worker_turn(node->jobs);
}

/* ---- beginning ---- */

static void set_name(mf_node *node, const char *name) {
  char host[40] = "";
  if (name && *name) {
    snprintf(node->name, sizeof node->name, "%s", name);
    return;
  }
  gethostname(host, sizeof host - 1);
  snprintf(node->name, sizeof node->name, "%s-%d", host, (int)getpid());
}

static void never_was(void *node) {
  free(node);
}

int node_new(const struct node_pool *pool, const mf_nats_options *given, mf_node **ret) {
  mf_nats_options o;
  struct engine_options eo;
  int rc = nats_options_read(given, &o, &eo);
  if (rc < 0)
    return rc;
  mf_node *node = calloc(1, sizeof *node);
  if (!node)
    return -ENOMEM;
  node->loop = o.loop ? o.loop : uv_default_loop();
  node->pool = *pool;
  snprintf(node->subject, sizeof node->subject, "%s", o.subject);
  set_name(node, o.name);
  node->beat_ms = o.beat_ms;
  node->window_given = o.window;
  node->load = o.load;
  node->window = o.window ? o.window : WINDOW_MORE;
  list_init(&node->calls);
  list_init(&node->callers);
  list_init(&node->chunks);
  eo.name = node->name;
  rc = engine_new(node->loop, &eo, on_state, node, &node->engine);
  if (rc < 0) {
    free(node);
    return rc;
  }
  rc = node_listen(node);
  if (rc == 0)
    rc = start_jobs(node, &o);
  if (rc < 0) {
    engine_abort(node->engine, never_was, node);
    return rc;
  }
  uv_timer_init(node->loop, &node->beat);
  uv_timer_init(node->loop, &node->limit);
  node->beat.data = node->limit.data = node;
  uv_unref((uv_handle_t *)&node->beat);
  uv_unref((uv_handle_t *)&node->limit);
  node->handles = 2;
  uv_update_time(node->loop);
  uv_timer_start(&node->beat, on_beat, node->beat_ms, node->beat_ms);
  *ret = node;
  return 0;
}

/* ---- the end ---- */

static void finish(mf_node *node) {
  if (node->handles > 0)
    return;
  mf_node_close_cb cb = node->on_closed;
  void *data = node->closed_data;
  if (node->pool.release)
    node->pool.release(node->pool.pool);
  nats_unlist(&node->listed);
  if (cb)
    cb(node, data);
  node_forget_calls(node);
  node_forget_chunks(node);
  free(node);
}

static void on_handle_closed(uv_handle_t *handle) {
  mf_node *node = handle->data;
  node->handles--;
  finish(node);
}

static void on_part_closed(void *data) {
  mf_node *node = data;
  node->handles--;
  finish(node);
}

static void close_all(mf_node *node) {
  node->closing = 2;
  node->handles++; /* the engine */
  engine_fence_cancel(&node->fence);
  uv_close((uv_handle_t *)&node->beat, on_handle_closed);
  uv_close((uv_handle_t *)&node->limit, on_handle_closed);
  if (node->jobs) {
    node->handles++;
    job_worker_close(node->jobs, on_part_closed, node);
    node->jobs = NULL;
  }
  engine_release(node->engine);
  if (node->aborted)
    engine_abort(node->engine, on_part_closed, node);
  else
    engine_close(node->engine, on_part_closed, node);
}

static void drained(mf_node *node) {
  mf_error late = {.code = MF_ETIMEOUT,
                   .message = "calls were left when the time was over",
                   .started = MF_STARTED_UNKNOWN};
  mf_error aborted = {.code = MF_ECANCELLED,
                      .message = "the node was given up",
                      .started = MF_STARTED_UNKNOWN};
  mf_node_cb cb = node->on_drained;
  node->phase = NODE_OVER;
  uv_timer_stop(&node->beat);
  uv_timer_stop(&node->limit);
  node_forget_calls(node);
  engine_release(node->engine);
  if (cb)
    cb(node, node->aborted ? &aborted : node->late ? &late : NULL, node->drained_data);
}

static void on_quiet(void *data) {
  mf_node *node = data;
  node->phase = NODE_QUIET;
  node_step(node);
}

static void on_last(void *data) {
  mf_node *node = data;
  if (node->phase == NODE_LAST)
    drained(node);
  node_step(node);
}

/* A beat has told callers that nothing more goes here. In a cluster a server may still
 * give calls that others send, so its end is NEWS_MS later than the news, or a beat where
 * that is shorter. */
static void quit(mf_node *node) {
  node->phase = NODE_TOLD;
  engine_quit(node->calls_sub);
  engine_fence(node->engine, &node->fence, on_quiet, node);
}

static void give_up(mf_node *node) {
  engine_fence_cancel(&node->fence);
  drained(node);
}

void node_step(mf_node *node) {
  uint64_t now = uv_hrtime() / 1000000;
  if (node->phase == NODE_OPEN || node->closing == 2)
    return;
  if (node->phase != NODE_OVER && (node->late || node->aborted))
    give_up(node);
  else if (node->phase == NODE_WANTED && now >= node->quit_at)
    quit(node);
  else if (node->phase == NODE_QUIET && node->held == 0 && node->jobs_over) {
    node->phase = NODE_LAST;
    engine_fence(node->engine, &node->fence, on_last, node);
  }
  if (node->phase == NODE_OVER && node->closing == 1)
    close_all(node);
}

static void on_limit(uv_timer_t *timer) {
  mf_node *node = timer->data;
  node->late = 1;
  node_step(node);
}

static void begin_drain(mf_node *node) {
  unsigned wait = node->beat_ms < NEWS_MS ? node->beat_ms : NEWS_MS;
  node->phase = NODE_WANTED;
  node->quit_at = uv_hrtime() / 1000000 + (engine_was_up(node->engine) ? wait : 0);
  engine_hold(node->engine);
  if (node->jobs)
    job_worker_drain(node->jobs, on_jobs_drained, node);
  node_say(node);
  uv_update_time(node->loop);
  uv_timer_start(&node->beat, on_beat, wait, wait);
  engine_touch(node->engine); /* which goes on from the loop */
}

static int check(const mf_node *node) {
  if (!node)
    return MF_EINVAL;
  return engine_is_foreign(node->engine) ? MF_EFORKED : 0;
}

int mf_node_drain(mf_node *node, unsigned timeout_ms, mf_node_cb cb, void *data) {
  int rc = check(node);
  if (rc < 0)
    return rc;
  if (node->phase != NODE_OPEN || node->closing)
    return MF_ECLOSED;
  node->on_drained = cb;
  node->drained_data = data;
  if (timeout_ms != MF_NO_TIMEOUT) {
    uv_update_time(node->loop);
    uv_timer_start(&node->limit, on_limit, timeout_ms, 0);
  }
  begin_drain(node);
  return 0;
}

void mf_node_abort(mf_node *node) {
  if (check(node) < 0)
    return;
  node->aborted = 1;
  if (node->phase == NODE_OPEN)
    begin_drain(node);
  engine_touch(node->engine);
}

void mf_node_close(mf_node *node, mf_node_close_cb cb, void *data) {
  if (check(node) < 0 || node->closing)
    return;
  node->on_closed = cb;
  node->closed_data = data;
  node->closing = 1;
  engine_hold(node->engine); /* also when it was drained before; until close_all */
  if (node->phase == NODE_OPEN)
    begin_drain(node);
  engine_touch(node->engine);
}

/* ---- what it says ---- */

static void put_jobs(const struct job_worker *w, mf_node_info *i) {
  struct job_worker_stats s;
  job_worker_get_stats(w, &s);
  i->jobs_held = (unsigned)s.held;
  i->jobs_done = s.done;
  i->jobs_failed = s.failed;
  i->jobs_dead = s.dead;
  i->jobs_redelivered = s.redelivered;
  snprintf(i->jobs_reason, sizeof i->jobs_reason, "%s", job_worker_reason(w));
}

int mf_node_stats(const mf_node *node, mf_node_info *ret) {
  size_t size = ret ? ret->size : 0;
  int rc = check(node);
  if (rc < 0)
    return rc;
  if (size < sizeof ret->size)
    return MF_EINVAL;
  mf_node_info i = node->info;
  struct engine_stats s;
  engine_get_stats(node->engine, &s);
  i.size = size;
  snprintf(i.id, sizeof i.id, "%s", engine_id(node->engine));
  snprintf(i.name, sizeof i.name, "%s", node->name);
  i.engine = (int)engine_state(node->engine);
  snprintf(i.engine_reason, sizeof i.engine_reason, "%s", engine_reason(node->engine));
  i.draining = node->phase != NODE_OPEN;
  i.window = node->window;
  i.held = node_held(node);
  if (node->jobs)
    put_jobs(node->jobs, &i);
  i.connects = s.connects;
  i.bytes_in = s.bytes_in;
  i.bytes_out = s.bytes_out;
  memcpy(ret, &i, size < sizeof i ? size : sizeof i);
  return 0;
}
