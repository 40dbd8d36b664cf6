/* moonfork.socket and the plain-POSIX part of moonfork.clone when the n-th allocation of
 * the Lua state fails, for every n: no descriptor stays, no child, nothing is used after
 * it was freed (with the sanitizers). And what socket_push promises to its C callers. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include "socket/line.h"
#include "socket/socket.h"
#include "socket/socket_module.h"
#include "socket/sys.h"
#include "socket/wait.h"
#include "template/lua/clone_posix.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

struct memory {
  long left;   /* allocations that succeed; negative: all do */
  int refused; /* one has failed */
};

static void *stingy_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  struct memory *m = ud;
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  int grows = block == NULL || nsize > osize; /* Lua relies on shrinking */
  if (grows && m->left == 0) {
    m->refused = 1;
    return NULL;
  }
  if (grows && m->left > 0)
    m->left--;
  return realloc(block, nsize);
}

static int l_set_wait(lua_State *L) {
  lua_settop(L, 1);
  wait_set_function(L);
  return 0;
}

static int open_all(lua_State *L) {
  luaL_openlibs(L);
  socket_module_open(L);
  lua_setglobal(L, "socket");
  lua_pushcfunction(L, l_set_wait);
  lua_setglobal(L, "set_wait");
  lua_newtable(L);
  clone_posix_open(L, lua_gettop(L));
  lua_setglobal(L, "clone");
  return 0;
}

/* Runs the text with failing allocations until it succeeds. */
static void sweep(const char *text) {
  for (long n = 0;; n++) {
    struct memory m = {-1, 0};
    lua_State *L = lua_newstate(stingy_alloc, &m);
    assert_non_null(L);
    lua_pushcfunction(L, open_all);
    assert_int_equal(lua_pcall(L, 0, 0, 0), LUA_OK);
    assert_int_equal(luaL_loadstring(L, text), LUA_OK);
    m.left = n;
    int status = lua_pcall(L, 0, 0, 0);
    m.left = -1;
    if (status != LUA_OK && !m.refused)
      fail_msg("%s", lua_tostring(L, -1));
    lua_close(L);
    if (!m.refused)
      return;
  }
}

static void test_streams_survive_lack_of_memory(void **state) {
  sweep("local a, b = socket.pair()\n"
        "a:write('line\\n12 ', 3.5, ('x'):rep(3000), 'tail')\n"
        "assert(b:read('l') == 'line')\n"
        "local n, m, s = b:read('n', 'n', 3000)\n"
        "assert(n == 12 and m == 3.5)\n"
        "a:shutdown('write')\n"
        "for l in b:lines('L') do assert(l == 'tail') end\n"
        "assert(b:read('a') == '')\n"
        "tostring(a)\n"
        "a:close()");
}

static void test_descriptors_survive_lack_of_memory(void **state) {
  sweep("local a, b = socket.pair()\n"
        "a:send_fd(b, 'with')\n"
        "a:send_fd(0)\n"
        "local c, data = b:recv_fd()\n"
        "assert(data == 'with')\n"
        "local d = b:dup()\n"
        "a:write('x')\n"
        "local f = b:file()\n"
        "c:recv_fd()");
}

static void test_servers_survive_lack_of_memory(void **state) {
  sweep(
      "local l = assert(socket.listen('127.0.0.1:0', {backlog = 3, reuseport = true}))\n"
      "local c = assert(socket.connect(l:address()))\n"
      "assert(c:peer() == l:address())\n"
      "local s = assert(l:accept())\n"
      "s:limit(3):write('answer')\n"
      "s:shutdown('w')\n"
      "assert(#socket.poll({l, c, c:fileno()}, 1) == 2)\n"
      "assert(c:communicate('question') == 'answer')\n"
      "assert(select(2, s:read('a')) == 'line too long')\n"
      "local a, b = socket.pair()\n"
      "assert(#socket.poll({a, b}, 0) == 0)");
}

/* With a wait function the sockets lie behind one descriptor while it waits. */
static void test_a_poll_with_a_reactor_survives_lack_of_memory(void **state) {
  sweep("set_wait(function() return false end)\n"
        "local a, b = socket.pair()\n"
        "assert(#socket.poll({a, b}, 0) == 0)\n"
        "assert(#socket.poll({a, b}, 0.001) == 0)\n"
        "set_wait(function() error('no', 0) end)\n"
        "local ok, message = pcall(socket.poll, {a, b})\n"
        "assert(not ok)\n"
        "if message ~= 'no' then error(message, 0) end");
}

static void test_addresses_survive_lack_of_memory(void **state) {
  sweep("local l = assert(socket.listen '127.0.0.1:0')\n"
        "local c = assert(socket.connect(l:address()))\n"
        "local s = assert(l:accept())\n"
        "socket.connect 'nonsense'\n"
        "socket.open '/nowhere'\n"
        "assert(socket.open('/dev/null', 'w')):write 'x'");
}

static void test_waiting_survives_lack_of_memory(void **state) {
  sweep("local a, b = socket.pair()\n"
        "local co = coroutine.wrap(function() b:settimeout(0.001)\n"
        "  return b:read('l', 'l') end)\n"
        "a:write('one\\n')\n"
        "local one, message = co()\n"
        "assert(one == nil and message == 'timed out')");
}

static void test_posix_survives_lack_of_memory(void **state) {
  sweep("local r, w = clone.pipe()\n"
        "local no, why = clone.exec('/nowhere/at/all', {'x', 1}, {fds = {[9] = r},\n"
        "  env = {A = 'b', C = false}, cwd = '/'})\n"
        "assert(no == nil)\n"
        "clone.id()\n"
        "pcall(clone.kill, 0, 'NONE')");
}

static int push_it(lua_State *L) {
  int *fd = lua_touserdata(L, 1), taken = *fd;
  *fd = -1;
  socket_push(L, taken, SOCKET_OWN);
  return 1;
}

static void test_push_takes_also_when_it_fails(void **state) {
  struct memory m = {-1, 0};
  lua_State *L = lua_newstate(stingy_alloc, &m);
  int failures = 0;
  socket_prepare(L);
  for (long n = 0;; n++) {
    int fd = fd_open_null();
    m.left = n;
    m.refused = 0;
    lua_pushcfunction(L, push_it);
    lua_pushlightuserdata(L, &fd);
    int status = lua_pcall(L, 1, 1, 0);
    m.left = -1;
    lua_settop(L, 0);
    fd_close(&fd); /* not even called: no room for the call */
    if (status == LUA_OK)
      break;
    failures++;
  }
  assert_true(failures > 0);
  lua_close(L);
}

/* ---- somebody else is faster ---- */

static int shared_in = -1, shared_out = -1; /* another process has them, too */

int __real_fdwait(struct pollfd *p, int n, int timeout_ms);
int __wrap_fdwait(struct pollfd *p, int n, int timeout_ms);

/* What the poll has seen is gone when it returns: read by another, or filled. */
int __wrap_fdwait(struct pollfd *p, int n, int timeout_ms) {
  static char block[4096];
  int r = __real_fdwait(p, n, timeout_ms);
  if (n == 1 && p->fd == shared_in)
    assert_int_equal(read(shared_in, block, 1), 1);
  if (n == 1 && p->fd == shared_out) {
    fd_set_nonblocking(shared_out, 1);
    while (write(shared_out, block, sizeof block) > 0)
      ;
    fd_set_nonblocking(shared_out, 0);
  }
  return r;
}

/* The description of a pipe may be blocking, and then the call waited: in a parent for as
 * long as another process liked. */
static void test_no_call_waits_for_what_another_took(void **state) {
  char letter = 'x';
  struct iovec iov = {&letter, 1};
  int ends[2], truncated;
  char c;
  assert_int_equal(pipe(ends), 0);
#ifdef RWF_NOWAIT
  struct iovec room = {&c, 1};
  int can = preadv2(ends[0], &room, 1, -1, RWF_NOWAIT) < 0 && errno == EAGAIN;
#else
  int can = 0;
#endif
  if (!can) { /* a kernel that can't be told not to wait */
    close(ends[0]);
    close(ends[1]);
    return;
  }
  assert_int_equal(write(ends[1], "x", 1), 1);
  shared_in = ends[0];
  assert_int_equal(sys_read(ends[0], SYS_STREAM, &c, 1, 0, NULL, &truncated), -EAGAIN);
  shared_in = -1;
  shared_out = ends[1];
  assert_int_equal(sys_write(ends[1], SYS_STREAM, &iov, 1, 0, -1), -EAGAIN);
  shared_out = -1;
  close(ends[0]);
  close(ends[1]);
}

/* ---- bytes that go first ---- */

static int ntold;

static void told(int error) {
  (void)error;
  ntold++;
}

static void expect_bytes(int fd, const char *text) {
  char got[64];
  assert_int_equal(read(fd, got, sizeof got), (ssize_t)strlen(text));
  assert_memory_equal(got, text, strlen(text));
}

static ssize_t write_text(int fd, enum sys_type type, const char *text, int pass_fd) {
  struct iovec iov[2] = {{(void *)(uintptr_t)text, 1},
                         {(void *)(uintptr_t)(text + 1), strlen(text) - 1}};
  return sys_write(fd, type, iov, type == SYS_STREAM ? 1 : 2, 0, pass_fd);
}

static void test_bytes_go_first(void **state) {
  (void)state;
  int a[2], b[2], ends[2];
  assert_int_equal(sock_pair(a, 0), 0);
  assert_int_equal(sock_pair(b, 0), 0);
  assert_int_equal(pipe(ends), 0);
  ntold = 0;
  assert_false(sys_has_first());
  sys_flush_first(); /* there are none */
  sys_write_first(a[0], "FIRST", 5, told);
  assert_true(sys_has_first());
  assert_int_equal(write_text(a[0], SYS_SOCKET, "data", -1), 4); /* in one message */
  assert_int_equal(ntold, 1);
  assert_false(sys_has_first());
  expect_bytes(a[1], "FIRSTdata");
  sys_write_first(a[0], "FIRST", 5, told); /* to another: before */
  assert_int_equal(write_text(b[0], SYS_SOCKET, "else", -1), 4);
  assert_int_equal(ntold, 2);
  expect_bytes(a[1], "FIRST");
  expect_bytes(b[1], "else");
  sys_write_first(a[0], "FIRST", 5, told);
  assert_int_equal(write_text(ends[1], SYS_STREAM, "e", -1), 1);
  assert_int_equal(ntold, 3);
  expect_bytes(a[1], "FIRST");
  expect_bytes(ends[0], "e");
  sys_write_first(a[0], "FIRST", 5, told); /* with a descriptor */
  assert_int_equal(write_text(a[0], SYS_SOCKET, "data", ends[0]), 4);
  assert_int_equal(ntold, 4);
  expect_bytes(a[1], "FIRSTdata");
  close(a[1]);
  sys_write_first(a[0], "FIRST", 5, told); /* nobody reads */
  assert_int_equal(write_text(a[0], SYS_SOCKET, "data", -1), -EPIPE);
  assert_int_equal(ntold, 5);
  assert_false(sys_has_first());
  close(a[0]);
  close(b[0]);
  close(b[1]);
  close(ends[0]);
  close(ends[1]);
}

/* In the child: takes all, and looks at the end of it. */
static _Noreturn void read_to_the_end(int fd, const char *text) {
  char got[8192], last[16] = "";
  size_t n = strlen(text);
  ssize_t r;
  while ((r = read(fd, got, sizeof got)) > 0)
    for (ssize_t i = 0; i < r; i++) {
      memmove(last, last + 1, n - 1);
      last[n - 1] = got[i];
    }
  _exit(memcmp(last, text, n) != 0);
}

static void test_bytes_go_first_to_a_full_socket(void **state) {
  (void)state;
  static const char zero[4096];
  int ends[2], status;
  ssize_t r;
  assert_int_equal(sock_pair(ends, 0), 0);
  while (send(ends[0], zero, sizeof zero, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
    ;
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(ends[0]);
    read_to_the_end(ends[1], "FIRSTdata");
  }
  close(ends[1]);
  ntold = 0;
  sys_write_first(ends[0], "FIRST", 5, told);
  while ((r = write_text(ends[0], SYS_SOCKET, "data", -1)) == -EAGAIN)
    fdwait(&(struct pollfd){.fd = ends[0], .events = POLLOUT}, 1, -1);
  assert_int_equal(r, 4);
  assert_int_equal(ntold, 1);
  close(ends[0]);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void expect_line(struct socket *s, char end, const char *text) {
  struct line line;
  assert_int_equal(line_peek(s, end, &line), 1);
  assert_int_equal(line.size, strlen(text));
  assert_memory_equal(line.text, text, line.size);
  assert_int_equal(line_peek(s, end, &line), 1); /* it is there until it is taken */
  assert_memory_equal(line.text, text, line.size);
  socket_take(s, line.taken);
}

static void put(int fd, const char *text) {
  assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void test_lines_are_taken_as_they_come(void **state) {
  int ends[2];
  struct line line;
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  open_all(L);
  assert_int_equal(pipe(ends), 0);
  socket_push(L, ends[0], SOCKET_FOREIGN);
  struct socket *s = lua_touserdata(L, -1); /* socket_check is for C functions */
  assert_int_equal(line_peek(s, '\n', &line), -EAGAIN);
  put(ends[1], "one\n\nthr");
  expect_line(s, '\n', "one");
  expect_line(s, '\n', "");
  assert_int_equal(line_peek(s, '\n', &line), -EAGAIN);
  put(ends[1], "ee\nx;y\n"); /* another end: looked for from the start */
  expect_line(s, '\n', "three");
  expect_line(s, ';', "x");
  expect_line(s, '\n', "y");
  s->limit = 4;
  put(ends[1], "four\nfiver");
  expect_line(s, '\n', "four");
  assert_int_equal(line_peek(s, '\n', &line), -E2BIG); /* also before its end is there */
  s->limit = SOCKET_NO_LIMIT;
  close(ends[1]);
  expect_line(s, '\n', "fiver"); /* the last one has no end */
  assert_int_equal(line_peek(s, '\n', &line), 0);
  assert_int_equal(line_peek(s, '\n', &line), 0);
  lua_close(L);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_lines_are_taken_as_they_come),
      census_test(test_streams_survive_lack_of_memory),
      census_test(test_descriptors_survive_lack_of_memory),
      census_test(test_servers_survive_lack_of_memory),
      census_test(test_a_poll_with_a_reactor_survives_lack_of_memory),
      census_test(test_addresses_survive_lack_of_memory),
      census_test(test_waiting_survives_lack_of_memory),
      census_test(test_posix_survives_lack_of_memory),
      census_test(test_push_takes_also_when_it_fails),
      census_test(test_bytes_go_first),
      census_test(test_bytes_go_first_to_a_full_socket),
      census_test(test_no_call_waits_for_what_another_took),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
