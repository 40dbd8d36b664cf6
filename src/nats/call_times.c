/* Classes of durations (call_times.h). Pure. */
#include "nats/call_times.h"

enum { NEWER = 4096 }; /* older calls weigh half when so many are there */

/* The classes of one power of two lie side by side. */
static unsigned class_of(uint64_t us) {
  unsigned power = 0;
  while (us >> power >= 2 * TIME_STEPS)
    power++;
  unsigned class = us < 2 * TIME_STEPS
                       ? (unsigned)us
                       : (power + 1) * TIME_STEPS + (unsigned)(us >> power) - TIME_STEPS;
  return class < TIME_CLASSES ? class : TIME_CLASSES - 1;
}

/* The longest duration of it. */
static uint64_t longest_of(unsigned class) {
  if (class < 2 * TIME_STEPS)
    return class;
  unsigned power = class / TIME_STEPS - 1;
  return (((uint64_t)(class % TIME_STEPS) + TIME_STEPS + 1) << power) - 1;
}

static void age(struct call_times *t) {
  t->n = 0;
  for (unsigned i = 0; i < TIME_CLASSES; i++)
    t->n += t->count[i] /= 2;
}

void call_times_add(struct call_times *t, uint64_t us) {
  if (t->n >= 2 * NEWER)
    age(t);
  t->count[class_of(us)]++;
  t->n++;
  if (us > t->max_us)
    t->max_us = us;
}

static uint64_t share(const struct call_times *t, unsigned percent) {
  uint64_t want = (t->n * percent + 99) / 100, seen = 0;
  for (unsigned i = 0; i < TIME_CLASSES; i++) {
    seen += t->count[i];
    if (seen >= want && seen > 0) {
      uint64_t us = longest_of(i);
      return us < t->max_us ? us : t->max_us;
    }
  }
  return t->max_us;
}

void call_times_read(const struct call_times *t, mf_pool_times *ret) {
  *ret = (mf_pool_times){0};
  if (t->n == 0)
    return;
  ret->p50_us = share(t, 50);
  ret->p90_us = share(t, 90);
  ret->p99_us = share(t, 99);
  ret->max_us = t->max_us;
}
