#include "template/fork/libc_fork.h"

#include <errno.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#if defined(__x86_64__) && defined(__GLIBC__) &&                                         \
    defined(PR_SET_SYSCALL_USER_DISPATCH) && !defined(__SANITIZE_THREAD__)

#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>

struct kernel_action { /* as rt_sigaction has it */
  void (*handler)(int, siginfo_t *, void *);
  unsigned long flags;
  void (*restorer)(void);
  uint64_t mask;
};
/* SA_RESTORER and SYS_USER_DISPATCH, which libc does not tell */
enum { RESTORER = 0x04000000, DISPATCHED = 2 };
static const uint64_t sigsys = UINT64_C(1) << (SIGSYS - 1);

/* What the kernel looks at before each system call, and whose number is to be where. */
static volatile char selector;
static volatile uint32_t *told;

/* The end of a handler is a system call as well: it lies where calls are let through. */
__asm__(".pushsection .text\n"
        ".balign 16\n" /* global, for what optimises all files together parts them */
        ".globl libc_fork_restorer, libc_fork_restorer_end\n"
        ".hidden libc_fork_restorer, libc_fork_restorer_end\n"
        "libc_fork_restorer:\n"
        "  mov $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        "libc_fork_restorer_end:\n"
        "  ud2\n"
        ".popsection\n");
void restorer(void) __asm__("libc_fork_restorer");
void restorer_end(void) __asm__("libc_fork_restorer_end");

static long call(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long r;
  __asm__ volatile("syscall"
                   : "=a"(r)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return r;
}

static int change_action(const struct kernel_action *to, struct kernel_action *ret) {
  return (int)call(SYS_rt_sigaction, SIGSYS, (long)to, (long)ret, sizeof to->mask, 0, 0);
}

/* The mask that holds after the handler; never with SIGSYS, which would end the process
 * at the next call. */
static long change_mask(ucontext_t *u, const greg_t *g) {
  const uint64_t *set = (const uint64_t *)g[REG_RSI];
  uint64_t *old = (uint64_t *)g[REG_RDX], now, next;
  memcpy(&now, &u->uc_sigmask, sizeof now);
  next = now;
  if (set)
    switch (g[REG_RDI]) {
    case SIG_BLOCK:
      next |= *set;
      break;
    case SIG_UNBLOCK:
      next &= ~*set;
      break;
    default:
      next = *set;
    }
  next &= ~sigsys;
  memcpy(&u->uc_sigmask, &next, sizeof next);
  if (old)
    *old = now;
  return 0;
}

/* In both processes. */
static long make_sibling(const greg_t *g) {
  long flags = g[REG_RDI] | CLONE_PARENT | CLONE_PARENT_SETTID;
  long r = call(SYS_clone, flags, g[REG_RSI], (long)told, g[REG_R10], g[REG_R8], 0);
  told = NULL;
  return r;
}

/* A signal that somebody has sent, or a filter of system calls: as without a handler. */
static void end_by_signal(void) {
  static const struct kernel_action usual = {0};
  change_action(&usual, NULL);
  call(SYS_kill, call(SYS_getpid, 0, 0, 0, 0, 0, 0), SIGSYS, 0, 0, 0, 0);
}

static void on_call(int signum, siginfo_t *info, void *context) {
  ucontext_t *u = context;
  greg_t *g = u->uc_mcontext.gregs;
  (void)signum;
  selector = SYSCALL_DISPATCH_FILTER_ALLOW;
  if (info->si_code != DISPATCHED) {
    end_by_signal();
    return;
  }
  switch (info->si_syscall) {
  case SYS_clone:
    if (!(g[REG_RDI] & CLONE_VM)) {
      g[REG_RAX] = make_sibling(g);
      return; /* handlers after it are called as ever */
    }
    g[REG_RAX] = -ENOSYS; /* a thread, in a prepare handler: not from here */
    break;
  case SYS_clone3: /* libc takes clone then */
  case SYS_vfork:
    g[REG_RAX] = -ENOSYS;
    break;
  case SYS_rt_sigprocmask:
    g[REG_RAX] = change_mask(u, g);
    break;
  case SYS_rt_sigreturn: /* the end of another handler, with the stack as it left it */
    g[REG_RIP] = (greg_t)(uintptr_t)restorer;
    break;
  default:
    g[REG_RAX] = call(info->si_syscall, g[REG_RDI], g[REG_RSI], g[REG_RDX], g[REG_R10],
                      g[REG_R8], g[REG_R9]);
  }
  selector = SYSCALL_DISPATCH_FILTER_BLOCK;
}

static int dispatch(int on) {
  if (!on)
    return (int)call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, on, 0, 0, 0, 0);
  return (int)call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, on, (long)restorer,
                   (long)restorer_end - (long)restorer + 1, (long)&selector, 0);
}

/* Where somebody handles SIGSYS, he makes system calls in a way of his own. So does
 * valgrind, where the kernel's own library is hidden: it would die of SIGSYS. */
static int begin(struct kernel_action *ret_before) {
  static const struct kernel_action ours = {on_call, SA_SIGINFO | SA_NODEFER | RESTORER,
                                            restorer, 0};
  selector = SYSCALL_DISPATCH_FILTER_ALLOW;
  if (!getauxval(AT_SYSINFO_EHDR) || change_action(NULL, ret_before) < 0 ||
      ret_before->handler || change_action(&ours, NULL) < 0)
    return -1;
  if (dispatch(PR_SYS_DISPATCH_ON) == 0)
    return 0;
  change_action(ret_before, NULL);
  return -1;
}

pid_t libc_fork_sibling(volatile uint32_t *pid) {
  struct kernel_action before = {0};
  uint64_t mask = 0;
  if (begin(&before) < 0) {
    errno = ENOSYS;
    return -1;
  }
  call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&sigsys, (long)&mask, sizeof mask, 0, 0);
  told = pid;
  selector = SYSCALL_DISPATCH_FILTER_BLOCK;
  pid_t r = fork();
  selector = SYSCALL_DISPATCH_FILTER_ALLOW;
  dispatch(PR_SYS_DISPATCH_OFF); /* a new process has none, and may say so again */
  change_action(&before, NULL);
  call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, sizeof mask, 0, 0);
  if (told) /* libc has asked for no clone */
    errno = ENOSYS;
  told = NULL;
  return r;
}

#else

pid_t libc_fork_sibling(volatile uint32_t *pid) {
  (void)pid;
  errno = ENOSYS;
  return -1;
}

#endif
