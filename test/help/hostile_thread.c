/* hostile_thread: a C module that starts a thread when it is loaded, as careless modules
 * do. Loaded by templates in the stories about the audit. */
#include <lua.h>
#include <poll.h>
#include <pthread.h>

static void *sleeper(void *unused) {
  for (;;)
    poll(NULL, 0, -1);
  return unused;
}

__attribute__((visibility("default"))) int luaopen_hostile_thread(lua_State *L);
int luaopen_hostile_thread(lua_State *L) {
  pthread_t thread;
  lua_pushboolean(L, pthread_create(&thread, NULL, sleeper, NULL) == 0);
  return 1;
}
