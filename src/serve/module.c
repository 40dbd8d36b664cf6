#include "serve/module.h"

__attribute__((visibility("default"))) int luaopen_moonfork_serve_core(lua_State *L);

int luaopen_moonfork_serve_core(lua_State *L) {
  lua_newtable(L);
  board_open(L);
  user_open(L);
  passed_open(L);
  tree_open(L);
  loop_open(L);
  put_open(L);
  lua_pushliteral(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
