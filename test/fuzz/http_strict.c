#include "http_strict.h"

#include <string.h>
#include <strings.h>

/* The bytes that were read so far. */
struct reading {
  const char *data;
  size_t at, size;
  int has_bare_lf;
};

int strict_is(struct strict_text text, const char *word) {
  return text.size == strlen(word) && strncasecmp(text.at, word, text.size) == 0;
}

static int is_one_of(char ch, const char *set) {
  return ch != '\0' && strchr(set, ch) != NULL;
}

static int is_letter_or_digit(char ch) {
  return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
}

static int is_token(struct strict_text text) {
  for (size_t i = 0; i < text.size; i++)
    if (!is_letter_or_digit(text.at[i]) && !is_one_of(text.at[i], "!#$%&'*+-.^_`|~"))
      return 0;
  return text.size > 0;
}

static int is_control(char ch) {
  return ((unsigned char)ch < ' ' && ch != '\t') || ch == 127;
}

static int has_control(struct strict_text text) {
  for (size_t i = 0; i < text.size; i++)
    if (is_control(text.at[i]))
      return 1;
  return 0;
}

static struct strict_text trimmed(struct strict_text text) {
  while (text.size > 0 && is_one_of(text.at[0], " \t")) {
    text.at++;
    text.size--;
  }
  while (text.size > 0 && is_one_of(text.at[text.size - 1], " \t"))
    text.size--;
  return text;
}

/* A line without its end, which is CRLF, or LF alone where `may_be_bare`. */
static enum strict take_line(struct reading *in, int may_be_bare,
                             struct strict_text *line) {
  const char *at = in->data + in->at, *lf = memchr(at, '\n', in->size - in->at);
  if (!lf)
    return STRICT_MORE;
  size_t size = (size_t)(lf - at);
  in->at += size + 1;
  if (size > 0 && at[size - 1] == '\r')
    size--;
  else if (!may_be_bare)
    return STRICT_WRONG;
  else
    in->has_bare_lf = 1;
  *line = (struct strict_text){at, size};
  return STRICT_WHOLE;
}

static struct strict_text take_word(struct strict_text *line) {
  const char *blank = memchr(line->at, ' ', line->size);
  struct strict_text word = {line->at, blank ? (size_t)(blank - line->at) : line->size};
  line->at += word.size;
  line->size -= word.size;
  while (line->size > 0 && line->at[0] == ' ') {
    line->at++;
    line->size--;
  }
  return word;
}

static enum strict wrong(struct strict_request *r, const char *why) {
  r->why = why;
  return STRICT_WRONG;
}

static enum strict read_request_line(struct reading *in, struct strict_request *r) {
  struct strict_text line;
  enum strict rc;
  do /* empty lines */
    if ((rc = take_line(in, 1, &line)) != STRICT_WHOLE)
      return rc;
  while (line.size == 0);
  r->method = take_word(&line);
  r->target = take_word(&line);
  if (!is_token(r->method))
    return wrong(r, "method");
  if (r->target.size == 0 || has_control(r->target) ||
      memchr(r->target.at, '\t', r->target.size) ||
      memchr(r->target.at, '#', r->target.size))
    return wrong(r, "target");
  if (line.size != 8 || memcmp(line.at, "HTTP/1.", 7) != 0 || line.at[7] < '0' ||
      line.at[7] > '9')
    return wrong(r, "version");
  r->minor = line.at[7] - '0';
  return STRICT_WHOLE;
}

/* Up to the empty line. */
static enum strict read_fields(struct reading *in, struct strict_request *r,
                               struct strict_field *fields, size_t *nfields) {
  for (*nfields = 0;;) {
    struct strict_text line;
    enum strict rc = take_line(in, 1, &line);
    if (rc != STRICT_WHOLE)
      return rc;
    if (line.size == 0)
      return STRICT_WHOLE;
    if (has_control(line))
      return wrong(r, "a control character in a field");
    if (is_one_of(line.at[0], " \t"))
      return wrong(r, "a folded field, or a blank before the first one");
    const char *colon = memchr(line.at, ':', line.size);
    if (!colon || *nfields == STRICT_FIELDS_MAX)
      return wrong(r, "a line without colon, or too many");
    size_t name_size = (size_t)(colon - line.at);
    struct strict_field *f = &fields[(*nfields)++];
    f->name = (struct strict_text){line.at, name_size};
    f->value =
        trimmed((struct strict_text){line.at + name_size + 1, line.size - name_size - 1});
    if (!is_token(f->name))
      return wrong(r, "name of a field");
  }
}

static enum strict read_length(struct strict_request *r, struct strict_text value,
                               size_t *ret_length) {
  size_t length = 0;
  for (size_t i = 0; i < value.size; i++) {
    if (value.at[i] < '0' || value.at[i] > '9' || length > ((size_t)1 << 56))
      return wrong(r, "length");
    length = length * 10 + (size_t)(value.at[i] - '0');
  }
  *ret_length = length;
  return value.size > 0 ? STRICT_WHOLE : wrong(r, "no length");
}

static int digit_of(char ch) {
  if (ch >= '0' && ch <= '9')
    return ch - '0';
  char letter = (char)(ch | 0x20);
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* "1f", "1f;name=value" */
static enum strict read_chunk_line(struct reading *in, struct strict_request *r,
                                   size_t *ret_size) {
  struct strict_text line;
  enum strict rc = take_line(in, 0, &line);
  if (rc != STRICT_WHOLE)
    return rc == STRICT_WRONG ? wrong(r, "line end of a chunk") : rc;
  size_t size = 0, i = 0;
  for (; i < line.size && digit_of(line.at[i]) >= 0; i++) {
    if (size >> 56)
      return wrong(r, "size of a chunk");
    size = size * 16 + (size_t)digit_of(line.at[i]);
  }
  if (i == 0)
    return wrong(r, "no size of a chunk");
  struct strict_text rest = {line.at + i, line.size - i};
  if (has_control(rest))
    return wrong(r, "a control character in the line of a chunk");
  if (rest.size > 0)
    r->is_plain = 0;
  rest = trimmed(rest);
  if (rest.size > 0 && rest.at[0] != ';')
    return wrong(r, "something behind the size of a chunk");
  *ret_size = size;
  return STRICT_WHOLE;
}

static enum strict read_chunks(struct reading *in, struct strict_request *r) {
  struct strict_field trailer[STRICT_FIELDS_MAX];
  size_t ntrailers;
  for (;;) {
    size_t size;
    enum strict rc = read_chunk_line(in, r, &size);
    if (rc != STRICT_WHOLE)
      return rc;
    if (size == 0)
      break;
    if (size > in->size - in->at)
      return STRICT_MORE;
    memcpy(r->body + r->body_size, in->data + in->at, size);
    r->body_size += size;
    in->at += size;
    if (in->size - in->at < 2)
      return STRICT_MORE;
    if (memcmp(in->data + in->at, "\r\n", 2) != 0)
      return wrong(r, "no line end behind a chunk");
    in->at += 2;
  }
  enum strict rc = read_fields(in, r, trailer, &ntrailers);
  if (ntrailers > 0)
    r->is_plain = 0;
  return rc;
}

static enum strict read_body(struct reading *in, struct strict_request *r,
                             size_t length) {
  if (length > in->size - in->at)
    return STRICT_MORE;
  if (length > 0)
    memcpy(r->body, in->data + in->at, length);
  r->body_size = length;
  in->at += length;
  return STRICT_WHOLE;
}

static int is_plain_text(struct strict_text text, const char *others) {
  for (size_t i = 0; i < text.size; i++)
    if (!is_letter_or_digit(text.at[i]) && !is_one_of(text.at[i], others))
      return 0;
  return text.size > 0;
}

static int is_plain(const struct reading *in, const struct strict_request *r) {
  static const char *const methods[] = {"GET", "POST", "PUT", "HEAD", "DELETE"};
  int is_known = 0;
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
    is_known |= r->method.size == strlen(methods[i]) &&
                memcmp(r->method.at, methods[i], r->method.size) == 0;
  return is_known && r->target.at[0] == '/' && is_plain_text(r->target, "/?&=.-_") &&
         r->minor == 1 && !in->has_bare_lf && in->at < 16384 && r->nfields <= 100;
}

enum strict strict_read(const char *data, size_t size, struct strict_request *r) {
  struct reading in = {.data = data, .size = size};
  size_t length = 0, nhosts = 0, nlengths = 0, nencodings = 0;
  r->body_size = 0;
  r->why = NULL;
  enum strict rc = read_request_line(&in, r);
  if (rc == STRICT_WHOLE)
    rc = read_fields(&in, r, r->fields, &r->nfields);
  if (rc != STRICT_WHOLE)
    return rc;
  r->is_plain = is_plain(&in, r);
  for (size_t i = 0; i < r->nfields; i++) {
    struct strict_text name = r->fields[i].name, value = r->fields[i].value;
    if (name.size > 17 && strncasecmp(name.at, "transfer-encoding", 17) == 0)
      r->is_plain = 0; /* http_parser takes it for an encoding, and refuses it */
    int is_host = strict_is(name, "host");
    nhosts += (size_t)is_host;
    if (is_host && !is_plain_text(value, ".-:[]"))
      r->is_plain = 0;
    if (is_host &&
        (memchr(value.at, ' ', value.size) || memchr(value.at, '\t', value.size)))
      return wrong(r, "host");
    if (strict_is(name, "content-length")) {
      nlengths++;
      if ((rc = read_length(r, value, &length)) != STRICT_WHOLE)
        return rc;
    } else if (strict_is(name, "transfer-encoding")) {
      nencodings++;
      if (!strict_is(value, "chunked"))
        return wrong(r, "encoding");
    } else if (strict_is(name, "expect") || strict_is(name, "upgrade") ||
               strict_is(name, "connection") || strict_is(name, "proxy-connection")) {
      r->is_plain = 0;
    }
  }
  if (nhosts > 1 || (nhosts == 0 && r->minor > 0))
    return wrong(r, "number of hosts");
  if (nlengths + nencodings > 1 || (nencodings > 0 && r->minor == 0))
    return wrong(r, "two ways to find the end");
  rc = nencodings > 0 ? read_chunks(&in, r) : read_body(&in, r, length);
  r->end = in.at;
  return rc;
}

/* ---- answers ---- */

enum strict strict_read_answer(const char *data, size_t size, int is_to_head,
                               struct strict_answer *a) {
  struct reading in = {.data = data, .size = size};
  static struct strict_request r; /* its fields */
  struct strict_text line;
  size_t length = 0;
  int has_length = 0;
  *a = (struct strict_answer){0};
  enum strict rc = take_line(&in, 0, &line);
  if (rc != STRICT_WHOLE)
    return rc;
  if (line.size < 13 || memcmp(line.at, "HTTP/1.1 ", 9) != 0 || line.at[12] != ' ')
    return STRICT_WRONG;
  for (int i = 9; i < 12; i++)
    a->status = a->status * 10 + line.at[i] - '0';
  rc = read_fields(&in, &r, r.fields, &r.nfields);
  if (rc != STRICT_WHOLE || in.has_bare_lf)
    return rc == STRICT_MORE ? rc : STRICT_WRONG;
  for (size_t i = 0; i < r.nfields; i++) {
    struct strict_text name = r.fields[i].name, value = r.fields[i].value;
    if (strict_is(name, "content-length")) {
      if (has_length++ || read_length(&r, value, &length) != STRICT_WHOLE)
        return STRICT_WRONG;
    } else if (strict_is(name, "transfer-encoding")) {
      if (a->is_chunked++ || !strict_is(value, "chunked"))
        return STRICT_WRONG;
    } else if (strict_is(name, "connection")) {
      a->ends_with_connection |= strict_is(value, "close");
    }
  }
  if (has_length && a->is_chunked)
    return STRICT_WRONG;
  if (is_to_head || a->status < 200 || a->status == 204 || a->status == 304) {
    a->end = in.at;
    return STRICT_WHOLE;
  }
  if (a->is_chunked) {
    for (;;) {
      size_t n;
      if ((rc = read_chunk_line(&in, &r, &n)) != STRICT_WHOLE)
        return rc;
      if (n + 2 > in.size - in.at)
        return STRICT_MORE;
      if (memcmp(in.data + in.at + n, "\r\n", 2) != 0)
        return STRICT_WRONG;
      in.at += n + 2;
      if (n == 0)
        break;
    }
  } else if (has_length) {
    if (length > in.size - in.at)
      return STRICT_MORE;
    in.at += length;
  } else {
    a->ends_with_connection = 1;
    in.at = in.size;
  }
  a->end = in.at;
  return STRICT_WHOLE;
}
