/* Packing. Both sides. Tables are read raw; the only user code that runs is the method by
 * which an object tells its descriptor, the function of its class, and finalisers. All
 * that may run some, or raise, is protected, so that packing itself raises nothing; and
 * the message is made in a buffer of its own, so that user code may pack another to the
 * same one. */
#include "codec/codec.h"

#include "codec/classes.h"
#include "codec/path.h"
#include "os/fd.h"
#include "socket/handle.h"
#include <errno.h>
#include <lauxlib.h>
#include <msgpack/pack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 8 }; /* of the Lua stack, for one level */

struct level { /* a table under way; keys say where in it we are */
  const struct level *outer;
  const void *table;
  int key;              /* stack index of the present key, or 0 */
  lua_Integer position; /* where there is no key: place in an array or in the message */
  int is_object;        /* neither: what an object was packed to */
};

struct pack {
  lua_State *L;
  struct buf out;        /* the caller's while it is made */
  struct codec_fds *fds; /* where the descriptors go; or NULL */
  int *fd;               /* those so far; a block */
  size_t nfds, fds_cap;
  unsigned nuser;                /* how often user code may have run */
  struct codec_lending *lending; /* or NULL */
  struct codec_error *e;
  const char *what;
  msgpack_packer packer;
  int depth;
  size_t nnodes, nobjects;
};

static int pack_value(struct pack *p, int idx, struct level *at);

/* ---- errors ---- */

enum { REASON_ROOM = 100 }; /* bytes of an error's text that its path does not use up */

static void add_path(lua_State *L, struct path *t, const struct level *at,
                     const char *what) {
  if (!at->outer) {
    path_begin(t, what ? what : "value", what ? at->position : 0);
    return;
  }
  add_path(L, t, at->outer, what);
  if (at->key)
    path_add_key(L, t, at->key);
  else if (!at->is_object)
    path_add_position(t, at->position);
}

static int fail(struct pack *p, int code, const struct level *at, const char *reason) {
  struct path t = {p->e->text, 0, sizeof p->e->text - REASON_ROOM};
  add_path(p->L, &t, at, p->what);
  path_end(&t, REASON_ROOM, reason);
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

/* Bytes of the message so far. */
static size_t length_of(const struct pack *p) {
  return buf_size(&p->out) + (p->lending ? p->lending->bytes : 0);
}

static int write_bytes(void *data, const char *bytes, size_t n) {
  struct pack *p = data;
  int r = n > p->out.max - length_of(p) ? -E2BIG : buf_put(&p->out, bytes, n);
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

/* Keeps a duplicate of what is behind the handle. Its place, or as codec_add_handle. */
static int add_handle(struct pack *p, int idx) {
  p->nuser++;
  int fd = descriptor_of(p->L, idx);
  if (fd < 0)
    return fd;
  if (!p->fds || p->nfds == CODEC_FDS_MAX)
    return -E2BIG;
  if (p->nfds == p->fds_cap) {
    size_t cap = p->fds_cap ? p->fds_cap * 2 : 4;
    int *more = realloc(p->fd, cap * sizeof *more);
    if (!more)
      return -ENOMEM;
    p->fd = more;
    p->fds_cap = cap;
  }
  int copy = fd_dup(fd);
  if (copy < 0)
    return copy;
  p->fd[p->nfds] = copy;
  return (int)p->nfds++;
}

static int pack_handle(struct pack *p, int idx, const struct level *at) {
  int place = add_handle(p, idx);
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

/* Whether the table at idx has lost the key on top, from which lua_next might not find
 * on. */
static int is_gone(lua_State *L, int idx) {
  lua_pushvalue(L, -1);
  int gone = lua_rawget(L, idx) == LUA_TNIL;
  lua_pop(L, 1);
  return gone;
}

/* n pairs, no more and no fewer, whatever happened to the table meanwhile. */
static int pack_map(struct pack *p, int idx, size_t n, struct level *at) {
  lua_State *L = p->L;
  int r = written(p, at->outer, msgpack_pack_map(&p->packer, n)), top = lua_gettop(L);
  size_t left = n;
  unsigned nuser = p->nuser;
  lua_pushnil(L);
  at->key = top + 1;
  while (r == 0 && lua_next(L, idx)) {
    if (left-- == 0)
      break;
    r = pack_value(p, top + 1, at);
    if (r == 0)
      r = pack_value(p, top + 2, at);
    lua_settop(L, top + 1);
    if (r == 0 && p->nuser != nuser && is_gone(L, idx)) {
      left = 1;
      break;
    }
    nuser = p->nuser;
  }
  lua_settop(L, top);
  if (r == 0 && left != 0)
    return fail(p, -EINVAL, at->outer, "the table was changed while it was packed");
  return r;
}

static int pack_table(struct pack *p, int idx, struct level *outer) {
  struct level at = {outer, lua_topointer(p->L, idx), 0, 0, 0};
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

/* ---- objects of classes ---- */

static int fail_class(struct pack *p, int class_idx, const struct level *at) {
  char reason[160];
  size_t n;
  const char *text = lua_tostring(p->L, -1);
  snprintf(reason, sizeof reason, "the class '%.40s' can't pack it: %s",
           classes_name(p->L, class_idx, &n), text ? text : "an error without a text");
  return fail(p, -EINVAL, at, reason);
}

/* An extension whose length is not known yet; *ret_at: the place of the length. */
static int begin_object(struct pack *p, int class_idx, size_t *ret_at) {
  static const char header[6] = {(char)0xc9, 0, 0, 0, 0, CODEC_EXT_OBJECT};
  size_t n;
  const char *name = classes_name(p->L, class_idx, &n);
  *ret_at = buf_size(&p->out) + 1;
  return write_bytes(p, header, sizeof header) || msgpack_pack_str(&p->packer, n) ||
         msgpack_pack_str_body(&p->packer, name, n);
}

static int end_object(struct pack *p, size_t at, size_t length, const struct level *l) {
  if (length > UINT32_MAX)
    return fail(p, -E2BIG, l, "the object is too long");
  unsigned char *to = p->out.data + p->out.head + at;
  for (int i = 0; i < 4; i++)
    to[i] = (unsigned char)(length >> (24 - 8 * i));
  return 0;
}

/* The class is on top of the stack. */
static int pack_object(struct pack *p, int idx, struct level *outer) {
  struct level at = {outer, lua_topointer(p->L, idx), 0, 0, 1};
  int class_idx = lua_gettop(p->L);
  for (const struct level *l = outer; l; l = l->outer)
    if (l->table == at.table)
      return fail(p, -EINVAL, outer, "an object that contains itself can't be sent");
  if (p->depth == CODEC_DEPTH_MAX)
    return fail(p, -EINVAL, outer, "objects are nested too deeply (128 at most)");
  p->nuser++;
  if (classes_pack(p->L, class_idx, idx) < 0)
    return fail_class(p, class_idx, outer);
  size_t place, before = length_of(p) + 6;
  int r = written(p, outer, begin_object(p, class_idx, &place));
  p->depth++;
  if (r == 0)
    r = pack_value(p, class_idx + 1, &at);
  p->depth--;
  return r < 0 ? r : end_object(p, place, length_of(p) - before, outer);
}

/* ---- values ---- */

static int l_keep(lua_State *L) { /* 1: a table or nil, 2: string, 3: number -> table */
  if (lua_isnil(L, 1)) {
    lua_createtable(L, 1, 0);
    lua_replace(L, 1);
  }
  lua_pushvalue(L, 2);
  lua_rawseti(L, 1, lua_tointeger(L, 3));
  lua_settop(L, 1);
  return 1;
}

/* 1: it is lent; 0: it is to be copied; or e->code. */
static int lend(struct pack *p, int idx, const char *s, size_t n,
                const struct level *at) {
  struct codec_lending *l = p->lending;
  if (l->n == l->max)
    return 0;
  if (n > p->out.max - length_of(p)) {
    p->e->code = -E2BIG;
    return written(p, at, -1);
  }
  p->nuser++;
  lua_pushcfunction(p->L, l_keep);
  lua_pushvalue(p->L, l->anchor);
  lua_pushvalue(p->L, idx);
  lua_pushinteger(p->L, (lua_Integer)l->n + 1);
  if (lua_pcall(p->L, 3, 1, 0) != LUA_OK) {
    lua_pop(p->L, 1);
    return fail(p, -ENOMEM, at, "not enough memory");
  }
  lua_replace(p->L, l->anchor);
  l->lent[l->n++] = (struct lent){buf_size(&p->out), s, n};
  l->bytes += n;
  return 1;
}

static int pack_string(struct pack *p, int idx, const struct level *at) {
  size_t n;
  const char *s = lua_tolstring(p->L, idx, &n);
  if (n > UINT32_MAX)
    return fail(p, -E2BIG, at, "the string is too long");
  if (p->lending && n >= p->lending->least) {
    int r = written(p, at, msgpack_pack_str(&p->packer, n));
    if (r == 0)
      r = lend(p, idx, s, n, at);
    if (r != 0)
      return r < 0 ? r : 0;
    return written(p, at, msgpack_pack_str_body(&p->packer, s, n));
  }
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
  if ((type == LUA_TTABLE || type == LUA_TSTRING || type == LUA_TUSERDATA) &&
      p->nobjects++ == CODEC_OBJECTS_MAX) {
    snprintf(text, sizeof text, "the message has more than %d tables and strings",
             CODEC_OBJECTS_MAX);
    return fail(p, -E2BIG, at, text);
  }
  return 0;
}

/* 1: the object -> its class, or whether it is a handle */
static int l_inspect(lua_State *L) {
  if (!classes_push_of(L, 1))
    lua_pushboolean(L, lua_type(L, 1) == LUA_TUSERDATA || is_handle_table(L, 1));
  return 1;
}

/* A table or userdata. */
static int pack_complex(struct pack *p, int idx, struct level *at) {
  lua_State *L = p->L;
  int r, top = lua_gettop(L);
  if (lua_type(L, idx) == LUA_TTABLE && !lua_getmetatable(L, idx))
    return pack_table(p, idx, at);
  lua_settop(L, top);
  p->nuser++;
  lua_pushcfunction(L, l_inspect);
  lua_pushvalue(L, idx);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK)
    r = fail(p, -ENOMEM, at, "not enough memory");
  else if (lua_istable(L, -1))
    r = pack_object(p, idx, at);
  else
    r = lua_toboolean(L, -1) ? pack_handle(p, idx, at) : pack_table(p, idx, at);
  lua_settop(L, top);
  return r;
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
  return pack_complex(p, idx, at);
}

/* ---- the message ---- */

static void begin(struct pack *p, struct buf *out) {
  p->out = *out;
  buf_init(out, p->out.max);
  out->keep = p->out.keep;
}

/* Gives the caller what is his, in the place of whatever user code has left there. */
static void end(struct pack *p, struct buf *out, int r) {
  buf_deinit(out);
  *out = p->out;
  if (p->fds)
    codec_fds_close(p->fds);
  for (size_t i = 0; i < p->nfds; i++) {
    if (r < 0 || !p->fds) /* none are packed where nobody takes them */
      fd_close(&p->fd[i]);
    else
      p->fds->fd[p->fds->n++] = p->fd[i];
  }
  free(p->fd);
}

int codec_pack_lending(lua_State *L, int first, int n, const char *what, struct buf *out,
                       struct codec_fds *fds, struct codec_lending *lending,
                       struct codec_error *e) {
  struct pack p = {.L = L, .fds = fds, .lending = lending, .e = e, .what = what};
  struct level at = {NULL, NULL, 0, 0, 0};
  e->code = 0;
  begin(&p, out);
  msgpack_packer_init(&p.packer, &p, write_bytes);
  int r = written(&p, &at, msgpack_pack_array(&p.packer, (size_t)n));
  for (int i = 0; r == 0 && i < n; i++) {
    at.position = i + 1;
    r = pack_value(&p, first + i, &at);
  }
  end(&p, out, r);
  return r;
}

int codec_pack(lua_State *L, int first, int n, const char *what, struct buf *out,
               struct codec_fds *fds, struct codec_error *e) {
  return codec_pack_lending(L, first, n, what, out, fds, NULL, e);
}

int codec_pack_string(struct buf *out, const char *s, size_t n) {
  unsigned char head[6] = {0x91}; /* an array of one; fixstr, str 8, str 16, str 32 */
  size_t size = n < 32 ? 0 : n < 256 ? 1 : n < 65536 ? 2 : 4;
  if (n > UINT32_MAX)
    return -E2BIG;
  head[1] = (unsigned char)(size == 0 ? 0xa0 | n : 0xd8 + (size == 4 ? 3 : size));
  for (size_t i = 0; i < size; i++)
    head[2 + i] = (unsigned char)(n >> 8 * (size - 1 - i));
  unsigned char *room = buf_reserve(out, 2 + size + n);
  if (!room)
    return -errno;
  memcpy(room, head, 2 + size);
  memcpy(room + 2 + size, s, n);
  buf_commit(out, 2 + size + n);
  return 0;
}
