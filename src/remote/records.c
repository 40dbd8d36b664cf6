#include "remote/records.h"

#include "os/fd.h"
#include "os/share.h"
#include "wire/chunk.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = offsetof(struct chunk_record, answers), PIECE = LINK_DATA_MAX };

struct record {
  struct list link;
  uint32_t id, channel;
  int fd; /* agent; -1: near end */
  ino_t inode;
  int is_stopped;
  struct chunk_record *memory;
};

void records_init(struct records *r) {
  *r = (struct records){0};
  list_init(&r->all);
}

static struct record *find(const struct records *r, uint32_t id) {
  for (struct list *it = r->all.prev; it != &r->all; it = it->prev) {
    struct record *x = list_entry(it, struct record, link);
    if (x->id == id)
      return x;
  }
  return NULL;
}

static void drop(struct records *r, struct record *x) {
  list_remove(&x->link);
  r->count--;
  share_unmap(x->memory, CHUNK_RECORD_SIZE);
  fd_close(&x->fd);
  free(x);
}

static struct record *add(struct records *r, uint32_t id, void *memory, int fd) {
  struct record *x = calloc(1, sizeof *x);
  if (!x) {
    share_unmap(memory, CHUNK_RECORD_SIZE);
    fd_close(&fd);
    return NULL;
  }
  x->id = r->last = id;
  x->memory = memory;
  x->fd = fd;
  list_push(&r->all, &x->link);
  r->count++;
  return x;
}

/* ---- near end ---- */

static struct record *of_file(struct records *r, int fd, ino_t inode) {
  for (struct list *it = r->all.prev; it != &r->all; it = it->prev) {
    struct record *x = list_entry(it, struct record, link);
    if (x->inode == inode)
      return x;
  }
  void *map;
  if (share_map(fd, CHUNK_RECORD_SIZE, &map) < 0)
    return NULL;
  struct record *x = add(r, r->last + 1, map, -1);
  if (x)
    x->inode = inode;
  return x;
}

int records_classify(struct records *r, int fd, const struct stat *st,
                     struct link_descriptor *ret, struct buf *out) {
  if (!S_ISREG(st->st_mode) || !share_is_memory(fd, CHUNK_RECORD_SIZE))
    return 0;
  struct record *x = of_file(r, fd, st->st_ino);
  if (!x) /* the worker has none, then, and the parent's says nothing */
    return 0;
  list_remove(&x->link);
  list_push(&r->all, &x->link);
  x->is_stopped = 0;
  atomic_store(&x->memory->entered, UINT32_MAX);
  *ret = (struct link_descriptor){.kind = LINK_RECORD, .id = x->id};
  if (r->count > LINK_RECORDS_MAX) {
    struct record *oldest = list_entry(r->all.next, struct record, link);
    if (link_put(out, LINK_RECORD_DROP, 0, &oldest->id, 1) == 0)
      drop(r, oldest);
  }
  return 1;
}

int records_take(struct records *r, const struct link_frame *f) {
  struct reader in;
  reader_init(&in, f->body, f->length);
  struct record *x = find(r, reader_u32(&in));
  uint32_t offset = reader_u32(&in);
  size_t n = reader_left(&in);
  if (!in.ok || n > CHUNK_RECORD_SIZE || offset > CHUNK_RECORD_SIZE - n)
    return -EPROTO;
  if (x)
    memcpy((unsigned char *)x->memory + offset, reader_take(&in, n), n);
  return 0;
}

int records_put_stops(struct records *r, struct buf *out) {
  list_each(it, &r->all) {
    struct record *x = list_entry(it, struct record, link);
    if (x->is_stopped || !atomic_load(&x->memory->stop))
      continue;
    x->is_stopped = 1;
    int rc = link_put(out, LINK_RECORD_STOP, 0, &x->id, 1);
    if (rc < 0)
      return rc;
  }
  return 0;
}

/* ---- agent ---- */

int records_add(struct records *r, const struct link_descriptor *d, uint32_t channel) {
  struct record *x = find(r, d->id);
  void *map;
  int fd;
  if (!x) {
    if (d->id <= r->last || r->count > LINK_RECORDS_MAX)
      return -EPROTO;
    int rc = share_new(CHUNK_RECORD_SIZE, &fd, &map);
    x = rc < 0 ? NULL : add(r, d->id, map, fd);
    if (!x)
      return rc < 0 ? rc : -ENOMEM;
  }
  chunk_record_clear(x->memory);
  x->channel = channel;
  return fd_dup(x->fd);
}

static int put_piece(const struct record *x, uint32_t offset, size_t n, struct buf *out) {
  struct buf body;
  buf_init(&body, LINK_BODY_MAX);
  int rc = buf_put_u32(&body, x->id);
  if (!rc)
    rc = buf_put_u32(&body, offset);
  if (!rc)
    rc = buf_put(&body, (const unsigned char *)x->memory + offset, n);
  if (!rc)
    rc = link_put_bytes(out, LINK_MEMORY, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return rc;
}

/* The answers first: the head says how many of them count. */
static int put_record(const struct record *x, struct buf *out) {
  size_t bytes = atomic_load(&x->memory->bytes), at = 0;
  int rc = 0;
  if (bytes > RPC_CHUNK_BYTES)
    bytes = RPC_CHUNK_BYTES;
  for (; at < bytes && !rc; at += PIECE)
    rc =
        put_piece(x, (uint32_t)(HEAD + at), bytes - at < PIECE ? bytes - at : PIECE, out);
  return rc ? rc : put_piece(x, 0, HEAD, out);
}

int records_put(struct records *r, uint32_t channel, struct buf *out) {
  list_each(it, &r->all) {
    struct record *x = list_entry(it, struct record, link);
    if (x->channel != channel)
      continue;
    x->channel = 0;
    int rc = put_record(x, out);
    if (rc < 0)
      return rc;
  }
  return 0;
}

void records_forget(struct records *r, uint32_t channel) {
  list_each(it, &r->all) {
    struct record *x = list_entry(it, struct record, link);
    if (x->channel == channel)
      x->channel = 0;
  }
}

int records_order(struct records *r, const struct link_frame *f) {
  uint32_t id;
  if (link_numbers(f, &id, 1) < 0)
    return -EPROTO;
  struct record *x = find(r, id);
  if (x && f->type == LINK_RECORD_STOP)
    chunk_record_stop(x->memory);
  else if (x)
    drop(r, x);
  return 0;
}
