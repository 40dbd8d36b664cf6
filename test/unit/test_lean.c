/* The program's own versions of libc's functions (lean.c), linked into this test as into
 * the template program: each does what libc's does, for every length around its limits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 700 };

static void fill(unsigned char *p, size_t n, unsigned seed) {
  for (size_t i = 0; i < n; i++)
    p[i] = (unsigned char)(seed = seed * 1103515245 + 12345, seed >> 16);
}

static void test_lean_is_what_this_program_calls(void **state) {
  (void)state;
  assert_int_not_equal((uintptr_t)memcpy, (uintptr_t)dlsym(RTLD_NEXT, "memcpy"));
  assert_int_not_equal((uintptr_t)close, (uintptr_t)dlsym(RTLD_NEXT, "close"));
}

static void test_lean_copies_every_length(void **state) {
  static unsigned char from[MOST + 2], to[MOST + 2], set[MOST + 2];
  (void)state;
  fill(from, sizeof from, 1);
  for (size_t n = 0; n <= MOST; n++) {
    for (size_t i = 0; i < sizeof to; i++)
      to[i] = set[i] = 0xee;
    assert_ptr_equal(memcpy(to + 1, from + 1, n), to + 1);
    assert_ptr_equal(memset(set + 1, 0x5a, n), set + 1);
    for (size_t i = 0; i < sizeof to; i++) {
      int inside = i >= 1 && i < n + 1;
      assert_int_equal(to[i], inside ? from[i] : 0xee);
      assert_int_equal(set[i], inside ? 0x5a : 0xee);
    }
  }
}

static void test_lean_moves_what_overlaps(void **state) {
  static unsigned char moved[2 * MOST], expected[2 * MOST], copy[2 * MOST];
  (void)state;
  for (size_t n = 0; n <= MOST; n += n < 40 ? 1 : 37)
    for (int by = -40; by <= 40; by++) {
      fill(moved, sizeof moved, (unsigned)n);
      for (size_t i = 0; i < sizeof moved; i++)
        copy[i] = expected[i] = moved[i];
      for (size_t i = 0; i < n; i++)
        expected[(size_t)(100 + by) + i] = copy[100 + i];
      memmove(moved + 100 + by, moved + 100, n);
      for (size_t i = 0; i < sizeof moved; i++)
        assert_int_equal(moved[i], expected[i]);
    }
}

static int sign(int x) {
  return (x > 0) - (x < 0);
}

static void test_lean_compares_and_finds(void **state) {
  static char a[MOST + 1], b[MOST + 1];
  (void)state;
  for (size_t n = 0; n < MOST; n++) {
    for (size_t i = 0; i < MOST; i++)
      a[i] = b[i] = i < n ? 'a' : 0;
    assert_int_equal(strlen(a), n);
    assert_int_equal(strnlen(a, n / 2), n / 2);
    assert_int_equal(strcmp(a, b), 0);
    assert_int_equal(memcmp(a, b, n), 0);
    assert_null(strchr(a, 'b'));
    assert_ptr_equal(strchr(a, 0), a + n);
    assert_null(memchr(a, 'b', n));
    if (n == 0)
      continue;
    b[n - 1] = (char)0xe4;
    assert_int_equal(sign(strcmp(a, b)), -1);
    assert_int_equal(sign(strcmp(b, a)), 1);
    assert_int_equal(sign(memcmp(a, b, n)), -1);
    assert_int_equal(memcmp(a, b, n - 1), 0);
    assert_ptr_equal(strchr(b, 0xe4), b + n - 1);
    assert_ptr_equal(memchr(b, 0xe4, n), b + n - 1);
    b[n - 1] = 0;
    assert_int_equal(sign(strcmp(a, b)), 1);
  }
}

static void *fails_in_thread(void *data) {
  errno = 0;
  close(-1);
  *(int *)data = errno;
  return NULL;
}

static void test_lean_errno_is_each_threads_own(void **state) {
  pthread_t thread;
  int *(*location)(void), *libcs, seen = 0;
  (void)state;
  *(void **)&location = dlsym(RTLD_NEXT, "__errno_location");
  libcs = location();
  assert_ptr_equal(&errno, libcs);
  errno = 77;
  assert_int_equal(pthread_create(&thread, NULL, fails_in_thread, &seen), 0);
  pthread_join(thread, NULL);
  assert_int_equal(seen, EBADF);
  assert_int_equal(errno, 77);
  assert_int_equal(syscall(SYS_close, -1), -1);
  assert_int_equal(errno, EBADF);
}

static void test_lean_calls_the_system(void **state) {
  sigset_t all, old, now;
  char bytes[300] = {0};
  int fd[2];
  (void)state;
  assert_int_equal(pipe(fd), 0);
  assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
  assert_true(fcntl(fd[0], F_GETFL) & O_NONBLOCK);
  assert_int_equal(close(fd[0]), 0);
  assert_int_equal(close(fd[1]), 0);
  assert_int_equal(getentropy(bytes, 256), 0);
  assert_int_equal(getentropy(bytes, 257), -1);
  assert_int_equal(errno, EIO);
  assert_int_equal(getpid(), (pid_t)syscall(SYS_getpid));
  sigfillset(&all);
  assert_int_equal(pthread_sigmask(SIG_SETMASK, &all, &old), 0);
  sigemptyset(&now);
  assert_int_equal(sigprocmask(SIG_SETMASK, &old, &now), 0);
  assert_int_equal(sigismember(&now, SIGUSR1), 1);
  assert_int_equal(pthread_sigmask(99, &all, NULL), EINVAL);
}

static jmp_buf place;

static __attribute__((noinline)) int jump(int depth, int value) {
  volatile char room[256];
  room[0] = (char)depth;
  if (depth == 0)
    longjmp(place, value);
  return value < 0 ? room[0] : jump(depth - 1, value) + 1;
}

static void test_lean_jumps_back(void **state) {
  volatile int kept = 5;
  (void)state;
  for (int value = 0; value < 3; value++) {
    int r = _setjmp(place);
    if (r == 0) {
      kept = 6 + value;
      jump(20, value);
    }
    assert_int_equal(r, value ? value : 1);
    assert_int_equal(kept, 6 + value);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lean_is_what_this_program_calls),
      cmocka_unit_test(test_lean_copies_every_length),
      cmocka_unit_test(test_lean_moves_what_overlaps),
      cmocka_unit_test(test_lean_compares_and_finds),
      cmocka_unit_test(test_lean_errno_is_each_threads_own),
      cmocka_unit_test(test_lean_calls_the_system),
      cmocka_unit_test(test_lean_jumps_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
