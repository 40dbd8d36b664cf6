/* Texts of failures. Runs in templates and clones. Every path is bounded: a program may
 * raise a hundred megabytes, and gets the first of them with a note that it was cut. */
#include "template/failure.h"

#include <string.h>

static const char note[] = "\n... (cut)";
enum { NOTE_SIZE = sizeof note - 1 };

static size_t set_text(char *to, size_t max, const char *text, size_t n) {
  if (n <= max) {
    memcpy(to, text, n);
    return n;
  }
  memcpy(to, text, max - NOTE_SIZE);
  memcpy(to + max - NOTE_SIZE, note, NOTE_SIZE);
  return max;
}

void failure_clear(struct failure *f) {
  if (!f->code && !f->nmessage && !f->ntraceback)
    return; /* a clone whose calls succeed leaves this page to its template */
  f->code = f->phase = f->error = 0;
  f->nmessage = f->ntraceback = 0;
}

void failure_set_message(struct failure *f, const char *text, size_t n) {
  f->nmessage = set_text(f->message, sizeof f->message, text, n);
}

void failure_set_traceback(struct failure *f, const char *text, size_t n) {
  f->ntraceback = set_text(f->traceback, sizeof f->traceback, text, n);
}

int failure_encode(const struct failure *f, struct buf *out) {
  int r = buf_put_u8(out, (unsigned)f->code);
  if (r == 0)
    r = buf_put_u8(out, (unsigned)f->phase);
  if (r == 0)
    r = buf_put_u16(out, 0);
  if (r == 0)
    r = buf_put_u32(out, (uint32_t)f->error);
  if (r == 0)
    r = buf_put_str(out, f->message, f->nmessage);
  if (r == 0)
    r = buf_put_str(out, f->ntraceback ? f->traceback : NULL, f->ntraceback);
  return r;
}

size_t failure_last_words(const struct failure *f, char *out, size_t n) {
  size_t at = set_text(out, n, f->message, f->nmessage);
  if (f->ntraceback == 0 || n - at < NOTE_SIZE + 1)
    return at;
  out[at++] = '\n';
  return at + set_text(out + at, n - at, f->traceback, f->ntraceback);
}
