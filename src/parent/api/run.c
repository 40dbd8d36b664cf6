/* Functions of moonfork.h that run a process, ask it, and end it. Runs in the parent. */
#include "parent/api/api.h"
#include "parent/private.h"
#include "parent/process/process.h"
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* The loop may not have turned since the time ran out. */
static void look_at_the_clock(mf_process *p) {
  struct context *ctx = p->context;
  if (context_now_ms(ctx) < deadline_at(&p->limit))
    return;
  deadline_clear(&p->limit);
  process_event(p, &(struct event){EV_TIMEOUT});
}

static int finish_with(mf_process *p, enum event_kind kind, struct run_request *run) {
  int r = process_check_unfinished(p);
  if (!r && kind == EV_RUN)
    look_at_the_clock(p);
  if (!r)
    r = api_result(process_event(p, &(struct event){kind, .run = run}));
  if (!r)
    p->used = 1;
  return r;
}

int mf_run(mf_process *p, const char *function, mf_run_cb cb, void *data) {
  struct run_request run = {function ? function : "", cb, data}; /* NULL: goes on */
  if (function && !*function)
    return MF_EINVAL;
  if (!function && !process_check(p) && !p->has_image)
    return MF_EINVAL;
  return finish_with(p, EV_RUN, &run);
}

int mf_to_fd(mf_process *p, mf_run_cb cb, void *data) {
  struct run_request to = {NULL, cb, data};
  if (!process_check(p) && (p->far || p->is_thread))
    return MF_EUNSUPPORTED; /* nobody else could be told of its end */
  return finish_with(p, EV_TO_FD, &to);
}

int mf_finish(mf_process *p) {
  int r = process_check(p);
  if (!r && p->used)
    r = MF_ESTATE;
  if (!r)
    r = api_result(process_event(p, &(struct event){EV_FINISH}));
  if (!r)
    p->finished = 1;
  return r;
}

/* ---- ask ---- */

int mf_on_error(mf_process *p, mf_error_cb cb, void *data) {
  int r = process_check(p);
  if (r)
    return r;
  p->error_to.cb = cb;
  p->error_to.data = data;
  if (cb && p->error && !p->idle_death && !p->error_told && p->finish.kind == FINISH_NONE)
    process_pend(p, PENDING_ERROR);
  process_update(p);
  return 0;
}

int mf_on_exit(mf_process *p, mf_exit_cb cb, void *data) {
  int r = process_check(p);
  if (r)
    return r;
  p->exit_to.cb = cb;
  p->exit_to.data = data;
  if (cb && p->state == DEAD)
    process_pend(p, PENDING_EXIT);
  process_update(p);
  return 0;
}

void mf_exit_quiet(mf_process *p, int quiet) {
  if (process_check(p))
    return;
  p->quiet = quiet != 0;
  process_update(p);
}

void mf_run_quiet(mf_process *p) {
  if (process_check(p))
    return;
  p->finish.quiet = 1;
  process_update(p);
}

int mf_kill(mf_process *p, int signum) {
  int r = process_check(p);
  if (r)
    return r;
  if (signum < 0 || signum >= NSIG)
    return MF_EINVAL;
  if (p->is_thread)
    return MF_EUNSUPPORTED;
  return process_event(p, &(struct event){EV_KILL, .signum = signum});
}

int mf_pid(const mf_process *p) {
  if (process_check(p) < 0)
    return p && p->pid > 0 ? p->pid : -1;
  return process_pid((mf_process *)(uintptr_t)p);
}

/* Takes the request; NULL: no memory. */
static int ask(mf_process *p, struct memory_request *m) {
  if (!m)
    return MF_ENOMEM;
  m->process = p;
  list_push(&p->memory, &m->link);
  if (p->state == BATCHED)
    process_flush(p);
  int r = process_ask_memory(p, m);
  if (r < 0) {
    list_remove(&m->link);
    memory_request_free(m);
  }
  process_update(p);
  return api_result(r);
}

int mf_memory(mf_process *p, mf_memory_cb cb, void *data) {
  int r = cb ? process_check(p) : MF_EINVAL;
  if (r)
    return r;
  struct memory_request *m = calloc(1, sizeof *m);
  if (m) {
    m->cb = cb;
    m->data = data;
  }
  return ask(p, m);
}

int mf_save(mf_process *p, const char *file, mf_error_cb cb, void *data) {
  int r = cb && file && *file ? process_check_unfinished(p) : MF_EINVAL;
  if (r)
    return r;
  if (strlen(file) >= PATH_MAX)
    return MF_EINVAL;
  struct memory_request *m = calloc(1, sizeof *m);
  if (m) {
    m->saved = cb;
    m->data = data;
    m->file = strdup(file);
    if (!m->file) {
      free(m);
      m = NULL;
    }
  }
  return ask(p, m);
}

void mf_memory_quiet(mf_process *p, const void *data) {
  if (process_check(p))
    return;
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    m->quiet |= m->data == data;
  }
  process_update(p);
}

void mf_memory_cancel(mf_process *p) {
  if (process_check(p))
    return;
  process_fail_memory(p, MF_ECANCELLED);
  process_update(p);
}

/* ---- end ---- */

void mf_close(mf_process *p, mf_close_cb cb, void *data) {
  if (process_check(p) < 0)
    return;
  mf_attend(p, 0);
  p->open = 0;
  p->context->nopen--;
  p->close_to.cb = cb;
  p->close_to.data = data;
  p->error_to.cb = NULL;
  process_event(p, &(struct event){EV_CLOSE});
  if (!ending_is_awaited(p))
    process_pend(p, PENDING_CLOSE);
  process_update(p);
}
