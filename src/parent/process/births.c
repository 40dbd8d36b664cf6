#include "parent/process/births.h"

#include "os/fd.h"
#include "wire/slot_layout.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct step {
  uint32_t first, count;
  volatile uint32_t *births; /* NULL: over there */
  struct slot *heads;
  uint32_t table; /* over there */
  int fds[2];     /* births and words, until the template knows the step */
};

struct births {
  struct backend *backend;
  struct far_link *far; /* NULL: the slots are in memory of ours */
  unsigned refs;
  int ended;
  struct step steps[SLOT_STEPS_MAX];
  int nsteps;
  uint32_t *free; /* a stack */
  uint32_t nfree;
  uint32_t *busy; /* given back, though who was born there lives; only over there */
  uint32_t nbusy;
};

static struct step *find(const struct births *b, uint32_t slot) {
  int i = b->nsteps - 1;
  while (i > 0 && b->steps[i].first > slot)
    i--;
  return (struct step *)(uintptr_t)&b->steps[i];
}

static void close_fds(struct births *b, struct step *s) {
  for (int i = 0; i < 2; i++)
    if (s->fds[i] >= 0)
      b->backend->ops->close(b->backend, &s->fds[i]);
}

static int share(struct births *b, size_t size, int *ret_fd, void **ret_map) {
  return b->backend->ops->share(b->backend, size, ret_fd, ret_map);
}

static int make_step(struct births *b, struct step *s) {
  void *births, *words;
  int r;
  if (b->far)
    return far_add_step(b->far, s->count, &s->table, s->fds);
  r = share(b, slot_births_size(s->count), &s->fds[0], &births);
  if (r < 0)
    return r;
  r = share(b, slot_words_size(s->count), &s->fds[1], &words);
  if (r < 0) {
    b->backend->ops->close(b->backend, &s->fds[0]);
    b->backend->ops->unshare(b->backend, births, slot_births_size(s->count));
    return r;
  }
  s->births = births;
  s->heads = words;
  return 0;
}

static int grow(struct births *b) {
  struct step *s = &b->steps[b->nsteps];
  int r;
  if (b->nsteps == SLOT_STEPS_MAX)
    return -ENOMEM;
  s->first = b->nsteps ? s[-1].first + s[-1].count : 0;
  s->count = slot_step_count(b->nsteps);
  uint32_t *stack = realloc(b->free, (s->first + s->count) * sizeof *stack);
  if (!stack)
    return -ENOMEM;
  b->free = stack;
  if (b->far) {
    stack = realloc(b->busy, (s->first + s->count) * sizeof *stack);
    if (!stack)
      return -ENOMEM;
    b->busy = stack;
  }
  r = make_step(b, s);
  if (r < 0)
    return r;
  b->nsteps++;
  for (uint32_t i = s->count; i-- > 0;)
    b->free[b->nfree++] = s->first + i;
  return 0;
}

/* And nothing stands there any more. */
static int take_number(struct births *b, uint32_t slot) {
  struct step *s = find(b, slot);
  int pid = b->far ? 0 : (int)s->births[slot - s->first];
  if (pid != 0)
    s->births[slot - s->first] = 0;
  return pid;
}

/* Who runs there after its record has gone still has its last words to write. */
static int is_busy(const struct births *b, uint32_t slot) {
  const struct step *s = find(b, slot);
  const struct far_process *q =
      b->far ? far_born(b->far, s->table, slot - s->first) : NULL;
  return q && !q->gone;
}

/* Before more are made. */
static void look_for_free(struct births *b) {
  uint32_t n = b->nbusy;
  if (n == 0)
    return;
  far_link_read(b->far);
  b->nbusy = 0;
  for (uint32_t i = 0; i < n; i++)
    births_put(b, b->busy[i]);
}

int births_take(struct births **at, struct backend *backend, struct far_link *far,
                uint32_t *ret_slot, int *ret_late) {
  struct births *b = *at;
  int r;
  *ret_late = 0;
  if (!b) {
    b = calloc(1, sizeof *b);
    if (!b)
      return -ENOMEM;
    b->backend = backend;
    b->far = far ? far_link_hold(far) : NULL;
    b->refs = 1;
  }
  if (!b->nfree)
    look_for_free(b);
  r = b->nfree ? 0 : grow(b);
  if (r < 0) {
    if (!*at)
      births_drop(&b);
    return r;
  }
  *at = b;
  uint32_t slot = b->free[--b->nfree];
  struct step *s = find(b, slot);
  if (b->far) {
    far_clear_slot(b->far, s->table, slot - s->first);
  } else {
    *ret_late = take_number(b, slot);
    s->heads[slot - s->first].lua_live = 0;
    s->heads[slot - s->first].text_size = 0;
    s->heads[slot - s->first].returned = 0;
    s->heads[slot - s->first].listens = 0;
  }
  *ret_slot = slot;
  return 0;
}

int births_step(struct births *b, uint32_t slot, uint32_t *ret_first, uint32_t *ret_count,
                int ret_fds[2]) {
  struct step *s = find(b, slot);
  if (s->fds[0] < 0)
    return 0;
  for (int i = 0; i < 2; i++) {
    int copy = b->backend->ops->dup(b->backend, s->fds[i]);
    if (copy < 0) {
      if (i == 1)
        b->backend->ops->close(b->backend, &ret_fds[0]);
      return copy;
    }
    ret_fds[i] = copy;
  }
  *ret_first = s->first;
  *ret_count = s->count;
  return 1;
}

int births_are_known(const struct births *b) {
  if (!b || b->nfree == 0)
    return 0;
  for (int i = 0; i < b->nsteps; i++)
    if (b->steps[i].fds[0] >= 0)
      return 0;
  return 1;
}

void births_confirm(struct births *b, uint32_t slot) {
  close_fds(b, find(b, slot));
}

void births_place(const struct births *b, uint32_t slot, uint32_t *ret_table,
                  uint32_t *ret_index) {
  const struct step *s = find(b, slot);
  *ret_table = s->table;
  *ret_index = slot - s->first;
}

int births_pid(const struct births *b, uint32_t slot) {
  struct step *s = find(b, slot);
  if (b->far) {
    const struct far_process *q = far_born(b->far, s->table, slot - s->first);
    return q ? q->pid : 0;
  }
  return (int)s->births[slot - s->first];
}

size_t births_words(const struct births *b, uint32_t slot, char *text) {
  struct step *s = find(b, slot);
  if (b->far) /* the link tells of them with the end */
    return 0;
  uint32_t at = slot - s->first;
  size_t n = s->heads[at].text_size;
  if (n > SLOT_TEXT_MAX)
    n = SLOT_TEXT_MAX;
  const char *texts = (const char *)s->heads + slot_heads_size(s->count);
  memcpy(text, texts + (size_t)at * SLOT_TEXT_MAX, n);
  return n;
}

int births_listens(const struct births *b, uint32_t slot) {
  struct step *s = find(b, slot);
  return !b->far && s->heads[slot - s->first].listens == 1;
}

int births_returned(const struct births *b, uint32_t slot, uint64_t id) {
  struct step *s = find(b, slot);
  if (b->far) {
    const struct far_process *q = far_born(b->far, s->table, slot - s->first);
    return q && q->returned == id;
  }
  return s->heads[slot - s->first].returned == id;
}

void births_put(struct births *b, uint32_t slot) {
  if (is_busy(b, slot)) {
    b->busy[b->nbusy++] = slot;
    return;
  }
  take_number(b, slot);
  b->free[b->nfree++] = slot;
}

int births_late(struct births *b, uint32_t *at) {
  int pid = 0;
  while (*at < b->nfree && pid <= 0)
    pid = take_number(b, b->free[(*at)++]);
  return pid;
}

void births_leave(struct births *b) {
  for (int i = 0; b && i < b->nsteps; i++)
    close_fds(b, &b->steps[i]);
}

void births_move(struct births *b, struct backend *backend) {
  if (b)
    b->backend = backend;
}

struct births *births_hold(struct births *b) {
  b->refs++;
  return b;
}

void births_drop(struct births **at) {
  struct births *b = *at;
  *at = NULL;
  if (!b || --b->refs > 0)
    return;
  for (int i = 0; i < b->nsteps; i++) {
    struct step *s = &b->steps[i];
    close_fds(b, s);
    if (b->far) {
      far_drop_step(b->far, s->table);
      continue;
    }
    b->backend->ops->unshare(b->backend, (void *)(uintptr_t)s->births,
                             slot_births_size(s->count));
    b->backend->ops->unshare(b->backend, s->heads, slot_words_size(s->count));
  }
  far_link_drop(&b->far);
  free(b->free);
  free(b->busy);
  free(b);
}

void births_end(struct births *b) {
  if (!b)
    return;
  b->ended = 1;
  births_leave(b);
}

int births_ended(const struct births *b) {
  return b->ended;
}

void births_forked(struct births *b) {
  for (int i = 0; i < b->nsteps; i++)
    for (int k = 0; k < 2; k++)
      fd_close(&b->steps[i].fds[k]);
}
