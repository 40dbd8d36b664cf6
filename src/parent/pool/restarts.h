/* When what ended too early may be started again, and when it is enough: the deaths of
 * one template's workers before they had answered anything. Plain numbers. Runs in the
 * parent.
 */
#ifndef PARENT_POOL_RESTARTS_H
#define PARENT_POOL_RESTARTS_H

#include <stdint.h>

struct restarts_config {
  unsigned burst, period_ms; /* more within that are enough */
  unsigned starts;           /* more of them in a row that failed are enough;
                                0: any number */
  unsigned backoff_min_ms, backoff_max_ms; /* min, doubled for each before it in a row */
};

struct restarts {
  struct restarts_config config;
  uint64_t not_before_ms; /* backoff */
  uint64_t last_death_ms;
  unsigned deaths_in_a_row; /* without any answer; the next one sets it to 0 */
  uint64_t *early;          /* ring of the last deaths before any answer */
  unsigned nearly, early_at;
  unsigned failed_starts; /* in a row */
  int failed;
};

int restarts_init(struct restarts *r, const struct restarts_config *c); /* 0, -ENOMEM */
void restarts_deinit(struct restarts *r);
/* early: it counts towards failing. */
void restarts_death(struct restarts *r, int early, uint64_t now_ms);
/* What was started never came to be of use: a death, too, which is told besides. */
void restarts_start_failed(struct restarts *r);
void restarts_start_succeeded(struct restarts *r);
/* As if nothing had died. */
void restarts_renew(struct restarts *r);
/* Some worker works: what has died without an answer was no sign of trouble for all. Who
 * waits to be replaced waits as the first would. */
void restarts_answer(struct restarts *r);

#endif
