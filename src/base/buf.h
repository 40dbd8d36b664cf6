/* Growable bytes with a maximum: append at the end, consume at the front. Memory only;
 * used by every process. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
  unsigned char *data; /* storage; the content is data[head .. tail) */
  size_t head, tail, cap;
  size_t max;  /* the content never grows past this */
  size_t keep; /* bytes of storage that stay when it runs empty: 64 KiB unless changed */
  unsigned char *home; /* the caller's storage, or NULL */
  size_t home_cap;
};

/* A max beyond what this machine can address is what it can address. */
void buf_init(struct buf *b, uint64_t max);
void buf_deinit(struct buf *b);
/* Storage of the caller's for an empty buffer without any, used as long as the content
 * fits. It lives as long as the buffer, or until buf_deinit. */
void buf_lend(struct buf *b, void *home, size_t cap);
size_t buf_size(const struct buf *b);
const unsigned char *buf_peek(const struct buf *b);
/* Forgets the first n bytes; a buffer that runs empty keeps at most `keep` bytes of
 * storage. */
void buf_consume(struct buf *b, size_t n);
/* Room for n more bytes, or NULL (-ENOMEM, or past max: errno tells -E2BIG). Bytes
 * written there count after buf_commit(n). */
unsigned char *buf_reserve(struct buf *b, size_t n);
void buf_commit(struct buf *b, size_t n);
/* Gives an empty buffer malloc's block of cap bytes as its storage, and takes its storage
 * from it (content and all; the caller frees). */
void buf_adopt(struct buf *b, void *block, size_t cap);
void *buf_yield(struct buf *b, size_t *ret_cap);
/* 0, -ENOMEM or -E2BIG (past max). All or nothing. */
int buf_put(struct buf *b, const void *data, size_t n);
int buf_put_u8(struct buf *b, unsigned v);
int buf_put_u16(struct buf *b, unsigned v);
int buf_put_u32(struct buf *b, uint32_t v);
int buf_put_u64(struct buf *b, uint64_t v);
/* u32 length and the bytes; s NULL puts PROTO_NO_STR's length and nothing. */
int buf_put_str(struct buf *b, const void *s, size_t n);

/* A reader over borrowed bytes. After a short read ok is 0 and every get gives zero. */
struct reader {
  const unsigned char *p, *end;
  int ok;
};
void reader_init(struct reader *r, const void *data, size_t n);
unsigned reader_u8(struct reader *r);
unsigned reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
/* Borrows n bytes, or NULL. */
const unsigned char *reader_take(struct reader *r, size_t n);
/* A str; NULL with *n 0 where it is none (ok stays 1) or short (ok 0). */
const char *reader_str(struct reader *r, size_t *n);
size_t reader_left(const struct reader *r);

#endif
