/* A node: the calls of a subject for a pool. Runs in the parent. */
#ifndef NATS_NODE_H
#define NATS_NODE_H

#include "nats/engine.h"
#include "nats/node_pool.h"
#include <moonfork/nats.h>

/* As mf_node_new; pool is copied. Where it fails it does not release. */
int node_new(const struct node_pool *pool, const mf_nats_options *given, mf_node **ret);

#endif
