/* The channels of an end: made, by number, one by one, and those that wait for room. */
#include "remote/mux_channel.h"

#include <errno.h>
#include <stdlib.h>

enum {
  BUCKETS_FIRST = 64,
  IDS_AHEAD = LINK_CHANNELS_MAX /* numbers: more than are given while a frame arrives */
};

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
    struct mux_channel *c = list_entry(it, struct mux_channel, link);
    if (c->has_number)
      channel_enter(c);
  }
  return 0;
}

static uint32_t id_step(const struct mux *m) {
  return m->is_agent ? 2 : 4;
}

/* After the largest one they begin again: nothing is under way any more of a channel that
 * is gone so long. */
uint32_t channel_next_id(struct mux *m) {
  uint32_t id;
  do {
    id = m->next_id;
    m->next_id += id_step(m);
  } while (id <= LINK_CHANNEL_OUTPUT || mux_has(m, id));
  return id;
}

/* If it is the turn of a number of ours that is free only now, frames of it may be under
 * way still: it is left out. */
static void leave_out(struct mux *m, uint32_t id) {
  uint32_t ahead = id - m->next_id;
  if (ahead % id_step(m) == 0 && ahead < IDS_AHEAD * id_step(m))
    m->next_id = id + id_step(m);
}

void channel_leave_number(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (!c->has_number)
    return;
  c->has_number = 0;
  list_remove(&c->bucket);
  leave_out(m, c->id);
  if (m->ops->on_number_free)
    m->ops->on_number_free(m, c->id);
}

struct mux_channel *channel_new(struct mux *m, uint32_t id) {
  struct mux_channel *c = calloc(1, sizeof *c);
  if (!c)
    return NULL;
  if (m->nchannels >= m->nbuckets * 2)
    mux_grow(m); /* without memory searches are longer */
  c->mux = m;
  c->local.fd = -1;
  c->ready.on_ready = channel_on_ready;
  c->id = id;
  c->credit = m->window;
  c->opening.is_on = !m->is_agent && id != LINK_CHANNEL_OUTPUT;
  c->sends = c->receives = c->has_number = 1;
  list_init(&c->segments);
  list_init(&c->waits);
  list_init(&c->stalls);
  list_init(&c->fresh);
  list_init(&c->ending);
  list_init(&c->unmade);
  list_push(&m->channels, &c->link);
  channel_enter(c);
  m->nchannels++;
  return c;
}

/* Its bytes are watched for when what is under way has been passed on: nothing waits for
 * it. */
void channel_begin_local(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (m->fd_limit && c->local.fd >= m->fd_limit)
    m->is_crowded = 1;
  list_push(&m->fresh, &c->fresh);
}

int mux_add(struct mux *m, uint32_t id, int fd, enum mux_direction way) {
  struct local local = {.fd = fd, .is_socket = 1};
  int r = way == MUX_BOTH ? 0 : local_open(&local, fd);
  if (r < 0)
    return r;
  struct mux_channel *c = channel_new(m, id);
  if (!c) {
    local_close(&local);
    return -ENOMEM;
  }
  c->local = local;
  c->sends = way != MUX_TO_LOCAL;
  c->receives = way != MUX_FROM_LOCAL;
  channel_begin_local(c);
  return 0;
}

int channel_make_local(struct mux_channel *c) {
  struct mux *m = c->mux;
  int fd = m->ops->make_socket(m, c->token, &c->cookie);
  if (fd < 0) {
    mux_forget_fork(m, c->token);
    return fd;
  }
  c->token = 0;
  list_remove(&c->unmade);
  c->local = (struct local){.fd = fd, .is_socket = 1, .is_own = 1};
  channel_begin_local(c);
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

/* A descriptor for which the process has no number is lost on the way, and with it the
 * link: nobody knows where it belonged. Those of processes that end make room. */
int channel_waits_for_room(struct mux_channel *c) {
  struct mux *m = c->mux;
  if (!m->is_crowded || !c->local.is_socket || local_has_bytes_only(&c->local))
    return 0;
  c->is_paused = 1;
  list_push(&m->crowded, &c->waits);
  channel_watch(c);
  return 1;
}

void mux_make_room(struct mux *m) {
  m->is_crowded = 0;
  while (!list_empty(&m->crowded)) {
    struct mux_channel *c = list_entry(m->crowded.next, struct mux_channel, waits);
    list_remove(&c->waits);
    c->is_paused = 0;
    channel_watch(c);
  }
}

/* Not while the stream is waited for: channel 1 would be read, and wait, in each turn. */
void mux_resume(struct mux *m) {
  if (m->is_waiting)
    return;
  while (!list_empty(&m->paused) && mux_backlog(m) < CHANNEL_AHEAD / 2) {
    struct mux_channel *c = list_entry(m->paused.next, struct mux_channel, waits);
    list_remove(&c->waits);
    c->is_paused = 0;
    channel_watch(c);
  }
}

void channel_give_up(struct mux_channel *c) {
  struct mux *m = c->mux;
  if ((c->sends && link_put(&m->out, LINK_END, c->id, NULL, 0) < 0) ||
      (c->receives && !c->ended && link_put(&m->out, LINK_RESET, c->id, NULL, 0) < 0))
    mux_break(m, "not enough memory");
  channel_drop(c);
}

void mux_arm(struct mux *m) {
  while (!list_empty(&m->fresh)) {
    struct mux_channel *c = list_entry(m->fresh.next, struct mux_channel, fresh);
    list_remove(&c->fresh);
    c->is_armed = 1;
    int r = channel_watch(c);
    if (r < 0 && (r != -EPERM || c->sends)) /* EPERM: a file, which takes all at once */
      channel_give_up(c);
  }
  pairs_refill(&m->pairs);
}
