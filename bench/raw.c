/* The yardsticks in C: what the kernel asks for a process, with nothing around it.
 *
 *   raw fork COUNT INFLIGHT HEAP_MIB    socketpair, fork; the child writes and leaves
 *   raw lua COUNT INFLIGHT HEAP_MIB     the same with an interpreter (luaL_newstate, all
 *                                       libraries): the child calls a Lua function with the
 *                                       socket object that clones of moonfork get
 *   raw memory HEAP_MIB TABLES          private octets of such a child, idle and afterwards
 *   raw exec COUNT                      microseconds of lua5.4 -e '', spawned and waited for
 *
 * Both wait for the octet, for the end of the socket and for the child. HEAP_MIB is built in
 * the interpreter by malloc, or touched in plain memory where there is none. */
#include "bench.h"

#include "luafd/luafd.h"
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

static struct plan plan;
static lua_State *L;
static double us[LIVES_MAX];

static void run(const char *code) {
  if (luaL_dostring(L, code) == LUA_OK)
    return;
  fprintf(stderr, "raw: %s\n", lua_tostring(L, -1));
  exit(1);
}

static void open_lua(void) {
  L = luaL_newstate();
  if (!L)
    give_up("luaL_newstate");
  luaL_openlibs(L);
  run("function octet(socket) socket:write('x') end");
  luafd_push(L, dup(2), LUAFD_OWN); /* the class exists before the fork, as in a template */
  lua_pop(L, 1);
}

static void fill_heap(void) {
  if (!plan.heap_mib)
    return;
  if (L) {
    run(heap_code(plan.heap_mib));
    run("collectgarbage() collectgarbage()");
  } else {
    size_t n = (size_t)plan.heap_mib << 20;
    char *p = malloc(n);
    if (!p)
      give_up("malloc");
    memset(p, 1, n);
  }
}

static _Noreturn void child(int fd) {
  if (!L)
    _exit(write(fd, "x", 1) != 1);
  lua_getglobal(L, "octet");
  luafd_push(L, fd, LUAFD_OWN);
  _exit(lua_pcall(L, 1, 0, 0) != LUA_OK);
}

struct life {
  pid_t pid; /* 0: free */
  double start_us, first_us;
};

static void begin(struct life *l, struct pollfd *p) {
  int pair[2];
  l->start_us = now_us();
  l->first_us = 0;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    give_up("socketpair");
  l->pid = fork();
  if (l->pid < 0)
    give_up("fork");
  if (l->pid == 0) {
    close(pair[0]);
    child(pair[1]);
  }
  close(pair[1]);
  *p = (struct pollfd){.fd = pair[0], .events = POLLIN};
}

/* 1: its end has come. */
static int go_on(struct life *l, struct pollfd *p) {
  char room[64];
  int status;
  if (read(p->fd, room, sizeof room) > 0) {
    l->first_us = now_us();
    return 0;
  }
  close(p->fd);
  p->fd = -1;
  if (waitpid(l->pid, &status, 0) < 0 || status != 0)
    give_up("a child ended badly");
  return 1;
}

static void lives(void) {
  int all = plan.warmup + plan.count, nstarted = 0, nended = 0;
  struct life *life = calloc((size_t)plan.inflight, sizeof *life);
  struct pollfd *p = calloc((size_t)plan.inflight, sizeof *p);
  double start = 0;
  if (!life || !p)
    give_up("calloc");
  for (int i = 0; i < plan.inflight; i++)
    p[i].fd = -1;
  while (nended < all) {
    if (start == 0 && nended >= plan.warmup)
      start = now_us();
    for (int i = 0; i < plan.inflight; i++)
      if (p[i].fd < 0 && nstarted < all) {
        begin(&life[i], &p[i]);
        nstarted++;
      }
    if (poll(p, (nfds_t)plan.inflight, -1) < 0)
      give_up("poll");
    for (int i = 0; i < plan.inflight; i++)
      if (p[i].fd >= 0 && p[i].revents && go_on(&life[i], &p[i])) {
        if (nended >= plan.warmup)
          us[nended - plan.warmup] = life[i].first_us - life[i].start_us;
        nended++;
      }
  }
  print_samples(us, plan.count, now_us() - start);
}

/* ---- memory ---- */

static unsigned long long private_octets(void) {
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
  plan.heap_mib = heap_mib;
  open_lua();
  fill_heap();
  snprintf(code, sizeof code, "for i = 1, %d do local t = {x = i, y = i} end", tables);
  if (fork() == 0) {
    unsigned long long idle = private_octets();
    run(code);
    printf("idle %llu\nworked %llu\n", idle, private_octets());
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

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "fork";
  signal(SIGPIPE, SIG_IGN);
  if (strcmp(what, "memory") == 0) {
    memory(argument(argc, argv, 2, 84), argument(argc, argv, 3, 2000000));
    return 0;
  }
  if (strcmp(what, "exec") == 0) {
    execs(argument(argc, argv, 2, 100));
    return 0;
  }
  plan = plan_read(argc, argv, 2);
  if (strcmp(what, "lua") == 0)
    open_lua();
  fill_heap();
  lives();
  return 0;
}
