/* The fork-safety audit (audit.h). Looks at what the kernel tells about this process: the
 * thread count, the kinds of its descriptors (/proc/self/fd), caught signals, timers.
 * Where there is no /proc it knows nothing and lets pass. */
#include "template/audit/audit.h"

#include "os/fd.h"
#include "os/proc.h"
#include "template/server/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { MARK_BITS = 8 * sizeof(((struct audit_mark *)0)->open), LINK_MAX_SIZE = 64 };
enum { THREAD_EXIT_TIMEOUT_MS = 20 };

void audit_init(struct audit *a, int (*is_ours)(int fd, void *data), void *data) {
  memset(a, 0, sizeof *a);
  a->is_ours = is_ours;
  a->data = data;
}

void audit_touch(struct audit *a) {
  a->known = 0;
}

/* ---- marks ---- */

static void set_bit(int fd, void *data) {
  struct audit_mark *m = data;
  if (fd < (int)MARK_BITS)
    m->open[fd / 8] |= (unsigned char)(1 << fd % 8);
}

static int has_bit(const struct audit_mark *m, int fd) {
  return m->open[fd / 8] >> fd % 8 & 1;
}

static void take_mark(struct audit_mark *m) {
  memset(m, 0, sizeof *m);
  m->threads = proc_threads();
  fd_each(3, set_bit, m);
}

/* The entry of fd if it is still the same object. A stale one is dropped. */
static struct audit_seen *find_seen(struct audit *a, int fd) {
  struct stat st;
  for (int i = 0; i < a->nseen; i++) {
    struct audit_seen *s = &a->seen[i];
    if (s->fd != fd)
      continue;
    if (fstat(fd, &st) == 0 && st.st_dev == s->device && st.st_ino == s->inode)
      return s;
    *s = a->seen[--a->nseen];
    return NULL;
  }
  return NULL;
}

/* A name that fits into a message and a terminal, whatever the module is called. */
static void copy_name(char *to, const char *name) {
  size_t n = 0;
  for (; name[n] != '\0' && n < AUDIT_NAME_MAX - 1; n++)
    to[n] = (unsigned char)name[n] < ' ' || name[n] == 0x7f ? '?' : name[n];
  to[n] = '\0';
}

static void blame(struct audit *a, int fd, const char *name) {
  struct stat st;
  if (find_seen(a, fd) != NULL || a->nseen == AUDIT_SEEN_MAX || fstat(fd, &st) != 0)
    return; /* the innermost has spoken first */
  struct audit_seen *s = &a->seen[a->nseen++];
  s->fd = fd;
  s->device = st.st_dev;
  s->inode = st.st_ino;
  copy_name(s->by, name);
}

static void compare(struct audit *a, const struct audit_mark *before, const char *name) {
  struct audit_mark now;
  take_mark(&now);
  audit_touch(a);
  if (now.threads < a->nthreads)
    a->nthreads = now.threads;
  if (now.threads > before->threads && now.threads > a->nthreads) {
    copy_name(a->threads_by, name);
    a->nthreads = now.threads;
  }
  if (memcmp(now.open, before->open, sizeof now.open) == 0)
    return;
  for (int fd = 3; fd < (int)MARK_BITS; fd++)
    if (has_bit(&now, fd) && !has_bit(before, fd))
      blame(a, fd, name);
}

void audit_before(struct audit *a, lua_State *L) {
  take_mark(&a->outermost);
}

void audit_after(struct audit *a, lua_State *L, const char *name) {
  compare(a, &a->outermost, name);
}

/* Upvalues of the three: the audit, the function that was there. Errors are left to who
 * called: the next bracket outside accounts for what the failed one has left. */
static int watched_loader(lua_State *L) {
  struct audit_mark before;
  struct audit *a = lua_touserdata(L, lua_upvalueindex(1));
  char name[AUDIT_NAME_MAX] = "?";
  if (lua_type(L, 1) == LUA_TSTRING)
    copy_name(name, lua_tostring(L, 1));
  take_mark(&before);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  compare(a, &before, name);
  return lua_gettop(L);
}

/* What a searcher finds is watched while it loads; require itself stays as it is, and
 * with it the positions in its messages. */
static int watched_searcher(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 2);
  if (!lua_isfunction(L, 1))
    return 2;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, watched_loader, 2);
  lua_replace(L, 1);
  return 2;
}

static int watched_randomseed(lua_State *L) {
  struct audit *a = lua_touserdata(L, lua_upvalueindex(1));
  if (!lua_isnoneornil(L, 1) && a->seed_at[0] == '\0') {
    luaL_where(L, 1);
    const char *where = lua_tostring(L, -1);
    copy_name(a->seed_at, *where != '\0' ? where : "a C function");
    for (size_t n = strlen(a->seed_at); n > 0 && strchr(": ", a->seed_at[n - 1]); n--)
      a->seed_at[n - 1] = '\0'; /* what a message would follow */
    lua_pop(L, 1);
  }
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* Replaces the function on top by one that watches it. */
static void wrap(struct audit *a, lua_State *L, lua_CFunction f) {
  lua_pushlightuserdata(L, a);
  lua_insert(L, -2);
  lua_pushcclosure(L, f, 2);
}

static void watch_searchers(struct audit *a, lua_State *L) {
  lua_Integer n = luaL_len(L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, -1, i);
    wrap(a, L, watched_searcher);
    lua_seti(L, -2, i);
  }
}

void audit_watch(struct audit *a, lua_State *L) {
  luaL_checkstack(L, 6, NULL);
  int top = lua_gettop(L);
  if (lua_getglobal(L, "package") == LUA_TTABLE &&
      lua_getfield(L, -1, "searchers") == LUA_TTABLE)
    watch_searchers(a, L);
  lua_settop(L, top);
  if (lua_getglobal(L, "math") == LUA_TTABLE &&
      lua_getfield(L, -1, "randomseed") != LUA_TNIL) {
    wrap(a, L, watched_randomseed);
    lua_setfield(L, -2, "randomseed");
  }
  lua_settop(L, top);
}

/* ---- descriptors ---- */

enum kind { KIND_OTHER, KIND_REFUSED, KIND_SHARED };

/* What a descriptor is, as the link in /proc/self/fd tells. */
static enum kind kind_of_link(const char *link, const char **ret_what) {
  static const struct {
    const char *link;
    enum kind kind;
    const char *what;
  } kinds[] = {
      {"anon_inode:[eventpoll]", KIND_REFUSED, "an epoll descriptor"},
      {"anon_inode:[io_uring]", KIND_REFUSED, "an io_uring descriptor"},
      {"anon_inode:[timerfd]", KIND_SHARED, "a timerfd"},
      {"anon_inode:[signalfd]", KIND_SHARED, "a signalfd"},
      {"anon_inode:[eventfd]", KIND_SHARED, "an eventfd"},
      {"anon_inode:inotify", KIND_SHARED, "an inotify descriptor"},
      {"anon_inode:[fanotify]", KIND_SHARED, "a fanotify descriptor"},
      {"anon_inode:[perf_event]", KIND_SHARED, "a perf descriptor"},
      {"anon_inode:[pidfd]", KIND_SHARED, "a pidfd"},
      {"pipe:", KIND_SHARED, "a pipe"},
  };
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strncmp(link, kinds[i].link, strlen(kinds[i].link)) == 0) {
      *ret_what = kinds[i].what;
      return kinds[i].kind;
    }
  return KIND_OTHER;
}

static enum kind kind_of_socket(int fd, const char **ret_what) {
  struct sockaddr_storage peer;
  socklen_t size = sizeof peer;
  int listening = 0;
  socklen_t nlistening = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &nlistening) == 0 &&
      listening)
    *ret_what = "a listening socket";
  else if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0)
    *ret_what = "a connected socket";
  else
    *ret_what = "a socket";
  return KIND_SHARED;
}

static enum kind kind_of_file(int fd, const char **ret_what) {
  struct stat st;
  int flags = fcntl(fd, F_GETFL);
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || flags < 0)
    return KIND_OTHER;
  *ret_what = (flags & O_ACCMODE) == O_RDONLY ? "a file, whose position clones share"
                                              : "a file open for writing";
  return KIND_SHARED;
}

static enum kind kind_of(int fd, const char **ret_what) {
  char path[32], link[LINK_MAX_SIZE];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, link, sizeof link - 1);
  if (n < 0)
    return KIND_OTHER;
  link[n] = '\0';
  if (strncmp(link, "socket:", 7) == 0)
    return kind_of_socket(fd, ret_what);
  enum kind kind = kind_of_link(link, ret_what);
  return kind == KIND_OTHER ? kind_of_file(fd, ret_what) : kind;
}

/* Calls `each` for every descriptor of somebody's that is of a kind to talk about. */
struct walk {
  struct audit *a;
  void (*each)(struct walk *w, int fd, enum kind kind, const char *what);
  char *reason;
  size_t n;
  void (*found)(enum audit_severity, const char *, void *);
  void *data;
  int count;
};

static void walk_one(int fd, void *data) {
  struct walk *w = data;
  const char *what = NULL;
  if (w->a->is_ours != NULL && w->a->is_ours(fd, w->a->data))
    return;
  enum kind kind = kind_of(fd, &what);
  if (kind != KIND_OTHER)
    w->each(w, fd, kind, what);
}

/* " of module 'x'", or nothing. */
static const char *owner(struct audit *a, int fd, char *text, size_t n) {
  const struct audit_seen *s = find_seen(a, fd);
  if (s == NULL)
    return "";
  snprintf(text, n, " of module '%s'", s->by);
  return text;
}

/* ---- the check ---- */

/* A thread that was just joined may still be counted for a moment. */
int audit_count_threads(void) {
  int n = proc_threads();
  for (int i = 0; n > 1 && i < THREAD_EXIT_TIMEOUT_MS; i++) {
    usleep(1000);
    n = proc_threads();
  }
  return n;
}

static void thread_reason(struct audit *a, int threads, char *reason, size_t n) {
  char by[AUDIT_NAME_MAX + 32] = "";
  if (a->threads_by[0] != '\0')
    snprintf(by, sizeof by, "; module '%s' started one", a->threads_by);
  snprintf(
      reason, n,
      "the process has %d threads, a fork would have only one%s (load it in the clone)",
      threads, by);
}

static void first_refused(struct walk *w, int fd, enum kind kind, const char *what) {
  char by[AUDIT_NAME_MAX + 32];
  if (kind != KIND_REFUSED || w->count++ > 0)
    return;
  snprintf(w->reason, w->n,
           "descriptor %d is %s%s, which template and clones would share (load it in the "
           "clone)",
           fd, what, owner(w->a, fd, by, sizeof by));
}

static int look(struct audit *a) {
  int threads = audit_count_threads();
  if (threads > 1) {
    thread_reason(a, threads, a->reason, sizeof a->reason);
    return 1;
  }
  struct walk w = {
      .a = a, .each = first_refused, .reason = a->reason, .n = sizeof a->reason};
  fd_each(3, walk_one, &w);
  return w.count > 0;
}

int audit_check(lua_State *L, struct audit *a, char *reason, size_t n) {
  if (!a->known) {
    a->unsafe = look(a);
    a->known = 1;
  }
  if (a->unsafe && n > 0)
    snprintf(reason, n, "%s", a->reason);
  return a->unsafe;
}

/* ---- findings ---- */

static void tell(struct walk *w, enum audit_severity severity, const char *line) {
  w->found(severity, line, w->data);
  w->count++;
}

static void tell_descriptor(struct walk *w, int fd, enum kind kind, const char *what) {
  char by[AUDIT_NAME_MAX + 32], line[AUDIT_REASON_MAX];
  snprintf(line, sizeof line, "descriptor %d is %s%s", fd, what,
           owner(w->a, fd, by, sizeof by));
  tell(w, kind == KIND_REFUSED ? AUDIT_REFUSES : AUDIT_WARNS, line);
}

static void tell_timers(struct walk *w) {
  static const struct {
    int which;
    const char *line;
  } timers[] = {
      {ITIMER_REAL, "an interval timer (SIGALRM) runs; clones will not have it"},
      {ITIMER_VIRTUAL, "an interval timer (SIGVTALRM) runs; clones will not have it"},
      {ITIMER_PROF, "an interval timer (SIGPROF) runs; clones will not have it"},
  };
  struct itimerval v;
  for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
    if (getitimer(timers[i].which, &v) == 0 && (v.it_value.tv_sec || v.it_value.tv_usec))
      tell(w, AUDIT_WARNS, timers[i].line);
  FILE *f = fopen("/proc/self/timers", "re");
  if (f == NULL)
    return;
  if (fgetc(f) != EOF)
    tell(w, AUDIT_WARNS, "a POSIX timer exists; clones will not have it");
  fclose(f);
}

/* sigaction(2) of the C library does not tell of its own two, below 34. */
static void tell_signals(struct walk *w) {
  char line[AUDIT_REASON_MAX];
  for (int s = 1; s < NSIG; s++) {
    struct sigaction action;
    if (s == SIGKILL || s == SIGSTOP || sigaction(s, NULL, &action) != 0 ||
        action.sa_handler == SIG_DFL || signals_is_own(&action))
      continue;
    snprintf(line, sizeof line, "signal %d (%s) is %s; clones have the default", s,
             strsignal(s), action.sa_handler == SIG_IGN ? "ignored" : "caught");
    tell(w, AUDIT_NOTES, line);
  }
}

int audit_findings(lua_State *L, struct audit *a,
                   void (*found)(enum audit_severity severity, const char *line,
                                 void *data),
                   void *data) {
  char line[AUDIT_REASON_MAX];
  struct walk w = {.a = a, .each = tell_descriptor, .found = found, .data = data};
  int threads = audit_count_threads();
  if (threads > 1) {
    thread_reason(a, threads, line, sizeof line);
    tell(&w, AUDIT_REFUSES, line);
  }
  fd_each(3, walk_one, &w);
  tell_timers(&w);
  tell_signals(&w);
  if (a->seed_at[0] != '\0') {
    snprintf(line, sizeof line,
             "math.randomseed got a fixed seed (%s); clones are seeded anew all the same",
             a->seed_at);
    tell(&w, AUDIT_WARNS, line);
  }
  return w.count;
}
