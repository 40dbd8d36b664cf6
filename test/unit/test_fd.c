/* Descriptors: where they are born, flags, sweeps, sets. What would disturb the test
 * program itself (closed standard streams, closing everything) runs in a forked child
 * that answers by its exit status. */
#include "unit/unit.h"

#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int in_child(int (*body)(void)) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    alarm(20);
    _exit(body());
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

static int is_cloexec(int fd) {
  return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

static int is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

static void test_close_keeps_errno_and_forgets(void **state) {
  int fd = fd_open_null();
  int number = fd;
  errno = 77;
  fd_close(&fd);
  assert_int_equal(errno, 77);
  assert_int_equal(fd, -1);
  assert_false(is_open(number));
  fd_close(&fd);
}

static void test_dup_is_another_cloexec_number(void **state) {
  int fd = fd_dup(2);
  assert_true(fd > 2);
  assert_true(is_cloexec(fd));
  fd_close(&fd);
  assert_int_equal(fd_dup(9999), -EBADF);
}

static void test_flags_are_set_and_told(void **state) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(fd_is_nonblocking(ends[0]), 0);
  assert_int_equal(fd_set_nonblocking(ends[0], 1), 0);
  assert_int_equal(fd_is_nonblocking(ends[0]), 1);
  assert_int_equal(fd_set_nonblocking(ends[0], 0), 0);
  assert_int_equal(fd_is_nonblocking(ends[0]), 0);
  assert_int_equal(fd_set_cloexec(ends[0], 1), 0);
  assert_true(is_cloexec(ends[0]));
  assert_int_equal(fd_set_cloexec(ends[0], 0), 0);
  assert_false(is_cloexec(ends[0]));
  fd_close(&ends[0]);
  fd_close(&ends[1]);
  assert_int_equal(fd_is_nonblocking(9999), -EBADF);
  assert_int_equal(fd_set_nonblocking(9999, 1), -EBADF);
}

static int raise_without_stdio(void) {
  close(0);
  close(1);
  int fd = open("/dev/null", O_RDONLY);
  if (fd != 0)
    return 1;
  fd = fd_raise(fd);
  if (fd < 3 || is_open(0) || !is_cloexec(fd))
    return 2;
  int null = fd_open_null();
  return null >= 3 && is_cloexec(null) && !is_open(0) && !is_open(1) ? 0 : 3;
}

static void test_raise_leaves_the_standard_numbers(void **state) {
  assert_int_equal(in_child(raise_without_stdio), 0);
  assert_int_equal(fd_raise(-1), -EBADF);
  assert_int_equal(fd_raise(9999), -EBADF);
}

static void test_null_reads_nothing_and_swallows_all(void **state) {
  char c;
  int fd = fd_open_null();
  assert_int_equal(read(fd, &c, 1), 0);
  assert_int_equal(write(fd, "x", 1), 1);
  fd_close(&fd);
}

/* Where there is no /dev: for root only, skipped for others. The folder is left as the
 * child's root and removed from outside. */
static char empty_root[] = "/tmp/moonfork-root-XXXXXX";

static int null_in_an_empty_root(void) {
  char c;
  if (chroot(empty_root) < 0)
    return 99;
  int fd = fd_open_null();
  return fd > 2 && is_cloexec(fd) && read(fd, &c, 1) == 0 ? 0 : 1;
}

static void test_null_without_dev_is_a_dead_pipe(void **state) {
  assert_non_null(mkdtemp(empty_root));
  int r = in_child(null_in_an_empty_root);
  assert_int_equal(rmdir(empty_root), 0);
  if (r == 99)
    skip();
  assert_int_equal(r, 0);
}

/* ---- sweeps ---- */

struct seen {
  int n, numbers[64];
};

static void remember(int fd, void *data) {
  struct seen *seen = data;
  if (seen->n < 64)
    seen->numbers[seen->n++] = fd;
}

static int was_seen(const struct seen *seen, int fd) {
  for (int i = 0; i < seen->n; i++)
    if (seen->numbers[i] == fd)
      return 1;
  return 0;
}

static void test_each_visits_what_is_open_and_nothing_else(void **state) {
  struct seen seen = {0};
  assert_int_equal(fd_each(3, remember, &seen), 0);
  int inherited = seen.n; /* whoever runs the tests may have given some */
  int a = fcntl(0, F_DUPFD, 50), b = fcntl(0, F_DUPFD, 300);
  seen.n = 0;
  assert_int_equal(fd_each(3, remember, &seen), 0);
  assert_int_equal(seen.n, inherited + 2);
  assert_true(was_seen(&seen, a) && was_seen(&seen, b));
  fd_close(&a);
  fd_close(&b);
}

#ifdef F_SETSIG
static void test_a_label_belongs_to_what_a_descriptor_refers_to(void **state) {
  int loop = fd_open_null(), other = fd_open_null();
  assert_true(loop >= 0 && other >= 0);
  assert_false(fd_is_labelled_loop(loop));
  fd_label_loop(loop);
  int copy = fd_dup(loop);
  assert_true(fd_is_labelled_loop(loop) && fd_is_labelled_loop(copy));
  assert_false(fd_is_labelled_loop(other));
  fd_close(&loop);
  fd_close(&copy);
  fd_close(&other);
  assert_false(fd_is_labelled_loop(-1));
  errno = ENOENT;
  fd_label_loop(-1);
  assert_int_equal(errno, ENOENT);
}
#endif

static void close_it(int fd, void *data) {
  close(fd);
  ++*(int *)data;
}

static int close_while_walking(void) {
  int closed = 0;
  fd_close_from(100, NULL, 0);
  for (int fd = 100; fd < 400; fd++)
    if (fcntl(0, F_DUPFD, fd) != fd)
      return 1;
  if (fd_each(100, close_it, &closed) != 0 || closed != 300)
    return 2;
  for (int fd = 100; fd < 400; fd++)
    if (is_open(fd))
      return 3;
  return 0;
}

static void test_each_may_close_what_it_visits(void **state) {
  assert_int_equal(in_child(close_while_walking), 0);
}

static int close_from_keeps(void) {
  static const int keep[] = {77, 20, 300, 21, 5};
  for (int fd = 3; fd < 400; fd++)
    if (!is_open(fd) && dup2(0, fd) != fd)
      return 1;
  fd_close_from(10, keep, COUNT(keep));
  for (int fd = 3; fd < 400; fd++) {
    int expected = fd < 10 || fd == 20 || fd == 21 || fd == 77 || fd == 300;
    if (is_open(fd) != expected)
      return 2;
  }
  fd_close_from(3, NULL, 0);
  for (int fd = 3; fd < 400; fd++)
    if (is_open(fd))
      return 3;
  return is_open(0) && is_open(1) && is_open(2) ? 0 : 4;
}

static void test_close_from_closes_all_but_the_kept(void **state) {
  assert_int_equal(in_child(close_from_keeps), 0);
}

/* Without /proc the sweep goes by numbers. */
static char bare_root[] = "/tmp/moonfork-root-XXXXXX";

static int walk_in_an_empty_root(void) {
  struct seen seen = {0};
  int closed = 0;
  fd_close_from(3, NULL, 0);
  if (chroot(bare_root) < 0)
    return 99;
  if (fcntl(0, F_DUPFD, 50) != 50 || fcntl(0, F_DUPFD, 300) != 300)
    return 1;
  if (fd_each(3, remember, &seen) != 0 || seen.n != 2 || !was_seen(&seen, 300))
    return 2;
  return fd_each(3, close_it, &closed) == 0 && closed == 2 && !is_open(50) ? 0 : 3;
}

static void test_each_without_proc_goes_by_numbers(void **state) {
  assert_non_null(mkdtemp(bare_root));
  int r = in_child(walk_in_an_empty_root);
  assert_int_equal(rmdir(bare_root), 0);
  if (r == 99)
    skip();
  assert_int_equal(r, 0);
}

/* ---- sets ---- */

static void test_set_owns_what_is_pushed(void **state) {
  struct fdset set;
  fdset_init(&set);
  int a = fd_open_null(), b = fd_open_null();
  assert_int_equal(fdset_push(&set, a), 0);
  assert_int_equal(fdset_push(&set, b), 0);
  assert_int_equal(fdset_steal(&set, 0), a);
  fdset_close(&set);
  assert_true(is_open(a));
  assert_false(is_open(b));
  assert_int_equal(set.n, 0);
  fd_close(&a);
}

static void test_full_set_closes_what_is_too_much(void **state) {
  struct fdset set;
  fdset_init(&set);
  for (int i = 0; i < FDSET_MAX; i++)
    assert_int_equal(fdset_push(&set, fd_open_null()), 0);
  int extra = fd_open_null();
  assert_int_equal(fdset_push(&set, extra), -E2BIG);
  assert_false(is_open(extra));
  fdset_close(&set);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_close_keeps_errno_and_forgets),
      census_test(test_dup_is_another_cloexec_number),
      census_test(test_flags_are_set_and_told),
      census_test(test_raise_leaves_the_standard_numbers),
      census_test(test_null_reads_nothing_and_swallows_all),
      census_test(test_null_without_dev_is_a_dead_pipe),
      census_test(test_each_visits_what_is_open_and_nothing_else),
#ifdef F_SETSIG
      census_test(test_a_label_belongs_to_what_a_descriptor_refers_to),
#endif
      census_test(test_each_may_close_what_it_visits),
      census_test(test_each_without_proc_goes_by_numbers),
      census_test(test_close_from_closes_all_but_the_kept),
      census_test(test_set_owns_what_is_pushed),
      census_test(test_full_set_closes_what_is_too_much),
  };
  return cmocka_run_group_tests_name("fd", tests, NULL, NULL);
}
