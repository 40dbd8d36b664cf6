/* See hibernate.h. */
#include "template/lua/hibernate.h"

#include "image/blocker.h"
#include "image/selfcheck.h"
#include "template/image/image.h"
#include "template/lua/on_term.h"
#include "template/lua/second_thread.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

/* In the registry: the thread that serves in the process which loads the image; the one
 * that is suspended; what hibernate gives there; the metatable of errors. */
static const char server_key, program_key, given_key, error_key;

enum outcome { SAVED, REFUSED, NOT_SAVED, LOADED };

/* Clones that are threads never come here. */
static struct {
  int leaving, tries;
  const char *path; /* on the stack of who has called */
  lua_State *server;
  enum outcome outcome;
  int error;
  char why[IMAGE_TEXT_MAX];
} asleep;

/* ---- errors ---- */

static int error_tostring(lua_State *L) {
  lua_getfield(L, 1, "message");
  return 1;
}

static int error_concat(lua_State *L) {
  lua_settop(L, 2);
  for (int i = 1; i <= 2; i++)
    if (lua_istable(L, i)) {
      luaL_tolstring(L, i, NULL);
      lua_replace(L, i);
    }
  lua_concat(L, 2);
  return 1;
}

static void set_metatable(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &error_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 3);
    lua_pushliteral(L, "moonfork.error");
    lua_setfield(L, -2, "__name");
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, error_concat);
    lua_setfield(L, -2, "__concat");
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &error_key);
  }
  lua_setmetatable(L, -2);
}

/* nil, err */
static int fail(lua_State *L, const char *code, const char *message) {
  luaL_pushfail(L);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  set_metatable(L);
  return 2;
}

static const char *code_of(int error) {
  switch (failure_code_of(error)) {
  case FAILURE_NOMEM:
    return "NOMEM";
  case FAILURE_UNSUPPORTED:
    return "UNSUPPORTED";
  case FAILURE_LIMIT:
    return "LIMIT";
  default:
    return "EINVAL";
  }
}

/* ---- who runs whom ---- */

void hibernate_resuming(struct hibernate_call *c, lua_State *from, lua_State *thread) {
  struct server *s = server_self();
  *c = (struct hibernate_call){.thread = thread,
                               .from = from,
                               .outer = s->run.call,
                               .program = s->run.call ? s->run.call->program : NULL};
  s->run.call = c;
}

void hibernate_resumed(const struct hibernate_call *c) {
  server_self()->run.call = c->outer;
}

int hibernate_is_leaving(void) {
  return asleep.leaving;
}

int hibernate_is_program(lua_State *L) {
  const struct server *s = server_self();
  return s && s->run.call && s->run.call->program == L;
}

/* ---- what is in the way ---- */

static int name_in(lua_State *L, int from, char *text, size_t n) {
  const void *heap = server_self()->heap;
  return blocker_name(L, from, heap, 0, text, n) ||
         blocker_name(L, from, heap, 1, text, n);
}

/* "": the function can be left from here, which is in L. */
static void look_outwards(lua_State *L, char *text, size_t n) {
  const struct hibernate_call *c = server_self()->run.call;
  lua_State *inner = L;
  *text = '\0';
  for (;; inner = c->from, c = c->outer) {
    if (inner != c->thread) {
      if (!name_in(c->thread, 0, text, n)) /* it resumes by itself */
        snprintf(text, n, "a C function that has resumed this coroutine");
      return;
    }
    if (!lua_isyieldable(inner)) {
      if (!name_in(inner, 1, text, n))
        snprintf(text, n, "a C function");
      return;
    }
    if (!c->from)
      return;
    if (!c->outer) {
      snprintf(text, n, "a C function");
      return;
    }
  }
}

/* ---- hibernate ---- */

static int give_loaded(lua_State *L) {
  lua_settop(L, 0);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &given_key);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &given_key);
  int n = (int)lua_rawlen(L, 1);
  luaL_checkstack(L, n + 2, "too many arguments");
  lua_pushliteral(L, "loaded");
  for (int i = 1; i <= n; i++)
    lua_rawgeti(L, 1, i);
  return n + 1;
}

static int woken(lua_State *L, int status, lua_KContext context);

static int leave(lua_State *L) {
  asleep.path = lua_tostring(L, 1);
  asleep.tries++;
  asleep.leaving = 1;
  return lua_yieldk(L, 0, 0, woken);
}

static int woken(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  switch (asleep.outcome) {
  case REFUSED: /* perhaps for something that is garbage: finalised first, then freed */
    for (int i = 0; i < 2; i++)
      collector_collect_all(&server_self()->collector, L);
    return leave(L);
  case SAVED:
    lua_pushliteral(L, "saved");
    return 1;
  case LOADED:
    return give_loaded(L);
  case NOT_SAVED:
    break;
  }
  return fail(L, code_of(asleep.error), asleep.why);
}

/* The suspended thread is the main one, or that which served in this process before it
 * ran a function. */
static void keep_program(lua_State *L, lua_State *program) {
  luaL_checkstack(L, 4, NULL);
  if (!lua_checkstack(program, 1))
    luaL_error(L, "stack overflow");
  lua_pushthread(program);
  if (program != L)
    lua_xmove(program, L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &program_key);
}

static lua_State *server_thread(lua_State *L, const lua_State *program) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &server_key) != LUA_TTHREAD ||
      lua_tothread(L, -1) == program) {
    lua_pop(L, 1);
    lua_newthread(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &server_key);
  }
  lua_State *thread = lua_tothread(L, -1);
  lua_pop(L, 1);
  lua_sethook(thread, NULL, 0, 0); /* a new one has its maker's */
  return thread;
}

int hibernate(lua_State *L) {
  char text[320], message[400];
  size_t n;
  const char *path = luaL_checklstring(L, 1, &n);
  luaL_argcheck(L, n > 0, 1, "a file's name expected, got an empty string");
  luaL_argcheck(L, strlen(path) == n, 1, "string contains a zero byte");
  struct server *s = server_self();
  if (!s)
    return luaL_error(L, "moonfork.clone.hibernate: this process is no clone");
  if (s->thread)
    return fail(L, "UNSUPPORTED",
                "hibernate: a clone that is a thread of its template can't be saved");
  if (s->given)
    return fail(L, "UNSUPPORTED",
                "hibernate: the interpreter was there before the template, and can't be "
                "saved");
  if (!s->run.call || !s->run.call->program)
    return fail(
        L, LUA_VERSION_NUM == 504 ? "EINVAL" : "UNSUPPORTED",
        LUA_VERSION_NUM == 504
            ? "hibernate: no function of run is running here (a template is saved "
              "by its save method)"
            : "images are there for Lua 5.4 alone");
  const char *why = selfcheck_reason();
  if (why) /* nor could what is in the way be named */
    return fail(L, "UNSUPPORTED", why);
  look_outwards(L, text, sizeof text);
  if (*text) {
    snprintf(message, sizeof message, "cannot hibernate here: it would have to leave %s",
             text);
    return fail(L, "EINVAL", message);
  }
  lua_settop(L, 1);
  keep_program(L, s->run.call->program);
  asleep.server = server_thread(L, s->run.call->program);
  asleep.tries = 0;
  return leave(L);
}

void hibernate_give(lua_State *L, int n) {
  lua_createtable(L, n, 0);
  lua_insert(L, -n - 1);
  for (int i = n; i >= 1; i--)
    lua_rawseti(L, -i - 1, i);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &given_key);
  asleep.outcome = LOADED;
}

/* ---- the function ---- */

/* All of it lies in the interpreter's memory now. */
static void save(struct server *s, lua_State *program) {
  asleep.leaving = 0;
  asleep.error = second_thread_refuses(s, asleep.why);
  if (!asleep.error)
    asleep.error = image_save(asleep.server, s->heap, &s->collector, program,
                              IMAGE_RUNNING, asleep.path, asleep.why);
  asleep.outcome = !asleep.error                                  ? SAVED
                   : asleep.error == -EINVAL && asleep.tries == 1 ? REFUSED
                                                                  : NOT_SAVED;
  if (asleep.error && !*asleep.why)
    snprintf(asleep.why, sizeof asleep.why, "not enough memory");
}

/* A C function that yields where Lua's own function would have refused: it gets the error
 * as soon as it returns to Lua. */
static struct {
  lua_Hook hook;
  int mask, count;
} had;

static void yield_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, had.hook, had.mask, had.count);
  on_term_look(L);
  luaL_error(L, "attempt to yield from outside a coroutine");
}

static void refuse_yield(lua_State *L) {
  if (lua_gethook(L) != yield_hook) { /* else it has yielded again before */
    had.hook = lua_gethook(L);
    had.mask = lua_gethookmask(L);
    had.count = lua_gethookcount(L);
  }
  lua_sethook(L, yield_hook, LUA_MASKCOUNT | LUA_MASKRET | LUA_MASKLINE, 1);
}

int hibernate_run(struct server *s, lua_State *L, int nargs) {
  struct hibernate_call call = {.thread = L, .program = L};
  int status, nresults;
  s->run.call = &call;
  on_term_running(L);
  while ((status = lua_resume(L, NULL, nargs, &nresults)) == LUA_YIELD) {
    lua_pop(L, nresults);
    if (asleep.leaving)
      save(s, L);
    else
      refuse_yield(L);
    nargs = 0;
  }
  s->run.call = NULL;
  return status;
}
