#include "template/server/leash.h"

#include "moonfork.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include "os/proc.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

void leash_init(struct leash *l, int source) {
  *l = (struct leash){.source = source, .armed = -1, .parent = getppid()};
}

/* What this process has started may have it, too. */
static void disarm(struct leash *l) {
  if (l->armed >= 0 && l->group)
    proc_leash_silence(l->armed);
  fd_close(&l->armed);
}

void leash_none(struct leash *l) {
  *l = (struct leash){.source = -1, .armed = -1, .none = 1, .parent = getppid()};
}

void leash_stay(struct leash *l) {
  l->stays = 1;
  leash_hold(l);
}

void leash_keep_pipe(struct leash *l, int source) {
  if (l->source < 0)
    l->source = source;
  else
    fd_close(&source);
}

void leash_drop_pipe(struct leash *l) {
  if (!l->by_pipe && !l->group)
    fd_close(&l->source);
}

void leash_forked(struct leash *l, int sibling, int keep) {
  fd_close(&l->armed);
  l->own = 0;
  l->group = 0;
  if (!sibling)
    l->by_pipe = 1;
  if (!l->by_pipe && !keep && l->source >= 0)
    fd_close(&l->source);
}

static int is_hung_up(int fd) {
  struct pollfd p = {.fd = fd};
  int r;
  if (fd < 0)
    return 0;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

int leash_snapped(const struct leash *l) {
  return l->by_pipe ? is_hung_up(l->source) : getppid() != l->parent;
}

/* ---- by the pipe ---- */

static enum proc_reach reach_of(const struct leash *l) {
  return l->group ? PROC_GROUP : PROC_SELF;
}

static int arm(struct leash *l, int signum) {
  l->armed = proc_leash_prepare(l->source, signum);
  if (l->armed >= 0 && l->group)
    fd_set_cloexec(l->armed, 0);
  return l->armed < 0 ? l->armed : proc_leash_own(l->armed, signum, reach_of(l));
}

static void set_by_pipe(struct leash *l, int signum) {
  if (l->source < 0 && l->armed < 0)
    return;
  /* What is armed already needs no new descriptor, and there may be none. */
  int r =
      l->armed >= 0 ? proc_leash_change(l->armed, signum, reach_of(l)) : arm(l, signum);
  l->full = r == -EMFILE || r == -ENFILE;
  if (r == 0) {
    l->own = signum;
    return;
  }
  fd_close(&l->armed);
  if (leash_snapped(l))
    raise(signum);
}

/* ---- by the parent ---- */

/* Beside the group's pipe: no second SIGTERM, which would be another request. */
static void set_beside(struct leash *l) {
  if (l->group && !l->by_pipe)
    proc_parent_death(l->own == SIGKILL ? SIGKILL : 0);
}

/* Asked for first, looked at then: an end in between is seen twice, never missed. */
static void set(struct leash *l, int signum) {
  if (l->none)
    return;
  if (!l->by_pipe && !l->group && proc_parent_death(signum) < 0)
    l->by_pipe = 1;
  if (l->by_pipe || l->group) {
    set_by_pipe(l, signum);
    set_beside(l);
    return;
  }
  l->own = signum;
  if (signum && leash_snapped(l))
    raise(signum);
}

void leash_again(struct leash *l) {
  if (l->group)
    set_beside(l);
  else if (!l->by_pipe && l->own)
    set(l, l->own);
}

void leash_hold(struct leash *l) {
  if ((l->by_pipe || l->group) && l->own)
    return;
  set(l, SIGKILL);
}

void leash_rest(struct leash *l) {
  if (!l->none && !l->stays && !l->by_pipe && !l->group &&
      proc_parent_death(SIGCONT) == 0)
    l->own = SIGCONT;
}

void leash_save(struct leash *l) {
  if (l->by_pipe || l->group)
    leash_hold(l);
}

/* ---- whose it is ---- */

void leash_use_pipe(struct leash *l, int source) {
  if (source >= 0) {
    disarm(l);
    fd_close(&l->source);
    l->source = source;
  }
  if (!l->by_pipe)
    proc_parent_death(0);
  l->by_pipe = 1;
  l->own = 0;
  if (l->group) /* others in it may run */
    set(l, SIGKILL);
}

int leash_use_group(struct leash *l, int source) {
  if (source >= 0) {
    fd_close(&l->armed);
    fd_close(&l->source);
    l->source = source;
  }
  if (l->source < 0)
    return -ENOENT;
  l->group = 1;
  fd_close(&l->armed); /* by the pipe, and only its own */
  int r = arm(l, SIGKILL);
  if (r < 0)
    fd_close(&l->armed);
  if (r < 0 && r != -ENOSYS) /* no system of leashes: then there is none to be had */
    return r;
  l->own = r < 0 ? 0 : SIGKILL;
  set_beside(l);
  return 0;
}

int leash_run(struct leash *l, int mode) {
  static const int signals[] = {
      [MF_LEASH_KILL] = SIGKILL, [MF_LEASH_TERM] = SIGTERM, [MF_LEASH_KEEP] = 0};
  int by_pipe = l->by_pipe || l->group;
  if (signals[mode] == 0 && by_pipe) {
    disarm(l);
    l->own = 0;
    set_beside(l);
  } else if (!by_pipe || l->own != signals[mode]) {
    set(l, signals[mode]);
  }
  if (mode != MF_LEASH_KEEP && l->full)
    return -EMFILE;
  fd_close(&l->source);
  return 0;
}
