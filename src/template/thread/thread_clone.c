#include "template/thread/thread_clone.h"

#include "image/objects.h"
#include "image/relocate.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/sock.h"
#include "socket/sys.h"
#include "template/fork/clone.h"
#include "template/lua/clone_posix.h"
#include "template/lua/script.h"
#include "template/lua/thread_end.h"
#include "template/thread/thread_copy.h"
#include "template/thread/thread_faults.h"
#include "template/thread/thread_record.h"
#include "template/thread/thread_slot.h"
#include <errno.h>
#include <moonfork.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LEAVING_MAX = 256 };

/* What the thread that serves and the others tell each other. */
static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int settled; /* the one that begins has its own descriptors, or could not have them: */
  int error;
  int nending; /* of those that live: nothing holds them up any more */
  size_t nleaving;
  pid_t leaving[LEAVING_MAX]; /* the last that were counted; the kernel may know them */
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- the end ---- */

static void tell(const struct thread *t, enum life_kind kind, int number) {
  struct life_record record = {.kind = kind, .number = number};
  struct iovec iov[2] = {{&record, sizeof record}, {(void *)(uintptr_t)t->words, 0}};
  if (kind == LIFE_ENDED) {
    struct rusage usage = {0};
    getrusage(RUSAGE_THREAD, &usage);
    record.utime_us =
        (uint64_t)usage.ru_utime.tv_sec * 1000000 + (uint64_t)usage.ru_utime.tv_usec;
    record.stime_us =
        (uint64_t)usage.ru_stime.tv_sec * 1000000 + (uint64_t)usage.ru_stime.tv_usec;
    record.signal = t->killed ? SIGKILL : 0;
    record.text_size = (uint32_t)t->nwords;
    iov[1].iov_len = t->nwords;
  }
  struct msghdr message = {.msg_iov = iov, .msg_iovlen = iov[1].iov_len ? 2 : 1};
  while (sendmsg(t->server.life, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
    ;
}

void thread_free(struct thread *t, int has_fds) {
  struct server *s = &t->server;
  if (s->rpc)
    s->free_rpc(s->rpc);
  if (!has_fds)
    args_disown(&s->args);
  inbox_deinit(&s->conn.in);
  buf_deinit(&s->conn.out);
  gather_deinit(&s->gather);
  args_deinit(&s->args);
  thread_copy_free(s);
  free(t->body);
  free(t);
}

/* Before its parent can see it. */
static void mark_ending(struct server *s) {
  pthread_mutex_lock(&all.lock);
  all.nending += !s->thread->ends;
  s->thread->ends = 1;
  pthread_cond_broadcast(&all.changed); /* who waits may wait longer for it */
  pthread_mutex_unlock(&all.lock);
}

/* The finalisers of what it has made itself run, as at clone.exit(code, true): its memory
 * outside of the interpreter is its process's, and would stay. */
static void leave(struct server *s, int code) __attribute__((noreturn));
static void leave(struct server *s, int code) {
  struct thread *t = s->thread;
  mark_ending(s);
  sys_flush_first();
  server_release(s);
  t->code = code;
  if (!s->exiting && !t->killed) {
    s->exiting = 1;
    s->asked_code = code;
    relocate_close(s->L);
  } else if (t->killed) {
    thread_end_over(); /* else the end that is wanted would begin again in there */
    objects_end_all(s->L);
  }
  longjmp(t->end, 1);
}

static void end_killed(void) {
  struct server *s = server_self();
  s->thread->killed = 1;
  leave(s, 0);
}

static void settle(int error) {
  pthread_mutex_lock(&all.lock);
  all.error = error;
  all.settled = 1;
  pthread_cond_broadcast(&all.changed);
  pthread_mutex_unlock(&all.lock);
}

static void count_end(struct server *template, int told) {
  pthread_mutex_lock(&all.lock);
  template->nthreads--;
  all.nending -= told;
  pid_t own = (pid_t)syscall(SYS_gettid);
  if (own != getpid()) /* else it has never been */
    all.leaving[all.nleaving++ % LEAVING_MAX] = own;
  pthread_cond_broadcast(&all.changed);
  pthread_mutex_unlock(&all.lock);
}

void thread_count_end(struct server *template) {
  count_end(template, 0);
}

/* ---- the life ---- */

int thread_part(const struct thread *t) {
  const struct server *s = t->template;
  int fds[] = {s->leash.source, s->leash.armed};
  if (unshare(CLONE_FILES | CLONE_FS) < 0)
    return errno;
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
    if (fds[i] >= 0)
      fd_close(&fds[i]);
  if (s->accepting.fd > 0) { /* the template's number stays */
    int fd = s->accepting.fd;
    fd_close(&fd);
  }
  inbox_close_copies(&s->conn.in);
  return 0;
}

/* On the thread of each clone, its record. So pthread_exit() or pthread_cancel() in C
 * code of a module, which come back to none of ours, are an end like others. */
static pthread_key_t living;
static int has_living;

void thread_enter(struct thread *t) {
  t->number = (int)syscall(SYS_gettid);
  server_set_self(&t->server);
  clone_posix_thread(t->number);
  thread_end_prepare();
}

void thread_enter_over(void) {
  server_set_self(NULL);
}

static void finish(struct thread *t) {
  struct server *s = &t->server;
  thread_end_over();
  thread_enter_over();
  fd_close_from(3, &s->life, 1); /* before its end is told, as those of a process are */
  tell(t, LIFE_ENDED, t->code);
  fd_close(&s->life);
  struct server *template = t->template;
  if (has_living)
    (void)pthread_setspecific(living, NULL);
  int ends = t->ends;
  thread_free(t, 1);
  count_end(template, ends);
}

/* A destructor of the key: the stack is gone, the interpreter is where it was called. */
static void end_left(void *data) {
  static const char why[] =
      "C code has ended the clone's thread (pthread_exit or pthread_cancel)";
  struct thread *t = data;
  struct server *s = &t->server;
  server_end_copy(s);
  (void)pthread_setspecific(living, t); /* for a finaliser that does it, too */
  if (_setjmp(t->end) == 0) {
    failure_record_set(&s->failure, FAILURE_REMOTE, PHASE_FUNCTION, 0, why);
    t->nwords = failure_record_last_words(&s->failure, t->words, sizeof t->words);
    if (s->conn.fd >= 0) { /* commands are served */
      server_fail(s);
      (void)connection_flush_all(&s->conn);
    }
    leave(s, 1);
  }
  finish(t);
}

static void make_living(void) {
  has_living = pthread_key_create(&living, end_left) == 0;
}

void thread_live(struct thread *t) {
  struct server *s = &t->server;
  if (has_living)
    (void)pthread_setspecific(living, t);
  tell(t, LIFE_BORN, t->number);
  if (_setjmp(t->end) == 0) {
    thread_end_begin(s->L, THREAD_END_VALUE(t->id), end_killed);
    t->live(s);
  }
  finish(t);
}

static void *run(void *data) {
  struct thread *t = data;
  int control = t->template->conn.fd, error = thread_part(t);
  if (!error)
    fd_close(&control);
  settle(error); /* the thread that serves goes on, and frees it where it can't be */
  if (!error) {
    thread_enter(t);
    thread_live(t);
  }
  return NULL;
}

/* ---- the beginning ---- */

static int deny_at(const char *origin, struct server *s, int code, int error,
                   const char *what) {
  char text[256];
  if (error)
    snprintf(text, sizeof text, "%s: %s", what, strerror(error));
  else
    snprintf(text, sizeof text, "%s", what);
  failure_record_set_at(origin, &s->failure, code, PHASE_FORK, error, text);
  return -1;
}
#define deny(...) deny_at(ORIGIN, __VA_ARGS__)

/* As clone_born finds that of a process. */
static int make_record(struct server *from, struct thread *t) {
  struct server *s = &t->server;
  t->template = from;
  if (args_copy(&from->args, &s->args) < 0)
    return -1;
  connection_open(&s->conn, -1, s->room, sizeof s->room);
  s->intake_fd = -1;
  gather_init(&s->gather, 0);
  fdset_init(&s->gather_fds);
  fdset_init(&s->birth.fds);
  leash_none(&s->leash);
  s->options = from->options;
  s->pid = from->pid;
  s->owner_pid = from->owner_pid;
  s->phase = SERVE_SERVING;
  s->birth.sibling = 1;
  s->birth.settle = thread_copy_settle;
  s->audit_level = from->audit_level;
  s->nbirth = from->nbirth;
  s->limits_nofile = from->limits_nofile;
  s->nofile = from->nofile;
  memcpy(s->name, from->name, sizeof s->name);
  memcpy(&s->audit, &from->audit, sizeof s->audit);
  s->audit.data = s;
  s->audit.sources.collector_mode = &s->collector.gc;
  s->words = t->words;
  s->words_max = sizeof t->words;
  s->nwords = &t->nwords;
  s->thread = t;
  s->leave = leave;
  s->ending = mark_ending;
  return 0;
}

/* Its texts have their sizes beside them, and are most of it. */
static struct thread *new_record(void) {
  struct thread *t = malloc(sizeof *t);
  size_t behind = offsetof(struct thread, template);
  if (!t)
    return NULL;
  memset(t, 0, offsetof(struct thread, server.failure.message));
  memset((char *)t + behind, 0, offsetof(struct thread, words) - behind);
  return t;
}

struct thread *thread_new(struct server *from, void (*live)(struct server *s), int lazy) {
  struct thread *t = new_record();
  if (!t) {
    (void)deny(from, FAILURE_NOMEM, ENOMEM, "the record of the thread");
    return NULL;
  }
  t->live = live;
  int r = make_record(from, t);
  if (r < 0)
    (void)deny(from, FAILURE_NOMEM, ENOMEM, "the record of the thread");
  else
    r = thread_copy(from, &t->server, lazy);
  if (r == 0)
    return t;
  thread_free(t, 0);
  return NULL;
}

void thread_take_command(struct thread *t, const struct command *c, unsigned char *body) {
  struct server *s = &t->server;
  t->body = body;
  t->id = c->id;
  (void)options_parse(&s->birth.options, c->body, c->length, 1); /* as it was before */
  for (int i = 0; i < c->fds->n; i++)
    fdset_push(&s->birth.fds, fdset_steal(c->fds, i));
  s->life = s->birth.fds.fd[1];
}

int thread_launch(void *(*run_on_it)(void *data), void *data) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  pthread_attr_t attributes;
  pthread_t id;
  sigset_t every, before;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, THREAD_STACK_SIZE);
  sigfillset(&every); /* signals are the process's, and the main thread takes them, */
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    sigdelset(&every, faults[i]); /* but for those of the thread's own doing */
  sigprocmask(SIG_SETMASK, &every, &before);
  int error = pthread_create(&id, &attributes, run_on_it, data);
  sigprocmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return error;
}

static int begin(struct thread *t) {
  all.settled = 0;
  int error = thread_launch(run, t);
  if (error)
    return error;
  pthread_mutex_lock(&all.lock);
  while (!all.settled)
    pthread_cond_wait(&all.changed, &all.lock);
  error = all.error; /* the thread may have ended by now */
  pthread_mutex_unlock(&all.lock);
  return error;
}

static struct timespec in_ms(int ms) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_nsec += ms % 1000 * 1000000L;
  at.tv_sec += ms / 1000 + at.tv_nsec / 1000000000L;
  at.tv_nsec %= 1000000000L;
  return at;
}

static int is_over(const struct timespec *end) {
  struct timespec now = in_ms(0);
  return now.tv_sec > end->tv_sec ||
         (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

/* Until the audit finds them no more: it would take them for a module's. All have been
 * counted. */
static void await_leaving(const struct timespec *end) {
  static const struct timespec pause = {0, 50000};
  size_t n = all.nleaving < LEAVING_MAX ? all.nleaving : LEAVING_MAX;
  for (size_t i = 0; i < n; i++)
    while (syscall(SYS_tgkill, getpid(), all.leaving[i], 0) == 0 && !is_over(end))
      (void)nanosleep(&pause, NULL);
  all.nleaving = 0;
}

/* For one that runs, a moment only: it may be about to end. */
static int await_all(const struct server *s, int ms) {
  enum { MOMENT_MS = 20 };
  struct timespec end = in_ms(ms), moment = in_ms(MOMENT_MS);
  int error = 0;
  pthread_mutex_lock(&all.lock);
  while (s->nthreads > 0 && error == 0)
    error = ms < 0 ? pthread_cond_wait(&all.changed, &all.lock)
                   : pthread_cond_timedwait(&all.changed, &all.lock,
                                            s->nthreads > all.nending ? &moment : &end);
  int n = s->nthreads;
  pthread_mutex_unlock(&all.lock);
  if (n == 0 && ms >= 0)
    await_leaving(&end);
  if (n == 0) {
    thread_slot_drop(); /* page tables that a fork would copy */
    faults_stop();
  }
  return n;
}

/* Time limits are measured on a clock that nobody sets. Not by pthread_cond_clockwait(),
 * which is glibc's. */
static void choose_clock(void) {
  pthread_condattr_t attributes;
  if (pthread_condattr_init(&attributes) != 0)
    return;
  if (pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0)
    pthread_cond_init(&all.changed, &attributes);
  pthread_condattr_destroy(&attributes);
}

static void prepare(void) {
  choose_clock();
  make_living();
}

void thread_count_begin(struct server *s) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare); /* before the first that can be waited for */
  if (s->nthreads == 0)
    leash_stay(&s->leash);
  s->await_threads = await_all;
  s->nthreads++;
}

static int will_change(const struct server *s) {
  return s->collector.dirty || script_has_before_fork();
}

int thread_fork(struct server *s, const struct command *c, int lazy,
                void (*live)(struct server *s)) {
  if (s->thread)
    return deny(s, FAILURE_UNSUPPORTED, 0, "a clone that is a thread forks none");
  if (will_change(s) && server_before_change(s) < 0)
    return deny(s, FAILURE_NOMEM, ENOMEM, "memory for what lazy clones need");
  if (clone_before_fork(s) < 0)
    return -1;
  if (clone_prepare_fork(s) < 0)
    return deny(s, FAILURE_NOMEM, ENOMEM, "the template can't be sealed");
  unsigned char *body = malloc(c->length ? c->length : 1);
  if (!body)
    return deny(s, FAILURE_NOMEM, ENOMEM, "the record of the thread");
  struct thread *t = thread_new(s, live, lazy);
  if (!t) {
    free(body);
    return -1;
  }
  memcpy(body, c->body, c->length);
  struct command own = *c;
  own.body = body;
  thread_take_command(t, &own, body);
  struct fdset copies = t->server.birth.fds; /* here; the thread has its own */
  t->server.birth.fds.fd[1] = -1;
  thread_count_begin(s);
  int error = begin(t);
  fdset_close(&copies);
  if (!error) {
    s->lends = live;
    s->lends_lazy = lazy != MF_LAZY_NO;
    return 0;
  }
  s->nthreads--;
  thread_free(t, 0);
  int has_begun = all.settled; /* what failed was its own first step */
  if (has_begun && (error == EPERM || error == EACCES || error == ENOSYS))
    return deny(s, FAILURE_UNSUPPORTED, error,
                "a clone in a thread needs descriptors and a directory of its own, and "
                "unshare(2) is forbidden here (a filter of system calls, as containers "
                "have it)");
  return deny(s, FAILURE_FORK, error, "a thread can't be made");
}
