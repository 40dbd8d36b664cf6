/* See freeze.h. Runs in templates, at a seal, and in clones, at a collection; the process
 * has one thread. */
#include "template/heap/freeze.h"

#include "template/heap/memfd_map.h"
#include "template/heap/region.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* To fork: memory in small pages, against huge ones. A page of its own costs a fork and
 * an exit 0.15 us, a huge one 1.7 us (measured); a clone that looks at little of what is
 * frozen in small pages finds it again by faults. */
enum { SMALL_COST = 16 };

struct range {
  char *from;
  size_t n;
};

static int range_compare(const void *a, const void *b) {
  const struct range *x = a, *y = b;
  return x->from < y->from ? -1 : x->from > y->from;
}

static char *freeze_end(const struct heap *h) {
  return h->sealed_end - ((uintptr_t)h->sealed_end & (HUGE_PAGE - 1));
}

static size_t region_unfrozen(const struct heap *h) {
  char *end = freeze_end(h);
  return end > h->frozen_end ? (size_t)(end - h->frozen_end) : 0;
}

static size_t big_unfrozen(const struct heap *h, const struct big *b) {
  return b->block && b->age < h->age ? b->map_size - b->frozen : 0;
}

uint64_t heap_freeze_gain(const struct heap *h) {
  size_t unfrozen = region_unfrozen(h), small = size_min(h->small, unfrozen);
  uint64_t gain = unfrozen - small + (uint64_t)small * SMALL_COST;
  for (size_t i = 0; i < h->big_places; i++)
    gain += (uint64_t)big_unfrozen(h, &h->bigs[i]) *
            (h->bigs[i].map_size < BIG_HUGE ? SMALL_COST : 1);
  return gain;
}

static int mirror_room(struct heap *h) {
  if ((h->nmirrors + 1) * sizeof *h->mirrors <= h->mirrors_map)
    return 0;
  size_t size = h->mirrors_map ? h->mirrors_map * 2 : h->page;
  struct mirror *more = map_new(size);
  if (!more)
    return -ENOMEM;
  if (h->nmirrors)
    memcpy(more, h->mirrors, h->nmirrors * sizeof *more);
  if (h->mirrors_map)
    munmap(h->mirrors, h->mirrors_map);
  h->mirrors = more;
  h->mirrors_map = size;
  return 0;
}

/* Returns how much of it is frozen now. */
static size_t freeze_range(struct heap *h, char *from, size_t n) {
  size_t done = 0, step, most = MEMFD_MAP_PIECE;
  do {
    size_t piece = size_min(n - done, most);
    char *mirror;
    int keep = region_limit() == SIZE_MAX && mirror_room(h) == 0;
    step = memfd_map_make(from + done, piece, keep, &mirror);
    if (mirror)
      h->mirrors[h->nmirrors++] = (struct mirror){mirror, step};
    done += step;
    if (!step && piece > MEMFD_MAP_PIECE_MIN)
      most = piece / 2 / HUGE_PAGE * HUGE_PAGE;
    else if (!step)
      break;
  } while (done < n);
  return done;
}

/* Neighbours in one file: fewer mappings, and huge pages that they share. */
static void freeze_bigs(struct heap *h) {
  size_t n = 0, map = round_up(h->nbigs * sizeof(struct range) + 1, h->page);
  struct range *r = map_new(map);
  if (!r)
    return;
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (big_unfrozen(h, b))
      r[n++] = (struct range){b->block + b->frozen, big_unfrozen(h, b)};
  }
  qsort(r, n, sizeof *r, range_compare);
  size_t joined = 0;
  for (size_t i = 0; i < n; i++) {
    if (joined && r[joined - 1].from + r[joined - 1].n == r[i].from)
      r[joined - 1].n += r[i].n;
    else
      r[joined++] = r[i];
  }
  for (size_t i = 0; i < joined; i++)
    r[i].n = freeze_range(h, r[i].from, r[i].n);
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (!big_unfrozen(h, b))
      continue;
    struct range key = {b->block + b->frozen, 0};
    size_t k = 0, end = joined; /* the last range that begins at or before it */
    while (end - k > 1) {
      size_t middle = k + (end - k) / 2;
      if (r[middle].from <= key.from)
        k = middle;
      else
        end = middle;
    }
    char *frozen_end = r[k].from + r[k].n;
    if (frozen_end > key.from)
      b->frozen += size_min((size_t)(frozen_end - key.from), b->map_size - b->frozen);
  }
  munmap(r, map);
}

void heap_inherit(struct heap *h) {
  char *start = h->first;
  if (!h->inherited)
    return;
  h->inherited = 0;
  if (h->shared) /* with a file, whose pages are small: that would be slow */
    return;
  if (h->frozen_end > start)
    memfd_map_touch(start, (size_t)(h->frozen_end - start));
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && h->bigs[i].frozen)
      memfd_map_touch(h->bigs[i].block, h->bigs[i].frozen);
}

static sigset_t block_signals(void) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  return old;
}

void heap_freeze(struct heap *h) {
  if (h->clone)
    return;
  sigset_t old = block_signals();
  size_t n = region_unfrozen(h);
  if (n)
    h->frozen_end += freeze_range(h, h->frozen_end, n);
  h->small = size_min(h->small, (size_t)(h->sealed_end - h->frozen_end));
  freeze_bigs(h);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* One mapping at a time; where one ends is found by trying. */
void heap_cover(struct heap *h) {
  char *at = h->first;
  size_t step = (size_t)(h->frozen_end - at);
  if (!h->clone || h->ncovers > 0)
    return;
  sigset_t old = block_signals();
  while (at < h->frozen_end && step >= HUGE_PAGE && h->ncovers < NCOVERS) {
    step = size_min(step, (size_t)(h->frozen_end - at));
    char *aside = memfd_map_cover(at, step);
    if (!aside) {
      step = step / 2 / HUGE_PAGE * HUGE_PAGE;
      continue;
    }
    h->covers[h->ncovers++] = (struct cover){at, aside, step};
    at += step;
    step = (size_t)(h->frozen_end - at);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void heap_uncover(struct heap *h, int may_move) {
  sigset_t old = block_signals();
  while (h->ncovers > 0) {
    struct cover *c = &h->covers[--h->ncovers];
    if (!may_move || memfd_map_uncover(c->place, c->size, c->aside, h->page) < 0)
      munmap(c->aside, c->size);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int heap_is_frozen(const struct heap *h) {
  if (h->frozen_end > h->first)
    return 1;
  for (size_t i = 0; i < h->big_places; i++)
    if (h->bigs[i].block && h->bigs[i].frozen)
      return 1;
  return 0;
}

void heap_thaw(struct heap *h) {
  char *start = h->first;
  if (!heap_is_frozen(h))
    return;
  sigset_t old = block_signals();
  if (h->frozen_end > start) {
    (void)memfd_map_undo(start, (size_t)(h->frozen_end - start));
    h->small += (size_t)(h->frozen_end - start); /* it was worth it, and will be again */
  }
  h->frozen_end =
      start; /* of what could not be undone, the next freezing makes another file */
  for (size_t i = 0; i < h->big_places; i++) {
    struct big *b = &h->bigs[i];
    if (b->block && b->frozen && memfd_map_undo(b->block, b->frozen) == b->frozen)
      b->frozen = 0;
  }
  heap_drop_mirrors(h);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void heap_drop_mirrors(struct heap *h) {
  while (h->nmirrors) {
    struct mirror *m = &h->mirrors[--h->nmirrors];
    munmap(m->at, m->size);
  }
}

uint64_t freeze_bytes(const struct heap *h) {
  uint64_t n = (uint64_t)(h->frozen_end - (h->first));
  for (size_t i = 0; i < h->big_places; i++)
    n += h->bigs[i].block ? h->bigs[i].frozen : 0;
  return n;
}

void freeze_init(struct heap *h) {
  h->frozen_end = h->first;
}

void freeze_adopt(struct heap *h, int shared) {
  char *start = h->first, *end = freeze_end(h);
  h->shared = shared;
  h->small = 0;
  h->frozen_end = shared && end > start ? end : start;
  for (size_t i = 0; i < h->big_places; i++)
    h->bigs[i].frozen = shared ? h->bigs[i].map_size : 0;
}

void freeze_deinit(struct heap *h) {
  heap_drop_mirrors(h);
  if (h->mirrors_map)
    munmap(h->mirrors, h->mirrors_map);
}
