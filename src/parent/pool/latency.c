#include "parent/pool/latency.h"

enum { SUB = 8, FORGET_AT = 8192 };

static unsigned bucket_of(uint64_t us) {
  unsigned shift = 0;
  while (us >> shift >= 2 * SUB)
    shift++;
  return shift * SUB + (unsigned)(us >> shift);
}

/* The greatest time of a bucket. */
static uint64_t limit_of(unsigned bucket) {
  unsigned shift = bucket < 2 * SUB ? 0 : bucket / SUB - 1;
  return ((uint64_t)(bucket - shift * SUB + 1) << shift) - 1;
}

void latency_add(struct latency *l, uint64_t us) {
  unsigned b = bucket_of(us < (UINT64_C(1) << 60) ? us : UINT64_C(1) << 60);
  l->count[b]++;
  if (++l->total < FORGET_AT)
    return;
  l->total = 0;
  for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
    l->total += l->count[i] /= 2;
}

uint64_t latency_at(const struct latency *l, unsigned percent) {
  uint64_t wanted = ((uint64_t)l->total * percent + 99) / 100, seen = 0;
  if (!l->total)
    return 0;
  for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
    seen += l->count[i];
    if (seen >= wanted)
      return limit_of(i);
  }
  return 0;
}
