/* Looks at every object that modules and globals lead to: which have finalisers, and
 * which files have output that is not written. Runs in templates. */
#ifndef TEMPLATE_AUDIT_HEAP_WALK_H
#define TEMPLATE_AUDIT_HEAP_WALK_H

#include "template/audit/finding.h"

#include <lua.h>

/* Objects that are looked at; modules come first, so what is not reached lies deep in
 * their data. */
enum { HEAP_WALK_MAX = 1 << 19 };

/* Calls found for each kind of object with a finaliser, with its number and the path to
 * the first of them, and for each file with unwritten output. May raise (memory); what
 * it makes is garbage afterwards. found must not raise. */
void heap_walk(lua_State *L, audit_found *found, void *data);

/* The shortest path to the object, as text; "an object that nothing names" where none of
 * these lead there. May raise (memory). */
void heap_walk_path(lua_State *L, const void *object, char *path, size_t n);
/* The same for a light userdata, which is not NULL. */
void heap_walk_path_light(lua_State *L, const void *light, char *path, size_t n);

#endif
