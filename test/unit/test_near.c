/* What a near end does with a program of another build, as an update in place makes it: the
 * page that both share was mapped whatever its size was, and a touch past its end was the
 * signal SIGBUS. */
#include "unit.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/memfile.h"
#include "os/proc.h"
#include "os/share.h"
#include "os/sock.h"
#include "wire/build.h"
#include "wire/link_page.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = sizeof(struct link_page), TIMEOUT_MS = 30000 };

static char *const no_environment[] = {NULL};

/* A frame LINK_START as another program might say it. */
static void put_start(struct buf *out, const char *build) {
  struct buf body;
  buf_init(&body, 4096);
  buf_put_u32(&body, LINK_BEAT_MS);
  buf_put_u32(&body, LINK_WINDOW);
  if (build)
    buf_put_str(&body, build, strlen(build));
  assert_int_equal(link_put_bytes(out, LINK_START, buf_peek(&body), buf_size(&body)), 0);
  buf_deinit(&body);
}

/* What it says on its side until that ends: the texts of the frames of that type, one
 * after the other. */
static void hear(int side, unsigned type, char *ret, size_t size) {
  struct link_frame f;
  struct buf in;
  ssize_t n = 1;
  *ret = 0;
  buf_init(&in, 1 << 20);
  while (n > 0) {
    struct pollfd p = {side, POLLIN, 0};
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    n = read(side, buf_reserve(&in, 4096), 4096);
    buf_commit(&in, n > 0 ? (size_t)n : 0);
    while (link_next(&in, LINK_SIDE_LAST, &f) == 0) {
      size_t have = strlen(ret);
      if (f.type == type && have == 0)
        assert_int_equal(link_read_text(&f, ret, size), 0);
      link_done(&in, &f);
    }
  }
  buf_deinit(&in);
}

/* The status of wait(2) of a near end that is started so, with a command that ends at
 * once, and why it has ended. Takes page, which may be -1. */
static int start_near(const char *build, int page, char *why, size_t size) {
  const char *program = getenv("MOONFORK_REMOTE");
  const char *argv[] = {program, "near", "/bin/sh", "-c", "exit 7", NULL};
  int side[2], root[2], leash[2], status = -1;
  struct buf out;
  pid_t pid;
  assert_non_null(program);
  assert_int_equal(sock_pair(side, 0), 0);
  assert_int_equal(sock_pair(root, 0), 0);
  assert_int_equal(pipe(leash), 0);
  buf_init(&out, 4096);
  put_start(&out, build);
  int fds[2] = {root[1], page};
  struct iovec iov = {(void *)(uintptr_t)buf_peek(&out), buf_size(&out)};
  assert_int_equal(sock_send(side[0], &iov, 1, fds, page < 0 ? 1 : 2), buf_size(&out));
  buf_deinit(&out);
  struct proc_spawn spawn = {.program = program,
                             .argv = (char *const *)(uintptr_t)argv,
                             .envp = no_environment,
                             .control_fd = side[1],
                             .leash_fd = leash[0],
                             .stdio = {-1, -1, -1}};
  assert_int_equal(proc_spawn(&spawn, &pid), 0);
  fd_close(&side[1]);
  fd_close(&root[1]);
  fd_close(&page);
  hear(side[0], LINK_FAILED, why, size);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  fd_close(&side[0]);
  fd_close(&root[0]);
  fd_close(&leash[0]);
  fd_close(&leash[1]);
  return status;
}

static int new_page(size_t size) {
  void *map;
  int fd;
  assert_int_equal(share_new(size, &fd, &map), 0);
  share_unmap(map, size);
  return fd;
}

/* Else the others would prove nothing. */
static void test_a_near_end_of_the_same_build_starts_its_command(void **state) {
  char why[LINK_TEXT_MAX];
  int status = start_near(build_own.version, new_page(PAGE), why, sizeof why);
  assert_true(WIFEXITED(status));
  assert_non_null(strstr(why, "7")); /* the command's status */
  status = start_near(build_own.version, -1, why, sizeof why);
  assert_true(WIFEXITED(status));
  assert_non_null(strstr(why, "7"));
}

static void test_a_program_of_another_version_is_told_both(void **state) {
  char why[LINK_TEXT_MAX];
  const char *builds[] = {"99.0.1", "0.0.1-a", NULL};
  for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) {
    int status = start_near(builds[i], new_page(64), why, sizeof why);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_non_null(strstr(why, builds[i] ? builds[i] : "of another version"));
    assert_non_null(strstr(why, build_own.version));
    assert_non_null(strstr(why, "MOONFORK_REMOTE"));
  }
}

static void test_a_page_of_another_size_is_refused(void **state) {
  char why[LINK_TEXT_MAX];
  const size_t sizes[] = {1, PAGE - 1, PAGE + 1, PAGE + 65536};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    int status = start_near(build_own.version, new_page(sizes[i]), why, sizeof why);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_non_null(strstr(why, "shares memory"));
  }
}

/* It could be made smaller while both use it. */
static void test_a_page_that_can_shrink_is_refused(void **state) {
  char why[LINK_TEXT_MAX];
  int page = memfile_new("test", PAGE, MEMFILE_DATA);
  assert_true(page >= 0);
  int status = start_near(build_own.version, page, why, sizeof why);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 1);
  assert_non_null(strstr(why, "shares memory"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_a_near_end_of_the_same_build_starts_its_command),
      census_test(test_a_program_of_another_version_is_told_both),
      census_test(test_a_page_of_another_size_is_refused),
      census_test(test_a_page_that_can_shrink_is_refused),
  };
  return cmocka_run_group_tests_name("near", tests, NULL, NULL);
}
