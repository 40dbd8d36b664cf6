/* Lua numbers that become strings on their way to another process. Both sides.
 * lua_tolstring would cut them to 14 digits and write the locale's decimal point. */
#ifndef SOCKET_NUMERAL_H
#define SOCKET_NUMERAL_H

#include <lua.h>

/* Replaces a number at idx by its text: as tostring writes it, but exact. Other values
 * stay. May raise (memory). */
void numeral_put(lua_State *L, int idx);
/* The same without ".0" behind a whole float, as io's write. */
void numeral_put_plain(lua_State *L, int idx);

#endif
