#include "parent/pool/latency.h"

#include <string.h>

static unsigned bucket_of(uint64_t us) {
  unsigned shift = 0;
  if (us >= 2 * LATENCY_SUB)
    shift = 58 - (unsigned)__builtin_clzll(us); /* so that six bits are left */
  return shift * LATENCY_SUB + (unsigned)(us >> shift);
}

/* The longest time of a bucket. */
static uint64_t limit_of(unsigned bucket) {
  unsigned shift = bucket < 2 * LATENCY_SUB ? 0 : bucket / LATENCY_SUB - 1;
  return ((uint64_t)(bucket - shift * LATENCY_SUB + 1) << shift) - 1;
}

void latency_add(struct latency *l, uint64_t us) {
  const uint64_t most = (UINT64_C(1) << LATENCY_BITS_MAX) - 1;
  struct latency_window *w = &l->window[l->at];
  if (us > most)
    us = most;
  if (w->total == LATENCY_WINDOW) {
    l->at ^= 1;
    w = &l->window[l->at];
    memset(w, 0, sizeof *w);
  }
  w->total++;
  w->count[bucket_of(us)]++;
  if (us > w->max_us)
    w->max_us = us;
}

uint64_t latency_at(const struct latency *l, unsigned percent) {
  const struct latency_window *a = &l->window[0], *b = &l->window[1];
  uint64_t max = a->max_us > b->max_us ? a->max_us : b->max_us, seen = 0, us;
  unsigned total = (unsigned)a->total + b->total, wanted = (total * percent + 99) / 100;
  if (!total || percent >= 100)
    return max;
  for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
    seen += (uint64_t)a->count[i] + b->count[i];
    if (seen < wanted)
      continue;
    us = limit_of(i);
    return us < max ? us : max;
  }
  return max;
}
