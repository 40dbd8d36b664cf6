/* unsafe: modules that do, while they are loaded, what a fork gets wrong: one function
 * for each, loaded as "unsafe.NAME". For the stories about the audit and the doctor.
 * Where the system does not allow it they raise "refused". */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MODULE(name)                                                                     \
  __attribute__((visibility("default"))) int luaopen_unsafe_##name(lua_State *L);        \
  int luaopen_unsafe_##name(lua_State *L)

static volatile sig_atomic_t nurgent;

static void count_urgent(int signum) {
  (void)signum;
  nurgent++;
}

/* Sends itself SIGURG. How many the handler has seen. */
static int l_urgent(lua_State *L) {
  pthread_kill(pthread_self(), SIGURG);
  lua_pushinteger(L, nurgent);
  return 1;
}

static int done(lua_State *L, long r) {
  if (r < 0)
    return luaL_error(L, "refused: %s", strerror(errno));
  lua_pushboolean(L, 1);
  return 1;
}

static int temporary_file(void) {
  char path[] = "/tmp/moonfork-unsafe-XXXXXX";
  int fd = mkostemp(path, O_CLOEXEC);
  unlink(path);
  return fd;
}

static void *sleeper(void *unused) {
  for (;;)
    pause();
  return unused;
}

static void on_signal(int signum) {
  (void)signum;
}

static void nothing(void) {
}

MODULE(thread) {
  pthread_t thread;
  errno = pthread_create(&thread, NULL, sleeper, NULL);
  return done(L, errno ? -1 : 0);
}
MODULE(epoll) {
  return done(L, epoll_create1(EPOLL_CLOEXEC));
}
MODULE(io_uring) {
  unsigned params[30] = {0}; /* struct io_uring_params */
  return done(L, syscall(SYS_io_uring_setup, 2, params));
}
MODULE(timerfd) {
  return done(L, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
}
MODULE(signalfd) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return done(L, signalfd(-1, &set, SFD_CLOEXEC));
}
MODULE(eventfd) {
  return done(L, eventfd(0, EFD_CLOEXEC));
}
MODULE(inotify) {
  return done(L, inotify_init1(IN_CLOEXEC));
}
MODULE(fanotify) {
  return done(L, fanotify_init(FAN_CLOEXEC, O_RDONLY));
}
MODULE(perf_event) {
  unsigned attr[32] = {1, sizeof attr}; /* PERF_TYPE_SOFTWARE, and the size */
  attr[10] = 0x20 | 0x40;               /* neither the kernel nor a hypervisor */
  return done(L, syscall(SYS_perf_event_open, attr, 0, -1, -1, 0));
}
MODULE(userfaultfd) {
  return done(L, syscall(SYS_userfaultfd, O_CLOEXEC));
}
MODULE(pidfd) {
  return done(L, syscall(SYS_pidfd_open, getpid(), 0));
}
MODULE(pipe) {
  int fds[2];
  return done(L, pipe2(fds, O_CLOEXEC));
}
MODULE(listener) {
  struct sockaddr_un address = {.sun_family = AF_UNIX}; /* binds to a free name */
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address.sun_family) < 0)
    return done(L, -1);
  return done(L, listen(fd, 1));
}
MODULE(connection) {
  int fds[2];
  return done(L, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
}
MODULE(socket) {
  return done(L, socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}
MODULE(directory) {
  return done(L, opendir("/") ? 0 : -1);
}
MODULE(memfd) {
  return done(L, memfd_create("unsafe", MFD_CLOEXEC));
}
MODULE(terminal) {
  return done(L, posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
}
MODULE(device) {
  return done(L, open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
}
MODULE(kernel_object) {
  return done(L, open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC));
}
MODULE(flock) {
  return done(L, flock(temporary_file(), LOCK_EX));
}
MODULE(record_lock) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return done(L, fcntl(temporary_file(), F_SETLK, &lock));
}
MODULE(timer) {
  struct itimerval value = {.it_value = {.tv_sec = 1000}};
  return done(L, setitimer(ITIMER_VIRTUAL, &value, NULL));
}
MODULE(posix_timer) {
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_NONE};
  return done(L, timer_create(CLOCK_MONOTONIC, &event, &timer));
}
MODULE(signal_handler) {
  return done(L, signal(SIGUSR1, on_signal) == SIG_ERR ? -1 : 0);
}
MODULE(realtime_handler) {
  return done(L, signal(SIGRTMAX, on_signal) == SIG_ERR ? -1 : 0);
}
MODULE(signal_ignored) {
  return done(L, signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -1 : 0);
}
MODULE(signal_mask) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return done(L, sigprocmask(SIG_BLOCK, &set, NULL));
}
MODULE(signal_stack) {
  static char room[65536];
  stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
  return done(L, sigaltstack(&stack, NULL));
}
MODULE(environment) {
  return done(L, setenv("MOONFORK_UNSAFE", "yes", 1));
}
static int collected(lua_State *L) {
  (void)L;
  return 0;
}
MODULE(c_finaliser) { /* as a library's handle: in a field of the module */
  lua_createtable(L, 0, 1);
  lua_newuserdatauv(L, 1, 0);
  luaL_newmetatable(L, "unsafe.handle");
  lua_pushcfunction(L, collected);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_setfield(L, -2, "handle");
  return 1;
}
MODULE(registry) { /* the same, where only C can see it */
  lua_newuserdatauv(L, 1, 0);
  luaL_newmetatable(L, "unsafe.hidden");
  lua_pushcfunction(L, collected);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  return done(L, 0);
}
static long map(int flags, int advice) {
  void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return -1;
  return advice ? madvise(p, 4096, advice) : 0;
}
MODULE(shared_memory) {
  return done(L, map(MAP_SHARED, 0));
}
MODULE(absent_memory) {
  return done(L, map(MAP_PRIVATE, MADV_DONTFORK));
}
MODULE(locked_memory) {
  static char room[8192]; /* sanitizers have an mlock that does nothing */
  return done(L, syscall(SYS_mlock, room, sizeof room));
}
MODULE(aio) {
  unsigned long context = 0;
  return done(L, syscall(SYS_io_setup, 1, &context));
}
MODULE(child_process) {
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
      _exit(0);
    for (;;)
      pause();
  }
  return done(L, pid);
}
MODULE(working_directory) {
  char now[2];
  return done(L, chdir(getcwd(now, sizeof now) ? "/usr" : "/"));
}
MODULE(umask) {
  umask(umask(0) ^ 0007);
  return done(L, 0);
}
MODULE(nice) {
  int now = getpriority(PRIO_PROCESS, 0);
  if (now == 19)
    return luaL_error(L, "refused: it is as nice as can be");
  return done(L, setpriority(PRIO_PROCESS, 0, now + 1));
}
MODULE(affinity) {
  cpu_set_t all, one;
  if (sched_getaffinity(0, sizeof all, &all) < 0)
    return done(L, -1);
  if (CPU_COUNT(&all) < 2)
    return luaL_error(L, "refused: there is one processor");
  CPU_ZERO(&one);
  for (int i = 0; CPU_COUNT(&one) == 0; i++)
    if (CPU_ISSET(i, &all))
      CPU_SET(i, &one);
  return done(L, sched_setaffinity(0, sizeof one, &one));
}
MODULE(credentials) {
  return done(L, setegid(getegid() == 65534 ? 65533 : 65534));
}
MODULE(process_group) {
  return done(L, setpgid(0, 0));
}
MODULE(resource_limits) {
  struct rlimit limit;
  getrlimit(RLIMIT_CORE, &limit);
  limit.rlim_cur = limit.rlim_cur == 0 ? 4096 : 0;
  return done(L, setrlimit(RLIMIT_CORE, &limit));
}
MODULE(exit_handler) {
  return done(L, atexit(nothing));
}
MODULE(fork_handler) {
  return done(L, pthread_atfork(nothing, nothing, nothing));
}
MODULE(crash) {
  raise(SIGSEGV);
  return done(L, 0);
}
MODULE(fork) { /* both go on */
  return done(L, fork());
}
MODULE(thread_exit) { /* the whole thread, and nothing of Lua */
  (void)L;
  pthread_exit(NULL);
}
MODULE(thread_cancel) {
  pthread_cancel(pthread_self());
  pthread_testcancel();
  return done(L, 0);
}
MODULE(thread_detach) {
  (void)pthread_detach(pthread_self());
  return done(L, 0);
}
MODULE(leave) { /* as exit(0), past all handlers */
  (void)L;
  _exit(0);
}
MODULE(exit) {
  (void)L;
  exit(9);
}
MODULE(abort) {
  (void)L;
  abort();
}
MODULE(urgent) {
  signal(SIGURG, count_urgent);
  lua_pushcfunction(L, l_urgent);
  return 1;
}
