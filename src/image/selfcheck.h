/* Whether images work with the Lua that runs here: whether its memory is laid out as
 * layout54.h says. Made once, when it is first asked for; takes less than a millisecond.
 */
#ifndef IMAGE_SELFCHECK_H
#define IMAGE_SELFCHECK_H

#include <lua.h>

/* NULL: they do. Else why not, as the second half of a sentence: "this Lua is not one of
 * ...". Callable by any thread; needs no Lua state, and makes one of its own. */
const char *selfcheck_reason(void);

/* The check itself. A test gives it another lua_newstate. */
typedef lua_State *(*selfcheck_newstate)(lua_Alloc allocate, void *data);
const char *selfcheck_run(selfcheck_newstate newstate);

#endif
