/* How long a clone that was made ahead takes from the template's command to its first
 * byte. Preloaded (LD_PRELOAD): the thread looks at the command by recv(MSG_PEEK), and
 * wakes the template's by sem_post, right behind the sendmsg with the first byte
 * (src/template/thread/thread_ready.c). In Lua first_byte_ns() gives the nanoseconds
 * between, or nothing. For threads.lua. */
#include <dlfcn.h>
#include <lua.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define SEEN __attribute__((visibility("default")))

static _Thread_local long long command, written;

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void find(const char *name, void *ret) {
  void *symbol = dlsym(RTLD_NEXT, name);
  memcpy(ret, &symbol, sizeof symbol);
}

typedef ssize_t receive(int fd, void *data, size_t n, int flags);
typedef int post(sem_t *s);

SEEN ssize_t recv(int fd, void *data, size_t n, int flags) {
  static receive *next;
  if (!next)
    find("recv", &next);
  ssize_t got = next(fd, data, n, flags);
  if (flags & MSG_PEEK)
    command = now();
  return got;
}

SEEN int sem_post(sem_t *s) {
  static post *next;
  written = now();
  if (!next)
    find("sem_post", &next);
  return next(s);
}

SEEN int first_byte_ns(lua_State *L);
SEEN int first_byte_ns(lua_State *L) {
  if (!command || !written)
    return 0;
  lua_pushinteger(L, written - command);
  return 1;
}
