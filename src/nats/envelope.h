/* What callers and nodes say to each other (doc/nats.md, "Messages"). All numbers are
 * little-endian. What is read here comes from anybody who may publish to a subject, so
 * every length is checked, and nothing is believed. Pure.
 *
 *   calls:    "mfc" VERSION, then any number of: u8 kind, u64 id, ...
 *             CALL: u32 milliseconds (0: no limit), u8 idempotent, u32 length, bytes
 *             CANCEL, CHECK: nothing
 *             CHUNK: as CALL; the bytes are a chunk of items (wire/rpc_proto.h), and only
 *             nodes that have said so take one
 *   answers:  "mfa" VERSION, str node, then any number of: u8 kind, u64 id, ...
 *             RESULT: u32 length, bytes
 *             ERROR: i32 code, u8 started, u8 exit, i32 status, str message, str
 *             traceback, str value
 *             BUSY: nothing; the call was not taken
 *             GONE: nothing; a call that was checked is not here (any more)
 *             ITEMS: u32 bytes of answers before, u32 length, bytes: the next answers of
 *             a chunk
 *             CHUNKED: u32 entered, u32 microseconds, and as ERROR, with code 0 where
 *             it is none: the chunk is over, ITEMS were all its answers, and the items
 *             behind `entered` were not and will not be entered
 *   beats:    "mfb" VERSION, str node, str name, u32 window, u32 held, u32 workers,
 *             u32 load, u8 flags, u32 milliseconds, u64 calls
 *
 * In every version the four bytes, the node and, of a beat, its name stand there: so who
 * gets a message of another version can say which, and whose. Any change of what is
 * behind them is another version, but for more flags, and for what follows a beat. */
#ifndef NATS_ENVELOPE_H
#define NATS_ENVELOPE_H

#include "base/buf.h"

enum {
  ENVELOPE_VERSION = 2, /* 1 had no exit in ERROR and CHUNKED */
  NODE_ID = 22,         /* letters and digits */
  NODE_NAME = 64,       /* bytes of a node's name */
  SUBJECT_MAX = 200
};

enum envelope_kind {
  ENVELOPE_CALL = 1,
  ENVELOPE_CANCEL = 2,
  ENVELOPE_RESULT = 3,
  ENVELOPE_ERROR = 4,
  ENVELOPE_BUSY = 5,
  ENVELOPE_CHECK = 6,
  ENVELOPE_GONE = 7,
  ENVELOPE_CHUNK = 8,
  ENVELOPE_ITEMS = 9,
  ENVELOPE_CHUNKED = 10
};

enum envelope_exit {
  ENVELOPE_NO_EXIT,
  ENVELOPE_EXIT_CODE,
  ENVELOPE_EXIT_SIGNAL,
  ENVELOPE_EXIT_CORE /* by a signal, with a core */
};

/* Strings are borrowed from the message; NULL: there is none. */
struct envelope_record {
  enum envelope_kind kind;
  uint64_t id;
  uint32_t timeout_ms;
  int idempotent;
  const unsigned char *data; /* of CALL, CHUNK, RESULT and ITEMS */
  size_t length;
  uint32_t before;      /* of ITEMS: so many bytes of answers went before */
  uint32_t entered, us; /* of CHUNKED */
  int32_t code;         /* of ERROR and CHUNKED */
  int started;
  enum envelope_exit exit; /* how the process ended, and its code or signal */
  int32_t status;
  const char *message, *traceback, *value;
  size_t message_length, traceback_length, value_length;
};

enum beat_flags { BEAT_DRAINING = 1, BEAT_FAILED = 2, BEAT_CHUNKS = 4 };

struct node_beat {
  char node[NODE_ID + 1], name[NODE_NAME + 1];
  uint32_t window, held, workers, load, beat_ms;
  int draining, failed;
  int chunks; /* it takes chunks of items */
  uint64_t calls;
};

/* Each begins a message: 0, -ENOMEM or -E2BIG. */
int envelope_begin_calls(struct buf *b);
int envelope_begin_answers(struct buf *b, const char *node);
/* Each appends one record, or nothing: the same results. */
int envelope_put_call(struct buf *b, uint64_t id, uint32_t timeout_ms, int idempotent,
                      const void *data, size_t length);
int envelope_put_chunk(struct buf *b, uint64_t id, uint32_t timeout_ms, const void *data,
                       size_t length);
int envelope_put_cancel(struct buf *b, uint64_t id);
int envelope_put_result(struct buf *b, uint64_t id, const void *data, size_t length);
int envelope_put_busy(struct buf *b, uint64_t id);
int envelope_put_check(struct buf *b, uint64_t id);
int envelope_put_gone(struct buf *b, uint64_t id);
int envelope_put_items(struct buf *b, uint64_t id, uint32_t before, const void *data,
                       size_t length);
/* Texts are cut to what is left of `room` bytes. */
int envelope_put_error(struct buf *b, const struct envelope_record *error, size_t room);
int envelope_put_chunked(struct buf *b, const struct envelope_record *end, size_t room);
/* Bytes that a call with so many bytes takes in a message of its own. */
size_t envelope_call_size(size_t length);
size_t envelope_result_size(size_t length);
size_t envelope_items_size(size_t length);

/* 1: a message of calls, or of answers, of this version; records follow. */
int envelope_open_calls(struct reader *r, const void *data, size_t length);
int envelope_open_answers(struct reader *r, const void *data, size_t length,
                          char node[NODE_ID + 1]);
/* 1: a record; 0: the end; -1: this is none of ours. Of answers: `answers` 1. */
int envelope_next(struct reader *r, int answers, struct envelope_record *record);

enum { VERSION_TEXT = 400 };

/* Calls ('c'), answers ('a') or a beat ('b') of another version: that version, and in
 * *ret the node (of answers and beats) and its name (of beats). -1: it is none. */
int envelope_other_version(const void *data, size_t length, char what,
                           struct node_beat *ret);
/* A sentence about that node. */
void envelope_describe_version(int version, const struct node_beat *node,
                               char text[VERSION_TEXT]);

int beat_write(struct buf *b, const struct node_beat *beat);
/* 1, or 0: it is none. The name is printable. */
int beat_read(struct node_beat *beat, const void *data, size_t length);

/* Words with dots between them, for NATS: no blanks, no control characters, no * and >,
 * no empty word, no word that begins with $, at most SUBJECT_MAX bytes. NULL, or what is
 * wrong. */
const char *subject_fault(const char *subject);
/* 1: `reply` is a place for answers: "_INBOX.", a caller's word, ".s.", a number. Its
 * caller's word is copied. */
int subject_caller(const char *reply, char caller[NODE_ID + 1]);

#endif
