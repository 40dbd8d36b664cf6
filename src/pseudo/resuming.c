#include "pseudo/resuming.h"

#include "image/blocker.h"
#include "pseudo/family.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

/* ---- leaving ---- */

/* Out to the driver where that can be: then nothing of the program runs. Else by errors,
 * one in each instruction that somebody goes on with. */
int resuming_leave(lua_State *L) {
  lua_sethook(L, resuming_hook, LUA_MASKCOUNT, 1);
  if (lua_isyieldable(L))
    return lua_yield(L, 0);
  lua_pushnil(L);
  return lua_error(L);
}

void resuming_hook(lua_State *L, lua_Debug *ar) {
  if (atomic_load(&family_self->ending))
    resuming_leave(L);
  else
    lua_sethook(L, NULL, 0, 0); /* a copy of a process that was to leave */
}

/* ---- what is in the way ---- */

/* What closes a coroutine runs its handlers on the coroutine's stack, and is on another
 * one. */
static void say_blocker(lua_State *L, int from, char *text, size_t size) {
  const struct family_member *m = family_self;
  char what[300];
  for (int strict = 0; strict < 2; strict++)
    if (blocker_name(L, from, m->heap, strict, what, sizeof what) ||
        (m->running && m->running != L && /* none: the end, and its finalisers */
         blocker_name(m->running, 0, m->heap, strict, what, sizeof what))) {
      snprintf(text, size, "it would have to leave %s", what);
      return;
    }
  snprintf(text, size, "%s",
           m->closes ? "the program is ending" : "it would have to leave a C function");
}

/* ---- fork ---- */

static int fork_result(lua_State *L, int status, lua_KContext context) {
  struct family_member *m = family_self;
  if (m->want == WANT_FORK) { /* the yield has gone to somebody else's lua_resume */
    m->want = WANT_NOTHING;
    m->result = -1;
    snprintf(m->why_not, sizeof m->why_not, "C code has resumed this coroutine");
  }
  if (atomic_load(&m->ending))
    return resuming_leave(L);
  if (m->result >= 0) {
    lua_pushinteger(L, m->result);
    return 1;
  }
  lua_pushnil(L);
  lua_pushfstring(L, "cannot fork here: %s", m->why_not);
  return 2;
}

int resuming_fork(lua_State *L) {
  struct family_member *m = family_self;
  if (lua_isyieldable(L)) {
    m->want = WANT_FORK;
    return lua_yieldk(L, 0, 0, fork_result);
  }
  m->result = -1;
  say_blocker(L, 1, m->why_not, sizeof m->why_not);
  return fork_result(L, LUA_OK, 0);
}

/* ---- resume and wrap ---- */

enum { RESUME, WRAP };

static lua_State *coroutine_of(lua_State *L, int how) {
  return lua_tothread(L, how == WRAP ? lua_upvalueindex(1) : 1);
}

static int resume_now(lua_State *L, lua_State *co, int narguments, int how);

static int resume_again(lua_State *L, int status, lua_KContext context) {
  return resume_now(L, coroutine_of(L, (int)context), 0, (int)context);
}

/* As wrap of Lua: the error goes on in the caller, with its place if it is text. */
static int raise_from(lua_State *L, lua_State *co) {
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    status = lua_resetthread(co);
    lua_xmove(co, L, 1);
  } else {
    lua_xmove(co, L, 1);
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int resume_now(lua_State *L, lua_State *co, int narguments, int how) {
  struct family_member *m = family_self;
  int nresults = 0;
  for (;; narguments = 0) {
    m->running = co; /* a signal that comes from here on has its hook there */
    int status =
        atomic_load(&m->ending) ? LUA_YIELD : lua_resume(co, L, narguments, &nresults);
    m->running = L;
    if (atomic_load(&m->ending))
      return resuming_leave(L);
    if (status == LUA_YIELD && m->want == WANT_FORK) {
      if (lua_isyieldable(L))
        return lua_yieldk(L, 0, how, resume_again);
      m->want = WANT_NOTHING;
      m->result = -1;
      say_blocker(L, 1, m->why_not, sizeof m->why_not);
      continue;
    }
    if (status != LUA_OK && status != LUA_YIELD)
      break;
    if (!lua_checkstack(L, nresults + 1)) {
      lua_pop(co, nresults);
      lua_pushliteral(co, "too many results to resume");
      break;
    }
    if (how == RESUME)
      lua_pushboolean(L, 1);
    lua_xmove(co, L, nresults);
    return nresults + (how == RESUME);
  }
  if (how == WRAP)
    return raise_from(L, co);
  lua_xmove(co, L, 1); /* co may be L */
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

static int begin(lua_State *L, lua_State *co, int narguments, int how) {
  if (!lua_checkstack(co, narguments)) {
    if (how == WRAP)
      return luaL_error(L, "too many arguments to resume");
    lua_pushboolean(L, 0);
    lua_pushliteral(L, "too many arguments to resume");
    return 2;
  }
  lua_xmove(L, co, narguments);
  return resume_now(L, co, narguments, how);
}

static int resume(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  return begin(L, lua_tothread(L, 1), lua_gettop(L) - 1, RESUME);
}
static int wrapped(lua_State *L) {
  return begin(L, coroutine_of(L, WRAP), lua_gettop(L), WRAP);
}
static int wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, wrapped, 1);
  return 1;
}

/* ---- the program is no coroutine for itself ---- */

static int is_program(lua_State *L) {
  return L == family_self->program || L == family_self->L;
}
static int yield(lua_State *L) {
  if (is_program(L))
    return luaL_error(L, "attempt to yield from outside a coroutine");
  return lua_yield(L, lua_gettop(L));
}
static int running(lua_State *L) {
  lua_pushthread(L);
  lua_pushboolean(L, is_program(L));
  return 2;
}
static int isyieldable(lua_State *L) {
  lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
  lua_pushboolean(L, !is_program(co) && lua_isyieldable(co));
  return 1;
}

void resuming_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"resume", resume},
                                       {"wrap", wrap},
                                       {"yield", yield},
                                       {"running", running},
                                       {"isyieldable", isyieldable},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
