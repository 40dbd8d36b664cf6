/* Reading: bounded by what arrived, never by what is claimed. Both sides.
 *
 * The tables that are open form a stack of levels, of which the innermost is filled: what
 * is read lies on the Lua stack until it is put into it. So reading can stop behind any
 * value and go on later (unpack_step). */
#include "codec/unpack.h"

#include "base/result.h"
#include "codec/classes.h"
#include "codec/path.h"
#include "socket/socket.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum {
  SLOTS = 8,                 /* of the Lua stack, for one level */
  ARRAY_BEGIN_MAX = 1 << 19, /* items; a longer one grows, as clearing it takes long */
  TABLE_COST = 64,           /* bytes of memory: estimates, a little above the truth */
  ITEM_COST = 16,
  PAIR_COST = 64, /* its table may be up to twice as large as needed */
  STRING_COST = 32,
  HANDLE_COST = 256,
  CLASS_EFFORT = 32, /* of the user's code, as a number of plain values */
  CROWD_PAIRS = 512, /* maps of this many pairs are watched for colliding keys */
  CROWD_MAX = 256    /* keys that may share a place there */
};

static int fail(struct unpack *u, int code, const char *text) {
  snprintf(u->e->text, sizeof u->e->text, "%s", text);
  return u->e->code = code;
}

/* The same for a reason that concerns the value which is read now. */
static int fail_here(struct unpack *u, int code, const char *reason) {
  enum { REASON_ROOM = 100 };
  struct path t = {u->e->text, 0, sizeof u->e->text - REASON_ROOM};
  const struct unpack_level *l = u->levels;
  path_begin(&t, u->what ? u->what : "value", u->nvalues - (lua_Integer)l->left + 1);
  for (l++; l <= u->levels + u->depth; l++) {
    if (l->kind == UNPACK_ARRAY)
      path_add_position(&t, (lua_Integer)l->n + 1);
    else if (l->kind == UNPACK_VALUE)
      path_add_key(u->L, &t, l->at + 1);
  }
  path_end(&t, REASON_ROOM, reason);
  return u->e->code = code;
}

static int cut(struct unpack *u) {
  return fail(u, -EPROTO, "the message is cut short");
}

/* A number of n bytes; MessagePack is big-endian. 0 where it is cut short (r.ok is 0). */
static uint64_t number(struct unpack *u, size_t n) {
  const unsigned char *p = reader_take(&u->r, n);
  uint64_t value = 0;
  for (size_t i = 0; p && i < n; i++)
    value = value << 8 | p[i];
  return value;
}

/* Takes from the budget before anything is made. */
static int spend(struct unpack *u, size_t bytes) {
  if (bytes > u->bytes)
    return fail(u, -E2BIG, "the message would take too much memory");
  u->bytes -= bytes;
  u->effort += bytes / BYTES_PER_EFFORT;
  return 0;
}

/* The same for a table or a string, each of which is an object of its own. */
static int spend_object(struct unpack *u, size_t bytes) {
  if (u->objects-- == 0)
    return fail(u, -E2BIG, "the message has too many tables and strings");
  u->effort += OBJECT_EFFORT;
  return spend(u, bytes);
}

/* ---- leaves ---- */

static int read_string(struct unpack *u, size_t n) {
  const unsigned char *s = reader_take(&u->r, n);
  if (!s)
    return cut(u);
  if (spend_object(u, STRING_COST + n) < 0)
    return u->e->code;
  if (!u->push_last || reader_left(&u->r) > 0 ||
      !u->push_last(u->L, (const char *)s, n, u->push_data))
    lua_pushlstring(u->L, (const char *)s, n);
  return 0;
}

static int read_handle(struct unpack *u, size_t n) {
  if (n != 2)
    return fail(u, -EPROTO, "malformed extension of a handle");
  size_t place = (size_t)number(u, 2);
  if (!u->r.ok)
    return cut(u);
  if (place >= u->nfds || u->fds[place] < 0)
    return fail(u, -EPROTO, "handle without a descriptor");
  if (spend(u, HANDLE_COST) < 0)
    return u->e->code;
  int fd = u->fds[place];
  u->fds[place] = -1;
  socket_push(u->L, fd, SOCKET_FOREIGN);
  return 0;
}

static int push_integer(struct unpack *u, lua_Integer value) {
  if (!u->r.ok)
    return cut(u);
  lua_pushinteger(u->L, value);
  return 0;
}

static int read_u64(struct unpack *u) {
  uint64_t value = number(u, 8);
  if (value > LUA_MAXINTEGER)
    return fail(u, -EPROTO, "integer out of the range of Lua");
  return push_integer(u, (lua_Integer)value);
}

static int read_float(struct unpack *u) {
  uint32_t bits = (uint32_t)number(u, 4);
  float value;
  memcpy(&value, &bits, sizeof value);
  if (!u->r.ok)
    return cut(u);
  lua_pushnumber(u->L, (lua_Number)value);
  return 0;
}

static int read_double(struct unpack *u) {
  uint64_t bits = number(u, 8);
  double value;
  memcpy(&value, &bits, sizeof value);
  if (!u->r.ok)
    return cut(u);
  lua_pushnumber(u->L, (lua_Number)value);
  return 0;
}

/* ---- colliding keys ----
 * Numbers have no seed in Lua's hash: keys can be chosen that all fall on one place of a
 * table, and n of them cost n * n steps. In big maps, which are made with their final
 * size, we count how many fall together. */

static unsigned power_of_two(size_t atleast) {
  unsigned n = 1;
  while (n < atleast && n < 1u << 30)
    n <<= 1;
  return n;
}

static void crowd_init(struct crowd *c, lua_State *L, size_t npairs) {
  c->counts = NULL;
  if (npairs < CROWD_PAIRS) {
    lua_pushnil(L); /* keeps the stack the same */
    return;
  }
  c->ncounts = power_of_two(npairs / 4);
  c->places = (power_of_two(npairs) - 1) | 1;
  size_t size = c->ncounts * sizeof *c->counts;
  c->counts = memset(lua_newuserdatauv(L, size, 0), 0, size);
}

/* The number that Lua's hash makes of a key. */
static uint64_t hash_of(lua_State *L, int idx) {
  if (lua_isinteger(L, idx))
    return (uint64_t)lua_tointeger(L, idx);
  int exponent;
  double m = frexp(lua_tonumber(L, idx), &exponent) * -(double)INT_MIN;
  if (!(m >= (double)LLONG_MIN && m < -(double)LLONG_MIN))
    return 0;
  unsigned h = (unsigned)exponent + (unsigned)(long long)m;
  return h <= INT_MAX ? h : ~h;
}

static int crowd_add(struct unpack *u, struct crowd *c, int idx) {
  if (!c->counts || lua_type(u->L, idx) != LUA_TNUMBER)
    return 0;
  unsigned place = (unsigned)(hash_of(u->L, idx) % c->places) & (c->ncounts - 1);
  if (++c->counts[place] <= CROWD_MAX)
    return 0;
  return fail(u, -E2BIG, "too many keys of a table collide");
}

/* ---- tables ---- */

/* Pushes the table and makes it the innermost level. */
static int open_array(struct unpack *u, size_t n) {
  if (n > reader_left(&u->r)) /* an item has a byte at least */
    return cut(u);
  int grows = n > ARRAY_BEGIN_MAX;
  if (spend_object(u, TABLE_COST + n * (grows ? 2 * ITEM_COST : ITEM_COST)) < 0)
    return u->e->code;
  lua_createtable(u->L, (int)(grows ? ARRAY_BEGIN_MAX : n), 0);
  u->levels[++u->depth] =
      (struct unpack_level){.kind = UNPACK_ARRAY, .at = lua_gettop(u->L), .left = n};
  return 0;
}

static int open_map(struct unpack *u, size_t n) {
  struct unpack_level level = {.kind = UNPACK_KEY, .left = n};
  if (n > reader_left(&u->r) / 2)
    return cut(u);
  if (spend_object(u, TABLE_COST + n * PAIR_COST) < 0)
    return u->e->code;
  crowd_init(&level.u.crowd, u->L, n);
  lua_createtable(u->L, 0, (int)(n > INT_MAX ? INT_MAX : n));
  level.at = lua_gettop(u->L);
  u->levels[++u->depth] = level;
  return 0;
}

static int open_table(struct unpack *u, size_t n, int (*open)(struct unpack *, size_t)) {
  if (!u->r.ok)
    return cut(u);
  if (u->depth == CODEC_DEPTH_MAX)
    return fail(u, -E2BIG, "tables are nested too deeply");
  if (!lua_checkstack(u->L, SLOTS))
    return fail(u, -ENOMEM, "not enough memory");
  int r = open(u, n);
  return r < 0 ? r : MF_AGAIN;
}

static int check_key(struct unpack *u, struct crowd *c) {
  if (lua_isnil(u->L, -1))
    return fail(u, -EPROTO, "table key is nil");
  if (lua_type(u->L, -1) == LUA_TNUMBER && !lua_isinteger(u->L, -1) &&
      isnan(lua_tonumber(u->L, -1)))
    return fail(u, -EPROTO, "table key is nan");
  return crowd_add(u, c, -1);
}

/* Puts the value on top where it belongs. */
static int put_value(struct unpack *u) {
  struct unpack_level *l = &u->levels[u->depth];
  switch (l->kind) {
  case UNPACK_LIST: /* the values of the message stay on the stack */
  case UNPACK_OBJECT:
    l->left--;
    return 0;
  case UNPACK_ARRAY:
    l->left--;
    lua_rawseti(u->L, -2, (lua_Integer)++l->n);
    return 0;
  case UNPACK_KEY:
    l->kind = UNPACK_VALUE;
    return check_key(u, &l->u.crowd);
  default:
    l->kind = UNPACK_KEY;
    l->left--;
    lua_rawset(u->L, -3);
    return 0;
  }
}

/* ---- objects of classes ----
 * The name of the class lies on the stack, and then what the object was packed to. Names
 * come from the other process: they are looked up, and kept nowhere. */

/* Pushes the name. 0, or e->code. */
static int read_class_name(struct unpack *u) {
  unsigned mark = (unsigned)number(u, 1);
  size_t n = mark >= 0xa0 && mark < 0xc0 ? mark & 31
             : mark == 0xd9              ? (size_t)number(u, 1)
                                         : 0;
  const unsigned char *name = reader_take(&u->r, n);
  if (!u->r.ok)
    return cut(u);
  if (n == 0)
    return fail(u, -EPROTO, "malformed extension of an object: no name of a class");
  if (spend_object(u, STRING_COST + n) < 0)
    return u->e->code;
  lua_pushlstring(u->L, (const char *)name, n);
  return 0;
}

static int refuse_class(struct unpack *u) {
  char reason[160];
  snprintf(reason, sizeof reason,
           "the class '%.60s' is not registered here (option strict_classes)",
           lua_tostring(u->L, -1));
  return fail_here(u, -EINVAL, reason);
}

static int open_object(struct unpack *u, size_t n) {
  struct unpack_level level = {
      .kind = UNPACK_OBJECT, .at = lua_gettop(u->L) + 1, .left = 1};
  if (n > reader_left(&u->r))
    return cut(u);
  level.u.end = u->r.p + n;
  int r = read_class_name(u);
  if (r < 0)
    return r;
  if (u->strict_classes) {
    if (!classes_push_named(u->L, -1))
      return refuse_class(u);
    lua_pop(u->L, 1);
  }
  u->levels[++u->depth] = level;
  return 0;
}

static int fail_class(struct unpack *u) {
  char reason[160];
  const char *text = lua_tostring(u->L, -1);
  snprintf(reason, sizeof reason, "the class '%.40s' can't unpack it: %s",
           lua_tostring(u->L, u->levels[u->depth].at),
           text ? text : "an error without a text");
  return fail_here(u, -EINVAL, reason);
}

/* Puts the object in the place of its name; or the value, where nobody knows the class.
 */
static int make_object(struct unpack *u) {
  const struct unpack_level *l = &u->levels[u->depth];
  if (u->r.p != l->u.end)
    return fail(u, -EPROTO, "malformed extension of an object: it ends elsewhere");
  if (classes_push_named(u->L, l->at)) {
    u->effort += CLASS_EFFORT;
    if (classes_unpack(u->L, l->at + 2, l->at + 1) < 0)
      return fail_class(u);
  }
  lua_replace(u->L, l->at);
  lua_settop(u->L, l->at);
  return 0;
}

/* The innermost table, or object, is complete. */
static int close_level(struct unpack *u) {
  enum unpack_kind kind = u->levels[u->depth].kind;
  if (kind == UNPACK_KEY)
    lua_remove(u->L, -2); /* what the crowd is counted in */
  if (kind == UNPACK_OBJECT && make_object(u) < 0)
    return u->e->code;
  u->depth--;
  return put_value(u);
}

static int read_ext(struct unpack *u, size_t n) {
  unsigned type = (unsigned)number(u, 1);
  if (!u->r.ok)
    return cut(u);
  if (type == CODEC_EXT_HANDLE)
    return read_handle(u, n);
  if (type == CODEC_EXT_OBJECT)
    return open_table(u, n, open_object);
  return fail(u, -EPROTO, "unknown extension type");
}

/* ---- a value ----
 * 0: it is on top; MF_AGAIN: a table was opened; or e->code. */

static int read_marked(struct unpack *u, unsigned mark) {
  switch (mark) {
  case 0xc0:
    lua_pushnil(u->L);
    return 0;
  case 0xc2:
  case 0xc3:
    lua_pushboolean(u->L, mark == 0xc3);
    return 0;
  case 0xc4:
  case 0xd9:
    return read_string(u, number(u, 1));
  case 0xc5:
  case 0xda:
    return read_string(u, number(u, 2));
  case 0xc6:
  case 0xdb:
    return read_string(u, number(u, 4));
  case 0xc7:
    return read_ext(u, number(u, 1));
  case 0xc8:
    return read_ext(u, number(u, 2));
  case 0xc9:
    return read_ext(u, number(u, 4));
  case 0xca:
    return read_float(u);
  case 0xcb:
    return read_double(u);
  case 0xcc:
    return push_integer(u, (lua_Integer)number(u, 1));
  case 0xcd:
    return push_integer(u, (lua_Integer)number(u, 2));
  case 0xce:
    return push_integer(u, (lua_Integer)number(u, 4));
  case 0xcf:
    return read_u64(u);
  case 0xd0:
    return push_integer(u, (int8_t)number(u, 1));
  case 0xd1:
    return push_integer(u, (int16_t)number(u, 2));
  case 0xd2:
    return push_integer(u, (int32_t)number(u, 4));
  case 0xd3:
    return push_integer(u, (int64_t)number(u, 8));
  case 0xd4:
  case 0xd5:
  case 0xd6:
  case 0xd7:
  case 0xd8:
    return read_ext(u, (size_t)1 << (mark - 0xd4));
  case 0xdc:
    return open_table(u, number(u, 2), open_array);
  case 0xdd:
    return open_table(u, number(u, 4), open_array);
  case 0xde:
    return open_table(u, number(u, 2), open_map);
  case 0xdf:
    return open_table(u, number(u, 4), open_map);
  default:
    return fail(u, -EPROTO, "unknown value type");
  }
}

static int read_value(struct unpack *u) {
  unsigned mark = (unsigned)number(u, 1);
  if (!u->r.ok)
    return cut(u);
  if (u->nodes-- == 0)
    return fail(u, -E2BIG, "the message has too many values");
  u->effort++;
  if (mark < 0x80)
    return push_integer(u, (lua_Integer)mark);
  if (mark < 0x90)
    return open_table(u, mark & 15, open_map);
  if (mark < 0xa0)
    return open_table(u, mark & 15, open_array);
  if (mark < 0xc0)
    return read_string(u, mark & 31);
  if (mark >= 0xe0)
    return push_integer(u, (int8_t)mark);
  return read_marked(u, mark);
}

/* The number of values in the outermost array. */
static int read_count(struct unpack *u, size_t *ret) {
  unsigned mark = (unsigned)number(u, 1);
  if (!u->r.ok)
    return cut(u);
  if (mark >= 0x90 && mark < 0xa0)
    *ret = mark & 15;
  else if (mark == 0xdc)
    *ret = (size_t)number(u, 2);
  else if (mark == 0xdd)
    *ret = (size_t)number(u, 4);
  else
    return fail(u, -EPROTO, "the message is not a list of values");
  if (!u->r.ok || *ret > reader_left(&u->r))
    return cut(u);
  return 0;
}

/* ---- the message ---- */

void unpack_init(struct unpack *u, const void *data, size_t size, int *fds, size_t nfds,
                 const struct codec_limits *limits) {
  u->fds = fds;
  u->nfds = nfds;
  u->nodes = limits && limits->nodes ? limits->nodes : CODEC_NODES_MAX;
  u->objects = limits && limits->objects ? limits->objects : CODEC_OBJECTS_MAX;
  u->bytes = limits && limits->bytes ? limits->bytes : CODEC_BYTES_MAX;
  u->what = limits ? limits->what : NULL;
  u->strict_classes = limits && limits->strict_classes;
  u->push_last = limits ? limits->push_last : NULL;
  u->push_data = limits ? limits->push_data : NULL;
  u->depth = -1;
  u->effort = 0;
  u->nvalues = 0;
  reader_init(&u->r, data, size);
}

static int begin(struct unpack *u) {
  size_t n;
  int r = read_count(u, &n);
  if (r < 0)
    return r;
  if (n > INT_MAX - SLOTS || !lua_checkstack(u->L, (int)n + SLOTS))
    return fail(u, -E2BIG, "too many values for the Lua stack");
  u->depth = 0;
  u->levels[0] = (struct unpack_level){.kind = UNPACK_LIST, .left = n};
  u->nvalues = (int)n;
  return 0;
}

/* Reads one value, or closes one table. */
static int advance(struct unpack *u) {
  if (u->levels[u->depth].left == 0)
    return close_level(u);
  int r = read_value(u);
  return r == 0 ? put_value(u) : r;
}

int unpack_step(lua_State *L, struct unpack *u, size_t effort, struct codec_error *e) {
  int r = 0;
  u->L = L;
  u->e = e;
  e->code = 0;
  u->effort = 0;
  if (u->depth < 0)
    r = begin(u);
  while (r >= 0 && (u->depth > 0 || u->levels[0].left > 0)) {
    if (u->effort > effort)
      return MF_AGAIN;
    r = advance(u);
  }
  if (r < 0)
    return r;
  if (reader_left(&u->r) > 0)
    return fail(u, -EPROTO, "extra bytes after the message");
  return 0;
}

int codec_unpack(lua_State *L, const void *data, size_t size, int *fds, size_t nfds,
                 const struct codec_limits *limits, struct codec_error *e) {
  struct unpack u;
  int top = lua_gettop(L);
  unpack_init(&u, data, size, fds, nfds, limits);
  if (unpack_step(L, &u, SIZE_MAX, e) == 0)
    return u.nvalues;
  lua_settop(L, top);
  return e->code;
}
