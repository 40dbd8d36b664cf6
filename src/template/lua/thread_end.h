/* The end of a clone that is a thread when its parent wants it: in the place of SIGKILL,
 * which would be its whole process's. It comes at the next instruction of Lua, or in a
 * wait of the library's; other C code that runs or sleeps is not disturbed. The parent
 * sends THREAD_END_SIGNAL (wire/life.h) with the clone's number to the thread, again and
 * again until it has ended. Runs in templates. */
#ifndef TEMPLATE_LUA_THREAD_END_H
#define TEMPLATE_LUA_THREAD_END_H

#include <lua.h>
#include <signal.h>

/* On the thread that will be a clone: whoever wants its end reaches it from now on. */
void thread_end_prepare(void);
/* Is that the handler which this has set, in front of nobody's? */
int thread_end_has_handler(const struct sigaction *action);
/* This thread is the clone with that number, and runs L: `leave`, which does not come
 * back, is called when its end is wanted. */
void thread_end_begin(lua_State *L, int number, void (*leave)(void));
/* Between these two the interpreter's memory is not touched for it. */
void thread_end_hold(void);
void thread_end_let(void);
/* On such a thread: as if its end had been wanted, and it had come to its next
 * instruction. */
void thread_end_now(void);
/* Nothing is called any more. */
void thread_end_over(void);
/* interrupt_hook of this thread is called: for modules, which have none of their own. */
int thread_end_interrupt(lua_State *L);
/* The thread of Lua that runs from now on. 1: this is such a clone. */
int thread_end_running(lua_State *L);
/* The same without another thread of Lua. */
int thread_end_is_clone(void);

#endif
