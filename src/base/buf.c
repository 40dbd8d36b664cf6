/* Growable bytes: appended at the end, consumed at the front, never past a maximum.
 * Runs in every process. Memory only; numbers are written little-endian whatever the
 * machine. Storage grows by doubling what is held, so a hostile length field alone makes
 * nobody allocate; the caller reserves what has arrived or is about to.
 *
 *   data            head              tail             cap
 *    |   consumed     |    content      |     free       |
 */
#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_KEEP = 64 * 1024, BUF_FIRST = 256 };

static const uint32_t no_str = UINT32_MAX; /* PROTO_NO_STR; the wire lies a layer above */

void buf_init(struct buf *b, uint64_t max) {
  *b = (struct buf){.max = max < SIZE_MAX ? (size_t)max : SIZE_MAX, .keep = BUF_KEEP};
}

void buf_lend(struct buf *b, void *home, size_t cap) {
  assert(!b->data);
  b->data = b->home = home;
  b->cap = b->home_cap = cap;
}

static void free_data(struct buf *b) {
  if (b->data != b->home)
    free(b->data);
}

void buf_deinit(struct buf *b) {
  size_t keep = b->keep;
  free_data(b);
  buf_init(b, b->max);
  b->keep = keep;
}

size_t buf_size(const struct buf *b) {
  return b->tail - b->head;
}

const unsigned char *buf_peek(const struct buf *b) {
  return b->data ? b->data + b->head : b->data;
}

static void drop_storage(struct buf *b) {
  free_data(b);
  b->data = b->home;
  b->cap = b->home_cap;
}

void buf_consume(struct buf *b, size_t n) {
  assert(n <= buf_size(b));
  b->head += n;
  if (b->head < b->tail)
    return;
  b->head = b->tail = 0;
  if (b->cap > b->keep)
    drop_storage(b);
}

static void move_to_front(struct buf *b) {
  if (b->head == 0)
    return;
  assert(b->data); /* what was consumed was there */
  memmove(b->data, b->data + b->head, buf_size(b));
  b->tail -= b->head;
  b->head = 0;
}

/* Twice what is there, at least what is needed, at most the maximum. */
static size_t next_cap(const struct buf *b, size_t need) {
  size_t cap = b->cap < BUF_FIRST ? BUF_FIRST : b->cap;
  while (cap < need)
    cap = cap > SIZE_MAX / 2 ? need : cap * 2;
  if (cap > b->max)
    cap = b->max;
  return cap;
}

static int grow(struct buf *b, size_t need) {
  size_t cap = next_cap(b, need);
  int is_home = b->data && b->data == b->home;
  unsigned char *data = is_home ? malloc(cap) : realloc(b->data, cap);
  if (!data)
    return -ENOMEM;
  if (is_home)
    memcpy(data, b->data, b->tail);
  b->data = data;
  b->cap = cap;
  return 0;
}

unsigned char *buf_reserve(struct buf *b, size_t n) {
  size_t size = buf_size(b);
  if (n > b->max || size > b->max - n) {
    errno = E2BIG;
    return NULL;
  }
  if (b->data && b->cap - b->tail >= n)
    return b->data + b->tail;
  move_to_front(b);
  if ((!b->data || b->cap - b->tail < n) && grow(b, size + n) < 0) {
    errno = ENOMEM;
    return NULL;
  }
  return b->data + b->tail;
}

void buf_commit(struct buf *b, size_t n) {
  assert(n <= b->cap - b->tail);
  b->tail += n;
}

void buf_adopt(struct buf *b, void *block, size_t cap) {
  assert(buf_size(b) == 0);
  free_data(b);
  b->data = block;
  b->cap = cap < b->max ? cap : b->max;
  b->head = b->tail = 0;
}

void *buf_yield(struct buf *b, size_t *ret_cap) {
  assert(!b->home); /* it is the caller's */
  void *block = b->data;
  *ret_cap = b->cap;
  b->data = NULL;
  b->head = b->tail = b->cap = 0;
  return block;
}

int buf_put(struct buf *b, const void *data, size_t n) {
  if (n == 0)
    return 0;
  unsigned char *room = buf_reserve(b, n);
  if (!room)
    return -errno;
  memcpy(room, data, n);
  buf_commit(b, n);
  return 0;
}

static int put_number(struct buf *b, uint64_t v, size_t width) {
  unsigned char bytes[8];
  for (size_t i = 0; i < width; i++)
    bytes[i] = (unsigned char)(v >> (8 * i));
  return buf_put(b, bytes, width);
}

int buf_put_u8(struct buf *b, unsigned v) {
  return put_number(b, v, 1);
}

int buf_put_u16(struct buf *b, unsigned v) {
  return put_number(b, v, 2);
}

int buf_put_u32(struct buf *b, uint32_t v) {
  return put_number(b, v, 4);
}

int buf_put_u64(struct buf *b, uint64_t v) {
  return put_number(b, v, 8);
}

int buf_put_str(struct buf *b, const void *s, size_t n) {
  if (!s)
    return buf_put_u32(b, no_str);
  if (n >= no_str)
    return -E2BIG;
  if (!buf_reserve(b, 4 + n)) /* first of all, so that it is all or nothing */
    return -errno;
  buf_put_u32(b, (uint32_t)n);
  return buf_put(b, s, n);
}

void reader_init(struct reader *r, const void *data, size_t n) {
  r->p = data;
  r->end = n ? r->p + n : r->p;
  r->ok = 1;
}

size_t reader_left(const struct reader *r) {
  return r->ok ? (size_t)(r->end - r->p) : 0;
}

/* After a failure nothing more is given, not even what would still fit. */
const unsigned char *reader_take(struct reader *r, size_t n) {
  static const unsigned char nothing[1];
  if (!r->ok || (size_t)(r->end - r->p) < n) {
    r->ok = 0;
    return NULL;
  }
  const unsigned char *p = r->p;
  if (n == 0)
    return p ? p : nothing;
  r->p += n;
  return p;
}

static uint64_t take_number(struct reader *r, size_t width) {
  const unsigned char *p = reader_take(r, width);
  uint64_t v = 0;
  for (size_t i = 0; p && i < width; i++)
    v |= (uint64_t)p[i] << (8 * i);
  return v;
}

unsigned reader_u8(struct reader *r) {
  return (unsigned)take_number(r, 1);
}

unsigned reader_u16(struct reader *r) {
  return (unsigned)take_number(r, 2);
}

uint32_t reader_u32(struct reader *r) {
  return (uint32_t)take_number(r, 4);
}

uint64_t reader_u64(struct reader *r) {
  return take_number(r, 8);
}

const char *reader_str(struct reader *r, size_t *n) {
  uint32_t length = reader_u32(r);
  *n = 0;
  if (!r->ok || length == no_str)
    return NULL;
  const unsigned char *p = reader_take(r, length);
  if (p)
    *n = length;
  return (const char *)p;
}
