/* The life of one process as its parent sees it. Runs in the parent.
 *
 *   HELD -> FORKING -> SERVING -> STARTING -> RUNNING -> DEAD
 *             |          |  \-> GIVING -> GIVEN ---------^
 *             |          \-> ENDING --------------------/
 *             \-> FAILED ------------------------------/
 *
 * Every event goes through one table, in which every cell is filled: `rules` at the end.
 * Only enter_state changes the state. Callbacks are never called from here but owed
 * (process_owe) and paid by the home when the event is over.
 *
 * A process is our child as a rule, whoever forked it: its number stands in its slot
 * (births.h) before it runs, its status comes from the kernel. Where it is not (children of
 * a process that was taken up, sandboxes), its first word tells who it is, and its pidfd
 * when it ends. liveness.c decides what all that means; `settle` asks it, whenever something
 * has been heard. Before a death is believed the socket is drained. */
#include "parent/process.h"

#include "base/result.h"
#include "parent/children.h"
#include "parent/greeting.h"
#include "parent/liveness.h"
#include "parent/private.h"
#include "parent/times.h"
#include "wire/slots.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  HOLD_BYTES_MAX = 64 * 1024,
  FORK_FDS_OWN = 3 /* its socket, two of a step of slots */
};

static const struct channel_events channel_events;
static void on_pidfd(struct watch *w, unsigned events);
static void on_limit(struct deadline *d);
static void on_patience(struct deadline *d);
static void on_retry(struct deadline *d);
static void forget_measuring(struct memory_request *m);
static void advance(struct mf_process *p, uint64_t n);
static void identify(struct mf_process *p, int pid, int pidfd);
static void journal_held(struct mf_process *p, const struct hold *hold);
static void learn(struct mf_process *p);
static void lose_source(struct mf_process *p);
static void set_patience(struct mf_process *p, unsigned ms);
static void settle(struct mf_process *p);
static int on_word(struct mf_process *p);
static void take_words(struct mf_process *p);
static void wait_for_end(struct mf_process *p);
static void watch_end(struct mf_process *p);

/* ---- making and freeing ---- */

struct mf_process *process_new(struct home *h, enum state state) {
  struct mf_process *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  p->home = h;
  p->state = state;
  p->made_ms = p->state_since_ms = h->seam->ops->now_ms(h->seam);
  p->pid = p->pidfd = p->peer_pidfd = -1;
  p->finish.fd = -1;
  p->pid_watch.on_ready = on_pidfd;
  p->open = 1;
  list_init(&p->todo_link);
  list_init(&p->held_link);
  list_init(&p->asked);
  list_init(&p->ask_link);
  list_init(&p->more_link);
  list_init(&p->parting_link);
  list_init(&p->doomed_link);
  list_init(&p->memory);
  deadline_init(&p->limit, on_limit);
  deadline_init(&p->patience, on_patience);
  deadline_init(&p->retry, on_retry);
  deadline_init(&p->refill, spares_on_refill);
  list_init(&p->spares);
  list_init(&p->spare_link);
  channel_init(&p->chan, &channel_events);
  p->id = h->next_id++;
  if (home_insert(h, p) < 0) {
    free(p);
    return NULL;
  }
  list_push(&h->processes, &p->link);
  h->nopen++;
  if (!list_empty(&h->parting)) /* the loop will not be empty: they are told without */
    home_turn(h);
  return p;
}

static void failure_free(struct failure *f) {
  if (!f)
    return;
  failure_deinit(f);
  free(f);
}

int hold_new(const mf_options *o, struct hold **ret) {
  struct hold *hold = malloc(sizeof *hold);
  int r;
  if (!hold)
    return MF_ENOMEM;
  buf_init(&hold->options, PROTO_PAYLOAD_MAX); /* long ones go in parts */
  buf_init(&hold->commands, FRAME_BODY_MAX);
  fdset_init(&hold->fds);
  r = options_encode(o, 0, &hold->options, &hold->fds);
  if (r) {
    hold_free(hold);
    return r;
  }
  *ret = hold;
  return 0;
}

void hold_free(struct hold *hold) {
  if (!hold)
    return;
  buf_deinit(&hold->options);
  buf_deinit(&hold->commands);
  fdset_close(&hold->fds);
  free(hold);
}

static void close_pidfd(struct mf_process *p) {
  struct seam *s = p->home->seam;
  if (p->peer_pidfd >= 0)
    s->ops->close(s, &p->peer_pidfd);
  s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
  if (p->pidfd >= 0)
    s->ops->close(s, &p->pidfd);
}

/* Leaves the list of what it relies on. */
static void drop_source(struct mf_process *p) {
  struct mf_process *source = p->source;
  if (!source)
    return;
  p->source = NULL;
  if (source->held_child == p)
    source->held_child = NULL;
  source->nrefs--;
  list_remove(&p->ask_link);
  process_release(source);
}

/* Our child is reaped at its end, by whoever. */
static void leave_child(struct mf_process *p) {
  if (p->child && p->pid > 0)
    children_orphan(p->home, p->pid);
  p->child = 0;
}

/* A slot whose process may still be born is looked after by the home. */
static void leave_slot(struct mf_process *p) {
  struct births *b = p->births;
  p->births = NULL;
  if (!b)
    return;
  if (p->pid > 0 || p->unborn || p->state == HELD) {
    births_put(b, p->slot);
    births_drop(&b);
  } else {
    children_unborn(p->home, b, p->slot);
  }
}

void process_free(struct mf_process *p) {
  struct home *h = p->home;
  if (p->busy)
    home_count_busy(h, -1);
  leave_child(p);
  leave_slot(p);
  list_each_safe(it, next, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    forget_measuring(m);
    list_remove(it);
    free(m);
  }
  drop_source(p);
  deadline_clear(&p->limit);
  deadline_clear(&p->patience);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  list_remove(&p->spare_link);
  close_pidfd(p);
  channel_close(&p->chan);
  if (p->finish.fd >= 0)
    h->seam->ops->close(h->seam, &p->finish.fd);
  hold_free(p->hold);
  journal_drop(&p->journal);
  births_drop(&p->own_births);
  failure_free(p->error);
  free(p->exit_text);
  free(p->name);
  free(p->program);
  list_remove(&p->todo_link);
  list_remove(&p->ask_link);
  list_remove(&p->more_link);
  list_remove(&p->held_link);
  list_remove(&p->parting_link);
  list_remove(&p->doomed_link);
  list_remove(&p->link);
  home_remove(h, p);
  free(p);
}

/* Dooms a record that nothing needs any more: no handle, nobody whom it has forked,
 * and nothing to come that matters. The home frees it when no event is under way. */
void process_release(struct mf_process *p) {
  if (p->open || p->internal || p->nrefs || p->owed || !list_empty(&p->parting_link))
    return;
  if (p->state != DEAD && p->state != RUNNING && p->state != GIVEN)
    return;
  if (p->child && p->state != DEAD && p->home->nopen && !p->home->stopping)
    return; /* while we are on the loop anyway, a child of ours is reaped when it ends */
  if (!list_empty(&p->doomed_link))
    return;
  list_push(&p->home->doomed, &p->doomed_link);
  home_turn(p->home);
}

void process_set_source(struct mf_process *p, struct mf_process *source) {
  assert(!p->source);
  p->source = source;
  source->nrefs++;
}

void process_forget_source(struct mf_process *p) {
  drop_source(p);
}

int process_connect(struct mf_process *p, int fd) {
  return channel_open(&p->chan, p->home->seam, fd);
}

/* ---- busy ---- */

static int is_asked_for_memory(const struct mf_process *p) {
  list_each(it, &p->memory) {
    if (!list_entry(it, struct memory_request, link)->quiet)
      return 1;
  }
  return 0;
}

static int is_busy(const struct mf_process *p) {
  int works;
  if (p->internal || p->home->stopping)
    return 0;
  if (p->owed || (p->finish.kind != FINISH_NONE && !p->finish.quiet) ||
      is_asked_for_memory(p))
    return 1;
  works = p->state == FORKING || p->state == SERVING || p->state == ENDING;
  if (works && p->ndone < p->nwork && !p->chan.deaf && !p->eof)
    return 1;
  if (p->state == HELD || (p->state == FORKING && !p->forked))
    return 1;
  if (p->close_waits || (p->hung_up && p->state == ENDING && !p->finish.quiet))
    return 1;
  return p->exit_to.cb && !p->quiet &&
         (p->state == RUNNING || p->state == ENDING || p->state == FAILED || p->eof ||
          p->gone || (p->dying && p->state != DEAD && p->state != GIVEN));
}

void process_update(struct mf_process *p) {
  unsigned busy = (unsigned)is_busy(p);
  if (busy == p->busy)
    return;
  p->busy = busy;
  home_count_busy(p->home, busy ? 1 : -1);
}

void process_owe(struct mf_process *p, unsigned what) {
  p->owed |= what;
  list_remove(&p->doomed_link); /* what is owed keeps it */
  if (list_empty(&p->todo_link))
    list_push(&p->home->todo, &p->todo_link);
  home_turn(p->home);
}

static void enter_state(struct mf_process *p, enum state state) {
  p->state = state;
  p->state_since_ms = p->home->seam->ops->now_ms(p->home->seam);
  if (state != HELD && state != FORKING && state != SERVING && state != FAILED && !p->unborn)
    journal_drop(&p->journal); /* nobody is forked from it any more */
}

/* ---- failures ---- */

static char *copy_text(const char *text) {
  return text ? strdup(text) : NULL;
}

/* A copy of a message about p, with its name before it where it has one. */
static char *copy_message(const struct mf_process *p, const char *text, size_t n) {
  const char *name = p->name ? p->name : "";
  size_t lead = strlen(name), gap = lead ? 2 : 0;
  char *message = malloc(lead + gap + n + 1);
  if (!message)
    return NULL;
  memcpy(message, name, lead);
  memcpy(message + lead, ": ", gap);
  memcpy(message + lead + gap, text, n);
  message[lead + gap + n] = 0;
  return message;
}

static char *copy_message_text(const struct mf_process *p, const char *text) {
  return copy_message(p, text, strlen(text));
}

/* Takes message (may be NULL). */
static struct failure *failure_new(int code, int started, char *message,
                                   const char *traceback) {
  struct failure *f = calloc(1, sizeof *f);
  if (!f) {
    free(message);
    return NULL;
  }
  f->code = code;
  f->started = started;
  f->message = message;
  f->traceback = copy_text(traceback);
  return f;
}

/* What is asked of p but not forked yet can't be any more. */
static void fail_asked(struct mf_process *p) {
  struct home *h = p->home;
  if (!p->nrefs)
    return;
  list_each_safe(it, next, &h->processes) {
    struct mf_process *q = list_entry(it, struct mf_process, link);
    if (q->source != p || q->forked || q->state == DEAD)
      continue;
    /* Unless p said that it executes nothing more, a fork that was written may have
     * happened: its socket will tell. */
    if (!p->refuses && q->state != HELD && !q->eof && q->chan.fd >= 0 && !q->chan.ended)
      continue;
    process_stillborn(q);
  }
}

/* Takes f (may be NULL: no memory). */
static void fail_with(struct mf_process *p, struct failure *f) {
  if (p->error) {
    failure_free(f);
    return;
  }
  p->error = f;
  if (p->finish.kind != FINISH_NONE)
    process_owe(p, OWE_FINISH);
  else if (p->error_to.cb && !p->idle_death)
    process_owe(p, OWE_ERROR);
  fail_asked(p);
}

void process_fail(struct mf_process *p, int code, int started, const char *traceback,
                  const char *format, ...) {
  char text[1024], *long_text = NULL;
  const char *message = text;
  va_list args;
  va_start(args, format);
  int n = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (n >= (int)sizeof text) { /* long paths; without memory the first part has to do */
    va_start(args, format);
    if (vasprintf(&long_text, format, args) >= 0)
      message = long_text;
    va_end(args);
  }
  fail_with(p, failure_new(code, started, copy_message_text(p, message),
                           traceback));
  if (message == long_text)
    free(long_text);
}

static void describe_end(const struct mf_process *p, char *text, size_t n) {
  if (!p->exit.known)
    snprintf(text, n, "exit status unknown");
  else if (p->exit.signal)
    snprintf(text, n, "signal %d (%s)%s", p->exit.signal, strsignal(p->exit.signal),
             p->exit.core ? ", core dumped" : "");
  else
    snprintf(text, n, "exit status %d", p->exit.code);
}

/* The error that a process gets because its source can't fork it. */
static void fail_like_source(struct mf_process *p) {
  const struct mf_process *s = p->source;
  const struct failure *f = s ? s->error : NULL;
  int code = f ? f->code : MF_ETEMPLATE_DIED;
  if (s && s->exit.known) {
    p->source_exit = s->exit;
    p->source_exit.error = NULL; /* the source's own, which may be freed first */
  }
  if (code == MF_ECLONE_DIED)
    code = MF_ETEMPLATE_DIED;
  if (!f && s && s->greeting) {
    char room[GREETING_NAME_MAX], how[128];
    describe_end(s, how, sizeof how);
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "%s ended before it said hello (%s)%s", greeting_name(s, room), how,
                 greeting_hint(s));
    return;
  }
  if (!f || !f->message) {
    process_fail(p, code, MF_STARTED_NO, NULL, "the template has ended");
    return;
  }
  struct failure *copy = failure_new(code, MF_STARTED_NO, NULL, NULL);
  if (copy) {
    mf_error e;
    failure_tell(f, &e);
    e.code = code;
    e.started = MF_STARTED_NO;
    failure_copy(copy, &e);
  }
  fail_with(p, copy);
}

/* ---- the end ---- */


/* What a function that failed has left in its slot. */
static void take_words(struct mf_process *p) {
  char text[SLOT_TEXT_MAX];
  size_t n;
  if (!p->births || !p->exit.known || p->exit.signal || p->exit.code == 0 || p->exit_text)
    return;
  n = births_words(p->births, p->slot, text);
  if (n == 0)
    return;
  p->exit_text = strndup(text, n);
  p->exit.error = p->exit_text;
}

static void set_exit(struct mf_process *p, int status) {
  p->exit.known = 1;
  if (WIFSIGNALED(status)) {
    p->exit.signal = WTERMSIG(status);
    p->exit.core = WCOREDUMP(status) != 0;
  } else {
    p->exit.code = WEXITSTATUS(status);
  }
}

/* Sent something whose fate is open, or somebody waits for an answer. */
static int has_work(const struct mf_process *p) {
  return p->finish.kind != FINISH_NONE || p->state == HELD ||
         p->ndone < p->nwork;
}

static void end_measuring(struct memory_request *m) {
  struct seam *s = m->process->home->seam;
  s->ops->watch(s, &m->watch, m->watch.fd, 0);
  m->aside = NULL;
}

static void forget_measuring(struct memory_request *m) {
  struct seam *s = m->process->home->seam;
  struct measure *aside = m->aside;
  if (!aside)
    return;
  end_measuring(m);
  s->ops->forget(s, aside);
}

void process_fail_memory(struct mf_process *p, int code) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->done) {
      forget_measuring(m);
      m->done = 1;
      m->error = code;
    }
    process_owe(p, OWE_MEMORY);
  }
}

static void take_measure(struct memory_request *m, int error, const struct proc_memory *pm) {
  m->done = 1;
  m->error = error;
  m->info.pss = pm->pss;
  m->info.uss = pm->uss;
  m->info.rss = pm->rss;
  m->info.shared = pm->shared;
  process_owe(m->process, OWE_MEMORY);
}

static void on_measured(struct watch *w, unsigned events) {
  struct memory_request *m = list_entry(w, struct memory_request, watch);
  struct seam *s = m->process->home->seam;
  struct measure *aside = m->aside;
  struct proc_memory pm = {0};
  end_measuring(m);
  int error = s->ops->measured(s, aside, &pm);
  take_measure(m, error, &pm);
}

/* From /proc, without anybody's help. */
static void measure(struct mf_process *p, struct memory_request *m) {
  struct seam *s = p->home->seam;
  struct proc_memory pm = {0};
  int fd, r = MF_EUNSUPPORTED;
  if (m->aside)
    return;
  if (p->pid > 0)
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

static void measure_all(struct mf_process *p) {
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
  struct command c = {.type = CMD_MEMORY};
  switch (p->state) {
  case FORKING:
  case SERVING:
    return process_event(p, EV_COMMAND, &c);
  case STARTING:
  case GIVING:
    m->waits = 1;
    return 0;
  case DEAD:
  case FAILED:
    m->done = 1;
    m->error = p->error ? p->error->code : MF_ECLONE_DIED;
    process_owe(p, OWE_MEMORY);
    return 0;
  default:
    break;
  }
  if (p->state != RUNNING || !p->source || p->source->state != SERVING) {
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
  return process_event(p->source, EV_COMMAND, &c);
}

/* It has come to rest: what was asked meanwhile. */
static void ask_waiting(struct mf_process *p) {
  list_each(it, &p->memory) {
    struct memory_request *m = list_entry(it, struct memory_request, link);
    if (!m->waits || m->done)
      continue;
    m->waits = 0;
    if (process_ask_memory(p, m) < 0) {
      m->done = 1;
      m->error = MF_ENOMEM;
      process_owe(p, OWE_MEMORY);
    }
  }
}

/* p answers no requests any more, those for its clones included. */
static void measure_clones(struct mf_process *p) {
  if (!p->nrefs)
    return;
  list_each(it, &p->home->processes) {
    struct mf_process *q = list_entry(it, struct mf_process, link);
    if (q->source == p && q->state == RUNNING && !list_empty(&q->memory))
      measure_all(q);
  }
}

/* Whether a function that p was told to run may have been entered, once its socket is
 * drained: no *running*, no entry, unless memory was too short to read it, or somebody who
 * still has the socket has buried it. */
static int may_have_started(const struct mf_process *p) {
  int unread = p->chan.unread || p->chan.undrained;
  return p->state == STARTING && unread ? MF_STARTED_UNKNOWN : MF_STARTED_NO;
}

/* It has ended (p->exit says how, as far as it is known). */
static void die(struct mf_process *p) {
  char how[128];
  if (p->state == DEAD)
    return;
  channel_drain(&p->chan); /* queued bytes outlive their writer */
  if (p->state == DEAD)
    return;
  describe_end(p, how, sizeof how);
  p->forked = 1;
  if (p->state != RUNNING && p->state != GIVEN && p->state != ENDING && !p->error) {
    p->idle_death = !has_work(p);
    if (p->greeting) {
      char room[GREETING_NAME_MAX];
      process_fail(p, MF_ETEMPLATE_START, may_have_started(p), NULL,
                   "%s ended before it said hello (%s)%s", greeting_name(p, room), how,
                   greeting_hint(p));
    } else
      process_fail(p, MF_ECLONE_DIED, may_have_started(p), NULL,
                   "the process ended instead of answering (%s)", how);
  }
  enter_state(p, DEAD);
  births_end(p->own_births);
  deadline_clear(&p->limit);
  deadline_clear(&p->patience);
  deadline_clear(&p->retry);
  spares_drop(p);
  spares_lose(p);
  close_pidfd(p);
  if (p->exit_to.cb || p->exit_hook.cb)
    process_owe(p, OWE_EXIT);
  process_fail_memory(p, MF_ECLONE_DIED);
  if (p->close_waits) {
    p->close_waits = 0;
    process_owe(p, OWE_CLOSE);
  }
  lose_source(p);
  channel_close(&p->chan);
  hold_free(p->hold);
  p->hold = NULL;
  list_remove(&p->held_link);
  if (p->home->def == p)
    boot_default_lost(p->home, p);
  p->internal = 0;
  drop_source(p);
  process_update(p);
  process_release(p);
}

void process_stillborn(struct mf_process *p) {
  p->refuses |= p->source && p->source->refuses;
  if (p->source && p->source->unborn) {
    p->unborn = 1;
    if (p->hold)
      journal_held(p, p->hold);
  }
  fail_like_source(p);
  die(p);
}

/* p executes nothing any more: what it has not forked by now it never will. */
static void lose_source(struct mf_process *p) {
  struct home *h = p->home;
  if (!p->nrefs)
    return;
  list_each_safe(it, next, &h->processes) {
    struct mf_process *q = list_entry(it, struct mf_process, link);
    if (q->source == p && q->state != DEAD)
      process_event(q, EV_SOURCE_LOST, NULL);
  }
}

/* ---- is it alive? ---- */

static void take_status(struct mf_process *p, const struct proc_status *st) {
  set_exit(p, st->status);
  p->exit.has_rusage = 1;
  p->exit.utime_us = st->utime_us;
  p->exit.stime_us = st->stime_us;
  p->exit.maxrss_bytes = st->maxrss_bytes;
}

/* Reaps our child: 0 and its exit is known, MF_AGAIN: it lives, or -ECHILD: the host has
 * reaped it, or will not let it be reaped; its number may be another's by now. */
static int reap_child(struct mf_process *p) {
  struct seam *s = p->home->seam;
  struct proc_status st;
  int r = s->ops->reap(s, p->pidfd, p->pid, &st);
  if (r == MF_AGAIN)
    return r;
  p->child = 0;
  children_release(p->pid);
  if (r == 0)
    take_status(p, &st);
  else
    s->ops->note_thief(s);
  return r;
}

/* What the kernel knows of it now. */
static enum life_kernel ask_kernel(struct mf_process *p) {
  struct seam *s = p->home->seam;
  int status;
  if (p->pid <= 0 && p->pidfd < 0)
    return LIFE_KERNEL_MUTE;
  if (p->child) {
    int r = reap_child(p);
    if (r == 0)
      return LIFE_KERNEL_STATUS;
    if (r == MF_AGAIN)
      return LIFE_KERNEL_LIVES;
  }
  if (p->pidfd < 0)
    return p->gone ? LIFE_KERNEL_GONE : LIFE_KERNEL_MUTE;
  if (!p->gone && s->ops->kill(s, p->pidfd, p->pid, 0) != -ESRCH)
    return LIFE_KERNEL_LIVES; /* a zombie is there, too, until its pidfd tells */
  if (s->ops->status(s, p->pidfd, p->pid, &status) < 0)
    return LIFE_KERNEL_GONE;
  set_exit(p, status); /* somebody else reaped it, or nobody has */
  return LIFE_KERNEL_STATUS;
}

static enum life_source ask_source(const struct mf_process *p) {
  const struct mf_process *source = p->source;
  if (!p->was_asked)
    return LIFE_SOURCE_NONE;
  if (p->forked)
    return LIFE_SOURCE_EXECUTED;
  /* One that hung up has not ended before it is known how: that is what p is told. */
  return source && !source->refuses && source->state != DEAD ? LIFE_SOURCE_SERVES
                                                             : LIFE_SOURCE_ENDED;
}

/* At most so long, and not longer than before. What hung up without a hello is no template, and
 * its end is awaited only for the sake of its status. */
static void be_patient(struct mf_process *p, unsigned ms) {
  if (p->greeting && p->eof && ms > HANGUP_PATIENCE_MS)
    ms = HANGUP_PATIENCE_MS;
  if (deadline_at(&p->patience) > p->home->seam->ops->now_ms(p->home->seam) + ms)
    set_patience(p, ms);
}

/* Is it alive? overdue: it has had its grace. */
static void decide(struct mf_process *p, int overdue) {
  struct life l;
  unsigned wait_ms = 0;
  if (p->state == DEAD || p->state == HELD)
    return;
  learn(p);
  l = (struct life){.kernel = ask_kernel(p),
                    .source = ask_source(p),
                    .hung_up = p->eof,
                    .spoke = p->spoke,
                    .numbered = p->births && births_pid(p->births, p->slot) > 0,
                    .unheard = p->state == RUNNING || p->state == GIVEN,
                    .nlooks = (int)p->nlooks};
  switch (life_decide(&l, &wait_ms)) {
  case LIFE_NOTHING:
    break;
  case LIFE_WAIT:
    if (overdue && l.kernel == LIFE_KERNEL_LIVES)
      break;
    p->nlooks += l.kernel == LIFE_KERNEL_GONE;
    be_patient(p, wait_ms);
    break;
  case LIFE_DEAD:
    take_words(p);
    die(p);
    break;
  case LIFE_NEVER_STARTED:
    process_stillborn(p);
    break;
  }
}

/* Something was heard of p, or of its source. */
static void settle(struct mf_process *p) {
  decide(p, 0);
}

/* A child that no pidfd watches is asked for now and then, and one that has ended but is traced:
 * its tracer has it first. */
static int is_polled(const struct mf_process *p) {
  return p->child && (p->pidfd < 0 || p->gone) && p->pid > 0 && p->state != DEAD;
}

static void poll_child(struct mf_process *p) {
  if (is_polled(p))
    settle(p);
  if (p->state != DEAD)
    watch_end(p);
}

/* Without a pidfd the number is true only while it is ours to reap. */
static int kill_known(struct mf_process *p, int signum) {
  struct seam *s = p->home->seam;
  if (p->pid <= 0 || (p->pidfd < 0 && !p->child))
    return MF_EUNSUPPORTED;
  if (p->pidfd < 0 && s->ops->peek(s, -1, p->pid) == -ECHILD)
    return -ESRCH;
  return s->ops->kill(s, p->pidfd, p->pid, signum);
}

static void set_patience(struct mf_process *p, unsigned ms) {
  deadline_set(p->home, &p->patience, ms);
}

/* Nothing can be made of it any more. */
static int cast_off(struct mf_process *p) {
  kill_known(p, SIGKILL);
  p->eof = 1;
  spares_drop(p);
  enter_state(p, FAILED);
  channel_close(&p->chan);
  lose_source(p);
  settle(p);
  return 0;
}

/* The other side did what the protocol does not allow. */
static int broken_by(struct mf_process *p, const char *what) {
  char room[GREETING_NAME_MAX];
  if (p->greeting)
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "%s does not speak moonfork's protocol (%s), and was killed",
                 greeting_name(p, room), what);
  else
    process_fail(p, MF_EPROTOCOL, p->state == STARTING ? MF_STARTED_UNKNOWN : MF_STARTED_NO,
                 NULL, "protocol error of the process: %s", what);
  return cast_off(p);
}

/* It is of another build: it has executed nothing, and says so itself in its next frame. */
static int foreign_build(struct mf_process *p, const struct greeting *g) {
  char *text = greeting_complaint(g, p);
  process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL, "%s",
               text ? text : "the template program is of another build of moonfork");
  free(text);
  return cast_off(p);
}

static int broken(struct mf_process *p, void *arg) {
  return broken_by(p, "answer not allowed in this state");
}

/* ---- the pid ---- */

/* Without memory for it now, later: else its end would never be noticed. */
static void watch_end(struct mf_process *p) {
  struct seam *s = p->home->seam;
  if (is_polled(p))
    deadline_set(p->home, &p->retry, CHILD_POLL_MS);
  else if (p->pidfd >= 0 && !p->gone && !p->pid_watch.events &&
      s->ops->watch(s, &p->pid_watch, p->pidfd, WATCH_READ) < 0)
    deadline_set(p->home, &p->retry, STALL_RETRY_MS);
}

/* The number of one that is no child of ours can be another's by now, unless its socket,
 * looked at after the pidfd was made, shows that it lives. */
static void doubt_pidfd(struct mf_process *p) {
  struct seam *s = p->home->seam;
  if (p->pidfd >= 0 && !p->child && p->chan.fd >= 0 && s->ops->hung_up(s, p->chan.fd))
    s->ops->close(s, &p->pidfd);
}

static void begin_watching(struct mf_process *p) {
  p->forked = 1;
  watch_end(p);
  if (p->signal)
    kill_known(p, p->signal);
  p->signal = 0;
}

void process_set_pid(struct mf_process *p, int pid) {
  struct seam *s = p->home->seam;
  p->forked = 1;
  if (p->pid > 0 || pid <= 0)
    return;
  p->pid = pid;
  if (p->child && children_claim(pid) < 0)
    p->child = 0;
  p->ours = p->child;
  p->pidfd = s->ops->pidfd(s, pid);
  if (p->pidfd < 0)
    p->pidfd = -1;
  doubt_pidfd(p);
  begin_watching(p);
}

/* The number in its slot, once it is there and believed. It is the claim of a template, which
 * may be hostile: it must be a child of ours, and no other record's. A host that reaps what
 * comes may have reaped this one, too, and have another under its number: there its own word
 * is waited for, which tells a pidfd. */
static void learn(struct mf_process *p) {
  struct seam *s = p->home->seam;
  int pid, pidfd = -1;
  if (p->pid > 0 || !p->births)
    return;
  pid = births_pid(p->births, p->slot);
  if (pid <= 0)
    return;
  p->forked = 1;
  if (p->source && !list_empty(&p->ask_link))
    advance(p->source, p->fork_number);
  if (p->pid > 0)
    return;
  if (s->ops->is_careless(s)) {
    pidfd = s->ops->pidfd(s, pid);
    if (pidfd < 0 || s->ops->peek(s, pidfd, pid) == -ECHILD || p->chan.fd < 0 ||
        s->ops->hung_up(s, p->chan.fd)) {
      if (pidfd >= 0)
        s->ops->close(s, &pidfd);
      return;
    }
  } else if (s->ops->peek(s, -1, pid) == -ECHILD) {
    s->ops->note_thief(s);
    return;
  }
  identify(p, pid, pidfd);
}

/* It is known who it is, by the kernel's word. Takes pidfd (-1: none). */
static void identify(struct mf_process *p, int pid, int pidfd) {
  struct seam *s = p->home->seam;
  int in_slot = p->births ? births_pid(p->births, p->slot) : 0;
  int ours = s->ops->peek(s, pidfd, pid) != -ECHILD;
  int child = ours && p->pid <= 0 && p->state != DEAD && children_claim(pid) == 0;
  /* Another record's: what was taken up may be known here from before, a clone can't be. */
  int anothers = (ours && !child && !p->taken_up) || pid == (int)getpid();
  if (p->pid > 0 || p->state == DEAD || anothers) {
    if (pidfd >= 0)
      s->ops->close(s, &pidfd);
    return;
  }
  p->pidfd = pidfd;
  p->ours = (unsigned)ours;
  p->child = (unsigned)child;
  if (in_slot == pid && p->ours) {
    births_confirm(p->births, p->slot);
    p->proven = 1;
    if (p->source)
      p->source->proven = 1;
  } else if (in_slot == 0 && p->births && p->source) {
    p->source->no_siblings = 1;
  }
  p->pid = pid;
  if (p->pidfd < 0)
    p->pidfd = s->ops->pidfd(s, pid);
  if (p->pidfd < 0)
    p->pidfd = -1;
  if (pidfd < 0)
    doubt_pidfd(p);
  begin_watching(p);
}

int process_pid(struct mf_process *p) {
  learn(p);
  return p->pid;
}

static void on_pidfd(struct watch *w, unsigned events) {
  struct mf_process *p = list_entry(w, struct mf_process, pid_watch);
  struct home *h = p->home;
  home_enter(h);
  process_event(p, EV_PIDFD, NULL);
  home_leave(h);
}

/* ---- writing ---- */

static int send_command(struct mf_process *p, const struct command *c) {
  int r;
  p->nsent++;
  if (c->release)
    r = channel_put_ref(&p->chan, c->type, c->id, c->body, c->length, c->release,
                        c->release_data);
  else
    r = channel_put(&p->chan, c->type, c->id, c->body, c->length, c->fds);
  if (r < 0)
    p->nsent--;
  else if (c->type != CMD_MEMORY && c->type != CMD_WHO && c->type != CMD_FORK)
    p->nwork = p->nsent;
  return r;
}

static int send_simple(struct mf_process *p, unsigned type, uint64_t id, const void *body,
                       size_t length) {
  struct command c = {.type = type, .id = id, .body = body, .length = length};
  return send_command(p, &c);
}

static void discard(struct command *c) {
  if (c->fds)
    fdset_close(c->fds);
  if (c->release)
    c->release(c->release_data);
}

/* The commands that were held with a fork which becomes a template after all. */
static void journal_held(struct mf_process *p, const struct hold *hold) {
  const unsigned char *at = buf_peek(&hold->commands);
  size_t left = buf_size(&hold->commands), rest;
  struct frame f;
  int nfds = 0;
  for (size_t i = 0; i < left; i += FRAME_HEADER_SIZE + f.length) {
    frame_decode(&f, at + i, CMD_SETUP, CMD_LAST); /* our own */
    nfds += f.nfds;
  }
  nfds = hold->fds.n - nfds; /* the handles of standard streams come first */
  for (size_t i = 0; i < left; i += rest) {
    struct command c = {0};
    struct fdset fds;
    frame_decode(&f, at + i, CMD_SETUP, CMD_LAST);
    rest = FRAME_HEADER_SIZE + f.length;
    fdset_init(&fds);
    while (fds.n < f.nfds)
      fds.fd[fds.n++] = hold->fds.fd[nfds++]; /* borrowed */
    c.type = f.type;
    c.id = f.id;
    c.body = at + i + FRAME_HEADER_SIZE;
    c.length = f.length;
    c.fds = f.nfds ? &fds : NULL;
    journal_command(&p->journal, &c);
  }
}

/* Before it can be in its function, which may send some at once. */
static void open_to_fds(struct mf_process *p) {
  if (!p->refuses_fds)
    channel_accept_fds(&p->chan);
}

/* ---- where a birth goes ---- */

/* Whether clones of it can be our children: it is one itself, as far as we know. */
static int may_have_siblings(const struct mf_process *source) {
  if (source->no_siblings || (source->taken_up && source->pid <= 0))
    return 0;
  return source->pid <= 0 || source->ours;
}

static int put_number(struct buf *out, unsigned tag, uint32_t a, const uint32_t *b) {
  int r = buf_put_u8(out, tag);
  if (!r)
    r = buf_put_u32(out, b ? 8 : 4);
  if (!r)
    r = buf_put_u32(out, a);
  return r || !b ? r : buf_put_u32(out, *b);
}

/* The slot of the new process, and what its template needs to know of it. -ENOSYS: none. */
static int put_slot(struct mf_process *p, struct mf_process *source, struct buf *options,
                    struct fdset *fds) {
  uint32_t first, count;
  int step[2], r;
  r = births_take(&source->own_births, p->home->seam, &p->slot);
  if (r < 0)
    return r;
  p->births = births_hold(source->own_births);
  r = births_step(p->births, p->slot, &first, &count, step);
  if (r < 0)
    return r;
  if (r > 0) {
    fdset_push(fds, step[0]);
    fdset_push(fds, step[1]);
    r = put_number(options, OPT_SLOT_STEP, first, &count);
    if (r < 0)
      return r;
  }
  return put_number(options, OPT_SLOT, p->slot, NULL);
}

/* A slot where the clone can be our child; and its own word where the slot is not enough: we
 * don't know yet whether that works there, or this host reaps what comes. near_fd: our end
 * of its socket. */
static int place_birth(struct mf_process *p, struct mf_process *source, struct hold *hold,
                       int near_fd, struct fdset *fds) {
  struct seam *s = p->home->seam;
  int r = may_have_siblings(source) ? put_slot(p, source, &hold->options, fds) : -ENOSYS;
  if (r < 0 && r != -ENOSYS)
    return r;
  if (r == 0 && source->proven && !s->ops->is_careless(s))
    return 0;
  p->takes_word = channel_ask_writer(&p->chan, s, near_fd) < 0;
  p->expects_hello = 1;
  r = buf_put_u8(&hold->options, OPT_INTRODUCE);
  if (!r)
    r = buf_put_u32(&hold->options, 1);
  return r ? r : buf_put_u8(&hold->options, 1);
}

/* Writes the fork that p has been held back with. */
void process_unhold(struct mf_process *p) {
  if (p->chan.corked) { /* a spare that was taken: what it got goes in one message */
    p->chan.corked = 0;
    list_remove(&p->held_link);
    channel_flush(&p->chan);
    return;
  }
  struct mf_process *source = p->source;
  struct hold *hold = p->hold;
  struct home *h = p->home;
  struct command fork = {.type = CMD_FORK, .id = p->id};
  struct fdset fds;
  int pair[2], r, i;
  if (!hold)
    return;
  p->hold = NULL;
  list_remove(&p->held_link);
  if (p->state == HELD)
    journal_held(p, hold);
  if (source && source->held_child == p)
    source->held_child = NULL;
  if (!source || source->error || source->state == DEAD) {
    hold_free(hold);
    process_stillborn(p);
    return;
  }
  if (source->hold)
    process_unhold(source);
  if (p->state == DEAD) { /* it went down with its source */
    hold_free(hold);
    return;
  }
  r = h->seam->ops->pair(h->seam, pair);
  if (r < 0) {
    hold_free(hold);
    p->unborn = 1;
    process_fail(p, MF_EFORK_FAILED, MF_STARTED_NO, NULL,
                 "the socket of the new process can't be made: %s", strerror(-r));
    die(p);
    return;
  }
  fdset_init(&fds);
  fdset_push(&fds, pair[1]);
  r = place_birth(p, source, hold, pair[0], &fds);
  for (i = 0; i < hold->fds.n; i++)
    fdset_push(&fds, fdset_steal(&hold->fds, i));
  if (!r && buf_size(&hold->commands)) {
    r = buf_put_u8(&hold->options, OPT_COMMANDS);
    if (!r)
      r = buf_put_str(&hold->options, buf_peek(&hold->commands),
                      buf_size(&hold->commands));
  }
  fork.body = buf_peek(&hold->options);
  fork.length = buf_size(&hold->options);
  fork.fds = &fds;
  if (p->state == HELD)
    enter_state(p, FORKING);
  if (!r) /* first, so that its socket is guarded before anybody can write to it */
    r = process_connect(p, pair[0]);
  else
    h->seam->ops->close(h->seam, &pair[0]);
  if (!r && p->finish.kind == FINISH_RUN)
    open_to_fds(p);
  if (!r)
    r = send_command(source, &fork);
  else
    fdset_close(&fds);
  if (!r) {
    p->fork_number = source->nsent;
    p->was_asked = 1;
    list_push(&source->asked, &p->ask_link);
  }
  hold_free(hold);
  if (r < 0) {
    p->unborn = 1;
    process_fail(p, r == -ENOMEM ? MF_ENOMEM : MF_EFORK_FAILED, MF_STARTED_NO, NULL,
                 "the fork command can't be sent: %s", strerror(-r));
    die(p);
    return;
  }
  process_update(source);
  process_update(p);
}

static void unhold_child(struct mf_process *p) {
  if (p->held_child)
    process_unhold(p->held_child);
}

/* Adds a command to the held fork: 1 when there was room. */
static int join_hold(struct mf_process *p, const struct command *c) {
  struct hold *hold = p->hold;
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)c->type, .id = c->id};
  int n = c->fds ? c->fds->n : 0, i;
  size_t size = buf_size(&hold->commands) + buf_size(&hold->options);
  if (c->length > HOLD_BYTES_MAX ||
      size + c->length + FRAME_HEADER_SIZE > HOLD_BYTES_MAX ||
      FORK_FDS_OWN + hold->fds.n + n > FRAME_FDS_MAX)
    return 0;
  f.length = (uint32_t)c->length;
  f.nfds = (uint8_t)n;
  frame_encode(header, &f);
  if (!buf_reserve(&hold->commands, FRAME_HEADER_SIZE + c->length))
    return 0;
  buf_put(&hold->commands, header, sizeof header);
  if (c->length)
    buf_put(&hold->commands, c->body, c->length);
  for (i = 0; i < n; i++)
    fdset_push(&hold->fds, fdset_steal(c->fds, i));
  if (c->release)
    c->release(c->release_data);
  p->nwork = ++p->nsent;
  return 1;
}

/* ---- the cells: what the user asks ---- */

static int refuse(struct mf_process *p, void *arg) {
  return MF_ESTATE;
}

static int ignore(struct mf_process *p, void *arg) {
  return 0;
}

static int refuse_command(struct mf_process *p, void *arg) {
  discard(arg);
  return MF_ESTATE;
}

static int ignore_command(struct mf_process *p, void *arg) {
  if (p->unborn)
    journal_command(&p->journal, arg);
  discard(arg);
  return 0;
}

static int hold_command(struct mf_process *p, void *arg) {
  struct command *c = arg;
  if ((c->type == CMD_ARG || c->type == CMD_FD) && join_hold(p, c))
    return 0;
  process_unhold(p);
  return process_event(p, EV_COMMAND, arg);
}

/* Sent and kept for a pool that starts p again; or neither. (The sending consumes it.) */
static int send_noted(struct mf_process *p, struct command *c) {
  struct journal *before = journal_hold(p->journal);
  int r;
  journal_command(&p->journal, c);
  r = send_command(p, c);
  if (r < 0) {
    journal_drop(&p->journal);
    p->journal = before;
    return r;
  }
  journal_drop(&before);
  return 0;
}

static int queue_command(struct mf_process *p, void *arg) {
  struct command *c = arg;
  unhold_child(p);
  if (c->type != CMD_MEMORY && c->type != CMD_WHO)
    spares_drop(p);
  if (c->type != CMD_ARG && c->type != CMD_FD)
    process_unhold(p);
  return send_noted(p, c);
}

/* arg: the new record, in HELD, behind p. */
static int hold_fork(struct mf_process *p, void *arg) {
  struct mf_process *q = arg;
  unhold_child(p);
  process_unhold(p); /* a taken spare */
  process_set_source(q, p);
  p->held_child = q;
  deadline_clear(&p->limit);
  list_push(&p->home->held, &q->held_link);
  home_turn(p->home);
  return 0;
}

static int unhold_fork(struct mf_process *p, void *arg) {
  process_unhold(p);
  return process_event(p, EV_FORK, arg);
}

static int fork_stillborn(struct mf_process *p, void *arg) {
  struct mf_process *q = arg;
  process_set_source(q, p);
  process_stillborn(q);
  return 0;
}

static void expect_finish(struct mf_process *p, enum finish_kind kind, mf_run_cb cb,
                          void *data) {
  p->finish.kind = kind;
  p->finish.quiet = 0;
  p->finish.cb = cb;
  p->finish.data = data;
}

static int start_run(struct mf_process *p, void *arg) {
  const struct run_request *run = arg;
  struct command c = {.type = CMD_RUN, .body = run->function};
  int r;
  c.length = strlen(run->function);
  unhold_child(p);
  spares_drop(p);
  open_to_fds(p);
  r = send_command(p, &c);
  if (r < 0)
    return r;
  channel_exact(&p->chan);
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  enter_state(p, STARTING);
  process_unhold(p);
  return 0;
}

static int hold_run(struct mf_process *p, void *arg) {
  const struct run_request *run = arg;
  struct command c = {.type = CMD_RUN, .body = run->function};
  c.length = strlen(run->function);
  if (!join_hold(p, &c)) {
    process_unhold(p);
    return process_event(p, EV_RUN, arg);
  }
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  channel_exact(&p->chan);
  enter_state(p, STARTING);
  process_unhold(p);
  return 0;
}

static int run_failed(struct mf_process *p, void *arg) {
  const struct run_request *run = arg;
  if (!p->error)
    process_fail(p, MF_ECLONE_DIED, MF_STARTED_NO, NULL, "the process has ended");
  expect_finish(p, FINISH_RUN, run->cb, run->data);
  process_owe(p, OWE_FINISH);
  return 0;
}

/* The socket goes to the user: what ends from now on only the kernel tells. */
static void leave_to_kernel(struct mf_process *p) {
  learn(p);
  if (p->pidfd < 0 && !p->child)
    set_patience(p, 0); /* nobody will notice its end: it is told at once, as unknown */
}

/* All is executed: the socket can go. */
static void try_give(struct mf_process *p) {
  if (p->state != GIVING || !p->forked || p->expects_hello || p->ndone < p->nsent ||
      !channel_written(&p->chan) ||
      inbox_pending(&p->chan.in))
    return;
  p->finish.fd = channel_steal(&p->chan);
  enter_state(p, GIVEN);
  lose_source(p);
  process_owe(p, OWE_FINISH);
  ask_waiting(p);
  leave_to_kernel(p);
}

static int start_giving(struct mf_process *p, void *arg) {
  const struct run_request *to = arg;
  unhold_child(p);
  process_unhold(p);
  spares_drop(p);
  deadline_clear(&p->limit);
  if (!list_empty(&p->asked)) /* of a fork with its function it would tell nothing */
    send_simple(p, CMD_MEMORY, 0, NULL, 0);
  channel_exact(&p->chan);
  expect_finish(p, FINISH_TO_FD, to->cb, to->data);
  enter_state(p, GIVING);
  try_give(p);
  return 0;
}

static int hold_giving(struct mf_process *p, void *arg) {
  process_unhold(p);
  return process_event(p, EV_TO_FD, arg);
}

static int give_failed(struct mf_process *p, void *arg) {
  const struct run_request *to = arg;
  run_failed(p, arg);
  expect_finish(p, FINISH_TO_FD, to->cb, to->data);
  return 0;
}

static int finish(struct mf_process *p, void *arg) {
  int r;
  unhold_child(p);
  process_unhold(p);
  spares_drop(p);
  r = send_simple(p, CMD_CLOSE, 0, NULL, 0);
  if (r < 0)
    return r;
  deadline_clear(&p->limit);
  enter_state(p, ENDING);
  set_patience(p, CLOSE_GRACE_MS);
  return 0;
}

/* It ends by itself, unless it is stopped, or hangs. */
static int finish_failed(struct mf_process *p, void *arg) {
  if (!p->eof)
    set_patience(p, CLOSE_GRACE_MS);
  return 0;
}

static int hold_finish(struct mf_process *p, void *arg) {
  process_unhold(p);
  return process_event(p, EV_FINISH, arg);
}

/* What ends a process that serves: its dispositions are the defaults. */
static int ends_processes(int signum) {
  return signum == SIGKILL || signum == SIGTERM || signum == SIGINT || signum == SIGQUIT ||
         signum == SIGHUP || signum == SIGABRT || signum == SIGSEGV;
}

static int send_signal(struct mf_process *p, void *arg) {
  int signum = *(const int *)arg;
  unhold_child(p);
  if (p->gone)
    return -ESRCH;
  learn(p);
  if (p->pid > 0) {
    int r = kill_known(p, signum);
    if (r != MF_EUNSUPPORTED)
      p->dying |= ends_processes(signum);
    return r;
  }
  if (p->state == RUNNING || p->state == GIVEN)
    return MF_EUNSUPPORTED; /* its number will never be known */
  p->signal = signum;
  p->dying |= ends_processes(signum);
  return 0;
}

static int hold_signal(struct mf_process *p, void *arg) {
  process_unhold(p);
  return process_event(p, EV_KILL, arg);
}

static int signal_dead(struct mf_process *p, void *arg) {
  return -ESRCH;
}

/* ---- the user closes the handle ---- */

/* Makes it certain whether the function was entered: from now on the process can't write its
 * *running* any more, without which it does not enter; what it wrote before is read. */
static void withdraw(struct mf_process *p) {
  struct seam *s = p->home->seam;
  if (p->chan.fd < 0)
    return;
  s->ops->refuse(s, p->chan.fd);
  channel_drain(&p->chan);
}

static void cancel(struct mf_process *p) {
  if (p->finish.kind != FINISH_NONE && !(p->owed & OWE_FINISH)) {
    if (!p->error)
      p->error = failure_new(MF_ECANCELLED, may_have_started(p),
                             copy_message_text(p, "closed by the caller"), NULL);
    process_owe(p, OWE_FINISH);
  }
  process_fail_memory(p, MF_ECANCELLED);
  if (p->exit_to.cb && !(p->owed & OWE_EXIT))
    process_owe(p, OWE_EXIT);
}

/* A closed process that runs nothing ends, within its grace or by a signal (end_of_grace). The
 * close callback of a direct child comes when it is reaped, so that no zombie is left behind. */
static void wait_for_end(struct mf_process *p) {
  if (p->state == DEAD)
    return;
  p->close_waits = p->child;
  if (p->eof)
    return;
  set_patience(p, CLOSE_GRACE_MS);
}

static int close_held(struct mf_process *p, void *arg) {
  cancel(p);
  p->exit.known = 0;
  if (!p->error)
    p->idle_death = 1;
  process_fail(p, MF_ECANCELLED, MF_STARTED_NO, NULL, "closed by the caller");
  die(p);
  return 0;
}

/* It ends because nobody speaks to it any more. */
static void hang_up(struct mf_process *p) {
  channel_close(&p->chan);
  p->eof = 1;
  p->hung_up = 1;
  enter_state(p, ENDING);
  lose_source(p);
  set_patience(p, CLOSE_GRACE_MS);
}

static int close_serving(struct mf_process *p, void *arg) {
  int r = finish(p, NULL);
  if (p->state == DEAD) /* it went down with what was held back */
    return process_event(p, EV_CLOSE, arg);
  cancel(p);
  if (r < 0)
    hang_up(p);
  else
    wait_for_end(p);
  return 0;
}

static int close_starting(struct mf_process *p, void *arg) {
  withdraw(p);
  if (p->state != STARTING)
    return process_event(p, EV_CLOSE, arg);
  cancel(p);
  hang_up(p);
  return 0;
}

static int close_quietly(struct mf_process *p, void *arg) {
  cancel(p);
  return 0;
}

static int close_ending(struct mf_process *p, void *arg) {
  cancel(p);
  wait_for_end(p);
  return 0;
}

/* ---- the cells: answers ---- */

/* What was asked of p up to the n-th command is executed, the forks among it, too. */
static void advance(struct mf_process *p, uint64_t n) {
  if (n <= p->ndone)
    return;
  p->ndone = n;
  while (!list_empty(&p->asked)) {
    struct mf_process *q = list_entry(p->asked.next, struct mf_process, ask_link);
    if (q->fork_number > n)
      break;
    list_remove(&q->ask_link);
    q->forked = 1;
    learn(q);
    on_word(q);
    if (q->eof)
      settle(q);
    process_update(q);
  }
  if (p->home->def == p)
    p->home->def_failures = 0;
}

/* A word of p's own is proof that its source has executed the fork and all before, though its
 * DONE may be late, or not come at all. */
static void confirm_fork(struct mf_process *p) {
  struct mf_process *source = p->source;
  p->spoke = 1;
  if (source && !list_empty(&p->ask_link))
    advance(source, p->fork_number);
}

/* It exists. */
static int on_word(struct mf_process *p) {
  p->forked = 1;
  if (p->state == FORKING)
    enter_state(p, SERVING);
  try_give(p);
  return 0;
}

static int on_hello(struct mf_process *p, void *arg) {
  struct frame *f = arg;
  struct greeting g;
  if (p->was_asked && !p->introduced) { /* who it is the kernel has told */
    p->introduced = 1;
    p->expects_hello = 0;
    if (p->takes_word)
      process_set_pid(p, (int)f->id);
    return on_word(p);
  }
  if (!p->greeting)
    return broken_by(p, "second hello");
  if (greeting_read(f, &g) < 0)
    return broken_by(p, "malformed hello");
  if (!greeting_is_ours(&g))
    return foreign_build(p, &g);
  p->greeting = 0;
  deadline_clear(&p->patience);
  if (p->peer_pid > 0) {
    identify(p, p->peer_pid, p->peer_pidfd);
    p->peer_pid = 0;
    p->peer_pidfd = -1;
  }
  if (p->taken_up) { /* commands of former owners count before ours */
    p->nsent += g.executed;
    p->nwork += g.executed;
    p->ndone += g.executed;
  }
  if (p->takes_word)
    process_set_pid(p, (int)f->id);
  p->forked = 1;
  if (p->state == FORKING)
    enter_state(p, SERVING);
  try_give(p);
  return 0;
}

/* The failure of p in a frame's body; NULL when it is malformed (or no memory). */
static struct failure *failure_decode(const struct mf_process *p, const struct frame *f) {
  struct failure_body b;
  struct failure *fail = calloc(1, sizeof *fail);
  if (!fail || failure_body_decode(&b, f->body, f->length) < 0) {
    free(fail);
    return NULL;
  }
  fail->code = failure_code(b.code);
  if (!fail->code)
    fail->code = MF_EPROTOCOL;
  fail->started = MF_STARTED_NO;
  fail->message = b.message ? copy_message(p, b.message, b.nmessage) : NULL;
  failure_take(fail, &b);
  return fail;
}

static int on_fork_failed(struct mf_process *p, void *arg) {
  struct failure *f = failure_decode(p, arg);
  if (!f)
    f = failure_new(MF_EFORK_FAILED, MF_STARTED_NO, copy_message_text(p, "the fork failed"), NULL);
  p->unborn = 1;
  fail_with(p, f);
  die(p);
  return 0;
}

static int on_done(struct mf_process *p, void *arg) {
  uint64_t n = *(const uint64_t *)arg;
  if (n > p->nsent)
    return broken_by(p, "impossible count of executed commands");
  advance(p, n);
  if (!p->greeting)
    on_word(p);
  try_give(p);
  spares_check(p);
  return 0;
}

/* No interpreter, the wrong version: the program's failure, and not an option's. */
static int is_about_start(const struct frame *f) {
  return f->length > 1 && f->body[1] == PHASE_START;
}

static void name_program(const struct mf_process *p, struct failure *f) {
  char room[GREETING_NAME_MAX], *text = NULL;
  size_t lead = p->name ? strlen(p->name) + 2 : 0; /* see copy_message */
  if (asprintf(&text, "%s could not start: %s", greeting_name(p, room),
               f->message ? f->message + lead : "no reason was given") < 0)
    return;
  free(f->message);
  f->message = copy_message(p, text, strlen(text));
  free(text);
}

static int on_failed(struct mf_process *p, void *arg) {
  struct failure *f = failure_decode(p, arg);
  if (!f)
    return broken_by(p, "malformed failure report");
  if (p->greeting && is_about_start(arg)) {
    f->code = MF_ETEMPLATE_START;
    name_program(p, f);
  }
  p->greeting = 0;
  p->forked = 1;
  p->refuses = 1;
  spares_drop(p);
  deadline_clear(&p->limit);
  enter_state(p, FAILED);
  process_fail_memory(p, f->code);
  measure_clones(p);
  fail_with(p, f);
  if (p->home->def == p)
    boot_default_lost(p->home, p);
  return 0;
}

static int on_running(struct mf_process *p, void *arg) {
  deadline_clear(&p->limit);
  if (p->takes_word)
    process_set_pid(p, *(const int *)arg);
  p->forked = 1;
  advance(p, p->nsent);
  p->finish.fd = channel_steal(&p->chan);
  enter_state(p, RUNNING);
  process_owe(p, OWE_FINISH);
  ask_waiting(p);
  leave_to_kernel(p);
  return 0;
}

/* ---- the cells: ends ---- */

/* Its socket has ended. Whether it has, the kernel or its source will tell soon. */
static int on_eof(struct mf_process *p, void *arg) {
  int why = *(const int *)arg;
  if (why == -EPROTO)
    return broken_by(p, "malformed frame");
  p->eof = 1;
  if (p->home->def == p)
    boot_default_lost(p->home, p);
  if (p->forked) /* else there is nobody yet who could have forked */
    lose_source(p);
  if (!p->was_asked && p->pid <= 0) {
    process_fail(p, p->greeting ? MF_ETEMPLATE_START : MF_ECLONE_DIED, MF_STARTED_NO, NULL,
                 "the process closed its socket before its pid was known");
    die(p);
    return 0;
  }
  settle(p);
  return 0;
}

static int on_gone(struct mf_process *p, void *arg) {
  struct seam *s = p->home->seam;
  p->gone = 1;
  s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
  settle(p);
  if (p->state != DEAD && p->child) /* it was traced, or is about to be reapable */
    deadline_set(p->home, &p->retry, CHILD_POLL_MS);
  return 0;
}

/* Nothing of what was asked of its source will be executed any more. Its own socket tells
 * whether it has been forked before: it ends where nobody has the other end. */
static int source_lost(struct mf_process *p, void *arg) {
  const struct mf_process *source = p->source;
  if (p->state == RUNNING)
    measure_all(p); /* its template was to answer */
  if (p->state == HELD ||
      (source && source->refuses && !p->forked && p->fork_number > source->ndone))
    process_stillborn(p);
  else
    settle(p);
  return 0;
}

static int time_out(struct mf_process *p, void *arg) {
  int signum = SIGKILL;
  if (p->state == STARTING)
    withdraw(p);
  if (p->state == RUNNING || p->state == FAILED || p->state == DEAD)
    return 0; /* it came just in time, or has its own error */
  process_fail(p, MF_ETIMEOUT, may_have_started(p), NULL,
               "the function was not entered within %u ms of the process's creation (option "
               "timeout)",
               p->limit_ms);
  if (p->state == HELD) {
    die(p);
    return 0;
  }
  send_signal(p, &signum);
  if (p->pid <= 0) { /* not forked yet: it will find its socket hung up */
    channel_close(&p->chan);
    p->eof = 1;
    lose_source(p);
  }
  enter_state(p, ENDING);
  set_patience(p, CLOSE_GRACE_MS); /* for the news of its end: its template may hang */
  settle(p);
  return 0;
}

/* ---- deadlines ---- */

static void on_limit(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, limit);
  process_event(p, EV_TIMEOUT, NULL);
}

int process_owes_a_fork(const struct mf_process *p) {
  if (!p->nrefs)
    return 0;
  list_each(it, &p->home->processes) {
    const struct mf_process *q = list_entry(it, struct mf_process, link);
    if (q->source == p && !q->forked && q->open && q->state != DEAD && q->state != ENDING)
      return 1;
  }
  return 0;
}

/* It has not ended by itself: it is killed. What does not end by that either (one that does not
 * exist yet, that changed its user, or that waits in the kernel) is not waited for. */
static void cut_down(struct mf_process *p) {
  if (p->slain || kill_known(p, SIGKILL) < 0 ||
      (p->pidfd < 0 && !p->child)) { /* nobody would tell */
    die(p);
    return;
  }
  p->slain = 1;
  set_patience(p, REPORT_PATIENCE_MS);
}

/* It was told to end some time ago, and has not hung up. */
static void end_of_grace(struct mf_process *p) {
  if (p->ndone < p->nsent && process_owes_a_fork(p))
    set_patience(p, CLOSE_GRACE_MS);
  else
    cut_down(p);
}

void process_await_hello(struct mf_process *p) {
  p->hello_by_ms = p->home->seam->ops->now_ms(p->home->seam) + HELLO_PATIENCE_MS;
  set_patience(p, HELLO_PATIENCE_MS);
}

/* Of one that was told to end, too, while somebody waits for a fork of it. */
static int is_overdue_hello(const struct mf_process *p) {
  struct seam *s = p->home->seam;
  return p->greeting && !p->eof && !p->close_waits && s->ops->now_ms(s) >= p->hello_by_ms;
}

/* A hello, a status, or the end of one that was told to end is overdue. It may be the host that
 * was busy: what has come meanwhile counts. */
static void on_patience(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, patience);
  channel_drain(&p->chan);
  decide(p, 1);
  if (p->state == DEAD || deadline_at(&p->patience) != UINT64_MAX)
    return;
  if (is_overdue_hello(p)) {
    char room[GREETING_NAME_MAX];
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "%s sent nothing for %d seconds, and was killed%s", greeting_name(p, room),
                 HELLO_PATIENCE_MS / 1000, greeting_hint(p));
    cast_off(p);
  } else if (p->state == ENDING && !p->eof) {
    end_of_grace(p);
  } else if (p->state != RUNNING && p->state != GIVEN) {
    cut_down(p); /* it hung up, or was closed, and lives: it runs nothing and must end */
  }
  process_update(p);
  process_release(p);
}

static void on_retry(struct deadline *d) {
  struct mf_process *p = list_entry(d, struct mf_process, retry);
  channel_ready(&p->chan, WATCH_READ);
  channel_flush(&p->chan); /* which watches again */
  try_give(p);
  poll_child(p);
}

void process_expect_stalls(struct mf_process *p) {
  p->retry.on_due = on_retry;
}

void process_abandon(struct mf_process *p) {
  p->open = 0;
  p->home->nopen--;
  enter_state(p, DEAD);
  process_update(p);
  process_release(p);
}

void process_end_unborn(struct mf_process *p) {
  die(p);
  process_update(p);
}

void process_set_limit(struct mf_process *p, unsigned limit_ms) {
  p->limit_ms = limit_ms;
  if (limit_ms)
    deadline_set(p->home, &p->limit, limit_ms);
}

/* ---- frames ---- */

static struct mf_process *from_channel(struct channel *c) {
  return list_entry(c, struct mf_process, chan);
}

/* The process with that number, if p is the one that was asked to fork it; what it says of
 * others is not believed. */
static struct mf_process *reported(struct mf_process *p, uint64_t id) {
  struct mf_process *q = home_lookup(p->home, id);
  if (!q || !q->source)
    return NULL;
  return q->source == p ? q : NULL;
}

/* The failure that an errno of another process stands for: any number may be there. */
static int errno_of(uint32_t number) {
  enum { ERRNO_MAX = 4095 }; /* of Linux; others have fewer */
  return number <= ERRNO_MAX ? -(int)number : MF_EPROTOCOL;
}

static void frame_memory(struct mf_process *p, const struct frame *f) {
  struct mf_process *q = f->id ? reported(p, f->id) : p;
  struct memory_request *m = NULL;
  struct reader r;
  if (!q)
    return;
  list_each(it, &q->memory) {
    m = list_entry(it, struct memory_request, link);
    if (!m->done && !m->aside && !m->waits)
      break;
    m = NULL;
  }
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
  process_owe(q, OWE_MEMORY);
}

static void on_frame(struct channel *c, const struct frame *f) {
  struct mf_process *p = from_channel(c), *q;
  struct frame copy = *f;
  int pid = (int)f->id;
  uint64_t n = f->id;
  if (!p->spoke)
    confirm_fork(p);
  switch (f->type) {
  case ANS_HELLO:
    process_event(p, EV_HELLO, &copy);
    break;
  case ANS_DONE:
    process_event(p, EV_DONE, &n);
    break;
  case ANS_FORK_FAILED:
    q = reported(p, f->id);
    if (q)
      process_event(q, EV_FORK_FAILED, &copy);
    break;
  case ANS_FAILED:
    process_event(p, EV_FAILED, &copy);
    break;
  case ANS_RUNNING:
    process_event(p, EV_RUNNING, &pid);
    break;
  case ANS_MEMORY:
    frame_memory(p, f);
    break;
  default:
    broken_by(p, "unknown answer");
  }
}

static void on_end(struct channel *c, int why) {
  process_event(from_channel(c), EV_EOF, &why);
}

static void on_ready(struct channel *c, unsigned events) {
  struct mf_process *p = from_channel(c);
  struct home *h = p->home;
  home_enter(h);
  channel_ready(c, events);
  try_give(p);
  home_leave(h);
}

static void on_stalled(struct channel *c) {
  struct mf_process *p = from_channel(c);
  deadline_set(p->home, &p->retry, STALL_RETRY_MS);
}

static void on_more(struct channel *c) {
  struct mf_process *p = from_channel(c);
  if (list_empty(&p->more_link))
    list_push(&p->home->more, &p->more_link);
  home_turn(p->home);
}

void process_read_more(struct mf_process *p) {
  list_remove(&p->more_link);
  channel_ready(&p->chan, WATCH_READ);
  try_give(p);
}

static void on_writer(struct channel *c, int pid, int pidfd) {
  struct mf_process *p = from_channel(c);
  if (p->taken_up && p->greeting) { /* whoever it is has to show that it is a process of ours */
    p->peer_pid = pid;
    p->peer_pidfd = pidfd;
  } else {
    identify(p, pid, pidfd);
  }
}

static const struct channel_events channel_events = {on_frame,   on_end,  on_ready,
                                                     on_stalled, on_more, on_writer};

/* ---- the table ---- */

const char *const state_names[STATE_COUNT] = {"HELD",   "FORKING", "SERVING", "STARTING",
                                              "GIVING", "RUNNING", "GIVEN",   "FAILED",
                                              "ENDING", "DEAD"};
const char *const event_names[EVENT_COUNT] = {
    "command", "fork",   "run",     "to_fd", "finish", "kill",        "close",  "hello",
    "fork_failed", "done", "failed", "running", "eof",   "pidfd", "source_lost", "timeout"};

typedef int (*cell)(struct mf_process *p, void *arg);

/* `broken` in a column of answers: the process can't have sent that in this state. */
static const cell rules[STATE_COUNT][EVENT_COUNT] = {
    [HELD] =
        {
            [EV_COMMAND] = hold_command,
            [EV_FORK] = unhold_fork,
            [EV_RUN] = hold_run,
            [EV_TO_FD] = hold_giving,
            [EV_FINISH] = hold_finish,
            [EV_KILL] = hold_signal,
            [EV_CLOSE] = close_held,
            [EV_HELLO] = ignore,
            [EV_FORK_FAILED] = ignore,
            [EV_DONE] = ignore,
            [EV_FAILED] = ignore,
            [EV_RUNNING] = ignore,
            [EV_EOF] = ignore,
            [EV_PIDFD] = ignore,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = time_out,
        },
    [FORKING] =
        {
            [EV_COMMAND] = queue_command,
            [EV_FORK] = hold_fork,
            [EV_RUN] = start_run,
            [EV_TO_FD] = start_giving,
            [EV_FINISH] = finish,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_serving,
            [EV_HELLO] = on_hello,
            [EV_FORK_FAILED] = on_fork_failed,
            [EV_DONE] = on_done,
            [EV_FAILED] = on_failed,
            [EV_RUNNING] = broken,
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = time_out,
        },
    [SERVING] =
        {
            [EV_COMMAND] = queue_command,
            [EV_FORK] = hold_fork,
            [EV_RUN] = start_run,
            [EV_TO_FD] = start_giving,
            [EV_FINISH] = finish,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_serving,
            [EV_HELLO] = on_hello,
            [EV_FORK_FAILED] = broken,
            [EV_DONE] = on_done,
            [EV_FAILED] = on_failed,
            [EV_RUNNING] = broken,
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = time_out,
        },
    [STARTING] =
        {
            [EV_COMMAND] = refuse_command,
            [EV_FORK] = refuse,
            [EV_RUN] = refuse,
            [EV_TO_FD] = refuse,
            [EV_FINISH] = refuse,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_starting,
            [EV_HELLO] = on_hello,
            [EV_FORK_FAILED] = on_fork_failed,
            [EV_DONE] = on_done,
            [EV_FAILED] = on_failed,
            [EV_RUNNING] = on_running,
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = time_out,
        },
    [GIVING] =
        {
            [EV_COMMAND] = refuse_command,
            [EV_FORK] = refuse,
            [EV_RUN] = refuse,
            [EV_TO_FD] = refuse,
            [EV_FINISH] = refuse,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_serving,
            [EV_HELLO] = on_hello,
            [EV_FORK_FAILED] = on_fork_failed,
            [EV_DONE] = on_done,
            [EV_FAILED] = on_failed,
            [EV_RUNNING] = broken,
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = ignore, /* to_fd has disarmed it */
        },
    [RUNNING] =
        {
            [EV_COMMAND] = refuse_command,
            [EV_FORK] = refuse,
            [EV_RUN] = refuse,
            [EV_TO_FD] = refuse,
            [EV_FINISH] = refuse,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_quietly,
            [EV_HELLO] = ignore, /* answers can't come: the socket is the user's */
            [EV_FORK_FAILED] = ignore,
            [EV_DONE] = ignore,
            [EV_FAILED] = ignore,
            [EV_RUNNING] = ignore,
            [EV_EOF] = ignore,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = ignore,
        },
    [GIVEN] =
        {
            [EV_COMMAND] = refuse_command,
            [EV_FORK] = refuse,
            [EV_RUN] = refuse,
            [EV_TO_FD] = refuse,
            [EV_FINISH] = refuse,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_quietly,
            [EV_HELLO] = ignore,
            [EV_FORK_FAILED] = ignore,
            [EV_DONE] = ignore,
            [EV_FAILED] = ignore,
            [EV_RUNNING] = ignore,
            [EV_EOF] = ignore,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = ignore,
        },
    [FAILED] =
        {
            [EV_COMMAND] = ignore_command, /* the failure is remembered */
            [EV_FORK] = fork_stillborn,
            [EV_RUN] = run_failed,
            [EV_TO_FD] = give_failed,
            [EV_FINISH] = finish_failed,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_ending,
            [EV_HELLO] = broken,
            [EV_FORK_FAILED] = ignore,
            [EV_DONE] = on_done, /* of what came before */
            [EV_FAILED] = ignore,
            [EV_RUNNING] = broken,
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = ignore,
        },
    [ENDING] =
        {
            [EV_COMMAND] = ignore_command, /* its time ran out; what mf_finish has ended is */
            [EV_FORK] = fork_stillborn,    /* refused by api.c */
            [EV_RUN] = run_failed,
            [EV_TO_FD] = give_failed,
            [EV_FINISH] = ignore,
            [EV_KILL] = send_signal,
            [EV_CLOSE] = close_ending,
            [EV_HELLO] = on_hello,
            [EV_FORK_FAILED] = on_fork_failed,
            [EV_DONE] = on_done,
            [EV_FAILED] = on_failed,
            [EV_RUNNING] = ignore, /* it entered the function as it was cancelled */
            [EV_EOF] = on_eof,
            [EV_PIDFD] = on_gone,
            [EV_SOURCE_LOST] = source_lost,
            [EV_TIMEOUT] = ignore,
        },
    [DEAD] =
        {
            [EV_COMMAND] = ignore_command,
            [EV_FORK] = fork_stillborn,
            [EV_RUN] = run_failed,
            [EV_TO_FD] = give_failed,
            [EV_FINISH] = ignore,
            [EV_KILL] = signal_dead,
            [EV_CLOSE] = close_quietly,
            [EV_HELLO] = ignore,
            [EV_FORK_FAILED] = ignore,
            [EV_DONE] = ignore,
            [EV_FAILED] = ignore,
            [EV_RUNNING] = ignore,
            [EV_EOF] = ignore,
            [EV_PIDFD] = ignore,
            [EV_SOURCE_LOST] = ignore,
            [EV_TIMEOUT] = ignore,
        },
};

int process_rule_kind(enum state s, enum event e) {
  cell c = rules[s][e];
  if (c == refuse || c == refuse_command)
    return 0;
  if (c == ignore || c == ignore_command)
    return 2;
  return c == broken ? 3 : 1;
}

int process_event(struct mf_process *p, enum event ev, void *arg) {
  cell act = rules[p->state][ev];
  int r = act(p, arg);
  process_update(p);
  process_release(p);
  return r;
}

/* ---- paying ---- */

static void fill_error(const struct mf_process *p, mf_error *e) {
  const struct failure *f = p->error;
  static const struct failure no_memory = {.code = MF_ENOMEM,
                                           .started = MF_STARTED_UNKNOWN};
  failure_tell(f ? f : &no_memory, e);
  e->exit = p->state == DEAD && p->exit.known ? &p->exit
            : p->source_exit.known            ? &p->source_exit
                                              : NULL;
}

static void pay_finish(struct mf_process *p) {
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

static void pay_memory(struct mf_process *p) {
  while (!list_empty(&p->memory)) {
    struct memory_request *m = list_entry(p->memory.next, struct memory_request, link);
    mf_error e = {0};
    if (!m->done)
      return;
    list_remove(&m->link);
    if (m->error) {
      e.code = m->error;
      e.message = mf_strerror(m->error);
      e.started = MF_STARTED_NO;
      e.exit = p->state == DEAD && p->exit.known ? &p->exit : NULL;
      m->cb(p, &e, NULL, m->data);
    } else {
      m->cb(p, NULL, &m->info, m->data);
    }
    free(m);
  }
}

static void pay_error(struct mf_process *p) {
  mf_error_cb cb = p->error_to.cb;
  mf_error e;
  p->error_to.cb = NULL;
  if (!cb || p->error_told)
    return;
  p->error_told = 1;
  fill_error(p, &e);
  cb(p, &e, p->error_to.data);
}

static void pay_exit(struct mf_process *p) {
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

void process_hook_exit(struct mf_process *p, mf_exit_cb cb, void *data) {
  p->exit_hook.cb = cb;
  p->exit_hook.data = data;
  if (cb && p->state == DEAD)
    process_owe(p, OWE_EXIT);
}

static void pay_close(struct mf_process *p) {
  mf_close_cb cb = p->close_to.cb;
  if (!cb || !list_empty(&p->parting_link))
    return;
  if (p->home->nopen == 0) { /* its callback says that the loop is empty: wait for that */
    list_push(&p->home->parting, &p->parting_link);
    return;
  }
  p->close_to.cb = NULL;
  cb(p, p->close_to.data);
}

void process_pay(struct mf_process *p) {
  static const struct {
    unsigned what;
    void (*pay)(struct mf_process *);
  } order[] = {{OWE_FINISH, pay_finish}, {OWE_MEMORY, pay_memory}, {OWE_ERROR, pay_error},
               {OWE_EXIT, pay_exit},     {OWE_CLOSE, pay_close}};
  for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
    if (!(p->owed & order[i].what))
      continue;
    p->owed &= ~order[i].what;
    order[i].pay(p);
  }
  process_update(p);
  process_release(p);
}

/* ---- parking ---- */

void process_unpark(struct mf_process *p) {
  if (channel_unpark(&p->chan) < 0)
    deadline_set(p->home, &p->retry, STALL_RETRY_MS); /* flushing watches again */
  watch_end(p);
  if (p->greeting)
    process_await_hello(p);
}

void process_park(struct mf_process *p) {
  struct home *h = p->home;
  struct seam *s = h->seam;
  deadline_clear(&p->limit);
  deadline_clear(&p->patience);
  deadline_clear(&p->retry);
  deadline_clear(&p->refill);
  if (h->def == p && !p->error && !p->unstarted) { /* one that waits to be started can go */
    channel_park(&p->chan);
    s->ops->watch(s, &p->pid_watch, p->pidfd, 0);
    return;
  }
  if (h->def == p)
    h->def = NULL;
  if (p->hung_up && p->state == ENDING && !p->gone)
    kill_known(p, SIGKILL); /* nobody will look after it any more */
  enter_state(p, DEAD);
  if (list_empty(&p->parting_link)) {
    process_free(p);
    return;
  }
  /* Only the close callback is left. */
  leave_child(p);
  leave_slot(p);
  list_remove(&p->link);
  drop_source(p);
  close_pidfd(p);
  channel_close(&p->chan);
}
