/* Modules whose table has a metatable with __clone: their authors, or who uses them,
 * promise that they work in a copy, whatever their C code keeps in its variables, when
 * __clone(module) was called there. In the image that is a userdata for each of them,
 * which has this module's __clone; the policy for userdata (image/userdata.h) does the
 * rest. Runs in templates and clones. */
#ifndef TEMPLATE_IMAGE_MODULE_CLONE_H
#define TEMPLATE_IMAGE_MODULE_CLONE_H

#include <lua.h>

/* Makes them, for those in package.loaded. For each C function in the table of such a
 * module vouch is called. May raise (memory). */
void module_clone_make(lua_State *L, void (*vouch)(void *data, lua_CFunction f),
                       void *data);
/* Takes away those that were made. May raise. */
void module_clone_drop(lua_State *L);

#endif
