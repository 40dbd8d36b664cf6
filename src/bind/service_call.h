/* Calls. Runs in the parent. */
#ifndef BIND_SERVICE_CALL_H
#define BIND_SERVICE_CALL_H

#include "bind/reply.h"

void call_open(lua_State *L); /* registers the metatables */
/* Calls with a message; the callback is at cb. The reply is taken, by what is at anchor.
 * Pushes what a call gives: 1. May raise. */
int call_message(lua_State *L, struct service *s, const mf_call_options *o,
                 const mf_message *m, int cb, int anchor,
                 void (*take)(struct reply *r, void *taker), void *taker);

#endif
