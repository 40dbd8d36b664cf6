/* The processes of the far side. The agent is their parent in the kernel's eyes, whoever
 * forked them: their numbers stand in slots (wire/slot_layout.h), their ends come from
 * wait4. Where a sandbox refuses that (CLONE_PARENT), they are children of the process
 * that forked them, and a pidfd tells of their ends. Runs in the agent. */
#ifndef REMOTE_TABLES_H
#define REMOTE_TABLES_H

#include "base/idmap.h"
#include "base/list.h"
#include "wire/link.h"
#include <sys/types.h>

enum { TABLES_PIDS = 1024, TABLES_DROPPED = 1024 };

struct tables;
struct tables_ops {
  /* tables_on_end is to be called when that pidfd (borrowed) can be read. 0 or -errno. */
  int (*watch)(struct tables *t, uint64_t serial, int pidfd);
  /* A process is known from now on. */
  void (*on_birth)(struct tables *t, uint32_t table, uint32_t index, pid_t pid);
  /* It has ended, which is not told yet. has_returned: its function has, as it says. */
  void (*on_end)(struct tables *t, pid_t pid, int has_returned);
};

struct tables {
  struct list all;
  /* Those that were dropped lately: a fork under way, of which nobody waits, may still
   * name one. */
  uint32_t dropped[TABLES_DROPPED];
  unsigned ndropped;
  unsigned count;
  struct idmap serials;
  struct list pids[TABLES_PIDS];
  struct list lately; /* children of which no return is told, in the order of births */
  pid_t root;         /* the template; 0: none, or it has ended */
  pid_t ended_pid;    /* has ended, and is not reaped yet: a child of ours; 0: none */
  int root_is_tree;
  const struct tables_ops *ops;
  struct buf ended; /* frames, GONE, that are held back until all bytes are sent */
};

void tables_init(struct tables *t, const struct tables_ops *ops);
/* The memory that a descriptor of kind BIRTHS or WORDS stands for; the caller's. -EPROTO,
 * or another -errno. */
int tables_add(struct tables *t, const struct link_descriptor *d);
void tables_drop(struct tables *t, uint32_t id);
/* Who is born there leads a process group; the table may be new, or LINK_TABLE_NONE: the
 * template does. 0 or -EPROTO. */
int tables_mark_tree(struct tables *t, uint32_t id, uint32_t count, uint32_t index);
/* Whether a number stands in a slot that has not been told of. */
int tables_has_news(const struct tables *t);
/* Tells of them: BORN. */
int tables_put_news(struct tables *t, struct buf *out);
/* A clone's socket has ended, without a word perhaps: tells of functions that have
 * returned, as far as it stands in slots (RETURNED). 0 or -errno. */
int tables_put_returns(struct tables *t, struct buf *out);
/* Reaps all that have ended, into `ended`. out: for births and
 * returns that come first. */
int tables_reap(struct tables *t, struct buf *out);
/* One that is watched has ended: into `ended`, too; its pidfd is closed. 0 or -errno. */
int tables_on_end(struct tables *t, uint64_t serial);
/* The live process of that serial, or 0. *ret_pidfd: -1 where it is a child of the
 * agent's, whose number is its own. *ret_tree: it leads a group. */
pid_t tables_pid(const struct tables *t, uint32_t serial, int *ret_pidfd, int *ret_tree);

#endif
