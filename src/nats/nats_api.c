/* What of libmoonfork-nats needs libmoonfork: nodes for its pools, and its mf_dump. The
 * Lua module has this for its own pools. */
#include "nats/caller_private.h"
#include "nats/nats_dump.h"
#include "nats/node.h"
#include <stddef.h>

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

static void print_node(void *node, FILE *out) {
  node_dump(node, out);
}

static void print_far(void *far, FILE *out) {
  far_dump(far, out);
}

static void list(struct nats_listed *l, struct uv_loop_s *loop,
                 void (*print)(void *data, FILE *out), void *data) {
  l->part = (mf_dump_part){.loop = loop, .print = print, .data = data};
  l->remove = mf_dump_remove;
  mf_dump_add(&l->part);
}

int mf_node_new(mf_pool *pool, const mf_nats_options *options, mf_node **ret) {
  struct node_pool of = {pool, call, cancel, stats, NULL};
  int rc = pool && ret ? node_new(&of, options, ret) : MF_EINVAL;
  size_t end = offsetof(mf_nats_options, loop) + sizeof options->loop;
  if (rc == 0)
    list(node_listed(*ret), options->size < end ? NULL : options->loop, print_node, *ret);
  return rc;
}

int mf_far_new(struct uv_loop_s *loop, const mf_nats_options *options, mf_far **ret) {
  int rc = ret ? far_new(loop, options, ret) : MF_EINVAL;
  if (rc == 0)
    list(far_listed(*ret), loop, print_far, *ret);
  return rc;
}
