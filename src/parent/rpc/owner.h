/* What a pool wants to know of its workers' rpcs beside the public callbacks. Runs in the
 * parent. */
#ifndef PARENT_RPC_OWNER_H
#define PARENT_RPC_OWNER_H

#include "parent/rpc/call.h"
#include <stdint.h>

struct rpc_owner_ops {
  void (*on_ready)(void *data); /* init is over */
  void (*on_retire)(void *data);
  void (*on_usage)(void *data, uint64_t private_bytes, uint64_t shared_bytes);
  /* c, which rpc_give gave, is the owner's again: with a result, or an error (e). */
  void (*on_reply)(struct call *c, const mf_error *e, const mf_message *m, void *data);
};

struct rpc_owner {
  const struct rpc_owner_ops *ops;
  void *data;
  struct call_set *calls; /* those that it gives */
  unsigned usage_ms;      /* between two reports of memory; 0: none */
};

#endif
