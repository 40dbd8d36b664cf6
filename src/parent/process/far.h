/* A link to processes behind a command (start/remote.c starts it): the side on which its
 * near end tells of births and ends, in the place of the kernel. Each process there has a
 * serial, never used twice; its pid is another machine's, and no system call here ever
 * gets it. Runs in the parent, on the link's loop. */
#ifndef PARENT_PROCESS_FAR_H
#define PARENT_PROCESS_FAR_H

#include "parent/loop/context.h"
#include "wire/link.h"

struct far_link;
struct mf_process;

/* A process over there, from its birth to when both its end is known and nobody here has
 * a record of it. */
struct far_process {
  struct list link, news; /* news: its end is to be told to the record */
  uint32_t serial, table, index;
  int pid;
  struct mf_process *process; /* its record; or NULL */
  int is_left;                /* there will be no record of it any more */
  int is_known, is_awaited; /* it lives and has a record; whose owner waits for its end */
  int gone;
  int status_is_unknown;
  int status;
  uint64_t utime_us, stime_us, maxrss_bytes;
  uint64_t returned; /* the id of its FORK: its function has returned, without a word */
  char *words;
};

/* A record that is behind the link: embedded in it. Visits are spread over turns of the
 * loop: who has been visited goes to the end of the link's list. */
struct far_record {
  struct list link;
  unsigned round; /* of visits, in which it was visited last */
};

/* What a visit is for. */
enum {
  FAR_BORN = 1,      /* the far template is known, the record's perhaps */
  FAR_UNCLAIMED = 2, /* one has ended that has no record yet: this one's, if nobody speaks
                        on its socket any more */
  FAR_LOST = 4       /* the link is lost */
};

/* A fork whose socket is made by the near end when there is something to be read from it
 * (mux_fork): in the record of its process. */
struct far_fork {
  struct list link;
  uint32_t token; /* 0: there is none, or it is over */
  int fd;         /* it has come; -1: not */
  int dead;       /* one that has ended, for its user where it never comes: what comes has
                   * a number meanwhile; or -1 */
  int is_told;    /* it has come, or ended */
};

struct far_ops {
  /* Its socket (taken), or -1: it has ended without a byte. */
  void (*on_socket)(struct far_fork *fork, int fd);
  /* The end of p is known. */
  void (*on_gone)(struct mf_process *p);
  /* What a process there uses; error 0 or a code. */
  void (*on_measured)(struct mf_process *p, int error, const uint64_t values[4]);
  void (*visit)(struct far_record *r, unsigned what);
};

/* Referenced once. NULL: no memory. */
struct far_link *far_link_new(struct context *ctx, const struct far_ops *ops);
/* fd: our side of the link, taken, also on failure. 0 or -errno. */
int far_link_open(struct far_link *far, int fd);
struct far_link *far_link_hold(struct far_link *far);
void far_link_drop(struct far_link **far);
/* It is behind the link from now on; list_remove of its link ends that. */
void far_join(struct far_link *far, struct far_record *r);
/* Reads what it has told by now, as far as this turn has steps for; what follows from it
 * comes later. */
void far_link_read(struct far_link *far);
/* An end is waited for: what it tells wakes the program until it is told of nothing that
 * anybody waits for. */
void far_link_listen(struct far_link *far);
/* What is there now is read and told, inside of an event. */
void far_link_look(struct far_link *far);
/* The connection is lost, or never was. */
int far_link_is_lost(const struct far_link *far);
/* The agent has greeted. */
int far_link_is_up(const struct far_link *far);
/* Whether a template was perhaps started over there. */
int far_link_had_template(const struct far_link *far);
/* Why it is lost, what the command printed: texts, perhaps empty. */
const char *far_link_reason(const struct far_link *far);
const char *far_link_printed(const struct far_link *far);
/* Ends it: all processes there, and the command. For whom: a signal's number. */
void far_link_end(struct far_link *far, int signum);
/* That number, when no agent had greeted: there was but the command. Else 0. */
int far_link_ended_by(const struct far_link *far);
/* Memory that the near end writes what it does to: a descriptor of it, for the near end,
 * which the caller closes. -errno: there is none. */
int far_link_make_page(struct far_link *far);
/* Lines about the link, for people. */
void far_link_dump(const struct far_link *far, FILE *out, int indent);
/* The link's own in a forked copy of the parent. */
void far_link_forked(struct far_link *far);

/* A step of slots: its table, and two descriptors for the template. 0 or -errno. */
int far_add_step(struct far_link *far, uint32_t count, uint32_t *ret_table,
                 int ret_fds[2]);
uint32_t far_step_count(const struct far_link *far, uint32_t table);
void far_drop_step(struct far_link *far, uint32_t table);
/* The slot is taken for another process. */
void far_clear_slot(struct far_link *far, uint32_t table, uint32_t index);
/* Who was born there; NULL: nobody yet. */
struct far_process *far_born(const struct far_link *far, uint32_t table, uint32_t index);
/* The far template; NULL: not yet. */
struct far_process *far_root(const struct far_link *far);
/* q is the record's from now on. */
void far_claim(struct far_link *far, struct far_process *q, struct mf_process *p);
/* Its record is there for its own sake: nobody waits for the end any more. */
void far_disregard(struct far_link *far, struct far_process *q);
/* The record goes. */
void far_leave(struct far_link *far, struct far_process *q);

/* Before the link is opened: forks may go without a socket, if there are descriptors. */
void far_fork_prepare(struct far_link *far);
/* Whether a fork of that size may go without a socket, beside those that do. nroot: bytes
 * that were written to the far template's control socket, which it must not overtake. */
int far_fork_may(const struct far_link *far, size_t size, uint64_t nroot);
/* A FORK to the far template, with a descriptor for a socket that nobody has yet: its
 * slot, its header, and the body. Takes the next token. far_fork_attend is to follow.
 * on_socket follows, unless far_fork_forget is called. 0 or -errno: it was not sent. */
int far_fork(struct far_link *far, struct far_fork *fork, struct link_fork *command,
             const void *body, size_t nbody);
/* Whether the next FORK is to say that nobody waits for an end: the last ones were forked
 * one at a time, and none was waited for. */
int far_fork_is_row(struct far_link *far);
/* Whether the caller polls for its answer; else the loop watches for it. */
void far_fork_attend(struct far_link *far, struct far_fork *fork, int on);
/* What the caller polls for; -1: nothing, the loop watches. */
int far_fork_attended_fd(const struct far_link *far, const struct far_fork *fork);
/* It has come, or ended: the socket (the caller's), or -1. */
int far_fork_take(struct far_link *far, struct far_fork *fork);
/* Nobody wants its socket any more, neither of them. */
void far_fork_forget(struct far_link *far, struct far_fork *fork);

/* Numbers for the agent. 0, -ESRCH: it is lost, or -ENOMEM. */
int far_tell(struct far_link *far, enum link_type type, const uint32_t *numbers,
             unsigned n);
/* on_measured follows for p, unless it forgets. */
int far_measure(struct far_link *far, const struct far_process *q);

#endif
