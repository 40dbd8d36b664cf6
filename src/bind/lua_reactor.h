/* The box of a Lua state. Runs in the parent. */
#ifndef BIND_LUA_REACTOR_H
#define BIND_LUA_REACTOR_H

#include "bind/reactor.h"

/* Makes the box, pushes it. Its finaliser cancels everything and empties the loop. */
struct box *box_open(lua_State *L);
/* In a copy of the interpreter: calls the function that the Lua side left for that; its
 * failure changes nothing here. */
void lua_reactor_tell_copied(lua_State *L);

/* Completions, so that no step of the reactor is long: each is a callback of the
 * program's, and some 2 us of ours. The others are told in the next steps. */
enum { TOLD_A_TURN = 256 };

/* One turn without waiting. How many completions wait then: what comes later belongs to
 * the next batch. Raises in the pack and unpack functions of classes. */
int lua_reactor_turn(lua_State *L);
/* Until the loop wants a turn, fd (-1: none) is ready, a signal came, or the time is up
 * (-1: never). 1: fd is ready; negative: a signal came. */
int lua_reactor_sleep(lua_State *L, int limit_ms, int fd, short events);

#endif
