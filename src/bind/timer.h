/* Timers of a program: uv_timer_t of the private loop, told in the order of all
 * completions. Runs in the parent. */
#ifndef BIND_TIMER_H
#define BIND_TIMER_H

#include <lua.h>
#include <stdint.h>

void timer_open(lua_State *L); /* registers the metatable */

/* A close-on-exec descriptor that is readable from a date on, in milliseconds of uv_now;
 * or -errno. wrap_epoll.c or wrap_kqueue.c. */
int timer_date_open(void);
void timer_date_set(int fd, uint64_t ms);
void timer_date_clear(int fd); /* not readable any more */

#endif
