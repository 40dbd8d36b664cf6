#include "wire/link_early.h"

#include <sched.h>

enum {
  PATIENCE =
      32, /* turns of other processes, until one that was interrupted has written */
  EARLY_LAST = 1u << 29
};

/* As Dekker has it: each says first what it is about to do, and looks at the other then.
 * All of it is sequentially consistent. */
int link_early_begin(struct link_page *page, uint32_t n, const struct link_early *e) {
  if (atomic_load(&page->is_claimed) || n - atomic_load(&page->ntaken) >= LINK_FORKS_MAX)
    return 0;
  page->early[n % LINK_FORKS_MAX] = *e;
  atomic_store(&page->nbegun, n + 1);
  if (!atomic_load(&page->is_claimed))
    return 1;
  atomic_store(&page->nbegun, n);
  return 0;
}

void link_early_end(struct link_page *page, uint32_t n, int is_written) {
  if (is_written)
    atomic_store(&page->nearly, n + 1);
  else
    atomic_store(&page->nbegun, n);
}

uint32_t link_early_channel(uint32_t n) {
  return n < EARLY_LAST ? 4 * n + LINK_EARLY_FIRST : 0;
}

int link_channel_is_early(uint32_t channel) {
  return (channel & 3) == (LINK_EARLY_FIRST & 3);
}

int link_claim(struct link_page *page) {
  atomic_store(&page->is_claimed, 1);
  for (int i = 0; i < PATIENCE; i++) {
    if (atomic_load(&page->nbegun) == atomic_load(&page->nearly))
      return 1;
    sched_yield();
  }
  return 0;
}

void link_release(struct link_page *page) {
  atomic_store(&page->is_claimed, 0);
}

static int take(struct link_page *page, uint32_t last, uint32_t *n, uint32_t channel,
                struct link_early *ret) {
  const struct link_early *e = &page->early[*n % LINK_FORKS_MAX];
  if (last - *n - 1 >= LINK_FORKS_MAX || (channel && e->channel != channel))
    return 0; /* none; or it lies */
  *ret = *e;
  atomic_store(&page->ntaken, ++*n);
  return 1;
}

int link_early_take(struct link_page *page, uint32_t *n, struct link_early *ret) {
  return take(page, atomic_load(&page->nearly), n, 0, ret);
}

int link_early_hear(struct link_page *page, uint32_t *n, uint32_t channel,
                    struct link_early *ret) {
  return take(page, atomic_load(&page->nbegun), n, channel, ret);
}
