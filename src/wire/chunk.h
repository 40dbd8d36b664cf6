/* Chunks of rpc_proto.h: many items in one message, and their record. Both sides; knows
 * bytes and memory only. The record is written by the other process at any time: what is
 * read from it is copied first and believed never. */
#ifndef WIRE_CHUNK_H
#define WIRE_CHUNK_H

#include "base/buf.h"
#include "wire/rpc_proto.h"
#include <stdatomic.h>
#include <stdint.h>

enum { CHUNK_HEADER = 8 }; /* bytes, of a request and of an answer */

struct chunk_record {
  _Atomic uint32_t entered, finished, bytes, stop;
  unsigned char answers[];
};
enum { CHUNK_RECORD_SIZE = sizeof(struct chunk_record) + RPC_CHUNK_BYTES };

/* A header's two numbers at data, which has CHUNK_HEADER bytes. */
void chunk_header_put(unsigned char *data, uint32_t count, uint32_t us);

/* One answer, borrowed. */
struct chunk_answer {
  unsigned kind;
  const char *body;
  size_t size;
};
/* The next of the answers; kind past CHUNK_FAILURE or what is cut short: -EPROTO. */
int chunk_answer_next(struct reader *r, struct chunk_answer *ret);
/* How many whole answers there are, at most max, and of these failures. */
uint32_t chunk_answers_count(const void *data, size_t size, uint32_t max,
                             uint32_t *ret_failures);

/* ---- the clone's side ---- */

/* It begins an item. 0: the parent wants no more, and it was not begun. */
int chunk_record_enter(struct chunk_record *record, uint32_t count);
/* The item is finished. 0: its answer does not fit. */
int chunk_record_finish(struct chunk_record *record, uint32_t count, const void *answer,
                        size_t size);

/* ---- the parent's side ---- */

/* Whether an item is finished, as the first bytes of a record that is a file say. */
enum { CHUNK_RECORD_HEAD = sizeof(struct chunk_record) };
int chunk_record_has_finished(const void *head);
void chunk_record_clear(struct chunk_record *record);
void chunk_record_stop(struct chunk_record *record);
/* Of a chunk of n items: copies the answers into out (RPC_CHUNK_BYTES), *ret_bytes of
 * them. *ret_finished of these are whole; *ret_entered, not less, were begun. */
void chunk_record_read(const struct chunk_record *record, uint32_t n, unsigned char *out,
                       uint32_t *ret_bytes, uint32_t *ret_finished,
                       uint32_t *ret_entered);

#endif
