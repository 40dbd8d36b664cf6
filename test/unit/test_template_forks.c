/* The template program, played by transcripts: forks. */
#include "unit.h"

#include "base/buf.h"
#include "moonfork.h"
#include "os/fd.h"
#include "os/own_listener.h"
#include "os/proc.h"
#include "os/sock.h"
#include "template_kit.h"
#include "wire/build.h"
#include "wire/frame.h"
#include "wire/slot_layout.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int remember(void **state) {
  signal(SIGPIPE, SIG_IGN);
  return 0;
}

static void inner(struct buf *b, unsigned type, unsigned nfds, uint64_t id,
                  const char *text) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.length = (uint32_t)strlen(text),
                    .type = (uint8_t)type,
                    .nfds = (uint8_t)nfds,
                    .id = id};
  frame_encode(header, &f);
  buf_put(b, header, sizeof header);
  buf_put(b, text, strlen(text));
}

static void test_forks_a_clone_that_serves(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "function f(s, a) s:write(a, x) end x = 'template'");
  int clone = put_fork(t.fd, 5);
  pid_t pid = expect_forked(t.fd, 5);
  put_eval(clone, "x = 'clone'");
  put_text(clone, CMD_ARG, "in ");
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_int_equal(a.f.id, pid);
  assert_text(clone, "in clone");
  const struct exited *e = expect_exited(t.fd, 5);
  assert_int_equal(e->pid, pid);
  assert_int_equal(e->status, 0);
  assert_true(e->maxrss > 100000);
  assert_string_equal(e->words, "");
  close(clone);
  finish(&t, 0);
}

/* A command that comes twice (somebody stands between and repeats it) would hide the first
 * child: its number would be another's before its parent has seen it. */
static void test_a_slot_is_one_process_s(void **state) {
  struct template t;
  start(&t);
  int one = put_fork(t.fd, 1);
  pid_t pid = expect_forked(t.fd, 1);
  int other = put_fork_again(t.fd, 1, NULL, NULL, 0);
  const struct failed *f = expect_failed(t.fd, ANS_FORK_FAILED);
  assert_int_equal(f->id, 1);
  assert_int_equal(f->code, FAILURE_FORK);
  assert_int_equal(f->error, EBUSY);
  assert_int_equal((pid_t)shared.births[1], pid);
  close(other);
  close(one);
  assert_int_equal(expect_exited(t.fd, 1)->status, 0);
  one = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  close(one);
  assert_int_equal(expect_exited(t.fd, 1)->status, 0);
  finish(&t, 0);
}

/* FORK by a connection: everything but the socket as put_fork_with sends it. */
static void put_fork_by(int fd, uint64_t id, uint32_t number) {
  int fds[] = {shared.births_fd, shared.words_fd};
  unsigned char step[8] = {0, 0, 0, 0, SLOTS & 0xff, SLOTS >> 8};
  unsigned char slot[4] = {(unsigned char)id}, connection[4] = {(unsigned char)number};
  struct buf b;
  buf_init(&b, 4096);
  option(&b, OPT_SLOT_STEP, step, sizeof step);
  option(&b, OPT_SLOT, slot, sizeof slot);
  option(&b, OPT_CONNECTION, connection, sizeof connection);
  shared.births[id] = 0;
  send_flags(fd, CMD_FORK, id, 0, buf_peek(&b), buf_size(&b), fds, 2);
  buf_deinit(&b);
}

/* The sockets of forks as connections: each is the one that its fork names, whoever came
 * before it; a clone does not listen; and a number that can't be is a malformed command. */
static void test_a_fork_names_its_connection(void **state) {
  struct own_listener l;
  struct template t;
  int fd, near[4];
  if (own_listener_make(&l, &fd) < 0)
    skip();
  start(&t);
  shared.words[1].listens = 0;
  int first = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  assert_int_equal(shared.words[1].listens, 0);
  close(first);
  expect_exited(t.fd, 1);
  send_flags(t.fd, CMD_LISTEN, 0, 0, NULL, 0, &fd, 1);
  close(fd);
  for (int i = 0; i < 4; i++)
    near[i] = own_listener_connect(&l);
  put_fork_by(t.fd, 2, 1);
  expect_forked(t.fd, 2);
  assert_int_equal(shared.words[2].listens, 1);
  put_fork_by(t.fd, 3, 3); /* the second was given up */
  expect_forked(t.fd, 3);
  for (int i = 0; i < 4; i++)
    assert_true(near[i] >= 0 && fd_set_nonblocking(near[i], 0) == 0);
  put_eval(near[0], "x = 'two'");
  put_eval(near[2], "x = 'three'");
  for (int i = 0; i < 3; i += 2) {
    static struct answer a;
    put_eval(near[i], "function f(s) s:write(x) end");
    put_text(near[i], CMD_RUN, "f");
    expect(near[i], ANS_RUNNING, &a);
    assert_text(near[i], i ? "three" : "two");
  }
  expect_eof(near[1]);
  for (uint64_t id = 2; id < 4; id++)
    assert_int_equal(expect_exited(t.fd, id)->status, 0);
  put_fork_by(t.fd, 4, 3);
  assert_int_equal(expect_failed(t.fd, ANS_FAILED)->code, FAILURE_PROTOCOL);
  finish(&t, 1);
  for (int i = 0; i < 4; i++)
    close(near[i]);
  assert_int_equal(own_listener_connect(&l), -ECONNREFUSED);
}

/* The limit of the template on descriptors: so many more than it has. */
static void leave_room(const struct template *t, unsigned n) {
  struct rlimit limit;
  char path[64], target[8];
  unsigned free_number = 3;
  do
    snprintf(path, sizeof path, "/proc/%d/fd/%u", (int)t->pid, free_number);
  while (readlink(path, target, sizeof target) >= 0 && ++free_number);
  assert_int_equal(prlimit(t->pid, RLIMIT_NOFILE, NULL, &limit), 0);
  limit.rlim_cur = n > 99 ? limit.rlim_max : free_number + n;
  assert_int_equal(prlimit(t->pid, RLIMIT_NOFILE, &limit, NULL), 0);
}

/* Without a free descriptor it does not listen, and lives on; it takes no descriptor that a
 * fork needs. */
static void test_listening_takes_no_place(void **state) {
  struct own_listener l;
  struct template t;
  int fd;
  if (own_listener_make(&l, &fd) < 0)
    skip();
  start(&t);
  close(put_fork(t.fd, 1));
  expect_forked(t.fd, 1);
  expect_exited(t.fd, 1);
  leave_room(&t, 0);
  send_flags(t.fd, CMD_LISTEN, 0, 0, NULL, 0, &fd, 1);
  close(put_fork(t.fd, 2));
  assert_int_equal(expect_failed(t.fd, ANS_FORK_FAILED)->code, FAILURE_LIMIT);
  leave_room(&t, 3); /* a socket, two of its slots */
  send_flags(t.fd, CMD_LISTEN, 0, 0, NULL, 0, &fd, 1);
  shared.words[3].listens = 0;
  close(put_fork(t.fd, 3));
  expect_forked(t.fd, 3);
  expect_exited(t.fd, 3);
  assert_int_equal(shared.words[3].listens, 0);
  leave_room(&t, 100);
  send_flags(t.fd, CMD_LISTEN, 0, 0, NULL, 0, &fd, 1);
  close(put_fork(t.fd, 4));
  expect_forked(t.fd, 4);
  expect_exited(t.fd, 4);
  assert_int_equal(shared.words[4].listens, 1);
  close(fd);
  finish(&t, 0);
}

/* A message of its own would wake the parent. */
static void test_running_goes_with_the_first_bytes(void **state) {
  struct template t;
  unsigned char room[64];
  start(&t);
  put_eval(t.fd,
           "function f(s) local n = 0 for i = 1, 20 do n = n + i end s:write(n) end");
  for (uint64_t id = 9; id < 12; id++) {
    struct buf commands, options;
    buf_init(&commands, 4096);
    buf_init(&options, 4096);
    inner(&commands, CMD_RUN, 0, 0, "f");
    option(&options, OPT_COMMANDS, buf_peek(&commands), buf_size(&commands));
    int clone = put_fork_with(t.fd, id, &options, NULL, 0);
    expect_forked(t.fd, id);
    struct pollfd p = {.fd = clone, .events = POLLIN};
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    assert_int_equal(recv(clone, room, sizeof room, 0), FRAME_HEADER_SIZE + 3);
    assert_memory_equal(room + FRAME_HEADER_SIZE, "210", 3);
    assert_int_equal(WEXITSTATUS(expect_exited(t.fd, id)->status), 0);
    close(clone);
    buf_deinit(&commands);
    buf_deinit(&options);
  }
  finish(&t, 0);
}

/* Nor need a function that returns before its *running* is due send one: it stands in the
 * slot, and the end of the socket tells. Whoever has to be known by a first word, has run
 * other code of the user's, which may have left somebody with the socket, or calls C, is
 * told of at once, and so is a failure. */
static void test_a_function_that_returns_says_so_in_its_slot(void **state) {
  static const struct {
    const char *code;
    int introduce, silent, exit;
  } rows[] = {
      {"function f() end", 0, 1, 0},
      {"function f() local n = 0 for i = 1, 20 do n = n + i end end", 0, 1, 0},
      {"function f() end", 1, 0, 0},
      {"function f() local n = 0 for i = 1, 1000 do n = n + i end end", 0, 0, 0},
      {"function f() type(1) end", 0, 0, 0},
      {"function f() local n = nil + 1 end", 0, 0, 1},
      {"clone = require 'moonfork.clone' function f() end clone.on_fork(function() end)",
       0, 0, 0},
  };
  static struct answer a;
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct template t;
    struct buf commands, options;
    unsigned char one[4] = {1};
    uint64_t id = 9 + i;
    buf_init(&commands, 4096);
    buf_init(&options, 4096);
    start(&t);
    put_eval(t.fd, rows[i].code);
    inner(&commands, CMD_RUN, 0, 0, "f");
    if (rows[i].introduce)
      option(&options, OPT_INTRODUCE, one, 1);
    option(&options, OPT_COMMANDS, buf_peek(&commands), buf_size(&commands));
    int clone = put_fork_with(t.fd, id, &options, NULL, 0);
    expect_forked(t.fd, id);
    if (rows[i].introduce)
      expect(clone, ANS_HELLO, &a);
    if (!rows[i].silent)
      expect(clone, ANS_RUNNING, &a);
    assert_text(clone, "");
    assert_int_equal(WEXITSTATUS(expect_exited(t.fd, id)->status), rows[i].exit);
    assert_int_equal(shared.words[id].returned, rows[i].silent ? id : 0);
    close(clone);
    buf_deinit(&commands);
    buf_deinit(&options);
    finish(&t, 0);
  }
}

static void test_fused_fork_runs_at_once(void **state) {
  static struct answer a;
  struct template t;
  struct buf commands, options;
  int pair[2];
  buf_init(&commands, 4096);
  buf_init(&options, 4096);
  start(&t);
  put_eval(t.fd,
           "function f(s, a, h, b) h:write(a, b) s:write 'done' error('last words') end");
  assert_int_equal(sock_pair(pair, 0), 0);
  inner(&commands, CMD_ARG, 0, 0, "a");
  inner(&commands, CMD_FD, 1, 0, "");
  inner(&commands, CMD_ARG, 0, 0, "b");
  inner(&commands, CMD_RUN, 0, 0, "f");
  option(&options, OPT_NAME, "fused", 5);
  option(&options, OPT_COMMANDS, buf_peek(&commands), buf_size(&commands));
  int clone = put_fork_with(t.fd, 9, &options, &pair[1], 1);
  close(pair[1]);
  expect_forked(t.fd, 9);
  next(clone, &a); /* not even a DONE before it */
  assert_int_equal(a.f.type, ANS_RUNNING);
  assert_text(pair[0], "ab");
  assert_text(clone, "done");
  const struct exited *e = expect_exited(t.fd, 9);
  assert_int_equal(WEXITSTATUS(e->status), 1);
  assert_non_null(strstr(e->words, "last words"));
  assert_non_null(strstr(e->words, "stack traceback"));
  close(clone);
  close(pair[0]);
  buf_deinit(&commands);
  buf_deinit(&options);
  finish(&t, 0);
}

static void test_exit_kinds_are_told(void **state) {
  static const struct {
    const char *code;
    int status;
  } rows[] = {
      {"return", 0},
      {"os.exit(7)", 7 << 8},
      {"os.exit(true)", 0},
      {"os.exit(false)", 1 << 8},
      {"error()", 1 << 8},
      {"require 'moonfork.clone'.kill(require 'moonfork.clone'.pid(), 9)", SIGKILL},
      {"coroutine.wrap(function() os.exit(5) end)()", 5 << 8},
  };
  struct template t;
  start(&t);
  put_eval(t.fd, "function f(s, code) assert(load(code))() end");
  for (size_t i = 0; i < COUNT(rows); i++) {
    int clone = put_fork(t.fd, 100 + i);
    put_text(clone, CMD_ARG, rows[i].code);
    put_text(clone, CMD_RUN, "f");
    const struct exited *e = expect_exited((expect_forked(t.fd, 100 + i), t.fd), 100 + i);
    assert_int_equal(e->status, rows[i].status);
    close(clone);
  }
  finish(&t, 0);
}

static void test_hooks_run_and_refuse(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(
      t.fd,
      "local clone = require 'moonfork.clone' order = '' "
      "clone.on_fork(function() order = order .. '1' "
      "assert(select('#', clone.run_args()) == 0) end) "
      "clone.on_fork(function() order = order .. '2' if fails then error 'hook' end "
      "end) clone.before_fork(function() if refuse then return false, refuse end end)"
      "function f(s, a) s:write(order, a) end");
  put_text(t.fd, CMD_ARG, "x");
  int clone = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(clone, "12x");
  close(clone);
  expect_exited(t.fd, 1);
  put_eval(t.fd, "refuse = 'not today'");
  clone = put_fork(t.fd, 2);
  const struct failed *f = expect_failed(t.fd, ANS_FORK_FAILED);
  assert_int_equal(f->id, 2);
  assert_int_equal(f->code, FAILURE_FORK);
  assert_string_equal(f->message, "not today");
  expect_eof(clone);
  close(clone);
  put_eval(t.fd, "refuse = nil fails = true");
  clone = put_fork(t.fd, 3);
  expect_forked(t.fd, 3);
  f = expect_failed(clone, ANS_FAILED);
  assert_int_equal(f->phase, PHASE_HOOK);
  close(clone);
  assert_int_equal(expect_exited(t.fd, 3)->status, 1 << 8);
  finish(&t, 0);
}

static void test_options_of_a_fork(void **state) {
  static struct answer a;
  struct template t;
  struct buf o;
  int out[2];
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  buf_init(&o, 4096);
  start(&t);
  put_eval(t.fd, "kept = io.open '/dev/zero' function f(s) "
                 "io.write(os.getenv 'MF_A', tostring(os.getenv 'CONTEXT'), ' ') "
                 "io.stderr:write('on socket ') "
                 "s:write(io.open 'null' and 'there ' or 'else ', #(kept:read(1) or ''))"
                 " end");
  option(&o, OPT_ENV, "MF_A=1=2", 8);
  option(&o, OPT_UNENV, "CONTEXT", 4);
  option(&o, OPT_CWD, "/dev", 4);
  option(&o, OPT_STDIO, "\1\3\2", 3);
  option_byte(&o, OPT_SESSION, 1);
  option_byte(&o, OPT_HANDLES, MF_HANDLES_CLOSE);
  int clone = put_fork_with(t.fd, 1, &o, &out[1], 1);
  close(out[1]);
  pid_t pid = expect_forked(t.fd, 1);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(getsid(pid), pid);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(out[0], "1=2nil ");
  assert_text(clone, "on socket there 0");
  close(clone);
  close(out[0]);
  expect_exited(t.fd, 1);
  buf_consume(&o, buf_size(&o));
  option(&o, OPT_CWD, "/no/such", 8);
  clone = put_fork_with(t.fd, 2, &o, NULL, 0);
  expect_forked(t.fd, 2);
  const struct failed *f = expect_failed(clone, ANS_FAILED);
  assert_int_equal(f->phase, PHASE_OPTION);
  assert_non_null(strstr(f->message, "cwd"));
  close(clone);
  assert_int_equal(expect_exited(t.fd, 2)->status, 1 << 8);
  buf_deinit(&o);
  finish(&t, 0);
}

/* Its descriptor comes first, and there is none in SETUP; no other number of them will
 * do.
 */
static void test_a_tree_leads_its_group(void **state) {
  struct template t;
  struct answer a;
  struct buf o;
  start(&t);
  put_eval(t.fd, "function f() io.write 'on the pipe' end");
  buf_init(&o, 1 << 16);
  int leash[2], out[2];
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  option_byte(&o, OPT_TREE, MF_TREE_YES);
  option(&o, OPT_STDIO, "\0\3\0", 3);
  const int fds[] = {leash[0], out[1]};
  int clone = put_fork_with(t.fd, 1, &o, fds, 2);
  pid_t pid = expect_forked(t.fd, 1);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(a.body[6], HELLO_TREE);
  assert_int_equal(getpgid(pid), pid);
  fd_close(&out[1]);
  put_text(clone, CMD_RUN, "f");
  expect(clone, ANS_RUNNING, &a);
  assert_text(out[0], "on the pipe");
  close(clone);
  expect_exited(t.fd, 1);
  close(out[0]);
  buf_consume(&o, buf_size(&o));
  option_byte(&o, OPT_TREE, MF_TREE_NO);
  clone = put_fork_with(t.fd, 2, &o, NULL, 0);
  pid = expect_forked(t.fd, 2);
  put(clone, CMD_WHO, 0, NULL, 0);
  expect(clone, ANS_HELLO, &a);
  assert_int_equal(a.body[6], 0);
  assert_int_equal(getpgid(pid), getpgid(t.pid));
  close(clone);
  expect_exited(t.fd, 2);
  close(leash[0]);
  close(leash[1]);
  buf_deinit(&o);
  finish(&t, 0);
}

static void test_lost_descriptors_refuse_one_fork(void **state) {
  struct template t;
  char path[64];
  struct rlimit old, tight;
  start(&t);
  snprintf(path, sizeof path, "/proc/%d", (int)t.pid);
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, NULL, &old), 0);
  tight = old;
  tight.rlim_cur = 5; /* 0 to 4 are taken */
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, &tight, NULL), 0);
  int clone = put_fork(t.fd, 1);
  const struct failed *f = expect_failed(t.fd, ANS_FORK_FAILED);
  assert_int_equal(f->code, FAILURE_LIMIT);
  assert_int_equal(f->id, 1);
  expect_eof(clone);
  close(clone);
  assert_int_equal(prlimit(t.pid, RLIMIT_NOFILE, &old, NULL), 0);
  clone = put_fork(t.fd, 2);
  expect_forked(t.fd, 2);
  close(clone);
  assert_int_equal(expect_exited(t.fd, 2)->status, 0);
  finish(&t, 0);
}

static void test_clones_of_clones(void **state) {
  static struct answer a;
  struct template t;
  start(&t);
  put_eval(t.fd, "x = '0'");
  int one = put_fork(t.fd, 1);
  expect_forked(t.fd, 1);
  put_eval(one, "x = x .. '1'");
  int two = put_fork(one, 2);
  pid_t pid = expect_forked(one, 2);
  put_eval(two, "x = x .. '2' function f(s) s:write(x) end");
  put_text(two, CMD_RUN, "f");
  expect(two, ANS_RUNNING, &a);
  assert_int_equal(a.f.id, pid);
  assert_text(two, "012");
  assert_int_equal(expect_exited(one, 2)->status, 0);
  close(one);
  close(two);
  assert_int_equal(expect_exited(t.fd, 1)->status, 0);
  finish(&t, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_forks_a_clone_that_serves),
      census_test(test_a_slot_is_one_process_s),
      census_test(test_a_fork_names_its_connection),
      census_test(test_listening_takes_no_place),
      census_test(test_running_goes_with_the_first_bytes),
      census_test(test_a_function_that_returns_says_so_in_its_slot),
      census_test(test_fused_fork_runs_at_once),
      census_test(test_exit_kinds_are_told),
      census_test(test_hooks_run_and_refuse),
      census_test(test_options_of_a_fork),
      census_test(test_a_tree_leads_its_group),
      census_test(test_lost_descriptors_refuse_one_fork),
      census_test(test_clones_of_clones),
  };
  return cmocka_run_group_tests(tests, remember, NULL);
}
