/* Fields of a table that lua/moonfork has checked. May raise. */
#ifndef BIND_FIELD_H
#define BIND_FIELD_H

#include <lua.h>

/* NULL: nil. Borrowed: it stays on the stack, and so lives as long as its slot. */
const char *field_string(lua_State *L, int idx, const char *key);
lua_Integer field_integer(lua_State *L, int idx, const char *key, lua_Integer standard);
int field_flag(lua_State *L, int idx, const char *key);

#endif
