/* What exists in this process at a moment, as far as a module may change it while it is
 * loaded: threads, descriptors, signals, and a number for each of the other facts, which
 * are only compared. Cheap enough to be taken before and after each require. Runs in
 * templates. */
#ifndef TEMPLATE_AUDIT_MARK_H
#define TEMPLATE_AUDIT_MARK_H

#include <lua.h>
#include <stdint.h>

enum mark_fact {
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
struct mark_sources {
  const void *random_state; /* of math.random */
  size_t random_size;
  const int *collector_mode;
};

struct mark {
  int threads;
  unsigned char open[256];  /* a bit for each descriptor below 2,048 */
  uint64_t caught, ignored; /* signal n is bit n - 1 */
  uint64_t fact[FACT_COUNT];
};
enum { MARK_FDS = 8 * sizeof(((struct mark *)0)->open), MARK_SIGNALS = 64 };

/* Never raises. */
void mark_take(struct mark *m, lua_State *L, const struct mark_sources *sources);
/* 0 or 1. */
int mark_has_fd(const struct mark *m, int fd);

/* Registrations that were seen (template/fork/atfork.c, atexit.c); 0 where they can't be.
 */
extern unsigned mark_exit_handlers, mark_fork_handlers;

#endif
