/* fork.trace. Runs in the parent. */
#ifndef BIND_LUA_TRACE_H
#define BIND_LUA_TRACE_H

#include "bind/reactor.h"

/* A trace has ended by itself (mf_trace_failed): the reactor's Lua is told. */
void trace_tell(struct reactor *r);

#endif
