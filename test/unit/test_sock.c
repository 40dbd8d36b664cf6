/* Sockets with descriptors: what goes, what comes, and what the kernel does to both when
 * there is no room. */
#include "unit/unit.h"

#include "os/sock.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static ssize_t send_text(int fd, const char *text, const int *fds, int nfds) {
  struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
  return sock_send(fd, &iov, 1, fds, nfds);
}

static void open_pair(int ends[2]) {
  assert_int_equal(sock_pair(ends, 1), 0);
}

static void close_pair(int ends[2]) {
  fd_close(&ends[0]);
  fd_close(&ends[1]);
}

static void test_pair_is_cloexec_and_half_nonblocking(void **state) {
  int ends[2];
  open_pair(ends);
  for (int i = 0; i < 2; i++) {
    assert_true(ends[i] > 2);
    assert_true(fcntl(ends[i], F_GETFD) & FD_CLOEXEC);
  }
  assert_int_equal(fd_is_nonblocking(ends[0]), 1);
  assert_int_equal(fd_is_nonblocking(ends[1]), 0);
  close_pair(ends);
}

static void test_bytes_go_in_order_of_iovecs(void **state) {
  int ends[2], truncated;
  char data[16];
  struct iovec iov[] = {{TEXT("ab"), 2}, {TEXT(""), 0}, {TEXT("cd"), 2}};
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  assert_int_equal(sock_send(ends[0], iov, 3, NULL, 0), 4);
  assert_int_equal(sock_recv(ends[1], data, sizeof data, 1, &fds, &truncated), 4);
  assert_memory_equal(data, "abcd", 4);
  assert_int_equal(truncated, 0);
  assert_int_equal(fds.n, 0);
  close_pair(ends);
}

static void test_descriptors_arrive_in_order_and_cloexec(void **state) {
  int ends[2], pipe_ends[2], truncated;
  char data[16];
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  assert_int_equal(pipe(pipe_ends), 0);
  assert_int_equal(send_text(ends[0], "x", pipe_ends, 2), 1);
  assert_int_equal(sock_recv(ends[1], data, sizeof data, 0, &fds, &truncated), 1);
  assert_int_equal(fds.n, 2);
  for (int i = 0; i < 2; i++) {
    assert_true(fd_same(fds.fd[i], pipe_ends[i]));
    assert_true(fds.fd[i] > 2);
    assert_true(fcntl(fds.fd[i], F_GETFD) & FD_CLOEXEC);
  }
  fdset_close(&fds);
  close_pair(pipe_ends);
  close_pair(ends);
}

static void test_most_descriptors_of_one_message(void **state) {
  int ends[2], truncated, same[FDSET_MAX];
  char c;
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  for (int i = 0; i < FDSET_MAX; i++)
    same[i] = ends[0];
  assert_int_equal(send_text(ends[0], "x", same, FDSET_MAX), 1);
  assert_int_equal(sock_recv(ends[1], &c, 1, 0, &fds, &truncated), 1);
  assert_int_equal(truncated, 0);
  assert_int_equal(fds.n, FDSET_MAX);
  fdset_close(&fds);
  close_pair(ends);
}

static void test_full_socket_gives_zero(void **state) {
  int ends[2];
  size_t total = 0;
  static char block[65536];
  struct iovec iov = {block, sizeof block};
  open_pair(ends);
  for (ssize_t n; (n = sock_send(ends[1], &iov, 1, NULL, 0)) != 0; total += (size_t)n)
    assert_true(n > 0); /* although ends[1] is a blocking socket */
  assert_true(total > 0);
  close_pair(ends);
}

static void test_short_write_has_sent_the_descriptors(void **state) {
  int ends[2], truncated, null = fd_open_null();
  static char block[4 << 20];
  char data[64];
  struct iovec iov = {block, sizeof block};
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  ssize_t n = sock_send(ends[0], &iov, 1, &null, 1);
  assert_true(n > 0 && (size_t)n < sizeof block);
  assert_int_equal(sock_recv(ends[1], data, sizeof data, 0, &fds, &truncated),
                   sizeof data);
  assert_int_equal(fds.n, 1);
  assert_true(fd_same(fds.fd[0], null));
  fdset_close(&fds);
  fd_close(&null);
  close_pair(ends);
}

static void test_empty_socket_and_end_are_told_apart(void **state) {
  int ends[2], truncated;
  char c;
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  assert_int_equal(sock_recv(ends[1], &c, 1, 0, &fds, &truncated), -EAGAIN);
  assert_int_equal(sock_read(ends[0], &c, 1), -EAGAIN);
  assert_int_equal(sock_read(ends[1], &c, 1), -EAGAIN);
  assert_int_equal(sock_hung_up(ends[0]), 0);
  assert_int_equal(send_text(ends[1], "z", NULL, 0), 1);
  fd_close(&ends[1]);
  assert_int_equal(sock_hung_up(ends[0]), 1); /* with a byte still to read */
  assert_int_equal(sock_read(ends[0], &c, 1), 1);
  assert_int_equal(sock_read(ends[0], &c, 1), 0);
  assert_int_equal(sock_recv(ends[0], &c, 1, 1, &fds, &truncated), 0);
  assert_int_equal(send_text(ends[0], "z", NULL, 0), -EPIPE); /* and no SIGPIPE */
  close_pair(ends);
}

static void test_read_without_room_has_descriptors_closed(void **state) {
  int ends[2], pipe_ends[2];
  char c;
  open_pair(ends);
  assert_int_equal(pipe(pipe_ends), 0);
  assert_int_equal(send_text(ends[1], "x", &pipe_ends[1], 1), 1);
  fd_close(&pipe_ends[1]);
  assert_int_equal(sock_read(ends[0], &c, 1), 1);
  assert_int_equal(read(pipe_ends[0], &c, 1), 0); /* nobody has the write end any more */
  close_pair(pipe_ends);
  close_pair(ends);
}

static void test_two_messages_with_descriptors_are_two_reads(void **state) {
  int ends[2], truncated, null = fd_open_null();
  char data[16];
  struct fdset fds;
  fdset_init(&fds);
  open_pair(ends);
  assert_int_equal(send_text(ends[0], "ab", &null, 1), 2);
  assert_int_equal(send_text(ends[0], "cd", &null, 1), 2);
  assert_int_equal(sock_recv(ends[1], data, sizeof data, 0, &fds, &truncated), 2);
  assert_int_equal(fds.n, 1);
  assert_int_equal(sock_recv(ends[1], data, sizeof data, 0, &fds, &truncated), 2);
  assert_int_equal(fds.n, 2);
  fdset_close(&fds);
  fd_close(&null);
  close_pair(ends);
}

/* ---- no room in the table of open files: in a child, for every number that still fits
 */

static int receive_with_room_for(int fits) {
  int ends[2], truncated = -1, five[5] = {0, 0, 0, 0, 0};
  char c;
  struct fdset fds;
  fdset_init(&fds);
  if (sock_pair(ends, 0) < 0 || send_text(ends[0], "x", five, 5) != 1)
    return 1;
  int next = dup(0);
  close(next); /* the smallest free number; all above it are free in this child */
  struct rlimit limit = {(rlim_t)(next + fits), (rlim_t)(next + fits)};
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
    return 2;
  if (sock_recv(ends[1], &c, 1, 0, &fds, &truncated) != 1)
    return 3;
  return truncated == (fits < 5) && fds.n == (fits < 5 ? fits : 5) ? 0 : 4;
}

static void test_dropped_descriptors_are_reported(void **state) {
  for (int fits = 0; fits <= 6; fits++) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      fd_close_from(3, NULL, 0);
      _exit(receive_with_room_for(fits));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
  }
}

static int receive_without_stdio(void) {
  int ends[2], truncated;
  char c;
  struct fdset fds;
  fdset_init(&fds);
  int null = fd_open_null();
  close(0);
  close(1);
  close(2);
  if (sock_pair(ends, 1) < 0 || ends[0] < 3 || ends[1] < 3)
    return 1;
  if (send_text(ends[0], "x", &null, 1) != 1)
    return 2;
  if (sock_recv(ends[1], &c, 1, 0, &fds, &truncated) != 1 || fds.n != 1 || truncated)
    return 3;
  return fds.fd[0] > 2 && (fcntl(fds.fd[0], F_GETFD) & FD_CLOEXEC) ? 0 : 4;
}

static void test_without_stdio_everything_lands_above(void **state) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(receive_without_stdio());
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void test_same_file_is_recognised(void **state) {
  int ends[2], copy;
  open_pair(ends);
  copy = fd_dup(ends[0]);
  assert_int_equal(fd_same(ends[0], copy), 1);
  assert_int_equal(fd_same(ends[0], ends[1]), 0);
  assert_int_equal(fd_same(ends[0], 9999), 0);
  fd_close(&copy);
  close_pair(ends);
}

static void test_only_ends_of_pairs_are_nameless(void **state) {
  int ends[2], null_fd = fd_open_null(), tcp = socket(AF_INET, SOCK_STREAM, 0);
  open_pair(ends);
  assert_int_equal(sock_is_nameless(ends[0]), 1);
  assert_int_equal(sock_is_nameless(ends[1]), 1);
  fd_close(&ends[1]);
  assert_int_equal(sock_is_nameless(ends[0]), 1);
  assert_int_equal(sock_is_nameless(null_fd), 0);
  assert_int_equal(sock_is_nameless(tcp), 0);
  assert_int_equal(sock_is_nameless(9999), 0);
  fd_close(&null_fd);
  fd_close(&tcp);
  fd_close(&ends[0]);
}

/* Ends of a pair that children write to, each told from the others, whatever they claim.
 */
static void test_a_guarded_end_tells_who_writes(void **state) {
  int ends[2];
  char text[100];
  struct fdset fds;
  struct sock_writer writer = {1, -1};
  pid_t pid;
  open_pair(ends);
  fdset_init(&fds);
  if (sock_name_writers(ends[0], 1) < 0) { /* not on this system */
    close_pair(ends);
    return;
  }
  assert_int_equal(write(ends[1], "me", 2), 2);
  pid = fork();
  if (pid == 0)
    _exit(write(ends[1], "child", 5) != 5);
  assert_true(pid > 0);
  assert_int_equal(waitpid(pid, NULL, 0), pid); /* what it wrote is still its own */
  assert_int_equal(sock_read_from(ends[0], text, sizeof text, &fds, &writer), 2);
  assert_int_equal(writer.pid, getpid());
  fd_close(&writer.pidfd);
  assert_int_equal(sock_read_from(ends[0], text, sizeof text, &fds, &writer), 5);
  assert_int_equal(writer.pid, pid);
  fd_close(&writer.pidfd);
  assert_int_equal(sock_read_from(ends[0], text, sizeof text, &fds, &writer), -EAGAIN);
  assert_int_equal(sock_name_writers(ends[0], 0), 0);
  assert_int_equal(write(ends[1], "x", 1), 1);
  assert_int_equal(sock_read(ends[0], text, sizeof text), 1);
  close_pair(ends);
}

/* Either the sender is told at once, or nothing arrives; and it goes again afterwards. */
static void test_a_guarded_end_takes_no_descriptors(void **state) {
  int ends[2], fd = fd_open_null();
  char c;
  char x = 'x';
  struct iovec iov = {&x, 1};
  struct fdset fds;
  struct sock_writer writer;
  open_pair(ends);
  fdset_init(&fds);
  sock_refuse_fds(ends[0], 1);
  ssize_t n = sock_send(ends[1], &iov, 1, &fd, 1);
  assert_true(n == 1 ||
              n == -EPERM); /* an older kernel lets them pass, and the reader sees */
  if (n == 1) {
    assert_int_equal(sock_read_from(ends[0], &c, 1, &fds, &writer), 1);
    assert_int_equal(fds.n, 1);
    fdset_close(&fds);
  }
  sock_refuse_fds(ends[0], 0);
  assert_int_equal(sock_send(ends[1], &iov, 1, &fd, 1), 1);
  assert_int_equal(sock_read_from(ends[0], &c, 1, &fds, &writer), 1);
  assert_int_equal(fds.n, 1);
  fdset_close(&fds);
  fd_close(&fd);
  close_pair(ends);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_pair_is_cloexec_and_half_nonblocking),
      census_test(test_bytes_go_in_order_of_iovecs),
      census_test(test_descriptors_arrive_in_order_and_cloexec),
      census_test(test_most_descriptors_of_one_message),
      census_test(test_full_socket_gives_zero),
      census_test(test_short_write_has_sent_the_descriptors),
      census_test(test_empty_socket_and_end_are_told_apart),
      census_test(test_read_without_room_has_descriptors_closed),
      census_test(test_two_messages_with_descriptors_are_two_reads),
      census_test(test_dropped_descriptors_are_reported),
      census_test(test_without_stdio_everything_lands_above),
      census_test(test_same_file_is_recognised),
      census_test(test_only_ends_of_pairs_are_nameless),
      census_test(test_a_guarded_end_tells_who_writes),
      census_test(test_a_guarded_end_takes_no_descriptors),
  };
  return cmocka_run_group_tests_name("sock", tests, NULL, NULL);
}
