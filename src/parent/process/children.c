#include "parent/process/children.h"

#include "base/result.h"
#include "os/fd.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
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

/* ---- children without a record ---- */

struct kept_child {
  struct list link; /* of `unwatched`, or of its context */
  int pid, pidfd, tree;
  struct context *context; /* NULL: nobody watches it */
  struct watch watch;
};
static struct list unwatched = {&unwatched, &unwatched};
static struct list unawaited = {&unawaited,
                                &unawaited}; /* births, of contexts that ended */
static atomic_int some_left;                 /* in either of them */

static void free_kept(struct kept_child *k) {
  list_remove(&k->link);
  children_release(k->pid);
  free(k);
}

static void stop_watching(struct kept_child *k) {
  struct backend *s = k->context->backend;
  s->ops->watch(s, &k->watch, k->pidfd, 0);
  if (k->pidfd >= 0)
    s->ops->close_now(s, &k->pidfd);
  k->pidfd = -1;
  k->context = NULL;
}

static int has_gone(struct backend *backend, const struct kept_child *k) {
  struct proc_status st;
  if (k->tree && backend->ops->peek(backend, k->pidfd, k->pid) == 0)
    backend->ops->kill_group(backend, k->pidfd, k->pid,
                             !backend->ops->is_careless(backend), SIGKILL);
  return backend->ops->reap(backend, k->pidfd, k->pid, &st) != MF_AGAIN;
}

static void on_end(struct watch *w, unsigned events) {
  struct kept_child *k = list_entry(w, struct kept_child, watch);
  if (!has_gone(k->context->backend, k))
    return;
  stop_watching(k);
  free_kept(k);
}

/* Where no pidfd tells of its end it is looked for now and then. */
static void start_watching(struct children *c, struct kept_child *k) {
  struct backend *s = c->context->backend;
  k->context = c->context;
  k->watch.on_ready = on_end;
  k->pidfd = s->ops->pidfd(s, k->pid);
  if (k->pidfd >= 0 && s->ops->watch(s, &k->watch, k->pidfd, WATCH_READ) == 0)
    return;
  if (k->pidfd >= 0)
    s->ops->close_now(s, &k->pidfd);
  k->pidfd = -1;
  if (deadline_at(&c->look_due) == UINT64_MAX)
    deadline_set(&c->context->deadlines, &c->look_due, CHILD_POLL_MS);
}

static void on_look_due(struct deadline *d) {
  struct children *c = list_entry(d, struct children, look_due);
  list_each_safe(it, next, &c->kept) {
    struct kept_child *k = list_entry(it, struct kept_child, link);
    if (k->pidfd >= 0)
      continue;
    if (has_gone(c->context->backend, k))
      free_kept(k);
    else
      start_watching(c, k); /* a descriptor may be free by now */
  }
}

/* NULL: it stays a zombie until this process ends. */
static struct kept_child *new_kept(int pid, int tree) {
  struct kept_child *k = calloc(1, sizeof *k);
  if (!k)
    return NULL;
  k->pid = pid;
  k->tree = tree;
  k->pidfd = -1;
  list_init(&k->link);
  return k;
}

static void leave(struct kept_child *k) {
  pthread_mutex_lock(&lock);
  list_push(&unwatched, &k->link);
  some_left = 1;
  pthread_mutex_unlock(&lock);
}

void children_keep(struct children *c, int pid, int tree) {
  struct kept_child *k = new_kept(pid, tree);
  if (!k)
    return;
  if (!context_is_on(c->context)) {
    leave(k);
    return;
  }
  list_push(&c->kept, &k->link);
  start_watching(c, k);
}

void children_leave(int pid) {
  struct kept_child *k = new_kept(pid, 0);
  if (k)
    leave(k);
}

static void take_all(struct list *to) {
  pthread_mutex_lock(&lock);
  list_move(to, &unwatched);
  pthread_mutex_unlock(&lock);
}

static void watch_left(struct children *c) {
  struct list all;
  take_all(&all);
  list_each_safe(it, next, &all) {
    struct kept_child *k = list_entry(it, struct kept_child, link);
    if (has_gone(c->context->backend, k)) {
      free_kept(k);
      continue;
    }
    list_remove(it);
    list_push(&c->kept, it);
    start_watching(c, k);
  }
}

static void give_back(struct list *from) {
  pthread_mutex_lock(&lock);
  while (!list_empty(from)) {
    struct list *first = from->next;
    list_remove(first);
    list_push(&unwatched, first);
    some_left = 1;
  }
  pthread_mutex_unlock(&lock);
}

void children_unwatch(struct children *c) {
  deadline_clear(&c->look_due);
  list_each(it, &c->kept) {
    stop_watching(list_entry(it, struct kept_child, link));
  }
  give_back(&c->kept);
}

void children_reap(struct backend *backend) {
  struct list all;
  take_all(&all);
  list_each_safe(it, next, &all) {
    struct kept_child *k = list_entry(it, struct kept_child, link);
    if (has_gone(backend, k))
      free_kept(k);
  }
  give_back(&all);
}

/* ---- births to come ---- */

enum {
  FIRST_LOOK_MS = 10,
  LAST_LOOK_MS = 5000
}; /* the second after twice the time, ... */

struct pending_birth {
  struct list link;
  struct births *births; /* NULL: it has no slot */
  uint32_t slot;
  int tree;
  int living;         /* > 0: born, and its slot is put back at the end of that process */
  struct births *own; /* which nobody writes to after that end; or NULL */
};

static void free_pending(struct pending_birth *p) {
  list_remove(&p->link);
  births_drop(&p->births);
  births_drop(&p->own);
  free(p);
}

static struct pending_birth *add_pending(struct children *c, struct births *b,
                                         uint32_t slot, struct births *own) {
  struct pending_birth *p = calloc(1, sizeof *p);
  if (!p) { /* the slot is out of use */
    births_drop(&b);
    births_drop(&own);
    return NULL;
  }
  p->births = b;
  p->slot = slot;
  p->own = own;
  list_push(&c->pending, &p->link);
  return p;
}

void children_await_birth(struct children *c, struct births *b, uint32_t slot, int tree,
                          struct births *own) {
  struct pending_birth *p = add_pending(c, b, slot, own);
  if (!p)
    return;
  p->tree = tree;
  c->births_wait_ms = FIRST_LOOK_MS;
  children_look_for_births(c);
}

void children_await_end(struct children *c, struct births *b, uint32_t slot, int pid,
                        struct births *own) {
  struct pending_birth *p = add_pending(c, b, slot, own);
  if (p)
    p->living = pid;
}

int children_may_come(const struct children *c, const struct births *b) {
  list_each(it, &c->pending) {
    const struct pending_birth *p = list_entry(it, struct pending_birth, link);
    if (p->births == b && b && p->living <= 0)
      return 1;
  }
  return 0;
}

/* Its number has come: from now on its end is waited for. 0: that is no child of ours, or
 * another record's. */
static int take_birth(struct children *c, struct pending_birth *p, int pid) {
  struct backend *backend = c->context->backend;
  if (backend->ops->peek(backend, -1, pid) == -ECHILD || children_claim(pid) < 0)
    return 0;
  children_keep(c, pid, p->tree);
  p->living = pid;
  return 1;
}

/* A template that lies may have forked there once more. */
static void put_back(struct children *c, struct pending_birth *p) {
  int pid = births_pid(p->births, p->slot);
  if (pid != p->living)
    children_late(c, pid);
  births_put(p->births, p->slot);
}

/* Whether nothing more is to come from there. */
static int is_settled(struct children *c, struct pending_birth *p) {
  struct backend *backend = c->context->backend;
  int ended = p->births ? births_ended(p->births) : 1;
  int pid = p->living > 0 ? p->living : births_pid(p->births, p->slot);
  if (pid <= 0)
    return ended;
  if (p->living > 0 || take_birth(c, p, pid))
    if ((!ended || p->own) && backend->ops->peek(backend, -1, p->living) == MF_AGAIN)
      return 0;
  if (p->births)
    put_back(c, p);
  return 1;
}

/* For a number it is looked soon again; an end is asked for when the next one looks. With
 * a process its own births end: those that were waited for in vain don't come any more. */
void children_look_for_births(struct children *c) {
  int is_awaited, again;
  do {
    is_awaited = again = 0;
    list_each_safe(it, next, &c->pending) {
      struct pending_birth *p = list_entry(it, struct pending_birth, link);
      if (!is_settled(c, p)) {
        is_awaited |= p->living <= 0;
        continue;
      }
      again |= p->own != NULL;
      births_end(p->own);
      children_sweep(c, p->own);
      free_pending(p);
    }
  } while (again);
  if (!is_awaited)
    deadline_clear(&c->births_due);
  else if (context_is_on(c->context))
    deadline_set(&c->context->deadlines, &c->births_due, c->births_wait_ms);
}

void children_late(struct children *c, int pid) {
  struct backend *backend = c->context->backend;
  if (pid > 0 && backend->ops->peek(backend, -1, pid) != -ECHILD &&
      children_claim(pid) == 0)
    children_keep(c, pid, 0);
}

void children_sweep(struct children *c, struct births *b) {
  uint32_t at = 0;
  for (int pid; b && (pid = births_late(b, &at)) > 0;)
    children_late(c, pid);
}

static void on_births_due(struct deadline *d) {
  struct children *c = list_entry(d, struct children, births_due);
  c->births_wait_ms =
      c->births_wait_ms < LAST_LOOK_MS / 2 ? c->births_wait_ms * 2 : LAST_LOOK_MS;
  children_look_for_births(c);
}

void children_init(struct children *c, struct context *ctx) {
  c->context = ctx;
  list_init(&c->kept);
  list_init(&c->pending);
  deadline_init(&c->births_due, on_births_due);
  deadline_init(&c->look_due, on_look_due);
}

void children_leave_births(struct children *c) {
  while (!context_any() && !list_empty(&c->pending))
    free_pending(list_entry(c->pending.next, struct pending_birth, link));
  list_each(it, &c->pending) {
    const struct pending_birth *p = list_entry(it, struct pending_birth, link);
    births_leave(p->births);
    births_leave(p->own);
  }
  pthread_mutex_lock(&lock);
  some_left |= !list_empty(&c->pending);
  list_append(&unawaited, &c->pending);
  pthread_mutex_unlock(&lock);
}

static void await_left(struct children *c) {
  struct list all;
  pthread_mutex_lock(&lock);
  list_move(&all, &unawaited);
  pthread_mutex_unlock(&lock);
  if (list_empty(&all))
    return;
  list_each(it, &all) {
    const struct pending_birth *p = list_entry(it, struct pending_birth, link);
    births_move(p->births, c->context->backend);
    births_move(p->own, c->context->backend);
  }
  list_append(&c->pending, &all);
  c->births_wait_ms = FIRST_LOOK_MS;
  children_look_for_births(c);
}

void children_watch(struct children *c) {
  some_left = 0;
  watch_left(c);
  await_left(c);
}

void children_adopt(struct children *c) {
  if (some_left && context_is_on(c->context))
    children_watch(c);
}

void children_close(struct children *c) {
  list_each(it, &c->kept) {
    fd_close(&list_entry(it, struct kept_child, link)->pidfd);
  }
  list_each(it, &c->pending) {
    const struct pending_birth *p = list_entry(it, struct pending_birth, link);
    if (p->births)
      births_forked(p->births);
    if (p->own)
      births_forked(p->own);
  }
}

void children_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  if (pthread_mutex_trylock(&lock) ==
      0) { /* else another thread was in the middle of it */
    while (!list_empty(&unwatched)) {
      struct list *first = unwatched.next;
      list_remove(first);
      free(list_entry(first, struct kept_child, link));
    }
    free(table);
  }
  lock = fresh;
  list_init(&unwatched);
  list_init(&unawaited); /* the mappings stay: they have nobody's backend */
  some_left = 0;
  table = NULL;
  size = used = 0;
}
