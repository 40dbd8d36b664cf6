/* What exists in this process at a moment, as far as a module may change it while it is
 * loaded: threads, descriptors, signals, and a number for each of the other facts, which
 * are only compared. Cheap enough to be taken before and after each require. Runs in
 * templates. */
#ifndef TEMPLATE_AUDIT_AUDIT_MARK_H
#define TEMPLATE_AUDIT_AUDIT_MARK_H

#include <lua.h>
#include <signal.h>
#include <stdint.h>

enum audit_fact {
  FACT_DIRECTORY,
  FACT_UMASK,
  FACT_NICE,
  FACT_AFFINITY,
  FACT_CREDENTIALS,
  FACT_GROUP,
  FACT_LIMITS,
  FACT_LOCALE,
  FACT_ENVIRONMENT,
  FACT_SIGNAL_MASK,
  FACT_SIGNAL_STACK,
  FACT_TIMERS,   /* a bit for each ITIMER_... that runs */
  FACT_CHILDREN, /* whether there are any */
  FACT_COLLECTOR_STOPPED,
  FACT_COLLECTOR_MODE,
  FACT_HOOK,
  FACT_RANDOM,        /* the state of math.random */
  FACT_EXIT_HANDLERS, /* how many */
  FACT_FORK_HANDLERS,
  FACT_COUNT
};

/* What a mark can't find by itself; each may be NULL. */
struct audit_mark_sources {
  const void *random_state; /* of math.random */
  size_t random_size;
  const int *collector_mode;
  int (*is_ours)(const struct sigaction *action); /* a handler of the library's */
};

struct audit_mark {
  int threads;
  unsigned char open[256];  /* a bit for each descriptor below 2,048 */
  uint64_t caught, ignored; /* signal n is bit n - 1 */
  uint64_t fact[FACT_COUNT];
};
enum {
  AUDIT_MARK_FDS = 8 * sizeof(((struct audit_mark *)0)->open),
  AUDIT_MARK_SIGNALS = 64
};

/* Without signals from 32 on, which take half of the time: they are added when somebody
 * asks for findings, and have no module's name. Never raises. */
void audit_mark_take(struct audit_mark *m, lua_State *L,
                     const struct audit_mark_sources *sources);
void audit_mark_add_realtime(struct audit_mark *m,
                             const struct audit_mark_sources *sources);
/* 0 or 1. */
int audit_mark_has_fd(const struct audit_mark *m, int fd);

/* Registrations that were seen (template/fork/atfork.c, atexit.c); 0 where they can't be.
 */
extern unsigned audit_exit_handlers, audit_fork_handlers;

#endif
