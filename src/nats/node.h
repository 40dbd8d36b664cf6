/* A node: the calls of a subject for a pool. The pool is behind functions, so that the
 * same node works for libmoonfork's pools and for those of the Lua module, which has a
 * copy of the library of its own. Runs in the parent. */
#ifndef NATS_NODE_H
#define NATS_NODE_H

#include "nats/engine.h"
#include <moonfork/nats.h>

struct node_pool {
  void *pool;
  int (*call)(void *pool, const mf_message *m, const mf_call_options *o, mf_reply_cb cb,
              void *data, uint64_t *ret_id);
  int (*cancel)(void *pool, uint64_t id);
  int (*stats)(void *pool, mf_pool_info *info); /* MF_ECLOSED: it is closed */
  void (*release)(void *pool);                  /* once, at the end; or NULL */
};

/* As mf_node_new; pool is copied. Where it fails it does not release. */
int node_new(const struct node_pool *pool, const mf_nats_options *given, mf_node **ret);
struct engine *node_engine(mf_node *node);

#endif
