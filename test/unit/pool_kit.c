/* One pool on a world without a kernel. */
#include "pool_kit.h"

#include <stdio.h>

struct sim *sim;
struct far *far;
struct context *context;
mf_pool *pool;
mf_pool_options options;
mf_rpc_options rpc_options;
struct outcome call[CALLS];
uint64_t id[CALLS];
char news[1000];
int ncalls, errors, closes, gone, reloads, reload_code, drained, drain_code;

void on_error(const mf_error *e, void *data) {
  errors++;
}

void on_close(void *data) {
  closes++;
}

void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct outcome *o = data;
  assert_int_equal(o->told, 0);
  o->told = 1;
  o->code = e ? e->code : 0;
  o->started = e ? e->started : -1;
  snprintf(o->text, sizeof o->text, "%.*s", m ? (int)m->length : 60,
           m ? (const char *)m->data : e->message);
}

void on_reloaded(mf_pool *p, const mf_error *e, void *data) {
  reloads++;
  reload_code = e ? e->code : 0;
}

void on_drained(mf_pool *p, const mf_error *e, void *data) {
  drained++;
  drain_code = e ? e->code : 0;
}

void on_worker(int event, int pid, const char *reason, void *data) {
  static const char *const events[] = {"started", "ended", "killed", "recycled"};
  size_t at = strlen(news);
  assert_ptr_equal(data, &options);
  snprintf(news + at, sizeof news - at, "%s: %s\n", events[event], reason);
}

void on_gone(mf_pool *p, void *data) {
  gone++;
}

mf_process *make_template(void) {
  mf_process *t;
  assert_int_equal(boot_exec(context, NULL, &t), 0);
  assert_int_equal(mf_eval(t, "code", 4, 0, NULL, NULL), 0);
  return t;
}

int prepare(void **state) {
  sim = sim_new();
  far = far_new(sim);
  context = registry_new_on(&sim->backend);
  context->generation = fork_generation();
  context_start(context);
  mf_pool_options_init(&options);
  mf_rpc_options_init(&rpc_options);
  rpc_options.on_error = on_error;
  rpc_options.on_close = on_close;
  options.rpc = &rpc_options;
  options.max = 2;
  options.on_worker = on_worker;
  options.worker_data = &options;
  *news = 0;
  memset(call, 0, sizeof call);
  ncalls = errors = closes = gone = reloads = reload_code = drained = drain_code = 0;
  return 0;
}

void begin(void) {
  context_start(context); /* it leaves the loop with a story's first pool */
  assert_int_equal(mf_pool_new(make_template(), "f", &options, &pool), 0);
  far_run(far);
}

int ask(const char *text, int idempotent) {
  mf_message m = {text, strlen(text), NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  int r;
  o.idempotent = idempotent;
  r = mf_pool_call(pool, &m, &o, on_reply, &call[ncalls], &id[ncalls]);
  if (r == 0)
    ncalls++;
  return r;
}

void answer_all(void) {
  struct far_node *w;
  for (int i = 0; (w = far_worker(far, i)); i++)
    while (w->ncalls && w->ready)
      far_result(far, w, 0, "ok");
  far_run(far);
}

mf_pool_info stats(void) {
  mf_pool_info s = {.size = sizeof s};
  assert_int_equal(mf_pool_stats(pool, &s), 0);
  return s;
}

int finish(void **state) {
  mf_pool_close(pool, on_gone, NULL);
  for (int i = 0; i < 30; i++) {
    answer_all();
    far_advance(far, 1000);
  }
  assert_int_equal(gone, 1);
  for (int i = 0; i < ncalls; i++)
    assert_int_equal(call[i].told, 1);
  assert_int_equal(context->nopen, 0);
  assert_int_equal(context->nbusy, 0);
  assert_false(sim->started);
  assert_true(list_empty(&registry_of(context)->children.pending));
  default_close(context);
  far_free(far);
  assert_int_equal(sim_free(sim), 0);
  return 0;
}
