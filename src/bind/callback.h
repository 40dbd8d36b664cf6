/* Calls of the program's functions, and how many of them are inside each other. Runs in
 * the parent.
 *
 * A callback may wait, and other callbacks run meanwhile. Coroutines may be suspended, or
 * die, in the middle of it. So the number of callbacks that are inside each other belongs
 * to the coroutine, and who refers to a coroutine here does not keep it: tables have these
 * numbers. The main coroutine lives as long as the interpreter, and is seldom one that can
 * be suspended (a function that may hibernate is): so its number is in the box, and a
 * callback there costs no work with tables. */
#ifndef BIND_CALLBACK_H
#define BIND_CALLBACK_H

#include "bind/reactor.h"

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

/* ---- in the main coroutine ---- */

/* 1: this is the main coroutine, which can't be suspended, and a callback begins.
 * lua_pcall may call it then, with what callback_push_handler pushes as its message
 * handler, and callback_leave follows. */
int callback_enter(lua_State *L, struct box *box, struct callback_place *ret_before);
void callback_leave(struct box *box, const struct callback_place *before);
void callback_push_handler(lua_State *L);
/* What it has raised is on top: puts below it what reports that, to be called with one
 * argument. It raises where the program has no handler. */
void callback_push_raised(lua_State *L);

/* ---- in any coroutine ---- */

/* May raise, as memory may be short; before what can't be told twice is taken from where
 * it waits. callback_begin needs no memory then, but for a stack of more than a few
 * values. */
void callback_prepare(lua_State *L, const struct box *box);
/* The function and its nargs arguments are on top. Gives the index of the message
 * handler, for lua_pcallk with no results. */
int callback_begin(lua_State *L, int nargs);
/* After it: 0, or 1 where the function has raised. Then it is as after
 * callback_push_raised. */
int callback_end(lua_State *L, int status);

#endif
