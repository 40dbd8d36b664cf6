#include "parent/process/children.h"

#include "base/result.h"
#include "parent/common/fork_watch.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fork_hook hook = {.in_copy = children_forked};

/* ---- claims: a hash set with open addressing ---- */

static int *table; /* 0: free */
static size_t size, used;

static size_t place_of(int pid) {
  size_t at = ((unsigned)pid * 2654435761u) & (size - 1);
  while (table[at] && table[at] != pid)
    at = (at + 1) & (size - 1);
  return at;
}

static int grow(void) {
  size_t old_size = size;
  int *old = table, *fresh = calloc(size ? size * 2 : 256, sizeof *fresh);
  if (!fresh)
    return -ENOMEM;
  size = size ? size * 2 : 256;
  table = fresh;
  for (size_t i = 0; i < old_size; i++)
    if (old[i])
      table[place_of(old[i])] = old[i];
  free(old);
  return 0;
}

static int claim(int pid) {
  if (used * 2 >= size && grow() < 0)
    return 0;
  size_t at = place_of(pid);
  if (table[at])
    return -EEXIST;
  table[at] = pid;
  used++;
  return 0;
}

/* What follows is put in again, so that no search ends before it. */
static void release(int pid) {
  if (!size)
    return;
  size_t at = place_of(pid);
  if (!table[at])
    return;
  table[at] = 0;
  used--;
  for (at = (at + 1) & (size - 1); table[at]; at = (at + 1) & (size - 1)) {
    int moved = table[at];
    table[at] = 0;
    table[place_of(moved)] = moved;
  }
}

int children_claim(int pid) {
  pthread_mutex_lock(&lock);
  fork_watch(&hook);
  int r = claim(pid);
  pthread_mutex_unlock(&lock);
  return r;
}

void children_release(int pid) {
  pthread_mutex_lock(&lock);
  release(pid);
  pthread_mutex_unlock(&lock);
}

/* ---- orphans ---- */

struct orphan {
  struct list link; /* of `orphans`, or of its context */
  int pid, pidfd, tree;
  struct context *context; /* NULL: nobody watches it */
  struct watch watch;
};
static struct list orphans = {&orphans, &orphans};

static void free_orphan(struct orphan *o) {
  list_remove(&o->link);
  children_release(o->pid);
  free(o);
}

static void stop_watching(struct orphan *o) {
  struct backend *s = o->context->backend;
  s->ops->watch(s, &o->watch, o->pidfd, 0);
  if (o->pidfd >= 0)
    s->ops->close_pidfd(s, &o->pidfd);
  o->pidfd = -1;
  o->context = NULL;
}

static int has_gone(struct backend *backend, const struct orphan *o) {
  struct proc_status st;
  if (o->tree && backend->ops->peek(backend, o->pidfd, o->pid) == 0)
    backend->ops->kill_group(backend, o->pidfd, o->pid,
                             !backend->ops->is_careless(backend), SIGKILL);
  return backend->ops->reap(backend, o->pidfd, o->pid, &st) != MF_AGAIN;
}

static void on_end(struct watch *w, unsigned events) {
  struct orphan *o = list_entry(w, struct orphan, watch);
  if (!has_gone(o->context->backend, o))
    return;
  stop_watching(o);
  free_orphan(o);
}

static void start_watching(struct context *ctx, struct orphan *o) {
  struct backend *s = ctx->backend;
  o->context = ctx;
  o->pidfd = s->ops->pidfd(s, o->pid);
  if (o->pidfd < 0) {
    o->pidfd = -1; /* then it is looked for when the library is called */
    return;
  }
  o->watch.on_ready = on_end;
  s->ops->watch(s, &o->watch, o->pidfd, WATCH_READ);
}

void children_orphan(struct children *c, int pid, int tree) {
  struct orphan *o = calloc(1, sizeof *o);
  if (!o)
    return; /* it stays a zombie until this process ends */
  o->pid = pid;
  o->tree = tree;
  o->pidfd = -1;
  if (context_is_on(c->context)) {
    list_push(&c->orphans, &o->link);
    start_watching(c->context, o);
    return;
  }
  pthread_mutex_lock(&lock);
  list_push(&orphans, &o->link);
  pthread_mutex_unlock(&lock);
}

static void take_all(struct list *to) {
  pthread_mutex_lock(&lock);
  list_move(to, &orphans);
  pthread_mutex_unlock(&lock);
}

void children_watch(struct children *c) {
  struct list all;
  take_all(&all);
  list_each_safe(it, next, &all) {
    struct orphan *o = list_entry(it, struct orphan, link);
    if (has_gone(c->context->backend, o)) {
      free_orphan(o);
      continue;
    }
    list_remove(it);
    list_push(&c->orphans, it);
    start_watching(c->context, o);
  }
}

static void give_back(struct list *from) {
  pthread_mutex_lock(&lock);
  while (!list_empty(from)) {
    struct list *first = from->next;
    list_remove(first);
    list_push(&orphans, first);
  }
  pthread_mutex_unlock(&lock);
}

void children_unwatch(struct children *c) {
  list_each(it, &c->orphans) {
    stop_watching(list_entry(it, struct orphan, link));
  }
  give_back(&c->orphans);
}

void children_reap(struct backend *backend) {
  struct list all;
  take_all(&all);
  list_each_safe(it, next, &all) {
    struct orphan *o = list_entry(it, struct orphan, link);
    if (has_gone(backend, o))
      free_orphan(o);
  }
  give_back(&all);
}

/* ---- births to come ---- */

enum {
  FIRST_LOOK_MS = 10,
  LAST_LOOK_MS = 5000
}; /* the second after twice the time, ... */

struct unborn {
  struct list link;
  struct births *births;
  uint32_t slot;
  int tree;
};

static void free_unborn(struct unborn *u) {
  list_remove(&u->link);
  births_drop(&u->births);
  free(u);
}

void children_unborn(struct children *c, struct births *b, uint32_t slot, int tree) {
  struct unborn *u = calloc(1, sizeof *u);
  if (!u) {
    births_drop(&b);
    return;
  }
  u->births = b;
  u->slot = slot;
  u->tree = tree;
  list_push(&c->unborn, &u->link);
  c->births_wait_ms = FIRST_LOOK_MS;
  children_look_for_unborn(c);
}

/* Whether nothing more is to come from there. */
static int is_settled(struct children *c, const struct unborn *u) {
  struct backend *backend = c->context->backend;
  int ended = births_ended(u->births), pid = births_pid(u->births, u->slot);
  if (pid <= 0)
    return ended;
  if (backend->ops->peek(backend, -1, pid) != -ECHILD && children_claim(pid) == 0)
    children_orphan(c, pid, u->tree);
  births_put(u->births, u->slot);
  return 1;
}

void children_look_for_unborn(struct children *c) {
  list_each_safe(it, next, &c->unborn) {
    struct unborn *u = list_entry(it, struct unborn, link);
    if (is_settled(c, u))
      free_unborn(u);
  }
  if (list_empty(&c->unborn))
    deadline_clear(&c->births_due);
  else if (context_is_on(c->context))
    deadline_set(&c->context->deadlines, &c->births_due, c->births_wait_ms);
}

void children_late(struct children *c, int pid) {
  struct backend *backend = c->context->backend;
  if (pid > 0 && backend->ops->peek(backend, -1, pid) != -ECHILD &&
      children_claim(pid) == 0)
    children_orphan(c, pid, 0);
}

void children_sweep(struct children *c, struct births *b) {
  for (int pid; b && (pid = births_late(b)) > 0;)
    children_late(c, pid);
}

static void on_births_due(struct deadline *d) {
  struct children *c = list_entry(d, struct children, births_due);
  c->births_wait_ms =
      c->births_wait_ms < LAST_LOOK_MS / 2 ? c->births_wait_ms * 2 : LAST_LOOK_MS;
  children_look_for_unborn(c);
}

void children_init(struct children *c, struct context *ctx) {
  c->context = ctx;
  list_init(&c->orphans);
  list_init(&c->unborn);
  deadline_init(&c->births_due, on_births_due);
}

void children_forget_unborn(struct children *c) {
  while (!list_empty(&c->unborn))
    free_unborn(list_entry(c->unborn.next, struct unborn, link));
}

void children_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  if (pthread_mutex_trylock(&lock) ==
      0) { /* else another thread was in the middle of it */
    while (!list_empty(&orphans)) {
      struct list *first = orphans.next;
      list_remove(first);
      free(list_entry(first, struct orphan, link));
    }
    free(table);
  }
  lock = fresh;
  list_init(&orphans);
  table = NULL;
  size = used = 0;
}
