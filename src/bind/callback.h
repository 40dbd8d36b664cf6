/* Calls of the program's functions, and how many of them are inside each other. Runs in
 * the parent.
 *
 * A callback may wait, and other callbacks run meanwhile. Coroutines may be suspended, or
 * die, in the middle of it. So the number of callbacks that are inside each other belongs
 * to the coroutine, and who refers to a coroutine here does not keep it. */
#ifndef BIND_CALLBACK_H
#define BIND_CALLBACK_H

#include "bind/bind.h"

/* The user values of the box. */
enum {
  CALLBACK_LEVELS = 1,
  CALLBACK_NEWEST,
  CALLBACK_TRACEBACK, /* these three are reactor.lua's functions */
  CALLBACK_RAISED,
  CALLBACK_TELL,
  CALLBACK_SLOTS = CALLBACK_TELL
};

/* The box is on top. */
void callback_open(lua_State *L);
/* Whether one is running, here or further down. */
int callback_is_running(lua_State *L);

/* May raise, as memory may be short; before what can't be told twice is taken from where
 * it waits. callback_begin needs no memory then, but for a stack of more than a few
 * values. */
void callback_prepare(lua_State *L);
/* The function and its nargs arguments are on top. Gives the index of the message
 * handler, for lua_pcallk with no results. */
int callback_begin(lua_State *L, int nargs);
/* After it: 0, or 1 where the function has raised. Then what reports that is on top, to
 * be called with one argument. It raises where the program has no handler. */
int callback_end(lua_State *L, int status);

#endif
