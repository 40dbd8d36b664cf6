/* Connections of a process to its own listening socket, and others that come between. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/own_listener.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void make(struct own_listener *l, int *ret_fd) {
  if (own_listener_make(l, ret_fd) == -ENOSYS)
    skip();
  assert_true(*ret_fd > 2);
  assert_int_equal(own_listener_maker(*ret_fd), getpid());
}

static socklen_t name_of(const struct own_listener *l, struct sockaddr_un *ret) {
  *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(ret->sun_path, l->name, l->n);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + l->n);
}

static int accept_next(int fd) {
  int taken, r = own_listener_accept(fd, getpid(), &taken);
  return r < 0 ? r : taken;
}

static void test_what_is_connected_is_accepted_in_order(void **state) {
  struct own_listener l;
  int fd, near[2], far[2];
  char c;
  make(&l, &fd);
  for (int i = 0; i < 2; i++)
    assert_true((near[i] = own_listener_connect(&l)) > 2);
  for (int i = 0; i < 2; i++) {
    far[i] = accept_next(fd);
    assert_true(far[i] > 2);
    assert_true(fcntl(far[i], F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(near[i], F_GETFD) & FD_CLOEXEC);
    assert_int_equal(fd_is_nonblocking(near[i]), 1);
    assert_int_equal(fd_is_nonblocking(far[i]), 0);
    assert_int_equal(write(near[i], &"ab"[i], 1), 1);
    assert_int_equal(read(far[i], &c, 1), 1);
    assert_int_equal(c, "ab"[i]);
  }
  assert_int_equal(accept_next(fd), -EAGAIN);
  for (int i = 0; i < 2; i++) {
    fd_close(&near[i]);
    fd_close(&far[i]);
  }
  fd_close(&fd);
  assert_int_equal(own_listener_connect(&l), -ECONNREFUSED);
}

/* A child connects to it first, and listens under its name later. */
static void test_others_are_not_taken_for_the_maker(void **state) {
  struct own_listener l;
  struct sockaddr_un name;
  int fd, told[2], go[2], status;
  char c;
  make(&l, &fd);
  socklen_t n = name_of(&l, &name);
  assert_int_equal(pipe(told), 0);
  assert_int_equal(pipe(go), 0);
  pid_t pid = fork();
  if (pid == 0) {
    int s = socket(AF_UNIX, SOCK_STREAM, 0), own = socket(AF_UNIX, SOCK_STREAM, 0);
    close(fd);
    close(go[1]);
    int bad = connect(s, (struct sockaddr *)&name, n) < 0 ||
              write(told[1], "c", 1) != 1 || read(go[0], &c, 1) != 1 ||
              bind(own, (struct sockaddr *)&name, n) < 0 || listen(own, 4) < 0 ||
              write(told[1], "l", 1) != 1;
    if (!bad)
      (void)!read(go[0], &c, 1); /* to its end */
    _exit(bad);
  }
  close(told[1]);
  close(go[0]);
  assert_int_equal(read(told[0], &c, 1), 1);
  int near = own_listener_connect(&l), far = accept_next(fd);
  assert_true(near > 2 && far > 2);
  assert_int_equal(write(far, "x", 1), 1);
  assert_int_equal(read(near, &c, 1), 1);
  fd_close(&near);
  fd_close(&far);
  fd_close(&fd);
  assert_int_equal(write(go[1], "g", 1), 1);
  assert_int_equal(read(told[0], &c, 1), 1);
  assert_int_equal(own_listener_connect(&l), -ECONNREFUSED);
  close(go[1]);
  close(told[0]);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void test_a_full_queue_is_told_at_once(void **state) {
  struct own_listener l;
  int fd, near[256], n = 0, r = 0;
  make(&l, &fd);
  while (n < 256 && (r = own_listener_connect(&l)) >= 0)
    near[n++] = r;
  assert_int_equal(r, -EAGAIN);
  while (n > 0)
    fd_close(&near[--n]);
  fd_close(&fd);
}

/* Who counts them must not miss one. */
static void test_one_that_cannot_be_kept_is_taken_all_the_same(void **state) {
  struct own_listener l;
  int fd, near[2], taken, saved, other, full[32], n = 0;
  struct rlimit limit, low;
  make(&l, &fd);
  for (int i = 0; i < 2; i++)
    assert_true((near[i] = own_listener_connect(&l)) > 2);
  saved = dup(0);
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  low = limit;
  low.rlim_cur = 32;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
  while ((other = fcntl(fd, F_DUPFD_CLOEXEC, 3)) >= 0)
    full[n++] = other;
  assert_int_equal(own_listener_accept(fd, getpid(), &taken), -EMFILE); /* it stays */
  close(0);
  assert_int_equal(own_listener_accept(fd, getpid(), &taken), 0);
  assert_int_equal(taken, -EMFILE);
  assert_true(dup2(saved, 0) == 0 || saved < 0);
  while (n > 0)
    close(full[--n]);
  if (saved >= 0)
    close(saved);
  setrlimit(RLIMIT_NOFILE, &limit);
  int far = accept_next(fd);
  char c;
  assert_true(far > 2);
  assert_int_equal(write(near[1], "b", 1), 1); /* the second */
  assert_int_equal(read(far, &c, 1), 1);
  close(far);
  close(near[0]);
  close(near[1]);
  close(fd);
}

/* Nor two with one name after the other: who has kept the first one would be connected to
 * the second. */
static void test_names_are_not_used_again(void **state) {
  struct own_listener first, second;
  int fd;
  make(&first, &fd);
  close(fd);
  make(&second, &fd);
  assert_true(first.n != second.n || memcmp(first.name, second.name, first.n) != 0);
  assert_int_equal(own_listener_connect(&first), -ECONNREFUSED);
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_what_is_connected_is_accepted_in_order),
      census_test(test_others_are_not_taken_for_the_maker),
      census_test(test_a_full_queue_is_told_at_once),
      census_test(test_one_that_cannot_be_kept_is_taken_all_the_same),
      census_test(test_names_are_not_used_again),
  };
  return cmocka_run_group_tests_name("own_listener", tests, NULL, NULL);
}
