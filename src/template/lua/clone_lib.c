/* moonfork.clone (doc/lua-api.md): hooks, arguments, leaving, collecting. The plain POSIX
 * part is clone_posix.c. Runs in templates and clones.
 *
 * Leaving with finalisers. A clone must run the finalisers of what it made, never those
 * that it inherited. Lua calls finalisers, when a state is closed, in the reverse order
 * in which the objects were marked for finalisation; so at its birth each clone makes one
 * object, the birth marker, older than all of its own and younger than all inherited
 * ones. clone.exit(code, true) closes the state; when the birth marker's turn comes,
 * everything of this clone's own is finalised, and the process leaves from inside of the
 * finaliser. A template has one, too: what a copied interpreter brought along is not its
 * own. */
#include "template/lua/clone_lib.h"

#include "base/at_birth.h"
#include "image/relocate.h"
#include "os/fd.h"
#include "os/proc.h"
#include "template/lua/clone_posix.h"
#include "template/lua/hibernate.h"
#include "template/lua/on_term.h"
#include "template/modules.h"
#include "template/server/server.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char hook_keys[HOOK_KINDS], seed_key, birth_marker_key, taken_key;
static atomic_uint nhooks[HOOK_KINDS]; /* on_fork of threads is counted, and not found */

/* ---- hooks ---- */

int clone_lib_has_hooks(enum clone_hook kind) {
  return nhooks[kind] > 0;
}

void clone_lib_push_hooks(lua_State *L, enum clone_hook kind) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &hook_keys[kind]);
}

/* A clone that is a thread: the count is its template's, too, which with hooks before a
 * fork looks at its whole heap each time, and makes no clone ahead. */
static int forks_none(const struct server *s) {
  return s && s->thread;
}

static int add_hook(lua_State *L, enum clone_hook kind) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  clone_lib_push_hooks(L, kind);
  if (lua_isnil(L, -1)) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &hook_keys[kind]);
  }
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  if (kind == HOOK_ON_FORK || !forks_none(server_self()))
    nhooks[kind]++;
  return 0;
}

/* What the function had made is its own in the process where it goes on, too. */
static void resume_birth(lua_State *L) {
  int top = lua_gettop(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &birth_marker_key);
  if (lua_istable(L, -1) && lua_rawgeti(L, -1, 1) == LUA_TUSERDATA) {
    const unsigned *made_at = lua_touserdata(L, -1);
    server_self()->nbirth = *made_at;
  }
  lua_settop(L, top);
}

void clone_lib_resume(lua_State *L, int goes_on) {
  for (int kind = 0; kind < HOOK_KINDS; kind++) {
    clone_lib_push_hooks(L, (enum clone_hook)kind);
    nhooks[kind] = lua_istable(L, -1) ? (unsigned)lua_rawlen(L, -1) : 0;
    lua_pop(L, 1);
  }
  if (goes_on)
    resume_birth(L);
}

static int l_on_fork(lua_State *L) {
  return add_hook(L, HOOK_ON_FORK);
}

static int l_on_birth(lua_State *L) {
  return add_hook(L, HOOK_BIRTH);
}

static int l_before_fork(lua_State *L) {
  return add_hook(L, HOOK_BEFORE_FORK);
}

/* ---- arguments ---- */

/* Handles given to a template stay open in it and its clones, whether or not scripts keep
 * the objects: these are kept here. */
static void keep_handles(lua_State *L, int first, int last) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &taken_key) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &taken_key);
  }
  for (int i = first; i <= last; i++)
    if (lua_isuserdata(L, i)) {
      lua_pushvalue(L, i);
      lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
  lua_pop(L, 1);
}

static int l_run_args(lua_State *L) {
  struct server *s = server_self();
  lua_settop(L, 0);
  if (!s || s->hide_args || s->args.n == 0)
    return 0;
  int n = args_push(&s->args, L, s->heap);
  luaL_checkstack(L, 4, NULL);
  keep_handles(L, 1, n);
  return n;
}

/* ---- leaving ---- */

static int birth_marker_gc(lua_State *L) {
  const unsigned *made_at = lua_touserdata(L, 1);
  struct server *s = server_self();
  if (s && s->exiting && *made_at == s->nbirth)
    server_exit(s, s->asked_code);
  return 0;
}

void clone_lib_mark_birth(lua_State *L) {
  unsigned *made_at = lua_newuserdatauv(L, sizeof *made_at, 0);
  *made_at = ++server_self()->nbirth;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &birth_marker_key) != LUA_TTABLE)
    luaL_error(L, "moonfork.clone was not installed");
  lua_pushvalue(L, -1);
  lua_setmetatable(L, -3);
  lua_insert(L, -2);
  lua_rawseti(L, -2, 1); /* anchored in its own metatable's list */
  lua_pop(L, 1);
}

static void install_birth_marker(lua_State *L) {
  struct heap *heap = server_self()->heap;
  if (heap)
    heap_set_hot(heap, HEAP_HOT_ALL);
  lua_createtable(L, 1, 1);
  if (heap)
    heap_set_hot(heap, HEAP_HOT_NONE);
  lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 1);
  lua_pushcfunction(L, birth_marker_gc);
  lua_setfield(L, -2, "__gc");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &birth_marker_key);
}

static int exit_code_at(lua_State *L, int index) {
  if (lua_isboolean(L, index))
    return lua_toboolean(L, index) ? EXIT_SUCCESS : EXIT_FAILURE;
  return (int)luaL_optinteger(L, index, EXIT_SUCCESS);
}

static int l_exit(lua_State *L) {
  struct server *s = server_self();
  int code = exit_code_at(L, 1), finalise = lua_toboolean(L, 2);
  if (!s)
    return luaL_error(L, "moonfork.clone.exit: this process is no clone");
  if (s->exiting || !finalise)
    server_exit(s, code);
  s->exiting = 1;
  s->asked_code = code;
  if (s->thread)
    relocate_close(L);
  else
    lua_close(L);
  server_exit(s, code);
}

/* ---- random numbers ---- */

static void random_integers(lua_State *L) {
  lua_Integer seeds[2];
  proc_random(seeds, sizeof seeds);
  lua_pushinteger(L, seeds[0]);
  lua_pushinteger(L, seeds[1]);
}

static int l_randomseed(lua_State *L) { /* upvalue: the original */
  int n = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  if (n == 0) {
    random_integers(L);
    n = 2;
  }
  lua_call(L, n, LUA_MULTRET);
  return lua_gettop(L);
}

void clone_lib_reseed(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &seed_key) == LUA_TFUNCTION) {
    random_integers(L);
    lua_call(L, 2, 0);
  } else {
    lua_pop(L, 1);
  }
}

/* Pushes package.loaded[name]; 1 when it is a table, else pushes nothing. */
static int push_library(lua_State *L, const char *name) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  int found = lua_getfield(L, -1, name) == LUA_TTABLE;
  lua_remove(L, -2);
  if (!found)
    lua_pop(L, 1);
  return found;
}

static void install_randomseed(lua_State *L) {
  if (!push_library(L, LUA_MATHLIBNAME))
    return;
  if (lua_getfield(L, -1, "randomseed") == LUA_TFUNCTION) {
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &seed_key);
    lua_pushcclosure(L, l_randomseed, 1);
    lua_setfield(L, -2, "randomseed");
  } else {
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void install_exit(lua_State *L) {
  if (!push_library(L, LUA_OSLIBNAME))
    return;
  lua_pushcfunction(L, l_exit);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}

static void install_preload(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, template_open_clone);
  lua_setfield(L, -2, "moonfork.clone");
  lua_pushcfunction(L, template_open_rpc);
  lua_setfield(L, -2, "moonfork.rpc");
  lua_pushcfunction(L, template_open_pool);
  lua_setfield(L, -2, "moonfork.pool");
  lua_pop(L, 1);
}

void clone_lib_install(lua_State *L) {
  install_birth_marker(L);
  install_randomseed(L);
  install_exit(L);
  install_preload(L);
}

/* ---- the module ---- */

/* pid(), id(): the template's, where a module asks while it is loaded: the audit tells.
 * Upvalues: enum audit_call, the function. */
static int l_watched(lua_State *L) {
  struct server *s = server_self();
  if (s)
    audit_note_call(&s->audit, (enum audit_call)lua_tointeger(L, lua_upvalueindex(1)));
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

static void watch_call(lua_State *L, const char *name, enum audit_call call) {
  lua_pushinteger(L, call);
  lua_getfield(L, -2, name);
  lua_pushcclosure(L, l_watched, 2);
  lua_setfield(L, -2, name);
}

static int l_collect(lua_State *L) {
  struct server *s = server_self();
  if (s && s->L)
    collector_collect_all(&s->collector, L);
  else
    lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

struct found_list {
  lua_State *L;
  int at; /* of the list on the stack */
};

/* A new table with what the kind says, and these two (NULL: none). */
static void push_finding(lua_State *L, const struct audit_kind_text *kind,
                         const char *module, const char *text) {
  lua_createtable(L, 0, 7);
  const char *const fields[][2] = {
      {"kind", kind->name}, {"severity", audit_severity_names[kind->severity]},
      {"module", module},   {"text", text},
      {"why", kind->why},   {"remedy", kind->remedy}};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushstring(L, fields[i][1]);
    lua_setfield(L, -2, fields[i][0]);
  }
}

static void add_finding(const struct finding *f, void *data) {
  const struct found_list *list = data;
  lua_State *L = list->L;
  push_finding(L, &audit_kinds[f->kind], f->module, f->text);
  if (f->fd >= 0) {
    lua_pushinteger(L, f->fd);
    lua_setfield(L, -2, "fd");
  }
  lua_rawseti(L, list->at, (lua_Integer)lua_rawlen(L, list->at) + 1);
}

/* kinds() -> {NAME = {kind=, severity=, why=, remedy=}}; for `moonfork doctor` */
int template_push_finding_kinds(lua_State *L) {
  lua_createtable(L, 0, AUDIT_KIND_COUNT);
  for (int i = 0; i < AUDIT_KIND_COUNT; i++) {
    push_finding(L, &audit_kinds[i], NULL, NULL);
    lua_setfield(L, -2, audit_kinds[i].name);
  }
  return 1;
}

static void count_fd(int fd, void *data) {
  (void)fd;
  ++*(lua_Integer *)data;
}

/* findings() -> what the audit of this template says, a table each; and the numbers of
 * its threads and of its open descriptors */
static int l_findings(lua_State *L) {
  struct server *s = server_self();
  lua_Integer nfds = 0;
  lua_newtable(L);
  struct found_list list = {L, lua_gettop(L)};
  if (s && s->L) {
    audit_touch(&s->audit);
    audit_findings(L, &s->audit, add_finding, &list);
  }
  fd_each(0, count_fd, &nfds);
  lua_pushinteger(L, proc_threads_at_rest());
  lua_pushinteger(L, nfds);
  return 3;
}

int template_open_clone(lua_State *L) {
  lua_pushcfunction(L, l_on_birth);
  lua_setfield(L, LUA_REGISTRYINDEX, TEMPLATE_ON_BIRTH);
  static const luaL_Reg functions[] = {
      {"on_fork", l_on_fork},   {"before_fork", l_before_fork}, {"run_args", l_run_args},
      {"exit", l_exit},         {"collect", l_collect},         {"findings", l_findings},
      {"on_term", on_term_set}, {"hibernate", hibernate},       {NULL, NULL},
  };
  luaL_newlib(L, functions);
  clone_posix_open(L, lua_gettop(L));
  watch_call(L, "pid", AUDIT_CALL_PID);
  watch_call(L, "id", AUDIT_CALL_ID);
  return 1;
}
