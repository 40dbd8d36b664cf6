/* Single stories of the parent's core through the backend, each named after what went
 * wrong once or could: reports about others, requests that nobody answers any more, a
 * kernel without pidfds, a default template that waits while nobody is there. */
#include "help/hello.h"
#include "help/sim.h"
#include "os/thread.h"
#include "parent/api/make.h"
#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/dump.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct story {
  struct sim *sim;
  struct context *context;
  int exits, exit_known, exit_code, exit_error, memories, memory_error;
  int runs, run_error, run_started, closes;
};

/* ---- memory runs out ---- */

static int short_of_memory; /* for what is put by malloc(3), as frames are */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);

void *__wrap_malloc(size_t n) {
  return short_of_memory ? NULL : __real_malloc(n);
}

static void on_exit_told(mf_process *p, const mf_exit *status, void *data) {
  struct story *s = data;
  s->exits++;
  s->exit_known = status->known;
  s->exit_code = status->code;
  s->exit_error = status->error != NULL;
}

static void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *info,
                      void *data) {
  struct story *s = data;
  s->memories++;
  s->memory_error = e ? e->code : 0;
}

static void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  struct story *s = data;
  s->runs++;
  s->run_error = e ? e->code : 0;
  s->run_started = e ? e->started : -1;
  if (fd >= 0)
    s->sim->backend.ops->close(&s->sim->backend, &fd);
}

static void on_close(mf_process *p, void *data) {
  struct story *s = data;
  s->closes++;
}

static struct story *story_new(void) {
  struct story *s = calloc(1, sizeof *s);
  s->sim = sim_new();
  children_forked(); /* what an earlier story left is no child of this one */
  s->context = registry_new_on(&s->sim->backend);
  assert_int_equal(context_start(s->context), 0);
  return s;
}

static void story_free(struct story *s) {
  assert_int_equal(s->context->nopen, 0);
  for (int pid = 100; pid < s->sim->next_pid; pid++)
    sim_end_process(s->sim, pid, 0);
  for (int i = 0; i < 4; i++)
    sim_advance(s->sim, 3000);
  assert_int_equal(s->sim->started, 0);
  default_close(s->context);
  sim_run(s->sim);
  assert_true(s->sim->stopped);
  assert_int_equal(sim_free(s->sim), 0);
  free(s);
}

static void answer_hello(struct story *s, int far, uint64_t pid) {
  unsigned char body[HELLO_ROOM];
  sim_answer(s->sim, far, ANS_HELLO, pid, body, hello_body(body, 0));
}

/* A template that serves; *ret_far is its end. */
static mf_process *make_template(struct story *s, int *ret_far) {
  mf_process *t;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  *ret_far = s->sim->spawned_control;
  answer_hello(s, *ret_far, (uint64_t)t->pid);
  sim_run(s->sim);
  assert_int_equal(t->state, SERVING);
  return t;
}

/* The template executes the fork that was written last: as its parent's child, or as its
 * own, which then introduces itself. */
static void execute_fork(struct story *s, mf_process *t, int far, mf_process *q, int pid,
                         int sibling) {
  static struct frame f;
  int fds[SIM_QUEUE], q_far = sim_far_end(s->sim, q->chan.fd), found = 0;
  while (sim_command(s->sim, far, &f, fds)) {
    if (f.type != CMD_FORK)
      continue;
    found = 1;
    if (sibling)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, pid), 1);
    else
      s->sim->fd[q_far].pid = pid;
  }
  assert_true(found);
  if (q->expects_hello || !sibling)
    answer_hello(s, q_far, (uint64_t)pid);
}

/* A clone of t with that pid, in its function. */
static mf_process *make_running(struct story *s, mf_process *t, int far, int pid) {
  mf_process *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  execute_fork(s, t, far, q, pid, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, (uint64_t)pid, NULL,
             0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  assert_int_equal(q->pid, pid);
  return q;
}

static void answer_failure(struct story *s, int far, unsigned code, unsigned phase) {
  struct buf b;
  buf_init(&b, 1000);
  buf_put_u8(&b, code);
  buf_put_u8(&b, phase);
  buf_put_u16(&b, 0);
  buf_put_u32(&b, 0);
  buf_put_str(&b, "no luck", 7);
  buf_put_str(&b, NULL, 0);
  sim_answer(s->sim, far, ANS_FAILED, 2, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

/* Long enough for every look at a status that is not there yet. */
static void wait_for_status(struct story *s) {
  for (int i = 0; i < 40; i++)
    sim_advance(s->sim, 10);
}

static void close_both(mf_process *a, mf_process *b) {
  mf_close(a, NULL, NULL);
  mf_close(b, NULL, NULL);
}

/* ---- process groups (option tree) ---- */

static mf_process *make_running_tree(struct story *s, mf_process *t, int far, int pid) {
  mf_options o = MF_OPTIONS_INIT;
  mf_process *q;
  o.tree = MF_TREE_YES;
  assert_int_equal(mf_fork_options(t, &o, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  execute_fork(s, t, far, q, pid, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, (uint64_t)pid, NULL,
             0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  return q;
}

/* A group's number is free for others when its leader is reaped and nobody is left in it:
 * the last signal comes before, and once, whether the record is there or not. */
static void test_a_group_ends_before_its_leader_is_reaped(void **state) {
  for (int closed = 0; closed <= 1; closed++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q = make_running_tree(s, t, far, 501);
    mf_on_exit(q, closed ? NULL : on_exit_told, s);
    if (closed)
      mf_close(q, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->sim->last_group, 0);
    sim_end_process(s->sim, 501, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[501], 0);
    assert_int_equal(s->sim->last_group, 501);
    assert_int_equal(s->sim->last_group_signal, SIGKILL);
    assert_int_equal(s->sim->last_group_unreaped, 1);
    assert_int_equal(s->sim->last_group_by_number, 1);
    s->sim->last_group = 0;
    if (!closed) {
      assert_int_equal(s->exits, 1);
      assert_int_equal(mf_kill(q, SIGKILL), -ESRCH);
      mf_close(q, NULL, NULL);
    }
    sim_run(s->sim);
    assert_int_equal(s->sim->last_group, 0);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    story_free(s);
  }
}

/* Nor is one signalled by number where the host may reap its leader at any time. */
static void test_a_careless_host_signals_no_group_by_number(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running_tree(s, t, far, 501);
  s->sim->careless = 1;
  assert_int_equal(mf_kill(q, SIGTERM), 0);
  assert_int_equal(s->sim->last_group, 501);
  assert_int_equal(s->sim->last_group_by_number, 0);
  s->sim->children[501] = 0; /* the host's */
  sim_end_process(s->sim, 501, SIGTERM);
  wait_for_status(s);
  assert_int_equal(q->state, DEAD);
  assert_int_equal(s->sim->last_group_signal, SIGKILL);
  assert_int_equal(s->sim->last_group_by_number, 0);
  close_both(q, t);
  sim_run(s->sim);
  story_free(s);
}

static void test_who_has_no_tree_is_signalled_alone(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  assert_int_equal(mf_kill(q, SIGTERM), 0);
  assert_int_equal(s->sim->last_signal_pid, 501);
  sim_end_process(s->sim, 501, SIGTERM);
  sim_run(s->sim);
  assert_int_equal(s->sim->last_group, 0);
  close_both(q, t);
  sim_run(s->sim);
  story_free(s);
}

/* ---- what stands in the table of births ---- */

/* What a hostile template writes there must be a child of ours, and no other record's. */
static void test_a_number_that_is_no_child_of_ours_is_not_believed(void **state) {
  enum { STRANGER = 3000 };
  struct story *s = story_new();
  int far_a, far_b;
  mf_process *a = make_template(s, &far_a), *b = make_template(s, &far_b);
  mf_process *known = make_running(s, a, far_a, 501);
  const uint32_t lies[] = {STRANGER, 501, (uint32_t)a->pid, 0xffffffffu};
  for (size_t i = 0; i < COUNT(lies); i++) {
    mf_process *q;
    struct frame f;
    int fds[SIM_QUEUE];
    assert_int_equal(mf_fork(b, &q), 0);
    assert_int_equal(mf_kill(q, SIGKILL), 0); /* as soon as it is known whom */
    while (sim_command(s->sim, far_b, &f, fds))
      if (f.type == CMD_FORK)
        assert_int_equal(sim_fork(s->sim, far_b, &f, fds, 600), 1);
    s->sim->children[600] = 0;
    s->sim->fd[sim_far_end(s->sim, q->chan.fd)].pid = 0;
    *(uint32_t *)(uintptr_t)sim_birth(s->sim, far_b, &f) = lies[i];
    sim_answer(s->sim, far_b, ANS_DONE, b->nsent, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->last_signal_pid, 0);
    assert_int_equal(mf_pid(q), -1);
    sim_hang_up(s->sim, sim_far_end(s->sim, q->chan.fd));
    sim_advance(s->sim, 5000);
    assert_int_equal(s->sim->last_signal_pid, 0);
    mf_close(q, NULL, NULL);
    sim_run(s->sim);
  }
  assert_int_equal(s->sim->children[501], 1);
  assert_int_equal(known->state, RUNNING);
  sim_end_process(s->sim, 501, 0);
  mf_close(known, NULL, NULL);
  close_both(a, b);
  story_free(s);
}

/* A template whose clones can't be our children: they say who they are, and the kernel
 * says who wrote that. From the second on no slot is needed. */
static void test_a_clone_that_is_no_child_of_ours_is_known_by_its_pidfd(void **state) {
  for (int tells = 0; tells < 2; tells++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q;
    s->sim->tells_status = tells;
    for (int pid = 501; pid < 503; pid++) {
      s->exits = 0;
      assert_int_equal(mf_fork(t, &q), 0);
      assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
      assert_int_equal(mf_run(q, "f", on_run, s), 0);
      assert_int_equal(q->births != NULL, pid == 501);
      execute_fork(s, t, far, q, pid, 0);
      sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 77, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(mf_pid(q), pid); /* whatever it says itself */
      sim_end_process(s->sim, pid, 6 << 8);
      wait_for_status(s);
      assert_int_equal(s->exits, 1);
      assert_int_equal(s->exit_known, tells);
      assert_int_equal(s->exit_code, tells ? 6 : 0);
      mf_close(q, NULL, NULL);
    }
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* The host reaps what comes: what can be known is told, once, and a clone is asked to
 * introduce itself from then on. */
static void test_a_child_that_the_host_has_reaped_is_told_once(void **state) {
  for (int tells = 0; tells < 2; tells++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    s->sim->tells_status = tells;
    s->sim->children[501] = 0;
    sim_end_process(s->sim, 501, 9 << 8);
    wait_for_status(s);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->exit_known, tells);
    assert_int_equal(s->exit_code, tells ? 9 : 0);
    assert_int_equal(s->sim->thief, 1);
    assert_int_equal(mf_kill(q, SIGTERM), -ESRCH);
    close_both(q, t);
    story_free(s);
  }
}

/* Its number may be another's by then. */
static void test_a_careless_host_believes_no_number_after_the_end(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  s->sim->careless = 1;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  struct frame f;
  int fds[SIM_QUEUE], q_far = sim_far_end(s->sim, q->chan.fd);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  sim_hang_up(s->sim,
              q_far); /* killed before its first word; 501 is a child of the host's now */
  sim_run(s->sim);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 0);
  assert_int_equal(s->run_error, MF_ECLONE_DIED);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  assert_int_equal(s->sim->children[501], 1);
  s->sim->children[501] = 0;
  close_both(q, t);
  story_free(s);
}

static void test_last_words_are_read_from_the_slot(void **state) {
  for (int code = 0; code < 2; code++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        sim_last_words(s->sim, far, &f, "it failed");
      }
    answer_hello(s, sim_far_end(s->sim, q->chan.fd), 501);
    sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 501, NULL, 0);
    sim_run(s->sim);
    mf_close(t, NULL, NULL); /* they outlive the template */
    sim_end_process(s->sim, 100, 0);
    sim_advance(s->sim, 3000);
    sim_end_process(s->sim, 501, code << 8);
    sim_run(s->sim);
    assert_int_equal(s->exits, 1);
    assert_int_equal(s->exit_code, code);
    assert_int_equal(s->exit_error, code); /* of one that ended well nobody asks */
    mf_close(q, NULL, NULL);
    story_free(s);
  }
}

/* Its record was closed and gone when the template executed the fork: a child of ours all
 * the same, to be reaped. */
static void test_a_birth_after_the_close_is_reaped(void **state) {
  struct story *s = story_new();
  struct frame f;
  int far, fds[SIM_QUEUE];
  mf_process *t = make_template(s, &far), *q;
  assert_int_equal(mf_fork(t, &q), 0);
  process_unhold(q);
  mf_close(q, on_close, s);
  sim_advance(s->sim, 3000);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 501), 1);
  assert_int_equal(s->sim->children[501], 1);
  sim_end_process(s->sim, 501, 0);
  for (int i = 0; i < 20; i++)
    sim_advance(s->sim, 1000);
  assert_int_equal(s->sim->children[501], 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The template was asked about its clone behind a command that fails, after which it
 * answers nothing. */
static void test_memory_is_told_when_the_template_fails_first(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q = make_running(s, t, far, 501);
  assert_int_equal(mf_eval(t, "x", 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_memory(q, on_memory, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 0);
  answer_failure(s, far, FAILURE_REMOTE, PHASE_EVAL);
  sim_run(s->sim);
  assert_int_equal(s->memories, 1);
  close_both(q, t);
  story_free(s);
}

/* An executed process that runs a function has no source to report its end. */
/* Any number may stand where a process says which errno it had; it is not passed on as a
 * code of ours, which are negative. */
static void test_an_errno_that_none_is(void **state) {
  static const struct {
    uint32_t number;
    int code;
  } rows[] = {{0, 0},
              {13, -13},
              {4095, -4095},
              {4096, MF_EPROTOCOL},
              {20003, MF_EPROTOCOL},
              {INT32_MAX, MF_EPROTOCOL},
              {1u << 31, MF_EPROTOCOL},
              {UINT32_MAX, MF_EPROTOCOL}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct story *s = story_new();
    struct buf b;
    int far;
    mf_process *t = make_template(s, &far);
    assert_int_equal(mf_memory(t, on_memory, s), 0);
    sim_run(s->sim);
    buf_init(&b, 100);
    buf_put_u32(&b, rows[i].number);
    buf_put_u32(&b, 0);
    for (int k = 0; k < 5; k++)
      buf_put_u64(&b, 1);
    sim_answer(s->sim, far, ANS_MEMORY, 0, buf_peek(&b), buf_size(&b));
    buf_deinit(&b);
    sim_run(s->sim);
    assert_int_equal(s->memories, 1);
    assert_int_equal(s->memory_error, rows[i].code);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

static void test_without_pidfds_the_end_of_a_direct_child_is_told(void **state) {
  struct story *s = story_new();
  int far;
  s->sim->pidfd_error = -ENOSYS;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  assert_int_equal(mf_on_exit(t, on_exit_told, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  sim_advance(s->sim, 1000);
  assert_int_equal(s->exits, 0);
  sim_end_process(s->sim, t->pid, 5 << 8);
  sim_advance(s->sim, 100);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 1);
  assert_int_equal(s->exit_code, 5);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The last process is closed while the default template waits to be tried again. */
static void test_a_default_template_that_waits_is_not_kept_parked(void **state) {
  struct story *s = story_new();
  mf_process *p;
  s->sim->spawn_error = -ENOENT;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(context_start(s->context), 0);
    assert_int_equal(process_make(s->context, 0, NULL, &p), 0);
    mf_close(p, on_close, s);
    sim_run(s->sim);
  }
  assert_int_equal(s->closes, 3);
  s->sim->spawn_error = 0;
  s->sim->spawned_control = 0;
  s->sim->now_ms += 10000;
  assert_int_equal(context_start(s->context), 0);
  assert_int_equal(process_make(s->context, 0, NULL, &p), 0);
  assert_int_equal(mf_run(p, "f", on_run, s), 0);
  sim_advance(s->sim, 6000);
  assert_int_not_equal(s->sim->spawned_control, 0);
  mf_close(p, NULL, NULL);
  default_reset(s->context);
  sim_run(s->sim);
  story_free(s);
}

/* A closed process's callback waits for the loop to be empty, because another one is
 * still ending, when a third is opened that gives the loop nothing to do. */
static void test_a_new_process_does_not_hold_up_a_close_callback(void **state) {
  struct story *s = story_new();
  int far, slow_far;
  mf_process *slow = make_template(s, &slow_far), *t = make_template(s, &far), *u;
  mf_close(slow, NULL, NULL);
  mf_close(t, on_close, s);
  sim_end_process(s->sim, t->pid, 0);
  sim_hang_up(s->sim, far);
  sim_run(s->sim);
  assert_int_equal(s->closes, 0);
  assert_int_equal(boot_exec(s->context, NULL, &u), 0);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  mf_close(u, NULL, NULL);
  story_free(s);
}

/* A spare was killed; what is left of it is no clone for anybody. */
static void test_a_dead_spare_is_not_taken(void **state) {
  struct story *s = story_new();
  struct frame f;
  mf_options o = MF_OPTIONS_INIT;
  int fds[SIM_QUEUE], far, spare_far;
  mf_process *t, *q, *spare;
  o.spares_min = o.spares_max = 1;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  far = s->sim->spawned_control;
  answer_hello(s, far, (uint64_t)t->pid);
  sim_answer(s->sim, far, ANS_DONE, 1, NULL, 0);
  sim_run(s->sim);
  sim_advance(s->sim, 10);
  assert_int_equal(mf_spares(t), 1);
  while (sim_command(s->sim, far, &f, fds))
    ;
  spare = list_entry(t->spares.next, struct mf_process, spare_link);
  spare_far = sim_far_end(s->sim, spare->chan.fd);
  sim_hang_up(s->sim, spare_far);
  sim_run(s->sim);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_ptr_not_equal(q, spare);
  mf_close(q, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The template executes the forks that have come. Returns how many. */
static int execute_forks(struct story *s, int far) {
  static struct frame f;
  int fds[SIM_QUEUE], n = 0;
  sim_run(s->sim);
  while (sim_command(s->sim, far, &f, fds))
    if (f.type == CMD_FORK) {
      int pid = s->sim->next_pid++;
      n++;
      assert_int_equal(sim_fork(s->sim, far, &f, fds, pid), 1);
      list_each(it, &registry_of(s->context)->processes) {
        mf_process *q = list_entry(it, mf_process, link);
        if (q->id == f.id && q->expects_hello)
          answer_hello(s, sim_far_end(s->sim, q->chan.fd), (uint64_t)pid);
      }
    }
  return n;
}

static void tell_done(struct story *s, mf_process *t, int far) {
  sim_answer(s->sim, far, ANS_DONE, t->nsent, NULL, 0);
  sim_run(s->sim);
}

/* All that is asked, and answered, with time for a refill to begin. */
static void let_refill(struct story *s, mf_process *t, int far) {
  do {
    tell_done(s, t, far);
    sim_advance(s->sim, 10);
  } while (execute_forks(s, far));
}

static mf_process *make_template_with_spares(struct story *s, int *ret_far) {
  mf_process *t;
  mf_options o = MF_OPTIONS_INIT;
  o.spares_min = 2;
  o.spares_max = 5;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  *ret_far = s->sim->spawned_control;
  answer_hello(s, *ret_far, (uint64_t)t->pid);
  sim_run(s->sim);
  return t;
}

static void take_spares(mf_process *t, int n) {
  int spares = mf_spares(t);
  for (int i = 0; i < n; i++) {
    mf_process *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_spares(t), --spares);
    mf_close(q, NULL, NULL);
  }
}

/* Two of at most five were left at times, and no more came, when four had been taken: the
 * last fork of a refill was not yet answered when the first was taken, so this one was
 * replaced. */
static void test_spares_are_refilled_when_fewer_than_min_are_left(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template_with_spares(s, &far);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  take_spares(t, 3);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 2); /* not fewer than min */
  take_spares(t, 1);
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  take_spares(t, 4);
  while (mf_spares(t) < 5) { /* one by one, until the last is asked for */
    tell_done(s, t, far);
    sim_advance(s->sim, 10);
    execute_forks(s, far);
  }
  take_spares(t, 2); /* a refill ends at max, whatever is taken meanwhile */
  let_refill(s, t, far);
  assert_int_equal(mf_spares(t), 5);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* None were made when only forks with their function had been asked for: of these a
 * template says nothing, only their clones do. */
static void test_spares_begin_when_a_clone_tells_of_its_fork(void **state) {
  struct story *s = story_new();
  int far;
  mf_options o = MF_OPTIONS_INIT;
  mf_process *t, *q;
  o.spares_min = o.spares_max = 1;
  assert_int_equal(process_make(s->context, 1, &o, &t), 0);
  far = s->sim->spawned_control;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  answer_hello(s, far, (uint64_t)t->pid);
  execute_fork(s, t, far, q, 501, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 501, NULL, 0);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(mf_spares(t), 0);
  sim_advance(s->sim, 10);
  assert_int_equal(execute_forks(s, far), 1);
  assert_int_equal(mf_spares(t), 1);
  close_both(q, t);
  story_free(s);
}

/* A refill that memory or descriptors were missing for was given up until somebody asked
 * the template for something else. */
static void test_a_refill_that_failed_is_tried_again(void **state) {
  for (int descriptors = 0; descriptors < 2; descriptors++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template_with_spares(s, &far);
    let_refill(s, t, far);
    take_spares(t, 4);
    s->sim->pair_error = descriptors ? -EMFILE : 0;
    short_of_memory = !descriptors;
    sim_advance(s->sim, 10);
    sim_run(s->sim);
    short_of_memory = 0;
    s->sim->pair_error = 0;
    assert_int_equal(mf_spares(t), 1);
    sim_advance(s->sim, 2000);
    assert_int_equal(execute_forks(s, far), 1);
    let_refill(s, t, far);
    assert_int_equal(mf_spares(t), 5);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* Its template died when it had been asked for the fork. What was not executed by then
 * never is; what was is our child, whose number stands in its slot. */
static void test_a_fork_under_way_when_the_template_dies(void **state) {
  for (int executed = 0; executed < 2; executed++) {
    struct story *s = story_new();
    int far, q_far;
    mf_process *t = make_template(s, &far), *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    q_far = sim_far_end(s->sim, q->chan.fd);
    if (executed)
      execute_fork(s, t, far, q, 501, 1);
    sim_end_process(s->sim, t->pid, SIGKILL);
    sim_hang_up(s->sim, far);
    sim_run(s->sim);
    assert_int_equal(s->runs, !executed);
    if (!executed) {
      assert_int_equal(s->run_error, MF_ETEMPLATE_DIED);
      assert_int_equal(s->run_started, MF_STARTED_NO);
    } else {
      assert_int_equal(mf_pid(q), 501);
      sim_answer(s->sim, q_far, ANS_RUNNING, 501, NULL, 0);
      sim_end_process(s->sim, 501, 4 << 8);
      sim_run(s->sim);
      assert_int_equal(s->run_error, 0);
      assert_int_equal(s->exits, 1);
      assert_int_equal(s->exit_code, 4);
    }
    close_both(q, t);
    story_free(s);
  }
}

/* What a start that fails is called, with run asked before or after: an option that can't
 * be used is the caller's, the rest the program's. */
static int code_of_failed_start(unsigned code, unsigned phase, int run_first) {
  struct story *s = story_new();
  mf_process *t;
  int far, result;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  far = s->sim->spawned_control;
  if (run_first)
    assert_int_equal(mf_run(t, "f", on_run, s), 0);
  answer_failure(s, far, code, phase);
  sim_run(s->sim);
  if (!run_first)
    assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  result = s->run_error;
  mf_close(t, NULL, NULL);
  story_free(s);
  return result;
}

static void test_a_failed_start_has_one_name(void **state) {
  for (int first = 0; first < 2; first++) {
    assert_int_equal(code_of_failed_start(FAILURE_INVAL, PHASE_OPTION, first), MF_EINVAL);
    assert_int_equal(code_of_failed_start(FAILURE_NOMEM, PHASE_START, first),
                     MF_ETEMPLATE_START);
  }
}

/* It hung up for good when its parent believed that descriptors were still to come. */
static void test_an_answer_that_claims_descriptors_breaks_the_protocol(void **state) {
  unsigned char bytes[FRAME_HEADER_SIZE];
  struct frame f = {.type = ANS_DONE, .nfds = 1, .id = 1};
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  t->chan.in.exact = 0; /* as before run */
  frame_encode(bytes, &f);
  sim_bytes(s->sim, far, bytes, sizeof bytes);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_EPROTOCOL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Whoever took up a socket had no time limit, whatever the options said. */
static void test_what_is_taken_up_has_its_timeout(void **state) {
  struct story *s = story_new();
  mf_options o = MF_OPTIONS_INIT;
  int pair[2];
  mf_process *p;
  o.timeout_ms = 100;
  o.name = "guest";
  assert_int_equal(s->sim->backend.ops->pair(&s->sim->backend, pair), 0);
  s->sim->fd[sim_far_end(s->sim, pair[0])].pid = 501;
  assert_int_equal(process_take_up(s->context, &o, pair[0], &p), 0);
  assert_int_equal(mf_run(p, "f", on_run, s), 0);
  answer_hello(s, sim_far_end(s->sim, pair[0]), 501);
  sim_run(s->sim);
  assert_int_equal(s->runs, 0);
  sim_advance(s->sim, 101);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ETIMEOUT);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, 501);
  assert_string_equal(p->name, "guest");
  mf_close(p, NULL, NULL);
  story_free(s);
}

/* ---- what can be asked of a process that is not to be had any more ---- */

static int ask_require(struct story *s, mf_process *p) {
  return mf_require(p, "string");
}
static int ask_eval(struct story *s, mf_process *p) {
  return mf_eval(p, "x", 1, 0, NULL, NULL);
}
static int ask_send_fd(struct story *s, mf_process *p) {
  return mf_send_fd(p, 0);
}
static int ask_send_arg(struct story *s, mf_process *p) {
  return mf_send_arg(p, "x", 1);
}
static void no_release(void *data) {
}
static int ask_send_arg_ref(struct story *s, mf_process *p) {
  return mf_send_arg_ref(p, "x", 1, no_release, NULL);
}
static int ask_take_args(struct story *s, mf_process *p) {
  return mf_take_args(p);
}
static int ask_chdir(struct story *s, mf_process *p) {
  return mf_chdir(p, "/");
}
static int ask_setenv(struct story *s, mf_process *p) {
  return mf_setenv(p, "x", "y");
}
static int ask_set(struct story *s, mf_process *p) {
  return mf_set(p, "a.b", "\x01", 1);
}
static int ask_seal(struct story *s, mf_process *p) {
  return mf_seal(p, 0);
}
static int ask_limit(struct story *s, mf_process *p) {
  mf_rlimit core = {"core", 0};
  return mf_limit(p, &core, 1);
}
static int ask_fork(struct story *s, mf_process *p) {
  mf_process *q = NULL;
  int r = mf_fork(p, &q);
  if (q)
    mf_close(q, NULL, NULL);
  return r;
}
static int ask_run(struct story *s, mf_process *p) {
  return mf_run(p, "f", on_run, s);
}
static int ask_to_fd(struct story *s, mf_process *p) {
  return mf_to_fd(p, on_run, s);
}
static int ask_rpc(struct story *s, mf_process *p) {
  mf_rpc *rpc = NULL;
  int r = mf_rpc_new(p, "f", NULL, &rpc);
  if (rpc)
    mf_rpc_close(rpc, NULL, NULL);
  return r;
}
static int ask_pool(struct story *s, mf_process *p) {
  mf_pool *pool = NULL;
  int r = mf_pool_new(p, "f", NULL, &pool);
  if (pool)
    mf_pool_close(pool, NULL, NULL);
  return r;
}
static int ask_finish(struct story *s, mf_process *p) {
  return mf_finish(p);
}
static int ask_kill(struct story *s, mf_process *p) {
  return mf_kill(p, SIGTERM);
}
static int ask_on_exit(struct story *s, mf_process *p) {
  return mf_on_exit(p, on_exit_told, s);
}
static int ask_on_error(struct story *s, mf_process *p) {
  return mf_on_error(p, NULL, NULL);
}
static int ask_memory(struct story *s, mf_process *p) {
  return mf_memory(p, on_memory, s);
}

enum ending {
  FINISHED,
  FINISHED_DEAD,
  KILLED,
  TIMED_OUT,
  IN_FUNCTION,
  RETURNED,
  CLOSED,
  ENDINGS
};

/* What is asked, and what it returns after each ending. Where a run, to_fd or memory is
 * taken its callback tells of the end. A finished process is one that mf_finish was
 * called for, whether or not it has come to its end. One that has returned from its
 * function took commands and another run again, though none while it was in it. */
static const struct {
  int (*ask)(struct story *s, mf_process *p);
  int result[ENDINGS];
} asked[] = {
#define WORK                                                                             \
  { MF_ESTATE, MF_ESTATE, 0, 0, MF_ESTATE, MF_ESTATE, MF_EINVAL }
    {ask_require, WORK},
    {ask_eval, WORK},
    {ask_send_fd, WORK},
    {ask_send_arg, WORK},
    {ask_send_arg_ref, WORK},
    {ask_take_args, WORK},
    {ask_chdir, WORK},
    {ask_setenv, WORK},
    {ask_set, WORK},
    {ask_seal, WORK},
    {ask_limit, WORK},
    {ask_fork, WORK},
    {ask_run, WORK},
    {ask_to_fd, WORK},
    {ask_rpc, WORK},
    {ask_pool, WORK},
#undef WORK
    {ask_finish, {0, 0, 0, 0, MF_ESTATE, MF_ESTATE, MF_EINVAL}},
    {ask_kill, {0, -ESRCH, -ESRCH, 0, 0, -ESRCH, MF_EINVAL}},
    {ask_on_exit, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
    {ask_on_error, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
    {ask_memory, {0, 0, 0, 0, 0, 0, MF_EINVAL}},
};

static mf_process *make_ended(struct story *s, enum ending how, mf_process **ret_t) {
  mf_options o = MF_OPTIONS_INIT;
  int far;
  mf_process *t = *ret_t = make_template(s, &far), *q;
  if (how == IN_FUNCTION || how == RETURNED) {
    q = make_running(s, t, far, 501);
    if (how == RETURNED)
      sim_end_process(s->sim, 501, 0);
    sim_run(s->sim);
    return q;
  }
  o.timeout_ms = how == TIMED_OUT ? 50 : 0;
  assert_int_equal(mf_fork_options(t, &o, &q), 0);
  process_unhold(q);
  execute_fork(s, t, far, q, 501, 1);
  sim_run(s->sim);
  if (how == FINISHED || how == FINISHED_DEAD)
    assert_int_equal(mf_finish(q), 0);
  if (how == TIMED_OUT)
    sim_advance(s->sim, 60);
  if (how == FINISHED_DEAD || how == KILLED)
    sim_end_process(s->sim, 501, how == KILLED ? SIGKILL : 0);
  sim_run(s->sim);
  if (how == CLOSED)
    mf_close(q, NULL, NULL); /* valid until its callback, that is, until the loop turns */
  return q;
}

static void test_set_takes_one_value_and_a_name(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  static const char *const names[] = {"", ".", "a.", ".a", "a..b", NULL};
  for (size_t i = 0; i < COUNT(names); i++)
    assert_int_equal(mf_set(t, names[i], "\x01", 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", NULL, 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", "", 0), MF_EINVAL);
  assert_int_equal(mf_set(t, "a", "", (size_t)(1 << 30) + 1), MF_ELIMIT);
  assert_int_equal(mf_set(NULL, "a", "\x01", 1), MF_EINVAL);
  assert_int_equal(mf_set(t, "a.b", "\x01", 1), 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static void test_what_is_asked_after_the_end(void **state) {
  for (size_t i = 0; i < COUNT(asked); i++) {
    for (int how = 0; how < ENDINGS; how++) {
      struct story *s = story_new();
      mf_process *t, *q = make_ended(s, (enum ending)how, &t);
      int started = s->runs, r = asked[i].ask(s, q);
      if (r != asked[i].result[how])
        fail_msg("question %zu after ending %d: %d", i, how, r);
      assert_int_equal(s->runs, started); /* never inside the call */
      sim_run(s->sim);
      if (r == 0 && (asked[i].ask == ask_run || asked[i].ask == ask_to_fd)) {
        assert_int_equal(s->runs, started + 1);
        assert_int_equal(s->run_error, how == TIMED_OUT ? MF_ETIMEOUT : MF_ECLONE_DIED);
      }
      if (r == 0 && asked[i].ask == ask_memory && how != IN_FUNCTION)
        assert_int_equal(s->memories, 1);
      if (how != CLOSED &&
          !(r == 0 && (asked[i].ask == ask_rpc || asked[i].ask == ask_pool)))
        mf_close(q, NULL, NULL);
      mf_close(t, NULL, NULL);
      sim_end_process(s->sim, 501, 0);
      story_free(s);
    }
  }
}

/* It was kept for a pool that starts the template again, which then executed what the
 * caller had been told was refused; twice, where he had asked again. */
static void test_a_command_that_was_not_sent_is_not_kept(void **state) {
  static char code[8192];
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  const struct journal *before = t->journal;
  assert_non_null(before);
  memset(code, ' ', sizeof code);
  short_of_memory = 1;
  int r = mf_eval(t, code, sizeof code, 0, NULL, NULL);
  short_of_memory = 0;
  assert_int_equal(r, MF_ENOMEM);
  assert_ptr_equal(t->journal, before);
  assert_int_equal(mf_eval(t, code, sizeof code, 0, NULL, NULL), 0);
  assert_ptr_not_equal(t->journal, before);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Thousands of clones ended in one instant, and their reports were worked off in one call
 * of 25 ms. The rest waits for the next turns, without being forgotten when the socket
 * falls silent. */
static void test_many_answers_are_spread_over_turns(void **state) {
  enum { MANY = 1200, A_TURN = 512 };
  for (int dies = 0; dies < 2; dies++) {
    struct story *s = story_new();
    int far, turns = 0;
    mf_process *t = make_template(s, &far);
    for (int i = 0; i < MANY; i++)
      assert_int_equal(mf_eval(t, "x", 1, 0, NULL, NULL), 0);
    uint64_t last = t->nsent - 1; /* the one of the last comes later */
    for (uint64_t n = 1; n <= last; n++)
      sim_answer(s->sim, far, ANS_DONE, n, NULL, 0);
    if (dies) { /* what is left is heard before its end is believed */
      sim_step(s->sim);
      assert_int_equal(t->ndone, A_TURN);
      sim_end_process(s->sim, t->pid, SIGKILL);
      sim_step(s->sim);
    } else {
      for (; t->ndone < last && turns < 10; turns++) {
        uint64_t before = t->ndone;
        sim_step(s->sim);
        assert_true(t->ndone - before <= A_TURN);
      }
      assert_int_equal(turns, (int)(last / A_TURN + 1));
    }
    assert_int_equal(t->ndone, last);
    if (!dies) { /* and it is read on when all that is worked off, though nothing is sent
                  */
      sim_answer(s->sim, far, ANS_DONE, t->nsent, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(t->ndone, t->nsent);
    }
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* A template that reads as fast as is written to it held the loop until all was written.
 */
static void test_a_long_value_is_spread_over_turns(void **state) {
  enum { MANY = 5 * OUTBOX_TURN, MOST = OUTBOX_TURN + OUTBOX_IOV_MAX * FRAME_BODY_MAX };
  struct story *s = story_new();
  char *value = calloc(1, MANY);
  int far, turns = 0;
  mf_process *t = make_template(s, &far);
  const struct buf *read = &s->sim->fd[far].rx;
  size_t before = 0;
  memcpy(value, "\xc6", 1); /* one long string */
  for (int i = 0; i < 4; i++)
    value[1 + i] = (char)((MANY - 5) >> (24 - 8 * i));
  assert_int_equal(mf_set(t, "x", value, MANY), 0);
  assert_true(buf_size(read) <= MOST);
  do {
    before = buf_size(read);
    sim_step(s->sim);
    assert_true(buf_size(read) - before <= MOST);
    turns++;
  } while (buf_size(read) != before);
  assert_true(before > MANY);
  assert_true(turns >= MANY / MOST);
  free(value);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* What no template can be asked about, and is large, is measured aside. */
static void test_memory_that_takes_long_is_told_later(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  sim_run(s->sim);
  s->sim->slow_measures = 1;
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  assert_int_equal(s->sim->nmeasures, 2);
  assert_int_equal(s->memories, 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 2);
  assert_int_equal(s->memory_error, 0);
  assert_int_equal(s->sim->nmeasures, 0);
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  sim_end_process(s->sim, t->pid, SIGKILL); /* meanwhile: its pidfd is looked at first */
  sim_run(s->sim);
  assert_int_equal(s->memories, 3);
  assert_int_equal(s->memory_error, MF_ECLONE_DIED);
  assert_int_equal(s->sim->nmeasures, 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* It was refused as misuse while a run was under way, which the caller may not even know
 * of (an rpc's). */
static void test_memory_asked_while_it_starts_waits_for_that(void **state) {
  for (int fails = 0; fails < 2; fails++) {
    struct story *s = story_new();
    int far;
    mf_process *t = make_template(s, &far);
    assert_int_equal(mf_run(t, "f", on_run, s), 0);
    assert_int_equal(mf_memory(t, on_memory, s), 0);
    sim_run(s->sim);
    assert_int_equal(s->memories, 0);
    if (fails)
      answer_failure(s, far, FAILURE_REMOTE, PHASE_FUNCTION);
    else
      sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->memories, 1);
    assert_int_equal(s->memory_error, fails ? MF_EREMOTE : 0);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

static void test_closing_forgets_a_measure(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)t->pid, NULL, 0);
  sim_run(s->sim);
  s->sim->slow_measures = 1;
  assert_int_equal(mf_memory(t, on_memory, s), 0);
  mf_close(t, on_close, s);
  assert_int_equal(s->sim->nmeasures, 0);
  sim_run(s->sim);
  assert_int_equal(s->memories, 1);
  assert_int_equal(s->memory_error, MF_ECANCELLED);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

static void count_release(void *data) {
  ++*(int *)data;
}

/* Its zombie stayed until the next call of the library, whatever the loop did. */
static void test_a_closed_child_that_runs_is_reaped_while_others_are_open(void **state) {
  (void)state;
  for (int others = 0; others < 2; others++) {
    struct story *s = story_new();
    int far, far_other;
    mf_process *other = others ? make_template(s, &far_other) : NULL;
    mf_process *p = make_template(s, &far);
    int pid = p->pid;
    assert_int_equal(mf_run(p, "f", on_run, s), 0);
    sim_answer(s->sim, far, ANS_RUNNING, (uint64_t)pid, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    mf_close(p, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[pid], 1);
    sim_end_process(s->sim, pid, 0);
    sim_run(s->sim);
    assert_int_equal(s->sim->children[pid], !others); /* nothing of ours is on the loop */
    if (other)
      mf_close(other, NULL, NULL);
    sim_run(s->sim);
    children_reap(&s->sim->backend); /* as the next call would */
    assert_int_equal(s->sim->children[pid], 0);
    story_free(s);
  }
}

/* Dead children stayed for as long as the program ran: a template that lies had forked
 * twice for one command, or said that it had not forked. Both numbers stood in the slot.
 */
static void test_births_that_a_template_lies_about_are_reaped(void **state) {
  (void)state;
  enum { TWICE, DENIED, LIES };
  for (int lie = 0; lie < LIES; lie++) {
    struct story *s = story_new();
    static struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *q;
    mf_process *known = make_running(s, t, far, 501);
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    sim_run(s->sim);
    do
      assert_true(sim_command(s->sim, far, &f, fds));
    while (f.type != CMD_FORK);
    if (lie == TWICE) {
      assert_int_equal(sim_fork(s->sim, far, &f, fds, 502), 1);
      sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 502, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(mf_pid(q), 502);
    } else {
      sim_answer(s->sim, far, ANS_FORK_FAILED, f.id, NULL, 0);
      sim_run(s->sim);
      assert_int_equal(q->state, DEAD);
    }
    assert_int_equal(sim_fork(s->sim, far, &f, fds, 503), 1);
    s->sim->children[504] = 1; /* the program's own, which nobody may touch */
    for (int pid = 501; pid <= 504; pid++)
      sim_end_process(s->sim, pid, 0);
    sim_run(s->sim);
    mf_close(q, NULL, NULL);
    mf_close(known, NULL, NULL);
    sim_run(s->sim);
    for (int pid = 501; pid <= 503; pid++)
      assert_int_equal(s->sim->children[pid], 0);
    assert_int_equal(s->sim->children[504], 1);
    s->sim->children[504] = 0;
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* Fewer spares were kept than had been asked for, without a word. */
static void test_more_spares_at_least_than_at_most_are_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *p = NULL;
  mf_options o = MF_OPTIONS_INIT;
  o.spares_min = 2;
  o.spares_max = 1;
  assert_int_equal(mf_new_exec(&o, &p), MF_EINVAL);
  assert_int_equal(mf_fork_options(t, &o, &p), MF_EINVAL);
  assert_null(p);
  o.spares_max = 0;
  assert_int_equal(mf_fork_options(t, &o, &p), MF_EINVAL);
  o.spares_min = 0;
  assert_int_equal(mf_fork_options(t, &o, &p), 0);
  mf_close(p, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Each crashed: a NULL where the result, the list or the callback should be. */
static void test_a_missing_pointer_is_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far, released = 0, fd[2];
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_new(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_new_exec(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_fork(t, NULL), MF_EINVAL);
  assert_int_equal(pipe(fd), 0);
  assert_int_equal(mf_from_fd(NULL, fd[0], NULL), MF_EINVAL);
  assert_int_equal(fcntl(fd[0], F_GETFD), -1); /* it is taken even so */
  close(fd[1]);
  assert_int_equal(mf_limit(t, NULL, 1), MF_EINVAL);
  assert_int_equal(mf_memory(t, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_send_arg_ref(t, NULL, 5, count_release, &released), MF_EINVAL);
  assert_int_equal(released, 1);
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  story_free(s);
}

/* The template took it for a broken protocol and died, the default one included. */
static void test_a_variable_without_a_name_is_misuse(void **state) {
  (void)state;
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  const char *const bad[] = {"=value", ""}, *const good[] = {"NAME", "NAME=", "N=a=b"};
  for (int i = 0; i < 2; i++) {
    const char *const env[] = {"A=b", bad[i], NULL};
    mf_options o = MF_OPTIONS_INIT;
    o.env = env;
    assert_int_equal(mf_fork_options(t, &o, &q), MF_EINVAL);
  }
  for (int i = 0; i < 3; i++) {
    const char *const env[] = {good[i], NULL};
    mf_options o = MF_OPTIONS_INIT;
    o.env = env;
    assert_int_equal(mf_fork_options(t, &o, &q), 0);
    mf_close(q, NULL, NULL);
  }
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  story_free(s);
}

/* ---- whose number it is ---- */

/* Whatever is written as the number, by the clone or its template, only the kernel's word
 * counts: 501 is the clone, a child of ours or not; 502 another record's; 600 a stranger.
 */
static void test_only_the_kernel_tells_whose_number_it_is(void **state) {
  static const struct {
    int ours, told, writer, claimed, pid; /* told: in the slot; 0: nothing */
  } cases[] = {
      {1, 501, 501, 501, 501}, {1, 501, 501, 600, 501}, {1, 501, 0, 600, 501},
      {1, 0, 501, 600, 501},   {1, 600, 501, 600, 501}, {1, 502, 501, 502, 501},
      {1, 502, 0, 502, -1},    {0, 0, 501, 600, 501},   {0, 600, 501, 600, 501},
      {0, 600, 0, 600, -1},    {0, 0, 0, 501, -1},      {0, 0, 502, 501, -1},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct story *s = story_new();
    struct frame f;
    int far, fds[SIM_QUEUE];
    mf_process *t = make_template(s, &far), *other = make_running(s, t, far, 502), *q;
    t->proven = 0;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    int q_far = sim_far_end(s->sim, q->chan.fd);
    while (sim_command(s->sim, far, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, far, &f, fds, 501);
        *sim_birth(s->sim, far, &f) = (uint32_t)cases[i].told;
      }
    s->sim->children[501] = cases[i].ours;
    s->sim->fd[q_far].pid = cases[i].writer;
    s->runs = 0;
    answer_hello(s, q_far, (uint64_t)cases[i].claimed);
    sim_answer(s->sim, q_far, ANS_RUNNING, (uint64_t)cases[i].claimed, NULL, 0);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, 0);
    if (mf_pid(q) != cases[i].pid)
      fail_msg("case %zu: %d", i, mf_pid(q));
    s->sim->last_signal_pid = 0;
    mf_kill(q, SIGKILL);
    assert_true(s->sim->last_signal_pid == 0 || s->sim->last_signal_pid == cases[i].pid);
    assert_int_equal(s->sim->children[502], 1);
    sim_end_process(s->sim, 501, 0);
    sim_end_process(s->sim, 502, 0);
    wait_for_status(s);
    s->sim->children[501] = 0;
    mf_close(other, NULL, NULL);
    close_both(q, t);
    story_free(s);
  }
}

/* ---- limits and budgets ---- */

/* A process has ended, and children of its own go on writing to its socket. */
static void test_a_socket_that_never_dries_up_is_read_to_a_limit(void **state) {
  static const unsigned char done[] = {0, 0, 0, 0, ANS_DONE, 0, 0, 0,
                                       0, 0, 0, 0, 0,        0, 0, 0};
  struct story *s = story_new();
  mf_process *t, *q;
  struct sim_fd *near;
  int far, q_far;
  t = make_template(s, &far);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_eval(q, "x", 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  q_far = sim_far_end(s->sim, q->chan.fd);
  execute_fork(s, t, far, q, 500, 1);
  sim_run(s->sim);
  near = &s->sim->fd[s->sim->fd[q_far].peer];
  near->flood = sizeof done;
  sim_bytes(s->sim, q_far, done, sizeof done);
  sim_end_process(s->sim, 500, 9);
  q->pid_watch.on_ready(&q->pid_watch, WATCH_READ);
  assert_int_equal(q->state, DEAD);
  assert_true(near->nread < 2 << 20);
  near->flood = 0;
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ECLONE_DIED);
  assert_int_equal(s->run_started, MF_STARTED_UNKNOWN); /* its *running* may lie behind */
  close_both(t, q);
  story_free(s);
}

/* ---- what a failure says ---- */

static void on_thrown(mf_process *p, const mf_error *e, int fd, void *data) {
  struct story *s = data;
  s->runs++;
  assert_int_equal(e->code, MF_EREMOTE);
  assert_string_equal(e->message, "it failed");
  assert_null(e->traceback);
  assert_int_equal(e->value_length, 2);
  assert_memory_equal(e->value, "\x91\x2a", 2);
}

/* message, no traceback, and (size >= 0) a value of that many bytes that claims claim. */
static void put_failure(struct buf *b, int size, uint32_t claim) {
  static const unsigned char value[FAILURE_VALUE_MAX + 1] = {0x91, 0x2a};
  buf_init(b, FRAME_BODY_MAX);
  buf_put_u8(b, FAILURE_REMOTE);
  buf_put_u8(b, PHASE_EVAL);
  buf_put_u16(b, 0);
  buf_put_u32(b, 0);
  buf_put_str(b, "it failed", 9);
  buf_put_str(b, NULL, 0);
  if (size < 0)
    return;
  buf_put_u32(b, claim);
  buf_put(b, value, (size_t)size);
}

static void
test_a_thrown_value_reaches_the_callback_and_those_of_its_clones(void **state) {
  struct story *s = story_new();
  struct buf b;
  int far;
  mf_process *t = make_template(s, &far), *q;
  assert_int_equal(mf_eval(t, "x", 1, 0, NULL, NULL), 0);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_thrown, s), 0);
  assert_int_equal(mf_run(t, "f", on_thrown, s), 0);
  sim_run(s->sim);
  put_failure(&b, 2, 2);
  sim_answer(s->sim, far, ANS_FAILED, 1, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  sim_run(s->sim);
  assert_int_equal(s->runs, 2);
  close_both(q, t);
  story_free(s);
}

static void test_a_value_that_is_cut_or_too_long_is_malformed(void **state) {
  static const struct {
    int size;
    uint32_t claim;
    int good;
  } rows[] = {{-1, 0, 1},
              {0, 0, 1},
              {2, 2, 1},
              {2, 3, 0},
              {2, 1, 0},
              {0, 1, 0},
              {0, PROTO_NO_STR, 1},
              {2, PROTO_NO_STR, 0},
              {FAILURE_VALUE_MAX, FAILURE_VALUE_MAX, 1},
              {FAILURE_VALUE_MAX + 1, FAILURE_VALUE_MAX + 1, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct failure_body body;
    struct buf b;
    put_failure(&b, rows[i].size, rows[i].claim);
    int r = failure_body_decode(&body, buf_peek(&b), buf_size(&b));
    assert_int_equal(r, rows[i].good ? 0 : -EPROTO);
    buf_deinit(&b);
  }
}

/* A template that is told to end while it hangs, with and without a clone that somebody
 * waits for; the host is told in time, and nothing of it stays. */
static void test_a_closed_template_that_hangs_is_killed(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far), *q;
  mf_eval(t, "loop()", 6, 0, NULL, NULL);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  sim_run(s->sim);
  int pid = t->pid;
  mf_close(t, on_close, s);
  sim_advance(s->sim, 10 * CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, 0); /* the run is waited for */
  mf_close(q, NULL, NULL);
  sim_run(s->sim);
  assert_int_equal(s->run_error, MF_ECANCELLED);
  sim_advance(s->sim, 2 * CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, pid);
  sim_end_process(s->sim, pid, SIGKILL);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

/* The same where even SIGKILL does not end it: it waits in the kernel. */
static void test_a_closed_template_that_no_signal_ends_is_given_up(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  mf_eval(t, "loop()", 6, 0, NULL, NULL);
  assert_int_equal(mf_on_exit(t, on_exit_told, s), 0);
  mf_finish(t);
  sim_advance(s->sim, CLOSE_GRACE_MS);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->exits, 0);
  sim_advance(s->sim, REPORT_TIMEOUT_MS);
  assert_int_equal(s->exits, 1);
  assert_int_equal(s->exit_known, 0);
  assert_int_equal(s->context->nbusy, 0);
  mf_close(t, on_close, s);
  sim_run(s->sim);
  assert_int_equal(s->closes, 1);
  story_free(s);
}

/* A template does not tell of a fork that carries run. When the next command fails, that
 * answer is read before the clone's first word: the clone was once told to be none, with
 * started = "no", while it ran. */
static void test_a_clone_lives_whose_template_fails_before_it_speaks(void **state) {
  struct story *s = story_new();
  mf_process *q;
  struct buf b;
  int far;
  s->sim->share_error = -ENOSYS; /* its number stands nowhere */
  mf_process *t = make_template(s, &far);
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  assert_int_equal(mf_eval(t, "error()", 7, 0, NULL, NULL), 0);
  sim_run(s->sim);
  int q_far = sim_far_end(s->sim, q->chan.fd);
  s->sim->fd[q_far].pid = 200;
  buf_init(&b, 1000);
  failure_body_encode(
      &(struct failure_body){.code = FAILURE_REMOTE, .second = PHASE_EVAL}, &b);
  sim_answer(s->sim, far, ANS_FAILED, 3, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  sim_run(s->sim);
  assert_int_equal(t->state, FAILED);
  assert_int_equal(q->state, STARTING);
  answer_hello(s, q_far, 200);
  sim_answer(s->sim, q_far, ANS_RUNNING, 200, NULL, 0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, 0);
  sim_hang_up(s->sim, q_far);
  sim_end_process(s->sim, 200, 0);
  close_both(q, t);
  sim_run(s->sim);
  story_free(s);
}

/* It counts what it has executed by the number of the command that failed. */
static void test_a_failure_of_no_command_is_malformed(void **state) {
  static const uint64_t numbers[] = {0, 3, UINT64_MAX};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
    struct story *s = story_new();
    struct buf b;
    int far;
    mf_process *t = make_template(s, &far);
    buf_init(&b, 1000);
    failure_body_encode(
        &(struct failure_body){.code = FAILURE_REMOTE, .second = PHASE_EVAL}, &b);
    sim_answer(s->sim, far, ANS_FAILED, numbers[i], buf_peek(&b), buf_size(&b));
    buf_deinit(&b);
    sim_run(s->sim);
    assert_int_equal(t->error->code, MF_EPROTOCOL);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    story_free(s);
  }
}

/* This build is for finding faults: errors know the line that made them. */
static void test_an_error_tells_where_it_was_made(void **state) {
  static const char made[] = "[cells_user.c:";
  for (int says = 0; says < 2; says++) {
    struct story *s = story_new();
    char *text = NULL;
    size_t size;
    int far;
    if (says)
      setenv("MOONFORK_DEBUG", "origin", 1);
    mf_process *t = make_template(s, &far), *q;
    assert_int_equal(mf_fork(t, &q), 0);
    mf_close(q, NULL, NULL);
    assert_int_equal(strncmp(q->error->origin, made + 1, sizeof made - 2), 0);
    assert_int_equal(strstr(q->error->message, made) != NULL, says);
    FILE *out = open_memstream(&text, &size);
    struct failure *f = q->error;
    dump_failure(out, "error", f);
    fclose(out);
    assert_non_null(strstr(text, "(made at cells_user.c:"));
    free(text);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    unsetenv("MOONFORK_DEBUG");
    story_free(s);
  }
}

/* Of bytes that are no frame: the line that refused them, in a build that knows it. */
static void test_an_error_of_a_frame_tells_who_refused_it(void **state) {
  struct story *s = story_new();
  int far;
  mf_process *t = make_template(s, &far);
  sim_bytes(s->sim, far, "sixteen bytes of", 16);
  sim_run(s->sim);
  assert_int_equal(t->error->code, MF_EPROTOCOL);
  assert_non_null(t->error->origin);
  assert_true(!strncmp(t->error->origin, "frame.c:", 8) ||
              !strncmp(t->error->origin, "cells_peer.c:", 13));
  origin_mark("/a/path/to/frame.c:7", -EPROTO);
  assert_string_equal(origin_name(origin_of_code("here")), "frame.c:7");
  assert_string_equal(origin_of_code("here"), "here"); /* once */
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  story_free(s);
}

/* A clone of a clone of a clone ..., none of them forked yet, when the template ends:
 * each loses its source. It once took a stack as deep as they were nested. */
enum { NESTED = 1500, SMALL_STACK = 128 * 1024 };

struct nested {
  struct story *s;
  mf_process *p[NESTED];
  int far;
};

static void *run_nested(void *arg) {
  struct nested *n = arg;
  sim_run(n->s->sim);
  return NULL;
}

static void test_clones_nested_deeply_end_one_after_the_other(void **state) {
  static struct nested n;
  pthread_t thread;
  n.s = story_new();
  n.s->sim->share_error = -ENOSYS;
  mf_process *t = make_template(n.s, &n.far), *source = t;
  for (int i = 0; i < NESTED; source = n.p[i++]) {
    assert_int_equal(mf_fork(source, &n.p[i]), 0);
    assert_int_equal(mf_on_exit(n.p[i], on_exit_told, n.s), 0);
  }
  sim_run(n.s->sim);
  assert_int_equal(source->state, FORKING);
  for (int i = 0; i < NESTED; i++) /* which they learn first, and wait for the source */
    sim_hang_up(n.s->sim, sim_far_end(n.s->sim, n.p[i]->chan.fd));
  sim_run(n.s->sim);
  assert_int_equal(n.s->exits, 0);
  sim_hang_up(n.s->sim, n.far);
  sim_end_process(n.s->sim, 100, SIGKILL);
  assert_int_equal(thread_start(&thread, SMALL_STACK, run_nested, &n), 0);
  pthread_join(thread, NULL);
  assert_int_equal(n.s->exits, NESTED);
  for (int i = 0; i < NESTED; i++) {
    assert_int_equal(n.p[i]->state, DEAD);
    assert_int_equal(n.p[i]->error->code, MF_ETEMPLATE_DIED);
    mf_close(n.p[i], NULL, NULL);
  }
  mf_close(t, NULL, NULL);
  sim_run(n.s->sim);
  story_free(n.s);
}

static void test_clones_nested_deeply_fail_one_after_the_other(void **state) {
  static struct nested n;
  pthread_t thread;
  n.s = story_new();
  n.s->sim->share_error = -ENOSYS;
  mf_process *t = make_template(n.s, &n.far), *source = t;
  for (int i = 0; i < NESTED; source = n.p[i++])
    assert_int_equal(mf_fork(source, &n.p[i]), 0);
  sim_run(n.s->sim);
  answer_failure(n.s, n.far, FAILURE_REMOTE, PHASE_EVAL);
  assert_int_equal(thread_start(&thread, SMALL_STACK, run_nested, &n), 0);
  pthread_join(thread, NULL);
  assert_int_equal(t->state, FAILED);
  for (int i = 0; i < NESTED; i++) {
    assert_int_equal(n.p[i]->state, DEAD);
    assert_int_equal(n.p[i]->error->code, MF_EREMOTE);
    mf_close(n.p[i], NULL, NULL);
  }
  mf_close(t, NULL, NULL);
  sim_run(n.s->sim);
  story_free(n.s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_only_the_kernel_tells_whose_number_it_is),
      cmocka_unit_test(test_a_number_that_is_no_child_of_ours_is_not_believed),
      cmocka_unit_test(test_a_clone_that_is_no_child_of_ours_is_known_by_its_pidfd),
      cmocka_unit_test(test_a_child_that_the_host_has_reaped_is_told_once),
      cmocka_unit_test(test_a_careless_host_believes_no_number_after_the_end),
      cmocka_unit_test(test_a_group_ends_before_its_leader_is_reaped),
      cmocka_unit_test(test_a_careless_host_signals_no_group_by_number),
      cmocka_unit_test(test_who_has_no_tree_is_signalled_alone),
      cmocka_unit_test(test_last_words_are_read_from_the_slot),
      cmocka_unit_test(test_a_birth_after_the_close_is_reaped),
      cmocka_unit_test(test_a_fork_under_way_when_the_template_dies),
      cmocka_unit_test(test_a_thrown_value_reaches_the_callback_and_those_of_its_clones),
      cmocka_unit_test(test_a_value_that_is_cut_or_too_long_is_malformed),
      cmocka_unit_test(test_a_closed_template_that_hangs_is_killed),
      cmocka_unit_test(test_a_closed_template_that_no_signal_ends_is_given_up),
      cmocka_unit_test(test_a_closed_child_that_runs_is_reaped_while_others_are_open),
      cmocka_unit_test(test_births_that_a_template_lies_about_are_reaped),
      cmocka_unit_test(test_more_spares_at_least_than_at_most_are_misuse),
      cmocka_unit_test(test_a_missing_pointer_is_misuse),
      cmocka_unit_test(test_a_variable_without_a_name_is_misuse),
      cmocka_unit_test(test_memory_is_told_when_the_template_fails_first),
      cmocka_unit_test(test_an_errno_that_none_is),
      cmocka_unit_test(test_without_pidfds_the_end_of_a_direct_child_is_told),
      cmocka_unit_test(test_a_default_template_that_waits_is_not_kept_parked),
      cmocka_unit_test(test_a_new_process_does_not_hold_up_a_close_callback),
      cmocka_unit_test(test_a_dead_spare_is_not_taken),
      cmocka_unit_test(test_spares_are_refilled_when_fewer_than_min_are_left),
      cmocka_unit_test(test_spares_begin_when_a_clone_tells_of_its_fork),
      cmocka_unit_test(test_a_refill_that_failed_is_tried_again),
      cmocka_unit_test(test_a_failed_start_has_one_name),
      cmocka_unit_test(test_a_command_that_was_not_sent_is_not_kept),
      cmocka_unit_test(test_many_answers_are_spread_over_turns),
      cmocka_unit_test(test_a_long_value_is_spread_over_turns),
      cmocka_unit_test(test_memory_that_takes_long_is_told_later),
      cmocka_unit_test(test_memory_asked_while_it_starts_waits_for_that),
      cmocka_unit_test(test_closing_forgets_a_measure),
      cmocka_unit_test(test_an_answer_that_claims_descriptors_breaks_the_protocol),
      cmocka_unit_test(test_what_is_taken_up_has_its_timeout),
      cmocka_unit_test(test_set_takes_one_value_and_a_name),
      cmocka_unit_test(test_what_is_asked_after_the_end),
      cmocka_unit_test(test_a_socket_that_never_dries_up_is_read_to_a_limit),
      cmocka_unit_test(test_a_clone_lives_whose_template_fails_before_it_speaks),
      cmocka_unit_test(test_a_failure_of_no_command_is_malformed),
      cmocka_unit_test(test_an_error_tells_where_it_was_made),
      cmocka_unit_test(test_an_error_of_a_frame_tells_who_refused_it),
      cmocka_unit_test(test_clones_nested_deeply_end_one_after_the_other),
      cmocka_unit_test(test_clones_nested_deeply_fail_one_after_the_other),
  };
  return cmocka_run_group_tests_name("process stories", tests, NULL, NULL);
}
