/* Tables with keys that Lua hashes by addresses outside of the interpreter: where such an
 * address has become another one, the entries must be placed anew. Runs in a process that
 * has loaded an image. */
#ifndef TEMPLATE_IMAGE_REHASH_H
#define TEMPLATE_IMAGE_REHASH_H

#include <lua.h>
#include <stdint.h>

/* Of the n tables at these distances from base. 0 or -ENOMEM: the state can't be used. */
int rehash_tables(lua_State *L, char *base, const uint64_t *tables, uint64_t n);

#endif
