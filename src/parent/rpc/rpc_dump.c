#include "parent/rpc/rpc_dump.h"

#include "parent/process/dump.h"
#include "parent/rpc/rpc_record.h"
#include "parent/rpc/rpc_send.h"

static const char *state_name(const struct mf_rpc *rpc) {
  static const char *const names[FAR_COUNT] = {[FAR_STARTING] = "starting",
                                               [FAR_INIT] = "in init",
                                               [FAR_SERVING] = "serving",
                                               [FAR_GONE] = "has left"};
  return rpc->over ? "over" : rpc->closing ? "closing" : names[rpc->far];
}

void rpc_dump(const mf_rpc *rpc, FILE *out, int indent) {
  const struct list *oldest = list_empty(&rpc->flying) ? &rpc->parked : &rpc->flying;
  fprintf(out, "%*srpc in ", indent, "");
  dump_process_name(out, rpc->process);
  fprintf(out, ": %s", state_name(rpc));
  if (rpc->dump_entry.made_ms) {
    fputs(", made ", out);
    dump_seconds(out, rpc->context, rpc->dump_entry.made_ms);
    fputs(" ago", out);
  }
  fprintf(out, ", %zu calls wait for an answer", rpc->own_calls.nwaiting);
  if (!list_empty(oldest)) {
    const struct call *c = list_entry(oldest->next, struct call, link);
    fputs(", the oldest since ", out);
    dump_seconds(out, rpc->context, c->made_us / 1000);
    dump_deadline(out, rpc->context, "its timeout in", &c->deadline);
  }
  fprintf(out, ", %zu bytes not written", rpc_queue_bytes(rpc));
  fprintf(out, ", %llu calls and %llu answers so far",
          (unsigned long long)rpc->stats.calls, (unsigned long long)rpc->stats.answers);
  dump_deadline(out, rpc->context, "killed in", &rpc->exit_timeout);
  dump_deadline(out, rpc->context, "given up in", &rpc->grace);
  dump_failure(out, "failed", &rpc->failure);
  putc('\n', out);
}

void rpc_on_dump(const struct dump_entry *r, FILE *out) {
  rpc_dump(list_entry(r, struct mf_rpc, dump_entry), out, 2);
}
