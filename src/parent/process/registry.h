/* The processes of one loop: every record, those that are found by id, the default
 * template, and the children that outlive their records. Its first member is the loop's
 * context: each context is one of a registry. Runs in the parent, on the loop's thread.
 */
#ifndef PARENT_PROCESS_REGISTRY_H
#define PARENT_PROCESS_REGISTRY_H

#include "base/blockpool.h"
#include "base/idmap.h"
#include "parent/loop/context.h"
#include "parent/process/children.h"

struct mf_process;

/* The template of a process that names none (start/default_template.c
 * starts it). */
struct default_template {
  struct mf_process *process; /* or NULL */
  int early;                  /* it is the early process */
  int gc;                     /* of the early process: the mode of its collector */
  unsigned failures;          /* starts in a row that came to nothing */
  uint64_t not_before_ms;     /* of the next start */
};

struct registry {
  struct context context;
  struct list processes; /* every record */
  int parked;            /* nothing of theirs is on the loop */
  struct idmap ids;
  struct default_template def;
  struct children children;
  struct blockpool records, batches; /* a process is often made when another has ended */
  unsigned traced; /* the number of the trace that has its processes; 0: none */
};

static inline struct registry *registry_of(struct context *ctx) {
  return (struct registry *)ctx;
}

/* The context of the loop (NULL: libuv's default loop), made when there is none. 0 or
 * -errno: no memory, or too few free descriptors for the default loop. */
int registry_get(struct uv_loop_s *loop, struct context **ret);
/* For tests: one on a backend of theirs (taken), in no list. */
struct context *registry_new_on(struct backend *backend);

/* p, whose context is set, is among them from now on, with an id. 0 or -ENOMEM. */
int registry_add(struct mf_process *p);
void registry_remove(struct mf_process *p);
struct mf_process *registry_find(struct context *ctx, uint64_t id); /* or NULL */

/* p, if it is the default template, is none any more: it came to nothing. */
void registry_lose_default(struct mf_process *p);
/* p has executed something: if it is the default template, it came to something. */
void registry_prove_default(struct mf_process *p);

#endif
