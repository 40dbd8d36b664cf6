/* The processes that this one forked for its parent, from fork to reaping. An exit is
 * found without reaping (the number stays taken), reported, and reaped when the parent
 * has acknowledged it or is gone. Children of user code are none of these. Runs in
 * templates and clones before run. */
#ifndef TEMPLATE_REAP_H
#define TEMPLATE_REAP_H

#include "os/proc.h"
#include "template/connection.h"
#include "template/slots.h"
#include <stdint.h>
#include <sys/types.h>

enum child_state { CHILD_FREE, CHILD_LIVE, CHILD_DEAD, CHILD_REPORTED };

struct child {
  uint64_t id; /* of the FORK (or RUN) command: with pid, its generation */
  pid_t pid;
  uint32_t slot;
  uint32_t next_id, next_pid; /* hash chains; index + 1 */
  uint8_t state, leash;       /* enum child_state; enum mf_leash */
  struct proc_status end;     /* from DEAD on */
};

struct children {
  struct child *items;
  uint32_t cap, n, nlive, ndead; /* n: not FREE; ndead: found but not reported */
  uint32_t *by_id, *by_pid, nbuckets;
  uint32_t free, scan_at;
  uint64_t next_scan_ns, scan_cost_ns;
  int scan_due; /* a SIGCHLD may have been merged with another: look at all */
  struct slots slots;
};

void children_init(struct children *c);
/* First thing in a clone: they are the template's. */
void children_forked(struct children *c);
/* Room for one more, so that nothing can fail after the fork. 0 or -ENOMEM. Gives the
 * slot for its last words (or SLOT_NONE), which begins with so many octets of live Lua
 * memory. children_cancel gives it back. */
int children_reserve(struct children *c, uint64_t lua_live, uint32_t *ret_slot);
void children_cancel(struct children *c, uint32_t slot);
void children_add(struct children *c, uint64_t id, pid_t pid, uint32_t slot, int leash);
/* NULL: none with this id. */
struct child *children_find(struct children *c, uint64_t id);
/* The parent has the report: reaps. Unknown ids are ignored. */
void children_acknowledged(struct children *c, uint64_t id);
/* SIGCHLD: pids of some dead (hints), and maybe others too. Looks at the hints now and at
 * everybody when that is due; a full look at thousands is rate-limited. */
void children_look(struct children *c, const pid_t *hints, int nhints);
/* Milliseconds until the full look that is still due, or -1: none. */
int children_delay_ms(const struct children *c);
/* Queues reports of the dead while the connection has room. 0 or -ENOMEM. */
int children_report(struct children *c, struct connection *conn);
/* Nobody listens: reaps all dead, reported or not. */
void children_reap_unheard(struct children *c);
/* Signals those whose own leash could not be armed (no /proc). */
void children_pull_leash(struct children *c);

#endif
