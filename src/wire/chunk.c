/* See chunk.h. */
#include "wire/chunk.h"

#include "base/origin.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

static void put_u32(unsigned char *p, uint32_t v) {
  for (int i = 0; i < 4; i++)
    p[i] = (unsigned char)(v >> 8 * i);
}

void chunk_header_put(unsigned char *data, uint32_t count, uint32_t us) {
  put_u32(data, count);
  put_u32(data + 4, us);
}

int chunk_answer_next(struct reader *r, struct chunk_answer *ret) {
  ret->kind = reader_u8(r);
  ret->body = reader_str(r, &ret->size);
  return r->ok && ret->body && ret->kind <= CHUNK_FAILURE ? 0 : ORIGINAL(-EPROTO);
}

uint32_t chunk_answers_count(const void *data, size_t size, uint32_t max,
                             uint32_t *ret_failures) {
  struct reader r;
  struct chunk_answer a;
  uint32_t n = 0;
  *ret_failures = 0;
  reader_init(&r, data, size);
  for (; n < max && reader_left(&r) > 0 && chunk_answer_next(&r, &a) == 0; n++)
    *ret_failures += a.kind == CHUNK_FAILURE;
  return n;
}

/* Both sides write their word and then read the other's, in one order for all: so not
 * both miss what the other wrote. */
int chunk_record_enter(struct chunk_record *record, uint32_t count) {
  atomic_store(&record->entered, count);
  if (!atomic_load(&record->stop))
    return 1;
  atomic_store(&record->entered, count - 1);
  return 0;
}

int chunk_record_finish(struct chunk_record *record, uint32_t count, const void *answer,
                        size_t size) {
  uint32_t at = atomic_load_explicit(&record->bytes, memory_order_relaxed);
  if (at > RPC_CHUNK_BYTES || size > RPC_CHUNK_BYTES - at)
    return 0;
  memcpy(record->answers + at, answer, size);
  atomic_store_explicit(&record->bytes, at + (uint32_t)size, memory_order_relaxed);
  atomic_store_explicit(&record->finished, count, memory_order_release);
  return 1;
}

int chunk_record_has_finished(const void *head) {
  uint32_t finished;
  memcpy(&finished, (const char *)head + offsetof(struct chunk_record, finished),
         sizeof finished);
  return finished != 0;
}

void chunk_record_clear(struct chunk_record *record) {
  atomic_store(&record->entered, 0);
  atomic_store(&record->finished, 0);
  atomic_store(&record->bytes, 0);
  atomic_store(&record->stop, 0);
}

void chunk_record_stop(struct chunk_record *record) {
  atomic_store(&record->stop, 1);
}

static uint32_t least(uint32_t a, uint32_t b) {
  return a < b ? a : b;
}

void chunk_record_read(const struct chunk_record *record, uint32_t n, unsigned char *out,
                       uint32_t *ret_bytes, uint32_t *ret_finished,
                       uint32_t *ret_entered) {
  uint32_t entered = least(atomic_load(&record->entered), n), failures;
  uint32_t finished = least(atomic_load(&record->finished), entered);
  *ret_bytes = least(atomic_load(&record->bytes), RPC_CHUNK_BYTES);
  memcpy(out, record->answers, *ret_bytes);
  *ret_finished = chunk_answers_count(out, *ret_bytes, finished, &failures);
  *ret_entered = entered;
}
