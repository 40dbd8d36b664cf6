/* Line ends and the parts of a request, which http_parser gets one after the other. As a library it
 * is built without its strict mode: it takes any byte for the LF behind a CR, any two bytes for the
 * line end behind a chunk, an LF for a part of a chunk's extension, a field that is folded
 * for one that is not, and HTTX for HTTP. Another server reads another request then. So this
 * looks first.
 *
 *   LINES_EMPTY  -> LINES_HEAD                      the first byte of a line that is not empty
 *   LINES_HEAD   -> LINES_END                       the empty line
 *   LINES_END    -> LINES_BODY or LINES_CHUNK       (lines_set) the parser has the head
 *   LINES_CHUNK  -> LINES_END                       the line with the size
 *   LINES_END    -> LINES_DATA or LINES_HEAD        (lines_set) the parser has the size; 0: trailer
 *   LINES_DATA   -> LINES_BEHIND -> LINES_CHUNK     the data, its line end */
#include "serve/http.h"

#include <string.h>

enum { BROKEN = -1 };

static const char protocol[] = "HTTP/";
enum { MATCH = sizeof protocol - 1, NO_MATCH };

void lines_init(struct lines *l) {
  *l = (struct lines){.part = LINES_EMPTY, .at_begin = 1, .is_request_line = 1};
}

int lines_set(struct lines *l, enum lines_part part, uint64_t size) {
  if (l->part != LINES_END)
    return BROKEN; /* the parser has seen an end where there is none */
  *l = (struct lines){.part = part, .at_begin = 1, .left = size};
  return 0;
}

/* Empty lines before the request. */
static int look_at_empty(struct lines *l, char ch) {
  if (l->after_cr && ch != '\n')
    return BROKEN;
  l->after_cr = ch == '\r';
  if (ch != '\r' && ch != '\n')
    l->part = LINES_HEAD;
  l->at_begin = l->part == LINES_EMPTY;
  return 0;
}

/* Lines up to the empty one; an LF alone ends them, too (RFC 9112, 2.2). */
static int look_at_head(struct lines *l, char ch) {
  if (l->after_cr && ch != '\n')
    return BROKEN;
  l->after_cr = ch == '\r';
  if (ch == '\r')
    return 0;
  if (l->is_request_line && l->nmatched != MATCH)
    return BROKEN;
  l->is_request_line = 0;
  if (l->at_begin && ch == '\n')
    l->part = LINES_END;
  if (l->at_begin && (ch == ' ' || ch == '\t'))
    return BROKEN;
  l->at_begin = ch == '\n';
  return 0;
}

/* http_parser takes a byte from 128 on for the digit 0. */
static int look_at_chunk(struct lines *l, char ch) {
  unsigned char byte = (unsigned char)ch;
  if (l->after_cr != (ch == '\n'))
    return BROKEN;
  if (ch != '\r' && ch != '\n' && ch != '\t' && (byte < ' ' || byte >= 127))
    return BROKEN;
  l->after_cr = ch == '\r';
  if (ch == '\n')
    l->part = LINES_END;
  return 0;
}

static int look_behind_data(struct lines *l, char ch) {
  if (ch != (l->after_cr ? '\n' : '\r'))
    return BROKEN;
  l->after_cr = !l->after_cr;
  if (ch == '\n')
    l->part = LINES_CHUNK;
  return 0;
}

static int look_at(struct lines *l, char ch) {
  switch (l->part) {
  case LINES_EMPTY:
    return look_at_empty(l, ch);
  case LINES_HEAD:
    return look_at_head(l, ch);
  case LINES_CHUNK:
    return look_at_chunk(l, ch);
  case LINES_BEHIND:
    return look_behind_data(l, ch);
  default:
    return BROKEN; /* LINES_END: the parser has not seen the end */
  }
}

/* Up to its CR or LF; so far as it has come its last word is compared with "HTTP/". */
static size_t request_line(struct lines *l, const char *data, size_t size) {
  size_t at = 0;
  for (; at < size && data[at] != '\r' && data[at] != '\n'; at++)
    if (data[at] == ' ')
      l->nmatched = 0;
    else if (l->nmatched < MATCH)
      l->nmatched = data[at] == protocol[l->nmatched] ? l->nmatched + 1 : NO_MATCH;
  return at;
}

/* How many bytes of a line of the head need no further look: up to its CR or LF. */
static size_t plain_part(struct lines *l, const char *data, size_t size) {
  if (l->part != LINES_HEAD || l->at_begin || l->after_cr)
    return 0;
  if (l->is_request_line)
    return request_line(l, data, size);
  const char *lf = memchr(data, '\n', size);
  size_t n = lf ? (size_t)(lf - data) : size;
  const char *cr = memchr(data, '\r', n);
  return cr ? (size_t)(cr - data) : n;
}

size_t lines_pass(struct lines *l, const char *data, size_t size, int *ret_is_broken) {
  enum lines_part part = l->part;
  size_t at = 0;
  if (part == LINES_BODY)
    return size;
  if (part == LINES_DATA) {
    size_t n = size < l->left ? size : (size_t)l->left;
    l->left -= n;
    if (l->left == 0)
      l->part = LINES_BEHIND;
    return n;
  }
  while (at < size && (l->part == part || l->part == LINES_HEAD)) {
    size_t plain = plain_part(l, data + at, size - at);
    at += plain;
    if (plain > 0)
      continue;
    if (look_at(l, data[at]) < 0) {
      *ret_is_broken = 1;
      break;
    }
    at++;
  }
  return at;
}
