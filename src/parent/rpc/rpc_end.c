/* How an rpc ends: orderly, by an error, by its process's death, or by a time limit. */
#include "parent/rpc/rpc_end.h"

#include "parent/common/times.h"
#include "parent/rpc/rpc_call.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

void rpc_drop_input(struct mf_rpc *rpc) {
  message_deinit(&rpc->messages);
  buf_deinit(&rpc->body);
}

static void close_socket(struct mf_rpc *rpc) {
  rpc->backend->ops->watch(rpc->backend, &rpc->watch, rpc->fd, 0);
  if (rpc->process->far)
    far_direct_end(rpc->process->far, &rpc->direct);
  if (rpc->fd >= 0)
    rpc->backend->ops->close(rpc->backend, &rpc->fd);
  deadline_clear(&rpc->exit_timeout);
  deadline_clear(&rpc->grace);
  deadline_clear(&rpc->retry);
  rpc->write_closed = 1;
  rpc->more = 0;
  context_drop_outbox(rpc->context, &rpc->out);
  if (!rpc->reading) /* else a callback may be looking at a message */
    rpc_drop_input(rpc);
}

void rpc_fail_with_at(const char *origin, struct mf_rpc *rpc, const mf_error *e) {
  if (rpc->over)
    return;
  rpc->over = 1;
  failure_copy(&rpc->failure, e);
  failure_set_origin(&rpc->failure, origin);
  rpc->error_pending = !rpc->aborted;
  close_socket(rpc);
  rpc_schedule(rpc);
}

void rpc_fail_at(const char *origin, struct mf_rpc *rpc, int code, const char *message) {
  mf_error e = {.code = code, .message = message};
  rpc_fail_with_at(origin, rpc, &e);
}

/* It did what the protocol does not allow: the connection ends, and so does it. */
void rpc_broken_at(const char *origin, struct mf_rpc *rpc, const char *what) {
  char text[160];
  if (rpc->over)
    return;
  snprintf(text, sizeof text, "rpc protocol error of the process: %s", what);
  process_end_by_force(rpc->process);
  rpc_fail_at(origin, rpc, MF_EPROTOCOL, text);
}

void rpc_lack_memory(struct mf_rpc *rpc, const char *text) {
  process_end_by_force(rpc->process);
  rpc_fail(rpc, MF_ENOMEM, text);
}

static void describe_death(const struct mf_rpc *rpc, char *text, size_t n) {
  const mf_exit *x = &rpc->exit;
  int partial = !rpc->over && message_is_partial(&rpc->messages);
  const char *where = partial ? ", in the middle of a message" : "";
  const char *words = x->error ? x->error : "";
  if (!rpc->exited)
    snprintf(text, n, "the process closed its socket and did not end%s", where);
  else if (!x->known)
    snprintf(text, n, "the process ended, exit status unknown%s%s%s", where,
             *words ? ": " : "", words);
  else if (x->signal)
    snprintf(text, n, "the process was ended by signal %d (%s)%s%s", x->signal,
             strsignal(x->signal), x->core ? ", core dumped" : "", where);
  else
    snprintf(text, n, "the process ended with exit status %d%s%s%s", x->code, where,
             *words ? ": " : "", words);
}

/* Nothing more will come. */
void rpc_finish_end(struct mf_rpc *rpc) {
  char text[2048];
  if (rpc->over)
    return;
  if (rpc->bye) {
    rpc->over = rpc->orderly = 1;
    rpc->close_pending = !rpc->aborted;
    close_socket(rpc);
    rpc_schedule(rpc);
    return;
  }
  describe_death(rpc, text, sizeof text);
  rpc_fail(rpc, MF_ECLONE_DIED, text);
}

void rpc_end_of_file(struct mf_rpc *rpc) {
  if (rpc->eof)
    return;
  rpc->eof = 1;
  rpc_rewatch(rpc);
  if (rpc->untold) {
    if (!rpc->bye) /* one that lives without its socket is not left alive */
      process_end_by_force(rpc->process);
    rpc->exited = 1;
  }
  if (rpc->exited)
    rpc_finish_end(rpc);
  else
    deadline_set(&rpc->context->deadlines, &rpc->exit_timeout,
                 rpc->bye ? CALLS_GRACE_MS : EXIT_TIMEOUT_MS);
}

void rpc_on_exit_timeout(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, exit_timeout);
  if (rpc->over) { /* given up, and it has not left */
    if (!rpc->killed && process_end_by_force(rpc->process) == 0)
      deadline_set(&rpc->context->deadlines, &rpc->exit_timeout,
                   EXIT_TIMEOUT_MS); /* for its status */
    rpc->killed = 1;
    rpc_schedule(rpc);
    return;
  }
  if (!rpc->killed && process_end_by_force(rpc->process) == 0) {
    rpc->killed = 1;
    deadline_set(&rpc->context->deadlines, &rpc->exit_timeout, EXIT_TIMEOUT_MS);
    return;
  }
  rpc_finish_end(rpc);
}

/* A closing rpc goes on as long as something comes: a call is answered, the process gets
 * ready, or says goodbye. */
void rpc_start_grace(struct mf_rpc *rpc) {
  if (rpc->closing && !rpc->over && rpc->options.grace_ms != MF_NO_TIMEOUT)
    deadline_set(&rpc->context->deadlines, &rpc->grace, rpc->options.grace_ms);
}
