/* What rpcs and pools have in common: life, and the userdata (service.h). Runs in the
 * parent. */
#include "bind/service.h"

#include "bind/field.h"
#include <errno.h>
#include <stdlib.h>

void service_unhold(struct service *s) {
  if (--s->holds > 0)
    return;
  if (s->proc)
    proc_unhold(s->proc);
  buf_deinit(&s->out);
  reactor_discard(s->reactor, &s->functions[0]);
  reactor_discard(s->reactor, &s->functions[1]);
  reactor_discard(s->reactor, &s->trash); /* the memory of all three */
}

static void closed(void *data) {
  struct service *s = data;
  s->rpc = NULL;
  s->pool = NULL;
  s->reactor->nforeign -= s->foreign != NULL;
  s->reactor->nforeign_work -= s->foreign && s->closing && s->waited_for;
  s->foreign = NULL;
  list_remove(&s->resident.link);
  if (s->box)
    *s->box = NULL;
  if (s->proc)
    bound_gone(s->proc);
  s->reactor->nclosing -= s->closing;
  service_unhold(s);
}

static void on_rpc_closed(mf_rpc *rpc, void *data) {
  (void)rpc;
  closed(data);
}

static void on_pool_closed(mf_pool *pool, void *data) {
  (void)pool;
  closed(data);
}

static void service_close(struct service *s) {
  if (s->closing)
    return;
  s->closing = 1;
  s->reactor->nclosing++;
  if (s->rpc) {
    mf_rpc_close(s->rpc, on_rpc_closed, s);
  } else if (s->pool) {
    mf_pool_close(s->pool, on_pool_closed, s);
  } else {
    s->waited_for = s->box != NULL;
    s->reactor->nforeign_work += s->waited_for;
    s->ops->close(s->foreign, closed, s);
  }
}

static void release(struct resident *resident) {
  struct service *s = list_entry(resident, struct service, resident);
  if (s->rpc)
    mf_rpc_abort(s->rpc);
  else if (s->pool)
    mf_pool_abort(s->pool);
  else
    s->ops->abort(s->foreign);
  service_close(s);
}

void services_dump(const struct reactor *r, FILE *out) {
  list_each(it, &r->residents) {
    const struct resident *resident = list_entry(it, struct resident, link);
    if (resident->release != release)
      continue;
    const struct service *s = list_entry(resident, struct service, resident);
    if (s->foreign && s->ops->dump)
      s->ops->dump(s->foreign, out);
  }
}

/* ---- the userdata ---- */

struct service *service_check_any(lua_State *L, int idx) {
  struct service **box = luaL_checkudata(L, idx, BIND_SERVICE);
  if (*box && reactor_foreign((*box)->reactor))
    luaL_error(L, "the object belongs to the process that this one was forked from");
  return *box;
}

struct service *service_check(lua_State *L, int idx) {
  struct service *s = service_check_any(L, idx);
  luaL_argcheck(L, s && !s->closing, idx, "closed");
  reactor_get(L);
  return s;
}

struct service *service_push(lua_State *L, struct reactor *r, int cell, int options,
                             mf_rpc_options *o) {
  struct serialiser opened;
  serialiser_open(L, o->serialiser, &opened);
  struct service **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, BIND_SERVICE);
  lua_pushvalue(L, cell);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct service *s = calloc(1, sizeof *s);
  if (!s) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    serialiser_close(L, &opened);
    bind_result_push(L, -ENOMEM);
    return NULL;
  }
  list_init(&s->resident.link);
  s->resident.release = release;
  list_init(&s->behind);
  list_init(&s->trash.link);
  s->trash.ref = ref;
  s->trash.block = s;
  s->reactor = r;
  s->serialiser = opened;
  for (int i = 0; i < 2; i++) {
    list_init(&s->functions[i].link);
    s->functions[i].ref = i ? opened.decode : opened.encode;
  }
  s->serialiser.reads = "result";
  s->serialiser.strict_classes = o->strict_classes;
  buf_init(&s->out, (size_t)o->message_max);
  s->holds = 1;
  s->box = box;
  *box = s;
  s->tells_end = field_flag(L, options, "tells_end");
  o->data = s;
  return s;
}

int service_fill(lua_State *L, struct service *s, int rc) {
  if (rc < 0) {
    *s->box = NULL;
    service_unhold(s);
    return bind_result_push(L, rc);
  }
  list_push(&s->reactor->residents, &s->resident.link);
  reactor_touch(s->reactor);
  return 1;
}

/* ---- ending ---- */

static int
l_service_close(lua_State *L) { /* service_close(raw): calls under way finish */
  struct service **box = luaL_checkudata(L, 1, BIND_SERVICE);
  struct service *s = *box;
  if (!s || box_get(L)->closed || reactor_foreign(s->reactor))
    return 0;
  service_close(s);
  reactor_touch(s->reactor);
  return 0;
}

/* Garbage is closed: what is outstanding finishes. No loop waits for the end where nobody
 * is told of it: the function of a call that was given up may never return. */
static int l_service_gc(lua_State *L) {
  struct service **box = luaL_checkudata(L, 1, BIND_SERVICE);
  struct service *s = *box;
  *box = NULL;
  if (!s || reactor_foreign(s->reactor))
    return 0;
  s->box = NULL;
  if (s->rpc && !s->tells_end)
    mf_rpc_quiet(s->rpc);
  if (s->pool && !s->tells_end)
    mf_pool_quiet(s->pool);
  service_close(s);
  reactor_touch(s->reactor);
  return 0;
}

static int l_copied(lua_State *L) {
  static struct service others = {.reactor = &reactor_of_others, .closing = 1};
  struct service **box = lua_touserdata(L, 1);
  if (*box)
    *box = &others;
  return 0;
}

static int l_save(lua_State *L) {
  struct service *const *box = lua_touserdata(L, 1);
  if (!*box || (*box)->closing || reactor_foreign((*box)->reactor))
    return 0;
  lua_pushliteral(L, "it is open, and an image holds no processes; close it, and make it "
                     "after loading");
  return 1;
}

void service_open(lua_State *L) {
  luaL_newmetatable(L, BIND_SERVICE);
  lua_pushliteral(L, "moonfork.rpc or moonfork.pool");
  lua_setfield(L, -2, "__name");
  reactor_copies(L, l_copied, l_save);
  lua_pushcfunction(L, l_service_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

const luaL_Reg bind_service_functions[] = {{"service_close", l_service_close},
                                           {NULL, NULL}};
