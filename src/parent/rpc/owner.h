/* What a pool wants to know of its workers' rpcs beside the public callbacks; each may be
 * NULL. Runs in the parent. */
#ifndef PARENT_RPC_OWNER_H
#define PARENT_RPC_OWNER_H

#include <stdint.h>

struct rpc_owner {
  void (*on_ready)(void *data); /* init is over */
  void (*on_retire)(void *data);
  void (*on_usage)(void *data, uint64_t bytes);
};

#endif
