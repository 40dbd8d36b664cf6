/* Numbers of a worker (row.h). */
#include "serve/row.h"

#include <time.h>

int64_t row_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

unsigned row_bucket_of(uint64_t us) {
  if (us < ROW_SUBS)
    return (unsigned)us;
  unsigned power = 63u - (unsigned)__builtin_clzll(us);
  unsigned bucket = (power - ROW_SUB_BITS + 1) * ROW_SUBS +
                    (unsigned)(us >> (power - ROW_SUB_BITS) & (ROW_SUBS - 1));
  return bucket < ROW_BUCKETS ? bucket : ROW_BUCKETS - 1;
}

uint64_t row_bucket_end(unsigned bucket) {
  if (bucket < ROW_SUBS)
    return bucket;
  unsigned power = bucket / ROW_SUBS + ROW_SUB_BITS - 1;
  uint64_t width = 1ull << (power - ROW_SUB_BITS);
  return (1ull << power) + (bucket % ROW_SUBS + 1) * width - 1;
}

int64_t row_get(const int64_t *row, enum row_cell cell) {
  return __atomic_load_n(row + cell, __ATOMIC_RELAXED);
}

void row_set(int64_t *row, enum row_cell cell, int64_t value) {
  __atomic_store_n(row + cell, value, __ATOMIC_RELAXED);
}

void row_begin(int64_t *row, int64_t now) {
  row_set(row, ROW_SINCE, now);
  row_set(row, ROW_BUSY, 1);
}

/* The worker alone writes its row, so what it adds to is its own. */
static void add_one(int64_t *row, unsigned cell) {
  __atomic_store_n(row + cell, __atomic_load_n(row + cell, __ATOMIC_RELAXED) + 1,
                   __ATOMIC_RELAXED);
}

void row_count(int64_t *row, int64_t us, int has_failed) {
  add_one(row, ROW_REQUESTS);
  if (has_failed)
    add_one(row, ROW_ERRORS);
  add_one(row, ROW_LATENCY + row_bucket_of(us < 0 ? 0 : (uint64_t)us));
}

int64_t row_end(int64_t *row, int64_t now, int has_failed) {
  int64_t us = now - row_get(row, ROW_SINCE);
  row_set(row, ROW_BUSY, 0);
  row_count(row, us, has_failed);
  return us;
}
