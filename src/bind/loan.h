/* Strings of Lua's that the library sends from where they are: kept from being collected
 * until it has written them. Runs in the parent. */
#ifndef BIND_LOAN_H
#define BIND_LOAN_H

#include "bind/reactor.h"

enum { LOAN_LEAST = 32 * 1024 }; /* bytes of a string that is not copied */

/* Keeps the value at idx, and takes a block of malloc's (or NULL), which goes with it.
 * NULL: no memory, and nothing is taken. Raises nothing. */
void *loan_new(lua_State *L, struct reactor *r, int idx, void *block);
/* Once; from the library's callbacks, too. */
void loan_release(void *loan);

#endif
