/* Protected steps in Lua, and what becomes of their errors. Runs in templates and
 * clones. */
#ifndef TEMPLATE_LUA_SCRIPT_ERROR_H
#define TEMPLATE_LUA_SCRIPT_ERROR_H

#include "template/server/server.h"

/* step(job), whose results (nresults of them) stay on the stack. 0, or -1 with s->failure
 * set. */
int script_protect(struct server *s, lua_CFunction step, void *job, int nresults,
                   int code, int phase);
/* Message, traceback and value of the error object at index, for a message handler. */
void script_describe(lua_State *L, int index, struct failure_record *f);
/* A message handler: tells the error in the failure of this process's server. */
int script_on_error(lua_State *L);
/* What the handler could not tell: no memory for it, or it failed itself. The error is at
 * the top of L. */
void script_complete(lua_State *L, struct failure_record *f, int status, int code,
                     int phase);
int script_out_of_memory(struct server *s, int phase); /* -1 */

#endif
