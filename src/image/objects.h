/* Single objects of a state, by their address. */
#ifndef IMAGE_OBJECTS_H
#define IMAGE_OBJECTS_H

#include <lua.h>

/* Calls f for each full userdata with a metatable, those that wait for their finaliser
 * included, until f does not return 0: what it returned. L: the main thread; f must not
 * change the state. */
int objects_each_userdata(lua_State *L, int (*f)(void *data, void *object), void *data);
/* What lua_touserdata gives for it. */
void *objects_contents(void *object);
/* Pushes the userdata onto L, a thread of its state; there is room. */
void objects_push(lua_State *L, void *object);

#endif
