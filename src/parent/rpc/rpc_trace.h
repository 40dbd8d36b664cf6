/* The calls of an rpc in the timeline of mf_trace: one after the other inside of the span
 * of its function; beside each other where they are asynchronous. A call begins when its
 * process gets to it, as far as the parent can see. Runs in the parent. */
#ifndef PARENT_RPC_TRACE_H
#define PARENT_RPC_TRACE_H

#include "parent/rpc/rpc_record.h"
#include "parent/trace/trace.h"

/* While something is traced: */
void trace_init(struct mf_rpc *rpc);
void trace_ready(struct mf_rpc *rpc);
void trace_call(struct call *c);
void trace_call_end(struct call *c, int code);

/* Its process was entered, and gets ready. */
static inline void rpc_trace_init(struct mf_rpc *rpc) {
  if (trace_is_on())
    trace_init(rpc);
}

/* It is ready. */
static inline void rpc_trace_ready(struct mf_rpc *rpc) {
  if (trace_is_on())
    trace_ready(rpc);
}

/* c is flying. */
static inline void rpc_trace_call(struct call *c) {
  if (trace_is_on())
    trace_call(c);
}

/* c has its answer, or never gets one (code), and is about to leave the list. */
static inline void rpc_trace_end(struct call *c, int code) {
  if (trace_is_on())
    trace_call_end(c, code);
}

#endif
