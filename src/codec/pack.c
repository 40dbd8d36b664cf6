/* Packing. Both sides. Tables are read raw; the only user code that runs is the method by
 * which an object tells its descriptor, protected. */
#include "codec/codec.h"

#include "base/number.h"
#include "os/fd.h"
#include "socket/handle.h"
#include <errno.h>
#include <lauxlib.h>
#include <msgpack/pack.h>
#include <stdio.h>
#include <string.h>

enum { SLOTS = 8 }; /* of the Lua stack, for one level */

struct level { /* a table under way; keys say where in it we are */
  const struct level *outer;
  const void *table;
  int key;              /* stack index of the present key, or 0 */
  lua_Integer position; /* where there is no key: place in an array or in the message */
};

struct pack {
  lua_State *L;
  struct buf *out;
  struct codec_fds *fds;
  struct codec_error *e;
  const char *what;
  msgpack_packer packer;
  int depth;
  size_t nnodes, nobjects;
};

static int pack_value(struct pack *p, int idx, struct level *at);

/* ---- errors ---- */

struct text {
  char *p;
  size_t n, room;
};

static void add(struct text *t, const char *s, size_t n) {
  for (size_t i = 0; i < n && t->n + 1 < t->room; i++)
    t->p[t->n++] = (unsigned char)s[i] < 32 || s[i] == 127 ? '?' : s[i];
  t->p[t->n] = 0;
}

static int is_name(const char *s, size_t n) {
  if (n == 0 || n > 60)
    return 0;
  for (size_t i = 0; i < n; i++)
    if (!strchr("_-", s[i]) && !((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z') &&
        !(s[i] >= '0' && s[i] <= '9'))
      return 0;
  return 1;
}

static void add_key(lua_State *L, struct text *t, const struct level *at) {
  char plain[80];
  int n;
  if (!at->key) {
    n = snprintf(plain, sizeof plain, "[" LUA_INTEGER_FMT "]", at->position);
  } else if (lua_type(L, at->key) == LUA_TSTRING) {
    size_t size;
    const char *s = lua_tolstring(L, at->key, &size);
    if (is_name(s, size)) {
      add(t, ".", 1);
      add(t, s, size);
      return;
    }
    n = snprintf(plain, sizeof plain, "[\"%.*s\"]", (int)(size < 40 ? size : 40), s);
  } else if (lua_isinteger(L, at->key)) {
    n = snprintf(plain, sizeof plain, "[" LUA_INTEGER_FMT "]", lua_tointeger(L, at->key));
  } else if (lua_type(L, at->key) == LUA_TNUMBER) {
    char number[NUMBER_TEXT_MAX];
    number_text(lua_tonumber(L, at->key), number);
    n = snprintf(plain, sizeof plain, "[%s]", number);
  } else {
    n = snprintf(plain, sizeof plain, "[%s]", luaL_typename(L, at->key));
  }
  add(t, plain, (size_t)n);
}

static void add_path(lua_State *L, struct text *t, const struct level *at,
                     const char *what) {
  if (at->outer) {
    add_path(L, t, at->outer, what);
    add_key(L, t, at);
    return;
  }
  char plain[64];
  int n = snprintf(plain, sizeof plain, "%s " LUA_INTEGER_FMT, what, at->position);
  add(t, plain, (size_t)n);
}

static int fail(struct pack *p, int code, const struct level *at, const char *reason) {
  struct text t = {p->e->text, 0, sizeof p->e->text - 100};
  add_path(p->L, &t, at, p->what);
  t.room = sizeof p->e->text;
  add(&t, ": ", 2);
  add(&t, reason, strlen(reason));
  return p->e->code = code;
}

static int fail_type(struct pack *p, const struct level *at, int idx) {
  char reason[64];
  snprintf(reason, sizeof reason, "a %s can't be sent", luaL_typename(p->L, idx));
  return fail(p, -EINVAL, at, reason);
}

/* What the packer's writes left in e->code: the buffer's refusal. */
static int written(struct pack *p, const struct level *at, int r) {
  if (r == 0)
    return 0;
  int code = p->e->code ? p->e->code : -ENOMEM;
  return fail(p, code, at,
              code == -E2BIG ? "the message is too long" : "not enough memory");
}

static int write_bytes(void *data, const char *bytes, size_t n) {
  struct pack *p = data;
  int r = buf_put(p->out, bytes, n);
  if (r == 0)
    return 0;
  p->e->code = r;
  return -1;
}

/* ---- handles ---- */

static int l_ask_descriptor(lua_State *L) {
  lua_pushinteger(L, handle_check(L, 1));
  lua_insert(L, 2); /* before a message that it may have pushed */
  return lua_gettop(L) - 1;
}

void codec_fds_close(struct codec_fds *fds) {
  for (size_t i = 0; i < fds->n; i++)
    fd_close(&fds->fd[i]);
  fds->n = 0;
}

/* The number behind a handle, borrowed. -EINVAL: it is none; -EBADF: it is not open. */
static int descriptor_of(lua_State *L, int idx) {
  int top = lua_gettop(L);
  lua_pushcfunction(L, l_ask_descriptor);
  lua_pushvalue(L, idx);
  int ok = lua_pcall(L, 1, 1, 0) == LUA_OK;
  int fd = ok ? (int)lua_tointeger(L, -1) : -EINVAL;
  lua_settop(L, top);
  return ok && fd < 0 ? -EBADF : fd;
}

int codec_add_handle(lua_State *L, int idx, struct codec_fds *fds) {
  int fd = descriptor_of(L, idx);
  if (fd < 0)
    return fd;
  if (fds->n >= CODEC_FDS_MAX)
    return -E2BIG;
  int copy = fd_dup(fd);
  if (copy < 0)
    return copy;
  fds->fd[fds->n] = copy;
  return (int)fds->n++;
}

static int pack_handle(struct pack *p, int idx, const struct level *at) {
  static struct codec_fds none = {.n = CODEC_FDS_MAX};
  int place = codec_add_handle(p->L, idx, p->fds ? p->fds : &none);
  if (place == -EINVAL)
    return fail_type(p, at, idx);
  if (place == -EBADF)
    return fail(p, -EINVAL, at, "not an open descriptor");
  if (place < 0 && !p->fds)
    return fail(p, -EINVAL, at,
                "a handle can't be sent (the option handles=true allows it)");
  if (place == -E2BIG)
    return fail(p, place, at, "too many handles for one message");
  if (place < 0)
    return fail(p, place, at, strerror(-place));
  char bytes[2] = {(char)(place >> 8), (char)(place & 0xff)};
  return written(p, at,
                 msgpack_pack_ext(&p->packer, 2, CODEC_EXT_HANDLE) ||
                     msgpack_pack_ext_body(&p->packer, bytes, 2));
}

/* A table with methods that make it a handle: an object of somebody's Lua class. */
static int is_handle_table(lua_State *L, int idx) {
  static const char *const names[] = {"fileno", "getfd", "pollfd"};
  int found = 0, top = lua_gettop(L);
  if (!lua_getmetatable(L, idx))
    return 0;
  lua_pushliteral(L, "__index");
  if (lua_rawget(L, -2) == LUA_TTABLE)
    for (size_t i = 0; i < 3 && !found; i++) {
      lua_pushstring(L, names[i]);
      found = lua_rawget(L, top + 2) == LUA_TFUNCTION;
    }
  lua_settop(L, top);
  return found;
}

/* ---- tables ---- */

/* The number of pairs, and whether the keys are exactly 1..n. */
static size_t survey(lua_State *L, int idx, int *ret_is_array) {
  size_t n = 0, outside = 0;
  lua_Unsigned greatest = 0;
  lua_pushnil(L);
  while (lua_next(L, idx)) {
    lua_pop(L, 1);
    n++;
    if (!lua_isinteger(L, -1)) {
      outside++;
      continue;
    }
    lua_Unsigned key = (lua_Unsigned)lua_tointeger(L, -1); /* 0 and less are greatest */
    if (key - 1 >= greatest)
      greatest = key == 0 ? LUA_MAXUNSIGNED : key;
  }
  *ret_is_array = outside == 0 && greatest == n;
  return n;
}

static int pack_array(struct pack *p, int idx, size_t n, struct level *at) {
  lua_State *L = p->L;
  int r = written(p, at->outer, msgpack_pack_array(&p->packer, n));
  for (size_t i = 1; r == 0 && i <= n; i++) {
    at->position = (lua_Integer)i;
    lua_rawgeti(L, idx, (lua_Integer)i);
    r = pack_value(p, lua_gettop(L), at);
    lua_pop(L, 1);
  }
  return r;
}

/* n pairs, no more and no fewer, whatever happened to the table meanwhile. */
static int pack_map(struct pack *p, int idx, size_t n, struct level *at) {
  lua_State *L = p->L;
  int r = written(p, at->outer, msgpack_pack_map(&p->packer, n)), top = lua_gettop(L);
  size_t left = n;
  lua_pushnil(L);
  at->key = top + 1;
  while (r == 0 && lua_next(L, idx)) {
    if (left-- == 0)
      break;
    r = pack_value(p, top + 1, at);
    if (r == 0)
      r = pack_value(p, top + 2, at);
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
  if (r == 0 && left != 0)
    return fail(p, -EINVAL, at->outer, "the table was changed while it was packed");
  return r;
}

static int pack_table(struct pack *p, int idx, struct level *outer) {
  struct level at = {outer, lua_topointer(p->L, idx), 0, 0};
  for (const struct level *l = outer; l; l = l->outer)
    if (l->table == at.table)
      return fail(p, -EINVAL, outer, "a table that contains itself can't be sent");
  if (p->depth == CODEC_DEPTH_MAX)
    return fail(p, -EINVAL, outer, "tables are nested too deeply (128 at most)");
  int is_array;
  size_t n = survey(p->L, idx, &is_array);
  if (n > UINT32_MAX)
    return fail(p, -E2BIG, outer, "the table is too big");
  p->depth++;
  int r = is_array ? pack_array(p, idx, n, &at) : pack_map(p, idx, n, &at);
  p->depth--;
  return r;
}

/* ---- values ---- */

static int pack_string(struct pack *p, int idx, const struct level *at) {
  size_t n;
  const char *s = lua_tolstring(p->L, idx, &n);
  if (n > UINT32_MAX)
    return fail(p, -E2BIG, at, "the string is too long");
  return written(p, at,
                 msgpack_pack_str(&p->packer, n) ||
                     (n > 0 && msgpack_pack_str_body(&p->packer, s, n)));
}

/* What the other side would not read is not sent. */
static int count_value(struct pack *p, int type, const struct level *at) {
  char text[80];
  if (p->nnodes++ == CODEC_NODES_MAX) {
    snprintf(text, sizeof text, "the message has more than %d values", CODEC_NODES_MAX);
    return fail(p, -E2BIG, at, text);
  }
  if ((type == LUA_TTABLE || type == LUA_TSTRING) && p->nobjects++ == CODEC_OBJECTS_MAX) {
    snprintf(text, sizeof text, "the message has more than %d tables and strings",
             CODEC_OBJECTS_MAX);
    return fail(p, -E2BIG, at, text);
  }
  return 0;
}

static int pack_value(struct pack *p, int idx, struct level *at) {
  lua_State *L = p->L;
  msgpack_packer *packer = &p->packer;
  int type = lua_type(L, idx);
  if (count_value(p, type, at) < 0)
    return p->e->code;
  switch (type) {
  case LUA_TNIL:
    return written(p, at, msgpack_pack_nil(packer));
  case LUA_TBOOLEAN:
    return written(p, at,
                   lua_toboolean(L, idx) ? msgpack_pack_true(packer)
                                         : msgpack_pack_false(packer));
  case LUA_TNUMBER:
    return written(p, at,
                   lua_isinteger(L, idx)
                       ? msgpack_pack_int64(packer, lua_tointeger(L, idx))
                       : msgpack_pack_double(packer, lua_tonumber(L, idx)));
  case LUA_TSTRING:
    return pack_string(p, idx, at);
  case LUA_TTABLE:
  case LUA_TUSERDATA:
    break;
  default:
    return fail_type(p, at, idx);
  }
  if (!lua_checkstack(L, SLOTS))
    return fail(p, -ENOMEM, at, "not enough memory");
  if (lua_isuserdata(L, idx) || is_handle_table(L, idx))
    return pack_handle(p, idx, at);
  return pack_table(p, idx, at);
}

int codec_pack(lua_State *L, int first, int n, const char *what, struct buf *out,
               struct codec_fds *fds, struct codec_error *e) {
  struct pack p = {.L = L, .out = out, .fds = fds, .e = e, .what = what};
  struct level at = {NULL, NULL, 0, 0};
  e->code = 0;
  msgpack_packer_init(&p.packer, &p, write_bytes);
  int r = written(&p, &at, msgpack_pack_array(&p.packer, (size_t)n));
  for (int i = 0; r == 0 && i < n; i++) {
    at.position = i + 1;
    r = pack_value(&p, first + i, &at);
  }
  return r;
}
