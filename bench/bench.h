/* What the C contestants share: a clock, the arguments, and the way samples are printed.
 *
 *   CONTESTANT life COUNT INFLIGHT HEAP_MIB SPARES [PAUSE_US]
 *
 * A life: a process (or thread) is asked for, it writes one octet from the function it runs
 * and ends. Output: one line for each of COUNT lives, the microseconds from asking to the
 * octet's arrival, and at last "total SECONDS" for all of them, ends included. Lives of the
 * warm-up are not printed. HEAP_MIB is what the template holds in small tables. */
#ifndef BENCH_H
#define BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LIVES_MAX = 65536 };

struct plan {
  int count, warmup, inflight, heap_mib, spares, pause_us;
};

static inline double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline void give_up(const char *what) {
  perror(what);
  exit(1);
}

static inline int argument(int argc, char **argv, int i, int otherwise) {
  return argc > i ? atoi(argv[i]) : otherwise;
}

/* argv[first]: COUNT. */
static inline struct plan plan_read(int argc, char **argv, int first) {
  struct plan p = {.count = argument(argc, argv, first, 1000),
                   .inflight = argument(argc, argv, first + 1, 1),
                   .heap_mib = argument(argc, argv, first + 2, 0),
                   .spares = argument(argc, argv, first + 3, 0),
                   .pause_us = argument(argc, argv, first + 4, 0)};
  p.warmup = p.count / 5 > 20 ? p.count / 5 : 20;
  if (p.count > LIVES_MAX || p.count < 1 || p.inflight < 1) {
    fprintf(stderr, "usage: %s life COUNT INFLIGHT HEAP_MIB SPARES [PAUSE_US]\n", argv[0]);
    exit(2);
  }
  return p;
}

static inline void print_samples(const double *us, int n, double total_us) {
  for (int i = 0; i < n; i++)
    printf("%.1f\n", us[i]);
  printf("total %.6f\n", total_us / 1e6);
}

/* The Lua code that fills a template: tables of two fields, 136 octets each as malloc
 * counts them. */
static inline const char *heap_code(int mib) {
  static char code[160];
  snprintf(code, sizeof code, "big = {} for i = 1, %d do big[i] = {x = i, y = i} end",
           (int)((long long)mib * 1048576 / 136));
  return code;
}

#endif
