/* Calls of rpcs and pools. Values are packed from the stack of the call by the serialiser
 * of the service. A call whose arguments can't be packed, or that the library refuses, is
 * answered as any other: later, from the reactor. Runs in the parent. */
#include "bind/service_call.h"

#include "bind/far_handle.h"
#include "bind/loan.h"
#include "os/fd.h"
#include "parent/private.h"
#include <errno.h>
#include <string.h>

struct call_box { /* what a call with a callback gives */
  uint64_t id;
  struct service **box; /* anchored as the user value */
};

/* What the library refuses a call for, where the code alone does not tell. */
static const char *refusal(const struct service *s, int code, const mf_message *m,
                           char *room) {
  if (s->foreign)
    return s->ops->refusal(s->foreign, code, m);
  if (code == MF_EUNSUPPORTED)
    return far_handles_refusal(room, m->fds, m->nfds);
  if (code == MF_ECLOSED)
    return s->rpc ? "the rpc is closed" : "the pool is closed";
  if (code != MF_ELIMIT) /* the size of a message was limited when it was packed */
    return NULL;
  return s->rpc ? "too many calls are pending, or too many bytes wait to be sent"
                : "the queue of the pool is full (option queue_max)";
}

/* Decided here and now: told as any other, later. */
static void answer_here(struct reply *r, int code, const char *text) {
  r->c.code = code;
  r->c.started = MF_STARTED_NO;
  r->c.message = text ? strdup(text) : NULL;
  completion_done(&r->c);
  reactor_arm(r->c.reactor);
}

static int code_of(const struct codec_error *e) {
  return e->code == -ENOMEM                                              ? MF_ENOMEM
         : e->code == -E2BIG || e->code == -EMFILE || e->code == -ENFILE ? MF_ELIMIT
                                                                         : MF_EINVAL;
}

static void submit_message(struct service *s, struct reply *r, const mf_call_options *o,
                           const mf_message *m, uint64_t *ret_id) {
  char room[FAR_HANDLE_TEXT];
  int rc = s->rpc    ? mf_rpc_call(s->rpc, m, o, reply_on_result, r, ret_id)
           : s->pool ? mf_pool_call(s->pool, m, o, reply_on_result, r, ret_id)
                     : s->ops->call(s->foreign, m, o, reply_on_result, r, ret_id);
  if (rc < 0)
    answer_here(r, rc, refusal(s, rc, m, room));
  else
    s->reactor->nforeign_work += s->foreign != NULL;
}

/* The same with long strings, which stay where they are until they are sent. */
static void submit_lending(lua_State *L, struct service *s, struct reply *r,
                           const mf_call_options *o, const mf_message *m,
                           const struct codec_lending *l, uint64_t *ret_id) {
  struct mf_loan loan = {l->lent, l->n, loan_release,
                         loan_new(L, s->reactor, l->anchor, NULL)};
  char room[FAR_HANDLE_TEXT];
  int rc = MF_ENOMEM;
  if (loan.data)
    rc = s->rpc ? mf_rpc_call_lent(s->rpc, m, &loan, o, reply_on_result, r, ret_id)
                : mf_pool_call_lent(s->pool, m, &loan, o, reply_on_result, r, ret_id);
  if (rc < 0)
    answer_here(r, rc, refusal(s, rc, m, room));
}

/* Leaves one more on the stack. */
static void submit(lua_State *L, struct service *s, struct reply *r,
                   const mf_call_options *o, int first, int n, uint64_t *ret_id) {
  struct codec_error e;
  struct lent lent[MF_CALL_LENT_MAX];
  struct codec_lending l = {.least = LOAN_LEAST, .lent = lent, .max = MF_CALL_LENT_MAX};
  l.max = s->foreign ? 0 : l.max; /* those copy */
  lua_pushnil(L);
  l.anchor = lua_gettop(L);
  buf_consume(&s->out, buf_size(&s->out));
  codec_fds_close(&s->fds);
  if (serialiser_encode_lending(L, &s->serialiser, first, n, "argument", &s->out, &s->fds,
                                &l, &e) < 0) {
    codec_fds_close(&s->fds);
    answer_here(r, code_of(&e), e.text);
    return;
  }
  mf_message m = {buf_peek(&s->out), buf_size(&s->out), s->fds.fd, s->fds.n};
  if (l.n > 0)
    submit_lending(L, s, r, o, &m, &l, ret_id);
  else
    submit_message(s, r, o, &m, ret_id);
  codec_fds_close(&s->fds);
}

/* The callback is at index idx. May raise; NULL: no memory. */
static struct reply *reply_for(lua_State *L, struct service *s, int idx) {
  lua_pushvalue(L, idx);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct reply *r = reply_new(s, REPLY_RESULT);
  if (r)
    r->c.trash.ref = ref;
  else
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
  return r;
}

static const mf_call_options *check_call_options(lua_State *L, int idx) {
  return lua_isnil(L, idx) ? NULL : luaL_checkudata(L, idx, BIND_CALL_OPTIONS);
}

/* Calls with the n arguments from first; the callback is at idx. Keeps the top. */
static void start_call(lua_State *L, struct service *s, int idx, int first, int n,
                       uint64_t *ret_id) {
  int top = lua_gettop(L);
  const mf_call_options *o = check_call_options(L, 2);
  struct reply *r = reply_for(L, s, idx);
  if (!r)
    luaL_error(L, "not enough memory");
  else
    submit(L, s, r, o, first, n, ret_id);
  lua_settop(L, top);
  reactor_touch(s->reactor);
}

/* Of the service at 1. */
static struct call_box *push_call(lua_State *L, struct service *s) {
  luaL_checkstack(L, 8, NULL);
  struct call_box *call = lua_newuserdatauv(L, sizeof *call, 1);
  *call = (struct call_box){0, s->box};
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, BIND_CALL);
  return call;
}

/* call(raw, call options | nil, ...) -> call; nothing where the last is no function */
static int l_call(lua_State *L) {
  int n = lua_gettop(L);
  if (n < 3 || !lua_isfunction(L, n))
    return 0;
  struct service *s = service_check(L, 1);
  struct call_box *call = push_call(L, s);
  start_call(L, s, n, 3, n - 3, &call->id);
  return 1;
}

int call_message(lua_State *L, struct service *s, const mf_call_options *o,
                 const mf_message *m, int cb, int anchor,
                 void (*take)(struct reply *r, void *taker), void *taker) {
  struct call_box *call = push_call(L, s);
  struct reply *r = reply_for(L, s, cb);
  if (!r)
    return luaL_error(L, "not enough memory");
  r->take = take;
  r->taker = taker;
  lua_pushvalue(L, anchor);
  r->thread.ref = luaL_ref(L, LUA_REGISTRYINDEX);
  submit_message(s, r, o, m, &call->id);
  reactor_touch(s->reactor);
  return 1;
}

/* Values that can't be packed are told later, as those of a call. */
static void ask(lua_State *L, struct service *s, struct reply *r, int request, int first,
                int n, uint64_t *ret_id) {
  struct codec_error e = {0};
  int rc = 0;
  buf_consume(&s->out, buf_size(&s->out));
  codec_fds_close(&s->fds);
  if (n > 0 && serialiser_encode(L, &s->serialiser, first, n, "argument", &s->out,
                                 &s->fds, &e) < 0) {
    codec_fds_close(&s->fds);
    answer_here(r, code_of(&e), e.text);
    return;
  }
  mf_message m = {buf_peek(&s->out), buf_size(&s->out), s->fds.fd, s->fds.n};
  rc = s->ops->ask(s->foreign, L, request, &m, reply_on_result, r, ret_id);
  if (rc < 0)
    answer_here(r, rc, refusal(s, rc, &m, NULL));
  else
    s->reactor->nforeign_work++;
  codec_fds_close(&s->fds);
}

uint64_t call_ask(lua_State *L, struct service *s, int request, int cb, int first, int n,
                  int is_plain) {
  int top = lua_gettop(L);
  uint64_t id = 0;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  struct reply *r = reply_for(L, s, cb);
  if (!r)
    return (uint64_t)luaL_error(L, "not enough memory");
  r->is_plain = is_plain;
  ask(L, s, r, request, first, n, &id);
  lua_settop(L, top);
  reactor_touch(s->reactor);
  return id;
}

/* call_with(raw, call options | nil, callback, ...) -> a number for cancel */
static int l_call_with(lua_State *L) {
  struct service *s = service_check(L, 1);
  uint64_t id = 0;
  luaL_checktype(L, 3, LUA_TFUNCTION);
  luaL_checkstack(L, 8, NULL);
  start_call(L, s, 3, 4, lua_gettop(L) - 3, &id);
  lua_pushinteger(L, (lua_Integer)id);
  return 1;
}

/* call_options(milliseconds | nil, idempotent) -> call options */
static int l_call_options(lua_State *L) {
  mf_call_options *o = lua_newuserdatauv(L, sizeof *o, 0);
  *o = (mf_call_options)MF_CALL_OPTIONS_INIT;
  o->timeout_ms = (unsigned)luaL_optinteger(L, 1, 0);
  o->idempotent = lua_toboolean(L, 2);
  luaL_setmetatable(L, BIND_CALL_OPTIONS);
  return 1;
}

/* s: NULL where it has ended. 1: the callback gets CANCELLED; 0: it is decided already */
static int cancel(struct service *s, uint64_t id) {
  if (!s || reactor_foreign(s->reactor) || !id)
    return 0;
  int rc = s->rpc       ? mf_rpc_cancel(s->rpc, id)
           : s->pool    ? mf_pool_cancel(s->pool, id)
           : s->foreign ? s->ops->cancel(s->foreign, id)
                        : -ESRCH;
  reactor_touch(s->reactor);
  return rc == 0;
}

static int l_call_cancel(lua_State *L) { /* call:cancel() -> was it under way? */
  struct call_box *call = luaL_testudata(L, 1, BIND_CALL);
  if (!call)
    return luaL_error(
        L,
        "calling 'cancel' on bad self (moonfork.call expected, got %s; use a "
        "colon: call:cancel())",
        lua_isnone(L, 1) ? "no value" : luaL_typename(L, 1));
  lua_pushboolean(L, cancel(*call->box, call->id));
  return 1;
}

/* "moonfork.call (number 3)" */
static int l_call_tostring(lua_State *L) {
  const struct call_box *call = luaL_checkudata(L, 1, BIND_CALL);
  lua_pushfstring(L, "moonfork.call (number %I)", (LUAI_UACINT)call->id);
  return 1;
}

static int l_cancel(lua_State *L) { /* cancel(raw, what call_with gave) */
  struct service **box = luaL_checkudata(L, 1, BIND_SERVICE);
  cancel(*box, (uint64_t)luaL_checkinteger(L, 2));
  return 0;
}

void call_open(lua_State *L) {
  luaL_newmetatable(L, BIND_CALL_OPTIONS);
  luaL_newmetatable(L, BIND_CALL);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_call_cancel);
  lua_setfield(L, -2, "cancel");
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, l_call_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushliteral(L, "moonfork.call");
  lua_setfield(L, -2, "__name");
  lua_pop(L, 2);
}

const luaL_Reg bind_call_functions[] = {
    {"call", l_call},     {"call_with", l_call_with},
    {"cancel", l_cancel}, {"call_options", l_call_options},
    {NULL, NULL},
};
