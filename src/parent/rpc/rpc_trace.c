/* See rpc_trace.h. */
#include "parent/rpc/rpc_trace.h"

#include "parent/process/process_trace.h"
#include "wire/rpc_proto.h"

static int is_first(const struct call *c) {
  return c->rpc->flying.next == &c->link;
}

static void begin(struct call *c) {
  struct mf_rpc *rpc = c->rpc;
  const struct backend_ops *ops = rpc->backend->ops;
  const struct trace_arg *args =
      TRACE_ARGS(TRACE_NUMBER("queue_us", ops->now_us(rpc->backend) - c->made_us));
  c->traced = trace_number;
  if (rpc->options.async)
    process_trace_beside(rpc->process, c->id, args);
  else
    process_trace_work(rpc->process, c->type == RPC_CHUNK ? "chunk" : "call", NULL, args);
}

void trace_call(struct call *c) {
  if (c->rpc->far != FAR_SERVING)
    return;
  if (c->rpc->options.async || is_first(c))
    begin(c);
}

void trace_init(struct mf_rpc *rpc) {
  process_trace_work(rpc->process, "init", rpc->options.init ? rpc->options.init : "",
                     NULL);
}

void trace_ready(struct mf_rpc *rpc) {
  process_trace_work_done(rpc->process, 0);
  list_each(it, &rpc->flying) {
    trace_call(list_entry(it, struct call, link));
  }
}

void trace_call_end(struct call *c, int code) {
  struct mf_rpc *rpc = c->rpc;
  struct list *next = c->link.next;
  if (c->traced == trace_number) {
    if (rpc->options.async)
      process_trace_beside_done(rpc->process, c->id, code);
    else
      process_trace_work_done(rpc->process, code);
  }
  if (!rpc->options.async && !rpc->over && is_first(c) && next != &rpc->flying)
    begin(list_entry(next, struct call, link));
}
