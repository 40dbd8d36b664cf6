#include "parent/process/far.h"

#include "base/result.h"
#include "parent/common/program.h"
#include "parent/process/far_input.h"
#include "parent/process/far_link.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  READ_MAX = 16 * 1024,       /* in a step of PHASE_READ */
  NOT_TOLD_MAX = 1024 * 1024, /* bytes that the near end does not read */
  UNREAD_MAX = 256            /* ends that may lie there unread */
};

/* ---- processes ---- */

static struct far_process *find(const struct far_link *far, uint32_t serial) {
  const struct list *bucket = &far->processes[serial % FAR_BUCKETS];
  for (struct list *it = bucket->next; it != bucket; it = it->next) {
    struct far_process *q = list_entry(it, struct far_process, link);
    if (q->serial == serial)
      return q;
  }
  return NULL;
}

static void free_process(struct far_process *q) {
  list_remove(&q->link);
  list_remove(&q->news);
  free(q->words);
  free(q);
}

/* ---- tables ---- */

static struct far_table *table(const struct far_link *far, uint32_t id) {
  const struct list *bucket = &far->tables[id % FAR_BUCKETS];
  for (struct list *it = bucket->next; it != bucket; it = it->next) {
    struct far_table *t = list_entry(it, struct far_table, link);
    if (t->id == id)
      return t;
  }
  return NULL;
}

/* Nobody will ask for it any more. */
static void forget(struct far_link *far, struct far_process *q) {
  struct far_table *t = table(far, q->table);
  if (t && t->born[q->index] == q)
    t->born[q->index] = NULL;
  free_process(q);
}

struct far_process *far_born(const struct far_link *far, uint32_t id, uint32_t index) {
  const struct far_table *t = table(far, id);
  return t && index < t->count ? t->born[index] : NULL;
}

/* ---- when it is listened to ---- */

static unsigned wanted_now(const struct far_link *far) {
  int is_needed = !far->has_root || far->is_listening || far->nawaited ||
                  far->nasked > (far->attended != NULL) || far->nmeasured ||
                  far->nknown > UNREAD_MAX;
  return (is_needed ? WATCH_READ : WATCH_HANGUP) |
         (buf_size(&far->out) ? WATCH_WRITE : 0u);
}

static void watch(struct far_link *far, unsigned events) {
  struct backend *b = far->context->backend;
  if (!far->lost && far->fd >= 0)
    b->ops->watch(b, &far->watch, far->fd, events);
}

void far_link_watch(struct far_link *far) {
  watch(far, wanted_now(far));
}

/* As the kernel tells of births by memory, and of the ends of those whom nobody has a
 * record of not at all, what comes here wakes the program only when somebody waits for
 * it. It is read with the next words of any process. */
void far_link_listen(struct far_link *far) {
  far->is_listening = 1;
  far_fork_end_row(far);
  watch(far, wanted_now(far));
}

static void on_waking(struct task *t) {
  struct far_link *far = list_entry(t, struct far_link, waking);
  if (far->nawaited)
    far_fork_end_row(far);
  watch(far, wanted_now(far));
}

/* On the next turn: until then it is perhaps closed. A row ends then also where the side is
 * watched already. */
static void await_end(struct far_link *far, struct far_process *q) {
  q->is_known = q->is_awaited = !q->gone && q->serial != LINK_SERIAL_ROOT;
  far->nknown += q->is_known != 0;
  far->nawaited += q->is_awaited != 0;
  if (q->is_awaited && (far->nrow || !(far->watch.events & WATCH_READ)))
    context_task(far->context, PHASE_WRITE, &far->waking);
}

void far_disregard(struct far_link *far, struct far_process *q) {
  far->nawaited -= q->is_awaited != 0;
  q->is_awaited = 0;
}

static void count_out(struct far_link *far, struct far_process *q) {
  far_disregard(far, q);
  far->nknown -= q->is_known != 0;
  q->is_known = 0;
}

/* Nobody claims q any more: it goes now, or with its end. */
static void leave(struct far_link *far, struct far_process *q) {
  count_out(far, q);
  q->process = NULL;
  q->is_left = 1;
  if (q->gone)
    forget(far, q);
}

/* The record hears of its end outside of the event. */
static void tell_later(struct far_link *far, struct far_process *q) {
  if (list_empty(&q->news))
    list_push(&far->news, &q->news);
  context_task(far->context, PHASE_WORK, &far->task);
}

void far_clear_slot(struct far_link *far, uint32_t id, uint32_t index) {
  struct far_table *t = table(far, id);
  struct far_process *q = t && index < t->count ? t->born[index] : NULL;
  if (!q)
    return;
  t->born[index] = NULL;
  if (!q->process)
    leave(far, q);
}

struct far_process *far_root(const struct far_link *far) {
  return find(far, LINK_SERIAL_ROOT);
}

void far_claim(struct far_link *far, struct far_process *q, struct mf_process *p) {
  q->process = p;
  await_end(far, q);
  if (q->gone)
    tell_later(far, q);
}

void far_leave(struct far_link *far, struct far_process *q) {
  leave(far, q);
}

/* The file that stands for memory over there. */
static int make_ticket(struct far_link *far, unsigned kind, uint32_t id, uint32_t count) {
  struct backend *b = far->context->backend;
  struct link_ticket t = {LINK_TICKET_MAGIC, kind, id, count};
  void *map;
  int fd, r = b->ops->share(b, sizeof t, &fd, &map);
  if (r < 0)
    return r;
  memcpy(map, &t, sizeof t);
  b->ops->unshare(b, map, sizeof t);
  return fd;
}

int far_add_step(struct far_link *far, uint32_t count, uint32_t *ret_table,
                 int ret_fds[2]) {
  struct backend *b = far->context->backend;
  uint32_t id = far->last_table + 1;
  struct far_table *t = far->ntables < LINK_TABLES_MAX
                            ? calloc(1, sizeof *t + count * sizeof *t->born)
                            : NULL;
  if (!t)
    return -ENOMEM;
  ret_fds[0] = make_ticket(far, LINK_BIRTHS, id, count);
  ret_fds[1] = ret_fds[0] < 0 ? -1 : make_ticket(far, LINK_WORDS, id, count);
  if (ret_fds[1] < 0) {
    int r = ret_fds[0] < 0 ? ret_fds[0] : ret_fds[1];
    if (ret_fds[0] >= 0)
      b->ops->close(b, &ret_fds[0]);
    free(t);
    return r;
  }
  t->id = far->last_table = id;
  t->count = count;
  list_push(&far->tables[id % FAR_BUCKETS], &t->link);
  far->ntables++;
  *ret_table = id;
  return 0;
}

uint32_t far_step_count(const struct far_link *far, uint32_t id) {
  const struct far_table *t = table(far, id);
  return t ? t->count : 0;
}

void far_drop_step(struct far_link *far, uint32_t id) {
  struct far_table *t = table(far, id);
  if (!t)
    return;
  for (uint32_t i = 0; i < t->count; i++)
    far_clear_slot(far, id, i);
  list_remove(&t->link);
  free(t);
  far->ntables--;
  far_tell(far, LINK_DROP, &id, 1);
}

/* ---- what it tells ---- */

static void lose(struct far_link *far, const char *why) {
  struct backend *b = far->context->backend;
  if (far->lost)
    return;
  far->lost = 1;
  fdset_close(&far->sockets);
  if (!*far->reason)
    strncpy(far->reason, why, sizeof far->reason - 1);
  b->ops->watch(b, &far->watch, far->fd, 0);
  if (far->fd >= 0)
    b->ops->close(b, &far->fd);
  far_fork_close_input(far); /* else the command waits for it */
  buf_consume(&far->out, buf_size(&far->out));
  context_task(far->context, PHASE_WORK, &far->task);
}

static int take_birth(struct far_link *far, const struct link_frame *f) {
  struct link_birth b;
  if (link_read_birth(f, &b) < 0 || find(far, b.serial))
    return -EPROTO;
  struct far_table *t = table(far, b.table);
  if (b.serial != LINK_SERIAL_ROOT && b.table == LINK_TABLE_NONE)
    return -EPROTO;
  if (t && b.index >= t->count)
    return -EPROTO;
  /* Nobody waits for it, or a lying template has forked twice: nothing is kept of it. */
  if (b.serial != LINK_SERIAL_ROOT && (!t || t->born[b.index]))
    return 0;
  struct far_process *q = calloc(1, sizeof *q);
  if (!q)
    return -ENOMEM;
  q->serial = b.serial;
  q->pid = (int)b.pid;
  q->table = b.table;
  q->index = b.index;
  list_init(&q->news);
  list_push(&far->processes[q->serial % FAR_BUCKETS], &q->link);
  if (t)
    t->born[b.index] = q;
  if (q->serial == LINK_SERIAL_ROOT) {
    far->has_root = far->root_is_news = 1;
    context_task(far->context, PHASE_WORK, &far->task);
  }
  return 0;
}

static int take_gone(struct far_link *far, const struct link_frame *f) {
  struct link_end e;
  if (link_read_end(f, &e) < 0)
    return -EPROTO;
  struct far_process *q = find(far, e.serial);
  if (!q) {
    far->is_barren |= e.serial == LINK_SERIAL_ROOT && !far->has_root;
    return 0;
  }
  if (q->gone)
    return -EPROTO;
  if (q->is_awaited || q->serial == LINK_SERIAL_ROOT)
    far->is_listening = 0;
  count_out(far, q);
  q->gone = 1;
  q->status_is_unknown = e.status == LINK_STATUS_UNKNOWN;
  q->status = (int)e.status;
  q->utime_us = e.utime_us;
  q->stime_us = e.stime_us;
  q->maxrss_bytes = e.maxrss_bytes;
  q->words = e.nwords ? strndup(e.words, e.nwords) : NULL;
  tell_later(far, q);
  return 0;
}

static int take_returned(struct far_link *far, const struct link_frame *f) {
  uint32_t serial;
  uint64_t id;
  if (link_read_returned(f, &serial, &id) < 0)
    return -EPROTO;
  struct far_process *q = find(far, serial);
  if (q)
    q->returned = id;
  return 0;
}

static int take_measured(struct far_link *far, const struct link_frame *f) {
  uint32_t v[10];
  uint64_t values[4];
  if (link_numbers(f, v, 10) < 0)
    return -EPROTO;
  struct far_process *q = find(far, v[0]);
  if (far->nmeasured)
    far->nmeasured--;
  for (int i = 0; i < 4; i++)
    values[i] = v[2 + 2 * i] | (uint64_t)v[3 + 2 * i] << 32;
  if (q && q->process)
    far->ops->on_measured(q->process, v[1] > 4095 ? -EIO : -(int)v[1], values);
  return 0;
}

/* A character may come in two pieces: the byte before this one is looked at once more. */
static void take_printed(struct far_link *far, const struct link_frame *f) {
  size_t n = f->length, again = far->nprinted > 0;
  if (n > sizeof far->printed - 1 - far->nprinted)
    n = sizeof far->printed - 1 - far->nprinted;
  char *at = far->printed + far->nprinted;
  memcpy(at, f->body, n);
  link_copy_shown(at - again, at - again, n + again);
  far->nprinted += n;
  far->printed[far->nprinted] = 0;
}

static int take(struct far_link *far, const struct link_frame *f) {
  switch (f->type) {
  case LINK_HELLO:
    far->up = 1;
    return 0;
  case LINK_BORN:
    return take_birth(far, f);
  case LINK_GONE:
    return take_gone(far, f);
  case LINK_RETURNED:
    return take_returned(far, f);
  case LINK_MEASURED:
    return take_measured(far, f);
  case LINK_FAILED:
    return link_read_text(f, far->reason, sizeof far->reason);
  case LINK_PRINTED:
    take_printed(far, f);
    return 0;
  case LINK_SOCKET:
    return far_fork_take_socket(far, f);
  case LINK_INPUT:
    return far_fork_take_input(far, f);
  case LINK_ENDED:
    return far_fork_take_end(far, f);
  default:
    return -EPROTO;
  }
}

static int take_all(struct far_link *far) {
  struct link_frame f;
  int r;
  while ((r = link_next(&far->in, LINK_SIDE_LAST, &f)) == 0) {
    r = take(far, &f);
    if (r < 0)
      return r;
    link_done(&far->in, &f);
  }
  return r < 0 ? r : 0;
}

/* One of another build may not know what it was told first, and says nothing. Nor does one
 * that somebody kills. */
static void lose_near(struct far_link *far) {
  char program[PROGRAM_PATH_MAX], why[sizeof far->reason];
  snprintf(
      why, sizeof why,
      "its near end, the program %.700s, has ended without a word: it was killed, or is "
      "not of the same build of moonfork as this one",
      program_remote(program));
  lose(far, far->nheard ? "its near end has ended" : why);
}

/* Whether more is likely to be there. One that hung up just now is heard of soon. */
static int read_piece(struct far_link *far) {
  struct backend *b = far->context->backend;
  if (far->lost || far->fd < 0)
    return 0;
  int truncated = 0;
  struct fdset fds;
  size_t size = far_fork_make_room(far, READ_MAX);
  struct iovec iov = {buf_reserve(&far->in, size), size};
  fdset_init(&fds);
  ssize_t n =
      iov.iov_base ? b->ops->recv(b, far->fd, &iov, 1, &fds, &truncated) : -ENOMEM;
  int is_cut = fds.n > 0 || truncated; /* a read ends with a descriptor */
  far_fork_keep_sockets(far, &fds, truncated);
  if (n == -EAGAIN)
    return 0;
  if (n <= 0) {
    if (n == -ENOMEM)
      lose(far, "not enough memory");
    else
      lose_near(far);
    return 0;
  }
  buf_commit(&far->in, (size_t)n);
  far->nheard += (uint64_t)n;
  if (take_all(far) < 0)
    lose(far, "its near end does not keep to the protocol, or memory is short");
  return (size_t)n == size || is_cut;
}

/* As memory says: an end of the near end's the loop notices. */
static int has_more(const struct far_link *far) {
  return !far->page || !far->nheard || far->page->ntold != far->nheard;
}

/* One that never ends must not keep the loop: what is left is read in the next turn. */
void far_link_read(struct far_link *far) {
  if (!has_more(far))
    return;
  while (read_piece(far) && has_more(far))
    if (!context_step(far->context, PHASE_READ)) {
      context_task(far->context, PHASE_READ, &far->reading);
      return;
    }
}

static void on_reading(struct task *t) {
  struct far_link *far = list_entry(t, struct far_link, reading);
  far_link_hold(far);
  far_link_read(far);
  far_link_drop(&far);
}

/* ---- to it ---- */

void far_link_flush(struct far_link *far) {
  struct backend *b = far->context->backend;
  while (!far->lost && buf_size(&far->out) > 0) {
    struct iovec iov = {(void *)(uintptr_t)buf_peek(&far->out), buf_size(&far->out)};
    ssize_t n = b->ops->send(b, far->fd, &iov, 1, NULL, 0);
    if (n <= 0)
      break; /* its end is read */
    buf_consume(&far->out, (size_t)n);
    if (far->page)
      far->page->nsaid += (uint64_t)n;
  }
  watch(far, (far->watch.events & ~(unsigned)WATCH_WRITE) |
                 (buf_size(&far->out) ? WATCH_WRITE : 0u));
}

int far_tell(struct far_link *far, enum link_type type, const uint32_t *numbers,
             unsigned n) {
  if (far->lost || far->fd < 0)
    return -ESRCH;
  if (buf_size(&far->out) > NOT_TOLD_MAX)
    return -ENOMEM;
  int r = link_put(&far->out, type, 0, numbers, n);
  if (r == 0)
    far_link_flush(far);
  return r;
}

int far_measure(struct far_link *far, const struct far_process *q) {
  uint32_t v[2] = {q->serial, q->serial};
  int r = q->gone ? -ESRCH : far_tell(far, LINK_MEASURE, v, 2);
  if (r < 0)
    return r;
  far->nmeasured++;
  watch(far, wanted_now(far));
  return 0;
}

/* ---- news ---- */

static void on_ready(struct watch *w, unsigned events) {
  struct far_link *far = list_entry(w, struct far_link, watch);
  struct context *ctx = far->context;
  far_link_hold(far);
  context_enter(ctx);
  if (events & WATCH_WRITE)
    far_link_flush(far);
  read_piece(far);
  far_fork_tell(far);
  if (events & WATCH_READ)
    watch(far, wanted_now(far));
  context_leave(ctx);
  far_link_drop(&far);
}

void far_link_look(struct far_link *far) {
  far_link_hold(far);
  read_piece(far);
  far_fork_tell(far);
  far_link_drop(&far);
}

void far_join(struct far_link *far, struct far_record *r) {
  r->round = 0;      /* rounds count from 1 */
  if (far->visiting) /* before the first: it is of this round, too */
    list_push(far->records.next, &r->link);
  else
    list_push(&far->records, &r->link);
}

/* 1: this turn has no steps for more. */
static int tell_ends(struct far_link *far) {
  while (!list_empty(&far->news)) {
    if (!context_step(far->context, PHASE_TELL))
      return 1;
    struct far_process *q = list_entry(far->news.next, struct far_process, news);
    list_remove(&q->news);
    if (q->process)
      far->ops->on_gone(q->process);
    else if (q->is_left)
      forget(far, q);
    else /* its record will ask, unless it has asked too early */
      far->asked |= FAR_UNCLAIMED;
  }
  return 0;
}

static struct far_record *next_to_visit(struct far_link *far) {
  struct far_record *r = list_entry(far->records.next, struct far_record, link);
  return list_empty(&far->records) || r->round == far->round ? NULL : r;
}

static int visit(struct far_link *far) {
  struct far_record *r;
  for (; far->visiting || far->asked; far->visiting = 0) {
    if (!far->visiting) {
      far->round++;
      far->visiting = far->asked;
      far->asked = 0;
    }
    while ((r = next_to_visit(far))) {
      if (!context_step(far->context, PHASE_TELL))
        return 1;
      r->round = far->round;
      list_remove(&r->link);
      list_push(&far->records, &r->link);
      far->ops->visit(r, far->visiting);
    }
  }
  return 0;
}

/* Outside of any event: records hear of what their processes did. As many in a turn as
 * forks hear of their template's end. */
static void on_task(struct task *t) {
  struct far_link *far = list_entry(t, struct far_link, task);
  far_link_hold(far);
  if (far->root_is_news)
    far->asked |= FAR_BORN;
  far->root_is_news = 0;
  if (far->lost && !far->told)
    far->asked |= FAR_LOST;
  far->told = far->lost;
  far_fork_tell(far);
  if (tell_ends(far) || visit(far))
    context_task(far->context, PHASE_WORK, &far->task);
  far_link_drop(&far);
}

/* ---- made ---- */

struct far_link *far_link_new(struct context *ctx, const struct far_ops *ops) {
  struct far_link *far = calloc(1, sizeof *far);
  if (!far)
    return NULL;
  far->context = ctx;
  far->ops = ops;
  far->refs = 1;
  far->fd = far->input = -1;
  far->watch.on_ready = on_ready;
  far->dead = -1;
  fdset_init(&far->sockets);
  list_init(&far->forks);
  task_init(&far->task, on_task);
  task_init(&far->waking, on_waking);
  task_init(&far->reading, on_reading);
  list_init(&far->records);
  buf_init(&far->in, 2 * READ_MAX + LINK_BODY_MAX);
  buf_init(&far->out, 2 * NOT_TOLD_MAX);
  list_init(&far->news);
  for (int i = 0; i < FAR_BUCKETS; i++) {
    list_init(&far->processes[i]);
    list_init(&far->tables[i]);
  }
  return far;
}

int far_link_open(struct far_link *far, int fd) {
  struct backend *b = far->context->backend;
  int r = b->ops->watch(b, &far->watch, fd, WATCH_READ);
  far->fd = fd;
  if (r < 0)
    b->ops->close(b, &far->fd);
  return r;
}

struct far_link *far_link_hold(struct far_link *far) {
  far->refs++;
  return far;
}

void far_link_drop(struct far_link **at) {
  struct far_link *far = *at;
  *at = NULL;
  if (!far || --far->refs > 0)
    return;
  struct backend *b = far->context->backend;
  b->ops->watch(b, &far->watch, far->fd, 0);
  if (far->fd >= 0)
    b->ops->close(b, &far->fd);
  far_fork_close_input(far);
  fdset_close(&far->sockets);
  if (far->dead >= 0)
    b->ops->close_now(b, &far->dead);
  task_clear(&far->task);
  task_clear(&far->waking);
  task_clear(&far->reading);
  for (int i = 0; i < FAR_BUCKETS; i++)
    while (!list_empty(&far->processes[i]))
      free_process(list_entry(far->processes[i].next, struct far_process, link));
  for (int i = 0; i < FAR_BUCKETS; i++)
    list_each_safe(it, next, &far->tables[i]) {
      free(list_entry(it, struct far_table, link));
    }
  buf_deinit(&far->in);
  buf_deinit(&far->out);
  if (far->page)
    b->ops->unshare(b, far->page, sizeof *far->page);
  free(far);
}

int far_link_is_lost(const struct far_link *far) {
  return far->lost;
}

int far_link_is_up(const struct far_link *far) {
  return far->up;
}

int far_link_had_template(const struct far_link *far) {
  return far->up && !far->is_barren;
}

const char *far_link_reason(const struct far_link *far) {
  return far->reason;
}

const char *far_link_printed(const struct far_link *far) {
  return far->printed;
}

void far_link_end(struct far_link *far, int signum) {
  if (!far->lost && !far->up)
    far->ended_by = signum;
  lose(far, "it was ended here");
}

int far_link_ended_by(const struct far_link *far) {
  return far->ended_by;
}

int far_link_make_page(struct far_link *far) {
  struct backend *b = far->context->backend;
  void *map;
  int fd, r = b->ops->share(b, sizeof *far->page, &fd, &map);
  if (r < 0)
    return r;
  far->page = map;
  return fd;
}

void far_link_forked(struct far_link *far) {
  fdset_close(&far->sockets);
  fd_close(&far->dead);
  far_input_forked(far->kept_input);
  far->input = -1;
  fd_close(&far->fd);
}
