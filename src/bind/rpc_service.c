/* How Lua makes an rpc (rpc_service.h). Runs in the parent. */
#include "bind/rpc_service.h"

#include "bind/field.h"
#include "bind/option_fields.h"
#include "bind/reply.h"

void rpc_options_read(lua_State *L, int idx, mf_rpc_options *o) {
  mf_rpc_options_init(o);
#define STRING(field, name) o->field = field_string(L, idx, #name);
#define FLAG(field, name) o->field = field_flag(L, idx, #name);
#define NUMBER(field, name) o->field = field_integer(L, idx, #name, o->field);
  RPC_STRINGS(STRING)
  RPC_FLAGS(FLAG)
  RPC_NUMBERS(NUMBER)
#undef STRING
#undef FLAG
#undef NUMBER
  if (field_flag(L, idx, "events"))
    o->on_event = reply_on_event;
  o->on_error = reply_on_error;
  o->on_close = reply_on_close;
  o->on_drain = field_flag(L, idx, "drain") ? reply_on_drain : NULL;
}

/* rpc_new(raw process, function, cell, options) -> raw; or nil, error */
static int l_rpc_new(lua_State *L) {
  struct proc *p = bound_check(L, 1);
  const char *function = luaL_checkstring(L, 2);
  mf_rpc_options o;
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TTABLE);
  rpc_options_read(L, 4, &o);
  struct service *s = service_push(L, p->reactor, 3, 4, &o);
  if (!s)
    return 2;
  int rc = mf_rpc_new(p->process, function, &o, &s->rpc);
  if (rc == 0) {
    s->proc = p;
    p->holds++; /* its last replies may be read when both are closed */
    bound_lend(p);
  }
  return service_fill(L, s, rc);
}

const luaL_Reg bind_rpc_functions[] = {{"rpc_new", l_rpc_new}, {NULL, NULL}};
