/* Chunks of items at a node: a record in memory for each, which a worker of this machine
 * writes (wire/chunk.h), so that what is told of a chunk is what was begun and answered.
 * Answers pass through unread, but for those that can't travel. Runs in the parent. */
#include "nats/node_private.h"

#include "os/share.h"
#include "wire/chunk.h"
#include "wire/failure_body.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPARES_MAX = 16, FAILURE_ROOM = 512 };

struct node_chunk {
  struct list link; /* among the spare ones */
  int fd;
  struct chunk_record *record;
  uint32_t n; /* items */
};

/* ---- records ---- */

static void drop(struct node_chunk *chunk) {
  share_unmap(chunk->record, CHUNK_RECORD_SIZE);
  close(chunk->fd);
  free(chunk);
}

static struct node_chunk *spare(mf_node *node) {
  if (list_empty(&node->chunks))
    return NULL;
  struct node_chunk *chunk = list_entry(node->chunks.next, struct node_chunk, link);
  list_remove(&chunk->link);
  node->nchunks--;
  chunk_record_clear(chunk->record);
  return chunk;
}

static struct node_chunk *make(mf_node *node) {
  struct node_chunk *chunk = calloc(1, sizeof *chunk);
  void *map;
  if (!chunk)
    return NULL;
  int rc = share_new(CHUNK_RECORD_SIZE, &chunk->fd, &map);
  if (rc < 0) {
    node->no_chunks |= rc == -ENOSYS;
    free(chunk);
    return NULL;
  }
  list_init(&chunk->link);
  chunk->record = map;
  return chunk;
}

int node_chunk_new(mf_node *node, const struct envelope_record *r,
                   struct node_chunk **ret) {
  struct reader in;
  reader_init(&in, r->data, r->length);
  uint32_t n = reader_u32(&in);
  if (n == 0 || r->length < CHUNK_HEADER)
    return MF_EINVAL;
  struct node_chunk *chunk = spare(node);
  if (!chunk && !(chunk = make(node)))
    return -ENOBUFS;
  chunk->n = n;
  *ret = chunk;
  return 0;
}

int *node_chunk_fd(struct node_chunk *chunk) {
  return &chunk->fd;
}

void node_chunk_stop(const struct node_chunk *chunk) {
  chunk_record_stop(chunk->record);
}

void node_chunk_free(mf_node *node, struct node_chunk *chunk, int is_idle) {
  if (!chunk)
    return;
  if (!node || !is_idle || node->nchunks >= SPARES_MAX) {
    drop(chunk);
    return;
  }
  list_push(&node->chunks, &chunk->link);
  node->nchunks++;
}

void node_forget_chunks(mf_node *node) {
  while (!list_empty(&node->chunks)) {
    struct node_chunk *chunk = list_entry(node->chunks.next, struct node_chunk, link);
    list_remove(&chunk->link);
    drop(chunk);
  }
  node->nchunks = 0;
}

/* ---- answers ---- */

struct telling {
  mf_node *node;
  struct node_caller *caller;
  uint64_t id;
  const unsigned char *begin, *end; /* answers that follow each other, not yet written */
  uint32_t n;                       /* answers so far */
  uint32_t put;                     /* bytes of those that were written */
  size_t most;                      /* bytes of an ITEMS record */
  int failed;
};

static void put_items(struct telling *t, const void *data, size_t length) {
  if (length == 0 || t->failed)
    return;
  if (node_make_room(t->node, t->caller, envelope_items_size(length)) < 0 ||
      envelope_put_items(&t->caller->out, t->id, t->put, data, length) < 0)
    t->failed = 1;
  t->put += (uint32_t)length;
}

static void put_pending(struct telling *t) {
  put_items(t, t->begin, (size_t)(t->end - t->begin));
  t->begin = t->end;
}

/* In the place of an answer that can't travel. */
static void put_failure(struct telling *t, unsigned code, const char *text) {
  struct failure_body f = {.code = code, .message = text, .nmessage = strlen(text)};
  unsigned char room[FAILURE_ROOM];
  struct buf body, answer;
  buf_init(&body, FAILURE_ROOM);
  buf_init(&answer, FAILURE_ROOM);
  buf_lend(&answer, room, sizeof room);
  if (failure_body_encode(&f, &body) < 0 || buf_put_u8(&answer, CHUNK_FAILURE) < 0 ||
      buf_put_str(&answer, buf_peek(&body), buf_size(&body)) < 0)
    t->failed = 1;
  put_items(t, buf_peek(&answer), buf_size(&answer));
  buf_deinit(&answer);
  buf_deinit(&body);
}

static void put_too_long(struct telling *t, size_t length) {
  char text[NODE_LONG_TEXT];
  node_describe_long(t->node, length, text);
  put_failure(t, FAILURE_LIMIT, text);
}

/* Up to n answers of data; the last has handles where has_handles is set. */
static void put_answers(struct telling *t, const unsigned char *data, size_t length,
                        uint32_t n, int has_handles) {
  struct reader r;
  struct chunk_answer a;
  reader_init(&r, data, length);
  t->begin = t->end = data;
  for (; t->n < n; t->n++) {
    const unsigned char *at = r.p;
    if (reader_left(&r) == 0 || chunk_answer_next(&r, &a) < 0)
      break; /* what the worker has claimed and not answered */
    int is_last = has_handles && reader_left(&r) == 0;
    size_t size = (size_t)(r.p - at);
    if (size > t->most || is_last || (size_t)(r.p - t->begin) > t->most) {
      put_pending(t);
      t->begin = t->end = at;
    }
    if (is_last)
      put_failure(t, FAILURE_INVAL, NODE_HANDLES_TEXT);
    else if (size > t->most)
      put_too_long(t, size);
    t->end = r.p;
    if (is_last || size > t->most)
      t->begin = r.p;
  }
  put_pending(t);
}

static size_t items_max(const mf_node *node) {
  size_t payload = engine_max_payload(node->engine);
  return payload - envelope_items_size(0);
}

static void begin(struct telling *t, mf_node *node, struct node_caller *caller,
                  uint64_t id) {
  *t =
      (struct telling){.node = node, .caller = caller, .id = id, .most = items_max(node)};
}

/* 0, or -1: the caller is told nothing, as if the answers had been lost. */
static int put_end(struct telling *t, struct envelope_record *end) {
  size_t texts = end->message_length + end->traceback_length + end->value_length;
  end->id = t->id;
  if (t->failed ||
      node_make_room(t->node, t->caller, envelope_result_size(64) + texts) < 0 ||
      envelope_put_chunked(&t->caller->out, end, items_max(t->node)) < 0)
    return -1;
  return 0;
}

int node_chunk_answer(mf_node *node, struct node_caller *caller, uint64_t id,
                      const struct node_chunk *chunk, const mf_message *m) {
  struct envelope_record end = {0};
  struct telling t;
  struct reader r;
  begin(&t, node, caller, id);
  reader_init(&r, m->data, m->length);
  uint32_t answered = reader_u32(&r);
  end.us = reader_u32(&r);
  if (r.ok)
    put_answers(&t, r.p, reader_left(&r), answered < chunk->n ? answered : chunk->n,
                m->nfds > 0);
  end.entered = t.n;
  return put_end(&t, &end);
}

int node_chunk_fail(mf_node *node, struct node_caller *caller, uint64_t id,
                    const struct node_chunk *chunk, const struct envelope_record *error) {
  struct envelope_record end = *error;
  struct telling t;
  uint32_t bytes, finished;
  unsigned char *answers = malloc(RPC_CHUNK_BYTES);
  begin(&t, node, caller, id);
  chunk_record_stop(chunk->record);
  if (answers) {
    chunk_record_read(chunk->record, chunk->n, answers, &bytes, &finished, &end.entered);
    put_answers(&t, answers, bytes, finished, 0);
    free(answers);
  } else {
    end.entered = chunk->n; /* those that were answered are told to be unknown */
  }
  return put_end(&t, &end);
}
