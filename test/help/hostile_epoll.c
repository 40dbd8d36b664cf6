/* hostile_epoll: a C module that opens an epoll descriptor when it is loaded, as modules
 * with an event loop do. Loaded by templates in the stories about the audit. */
#include <lua.h>
#include <sys/epoll.h>

__attribute__((visibility("default"))) int luaopen_hostile_epoll(lua_State *L);
int luaopen_hostile_epoll(lua_State *L) {
  lua_pushinteger(L, epoll_create1(EPOLL_CLOEXEC));
  return 1;
}
