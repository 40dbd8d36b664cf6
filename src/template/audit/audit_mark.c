/* See audit_mark.h. Every fact becomes one number; what is longer is hashed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "template/audit/audit_mark.h"

#include "os/fd.h"
#include "os/proc.h"
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

unsigned audit_exit_handlers, audit_fork_handlers;
extern char **environ;

#define HASH_INIT UINT64_C(0x811c9dc5) /* FNV-1a, of numbers instead of bytes */

static uint64_t mix(uint64_t h, uint64_t number) {
  return (h ^ number) * UINT64_C(0x100000001b3);
}

static uint64_t hash(uint64_t h, const void *p, size_t n) {
  const unsigned char *bytes = p;
  for (size_t i = 0; i < n; i++)
    h = mix(h, bytes[i]);
  return h;
}

static void set_bit(int fd, void *data) {
  struct audit_mark *m = data;
  if (fd < (int)AUDIT_MARK_FDS)
    m->open[fd / 8] |= (unsigned char)(1 << fd % 8);
}

int audit_mark_has_fd(const struct audit_mark *m, int fd) {
  return fd < (int)AUDIT_MARK_FDS ? m->open[fd / 8] >> fd % 8 & 1 : 0;
}

enum { REALTIME_FIRST = 32 }; /* those below are the ones with names */

/* sigaction(2) of the C library does not tell of its own two, below 34. */
static void take_signals(struct audit_mark *m, const struct audit_mark_sources *sources,
                         int from, int to) {
  for (int s = from; s < to; s++) {
    struct sigaction action;
    if (s == SIGKILL || s == SIGSTOP || sigaction(s, NULL, &action) != 0 ||
        action.sa_handler == SIG_DFL || (sources->is_ours && sources->is_ours(&action)))
      continue;
    *(action.sa_handler == SIG_IGN ? &m->ignored : &m->caught) |= UINT64_C(1) << (s - 1);
  }
}

void audit_mark_add_realtime(struct audit_mark *m,
                             const struct audit_mark_sources *sources) {
  int end = NSIG < AUDIT_MARK_SIGNALS + 1 ? NSIG : AUDIT_MARK_SIGNALS + 1;
  take_signals(m, sources, REALTIME_FIRST, end);
}

static uint64_t directory(void) {
  struct stat st = {0};
  if (stat(".", &st) < 0)
    return 0;
  return mix(mix(HASH_INIT, st.st_dev), st.st_ino);
}

/* It can be asked only by setting it; another thread could make a file meanwhile. */
static uint64_t file_mask(int threads) {
  if (threads > 1)
    return 0;
  mode_t mask = umask(077);
  umask(mask);
  return (uint64_t)mask + 1;
}

static uint64_t affinity(void) {
#ifdef CPU_SETSIZE
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    return hash(HASH_INIT, &set, sizeof set);
#endif
  return 0;
}

static uint64_t credentials(void) {
  return mix(mix(mix(mix(HASH_INIT, getuid()), geteuid()), getgid()), getegid());
}

static uint64_t group(void) {
  return mix(mix(HASH_INIT, (uint64_t)getpgrp()), (uint64_t)getsid(0));
}

static uint64_t limits(void) {
  static const int resources[] = {
      RLIMIT_CPU,   RLIMIT_FSIZE,  RLIMIT_DATA, RLIMIT_STACK,
      RLIMIT_CORE,  RLIMIT_NOFILE, RLIMIT_AS,
#ifdef RLIMIT_NPROC
      RLIMIT_NPROC,
#endif
  };
  uint64_t h = HASH_INIT;
  for (size_t i = 0; i < sizeof resources / sizeof *resources; i++) {
    struct rlimit limit = {0};
    getrlimit(resources[i], &limit);
    h = mix(mix(h, limit.rlim_cur), limit.rlim_max);
  }
  return h;
}

static uint64_t locale(void) {
  const char *name = setlocale(LC_ALL, NULL);
  return name ? hash(HASH_INIT, name, strlen(name)) : 0;
}

/* A variable that is changed gets a new string. */
static uint64_t environment(void) {
  uint64_t h = HASH_INIT;
  for (char **e = environ; e && *e; e++)
    h = mix(h, (uint64_t)(uintptr_t)*e);
  return h;
}

static uint64_t signal_mask(void) {
  sigset_t set;
  uint64_t bits = 0;
  sigemptyset(&set);
  sigprocmask(SIG_SETMASK, NULL, &set);
  for (int s = 1; s < NSIG && s <= AUDIT_MARK_SIGNALS; s++)
    if (sigismember(&set, s) == 1)
      bits |= UINT64_C(1) << (s - 1);
  return bits;
}

static uint64_t signal_stack(void) {
  stack_t stack;
  return sigaltstack(NULL, &stack) == 0 && !(stack.ss_flags & SS_DISABLE);
}

static uint64_t timers(void) {
  static const int which[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
  uint64_t bits = 0;
  struct itimerval v;
  for (size_t i = 0; i < sizeof which / sizeof *which; i++)
    if (getitimer(which[i], &v) == 0 && (v.it_value.tv_sec || v.it_value.tv_usec))
      bits |= UINT64_C(1) << which[i];
  return bits;
}

static uint64_t children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

void audit_mark_take(struct audit_mark *m, lua_State *L,
                     const struct audit_mark_sources *sources) {
  memset(m, 0, sizeof *m);
  m->threads = proc_threads();
  fd_each(3, set_bit, m);
  take_signals(m, sources, 1, REALTIME_FIRST);
  uint64_t *f = m->fact;
  f[FACT_DIRECTORY] = directory();
  f[FACT_UMASK] = file_mask(m->threads);
  f[FACT_NICE] = (uint64_t)(int64_t)getpriority(PRIO_PROCESS, 0);
  f[FACT_AFFINITY] = affinity();
  f[FACT_CREDENTIALS] = credentials();
  f[FACT_GROUP] = group();
  f[FACT_LIMITS] = limits();
  f[FACT_LOCALE] = locale();
  f[FACT_ENVIRONMENT] = environment();
  f[FACT_SIGNAL_MASK] = signal_mask();
  f[FACT_SIGNAL_STACK] = signal_stack();
  f[FACT_TIMERS] = timers();
  f[FACT_CHILDREN] = children();
  f[FACT_COLLECTOR_STOPPED] = !lua_gc(L, LUA_GCISRUNNING);
  f[FACT_HOOK] = lua_gethook(L) != NULL;
  f[FACT_EXIT_HANDLERS] = audit_exit_handlers;
  f[FACT_FORK_HANDLERS] = audit_fork_handlers;
  if (sources->collector_mode)
    f[FACT_COLLECTOR_MODE] = (uint64_t)*sources->collector_mode;
  if (sources->random_state)
    f[FACT_RANDOM] = hash(HASH_INIT, sources->random_state, sources->random_size);
}
