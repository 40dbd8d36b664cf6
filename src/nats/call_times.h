/* How long calls took, in classes that are at most 1/32 wide. Pure. */
#ifndef NATS_CALL_TIMES_H
#define NATS_CALL_TIMES_H

#include <moonfork.h>
#include <stdint.h>

enum { TIME_STEPS = 32, TIME_CLASSES = 40 * TIME_STEPS };

struct call_times {
  uint32_t count[TIME_CLASSES];
  uint64_t n, max_us;
};

void call_times_add(struct call_times *t, uint64_t us);
/* At most 1/32 too long; the longest is exact. */
void call_times_read(const struct call_times *t, mf_pool_times *ret);

#endif
