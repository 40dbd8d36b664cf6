/* The channels of an end, by number and one by one. */
#include "remote/mux_channel.h"

#include <errno.h>
#include <stdlib.h>

enum { BUCKETS_FIRST = 64 };

static struct list *bucket_of(const struct mux *m, uint32_t id) {
  return &m->buckets[(id >> 1) & (m->nbuckets - 1)];
}

struct mux_channel *channel_find(const struct mux *m, uint32_t id) {
  list_each(it, bucket_of(m, id)) {
    struct mux_channel *c = list_entry(it, struct mux_channel, bucket);
    if (c->id == id)
      return c;
  }
  return NULL;
}

void channel_enter(struct mux_channel *c) {
  list_push(bucket_of(c->mux, c->id), &c->bucket);
}

int mux_has(const struct mux *m, uint32_t id) {
  return channel_find(m, id) != NULL;
}

int mux_grow(struct mux *m) {
  unsigned n = m->nbuckets ? m->nbuckets * 2 : BUCKETS_FIRST;
  struct list *fresh = malloc(n * sizeof *fresh);
  if (!fresh)
    return -ENOMEM;
  for (unsigned i = 0; i < n; i++)
    list_init(&fresh[i]);
  free(m->buckets);
  m->buckets = fresh;
  m->nbuckets = n;
  list_each(it, &m->channels) {
    channel_enter(list_entry(it, struct mux_channel, link));
  }
  return 0;
}

void mux_list(const struct mux *m, struct link_page *page) {
  uint32_t n = 0;
  page->nlisted = 0; /* who looks now sees no half of one list and half of another */
  list_each(it, &m->channels) {
    const struct mux_channel *c = list_entry(it, struct mux_channel, link);
    if (n == LINK_PAGE_CHANNELS)
      break;
    page->channels[n].id = c->id;
    page->channels[n].credit = c->sends ? c->credit : 0;
    page->channels[n++].queued = c->queued;
  }
  page->nlisted = n;
}
