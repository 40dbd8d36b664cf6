/* embed: a host program with an interpreter of its own and no template program anywhere.
 * It forks itself early; new and new_exec are served by that copy. Runs as parent, as
 * template and as clones. Prints a line per process: its parent, and how often the host's
 * hook ran. Ends with 0 when all is well. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <moonfork.h>
#include <moonfork/template.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static int ndone, nhooks;

static int l_ppid(lua_State *L) {
  lua_pushfstring(L, "%d after %d hooks", (int)getppid(), nhooks);
  return 1;
}

static int open_libs(lua_State *L, void *data) {
  luaL_openlibs(L);
  lua_pushcfunction(L, l_ppid);
  lua_setglobal(L, "host_ppid");
  return 0;
}

static void on_fork(lua_State *L, void *data) {
  nhooks++;
}

static void on_run(mf_process *process, const mf_error *error, int socket, void *data) {
  char answer[128];
  if (error != NULL) {
    printf("%s: %s\n", mf_errname(error->code), error->message);
    return;
  }
  /* The clone answers at once and ends; a test may wait for that. */
  struct pollfd p = {socket, POLLIN, 0};
  poll(&p, 1, 5000);
  ssize_t n = read(socket, answer, sizeof answer - 1);
  answer[n > 0 ? n : 0] = 0;
  close(socket);
  printf("%s: %s\n", (const char *)data, answer);
}

static void on_exit_status(mf_process *process, const mf_exit *status, void *data) {
  ndone += status->known && status->code == 0 && status->signal == 0;
  mf_close(process, NULL, NULL);
}

static const char CODE[] = "function f(socket) socket:write(host_ppid()) end";

static void check(int code, const char *what) {
  if (code >= 0)
    return;
  fprintf(stderr, "%s: %s\n", what, mf_strerror(code));
  exit(1);
}

static void start(mf_process *process, const char *name) {
  check(mf_eval(process, CODE, strlen(CODE), 0, NULL, NULL), "mf_eval");
  check(mf_on_exit(process, on_exit_status, NULL), "mf_on_exit");
  check(mf_run(process, "f", on_run, (void *)name), "mf_run");
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

int main(void) {
  mf_template_options template = MF_TEMPLATE_OPTIONS_INIT;
  template.open_libs = open_libs;
  template.on_fork = on_fork;
  check(mf_early(&template), "mf_early");
  setenv("MOONFORK_TEMPLATE", "/nowhere/at/all", 1);
  mf_process *process;
  check(mf_new(NULL, &process), "mf_new");
  start(process, "new");
  check(mf_new_exec(NULL, &process), "mf_new_exec");
  start(process, "new_exec");
  check(mf_reset(NULL), "mf_reset");
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  int left = uv_loop_close(uv_default_loop());
  if (left < 0)
    printf("the loop: %s\n", uv_strerror(left));
  return ndone == 2 ? 0 : 1;
}
