/* What of libmoonfork-nats needs libmoonfork: nodes for its pools. The Lua module has
 * this for its own pools. */
#include "nats/node.h"

static int call(void *pool, const mf_message *m, const mf_call_options *o, mf_reply_cb cb,
                void *data, uint64_t *ret_id) {
  return mf_pool_call(pool, m, o, cb, data, ret_id);
}

static int cancel(void *pool, uint64_t id) {
  return mf_pool_cancel(pool, id);
}

static int stats(void *pool, mf_pool_info *info) {
  return mf_pool_stats(pool, info);
}

int mf_node_new(mf_pool *pool, const mf_nats_options *options, mf_node **ret) {
  struct node_pool of = {pool, call, cancel, stats, NULL};
  return node_new(&of, options, ret);
}
