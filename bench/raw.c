/* The yardstick: what a plain C program gets from this machine by fork and a socketpair.
 * The program is linked with Lua and has a state with all libraries open, so that it is
 * about as large as a template.
 *
 *   raw spawn INFLIGHT HEAP_MIB       socketpair, fork, the child leaves, end of file,
 * waitpid raw first INFLIGHT HEAP_MIB       the same; the child calls a Lua function,
 * which writes a byte by a socket object; one at a time raw memory HEAP_MIB TABLES
 * private bytes of such a child, idle and afterwards raw exec COUNT microseconds of
 * lua5.4 -e '', spawned and waited for raw count FILE COMMAND...         runs the
 * command; writes to FILE what it and all that was waited for took: page faults, context
 * switches, microseconds of processor time */
#include "bench.h"

#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

static struct plan plan;
static lua_State *L;
static double us[SLICE_MAX];

static void run(const char *code) {
  if (luaL_dostring(L, code) == LUA_OK)
    return;
  fprintf(stderr, "raw: %s\n", lua_tostring(L, -1));
  exit(1);
}

/* ---- a socket with the two methods that the child uses ---- */

static int sock_write(lua_State *S) {
  size_t n;
  const char *text = luaL_checklstring(S, 2, &n);
  if (write(*(int *)luaL_checkudata(S, 1, "sock"), text, n) != (ssize_t)n)
    return luaL_error(S, "write");
  lua_settop(S, 1);
  return 1;
}
static int sock_flush(lua_State *S) {
  lua_settop(S, 1);
  return 1;
}

static void open_lua(int heap_mib) {
  static const luaL_Reg methods[] = {
      {"write", sock_write}, {"flush", sock_flush}, {NULL, NULL}};
  L = luaL_newstate();
  if (!L)
    give_up("luaL_newstate");
  luaL_openlibs(L);
  luaL_newmetatable(L, "sock");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  run("function first(socket) socket:write('x') socket:flush() end");
  if (heap_mib) {
    run(heap_code(heap_mib));
    run("collectgarbage() collectgarbage()");
  }
}

static _Noreturn void call_first(int fd) {
  lua_getglobal(L, "first");
  *(int *)lua_newuserdatauv(L, sizeof fd, 0) = fd;
  luaL_setmetatable(L, "sock");
  _exit(lua_pcall(L, 1, 0, 0) != LUA_OK);
}

/* ---- processes ---- */

static pid_t begin(int *ret_fd) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    give_up("socketpair");
  pid_t pid = fork();
  if (pid < 0)
    give_up("fork");
  if (pid == 0 && !plan.first)
    _exit(0);
  if (pid == 0) {
    close(pair[0]);
    call_first(pair[1]);
  }
  close(pair[1]);
  *ret_fd = pair[0];
  return pid;
}

static void end(pid_t pid, int fd) {
  int status;
  close(fd);
  if (waitpid(pid, &status, 0) != pid || status != 0)
    give_up("a child ended badly");
}

/* Returns the microseconds of the pauses. */
static double one_by_one(int n) {
  char byte;
  double paused = 0;
  for (int i = 0; i < n; i++) {
    int fd;
    if (plan.pause_us) {
      double pause = now_us();
      usleep((unsigned)plan.pause_us);
      paused += now_us() - pause;
    }
    double start = now_us();
    pid_t pid = begin(&fd);
    if (plan.first) {
      if (read(fd, &byte, 1) != 1)
        give_up("the first byte");
      us[i] = now_us() - start;
    }
    while (read(fd, &byte, 1) > 0)
      ;
    end(pid, fd);
  }
  return paused;
}

static void many(int n) {
  struct pollfd p[plan.inflight];
  pid_t pid[plan.inflight];
  int nstarted = 0, nended = 0;
  for (int i = 0; i < plan.inflight; i++) {
    p[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    if (nstarted < n && ++nstarted)
      pid[i] = begin(&p[i].fd);
  }
  while (nended < n) {
    if (poll(p, (nfds_t)plan.inflight, -1) < 0)
      give_up("poll");
    for (int i = 0; i < plan.inflight; i++) {
      if (p[i].fd < 0 || !p[i].revents)
        continue;
      end(pid[i], p[i].fd);
      nended++;
      p[i].fd = -1;
      if (nstarted < n && ++nstarted)
        pid[i] = begin(&p[i].fd);
    }
  }
}

static void slices(void) {
  if (plan.first && plan.inflight > 1) {
    fputs("raw: first bytes are measured one at a time\n", stderr);
    exit(2);
  }
  for (int n; (n = slice_next());) {
    double start = now_us(), paused = 0;
    if (plan.inflight == 1)
      paused = one_by_one(n);
    else
      many(n);
    slice_done(now_us() - start - paused, us, plan.first ? n : 0);
  }
}

/* ---- memory ---- */

static unsigned long long private_bytes(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  unsigned long long kib = 0, n;
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "Private_%*[a-zA-Z]: %llu", &n) == 1)
      kib += n;
  if (f)
    fclose(f);
  return kib * 1024;
}

static void memory(int heap_mib, int tables) {
  char code[160];
  open_lua(heap_mib);
  snprintf(code, sizeof code, "for i = 1, %d do local t = {x = i, y = i} end", tables);
  if (fork() == 0) {
    unsigned long long idle = private_bytes();
    run(code);
    printf("idle %llu\nworked %llu\n", idle, private_bytes());
    fflush(stdout);
    _exit(0);
  }
  wait(NULL);
}

/* ---- start by exec ---- */

static void execs(int count) {
  extern char **environ;
  static char program[] = "lua5.4", option[] = "-e", chunk[] = "";
  char *command[] = {program, option, chunk, NULL};
  for (int i = -5; i < count; i++) {
    pid_t pid;
    int status;
    double start = now_us();
    if (posix_spawnp(&pid, command[0], NULL, NULL, command, environ) != 0 ||
        waitpid(pid, &status, 0) < 0 || status != 0)
      give_up("lua5.4");
    if (i >= 0)
      printf("%.1f\n", now_us() - start);
  }
}

/* ---- counters ---- */

static int count(const char *file, char **command) {
  struct rusage r;
  int status = 1;
  pid_t pid = fork();
  if (pid == 0) {
    execvp(command[0], command);
    _exit(127);
  }
  if (pid < 0 || wait4(pid, &status, 0, &r) != pid)
    give_up("count");
  FILE *f = fopen(file, "we");
  if (!f)
    give_up(file);
  fprintf(f, "faults %ld\nswitches %ld\ncpu_us %lld\n", r.ru_minflt + r.ru_majflt,
          r.ru_nvcsw + r.ru_nivcsw,
          (long long)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000 +
              r.ru_utime.tv_usec + r.ru_stime.tv_usec);
  fclose(f);
  return status != 0;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "memory") == 0) {
    memory(argument(argc, argv, 2, 84), argument(argc, argv, 3, 2000000));
    return 0;
  }
  if (strcmp(what, "exec") == 0) {
    execs(argument(argc, argv, 2, 100));
    return 0;
  }
  if (strcmp(what, "count") == 0 && argc > 3)
    return count(argv[2], argv + 3);
  plan = plan_read(argc, argv);
  open_lua(plan.heap_mib);
  slices();
  return 0;
}
