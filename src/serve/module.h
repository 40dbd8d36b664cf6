/* moonfork.serve_core: what moonfork.server and its workers need of C. Loaded by the
 * parent and by workers; the parts know nothing of each other. */
#ifndef SERVE_MODULE_H
#define SERVE_MODULE_H

#include <lua.h>

/* Each adds its functions to the table on top of the stack. */
void board_open(lua_State *L);
void user_open(lua_State *L);
void passed_open(lua_State *L);
void tree_open(lua_State *L);
void loop_open(lua_State *L);
void put_open(lua_State *L);

/* nil, message, errno: as Lua's io does. */
int serve_fail(lua_State *L, int error, const char *what);

#endif
