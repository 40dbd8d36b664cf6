/* clone.exec(file, argv [, options]): the process becomes another program. argv begins
 * with the name that the program sees as its own (a field 0, as luaposix has it, comes
 * before that). env is a table of changes, false unsets. What is not close-on-exec stays
 * open besides fds. It returns only on failure, with nil, message, errno, and has changed
 * nothing then. Runs in templates and clones. */
#ifndef TEMPLATE_LUA_CLONE_EXEC_H
#define TEMPLATE_LUA_CLONE_EXEC_H

#include <lua.h>

/* Set by the template: called by exec, it gives the number of this process's armed leash
 * (borrowed), of which exec lets a duplicate live on in the program, or -1: none. NULL is
 * none, too. */
extern int (*clone_exec_prepare)(void);
/* A C function for Lua. refused: why the process may not be another program, or NULL. */
int clone_exec(lua_State *L, const char *refused);

#endif
