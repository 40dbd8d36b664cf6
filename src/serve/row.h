/* The row of a worker on the board of moonfork.server: which number stands where. The
 * worker writes it, from Lua or from http_core; the server reads it whenever it likes. */
#ifndef SERVE_ROW_H
#define SERVE_ROW_H

#include <stdint.h>

/* Durations in microseconds fall into buckets: eight for each power of two, so a
 * percentile is at most an eighth too large. */
enum {
  ROW_SUB_BITS = 3,
  ROW_SUBS = 1 << ROW_SUB_BITS,
  ROW_POWERS = 37,
  ROW_BUCKETS = ROW_SUBS * (ROW_POWERS + 1)
};

enum row_cell {
  ROW_PID,
  ROW_BUSY,      /* 1: at a request */
  ROW_SINCE,     /* when that began, microseconds */
  ROW_REQUESTS,  /* served */
  ROW_ERRORS,    /* whose function raised */
  ROW_OPEN,      /* connections */
  ROW_TIMED_OUT, /* 1: the server has given up the request */
  ROW_DRAINING,  /* 1: the worker was asked by SIGTERM to end */
  ROW_LATENCY,   /* the buckets of durations */
  ROW_CELLS = ROW_LATENCY + ROW_BUCKETS
};

/* Microseconds of the clock that all processes have in common (CLOCK_MONOTONIC). */
int64_t row_now(void);
unsigned row_bucket_of(uint64_t us);
/* The longest duration of a bucket. */
uint64_t row_bucket_end(unsigned bucket);
void row_count(int64_t *row, int64_t us, int has_failed);
/* A request begins, and ends; the second gives its duration. */
void row_begin(int64_t *row, int64_t now);
int64_t row_end(int64_t *row, int64_t now, int has_failed);
int64_t row_get(const int64_t *row, enum row_cell cell);
void row_set(int64_t *row, enum row_cell cell, int64_t value);

#endif
