/* The plain-POSIX part of moonfork.clone and the audit for a stock interpreter, without a
 * template around them. Test only. */
#include "os/fd.h"
#include "socket/socket_module.h"
#include "template/audit/audit.h"
#include "template/lua/clone_exec.h"
#include "template/lua/clone_posix.h"

#include <fcntl.h>
#include <lauxlib.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct audit audit;
static int our_fd = -1, leash_fd = -1;

static int is_ours(int fd, void *data) {
  (void)data;
  return fd == our_fd;
}

static int leash(void) {
  return leash_fd;
}

static int shim_start(lua_State *L) {
  audit_init(&audit, is_ours, NULL);
  our_fd = (int)luaL_optinteger(L, 1, -1);
  return 0;
}

static int shim_watch(lua_State *L) {
  audit_watch(&audit, L);
  return 0;
}

static int shim_touch(lua_State *L) {
  (void)L;
  audit_touch(&audit);
  return 0;
}

static int shim_bracket(lua_State *L) { /* bracket(name, f) */
  luaL_checkstring(L, 1);
  audit_before(&audit, L, lua_tostring(L, 1), 0);
  lua_pushvalue(L, 2);
  lua_call(L, 0, 0);
  audit_after(&audit, L, lua_tostring(L, 1), 0);
  return 0;
}

static int shim_check(lua_State *L) {
  char reason[AUDIT_REASON_MAX] = "";
  lua_pushboolean(L, audit_check(L, &audit, reason, sizeof reason) == 0);
  lua_pushstring(L, reason);
  return 2;
}

static void add_finding(const struct finding *f, void *data) {
  lua_State *L = data;
  char line[AUDIT_LINE_MAX];
  finding_line(f, line, sizeof line);
  lua_pushfstring(L, "%d %s", (int)audit_kinds[f->kind].severity, line);
  lua_seti(L, 1, luaL_len(L, 1) + 1);
}

static int shim_findings(lua_State *L) {
  lua_settop(L, 0);
  lua_newtable(L);
  audit_findings(L, &audit, add_finding, L);
  return 1;
}

static sem_t go_home;
static pthread_t thread;

static void *thread_main(void *arg) {
  sem_wait(&go_home);
  return arg;
}

static int
shim_thread(lua_State *L) { /* thread(true) starts one, thread(false) ends it */
  if (lua_toboolean(L, 1)) {
    sem_init(&go_home, 0, 0);
    lua_pushinteger(L, pthread_create(&thread, NULL, thread_main, NULL));
    return 1;
  }
  sem_post(&go_home);
  pthread_join(thread, NULL);
  return 0;
}

static int shim_timerfd(lua_State *L) {
  lua_pushinteger(L, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  return 1;
}

static int shim_alarm(lua_State *L) {
  alarm((unsigned)luaL_checkinteger(L, 1));
  return 0;
}

static int shim_close(lua_State *L) {
  lua_pushinteger(L, close((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int shim_leash(lua_State *L) {
  leash_fd = (int)luaL_checkinteger(L, 1);
  clone_exec_prepare = leash;
  return 0;
}

static int shim_exit(lua_State *L) {
  _exit((int)luaL_checkinteger(L, 1));
}

static void count(int fd, void *data) {
  (void)fd;
  ++*(int *)data;
}

static int shim_count_fds(lua_State *L) {
  int n = 0;
  fd_each(0, count, &n);
  lua_pushinteger(L, n);
  return 1;
}

__attribute__((visibility("default"))) int luaopen_clone_shim(lua_State *L);
int luaopen_clone_shim(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"start", shim_start},         {"watch", shim_watch},
      {"touch", shim_touch},         {"bracket", shim_bracket},
      {"check", shim_check},         {"thread", shim_thread},
      {"timerfd", shim_timerfd},     {"findings", shim_findings},
      {"alarm", shim_alarm},         {"close", shim_close},
      {"leash", shim_leash},         {"exit", shim_exit},
      {"count_fds", shim_count_fds}, {NULL, NULL},
  };
  luaL_newlib(L, functions);
  socket_module_open(L);
  lua_setfield(L, -2, "socket");
  lua_newtable(L);
  clone_posix_open(L, lua_gettop(L));
  lua_setfield(L, -2, "clone");
  return 1;
}
