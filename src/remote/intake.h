/* Clones without a socket: the far template and those clones have the other end of the
 * intake (wire/proto.h), where one that needs a socket after all hands in the other end
 * of it. Most return before that, and end without any descriptor of theirs here.
 *
 * A channel waits from its FORK (intake_take) until its clone has handed in, returned, or
 * ended:
 *
 *   asked for --intake_birth--> of that process --a message of its, or intake_end--> over
 *
 * Linux; elsewhere no fork is without a socket. Runs in the agent. */
#ifndef REMOTE_INTAKE_H
#define REMOTE_INTAKE_H

#include "remote/mux.h"
#include <sys/types.h>

struct intake;
struct intake_ops {
  /* A process has said something: what is known of births and returns is to be told. */
  void (*before_end)(struct intake *i);
};

struct waiting {
  uint32_t channel; /* 0: it is gone */
  uint32_t table, index;
  pid_t pid; /* 0: not born yet, as far as is known */
};

struct intake {
  struct mux *mux;
  const struct intake_ops *ops;
  struct turn_watch ready;
  uv_timer_t pause;
  int fd; /* -1: there is none */
  pid_t template;
  int may;        /* the template has said that the next FORK may be without a socket */
  uint64_t asked; /* the id of the FORK that asks it; 0: none */
  unsigned nunanswered; /* forks since then */
  int is_row;           /* the last FORK said that nobody waits for an end */
  struct waiting waiting[LINK_FORKS_MAX];
  unsigned nwaiting;
  pid_t silent[LINK_FORKS_MAX]; /* those that have told their return, lately */
  unsigned nsilent;
};

/* *ret_fd: the template's end, the caller's; -1: there is none. */
void intake_init(struct intake *i, struct mux *m, const struct intake_ops *ops,
                 int *ret_fd);
/* Its messages are read from now on, of that template. */
void intake_begin(struct intake *i, pid_t template);
/* Another command than a FORK of intake_take goes to the template: it may have changed
 * what it could do. */
void intake_reset(struct intake *i);
/* A FORK for the template, whose header may be changed. 1: it goes without a socket; 0:
 * not. */
int intake_take(struct intake *i, uint32_t channel, const struct link_fork *fork,
                unsigned char *command);
void intake_birth(struct intake *i, uint32_t table, uint32_t index, pid_t pid);
/* A process has ended. has_returned: its function has, as it says, without a word. 1: so
 * it had no socket, and has run no code that could have said anything elsewhere. */
int intake_end(struct intake *i, pid_t pid, int has_returned);
/* That number is no channel's any more: what its clone says is for nobody. */
void intake_forget(struct intake *i, uint32_t channel);
/* The template executes nothing any more, and all births are known. */
void intake_end_pending(struct intake *i);

#endif
