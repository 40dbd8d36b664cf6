/* Why a command failed: the body of FAILED and FORK_FAILED, and the last words of a
 * function. Texts and the raised value live in the struct, texts cut to size, so that
 * telling of a failure needs no memory. Runs in templates and clones. */
#ifndef TEMPLATE_SERVER_FAILURE_RECORD_H
#define TEMPLATE_SERVER_FAILURE_RECORD_H

#include "base/buf.h"
#include "base/origin.h"
#include "wire/proto.h"
#include <stddef.h>

struct failure_record {
  int code, phase, error; /* enum failure_code, failure_phase; errno or 0 */
  size_t nmessage, ntraceback,
      nvalue; /* nvalue 0: a string was raised, or what can't be sent */
  char message[FAILURE_TEXT_MAX], traceback[FAILURE_TEXT_MAX];
  unsigned char value[FAILURE_VALUE_MAX]; /* packed, as an array of one */
};

/* The one rule for what the system refuses (a negative errno): FAILURE_LIMIT, a
 * resource is used up (descriptors, room on the disk, a quota, a limit on sizes);
 * FAILURE_NOMEM; FAILURE_UNSUPPORTED; else FAILURE_INVAL, what was given can't be used.
 * 0: 0. */
int failure_code_of(int error);

void failure_record_clear(struct failure_record *f);
/* All of it but traceback and value; the text is ours. */
void failure_record_set_at(const char *origin, struct failure_record *f, int code,
                           int phase, int error, const char *text);
#define failure_record_set(...) failure_record_set_at(ORIGIN, __VA_ARGS__)
/* Copies, cut with a note; a NUL becomes the two characters \0. */
void failure_record_set_message(struct failure_record *f, const char *text, size_t n);
/* Puts it before the message, which is cut where both are too long. */
void failure_record_prefix(struct failure_record *f, const char *prefix);
/* The same of a text of ours. With MOONFORK_DEBUG=origin in the environment of a debug
 * build it ends with the place that says so. */
void failure_record_say_at(const char *origin, struct failure_record *f, const char *text,
                           size_t n);
void failure_record_add_origin(struct failure_record *f,
                               const char *origin); /* or NULL */
#define failure_record_say(...) failure_record_say_at(ORIGIN, __VA_ARGS__)
void failure_record_set_traceback(struct failure_record *f, const char *text, size_t n);
/* The body of the answer. 0 or a negative errno. */
int failure_record_encode(const struct failure_record *f, struct buf *out);
/* Message and traceback as one text into out (n bytes, some dozens at least), each cut
 * with a note where both don't fit; the traceback gets up to a half. Returns its size;
 * not terminated. */
size_t failure_record_last_words(const struct failure_record *f, char *out, size_t n);

#endif
