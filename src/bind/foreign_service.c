/* Services of modules of their own (foreign.h): how Lua makes and asks them. Runs in the
 * parent. */
#include "bind/foreign.h"

#include "bind/field.h"
#include "bind/reply.h"
#include "bind/rpc_service.h"
#include "bind/service_call.h"
#include <errno.h>

/* ---- pools for nodes ---- */

static int pool_call(void *pool, const mf_message *m, const mf_call_options *o,
                     mf_reply_cb cb, void *data, uint64_t *ret_id) {
  struct service *s = pool;
  return s->pool && !s->closing ? mf_pool_call(s->pool, m, o, cb, data, ret_id)
                                : MF_ECLOSED;
}

static int pool_cancel(void *pool, uint64_t id) {
  struct service *s = pool;
  return s->pool ? mf_pool_cancel(s->pool, id) : MF_ECLOSED;
}

static int pool_stats(void *pool, mf_pool_info *info) {
  struct service *s = pool;
  return s->pool && !s->closing ? mf_pool_stats(s->pool, info) : MF_ECLOSED;
}

static void pool_release(void *pool) {
  service_unhold(pool);
}

/* ---- making ---- */

/* foreign_new(maker, cell, options, raw pool | nil) -> raw; or nil, error */
static int l_foreign_new(lua_State *L) {
  struct foreign_maker *maker = luaL_checkudata(L, 1, BIND_FOREIGN);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  struct service *of = lua_isnoneornil(L, 4) ? NULL : service_check(L, 4);
  struct foreign_pool pool = {of, pool_call, pool_cancel, pool_stats, pool_release};
  struct reactor *r = reactor_get(L);
  mf_rpc_options o;
  if (!r)
    return 2;
  rpc_options_read(L, 3, &o);
  struct service *s = service_push(L, r, 2, 3, &o);
  if (!s)
    return 2;
  s->ops = maker->ops;
  if (of)
    of->holds++;
  int rc = maker->open(maker, &r->loop, &pool, reply_on_event, s, &s->foreign);
  if (rc < 0 && of)
    service_unhold(of);
  if (rc == 0)
    r->nforeign++;
  int n = service_fill(L, s, rc);
  const char *why = rc < 0 ? maker->refusal(rc) : NULL;
  if (why) {
    lua_pushstring(L, why);
    lua_setfield(L, -2, "message");
  }
  return n;
}

/* foreign_object(raw) -> light userdata; or nil: it has ended */
static int l_foreign_object(lua_State *L) {
  struct service *s = service_check_any(L, 1);
  if (s && s->foreign)
    lua_pushlightuserdata(L, s->foreign);
  else
    lua_pushnil(L);
  return 1;
}

/* foreign_ask(raw, request, callback, ...) -> a number for cancel. A request with the
 * flag `plain` is answered by one string. */
static int l_foreign_ask(lua_State *L) {
  struct service *s = service_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  luaL_argcheck(L, s->foreign, 1, "closed");
  lua_pushinteger(L, (lua_Integer)call_ask(L, s, 2, 3, 4, lua_gettop(L) - 3,
                                           field_flag(L, 2, "plain")));
  return 1;
}

const luaL_Reg bind_foreign_functions[] = {{"foreign_new", l_foreign_new},
                                           {"foreign_object", l_foreign_object},
                                           {"foreign_ask", l_foreign_ask},
                                           {NULL, NULL}};
