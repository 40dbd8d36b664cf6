/* Services: an rpc, or a pool, behind a userdata. Values are packed from the stack of the
 * call and unpacked to the stack of pop(), by the serialiser of the service. Runs in the
 * parent.
 *
 *   userdata -> service -> mf_rpc or mf_pool
 *                  ^------- one for the library until its close callback, one for each reply
 *                           or event that waits to be popped
 *
 * A call whose arguments can't be packed, or that the library refuses, is answered as any
 * other: later, from the reactor. */
#include "bind/bind.h"
#include "base/result.h"
#include "codec/serialiser.h"
#include "os/fd.h"
#include "os/proc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BIND_SERVICE BIND_ID "service"
#define BIND_CALL BIND_ID "call"
#define BIND_CALL_OPTIONS BIND_ID "call_options"

enum { NEAR_BYTES = 192 }; /* a reply that is shorter needs no block of its own */

/* A message that may have many values is read in steps, so that it does not hold the loop: */
enum {
  LONG_BYTES = 16 * 1024,       /* is read in steps */
  HUGE_BYTES = 4 * 1024 * 1024, /* nor begun in the turn that took it in */
  STEP_EFFORT = 4096,           /* values between two looks at the clock */
  TURN_NS = 8 * 1000 * 1000     /* for all that is read in one turn */
};
#define UNDELIVERED_MAX ((size_t)64 << 20)

struct service {
  struct list link;   /* reactor->services, while the library has it */
  struct trash trash; /* ref: the cell, a table with the callbacks */
  struct trash functions[2]; /* refs of the serialiser */
  struct reactor *reactor;
  struct service **box; /* the userdata's; NULL: it is gone */
  mf_rpc *rpc;
  mf_pool *pool;     /* one of them, or neither: closed */
  struct proc *proc; /* the process of an rpc */
  unsigned holds;
  struct reply *reading; /* the one that is read in steps, or NULL */
  struct list behind;    /* what waits for it */
  int closing;
  int tells_end; /* somebody is told when its close is over */
  struct serialiser serialiser;
  struct buf out; /* the call under way */
  struct codec_fds fds;
};

/* A completion with bytes and descriptors. */
struct reply {
  struct completion c; /* first: it is found by its address */
  struct service *service;
  size_t size, nfds;
  unsigned char *data; /* near, or a block */
  int *fds;            /* a block, or NULL; -1: taken */
  size_t counted;      /* in the reactor's undelivered */
  struct decoding *decoding; /* in steps; or NULL */
  struct trash thread;       /* ref: keeps it */
  unsigned char near[NEAR_BYTES];
};

struct call { /* what a call with a callback gives */
  uint64_t id;
  struct service **box; /* anchored as the user value */
};

/* ---- life ---- */

static void service_unhold(struct service *s) {
  if (--s->holds > 0)
    return;
  buf_deinit(&s->out);
  reactor_discard(s->reactor, &s->functions[0]);
  reactor_discard(s->reactor, &s->functions[1]);
  reactor_discard(s->reactor, &s->trash); /* the memory of all three */
}

static struct reply *reply_new(struct service *s, enum completion_kind kind) {
  struct reply *r = malloc(sizeof *r);
  if (!r)
    return NULL;
  completion_init(&r->c, s->reactor, kind);
  r->c.trash.block = r;
  r->service = s;
  r->size = r->nfds = 0;
  r->data = r->near;
  r->fds = NULL;
  r->counted = 0;
  r->decoding = NULL;
  list_init(&r->thread.link);
  r->thread.ref = LUA_NOREF;
  r->thread.block = NULL;
  s->holds++;
  return r;
}

/* From now on it is not in the way of others. */
static void reply_uncount(struct reply *r) {
  r->c.reactor->undelivered -= r->counted;
  r->counted = 0;
}

static void reply_clear(struct reply *r) {
  reply_uncount(r);
  for (size_t i = 0; i < r->nfds; i++)
    fd_drop(&r->fds[i]);
  free(r->fds);
  if (r->data != r->near)
    free(r->data);
  r->data = r->near;
  r->fds = NULL;
  r->size = r->nfds = 0;
}

void service_forget(struct completion *c) {
  struct reply *r = (struct reply *)c;
  struct service *s = r->service;
  reply_clear(r);
  completion_clear(c);
  reactor_discard(c->reactor, &r->thread); /* before the block that it is in */
  reactor_discard(c->reactor, &c->trash);
  service_unhold(s);
}

/* Takes or copies what is valid during a callback only. 0 or MF_ENOMEM. */
static int reply_fill(struct reply *r, const mf_message *m) {
  if (m->nfds > 0) {
    r->fds = malloc(m->nfds * sizeof *r->fds);
    if (!r->fds)
      return MF_ENOMEM;
    memcpy(r->fds, m->fds, m->nfds * sizeof *r->fds);
  }
  r->data = m->length > HUGE_BYTES ? mf_message_take(m) : NULL;
  if (!r->data) {
    r->data = m->length > NEAR_BYTES ? malloc(m->length) : r->near;
    if (!r->data) {
      r->data = r->near;
      free(r->fds);
      r->fds = NULL;
      return MF_ENOMEM;
    }
    if (m->length > 0)
      memcpy(r->data, m->data, m->length);
  }
  r->size = m->length;
  r->nfds = m->nfds;
  r->counted = sizeof *r + m->length;
  r->c.reactor->undelivered += r->counted;
  for (size_t i = 0; i < m->nfds; i++)
    m->fds[i] = -1; /* ours now */
  return 0;
}

/* ---- callbacks of the library ---- */

static void on_reply(const mf_error *error, const mf_message *message, void *data) {
  struct reply *r = data;
  if (error)
    completion_set_error(&r->c, error);
  else
    r->c.code = reply_fill(r, message);
  r->c.started = error ? error->started : MF_STARTED_UNKNOWN;
  completion_done(&r->c);
}

static void on_event(const mf_message *event, void *data) {
  struct reply *r = reply_new(data, DONE_EVENT);
  if (!r)
    return; /* no memory: as if nobody had listened */
  r->c.code = reply_fill(r, event);
  completion_done(&r->c);
}

static void on_trouble(const mf_error *error, void *data) {
  struct reply *r = reply_new(data, DONE_TROUBLE);
  if (!r)
    return;
  completion_set_error(&r->c, error);
  completion_done(&r->c);
}

static void on_notice(struct service *s, enum completion_kind kind) {
  struct reply *r = reply_new(s, kind);
  if (r)
    completion_done(&r->c);
}

static void on_close(void *data) {
  on_notice(data, DONE_CLOSED);
}

static void on_drain(void *data) {
  on_notice(data, DONE_DRAIN);
}

static void closed(struct service *s) {
  s->rpc = NULL;
  s->pool = NULL;
  list_remove(&s->link);
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
  if (s->rpc)
    mf_rpc_close(s->rpc, on_rpc_closed, s);
  else
    mf_pool_close(s->pool, on_pool_closed, s);
}

void service_release_all(struct reactor *r) {
  list_each(it, &r->services) {
    struct service *s = list_entry(it, struct service, link);
    if (s->rpc)
      mf_rpc_abort(s->rpc);
    else
      mf_pool_abort(s->pool);
    service_close(s);
  }
}

/* ---- popping ---- */

/* An error object in place of values that can't be read. */
static void push_unreadable(lua_State *L, const struct codec_error *e) {
  const char *code = e->code == -EPROTO   ? "PROTOCOL"
                     : e->code == -ENOMEM ? "NOMEM"
                     : e->code == -E2BIG  ? "LIMIT"
                                          : "EINVAL";
  bind_error_push(L, code, e->text, NULL, MF_STARTED_UNKNOWN, NULL);
}

static void push_target(lua_State *L, const struct reply *r) {
  int own = r->c.kind == DONE_REPLY;
  lua_rawgeti(L, LUA_REGISTRYINDEX, own ? r->c.trash.ref : r->service->trash.ref);
}

/* A call was told the reason: nobody else has to be. */
static void mark_told(lua_State *L, const struct service *s) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->trash.ref);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "told");
  lua_pop(L, 1);
}

/* ---- reading in steps ----
 *
 *   done -> service_pop: it is long -> reading <-> a step in each turn -> first in done -> popped
 *
 * What follows it from the same service, and what is told of the process of the same rpc, waits in
 * the service's list, so that the order stays. All others go on. */

static int has_steps(const struct reply *r) {
  if (r->c.code || r->c.kind > DONE_EVENT || r->decoding)
    return 0;
  return r->size > HUGE_BYTES ||
         (r->size > LONG_BYTES && serialiser_has_steps(&r->service->serialiser));
}

/* May raise (memory); then nothing has changed. */
static void begin_reading(lua_State *L, struct reply *r) {
  struct service *s = r->service;
  struct decoding *d = lua_newuserdatauv(L, sizeof *d, 1);
  decoding_begin(L, d, &s->serialiser, r->data, r->size, r->fds, r->nfds);
  lua_setiuservalue(L, -2, 1);
  r->thread.ref = luaL_ref(L, LUA_REGISTRYINDEX);
  r->decoding = d;
  s->reading = r;
  if (s->proc) {
    s->proc->holds++;
    s->proc->behind = &s->behind;
  }
  reply_uncount(r);
  list_remove(&r->c.link);
  list_push(&r->c.reactor->reading, &r->c.link);
}

/* It is next in done, before all that waited for it. */
static void end_reading(struct reply *r) {
  struct service *s = r->service;
  struct list *done = &r->c.reactor->done, rest;
  s->reading = NULL;
  if (s->proc) {
    s->proc->behind = NULL;
    proc_unhold(s->proc);
  }
  list_remove(&r->c.link);
  list_move(&rest, done);
  list_push(done, &r->c.link);
  list_append(done, &s->behind);
  list_append(done, &rest);
}

/* Reads until this turn's time is up. 1: all of it. */
static int read_some(lua_State *L, struct reply *r) {
  while (proc_now_ns() < r->c.reactor->read_until) {
    if (decoding_step(L, r->decoding, STEP_EFFORT) == MF_AGAIN)
      continue;
    end_reading(r);
    return 1;
  }
  return 0;
}

void service_read_on(lua_State *L, struct reactor *r) {
  struct list due;
  r->read_until = proc_now_ns() + TURN_NS;
  list_move(&due, &r->reading);
  while (!list_empty(&due)) {
    struct reply *next = list_entry(due.next, struct reply, c.link);
    if (read_some(L, next))
      continue;
    list_remove(&next->c.link); /* the others first, the next time */
    list_append(&r->reading, &due);
    list_push(&r->reading, &next->c.link);
  }
}

struct list *service_before(const struct completion *c) {
  if (c->kind < DONE_REPLY)
    return c->proc ? c->proc->behind : NULL;
  struct service *s = ((const struct reply *)(const void *)c)->service;
  return s->reading ? &s->behind : NULL;
}

int service_is_full(const struct reactor *r) {
  return r->undelivered > UNDELIVERED_MAX && !list_empty(&r->reading);
}

void service_stop_reading(struct reactor *r) {
  while (!list_empty(&r->reading))
    end_reading(list_entry(r->reading.next, struct reply, c.link));
}

/* Pushes what was read in steps. Gives how many values, or an error's code. */
static int push_read(lua_State *L, struct reply *r, struct codec_error *e) {
  struct decoding *d = r->decoding;
  if (d->e.code == 0 && lua_checkstack(L, d->nvalues + 8)) {
    lua_xmove(d->thread, L, d->nvalues);
    return d->nvalues;
  }
  *e = d->e;
  if (e->code == 0) {
    e->code = -E2BIG;
    snprintf(e->text, sizeof e->text, "too many values for the Lua stack");
  }
  return e->code;
}

/* What raises here (memory) leaves the completion to be popped again. */
int service_pop(lua_State *L, struct completion *c) {
  static const char *const names[] = {"reply", "event", "trouble", "closed", "drain"};
  struct reply *r = (struct reply *)c;
  struct codec_error e;
  if (has_steps(r)) {
    begin_reading(L, r);
    if (r->size > HUGE_BYTES || !read_some(L, r))
      return 0;
  }
  int top = lua_gettop(L), n = 0;
  lua_pushstring(L, names[c->kind - DONE_REPLY]);
  push_target(L, r);
  if (c->code) {
    bind_failure_push(L, c);
    if (c->kind == DONE_REPLY)
      mark_told(L, r->service);
  } else {
    lua_pushnil(L);
    if (r->decoding)
      n = push_read(L, r, &e);
    else if (c->kind <= DONE_EVENT)
      n = serialiser_decode(L, &r->service->serialiser, r->data, r->size, r->fds, r->nfds,
                            &e);
  }
  if (n < 0) {
    lua_settop(L, top + 2);
    push_unreadable(L, &e);
    n = 0;
  }
  list_remove(&c->link);
  service_forget(c);
  return 3 + n;
}

/* ---- making ---- */

static struct service *check_box(lua_State *L, int idx) {
  struct service **box = luaL_checkudata(L, idx, BIND_SERVICE);
  if (*box && reactor_foreign((*box)->reactor))
    luaL_error(L, "the object belongs to the process that this one was forked from");
  return *box;
}

static struct service *check(lua_State *L, int idx) {
  struct service *s = check_box(L, idx);
  luaL_argcheck(L, s && !s->closing, idx, "closed");
  reactor_get(L);
  return s;
}

/* Pushes an empty userdata for the cell at index cell; NULL: no memory, nil and an error are
 * pushed. */
static struct service *service_push(lua_State *L, struct reactor *r, int cell,
                                    const char *serialiser) {
  struct serialiser opened;
  serialiser_open(L, serialiser, &opened);
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
  list_init(&s->link);
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
  s->holds = 1;
  s->box = box;
  *box = s;
  return s;
}

/* The userdata is on top. -> it; or nil, error */
static int service_filled(lua_State *L, struct service *s, int rc) {
  if (rc < 0) {
    *s->box = NULL;
    service_unhold(s);
    return bind_result_push(L, rc);
  }
  list_push(&s->reactor->services, &s->link);
  reactor_touch(s->reactor);
  return 1;
}

static const char *get_string(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  return luaL_optstring(L, -1, NULL); /* the slot stays */
}

static lua_Integer get_integer(lua_State *L, int idx, const char *key, lua_Integer standard) {
  lua_getfield(L, idx, key);
  lua_Integer n = luaL_optinteger(L, -1, standard);
  lua_pop(L, 1);
  return n;
}

static int get_flag(lua_State *L, int idx, const char *key) {
  lua_getfield(L, idx, key);
  int on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

/* Strings are borrowed from the stack. */
static void read_rpc_options(lua_State *L, int idx, mf_rpc_options *o) {
  mf_rpc_options_init(o);
  o->init = get_string(L, idx, "init");
  o->serialiser = get_string(L, idx, "serialiser");
  o->async = get_flag(L, idx, "async");
  o->handles = get_flag(L, idx, "handles");
  o->strict = get_flag(L, idx, "strict");
  o->timeout_ms = (unsigned)get_integer(L, idx, "timeout", MF_NO_TIMEOUT);
  o->message_max = (uint64_t)get_integer(L, idx, "message_max", (lua_Integer)o->message_max);
  o->grace_ms = (unsigned)get_integer(L, idx, "grace", o->grace_ms);
  if (get_flag(L, idx, "events"))
    o->on_event = on_event;
  o->on_error = on_trouble;
  o->on_close = on_close;
  o->on_drain = get_flag(L, idx, "drain") ? on_drain : NULL;
}

/* One limit alone moves the other's default out of its way. */
static void read_backoff(lua_State *L, int idx, mf_pool_options *o) {
  lua_Integer min = get_integer(L, idx, "backoff_min", -1);
  lua_Integer max = get_integer(L, idx, "backoff_max", -1);
  if (min >= 0)
    o->backoff_min_ms = (unsigned)min;
  if (max >= 0)
    o->backoff_max_ms = (unsigned)max;
  if (max < 0 && o->backoff_max_ms < o->backoff_min_ms)
    o->backoff_max_ms = o->backoff_min_ms;
  else if (min < 0 && o->backoff_min_ms > o->backoff_max_ms)
    o->backoff_min_ms = o->backoff_max_ms;
}

static void read_pool_options(lua_State *L, int idx, mf_pool_options *o) {
  mf_pool_options_init(o);
  o->max = (unsigned)get_integer(L, idx, "max", o->max);
  o->idle = (unsigned)get_integer(L, idx, "idle", o->idle);
  o->load = (unsigned)get_integer(L, idx, "load", o->load);
  o->start_ms = (unsigned)get_integer(L, idx, "start", o->start_ms);
  o->stop_ms = (unsigned)get_integer(L, idx, "stop", o->stop_ms);
  o->queue_max = (unsigned)get_integer(L, idx, "queue_max", o->queue_max);
  o->max_calls = (unsigned)get_integer(L, idx, "max_calls", o->max_calls);
  o->call_timeout_ms = (unsigned)get_integer(L, idx, "call_timeout", o->call_timeout_ms);
  o->max_memory = (uint64_t)get_integer(L, idx, "max_memory", (lua_Integer)o->max_memory);
  o->restart_burst = (unsigned)get_integer(L, idx, "burst", o->restart_burst);
  o->restart_period_ms = (unsigned)get_integer(L, idx, "period", o->restart_period_ms);
  o->grace_ms = (unsigned)get_integer(L, idx, "grace", o->grace_ms);
  read_backoff(L, idx, o);
}

/* rpc_new(raw process, function, cell, options) -> raw; or nil, error */
static int l_rpc_new(lua_State *L) {
  struct proc *p = bound_check(L, 1);
  const char *function = luaL_checkstring(L, 2);
  mf_rpc_options o;
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TTABLE);
  read_rpc_options(L, 4, &o);
  struct service *s = service_push(L, p->reactor, 3, o.serialiser);
  if (!s)
    return 2;
  buf_init(&s->out, (size_t)o.message_max);
  o.data = s;
  s->tells_end = get_flag(L, 4, "tells_end");
  int rc = mf_rpc_new(p->process, function, &o, &s->rpc);
  if (rc == 0) {
    s->proc = p;
    bound_lend(p);
  }
  return service_filled(L, s, rc);
}

/* pool_new(raw process, function, cell, options) -> raw; or nil, error */
static int l_pool_new(lua_State *L) {
  struct proc *p = bound_check(L, 1);
  const char *function = luaL_checkstring(L, 2);
  mf_rpc_options o;
  mf_pool_options po;
  luaL_checktype(L, 3, LUA_TTABLE);
  luaL_checktype(L, 4, LUA_TTABLE);
  read_rpc_options(L, 4, &o);
  read_pool_options(L, 4, &po);
  struct service *s = service_push(L, p->reactor, 3, o.serialiser);
  if (!s)
    return 2;
  buf_init(&s->out, (size_t)o.message_max);
  o.data = s;
  s->tells_end = get_flag(L, 4, "tells_end");
  po.rpc = &o;
  int rc = mf_pool_new(p->process, function, &po, &s->pool);
  if (rc == 0)
    bound_give(p);
  return service_filled(L, s, rc);
}

/* ---- calling ---- */

/* What the library refuses a call for, where the code alone does not tell. */
static const char *refusal(const struct service *s, int code) {
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
  return e->code == -ENOMEM ? MF_ENOMEM
         : e->code == -E2BIG || e->code == -EMFILE || e->code == -ENFILE ? MF_ELIMIT
                                                                          : MF_EINVAL;
}

static void submit(lua_State *L, struct service *s, struct reply *r,
                   const mf_call_options *o, int first, int n, uint64_t *ret_id) {
  struct codec_error e;
  buf_consume(&s->out, buf_size(&s->out));
  codec_fds_close(&s->fds);
  if (serialiser_encode(L, &s->serialiser, first, n, "argument", &s->out, &s->fds, &e) < 0) {
    codec_fds_close(&s->fds);
    answer_here(r, code_of(&e), e.text);
    return;
  }
  mf_message m = {buf_peek(&s->out), buf_size(&s->out), s->fds.fd, s->fds.n};
  int rc = s->rpc ? mf_rpc_call(s->rpc, &m, o, on_reply, r, ret_id)
                  : mf_pool_call(s->pool, &m, o, on_reply, r, ret_id);
  codec_fds_close(&s->fds);
  if (rc < 0)
    answer_here(r, rc, refusal(s, rc));
}

/* The callback is at index idx. May raise; NULL: no memory. */
static struct reply *reply_for(lua_State *L, struct service *s, int idx) {
  lua_pushvalue(L, idx);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct reply *r = reply_new(s, DONE_REPLY);
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

/* call(raw, call options | nil, ...) -> call; nothing where the last is no function */
static int l_call(lua_State *L) {
  int n = lua_gettop(L);
  if (n < 3 || !lua_isfunction(L, n))
    return 0;
  struct service *s = check(L, 1);
  luaL_checkstack(L, 8, NULL);
  struct call *call = lua_newuserdatauv(L, sizeof *call, 1);
  *call = (struct call){0, s->box};
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, BIND_CALL);
  start_call(L, s, n, 3, n - 3, &call->id);
  return 1;
}

/* call_with(raw, call options | nil, callback, ...) -> a number for cancel */
static int l_call_with(lua_State *L) {
  struct service *s = check(L, 1);
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
  int rc = s->rpc ? mf_rpc_cancel(s->rpc, id) : mf_pool_cancel(s->pool, id);
  reactor_touch(s->reactor);
  return rc == 0;
}

static int l_call_cancel(lua_State *L) { /* call:cancel() -> was it under way? */
  struct call *call = luaL_testudata(L, 1, BIND_CALL);
  if (!call)
    return luaL_error(L, "calling 'cancel' on bad self (moonfork.call expected, got %s; use a "
                         "colon: call:cancel())",
                      lua_isnone(L, 1) ? "no value" : luaL_typename(L, 1));
  lua_pushboolean(L, cancel(*call->box, call->id));
  return 1;
}

/* "moonfork.call (number 3)" */
static int l_call_tostring(lua_State *L) {
  const struct call *call = luaL_checkudata(L, 1, BIND_CALL);
  lua_pushfstring(L, "moonfork.call (number %I)", (LUAI_UACINT)call->id);
  return 1;
}

static int l_cancel(lua_State *L) { /* cancel(raw, what call_with gave) */
  struct service **box = luaL_checkudata(L, 1, BIND_SERVICE);
  cancel(*box, (uint64_t)luaL_checkinteger(L, 2));
  return 0;
}

/* ---- pools ---- */

static void on_pool_done(mf_pool *pool, const mf_error *error, void *data) {
  struct completion *c = data;
  (void)pool;
  completion_set_error(c, error);
  completion_done(c);
}

static struct service *check_pool(lua_State *L) {
  struct service *s = check(L, 1);
  luaL_argcheck(L, s->pool, 1, "a pool expected");
  return s;
}

/* true; or nil and an error that speaks of the pool */
static int pool_result_push(lua_State *L, int rc) {
  const char *text = rc == MF_ECLOSED  ? "the pool is closed"
                     : rc == MF_ESTATE ? "the process was given to the pool already"
                                       : NULL;
  if (!text)
    return bind_result_push(L, rc);
  lua_pushnil(L);
  bind_error_push(L, bind_error_name(rc), text, NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* -> true; or nil, error: c is not told */
static int started(lua_State *L, struct service *s, struct completion *c, int rc) {
  if (rc < 0 && c)
    completion_drop(L, c);
  reactor_touch(s->reactor);
  return pool_result_push(L, rc);
}

static int l_pool_drain(lua_State *L) { /* pool_drain(raw, milliseconds | nil, f) */
  struct service *s = check_pool(L);
  unsigned ms = (unsigned)luaL_optinteger(L, 2, MF_NO_TIMEOUT);
  struct completion *c = completion_new(L, s->reactor, DONE_CALL, 3);
  return started(L, s, c, c ? mf_pool_drain(s->pool, ms, on_pool_done, c) : -ENOMEM);
}

/* pool_reload(raw, raw process, f) -> what pool_cancel_reload takes; or nil, error */
static int l_pool_reload(lua_State *L) {
  struct service *s = check_pool(L);
  struct proc *p = bound_check(L, 2);
  struct completion *c = completion_new(L, s->reactor, DONE_CALL, 3);
  int rc = c ? mf_pool_reload(s->pool, p->process, on_pool_done, c) : -ENOMEM;
  if (rc < 0)
    return started(L, s, c, rc);
  mf_on_error(p->process, NULL, NULL); /* the reload's own callback is told */
  bound_give(p);
  reactor_touch(s->reactor);
  lua_pushlightuserdata(L, c);
  return 1;
}

static int l_pool_cancel_reload(lua_State *L) { /* pool_cancel_reload(raw, request) */
  struct service *s = check_box(L, 1);
  if (s && s->pool)
    mf_pool_cancel_reload(s->pool, lua_touserdata(L, 2));
  return 0;
}

static int l_pool_resize(lua_State *L) { /* pool_resize(raw, max) */
  struct service *s = check_pool(L);
  return started(L, s, NULL, mf_pool_resize(s->pool, (unsigned)luaL_checkinteger(L, 2)));
}

static void set_count(lua_State *L, const char *key, uint64_t n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, key);
}

static void set_seconds(lua_State *L, const char *key, uint64_t us) {
  lua_pushnumber(L, (lua_Number)us / 1e6);
  lua_setfield(L, -2, key);
}

static void push_deaths(lua_State *L, const mf_pool_info *st) {
  lua_createtable(L, (int)st->nlast, 0);
  for (unsigned i = 0; i < st->nlast; i++) {
    const mf_pool_death *d = &st->last[i];
    struct ending ending = {d->exit, NULL};
    lua_createtable(L, 0, 4);
    if (d->pid >= 0)
      set_count(L, "pid", (uint64_t)d->pid);
    set_seconds(L, "age", d->age_ms * 1000);
    lua_pushstring(L, d->reason);
    lua_setfield(L, -2, "reason");
    bind_ending_push(L, &ending);
    lua_setfield(L, -2, "exit");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static int l_pool_stats(lua_State *L) { /* pool_stats(raw) -> table; or nil, error */
  static const char *const states[] = {"running", "failed", "draining", "closed"};
  struct service *s = check_box(L, 1);
  mf_pool_info st = {.size = sizeof st};
  int rc = s && s->pool ? mf_pool_stats(s->pool, &st) : MF_ECLOSED;
  if (rc < 0)
    return bind_result_push(L, rc);
  lua_createtable(L, 0, 28);
  lua_pushstring(L, states[st.state & 3]);
  lua_setfield(L, -2, "state");
#define COUNT(name) set_count(L, #name, st.name)
  COUNT(max), COUNT(workers), COUNT(idle), COUNT(starting), COUNT(leaving);
  COUNT(queued), COUNT(running), COUNT(calls), COUNT(done), COUNT(failed);
  COUNT(refused), COUNT(timeouts), COUNT(cancelled), COUNT(retried), COUNT(late);
  COUNT(started), COUNT(deaths), COUNT(recycled), COUNT(retired), COUNT(killed);
  COUNT(template_starts), COUNT(reloads), COUNT(events), COUNT(memory);
#undef COUNT
  set_seconds(L, "p50", st.p50_us);
  set_seconds(L, "p99", st.p99_us);
  push_deaths(L, &st);
  lua_setfield(L, -2, "last");
  return 1;
}

static int l_pool_pids(lua_State *L) { /* pool_pids(raw) -> list */
  enum { PIDS = 256 };
  int pids[PIDS];
  struct service *s = check_box(L, 1);
  size_t n = s && s->pool ? mf_pool_pids(s->pool, pids, PIDS) : 0;
  n = n < PIDS ? n : PIDS;
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushinteger(L, pids[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* ---- ending ---- */

static int l_service_close(lua_State *L) { /* service_close(raw): calls under way finish */
  struct service **box = luaL_checkudata(L, 1, BIND_SERVICE);
  struct service *s = *box;
  if (!s || box_get(L)->closed || reactor_foreign(s->reactor))
    return 0;
  service_close(s);
  reactor_touch(s->reactor);
  return 0;
}

/* Garbage is closed: what is outstanding finishes. No loop waits for the end where nobody is
 * told of it: the function of a call that was given up may never return. */
static int service_gc(lua_State *L) {
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

void service_open(lua_State *L) {
  luaL_newmetatable(L, BIND_SERVICE);
  lua_pushcfunction(L, service_gc);
  lua_setfield(L, -2, "__gc");
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
  lua_pop(L, 3);
}

const luaL_Reg bind_service_functions[] = {
    {"rpc_new", l_rpc_new},
    {"pool_new", l_pool_new},
    {"call", l_call},
    {"call_with", l_call_with},
    {"cancel", l_cancel},
    {"call_options", l_call_options},
    {"pool_drain", l_pool_drain},
    {"pool_reload", l_pool_reload},
    {"pool_cancel_reload", l_pool_cancel_reload},
    {"pool_resize", l_pool_resize},
    {"pool_stats", l_pool_stats},
    {"pool_pids", l_pool_pids},
    {"service_close", l_service_close},
    {NULL, NULL},
};
