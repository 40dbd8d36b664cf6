/* Forks over a link whose socket is not made until it is needed. A clone that returns at
 * once says nothing on it, and its end is told on the side: then nobody makes a pair,
 * passes an end of it on, watches it and closes it, here and in the near end. */
#include "parent/process/far.h"

#include "base/result.h"
#include "parent/process/far_input.h"
#include "parent/process/far_link.h"
#include "wire/link_early.h"
#include <errno.h>
#include <stdatomic.h>

enum { ROW_MIN = 4 }; /* forks, before it is told that nobody waits for ends */

static struct far_fork *find(const struct far_link *far, uint32_t token) {
  for (struct list *it = far->forks.next; it != &far->forks; it = it->next) {
    struct far_fork *fork = list_entry(it, struct far_fork, link);
    if (fork->token == token)
      return fork;
  }
  return NULL;
}

int far_fork_may(const struct far_link *far, size_t size, uint64_t nroot) {
  return !far->lost && far->fd >= 0 && far->dead >= 0 && far->page &&
         far->page->takes_forks && size <= LINK_FORK_MAX &&
         far->nforks < LINK_FORKS_MAX && far->nasked < LINK_FORKS_MAX &&
         buf_size(&far->out) == 0 && far->page->nroot == nroot &&
         far->page->root_limit >= nroot + far->nforked + size;
}

void far_fork_prepare(struct far_link *far) {
  struct backend *b = far->context->backend;
  int pair[2];
  if (far->dead >= 0)
    return;
  if (b->ops->pair(b, pair) < 0)
    return;
  b->ops->close_now(b, &pair[1]);
  far->dead = pair[0];
}

/* The caller's. -errno. */
static int make_dead(struct far_link *far) {
  struct backend *b = far->context->backend;
  return b->ops->dup(b, far->dead);
}

static void close_dead(struct far_link *far, struct far_fork *fork) {
  struct backend *b = far->context->backend;
  if (fork->dead >= 0)
    b->ops->close_now(b, &fork->dead);
}

/* By ourselves, so that the near end need not be woken. It must have passed on all that
 * was said on the side, so that nothing is overtaken. 1, or 0: it goes by the side. */
static int write_early(struct far_link *far, const struct link_fork *command,
                       const void *body, size_t nbody) {
  struct backend *b = far->context->backend;
  struct link_page *page = far->page;
  struct link_early e = {command->token, link_early_channel(far->nchannels),
                         (uint32_t)(command->n + nbody)};
  if (far->input < 0 || !e.channel ||
      atomic_load(&page->npassed) != (uint32_t)page->nsaid ||
      link_put_clone(&far->out, e.channel, command, body, nbody) < 0)
    return 0;
  int r = link_early_begin(page, far->nearly, &e);
  if (r) {
    r = b->ops->write_pipe(b, far->input, buf_peek(&far->out), buf_size(&far->out)) > 0;
    link_early_end(page, far->nearly, r);
  }
  buf_consume(&far->out, buf_size(&far->out));
  far->nearly += (uint32_t)r;
  far->nchannels += (uint32_t)r;
  return r;
}

/* 0 or -errno: it was not sent. */
static int write_side(struct far_link *far, const struct link_fork *command,
                      const void *body, size_t nbody) {
  int r = link_put_fork(&far->out, command, body, nbody);
  if (r < 0)
    return r;
  size_t size = buf_size(&far->out);
  far_link_flush(far);
  if (!far->lost && buf_size(&far->out) < size)
    return 0;
  /* What goes to the template another way must not overtake it. */
  buf_consume(&far->out, buf_size(&far->out));
  far_link_watch(far);
  return -EAGAIN;
}

void far_fork_attend(struct far_link *far, struct far_fork *fork, int on) {
  if (on && fork->token && !fork->is_told)
    far->attended = fork;
  else if (far->attended == fork)
    far->attended = NULL;
  far_link_watch(far);
}

int far_fork_attended_fd(const struct far_link *far, const struct far_fork *fork) {
  return far->attended == fork ? far->fd : -1;
}

int far_fork_is_row(struct far_link *far) {
  far->is_row =
      far->nrow >= ROW_MIN && !far->nasked && !far->nawaited && !far->is_listening;
  return far->is_row;
}

void far_fork_end_row(struct far_link *far) {
  static const uint32_t no_signal[3] = {LINK_SERIAL_ROOT, 0, 0};
  far->nrow = 0;
  if (far->is_row)
    far_tell(far, LINK_KILL, no_signal, 3);
  far->is_row = 0;
}

int far_fork(struct far_link *far, struct far_fork *fork, struct link_fork *command,
             const void *body, size_t nbody) {
  command->token = far->last_token + 1 ? far->last_token + 1 : 1;
  int dead = make_dead(far);
  if (dead < 0)
    return dead;
  *fork = (struct far_fork){.fd = -1, .dead = dead};
  int r =
      write_early(far, command, body, nbody) ? 0 : write_side(far, command, body, nbody);
  if (r < 0) {
    close_dead(far, fork);
    return r;
  }
  far->nforked += command->n + nbody;
  fork->token = far->last_token = command->token;
  list_push(&far->forks, &fork->link);
  far->nforks++;
  far->nasked++;
  far->nrow++;
  return 0;
}

static void end(struct far_link *far, struct far_fork *fork) {
  if (far->attended == fork)
    far_fork_attend(far, fork, 0);
  list_remove(&fork->link);
  far->nforks--;
  fork->token = 0;
  if (far->freed == fork)
    far->freed = NULL;
}

int far_fork_take(struct far_link *far, struct far_fork *fork) {
  int fd = fork->fd;
  end(far, fork);
  fork->fd = -1;
  return fd;
}

void far_fork_forget(struct far_link *far, struct far_fork *fork) {
  struct backend *b = far->context->backend;
  uint32_t token = fork->token;
  close_dead(far, fork);
  if (!token)
    return;
  end(far, fork);
  if (fork->fd >= 0)
    b->ops->close(b, &fork->fd);
  else if (!fork->is_told)
    far_tell(far, LINK_UNWANTED, &token, 1);
}

/* ---- what the near end tells ---- */

static void make_room(struct far_link *far) {
  for (struct list *it = far->forks.next; it != &far->forks && !far->freed;
       it = it->next) {
    struct far_fork *fork = list_entry(it, struct far_fork, link);
    if (!fork->is_told && fork->dead >= 0)
      far->freed = fork;
  }
  if (far->freed)
    close_dead(far, far->freed);
}

size_t far_fork_make_room(struct far_link *far, size_t most) {
  uint64_t n = far->page ? far->page->ntold - far->nheard : 0;
  atomic_thread_fence(memory_order_acquire);
  if (n == 0 || far->page->nsockets != far->nsockets)
    make_room(far);
  return n == 0 || n > most ? most : (size_t)n;
}

/* The number that was made free is another's now, or that fork's again. */
static void restore_freed(struct far_link *far, struct far_fork *of) {
  struct far_fork *freed = far->freed;
  far->freed = NULL;
  if (of && of != freed) {
    freed->dead = of->dead;
    of->dead = -1;
  } else if (!of) {
    int fd = make_dead(far);
    freed->dead = fd < 0 ? -1 : fd;
  }
}

void far_fork_keep_sockets(struct far_link *far, struct fdset *fds, int truncated) {
  if (far->freed && fds->n == 0)
    restore_freed(far, NULL);
  for (int i = 0; i < fds->n; i++) {
    int fd = fdset_steal(fds, i);
    if (fdset_push(&far->sockets, fd) < 0)
      fd_close(&fd);
  }
  if (truncated) /* there was no number for it: its frame has none */
    fdset_push(&far->sockets, -1);
}

static void tell_later(struct far_link *far, struct far_fork *fork, int fd) {
  if (far->attended == fork)
    far->attended = NULL;
  fork->fd = fd;
  fork->is_told = 1;
  context_task(far->context, PHASE_WORK, &far->task);
}

/* The next that has come; -1: there was no number for it. */
static int next_socket(struct far_link *far) {
  int fd = fdset_steal(&far->sockets, 0);
  for (int i = 1; i < far->sockets.n; i++)
    far->sockets.fd[i - 1] = far->sockets.fd[i];
  far->sockets.n--;
  return fd;
}

int far_fork_take_input(struct far_link *far, const struct link_frame *f) {
  if (f->length || far->sockets.n == 0 || far->input >= 0)
    return -EPROTO;
  int fd = next_socket(far);
  far->kept_input = fd < 0 ? NULL : far_input_keep(fd);
  if (far->kept_input)
    far->input = fd;
  else
    fd_close(&fd);
  return 0;
}

void far_fork_close_input(struct far_link *far) {
  struct backend *b = far->context->backend;
  if (far->input >= 0)
    b->ops->close_now(b, &far->input);
  far_input_forget(far->kept_input);
  far->kept_input = NULL;
}

int far_fork_take_socket(struct far_link *far, const struct link_frame *f) {
  struct far_fork *fork;
  uint32_t token;
  if (link_numbers(f, &token, 1) < 0 || far->sockets.n == 0 || far->nasked == 0)
    return -EPROTO;
  far->nasked--;
  far->nsockets++;
  int fd = next_socket(far);
  fork = find(far, token);
  if (fork && fork->is_told)
    fork = NULL;
  if (far->freed && fork)
    restore_freed(far, fork);
  if (fork)
    tell_later(far, fork, fd);
  else
    fd_close(&fd);
  if (far->freed)
    restore_freed(far, NULL);
  return 0;
}

int far_fork_take_end(struct far_link *far, const struct link_frame *f) {
  uint32_t token;
  if (link_numbers(f, &token, 1) < 0 || far->nasked == 0)
    return -EPROTO;
  far->nasked--;
  struct far_fork *fork = find(far, token);
  if (fork && !fork->is_told)
    tell_later(far, fork, -1);
  return 0;
}

void far_fork_tell(struct far_link *far) {
  for (struct list *it = far->forks.next; it != &far->forks;) {
    struct far_fork *fork = list_entry(it, struct far_fork, link);
    it = it->next;
    if (!fork->is_told && !far->lost)
      continue;
    far->ops->on_socket(fork, far_fork_take(far, fork));
    it = far->forks.next; /* whatever that has done to others */
  }
}
