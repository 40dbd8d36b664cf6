/* What the C contestants share: a clock, the arguments, and the slices of their work.
 *
 *   CONTESTANT spawn|first [INFLIGHT [HEAP_MIB [SPARES [PAUSE_US]]]]
 *
 * A contestant is a coprocess of run.lua. For each number that it reads from standard
 * input it makes so many processes and answers with one line: the microseconds that all
 * of them took, ends included, and, for "first", the microseconds of each from before its
 * fork to the arrival of the byte that a Lua function wrote in it. With "spawn" the
 * function does nothing. HEAP_MIB is what the template holds in small tables. PAUSE_US:
 * before each process, one at a time, so long a sleep, and all SPARES are there again;
 * neither is counted. End of file ends it. */
#ifndef BENCH_H
#define BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SLICE_MAX = 65536 };

struct plan {
  int first, inflight, heap_mib, spares, pause_us;
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

static inline struct plan plan_read(int argc, char **argv) {
  struct plan p = {.first = argc > 1 && strcmp(argv[1], "first") == 0,
                   .inflight = argument(argc, argv, 2, 1),
                   .heap_mib = argument(argc, argv, 3, 0),
                   .spares = argument(argc, argv, 4, 0),
                   .pause_us = argument(argc, argv, 5, 0)};
  if (argc < 2 || (!p.first && strcmp(argv[1], "spawn") != 0) || p.inflight < 1) {
    fprintf(stderr, "usage: %s spawn|first [INFLIGHT [HEAP_MIB [SPARES [PAUSE_US]]]]\n",
            argv[0]);
    exit(2);
  }
  return p;
}

/* The processes of the next slice; 0: there is none. */
static inline int slice_next(void) {
  int n = 0;
  return scanf("%d", &n) == 1 && n > 0 && n <= SLICE_MAX ? n : 0;
}

/* first_us: n of them, or n is 0. */
static inline void slice_done(double total_us, const double *first_us, int n) {
  printf("%.1f", total_us);
  for (int i = 0; i < n; i++)
    printf(" %.1f", first_us[i]);
  puts("");
  fflush(stdout);
}

/* The Lua code that fills a template: tables of two fields, 136 bytes each as malloc
 * counts them. */
static inline const char *heap_code(int mib) {
  static char code[160];
  snprintf(code, sizeof code, "big = {} for i = 1, %d do big[i] = {x = i, y = i} end",
           (int)((long long)mib * 1048576 / 136));
  return code;
}

#endif
