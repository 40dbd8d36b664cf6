/* testkit: threads, handlers at fork and exit, and what else makes a template unfit. */
#include "testkit.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

static volatile int threads_stop;

static void *thread_idle(void *unused) {
  while (!threads_stop)
    poll(NULL, 0, 20);
  return NULL;
}

static void *
thread_busy(void *unused) { /* allocates, and gives the processor away often */
  for (unsigned n = 1; !threads_stop; n++) {
    void *block = malloc(16 + n % 5000);
    memset(block, 1, 16);
    free(block);
    if (n % 256 == 0)
      poll(NULL, 0, 1);
  }
  return NULL;
}

static pthread_t threads[64];
static int nthreads;

static int kit_threads(lua_State *L) { /* threads(n, "idle"|"busy") */
  static const char *const names[] = {"idle", "busy", NULL};
  int n = (int)luaL_checkinteger(L, 1), busy = luaL_checkoption(L, 2, "idle", names);
  threads_stop = 0;
  while (n-- > 0 && nthreads < 64) {
    int e =
        pthread_create(&threads[nthreads], NULL, busy ? thread_busy : thread_idle, NULL);
    if (e != 0)
      return luaL_error(L, "pthread_create: %s", strerror(e));
    nthreads++;
  }
  return 0;
}

static int kit_threads_stop(lua_State *L) {
  threads_stop = 1;
  while (nthreads > 0)
    pthread_join(threads[--nthreads], NULL);
  return 0;
}

static int kit_epoll(lua_State *L) {
#ifdef __linux__
  return kit_pushed(L, epoll_create1(EPOLL_CLOEXEC));
#else
  return luaL_error(L, "no epoll on this system");
#endif
}

static int counter;

#ifdef __linux__
static int kit_dumpable(lua_State *L) { /* of this process: 0, 1 or 2 */
  return kit_pushed(L, prctl(PR_GET_DUMPABLE));
}

/* A duplicate of another process's descriptor (pidfd_getfd(2), Linux 5.6). */
static int kit_steal(lua_State *L) {
  int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)luaL_checkinteger(L, 1), 0);
  if (pidfd < 0)
    return luaL_fileresult(L, 0, NULL);
  int fd = (int)syscall(438, pidfd, (int)luaL_checkinteger(L, 2), 0);
  int saved = errno;
  close(pidfd);
  errno = saved;
  return kit_pushed(L, fd);
}
#endif

static int kit_count(lua_State *L) { /* a static variable of a C module */
  lua_pushinteger(L, ++counter);
  return 1;
}

static char atexit_path[PATH_MAX];

static void atexit_mark(void) {
  int fd = open(atexit_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0)
    return;
  if (write(fd, "atexit\n", 7) < 0)
    return;
  close(fd);
}

static int kit_atexit(lua_State *L) { /* atexit(path): appends a line at exit(3) */
  snprintf(atexit_path, sizeof atexit_path, "%s", luaL_checkstring(L, 1));
  return kit_told(L, atexit(atexit_mark));
}

static int atfork_births;

static void atfork_child(void) {
  atfork_births++;
}

static int kit_atfork(lua_State *L) { /* counts from now on; -> births so far */
  static int installed;
  if (!installed)
    pthread_atfork(NULL, NULL, atfork_child);
  installed = 1;
  lua_pushinteger(L, atfork_births);
  return 1;
}

static struct {
  int prepare, parent, child;
  char order[64];
} forks;

static void note_fork(int *count, char letter) {
  size_t n = strlen(forks.order);
  ++*count;
  if (n + 1 < sizeof forks.order)
    forks.order[n] = letter;
}
static void prepare_first(void) {
  note_fork(&forks.prepare, 'a');
}
static void prepare_second(void) {
  note_fork(&forks.prepare, 'b');
}
static void parent_first(void) {
  note_fork(&forks.parent, 'p');
}
static void child_first(void) {
  note_fork(&forks.child, 'c');
}
static void child_second(void) {
  note_fork(&forks.child, 'd');
}

/* handlers(): registers two sets of all three kinds; -> how often each kind ran, and in
 * which order */
static int kit_handlers(lua_State *L) {
  static int installed;
  if (!installed) {
    pthread_atfork(prepare_first, parent_first, child_first);
    pthread_atfork(prepare_second, NULL, child_second);
  }
  installed = 1;
  lua_pushinteger(L, forks.prepare);
  lua_pushinteger(L, forks.parent);
  lua_pushinteger(L, forks.child);
  lua_pushstring(L, forks.order);
  return 4;
}

static sigset_t blocked_before;
static volatile sig_atomic_t raised;

static void on_raised(int signum) {
  raised += getpid() > 0 && signum == SIGUSR1;
}

static void block_all(void) {
  sigset_t all;
  signal(SIGUSR1, on_raised);
  sigemptyset(&all);
  sigaddset(&all, SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &all, NULL);
  raise(SIGUSR1);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &blocked_before);
}

static void block_no_more(void) {
  pthread_sigmask(SIG_SETMASK, &blocked_before, NULL);
}

/* signals_in_prepare(): from now on a signal comes and all are blocked while this process
 * forks; -> how many came */
static int kit_signals_in_prepare(lua_State *L) {
  static int installed;
  if (!installed)
    pthread_atfork(block_all, block_no_more, block_no_more);
  installed = 1;
  lua_pushinteger(L, raised);
  return 1;
}

static FILE *births;

static void note_birth(void) {
  fputs("born ", births);
}

/* note_births(path): a word for each new process, by its own buffered stream */
static int kit_note_births(lua_State *L) {
  births = fopen(luaL_checkstring(L, 1), "a");
  return kit_told(L, births ? pthread_atfork(NULL, NULL, note_birth) : -1);
}

static void send_sigsys(void) {
  kill(getpid(), SIGSYS);
}

/* sigsys_in_prepare(): this process ends by a signal when it forks */
static int kit_sigsys_in_prepare(lua_State *L) {
  return kit_told(L, pthread_atfork(send_sigsys, NULL, NULL));
}

/* redirects(): whether the kernel hands system calls to a handler
 * (src/template/fork/libc_fork.h) */
static int kit_redirects(lua_State *L) {
  int r = -1;
#if defined(__x86_64__) && defined(__GLIBC__) && defined(PR_SET_SYSCALL_USER_DISPATCH)
  static char allow;
  r = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &allow);
  if (r == 0)
    prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
#endif
  lua_pushboolean(L, r == 0);
  return 1;
}

static void *answer(void *arg) {
  *(int *)arg = 42;
  return NULL;
}

/* selftest(): whether what libc keeps of a thread is right in this process: its number in
 * the owner of a mutex, new threads, signals to itself, system and fork. -> nil, or what
 * is not */
static int kit_selftest(lua_State *L) {
  pthread_mutexattr_t a;
  pthread_mutex_t m;
  pthread_t t;
  int value = 0, status = 0;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
  pthread_mutex_init(&m, &a);
  pthread_mutex_lock(&m);
#ifdef __GLIBC__
  if (m.__data.__owner != (int)syscall(SYS_gettid))
    return luaL_error(L, "owner of a mutex");
#endif
  if (pthread_mutex_lock(&m) != EDEADLK)
    return luaL_error(L, "a lock taken twice");
  if (pthread_mutex_unlock(&m) != 0)
    return luaL_error(L, "a lock given back");
  if (pthread_create(&t, NULL, answer, &value) != 0 || pthread_join(t, NULL) != 0 ||
      value != 42)
    return luaL_error(L, "a thread");
  if (pthread_kill(pthread_self(), 0) != 0)
    return luaL_error(L, "a signal to itself");
  if (system("exit 3") != 3 << 8)
    return luaL_error(L, "system");
  pid_t pid = fork();
  if (pid == 0)
    _exit(getpid() == (pid_t)syscall(SYS_gettid) ? 5 : 6);
  if (waitpid(pid, &status, 0) != pid || status != 5 << 8)
    return luaL_error(L, "fork");
  return 0;
}

/* forged(pid): after each fork of this process from now on, all of what it shares with
 * the program is that number */
static int forged;

static void forge(void) {
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    unsigned long start, end;
    if (strstr(line, "rw-s") == NULL || strstr(line, "memfd:moonfork") == NULL)
      continue;
    if (sscanf(line, "%lx-%lx", &start, &end) != 2)
      continue;
    for (volatile int *word = (volatile int *)start; (unsigned long)word < start + 4096;
         word++)
      *word = forged;
  }
  if (maps != NULL)
    fclose(maps);
}

static int kit_forged(lua_State *L) {
  forged = (int)luaL_checkinteger(L, 1);
  return kit_told(L, pthread_atfork(NULL, forge, NULL));
}

/* random(): 16 bytes of libcrypto's generator, or nil where there is none */
static int kit_random(lua_State *L) {
  unsigned char bytes[16];
  int (*generate)(unsigned char *, int) = NULL;
  void *library = dlopen("libcrypto.so.3", RTLD_LAZY | RTLD_GLOBAL);
  if (library != NULL)
    *(void **)&generate = dlsym(library, "RAND_bytes");
  if (generate == NULL || generate(bytes, sizeof bytes) != 1)
    return 0;
  lua_pushlstring(L, (const char *)bytes, sizeof bytes);
  return 1;
}

static int kit_printf(lua_State *L) { /* buffered output of a C module, not flushed */
  fputs(luaL_checkstring(L, 1), stdout);
  return 0;
}

const luaL_Reg kit_unfit_functions[] = {
    {"threads", kit_threads},
    {"threads_stop", kit_threads_stop},
    {"epoll", kit_epoll},
#ifdef __linux__
    {"dumpable", kit_dumpable},
    {"steal", kit_steal},
#endif
    {"count", kit_count},
    {"atexit", kit_atexit},
    {"atfork", kit_atfork},
    {"handlers", kit_handlers},
    {"signals_in_prepare", kit_signals_in_prepare},
    {"note_births", kit_note_births},
    {"sigsys_in_prepare", kit_sigsys_in_prepare},
    {"redirects", kit_redirects},
    {"selftest", kit_selftest},
    {"forged", kit_forged},
    {"random", kit_random},
    {"printf", kit_printf},
    {NULL, NULL},
};
