/* libFuzzer: arbitrary bytes as what comes by way of a NATS server: calls, answers,
 * beats, subjects. What must hold: no crash, nothing outside of the message is read,
 * every record lies inside of it and takes at least nine bytes of it, a node's name is
 * printable, and what was read and is written again reads the same. */
#undef NDEBUG /* its asserts are the test */
#include "nats/envelope.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Nothing that a terminal takes for a command: C0, DEL, and C1 as UTF-8 has it. */
static void shown(const char *name) {
  for (const unsigned char *s = (const unsigned char *)name; *s; s++) {
    assert(*s >= ' ' && *s != 127);
    assert(*s != 0xc2 || s[1] >= 0xa0);
    assert(*s < 0xc0 || (s[1] & 0xc0) == 0x80); /* a whole character */
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const void *p, size_t n, const uint8_t *data, size_t size) {
  const uint8_t *at = p;
  assert(!at || (at >= data && n <= size && at <= data + size - n));
}

static void put(struct buf *b, const struct envelope_record *e) {
  if (e->kind == ENVELOPE_CALL)
    assert(envelope_put_call(b, e->id, e->timeout_ms, e->idempotent, e->data,
                             e->length) == 0);
  else if (e->kind == ENVELOPE_RESULT)
    assert(envelope_put_result(b, e->id, e->data, e->length) == 0);
  else if (e->kind == ENVELOPE_ERROR)
    assert(envelope_put_error(b, e, SIZE_MAX) == 0);
  else if (e->kind == ENVELOPE_CHUNK)
    assert(envelope_put_chunk(b, e->id, e->timeout_ms, e->data, e->length) == 0);
  else if (e->kind == ENVELOPE_ITEMS)
    assert(envelope_put_items(b, e->id, e->before, e->data, e->length) == 0);
  else if (e->kind == ENVELOPE_CHUNKED)
    assert(envelope_put_chunked(b, e, SIZE_MAX) == 0);
}

static void again(const struct envelope_record *e, int answers) {
  struct envelope_record got;
  struct reader r;
  struct buf b;
  buf_init(&b, SIZE_MAX);
  put(&b, e);
  reader_init(&r, buf_peek(&b), buf_size(&b));
  if (buf_size(&b) > 0) {
    assert(envelope_next(&r, answers, &got) == 1);
    assert(got.kind == e->kind && got.id == e->id && got.length == e->length);
    assert(got.code == e->code && got.message_length == e->message_length);
    assert(got.entered == e->entered && got.us == e->us);
    assert(got.length == 0 || memcmp(got.data, e->data, e->length) == 0);
  }
  buf_deinit(&b);
}

static void records(struct reader *r, int answers, const uint8_t *data, size_t size) {
  struct envelope_record e;
  size_t n = 0;
  while (envelope_next(r, answers, &e) > 0) {
    assert(++n <= size / 9);
    inside(e.data, e.length, data, size);
    inside(e.message, e.message_length, data, size);
    inside(e.traceback, e.traceback_length, data, size);
    inside(e.value, e.value_length, data, size);
    assert(e.exit == ENVELOPE_NO_EXIT || (e.status >= 0 && e.status < 256));
    again(&e, answers);
  }
}

static void subjects(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1), caller[NODE_ID + 1];
  assert(text);
  memcpy(text, data, size);
  text[size] = '\0';
  if (!subject_fault(text))
    assert(strlen(text) <= SUBJECT_MAX && !strpbrk(text, " *>\r\n\t"));
  if (subject_caller(text, caller))
    assert(strlen(caller) == NODE_ID);
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct node_beat beat;
  struct reader r;
  char node[NODE_ID + 1];
  if (envelope_open_calls(&r, data, size))
    records(&r, 0, data, size);
  if (envelope_open_answers(&r, data, size, node)) {
    assert(strlen(node) == NODE_ID);
    records(&r, 1, data, size);
  }
  if (beat_read(&beat, data, size))
    shown(beat.name);
  for (const char *what = "cab"; *what; what++) {
    char text[VERSION_TEXT];
    int version = envelope_other_version(data, size, *what, &beat);
    assert(version != ENVELOPE_VERSION && version < 256);
    envelope_describe_version(version, &beat, text);
    shown(text);
  }
  subjects(data, size);
  return 0;
}
