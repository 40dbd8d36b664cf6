/* What the birth of a clone needs of libc, in the program itself. Linked into
 * moonfork-template only; runs in templates and clones.
 *
 * A forked process begins without libc's code: the first call into each 64 KiB of it is a
 * page fault of 3.3 us (with its teardown), and a life that calls ten functions takes ten
 * of them, a fifth of what a process costs. So the program brings these functions along,
 * beside its own code. They are hidden: libraries and modules go on using libc's.
 *
 *   functions                            why they are called at birth
 *   syscall, close, sendmsg, recvmsg,    the birth itself, the answer, the title
 *   poll, ppoll, prctl, getpid, getppid,
 *   fcntl, getentropy, sigprocmask,
 *   pthread_sigmask, sigemptyset, _exit
 *   __errno_location                     whoever looks at errno
 *   strlen, strcmp, strchr, strnlen,     Lua and the body of a FORK
 *   memcpy, memmove, memset, memcmp,
 *   memchr
 *   _setjmp, longjmp                     lua_pcall
 *
 * Long strings and blocks go to libc's functions, which are faster from some hundred
 * bytes on. Left out of builds with sanitizers, which want to see these calls, of builds
 * that count lines (os/coverage.c has their _exit), and of machines other than x86-64
 * with glibc (meson.build). */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define OURS __attribute__((visibility("hidden"), noinline, hot))

enum { SHORT = 128 }; /* bytes that are looked at here */

/* libc's. Set by the constructor; until then everything is short. */
static struct {
  void *(*memcpy)(void *, const void *, size_t);
  void *(*memmove)(void *, const void *, size_t);
  void *(*memset)(void *, int, size_t);
  int (*memcmp)(const void *, const void *, size_t);
  void *(*memchr)(const void *, int, size_t);
  size_t (*strlen)(const char *);
  int (*strcmp)(const char *, const char *);
  char *(*strchr)(const char *, int);
} libc;
static ptrdiff_t errno_offset; /* from the thread pointer: the same in each thread */

/* ---- system calls ---- */

OURS int *__errno_location(void) {
  if (!errno_offset) {
    int *(*location)(void);
    *(void **)&location = dlsym(RTLD_NEXT, "__errno_location"); /* as POSIX has it */
    errno_offset = (char *)location() - (char *)__builtin_thread_pointer();
  }
  return (int *)(void *)((char *)__builtin_thread_pointer() + errno_offset);
}

static inline long call(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long r;
  __asm__ volatile("syscall"
                   : "=a"(r)
                   : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  if (r < 0 && r > -4096) {
    errno = (int)-r;
    return -1;
  }
  return r;
}

OURS long syscall(long n, ...) {
  va_list list;
  long a[6];
  va_start(list, n);
  for (int i = 0; i < 6; i++)
    a[i] = va_arg(list, long);
  va_end(list);
  return call(n, a[0], a[1], a[2], a[3], a[4], a[5]);
}
OURS int close(int fd) {
  return (int)call(SYS_close, fd, 0, 0, 0, 0, 0);
}
OURS ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
  return call(SYS_sendmsg, fd, (long)m, flags, 0, 0, 0);
}
OURS ssize_t recvmsg(int fd, struct msghdr *m, int flags) {
  return call(SYS_recvmsg, fd, (long)m, flags, 0, 0, 0);
}
OURS int poll(struct pollfd *p, nfds_t n, int timeout) {
  return (int)call(SYS_poll, (long)p, (long)n, timeout, 0, 0, 0);
}
OURS int ppoll(struct pollfd *p, nfds_t n, const struct timespec *timeout,
               const sigset_t *mask) {
  struct timespec left; /* the kernel writes what is left of it */
  if (timeout)
    left = *timeout;
  return (int)call(SYS_ppoll, (long)p, (long)n, (long)(timeout ? &left : NULL),
                   (long)mask, _NSIG / 8, 0);
}
OURS pid_t getpid(void) {
  return (pid_t)call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}
OURS pid_t getppid(void) {
  return (pid_t)call(SYS_getppid, 0, 0, 0, 0, 0, 0);
}
OURS int prctl(int option, ...) {
  va_list list;
  long a[4];
  va_start(list, option);
  for (int i = 0; i < 4; i++)
    a[i] = va_arg(list, long);
  va_end(list);
  return (int)call(SYS_prctl, option, a[0], a[1], a[2], a[3], 0);
}
OURS int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  return (int)call(SYS_fcntl, fd, command, argument, 0, 0, 0);
}
OURS int getentropy(void *to, size_t n) {
  if (n > 256) {
    errno = EIO;
    return -1;
  }
  return call(SYS_getrandom, (long)to, (long)n, 0, 0, 0, 0) == (long)n ? 0 : -1;
}
/* libc's keep its two internal signals out of the set; nobody here blocks them but for a
 * moment. */
OURS int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
  return (int)call(SYS_rt_sigprocmask, how, (long)set, (long)old, _NSIG / 8, 0, 0);
}
OURS int sigemptyset(sigset_t *set) {
  *set = (sigset_t){{0}};
  return 0;
}
OURS int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  return sigprocmask(how, set, old) < 0 ? errno : 0;
}
OURS void _exit(int status) {
  for (;;)
    call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

/* ---- strings and blocks ---- */

OURS size_t strlen(const char *s) {
  size_t n = 0;
  while (s[n]) {
    if (++n == SHORT && libc.strlen)
      return n + libc.strlen(s + n);
  }
  return n;
}
OURS size_t strnlen(const char *s, size_t most) {
  size_t n = 0;
  while (n < most && s[n])
    n++;
  return n;
}
OURS int strcmp(const char *a, const char *b) {
  size_t i = 0;
  while (a[i] && a[i] == b[i]) {
    if (++i == SHORT && libc.strcmp)
      return libc.strcmp(a + i, b + i);
  }
  return (unsigned char)a[i] - (unsigned char)b[i];
}
OURS char *strchr(const char *s, int c) {
  for (size_t i = 0;; i++) {
    if (i == SHORT && libc.strchr)
      return libc.strchr(s + i, c);
    if (s[i] == (char)c)
      return (char *)s + i;
    if (!s[i])
      return NULL;
  }
}
OURS void *memchr(const void *s, int c, size_t n) {
  const unsigned char *p = s;
  for (size_t i = 0; i < n; i++) {
    if (i == SHORT && libc.memchr)
      return libc.memchr(p + i, c, n - i);
    if (p[i] == (unsigned char)c)
      return (unsigned char *)p + i;
  }
  return NULL;
}
OURS int memcmp(const void *a, const void *b, size_t n) {
  const unsigned char *x = a, *y = b;
  for (size_t i = 0; i < n; i++) {
    if (i == SHORT && libc.memcmp)
      return libc.memcmp(x + i, y + i, n - i);
    if (x[i] != y[i])
      return x[i] - y[i];
  }
  return 0;
}

typedef uint64_t __attribute__((may_alias, aligned(1))) word;
typedef uint32_t __attribute__((may_alias, aligned(1))) half;

/* All is read before anything is written where the two may overlap: up to 16 bytes. */
static inline void copy_16(unsigned char *d, const unsigned char *s, size_t n) {
  if (n >= 8) {
    word first = *(const word *)s, last = *(const word *)(s + n - 8);
    *(word *)d = first;
    *(word *)(d + n - 8) = last;
  } else if (n >= 4) {
    half first = *(const half *)s, last = *(const half *)(s + n - 4);
    *(half *)d = first;
    *(half *)(d + n - 4) = last;
  } else if (n > 0) {
    unsigned char first = s[0], middle = s[n / 2], last = s[n - 1];
    d[0] = first;
    d[n / 2] = middle;
    d[n - 1] = last;
  }
}
static inline void copy_forwards(unsigned char *d, const unsigned char *s, size_t n) {
  for (; n > 16; d += 16, s += 16, n -= 16) {
    word first = *(const word *)s, second = *(const word *)(s + 8);
    *(word *)d = first;
    *(word *)(d + 8) = second;
  }
  copy_16(d, s, n);
}
OURS void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  if (n <= 16)
    copy_16(to, from, n);
  else if (n <= SHORT || !libc.memcpy)
    copy_forwards(to, from, n);
  else if (to != from) /* a long argument is copied onto itself: gather.c, heap_offer */
    return libc.memcpy(to, from, n);
  return to;
}
OURS void *memmove(void *to, const void *from, size_t n) {
  unsigned char *d = to;
  const unsigned char *s = from;
  if (n <= 16) {
    copy_16(d, s, n);
  } else if ((d <= s || d >= s + n) && (n <= SHORT || !libc.memmove)) {
    copy_forwards(d, s, n);
  } else if (libc.memmove) {
    return libc.memmove(to, from, n);
  } else {
    while (n--)
      d[n] = s[n];
  }
  return to;
}
OURS void *memset(void *to, int c, size_t n) {
  unsigned char *d = to;
  uint64_t pattern = (unsigned char)c * (uint64_t)0x0101010101010101;
  if (n > 2 * SHORT && libc.memset)
    return libc.memset(to, c, n);
  for (; n >= 8; d += 8, n -= 8)
    *(word *)d = pattern;
  while (n--)
    d[n] = (unsigned char)c;
  return to;
}

/* ---- lua_pcall ---- */

/* glibc's pair hides the pointers that it saves, and needs a page of its code for that.
 * All names that the program's objects may use are here, for either half alone is of no
 * use. */
__asm__(".section .text.hot,\"ax\",@progbits\n"
        ".hidden _setjmp, longjmp, _longjmp, __longjmp_chk\n"
        ".globl _setjmp, longjmp, _longjmp, __longjmp_chk\n"
        ".type _setjmp, @function\n"
        "_setjmp:\n"
        "  movq %rbx, (%rdi)\n"
        "  movq %rbp, 8(%rdi)\n"
        "  movq %r12, 16(%rdi)\n"
        "  movq %r13, 24(%rdi)\n"
        "  movq %r14, 32(%rdi)\n"
        "  movq %r15, 40(%rdi)\n"
        "  leaq 8(%rsp), %rdx\n" /* as it will be after the return */
        "  movq %rdx, 48(%rdi)\n"
        "  movq (%rsp), %rdx\n"
        "  movq %rdx, 56(%rdi)\n"
        "  xorl %eax, %eax\n"
        "  ret\n"
        ".size _setjmp, .-_setjmp\n"
        ".type longjmp, @function\n"
        "longjmp:\n"
        "_longjmp:\n"
        "__longjmp_chk:\n"
        "  movl %esi, %eax\n"
        "  testl %eax, %eax\n"
        "  jnz 1f\n"
        "  incl %eax\n"
        "1: movq (%rdi), %rbx\n"
        "  movq 8(%rdi), %rbp\n"
        "  movq 16(%rdi), %r12\n"
        "  movq 24(%rdi), %r13\n"
        "  movq 32(%rdi), %r14\n"
        "  movq 40(%rdi), %r15\n"
        "  movq 48(%rdi), %rsp\n"
        "  jmpq *56(%rdi)\n"
        ".size longjmp, .-longjmp\n"
        ".text\n");

/* ---- once ---- */

static void *libcs(const char *name) {
  return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor(101))) static void find_libc(void) {
  (void)__errno_location();
  *(void **)&libc.memmove = libcs("memmove");
  *(void **)&libc.memset = libcs("memset");
  *(void **)&libc.memcmp = libcs("memcmp");
  *(void **)&libc.memchr = libcs("memchr");
  *(void **)&libc.strlen = libcs("strlen");
  *(void **)&libc.strcmp = libcs("strcmp");
  *(void **)&libc.strchr = libcs("strchr");
  *(void **)&libc.memcpy = libcs("memcpy");
}
