/* The template's Lua, each step inside one protected call (script_error.c). Runs in
 * templates and clones. */
#include "template/lua/script.h"

#include "os/interrupt.h"
#include "os/proc.h"
#include "socket/numeral.h"
#include "socket/socket.h"
#include "socket/socket_module.h"
#include "socket/wait.h"
#include "template/lua/clone_lib.h"
#include "template/lua/clone_posix.h"
#include "template/lua/coroutine.h"
#include "template/lua/function_begin.h"
#include "template/lua/hibernate.h"
#include "template/lua/on_term.h"
#include "template/lua/script_error.h"
#include "template/lua/thread_end.h"
#include "template/modules.h"
#include "template/server/signals.h"
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the interpreter ---- */

static int panic(lua_State *L) {
  const char *text = lua_tostring(L, -1);
  fprintf(stderr, "moonfork: error outside of any protected call: %s\n",
          text ? text : "(no text)");
  return 0; /* Lua aborts */
}

/* warn(): off until "@on", as in the stand-alone interpreter. */
static void on_warning(void *ud, const char *text, int to_continue) {
  static int on, continued;
  if (!continued && !to_continue && text[0] == '@') {
    if (strcmp(text, "@on") == 0 || strcmp(text, "@off") == 0)
      on = text[2] == 'n';
    return;
  }
  if (on)
    fprintf(stderr, "%s%s%s", continued ? "" : "Lua warning: ", text,
            to_continue ? "" : "\n");
  continued = to_continue;
}

#if LUA_VERSION_NUM >= 505
static lua_State *new_state(lua_Alloc alloc, void *ud) {
  unsigned seed;
  proc_random(&seed, sizeof seed);
  return lua_newstate(alloc, ud, seed);
}
#else
static lua_State *new_state(lua_Alloc alloc, void *ud) {
  return lua_newstate(alloc, ud);
}
#endif

static void set_path(lua_State *L, const char *field, struct text path) {
  if (!path.p)
    return;
  lua_pushlstring(L, path.p, path.n);
  lua_setfield(L, -2, field);
}

/* ---- the interpreter ---- */

#define BUILD_KEY "moonfork.build" /* of the registry */
static const char build_text[] = "moonfork " MOONFORK_VERSION " for Lua " MOONFORK_LUA;

int template_check_build(lua_State *L, const char *module) {
  int is_template = lua_getfield(L, LUA_REGISTRYINDEX, BUILD_KEY) == LUA_TSTRING;
  if (is_template && strcmp(lua_tostring(L, -1), build_text) != 0)
    luaL_error(L,
               "the module %s is %s, and the template program that loads it is %s; both "
               "have to be of one build",
               module, build_text, lua_tostring(L, -1));
  lua_pop(L, 1);
  return is_template;
}

struct open_job {
  struct server *s;
  const struct options *o;
};

/* Lua keeps a record of each call, and uses those of former calls again. */
static int l_call_deep(lua_State *L) {
  lua_Integer more = lua_tointeger(L, 1);
  if (more > 0) {
    lua_pushcfunction(L, l_call_deep);
    lua_pushinteger(L, more - 1);
    lua_call(L, 1, 0);
  }
  return 0;
}

/* What births write to, in the heap's hot page: the records of calls (the first is this
 * one's, whose caller has set the heap hot), and the state of math.random. */
static void prepare_hot_page(lua_State *L, struct heap *heap, int opens_math) {
  enum { DEPTH = 4 };
  lua_pushcfunction(L, l_call_deep);
  lua_pushinteger(L, DEPTH);
  lua_call(L, 1, 0);
  if (opens_math) {
    heap_set_hot(heap, HEAP_HOT_USERDATA);
    luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 1);
    lua_pop(L, 1);
  }
  heap_set_hot(heap, HEAP_HOT_NONE);
}

static void set_paths(lua_State *L, struct text path, struct text cpath) {
  int top = lua_gettop(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE) {
    set_path(L, "path", path);
    set_path(L, "cpath", cpath);
  }
  lua_settop(L, top);
}

void script_set_paths(lua_State *L, const struct options *o) {
  set_paths(L, o->path, o->cpath);
}

static struct text default_path, default_cpath;

/* The words of a command line become a title later. */
static struct text text_copy(const char *s) {
  char *copy = strdup(s);
  return (struct text){copy, copy ? strlen(copy) : 0};
}

void script_set_defaults(const char *path, const char *cpath) {
  default_path = text_copy(path);
  default_cpath = text_copy(cpath);
}

static int l_open(lua_State *L) {
  const struct open_job *job = lua_touserdata(L, 1);
  const mf_template_options *host = job->s->options;
  if (job->s->heap)
    prepare_hot_page(L, job->s->heap, !(host && host->open_libs));
  lua_pushboolean(L, 1); /* LUA_INIT and LUA_PATH are the user's, not the template's */
  lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  lua_pushstring(L, build_text);
  lua_setfield(L, LUA_REGISTRYINDEX, BUILD_KEY);
  lua_pushcfunction(L, thread_end_interrupt);
  lua_setfield(L, LUA_REGISTRYINDEX, INTERRUPT_KEY);
  if (host && host->open_libs) {
    lua_settop(L, 0);
    host->open_libs(L, host->data);
  } else {
    luaL_openlibs(L);
  }
  lua_settop(L, 0);
  set_paths(L, default_path, default_cpath);
  script_set_paths(L, job->o);
  return 0;
}

int script_open(struct server *s, const struct options *o) {
  if (o->image.p)
    return script_load(s, o);
  const mf_template_options *host = s->options;
  struct open_job job = {s, o};
  failure_record_clear(&s->failure);
  if (host && host->alloc) {
    s->L = new_state(host->alloc, host->alloc_data);
  } else {
    s->heap = heap_new(o->heap_reserve);
    s->L = s->heap ? new_state(heap_alloc, s->heap) : luaL_newstate();
  }
  if (!s->L)
    return -ENOMEM;
  lua_atpanic(s->L, panic);
  lua_setwarnf(s->L, on_warning, NULL);
  if (s->heap)
    heap_set_hot(s->heap, HEAP_HOT_ALL);
  int r = script_protect(s, l_open, &job, 0, FAILURE_REMOTE, PHASE_START);
  return r < 0 ? r : script_prepare(s);
}

static int is_ours(int fd, void *data) {
  return server_has_fd(data, fd);
}

/* A raw copy of a template in the middle of a command would serve it too. */
static const char *why_no_raw_fork(void) {
  return "a template can't fork itself: call p:fork in the process that owns it";
}

static int is_alone(void) {
  return proc_threads() == 1;
}

static int is_our_handler(const struct sigaction *action) {
  return signals_is_own(action) || thread_end_has_handler(action);
}

void script_attach(struct server *s) {
  s->collector.heap = s->heap;
  s->collector.is_alone = is_alone;
  s->collector.after_hook = on_term_look;
  s->collector.before_finalisers = sys_flush_first;
  collector_touch(&s->collector);
  clone_fork_refused = why_no_raw_fork;
  audit_init(&s->audit, is_ours, s);
  s->audit.sources.collector_mode = &s->collector.gc;
  s->audit.sources.is_ours = is_our_handler;
}

static int l_prepare(lua_State *L) {
  struct server *s = lua_touserdata(L, 1);
  collector_init(&s->collector, L, s->heap, s->collector.gc);
  script_attach(s);
  clone_lib_install(L);
  coroutine_install(L);
  socket_prepare(L);
  lua_pushnil(L);
  wait_set_function(L); /* whatever reactor a copied interpreter had is not here */
  audit_watch(&s->audit, L);
  return 0;
}

int script_prepare(struct server *s) {
  return script_protect(s, l_prepare, s, 0, FAILURE_NOMEM, PHASE_START);
}

static int l_new_thread(lua_State *L) {
  lua_State **ret = lua_touserdata(L, 1);
  *ret = lua_newthread(L);
  lua_pushvalue(L, -1);
  lua_rawset(L, LUA_REGISTRYINDEX); /* anchored for ever: it never ends */
  return 0;
}

int script_leave_frames(struct server *s) {
  lua_State *own = NULL;
  if (script_protect(s, l_new_thread, &own, 0, FAILURE_NOMEM, PHASE_START) < 0)
    return -1;
  lua_sethook(own, NULL, 0, 0);
  s->L = own;
  return 0;
}

int script_serve_again(struct server *s) {
  clone_fork_refused = why_no_raw_fork;
  s->run.call = NULL;
  return script_leave_frames(s);
}

/* ---- require and eval ---- */

static int l_require(lua_State *L) {
  const struct text *name = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushlstring(L, name->p, name->n);
  lua_call(L, 1, 0);
  return 0;
}

int script_require(struct server *s, const char *name, size_t n) {
  struct text job = {name, n};
  char label[AUDIT_NAME_MAX];
  snprintf(label, sizeof label, "%.*s", (int)(n < sizeof label ? n : sizeof label - 1),
           name);
  audit_before(&s->audit, s->L, label, 1);
  int r = script_protect(s, l_require, &job, 0, FAILURE_REMOTE, PHASE_REQUIRE);
  audit_after(&s->audit, s->L, label, 1);
  return r;
}

/* Pushes "=NAME", as Lua wants the names of chunks that are no files. */
static const char *push_chunk_name(lua_State *L, const struct eval *eval) {
  static const char mark[] = "-- =";
  size_t skip = sizeof mark - 1;
  struct text code = eval->code;
  if (code.n > skip && memcmp(code.p, mark, skip) == 0) {
    const char *first = code.p + skip, *end = memchr(first, '\n', code.n - skip);
    size_t n = end ? (size_t)(end - first) : code.n - skip;
    while (n > 0 && (first[n - 1] == ' ' || first[n - 1] == '\t' || first[n - 1] == '\r'))
      n--;
    if (n > 0 && *first != '=') { /* else a ruler, as people draw them in comments */
      lua_pushliteral(L, "=");
      lua_pushlstring(L, first, n);
      lua_concat(L, 2);
      return lua_tostring(L, -1);
    }
  }
  lua_pushliteral(L, "=");
  if (eval->name.p)
    lua_pushlstring(L, eval->name.p, eval->name.n);
  else
    lua_pushliteral(L, "(eval)");
  lua_concat(L, 2);
  return lua_tostring(L, -1);
}

static int l_eval(lua_State *L) {
  const struct eval *eval = lua_touserdata(L, 1);
  struct reader args = eval->args;
  const char *name = push_chunk_name(L, eval);
  if (luaL_loadbuffer(L, eval->code.p, eval->code.n, name) != LUA_OK)
    return lua_error(L);
  luaL_checkstack(L, (int)eval->argc, "too many arguments");
  for (uint32_t i = 0; i < eval->argc; i++) {
    size_t n;
    const char *text = reader_str(&args, &n);
    lua_pushlstring(L, text, n);
  }
  lua_call(L, (int)eval->argc, 0);
  return 0;
}

int script_eval(struct server *s, const struct eval *eval) {
  struct eval job = *eval;
  audit_before(&s->audit, s->L, "eval", 0);
  int r = script_protect(s, l_eval, &job, 0, FAILURE_REMOTE, PHASE_EVAL);
  audit_after(&s->audit, s->L, "eval", 0);
  return r;
}

/* ---- hooks ---- */

int script_has_before_fork(void) {
  return clone_lib_has_hooks(HOOK_BEFORE_FORK);
}

int script_has_on_fork(const struct server *s) {
  return (s->options && s->options->on_fork) || clone_lib_has_hooks(HOOK_ON_FORK) ||
         clone_lib_has_hooks(HOOK_BIRTH);
}

/* Calls each; stops at one that returns false and gives its reason (a string), or
 * nothing. */
static int l_before_fork(lua_State *L) {
  clone_lib_push_hooks(L, HOOK_BEFORE_FORK);
  lua_Integer n = lua_istable(L, -1) ? (lua_Integer)lua_rawlen(L, -1) : 0;
  for (lua_Integer i = 1; i <= n; i++) {
    lua_settop(L, 2);
    lua_rawgeti(L, 2, i);
    lua_call(L, 0, 2);
    if (lua_isboolean(L, 3) && !lua_toboolean(L, 3)) {
      if (lua_isnoneornil(L, 4))
        lua_pushliteral(L, "a before_fork hook refused the fork");
      else {
        numeral_put(L, 4);
        luaL_tolstring(L, 4, NULL);
      }
      return 1;
    }
  }
  return 0;
}

int script_before_fork(struct server *s) {
  lua_State *L = s->L;
  if (script_protect(s, l_before_fork, s, 1, FAILURE_REMOTE, PHASE_HOOK) < 0)
    return -1;
  size_t n;
  const char *reason = lua_tolstring(L, -1, &n);
  if (reason) {
    s->failure.code = FAILURE_FORK;
    s->failure.phase = PHASE_HOOK;
    failure_record_set_message(&s->failure, reason, n);
  }
  lua_pop(L, 1);
  return reason ? -1 : 0;
}

static int l_reseed(lua_State *L) {
  clone_lib_mark_birth(L);
  clone_lib_reseed(L);
  return 0;
}

int script_reseed(struct server *s) {
  return script_protect(s, l_reseed, s, 0, FAILURE_NOMEM, PHASE_START);
}

static void call_hooks(lua_State *L, enum clone_hook kind) {
  clone_lib_push_hooks(L, kind);
  int list = lua_gettop(L);
  lua_Integer n = lua_istable(L, list) ? (lua_Integer)lua_rawlen(L, list) : 0;
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, list, i);
    lua_call(L, 0, 0);
  }
  lua_pop(L, 1);
}

static int l_on_fork(lua_State *L) {
  const struct server *s = lua_touserdata(L, 1);
  call_hooks(L, HOOK_BIRTH);
  if (s->options && s->options->on_fork)
    s->options->on_fork(L, s->options->data);
  lua_settop(L, 1);
  call_hooks(L, HOOK_ON_FORK);
  return 0;
}

int script_on_fork(struct server *s) {
  return script_protect(s, l_on_fork, s, 0, FAILURE_REMOTE, PHASE_HOOK);
}

/* ---- the function ---- */

static int is_indexable(lua_State *L) {
  if (lua_istable(L, -1))
    return 1;
  if (luaL_getmetafield(L, -1, "__index") == LUA_TNIL)
    return 0;
  lua_pop(L, 1);
  return 1;
}

/* Replaces the value at the top by its field of a dotted name. what: "module 'm'" or so.
 */
static void walk(lua_State *L, const char *name, const char *end, const char *what) {
  for (const char *p = name; p <= end;) {
    const char *dot = memchr(p, '.', (size_t)(end - p));
    const char *stop = dot ? dot : end;
    if (!is_indexable(L))
      luaL_error(L, "%s has no function '%s' (part of the name is a %s value)", what,
                 name, luaL_typename(L, -1));
    lua_pushlstring(L, p, (size_t)(stop - p));
    lua_gettable(L, -2);
    lua_remove(L, -2);
    p = stop + 1;
  }
}

/* Pushes package.loaded[name] when that is true: what require would give, without
 * whatever watches require. 1, or 0 with nothing pushed. */
static int push_loaded(lua_State *L, const char *name, size_t n) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushlstring(L, name, n);
  lua_gettable(L, -2);
  lua_remove(L, -2);
  if (lua_toboolean(L, -1))
    return 1;
  lua_pop(L, 1);
  return 0;
}

void script_push_function(lua_State *L, const char *name, size_t length) {
  luaL_checkstack(L, 8, NULL);
  const char *full = lua_pushlstring(L, name, length);
  int top = lua_gettop(L);
  const char *colon = memchr(full, ':', length), *field = colon ? colon + 1 : full;
  const char *what = "the template";
  if (colon) {
    size_t n = (size_t)(colon - full);
    lua_pushlstring(L, full, n);
    what = lua_pushfstring(L, "module '%s'", lua_tostring(L, -1));
    if (!push_loaded(L, full, n)) {
      lua_getglobal(L, "require");
      lua_pushlstring(L, full, n);
      lua_call(L, 1, 1);
    }
  } else {
    lua_pushglobaltable(L);
  }
  walk(L, field, full + length, what);
  if (!lua_isfunction(L, -1)) {
    if (luaL_getmetafield(L, -1, "__call") == LUA_TNIL)
      luaL_error(L, "%s has no function '%s' (it is a %s value)", what, field,
                 luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  lua_replace(L, top);
  lua_settop(L, top);
}

static int l_resolve(lua_State *L) {
  const struct text *name = lua_touserdata(L, 1);
  script_push_function(L, name->p, name->n);
  return 1;
}

static int l_find_suspended(lua_State *L) {
  const struct server *s = lua_touserdata(L, 1);
  if (!s->program)
    return luaL_error(L, "there is no function to go on with: the process did not begin "
                         "as an image of clone.hibernate; name a function");
  lua_pushnil(L); /* the place of a function */
  return 1;
}

int script_find_suspended(struct server *s) {
  return script_protect(s, l_find_suspended, s, 1, FAILURE_INVAL, PHASE_FUNCTION);
}

int script_resolve(struct server *s, const char *name, size_t n) {
  struct text job = {name, n};
  return script_protect(s, l_resolve, &job, 1, FAILURE_REMOTE, PHASE_FUNCTION);
}

/* Without a metamethod: no code of the user's. */
static int l_find_global(lua_State *L) {
  const struct text *name = lua_touserdata(L, 1);
  lua_pushglobaltable(L);
  lua_pushlstring(L, name->p, name->n);
  lua_rawget(L, -2);
  return 1;
}

int script_find_global(struct server *s, const char *name, size_t n) {
  struct text job = {name, n};
  if (memchr(name, ':', n) || memchr(name, '.', n) ||
      script_protect(s, l_find_global, &job, 1, FAILURE_NOMEM, PHASE_FUNCTION) < 0)
    return 0;
  if (lua_isfunction(s->L, -1))
    return 1;
  lua_pop(s->L, 1);
  return 0;
}

static int l_push_args(lua_State *L) {
  struct server *s = lua_touserdata(L, 1);
  lua_settop(L, 0);
  lua_pushnil(L); /* the place of the socket */
  return 1 + args_push(&s->args, L, s->heap);
}

int script_push_args(struct server *s) {
  int base = lua_gettop(s->L);
  int r = script_protect(s, l_push_args, s, LUA_MULTRET, FAILURE_NOMEM, PHASE_ARGUMENT);
  s->run.nargs = lua_gettop(s->L) - base;
  return r;
}

static int l_push_socket(lua_State *L) {
  int *fd = lua_touserdata(L, 1), taken = *fd;
  *fd = -1;
  socket_push_unix(L, taken);
  return 1;
}

/* A process that runs its function without ever having been forked was never sealed, and
 * collects in Lua's own way still. A copied interpreter stays as its program has set it.
 */
static void choose_collector(struct server *s) {
  if (s->collector.sealed || s->given)
    return;
  if (s->collector.gc == COLLECTOR_GENERATIONAL)
    lua_gc(s->L, LUA_GCGEN, 0, 0);
  else if (s->collector.gc == COLLECTOR_INCREMENTAL)
    lua_gc(s->L, LUA_GCINC, 0, 0, 0);
  else
    lua_gc(s->L, LUA_GCSTOP);
}

/* The function has returned or raised; in the second case its error is at the top. */
static int l_left(lua_State *L, int status, lua_KContext context) {
  (void)context;
  struct server *s = server_self();
  s->run.failed = status != LUA_OK && status != LUA_YIELD;
  if (s->run.failed)
    script_complete(L, &s->failure, status, FAILURE_REMOTE, PHASE_FUNCTION);
  return 0;
}

/* The handler, the function, its arguments. */
static int l_enter(lua_State *L) {
  function_begin(L);
  return l_left(L, lua_pcallk(L, lua_gettop(L) - 2, 0, 1, 0, l_left), 0);
}

static int result(struct server *s, lua_State *L, int status) {
  if (status != LUA_OK)
    script_complete(L, &s->failure, status, FAILURE_REMOTE, PHASE_FUNCTION);
  return status != LUA_OK || s->run.failed ? -1 : 0;
}

static int l_give(lua_State *L) {
  hibernate_give(L, lua_gettop(L));
  return 0;
}

/* The suspended function, to which hibernate gives what follows `place`. */
static int go_on(struct server *s, int place) {
  lua_State *L = s->L;
  lua_pushcfunction(L, l_give);
  lua_replace(L, place);
  if (lua_pcall(L, s->run.nargs, 0, 0) != LUA_OK)
    return script_out_of_memory(s, PHASE_FUNCTION);
  s->L = s->program;
  s->program = NULL;
  return result(s, s->L, hibernate_run(s, s->L, 0));
}

int script_run(struct server *s, int fd) {
  lua_State *L = s->L;
  int function = lua_gettop(L) - s->run.nargs;
  if (script_protect(s, l_push_socket, &fd, 1, FAILURE_NOMEM, PHASE_FUNCTION) < 0)
    return -1;
  lua_replace(L, function + 1);
  if (!lua_checkstack(L, 4))
    return script_out_of_memory(s, PHASE_FUNCTION);
  failure_record_clear(&s->failure);
  s->run.failed = 0;
  if (s->run.goes_on)
    return go_on(s, function);
  choose_collector(s);
  lua_pushcfunction(L, script_on_error);
  lua_insert(L, function);
  if (LUA_VERSION_NUM != 504 || s->given || s->thread) { /* it can't be saved */
    function_begin(L);
    return result(s, L, lua_pcall(L, s->run.nargs, 0, function));
  }
  lua_pushcfunction(L, l_enter);
  lua_insert(L, function);
  return result(s, L, hibernate_run(s, L, s->run.nargs + 2));
}
