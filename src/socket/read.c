/* The formats of read: what of the buffer satisfies each, and when more is needed (wait.h).
 * Pure but for the call that fills the buffer. Both sides.
 *
 * A format is looked at again from the start of the buffer after each fill. Lines
 * remember how far there is no newline; numerals are short. */
#include "socket/wait.h"

#include <ctype.h>
#include <errno.h>
#include <lauxlib.h>
#include <locale.h>
#include <string.h>

enum { NUMERAL_MAX = 200 };        /* as Lua: what is longer is no number */
enum { FAILED = -2 };              /* besides OP_WANTS; results are on the stack */
enum { NOT_YET = -3 };             /* the buffer has too little */
enum { GOT = 1, GOT_NOTHING = 0 }; /* pushed a value; pushed nil: the last one */

struct want_bytes {
  size_t need; /* how many bytes the format could use in all, if it knows */
  int at_end;  /* nothing will follow what is in the buffer */
};

/* ---- one format over the buffer ---- */

static int push_taken(struct run *r, size_t n, size_t drop) {
  lua_pushlstring(r->L, n > 0 ? (const char *)buf_peek(&r->o->in) : "", n);
  socket_take(r->o, n + drop);
  return GOT;
}

static int nothing(struct run *r) {
  luaL_pushfail(r->L);
  return GOT_NOTHING;
}

static int read_bytes(struct run *r, size_t n, struct want_bytes *w) {
  size_t have = buf_size(&r->o->in);
  if (n == 0 ? have > 0 : have >= n)
    return push_taken(r, n, 0);
  w->need = n;
  if (!w->at_end)
    return NOT_YET;
  return have > 0 ? push_taken(r, have, 0) : nothing(r);
}

static int read_line(struct run *r, int keep_newline, struct want_bytes *w) {
  struct socket *o = r->o;
  size_t have = buf_size(&o->in);
  const unsigned char *data = buf_peek(&o->in);
  const unsigned char *newline =
      have > o->scanned ? memchr(data + o->scanned, '\n', have - o->scanned) : NULL;
  if (newline != NULL) {
    size_t n = (size_t)(newline - data);
    return keep_newline ? push_taken(r, n + 1, 0) : push_taken(r, n, 1);
  }
  o->scanned = have;
  if (!w->at_end)
    return NOT_YET;
  return have > 0 ? push_taken(r, have, 0) : nothing(r);
}

static int read_all(struct run *r, struct want_bytes *w) {
  return w->at_end ? push_taken(r, buf_size(&r->o->in), 0) : NOT_YET;
}

/* A cursor over the buffer that copies what it accepts. */
struct numeral {
  const unsigned char *p, *end;
  int starved; /* looked past the end */
  int too_long;
  size_t length;
  char text[NUMERAL_MAX + 1];
};

static int look(struct numeral *s) {
  if (s->p < s->end)
    return *s->p;
  s->starved = 1;
  return -1;
}

static int accept_char(struct numeral *s) {
  if (s->length >= NUMERAL_MAX) {
    s->too_long = 1;
    return 0;
  }
  s->text[s->length++] = (char)*s->p++;
  return 1;
}

static int accept_one_of(struct numeral *s, const char *set) {
  int c = look(s);
  return c > 0 && strchr(set, c) != NULL && accept_char(s);
}

static int accept_digits(struct numeral *s, int hex) {
  int n = 0;
  for (int c = look(s); c >= 0 && (hex ? isxdigit(c) : isdigit(c)); c = look(s), n++)
    if (!accept_char(s))
      break;
  return n;
}

static void scan_numeral(struct numeral *s) {
  char point[3] = {localeconv()->decimal_point[0], '.', '\0'};
  int hex = 0, ndigits = 0;
  accept_one_of(s, "-+");
  if (accept_one_of(s, "0")) {
    hex = accept_one_of(s, "xX");
    ndigits = !hex;
  }
  ndigits += accept_digits(s, hex);
  if (accept_one_of(s, point))
    ndigits += accept_digits(s, hex);
  if (ndigits > 0 && accept_one_of(s, hex ? "pP" : "eE")) {
    accept_one_of(s, "-+");
    accept_digits(s, 0);
  }
  s->text[s->length] = '\0';
}

static void skip_space(struct socket *o) {
  const unsigned char *data = buf_peek(&o->in);
  size_t n = 0, have = buf_size(&o->in);
  while (n < have && isspace(data[n]))
    n++;
  if (n > 0)
    socket_take(o, n);
}

/* The longest beginning that may be a numeral is taken, also where it is none. */
static int read_number(struct run *r, struct want_bytes *w) {
  skip_space(r->o);
  struct numeral s = {.p = buf_peek(&r->o->in)};
  s.end = s.p + buf_size(&r->o->in);
  scan_numeral(&s);
  if (s.starved && !s.too_long && !w->at_end)
    return NOT_YET;
  socket_take(r->o, s.length);
  if (s.too_long || s.length == 0 || lua_stringtonumber(r->L, s.text) == 0)
    return nothing(r);
  return GOT;
}

/* ---- formats ---- */

static char letter_of(const char *format) {
  format += *format == '*';
  return *format;
}

int read_check_formats(lua_State *L, int first) {
  int last = lua_gettop(L);
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) == LUA_TNUMBER) {
      luaL_argcheck(L, luaL_checkinteger(L, i) >= 0, i, "negative number of bytes");
      continue;
    }
    char c = letter_of(luaL_checkstring(L, i));
    luaL_argcheck(L, c != '\0' && strchr("nlLa", c) != NULL, i, "invalid format");
  }
  return last - first + 1;
}

static int read_by(struct run *r, int slot, struct want_bytes *w) {
  if (r->nargs == 0)
    return read_line(r, 0, w);
  if (lua_type(r->L, slot) == LUA_TNUMBER)
    return read_bytes(r, (size_t)lua_tointeger(r->L, slot), w);
  switch (letter_of(lua_tostring(r->L, slot))) {
  case 'n':
    return read_number(r, w);
  case 'a':
    return read_all(r, w);
  case 'L':
    return read_line(r, 1, w);
  default:
    return read_line(r, 0, w);
  }
}

/* Fills the buffer until the format is satisfied. *ret_count: results after a failure. */
static int read_format(struct run *r, int slot, int *ret_count) {
  struct want_bytes w = {0, 0};
  for (;;) {
    int got = read_by(r, slot, &w);
    if (got != NOT_YET)
      return got;
    if (r->o->fd < 0) { /* closed by somebody else meanwhile */
      *ret_count = op_fail(r, EBADF);
      return FAILED;
    }
    size_t have = buf_size(&r->o->in);
    ssize_t n = socket_fill(r->o, w.need > have ? w.need - have : 0, r->block);
    if (n == -EAGAIN)
      return op_wants(r, "r");
    if (n < 0) {
      *ret_count = op_fail(r, (int)-n);
      return FAILED;
    }
    w.at_end = n == 0;
  }
}

int step_read(struct run *r) {
  int base = SLOT_DEADLINE + r->nargs, count = 0;
  int total = r->nargs > 0 ? r->nargs : 1;
  while (lua_gettop(r->L) - base < total) {
    int got = read_format(r, SLOT_ARG + lua_gettop(r->L) - base, &count);
    if (got == FAILED)
      return count;
    if (got == OP_WANTS)
      return OP_WANTS;
    if (got == GOT_NOTHING)
      break;
  }
  return lua_gettop(r->L) - base;
}
