/* Every cell of the parent's table: each event in each state of a process, through the
 * backend. What is expected stands in one table here, written from doc/design.md; after
 * each cell the process is closed, and every callback must have come exactly once, later
 * than the call it was given to, and nothing may be left. */
#include "help/hello.h"
#include "help/sim.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct story {
  struct sim *sim;
  struct context *context;
  mf_process *t, *q,
      *child; /* template, its clone (the one under test), a clone of that */
  int t_far, q_far;
  int in_call;
  int runs, run_code, run_started, run_fd, exits, exit_known, exit_code, closes, errors;
};

static void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->runs++;
  s->run_fd = fd;
  s->run_code = e ? e->code : 0;
  s->run_started = e ? e->started : -1;
}

static void on_exit_told(mf_process *p, const mf_exit *status, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->exits++;
  s->exit_known = status->known;
  s->exit_code = status->code;
}

static void on_error(mf_process *p, const mf_error *e, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->errors++;
}

static void on_close(mf_process *p, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->closes++;
}

static void answer_hello(struct story *s, int far, uint64_t pid) {
  unsigned char body[HELLO_ROOM];
  sim_answer(s->sim, far, ANS_HELLO, pid, body, hello_body(body, 0));
}

/* The template executes the FORK that was written, as a template does: the clone's number
 * stands in its slot, it introduces itself, and the template says how far it has come. */
static void execute_fork(struct story *s) {
  struct frame f;
  int fds[SIM_QUEUE];
  while (sim_command(s->sim, s->t_far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, s->t_far, &f, fds, 501), 1);
  answer_hello(s, s->q_far, 501);
  sim_answer(s->sim, s->t_far, ANS_DONE, s->t->nsent, NULL, 0);
}

static void answer_failure(struct story *s, int far, unsigned type, uint64_t id) {
  struct buf b;
  buf_init(&b, 1000);
  buf_put_u8(&b, type == ANS_FAILED ? FAILURE_REMOTE : FAILURE_FORK);
  buf_put_u8(&b, PHASE_EVAL);
  buf_put_u16(&b, 0);
  buf_put_u32(&b, 0);
  buf_put_str(&b, "no luck", 7);
  buf_put_str(&b, "traceback", 9);
  sim_answer(s->sim, far, type, id, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

static struct story *story_new(void) {
  struct story *s = calloc(1, sizeof *s);
  s->sim = sim_new();
  children_forked(); /* what an earlier test left is no child of this one */
  s->context = registry_new_on(&s->sim->backend);
  context_start(s->context);
  assert_int_equal(boot_exec(s->context, NULL, &s->t), 0);
  s->t_far = s->sim->spawned_control;
  answer_hello(s, s->t_far, 100);
  sim_run(s->sim);
  assert_int_equal(s->t->state, SERVING);
  return s;
}

static void make_clone(struct story *s) {
  mf_options o = MF_OPTIONS_INIT;
  o.timeout_ms = 5000;
  s->in_call = 1;
  assert_int_equal(mf_fork_options(s->t, &o, &s->q), 0);
  assert_int_equal(mf_on_exit(s->q, on_exit_told, s), 0);
  assert_int_equal(mf_on_error(s->q, on_error, s), 0);
  s->in_call = 0;
}

static void eval(mf_process *p) {
  assert_int_equal(mf_eval(p, "x", 1, 0, NULL, NULL), 0);
}

static void write_fork(struct story *s) {
  process_flush(s->q);
  s->q_far = sim_far_end(s->sim, s->q->chan.fd);
}

static void serve(struct story *s) {
  write_fork(s);
  execute_fork(s);
  sim_run(s->sim);
  assert_int_equal(s->q->state, SERVING);
}

static void reach(struct story *s, enum process_state state) {
  make_clone(s);
  switch (state) {
  case BATCHED:
    break;
  case FORKING:
    write_fork(s);
    break;
  case SERVING:
    serve(s);
    break;
  case STARTING:
    serve(s);
    assert_int_equal(mf_run(s->q, "f", on_run, s), 0);
    break;
  case DETACHING:
    serve(s);
    eval(s->q);
    assert_int_equal(mf_to_fd(s->q, on_run, s), 0);
    break;
  case RUNNING:
    serve(s);
    assert_int_equal(mf_run(s->q, "f", on_run, s), 0);
    sim_answer(s->sim, s->q_far, ANS_RUNNING, 501, NULL, 0);
    sim_run(s->sim);
    break;
  case DETACHED:
    serve(s);
    eval(s->q);
    assert_int_equal(mf_to_fd(s->q, on_run, s), 0);
    sim_answer(s->sim, s->q_far, ANS_DONE, 1, NULL, 0);
    sim_run(s->sim);
    break;
  case FAILED:
    serve(s);
    eval(s->q);
    answer_failure(s, s->q_far, ANS_FAILED, 1);
    sim_run(s->sim);
    break;
  case ENDING:
    serve(s);
    assert_int_equal(mf_finish(s->q), 0);
    break;
  case DEAD:
    serve(s);
    sim_end_process(s->sim, 501, 3 << 8);
    sim_run(s->sim);
    break;
  case STATE_COUNT:
    break;
  }
  assert_int_equal(s->q->state, state);
}

static int has_socket(const struct story *s) {
  return s->q->chan.fd >= 0;
}

/* Gives the event to the process, by the way it really takes where there is one. Returns
 * what a user's call returned. */
static int fire(struct story *s, enum event_kind ev) {
  int r = 0;
  unsigned char dummy[16] = {0};
  struct frame f = {.body = dummy, .length = 0};
  if (s->q->state == BATCHED && ev >= EV_HELLO && ev <= EV_SOURCE_LOST) {
    /* It is written when the loop turns; nothing can come before. The source can go. */
    process_event(s->q, &(struct event){ev, .frame = &f});
    return 0;
  }
  s->in_call = 1;
  switch (ev) {
  case EV_COMMAND:
    r = mf_eval(s->q, "x", 1, 0, NULL, NULL);
    break;
  case EV_FORK:
    r = mf_fork(s->q, &s->child);
    break;
  case EV_RUN:
    r = mf_run(s->q, "f", on_run, s);
    break;
  case EV_TO_FD:
    r = mf_to_fd(s->q, on_run, s);
    break;
  case EV_FINISH:
    r = mf_finish(s->q);
    break;
  case EV_KILL:
    r = mf_kill(s->q, SIGTERM);
    break;
  case EV_CLOSE:
    mf_close(s->q, on_close, s);
    break;
  case EV_HELLO:
    if (has_socket(s))
      answer_hello(s, s->q_far, 501);
    else
      process_event(s->q, &(struct event){ev, .frame = &f});
    break;
  case EV_FORK_FAILED:
    answer_failure(s, s->t_far, ANS_FORK_FAILED, s->q->id);
    break;
  case EV_DONE:
    if (has_socket(s))
      sim_answer(s->sim, s->q_far, ANS_DONE, s->q->nsent, NULL, 0);
    else
      process_event(s->q, &(struct event){ev, .ndone = 1});
    break;
  case EV_FAILED:
    if (has_socket(s))
      answer_failure(s, s->q_far, ANS_FAILED, 1);
    else
      process_event(s->q, &(struct event){ev, .frame = &f});
    break;
  case EV_RUNNING:
    if (has_socket(s))
      sim_answer(s->sim, s->q_far, ANS_RUNNING, 501, NULL, 0);
    else
      process_event(s->q, &(struct event){ev});
    break;
  case EV_EOF:
    if (has_socket(s))
      sim_hang_up(s->sim, s->q_far);
    else
      process_event(s->q, &(struct event){ev});
    break;
  case EV_PIDFD:
    if (s->q->pidfd >= 0)
      sim_end_process(s->sim, 501, 0);
    else
      process_event(s->q, &(struct event){ev});
    break;
  case EV_SOURCE_FAILED:
    answer_failure(s, s->t_far, ANS_FAILED, 2);
    break;
  case EV_SOURCE_LOST:
    sim_hang_up(s->sim, s->t_far);
    sim_end_process(s->sim, 100, SIGKILL);
    break;
  case EV_TIMEOUT:
    s->in_call = 0;
    sim_advance(s->sim, 5001);
    return 0;
  case EVENT_COUNT:
    break;
  }
  s->in_call = 0;
  /* A batched fork is written when the loop turns: answers can't come before. */
  sim_run(s->sim);
  return r;
}

#define REFUSED MF_ESTATE

struct expectation {
  enum process_state state; /* afterwards */
  int result;               /* of the user's call */
};

/* State after each event, and what the user's call returns (0 where none is named). */
static const struct expectation expect[STATE_COUNT][EVENT_COUNT] = {
    [BATCHED] = {[EV_COMMAND] = {FORKING},
                 [EV_FORK] = {FORKING},
                 [EV_RUN] = {STARTING},
                 [EV_TO_FD] = {DETACHING},
                 [EV_FINISH] = {ENDING},
                 [EV_KILL] = {FORKING},
                 [EV_CLOSE] = {DEAD},
                 [EV_HELLO] = {BATCHED},
                 [EV_FORK_FAILED] = {BATCHED},
                 [EV_DONE] = {BATCHED},
                 [EV_FAILED] = {BATCHED},
                 [EV_RUNNING] = {BATCHED},
                 [EV_EOF] = {BATCHED},
                 [EV_PIDFD] = {BATCHED},
                 [EV_SOURCE_FAILED] = {DEAD},
                 [EV_SOURCE_LOST] = {DEAD},
                 [EV_TIMEOUT] = {DEAD}},
    [FORKING] = {[EV_COMMAND] = {FORKING},
                 [EV_FORK] = {FORKING},
                 [EV_RUN] = {STARTING},
                 [EV_TO_FD] = {DETACHING},
                 [EV_FINISH] = {ENDING},
                 [EV_KILL] = {FORKING},
                 [EV_CLOSE] = {ENDING},
                 [EV_HELLO] = {SERVING},
                 [EV_FORK_FAILED] = {DEAD},
                 [EV_DONE] = {SERVING},
                 [EV_FAILED] = {FAILED},
                 [EV_RUNNING] = {DEAD},
                 [EV_EOF] = {FORKING},
                 [EV_PIDFD] = {FORKING},
                 [EV_SOURCE_FAILED] = {DEAD},
                 [EV_SOURCE_LOST] = {DEAD},
                 [EV_TIMEOUT] = {ENDING}},
    [SERVING] = {[EV_COMMAND] = {SERVING},
                 [EV_FORK] = {SERVING},
                 [EV_RUN] = {STARTING},
                 [EV_TO_FD] = {DETACHING},
                 [EV_FINISH] = {ENDING},
                 [EV_KILL] = {SERVING},
                 [EV_CLOSE] = {ENDING},
                 [EV_HELLO] = {FAILED},
                 [EV_FORK_FAILED] = {FAILED},
                 [EV_DONE] = {SERVING},
                 [EV_FAILED] = {FAILED},
                 [EV_RUNNING] = {FAILED},
                 [EV_EOF] = {SERVING},
                 [EV_PIDFD] = {DEAD},
                 [EV_SOURCE_FAILED] = {SERVING},
                 [EV_SOURCE_LOST] = {SERVING},
                 [EV_TIMEOUT] = {ENDING}},
    [STARTING] = {[EV_COMMAND] = {STARTING, REFUSED},
                  [EV_FORK] = {STARTING, REFUSED},
                  [EV_RUN] = {STARTING, REFUSED},
                  [EV_TO_FD] = {STARTING, REFUSED},
                  [EV_FINISH] = {STARTING, REFUSED},
                  [EV_KILL] = {STARTING},
                  [EV_CLOSE] = {ENDING},
                  [EV_HELLO] = {FAILED},
                  [EV_FORK_FAILED] = {DEAD},
                  [EV_DONE] = {STARTING},
                  [EV_FAILED] = {FAILED},
                  [EV_RUNNING] = {RUNNING},
                  [EV_EOF] = {STARTING},
                  [EV_PIDFD] = {DEAD},
                  [EV_SOURCE_FAILED] = {STARTING},
                  [EV_SOURCE_LOST] = {STARTING},
                  [EV_TIMEOUT] = {ENDING}},
    [DETACHING] = {[EV_COMMAND] = {DETACHING, REFUSED},
                   [EV_FORK] = {DETACHING, REFUSED},
                   [EV_RUN] = {DETACHING, REFUSED},
                   [EV_TO_FD] = {DETACHING, REFUSED},
                   [EV_FINISH] = {DETACHING, REFUSED},
                   [EV_KILL] = {DETACHING},
                   [EV_CLOSE] = {ENDING},
                   [EV_HELLO] = {FAILED},
                   [EV_FORK_FAILED] = {DEAD},
                   [EV_DONE] = {DETACHED},
                   [EV_FAILED] = {FAILED},
                   [EV_RUNNING] = {FAILED},
                   [EV_EOF] = {DETACHING},
                   [EV_PIDFD] = {DEAD},
                   [EV_SOURCE_FAILED] = {DETACHING},
                   [EV_SOURCE_LOST] = {DETACHING},
                   [EV_TIMEOUT] = {DETACHING}},
    [RUNNING] = {[EV_COMMAND] = {RUNNING, REFUSED},
                 [EV_FORK] = {RUNNING, REFUSED},
                 [EV_RUN] = {RUNNING, REFUSED},
                 [EV_TO_FD] = {RUNNING, REFUSED},
                 [EV_FINISH] = {RUNNING, REFUSED},
                 [EV_KILL] = {RUNNING},
                 [EV_CLOSE] = {RUNNING},
                 [EV_HELLO] = {RUNNING},
                 [EV_FORK_FAILED] = {RUNNING},
                 [EV_DONE] = {RUNNING},
                 [EV_FAILED] = {RUNNING},
                 [EV_RUNNING] = {RUNNING},
                 [EV_EOF] = {RUNNING},
                 [EV_PIDFD] = {DEAD},
                 [EV_SOURCE_FAILED] = {RUNNING},
                 [EV_SOURCE_LOST] = {RUNNING},
                 [EV_TIMEOUT] = {RUNNING}},
    [DETACHED] = {[EV_COMMAND] = {DETACHED, REFUSED},
                  [EV_FORK] = {DETACHED, REFUSED},
                  [EV_RUN] = {DETACHED, REFUSED},
                  [EV_TO_FD] = {DETACHED, REFUSED},
                  [EV_FINISH] = {DETACHED, REFUSED},
                  [EV_KILL] = {DETACHED},
                  [EV_CLOSE] = {DETACHED},
                  [EV_HELLO] = {DETACHED},
                  [EV_FORK_FAILED] = {DETACHED},
                  [EV_DONE] = {DETACHED},
                  [EV_FAILED] = {DETACHED},
                  [EV_RUNNING] = {DETACHED},
                  [EV_EOF] = {DETACHED},
                  [EV_PIDFD] = {DEAD},
                  [EV_SOURCE_FAILED] = {DETACHED},
                  [EV_SOURCE_LOST] = {DETACHED},
                  [EV_TIMEOUT] = {DETACHED}},
    [FAILED] = {[EV_COMMAND] = {FAILED},
                [EV_FORK] = {FAILED},
                [EV_RUN] = {FAILED},
                [EV_TO_FD] = {FAILED},
                [EV_FINISH] = {FAILED},
                [EV_KILL] = {FAILED},
                [EV_CLOSE] = {FAILED},
                [EV_HELLO] = {FAILED},
                [EV_FORK_FAILED] = {FAILED},
                [EV_DONE] = {FAILED},
                [EV_FAILED] = {FAILED},
                [EV_RUNNING] = {FAILED},
                [EV_EOF] = {FAILED},
                [EV_PIDFD] = {DEAD},
                [EV_SOURCE_FAILED] = {FAILED},
                [EV_SOURCE_LOST] = {FAILED},
                [EV_TIMEOUT] = {FAILED}},
    [ENDING] = {[EV_COMMAND] = {ENDING, REFUSED},
                [EV_FORK] = {ENDING, REFUSED},
                [EV_RUN] = {ENDING, REFUSED},
                [EV_TO_FD] = {ENDING, REFUSED},
                [EV_FINISH] = {ENDING},
                [EV_KILL] = {ENDING},
                [EV_CLOSE] = {ENDING},
                [EV_HELLO] = {FAILED},
                [EV_FORK_FAILED] = {DEAD},
                [EV_DONE] = {ENDING},
                [EV_FAILED] = {FAILED},
                [EV_RUNNING] = {ENDING},
                [EV_EOF] = {ENDING},
                [EV_PIDFD] = {DEAD},
                [EV_SOURCE_FAILED] = {ENDING},
                [EV_SOURCE_LOST] = {ENDING},
                [EV_TIMEOUT] = {ENDING}},
    [DEAD] = {[EV_COMMAND] = {DEAD},
              [EV_FORK] = {DEAD},
              [EV_RUN] = {DEAD},
              [EV_TO_FD] = {DEAD},
              [EV_FINISH] = {DEAD},
              [EV_KILL] = {DEAD, -ESRCH},
              [EV_CLOSE] = {DEAD},
              [EV_HELLO] = {DEAD},
              [EV_FORK_FAILED] = {DEAD},
              [EV_DONE] = {DEAD},
              [EV_FAILED] = {DEAD},
              [EV_RUNNING] = {DEAD},
              [EV_EOF] = {DEAD},
              [EV_PIDFD] = {DEAD},
              [EV_SOURCE_FAILED] = {DEAD},
              [EV_SOURCE_LOST] = {DEAD},
              [EV_TIMEOUT] = {DEAD}},
};

static int was_finishing(enum process_state state, enum event_kind ev) {
  int begun =
      state == STARTING || state == DETACHING || state == RUNNING || state == DETACHED;
  int refused = expect[state][ev].result != 0;
  return begun || ((ev == EV_RUN || ev == EV_TO_FD) && !refused);
}

/* What the template would do once everybody has let go. */
static void settle(struct story *s) {
  int i;
  for (i = 0; i < 4; i++)
    sim_advance(s->sim, 3000);
  sim_end_process(s->sim, 501, 0);
  sim_end_process(s->sim, 100, 0);
  for (i = 0; i < 4; i++)
    sim_advance(s->sim, 3000);
}

static void check_cell(enum process_state state, enum event_kind ev) {
  struct story *s = story_new();
  const struct expectation *x = &expect[state][ev];
  mf_process *q;
  int r, closed_by_event = ev == EV_CLOSE;
  reach(s, state);
  q = s->q;
  r = fire(s, ev);
  assert_int_equal(r, x->result);
  /* A closed one may be gone already. */
  if (!closed_by_event)
    assert_int_equal(q->state, x->state);
  s->in_call = 1;
  if (!closed_by_event)
    mf_close(q, on_close, s);
  if (s->child)
    mf_close(s->child, NULL, NULL);
  s->in_call = 0;
  sim_run(s->sim);
  mf_close(s->t, NULL, NULL);
  settle(s);
  assert_int_equal(s->closes, 1);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->runs, was_finishing(state, ev));
  assert_int_equal(s->context->nopen, 0);
  assert_int_equal(s->context->nbusy, 0);
  assert_int_equal(s->sim->started, 0);
  assert_true(list_empty(&registry_of(s->context)->processes));
  default_close(s->context);
  assert_true(s->sim->stopped);
  assert_int_equal(sim_free(s->sim), 0);
  free(s);
}

struct cell {
  enum process_state state;
  enum event_kind ev;
};

static void test_cell(void **state) {
  const struct cell *c = *state;
  check_cell(c->state, c->ev);
}

static int keep_cell(void **state) {
  return 0;
}

int main(void) {
  static struct cell cells[STATE_COUNT * EVENT_COUNT];
  static struct CMUnitTest tests[STATE_COUNT * EVENT_COUNT];
  static char names[STATE_COUNT * EVENT_COUNT][64];
  size_t n = 0;
  for (int st = 0; st < STATE_COUNT; st++)
    for (int ev = 0; ev < EVENT_COUNT; ev++, n++) {
      cells[n].state = (enum process_state)st;
      cells[n].ev = (enum event_kind)ev;
      snprintf(names[n], sizeof names[n], "test_%s_%s", state_names[st], event_names[ev]);
      tests[n].name = names[n];
      tests[n].test_func = test_cell;
      tests[n].setup_func = keep_cell;
      tests[n].initial_state = &cells[n];
    }
  return _cmocka_run_group_tests("process", tests, n, NULL, NULL);
}
