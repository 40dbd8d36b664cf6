#include "template/fork/process_group.h"

#include "moonfork.h"
#include "os/fd.h"
#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

void process_group_born(const struct server *s, struct options *o) {
  if (s->leash.group && o->tree == MF_TREE_INHERIT)
    o->tree = MF_TREE_YES;
  if (o->tree != MF_TREE_YES && !s->leash.group)
    return;
  if (o->session) /* which is a group, too, and can't be had by the leader of one */
    setsid();
  else
    setpgid(0, 0);
}

/* Its first instructions are all that it waits for; a second is more than a machine under
 * load needs for them, and an end of this loop in any case. */
void process_group_await_leaving(const struct server *s, pid_t clone) {
  enum { YIELDS = 100, NAPS = 10000 };
  static const struct timespec nap = {.tv_nsec = 100 * 1000};
  if (!s->leash.group)
    return;
  pid_t own = getpgrp();
  for (int i = 0; i < YIELDS + NAPS && getpgid(clone) == own; i++)
    if (i < YIELDS)
      sched_yield();
    else
      nanosleep(&nap, NULL);
}

/* The owner has made one for a program that it executed: whose number is that program's,
 * which perhaps is not this one but has started it. */
static int has_own_group(const struct server *s) {
  pid_t group = getpgrp(), owner = (pid_t)s->owner_pid;
  return group == getpid() || (getppid() != owner && group != getpgid(owner));
}

int process_group_lead(struct server *s, const struct options *o, int leash) {
  if (o->tree != MF_TREE_YES)
    return 0;
  if (!has_own_group(s) && setpgid(0, 0) < 0) {
    int error = errno;
    fd_close(&leash);
    return -error;
  }
  return leash_use_group(&s->leash, leash);
}
