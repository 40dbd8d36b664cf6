/* process:set: a value is packed as calls pack theirs, once, and its long strings are
 * sent from where they are. Runs in the parent. */
#include "base/copied.h"
#include "bind/loan.h"
#include "bind/lua_process.h"
#include "codec/codec.h"
#include "parent/private.h"
#include <errno.h>

#define BIND_PACKED BIND_ID "packed"

enum { LENT_MAX = 8192 };

struct packed { /* a userdata, so that nothing is lost where Lua raises */
  struct buf out;
  struct codec_fds fds;
};

static int l_gc(lua_State *L) {
  struct packed *p = luaL_checkudata(L, 1, BIND_PACKED);
  codec_fds_close(&p->fds);
  buf_deinit(&p->out);
  return 0;
}

static int l_copied(lua_State *L) {
  struct packed *p = lua_touserdata(L, 1);
  buf_init(&p->out, 0);
  p->fds.n = 0;
  return 0;
}

static struct packed *packed_push(lua_State *L, const char *name, size_t n) {
  struct packed *p = lua_newuserdatauv(L, sizeof *p, 0);
  buf_init(&p->out, (uint64_t)MF_SET_BYTES_MAX + 4 + n);
  p->fds.n = 0;
  if (luaL_newmetatable(L, BIND_PACKED)) {
    reactor_copies(L, l_copied, NULL);
    lua_pushcfunction(L, l_gc);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, COPIED_END_FIELD);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  if (buf_put_str(&p->out, name, n) < 0)
    luaL_error(L, "not enough memory");
  return p;
}

/* -> nil, error */
static int refuse(lua_State *L, const char *code, const char *name, const char *reason) {
  lua_pushnil(L);
  lua_pushfstring(L, "set '%s': %s", name, reason);
  bind_error_push(L, code, lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return 2;
}

static int refuse_codec(lua_State *L, const char *name, const struct codec_error *e) {
  const char *code = e->code == -EINVAL   ? "EINVAL"
                     : e->code == -ENOMEM ? "NOMEM"
                                          : "LIMIT";
  return refuse(L, code, name, e->text);
}

static int send_packed(lua_State *L, struct proc *p, const char *name,
                       struct packed *packed, const struct codec_lending *lending) {
  mf_message m = {buf_peek(&packed->out), buf_size(&packed->out), packed->fds.fd,
                  packed->fds.n};
  if (m.nfds > MF_SET_FDS_MAX)
    return refuse(L, "LIMIT", name, "a value has 16 handles at most");
  void *loan = loan_new(L, p->reactor, lending->anchor, packed->out.data);
  if (!loan)
    return bind_result_push(L, -ENOMEM);
  packed->out.data = NULL; /* the loan's */
  buf_init(&packed->out, 0);
  int rc = mf_set_packed(p->process, &m, lending->lent, lending->n, loan_release, loan);
  codec_fds_close(&packed->fds);
  reactor_touch(p->reactor);
  if (rc == MF_EINVAL)
    return refuse(L, "EINVAL", name, "the control socket of a process can't be sent");
  return bind_result_push(L, rc);
}

/* set(raw, name, value) -> true; or nil, error */
static int l_set(lua_State *L) {
  enum { PROCESS = 1, NAME, VALUE, PACKED, ANCHOR };
  bound_check(L, PROCESS);
  struct codec_lending lending = {.least = LOAN_LEAST, .anchor = ANCHOR};
  struct codec_error e;
  size_t n;
  const char *name = luaL_checklstring(L, NAME, &n);
  lua_settop(L, VALUE);
  struct packed *packed = packed_push(L, name, n);
  lua_settop(L, ANCHOR);
  if (lua_type(L, VALUE) > LUA_TNUMBER) { /* may be, or have, a long string */
    lending.max = lua_type(L, VALUE) == LUA_TSTRING ? 1 : LENT_MAX;
    lending.lent = lua_newuserdatauv(L, lending.max * sizeof(struct lent), 0);
  }
  if (codec_pack_lending(L, VALUE, 1, NULL, &packed->out, &packed->fds, &lending, &e) < 0)
    return refuse_codec(L, name, &e);
  struct proc *p =
      bound_check(L, PROCESS); /* the functions of classes may have closed it */
  return send_packed(L, p, name, packed, &lending);
}

const luaL_Reg bind_set_functions[] = {{"set", l_set}, {NULL, NULL}};
