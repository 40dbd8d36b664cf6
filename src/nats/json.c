/* See json.h. */
#include "nats/json.h"

#include <errno.h>
#include <string.h>

static const char *skip_value(const char *c, const char *end, int depth);

static const char *skip_blanks(const char *c, const char *end) {
  while (c < end && (*c == ' ' || *c == '\t' || *c == '\r' || *c == '\n'))
    c++;
  return c;
}

static int is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* These return where the thing ends, or NULL where it is none. */

static const char *skip_text(const char *c, const char *end) {
  if (c == end || *c++ != '"')
    return NULL;
  for (; c < end; c++) {
    if ((unsigned char)*c < ' ')
      return NULL;
    if (*c == '"')
      return c + 1;
    if (*c != '\\')
      continue;
    if (++c == end)
      return NULL;
    if (*c == 'u') {
      for (int i = 0; i < 4; i++)
        if (++c == end || !is_hex(*c))
          return NULL;
    } else if (strchr("\"\\/bfnrt", *c) == NULL || *c == '\0') {
      return NULL;
    }
  }
  return NULL;
}

static const char *skip_digits(const char *c, const char *end) {
  const char *from = c;
  while (c < end && *c >= '0' && *c <= '9')
    c++;
  return c == from ? NULL : c;
}

static const char *skip_number(const char *c, const char *end) {
  if (c < end && *c == '-')
    c++;
  c = skip_digits(c, end);
  if (c != NULL && c < end && *c == '.')
    c = skip_digits(c + 1, end);
  if (c != NULL && c < end && (*c == 'e' || *c == 'E')) {
    c++;
    if (c < end && (*c == '+' || *c == '-'))
      c++;
    c = skip_digits(c, end);
  }
  return c;
}

static const char *skip_word(const char *c, const char *end, const char *word) {
  size_t n = strlen(word);
  return (size_t)(end - c) >= n && memcmp(c, word, n) == 0 ? c + n : NULL;
}

/* Of an object, behind its key and colon. */
static const char *skip_key(const char *c, const char *end) {
  c = skip_text(c, end);
  if (c == NULL)
    return NULL;
  c = skip_blanks(c, end);
  return c < end && *c == ':' ? skip_blanks(c + 1, end) : NULL;
}

static const char *skip_members(const char *c, const char *end, int depth) {
  char close = *c == '{' ? '}' : ']';
  c = skip_blanks(c + 1, end);
  if (c < end && *c == close)
    return c + 1;
  while (c != NULL && c < end) {
    if (close == '}')
      c = skip_key(c, end);
    c = c == NULL ? NULL : skip_value(c, end, depth);
    if (c == NULL)
      return NULL;
    c = skip_blanks(c, end);
    if (c < end && *c == close)
      return c + 1;
    if (c == end || *c != ',')
      return NULL;
    c = skip_blanks(c + 1, end);
  }
  return NULL;
}

static const char *skip_value(const char *c, const char *end, int depth) {
  if (c == end || depth == JSON_DEPTH)
    return NULL;
  switch (*c) {
  case '{':
  case '[':
    return skip_members(c, end, depth + 1);
  case '"':
    return skip_text(c, end);
  case 't':
    return skip_word(c, end, "true");
  case 'f':
    return skip_word(c, end, "false");
  case 'n':
    return skip_word(c, end, "null");
  default:
    return skip_number(c, end);
  }
}

int json_read(const void *text, size_t length, struct json *ret) {
  const char *c = text, *end = c + length, *from, *to;
  if (length == 0)
    return -EPROTO;
  from = skip_blanks(c, end);
  to = skip_value(from, end, 0);
  if (to == NULL || skip_blanks(to, end) != end)
    return -EPROTO;
  *ret = (struct json){from, (size_t)(to - from)};
  return 0;
}

/* What follows was read by json_read as a whole, so parts of it end where they should;
 * each step asks all the same. */

int json_get(struct json v, const char *key, struct json *ret) {
  const char *c = v.at, *end = c + v.length;
  size_t n = strlen(key);
  if (v.length == 0 || *c != '{')
    return -ENOENT;
  c = skip_blanks(c + 1, end);
  while (c < end && *c == '"') {
    const char *name = c + 1, *value = skip_key(c, end), *after;
    if (value == NULL || (after = skip_value(value, end, 0)) == NULL)
      return -EPROTO;
    if ((size_t)(value - name) > n && memcmp(name, key, n) == 0 && name[n] == '"') {
      *ret = (struct json){value, (size_t)(after - value)};
      return 0;
    }
    c = skip_blanks(after, end);
    if (c < end && *c == ',')
      c = skip_blanks(c + 1, end);
  }
  return -ENOENT;
}

int json_get2(struct json v, const char *outer, const char *inner, struct json *ret) {
  struct json middle;
  int r = json_get(v, outer, &middle);
  return r < 0 ? r : json_get(middle, inner, ret);
}

int json_next(struct json v, struct json *item) {
  const char *c = v.at, *end = c + v.length, *to;
  if (v.length == 0 || *c != '[')
    return -ENOENT;
  c = skip_blanks(item->at == NULL ? c + 1 : item->at + item->length, end);
  if (item->at != NULL && c < end && *c == ',')
    c = skip_blanks(c + 1, end);
  if (c == end || *c == ']')
    return -ENOENT;
  to = skip_value(c, end, 0);
  if (to == NULL)
    return -EPROTO;
  *item = (struct json){c, (size_t)(to - c)};
  return 0;
}

int json_next_member(struct json v, struct json *key, struct json *value) {
  const char *c = v.at, *end = c + v.length, *name, *to;
  if (v.length == 0 || *c != '{')
    return -ENOENT;
  name = skip_blanks(key->at == NULL ? c + 1 : value->at + value->length, end);
  if (key->at != NULL && name < end && *name == ',')
    name = skip_blanks(name + 1, end);
  if (name == end || *name == '}')
    return -ENOENT;
  to = skip_text(name, end);
  c = to == NULL ? NULL : skip_key(name, end);
  if (c == NULL)
    return -EPROTO;
  *key = (struct json){name, (size_t)(to - name)};
  to = skip_value(c, end, 0);
  if (to == NULL)
    return -EPROTO;
  *value = (struct json){c, (size_t)(to - c)};
  return 0;
}

int json_integer(struct json v, int64_t *ret) {
  const char *c = v.at, *end = c + v.length;
  int negative = v.length > 0 && *c == '-';
  uint64_t value = 0, most = (uint64_t)INT64_MAX + (unsigned)negative;
  c += negative;
  if (c == end)
    return -EDOM;
  for (; c < end; c++) {
    unsigned digit = (unsigned)(*c - '0');
    if (*c < '0' || *c > '9' || value > (most - digit) / 10)
      return -EDOM;
    value = value * 10 + digit;
  }
  *ret = negative ? -(int64_t)(value - 1) - 1 : (int64_t)value;
  if (negative && value == 0)
    *ret = 0;
  return 0;
}

static unsigned hex_value(const char *c) {
  unsigned value = 0;
  for (int i = 0; i < 4; i++)
    value = value << 4 | (unsigned)(c[i] <= '9' ? c[i] - '0' : (c[i] | 32) - 'a' + 10);
  return value;
}

int json_text(struct json v, char *room, size_t size) {
  const char *c = v.at + 1, *end = v.at + v.length - 1;
  size_t n = 0;
  if (v.length < 2 || *v.at != '"')
    return -EDOM;
  for (; c < end; c++) {
    char byte = *c;
    if (byte == '\\') {
      static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
      const char *known = strchr(from, *++c);
      byte = known ? to[known - from] : *c;
      if (*c == 'u') {
        unsigned code = hex_value(c + 1);
        byte = code < 0x80 ? (char)code : '?';
        c += 4;
      }
    }
    if (byte == '\0' || n + 1 >= size)
      return -ENOSPC;
    room[n++] = byte;
  }
  if (size == 0)
    return -ENOSPC;
  room[n] = '\0';
  return 0;
}
