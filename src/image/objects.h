/* Single objects of a state, by their address. */
#ifndef IMAGE_OBJECTS_H
#define IMAGE_OBJECTS_H

#include <lua.h>

/* Calls f for each full userdata, those that wait for their finaliser included, until f
 * does not return 0: what it returned. is_finalised: its finaliser will run. Not for
 * those that the collector has found dead: what they refer to may be free. f must not
 * change the lists: the collector rests. */
int objects_each_userdata(lua_State *L,
                          int (*f)(void *data, void *object, int is_finalised),
                          void *data);
/* What lua_touserdata gives for it. */
void *objects_contents(void *object);
/* Pushes the userdata onto L, a thread of its state; there is room. */
void objects_push(lua_State *L, void *object);
/* Calls COPIED_END_FIELD (base/copied.h) of each that has it, the latest first. L is to be
 * thrown away, and its collector rests from now on. */
void objects_end_all(lua_State *L);

#endif
