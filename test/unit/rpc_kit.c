/* One rpc on a world without a kernel. */
#include "rpc_kit.h"

#include <stdio.h>
#include <stdlib.h>

unsigned char whole_text[2 * FRAME_BODY_MAX];
size_t whole_length;

void on_event(const mf_message *m, void *data) {
  struct story *s = data;
  s->events++;
  snprintf(s->last_event, sizeof s->last_event, "%.*s", (int)m->length,
           (const char *)m->data);
  if (strlen(s->order) < 60)
    strcat(s->order, "e");
}

void on_error(const mf_error *e, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->errors++;
  s->error_code = e->code;
  s->error_started = e->started;
  snprintf(s->error_text, sizeof s->error_text, "%s", e->message);
}

void on_close(void *data) {
  ((struct story *)data)->closes++;
}

void on_drain(void *data) {
  ((struct story *)data)->drains++;
}

struct story *now;

void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct outcome *o = data;
  assert_false(now->in_call);
  assert_int_equal(o->told, 0);
  assert_true(!e != !m);
  o->told = 1;
  o->code = e ? e->code : 0;
  o->started = e ? e->started : -1;
  o->thrown = e && e->value_length == 2 && memcmp(e->value, "\x91\x2a", 2) == 0;
  snprintf(o->text, sizeof o->text, "%.*s", m ? (int)m->length : 20,
           m ? (const char *)m->data : e->message);
  if (m && o->keep) {
    whole_length = m->length;
    memcpy(whole_text, m->data, m->length);
  }
  if (strlen(now->order) < 60)
    strcat(now->order, e ? "x" : "r");
  now->ntold++;
  now->this_turn++;
}

void begin(struct story *s) {
  mf_process *q;
  assert_int_equal(mf_fork(s->t, &q), 0);
  assert_int_equal(mf_rpc_new(q, "f", &s->options, &s->rpc), 0);
}

struct story *story_new(void) {
  struct story *s = calloc(1, sizeof *s);
  s->sim = sim_new();
  s->far = far_new(s->sim);
  s->context = registry_new_on(&s->sim->backend);
  s->context->generation = fork_generation();
  s->call = calloc(CALLS, sizeof *s->call);
  s->id = calloc(CALLS, sizeof *s->id);
  context_start(s->context);
  assert_int_equal(boot_exec(s->context, NULL, &s->t), 0);
  far_run(s->far);
  assert_int_equal(s->t->state, SERVING);
  mf_rpc_options_init(&s->options);
  s->options.on_event = on_event;
  s->options.on_error = on_error;
  s->options.on_close = on_close;
  s->options.on_drain = on_drain;
  s->options.data = s;
  now = s;
  return s;
}

struct story *story_begun(void) {
  struct story *s = story_new();
  begin(s);
  return s;
}

int call_with(struct story *s, const void *data, size_t n, unsigned timeout_ms) {
  mf_message m = {data, n, NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  int r;
  o.timeout_ms = timeout_ms;
  s->in_call = 1;
  r = mf_rpc_call(s->rpc, &m, &o, on_reply, &s->call[s->ncalls], &s->id[s->ncalls]);
  s->in_call = 0;
  if (r == 0)
    s->ncalls++;
  return r;
}

int call(struct story *s, const char *text) {
  return call_with(s, text, strlen(text), 0);
}

void on_gone(mf_rpc *rpc, void *data) {
  struct story *s = data;
  assert_int_equal(s->ntold, s->ncalls);
  s->gone++;
}

void story_free(struct story *s) {
  if (!s->gone)
    mf_rpc_close(s->rpc, on_gone, s);
  s->far->deaf = 0;
  for (int i = 0; i < 20; i++) {
    while (far_worker(s->far, 0) && far_worker(s->far, 0)->ncalls)
      far_result(s->far, far_worker(s->far, 0), 0, "late");
    far_advance(s->far, 2000);
  }
  assert_int_equal(s->gone, 1);
  assert_int_equal(s->ntold, s->ncalls);
  for (int i = 0; i < s->ncalls; i++)
    assert_int_equal(s->call[i].told, 1);
  mf_close(s->t, NULL, NULL);
  far_advance(s->far, 5000);
  assert_int_equal(s->context->nopen, 0);
  assert_int_equal(s->context->nbusy, 0);
  assert_false(s->sim->started);
  default_close(s->context);
  far_free(s->far);
  assert_int_equal(sim_free(s->sim), 0);
  free(s->call);
  free(s->id);
  free(s);
}
