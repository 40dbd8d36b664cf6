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

/* Asks a foreign service for what the table at `request` says, with n values from first;
 * the callback is at cb. is_plain: the reply is one string. Gives a number for cancel.
 * May raise. */
uint64_t call_ask(lua_State *L, struct service *s, int request, int cb, int first, int n,
                  int is_plain);

#endif
