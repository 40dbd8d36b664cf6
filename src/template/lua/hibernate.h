/* clone.hibernate(file): a running function that goes on in another process.
 *
 * The function of run is entered by lua_resume, as a coroutine is, though for its code it
 * is none. So it can be left at any depth by a yield, which every coroutine of Lua's on
 * the way passes on; what is left lies in the interpreter's memory and nowhere else, is
 * saved as it stands, and is entered again, here or in the process that has loaded it.
 * Runs in templates and clones. */
#ifndef TEMPLATE_LUA_HIBERNATE_H
#define TEMPLATE_LUA_HIBERNATE_H

#include "template/server/server.h"

/* A thread of Lua that was resumed, and by which; the outermost is the function's own. */
struct hibernate_call {
  lua_State *thread, *from; /* from NULL: by hibernate_run */
  const struct hibernate_call *outer;
  lua_State *program; /* the function's own thread; NULL: none runs */
};

int hibernate(lua_State *L); /* clone.hibernate */

/* Enters the function on L that nargs arguments follow, and goes on with it as often as
 * it is saved: its last status, as of lua_resume. Without a function, with nargs 0: goes
 * on with L, which was suspended by hibernate in the process that was saved. */
int hibernate_run(struct server *s, lua_State *L, int nargs);
/* What hibernate gives in this process, after "loaded": the n values at the top of L,
 * which are taken. May raise (memory). */
void hibernate_give(lua_State *L, int n);

/* Around the lua_resume of whoever passes hibernation on. */
void hibernate_resuming(struct hibernate_call *c, lua_State *from, lua_State *thread);
void hibernate_resumed(const struct hibernate_call *c);
/* Whether the function is being left: then the thread that has just yielded did so for
 * that, without a value, and who has resumed it has to yield, too. */
int hibernate_is_leaving(void);
/* Whether L is the function's own thread, which is no coroutine for its code. */
int hibernate_is_program(lua_State *L);

#endif
