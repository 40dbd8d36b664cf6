#include "parent/loop/context.h"

#include "os/drop.h"
#include "os/fd.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/process.h"
#include "parent/start/boot.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Every home of this process. Only the list is shared between threads; a home belongs to
 * its loop's thread. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list homes = {&homes, &homes};

/* A loop needs four descriptors; the first of a process needs two more, and libuv ends
 * the process where it does not get them. */
enum { LOOP_DESCRIPTORS = 6 };

static void on_timer(void *owner);
static void on_turn(void *owner);
static void on_stopped(void *owner);

/* ---- life ---- */

struct home *home_new_on(struct backend *backend) {
  struct home *h = calloc(1, sizeof *h);
  uint32_t start;
  if (!h) {
    backend->ops->free(backend);
    return NULL;
  }
  h->backend = backend;
  h->generation = fork_generation();
  backend->owner = h;
  backend->on_timer = on_timer;
  backend->on_turn = on_turn;
  backend->on_stopped = on_stopped;
  /* Numbers differ between owners of one process, so that a report meant for a former one
   * is not taken for ours; 0 means "none" on the wire. */
  proc_random(&start, sizeof start);
  h->next_id = ((uint64_t)start << 31) + 1;
  h->timer_at_ms = UINT64_MAX;
  list_init(&h->link);
  list_init(&h->processes);
  list_init(&h->todo);
  list_init(&h->tasks);
  list_init(&h->held);
  list_init(&h->orphans);
  list_init(&h->unborn);
  deadline_init(&h->births_due, children_on_births_due);
  list_init(&h->more);
  list_init(&h->dump_entries);
  list_init(&h->to_free);
  list_init(&h->closing);
  minheap_init(&h->deadlines);
  return h;
}

static _Atomic(uv_loop_t *)
    default_made; /* libuv's default loop, once we have asked for it */

struct home *home_find(struct uv_loop_s *loop) {
  struct home *found = NULL;
  if (!loop)
    loop = default_made;
  pthread_mutex_lock(&lock);
  list_each(it, &homes) {
    struct home *h = list_entry(it, struct home, link);
    if (h->loop == loop && !home_foreign(h) && !h->dropped)
      found = h;
  }
  pthread_mutex_unlock(&lock);
  return found;
}

int mf_check_loop_room(void) {
  return fd_check_free(LOOP_DESCRIPTORS);
}

/* libuv says only that it has none, and aborts where its first loop finds too few. */
static int default_loop(struct uv_loop_s **ret) {
  uv_loop_t *loop = default_made;
  if (!loop) {
    int r = mf_check_loop_room();
    if (r < 0)
      return r;
    loop = uv_default_loop();
    if (!loop)
      return -ENOMEM;
    default_made = loop;
  }
  *ret = loop;
  return 0;
}

int home_get(struct uv_loop_s *loop, struct home **ret) {
  struct backend *backend;
  struct home *h;
  int r = 0;
  if (!loop)
    r = default_loop(&loop);
  if (r < 0)
    return r;
  h = home_find(loop);
  if (!h) {
    drop_aside();
    backend = backend_uv_new(loop);
    h = backend ? home_new_on(backend) : NULL;
    if (!h)
      return -ENOMEM;
    h->loop = loop;
    pthread_mutex_lock(&lock);
    list_push(&homes, &h->link);
    pthread_mutex_unlock(&lock);
  }
  *ret = h;
  return 0;
}

void home_each(void (*visit)(struct home *h)) {
  pthread_mutex_lock(&lock);
  list_each(it, &homes) {
    visit(list_entry(it, struct home, link));
  }
  pthread_mutex_unlock(&lock);
}

void homes_forked(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh; /* another thread of the original may have held it */
}

int home_foreign(const struct home *h) {
  return h->generation != fork_generation();
}

static void home_free(struct home *h) {
  children_forget_unborn(h);
  pthread_mutex_lock(&lock);
  list_remove(&h->link);
  pthread_mutex_unlock(&lock);
  h->backend->ops->free(h->backend);
  blockcache_empty(&h->blockcache);
  free(h->table);
  free(h);
}

int home_start(struct home *h) {
  int r;
  if (h->started)
    return 0;
  r = h->backend->ops->start(h->backend);
  if (r < 0)
    return r;
  h->started = 1;
  h->stopping = 0;
  h->timer_at_ms = UINT64_MAX;
  h->wants_turn = 0;
  h->backend->ops->busy(h->backend, h->nbusy != 0);
  if (!list_empty(&h->closing) || !list_empty(&h->todo) || !list_empty(&h->held) ||
      !list_empty(&h->to_free) || !list_empty(&h->tasks) || !list_empty(&h->more))
    home_turn(h);
  if (h->def)
    process_unpark(h->def);
  children_look_for_unborn(h);
  children_watch(h);
  return 0;
}

static void sweep(struct home *h) {
  while (!list_empty(&h->to_free))
    process_free(list_entry(h->to_free.next, struct mf_process, free_link));
}

/* The last handle is closed: nothing of ours stays on the loop. Records whose close
 * callback is pending wait in `closing` until the loop has let go; a default template
 * stays. */
static void park(struct home *h) {
  struct mf_process *def = h->def;
  h->stopping = 1;
  list_each(it, &h->processes) {
    process_forget_source(list_entry(it, struct mf_process, link));
  }
  if (def)
    list_remove(&def->link);
  while (!list_empty(&h->processes))
    process_park(list_entry(h->processes.next, struct mf_process, link));
  if (def) {
    list_push(&h->processes, &def->link);
    process_park(def);
  }
  sweep(h);
  deadline_clear(&h->births_due);
  children_look_for_unborn(h);
  children_unwatch(h);
  h->started = 0;
  h->backend->ops->stop(h->backend);
}

static void call_parting(struct home *h) {
  while (!list_empty(&h->closing)) {
    struct mf_process *p = list_entry(h->closing.next, struct mf_process, closing_link);
    mf_close_cb cb = p->close_to.cb;
    list_remove(&p->closing_link);
    p->close_to.cb = NULL;
    cb(p, p->close_to.data);
    if (list_empty(&p->link))
      process_free(p); /* the parking has taken it out */
    else
      process_release(p);
  }
}

static void on_stopped(void *owner) {
  struct home *h = owner;
  call_parting(h); /* which may start it again, or drop it */
  if (h->started)
    return;
  blockcache_empty(&h->blockcache);
  h->stopping = 0;
  if (h->dropped)
    home_free(h);
}

void home_drop(struct home *h) {
  boot_reset(h);
  h->dropped = 1;
  if (h->started)
    home_turn(h);
  else if (!h->stopping)
    home_free(h);
}

/* A wait of the loop without an end is cheaper. */
static void disarm(struct home *h) {
  h->timer_at_ms = UINT64_MAX;
  h->backend->ops->timer(h->backend, UINT64_MAX);
}

/* ---- dispatch ---- */

void home_enter(struct home *h) {
  h->in_dispatch++;
}

static void write_held(struct home *h) {
  while (!list_empty(&h->held))
    process_unhold(list_entry(h->held.next, struct mf_process, held_link));
}

static void run_tasks(struct home *h) {
  struct list due;
  list_move(&due, &h->tasks);
  h->in_tasks = 1;
  while (!list_empty(&due)) {
    struct task *t = list_entry(due.next, struct task, link);
    list_remove(&t->link);
    t->run(t);
  }
  h->in_tasks = 0;
}

void home_leave(struct home *h) {
  if (h->in_dispatch > 1) {
    h->in_dispatch--;
    return;
  }
  /* Callbacks may ask for more; what they ask for is paid on the next turn, so that a
   * callback that always asks does not keep the loop. */
  struct list due;
  list_move(&due, &h->todo);
  while (!list_empty(&due)) {
    struct mf_process *p = list_entry(due.next, struct mf_process, todo_link);
    list_remove(&p->todo_link);
    process_deliver(p);
  }
  run_tasks(h);
  sweep(h);
  if (h->timer_at_ms != UINT64_MAX && !minheap_first(&h->deadlines))
    disarm(h);
  h->in_dispatch--;
  if (h->started && !h->nopen && !h->nbusy && list_empty(&h->todo))
    park(h);
}

void task_init(struct task *t, void (*run)(struct task *t)) {
  list_init(&t->link);
  t->run = run;
}

void home_admit(struct home *h, struct dump_entry *r,
                void (*dump)(const struct dump_entry *r, FILE *out)) {
  r->made_ms = h->backend->ops->now_ms(h->backend);
  r->dump = dump;
  list_push(&h->dump_entries, &r->link);
}

void task_clear(struct task *t) {
  list_remove(&t->link);
}

void home_task(struct home *h, struct task *t) {
  if (list_empty(&t->link))
    list_push(&h->tasks, &t->link);
  if (!h->in_dispatch || h->in_tasks)
    home_turn(h);
}

void home_turn(struct home *h) {
  if (!h->started || h->wants_turn)
    return;
  h->wants_turn = 1;
  h->backend->ops->turn(h->backend);
}

static void read_more(struct home *h) {
  struct list due;
  list_move(&due, &h->more);
  while (!list_empty(&due))
    process_read_more(list_entry(due.next, struct mf_process, more_link));
}

static void on_turn(void *owner) {
  struct home *h = owner;
  home_enter(h);
  h->wants_turn = 0;
  write_held(h);
  read_more(h);
  if (h->nopen) /* another one was opened meanwhile: the loop will not be empty */
    call_parting(h);
  home_leave(h);
}

void home_count_busy(struct home *h, int delta) {
  int was = h->nbusy != 0;
  h->nbusy += (size_t)delta;
  if (was == (h->nbusy != 0))
    return;
  h->backend->ops->busy(h->backend, !was);
  if (was && !h->nopen)
    home_turn(h); /* it may be time to park */
}

/* ---- by id ---- */

static struct mf_process **slot(struct home *h, uint64_t id) {
  struct mf_process **p = &h->table[id & (h->table_size - 1)];
  while (*p && (*p)->id != id)
    p = &(*p)->hash_next;
  return p;
}

static int grow(struct home *h) {
  size_t size = h->table_size ? h->table_size * 2 : 64, i;
  struct mf_process **old = h->table, *p, *next;
  struct mf_process **table = calloc(size, sizeof *table);
  if (!table)
    return h->table ? 0 : -ENOMEM; /* longer chains will do */
  h->table = table;
  for (i = 0; i < h->table_size; i++)
    for (p = old[i]; p; p = next) {
      next = p->hash_next;
      p->hash_next = table[p->id & (size - 1)];
      table[p->id & (size - 1)] = p;
    }
  h->table_size = size;
  free(old);
  return 0;
}

int home_insert(struct home *h, struct mf_process *p) {
  struct mf_process **at;
  if (h->table_used >= h->table_size && grow(h) < 0)
    return -ENOMEM;
  at = slot(h, p->id);
  p->hash_next = *at;
  *at = p;
  h->table_used++;
  return 0;
}

void home_remove(struct home *h, struct mf_process *p) {
  struct mf_process **at = &h->table[p->id & (h->table_size - 1)];
  while (*at && *at != p)
    at = &(*at)->hash_next;
  if (!*at)
    return;
  *at = p->hash_next;
  p->hash_next = NULL;
  h->table_used--;
}

struct mf_process *home_lookup(struct home *h, uint64_t id) {
  return h->table ? *slot(h, id) : NULL;
}

/* ---- deadlines ---- */

void deadline_init(struct deadline *d, void (*on_due)(struct deadline *d)) {
  minheap_node_init(&d->node);
  d->on_due = on_due;
}

static void arm(struct home *h, uint64_t at_ms) {
  if (at_ms >= h->timer_at_ms)
    return;
  h->timer_at_ms = at_ms;
  h->backend->ops->timer(h->backend, at_ms);
}

void deadline_set_at(struct home *h, struct deadline *d, uint64_t at_ms) {
  minheap_set(&h->deadlines, &d->node, at_ms);
  arm(h, at_ms);
}

void deadline_set(struct home *h, struct deadline *d, uint64_t in_ms) {
  deadline_set_at(h, d, h->backend->ops->now_ms(h->backend) + in_ms);
}

void deadline_clear(struct deadline *d) {
  minheap_remove(&d->node); /* the timer may fire for nothing: cheaper than to set it */
}

/* What on_due sets anew is not due before the next turn, also when it is due now. */

static void on_timer(void *owner) {
  struct home *h = owner;
  uint64_t now = h->backend->ops->now_ms(h->backend);
  struct minheap_node *first;
  struct minheap due;
  home_enter(h);
  minheap_init(&due);
  h->timer_at_ms = UINT64_MAX;
  while ((first = minheap_first(&h->deadlines)) && first->key <= now)
    minheap_set(&due, first, first->key);
  if (first)
    arm(h, first->key);
  while ((first = minheap_first(&due))) {
    struct deadline *d = minheap_entry(first, struct deadline, node);
    minheap_remove(first);
    d->on_due(d);
  }
  home_leave(h);
}
