/* Single stories of the parent's core through the backend: what a failure says, and whom
 * it reaches. */
#include "unit.h"

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
#include "process_kit.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* A default template that could not start says so, and may live on: it is not asked for
 * another process. */
static void test_a_default_template_that_has_failed_is_not_used_again(void **state) {
  struct story *s = story_new();
  mf_process *p, *q;
  assert_int_equal(context_start(s->context), 0);
  assert_int_equal(process_make(s->context, 0, NULL, &p), 0);
  assert_int_equal(mf_run(p, "f", on_run, s), 0);
  int first = s->sim->spawned_control;
  answer_failure(s, first, FAILURE_NOMEM, PHASE_START);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ETEMPLATE_START);
  assert_int_equal(process_make(s->context, 0, NULL, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  int second = s->sim->spawned_control;
  assert_int_not_equal(second, first);
  answer_hello(s, second, (uint64_t)q->source->pid);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1); /* it is waited for */
  assert_int_equal(q->source->state, SERVING);
  close_both(p, q);
  default_reset(s->context);
  sim_run(s->sim);
  story_free(s);
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

/* ---- a hello that is overdue ---- */

static char last_text[300];

static void on_failed_run(mf_process *p, const mf_error *e, int fd, void *data) {
  struct story *s = data;
  s->runs++;
  s->run_error = e ? e->code : 0;
  s->run_started = e ? e->started : -1;
  snprintf(last_text, sizeof last_text, "%s", e ? e->message : "");
}

static struct story *late;
static int could_speak;

/* Its hello comes between the last look at its socket and the signal, and the word that
 * its function is entered, if it can say that. */
static void speak_at_last(struct sim *sim, int pid, int signum) {
  int far = sim->spawned_control;
  could_speak = !sim->fd[sim->fd[far].peer].refused;
  answer_hello(late, far, (uint64_t)pid);
  sim_answer(sim, far, ANS_RUNNING, (uint64_t)pid, NULL, 0);
}

static void test_a_program_that_says_hello_as_it_is_killed(void **state) {
  struct story *s = late = story_new();
  mf_process *t;
  could_speak = 0;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  assert_int_equal(mf_run(t, "f", on_failed_run, s), 0);
  s->sim->on_kill = speak_at_last;
  sim_advance(s->sim, HELLO_TIMEOUT_MS);
  s->sim->on_kill = NULL;
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->run_error, MF_ETEMPLATE_START);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  assert_false(could_speak);
  sim_end_process(s->sim, s->sim->last_signal_pid, SIGKILL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static const struct backend_ops *real_ops;

/* A look that finds nothing, but what comes right after it. */
static ssize_t look_too_early(struct backend *b, int fd, void *data, size_t n,
                              struct fdset *fds, struct sock_writer *ret_writer) {
  ssize_t got = real_ops->read_from(b, fd, data, n, fds, ret_writer);
  if (got == -EAGAIN && !could_speak) {
    could_speak = 1;
    answer_hello(late, late->sim->spawned_control, 700);
    sim_answer(late->sim, late->sim->spawned_control, ANS_RUNNING, 700, NULL, 0);
  }
  return got;
}

/* It was killed, and its socket lost. */
static void test_a_program_that_says_hello_between_two_looks(void **state) {
  struct story *s = late = story_new();
  struct backend_ops ops = *(real_ops = s->sim->backend.ops);
  mf_process *t;
  could_speak = 0;
  ops.read_from = look_too_early;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  assert_int_equal(mf_run(t, "f", on_run, s), 0);
  sim_run(s->sim);
  s->sim->backend.ops = &ops;
  sim_advance(s->sim, HELLO_TIMEOUT_MS);
  s->sim->backend.ops = real_ops;
  assert_int_equal(could_speak, 1);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, 0);
  assert_int_equal(s->sim->last_signal, 0);
  sim_end_process(s->sim, t->pid, 0);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static int timed_far;

/* Between the last look and the moment from which nothing can be said. */
static void enter_at_last(struct sim *sim, int fd) {
  sim->on_refuse = NULL;
  sim_answer(sim, timed_far, ANS_RUNNING, 600, NULL, 0);
}

/* It was given out as if it had been in time, with a socket that was shut. */
static void test_a_function_that_is_entered_as_its_time_is_over(void **state) {
  struct story *s = story_new();
  mf_options o = MF_OPTIONS_INIT;
  mf_process *t, *q;
  int far;
  t = make_template(s, &far);
  o.timeout_ms = 100;
  assert_int_equal(mf_fork_options(t, &o, &q), 0);
  assert_int_equal(mf_run(q, "f", on_failed_run, s), 0);
  execute_fork(s, t, far, q, 600, 1);
  sim_run(s->sim);
  timed_far = sim_far_end(s->sim, q->chan.fd);
  s->sim->on_refuse = enter_at_last;
  sim_advance(s->sim, 101);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ETIMEOUT);
  assert_int_equal(s->run_started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, 600);
  sim_end_process(s->sim, 600, SIGKILL);
  sim_run(s->sim);
  close_both(q, t);
  story_free(s);
}

/* It was said to be killed, and nobody knew whom; and to have closed its socket when a
 * time limit was over. */
static void test_a_socket_that_nobody_answers_on(void **state) {
  for (int limited = 0; limited <= 1; limited++) {
    struct story *s = story_new();
    mf_options o = MF_OPTIONS_INIT;
    mf_process *p;
    int pair[2];
    o.timeout_ms = limited ? 100 : 0;
    assert_int_equal(s->sim->backend.ops->pair(&s->sim->backend, pair), 0);
    assert_int_equal(process_take_up(s->context, &o, pair[0], &p), 0);
    assert_int_equal(mf_run(p, "f", on_failed_run, s), 0);
    sim_advance(s->sim, limited ? 101 : HELLO_TIMEOUT_MS);
    assert_int_equal(s->run_error, limited ? MF_ETIMEOUT : MF_ETEMPLATE_START);
    assert_int_equal(s->run_started, MF_STARTED_NO);
    if (!limited)
      assert_string_equal(last_text,
                          "whoever has the other end of that socket sent no greeting for "
                          "30 seconds, and the socket was closed: it is none that to_fd "
                          "gave, or its process hangs");
    mf_close(p, NULL, NULL);
    s->sim->backend.ops->close(&s->sim->backend, &pair[1]);
    sim_advance(s->sim, CLOSE_GRACE_MS);
    story_free(s);
  }
}

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

/* A program that closes its socket without a word, and goes on, is no template: it is
 * killed soon, so that what was asked of it is told how it ended, and not that nothing is
 * known of it. */
static void test_program_that_hangs_up_and_lives_is_killed_soon(void **state) {
  (void)state;
  struct story *s = story_new();
  mf_process *t, *q;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  int pid = t->pid;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  sim_run(s->sim);
  sim_hang_up(s->sim, s->sim->spawned_control);
  sim_run(s->sim);
  sim_advance(s->sim, HANGUP_TIMEOUT_MS - 1);
  assert_int_equal(s->sim->last_signal, 0);
  assert_int_equal(s->runs, 0);
  sim_advance(s->sim, 1);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->sim->last_signal_pid, pid);
  sim_end_process(s->sim, pid, SIGKILL);
  sim_run(s->sim);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_error, MF_ETEMPLATE_START);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  close_both(q, t);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_program_that_hangs_up_and_lives_is_killed_soon),
      cmocka_unit_test(test_a_thrown_value_reaches_the_callback_and_those_of_its_clones),
      cmocka_unit_test(test_a_value_that_is_cut_or_too_long_is_malformed),
      cmocka_unit_test(test_an_errno_that_none_is),
      cmocka_unit_test(test_a_failed_start_has_one_name),
      cmocka_unit_test(test_a_default_template_that_has_failed_is_not_used_again),
      cmocka_unit_test(test_a_program_that_says_hello_as_it_is_killed),
      cmocka_unit_test(test_a_program_that_says_hello_between_two_looks),
      cmocka_unit_test(test_a_function_that_is_entered_as_its_time_is_over),
      cmocka_unit_test(test_a_socket_that_nobody_answers_on),
      cmocka_unit_test(test_an_answer_that_claims_descriptors_breaks_the_protocol),
      cmocka_unit_test(test_a_clone_lives_whose_template_fails_before_it_speaks),
      cmocka_unit_test(test_a_failure_of_no_command_is_malformed),
      cmocka_unit_test(test_an_error_tells_where_it_was_made),
      cmocka_unit_test(test_an_error_of_a_frame_tells_who_refused_it),
      cmocka_unit_test(test_clones_nested_deeply_end_one_after_the_other),
      cmocka_unit_test(test_clones_nested_deeply_fail_one_after_the_other),
  };
  return cmocka_run_group_tests_name("process failures", tests, NULL, NULL);
}
