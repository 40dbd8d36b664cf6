/* A histogram of the times of the last 4,096 to 8,192 calls, in bounded memory: two
 * windows of 4,096, of which the older one is dropped when the newer one is full. Up to
 * 63 microseconds a time is exact, above that it is told at most 1/32 too long (3.2 %);
 * the longest of the windows is exact. Pure. */
#ifndef PARENT_LATENCY_H
#define PARENT_LATENCY_H

#include <stdint.h>

enum {
  LATENCY_WINDOW = 4096,
  LATENCY_SUB = 32,      /* buckets for each power of two */
  LATENCY_BITS_MAX = 42, /* of a time: a longer one counts as 51 days */
  LATENCY_BUCKETS = LATENCY_SUB * (LATENCY_BITS_MAX - 4)
};

struct latency { /* zeros: no call yet */
  struct latency_window {
    uint64_t max_us;
    uint16_t total, count[LATENCY_BUCKETS];
  } window[2];
  unsigned at; /* the newer one */
};

void latency_add(struct latency *l, uint64_t us);
/* The time that `percent` of them did not exceed, 100: the longest; 0 when there is none.
 */
uint64_t latency_at(const struct latency *l, unsigned percent);

#endif
