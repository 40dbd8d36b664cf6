/* The pool of a node, behind functions, so that the same node works for libmoonfork's
 * pools and for those of the Lua module, which has a copy of the library of its own. Runs
 * in the parent. */
#ifndef NATS_NODE_POOL_H
#define NATS_NODE_POOL_H

#include <moonfork.h>

struct node_pool {
  void *pool;
  int (*call)(void *pool, const mf_message *m, const mf_call_options *o, mf_reply_cb cb,
              void *data, uint64_t *ret_id);
  int (*cancel)(void *pool, uint64_t id);
  int (*stats)(void *pool, mf_pool_info *info); /* MF_ECLOSED: it is closed */
  void (*release)(void *pool);                  /* once, at the end; or NULL */
};

#endif
