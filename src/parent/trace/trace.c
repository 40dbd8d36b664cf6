/* See trace.h. One lock around what is written; rows are linked so that the end of the
 * trace can end their spans, whichever thread owns them. The file is the process's: a
 * thread with descriptors of its own may not have it, and is not traced. */
#include "parent/trace/trace.h"

#include "os/proc.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include "parent/trace/trace_file.h"
#include "parent/trace/trace_object.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

_Static_assert((int)OBJECT_MAX <= (int)TRACE_OBJECT_MAX, "every object has its place");

/* Numbers of processes end here (PID_MAX_LIMIT of Linux); rows without one come behind.
 */
enum { PIDS = 1 << 22 };

struct trace {
  struct trace_file file;
  struct list rows;
  int pid;
  uint64_t since_us;
  int64_t next_id; /* of a row without a number of its own */
  char *path;
  int wanted; /* by the environment, not by a call */
  unsigned char seen[PIDS / 8];
};

_Atomic unsigned trace_number;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct trace *abandoned; /* of the process that this one is a copy of */
static struct trace *trace;     /* NULL: none */
static unsigned ntraces;
static int looked;                   /* for the environment's */
static struct trace_failure failure; /* of a trace that ended by itself */
static _Atomic int failed;           /* there is one that nobody was told of */
static int last_error;

static uint64_t now_us(void) {
  return proc_now_ns() / 1000;
}

/* ---- its end ---- */

/* Rows of other threads are not looked at any more, only unlinked. */
static void forget_rows(struct trace *t) {
  while (!list_empty(&t->rows))
    list_remove(t->rows.next);
}

static void trace_free(struct trace *t) {
  free(t->path);
  free(t);
}

/* Somebody has to be told. Takes path (may be NULL). */
static void note_failure(int code, char *path, int wanted) {
  free(failure.path);
  failure = (struct trace_failure){.code = code, .path = path, .wanted = wanted};
  last_error = code;
  failed = 1;
}

/* Nobody writes to it any more. */
static struct trace *take_away(void) {
  struct trace *t = trace;
  trace = NULL;
  trace_number = 0;
  forget_rows(t);
  return t;
}

/* It can't be written any more: the file stays whole, with what is in it. */
static void fail(int code) {
  struct trace *t = take_away();
  trace_file_abandon(&t->file);
  note_failure(code, t->path, t->wanted);
  t->path = NULL;
  trace_free(t);
}

/* ---- objects ---- */

static void put(const struct object *o) {
  int r = trace_file_put(&trace->file, o->text, o->n);
  if (r < 0)
    fail(r);
}

/* What every object begins with. */
static void begin(struct object *o, const char *phase, int64_t id, uint64_t at_us) {
  object_begin(o);
  object_text(o, "ph", phase);
  object_number(o, "pid", id);
  object_number(o, "tid", id);
  object_number(o, "ts", (int64_t)at_us);
}

static void put_args(struct object *o, const struct trace_arg *args) {
  if (args) {
    object_open(o, "args");
    for (; args->key; args++)
      if (args->text)
        object_text(o, args->key, args->text);
      else
        object_number(o, args->key, args->number);
    object_close(o);
  }
  object_end(o);
  put(o);
}

static void put_meta(int64_t id, const char *name, const struct trace_arg *args) {
  struct object o;
  if (!trace)
    return;
  begin(&o, "M", id, trace->since_us);
  object_text(&o, "name", name);
  put_args(&o, args);
}

static void put_names(int64_t id, const char *name, const char *title) {
  if (name)
    put_meta(id, "process_name", TRACE_ARGS(TRACE_TEXT("name", name)));
  if (title)
    put_meta(id, "thread_name", TRACE_ARGS(TRACE_TEXT("name", title)));
}

static void put_end(struct trace_row *r, uint64_t at_us, const struct trace_arg *args) {
  struct object o;
  r->depth--;
  begin(&o, "E", r->id, at_us);
  put_args(&o, args);
}

/* ---- begin and end ---- */

static const char *program_name(char *room, size_t n) {
  const char *slash;
  if (uv_exepath(room, &n) < 0 || n == 0)
    return "parent";
  slash = strrchr(room, '/');
  return slash ? slash + 1 : room;
}

static void put_parent(struct trace *t) {
  char room[4096];
  put_names(t->pid, program_name(room, sizeof room), "parent");
  put_meta(t->pid, "process_sort_index", TRACE_ARGS(TRACE_NUMBER("sort_index", 0)));
}

static void end_row(struct trace_row *r, uint64_t at_us) {
  while (r->depth && trace)
    put_end(r, at_us, NULL);
}

static int finish(void) {
  struct trace *t = trace;
  int r;
  uint64_t at = now_us();
  list_each(it, &t->rows) {
    end_row(list_entry(it, struct trace_row, link), at);
    if (!trace) /* the disk is full */
      return failure.code;
  }
  take_away();
  r = trace_file_close(&t->file);
  if (r < 0) {
    note_failure(r, t->path, t->wanted);
    t->path = NULL;
  }
  trace_free(t);
  return r;
}

static void at_exit(void) {
  pthread_mutex_lock(&lock);
  if (trace)
    finish();
  pthread_mutex_unlock(&lock);
}

/* The path with the process's number for %p and % for %%; NULL: no memory. */
static char *expand(const char *path, const char *suffix, int pid) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    return NULL;
  for (; *path; path++) {
    if (path[0] == '%' && path[1] == 'p')
      fprintf(out, "%d", pid), path++;
    else
      putc(*path, out), path += path[0] == '%' && path[1] == '%';
  }
  if (suffix)
    fprintf(out, "%s%d", suffix, pid);
  if (fclose(out) == 0)
    return text;
  free(text);
  return NULL;
}

/* Whether the two name one file. */
static int is_same(const char *path, int fd) {
  struct stat a, b;
  return stat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

static int start(struct trace *t, const char *path, const char *suffix) {
  t->path = expand(path, suffix, t->pid);
  if (!t->path)
    return -ENOMEM;
  if (trace && is_same(t->path, trace->file.fd))
    finish(); /* it begins anew */
  return trace_file_open(&t->file, t->path);
}

/* The trace that was, if any, ends when the new one has its file. */
static int replace(const char *path, const char *suffix, int wanted) {
  static int registered;
  struct trace *t = calloc(1, sizeof *t);
  int r;
  if (abandoned)
    trace_free(abandoned);
  abandoned = NULL;
  if (!t)
    return -ENOMEM;
  list_init(&t->rows);
  t->file.fd = -1;
  t->pid = (int)getpid();
  t->next_id = PIDS;
  t->wanted = wanted;
  t->since_us = now_us();
  r = start(t, path, suffix);
  if (r < 0) {
    trace_free(t);
    return r;
  }
  if (trace)
    finish();
  if (!registered)
    registered = atexit(at_exit) == 0;
  trace = t;
  if (++ntraces == 0)
    ntraces = 1;
  trace_number = ntraces;
  put_parent(t);
  return 0;
}

/* The trace is its parent's. */
static void in_copy(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh; /* another thread of the original may have held it */
  if (trace)
    trace_file_abandon(&trace->file);
  abandoned = trace; /* its memory is left: the heap may be locked, too */
  trace = NULL;
  trace_number = 0;
  looked = 0;
  failed = 0;
}

static void watch_forks(void) {
  static struct fork_hook hook = {.in_copy = in_copy};
  pthread_mutex_lock(&lock);
  fork_watch(&hook);
  pthread_mutex_unlock(&lock);
}

int mf_trace(const char *path) {
  int r = 0;
  if (path && !*path)
    return MF_EINVAL;
  if (proc_has_own_fds())
    return MF_EUNSUPPORTED;
  watch_forks();
  pthread_mutex_lock(&lock);
  looked = 1;
  last_error = 0;
  if (path)
    r = replace(path, NULL, 0);
  else if (trace)
    r = finish();
  if (!r && trace && (r = trace_file_flush(&trace->file)) < 0)
    fail(r);
  if (r < 0) {
    last_error = r;
    failed = 0; /* whoever called is told */
  }
  pthread_mutex_unlock(&lock);
  return r == -ENOMEM ? MF_ENOMEM : r;
}

int mf_trace_error(void) {
  int code;
  pthread_mutex_lock(&lock);
  code = last_error;
  pthread_mutex_unlock(&lock);
  return code;
}

int mf_trace_failed(void) {
  return atomic_load_explicit(&failed, memory_order_relaxed);
}

int mf_trace_take_failure(struct trace_failure *ret) {
  int there;
  pthread_mutex_lock(&lock);
  there = failed;
  failed = 0;
  *ret = failure;
  failure = (struct trace_failure){0};
  pthread_mutex_unlock(&lock);
  return there;
}

void trace_from_environment(void) {
  const char *path;
  int r;
  if (proc_has_own_fds())
    return;
  watch_forks();
  pthread_mutex_lock(&lock);
  path = looked ? NULL : proc_getenv("MOONFORK_TRACE");
  looked = 1;
  if (path && *path) {
    r = replace(path, NULL, 1);
    if (r == -EWOULDBLOCK) /* of the program that started this one, for instance */
      r = replace(path, ".", 1);
    if (r < 0)
      note_failure(r, strdup(path), 1);
  }
  pthread_mutex_unlock(&lock);
}

void trace_write(void) {
  int r;
  if (proc_has_own_fds())
    return;
  pthread_mutex_lock(&lock);
  if (trace && (r = trace_file_flush(&trace->file)) < 0)
    fail(r);
  pthread_mutex_unlock(&lock);
}

/* ---- rows ---- */

uint64_t trace_since_us(void) {
  uint64_t at;
  pthread_mutex_lock(&lock);
  at = trace ? trace->since_us : now_us();
  pthread_mutex_unlock(&lock);
  return at;
}

/* The process's own number, unless another process had it before. */
static int64_t choose_id(struct trace *t, int pid) {
  if (pid <= 0 || pid >= PIDS || pid == t->pid || t->seen[pid / 8] & 1 << pid % 8)
    return t->next_id++;
  t->seen[pid / 8] |= (unsigned char)(1 << pid % 8);
  return pid;
}

/* The lock is held, and the row is of the trace that is written. */
static int enter(const struct trace_row *r) {
  pthread_mutex_lock(&lock);
  return trace && (r ? r->number == trace_number : !proc_has_own_fds());
}

static void leave(void) {
  pthread_mutex_unlock(&lock);
}

void trace_open(struct trace_row *r, int pid, const char *name, uint64_t order) {
  pthread_mutex_lock(&lock);
  if (trace && !proc_has_own_fds()) {
    list_init(&r->link);
    r->number = trace_number;
    r->depth = 0;
    r->id = choose_id(trace, pid);
    list_push(&trace->rows, &r->link);
    put_names(r->id, name, NULL);
    put_meta(r->id, "process_sort_index", TRACE_ARGS(TRACE_NUMBER("sort_index", order)));
  }
  leave();
}

void trace_name(const struct trace_row *r, const char *name, const char *title) {
  if (enter(r))
    put_names(r->id, name, title);
  leave();
}

void trace_begin(struct trace_row *r, uint64_t at_us, const char *category,
                 const char *name, const struct trace_arg *args) {
  struct object o;
  if (enter(r)) {
    r->depth++;
    begin(&o, "B", r->id, at_us);
    object_text(&o, "cat", category);
    object_text(&o, "name", name);
    put_args(&o, args);
  }
  leave();
}

void trace_end(struct trace_row *r, uint64_t at_us, const struct trace_arg *args) {
  if (enter(r) && r->depth)
    put_end(r, at_us, args);
  leave();
}

static void put_beside(const struct trace_row *r, const char *phase, uint64_t at_us,
                       uint64_t id, const char *category, const char *name,
                       const struct trace_arg *args) {
  struct object o;
  char local[24];
  if (enter(r)) {
    snprintf(local, sizeof local, "0x%" PRIx64, id);
    begin(&o, phase, r->id, at_us);
    object_text(&o, "cat", category);
    object_text(&o, "name", name);
    object_open(&o, "id2");
    object_text(&o, "local", local);
    object_close(&o);
    put_args(&o, args);
  }
  leave();
}

void trace_begin_beside(const struct trace_row *r, uint64_t at_us, uint64_t id,
                        const char *category, const char *name,
                        const struct trace_arg *args) {
  put_beside(r, "b", at_us, id, category, name, args);
}

void trace_end_beside(const struct trace_row *r, uint64_t at_us, uint64_t id,
                      const char *category, const char *name,
                      const struct trace_arg *args) {
  put_beside(r, "e", at_us, id, category, name, args);
}

void trace_mark(const struct trace_row *r, uint64_t at_us, const char *name,
                const struct trace_arg *args) {
  struct object o;
  if (enter(r)) {
    begin(&o, "i", r ? r->id : trace->pid, at_us);
    object_text(&o, "s", "t");
    object_text(&o, "cat", "mark");
    object_text(&o, "name", name);
    put_args(&o, args);
  }
  leave();
}

void trace_leave(struct trace_row *r, uint64_t at_us) {
  if (enter(r)) {
    end_row(r, at_us);
    list_remove(&r->link);
  }
  r->number = 0;
  leave();
}
