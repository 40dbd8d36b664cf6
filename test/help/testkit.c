/* testkit: what stories need of POSIX and stock Lua does not have: descriptors as plain
 * integers, raw fork and wait, signals, threads, timers, and a census of this process.
 * Runs in the parent and, loaded by a template, in templates and clones. Nothing here is
 * part of moonfork, and nothing is shared with it: the tests measure with their own rule.
 *
 * Functions return their values, or nil, message, errno. Descriptors that this file makes
 * are close-on-exec. */
#include "testkit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

extern char **environ;

int kit_pushed(lua_State *L, long result) {
  if (result < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, result);
  return 1;
}

int kit_told(lua_State *L, int result) {
  return luaL_fileresult(L, result == 0, NULL);
}

/* An integer, or an io file. */
static int fd_arg(lua_State *L, int idx) {
  luaL_Stream *stream = luaL_testudata(L, idx, LUA_FILEHANDLE);
  if (stream != NULL)
    return fileno(stream->f);
  return (int)luaL_checkinteger(L, idx);
}

/* ---- descriptors ---- */

static int kit_fileno(lua_State *L) {
  return kit_pushed(L, fd_arg(L, 1));
}

static int kit_open(lua_State *L) {
  static const char *const names[] = {"r", "w", "a", "rw", "path", "dir", NULL};
  static const int flags[] = {O_RDONLY,
                              O_WRONLY | O_CREAT | O_TRUNC,
                              O_WRONLY | O_CREAT | O_APPEND,
                              O_RDWR | O_CREAT,
                              O_RDONLY,
                              O_RDONLY | O_DIRECTORY};
  const char *path = luaL_checkstring(L, 1);
  int which = luaL_checkoption(L, 2, "r", names);
  return kit_pushed(L, open(path, flags[which] | O_CLOEXEC, 0666));
}

static int kit_close(lua_State *L) {
  return kit_told(L, close(fd_arg(L, 1)));
}

static int kit_pipe(lua_State *L) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, ends[0]);
  lua_pushinteger(L, ends[1]);
  return 2;
}

static int kit_socketpair(lua_State *L) { /* socketpair([type]) */
  static const char *const names[] = {"stream", "dgram", NULL};
  static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
  int ends[2], type = types[luaL_checkoption(L, 1, "stream", names)];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, ends[0]);
  lua_pushinteger(L, ends[1]);
  return 2;
}

static int kit_dup(lua_State *L) {
  return kit_pushed(L, fcntl(fd_arg(L, 1), F_DUPFD_CLOEXEC, luaL_optinteger(L, 2, 0)));
}

static int kit_dup2(lua_State *L) { /* the copy is not close-on-exec, as dup2(2) says */
  return kit_pushed(L, dup2(fd_arg(L, 1), (int)luaL_checkinteger(L, 2)));
}

static int kit_read(lua_State *L) {
  int fd = fd_arg(L, 1);
  size_t want = (size_t)luaL_checkinteger(L, 2);
  luaL_Buffer b;
  char *room = luaL_buffinitsize(L, &b, want);
  ssize_t got = read(fd, room, want);
  if (got < 0)
    return luaL_fileresult(L, 0, NULL);
  luaL_pushresultsize(&b, (size_t)got);
  return 1;
}

static int kit_write(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  return kit_pushed(L, write(fd_arg(L, 1), text, length));
}

static int kit_lseek(lua_State *L) {
  static const char *const names[] = {"set", "cur", "end", NULL};
  static const int whence[] = {SEEK_SET, SEEK_CUR, SEEK_END};
  int which = luaL_checkoption(L, 3, "cur", names);
  return kit_pushed(L, lseek(fd_arg(L, 1), luaL_optinteger(L, 2, 0), whence[which]));
}

/* poll(fd, "r"|"w", milliseconds) -> number of ready descriptors, revents */
static int kit_poll(lua_State *L) {
  const char *events = luaL_optstring(L, 2, "r");
  struct pollfd p = {fd_arg(L, 1), events[0] == 'w' ? POLLOUT : POLLIN, 0};
  int n = poll(&p, 1, (int)luaL_optinteger(L, 3, 0));
  if (n < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, n);
  lua_pushinteger(L, p.revents);
  return 2;
}

static int kit_getfl(lua_State *L) {
  return kit_pushed(L, fcntl(fd_arg(L, 1), F_GETFL));
}

static int kit_getfd(lua_State *L) {
  return kit_pushed(L, fcntl(fd_arg(L, 1), F_GETFD));
}

static int kit_nonblocking(lua_State *L) { /* ask, or set with a second argument */
  int fd = fd_arg(L, 1), flags = fcntl(fd, F_GETFL);
  if (flags < 0)
    return luaL_fileresult(L, 0, NULL);
  if (!lua_isnoneornil(L, 2)) {
    flags = lua_toboolean(L, 2) ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (fcntl(fd, F_SETFL, flags) < 0)
      return luaL_fileresult(L, 0, NULL);
  }
  lua_pushboolean(L, (flags & O_NONBLOCK) != 0);
  return 1;
}

static int kit_cloexec(lua_State *L) { /* ask, or set with a second argument */
  int fd = fd_arg(L, 1), flags = fcntl(fd, F_GETFD);
  if (flags < 0)
    return luaL_fileresult(L, 0, NULL);
  if (!lua_isnoneornil(L, 2)) {
    flags = lua_toboolean(L, 2) ? FD_CLOEXEC : 0;
    if (fcntl(fd, F_SETFD, flags) < 0)
      return luaL_fileresult(L, 0, NULL);
  }
  lua_pushboolean(L, (flags & FD_CLOEXEC) != 0);
  return 1;
}

/* fstat(fd) -> "dev:ino", kind ("socket", "fifo", "file", "dir", "char", "other"), size
 */
static int kit_fstat(lua_State *L) {
  struct stat st;
  if (fstat(fd_arg(L, 1), &st) < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushfstring(L, "%I:%I", (LUAI_UACINT)st.st_dev, (LUAI_UACINT)st.st_ino);
  lua_pushstring(L, S_ISSOCK(st.st_mode)   ? "socket"
                    : S_ISFIFO(st.st_mode) ? "fifo"
                    : S_ISREG(st.st_mode)  ? "file"
                    : S_ISDIR(st.st_mode)  ? "dir"
                    : S_ISCHR(st.st_mode)  ? "char"
                                           : "other");
  lua_pushinteger(L, st.st_size);
  return 3;
}

/* lock(fd, "record"|"flock") -> true, or nil, message: a lock that does not wait */
static int kit_lock(lua_State *L) {
  static const char *const names[] = {"record", "flock", NULL};
  int fd = fd_arg(L, 1);
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (luaL_checkoption(L, 2, "record", names) == 0)
    return kit_told(L, fcntl(fd, F_SETLK, &whole) < 0 ? -1 : 0);
  return kit_told(L, flock(fd, LOCK_EX | LOCK_NB));
}

/* fds([pid]) -> {[number] = target}: a link's text, dev:ino for what has no path */
static int kit_fds(lua_State *L) {
  char folder[64], link[96], target[PATH_MAX];
  int own = lua_isnoneornil(L, 1);
  snprintf(folder, sizeof folder, "/proc/%d/fd", (int)luaL_optinteger(L, 1, getpid()));
  DIR *dir = opendir(folder);
  if (dir == NULL)
    return luaL_fileresult(L, 0, folder);
  lua_newtable(L);
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (e->d_name[0] == '.')
      continue;
    int fd = atoi(e->d_name);
    if (own && fd == dirfd(dir))
      continue;
    snprintf(link, sizeof link, "%s/%d", folder, fd);
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0)
      continue;
    lua_pushlstring(L, target, (size_t)n);
    lua_rawseti(L, -2, fd);
  }
  closedir(dir);
  return 1;
}

/* ---- processes ---- */

static int kit_fork(lua_State *L) {
  fflush(NULL);
  return kit_pushed(L, fork());
}

static int kit_exit(lua_State *L) { /* _exit: no finalisers, no flush */
  _exit((int)luaL_optinteger(L, 1, 0));
}

/* waitpid(pid [, nohang]) -> pid, "exit"|"signal", number; 0 where none has ended */
static int kit_waitpid(lua_State *L) {
  int status;
  pid_t pid;
  do
    pid = waitpid((pid_t)luaL_checkinteger(L, 1), &status,
                  lua_toboolean(L, 2) ? WNOHANG : 0);
  while (pid < 0 && errno == EINTR);
  if (pid <= 0)
    return kit_pushed(L, pid);
  lua_pushinteger(L, pid);
  lua_pushstring(L, WIFEXITED(status) ? "exit" : "signal");
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return 3;
}

static int kit_getpid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

/* The random bytes that the kernel has given the program of this process: a fork has the same
 * ones, another execution has others. (Addresses can be the same in all.) */
static int kit_exec_id(lua_State *L) {
#ifdef __linux__
  const char *bytes = (const char *)(uintptr_t)getauxval(AT_RANDOM);
  char text[33];
  for (int i = 0; bytes && i < 16; i++)
    snprintf(text + 2 * i, 3, "%02x", (unsigned char)bytes[i]);
  lua_pushstring(L, bytes ? text : NULL);
#else
  lua_pushnil(L);
#endif
  return 1;
}

static int kit_getppid(lua_State *L) {
  lua_pushinteger(L, getppid());
  return 1;
}

static int kit_getuid(lua_State *L) {
  lua_pushinteger(L, geteuid());
  return 1;
}

/* setuid(n): user and group n, for good */
static int kit_setuid(lua_State *L) {
  int id = (int)luaL_checkinteger(L, 1);
  return kit_pushed(L, setgid((gid_t)id) == 0 ? setuid((uid_t)id) : -1);
}

static int kit_getsid(lua_State *L) {
  return kit_pushed(L, getsid((pid_t)luaL_optinteger(L, 1, 0)));
}

static int kit_getpgid(lua_State *L) {
  return kit_pushed(L, getpgid((pid_t)luaL_optinteger(L, 1, 0)));
}

static int kit_setpgid(lua_State *L) { /* pid (0: this process), group */
  pid_t pid = (pid_t)luaL_checkinteger(L, 1), group = (pid_t)luaL_checkinteger(L, 2);
  lua_pushboolean(L, setpgid(pid, group) == 0);
  return 1;
}

static int kit_kill(lua_State *L) {
  int pid = (int)luaL_checkinteger(L, 1), signum = (int)luaL_checkinteger(L, 2);
  luaL_argcheck(L, pid > 1, 1, "one process");
  return kit_told(L, kill(pid, signum));
}

static int kit_subreaper(lua_State *L) {
#ifdef __linux__
  return kit_told(L, prctl(PR_SET_CHILD_SUBREAPER, lua_toboolean(L, 1), 0, 0, 0));
#else
  return luaL_error(L, "no subreaper on this system");
#endif
}

/* processes() -> {[pid] = {ppid=, state=, comm=}} of the whole machine */
static int kit_processes(lua_State *L) {
  DIR *dir = opendir("/proc");
  if (dir == NULL)
    return luaL_fileresult(L, 0, "/proc");
  lua_newtable(L);
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    int pid = atoi(e->d_name), ppid;
    char path[64], line[512], state;
    if (pid <= 0)
      continue;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
      continue;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    char *open = strchr(line, '('), *close = strrchr(line, ')');
    if (open == NULL || close == NULL || sscanf(close + 1, " %c %d", &state, &ppid) != 2)
      continue;
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, ppid);
    lua_setfield(L, -2, "ppid");
    lua_pushlstring(L, &state, 1);
    lua_setfield(L, -2, "state");
    lua_pushlstring(L, open + 1, (size_t)(close - open - 1));
    lua_setfield(L, -2, "comm");
    lua_rawseti(L, -2, pid);
  }
  closedir(dir);
  return 1;
}

static int kit_abort(lua_State *L) {
  abort();
}

static int kit_segv(lua_State *L) {
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
  return 0;
}

static int yield_again(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  return lua_yield(L, lua_gettop(L));
}

static int kit_yield(lua_State *L) { /* twice, whoever may yield or not */
  return lua_yieldk(L, lua_gettop(L), 0, yield_again);
}

static int kit_spin(lua_State *L) { /* never returns, never enters the kernel */
  for (volatile unsigned long n = 0;; n++)
    continue;
  return 0;
}

/* ---- surroundings ---- */

static int kit_umask(lua_State *L) {
  mode_t old = umask((mode_t)luaL_optinteger(L, 1, 022));
  if (lua_isnoneornil(L, 1))
    umask(old);
  lua_pushinteger(L, old);
  return 1;
}

static int kit_chdir(lua_State *L) {
  return kit_told(L, chdir(luaL_checkstring(L, 1)));
}

static int kit_getcwd(lua_State *L) {
  char path[PATH_MAX];
  if (getcwd(path, sizeof path) == NULL)
    return luaL_fileresult(L, 0, NULL);
  lua_pushstring(L, path);
  return 1;
}

static int kit_setenv(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (lua_isnoneornil(L, 2))
    return kit_told(L, unsetenv(name));
  return kit_told(L, setenv(name, luaL_checkstring(L, 2), 1));
}

static int kit_environ(lua_State *L) {
  int n = 0;
  lua_newtable(L);
  for (char **e = environ; e != NULL && *e != NULL; e++) {
    lua_pushstring(L, *e);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int kit_mkdir(lua_State *L) {
  return kit_told(L, mkdir(luaL_checkstring(L, 1), 0777));
}

static int kit_rmdir(lua_State *L) {
  return kit_told(L, rmdir(luaL_checkstring(L, 1)));
}

static int kit_chmod(lua_State *L) {
  return kit_told(L, chmod(luaL_checkstring(L, 1), (mode_t)luaL_checkinteger(L, 2)));
}

static int kit_mkdtemp(lua_State *L) {
  char path[PATH_MAX];
  const char *base = getenv("TMPDIR");
  snprintf(path, sizeof path, "%s/story.XXXXXX", base != NULL ? base : "/tmp");
  if (mkdtemp(path) == NULL)
    return luaL_fileresult(L, 0, path);
  lua_pushstring(L, path);
  return 1;
}

static int kit_ls(lua_State *L) {
  DIR *dir = opendir(luaL_checkstring(L, 1));
  int n = 0;
  if (dir == NULL)
    return luaL_fileresult(L, 0, lua_tostring(L, 1));
  lua_newtable(L);
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
      continue;
    lua_pushstring(L, e->d_name);
    lua_rawseti(L, -2, ++n);
  }
  closedir(dir);
  return 1;
}

static int which_limit(lua_State *L, int idx) {
  static const char *const names[] = {"as",     "core",  "cpu", "fsize",
                                      "nofile", "nproc", NULL};
  static const int which[] = {RLIMIT_AS,    RLIMIT_CORE,   RLIMIT_CPU,
                              RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_NPROC};
  return which[luaL_checkoption(L, idx, NULL, names)];
}

static int kit_getrlimit(lua_State *L) { /* -> soft, hard; -1 is infinity */
  struct rlimit r;
  if (getrlimit(which_limit(L, 1), &r) < 0)
    return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, r.rlim_cur == RLIM_INFINITY ? -1 : (lua_Integer)r.rlim_cur);
  lua_pushinteger(L, r.rlim_max == RLIM_INFINITY ? -1 : (lua_Integer)r.rlim_max);
  return 2;
}

static int kit_setrlimit(lua_State *L) { /* the soft limit */
  struct rlimit r;
  int which = which_limit(L, 1);
  if (getrlimit(which, &r) < 0)
    return luaL_fileresult(L, 0, NULL);
  r.rlim_cur = (rlim_t)luaL_checkinteger(L, 2);
  return kit_told(L, setrlimit(which, &r));
}

/* ---- time and signals ---- */

static int kit_now(lua_State *L) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  lua_pushnumber(L, (lua_Number)t.tv_sec + (lua_Number)t.tv_nsec / 1e9);
  return 1;
}

static int kit_msleep(lua_State *L) { /* all of it, whatever signals come */
  struct timespec left;
  lua_Number ms = luaL_checknumber(L, 1);
  left.tv_sec = (time_t)(ms / 1000);
  left.tv_nsec = (long)((ms - (lua_Number)left.tv_sec * 1000) * 1e6);
  while (nanosleep(&left, &left) < 0 && errno == EINTR)
    continue;
  return 0;
}

static int
kit_block(lua_State *L) { /* block(signal [, false]): the mask of this thread */
  sigset_t set;
  int how = lua_isboolean(L, 2) && !lua_toboolean(L, 2) ? SIG_UNBLOCK : SIG_BLOCK;
  sigemptyset(&set);
  sigaddset(&set, (int)luaL_checkinteger(L, 1));
  return kit_told(L, pthread_sigmask(how, &set, NULL));
}

static volatile sig_atomic_t nsignals;

static void count_signal(int signum) {
  nsignals++;
}

/* disposition(signal, "default"|"ignore"|"count") */
static void reap_any(int signum) { /* as careless programs do at SIGCHLD */
  int saved = errno;
  while (waitpid(-1, NULL, WNOHANG) > 0)
    nsignals++;
  errno = saved;
}

/* disposition(signal, "default"|"ignore"|"count"|"nowait"|"thief") */
static int kit_disposition(lua_State *L) {
  static const char *const names[] = {"default", "ignore", "count",
                                      "nowait",  "thief",  NULL};
  static void (*const handlers[])(int) = {SIG_DFL, SIG_IGN, count_signal, SIG_DFL,
                                          reap_any};
  int which = luaL_checkoption(L, 2, NULL, names);
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = handlers[which];
  sa.sa_flags = which == 3 ? SA_NOCLDWAIT : which == 4 ? SA_RESTART : 0;
  return kit_told(L, sigaction((int)luaL_checkinteger(L, 1), &sa, NULL));
}

static int kit_nsignals(lua_State *L) {
  lua_pushinteger(L, nsignals);
  return 1;
}

/* itimer(milliseconds): SIGALRM at that interval, without SA_RESTART; 0 stops it */
static int kit_itimer(lua_State *L) {
  long us = (long)(luaL_checknumber(L, 1) * 1000);
  struct itimerval t = {{us / 1000000, us % 1000000}, {us / 1000000, us % 1000000}};
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = count_signal;
  sigaction(SIGALRM, &sa, NULL);
  return kit_told(L, setitimer(ITIMER_REAL, &t, NULL));
}

/* deadline(soft, hard): after soft seconds the Lua code of the main thread is interrupted
 * with an error; after hard seconds SIGVTALRM's default action ends the process, so that
 * a story stuck in C ends too. deadline(0, 0) takes both back. */
static lua_State *deadline_state;
static int deadline_hard_s;

static void deadline_hook(lua_State *L, lua_Debug *ar) {
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "the story's deadline has passed");
}

static void on_deadline(int signum) {
  int mask = LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT | LUA_MASKLINE;
  signal(SIGALRM, SIG_DFL); /* the second one ends us */
  alarm((unsigned)deadline_hard_s);
  if (deadline_state != NULL)
    lua_sethook(deadline_state, deadline_hook, mask, 1);
}

static int kit_deadline(lua_State *L) {
  int soft = (int)luaL_checkinteger(L, 1);
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = soft > 0 ? on_deadline : SIG_DFL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  deadline_state = lua_tothread(L, -1);
  deadline_hard_s = (int)luaL_optinteger(L, 2, 5);
  alarm(0);
  sigaction(SIGALRM, &sa, NULL);
  lua_sethook(deadline_state, NULL, 0, 0);
  alarm((unsigned)soft);
  return 0;
}

static const luaL_Reg functions[] = {
    {"fileno", kit_fileno},
    {"open", kit_open},
    {"close", kit_close},
    {"pipe", kit_pipe},
    {"socketpair", kit_socketpair},
    {"dup", kit_dup},
    {"dup2", kit_dup2},
    {"read", kit_read},
    {"write", kit_write},
    {"lseek", kit_lseek},
    {"poll", kit_poll},
    {"getfl", kit_getfl},
    {"getfd", kit_getfd},
    {"fcntl_getfl", kit_getfl},
    {"fcntl_getfd", kit_getfd},
    {"nonblocking", kit_nonblocking},
    {"cloexec", kit_cloexec},
    {"fstat", kit_fstat},
    {"lock", kit_lock},
    {"fds", kit_fds},
    {"fork", kit_fork},
    {"exit", kit_exit},
    {"waitpid", kit_waitpid},
    {"getpid", kit_getpid},
    {"getppid", kit_getppid},
    {"exec_id", kit_exec_id},
    {"getuid", kit_getuid},
    {"setuid", kit_setuid},
    {"getsid", kit_getsid},
    {"getpgid", kit_getpgid},
    {"setpgid", kit_setpgid},
    {"kill", kit_kill},
    {"subreaper", kit_subreaper},
    {"processes", kit_processes},
    {"abort", kit_abort},
    {"segv", kit_segv},
    {"spin", kit_spin},
    {"yield", kit_yield},
    {"umask", kit_umask},
    {"chdir", kit_chdir},
    {"getcwd", kit_getcwd},
    {"setenv", kit_setenv},
    {"environ", kit_environ},
    {"mkdir", kit_mkdir},
    {"rmdir", kit_rmdir},
    {"chmod", kit_chmod},
    {"mkdtemp", kit_mkdtemp},
    {"ls", kit_ls},
    {"getrlimit", kit_getrlimit},
    {"setrlimit", kit_setrlimit},
    {"now", kit_now},
    {"msleep", kit_msleep},
    {"block", kit_block},
    {"disposition", kit_disposition},
    {"nsignals", kit_nsignals},
    {"itimer", kit_itimer},
    {"deadline", kit_deadline},
    {NULL, NULL},
};

static const struct {
  const char *name;
  int number;
} signals[] = {
    {"SIGHUP", SIGHUP},   {"SIGINT", SIGINT},   {"SIGKILL", SIGKILL},
    {"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2}, {"SIGPIPE", SIGPIPE},
    {"SIGALRM", SIGALRM}, {"SIGTERM", SIGTERM}, {"SIGCHLD", SIGCHLD},
    {"SIGCONT", SIGCONT}, {"SIGSTOP", SIGSTOP}, {"SIGSEGV", SIGSEGV},
    {"SIGABRT", SIGABRT}, {"SIGXCPU", SIGXCPU}, {"SIGXFSZ", SIGXFSZ},
    {"SIGQUIT", SIGQUIT}, {"SIGTTIN", SIGTTIN}, {"SIGTTOU", SIGTTOU},
};

__attribute__((visibility("default"))) int luaopen_testkit(lua_State *L);
int luaopen_testkit(lua_State *L) {
  luaL_newlib(L, functions);
  luaL_setfuncs(L, kit_unfit_functions, 0);
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
    lua_pushinteger(L, signals[i].number);
    lua_setfield(L, -2, signals[i].name);
  }
  return 1;
}
