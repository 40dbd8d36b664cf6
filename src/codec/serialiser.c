/* The serialisers. Both sides. */
#include "codec/serialiser.h"

#include "base/result.h"
#include "codec/unpack.h"
#include "socket/numeral.h"
#include "socket/socket.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- encode ---- */

static int fail(struct codec_error *e, int code, const char *what, int n,
                const char *text) {
  snprintf(e->text, sizeof e->text, "%s %d: %s", what, n, text);
  return e->code = code;
}

static int fail_type(lua_State *L, struct codec_error *e, const char *what, int n,
                     int idx) {
  char text[80];
  snprintf(text, sizeof text, "a %s can't be sent by this serialiser",
           luaL_typename(L, idx));
  return fail(e, -EINVAL, what, n, text);
}

static int put_result(struct codec_error *e, const char *what, int n, int r) {
  if (r == 0)
    return 0;
  return fail(e, r, what, n,
              r == -E2BIG ? "the message is too long" : "not enough memory");
}

static int is_text(lua_State *L, int idx) {
  return lua_type(L, idx) == LUA_TSTRING || lua_type(L, idx) == LUA_TNUMBER;
}

static int encode_handle(lua_State *L, int idx, const char *what, int n,
                         struct codec_fds *fds, struct codec_error *e) {
  if (!lua_isuserdata(L, idx) && !lua_istable(L, idx))
    return fail_type(L, e, what, n, idx);
  if (!fds)
    return fail(e, -EINVAL, what, n,
                "a handle can't be sent (the option handles=true allows it)");
  int place = codec_add_handle(L, idx, fds);
  if (place == -EINVAL)
    return fail_type(L, e, what, n, idx);
  if (place == -EBADF)
    return fail(e, -EINVAL, what, n, "not an open descriptor");
  return place < 0 ? fail(e, place, what, n, strerror(-place)) : 0;
}

static int encode_strings(lua_State *L, const struct serialiser *s, int first, int n,
                          const char *what, struct buf *out, struct codec_fds *fds,
                          struct codec_error *e) {
  int r = 0;
  for (int i = 0; i < n && r == 0; i++) {
    if (!is_text(L, first + i)) {
      r = encode_handle(L, first + i, what, i + 1, fds, e);
      continue;
    }
    size_t size;
    numeral_put(L, first + i);
    const char *text = lua_tolstring(L, first + i, &size);
    if (size >= UINT32_MAX)
      return fail(e, -E2BIG, what, i + 1, "the string is too long");
    r = put_result(e, what, i + 1, buf_put_str(out, text, size));
  }
  return r;
}

static int encode_raw(lua_State *L, const struct serialiser *s, int first, int n,
                      const char *what, struct buf *out, struct codec_fds *fds,
                      struct codec_error *e) {
  size_t size;
  if (n == 0)
    return 0;
  if (n > 1)
    return fail(e, -EINVAL, what, 2, "this serialiser takes one string");
  if (!is_text(L, first))
    return fail_type(L, e, what, 1, first);
  numeral_put(L, first);
  const char *text = lua_tolstring(L, first, &size);
  return put_result(e, what, 1, buf_put(out, text, size));
}

/* What a module raised, as a text. */
static int raised(lua_State *L, struct codec_error *e, const char *what, int top) {
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error";
  snprintf(e->text, sizeof e->text, "the serialiser's %s: %s", what, text);
  lua_settop(L, top);
  return e->code = -EINVAL;
}

static int encode_by_module(lua_State *L, const struct serialiser *s, int first, int n,
                            const char *what, struct buf *out, struct codec_fds *fds,
                            struct codec_error *e) {
  int top = lua_gettop(L);
  if (!lua_checkstack(L, n + 4))
    return fail(e, -ENOMEM, "value", n, "not enough memory");
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->encode);
  for (int i = 0; i < n; i++)
    lua_pushvalue(L, first + i);
  if (lua_pcall(L, n, 1, 0) != LUA_OK)
    return raised(L, e, "encode", top);
  if (lua_type(L, -1) != LUA_TSTRING) {
    lua_pushliteral(L, "it returned no string");
    return raised(L, e, "encode", top);
  }
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  int r = put_result(e, "value", 1, buf_put(out, text, size));
  lua_settop(L, top);
  return r;
}

static int encode_msgpack(lua_State *L, const struct serialiser *s, int first, int n,
                          const char *what, struct buf *out, struct codec_fds *fds,
                          struct codec_error *e) {
  return codec_pack(L, first, n, what, out, fds, e);
}

/* ---- decode ---- */

static int broken(struct codec_error *e, const char *text) {
  snprintf(e->text, sizeof e->text, "%s", text);
  return e->code = -EPROTO;
}

/* Handles come behind the strings. */
static int push_handles(lua_State *L, int *fds, size_t nfds, struct codec_error *e) {
  for (size_t i = 0; i < nfds; i++) {
    int fd = fds[i];
    if (!lua_checkstack(L, 4))
      return broken(e, "too many values for the Lua stack");
    fds[i] = -1;
    socket_push(L, fd, SOCKET_FOREIGN);
  }
  return 0;
}

/* Pushes strings until there is none left (0) or the effort is made (MF_AGAIN); counts
 * them. */
static int push_strings(lua_State *L, struct reader *in, size_t effort, int *n,
                        struct codec_error *e) {
  for (size_t spent = 0; reader_left(in) > 0;) {
    size_t length;
    if (spent > effort)
      return MF_AGAIN;
    const char *s = reader_str(in, &length);
    if (!s || !lua_checkstack(L, 4))
      return broken(e,
                    s ? "too many values for the Lua stack" : "the message is cut short");
    lua_pushlstring(L, s, length);
    ++*n;
    spent += OBJECT_EFFORT + length / BYTES_PER_EFFORT;
  }
  return 0;
}

static int decode_strings(lua_State *L, const struct serialiser *s, const void *data,
                          size_t size, int *fds, size_t nfds, struct codec_error *e) {
  struct reader in;
  int n = 0, top = lua_gettop(L);
  reader_init(&in, data, size);
  int r = push_strings(L, &in, SIZE_MAX, &n, e);
  if (r == 0)
    r = push_handles(L, fds, nfds, e);
  if (r == 0)
    return n + (int)nfds;
  lua_settop(L, top);
  return r;
}

static int decode_by_module(lua_State *L, const struct serialiser *s, const void *data,
                            size_t size, int *fds, size_t nfds, struct codec_error *e) {
  int top = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->decode);
  lua_pushlstring(L, data, size);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK)
    return raised(L, e, "decode", top);
  return lua_gettop(L) - top;
}

static struct codec_limits how_to_read(const struct serialiser *s) {
  return (struct codec_limits){.what = s->reads,
                               .strict_classes = s->strict_classes,
                               .push_last = s->push_last,
                               .push_data = s->push_data};
}

static int decode_msgpack(lua_State *L, const struct serialiser *s, const void *data,
                          size_t size, int *fds, size_t nfds, struct codec_error *e) {
  struct codec_limits how = how_to_read(s);
  return codec_unpack(L, data, size, fds, nfds, &how, e);
}

static int decode_raw(lua_State *L, const struct serialiser *s, const void *data,
                      size_t size, int *fds, size_t nfds, struct codec_error *e) {
  lua_pushlstring(L, data, size);
  return 1;
}

/* ---- decode in steps ---- */

static int step_strings(lua_State *L, struct decoding *d) {
  int r = push_strings(L, &d->strings, d->effort, &d->nvalues, &d->e);
  if (r != 0)
    return r;
  d->nvalues += (int)d->nfds;
  return push_handles(L, d->fds, d->nfds, &d->e);
}

static int step_unpack(lua_State *L, struct decoding *d) {
  if (!d->unpack) {
    d->unpack = lua_newuserdatauv(L, sizeof(struct unpack), 0);
    struct codec_limits how = how_to_read(d->serialiser);
    unpack_init(d->unpack, d->data, d->size, d->fds, d->nfds, &how);
  }
  struct unpack *u = d->unpack;
  int r = unpack_step(L, u, d->effort, &d->e);
  d->nvalues = u->nvalues;
  return r;
}

/* ---- kinds ---- */

struct serialiser_kind {
  const char *name; /* NULL: a module's, whatever it is called */
  int (*encode)(lua_State *L, const struct serialiser *s, int first, int n,
                const char *what, struct buf *out, struct codec_fds *fds,
                struct codec_error *e);
  int (*decode)(lua_State *L, const struct serialiser *s, const void *data, size_t size,
                int *fds, size_t nfds, struct codec_error *e);
  int (*step)(lua_State *L, struct decoding *d); /* NULL: decoded at once */
};

static const struct serialiser_kind kinds[] = {
    {"msgpack", encode_msgpack, decode_msgpack, step_unpack},
    {"string", encode_strings, decode_strings, step_strings},
    {"raw", encode_raw, decode_raw, NULL},
    {NULL, encode_by_module, decode_by_module, NULL},
};

static const struct serialiser_kind *kind_of(const char *name) {
  const struct serialiser_kind *kind = kinds;
  while (kind->name && strcmp(kind->name, name) != 0)
    kind++;
  return kind;
}

int serialiser_is_raw(const struct serialiser *s) {
  return s->kind->encode == encode_raw;
}

int serialiser_has_steps(const struct serialiser *s) {
  return s->kind->step != NULL;
}

/* ---- open ---- */

/* The module's function, from the table on top. */
static int take_function(lua_State *L, const char *module, const char *field) {
  if (lua_getfield(L, -1, field) != LUA_TFUNCTION)
    luaL_error(L, "the serialiser '%s' has no function '%s'", module, field);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

void serialiser_open(lua_State *L, const char *name, struct serialiser *ret) {
  struct serialiser s = {.kind = kind_of(name), .encode = LUA_NOREF, .decode = LUA_NOREF};
  if (!s.kind->name) {
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1))
      luaL_error(L, "the serialiser '%s' is not a table with encode and decode", name);
    if (lua_getfield(L, -1, "decode") != LUA_TFUNCTION) /* before one is referenced */
      luaL_error(L, "the serialiser '%s' has no function 'decode'", name);
    lua_pop(L, 1);
    s.encode = take_function(L, name, "encode");
    s.decode = take_function(L, name, "decode");
    lua_pop(L, 1);
  }
  *ret = s;
}

void serialiser_close(lua_State *L, struct serialiser *s) {
  luaL_unref(L, LUA_REGISTRYINDEX, s->encode);
  luaL_unref(L, LUA_REGISTRYINDEX, s->decode);
  s->encode = s->decode = LUA_NOREF;
}

/* ---- use ---- */

int serialiser_encode(lua_State *L, const struct serialiser *s, int first, int n,
                      const char *what, struct buf *out, struct codec_fds *fds,
                      struct codec_error *e) {
  e->code = 0;
  return s->kind->encode(L, s, first, n, what, out, fds, e);
}

int serialiser_encode_lending(lua_State *L, const struct serialiser *s, int first, int n,
                              const char *what, struct buf *out, struct codec_fds *fds,
                              struct codec_lending *lending, struct codec_error *e) {
  if (s->kind->encode != encode_msgpack)
    return serialiser_encode(L, s, first, n, what, out, fds, e);
  return codec_pack_lending(L, first, n, what, out, fds, lending, e);
}

int serialiser_encode_string(lua_State *L, const struct serialiser *s, const char *text,
                             size_t size, struct buf *out, struct codec_error *e) {
  if (s->kind->encode == encode_msgpack)
    return put_result(e, "argument", 1, codec_pack_string(out, text, size));
  lua_pushlstring(L, text, size);
  int r = serialiser_encode(L, s, lua_gettop(L), 1, "argument", out, NULL, e);
  lua_pop(L, 1);
  return r;
}

const char *serialiser_borrow(lua_State *L, const struct serialiser *s, int first, int n,
                              size_t *ret_size) {
  if (!serialiser_is_raw(s) || n != 1 || lua_type(L, first) != LUA_TSTRING)
    return NULL;
  return lua_tolstring(L, first, ret_size);
}

int serialiser_decode(lua_State *L, const struct serialiser *s, const void *data,
                      size_t size, int *fds, size_t nfds, struct codec_error *e) {
  e->code = 0;
  return s->kind->decode(L, s, data, size, fds, nfds, e);
}

/* ---- use in steps ---- */

static int decode_at_once(lua_State *L, struct decoding *d) {
  int n = serialiser_decode(L, d->serialiser, d->data, d->size, d->fds, d->nfds, &d->e);
  d->nvalues = n;
  return n < 0 ? n : 0;
}

/* The coroutine's stack stays as it is while it is suspended. */
static int go_on(lua_State *L, int status, lua_KContext ctx) {
  struct decoding *d = (struct decoding *)ctx; /* NOLINT: it was made of one */
  (void)status;
  int r =
      d->serialiser->kind->step ? d->serialiser->kind->step(L, d) : decode_at_once(L, d);
  if (r == MF_AGAIN)
    return lua_yieldk(L, 0, ctx, go_on);
  return r < 0 ? 0 : d->nvalues;
}

static int l_decode(lua_State *L) { /* 1: the decoding */
  struct decoding *d = lua_touserdata(L, 1);
  return go_on(L, LUA_OK, (lua_KContext)d);
}

void decoding_begin(lua_State *L, struct decoding *d, const struct serialiser *s,
                    const void *data, size_t size, int *fds, size_t nfds) {
  *d = (struct decoding){
      .serialiser = s, .data = data, .size = size, .fds = fds, .nfds = nfds};
  reader_init(&d->strings, data, size);
  d->thread = lua_newthread(L);
  lua_pushcfunction(d->thread, l_decode);
  lua_pushlightuserdata(d->thread, d);
}

int decoding_step(lua_State *L, struct decoding *d, size_t effort) {
  int nresults, first = lua_status(d->thread) == LUA_OK;
  d->effort = effort;
  int status = lua_resume(d->thread, L, first ? 1 : 0, &nresults);
  if (status == LUA_YIELD)
    return MF_AGAIN;
  if (status == LUA_OK)
    return d->e.code < 0 ? d->e.code : 0;
  snprintf(d->e.text, sizeof d->e.text, "not enough memory");
  return d->e.code = -ENOMEM;
}
