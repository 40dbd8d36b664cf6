/* Files in memory: size, use, huge pages. memfile_new, and share_new above it, where files
 * may not be large: the kernel ends the process that makes one grow beyond the limit. That
 * was minded in one of three places; a host under `ulimit -f`, and a template after
 * process:limit {fsize =}, died of the others. */
#include "unit/unit.h"

#include "os/fd.h"
#include "os/memfile.h"
#include "os/share.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The wait status of a child that may write so much to a file, and exits with what f
 * gives. */
static int limited(rlim_t size, int (*f)(void)) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0) {
    struct rlimit limit = {size, size};
    _exit(setrlimit(RLIMIT_FSIZE, &limit) < 0 ? 100 : f());
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}

static int data_is_refused(void) {
  return memfile_new("test", 8192, MEMFILE_DATA) == -EFBIG ? 0 : 1;
}

static int code_is_refused(void) {
  return memfile_new("test", 8192, MEMFILE_CODE) == -EFBIG ? 0 : 1;
}

static int data_fits(void) {
  return memfile_new("test", 8192, MEMFILE_DATA) >= 0 ? 0 : 1;
}

static int share_is_refused(void) {
  int fd;
  void *map;
  return share_new(8192, &fd, &map) == -ENOSYS ? 0 : 1;
}

static void test_memfile_has_the_size_and_zeroes(void **state) {
  struct stat st;
  char byte = 1;
  int fd = memfile_new("test", 10000, MEMFILE_DATA);
  if (fd == -ENOSYS)
    skip();
  assert_true(fd >= 0);
  assert_int_equal(fstat(fd, &st), 0);
  assert_int_equal(st.st_size, 10000);
  assert_int_equal(pread(fd, &byte, 1, 9999), 1);
  assert_int_equal(byte, 0);
  fd_close(&fd);
}

static void test_memfile_of_code_can_be_executed(void **state) {
  int fd = memfile_new("test", 4096, MEMFILE_CODE);
  if (fd < 0)
    skip();
  void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
  assert_true(p != MAP_FAILED);
  munmap(p, 4096);
  fd_close(&fd);
}

static void test_memfile_of_a_written_byte_becomes_a_huge_page(void **state) {
  struct stat st;
  char byte = 0;
  int fd = memfile_new("test", HUGE_PAGE, MEMFILE_DATA);
  if (fd < 0)
    skip();
  assert_int_equal(pwrite(fd, "x", 1, 5), 1);
  if (memfile_make_huge(fd) < 0) { /* the kernel can't, or has none now */
    fd_close(&fd);
    skip();
  }
  assert_int_equal(fstat(fd, &st), 0);
  assert_int_equal(st.st_blocks, HUGE_PAGE / 512);
  assert_int_equal(pread(fd, &byte, 1, 5), 1);
  assert_int_equal(byte, 'x');
  fd_close(&fd);
}

static void test_memfile_minds_the_limit_on_files(void **state) {
#ifdef MFD_ALLOW_SEALING
  assert_int_equal(limited(4096, data_is_refused), 0);
  assert_int_equal(limited(0, data_is_refused), 0);
  assert_int_equal(limited(4096, code_is_refused), 0);
  assert_int_equal(limited(8192, data_fits), 0);
#endif
  assert_int_equal(limited(4096, share_is_refused), 0);
  assert_int_equal(limited(0, share_is_refused), 0);
}

/* Whether a file is taken for memory of ours of a page; it is closed. */
static int is_ours(int fd, size_t size) {
  void *map = NULL;
  int r = share_map(fd, size, &map);
  assert_int_equal(share_is_memory(fd, size), r == 0);
  if (r == 0)
    share_unmap(map, size);
  else
    assert_int_equal(r, -EINVAL);
  fd_close(&fd);
  return r == 0;
}

static int shared(size_t size) {
  void *map;
  int fd;
  assert_int_equal(share_new(size, &fd, &map), 0);
  share_unmap(map, size);
  return fd;
}

static void test_share_map_takes_what_share_new_made_alone(void **state) {
#ifdef MFD_ALLOW_SEALING
  FILE *file = tmpfile();
  int ends[2];
  assert_true(is_ours(shared(4096), 4096));
  assert_true(is_ours(shared(100), 100));
  assert_false(is_ours(shared(4095), 4096));
  assert_false(is_ours(shared(8192), 4096));
  assert_false(is_ours(memfile_new("test", 4096, MEMFILE_DATA), 4096)); /* may shrink */
  assert_non_null(file);
  assert_int_equal(ftruncate(fileno(file), 4096), 0);
  assert_false(is_ours(dup(fileno(file)), 4096));
  fclose(file);
  assert_int_equal(pipe(ends), 0);
  assert_false(is_ours(ends[0], 4096));
  assert_false(is_ours(ends[1], 0));
  assert_false(is_ours(-1, 4096));
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_memfile_has_the_size_and_zeroes),
      census_test(test_memfile_of_code_can_be_executed),
      census_test(test_memfile_of_a_written_byte_becomes_a_huge_page),
      census_test(test_memfile_minds_the_limit_on_files),
      census_test(test_share_map_takes_what_share_new_made_alone),
  };
  return cmocka_run_group_tests_name("memfile", tests, NULL, NULL);
}
