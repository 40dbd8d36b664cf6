/* shim: a library for LD_PRELOAD that makes calls of libc fail, or be short.
 *
 * Runs in whatever process it is loaded into; forked copies count on from where their
 * parent stood. What it does is said by the environment, read once at start:
 *
 *   SHORTIO=k           read, write, readv, writev, send, recv, sendmsg and recvmsg move
 * a random 1..k bytes (descriptors in a message travel all the same) SHIM_SEED=n seed of
 * that randomness SHIM_SAY=1          prints the seed, and the stack of every call that
 * is made to fail FAIL_FN=a,b         which functions fail: the names in `struct point`
 * below, or "all" FAIL_AT=n           the n-th call of them (1 is the first), counted
 * together FAIL_ERRNO=e        with this number (default per function: what the kernel
 * would say) FAIL_ONCE=1         only that call; else every one from there on
 *   FORK_CHILD=exit:3   the child of the fork number FAIL_AT leaves with _exit(3) at
 * once; FORK_CHILD=kill:9   or by a signal; FAIL_FN is then not needed WRITE_KILL=n the
 * n-th write or sendmsg moves one byte, then SIGKILL SHIM_CHILD=1        nothing happens
 * until the process has been forked from the one that was executed (so that templates are
 * left alone)
 *
 * A program that has the shim loaded may arm it itself: shim_arm(names, at, number,
 * once), shim_hits() since then, shim_disarm().
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum point {
  P_MALLOC,
  P_CALLOC,
  P_REALLOC,
  P_DUP,
  P_SOCKETPAIR,
  P_FCNTL,
  P_EPOLL_CTL,
  P_EPOLL_CREATE,
  P_EVENTFD,
  P_PIPE,
  P_SENDMSG,
  P_RECVMSG,
  P_READ,
  P_WRITE,
  P_FORK,
  P_SPAWN,
  P_MMAP,
  P_OPEN,
  POINTS
};

static const struct {
  const char *name;
  int number;
} points[POINTS] = {
    [P_MALLOC] = {"malloc", ENOMEM},
    [P_CALLOC] = {"calloc", ENOMEM},
    [P_REALLOC] = {"realloc", ENOMEM},
    [P_DUP] = {"dup", EMFILE},
    [P_SOCKETPAIR] = {"socketpair", EMFILE},
    [P_FCNTL] = {"fcntl", EMFILE},
    [P_EPOLL_CTL] = {"epoll_ctl", ENOMEM},
    [P_EPOLL_CREATE] = {"epoll_create", EMFILE},
    [P_EVENTFD] = {"eventfd", EMFILE},
    [P_PIPE] = {"pipe", EMFILE},
    [P_SENDMSG] = {"sendmsg", ENOBUFS},
    [P_RECVMSG] = {"recvmsg", ENOMEM},
    [P_READ] = {"read", EINTR},
    [P_WRITE] = {"write", EINTR},
    [P_FORK] = {"fork", EAGAIN},
    [P_SPAWN] = {"posix_spawn", EAGAIN},
    [P_MMAP] = {"mmap", ENOMEM},
    [P_OPEN] = {"open", EMFILE},
};

static struct {
  int ready, armed, once, number;
  uint32_t mask;
  long at;
  int shortio;
  int child_kind, child_value; /* 1: exit, 2: kill */
  long write_kill;
  int only_children, say;
  pid_t first;
  uint64_t random;
} shim;
static _Atomic long calls, hits, forks, writes;

#define REAL(name)                                                                       \
  static __typeof__(&name) real;                                                         \
  if (!real)                                                                             \
  *(void **)&real = dlsym(RTLD_NEXT, #name)

static uint32_t mask_of(const char *names) {
  uint32_t mask = 0;
  if (!names)
    return 0;
  if (strcmp(names, "all") == 0)
    return (1u << POINTS) - 1;
  while (*names) {
    size_t length = strcspn(names, ",");
    for (int i = 0; i < POINTS; i++)
      if (strlen(points[i].name) == length && memcmp(points[i].name, names, length) == 0)
        mask |= 1u << i;
    names += length + (names[length] == ',');
  }
  return mask;
}

static long number_in(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

static void read_environment(void) {
  if (shim.ready)
    return;
  shim.ready = 1;
  shim.first = getpid();
  shim.shortio = (int)number_in("SHORTIO", 0);
  shim.mask = mask_of(getenv("FAIL_FN"));
  shim.at = number_in("FAIL_AT", 1);
  shim.number = (int)number_in("FAIL_ERRNO", 0);
  shim.once = (int)number_in("FAIL_ONCE", 0);
  shim.write_kill = number_in("WRITE_KILL", 0);
  shim.only_children = (int)number_in("SHIM_CHILD", 0);
  shim.armed = shim.mask != 0;
  const char *child = getenv("FORK_CHILD");
  if (child && strncmp(child, "exit:", 5) == 0)
    shim.child_kind = 1;
  if (child && strncmp(child, "kill:", 5) == 0)
    shim.child_kind = 2;
  if (shim.child_kind)
    shim.child_value = atoi(child + 5);
  shim.random = (uint64_t)number_in("SHIM_SEED", (long)time(NULL)) * 2654435761u +
                88172645463325252u;
  shim.say = (int)number_in("SHIM_SAY", 0);
  if (shim.say)
    dprintf(2, "shim: seed %ld\n", number_in("SHIM_SEED", (long)time(NULL)));
}

static void before_fork(void) {
  forks++;
}

static void in_child(void) {
  if (forks != shim.at)
    return;
  if (shim.child_kind == 1)
    _exit(shim.child_value);
  raise(shim.child_value);
}

__attribute__((constructor)) static void at_start(void) {
  read_environment();
  if (shim.child_kind)
    pthread_atfork(before_fork, NULL, in_child); /* of fork and raw clones */
}

static int idle(void) {
  return !shim.ready || (shim.only_children && getpid() == shim.first);
}

/* Addresses; addr2line -e FILE OFFSET names the line. */
static void say_where(void) {
  void *frames[16];
  int armed = shim.armed;
  shim.armed = 0;
  backtrace_symbols_fd(frames, backtrace(frames, 16), 2);
  shim.armed = armed;
}

/* Whether this call shall fail; sets errno then. */
static int fails(enum point point) {
  if (!shim.armed || !(shim.mask & (1u << point)) || idle())
    return 0;
  long count = atomic_fetch_add(&calls, 1) + 1;
  if (shim.once ? count != shim.at : count < shim.at)
    return 0;
  atomic_fetch_add(&hits, 1);
  if (shim.say)
    say_where();
  errno = shim.number ? shim.number : points[point].number;
  return 1;
}

static size_t shorter(size_t length) {
  if (shim.shortio <= 0 || length <= 1 || idle())
    return length;
  shim.random ^= shim.random << 13;
  shim.random ^= shim.random >> 7;
  shim.random ^= shim.random << 17;
  size_t limit = 1 + (size_t)(shim.random % (uint64_t)shim.shortio);
  return limit < length ? limit : length;
}

/* A copy of the vector cut to `limit` bytes in all. */
static size_t cut_vector(const struct iovec *from, size_t count, struct iovec *to,
                         size_t limit) {
  size_t n = 0;
  for (; n < count && n < 64 && limit > 0; n++) {
    to[n] = from[n];
    if (to[n].iov_len > limit)
      to[n].iov_len = limit;
    limit -= to[n].iov_len;
  }
  return n;
}

static size_t vector_length(const struct iovec *vector, size_t count) {
  size_t length = 0;
  for (size_t i = 0; i < count; i++)
    length += vector[i].iov_len;
  return length;
}

static int last_write(void) {
  if (!shim.write_kill || idle())
    return 0;
  return atomic_fetch_add(&writes, 1) + 1 == shim.write_kill;
}

/* ---- for programs that arm it themselves ---- */

PUBLIC void shim_arm(const char *names, long at, int number, int once);
PUBLIC long shim_hits(void);
PUBLIC long shim_calls(void);
PUBLIC void shim_disarm(void);

void shim_arm(const char *names, long at, int number, int once) {
  read_environment();
  atomic_store(&calls, 0);
  atomic_store(&hits, 0);
  shim.mask = mask_of(names);
  shim.at = at;
  shim.number = number;
  shim.once = once;
  shim.armed = 1;
}

long shim_hits(void) {
  return atomic_load(&hits);
}

long shim_calls(void) {
  return atomic_load(&calls);
}

void shim_disarm(void) {
  shim.armed = 0;
}

/* ---- memory ---- */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

PUBLIC void *malloc(size_t size) {
  return fails(P_MALLOC) ? NULL : __libc_malloc(size);
}

PUBLIC void *calloc(size_t count, size_t size) {
  return fails(P_CALLOC) ? NULL : __libc_calloc(count, size);
}

PUBLIC void *realloc(void *old, size_t size) {
  return fails(P_REALLOC) ? NULL : __libc_realloc(old, size);
}

PUBLIC void *mmap(void *at, size_t length, int protection, int flags, int fd,
                  off_t offset) {
  REAL(mmap);
  return fails(P_MMAP) ? MAP_FAILED : real(at, length, protection, flags, fd, offset);
}

/* ---- descriptors ---- */

PUBLIC int dup(int fd) {
  REAL(dup);
  return fails(P_DUP) ? -1 : real(fd);
}

PUBLIC int dup2(int fd, int to) {
  REAL(dup2);
  return fails(P_DUP) ? -1 : real(fd, to);
}

PUBLIC int dup3(int fd, int to, int flags) {
  REAL(dup3);
  return fails(P_DUP) ? -1 : real(fd, to, flags);
}

static int fcntl_fails(int command) {
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
    return fails(P_DUP);
  return fails(P_FCNTL);
}

PUBLIC int fcntl(int fd, int command, ...) {
  REAL(fcntl);
  va_list list;
  va_start(list, command);
  void *arg = va_arg(list, void *);
  va_end(list);
  return fcntl_fails(command) ? -1 : real(fd, command, arg);
}

PUBLIC int fcntl64(int fd, int command, ...) {
  REAL(fcntl64);
  va_list list;
  va_start(list, command);
  void *arg = va_arg(list, void *);
  va_end(list);
  return fcntl_fails(command) ? -1 : real(fd, command, arg);
}

PUBLIC int open(const char *path, int flags, ...) {
  REAL(open);
  va_list list;
  va_start(list, flags);
  int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;
  va_end(list);
  return fails(P_OPEN) ? -1 : real(path, flags, mode);
}

PUBLIC int pipe2(int fds[2], int flags) {
  REAL(pipe2);
  return fails(P_PIPE) ? -1 : real(fds, flags);
}

PUBLIC int pipe(int fds[2]) {
  REAL(pipe);
  return fails(P_PIPE) ? -1 : real(fds);
}

PUBLIC int socketpair(int domain, int type, int protocol, int fds[2]) {
  REAL(socketpair);
  return fails(P_SOCKETPAIR) ? -1 : real(domain, type, protocol, fds);
}

PUBLIC int eventfd(unsigned value, int flags) {
  REAL(eventfd);
  return fails(P_EVENTFD) ? -1 : real(value, flags);
}

PUBLIC int epoll_create1(int flags) {
  REAL(epoll_create1);
  return fails(P_EPOLL_CREATE) ? -1 : real(flags);
}

PUBLIC int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event) {
  REAL(epoll_ctl);
  return fails(P_EPOLL_CTL) ? -1 : real(epoll, op, fd, event);
}

/* ---- bytes ---- */

PUBLIC ssize_t read(int fd, void *bytes, size_t length) {
  REAL(read);
  return fails(P_READ) ? -1 : real(fd, bytes, shorter(length));
}

PUBLIC ssize_t __read_chk(int fd, void *bytes, size_t length, size_t room);
ssize_t __read_chk(int fd, void *bytes, size_t length, size_t room) {
  if (length > room)
    abort();
  return read(fd, bytes, length);
}

PUBLIC ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write);
  if (fails(P_WRITE))
    return -1;
  if (!last_write())
    return real(fd, bytes, shorter(length));
  ssize_t unused = real(fd, bytes, length > 1 ? 1 : length);
  (void)unused;
  raise(SIGKILL);
  return -1;
}

PUBLIC ssize_t readv(int fd, const struct iovec *vector, int count) {
  REAL(readv);
  struct iovec cut[64];
  if (fails(P_READ))
    return -1;
  size_t limit = shorter(vector_length(vector, (size_t)count));
  return real(fd, cut, (int)cut_vector(vector, (size_t)count, cut, limit));
}

PUBLIC ssize_t writev(int fd, const struct iovec *vector, int count) {
  REAL(writev);
  struct iovec cut[64];
  if (fails(P_WRITE))
    return -1;
  int last = last_write();
  size_t limit = last ? 1 : shorter(vector_length(vector, (size_t)count));
  ssize_t moved = real(fd, cut, (int)cut_vector(vector, (size_t)count, cut, limit));
  if (last)
    raise(SIGKILL);
  return moved;
}

PUBLIC ssize_t recv(int fd, void *bytes, size_t length, int flags) {
  REAL(recv);
  return fails(P_RECVMSG) ? -1 : real(fd, bytes, shorter(length), flags);
}

PUBLIC ssize_t send(int fd, const void *bytes, size_t length, int flags) {
  REAL(send);
  if (fails(P_SENDMSG))
    return -1;
  int last = last_write();
  ssize_t moved = real(fd, bytes, last && length > 1 ? 1 : shorter(length), flags);
  if (last)
    raise(SIGKILL);
  return moved;
}

PUBLIC ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  REAL(recvmsg);
  struct iovec cut[64];
  if (fails(P_RECVMSG))
    return -1;
  struct iovec *vector = message->msg_iov;
  size_t count = message->msg_iovlen;
  message->msg_iovlen =
      cut_vector(vector, count, cut, shorter(vector_length(vector, count)));
  message->msg_iov = cut;
  ssize_t moved = real(fd, message, flags);
  message->msg_iov = vector;
  message->msg_iovlen = count;
  return moved;
}

PUBLIC ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  REAL(sendmsg);
  struct iovec cut[64];
  if (fails(P_SENDMSG))
    return -1;
  int last = last_write();
  struct msghdr copy = *message;
  size_t length = vector_length(message->msg_iov, message->msg_iovlen);
  copy.msg_iovlen = cut_vector(message->msg_iov, message->msg_iovlen, cut,
                               last && length > 1 ? 1 : shorter(length));
  copy.msg_iov = cut;
  ssize_t moved = real(fd, &copy, flags);
  if (last)
    raise(SIGKILL);
  return moved;
}

/* ---- processes ---- */

PUBLIC pid_t fork(void) {
  REAL(fork);
  return fails(P_FORK) ? -1 : real();
}

#include <spawn.h>

PUBLIC int posix_spawn(pid_t *pid, const char *path,
                       const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attr, char *const argv[],
                       char *const envp[]) {
  REAL(posix_spawn);
  if (fails(P_SPAWN))
    return errno;
  return real(pid, path, actions, attr, argv, envp);
}

PUBLIC int posix_spawnp(pid_t *pid, const char *file,
                        const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attr, char *const argv[],
                        char *const envp[]) {
  REAL(posix_spawnp);
  if (fails(P_SPAWN))
    return errno;
  return real(pid, file, actions, attr, argv, envp);
}
