/* moonfork.nats_core, the C part of moonfork.nats: callers and nodes as services of the
 * binding. It is not linked with moonfork.core, which calls it (bind/foreign.h). Runs in
 * the parent.
 *
 *   far(options), node(options), watch(options) -> maker   for core.foreign_new; the
 *                                             table is kept
 *   far_stats(object), far_nodes(object), far_places(object), node_stats(object),
 *   watch_groups(object), watch_stats(object)
 *   far_listen(object, serialiser | nil)      dead letters become events; nil: no more
 *   subject_fault(text), url_fault(text) -> nil | what is wrong */
#include "bind/field.h"
#include "bind/foreign.h"
#include "nats/beats.h"
#include "nats/caller_private.h"
#include "nats/engine.h"
#include "nats/nats_dump.h"
#include "nats/node.h"
#include "nats/options.h"
#include "natslua/job_request.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

MF_API int luaopen_moonfork_nats_core(lua_State *L);

struct maker {
  struct foreign_maker base; /* first */
  mf_nats_options options;   /* strings are the table's, which is the user value */
};

/* What core has of a caller or a node. */
struct nats_object {
  mf_far *far;
  mf_node *node;
  struct beats *watch; /* one of them */
  struct job_listener dead;
  void (*done)(void *data);
  void *data;
};

/* It has closed. */
static void over(void *object) {
  struct nats_object *o = object;
  void (*done)(void *data) = o->done;
  void *data = o->data;
  free(o);
  done(data);
}

static mf_far *far_of(void *object) {
  return ((struct nats_object *)object)->far;
}

static mf_node *node_of(void *object) {
  return ((struct nats_object *)object)->node;
}

/* ---- requests ---- */

struct drain_request {
  mf_reply_cb cb;
  void *data;
};

static void drain_over(struct drain_request *d, const mf_error *error, const char *text,
                       size_t length) {
  mf_message m = {(void *)text, length, NULL, 0};
  d->cb(error, error ? NULL : &m, d->data);
  free(d);
}

static void on_far_drained(mf_far *far, const mf_error *error, void *data) {
  (void)far;
  drain_over(data, error, "", 0);
}

static void on_node_drained(mf_node *node, const mf_error *error, void *data) {
  (void)node;
  drain_over(data, error, "", 0);
}

static struct drain_request *drain_new(mf_reply_cb cb, void *data) {
  struct drain_request *d = malloc(sizeof *d);
  if (d)
    *d = (struct drain_request){cb, data};
  return d;
}

/* {timeout = milliseconds}. */
static unsigned timeout_of(lua_State *L, int idx) {
  return (unsigned)field_integer(L, idx, "timeout", MF_NO_TIMEOUT);
}

/* ---- callers ---- */

static int far_call(void *object, const mf_message *m, const mf_call_options *o,
                    mf_reply_cb cb, void *data, uint64_t *ret_id) {
  return mf_far_call(far_of(object), m, o, cb, data, ret_id);
}

static int far_cancel(void *object, uint64_t id) {
  return mf_far_cancel(far_of(object), id);
}

static const char *far_refusal(void *object, int code, const mf_message *m) {
  static _Thread_local char text[200];
  const mf_far *far = far_of(object);
  size_t most = engine_max_payload(far->engine);
  if (code == MF_ECLOSED)
    return "the pool is closed";
  if (code == MF_EINVAL && m->nfds > 0)
    return "handles can't leave the machine";
  if (code != MF_ELIMIT)
    return NULL;
  if (envelope_call_size(m->length) <= most)
    return "too much waits for a node with room (option queue_max)";
  snprintf(text, sizeof text,
           "the call has %zu bytes, and the engine takes messages of %zu bytes "
           "(max_payload of the server): send it in parts, or raise that",
           m->length, most);
  return text;
}

static int far_ask(void *object, lua_State *L, int idx, const mf_message *m,
                   mf_reply_cb cb, void *data, uint64_t *ret_id) {
  int rc = job_request(far_of(object), L, idx, m, cb, data);
  (void)ret_id;
  if (rc != -ENOTSUP)
    return rc;
  struct drain_request *d = drain_new(cb, data);
  rc = d ? mf_far_drain(far_of(object), timeout_of(L, idx), on_far_drained, d) : -ENOMEM;
  if (rc < 0)
    free(d);
  return rc;
}

static void on_far_closed(mf_far *far, void *data) {
  (void)far;
  over(data);
}

static void far_close(void *object, void (*done)(void *data), void *data) {
  struct nats_object *o = object;
  o->done = done;
  o->data = data;
  mf_far_close(o->far, on_far_closed, o);
}

static void far_abort(void *object) {
  mf_far_abort(far_of(object));
}

static void dump_far(const void *object, FILE *out) {
  far_dump(((const struct nats_object *)object)->far, out);
}

static const struct foreign_ops far_ops = {far_call,  far_cancel, far_refusal, far_ask,
                                           far_close, far_abort,  dump_far};

static int far_open(struct foreign_maker *maker, struct uv_loop_s *loop,
                    const struct foreign_pool *pool, mf_event_cb on_event,
                    void *event_data, void **ret) {
  struct nats_object *object = calloc(1, sizeof *object);
  (void)pool;
  if (!object)
    return -ENOMEM;
  object->dead = (struct job_listener){.cb = on_event, .data = event_data};
  int rc = far_new(loop, &((struct maker *)maker)->options, &object->far);
  if (rc == 0)
    *ret = object;
  else
    free(object);
  return rc;
}

/* ---- nodes ---- */

static int no_call(void *object, const mf_message *m, const mf_call_options *o,
                   mf_reply_cb cb, void *data, uint64_t *ret_id) {
  (void)object;
  (void)m;
  (void)o;
  (void)cb;
  (void)data;
  (void)ret_id;
  return MF_EUNSUPPORTED;
}

static int no_cancel(void *object, uint64_t id) {
  (void)object;
  (void)id;
  return -ESRCH;
}

static const char *node_refusal(void *object, int code, const mf_message *m) {
  (void)object;
  (void)m;
  return code == MF_ECLOSED ? "the node is closed" : NULL;
}

static int node_ask(void *object, lua_State *L, int idx, const mf_message *m,
                    mf_reply_cb cb, void *data, uint64_t *ret_id) {
  struct drain_request *d = drain_new(cb, data);
  (void)m;
  (void)ret_id;
  int rc = d ? mf_node_drain(node_of(object), timeout_of(L, idx), on_node_drained, d)
             : -ENOMEM;
  if (rc < 0)
    free(d);
  return rc;
}

static void on_node_closed(mf_node *node, void *data) {
  (void)node;
  over(data);
}

static void node_close(void *object, void (*done)(void *data), void *data) {
  struct nats_object *o = object;
  o->done = done;
  o->data = data;
  mf_node_close(o->node, on_node_closed, o);
}

static void node_abort(void *object) {
  mf_node_abort(node_of(object));
}

static void dump_node(const void *object, FILE *out) {
  node_dump(((const struct nats_object *)object)->node, out);
}

static const struct foreign_ops node_ops = {
    no_call, no_cancel, node_refusal, node_ask, node_close, node_abort, dump_node};

static int node_open(struct foreign_maker *maker, struct uv_loop_s *loop,
                     const struct foreign_pool *pool, mf_event_cb on_event,
                     void *event_data, void **ret) {
  struct node_pool of = {pool->pool, pool->call, pool->cancel, pool->stats,
                         pool->release};
  mf_nats_options o = ((struct maker *)maker)->options;
  struct nats_object *object = calloc(1, sizeof *object);
  (void)on_event;
  (void)event_data;
  if (!object)
    return -ENOMEM;
  o.loop = loop;
  int rc = node_new(&of, &o, &object->node);
  if (rc == 0)
    *ret = object;
  else
    free(object);
  return rc;
}

/* ---- watches ---- */

static int watch_ask(void *object, lua_State *L, int idx, const mf_message *m,
                     mf_reply_cb cb, void *data, uint64_t *ret_id) {
  (void)m;
  (void)ret_id;
  return job_request_count(((struct nats_object *)object)->watch, L, idx, cb, data);
}

static void watch_end(void *object, void (*done)(void *data), void *data) {
  struct nats_object *o = object;
  o->done = done;
  o->data = data;
  beats_close(o->watch, over, o);
}

static void watch_abort(void *object) {
  (void)object; /* what is asked ends when it closes */
}

static const struct foreign_ops watch_ops = {
    no_call, no_cancel, node_refusal, watch_ask, watch_end, watch_abort, NULL};

static int watch_open(struct foreign_maker *maker, struct uv_loop_s *loop,
                      const struct foreign_pool *pool, mf_event_cb on_event,
                      void *event_data, void **ret) {
  struct nats_object *object = calloc(1, sizeof *object);
  (void)pool;
  (void)on_event;
  (void)event_data;
  if (!object)
    return -ENOMEM;
  int rc = beats_new(loop, &((struct maker *)maker)->options, &object->watch);
  if (rc == 0)
    *ret = object;
  else
    free(object);
  return rc;
}

/* ---- options ---- */

static void read_options(lua_State *L, int idx, mf_nats_options *o) {
  mf_nats_options_init(o);
#define STRING(field) o->field = field_string(L, idx, #field);
  STRING(url)
  STRING(subject)
  STRING(name)
  STRING(user)
  STRING(password)
  STRING(token)
  STRING(creds)
  STRING(ca)
  STRING(cert)
  STRING(key)
  STRING(jobs)
#undef STRING
#define NUMBER(field, key)                                                               \
  o->field = (unsigned)field_integer(L, idx, key, (lua_Integer)o->field);
  NUMBER(beat_ms, "beat")
  NUMBER(window, "window")
  NUMBER(load, "load")
  NUMBER(timeout_ms, "timeout")
  NUMBER(queue_max, "queue_max")
  NUMBER(silent_ms, "silent")
  NUMBER(keep_s, "keep")
#undef NUMBER
}

static const char *make_refusal(int code) {
  return code == -EAGAIN ? "libnats can't start its threads: " ENGINE_THREADS_HINT : NULL;
}

static int push_maker(lua_State *L, const struct foreign_ops *ops,
                      int (*open)(struct foreign_maker *, struct uv_loop_s *,
                                  const struct foreign_pool *, mf_event_cb, void *,
                                  void **)) {
  luaL_checktype(L, 1, LUA_TTABLE);
  struct maker *m = lua_newuserdatauv(L, sizeof *m, 1);
  *m = (struct maker){.base = {ops, open, make_refusal}};
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, BIND_FOREIGN);
  int top = lua_gettop(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  read_options(L, 1, &m->options); /* its strings stay the table's */
  lua_settop(L, top);
  return 1;
}

static int l_far(lua_State *L) {
  return push_maker(L, &far_ops, far_open);
}

static int l_node(lua_State *L) {
  return push_maker(L, &node_ops, node_open);
}

static int l_watch(lua_State *L) {
  return push_maker(L, &watch_ops, watch_open);
}

/* ---- what they say ---- */

static void set_count(lua_State *L, const char *key, uint64_t n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, key);
}

static void set_seconds(lua_State *L, const char *key, uint64_t us) {
  lua_pushnumber(L, (lua_Number)us / 1e6);
  lua_setfield(L, -2, key);
}

static void set_text(lua_State *L, const char *key, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

static void set_flag(lua_State *L, const char *key, int flag) {
  lua_pushboolean(L, flag);
  lua_setfield(L, -2, key);
}

static void set_engine(lua_State *L, int state, const char *reason) {
  static const char *const names[] = {"connecting", "up", "down", "closed"};
  set_text(L, "engine", names[state & 3]);
  if (*reason)
    set_text(L, "engine_reason", reason);
}

static void *check_object(lua_State *L) {
  luaL_checktype(L, 1, LUA_TLIGHTUSERDATA);
  return lua_touserdata(L, 1);
}

static int l_far_stats(lua_State *L) {
  static const char *const states[] = {"running", "failed", "draining", "closed"};
  mf_far_info i = {.size = sizeof i};
  mf_far_stats(far_of(check_object(L)), &i);
  lua_createtable(L, 0, 24);
  set_text(L, "state", states[i.state & 3]);
  set_engine(L, i.engine, i.engine_reason);
#define COUNT(name) set_count(L, #name, i.name);
  COUNT(nodes)
  COUNT(workers)
  COUNT(queued)
  COUNT(running)
  COUNT(calls)
  COUNT(done)
  COUNT(failed)
  COUNT(refused)
  COUNT(timeouts)
  COUNT(cancelled)
  COUNT(late)
  COUNT(retried)
  COUNT(lost)
  COUNT(bad)
  COUNT(connects)
  COUNT(bytes_in)
  COUNT(bytes_out)
#undef COUNT
  set_seconds(L, "p50", i.times.p50_us);
  set_seconds(L, "p90", i.times.p90_us);
  set_seconds(L, "p99", i.times.p99_us);
  set_seconds(L, "max", i.times.max_us);
  return 1;
}

static int l_far_drained(lua_State *L) {
  mf_drain_report r = {.size = sizeof r};
  mf_far_drain_report(far_of(check_object(L)), &r);
  lua_createtable(L, 0, 4);
  set_count(L, "answered", r.answered);
  set_count(L, "dropped", r.dropped);
  set_count(L, "interrupted", r.interrupted);
  set_count(L, "killed", r.killed);
  return 1;
}

static void push_node(lua_State *L, const mf_far_node *one) {
  lua_createtable(L, 0, 11);
  set_text(L, "id", one->id);
  set_text(L, "name", one->name);
  set_count(L, "window", one->window);
  set_count(L, "held", one->held);
  set_count(L, "room", one->window > one->held ? one->window - one->held : 0);
  set_count(L, "workers", one->workers);
  set_count(L, "running", one->running);
  set_count(L, "calls", one->calls);
  set_flag(L, "draining", one->draining);
  set_flag(L, "failed", one->failed);
  set_seconds(L, "beat", one->silent_ms * 1000);
}

/* The memory is the collector's, whatever raises. */
static int l_far_nodes(lua_State *L) {
  mf_far *far = far_of(check_object(L));
  size_t n = mf_far_nodes(far, NULL, sizeof(mf_far_node), 0);
  mf_far_node *nodes = lua_newuserdatauv(L, (n + 1) * sizeof *nodes, 0);
  mf_far_nodes(far, nodes, sizeof *nodes, n);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    push_node(L, &nodes[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* The list of groups is on top; a node is of its last. */
static void push_group(const char *subject, const struct room_node *node, void *data) {
  lua_State *L = data;
  mf_far_node one;
  if (node) {
    lua_rawgeti(L, -1, (lua_Integer)lua_rawlen(L, -1));
    lua_getfield(L, -1, "nodes");
    far_describe_node(node, &one);
    push_node(L, &one);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 2);
    return;
  }
  lua_createtable(L, 0, 2);
  set_text(L, "subject", subject);
  lua_newtable(L);
  lua_setfield(L, -2, "nodes");
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* watch_groups(object) -> a list of {subject =, nodes = {...}} */
static int l_watch_groups(lua_State *L) {
  const struct nats_object *o = check_object(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_newtable(L);
  beats_each(o->watch, push_group, L);
  return 1;
}

static int l_watch_stats(lua_State *L) {
  const struct nats_object *o = check_object(L);
  const struct engine *e = beats_engine(o->watch);
  struct engine_stats s;
  engine_get_stats(e, &s);
  lua_createtable(L, 0, 6);
  set_engine(L, (int)engine_state(e), engine_reason(e));
  set_count(L, "bad", beats_bad(o->watch));
  set_count(L, "connects", s.connects);
  set_count(L, "bytes_in", s.bytes_in);
  set_count(L, "bytes_out", s.bytes_out);
  return 1;
}

/* far_places(object) -> calls that could be sent now, and those that are under way;
 * workers of all nodes; bytes that a message has at most */
static int l_far_places(lua_State *L) {
  const mf_far *far = far_of(check_object(L));
  lua_Integer workers = 0;
  list_each(it, &far->room.nodes) workers +=
      list_entry(it, struct room_node, link)->beat.workers;
  lua_pushinteger(L, (lua_Integer)(room_places(&far->room) + far->nsent));
  lua_pushinteger(L, workers);
  lua_pushinteger(L, (lua_Integer)engine_max_payload(far->engine));
  return 3;
}

static int l_node_stats(lua_State *L) {
  mf_node_info i = {.size = sizeof i};
  mf_node_stats(node_of(check_object(L)), &i);
  lua_createtable(L, 0, 16);
  set_text(L, "id", i.id);
  set_text(L, "name", i.name);
  set_text(L, "state", i.draining ? "draining" : "running");
  set_engine(L, i.engine, i.engine_reason);
#define COUNT(name) set_count(L, #name, i.name);
  COUNT(window)
  COUNT(held)
  COUNT(calls)
  COUNT(answers)
  COUNT(errors)
  COUNT(refused)
  COUNT(undelivered)
  COUNT(bad)
  COUNT(connects)
  COUNT(bytes_in)
  COUNT(bytes_out)
  COUNT(jobs_held)
  COUNT(jobs_done)
  COUNT(jobs_failed)
  COUNT(jobs_dead)
  COUNT(jobs_redelivered)
#undef COUNT
  if (i.jobs_reason[0])
    set_text(L, "jobs_reason", i.jobs_reason);
  return 1;
}

static int l_far_listen(lua_State *L) {
  struct nats_object *o = check_object(L);
  const char *name = luaL_optstring(L, 2, NULL);
  if (name)
    o->dead.format = strcmp(name, "string") == 0 ? JOB_EVENT_STRING
                     : strcmp(name, "raw") == 0  ? JOB_EVENT_RAW
                                                 : JOB_EVENT_MSGPACK;
  lua_pushboolean(L, job_request_listen(o->far, name ? &o->dead : NULL) == 0);
  return 1;
}

static int l_subject_fault(lua_State *L) {
  lua_pushstring(L, subject_fault(luaL_checkstring(L, 1)));
  return 1;
}

static int l_url_fault(lua_State *L) {
  lua_pushstring(L, nats_url_fault(luaL_checkstring(L, 1)));
  return 1;
}

int luaopen_moonfork_nats_core(lua_State *L) {
  static const luaL_Reg functions[] = {{"far", l_far},
                                       {"node", l_node},
                                       {"watch", l_watch},
                                       {"far_stats", l_far_stats},
                                       {"far_drained", l_far_drained},
                                       {"far_nodes", l_far_nodes},
                                       {"far_places", l_far_places},
                                       {"node_stats", l_node_stats},
                                       {"watch_groups", l_watch_groups},
                                       {"watch_stats", l_watch_stats},
                                       {"far_listen", l_far_listen},
                                       {"subject_fault", l_subject_fault},
                                       {"url_fault", l_url_fault},
                                       {NULL, NULL}};
  luaL_checkversion(L);
  luaL_newmetatable(L, BIND_FOREIGN);
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  lua_pushliteral(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushstring(L, engine_library_version());
  lua_setfield(L, -2, "libnats");
  return 1;
}
