/* The record of an rpc and of its calls, and what every file of this folder does with it.
 *
 *   rpc.c       life, task, public functions
 *   receive.c   bytes in
 *   rpc_send.c  requests out
 *   rpc_promote.c  a copy of the process
 *   answers.c   messages
 *   rpc_end.c   failures and the end
 *   rpc_call.c  calls
 *   call.c      their callbacks and time limits
 *   rpc_dump.c  a text of it
 *
 * Each uses only what stands below it. Runs in the parent. */
#ifndef PARENT_RPC_RPC_RECORD_H
#define PARENT_RPC_RPC_RECORD_H

#include "parent/process/far_direct.h"
#include "parent/process/process.h"
#include "parent/rpc/owner.h"
#include "wire/message.h"
#include "wire/outbox.h"

/* Where the clone is in its protocol; rpc_proto.h has the same in words. */
enum far { FAR_STARTING, FAR_INIT, FAR_SERVING, FAR_GONE, FAR_COUNT };

struct mf_rpc {
  struct dump_entry dump_entry;
  struct mf_process *process;
  struct context *context;
  struct backend *backend;
  mf_rpc_options options; /* its strings are not ours */
  struct rpc_owner owner; /* ops NULL: none */

  int fd; /* -1: not yet, or no more */
  struct watch watch;
  struct outbox out;
  uint64_t sent;                  /* bytes */
  struct far_direct direct;       /* the way of some of them, over a link */
  unsigned write_closed : 1;      /* writing is over */
  unsigned full : 1;              /* the kernel takes no more for now */
  unsigned reading : 1, more : 1; /* more: messages may be there that nobody has taken */
  unsigned eof : 1, exited : 1, bye : 1;
  unsigned untold : 1;   /* nobody will ever tell of its end */
  unsigned silenced : 1; /* it can say nothing more */
  unsigned read_out : 1; /* so, or ended, and all that it said was read */
  unsigned closing : 1, end_put : 1, aborted : 1;
  unsigned ran : 1;              /* it was in its function */
  unsigned never_ready : 1;      /* by its own word */
  unsigned over : 1;             /* failed or ended: the socket is gone */
  unsigned first_failed : 1;     /* over: no other call can have been entered */
  unsigned may_have_entered : 1; /* over: one that has no answer */
  unsigned orderly : 1;
  unsigned error_pending : 1, close_pending : 1, limited : 1;
  unsigned closed : 1; /* the process has been closed: only its callback is to come */
  unsigned busy : 1;
  unsigned quiet : 1; /* nobody waits for the end of its close */

  enum far far;
  struct message_reader messages;
  struct message_store store; /* for long bodies: */
  struct buf body;   /* storage is lent by the block cache while a message comes */
  unsigned wide : 1; /* the socket is widened */

  struct call_set own_calls, *calls; /* its own, or those of the owner */
  struct list parked, flying;
  struct list lost; /* to go back to the owner */
  size_t parked_bytes;
  struct deadline exit_timeout, retry;
  struct deadline grace; /* of a close: until the next answer */
  int killed;
  size_t last_words; /* bytes read since the process has ended */
  struct task task;

  struct failure failure; /* code 0: none */
  mf_exit exit;
  char *exit_text;
  struct buf text; /* of the error being reported */
  mf_rpc_stats stats;
  mf_rpc_close_cb close_cb;
  void *close_data;
};

uint64_t rpc_now_ms(const struct mf_rpc *rpc);
/* The task runs once the event under way is over. */
void rpc_schedule(struct mf_rpc *rpc);
/* Whether it keeps the loop alive: after every change of what it waits for. */
void rpc_update_busy(struct mf_rpc *rpc);
/* Watches the socket for what is wanted now. */
void rpc_rewatch(struct mf_rpc *rpc);

#endif
