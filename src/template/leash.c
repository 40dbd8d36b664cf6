/* The leash of templates and clones (proc.h tells how the kernel pulls it).
 *
 * A signal that is armed in a template with clones would end their reaper together with
 * the parent; so it is quiet (O_ASYNC off) while the process waits and loud while user
 * code runs. After each switch the pipe is looked at, because a hang-up that happened
 * while it was quiet sends no signal any more. */
#include "template/leash.h"

#include "moonfork.h"
#include "os/fd.h"
#include "os/fdwait.h"
#include "os/proc.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#ifndef O_ASYNC
#define O_ASYNC 0
#endif

void leash_init(struct leash *l, int source) {
  *l = (struct leash){.source = source, .armed = -1, .ready = -1};
}

void leash_prepare(struct leash *l) {
  if (l->ready >= 0 || l->source < 0 || l->broken)
    return;
  l->ready = proc_leash_prepare(l->source, SIGKILL);
  if (l->ready < 0) /* then the clone tries, and says */
    l->ready = -1;
}

void leash_given(struct leash *l) {
  fd_close(&l->ready);
}

void leash_forked(struct leash *l) {
  fd_close(&l->armed);
  l->resting = 0;
}

int leash_snapped(const struct leash *l) {
  struct pollfd p = {.fd = l->source};
  int r;
  if (l->source < 0)
    return 0;
  do
    r = fdwait(&p, 1, 0);
  while (r < 0 && errno == EINTR);
  return r > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* What is ready has SIGKILL already. */
static int take_ready(struct leash *l, int signum) {
  l->armed = l->ready;
  l->ready = -1;
  return signum == SIGKILL ? proc_leash_own(l->armed, signum)
                           : proc_leash_change(l->armed, signum);
}

static int prepare_own(struct leash *l, int signum) {
  l->armed = proc_leash_prepare(l->source, signum);
  return l->armed < 0 ? l->armed : proc_leash_own(l->armed, signum);
}

static void arm(struct leash *l, int signum) {
  if (l->source < 0 || l->broken)
    return;
  l->resting = 0;
  int r = l->ready >= 0 ? take_ready(l, signum) : prepare_own(l, signum);
  l->full = r == -EMFILE || r == -ENFILE;
  if (r == 0)
    return;
  fd_close(&l->armed);
  l->armed = -1;
  l->broken = !l->full;
  if (leash_snapped(l))
    raise(signum);
}

static void switch_signal(struct leash *l, int on) {
  int flags = fcntl(l->armed, F_GETFL);
  if (flags >= 0)
    fcntl(l->armed, F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC);
  l->resting = !on;
}

void leash_hold(struct leash *l) {
  if (l->armed < 0)
    arm(l, SIGKILL);
  else if (l->resting) {
    switch_signal(l, 1);
    if (leash_snapped(l))
      raise(SIGKILL);
  }
}

void leash_rest(struct leash *l) {
  if (l->armed >= 0 && !l->resting)
    switch_signal(l, 0);
}

void leash_save(struct leash *l) {
  leash_hold(l);
  leash_prepare(l);
}

/* What is armed already needs no new descriptor, and there may be none. */
static void change_to_term(struct leash *l) {
  if (l->armed < 0 || proc_leash_change(l->armed, SIGTERM) < 0) {
    fd_close(&l->armed);
    arm(l, SIGTERM);
  }
  l->resting = 0;
}

int leash_run(struct leash *l, int mode) {
  if (mode == MF_LEASH_TERM)
    change_to_term(l);
  else if (mode == MF_LEASH_KILL)
    leash_hold(l);
  else
    fd_close(&l->armed);
  if (mode != MF_LEASH_KEEP && l->full)
    return -EMFILE;
  fd_close(&l->ready);
  fd_close(&l->source);
  return 0;
}
