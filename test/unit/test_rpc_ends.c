/* The parent's end of an rpc, without a kernel: deaths and hostile clones. */
#include "unit.h"

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "rpc_kit.h"
#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdlib.h>

/* ---- deaths ---- */

static void test_replies_come_before_the_death(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "A");
  far_die(s->far, w, SIGKILL);
  far_run(s->far);
  assert_string_equal(s->order, "rx");
  assert_int_equal(s->call[1].code, MF_ECLONE_DIED);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->errors, 1);
  assert_non_null(strstr(s->error_text, "signal 9"));
  assert_int_equal(call(s, "later"), 0);
  far_run(s->far);
  assert_int_equal(s->call[2].code, MF_ECLONE_DIED);
  assert_int_equal(s->call[2].started, MF_STARTED_NO);
  assert_int_equal(s->closes, 0);
  story_free(s);
}

static void test_idle_death_is_an_error_with_the_status(void **state) {
  struct story *s = story_begun();
  far_run(s->far);
  far_die(s->far, far_worker(s->far, 0), 3 << 8);
  far_run(s->far);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->error_code, MF_ECLONE_DIED);
  assert_non_null(strstr(s->error_text, "exit status 3"));
  story_free(s);
}

static void test_strict_clone_has_entered_only_the_first(void **state) {
  struct story *s = story_new();
  s->options.strict = 1;
  begin(s);
  for (int i = 0; i < 4; i++)
    call(s, "x");
  far_run(s->far);
  far_result(s->far, far_worker(s->far, 0), 0, "1");
  far_die(s->far, far_worker(s->far, 0), SIGSEGV);
  far_run(s->far);
  assert_int_equal(s->call[0].code, 0);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[2].started, MF_STARTED_NO);
  assert_int_equal(s->call[3].started, MF_STARTED_NO);
  story_free(s);
}

static void test_what_was_never_ready_started_nothing(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  assert_int_equal(far_worker(s->far, 0)->ncalls, 1);
  far_die(s->far, far_worker(s->far, 0), SIGKILL);
  far_run(s->far);
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  story_free(s);
}

static void test_init_that_fails_is_told_to_every_call(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  far_fail(s->far, far_worker(s->far, 0));
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_EREMOTE);
  assert_string_equal(s->call[0].text, "no luck");
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  assert_int_equal(s->errors, 1);
  story_free(s);
}

static void test_process_that_cannot_be_forked_fails_the_calls(void **state) {
  struct story *s = story_new();
  s->far->fork_failures = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_EFORK_FAILED);
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  assert_int_equal(s->errors, 1);
  story_free(s);
}

/* Half-close: its end of file alone is its end, and then it is not left alive. */
static void test_closed_socket_of_a_living_process(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  call(s, "x");
  far_run(s->far);
  w = far_worker(s->far, 0);
  sim_hang_up(s->sim, w->fd);
  w->fd = -1;
  far_run(s->far);
  assert_int_equal(s->ntold, 0);
  far_advance(s->far, 1000);
  assert_int_equal(w->kind, FAR_DEAD);
  assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
  story_free(s);
}

/* An rpc is closed; its clone says goodbye, hangs up, and stays. */
static struct story *story_of_a_goodbye(unsigned grace_ms) {
  struct story *s = story_new();
  s->options.grace_ms = grace_ms;
  begin(s);
  call(s, "x");
  far_run(s->far);
  struct far_node *w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "X");
  far_run(s->far);
  s->far->deaf = 1;
  mf_rpc_close(s->rpc, on_gone, s);
  far_run(s->far);
  far_say(s->far, w, RPC_BYE, 0, NULL, 0);
  sim_hang_up(s->sim, w->fd);
  w->fd = -1;
  return s;
}

/* One that has said goodbye may still have to write or to finalise: it is killed after
 * ten seconds, though the close has no limit of its own. */
static void test_what_has_said_goodbye_has_time_to_end(void **state) {
  struct story *s = story_of_a_goodbye(MF_NO_TIMEOUT);
  far_run(s->far);
  far_advance(s->far, CALLS_GRACE_MS - 1);
  assert_int_equal(far_nworkers(s->far), 1);
  assert_int_equal(s->gone, 0);
  far_advance(s->far, 1);
  assert_int_equal(far_nworkers(s->far), 0);
  assert_int_equal(s->errors, 0);
  assert_int_equal(s->closes, 1);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* The close waits no longer than its grace for one that a signal does not end. */
static void test_what_has_said_goodbye_and_stays_is_given_up(void **state) {
  struct story *s = story_of_a_goodbye(CALLS_GRACE_MS / 5);
  sim_run(s->sim);
  sim_advance(s->sim, CALLS_GRACE_MS / 5);
  sim_run(s->sim);
  assert_int_equal(s->sim->last_signal, SIGKILL);
  assert_int_equal(s->errors, 0);
  assert_int_equal(s->closes, 1);
  for (int i = 0; i < 50; i++)
    sim_advance(s->sim, 100);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* A grandchild holds the socket: the exit is enough. */
static void test_exit_without_end_of_file(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  int fd;
  call(s, "x");
  call(s, "y");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "last words");
  fd = w->fd;
  w->fd = -1;
  far_die(s->far, w, 0);
  far_run(s->far);
  assert_string_equal(s->order, "rx");
  assert_int_equal(s->errors, 1);
  sim_hang_up(s->sim, fd);
  story_free(s);
}

/* A grandchild holds the socket, and writes faster than its parent reads: what counts as
 * the worker's last words has an end. */
static void test_exit_without_end_of_what_is_written(void **state) {
  enum { EVENTS = 256, SIZE = 64 * 1024, ENOUGH = 4 << 20 };
  static char body[SIZE];
  struct story *s = story_begun();
  struct far_node *w;
  int fd;
  call(s, "x");
  far_run(s->far);
  w = far_worker(s->far, 0);
  for (int i = 0; i < EVENTS; i++)
    far_say(s->far, w, RPC_EVENT, 0, body, SIZE);
  fd = w->fd;
  w->fd = -1;
  far_die(s->far, w, 0);
  far_run(s->far);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
  assert_in_range(s->events, ENOUGH / SIZE, ENOUGH / SIZE * 3 / 2);
  sim_hang_up(s->sim, fd);
  s->order[0] = 0;
  story_free(s);
}

static void on_turn_end(struct story *s) {
  if (s->this_turn > s->most_a_turn)
    s->most_a_turn = s->this_turn;
  s->this_turn = 0;
}

static void test_a_hundred_thousand_calls_fail_in_chunks(void **state) {
  struct story *s = story_new();
  s->options.queue_bytes_max = 16 << 20;
  begin(s);
  far_run(s->far);
  s->far->deaf = 1;
  for (int i = 0; i < 100000; i++)
    assert_int_equal(call(s, "eight..."), 0);
  far_run(s->far);
  far_die(s->far, far_worker(s->far, 0), SIGKILL);
  s->this_turn = 0;
  while (sim_step(s->sim)) {
    on_turn_end(s);
    for (int i = s->ntold > 2000 ? s->ntold - 2000 : 0; i < s->ncalls; i++)
      assert_int_equal(s->call[i].told, i < s->ntold); /* in their order */
    if (s->ncalls == 100000 && s->ntold > 0)
      assert_int_equal(call(s, "late"), 0);
  }
  assert_int_equal(s->ntold, 100001);
  assert_true(s->most_a_turn <= 1024);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[100000].started, MF_STARTED_NO);
  assert_int_equal(s->call[100000].code, MF_ECLONE_DIED);
  assert_int_equal(s->errors, 1);
  story_free(s);
}

/* ---- hostile clones ---- */

static void expect_protocol(struct story *s) {
  far_run(s->far);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->error_code, MF_EPROTOCOL);
  assert_int_equal(far_nworkers(s->far), 0);
  story_free(s);
}

static void test_violations(void **state) {
  static const struct {
    unsigned type;
    uint64_t id;
    const char *body;
    size_t length;
    int early; /* before HELLO */
  } bad[] = {
      {RPC_RESULT, 99, "", 0, 0},    /* of no call */
      {RPC_RESULT, 0, "", 0, 0},     /* without number */
      {RPC_ERROR, 1, "short", 5, 0}, /* none */
      {RPC_ERROR, 99, "", 0, 0},
      {RPC_HELLO, 0, "", 0, 0},  /* again */
      {RPC_HELLO, 0, "x", 1, 1}, /* none */
      {RPC_READY, 0, "", 0, 0},  /* again */
      {RPC_READY, 0, "", 0, 1},
      {RPC_RESULT, 1, "", 0, 1},
      {RPC_EVENT, 0, "", 0, 1},
      {RPC_EVENT, 7, "", 0, 0},
      {RPC_FAILED, 0, "", 0, 0},
      {RPC_USAGE, 0, "abc", 3, 0},
      {RPC_BYE, 0, "", 0, 0}, /* nobody asked */
      {RPC_HANDLES, 0, "", 0, 0},
      {RPC_CALL, 1, "", 0, 0}, /* the parent's */
      {ANS_HELLO, 0, "", 0, 0},
      {0, 0, "", 0, 0},
      {255, 0, "", 0, 0},
  };
  for (size_t i = 0; i < COUNT(bad); i++) {
    struct story *s = story_new();
    s->far->slow_hello = bad[i].early;
    begin(s);
    call(s, "x");
    far_run(s->far);
    far_say(s->far, far_worker(s->far, 0), bad[i].type, bad[i].id, bad[i].body,
            bad[i].length);
    expect_protocol(s);
  }
}

static void test_wrong_version_is_named(void **state) {
  struct story *s = story_new();
  unsigned char hello[16] = {'M', 'F', 'R', '1', 9};
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  far_say(s->far, far_worker(s->far, 0), RPC_HELLO, 0, hello, sizeof hello);
  far_run(s->far);
  assert_non_null(strstr(s->error_text, "version 9"));
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN); /* who knows what it means */
  expect_protocol(s);
}

static void test_double_answer(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  uint64_t id;
  call(s, "x");
  far_run(s->far);
  w = far_worker(s->far, 0);
  id = w->call[0];
  far_result(s->far, w, 0, "1");
  far_say(s->far, w, RPC_RESULT, id, "2", 1);
  far_run(s->far);
  assert_string_equal(s->call[0].text, "1");
  expect_protocol(s);
}

static void test_lengths_that_lie(void **state) {
  static const uint32_t lengths[] = {FRAME_BODY_MAX + 1, 0x7fffffff, 0xffffffff};
  for (size_t i = 0; i < COUNT(lengths); i++) {
    struct story *s = story_new();
    unsigned char header[FRAME_HEADER_SIZE] = {0};
    begin(s);
    far_run(s->far);
    for (int k = 0; k < 4; k++)
      header[k] = (unsigned char)(lengths[i] >> (8 * k));
    header[4] = RPC_EVENT;
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, sizeof header);
    expect_protocol(s);
  }
}

static void test_message_longer_than_allowed(void **state) {
  struct story *s = story_new();
  unsigned char header[FRAME_HEADER_SIZE], body[1000] = {0};
  struct frame f = {.type = RPC_EVENT, .length = sizeof body, .flags = FRAME_MORE};
  s->options.message_max = 2500;
  begin(s);
  far_run(s->far);
  frame_encode(header, &f);
  for (int i = 0; i < 3; i++) {
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, sizeof header);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, body, sizeof body);
  }
  expect_protocol(s);
}

/* A frame that says nfds, with so many descriptors in fact. Gives the far ends of those.
 */
static void say_with_fds(struct story *s, unsigned type, unsigned nfds, int nreal,
                         int *ret_far) {
  struct far_node *w = far_worker(s->far, 0);
  struct sim_fd *near = &s->sim->fd[s->sim->fd[w->fd].peer];
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)type, .nfds = (uint8_t)nfds};
  for (int i = 0; i < nreal; i++) {
    int pair[2];
    assert_int_equal(s->sim->backend.ops->pair(&s->sim->backend, pair), 0);
    near->fds[near->nfds++] = pair[0] - SIM_FD_BASE;
    ret_far[i] = pair[1] - SIM_FD_BASE;
  }
  frame_encode(header, &f);
  sim_bytes(s->sim, w->fd, header, sizeof header);
}

static int is_hung_up(struct story *s, int far) {
  return s->sim->fd[s->sim->fd[far].peer].closed;
}

static int kept_fd;

static void on_event_with_fds(const mf_message *m, void *data) {
  struct story *s = data;
  s->events++;
  assert_int_equal(m->nfds, 3);
  kept_fd = m->fds[1];
  m->fds[1] = -1;
}

static void test_handles_of_a_message_are_kept_or_closed(void **state) {
  struct story *s = story_new();
  int far[3];
  s->options.handles = 1;
  s->options.on_event = on_event_with_fds;
  begin(s);
  far_run(s->far);
  say_with_fds(s, RPC_HANDLES, 2, 2, far);
  say_with_fds(s, RPC_EVENT, 1, 1, far + 2);
  far_run(s->far);
  assert_int_equal(s->events, 1);
  assert_true(is_hung_up(s, far[0]));
  assert_false(is_hung_up(s, far[1]));
  assert_true(is_hung_up(s, far[2]));
  s->sim->backend.ops->close(&s->sim->backend, &kept_fd);
  story_free(s);
}

static void test_handles_that_do_not_belong(void **state) {
  static const struct {
    int accepted;
    unsigned type, nfds;
    int nreal;
  } rows[] = {
      {1, RPC_EVENT, 0, 1}, /* unannounced */
      {1, RPC_EVENT, 1, 2}, /* more than announced */
      {1, RPC_EVENT, 2, 1}, /* fewer */
      {1, RPC_EVENT, 1, 0},  {0, RPC_EVENT, 1, 0},   {1, RPC_READY, 1, 1},
      {1, RPC_RETIRE, 1, 1}, {1, RPC_HANDLES, 0, 0},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct story *s = story_new();
    int far[3];
    s->options.handles = rows[i].accepted;
    begin(s);
    far_run(s->far);
    say_with_fds(s, rows[i].type, rows[i].nfds, rows[i].nreal, far);
    far_run(s->far);
    for (int k = 0; k < rows[i].nreal; k++)
      assert_true(is_hung_up(s, far[k]));
    expect_protocol(s);
  }
}

static void test_torn_long_body_and_death(void **state) {
  static const size_t cuts[] = {1, 3000, 40000, FRAME_BODY_MAX - 1, FRAME_BODY_MAX};
  unsigned char *bytes = calloc(1, FRAME_HEADER_SIZE + FRAME_BODY_MAX);
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    struct story *s = story_new();
    struct frame f = {.type = RPC_RESULT, .length = FRAME_BODY_MAX, .flags = FRAME_MORE};
    begin(s);
    call(s, "x");
    far_run(s->far);
    f.id = far_worker(s->far, 0)->call[0];
    frame_encode(bytes, &f);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, bytes, FRAME_HEADER_SIZE + cuts[i]);
    far_run(s->far);
    far_die(s->far, far_worker(s->far, 0), SIGKILL);
    far_run(s->far);
    assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
    assert_non_null(strstr(s->error_text, "in the middle"));
    story_free(s);
  }
  free(bytes);
}

static void test_torn_header_and_death(void **state) {
  for (size_t cut = 1; cut < FRAME_HEADER_SIZE; cut++) {
    struct story *s = story_new();
    unsigned char header[FRAME_HEADER_SIZE];
    struct frame f = {.type = RPC_EVENT};
    begin(s);
    call(s, "x");
    far_run(s->far);
    frame_encode(header, &f);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, cut);
    far_run(s->far);
    far_die(s->far, far_worker(s->far, 0), SIGKILL);
    far_run(s->far);
    assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
    assert_non_null(strstr(s->error_text, "in the middle"));
    story_free(s);
  }
}

static void test_events_without_end_leave_the_loop_its_turns(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  int most = 0;
  far_run(s->far);
  w = far_worker(s->far, 0);
  for (int i = 0; i < 20000; i++)
    far_say(s->far, w, RPC_EVENT, 0, NULL, 0);
  for (s->events = 0; sim_step(s->sim); s->events = 0)
    most = s->events > most ? s->events : most;
  assert_true(most <= 2 * 1024);
  s->order[0] = 0;
  story_free(s);
}

/* ---- last words ---- */

static size_t bytes_in_use(void) {
#ifdef __GLIBC__
  return mallinfo2().uordblks;
#else
  return 0; /* a checker of leaks tells, too */
#endif
}

/* Its end was told with the failed run, and once more by itself, and the first copy of
 * its last words was forgotten. */
static void test_last_words_before_run_are_kept_once(void **state) {
  enum { ROUNDS = 50, WORDS = 8000, SOME = 10 };
  static char words[WORDS];
  size_t before = 0;
  memset(words, 'x', sizeof words - 1);
  for (int i = 0; i < ROUNDS; i++) {
    struct story *s = story_new();
    struct frame f;
    int fds[SIM_QUEUE], template;
    begin(s);
    s->far->deaf = 1;
    call(s, "one");
    mf_process *p = mf_rpc_process(s->rpc);
    process_flush(p);
    template = s->far->node[0]->fd;
    while (sim_command(s->sim, template, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, template, &f, fds, 600);
        sim_last_words(s->sim, template, &f, words);
        sim_hang_up(s->sim, fds[0]);
      }
    sim_end_process(s->sim, 600, 1 << 8);
    sim_run(s->sim);
    assert_int_equal(s->errors, 1);
    assert_int_equal(s->call[0].told, 1);
    story_free(s);
    if (i == SOME)
      before = bytes_in_use();
  }
  assert_true(bytes_in_use() < before + (ROUNDS - SOME) * WORDS / 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_replies_come_before_the_death),
      cmocka_unit_test(test_idle_death_is_an_error_with_the_status),
      cmocka_unit_test(test_strict_clone_has_entered_only_the_first),
      cmocka_unit_test(test_what_was_never_ready_started_nothing),
      cmocka_unit_test(test_init_that_fails_is_told_to_every_call),
      cmocka_unit_test(test_process_that_cannot_be_forked_fails_the_calls),
      cmocka_unit_test(test_closed_socket_of_a_living_process),
      cmocka_unit_test(test_what_has_said_goodbye_has_time_to_end),
      cmocka_unit_test(test_what_has_said_goodbye_and_stays_is_given_up),
      cmocka_unit_test(test_exit_without_end_of_file),
      cmocka_unit_test(test_exit_without_end_of_what_is_written),
      cmocka_unit_test(test_a_hundred_thousand_calls_fail_in_chunks),
      cmocka_unit_test(test_violations),
      cmocka_unit_test(test_wrong_version_is_named),
      cmocka_unit_test(test_double_answer),
      cmocka_unit_test(test_lengths_that_lie),
      cmocka_unit_test(test_message_longer_than_allowed),
      cmocka_unit_test(test_handles_of_a_message_are_kept_or_closed),
      cmocka_unit_test(test_handles_that_do_not_belong),
      cmocka_unit_test(test_torn_long_body_and_death),
      cmocka_unit_test(test_torn_header_and_death),
      cmocka_unit_test(test_events_without_end_leave_the_loop_its_turns),
      cmocka_unit_test(test_last_words_before_run_are_kept_once),
  };
  return cmocka_run_group_tests_name("rpc ends", tests, NULL, NULL);
}
