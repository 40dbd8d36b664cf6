/* Where the function is called:
 *
 *  - Lua code runs: the signal's handler sets a count hook, which Lua allows it, on the
 * thread of Lua that runs (coroutine.c knows which). The hook puts back what hook was
 * there, a debugger's or the collector's, and calls the function before the next
 * instruction;
 *  - a blocking call of the library waits: it returns (os/term.h), and calls it between
 * two waits;
 *  - a C function of somebody else's runs: when it returns to Lua.
 *
 * The function is called once, and what it raises goes on from that very place. */
#include "template/lua/on_term.h"

#include "base/at_birth.h"
#include "os/term.h"
#include "socket/sys.h"
#include "socket/wait.h"
#include "template/lua/thread_end.h"
#include <lauxlib.h>

static const char function_key;
static int wanted; /* there is a function */
AT_BIRTH static int entered = 0;
AT_BIRTH static lua_State *volatile running = NULL;

/* The thread with our hook, and what it had before. */
static lua_State *volatile armed;
static struct {
  lua_Hook hook;
  int mask, count;
} had;

/* ---- the hook ---- */

static void term_hook(lua_State *L, lua_Debug *ar);

static void disarm(lua_State *L) {
  if (lua_gethook(L) == term_hook)
    lua_sethook(L, had.hook, had.mask, had.count);
  if (armed == L)
    armed = NULL;
}

/* Also in the signal's handler. Events of the hook that was there are still its own. */
static void arm(lua_State *L) {
  if (lua_gethook(L) == term_hook)
    return;
  had.hook = lua_gethook(L);
  had.mask = lua_gethookmask(L);
  had.count = lua_gethookcount(L);
  armed = L;
  lua_sethook(L, term_hook, had.mask | LUA_MASKCOUNT, 1);
}

static int is_event_of(int event, int mask) {
  static const int masks[] = {[LUA_HOOKCALL] = LUA_MASKCALL,
                              [LUA_HOOKRET] = LUA_MASKRET,
                              [LUA_HOOKLINE] = LUA_MASKLINE,
                              [LUA_HOOKCOUNT] = 0,
                              [LUA_HOOKTAILCALL] = LUA_MASKCALL};
  return (masks[event] & mask) != 0;
}

/* Every event will do, not only the count: where the signal comes while Lua looks for
 * events of the hook that was there (luaG_traceexec of Lua 5.4 has read the mask and not
 * yet the count), the count runs past zero and no count event comes. */
static void term_hook(lua_State *L, lua_Debug *ar) {
  if (ar->event != LUA_HOOKCOUNT && had.hook && is_event_of(ar->event, had.mask))
    had.hook(L, ar);
  sys_flush_first(); /* what is called from a hook calls none */
  disarm(L);         /* of a coroutine that was made meanwhile, too: it inherits hooks */
  on_term_safe_point(L);
}

static void note(void) {
  if (running)
    arm(running);
}

void on_term_look(lua_State *L) {
  if (!term_noted() || thread_end_is_clone())
    return;
  if (armed && armed != L)
    disarm(armed);
  arm(L);
}

void on_term_running(lua_State *L) {
  if (!thread_end_running(L))
    running = L;
}

/* ---- the function ---- */

static void forget(lua_State *L) {
  wanted = 0;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &function_key);
  lua_pushnil(L);
  lua_setfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND);
}

void on_term_safe_point(lua_State *L) {
  if (thread_end_is_clone() || !term_take())
    return;
  if (armed == L)
    disarm(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &function_key);
  forget(L);
  wait_end_next_poll(L);
  lua_call(L, 0, 0);
}

/* Sockets ask before they sleep, with the signal blocked; the function runs without that,
 * so that a second one ends it. Whoever called restores the mask. */
static int l_attend(lua_State *L) { /* attend() -> was there something to do? */
  int noted = term_noted();
  if (noted) {
    term_unblock();
    on_term_safe_point(L);
  }
  lua_pushboolean(L, noted);
  return 1;
}

void on_term_resume(lua_State *L) {
  wanted = lua_rawgetp(L, LUA_REGISTRYINDEX, &function_key) == LUA_TFUNCTION;
  lua_pop(L, 1);
}

void on_term_enter(lua_State *L) {
  entered = 1;
  running = L;
  if (wanted)
    term_install(note);
}

void on_term_leave(void) {
  entered = 0;
  running = armed = NULL;
  term_remove();
}

int on_term_set(lua_State *L) {
  lua_settop(L, 1);
  if (thread_end_is_clone())
    return luaL_error(L,
                      "moonfork.clone.on_term: a clone that is a thread gets no signals");
  if (lua_isnil(L, 1)) {
    forget(L);
    term_remove();
    return 0;
  }
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &function_key);
  lua_pushcfunction(L, l_attend);
  lua_setfield(L, LUA_REGISTRYINDEX, WAIT_ATTEND);
  wanted = 1;
  if (entered && term_install(note) < 0)
    return luaL_error(L, "moonfork.clone.on_term: SIGTERM can't be caught");
  return 0;
}
