/* mf_new on libuv's default loop, made by the library, with any number of free
 * descriptors: a code, never the end of the process (libuv aborts in its first loop), and
 * a process when there are descriptors again. Each case is a process of its own, as the
 * loop is made once. */
#include "unit.h"

#include "os/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <moonfork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { TABLE = 64, FREE_MAX = 20 };

/* Exit codes of a case. */
enum { FINE = 0, WRONG_CODE = 1, NEVER_WORKS = 2 };

static int new_and_close(void) {
  mf_process *p;
  int r = mf_new(NULL, &p);
  if (r == 0)
    mf_close(p, NULL, NULL);
  return r;
}

static int try(int nfree) {
  struct rlimit limit = {TABLE, TABLE};
  int held[TABLE], n = 0, r;
  setrlimit(RLIMIT_NOFILE, &limit);
  while (n < TABLE && (held[n] = open("/dev/null", O_RDONLY)) >= 0)
    n++;
  for (int i = 0; i < nfree && n > 0; i++)
    close(held[--n]);
  r = new_and_close();
  while (n > 0)
    close(held[--n]);
  if (r != 0 && r != -EMFILE)
    return WRONG_CODE;
  return new_and_close() == 0 ? FINE : NEVER_WORKS;
}

static void test_any_number_of_free_descriptors_is_survived(void **state) {
  (void)state;
  setenv("MOONFORK_TEMPLATE", "/bin/true", 1);
  for (int nfree = 0; nfree <= FREE_MAX; nfree++) {
    int status;
    pid_t pid = fork();
    if (pid == 0)
      _exit(try(nfree));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), FINE);
  }
}

static void test_check_free_counts_exactly(void **state) {
  (void)state;
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    struct rlimit limit = {TABLE, TABLE};
    int last = -1, fd;
    setrlimit(RLIMIT_NOFILE, &limit);
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
      last = fd;
    close(last);
    close(last - 1);
    _exit(fd_check_free(2) == 0 && fd_check_free(3) == -EMFILE ? 0 : 1);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void test_dump_tells_the_process_and_its_program(void **state) {
  (void)state;
  mf_process *p;
  char *text = NULL;
  size_t length = 0;
  mf_options o = MF_OPTIONS_INIT;
  FILE *out = open_memstream(&text, &length);
  o.program = "/bin/true";
  o.name = "tried";
  assert_int_equal(mf_dump(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_new_exec(&o, &p), 0);
  assert_int_equal(mf_dump(NULL, out), 0);
  assert_int_equal(fclose(out), 0);
  assert_non_null(strstr(text, "\"tried\""));
  assert_non_null(strstr(text, "/bin/true"));
  free(text);
  out = fopen("/dev/full", "w");
  assert_non_null(out);
  setvbuf(out, NULL, _IONBF, 0);
  assert_int_equal(mf_dump(NULL, out), -EIO);
  fclose(out);
  mf_close(p, NULL, NULL);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_any_number_of_free_descriptors_is_survived),
      cmocka_unit_test(test_check_free_counts_exactly),
      cmocka_unit_test(test_dump_tells_the_process_and_its_program),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
