/* The template program, played by transcripts: how templates and clones end, what else
 * clones are like. */
#include "unit.h"

#include "base/buf.h"
#include "base/result.h"
#include "moonfork.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/share.h"
#include "os/sock.h"
#include "template_kit.h"
#include "wire/build.h"
#include "wire/frame.h"
#include "wire/slot_layout.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int remember(void **state) {
  signal(SIGPIPE, SIG_IGN);
  return 0;
}

static const char sleeper[] = "function f(s) s:read(1) end "
                              "function spin() while true do end end";

/* Its clones are ours: whatever becomes of it, they live on, and their ends are told. */
static void test_nobody_stays_behind(void **state) {
  enum { CLOSED, HUNG_UP, FAILED, KILLED, RAN, WAYS };
  for (int way = 0; way < WAYS; way++) {
    static struct answer a;
    struct template t;
    start(&t);
    put_eval(t.fd, sleeper);
    int clone = put_fork(t.fd, 1);
    pid_t pid = expect_forked(t.fd, 1);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    int late = -1;
    switch (way) {
    case CLOSED:
      put(t.fd, CMD_CLOSE, 0, NULL, 0);
      for (unsigned type = CMD_SETUP; type <= CMD_LAST; type++)
        put(t.fd, type, 0, "junk", 4); /* nothing is executed any more */
      expect_eof(t.fd);
      break;
    case HUNG_UP:
      close(t.fd);
      t.fd = -1;
      break;
    case FAILED:
      put_eval(t.fd, "error 'x'");
      late = put_fork(t.fd, 2);
      assert_int_equal(expect_failed(t.fd, ANS_FAILED)->id, 4);
      expect_eof(late);
      close(late);
      expect_eof(t.fd);
      assert_int_equal(shared.births[2], 0);
      break;
    case KILLED:
      kill(t.pid, SIGKILL);
      break;
    case RAN: /* the very process, whatever lives that it has forked */
      put_text(t.fd, CMD_RUN, "f");
      expect(t.fd, ANS_RUNNING, &a);
      assert_int_equal(a.f.id, t.pid);
      assert_int_equal(write(t.fd, "x", 1), 1);
      break;
    }
    int status = wait_for(t.pid);
    assert_int_equal(status, way == KILLED ? SIGKILL : way == FAILED ? 1 << 8 : 0);
    assert_int_equal(proc_peek(-1, pid), MF_AGAIN);
    close(clone);
    assert_int_equal(expect_exited(t.fd, 1)->status, 0);
    if (t.fd >= 0)
      close(t.fd);
    close(t.leash);
    unshare_all();
    shared.births = NULL;
  }
}

/* Slots begin anew with each owner, at 0: the number of a clone once went to where the
 * former owner had told, and the new one never learned it. */
static void test_a_new_owner_brings_its_own_slots(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  int first = put_fork(t.fd, 1);
  pid_t old = expect_forked(t.fd, 1);
  close(first);
  expect_exited(t.fd, 1);
  volatile uint32_t *former = shared.births;
  void *words = shared.words;
  close(shared.births_fd);
  close(shared.words_fd);
  share();
  put(t.fd, CMD_WHO, (uint64_t)getpid(), NULL, 0);
  expect(t.fd, ANS_HELLO, &a);
  int second = put_fork(t.fd, 1);
  pid_t pid = expect_forked(t.fd, 1);
  assert_int_not_equal(pid, old);
  assert_int_equal(former[1], old);
  close(second);
  expect_exited(t.fd, 1);
  share_unmap((void *)(uintptr_t)former, slot_births_size(SLOTS));
  share_unmap(words, slot_words_size(SLOTS));
  finish(&t, 0);
}

/* Its owner is not its parent: then its clones can't be the owner's children. They are
 * its own, introduce themselves, and are reaped by nobody but the kernel. */
static void test_clones_for_an_owner_that_is_not_the_parent(void **state) {
  static struct answer a;
  struct template t;
  int leash[2];
  start(&t);
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  send_flags(t.fd, CMD_WHO, 1, 0, NULL, 0, leash, 1);
  close(leash[0]);
  expect(t.fd, ANS_HELLO, &a);
  put_eval(t.fd, sleeper);
  int clone = put_fork(t.fd, 1);
  next(clone, &a);
  assert_int_equal(a.f.type, ANS_HELLO);
  pid_t pid = (pid_t)a.f.id;
  assert_int_equal(shared.births[1], 0);
  assert_int_equal(proc_peek(-1, pid), -ECHILD);
  int spinner = put_fork(t.fd, 2);
  next(spinner, &a);
  pid_t busy = (pid_t)a.f.id;
  put_text(clone, CMD_RUN, "f");
  put_text(spinner, CMD_RUN, "spin");
  expect(clone, ANS_RUNNING, &a);
  expect(spinner, ANS_RUNNING, &a);
  close(clone);
  for (int ms = 0; ms < TIMEOUT_MS && kill(pid, 0) == 0; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(kill(pid, 0), -1); /* no zombie */
  /* What user code starts is reaped by user code, all the same. */
  put_eval(t.fd, "local p = io.popen('exit 3') assert(select(3, p:close()) == 3)");
  put(t.fd, CMD_WHO, 1, NULL, 0);
  expect(t.fd, ANS_HELLO, &a);
  close(leash[1]); /* the new owner is gone, and not the parent */
  for (int ms = 0; ms < TIMEOUT_MS && kill(busy, 0) == 0; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(kill(busy, 0), -1);
  assert_int_equal(wait_for(t.pid),
                   SIGKILL); /* it has run user code, and is on the same leash */
  close(spinner);
  close(t.fd);
  close(t.leash);
  unshare_all();
  shared.births = NULL;
}

static void test_parts_of_a_command_that_are_none(void **state) {
  static const struct {
    unsigned type;
    uint64_t id;
    int nfds;
  } cases[] = {
      {CMD_REQUIRE, 0, 0}, {CMD_ARG, 1, 0}, {CMD_ARG, 0, 1}, {CMD_TAKE_ARGS, 0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct template t;
    start(&t);
    send_flags(t.fd, CMD_ARG, 0, FRAME_MORE, "x", 1, NULL, 0);
    int fd = STDIN_FILENO;
    send_flags(t.fd, cases[i].type, cases[i].id, 0, "y", 1, &fd, cases[i].nfds);
    const struct failed *f = expect_failed(t.fd, ANS_FAILED);
    assert_int_equal(f->code, FAILURE_PROTOCOL);
    assert_non_null(strstr(f->message, "message"));
    expect_eof(t.fd);
    finish(&t, 1);
  }
}

static void test_commands_after_run_are_refused(void **state) {
  struct template t;
  start(&t);
  unsigned char both[2 * FRAME_HEADER_SIZE + 5];
  struct frame f = {.length = 5, .type = CMD_RUN};
  frame_encode(both, &f);
  memcpy(both + FRAME_HEADER_SIZE, "print", 5);
  f = (struct frame){.type = CMD_WHO};
  frame_encode(both + FRAME_HEADER_SIZE + 5, &f);
  struct iovec iov = {both, sizeof both};
  sock_send(t.fd, &iov, 1, NULL, 0);
  assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_PROTOCOL);
  finish(&t, 1);
}

static void test_nothing_starts_for_a_parent_that_is_gone(void **state) {
  struct template t;
  int pair[2];
  char text[8];
  assert_int_equal(sock_pair(pair, 0), 0);
  start(&t);
  put_eval(t.fd, "function f(s, h) h:write 'ran' end");
  int clone = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  send_flags(clone, CMD_FD, 0, 0, NULL, 0, &pair[1], 1);
  close(pair[1]);
  put_text(clone, CMD_RUN, "f");
  /* Stopped before it can read, so that it finds the end of file behind the command. */
  close(clone);
  read_text(pair[0], text, sizeof text);
  int status = expect_exited(t.fd, 1)->status;
  assert_int_equal(status, 0);
  close(pair[0]);
  finish(&t, 0);
}

/* Clones on each leash, busy; and the template busy itself. */
static void start_spinners(struct template *t, int pipe_leash, pid_t pids[4]) {
  static struct answer a;
  start_with(t, pipe_leash);
  put_eval(t->fd, sleeper);
  for (int mode = MF_LEASH_KILL; mode <= MF_LEASH_KEEP; mode++) {
    struct buf o;
    buf_init(&o, 64);
    option_byte(&o, OPT_LEASH, (unsigned)mode);
    int clone = put_fork_with(t->fd, (uint64_t)mode, &o, NULL, 0);
    pids[mode] = expect_forked(t->fd, (uint64_t)mode);
    put_text(clone, CMD_RUN, "spin");
    expect(clone, ANS_RUNNING, &a);
    close(clone);
    buf_deinit(&o);
  }
  put_eval(t->fd, "while true do end");
  poll(NULL, 0, 100);
  pids[3] = t->pid;
}

static void check_spinners(pid_t pids[4]) {
  assert_int_equal(wait_for(pids[MF_LEASH_KILL]) & 0x7f, SIGKILL);
  assert_int_equal(wait_for(pids[MF_LEASH_TERM]) & 0x7f, SIGTERM);
  assert_int_equal(wait_for(pids[3]) & 0x7f, SIGKILL);
  poll(NULL, 0, 50);
  assert_int_equal(waitpid(pids[MF_LEASH_KEEP], NULL, WNOHANG), 0);
  kill(pids[MF_LEASH_KEEP], SIGKILL);
  assert_int_equal(wait_for(pids[MF_LEASH_KEEP]) & 0x7f, SIGKILL);
}

static void test_a_pipe_as_leash_ends_what_runs(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip(); /* the leash is armed through it */
  struct template t;
  pid_t pids[4];
  start_spinners(&t, 1, pids);
  close(t.leash);
  check_spinners(pids);
  close(t.fd);
  unshare_all();
  shared.births = NULL;
}

/* The parent is a process of its own here, whose children fall to the test. */
static void test_the_end_of_the_parent_ends_what_runs(void **state) {
  struct template t;
  pid_t pids[4];
  int told[2];
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  assert_int_equal(pipe2(told, O_CLOEXEC), 0);
  pid_t parent = fork();
  if (parent == 0) {
    start_spinners(&t, 0, pids);
    if (write(told[1], pids, sizeof pids) != sizeof pids)
      _exit(1);
    raise(SIGKILL);
  }
  close(told[1]);
  read_exactly(told[0], pids, sizeof pids);
  assert_int_equal(wait_for(parent), SIGKILL);
  check_spinners(pids);
  close(told[0]);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

static void test_finalisers_of_ones_own_only(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(
      t.fd,
      "local function object(n) return setmetatable({}, {__gc = function() "
      "out:write(n) end}) end "
      "inherited = object 'T' shared = {__gc = function(o) out:write(o[1]) end} "
      "old = setmetatable({'O'}, shared) "
      "function f(s, finalise) out = s a = object 'a' b = setmetatable({'b'}, shared) "
      "require 'moonfork.clone'.exit(4, finalise == 'yes') end");
  static const char *const expected[] = {"ba", ""};
  for (int i = 0; i < 2; i++) {
    int clone = put_fork(t.fd, 1);
    expect_forked(t.fd, 1);
    put_text(clone, CMD_ARG, i == 0 ? "yes" : "no");
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    assert_text(clone, expected[i]);
    assert_int_equal(expect_exited(t.fd, 1)->status, 4 << 8);
    close(clone);
  }
  /* The same in a clone of a clone, whose parent's own objects are inherited ones. */
  int one = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  put_eval(one, "middle = setmetatable({'M'}, shared)");
  int two = put_fork(one, 3);
  expect_forked(one, 3);
  put_text(two, CMD_ARG, "yes");
  put_text(two, CMD_RUN, "f");
  expect(two, ANS_RUNNING, &a);
  assert_text(two, "ba");
  close(one);
  close(two);
  expect_exited(one, 3);
  expect_exited(t.fd, 2);
  finish(&t, 0);
}

static void test_random_numbers_differ_in_clones(void **state) {
  static struct answer a;
  static char texts[4][128];
  struct template t;
  start(&t);
  put_eval(t.fd, "math.randomseed(42) local clone = require 'moonfork.clone' "
                 "function f(s) s:write(math.random(0), ' ', clone.id()) end");
  for (int i = 0; i < 4; i++) {
    int clone = put_fork(t.fd, (uint64_t)i);
    expect_forked(t.fd, (uint64_t)i);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    read_text(clone, texts[i], sizeof texts[i]);
    for (int k = 0; k < i; k++)
      assert_string_not_equal(texts[i], texts[k]);
    expect_exited(t.fd, (uint64_t)i);
    close(clone);
  }
  finish(&t, 0);
}

static void test_clone_has_clean_signals_and_descriptors(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip();
  static struct answer a;
  static char text[4096];
  struct template t;
  start(&t);
  put_eval(t.fd,
           "function f(s) local out = {} for l in io.lines '/proc/self/status' do "
           "if l:match '^Sig[BCI]' then out[#out + 1] = l end end "
           "local p = io.popen('ls /proc/' .. require 'moonfork.clone'.pid() .. '/fd') "
           "for l in p:lines() do out[#out + 1] = 'fd' .. l end p:close() "
           "s:write(table.concat(out, ' '), ' ') end");
  close(put_fork(t.fd, 1));
  expect_forked(t.fd, 1);
  expect_exited(t.fd, 1);
  int clone = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  read_text(clone, text, sizeof text);
  assert_non_null(strstr(text, "SigBlk:\t0000000000000000"));
  assert_non_null(strstr(text, "SigIgn:\t0000000000000000"));
  assert_non_null(strstr(text, "SigCgt:\t0000000000000000"));
  /* 0 to 2, the socket, popen's pipe (whose far end may not be closed yet). */
  int nfds = 0;
  for (const char *p = text; (p = strstr(p, "fd")); p++)
    nfds++;
  if (nfds > 6)
    fail_msg("too many descriptors: %s", text);
  close(clone);
  expect_exited(t.fd, 2);
  finish(&t, 0);
}

/* Of 100,000 empty tables in a list. */
enum { PLENTY = sizeof(void *) > 4 ? 5000000 : 3000000 };

static void test_measures_memory(void **state) {
  if (access("/proc/self/fd", F_OK) < 0)
    skip();
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "t = {} for i = 1, 100000 do t[i] = {} end "
                 "function f(s) s:read(1) end");
  put(t.fd, CMD_MEMORY, 0, NULL, 0);
  expect(t.fd, ANS_MEMORY, &a);
  struct reader r;
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), 0);
  reader_u32(&r);
  assert_true(reader_u64(&r) > PLENTY);
  reader_take(&r, 24);
  assert_true(reader_u64(&r) > PLENTY);
  int clone = put_fork(t.fd, 3);
  expect_forked(t.fd, 3);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  unsigned char who[8] = {0};
  for (int i = 0; i < 4; i++)
    who[i] = (unsigned char)(shared.births[3] >> (8 * i));
  who[4] = 3;
  put(t.fd, CMD_MEMORY, 3, who, sizeof who);
  expect(t.fd, ANS_MEMORY, &a);
  assert_int_equal(a.f.id, 3);
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), 0);
  reader_u32(&r);
  assert_true(reader_u64(&r) > 10000);
  put(t.fd, CMD_MEMORY, 4, NULL, 0); /* of whom it does not say */
  expect(t.fd, ANS_MEMORY, &a);
  reader_init(&r, a.body, a.f.length);
  assert_int_equal(reader_u32(&r), EINVAL);
  close(clone);
  expect_exited(t.fd, 3);
  finish(&t, 0);
}

static void test_an_interval_timer_is_invisible(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  /* The handler is Lua's own idea of a signal here: a spinning child sends SIGCONT, which
   * interrupts system calls of the template without ending it. */
  put_eval(t.fd, "function f(s) s:write 'ok' end");
  pid_t nuisance = fork();
  if (nuisance == 0) {
    for (;;) {
      kill(t.pid, SIGCONT);
      poll(NULL, 0, 1);
    }
  }
  for (uint64_t i = 0; i < 200; i++) {
    int clone = put_fork(t.fd, i);
    expect_forked(t.fd, i);
    put_text(clone, CMD_RUN, "f");
    expect(clone, ANS_RUNNING, &a);
    assert_text(clone, "ok");
    expect_exited(t.fd, i);
    close(clone);
  }
  kill(nuisance, SIGKILL);
  waitpid(nuisance, NULL, 0);
  finish(&t, 0);
}

static void schedule(int policy, int priority, const cpu_set_t *cpus) {
  struct sched_param p = {.sched_priority = priority};
  if (sched_setscheduler(0, policy, &p) < 0)
    skip(); /* not allowed */
  assert_int_equal(sched_setaffinity(0, sizeof *cpus, cpus), 0);
}

/* All on one processor, where who wakes up waits for who runs: so is seen who is let run.
 */
static void test_readers_run_before_the_end_of_what_has_waited(void **state) {
  static struct answer a;
  struct template t;
  cpu_set_t all, one;
  assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  CPU_SET((size_t)sched_getcpu(), &one);
  schedule(SCHED_FIFO, 1, &one);
  start(&t);
  put_eval(t.fd, "function f(s) s:write 'ok' end");
  int clone = put_fork(t.fd, 1);
  pid_t pid = expect_forked(t.fd, 1);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  char text[2];
  read_exactly(clone, text, sizeof text);
  siginfo_t end = {.si_pid = 0};
  int r = waitid(P_PID, (id_t)pid, &end, WEXITED | WNOHANG | WNOWAIT);
  schedule(SCHED_OTHER, 0, &all);
  expect_exited(t.fd, 1);
  close(clone);
  finish(&t, 0);
  assert_int_equal(r, 0);
  assert_int_equal(end.si_pid, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_readers_run_before_the_end_of_what_has_waited),
      census_test(test_nobody_stays_behind),
      census_test(test_a_new_owner_brings_its_own_slots),
      census_test(test_clones_for_an_owner_that_is_not_the_parent),
      census_test(test_parts_of_a_command_that_are_none),
      census_test(test_commands_after_run_are_refused),
      census_test(test_nothing_starts_for_a_parent_that_is_gone),
      census_test(test_a_pipe_as_leash_ends_what_runs),
      census_test(test_the_end_of_the_parent_ends_what_runs),
      census_test(test_finalisers_of_ones_own_only),
      census_test(test_random_numbers_differ_in_clones),
      census_test(test_clone_has_clean_signals_and_descriptors),
      census_test(test_measures_memory),
      census_test(test_an_interval_timer_is_invisible),
  };
  return cmocka_run_group_tests(tests, remember, NULL);
}
