/* See trace_object.h. */
#include "parent/trace/trace_object.h"

#include "base/append.h"
#include <assert.h>
#include <string.h>

enum { ROOM_TO_CLOSE = OBJECT_DEPTH + 1, NUMBER_MAX = 21 };

static void put(struct object *o, const char *text, size_t n) {
  memcpy(o->text + o->n, text, n);
  o->n += n;
}

static void put_char(struct object *o, char c) {
  o->text[o->n++] = c;
}

/* "KEY": with what stands before it; 0 where it has no room with n bytes behind it. */
static int put_key(struct object *o, const char *key, size_t n) {
  size_t nkey = strlen(key);
  if (o->n + nkey + 4 + n + ROOM_TO_CLOSE > sizeof o->text)
    return 0;
  if (o->more[o->depth])
    put_char(o, ',');
  o->more[o->depth] = 1;
  put_char(o, '"');
  put(o, key, nkey);
  put(o, "\":", 2);
  return 1;
}

/* Bytes of the character that begins there; 0: it is none of UTF-8 (RFC 3629: no surplus
 * length, no surrogates, nothing above U+10FFFF). */
static size_t character(const unsigned char *c) {
  static const struct {
    unsigned char from, to, second_from, second_to, n;
  } forms[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2},
               {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
               {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
               {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
               {0xf4, 0xf4, 0x80, 0x8f, 4}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    size_t n = forms[i].n;
    if (*c < forms[i].from || *c > forms[i].to)
      continue;
    if (n > 1 && (c[1] < forms[i].second_from || c[1] > forms[i].second_to))
      return 0;
    for (size_t k = 2; k < n; k++) /* a text's end is no continuation */
      if ((c[k] & 0xc0) != 0x80)
        return 0;
    return n;
  }
  return 0;
}

/* One character as JSON; how many bytes of it were read. */
static size_t escape(const unsigned char *c, char ret[8], size_t *ret_n) {
  static const char digits[] = "0123456789abcdef";
  size_t n = character(c);
  if (n == 0) {
    memcpy(ret, "\xef\xbf\xbd", *ret_n = 3); /* U+FFFD */
    return 1;
  }
  if (*c < ' ' || *c == 127) {
    memcpy(ret, "\\u00", 4);
    ret[4] = digits[*c >> 4];
    ret[5] = digits[*c & 15];
    *ret_n = 6;
    return 1;
  }
  if (*c == '"' || *c == '\\') {
    ret[0] = '\\';
    ret[1] = (char)*c;
    *ret_n = 2;
    return 1;
  }
  memcpy(ret, c, *ret_n = n);
  return n;
}

void object_begin(struct object *o) {
  o->n = 0;
  o->depth = 0;
  o->more[0] = 0;
  put_char(o, '{');
}

void object_text(struct object *o, const char *key, const char *text) {
  const unsigned char *c = (const unsigned char *)text;
  char one[8];
  size_t n, left = OBJECT_TEXT_MAX;
  if (!put_key(o, key, OBJECT_TEXT_MAX + 2))
    return;
  put_char(o, '"');
  while (*c) {
    size_t read = escape(c, one, &n);
    if (n > left)
      break;
    put(o, one, n);
    left -= n;
    c += read;
  }
  put_char(o, '"');
}

void object_number(struct object *o, const char *key, int64_t number) {
  char *at, *end;
  if (!put_key(o, key, NUMBER_MAX))
    return;
  if (number < 0)
    put_char(o, '-');
  at = o->text + o->n;
  end = o->text + sizeof o->text;
  o->n = (size_t)(append_number(at, end,
                                number < 0 ? 0 - (uint64_t)number : (uint64_t)number) -
                  o->text);
}

void object_open(struct object *o, const char *key) {
  assert(o->depth + 1 < OBJECT_DEPTH);
  if (!put_key(o, key, 2))
    return;
  put_char(o, '{');
  o->more[++o->depth] = 0;
}

void object_close(struct object *o) {
  assert(o->depth > 0);
  o->depth--;
  put_char(o, '}');
}

void object_end(struct object *o) {
  assert(o->depth == 0);
  put_char(o, '}');
}
