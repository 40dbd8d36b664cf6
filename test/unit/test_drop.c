/* Descriptors that block whoever closes them last: a TCP socket with SO_LINGER and data
 * that nobody reads, also one that waits unread in a UNIX socket. */
#include "help/census.h"
#include "os/drop.h"
#include "os/proc.h"
#include "os/sock.h"
#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINGER_S = 3, LONG_NS = 500 * 1000 * 1000 };

/* *ret_other keeps it from being reset. */
static int lingering(int *ret_other) {
  static char data[1 << 20];
  struct linger l = {1, LINGER_S};
  struct sockaddr_in at = {.sin_family = AF_INET};
  socklen_t size = sizeof at;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
  assert_int_equal(listen(listener, 1), 0);
  assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &size), 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
  *ret_other = accept(listener, NULL, NULL);
  assert_true(*ret_other >= 0);
  close(listener);
  while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
    ;
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
  return fd;
}

/* What happens within is no longer than a close should be; the rest is the thread's. */
static void expect_quick(void (*act)(int fd), int fd) {
  unsigned long long before = proc_now_ns();
  act(fd);
  assert_true(proc_now_ns() - before < LONG_NS);
}

static void wait_until_closed(int fd) {
  for (int i = 0; i < 1000 && fcntl(fd, F_GETFD) >= 0; i++)
    usleep(10000);
  assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void drop(int fd) {
  fd_drop(&fd);
  assert_int_equal(fd, -1);
}

static void part(int fd) {
  assert_int_equal(fd_part(fd), 0);
}

static void part_unix(int fd) {
  assert_int_equal(fd_part_unix(fd), 0);
}

static void test_what_lingers_is_closed_aside(void **state) {
  int other, fd;
  drop_aside();
  fd = lingering(&other);
  expect_quick(drop, fd);
  wait_until_closed(fd);
  close(other);
  fd = lingering(&other);
  expect_quick(part, fd);
  wait_until_closed(fd);
  close(other);
}

static void test_what_waits_in_a_socket_is_closed_aside(void **state) {
  void (*const ways[])(int) = {part, part_unix};
  char letter = 'x';
  struct iovec iov = {&letter, 1};
  drop_aside();
  for (size_t i = 0; i < COUNT(ways); i++) {
    int ends[2], other, fd = lingering(&other);
    assert_int_equal(sock_pair(ends, 1), 0);
    assert_int_equal(sock_send(ends[1], &iov, 1, &fd, 1), 1);
    close(fd);
    expect_quick(ways[i], ends[0]);
    wait_until_closed(ends[0]);
    close(ends[1]);
    close(other);
  }
}

/* SO_LINGER can be set on one, and nobody waits for it. */
static void test_a_unix_socket_does_not_linger(void **state) {
  static char data[1 << 16];
  struct linger l = {1, LINGER_S};
  int ends[2];
  drop_aside();
  assert_int_equal(sock_pair(ends, 1), 0);
  while (send(ends[0], data, sizeof data, MSG_DONTWAIT) > 0)
    ;
  assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
  expect_quick(part_unix, ends[0]);
  assert_int_equal(fcntl(ends[0], F_GETFD), -1); /* here, not by the thread */
  assert_int_equal(fd_part_unix(ends[0]), -EBADF);
  close(ends[1]);
}

static void test_many_are_closed(void **state) {
  enum { MANY = 200 };
  struct fdset s;
  int fds[MANY];
  drop_aside();
  fdset_init(&s);
  for (int i = 0; i < MANY; i++)
    fdset_push(&s, fds[i] = fd_open_null());
  fdset_drop(&s);
  assert_int_equal(s.n, 0);
  for (int i = 0; i < MANY; i++)
    wait_until_closed(fds[i]);
}

/* What does not linger is closed at once, and errors are told. */
static void test_others_are_closed_here(void **state) {
  int ends[2], fd = fd_open_null();
  drop_aside();
  assert_int_equal(fd_part(fd), 0);
  assert_int_equal(fcntl(fd, F_GETFD), -1);
  assert_int_equal(fd_part(fd), -EBADF);
  assert_int_equal(sock_pair(ends, 1), 0);
  assert_int_equal(write(ends[1], "unread", 6), 6);
  assert_int_equal(fd_part(ends[0]), 0);
  assert_int_equal(fcntl(ends[0], F_GETFD), -1);
  close(ends[1]);
  fd = -1;
  fd_drop(&fd);
}

/* A forked copy has no such thread. */
static void test_a_copy_closes_by_itself(void **state) {
  int status, fd = fd_open_null(), copy = fd;
  drop_aside();
  pid_t pid = fork();
  if (pid == 0) {
    fd_drop(&copy);
    if (fcntl(fd, F_GETFD) != -1)
      _exit(1);
    fd = copy = fd_open_null();
    drop_aside();
    fd_drop(&copy);
    for (int i = 0; i < 1000 && fcntl(fd, F_GETFD) >= 0; i++)
      usleep(10000);
    _exit(fcntl(fd, F_GETFD) != -1);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  fd_close(&fd);
}

static int is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

/* A stream at whose end its owner has read; *ret_other (NULL: it is closed): its other
 * end, which only writes nothing more. */
static int ended(int *ret_other) {
  int ends[2];
  char byte;
  assert_int_equal(sock_pair(ends, 1), 0);
  if (ret_other) {
    assert_int_equal(shutdown(ends[1], SHUT_WR), 0);
    *ret_other = ends[1];
  } else {
    close(ends[1]);
  }
  assert_int_equal(read(ends[0], &byte, 1), 0);
  return ends[0];
}

/* While sockets are under way in messages, those that have ended are closed together, and
 * with the last message at the latest. */
static void test_ended_ones_are_closed_together(void **state) {
  int fds[DROP_TOGETHER], other, fd;
  drop_aside();
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  assert_false(is_open(fd)); /* none are under way */
  drop_count_sent(1);
  for (int i = 0; i < DROP_TOGETHER - 1; i++)
    assert_int_equal(fd_part_ended(fds[i] = ended(NULL)), 0);
  for (int i = 0; i < DROP_TOGETHER - 1; i++)
    assert_true(is_open(fds[i]));
  assert_int_equal(fd_part_ended(fd = ended(&other)), 0);
  assert_false(is_open(fd)); /* somebody may notice */
  close(other);
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  assert_false(is_open(fd));
  for (int i = 0; i < DROP_TOGETHER - 1; i++)
    assert_false(is_open(fds[i]));
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  drop_count_sent(1);
  drop_count_sent(-1);
  assert_true(is_open(fd));
  drop_count_sent(-1);
  assert_false(is_open(fd));
}

static void *send_and_end(void *fds) {
  drop_count_sent(1);
  for (int i = 0; i < 3; i++)
    fd_part_ended(((int *)fds)[i] = ended(NULL));
  return NULL;
}

/* A loop that has forked on one thread may be ended on another: the first one's count
 * stayed above 0, and its sockets open. */
static void test_ended_ones_of_a_thread_are_closed_by_another(void **state) {
  pthread_t thread;
  int fds[3];
  drop_aside();
  assert_int_equal(pthread_create(&thread, NULL, send_and_end, fds), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  for (int i = 0; i < 3; i++)
    assert_true(is_open(fds[i]));
  drop_count_sent(-1);
  for (int i = 0; i < 3; i++)
    assert_false(is_open(fds[i]));
}

#ifdef __linux__
static void *send_apart(void *unused) {
  if (unshare(CLONE_FILES) == 0)
    drop_count_sent(1);
  return NULL;
}

/* What waited for a message of a thread that has descriptors of its own was closed by
 * nobody: it could not, and was the last one to count. */
static void test_ended_ones_do_not_wait_for_threads_apart(void **state) {
  pthread_t thread;
  int fd;
  drop_aside();
  drop_count_sent(1);
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  assert_true(is_open(fd));
  assert_int_equal(pthread_create(&thread, NULL, send_apart, NULL), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  drop_count_sent(-1);
  assert_false(is_open(fd));
}
#endif

/* Where descriptors are few, or in a copy of the program, they are closed at once. */
static void test_ended_ones_are_closed_at_once(void **state) {
  struct rlimit all, few;
  int fd, again, status;
  drop_aside();
  drop_count_sent(1);
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
  few = all;
  few.rlim_cur = 200;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  assert_false(is_open(fd));
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
  assert_int_equal(fd_part_ended(fd = ended(NULL)), 0);
  assert_true(is_open(fd));
  assert_int_equal(fd_part_ended(again = ended(NULL)), 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(STDERR_FILENO, again); /* a copy may have closed all that it does not know */
    drop_forked();
    int wrong = is_open(fd) || !is_open(again), own = ended(NULL);
    fd_part_ended(own);
    wrong |= is_open(own);
    drop_aside();
    own = ended(NULL);
    fd_part_ended(own);
    wrong |= is_open(own);
    drop_count_sent(1);
    fd_part_ended(own = ended(NULL));
    wrong |= !is_open(own);
    drop_count_sent(-1);
    _exit(wrong || is_open(own));
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  drop_forked(); /* this is no copy */
  assert_true(is_open(fd));
  drop_count_sent(-1);
  assert_false(is_open(fd));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_what_lingers_is_closed_aside),
      census_test(test_what_waits_in_a_socket_is_closed_aside),
      census_test(test_a_unix_socket_does_not_linger),
      census_test(test_many_are_closed),
      census_test(test_others_are_closed_here),
      census_test(test_a_copy_closes_by_itself),
      census_test(test_ended_ones_are_closed_together),
      census_test(test_ended_ones_of_a_thread_are_closed_by_another),
#ifdef __linux__
      census_test(test_ended_ones_do_not_wait_for_threads_apart),
#endif
      census_test(test_ended_ones_are_closed_at_once),
  };
  return cmocka_run_group_tests_name("drop", tests, NULL, NULL);
}
