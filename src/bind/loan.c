#include "bind/loan.h"

#include "base/list.h"
#include <lauxlib.h>
#include <stdlib.h>

struct loan {
  struct trash trash;
  struct reactor *reactor;
  void *block;
};

static int l_keep(lua_State *L) { /* 1: loan, 2: the value */
  struct loan *loan = lua_touserdata(L, 1);
  loan->trash.ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

void *loan_new(lua_State *L, struct reactor *r, int idx, void *block) {
  idx = lua_absindex(L, idx);
  struct loan *loan = malloc(sizeof *loan);
  if (!loan)
    return NULL;
  *loan = (struct loan){.reactor = r, .block = block};
  list_init(&loan->trash.link);
  loan->trash.block = loan;
  lua_pushcfunction(L, l_keep);
  lua_pushlightuserdata(L, loan);
  lua_pushvalue(L, idx);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK)
    return loan;
  lua_pop(L, 1);
  free(loan);
  return NULL;
}

void loan_release(void *loan) {
  struct loan *l = loan;
  free(l->block);
  reactor_discard(l->reactor, &l->trash);
}
