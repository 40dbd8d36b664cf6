#include "remote/tables.h"

#include "os/fd.h"
#include "os/proc.h"
#include "os/share.h"
#include "wire/slot_layout.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { RETURNS_LOOKED_AT = 64 };

struct table {
  struct list link;
  uint32_t id, count;
  volatile uint32_t *births;
  struct slot *words; /* NULL: they have not come yet */
  uint32_t *told;     /* what stood in births when we last looked */
  unsigned char *trees;
  int fds[2]; /* of both: each fork brings them until the template has told of a birth */
  unsigned nalive;
  int dropped;
};

struct far_child {
  struct list by_pid, lately;
  struct table *table;
  uint64_t serial;
  uint32_t index;
  pid_t pid;
  int pidfd; /* -1: a child of the agent's */
  int tree;
  int has_returned; /* its function, which is told */
};

void tables_init(struct tables *t, const struct tables_ops *ops) {
  *t = (struct tables){.ops = ops};
  list_init(&t->all);
  list_init(&t->lately);
  idmap_init(&t->serials);
  buf_init(&t->ended, SIZE_MAX);
  for (int i = 0; i < TABLES_PIDS; i++)
    list_init(&t->pids[i]);
}

static struct table *find(const struct tables *t, uint32_t id) {
  list_each(it, &t->all) {
    struct table *x = list_entry(it, struct table, link);
    if (x->id == id)
      return x;
  }
  return NULL;
}

static int was_dropped(const struct tables *t, uint32_t id) {
  for (unsigned i = 0; i < TABLES_DROPPED; i++)
    if (t->dropped[i] == id)
      return 1;
  return 0; /* ids count from 1 */
}

static void free_table(struct tables *t, struct table *x) {
  list_remove(&x->link);
  t->count--;
  if (x->births)
    share_unmap((void *)(uintptr_t)x->births, slot_births_size(x->count));
  if (x->words)
    share_unmap(x->words, slot_words_size(x->count));
  for (int i = 0; i < 2; i++)
    fd_close(&x->fds[i]);
  free(x->told);
  free(x->trees);
  free(x);
}

static int is_step(uint32_t count) {
  for (int i = 0; i < SLOT_STEPS_MAX; i++)
    if (slot_step_count(i) == count)
      return 1;
  return 0;
}

static int add_births(struct tables *t, const struct link_descriptor *d) {
  struct table *x = find(t, d->id);
  void *map;
  int r;
  if (x)
    return x->count == d->count ? fd_dup(x->fds[0]) : -EPROTO;
  if (was_dropped(t, d->id))
    return -ENOENT;
  if (t->count >= LINK_TABLES_MAX || !is_step(d->count))
    return -EPROTO;
  x = calloc(1, sizeof *x);
  if (!x)
    return -ENOMEM;
  x->id = d->id;
  x->count = d->count;
  x->fds[0] = x->fds[1] = -1;
  x->told = calloc(d->count, sizeof *x->told);
  x->trees = calloc(d->count, 1);
  r = x->told && x->trees ? share_new(slot_births_size(d->count), &x->fds[0], &map)
                          : -ENOMEM;
  list_push(&t->all, &x->link);
  t->count++;
  if (r < 0) {
    free_table(t, x);
    return r;
  }
  x->births = map;
  return fd_dup(x->fds[0]);
}

int tables_add(struct tables *t, const struct link_descriptor *d) {
  void *map;
  int r;
  if (d->kind == LINK_BIRTHS)
    return add_births(t, d);
  struct table *x = find(t, d->id);
  if (!x) /* it was dropped, or there was no memory for its births */
    return -ENOENT;
  if (x->count != d->count)
    return -EPROTO;
  if (!x->words) {
    r = share_new(slot_words_size(d->count), &x->fds[1], &map);
    if (r < 0)
      return r;
    x->words = map;
  }
  return fd_dup(x->fds[1]);
}

void tables_drop(struct tables *t, uint32_t id) {
  struct table *x = find(t, id);
  t->dropped[t->ndropped++ % TABLES_DROPPED] = id;
  if (!x)
    return;
  x->dropped = 1;
  if (!x->nalive)
    free_table(t, x);
}

int tables_mark_tree(struct tables *t, uint32_t id, uint32_t count, uint32_t index) {
  struct link_descriptor d = {.id = id, .count = count, .kind = LINK_BIRTHS};
  if (id == LINK_TABLE_NONE) {
    t->root_is_tree = 1;
    return 0;
  }
  struct table *x = find(t, id);
  if (!x) {
    int fd = add_births(t, &d);
    if (fd == -EPROTO)
      return fd;
    fd_close(&fd);
    x = find(t, id);
  }
  if (!x)
    return 0; /* there was no memory, and there will be no birth */
  if (index >= x->count || count != x->count)
    return -EPROTO;
  x->trees[index] = 1;
  return 0;
}

static struct list *bucket(const struct tables *t, pid_t pid) {
  return (struct list *)(uintptr_t)&t->pids[(unsigned)pid % TABLES_PIDS];
}

static struct far_child *by_pid(const struct tables *t, pid_t pid) {
  list_each(it, bucket(t, pid)) {
    struct far_child *p = list_entry(it, struct far_child, by_pid);
    if (p->pid == pid)
      return p;
  }
  return NULL;
}

int tables_has_news(const struct tables *t) {
  list_each(it, &t->all) {
    const struct table *x = list_entry(it, struct table, link);
    if (memcmp((const void *)(uintptr_t)x->births, x->told, slot_births_size(x->count)) !=
        0)
      return 1;
  }
  return 0;
}

/* What stands in a slot was perhaps written by a template: it has to be a child of ours
 * that is not known yet. */
static int is_new_child(const struct tables *t, pid_t pid) {
  siginfo_t si;
  if (pid <= 0 || pid == t->root || by_pid(t, pid))
    return 0;
  return pid == t->ended_pid ||
         waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/* Or a child of one of them, which no sandbox can pretend: a pidfd for it, or -errno. */
static int open_grandchild(const struct tables *t, pid_t pid) {
  if (pid <= 0 || pid == t->root || by_pid(t, pid))
    return -ESRCH;
  int fd = proc_pidfd(pid);
  pid_t parent = fd < 0 ? 0 : proc_parent(pid);
  /* It lives: so it was it whose parent was asked for. */
  if (parent > 0 && (parent == t->root || by_pid(t, parent)) &&
      proc_kill(fd, pid, 0) == 0)
    return fd;
  fd_close(&fd);
  return -ESRCH;
}

static int tell(struct tables *t, struct table *x, uint32_t index, pid_t pid,
                struct buf *out) {
  struct far_child *p;
  int pidfd = -1;
  x->told[index] = (uint32_t)pid;
  if (!is_new_child(t, pid) && (pidfd = open_grandchild(t, pid)) < 0)
    return 0;
  p = calloc(1, sizeof *p);
  int r = p ? idmap_add(&t->serials, p, &p->serial) : -ENOMEM;
  if (r >= 0 && pidfd >= 0) {
    r = t->ops->watch(t, p->serial, pidfd);
    if (r < 0)
      idmap_remove(&t->serials, p->serial);
  }
  if (r < 0) {
    fd_close(&pidfd);
    free(p);
    return -ENOMEM;
  }
  p->pid = pid;
  p->pidfd = pidfd;
  p->table = x;
  p->index = index;
  p->tree = x->trees[index];
  x->trees[index] = 0;
  x->nalive++;
  list_push(bucket(t, pid), &p->by_pid);
  list_init(&p->lately);
  if (pidfd < 0)
    list_push(&t->lately, &p->lately);
  uint32_t numbers[4] = {x->id, index, (uint32_t)p->serial, (uint32_t)pid};
  r = link_put(out, LINK_BORN, 0, numbers, 4);
  t->ops->on_birth(t, x->id, index, pid);
  return r;
}

/* Of all, or of one that has ended: with others, whose parent the kernel has to be asked
 * for, it can wait for their ends. */
static int put_news(struct tables *t, pid_t only, struct buf *out) {
  int r = 0;
  list_each(it, &t->all) {
    struct table *x = list_entry(it, struct table, link);
    for (uint32_t i = 0; i < x->count && r == 0; i++) {
      uint32_t v = x->births[i];
      if (v != x->told[i] && (!only || (pid_t)v == only))
        r = tell(t, x, i, (pid_t)v, out);
    }
  }
  return r;
}

int tables_put_news(struct tables *t, struct buf *out) {
  return put_news(t, 0, out);
}

pid_t tables_pid(const struct tables *t, uint32_t serial, int *ret_pidfd, int *ret_tree) {
  *ret_tree = t->root_is_tree;
  *ret_pidfd = -1;
  if (serial == LINK_SERIAL_ROOT)
    return t->root;
  const struct far_child *p = idmap_get(&t->serials, serial);
  *ret_tree = p && p->tree;
  *ret_pidfd = p ? p->pidfd : -1;
  return p ? p->pid : 0;
}

/* What its function has left in its slot, copied: anybody may write there. */
static size_t copy_words(const struct far_child *p, char *text) {
  const struct table *x = p->table;
  if (!x->words)
    return 0;
  size_t n = x->words[p->index].text_size;
  if (n > SLOT_TEXT_MAX)
    n = SLOT_TEXT_MAX;
  const char *texts = (const char *)x->words + slot_heads_size(x->count);
  memcpy(text, texts + (size_t)p->index * SLOT_TEXT_MAX, n);
  x->words[p->index].text_size = 0;
  return n;
}

/* Told once, before its end: what stands there the parent compares. */
static int tell_return(struct far_child *p, struct buf *out) {
  struct slot *s = p->table->words ? &p->table->words[p->index] : NULL;
  uint64_t id = s && !list_empty(&p->lately) ? s->returned : 0;
  if (!id)
    return 0;
  list_remove(&p->lately);
  p->has_returned = 1;
  s->returned = 0;
  return link_put_returned(out, (uint32_t)p->serial, id);
}

/* Who returns at once was born a moment ago. Of others their ends tell in time. */
int tables_put_returns(struct tables *t, struct buf *out) {
  int r = 0, left = RETURNS_LOOKED_AT;
  for (struct list *it = t->lately.prev, *prev; it != &t->lately && left-- > 0 && r == 0;
       it = prev) {
    prev = it->prev;
    r = tell_return(list_entry(it, struct far_child, lately), out);
  }
  return r;
}

/* Before it is reaped: its slot is nobody's when its number may be another's. */
static void leave_slot(struct far_child *p) {
  struct table *x = p->table;
  if (x->told[p->index] == (uint32_t)p->pid)
    x->births[p->index] = x->told[p->index] = 0;
}

static void forget(struct tables *t, struct far_child *p) {
  struct table *x = p->table;
  idmap_remove(&t->serials, p->serial);
  list_remove(&p->by_pid);
  list_remove(&p->lately);
  fd_close(&p->pidfd);
  free(p);
  if (--x->nalive == 0 && x->dropped)
    free_table(t, x);
}

int tables_on_end(struct tables *t, uint64_t serial) {
  char text[SLOT_TEXT_MAX];
  struct far_child *p = idmap_get(&t->serials, serial);
  int status;
  if (!p)
    return 0;
  if (p->tree)
    proc_kill_group(p->pidfd, p->pid, 0, SIGKILL);
  t->ops->on_end(t, p->pid, 0);
  size_t n = copy_words(p, text);
  leave_slot(p);
  struct link_end e = {.serial = (uint32_t)serial,
                       .status = LINK_STATUS_UNKNOWN,
                       .words = n ? text : NULL,
                       .nwords = n};
  if (proc_zombie_status(p->pidfd, p->pid, &status) == 0 ||
      proc_pidfd_status(p->pidfd, &status) == 0)
    e.status = (uint32_t)status;
  forget(t, p);
  return link_put_end(&t->ended, &e);
}

static int reap(struct tables *t, pid_t pid, struct buf *out) {
  char text[SLOT_TEXT_MAX];
  struct rusage u;
  int status, is_root = pid == t->root;
  struct far_child *p = is_root ? NULL : by_pid(t, pid);
  size_t n = 0;
  if (is_root ? t->root_is_tree : p && p->tree)
    kill(-pid, SIGKILL);
  if (p && tell_return(p, out) < 0)
    return -ENOMEM;
  if (p || is_root)
    t->ops->on_end(t, pid, p && p->has_returned);
  if (p) {
    n = copy_words(p, text);
    leave_slot(p);
  }
  if (wait4(pid, &status, WNOHANG, &u) != pid)
    return 0;
  if (is_root)
    t->root = 0;
  if (!p && !is_root)
    return 0; /* no process of the parent's: an orphan that came to us */
  struct link_end e = {.serial = p ? (uint32_t)p->serial : LINK_SERIAL_ROOT,
                       .status = (uint32_t)status,
                       .words = n ? text : NULL,
                       .nwords = n};
  e.utime_us = (uint64_t)u.ru_utime.tv_sec * 1000000u + (uint64_t)u.ru_utime.tv_usec;
  e.stime_us = (uint64_t)u.ru_stime.tv_sec * 1000000u + (uint64_t)u.ru_stime.tv_usec;
  e.maxrss_bytes = (uint64_t)u.ru_maxrss * PROC_MAXRSS_UNIT;
  if (p)
    forget(t, p);
  return link_put_end(&t->ended, &e);
}

/* The births of all are known before the template's end. */
static int tell_ended(struct tables *t, pid_t pid, struct buf *out) {
  if (by_pid(t, pid))
    return 0;
  t->ended_pid = pid;
  int r = put_news(t, pid == t->root ? 0 : pid, out);
  t->ended_pid = 0;
  return r;
}

int tables_reap(struct tables *t, struct buf *out) {
  siginfo_t si;
  for (;;) {
    si.si_pid = 0;
    if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid <= 0)
      return 0;
    int r = tell_ended(t, si.si_pid, out);
    if (r == 0)
      r = reap(t, si.si_pid, out);
    if (r < 0)
      return r;
  }
}
