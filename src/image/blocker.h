/* What is in the way of leaving a coroutine by a yield: the call of a C function that
 * can't be entered again, for a message. Whether something is in the way is for
 * lua_isyieldable to say. */
#ifndef IMAGE_BLOCKER_H
#define IMAGE_BLOCKER_H

#include <lua.h>
#include <stddef.h>

/* Names the innermost such call of L, level `from` or outside of it, in text: "the C
 * function string.gsub, called at words.lua:12", "a debug hook", "a finaliser". 1, or 0:
 * there seems to be none. heap: where the state's memory begins. Whether a call can be
 * entered again is not always seen; with `strict` one that can may be named. May raise
 * (memory). */
int blocker_name(lua_State *L, int from, const void *heap, int strict, char *text,
                 size_t size);

#endif
