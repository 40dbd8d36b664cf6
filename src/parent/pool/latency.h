/* A small histogram of times that forgets: about the last 4,096 to 8,192. Pure. */
#ifndef PARENT_LATENCY_H
#define PARENT_LATENCY_H

#include <stdint.h>

enum { LATENCY_BUCKETS = 8 * 64 }; /* eight for each power of two: right to an eighth */
struct latency {
  uint32_t count[LATENCY_BUCKETS], total;
};
void latency_add(struct latency *l, uint64_t us);
/* The time that `percent` of them did not exceed; 0 when there is none. */
uint64_t latency_at(const struct latency *l, unsigned percent);

#endif
