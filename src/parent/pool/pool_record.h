/* Calls handed to workers that come and go. The decisions are policy.h's; here are the
 * processes, the queue, the clock and the callbacks.
 *
 *   template --fork--> worker (an rpc) ... worker
 *                        ^ calls, least loaded first
 *        queue (FIFO) ---+          answers -> callbacks
 *
 * A call's life:
 *
 *   WAITING -> WORKING ----------------> answered
 *     | ^        |  \-> ABANDONED (cancelled or timed out): its answer is awaited and
 *     | |        |      dropped
 *     | \--------/ its worker died and had not entered it, or it may run again
 *     \-> PENDING: the task calls its callback with an error
 *
 * Everything but giving a call to a worker with room is done in one task, so that no
 * decision is taken in the middle of another.
 *
 * This is the record of a pool, of its workers and of its calls, and what every file of
 * this folder does with it:
 *
 *   pool.c           life, task, public functions
 *   reload.c         another template
 *   dispatch.c       calls to workers and back
 *   pool_template.c  where workers come from
 *   pool_end.c       failing, draining, closing
 *   pool_worker.c    workers
 *   pool_call.c      calls: rpc/call.h has most of them
 *   policy.c         decisions
 *   latency.c        histograms of times
 *   pool_stats.c     counts and times, for the host
 *   pool_dump.c      a text of it
 *
 * Each uses only what stands below it. Runs in the parent. */
#ifndef PARENT_POOL_POOL_RECORD_H
#define PARENT_POOL_POOL_RECORD_H

#include "parent/pool/latency.h"
#include "parent/pool/policy.h"
#include "parent/process/journal.h"
#include "parent/process/process.h"
#include "parent/rpc/owner.h"

enum { SPARE_PAYLOADS = 256 };

enum { WORKER_REASON_MAX = 256 };

struct worker {
  struct mf_pool *pool;
  struct pool_template *template; /* NULL: on trial, or of a former template */
  struct list link;
  mf_rpc *rpc;
  int slot; /* -1: none (a trial, or given up) */
  unsigned ready : 1, leaving : 1, killed : 1, trial : 1;
  unsigned slain : 1; /* killed as its grace was over */
  unsigned old : 1;   /* of a former template */
  unsigned told : 1;  /* on_worker knows it */
  const char *why_started;
  int pid;                   /* once it is known, also after its end; else 0 */
  enum mf_worker_event ends; /* how, and why; no reason: nobody has said so yet */
  char reason[WORKER_REASON_MAX];
  struct list calls; /* in the order given */
  unsigned ncalls;
  uint64_t memory, shared;   /* bytes, as it said last */
  uint64_t nanswers, run_us; /* calls answered; microseconds in calls */
  struct latency run_time;
  struct deadline grace;
  unsigned grace_ms; /* that it has */
};

struct pool_template { /* what workers are forked from */
  struct list link;
  struct mf_pool *pool;
  mf_process *process;
  struct journal *journal; /* to start it again; or NULL */
  unsigned source;         /* its number for the policy */
  unsigned good : 1;       /* it has brought forth a worker that got ready */
  unsigned asked : 1;      /* to end, as somebody wants to know how */
  unsigned waits : 1;      /* for that */
  unsigned told : 1;       /* that it has failed */
};

struct pool_call {
  struct call base;              /* in the queue, or the worker's rpc has it: away */
  struct list worker_link;       /* in its worker's calls */
  struct deadline work_deadline; /* of its run in a worker */
  struct mf_pool *pool;
  struct worker *worker;
  uint64_t started_us; /* its worker is at it since then; 0: not yet */
  unsigned runs;
  int idempotent;
  int waited;  /* its time in the queue is counted */
  int unsure;  /* an earlier worker may have entered it */
  int overdue; /* its time in the worker is over, which is told with the worker's end */
};
_Static_assert(offsetof(struct pool_call, base) == 0, "found by id as a call");

enum reload_kind { RELOAD_ALL, RELOAD_ADD, RELOAD_PROMOTE };

struct mf_pool {
  struct dump_entry dump_entry;
  struct context *context;
  struct backend *backend;
  mf_pool_options options; /* rpc: NULL, see below */
  mf_rpc_options rpc_options;
  char *function, *init, *serialiser;
  struct list templates;
  unsigned nclosing; /* of them, when the pool closes */
  struct policy policy;
  struct list workers;
  struct worker **by_slot;
  unsigned nby_slot;

  struct call_set calls;
  /* A worker's call is over, without an error (e NULL) or with one: pool_on_reply. */
  void (*on_reply)(struct worker *w, struct pool_call *c, const mf_error *e,
                   const mf_message *m);
  struct list queue, *requeued; /* what came back last, while it is in it; or NULL */
  struct payload **payloads;    /* kept for reuse */
  size_t nqueued, nworking, npayloads;
  struct deadline wake;
  struct deadline drain_limit; /* of a drain; then of what was killed */
  struct deadline close_grace; /* of a close: until the next answer */
  struct task task;
  unsigned busy : 1;
  unsigned quiet : 1; /* nobody waits for the end of its close */

  unsigned ending : 1; /* takes no more calls */
  int drop_code;       /* of the calls that wait: no worker ever takes them; or 0 */
  unsigned given_up : 1, cut_short : 1, ended : 1, closing : 1, closed : 1,
      reported_failure : 1;
  const char *why;        /* workers are ended, for on_worker; NULL: it does not end */
  struct failure failure; /* code 0: none */
  struct {                /* or an addition: a template's first worker is on trial */
    enum reload_kind kind;
    mf_process *process;
    struct pool_template *instead; /* a promoted worker's: its place in the pool */
    struct worker *worker;
    mf_pool_cb cb;
    void *data;
    int done; /* the callback is pending */
    struct failure failure;
    struct list next; /* struct reload_request */
  } reload;
  struct {
    mf_pool_cb cb;
    void *data;
    int asked, limited;
    mf_drain_report report; /* since `ending` */
  } drain;
  mf_pool_close_cb close_cb;
  void *close_data;

  struct latency latency, queue_time, run_time;
  mf_pool_info stats;
  struct {
    mf_pool_death death;
    uint64_t at_ms;
  } last[MF_POOL_DEATHS];
  unsigned last_at;
};

/* One that waits for the callback of the one before it. A reload ends all before it. */
struct reload_request {
  struct list link;
  enum reload_kind kind;
  mf_process *process;
  mf_pool_cb cb;
  void *data;
  const char *over; /* why it is not begun; NULL: it is */
};

uint64_t pool_now_ms(const struct mf_pool *pool);
uint64_t pool_now_us(const struct mf_pool *pool);
/* The task runs once the event under way is over. */
void pool_schedule(struct mf_pool *pool);
/* Whether it keeps the loop alive: after every change of what it waits for. */
void pool_update_busy(struct mf_pool *pool);
enum mf_pool_state pool_state(const struct mf_pool *pool);
int pool_reloads(const struct mf_pool *pool); /* is a reload under way? */
int pool_check(const mf_pool *pool);          /* 0, MF_EINVAL or MF_EFORKED */
void pool_keep_failure(struct failure *f, const mf_error *e, const char *origin);
/* Can workers be forked from it? */
int pool_template_is_usable(const struct pool_template *t);

#endif
