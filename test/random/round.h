/* round: runs one function for each of many seeds, each in a forked copy of the program,
 * and looks at what the copy leaves. Runs in the test program, before it has used
 * anything.
 *
 * A round fails when it does not end with 0, when it takes too long, when it writes
 * anything to standard error, or when a process that descends from it outlives it. What
 * failed is printed with its seed and the command that plays it again. */
#ifndef RANDOM_ROUND_H
#define RANDOM_ROUND_H

#include <stdint.h>

/* ---- numbers by seed, in the round ---- */

void random_seed(uint64_t seed);
uint32_t random_below(uint32_t n); /* 0 to n - 1; n at least 1 */

/* 1 with a probability of 1 in n. */
static inline int random_one_in(uint32_t n) {
  return random_below(n) == 0;
}

/* ---- the rounds ---- */

struct rounds {
  const char *name, *replay; /* what is printed: "random c", "drive --seed" */
  uint64_t first_seed;
  long count; /* rounds, or 0: as many as `seconds` allow */
  double seconds;
  unsigned deadline_s; /* for one round */
  int verbose;
  int confined; /* in a process namespace of its own, where that is possible */
};

/* Returns the number of rounds that failed, and prints "N passed, N failed". */
int rounds_run(const struct rounds *r, int (*round)(uint64_t seed));

/* Seconds since some moment. */
double round_now(void);
/* In a round that asked to be confined: whether it is. */
int round_is_confined(void);

#endif
