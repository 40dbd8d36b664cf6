#include "bind/loan.h"

#include "base/list.h"
#include <lauxlib.h>
#include <stdlib.h>

struct loan {
  struct trash trash;
  struct reactor *reactor;
  void *block;
};

void *loan_new(lua_State *L, struct reactor *r, int idx, void *block) {
  lua_pushvalue(L, idx);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct loan *loan = malloc(sizeof *loan);
  if (!loan) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    return NULL;
  }
  *loan = (struct loan){.reactor = r, .block = block};
  list_init(&loan->trash.link);
  loan->trash.ref = ref;
  loan->trash.block = loan;
  return loan;
}

void loan_release(void *loan) {
  struct loan *l = loan;
  free(l->block);
  reactor_discard(l->reactor, &l->trash);
}
