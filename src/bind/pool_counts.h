/* The numbers of a pool that stats() gives, in Lua 5.4 and in other versions: each is a
 * field of mf_pool_info, and has its name. Pure. */
#ifndef BIND_POOL_COUNTS_H
#define BIND_POOL_COUNTS_H

/* clang-format off */
#define POOL_COUNTS(X)                                                                   \
  X(max) X(workers) X(idle) X(starting) X(leaving) X(queued) X(running)                  \
  X(calls) X(done) X(failed) X(refused) X(timeouts) X(cancelled) X(retried) X(late)      \
  X(started) X(deaths) X(recycled) X(retired) X(killed)                                  \
  X(templates) X(template_starts) X(reloads) X(promotions) X(events) X(memory)
/* clang-format on */

#endif
