/* Waiting answers the same whatever the limit on descriptors says, also where poll(2) is
 * refused. Each case runs twice: with the limit as it is, and with none left. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int limited_wait(struct pollfd *p, int n, int timeout_ms, rlim_t limit) {
  struct rlimit before, now;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
  now = before;
  now.rlim_cur = limit;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
  int r = fdwait(p, n, timeout_ms), error = errno;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
  errno = error;
  return r;
}

/* What both ways say of one descriptor. */
static short both(int fd, short events) {
  struct pollfd polled = {.fd = fd, .events = events}, other = polled;
  int r = fdwait(&polled, 1, 0);
  assert_int_equal(limited_wait(&other, 1, 0, 0), r);
  assert_int_equal(other.revents, polled.revents);
  return polled.revents;
}

static void test_pipes_and_their_ends(void **state) {
  int ends[2];
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  assert_int_equal(both(ends[0], POLLIN), 0);
  assert_int_equal(both(ends[0], 0), 0);
  assert_int_equal(both(ends[1], POLLOUT), POLLOUT);
  assert_int_equal(write(ends[1], "x", 1), 1);
  assert_int_equal(both(ends[0], POLLIN), POLLIN);
  char byte;
  assert_int_equal(read(ends[0], &byte, 1), 1);
  fd_close(&ends[1]);
  assert_int_equal(both(ends[0], 0), POLLHUP);
  fd_close(&ends[0]);
}

static void test_sockets_and_their_ends(void **state) {
  int ends[2];
  assert_int_equal(sock_pair(ends, 0), 0);
  assert_int_equal(both(ends[0], POLLIN | POLLOUT), POLLOUT);
  assert_int_equal(both(ends[0], POLLRDHUP), 0);
  assert_int_equal(sock_hung_up(ends[0]), 0);
  assert_int_equal(write(ends[1], "x", 1), 1);
  assert_int_equal(both(ends[0], POLLIN | POLLOUT), POLLIN | POLLOUT);
  char byte;
  assert_int_equal(read(ends[0], &byte, 1), 1);
  fd_close(&ends[1]);
  struct pollfd p = {.fd = ends[0], .events = POLLIN | POLLRDHUP};
  assert_int_equal(limited_wait(&p, 1, -1, 0), 1);
  assert_int_equal(p.revents, POLLIN | POLLHUP | POLLRDHUP);
  fd_close(&ends[0]);
}

static void test_more_entries_than_the_limit(void **state) {
  int ends[2];
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  struct pollfd p[3] = {{.fd = -1, .events = POLLIN, .revents = 77},
                        {.fd = ends[0], .events = POLLIN, .revents = 77},
                        {.fd = ends[1], .events = POLLOUT, .revents = 77}};
  assert_int_equal(limited_wait(p, 3, 1000, 2), 1);
  assert_int_equal(p[0].revents, 0);
  assert_int_equal(p[1].revents, 0);
  assert_int_equal(p[2].revents, POLLOUT);
  fd_close(&ends[1]);
  fd_close(&ends[0]);
}

static void test_a_closed_number_is_named(void **state) {
  assert_int_equal(both(9999, POLLIN), POLLNVAL);
}

static void test_numbers_beyond_a_set(void **state) {
  int ends[2], high;
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  high = fcntl(ends[0], F_DUPFD_CLOEXEC, FD_SETSIZE + 200);
  if (high < 0) {
    fd_close(&ends[0]);
    fd_close(&ends[1]);
    skip();
  }
  assert_int_equal(both(high, POLLIN), 0);
  assert_int_equal(write(ends[1], "x", 1), 1);
  assert_int_equal(both(high, POLLIN), POLLIN);
  fd_close(&high);
  fd_close(&ends[0]);
  fd_close(&ends[1]);
}

static void test_the_time_runs_out(void **state) {
  int ends[2];
  struct timespec from, to;
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  struct pollfd p = {.fd = ends[0], .events = POLLIN};
  clock_gettime(CLOCK_MONOTONIC, &from);
  assert_int_equal(limited_wait(&p, 1, 30, 0), 0);
  clock_gettime(CLOCK_MONOTONIC, &to);
  assert_true((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 >=
              29);
  fd_close(&ends[0]);
  fd_close(&ends[1]);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int signum) {
  alarms++;
}

static void test_a_signal_interrupts_under_its_mask(void **state) {
  int ends[2];
  sigset_t blocked, none, before;
  struct sigaction old, a = {.sa_handler = on_alarm};
  struct timespec long_time = {20, 0};
  struct rlimit limit, low;
  assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
  sigemptyset(&none);
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  sigaction(SIGUSR1, &a, &old);
  raise(SIGUSR1);
  struct pollfd p = {.fd = ends[0], .events = POLLIN};
  getrlimit(RLIMIT_NOFILE, &limit);
  low = limit;
  low.rlim_cur = 0;
  setrlimit(RLIMIT_NOFILE, &low);
  int r = fdwait_masked(&p, 1, &long_time, &none), error = errno;
  setrlimit(RLIMIT_NOFILE, &limit);
  assert_int_equal(r, -1);
  assert_int_equal(error, EINTR);
  assert_int_equal(alarms, 1);
  sigaction(SIGUSR1, &old, NULL);
  sigprocmask(SIG_SETMASK, &before, NULL);
  fd_close(&ends[0]);
  fd_close(&ends[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_pipes_and_their_ends),
      census_test(test_sockets_and_their_ends),
      census_test(test_more_entries_than_the_limit),
      census_test(test_a_closed_number_is_named),
      census_test(test_numbers_beyond_a_set),
      census_test(test_the_time_runs_out),
      census_test(test_a_signal_interrupts_under_its_mask),
  };
  return cmocka_run_group_tests_name("fdwait", tests, NULL, NULL);
}
