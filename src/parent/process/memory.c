/* Requests for memory: answered by the process, by its template, or from /proc. Runs in
 * the parent. */
#include "parent/process/internal.h"

#include "base/result.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void end_measuring(struct memory_request *m) {
  struct backend *s = m->process->context->backend;
  s->ops->watch(s, &m->watch, m->watch.fd, 0);
  m->aside = NULL;
}

static void forget_measuring(struct memory_request *m) {
  struct backend *s = m->process->context->backend;
  struct measure *aside = m->aside;
  if (!aside)
    return;
  end_measuring(m);
  s->ops->forget(s, aside);
}

void process_forget_memory(struct mf_process *p) {
  list_each_safe(it, next, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    forget_measuring(m);
    list_remove(it);
    memory_request_free(m);
  }
}

void memory_request_free(struct memory_request *m) {
  free(m->file);
  free(m->message);
  free(m);
}

void process_fail_memory(struct mf_process *p, int code) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->done) {
      forget_measuring(m);
      m->done = 1;
      m->error = code;
    }
    process_pend(p, PENDING_MEMORY);
  }
}

static void take_measure(struct memory_request *m, int error,
                         const struct proc_memory *pm) {
  m->done = 1;
  m->error = error;
  m->info.pss = pm->pss;
  m->info.uss = pm->uss;
  m->info.rss = pm->rss;
  m->info.shared = pm->shared;
  process_pend(m->process, PENDING_MEMORY);
}

static void on_measured(struct watch *w, unsigned events) {
  struct memory_request *m = list_entry(w, struct memory_request, watch);
  struct backend *s = m->process->context->backend;
  struct measure *aside = m->aside;
  struct proc_memory pm = {0};
  end_measuring(m);
  int error = s->ops->measured(s, aside, &pm);
  take_measure(m, error, &pm);
}

/* From /proc, without anybody's help. */
static void measure(struct mf_process *p, struct memory_request *m) {
  struct backend *s = p->context->backend;
  struct proc_memory pm = {0};
  int fd, r = MF_EUNSUPPORTED;
  if (m->aside)
    return;
  if (m->file) { /* only the process itself can write it */
    m->done = 1;
    m->error = MF_ESTATE;
    process_pend(p, PENDING_MEMORY);
    return;
  }
  if (p->far) {
    process_far_measure(p, m);
    return;
  }
  if (p->pid > 0 && !p->is_thread)
    r = s->ops->measure(s, p->pid, &pm, &m->aside, &fd);
  if (r != MF_AGAIN) {
    take_measure(m, r, &pm);
    return;
  }
  m->watch.on_ready = on_measured;
  r = s->ops->watch(s, &m->watch, fd, WATCH_READ);
  if (r == 0)
    return;
  s->ops->forget(s, m->aside);
  m->aside = NULL;
  take_measure(m, r == -ENOMEM ? MF_ENOMEM : r, &pm);
}

void process_measure(struct mf_process *p) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->done)
      measure(p, m);
  }
}

/* Which clone a template is asked about. */
static void put_clone(struct buf *out, const struct mf_process *p) {
  buf_put_u32(out, (uint32_t)p->pid);
  buf_put_u32(out, p->births ? p->slot : PROTO_NO_SLOT);
}

int process_ask_memory(struct mf_process *p, struct memory_request *m) {
  unsigned char room[8];
  struct buf body = {.data = room, .cap = sizeof room, .max = sizeof room};
  struct process_command c = {.type = CMD_MEMORY};
  if (m->file)
    c = (struct process_command){
        .type = CMD_SAVE, .body = m->file, .length = strlen(m->file)};
  switch (p->state) {
  case FORKING:
  case SERVING:
    return process_event(p, &(struct event){EV_COMMAND, .command = &c});
  case STARTING:
  case DETACHING:
    m->waits = 1;
    return 0;
  case DEAD:
  case FAILED:
    m->done = 1;
    m->error = p->error ? p->error->code : MF_ECLONE_DIED;
    process_pend(p, PENDING_MEMORY);
    return 0;
  default:
    break;
  }
  if (m->file || p->state != RUNNING || p->is_thread || !p->source ||
      p->source->state != SERVING) {
    measure(p, m);
    return 0;
  }
  if (process_pid(p) <= 0) {
    measure(p, m);
    return 0;
  }
  c.id = p->id; /* it can't answer any more; its template can */
  put_clone(&body, p);
  c.body = buf_peek(&body);
  c.length = buf_size(&body);
  return process_event(p->source, &(struct event){EV_COMMAND, .command = &c});
}

/* It has come to rest: what was asked meanwhile. */
void process_ask_waiting(struct mf_process *p) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->waits || m->done)
      continue;
    m->waits = 0;
    if (process_ask_memory(p, m) < 0) {
      m->done = 1;
      m->error = MF_ENOMEM;
      process_pend(p, PENDING_MEMORY);
    }
  }
}

/* p answers no requests any more, those for its clones included. */
void process_measure_clones(struct mf_process *p) {
  list_each(it, &p->forks) {
    struct mf_process *q = list_entry(it, struct mf_process, fork_link);
    if (q->state == RUNNING && !list_empty(&q->memory))
      process_measure(q);
  }
}

/* The failure that an errno of another process stands for: any number may be there. */
enum { ERRNO_MAX = 4095 }; /* of Linux; others have fewer */
static int errno_of(uint32_t number) {
  return number <= ERRNO_MAX ? -(int)number : MF_EPROTOCOL;
}

/* The first one that waits for an answer of this kind; NULL: none. */
static struct memory_request *request_asked(struct mf_process *p, int save) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->done && !m->aside && !m->waits && !m->file == !save)
      return m;
  }
  return NULL;
}

void process_take_saved(struct mf_process *p, const struct frame *f) {
  struct memory_request *m = request_asked(p, 1);
  struct reader r;
  size_t n;
  if (!m)
    return;
  reader_init(&r, f->body, f->length);
  uint32_t code = reader_u32(&r), number = reader_u32(&r);
  const char *why = reader_str(&r, &n);
  m->error = code ? failure_code(code) : 0;
  if (code && !m->error)
    m->error = MF_EPROTOCOL;
  if (code && r.ok && why) {
    m->message = strndup(why, n);
    m->os_error = number <= ERRNO_MAX ? (int)number : 0;
  }
  m->done = 1;
  process_pend(p, PENDING_MEMORY);
}

void process_take_memory(struct mf_process *p, const struct frame *f) {
  struct memory_request *m = request_asked(p, 0);
  struct reader r;
  if (!m)
    return;
  reader_init(&r, f->body, f->length);
  m->error = errno_of(reader_u32(&r));
  reader_u32(&r);
  m->info.pss = reader_u64(&r);
  m->info.uss = reader_u64(&r);
  m->info.rss = reader_u64(&r);
  m->info.shared = reader_u64(&r);
  m->info.lua = reader_u64(&r);
  m->done = 1;
  process_pend(p, PENDING_MEMORY);
}
