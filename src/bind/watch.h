/* One descriptor, once. Runs in the parent. */
#ifndef BIND_WATCH_H
#define BIND_WATCH_H

#include <lua.h>
#include <uv.h>

/* A descriptor that is readable as soon as fd is ready for events (UV_READABLE |
 * UV_WRITABLE), without touching fd's flags, as uv_poll_t would. -EPERM: fd is of a kind
 * that is always ready. wrap_epoll.c or wrap_kqueue.c. */
int watch_wrap(int fd, int events);
void watch_open(lua_State *L); /* registers the metatable */

#endif
