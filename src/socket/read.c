/* The formats of read: what of the buffer satisfies each, and when more is needed
 * (read.h). Pure but for the call that fills the buffer. Both sides.
 *
 * A format is looked at again from the start of the buffer after each fill. Lines
 * remember how far their end is not there; numerals are short. */
#include "socket/read.h"

#include "socket/wait.h"

#include <ctype.h>
#include <errno.h>
#include <lauxlib.h>
#include <locale.h>
#include <string.h>

enum { NUMERAL_MAX = 200 };        /* as Lua: what is longer is no number */
enum { FAILED = -2 };              /* besides WAIT_MORE; results are on the stack */
enum { NOT_YET = -3 };             /* the buffer has too little */
enum { TOO_LONG = -4 };            /* more than socket:limit allows; it stays there */
enum { GOT = 1, GOT_NOTHING = 0 }; /* pushed a value; pushed nil: the last one */

struct wanted {
  size_t need; /* how many bytes the format could use in all, if it knows */
  int at_end;  /* nothing will follow what is in the buffer */
};

/* ---- one format over the buffer ---- */

static int push_taken(struct wait *w, size_t n, size_t drop) {
  lua_pushlstring(w->L, n > 0 ? (const char *)buf_peek(&w->socket->in) : "", n);
  socket_take(w->socket, n + drop);
  return GOT;
}

static int nothing(struct wait *w) {
  luaL_pushfail(w->L);
  return GOT_NOTHING;
}

static int read_bytes(struct wait *w, size_t n, struct wanted *wanted) {
  size_t have = buf_size(&w->socket->in);
  if (n == 0 ? have > 0 : have >= n)
    return push_taken(w, n, 0);
  wanted->need = n;
  if (!wanted->at_end)
    return NOT_YET;
  return have > 0 ? push_taken(w, have, 0) : nothing(w);
}

/* A line ends with `end`: a newline, or, for "0", a NUL. */
static int read_line(struct wait *w, char end, int keep_end, struct wanted *wanted) {
  struct socket *s = w->socket;
  size_t have = buf_size(&s->in);
  if (s->scanned_for != end) {
    s->scanned = 0;
    s->scanned_for = end;
  }
  const unsigned char *data = buf_peek(&s->in);
  const unsigned char *found =
      have > s->scanned ? memchr(data + s->scanned, end, have - s->scanned) : NULL;
  if (found) {
    size_t n = (size_t)(found - data);
    if (socket_is_beyond_limit(s, n))
      return TOO_LONG;
    return keep_end ? push_taken(w, n + 1, 0) : push_taken(w, n, 1);
  }
  if (socket_is_beyond_limit(s, have))
    return TOO_LONG;
  s->scanned = have;
  if (!wanted->at_end)
    return NOT_YET;
  return have > 0 ? push_taken(w, have, 0) : nothing(w);
}

static int read_all(struct wait *w, struct wanted *wanted) {
  size_t have = buf_size(&w->socket->in);
  if (socket_is_beyond_limit(w->socket, have))
    return TOO_LONG;
  return wanted->at_end ? push_taken(w, have, 0) : NOT_YET;
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
  return c > 0 && strchr(set, c) && accept_char(s);
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

static void skip_space(struct socket *s) {
  const unsigned char *data = buf_peek(&s->in);
  size_t n = 0, have = buf_size(&s->in);
  while (n < have && isspace(data[n]))
    n++;
  if (n > 0)
    socket_take(s, n);
}

/* The longest beginning that may be a numeral is taken, also where it is none. */
static int read_number(struct wait *w, struct wanted *wanted) {
  skip_space(w->socket);
  struct numeral s = {.p = buf_peek(&w->socket->in)};
  s.end = s.p ? s.p + buf_size(&w->socket->in) : NULL;
  scan_numeral(&s);
  if (s.starved && !s.too_long && !wanted->at_end)
    return NOT_YET;
  socket_take(w->socket, s.length);
  if (s.too_long || s.length == 0 || lua_stringtonumber(w->L, s.text) == 0)
    return nothing(w);
  return GOT;
}

/* ---- formats ---- */

static char letter_of(const char *format) {
  format += *format == '*';
  return *format;
}

static int check_formats(lua_State *L, int first) {
  int last = lua_gettop(L);
  for (int i = first; i <= last; i++) {
    if (lua_type(L, i) == LUA_TNUMBER) {
      luaL_argcheck(L, luaL_checkinteger(L, i) >= 0, i, "negative number of bytes");
      continue;
    }
    char c = letter_of(luaL_checkstring(L, i));
    luaL_argcheck(L, c != '\0' && strchr("nlLa0", c), i, "invalid format");
  }
  return last - first + 1;
}

static int read_by(struct wait *w, int slot, struct wanted *wanted) {
  if (w->nargs == 0)
    return read_line(w, '\n', 0, wanted);
  if (lua_type(w->L, slot) == LUA_TNUMBER)
    return read_bytes(w, (size_t)lua_tointeger(w->L, slot), wanted);
  switch (letter_of(lua_tostring(w->L, slot))) {
  case 'n':
    return read_number(w, wanted);
  case 'a':
    return read_all(w, wanted);
  case 'L':
    return read_line(w, '\n', 1, wanted);
  case '0':
    return read_line(w, '\0', 0, wanted);
  default:
    return read_line(w, '\n', 0, wanted);
  }
}

/* Fills the buffer until the format is satisfied. *ret_count: results after a failure. Of
 * a message, what is in the buffer is all that is left, and its end counts as the end. */
static int read_format(struct wait *w, int slot, int *ret_count) {
  struct wanted wanted = {0, w->socket->is_datagram && buf_size(&w->socket->in) > 0};
  for (;;) {
    int got = read_by(w, slot, &wanted);
    if (got == TOO_LONG) {
      socket_fail_limit(w->L);
      *ret_count = wait_fail_top(w);
      return FAILED;
    }
    if (got != NOT_YET)
      return got;
    if (w->socket->fd < 0) { /* closed by somebody else meanwhile */
      *ret_count = wait_fail(w, EBADF);
      return FAILED;
    }
    size_t have = buf_size(&w->socket->in);
    ssize_t n =
        socket_fill(w->socket, wanted.need > have ? wanted.need - have : 0, w->block);
    if (n == -EAGAIN)
      return wait_event(w, "r");
    if (n < 0) {
      *ret_count = wait_fail(w, (int)-n);
      return FAILED;
    }
    wanted.at_end = n == 0 || w->socket->is_datagram;
  }
}

static int step_read(struct wait *w) {
  int base = SLOT_ARG - 1 + w->nargs, count = 0;
  int total = w->nargs > 0 ? w->nargs : 1;
  while (lua_gettop(w->L) - base < total) {
    int got = read_format(w, SLOT_ARG + lua_gettop(w->L) - base, &count);
    if (got == FAILED)
      return count;
    if (got == WAIT_MORE)
      return WAIT_MORE;
    if (got == GOT_NOTHING)
      break;
  }
  return lua_gettop(w->L) - base;
}

/* ---- methods ---- */

/* A loop has no place for nil and a message. */
static int raise_error(lua_State *L, int nargs) {
  lua_pop(L, 1);
  return lua_error(L);
}

static const struct wait_kind reading = {step_read, NULL};
static const struct wait_kind reading_in_loop = {step_read, raise_error};

static int l_read(lua_State *L) {
  const struct socket *s = socket_check_open(L, 1);
  check_formats(L, 2);
  return wait_start(L, &reading, s->timeout);
}

/* Upvalues: the socket, the number of formats, the formats. */
static int l_next_line(lua_State *L) {
  int nformats = (int)lua_tointeger(L, lua_upvalueindex(2));
  lua_settop(L, 0);
  luaL_checkstack(L, nformats + LUA_MINSTACK, "too many arguments");
  lua_pushvalue(L, lua_upvalueindex(1));
  for (int i = 1; i <= nformats; i++)
    lua_pushvalue(L, lua_upvalueindex(2 + i));
  return wait_start(L, &reading_in_loop, socket_check_open(L, 1)->timeout);
}

static int l_lines(lua_State *L) {
  enum { FORMATS_MAX = 250 };
  socket_check_open(L, 1);
  int nformats = lua_gettop(L) - 1;
  luaL_argcheck(L, nformats <= FORMATS_MAX, FORMATS_MAX + 2, "too many arguments");
  check_formats(L, 2);
  lua_pushinteger(L, nformats);
  lua_insert(L, 2);
  lua_pushcclosure(L, l_next_line, 2 + nformats);
  return 1;
}

const luaL_Reg read_methods[] = {{"read", l_read}, {"lines", l_lines}, {NULL, NULL}};
