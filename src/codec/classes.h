/* Objects of Lua classes that travel by the name of their class. Both sides have a list
 * of classes of their own, in the registry of their Lua state, which a fork copies; only
 * register() changes it, never what arrives. Both sides.
 *
 * The functions pack and unpack are the user's, and run in the middle of a message: what
 * they raise is an error of the message, and they can't yield. */
#ifndef CODEC_CLASSES_H
#define CODEC_CLASSES_H

#include <lua.h>
#include <stddef.h>

enum { CLASS_NAME_MAX = 255 }; /* bytes */

/* register(name, metatable, pack, unpack); register(name, nil) takes it back. */
int classes_register(lua_State *L);
/* Pushes the class of the table or userdata at idx. 0, and nothing: it has none. */
int classes_push_of(lua_State *L, int idx);
/* The same for the name at idx. */
int classes_push_named(lua_State *L, int idx);
const char *classes_name(lua_State *L, int class_idx, size_t *ret_n); /* borrowed */
/* Calls the function of the class at class_idx with the value at idx. 0: the result is
 * pushed; -1: a text of what went wrong, which may be no string where there is no memory.
 */
int classes_pack(lua_State *L, int class_idx, int idx);
int classes_unpack(lua_State *L, int class_idx, int idx);
/* Whether one of them is at work in this thread. */
int classes_at_work(void);

#endif
