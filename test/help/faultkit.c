/* faultkit: what fault and acceptance tests need of the kernel beyond testkit.
 *
 * Runs in test parents, and in templates and clones that a test puts it into. Every
 * function is one thin call: it answers what the kernel answered, or nil, message, errno.
 * Descriptors are plain integers here, born close-on-exec; who asked for one closes it.
 * Nothing in this file knows anything about moonfork.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int answer(lua_State *L, long result) {
  if (result >= 0) {
    lua_pushinteger(L, result);
    return 1;
  }
  int error = errno;
  lua_pushnil(L);
  lua_pushstring(L, strerror(error));
  lua_pushinteger(L, error);
  return 3;
}

static int arg_int(lua_State *L, int index) {
  return (int)luaL_checkinteger(L, index);
}

/* ---- processes ---- */

static int kit_setsid(lua_State *L) {
  return answer(L, setsid());
}

struct parting {
  int fd, milliseconds;
};

static ssize_t part(void *cookie, const char *data, size_t n) {
  const struct parting *p = cookie;
  (void)data;
  close(p->fd);
  usleep((useconds_t)p->milliseconds * 1000);
  return (ssize_t)n;
}

/* hang_up_at_exit(fd, milliseconds): when this process flushes its streams before its
 * end, it closes the descriptor first and takes so long. */
static int kit_hang_up_at_exit(lua_State *L) {
  static struct parting parting;
  parting = (struct parting){arg_int(L, 1), arg_int(L, 2)};
  FILE *stream = fopencookie(&parting, "w", (cookie_io_functions_t){.write = part});
  return answer(L, stream && putc('.', stream) == '.' ? 0 : -1);
}

static void free_strings(char **list) {
  for (char **at = list; *at; at++)
    free(*at);
  free(list);
}

/* Copies the strings of a list. The caller frees; entries were checked before. */
static char **copy_strings(lua_State *L, int index) {
  size_t count = (size_t)lua_rawlen(L, index);
  char **list = calloc(count + 1, sizeof *list);
  for (size_t i = 0; list && i < count; i++) {
    lua_rawgeti(L, index, (lua_Integer)i + 1);
    list[i] = strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  return list;
}

/* spawn({file, arg...}, {[0]=fd, [1]=fd, [2]=fd}) -> pid; a stream that is not given is
 * /dev/null. Signal state of the child is the default. */
static int kit_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  int fds[3];
  for (int i = 0; i < 3; i++) {
    lua_rawgeti(L, 2, i);
    fds[i] = (int)luaL_optinteger(L, -1, -1);
    lua_pop(L, 1);
  }
  for (int i = 1; i <= (int)lua_rawlen(L, 1); i++) {
    lua_rawgeti(L, 1, i);
    luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 1, "strings only");
    lua_pop(L, 1);
  }
  char **argv = copy_strings(L, 1);
  if (!argv || !argv[0])
    return luaL_error(L, "spawn: nothing to run");
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attr);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigdefault(&attr, &all);
  posix_spawnattr_setsigmask(&attr, &none);
  for (int i = 0; i < 3; i++) {
    if (fds[i] < 0)
      posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    else
      posix_spawn_file_actions_adddup2(&actions, fds[i], i);
  }
  pid_t pid = -1;
  int error = posix_spawnp(&pid, argv[0], &actions, &attr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attr);
  free_strings(argv);
  errno = error;
  return answer(L, error ? -1 : pid);
}

static int kit_pidfd_open(lua_State *L) {
  return answer(L, syscall(SYS_pidfd_open, arg_int(L, 1), 0));
}

static int kit_nice(lua_State *L) {
  if (!lua_isnoneornil(L, 1) && setpriority(PRIO_PROCESS, 0, arg_int(L, 1)) < 0)
    return answer(L, -1);
  lua_pushinteger(L, getpriority(PRIO_PROCESS, 0));
  return 1;
}

/* ---- what blocks whoever closes it ---- */

/* lingering(seconds) -> a TCP socket with SO_LINGER whose unsent data nobody reads, and
 * the other end (closed last by whoever wants the test to end) */
static int kit_lingering(lua_State *L) {
  static char data[1 << 20];
  struct linger l = {1, (int)luaL_checkinteger(L, 1)};
  struct sockaddr_in at = {.sin_family = AF_INET,
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof at;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&at, &size) < 0 ||
      connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
    return answer(L, -1);
  int other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  close(listener);
  while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
    ;
  if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l) < 0)
    return answer(L, -1);
  lua_pushinteger(L, fd);
  lua_pushinteger(L, other);
  return 2;
}

/* sendfd(socket, bytes, fd) -> number of bytes; the descriptor goes with the first one */
static int kit_sendfd(lua_State *L) {
  size_t n;
  const char *bytes = luaL_checklstring(L, 2, &n);
  int fd = arg_int(L, 3);
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof fd)];
  } room = {.bytes = {0}};
  struct iovec iov = {(void *)bytes, n};
  struct msghdr m = {.msg_iov = &iov,
                     .msg_iovlen = 1,
                     .msg_control = room.bytes,
                     .msg_controllen = sizeof room.bytes};
  room.header.cmsg_level = SOL_SOCKET;
  room.header.cmsg_type = SCM_RIGHTS;
  room.header.cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(&room.header), &fd, sizeof fd);
  return answer(L, sendmsg(arg_int(L, 1), &m, MSG_NOSIGNAL));
}

/* ---- limits ---- */

static const struct {
  const char *name;
  int resource;
} limits[] = {{"cpu", RLIMIT_CPU},
              {"as", RLIMIT_AS},
              {"nofile", RLIMIT_NOFILE},
              {"core", RLIMIT_CORE},
              {"nproc", RLIMIT_NPROC},
              {"fsize", RLIMIT_FSIZE},
              {NULL, 0}};

static int limit_named(lua_State *L, int index) {
  const char *name = luaL_checkstring(L, index);
  for (int i = 0; limits[i].name; i++)
    if (strcmp(limits[i].name, name) == 0)
      return limits[i].resource;
  return luaL_argerror(L, index, "no such limit");
}

static void push_limit(lua_State *L, rlim_t value) {
  lua_pushinteger(L, value == RLIM_INFINITY ? -1 : (lua_Integer)value);
}

static rlim_t check_limit(lua_State *L, int index) {
  lua_Integer value = luaL_checkinteger(L, index);
  return value < 0 ? RLIM_INFINITY : (rlim_t)value;
}

/* prlimit(pid, name [, soft, hard]) -> the soft and the hard one before */
static int kit_prlimit(lua_State *L) {
  struct rlimit fresh = {0, 0}, old;
  int change = !lua_isnoneornil(L, 3);
  if (change) {
    fresh.rlim_cur = check_limit(L, 3);
    fresh.rlim_max = check_limit(L, 4);
  }
  if (prlimit(arg_int(L, 1), limit_named(L, 2), change ? &fresh : NULL, &old) < 0)
    return answer(L, -1);
  push_limit(L, old.rlim_cur);
  push_limit(L, old.rlim_max);
  return 2;
}

/* ---- descriptors ---- */

static int push_pair(lua_State *L, int result, const int *fds) {
  if (result < 0)
    return answer(L, -1);
  lua_pushinteger(L, fds[0]);
  lua_pushinteger(L, fds[1]);
  return 2;
}

static int kit_openpty(lua_State *L) {
  int fds[2] = {posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), -1};
  if (fds[0] < 0)
    return answer(L, -1);
  if (grantpt(fds[0]) == 0 && unlockpt(fds[0]) == 0)
    fds[1] = open(ptsname(fds[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fds[1] >= 0)
    return push_pair(L, 0, fds);
  int error = errno;
  close(fds[0]);
  errno = error;
  return answer(L, -1);
}

static int kit_readlink(lua_State *L) {
  char target[4096];
  ssize_t count = readlink(luaL_checkstring(L, 1), target, sizeof target);
  if (count < 0)
    return answer(L, -1);
  lua_pushlstring(L, target, (size_t)count);
  return 1;
}

/* listdirat(fd): names in that directory, through a fresh stream; fd is not touched */
static int list_stream(lua_State *L, DIR *stream) {
  if (!stream)
    return answer(L, -1);
  lua_newtable(L);
  struct dirent *entry;
  for (lua_Integer n = 1; (entry = readdir(stream));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, n++);
  }
  closedir(stream);
  return 1;
}

static int kit_listdirat(lua_State *L) {
  int fresh = openat(arg_int(L, 1), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return list_stream(L, fresh < 0 ? NULL : fdopendir(fresh));
}

/* getlk(fd) -> pid of another process that holds a record lock on the file, or 0 */
static int kit_getlk(lua_State *L) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(arg_int(L, 1), F_GETLK, &lock) < 0)
    return answer(L, -1);
  return answer(L, lock.l_type == F_UNLCK ? 0 : lock.l_pid);
}

/* ---- signals, time ---- */

/* sigmask("block" | "unblock", signum | "all") */
static int kit_sigmask(lua_State *L) {
  static const char *const names[] = {"block", "unblock", NULL};
  int block = luaL_checkoption(L, 1, NULL, names) == 0;
  sigset_t set;
  sigfillset(&set);
  if (lua_type(L, 2) == LUA_TNUMBER) {
    sigemptyset(&set);
    sigaddset(&set, arg_int(L, 2));
  }
  return answer(L, sigprocmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL));
}

static int kit_pending(lua_State *L) {
  sigset_t set;
  sigemptyset(&set);
  sigpending(&set);
  lua_pushboolean(L, sigismember(&set, arg_int(L, 1)) == 1);
  return 1;
}

/* itimer_left() -> seconds until SIGALRM, 0 when no timer runs */
static int kit_itimer_left(lua_State *L) {
  struct itimerval timer = {0};
  getitimer(ITIMER_REAL, &timer);
  lua_pushnumber(L, (double)timer.it_value.tv_sec + (double)timer.it_value.tv_usec / 1e6);
  return 1;
}

static double clock_seconds(clockid_t id) {
  struct timespec ts;
  clock_gettime(id, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int kit_cputime(lua_State *L) {
  lua_pushnumber(L, clock_seconds(CLOCK_PROCESS_CPUTIME_ID));
  return 1;
}

/* ---- bytes ---- */

/* FNV-1a of a string, to compare big byte strings on two sides */
static int kit_hash(lua_State *L) {
  size_t length;
  const unsigned char *bytes = (const unsigned char *)luaL_checklstring(L, 1, &length);
  uint64_t hash = 1469598103934665603u;
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ bytes[i]) * 1099511628211u;
  lua_pushinteger(L, (lua_Integer)hash);
  return 1;
}

/* ---- memory that processes share ---- */

static _Atomic int64_t *cells;
enum { CELLS = 512 };

/* share(): maps the cells; processes forked afterwards see the same ones */
static int kit_share(lua_State *L) {
  if (cells)
    return answer(L, 0);
  void *memory = mmap(NULL, CELLS * sizeof *cells, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return answer(L, -1);
  cells = memory;
  return answer(L, 0);
}

static _Atomic int64_t *check_cell(lua_State *L) {
  lua_Integer index = luaL_checkinteger(L, 1);
  luaL_argcheck(L, cells && index >= 0 && index < CELLS, 1, "no such cell");
  return cells + index;
}

/* cell(i [, add]) -> value after adding */
static int kit_cell(lua_State *L) {
  _Atomic int64_t *cell = check_cell(L);
  int64_t add = luaL_optinteger(L, 2, 0);
  lua_pushinteger(L, atomic_fetch_add(cell, add) + add);
  return 1;
}

/* touch(bytes): takes so much memory, really, and keeps it */
static int kit_touch(lua_State *L) {
  size_t size = (size_t)luaL_checkinteger(L, 1);
  char *memory =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return answer(L, -1);
  memset(memory, 1, size);
  return answer(L, 0);
}

/* ---- threads ---- */

static int start_thread(pthread_t *ret_thread, void *(*body)(void *), void *arg) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = pthread_create(ret_thread, NULL, body, arg);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  errno = error;
  return error ? -1 : 0;
}

/* The canary wakes every 10 ms and writes down how late it was at worst: what it lost
 * the whole machine was too busy for, and nobody's loop is to blame. */
static pthread_t canary;
static _Atomic int canary_on;
static _Atomic int64_t canary_worst_us;

static void *canary_thread(void *unused) {
  (void)unused;
  while (atomic_load(&canary_on)) {
    double before = clock_seconds(CLOCK_MONOTONIC);
    struct timespec ts = {0, 10 * 1000 * 1000};
    nanosleep(&ts, NULL);
    int64_t late = (int64_t)((clock_seconds(CLOCK_MONOTONIC) - before) * 1e6) - 10000;
    if (late > atomic_load(&canary_worst_us))
      atomic_store(&canary_worst_us, late);
  }
  return NULL;
}

static int kit_canary_start(lua_State *L) {
  if (atomic_exchange(&canary_on, 1))
    return answer(L, 0);
  atomic_store(&canary_worst_us, 0);
  int result = start_thread(&canary, canary_thread, NULL);
  if (result < 0)
    atomic_store(&canary_on, 0);
  return answer(L, result);
}

/* canary_stop() -> seconds it was late at worst */
static int kit_canary_stop(lua_State *L) {
  if (atomic_exchange(&canary_on, 0))
    pthread_join(canary, NULL);
  lua_pushnumber(L, (double)atomic_load(&canary_worst_us) / 1e6);
  return 1;
}

/* A second interpreter, run on threads of its own: for "the thread that made it ends"
 * and "two states at once". */
struct state_job {
  lua_State *state;
  char *code;
  int failed;
};

static void *state_thread(void *arg) {
  struct state_job *job = arg;
  job->failed = luaL_dostring(job->state, job->code);
  return NULL;
}

#define STATE_TYPE "faultkit.state"

struct kit_state {
  struct state_job job;
  pthread_t thread;
  int busy;
};

/* state([path, cpath]) -> an interpreter with its own world */
static int kit_state(lua_State *L) {
  struct kit_state *kit = lua_newuserdatauv(L, sizeof *kit, 0);
  memset(kit, 0, sizeof *kit);
  luaL_setmetatable(L, STATE_TYPE);
  kit->job.state = luaL_newstate();
  if (!kit->job.state)
    return luaL_error(L, "no memory");
  luaL_openlibs(kit->job.state);
  lua_getglobal(kit->job.state, "package");
  lua_pushstring(kit->job.state, luaL_checkstring(L, 1));
  lua_setfield(kit->job.state, -2, "path");
  lua_pushstring(kit->job.state, luaL_checkstring(L, 2));
  lua_setfield(kit->job.state, -2, "cpath");
  lua_settop(kit->job.state, 0);
  return 1;
}

static int state_answer(lua_State *L, struct kit_state *kit) {
  int failed = kit->job.failed;
  if (failed)
    lua_pushnil(L);
  if (lua_gettop(kit->job.state) > 0)
    lua_pushstring(L, luaL_tolstring(kit->job.state, -1, NULL));
  else
    lua_pushliteral(L, "");
  lua_settop(kit->job.state, 0);
  return failed ? 2 : 1;
}

static struct kit_state *check_state(lua_State *L) {
  struct kit_state *kit = luaL_checkudata(L, 1, STATE_TYPE);
  luaL_argcheck(L, kit->job.state, 1, "closed");
  return kit;
}

/* start(code): on a fresh thread; join() -> text of its first result | nil, message */
static int state_start(lua_State *L) {
  struct kit_state *kit = check_state(L);
  luaL_argcheck(L, !kit->busy, 1, "busy");
  free(kit->job.code);
  kit->job.code = strdup(luaL_checkstring(L, 2));
  if (start_thread(&kit->thread, state_thread, &kit->job) < 0)
    return answer(L, -1);
  kit->busy = 1;
  return answer(L, 0);
}

static int state_join(lua_State *L) {
  struct kit_state *kit = check_state(L);
  luaL_argcheck(L, kit->busy, 1, "not started");
  pthread_join(kit->thread, NULL);
  kit->busy = 0;
  return state_answer(L, kit);
}

/* here(code): on the caller's thread */
static int state_here(lua_State *L) {
  struct kit_state *kit = check_state(L);
  luaL_argcheck(L, !kit->busy, 1, "busy");
  kit->job.failed = luaL_dostring(kit->job.state, luaL_checkstring(L, 2));
  return state_answer(L, kit);
}

/* sndbuf(fd, bytes) -> what the buffer has now; root may go beyond the system's limit */
static int kit_sndbuf(lua_State *L) {
  int fd = arg_int(L, 1), n = arg_int(L, 2);
  socklen_t size = sizeof n;
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &n, size) < 0)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, size);
  return answer(L, getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, &size) < 0 ? -1 : n);
}

/* altstack([true]) -> whether this thread has an alternate stack for signals; true: make
 * one */
static int kit_altstack(lua_State *L) {
  static char room[64 * 1024];
  stack_t stack = {.ss_sp = room, .ss_size = sizeof room}, now;
  if (lua_toboolean(L, 1) && sigaltstack(&stack, NULL) < 0)
    return answer(L, -1);
  if (sigaltstack(NULL, &now) < 0)
    return answer(L, -1);
  lua_pushboolean(L, !(now.ss_flags & SS_DISABLE));
  return 1;
}

/* ---- the shim of test/fault, where it is preloaded ---- */

/* shim_arm(names, at [, number [, once]]) -> true; nil where there is no shim */
static int kit_shim_arm(lua_State *L) {
  void (*arm)(const char *names, long at, int number, int once);
  *(void **)&arm = dlsym(RTLD_DEFAULT, "shim_arm");
  if (!arm)
    return 0;
  const char *names = luaL_checkstring(L, 1);
  long at = (long)luaL_checkinteger(L, 2);
  int number = (int)luaL_optinteger(L, 3, 0), once = lua_toboolean(L, 4);
  lua_pushboolean(L, 1);
  arm(names, at, number, once);
  return 1;
}

/* shim_disarm() -> how many calls were made to fail */
static int kit_shim_disarm(lua_State *L) {
  void (*disarm)(void);
  long (*hits)(void);
  *(void **)&disarm = dlsym(RTLD_DEFAULT, "shim_disarm");
  *(void **)&hits = dlsym(RTLD_DEFAULT, "shim_hits");
  long n = hits ? hits() : 0;
  if (disarm)
    disarm();
  lua_pushinteger(L, n);
  return 1;
}

static int state_close(lua_State *L) {
  struct kit_state *kit = luaL_checkudata(L, 1, STATE_TYPE);
  if (kit->busy)
    pthread_join(kit->thread, NULL);
  kit->busy = 0;
  if (kit->job.state)
    lua_close(kit->job.state);
  free(kit->job.code);
  kit->job.state = NULL;
  kit->job.code = NULL;
  return 0;
}

/* ---- memory of the interpreter that asks ---- */

static lua_Alloc lua_alloc;
static void *lua_alloc_data;
static long lua_until; /* allocations that succeed yet; negative: so many have failed */

static void *alloc_until(void *data, void *block, size_t before, size_t after) {
  int grows = after > 0 && (!block || after > before);
  if (grows && --lua_until < 0)
    return NULL;
  return lua_alloc(data, block, before, after);
}

/* lua_memory(n): the n-th allocation of Lua's from now on fails, and all behind it;
 * lua_memory() ends that: how many have failed */
static int kit_lua_memory(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) {
    lua_until = arg_int(L, 1) - 1;
    lua_alloc = lua_getallocf(L, &lua_alloc_data);
    lua_setallocf(L, alloc_until, lua_alloc_data);
    return 0;
  }
  lua_setallocf(L, lua_alloc, lua_alloc_data);
  lua_pushinteger(L, lua_until < 0 ? -lua_until : 0);
  return 1;
}

static const luaL_Reg state_methods[] = {{"start", state_start},
                                         {"join", state_join},
                                         {"here", state_here},
                                         {"close", state_close},
                                         {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"setsid", kit_setsid},
    {"hang_up_at_exit", kit_hang_up_at_exit},
    {"spawn", kit_spawn},
    {"lingering", kit_lingering},
    {"sendfd", kit_sendfd},
    {"pidfd_open", kit_pidfd_open},
    {"nice", kit_nice},
    {"prlimit", kit_prlimit},
    {"openpty", kit_openpty},
    {"readlink", kit_readlink},
    {"listdirat", kit_listdirat},
    {"getlk", kit_getlk},
    {"sigmask", kit_sigmask},
    {"pending", kit_pending},
    {"itimer_left", kit_itimer_left},
    {"cputime", kit_cputime},
    {"hash", kit_hash},
    {"share", kit_share},
    {"cell", kit_cell},
    {"touch", kit_touch},
    {"canary_start", kit_canary_start},
    {"canary_stop", kit_canary_stop},
    {"state", kit_state},
    {"sndbuf", kit_sndbuf},
    {"altstack", kit_altstack},
    {"shim_arm", kit_shim_arm},
    {"shim_disarm", kit_shim_disarm},
    {"lua_memory", kit_lua_memory},
    {NULL, NULL},
};

__attribute__((visibility("default"))) int luaopen_faultkit(lua_State *L);

int luaopen_faultkit(lua_State *L) {
  luaL_newmetatable(L, STATE_TYPE);
  luaL_newlib(L, state_methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, state_close);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
