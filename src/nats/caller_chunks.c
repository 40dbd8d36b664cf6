/* Chunks of items of a far pool: what has come of their answers, and the record by which
 * whoever has made a chunk learns how far it came when it failed (wire/chunk.h). The
 * record of the worker is the node's; what the node says of it is written into the
 * caller's. Runs in the parent. */
#include "nats/caller_private.h"

#include "os/share.h"
#include "wire/chunk.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int far_chunk_new(const mf_message *m, struct far_chunk **ret) {
  struct reader r;
  reader_init(&r, m->data, m->length);
  uint32_t n = reader_u32(&r);
  if (n == 0 || m->length < CHUNK_HEADER)
    return MF_EINVAL;
  struct far_chunk *chunk = calloc(1, sizeof *chunk);
  if (!chunk)
    return -ENOMEM;
  chunk->n = n;
  buf_init(&chunk->answers, SIZE_MAX);
  void *record = NULL;
  int rc = m->nfds > 0 ? share_map(m->fds[0], CHUNK_RECORD_SIZE, &record) : 0;
  if (rc < 0) {
    free(chunk);
    return rc == -EINVAL ? MF_EINVAL : rc;
  }
  chunk->record = record;
  *ret = chunk;
  return 0;
}

void far_chunk_free(struct far_chunk *chunk) {
  if (!chunk)
    return;
  if (chunk->record)
    share_unmap(chunk->record, CHUNK_RECORD_SIZE);
  buf_deinit(&chunk->answers);
  free(chunk);
}

int far_chunk_begin(struct far_chunk *chunk) {
  static const unsigned char header[CHUNK_HEADER] = {0};
  buf_consume(&chunk->answers, buf_size(&chunk->answers));
  chunk->entered = UINT32_MAX; /* until its node says otherwise */
  return buf_put(&chunk->answers, header, sizeof header);
}

int far_chunk_items(const mf_far *far, struct far_chunk *chunk,
                    const struct envelope_record *r) {
  size_t most = CHUNK_HEADER + RPC_CHUNK_BYTES + engine_max_payload(far->engine);
  size_t have = buf_size(&chunk->answers) - CHUNK_HEADER;
  if (r->before > have)
    return -EPIPE; /* else the others would be told as those of other items */
  if (r->before < have || buf_size(&chunk->answers) + r->length > most)
    return -EPROTO;
  return buf_put(&chunk->answers, r->data, r->length);
}

int far_chunk_end(struct far_chunk *chunk, const struct envelope_record *r) {
  struct buf *b = &chunk->answers;
  size_t bytes = buf_size(b) - CHUNK_HEADER;
  uint32_t failures;
  if (r->entered > chunk->n) { /* then the answers are no better */
    buf_consume(b, buf_size(b));
    return -EPROTO;
  }
  chunk->entered = r->entered;
  return chunk_answers_count(buf_peek(b) + CHUNK_HEADER, bytes, r->entered, &failures) <
                 r->entered
             ? -EPIPE
             : 0;
}

void far_chunk_reply(struct far_chunk *chunk, const struct envelope_record *r,
                     mf_message *ret) {
  struct buf *b = &chunk->answers;
  chunk_header_put(b->data + b->head, r->entered, r->us);
  *ret = (mf_message){b->data + b->head, buf_size(b), NULL, 0};
}

/* Whole answers that the record has room for, and their bytes. */
static uint32_t count_answers(const struct far_chunk *chunk, uint32_t *ret_bytes) {
  struct reader r;
  struct chunk_answer a;
  size_t all = buf_size(&chunk->answers), bytes = 0;
  uint32_t n = 0;
  *ret_bytes = 0;
  if (all < CHUNK_HEADER)
    return 0;
  all -= CHUNK_HEADER;
  reader_init(&r, buf_peek(&chunk->answers) + CHUNK_HEADER, all);
  while (n < chunk->n && reader_left(&r) > 0 && chunk_answer_next(&r, &a) == 0) {
    bytes = all - reader_left(&r);
    if (bytes > RPC_CHUNK_BYTES)
      break;
    *ret_bytes = (uint32_t)bytes;
    n++;
  }
  return n;
}

void far_chunk_tell(const struct far_chunk *chunk, const mf_error *e) {
  struct chunk_record *record = chunk->record;
  uint32_t n, bytes;
  if (!record)
    return;
  chunk_record_clear(record);
  if (e->started == MF_STARTED_NO && chunk->entered == UINT32_MAX)
    return; /* no node has it */
  n = count_answers(chunk, &bytes);
  if (bytes > 0)
    memcpy(record->answers, buf_peek(&chunk->answers) + CHUNK_HEADER, bytes);
  atomic_store(&record->bytes, bytes);
  atomic_store(&record->finished, n);
  atomic_store(&record->entered, chunk->entered);
}
