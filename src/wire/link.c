#include "wire/link.h"

#include "base/result.h"
#include "wire/build.h"
#include "wire/proto.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint32_t get32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
         (uint32_t)p[3] << 24;
}

static void set32(unsigned char *p, uint32_t v) {
  for (int i = 0; i < 4; i++)
    p[i] = (unsigned char)(v >> (8 * i));
}

/* ---- reading ---- */

static int is_known(unsigned type, unsigned last) {
  return type >= 1 && (type <= LINK_LAST || (type >= LINK_START && type <= last));
}

int link_next(const struct buf *in, unsigned last, struct link_frame *ret) {
  const unsigned char *p = buf_peek(in);
  size_t n = buf_size(in);
  if (n < LINK_HEADER_SIZE)
    return MF_AGAIN;
  *ret = (struct link_frame){.length = get32(p),
                             .type = p[4],
                             .ndescriptors = p[5],
                             .channel = get32(p + 8),
                             .body = p + LINK_HEADER_SIZE};
  if (!is_known(ret->type, last) || ret->length > LINK_BODY_MAX || p[6] || p[7])
    return -EPROTO;
  size_t list = (size_t)ret->ndescriptors * LINK_DESCRIPTOR_SIZE;
  if (ret->ndescriptors > LINK_FDS_MAX ||
      (ret->ndescriptors && (ret->type != LINK_DATA || ret->length <= list)))
    return -EPROTO; /* descriptors come with bytes */
  if (ret->type == LINK_DATA &&
      (ret->length <= list || ret->length - list > LINK_DATA_MAX))
    return -EPROTO;
  return n - LINK_HEADER_SIZE < ret->length ? MF_AGAIN : 0;
}

size_t link_body_length(const unsigned char *header) {
  return get32(header);
}

void link_done(struct buf *in, const struct link_frame *f) {
  buf_consume(in, LINK_HEADER_SIZE + (size_t)f->length);
}

void link_descriptor(const struct link_frame *f, unsigned i,
                     struct link_descriptor *ret) {
  const unsigned char *p = f->body + (size_t)i * LINK_DESCRIPTOR_SIZE;
  *ret = (struct link_descriptor){.id = get32(p), .count = get32(p + 4), .kind = p[8]};
}

const unsigned char *link_bytes(const struct link_frame *f, size_t *ret_n) {
  size_t list = (size_t)f->ndescriptors * LINK_DESCRIPTOR_SIZE;
  *ret_n = f->length - list;
  return f->body + list;
}

static int is_whole(const struct reader *r) {
  return r->ok && reader_left(r) == 0 ? 0 : -EPROTO;
}

int link_numbers(const struct link_frame *f, uint32_t *ret, unsigned n) {
  struct reader r;
  reader_init(&r, f->body, f->length);
  for (unsigned i = 0; i < n; i++)
    ret[i] = reader_u32(&r);
  return is_whole(&r);
}

int link_read_birth(const struct link_frame *f, struct link_birth *ret) {
  uint32_t v[4];
  int r = link_numbers(f, v, 4);
  *ret = (struct link_birth){v[0], v[1], v[2], v[3]};
  return r < 0 || v[3] == 0 || v[3] > INT32_MAX ? -EPROTO : 0;
}

int link_read_returned(const struct link_frame *f, uint32_t *ret_serial,
                       uint64_t *ret_id) {
  uint32_t v[3];
  int r = link_numbers(f, v, 3);
  *ret_serial = v[0];
  *ret_id = v[1] | (uint64_t)v[2] << 32;
  return r;
}

int link_read_end(const struct link_frame *f, struct link_end *ret) {
  struct reader r;
  reader_init(&r, f->body, f->length);
  *ret = (struct link_end){.serial = reader_u32(&r), .status = reader_u32(&r)};
  ret->utime_us = reader_u64(&r);
  ret->stime_us = reader_u64(&r);
  ret->maxrss_bytes = reader_u64(&r);
  ret->words = reader_str(&r, &ret->nwords);
  return is_whole(&r) < 0 || ret->nwords > LINK_TEXT_MAX ? -EPROTO : 0;
}

static void copy_build(struct link_hello *h, const char *text, size_t n) {
  if (n >= sizeof h->build)
    n = sizeof h->build - 1;
  for (size_t i = 0; i < n; i++)
    h->build[i] = text[i] < 0x20 || text[i] > 0x7e ? '?' : text[i];
  h->build[n] = 0;
}

static int is_within(uint32_t v, uint32_t min, uint32_t max) {
  return v >= min && v <= max;
}

int link_read_hello(const struct link_frame *f, int of_agent, struct link_hello *ret) {
  struct reader r;
  size_t n;
  reader_init(&r, f->body, f->length);
  *ret = (struct link_hello){.version = reader_u16(&r)};
  reader_u16(&r);
  const char *text = reader_str(&r, &n);
  if (!text)
    return -EPROTO;
  copy_build(ret, text, n);
  if (of_agent || ret->version != LINK_VERSION) /* another may say more */
    return ret->version == LINK_VERSION ? is_whole(&r) : 0;
  ret->beat_ms = reader_u32(&r);
  ret->window = reader_u32(&r);
  if (is_whole(&r) < 0 || !is_within(ret->beat_ms, LINK_BEAT_MIN_MS, LINK_BEAT_MAX_MS) ||
      !is_within(ret->window, LINK_WINDOW_MIN, LINK_WINDOW_MAX))
    return -EPROTO;
  return 0;
}

void link_read_start(const struct link_frame *f, struct link_hello *ret) {
  struct reader r;
  size_t n;
  reader_init(&r, f->body, f->length);
  *ret = (struct link_hello){.beat_ms = reader_u32(&r)};
  ret->window = reader_u32(&r);
  const char *text = reader_str(&r, &n);
  if (text)
    copy_build(ret, text, n);
}

/* ---- writing ---- */

void link_put_header(unsigned char *at, unsigned type, unsigned ndescriptors,
                     uint32_t channel, uint32_t length) {
  set32(at, length);
  at[4] = (unsigned char)type;
  at[5] = (unsigned char)ndescriptors;
  at[6] = at[7] = 0;
  set32(at + 8, channel);
}

void link_put_descriptor(unsigned char *at, const struct link_descriptor *d) {
  set32(at, d->id);
  set32(at + 4, d->count);
  set32(at + 8, d->kind);
}

/* Room for a frame, its header written; NULL: no memory, errno says why. */
static unsigned char *begin(struct buf *out, unsigned type, uint32_t channel,
                            size_t length) {
  unsigned char *at = buf_reserve(out, LINK_HEADER_SIZE + length);
  if (!at)
    return NULL;
  link_put_header(at, type, 0, channel, (uint32_t)length);
  buf_commit(out, LINK_HEADER_SIZE + length);
  return at + LINK_HEADER_SIZE;
}

int link_put(struct buf *out, unsigned type, uint32_t channel, const uint32_t *numbers,
             unsigned n) {
  unsigned char *at = begin(out, type, channel, n * 4u);
  for (unsigned i = 0; at && i < n; i++)
    set32(at + (size_t)i * 4, numbers[i]);
  return at ? 0 : -errno;
}

/* What stands behind a token, or alone. */
static void set_fork(unsigned char *at, const struct link_fork *fork, const void *body,
                     size_t nbody) {
  set32(at, fork->table);
  set32(at + 4, fork->index);
  memcpy(at + 8, fork->command, fork->n);
  if (nbody)
    memcpy(at + 8 + fork->n, body, nbody);
}

int link_put_fork(struct buf *out, const struct link_fork *fork, const void *body,
                  size_t nbody) {
  unsigned char *at = begin(out, LINK_FORK, 0, 12 + fork->n + nbody);
  if (!at)
    return -errno;
  set32(at, fork->token);
  set_fork(at + 4, fork, body, nbody);
  return 0;
}

int link_put_clone(struct buf *out, uint32_t channel, const struct link_fork *fork,
                   const void *body, size_t nbody) {
  unsigned char *at = begin(out, LINK_CLONE, channel, 8 + fork->n + nbody);
  if (!at)
    return -errno;
  set_fork(at, fork, body, nbody);
  return 0;
}

int link_read_fork(const struct link_frame *f, struct link_fork *ret) {
  size_t head = f->type == LINK_FORK ? 12 : 8;
  const unsigned char *at = f->body;
  if (f->length < head + FRAME_HEADER_SIZE || f->length > head + LINK_FORK_MAX)
    return -EPROTO;
  ret->token = f->type == LINK_FORK ? get32(at) : 0;
  ret->table = get32(at + head - 8);
  ret->index = get32(at + head - 4);
  ret->command = at + head;
  ret->n = f->length - head;
  return f->type == LINK_FORK && !ret->token ? -EPROTO : 0;
}

int link_put_returned(struct buf *out, uint32_t serial, uint64_t id) {
  const uint32_t v[3] = {serial, (uint32_t)id, (uint32_t)(id >> 32)};
  return link_put(out, LINK_RETURNED, 0, v, 3);
}

int link_put_bytes(struct buf *out, unsigned type, const void *body, size_t length) {
  unsigned char *at = begin(out, type, 0, length);
  if (at && length)
    memcpy(at, body, length);
  return at ? 0 : -errno;
}

static int put_built(struct buf *out, unsigned type, struct buf *body, int r) {
  if (r == 0)
    r = link_put_bytes(out, type, buf_peek(body), buf_size(body));
  buf_deinit(body);
  return r;
}

int link_put_text(struct buf *out, unsigned type, const char *text, size_t length) {
  struct buf body;
  buf_init(&body, LINK_BODY_MAX);
  int r = buf_put_str(&body, text, length < LINK_TEXT_MAX ? length : LINK_TEXT_MAX);
  return put_built(out, type, &body, r);
}

void link_copy_shown(char *ret, const void *text, size_t n) {
  const unsigned char *from = text;
  for (size_t i = 0; i < n; i++) {
    int is_control = (from[i] < 0x20 && from[i] != '\n' && from[i] != '\t') ||
                     from[i] == 0x7f ||
                     /* U+0080 to U+009F */
                     (i > 0 && from[i - 1] == 0xc2 && from[i] >= 0x80 && from[i] < 0xa0);
    ret[i] = (char)(is_control ? '?' : from[i]);
  }
}

int link_read_text(const struct link_frame *f, char *ret, size_t size) {
  struct reader r;
  size_t n;
  reader_init(&r, f->body, f->length);
  const char *text = reader_str(&r, &n);
  if (!text)
    return -EPROTO;
  if (n >= size)
    n = size - 1;
  link_copy_shown(ret, text, n);
  ret[n] = 0;
  return 0;
}

int link_put_end(struct buf *out, const struct link_end *e) {
  struct buf body;
  buf_init(&body, LINK_BODY_MAX);
  int r = buf_put_u32(&body, e->serial);
  if (!r)
    r = buf_put_u32(&body, e->status);
  if (!r)
    r = buf_put_u64(&body, e->utime_us);
  if (!r)
    r = buf_put_u64(&body, e->stime_us);
  if (!r)
    r = buf_put_u64(&body, e->maxrss_bytes);
  if (!r)
    r = buf_put_str(&body, e->words, e->nwords);
  return put_built(out, LINK_GONE, &body, r);
}

int link_put_start(struct buf *out, uint32_t beat_ms, uint32_t window) {
  struct buf body;
  buf_init(&body, LINK_BODY_MAX);
  int r = buf_put_u32(&body, beat_ms);
  if (!r)
    r = buf_put_u32(&body, window);
  if (!r)
    r = buf_put_str(&body, build_own.version, strlen(build_own.version));
  return put_built(out, LINK_START, &body, r);
}

int link_put_hello(struct buf *out, uint32_t beat_ms, uint32_t window) {
  struct buf body;
  buf_init(&body, LINK_BODY_MAX);
  int r = buf_put_u16(&body, LINK_VERSION);
  if (!r)
    r = buf_put_u16(&body, 0);
  if (!r)
    r = buf_put_str(&body, build_own.version, strlen(build_own.version));
  if (!r && beat_ms)
    r = buf_put_u32(&body, beat_ms);
  if (!r && beat_ms)
    r = buf_put_u32(&body, window);
  return put_built(out, LINK_HELLO, &body, r);
}
