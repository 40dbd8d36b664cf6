#include "parent/pool/restarts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int restarts_init(struct restarts *r, const struct restarts_config *c) {
  memset(r, 0, sizeof *r);
  r->config = *c;
  r->early = calloc(c->burst + 1, sizeof *r->early);
  return r->early ? 0 : -ENOMEM;
}

void restarts_deinit(struct restarts *r) {
  free(r->early);
  r->early = NULL;
}

/* More than burst deaths within the period: the ring has room for burst + 1. */
static int is_too_much(struct restarts *r, uint64_t now_ms) {
  unsigned size = r->config.burst + 1;
  r->early[r->early_at] = now_ms;
  r->early_at = (r->early_at + 1) % size;
  if (r->nearly < size)
    r->nearly++;
  return r->nearly == size && now_ms - r->early[r->early_at] <= r->config.period_ms;
}

/* The first is replaced after min. Never at once: starting may fail without a wait. */
static uint64_t backoff_ms(const struct restarts *r) {
  uint64_t ms = r->config.backoff_min_ms, max = r->config.backoff_max_ms;
  for (unsigned n = r->deaths_in_a_row; n > 1 && ms < max; n--)
    ms *= 2;
  ms = ms < max ? ms : max;
  return ms ? ms : 1;
}

void restarts_death(struct restarts *r, int early, uint64_t now_ms) {
  if (r->deaths_in_a_row < 64) /* it has doubled enough by then */
    r->deaths_in_a_row++;
  r->last_death_ms = now_ms;
  r->not_before_ms = now_ms + backoff_ms(r);
  if (early && is_too_much(r, now_ms))
    r->failed = 1;
}

void restarts_start_failed(struct restarts *r) {
  if (r->config.starts && ++r->failed_starts > r->config.starts)
    r->failed = 1;
}

void restarts_start_succeeded(struct restarts *r) {
  r->failed_starts = 0;
}

void restarts_renew(struct restarts *r) {
  r->failed = 0;
  r->failed_starts = 0;
  r->nearly = 0;
  r->deaths_in_a_row = 0;
  r->not_before_ms = 0;
}

void restarts_answer(struct restarts *r) {
  uint64_t first = r->last_death_ms + r->config.backoff_min_ms;
  if (!r->deaths_in_a_row)
    return;
  r->deaths_in_a_row = 0;
  if (r->not_before_ms > first)
    r->not_before_ms = first;
}
