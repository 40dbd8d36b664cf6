/* Completions, in the order in which the library called back. Runs in the parent. */
#include "otherlua/otherlua.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void queue_init(struct core *core) {
  core->first = NULL;
  core->last = &core->first;
}

static void release_single(struct outcome *c) {
  free(c);
}

void outcome_init(struct outcome *c, struct core *core, double token,
                  enum outcome_kind kind) {
  memset(c, 0, sizeof *c);
  c->core = core;
  c->token = token;
  c->kind = kind;
  c->fd = -1;
  c->release = release_single;
}

struct outcome *outcome_new(struct core *core, double token, enum outcome_kind kind) {
  struct outcome *c = malloc(sizeof *c);
  if (c)
    outcome_init(c, core, token, kind);
  return c;
}

static void clear(struct outcome *c) {
  if (c->fd >= 0)
    close(c->fd);
  free(c->message);
  free(c->traceback);
  free(c->bytes);
  free((char *)c->exit.error);
  c->fd = -1;
  c->message = c->traceback = c->bytes = NULL;
  c->exit.error = NULL;
}

void outcome_free(struct outcome *c) {
  clear(c);
  free(c);
}

static char *copy(const char *text) {
  return text ? strdup(text) : NULL;
}

void outcome_set_exit(struct outcome *c, const mf_exit *status) {
  c->has_exit = 1;
  c->exit = *status;
  c->exit.error = copy(status->error);
}

void outcome_set_error(struct outcome *c, const mf_error *error) {
  if (!error)
    return;
  c->code = error->code;
  c->started = error->started;
  c->message = copy(error->message);
  c->traceback = copy(error->traceback);
  if (error->exit)
    outcome_set_exit(c, error->exit);
}

void outcome_set_bytes(struct outcome *c, const mf_message *message) {
  c->bytes = malloc(message->length + 1); /* + 1: of an empty one, too */
  if (!c->bytes) {
    c->code = MF_ENOMEM;
    c->started = MF_STARTED_UNKNOWN;
    return;
  }
  if (message->length > 0)
    memcpy(c->bytes, message->data, message->length);
  c->length = message->length;
}

void outcome_done(struct outcome *c) {
  c->is_queued = 1;
  c->next = NULL;
  *c->core->last = c;
  c->core->last = &c->next;
}

static void drop_first(struct core *core) {
  struct outcome *c = core->first;
  core->first = c->next;
  if (!core->first)
    core->last = &core->first;
  c->is_queued = 0;
  clear(c);
  c->release(c);
}

void queue_clear(struct core *core) {
  while (core->first)
    drop_first(core);
}

/* ---- pop ---- */

static void set_string(lua_State *L, const char *name, const char *text) {
  if (!text)
    return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void set_number(lua_State *L, const char *name, double number) {
#if LUA_VERSION_NUM >= 503
  if (number == (double)(lua_Integer)number)
    lua_pushinteger(L, (lua_Integer)number);
  else
#endif
    lua_pushnumber(L, (lua_Number)number);
  lua_setfield(L, -2, name);
}

void push_exit(lua_State *L, const mf_exit *status) {
  lua_createtable(L, 0, 5);
  if (!status->known) {
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "unknown");
    return;
  }
  if (status->signal)
    set_number(L, "signal", status->signal);
  else
    set_number(L, "code", status->code);
  lua_pushboolean(L, status->core);
  lua_setfield(L, -2, "core");
  set_string(L, "error", status->error);
  if (!status->has_rusage)
    return;
  lua_createtable(L, 0, 3);
  lua_pushnumber(L, (lua_Number)status->utime_us / 1e6);
  lua_setfield(L, -2, "utime");
  lua_pushnumber(L, (lua_Number)status->stime_us / 1e6);
  lua_setfield(L, -2, "stime");
  set_number(L, "maxrss", (double)status->maxrss_bytes);
  lua_setfield(L, -2, "rusage");
}

static void push_error(lua_State *L, const struct outcome *c) {
  if (!c->code) {
    lua_pushnil(L);
    return;
  }
  lua_createtable(L, 0, 5);
  set_number(L, "code", c->code);
  set_string(L, "message", c->message ? c->message : mf_strerror(c->code));
  set_string(L, "traceback", c->traceback);
  set_number(L, "started", c->started);
  if (c->has_exit) {
    push_exit(L, &c->exit);
    lua_setfield(L, -2, "exit");
  }
}

static void push_report(lua_State *L, const mf_drain_report *r) {
  lua_createtable(L, 0, 4);
  set_number(L, "answered", (double)r->answered);
  set_number(L, "dropped", (double)r->dropped);
  set_number(L, "interrupted", (double)r->interrupted);
  set_number(L, "killed", r->killed);
}

static void push_worker(lua_State *L, const struct outcome *c) {
  static const char *const events[] = {"started", "ended", "killed", "recycled"};
  lua_createtable(L, 0, 3);
  set_string(L, "event", events[c->event & 3]);
  set_number(L, "pid", c->pid);
  set_string(L, "reason", c->bytes);
}

static void push_value(lua_State *L, const struct outcome *c) {
  if (c->kind == GOT_EXIT)
    push_exit(L, &c->exit);
  else if (c->kind == GOT_SOCKET && c->fd >= 0)
    lua_pushinteger(L, c->fd);
  else if (c->kind == GOT_REPORT)
    push_report(L, &c->report);
  else if (c->kind == GOT_WORKER)
    push_worker(L, c);
  else if (c->kind == GOT_BYTES && c->bytes)
    lua_pushlstring(L, c->bytes, c->length);
  else
    lua_pushnil(L);
}

/* pop() -> token, error or nil, value or nil; or nothing. Whatever raises here (memory)
 * leaves the completion where it was, to be popped again. A finaliser may run at any of
 * the pushes: it adds to the queue's end at most. */
int l_pop(lua_State *L) {
  struct core *core = core_get(L);
  struct outcome *c = core->first;
  if (!c)
    return 0;
  luaL_checkstack(L, 8, "too many values");
  lua_pushnumber(L, (lua_Number)c->token);
  push_error(L, c);
  push_value(L, c);
  c->fd = -1; /* the program's from now on */
  drop_first(core);
  return 3;
}
