/* Which userdata an image may hold. Plain memory can be copied; an object with a
 * finaliser of C's stands for something outside of the interpreter, so somebody must
 * vouch for its type: the rules here, or a field __clone in its metatable. Runs in
 * templates. */
#ifndef TEMPLATE_IMAGE_USERDATA_RULES_H
#define TEMPLATE_IMAGE_USERDATA_RULES_H

#include "template/image/libraries.h"

#include <lua.h>

/* Writes why not all can be saved into text, of n bytes; "": all can. May raise (memory).
 */
void rules_check(lua_State *L, const struct libraries *objects, char *text, size_t n);
/* "userdata of type X (app.pattern)"; object: a userdata's address. May raise. */
void rules_name(lua_State *L, const void *object, char *text, size_t n);
/* Calls the field __clone of each userdata that has one. May raise. */
void rules_call_clone(lua_State *L);

#endif
