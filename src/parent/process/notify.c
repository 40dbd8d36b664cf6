/* Callbacks are never called while an event is under way: they are pending
 * (process_pend), and the context delivers them when it is over. Runs in the parent. */
#include "parent/process/internal.h"

#include <stdlib.h>

void process_pend(struct mf_process *p, unsigned what) {
  p->pending |= what;
  task_clear(&p->free); /* a pending callback keeps it */
  context_task(p->context, PHASE_NOTIFY, &p->notify);
}

void process_hook_exit(struct mf_process *p, mf_exit_cb cb, void *data) {
  p->exit_hook.cb = cb;
  p->exit_hook.data = data;
  if (cb && p->state == DEAD)
    process_pend(p, PENDING_EXIT);
}

static void fill_error(const struct mf_process *p, mf_error *e) {
  const struct failure *f = p->error;
  static const struct failure no_memory = {.code = MF_ENOMEM,
                                           .started = MF_STARTED_UNKNOWN};
  failure_tell(f ? f : &no_memory, e);
  e->exit = p->state == DEAD && p->exit.known ? &p->exit
            : p->source_exit.known            ? &p->source_exit
                                              : NULL;
}

static void deliver_finish(struct mf_process *p) {
  mf_run_cb cb = p->finish.cb;
  void *data = p->finish.data;
  int fd = p->finish.fd;
  mf_error e;
  p->finish.kind = FINISH_NONE;
  p->finish.cb = NULL;
  if (fd >= 0) {
    if (!cb)
      return; /* kept open until the handle is closed */
    p->finish.fd = -1;
    cb(p, NULL, fd, data);
    return;
  }
  p->error_told = 1;
  fill_error(p, &e);
  if (cb)
    cb(p, &e, -1, data);
}

static void deliver_memory(struct mf_process *p) {
  while (!list_empty(&p->memory)) {
    struct memory_request *m = list_entry(p->memory.next, struct memory_request, link);
    mf_error e = {0};
    if (!m->done)
      return;
    list_remove(&m->link);
    if (m->error) {
      fill_error(p, &e);
      if (e.code != m->error) { /* not what the process failed of, or it did not fail */
        e = (mf_error){.code = m->error, .message = mf_strerror(m->error)};
        e.exit = p->state == DEAD && p->exit.known ? &p->exit : NULL;
      }
      if (m->message)
        e.message = m->message;
      e.os_error = m->os_error;
      e.started = MF_STARTED_NO;
    }
    if (m->file)
      m->saved(p, m->error ? &e : NULL, m->data);
    else
      m->cb(p, m->error ? &e : NULL, m->error ? NULL : &m->info, m->data);
    memory_request_free(m);
  }
}

static void deliver_error(struct mf_process *p) {
  mf_error_cb cb = p->error_to.cb;
  mf_error e;
  p->error_to.cb = NULL;
  if (!cb || p->error_told)
    return;
  p->error_told = 1;
  fill_error(p, &e);
  cb(p, &e, p->error_to.data);
}

static void deliver_exit(struct mf_process *p) {
  mf_exit_cb cb = p->exit_to.cb, hook = p->exit_hook.cb;
  mf_exit unknown = {0};
  const mf_exit *exit = p->state == DEAD ? &p->exit : &unknown;
  p->exit_to.cb = NULL;
  p->exit_hook.cb = NULL;
  if (hook)
    hook(p, exit, p->exit_hook.data);
  if (cb)
    cb(p, exit, p->exit_to.data);
}

static void deliver_close(struct mf_process *p) {
  mf_close_cb cb = p->close_to.cb;
  if (!cb || task_waits(&p->closed))
    return;
  if (p->context->nopen ==
      0) { /* its callback says that the loop is empty: wait for that */
    context_task(p->context, PHASE_CLOSED, &p->closed);
    return;
  }
  p->close_to.cb = NULL;
  cb(p, p->close_to.data);
}

void process_on_notify(struct task *t) {
  struct mf_process *p = list_entry(t, struct mf_process, notify);
  static const struct {
    unsigned what;
    void (*deliver)(struct mf_process *);
  } order[] = {{PENDING_FINISH, deliver_finish},
               {PENDING_MEMORY, deliver_memory},
               {PENDING_ERROR, deliver_error},
               {PENDING_EXIT, deliver_exit},
               {PENDING_CLOSE, deliver_close}};
  p->notifying = 1;
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
    if (!(p->pending & order[i].what))
      continue;
    p->pending &= ~order[i].what;
    order[i].deliver(p);
  }
  p->notifying = 0;
  process_update(p);
  process_release(p);
}
