/* Messages between callers and nodes (envelope.h). Pure. */
#include "nats/envelope.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { HEAD = 4, CALL_HEAD = 1 + 8 + 4 + 1 + 4, RESULT_HEAD = 1 + 8 + 4 };

/* ---- writing ---- */

static int begin(struct buf *b, const char *magic) {
  unsigned char head[HEAD] = {(unsigned char)magic[0], (unsigned char)magic[1],
                              (unsigned char)magic[2], ENVELOPE_VERSION};
  return buf_put(b, head, sizeof head);
}

int envelope_begin_calls(struct buf *b) {
  return begin(b, "mfc");
}

int envelope_begin_answers(struct buf *b, const char *node) {
  unsigned char *p = buf_reserve(b, HEAD + 4 + NODE_ID);
  if (!p)
    return -errno;
  begin(b, "mfa");
  return buf_put_str(b, node, NODE_ID);
}

/* Room for a whole record, so that none is half written. */
static int begin_record(struct buf *b, enum envelope_kind kind, uint64_t id,
                        size_t rest) {
  errno = ENOMEM;
  if (rest > SIZE_MAX - 9 || !buf_reserve(b, 9 + rest))
    return -errno;
  buf_put_u8(b, kind);
  buf_put_u64(b, id);
  return 0;
}

static int put_call(struct buf *b, enum envelope_kind kind, uint64_t id,
                    uint32_t timeout_ms, int idempotent, const void *data,
                    size_t length) {
  int rc = length > UINT32_MAX ? -E2BIG : begin_record(b, kind, id, 9 + length);
  if (rc < 0)
    return rc;
  buf_put_u32(b, timeout_ms);
  buf_put_u8(b, idempotent ? 1 : 0);
  return buf_put_str(b, data ? data : "", length);
}

int envelope_put_call(struct buf *b, uint64_t id, uint32_t timeout_ms, int idempotent,
                      const void *data, size_t length) {
  return put_call(b, ENVELOPE_CALL, id, timeout_ms, idempotent, data, length);
}

int envelope_put_chunk(struct buf *b, uint64_t id, uint32_t timeout_ms, const void *data,
                       size_t length) {
  return put_call(b, ENVELOPE_CHUNK, id, timeout_ms, 0, data, length);
}

int envelope_put_cancel(struct buf *b, uint64_t id) {
  return begin_record(b, ENVELOPE_CANCEL, id, 0);
}

int envelope_put_busy(struct buf *b, uint64_t id) {
  return begin_record(b, ENVELOPE_BUSY, id, 0);
}

int envelope_put_check(struct buf *b, uint64_t id) {
  return begin_record(b, ENVELOPE_CHECK, id, 0);
}

int envelope_put_gone(struct buf *b, uint64_t id) {
  return begin_record(b, ENVELOPE_GONE, id, 0);
}

int envelope_put_result(struct buf *b, uint64_t id, const void *data, size_t length) {
  int rc =
      length > UINT32_MAX ? -E2BIG : begin_record(b, ENVELOPE_RESULT, id, 4 + length);
  return rc < 0 ? rc : buf_put_str(b, data ? data : "", length);
}

int envelope_put_items(struct buf *b, uint64_t id, uint32_t before, const void *data,
                       size_t length) {
  int rc =
      length > UINT32_MAX - 8 ? -E2BIG : begin_record(b, ENVELOPE_ITEMS, id, 8 + length);
  if (rc < 0)
    return rc;
  buf_put_u32(b, before);
  return buf_put_str(b, data ? data : "", length);
}

static size_t cut(size_t length, size_t *room) {
  size_t n = length < *room ? length : *room;
  *room -= n;
  return n;
}

/* ERROR or CHUNKED. */
static int put_end(struct buf *b, enum envelope_kind kind,
                   const struct envelope_record *e, size_t room) {
  size_t head = (kind == ENVELOPE_CHUNKED ? 8 : 0) + 4 + 1 + 5 + 3 * 4;
  room = room > head + 9 ? room - head - 9 : 0;
  size_t message = e->message ? cut(e->message_length, &room) : 0;
  size_t traceback = e->traceback ? cut(e->traceback_length, &room) : 0;
  /* half a value is none */
  size_t value = e->value && e->value_length <= room ? e->value_length : 0;
  int rc = begin_record(b, kind, e->id, head + message + traceback + value);
  if (rc < 0)
    return rc;
  if (kind == ENVELOPE_CHUNKED) {
    buf_put_u32(b, e->entered);
    buf_put_u32(b, e->us);
  }
  buf_put_u32(b, (uint32_t)e->code);
  buf_put_u8(b, e->started ? 1 : 0);
  buf_put_u8(b, (uint8_t)e->exit);
  buf_put_u32(b, (uint32_t)e->status);
  buf_put_str(b, e->message, message);
  buf_put_str(b, e->traceback, traceback);
  return buf_put_str(b, value > 0 ? e->value : NULL, value);
}

int envelope_put_error(struct buf *b, const struct envelope_record *e, size_t room) {
  return put_end(b, ENVELOPE_ERROR, e, room);
}

int envelope_put_chunked(struct buf *b, const struct envelope_record *e, size_t room) {
  return put_end(b, ENVELOPE_CHUNKED, e, room);
}

size_t envelope_call_size(size_t length) {
  return HEAD + CALL_HEAD + length;
}

size_t envelope_result_size(size_t length) {
  return HEAD + 4 + NODE_ID + RESULT_HEAD + length;
}

size_t envelope_items_size(size_t length) {
  return envelope_result_size(4 + length);
}

/* ---- reading ---- */

static int open_message(struct reader *r, const char *magic, const void *data,
                        size_t length) {
  reader_init(r, data, length);
  const unsigned char *head = reader_take(r, HEAD);
  return head && memcmp(head, magic, 3) == 0 && head[3] == ENVELOPE_VERSION;
}

static int is_word(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!isalnum((unsigned char)s[i]))
      return 0;
  return n == NODE_ID;
}

static int read_node(struct reader *r, char node[NODE_ID + 1]) {
  size_t n;
  const char *s = reader_str(r, &n);
  if (!r->ok || !s || !is_word(s, n))
    return 0;
  memcpy(node, s, NODE_ID);
  node[NODE_ID] = '\0';
  return 1;
}

int envelope_open_calls(struct reader *r, const void *data, size_t length) {
  return open_message(r, "mfc", data, length);
}

int envelope_open_answers(struct reader *r, const void *data, size_t length,
                          char node[NODE_ID + 1]) {
  return open_message(r, "mfa", data, length) && read_node(r, node);
}

static void read_bytes(struct reader *r, struct envelope_record *e) {
  e->data = (const unsigned char *)reader_str(r, &e->length);
  if (!e->data)
    r->ok = 0;
}

static void read_call(struct reader *r, struct envelope_record *e) {
  e->timeout_ms = reader_u32(r);
  e->idempotent = reader_u8(r) == 1;
  read_bytes(r, e);
}

/* A process has ended in this way. */
static int is_exit(unsigned how, int32_t status) {
  if (how == ENVELOPE_EXIT_CODE)
    return status >= 0 && status < 256;
  return (how == ENVELOPE_EXIT_SIGNAL || how == ENVELOPE_EXIT_CORE) && status > 0 &&
         status < 128;
}

static void read_error(struct reader *r, struct envelope_record *e) {
  e->code = (int32_t)reader_u32(r);
  e->started = reader_u8(r) != 0;
  unsigned how = reader_u8(r);
  e->status = (int32_t)reader_u32(r);
  e->exit = is_exit(how, e->status) ? how : ENVELOPE_NO_EXIT;
  e->message = reader_str(r, &e->message_length);
  e->traceback = reader_str(r, &e->traceback_length);
  e->value = reader_str(r, &e->value_length);
  if (e->code > 0 || (e->code == 0 && e->kind == ENVELOPE_ERROR))
    r->ok = 0; /* no error has such a number */
}

static void read_chunked(struct reader *r, struct envelope_record *e) {
  e->entered = reader_u32(r);
  e->us = reader_u32(r);
  read_error(r, e);
}

static int is_answer(enum envelope_kind kind) {
  return kind != ENVELOPE_CALL && kind != ENVELOPE_CHUNK && kind != ENVELOPE_CANCEL &&
         kind != ENVELOPE_CHECK;
}

int envelope_next(struct reader *r, int answers, struct envelope_record *e) {
  if (r->ok && reader_left(r) == 0)
    return 0;
  memset(e, 0, sizeof *e);
  e->kind = reader_u8(r);
  e->id = reader_u64(r);
  switch (e->kind) {
  case ENVELOPE_CALL:
  case ENVELOPE_CHUNK:
    read_call(r, e);
    break;
  case ENVELOPE_ITEMS:
    e->before = reader_u32(r);
    read_bytes(r, e);
    break;
  case ENVELOPE_RESULT:
    read_bytes(r, e);
    break;
  case ENVELOPE_CHUNKED:
    read_chunked(r, e);
    break;
  case ENVELOPE_ERROR:
    read_error(r, e);
    break;
  case ENVELOPE_CANCEL:
  case ENVELOPE_BUSY:
  case ENVELOPE_CHECK:
  case ENVELOPE_GONE:
    break;
  default:
    return -1;
  }
  return r->ok && e->id > 0 && is_answer(e->kind) == answers ? 1 : -1;
}

/* ---- beats ---- */

int beat_write(struct buf *b, const struct node_beat *beat) {
  size_t name = strlen(beat->name);
  if (!buf_reserve(b, HEAD + 4 + NODE_ID + 4 + name + 5 * 4 + 1 + 8))
    return -errno;
  begin(b, "mfb");
  buf_put_str(b, beat->node, NODE_ID);
  buf_put_str(b, beat->name, name);
  buf_put_u32(b, beat->window);
  buf_put_u32(b, beat->held);
  buf_put_u32(b, beat->workers);
  buf_put_u32(b, beat->load);
  buf_put_u8(b, (beat->draining ? BEAT_DRAINING : 0) | (beat->failed ? BEAT_FAILED : 0) |
                    (beat->chunks ? BEAT_CHUNKS : 0));
  buf_put_u32(b, beat->beat_ms);
  return buf_put_u64(b, beat->calls);
}

/* Bytes of the character of UTF-8 that s begins with; 0: it is none, or it controls how
 * others are shown (the C1 set, directions of writing). */
static size_t plain_character(const unsigned char *s, size_t n) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t length = *s < 0x80 ? 1 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4;
  uint32_t c = length == 1 ? *s : *s & (0x7fu >> length);
  if (length == 1)
    return *s >= ' ' && *s < 127;
  if (*s < 0xc0 || *s >= 0xf8 || length > n)
    return 0;
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | (s[i] & 0x3f);
  }
  int is_control = c < 0xa0 || (c >= 0x200b && c <= 0x200f) ||
                   (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
                   c == 0xfeff;
  return c < least[length] || c > 0x10ffff || (c >> 11) == 0x1b || is_control ? 0
                                                                              : length;
}

/* For terminals and logs: each byte of what is no plain character is a question mark. */
static int read_name(struct reader *r, char name[NODE_NAME + 1]) {
  size_t n, length;
  const char *s = reader_str(r, &n);
  if (!r->ok || !s || n > NODE_NAME)
    return 0;
  memcpy(name, s, n);
  name[n] = '\0';
  for (size_t i = 0; i<n; i += length> 0 ? length : 1)
    if ((length = plain_character((unsigned char *)name + i, n - i)) == 0)
      name[i] = '?';
  return 1;
}

int envelope_other_version(const void *data, size_t length, char what,
                           struct node_beat *ret) {
  struct reader r;
  memset(ret, 0, sizeof *ret);
  reader_init(&r, data, length);
  const unsigned char *head = reader_take(&r, HEAD);
  if (!head || head[0] != 'm' || head[1] != 'f' || head[2] != (unsigned char)what ||
      head[3] == ENVELOPE_VERSION)
    return -1;
  if ((what != 'c' && !read_node(&r, ret->node)) ||
      (what == 'b' && !read_name(&r, ret->name)))
    return -1;
  return head[3];
}

void envelope_describe_version(int version, const struct node_beat *node,
                               char text[VERSION_TEXT]) {
  snprintf(text, VERSION_TEXT,
           "the node %s speaks version %d of the messages, this program version %d: "
           "both must have the same release of moonfork",
           node->name[0] ? node->name : node->node, version, ENVELOPE_VERSION);
}

int beat_read(struct node_beat *beat, const void *data, size_t length) {
  struct reader r;
  memset(beat, 0, sizeof *beat);
  if (!open_message(&r, "mfb", data, length) || !read_node(&r, beat->node) ||
      !read_name(&r, beat->name))
    return 0;
  beat->window = reader_u32(&r);
  beat->held = reader_u32(&r);
  beat->workers = reader_u32(&r);
  beat->load = reader_u32(&r);
  unsigned flags = reader_u8(&r);
  beat->draining = (flags & BEAT_DRAINING) != 0;
  beat->failed = (flags & BEAT_FAILED) != 0;
  beat->chunks = (flags & BEAT_CHUNKS) != 0;
  beat->beat_ms = reader_u32(&r);
  beat->calls = reader_u64(&r);
  return r.ok; /* what a later version has behind it is its own */
}

/* ---- subjects ---- */

static const char *character_fault(const char *s, int begins_word) {
  if (*s == '.' && (begins_word || s[1] == '\0'))
    return "it has an empty word";
  if (*s == '*' || *s == '>')
    return "* and > are for wildcards";
  if (*s == '$' && begins_word)
    return "words that begin with $ are the server's";
  if ((unsigned char)*s <= ' ' || *s == 127)
    return "it has a blank or a control character";
  return NULL;
}

const char *subject_fault(const char *subject) {
  size_t n = strnlen(subject, SUBJECT_MAX + 1);
  if (n == 0)
    return "it is empty";
  if (n > SUBJECT_MAX)
    return "it is longer than 200 bytes";
  for (const char *s = subject; *s; s++) {
    const char *fault = character_fault(s, s == subject || s[-1] == '.');
    if (fault)
      return fault;
  }
  return NULL;
}

int subject_caller(const char *reply, char caller[NODE_ID + 1]) {
  static const char prefix[] = "_INBOX.";
  size_t n = strnlen(reply, 64);
  const char *word = reply + sizeof prefix - 1;
  if (n < sizeof prefix - 1 + NODE_ID + 4 ||
      memcmp(reply, prefix, sizeof prefix - 1) != 0 || !is_word(word, NODE_ID) ||
      memcmp(word + NODE_ID, ".s.", 3) != 0)
    return 0;
  memcpy(caller, word, NODE_ID);
  caller[NODE_ID] = '\0';
  return 1;
}
