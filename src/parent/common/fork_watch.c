#include "parent/common/fork_watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(struct fork_hook *) hooks;
static atomic_uint generation;

static void in_copy(void) {
  for (struct fork_hook *h = hooks; h; h = h->next)
    h->in_copy();
  generation++;
}

static void begin(void) {
  pthread_atfork(NULL, NULL, in_copy);
}

unsigned fork_generation(void) {
  pthread_once(&once, begin);
  return generation;
}

/* Called with a lock of its own held, or from one thread, for each hook. */
void fork_watch(struct fork_hook *hook) {
  if (hook->known)
    return;
  fork_generation();
  hook->known = 1;
  hook->next = hooks;
  while (!atomic_compare_exchange_weak(&hooks, &hook->next, hook))
    ;
}
