/* The life of an rpc, its task, and the functions of moonfork.h. */
#include "parent/rpc/rpc.h"

#include "base/sized.h"
#include "parent/common/times.h"
#include "parent/private.h"
#include "parent/process/process_trace.h"
#include "parent/rpc/answers.h"
#include "parent/rpc/receive.h"
#include "parent/rpc/rpc_call.h"
#include "parent/rpc/rpc_dump.h"
#include "parent/rpc/rpc_end.h"
#include "parent/rpc/rpc_record.h"
#include "parent/rpc/rpc_send.h"
#include "parent/rpc/rpc_trace.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void on_process_closed(mf_process *p, void *data);

static void on_ready(struct watch *w, unsigned events) {
  struct mf_rpc *rpc = list_entry(w, struct mf_rpc, watch);
  struct context *ctx = rpc->context;
  context_enter(ctx);
  if (events & WATCH_WRITE)
    rpc_flush(rpc);
  if ((events & WATCH_READ) && !rpc->more)
    rpc_read(rpc);
  rpc_schedule(rpc);
  context_leave(ctx);
}

/* ---- the task ---- */

static int is_relieved(const struct mf_rpc *rpc) {
  return rpc->calls->ids.used <= rpc->options.pending_max / 2 &&
         rpc_queue_bytes(rpc) <= rpc->options.queue_bytes_max / 2;
}

/* Its end is still to come, and `exit_timeout` bounds the wait for it: its socket was
 * closed on it, on which it leaves, and where its function does not return it is killed;
 * or it was killed. A pool sees to its workers itself. */
static int is_leaving(const struct mf_rpc *rpc) {
  if (rpc->owner.ops || rpc->exited)
    return 0;
  return rpc->killed ? deadline_at(&rpc->exit_timeout) != UINT64_MAX
                     : rpc->aborted && rpc->ran;
}

/* The last steps, one after the other, each once nothing of the former is left. */
static void tell_the_end(struct mf_rpc *rpc) {
  mf_error e = {0};
  if (rpc->error_pending) {
    rpc->error_pending = 0;
    failure_tell(&rpc->failure, &e);
    e.started = rpc->far >= FAR_SERVING || rpc->may_have_entered ? MF_STARTED_UNKNOWN
                                                                 : MF_STARTED_NO;
    e.exit = rpc->exited ? &rpc->exit : NULL;
    if (rpc->options.on_error)
      rpc->options.on_error(&e, rpc->options.data);
  }
  if (rpc->close_pending) {
    rpc->close_pending = 0;
    if (rpc->options.on_close)
      rpc->options.on_close(rpc->options.data);
  }
  if (rpc->closing && rpc->over && !rpc->closed && !is_leaving(rpc)) {
    rpc->closed = 1;
    process_hook_exit(rpc->process, NULL, NULL);
    rpc->process->forked_hook.close = NULL;
    rpc->process->rpc_fd = NULL;
    mf_close(rpc->process, on_process_closed, rpc);
  }
}

static void on_task(struct task *t) {
  struct mf_rpc *rpc = list_entry(t, struct mf_rpc, task);
  int more;
  if (rpc->closed)
    return;
  if (rpc->more && !rpc->exited)
    rpc_read(rpc);
  if (rpc->exited && !rpc->over)
    rpc_drain(rpc);
  if (!rpc->full)
    rpc_flush(rpc);
  more = rpc_notify(rpc);
  if (rpc->limited && !rpc->over && is_relieved(rpc)) {
    rpc->limited = 0;
    if (rpc->options.on_drain)
      rpc->options.on_drain(rpc->options.data);
  }
  if (more)
    rpc_schedule(rpc);
  else if (rpc->over)
    tell_the_end(rpc);
  rpc_update_busy(rpc);
}

static void on_retry(struct deadline *d) {
  struct mf_rpc *rpc = list_entry(d, struct mf_rpc, retry);
  rpc_schedule(rpc);
}

/* ---- calls from outside ---- */

int call_options_load(const mf_call_options *from, mf_call_options *ret) {
  *ret = (mf_call_options)MF_CALL_OPTIONS_INIT;
  return from && sized_load(ret, sizeof *ret, from) < 0 ? MF_EINVAL : 0;
}

unsigned rpc_timeout(const mf_call_options *c, unsigned standard_ms) {
  return c->timeout_ms ? c->timeout_ms : standard_ms;
}

static int check(const mf_rpc *rpc) {
  if (!rpc)
    return MF_EINVAL;
  return context_foreign(rpc->context) ? MF_EFORKED : 0;
}

int mf_rpc_call_lent(mf_rpc *rpc, const mf_message *m, const struct mf_loan *loan,
                     const mf_call_options *options, mf_reply_cb cb, void *data,
                     uint64_t *ret_id) {
  struct payload *p;
  mf_call_options o;
  int r = check(rpc);
  if (!r)
    r = call_options_load(options, &o);
  if (r) {
    loan->release(loan->data);
    return r;
  }
  r = payload_new_lent(m, loan, &rpc->context->blockcache, &p);
  if (r)
    return r;
  mf_message all = {p->data, p->length, p->fds, p->nfds};
  r = rpc_send(rpc, &all, p, o.chunk, rpc_timeout(&o, rpc->options.timeout_ms), cb, data,
               ret_id);
  payload_drop(p);
  return r;
}

int mf_rpc_call(mf_rpc *rpc, const mf_message *m, const mf_call_options *options,
                mf_reply_cb cb, void *data, uint64_t *ret_id) {
  mf_call_options o;
  int r = check(rpc);
  if (!r)
    r = call_options_load(options, &o);
  return r ? r
           : rpc_send(rpc, m, NULL, o.chunk, rpc_timeout(&o, rpc->options.timeout_ms), cb,
                      data, ret_id);
}

int mf_rpc_cancel(mf_rpc *rpc, uint64_t id) {
  int r = check(rpc);
  return r ? r : calls_cancel(&rpc->own_calls, id);
}

mf_process *mf_rpc_process(const mf_rpc *rpc) {
  return rpc ? rpc->process : NULL;
}

const char *rpc_origin(const mf_rpc *rpc) {
  return rpc->failure.origin;
}

void rpc_look(mf_rpc *rpc) {
  rpc_catch_up(rpc);
}

int rpc_is_over(const mf_rpc *rpc) {
  return rpc->over;
}

int mf_rpc_get_stats(const mf_rpc *rpc, mf_rpc_stats *ret) {
  mf_rpc_stats s;
  int r = check(rpc);
  if (r)
    return r;
  if (!ret)
    return MF_EINVAL;
  s = rpc->stats;
  s.pending = rpc->own_calls.nwaiting;
  s.queue_bytes = rpc_queue_bytes(rpc);
  return sized_store(ret, &s, sizeof s) < 0 ? MF_EINVAL : 0;
}

/* ---- life ---- */

static void copy_exit(struct mf_rpc *rpc, const mf_exit *x) {
  char *text = x->error ? strdup(x->error) : NULL;
  free(rpc->exit_text); /* one that ended before run is reported with the run, and once
                           more */
  rpc->exit_text = text;
  rpc->exit = *x;
  rpc->exit.error = text;
}

static void on_exit_told(mf_process *p, const mf_exit *x, void *data) {
  struct mf_rpc *rpc = data;
  /* "Nobody will ever tell" is no news of its end: the socket's is. */
  if (!x->known && !p->gone && !rpc->eof && rpc->fd >= 0) {
    rpc->untold = 1;
    return;
  }
  rpc->exited = 1;
  copy_exit(rpc, x);
  rpc_schedule(rpc);
}

static void on_run(mf_process *p, const mf_error *error, int socket, void *data) {
  struct mf_rpc *rpc = data;
  int r;
  if (error) {
    if (error->exit) {
      rpc->exited = 1;
      copy_exit(rpc, error->exit);
    }
    rpc_fail_with_at(p->error ? p->error->origin : ORIGIN, rpc, error);
    return;
  }
  if (rpc->over) { /* given up meanwhile */
    rpc->backend->ops->close(rpc->backend, &socket);
    return;
  }
  rpc->fd = socket;
  rpc->ran = 1;
  rpc_trace_init(rpc);
  r = rpc->backend->ops->watch(rpc->backend, &rpc->watch, socket, WATCH_READ);
  if (r < 0) {
    process_end_by_force(rpc->process);
    rpc_fail(rpc, r == -ENOMEM ? MF_ENOMEM : r,
             "the socket of the process can't be watched");
    return;
  }
  rpc_schedule(rpc);
}

static void rpc_free(struct mf_rpc *rpc) {
  list_remove(&rpc->dump_entry.link);
  task_clear(&rpc->task);
  deadline_clear(&rpc->exit_timeout);
  deadline_clear(&rpc->grace);
  deadline_clear(&rpc->retry);
  calls_deinit(&rpc->own_calls);
  rpc_drop_input(rpc);
  outbox_deinit(&rpc->out);
  buf_deinit(&rpc->text);
  failure_deinit(&rpc->failure);
  free(rpc->exit_text);
  free(rpc);
}

static void on_process_closed(mf_process *p, void *data) {
  struct mf_rpc *rpc = data;
  if (rpc->close_cb)
    rpc->close_cb(rpc, rpc->close_data);
  rpc_free(rpc);
}

/* The server's last argument; rpc_proto.h has its layout. */
static int put_parameters(struct buf *b, const char *function, const mf_rpc_options *o,
                          unsigned usage_ms, int forks) {
  const char *init = o->init ? o->init : "";
  const char *serialiser = o->serialiser ? o->serialiser : "raw";
  unsigned flags = (o->async ? RPC_ASYNC : 0) | (o->handles ? RPC_TAKES_HANDLES : 0) |
                   (o->strict ? RPC_STRICT : 0) | (usage_ms ? RPC_MEASURED : 0) |
                   (o->strict_classes ? RPC_STRICT_CLASSES : 0) |
                   (forks && !o->async ? RPC_FORKS : 0);
  int r = buf_put_u32(b, RPC_MAGIC);
  if (!r)
    r = buf_put_u16(b, RPC_VERSION);
  if (!r)
    r = buf_put_u16(b, flags);
  if (!r)
    r = buf_put_u64(b, o->message_max);
  if (!r)
    r = buf_put_u32(b, usage_ms);
  if (!r)
    r = buf_put_str(b, function, strlen(function));
  if (!r)
    r = buf_put_str(b, init, strlen(init));
  return r ? r : buf_put_str(b, serialiser, strlen(serialiser));
}

static int start_server(struct mf_rpc *rpc, struct mf_process *p, const char *function,
                        const mf_rpc_options *o) {
  struct buf b;
  int r;
  buf_init(&b, PROTO_PAYLOAD_MAX);
  r = put_parameters(&b, function, o, rpc->owner.usage_ms, rpc->owner.ops != NULL);
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : mf_send_arg(p, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  p->refuses_fds = !o->handles;
  process_trace_function(p, function);
  if (!r)
    r = mf_run(p, RPC_FUNCTION, on_run, rpc);
  if (r)
    p->refuses_fds = 0;
  if (!r)
    deadline_clear(&p->limit); /* calls have their own */
  return r;
}

void mf_rpc_options_init(mf_rpc_options *o) {
  mf_rpc_options init = MF_RPC_OPTIONS_INIT;
  if (o)
    *o = init;
}

int rpc_options_load(const mf_rpc_options *from, mf_rpc_options *o) {
  mf_rpc_options_init(o);
  if (from && sized_load(o, sizeof *o, from) < 0)
    return MF_EINVAL;
  if (o->message_max > PROTO_PAYLOAD_MAX || !o->pending_max || (o->init && !*o->init) ||
      (o->serialiser && !*o->serialiser) ||
      (o->strict_classes && !(o->serialiser && strcmp(o->serialiser, "msgpack") == 0)))
    return MF_EINVAL;
  return 0;
}

/* The copy is no parent of the clone: a socket kept there would hide our end from it. */
static void close_in_copy(void *data) {
  struct mf_rpc *rpc = data;
  fd_close(&rpc->fd);
  outbox_deinit(&rpc->out);
  message_drop_fds(&rpc->messages);
  list_each(it, &rpc->parked) {
    payload_close(list_entry(it, struct call, link)->payload);
  }
}

int rpc_new(struct mf_process *p, const char *function, const mf_rpc_options *o,
            const struct rpc_owner *owner, mf_rpc **ret) {
  struct mf_rpc *rpc = calloc(1, sizeof *rpc);
  int r;
  if (!rpc)
    return MF_ENOMEM;
  list_init(&rpc->dump_entry.link);
  rpc->process = p;
  rpc->context = p->context;
  rpc->backend = p->context->backend;
  rpc->options = *o;
  if (owner)
    rpc->owner = *owner;
  rpc->fd = -1;
  rpc->watch.on_ready = on_ready;
  rpc->watch.lasts = 1;
  rpc_init_messages(rpc);
  outbox_init(&rpc->out);
  buf_init(&rpc->text, 2 * FAILURE_TEXT_MAX + 2);
  list_init(&rpc->parked);
  list_init(&rpc->flying);
  list_init(&rpc->lost);
  deadline_init(&rpc->exit_timeout, rpc_on_exit_timeout);
  deadline_init(&rpc->grace, rpc_on_grace);
  deadline_init(&rpc->retry, on_retry);
  task_init(&rpc->task, on_task);
  rpc_init_calls(rpc);
  r = start_server(rpc, p, function, o);
  if (r) {
    rpc_free(rpc);
    return r;
  }
  if (!owner)
    context_admit(rpc->context, &rpc->dump_entry, rpc_on_dump);
  process_hook_exit(p, on_exit_told, rpc);
  p->forked_hook.close = close_in_copy;
  p->forked_hook.data = rpc;
  p->rpc_fd = &rpc->fd;
  *ret = rpc;
  return 0;
}

int mf_rpc_new(mf_process *p, const char *function, const mf_rpc_options *options,
               mf_rpc **ret) {
  mf_rpc_options o;
  int r = process_check(p);
  if (!r && (!function || !*function || !ret))
    r = MF_EINVAL;
  if (!r)
    r = rpc_options_load(options, &o);
  if (!r && o.strict && o.async)
    r = MF_EINVAL;
  return r ? r : rpc_new(p, function, &o, NULL, ret);
}

void mf_rpc_abort(mf_rpc *rpc) {
  if (check(rpc) || rpc->closed)
    return;
  rpc->aborted = 1;
  rpc->error_pending = rpc->close_pending = 0;
  rpc_fail(rpc, MF_ECANCELLED, "cancelled by the caller");
  if (is_leaving(rpc))
    deadline_set(&rpc->context->deadlines, &rpc->exit_timeout, EXIT_TIMEOUT_MS);
  rpc_schedule(rpc);
  rpc_update_busy(rpc);
}

void mf_rpc_quiet(mf_rpc *rpc) {
  if (check(rpc))
    return;
  rpc->quiet = 1;
  rpc_update_busy(rpc);
}

void mf_rpc_close(mf_rpc *rpc, mf_rpc_close_cb cb, void *data) {
  if (check(rpc) || rpc->closing)
    return;
  rpc->closing = 1;
  rpc->close_cb = cb;
  rpc->close_data = data;
  rpc_start_grace(rpc);
  rpc_schedule(rpc);
  rpc_update_busy(rpc);
}
