/* Texts of failures. Runs in templates and clones. Every path is bounded: a program may
 * raise a hundred megabytes, and gets the first of them with a note that it was cut. */
#include "template/server/failure_record.h"

#include "wire/failure_body.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char note[] = "\n... (cut)";
enum { NOTE_SIZE = sizeof note - 1 };

int failure_code_of(int error) {
  switch (error) {
  case 0:
    return 0;
  case -ENOMEM:
    return FAILURE_NOMEM;
  case -ENOTSUP:
    return FAILURE_UNSUPPORTED;
  case -EMFILE:
  case -ENFILE:
  case -ENOSPC:
  case -EDQUOT:
  case -EFBIG:
    return FAILURE_LIMIT;
  default:
    return FAILURE_INVAL;
  }
}

static size_t count_nuls(const char *text, size_t n) {
  size_t found = 0;
  for (const char *p = text, *end = text + n; (p = memchr(p, 0, (size_t)(end - p))); p++)
    found++;
  return found;
}

/* As much as max bytes take. A NUL, where C's strings end, is shown as \0. */
static size_t put_shown(char *to, size_t max, const char *text, size_t n) {
  size_t at = 0;
  for (size_t i = 0; i < n && at + (text[i] == 0) < max; i++) {
    if (text[i] == 0)
      to[at++] = '\\';
    to[at++] = (char)(text[i] == 0 ? '0' : text[i]);
  }
  return at;
}

static size_t set_text(char *to, size_t max, const char *text, size_t n) {
  size_t nuls = n <= max ? count_nuls(text, n) : 0;
  if (n <= max && nuls == 0) {
    memcpy(to, text, n);
    return n;
  }
  if (n <= max && n + nuls <= max)
    return put_shown(to, max, text, n);
  size_t at = put_shown(to, max - NOTE_SIZE, text, n);
  memcpy(to + at, note, NOTE_SIZE);
  return at + NOTE_SIZE;
}

void failure_record_clear(struct failure_record *f) {
  if (!f->code && !f->nmessage && !f->ntraceback && !f->nvalue)
    return; /* a clone whose calls succeed leaves this page to its template */
  f->code = f->phase = f->error = 0;
  f->nmessage = f->ntraceback = f->nvalue = 0;
}

void failure_record_set_message(struct failure_record *f, const char *text, size_t n) {
  f->nmessage = set_text(f->message, sizeof f->message, text, n);
}

void failure_record_prefix(struct failure_record *f, const char *prefix) {
  size_t n = strlen(prefix);
  if (n + f->nmessage > sizeof f->message)
    f->nmessage = set_text(f->message, sizeof f->message - n, f->message, f->nmessage);
  memmove(f->message + n, f->message, f->nmessage);
  memcpy(f->message, prefix, n);
  f->nmessage += n;
}

void failure_record_say_at(const char *origin, struct failure_record *f, const char *text,
                           size_t n) {
  failure_record_set_message(f, text, n);
  failure_record_add_origin(f, origin);
}

void failure_record_add_origin(struct failure_record *f, const char *origin) {
  if (!origin || !origin_is_shown())
    return;
  size_t room = sizeof f->message - f->nmessage;
  int more = snprintf(f->message + f->nmessage, room, " [%s]", origin_name(origin));
  if (more > 0 && (size_t)more < room)
    f->nmessage += (size_t)more;
}

void failure_record_set_at(const char *origin, struct failure_record *f, int code,
                           int phase, int error, const char *text) {
  failure_record_clear(f);
  f->code = code;
  f->phase = phase;
  f->error = error;
  failure_record_say_at(origin, f, text, strlen(text));
}

void failure_record_set_traceback(struct failure_record *f, const char *text, size_t n) {
  f->ntraceback = set_text(f->traceback, sizeof f->traceback, text, n);
}

int failure_record_encode(const struct failure_record *f, struct buf *out) {
  struct failure_body body = {.code = (unsigned)f->code,
                              .second = (unsigned)f->phase,
                              .error = (uint32_t)f->error,
                              .message = f->message,
                              .nmessage = f->nmessage,
                              .traceback = f->ntraceback ? f->traceback : NULL,
                              .ntraceback = f->ntraceback,
                              .value = f->nvalue ? f->value : NULL,
                              .nvalue = f->nvalue};
  return failure_body_encode(&body, out);
}

size_t failure_record_last_words(const struct failure_record *f, char *out, size_t n) {
  size_t half = n / 2, traceback = f->ntraceback < half ? f->ntraceback : half;
  if (traceback == 0)
    return set_text(out, n, f->message, f->nmessage);
  size_t at = set_text(out, n - 1 - traceback, f->message, f->nmessage);
  out[at++] = '\n';
  return at + set_text(out + at, n - at, f->traceback, f->ntraceback);
}
