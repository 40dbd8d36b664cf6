#include "template/thread/thread_lazy.h"

#include "template/thread/thread_faults.h"
#include <errno.h>
#include <stdlib.h>

int lazy_new(struct picture *p, char *to, const struct heap_range *at_once, size_t n,
             struct lazy **ret) {
  const struct picture_part *last = &p->parts[p->nparts - 1];
  struct lazy *z = calloc(1, sizeof *z);
  uint64_t *there = calloc(p->nchunks / 64 + 1, sizeof *there);
  int r = z && there ? 0 : -ENOMEM;
  if (r < 0) {
    free(there);
    free(z);
    return r;
  }
  *z = (struct lazy){.to = to,
                     .difference = to - (p->parts[0].memory - p->parts[0].at),
                     .extent = last->at + last->size,
                     .picture = p,
                     .there = there,
                     .missing = p->size};
  for (int i = 0; i < STREAMS; i++)
    z->streams[i].next = SIZE_MAX;
  picture_lock();
  p->refs++;
  if (!p->teacher && p->nlearnt == 0)
    p->teacher = z;
  picture_unlock();
  r = faults_list(z);
  if (r == 0)
    r = faults_start(); /* it does not end any more, since there is a clone */
  if (r == 0)
    r = faults_ask(FAULTS_TEMPLATE,
                   (struct faults_request){FAULTS_REGISTER, z, at_once, n, 0});
  if (r < 0)
    lazy_free(z);
  else
    *ret = z;
  return r;
}

void lazy_free(struct lazy *z) {
  if (!z)
    return;
  faults_unlist(z);
  picture_lock();
  if (z->picture) {
    if (z->picture->teacher == z)
      z->picture->teacher = NULL;
    picture_release(z->picture);
  }
  picture_unlock();
  free(z->there);
  free(z);
}

/* ---- on the clone's thread ---- */

static int is_whole(const struct lazy *z) {
  picture_lock();
  int whole = !z->picture;
  picture_unlock();
  return whole;
}

/* What lies at `at` or behind it, up to the end of its part. 0: nothing. */
static int next_range(const struct lazy *z, uint64_t at, struct heap_range *ret) {
  int found = 0;
  picture_lock();
  for (size_t i = 0; z->picture && i < z->picture->nparts && !found; i++) {
    const struct picture_part *part = &z->picture->parts[i];
    uint64_t from = at > part->at ? at : part->at, end = part->at + part->size;
    found = from < end;
    *ret = (struct heap_range){from, end - from};
  }
  picture_unlock();
  return found;
}

/* In steps, so that others are served meanwhile. */
static void fetch(struct lazy *z, uint64_t at, uint64_t end) {
  enum { STEP = 1 << 20 };
  struct heap_range r;
  for (; at < end && next_range(z, at, &r) && r.at < end; at = r.at + r.size) {
    if (r.size > end - r.at)
      r.size = end - r.at;
    if (r.size > STEP)
      r.size = STEP;
    (void)faults_ask(z->bell, (struct faults_request){FAULTS_FILL, z, &r, 1, 0});
  }
}

/* Nobody will touch it: it is gone. */
static void forget(struct lazy *z, uint64_t at, uint64_t end) {
  picture_lock();
  for (size_t i = 0; z->picture && i < z->picture->nparts; i++) {
    const struct picture_part *part = &z->picture->parts[i];
    if (part->at >= end)
      break;
    size_t chunk = part->first + (at > part->at ? picture_chunks(at - part->at) : 0);
    size_t behind = part->first + picture_chunks(part->size);
    for (uint64_t from; chunk < behind; chunk++) {
      from = part->at + (uint64_t)(chunk - part->first) * CHUNK;
      if (from + picture_chunk_size(part, chunk) > end)
        break;
      lazy_mark(z, part, chunk);
    }
  }
  picture_unlock();
}

void lazy_watch(void *lazy, enum heap_watched what, char *from, size_t n) {
  struct lazy *z = lazy;
  struct heap_range range = {from ? (uint64_t)(from - z->to) : 0, from ? n : z->extent};
  if (is_whole(z))
    return;
  if (what == HEAP_GOES) {
    forget(z, range.at, range.at + range.size);
    return;
  }
  fetch(z, range.at, range.at + range.size);
  if (from && !is_whole(z))
    (void)faults_ask(z->bell,
                     (struct faults_request){FAULTS_UNREGISTER, z, &range, 1, 0});
}

uint64_t lazy_missing(const struct lazy *z) {
  picture_lock();
  uint64_t missing = z->missing;
  picture_unlock();
  return missing;
}
