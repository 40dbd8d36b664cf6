/* See process_trace.h. */
#include "parent/process/process_trace.h"

#include "base/buf.h"
#include "os/signame.h"
#include "parent/private.h"
#include "parent/process/registry.h"
#include "wire/proto.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a process does. */
enum doing {
  DOING_NEW,   /* nothing of it is in the trace yet */
  DOING_BIRTH, /* it is forked, or its program starts */
  DOING_REST,
  DOING_LOAD,  /* it executes what it was told to load */
  DOING_ENTER, /* nothing is left to do before its function */
  DOING_RUN,
  DOING_GIVEN,
  DOING_END, /* it failed, or was told to end */
  DOING_DEAD
};

enum look {
  LOOK_FIRST,  /* the process was there before the trace */
  LOOK_INSIDE, /* of an event: more is about to be known */
  LOOK_AFTER
};

struct load {
  struct list link;
  uint64_t number; /* of the command */
  char text[];
};

struct process_trace {
  struct trace_row row;
  unsigned number; /* of the trace that the rest is about */
  enum doing doing;
  uint64_t since_us;   /* when it was seen first */
  uint64_t entered_us; /* its function, before its number was known; 0: not so */
  uint64_t load;       /* number of the first command in the span of DOING_LOAD */
  int named;           /* the row has the function's name */
  int works;           /* a span is open inside that of DOING_RUN */
  struct list loads;   /* not executed yet, in order */
  char *function;
};

enum { LOAD_TEXT_MAX = 120, SPAN_NAME_MAX = 160 };

static uint64_t now_us(const struct mf_process *p) {
  const struct backend *b = p->context->backend;
  return b->ops->now_us(p->context->backend);
}

/* ---- the record ---- */

static void drop_load(struct load *l) {
  list_remove(&l->link);
  free(l);
}

static void begin_anew(struct process_trace *t) {
  while (!list_empty(&t->loads))
    drop_load(list_entry(t->loads.next, struct load, link));
  t->number = trace_number;
  t->doing = DOING_NEW;
  t->since_us = t->entered_us = 0;
  t->named = t->works = 0;
  t->load = 0;
  t->row.number = 0;
}

/* NULL: no memory; then the process is missing in the trace. */
static struct process_trace *get(struct mf_process *p) {
  struct process_trace *t = p->trace;
  if (!t) {
    t = calloc(1, sizeof *t);
    if (!t)
      return NULL;
    list_init(&t->loads);
    p->trace = t;
  }
  if (t->number != trace_number)
    begin_anew(t);
  return t;
}

/* The record where its row is open, else NULL. */
static struct process_trace *get_open(struct mf_process *p) {
  struct process_trace *t = p->trace;
  return t && trace_owns(&t->row) ? t : NULL;
}

void process_trace_forget(struct mf_process *p) {
  struct process_trace *t = p->trace;
  if (!t)
    return;
  if (trace_owns(&t->row)) /* its end was not waited for */
    trace_leave(&t->row, now_us(p));
  begin_anew(t);
  free(t->function);
  free(t);
  p->trace = NULL;
}

/* ---- phases ---- */

static struct load *first_load(struct process_trace *t) {
  return list_empty(&t->loads) ? NULL : list_entry(t->loads.next, struct load, link);
}

static struct load *last_load(struct process_trace *t) {
  return list_empty(&t->loads) ? NULL : list_entry(t->loads.prev, struct load, link);
}

static enum doing doing_of(struct mf_process *p, struct process_trace *t) {
  const struct load *l = last_load(t);
  switch (p->state) {
  case DEAD:
    return DOING_DEAD;
  case RUNNING:
    return DOING_RUN;
  case DETACHED:
    return DOING_GIVEN;
  case FAILED:
    return DOING_END;
  default:
    break;
  }
  if (!p->forked || p->greeting)
    return DOING_BIRTH;
  if (l && l->number > p->ndone)
    return DOING_LOAD;
  return p->state == ENDING ? DOING_END : p->state == STARTING ? DOING_ENTER : DOING_REST;
}

static const char *kind_of(const struct mf_process *p) {
  return p->was_asked ? "clone" : "template";
}

/* "run f"; "run", where it was entered before the trace began. */
static const char *with_function(const struct process_trace *t, const char *what,
                                 const char *function, char room[SPAN_NAME_MAX]) {
  if (!function)
    function = t->function ? t->function : "";
  snprintf(room, SPAN_NAME_MAX, "%s%s%s", what, *function ? " " : "", function);
  return room;
}

static void begin_load(struct process_trace *t, const struct load *l, uint64_t at) {
  trace_begin(&t->row, at, strcmp(l->text, "seal") ? "load" : "seal", l->text, NULL);
}

static void begin_doing(struct mf_process *p, struct process_trace *t, enum doing doing,
                        uint64_t at) {
  char room[SPAN_NAME_MAX];
  const struct load *l;
  t->doing = doing;
  switch (doing) {
  case DOING_BIRTH:
    if (p->was_asked)
      trace_begin(&t->row, at, "fork", "fork",
                  TRACE_ARGS(TRACE_NUMBER("template", p->source ? p->source->pid : -1)));
    else if (p->program)
      trace_begin(&t->row, at, "start", "start",
                  TRACE_ARGS(TRACE_TEXT("program", p->program)));
    else
      trace_begin(&t->row, at, "start", p->taken_up ? "from_fd" : "start", NULL);
    break;
  case DOING_LOAD:
    l = first_load(t);
    t->load = l->number;
    begin_load(t, l, at);
    break;
  case DOING_ENTER:
  case DOING_RUN:
    trace_begin(&t->row, at, "run",
                with_function(t, doing == DOING_RUN ? "run" : "enter", NULL, room), NULL);
    if (t->function && !t->named)
      trace_name(&t->row, p->name ? NULL : t->function, t->function);
    t->named = 1;
    break;
  case DOING_GIVEN:
    trace_begin(&t->row, at, "run", "given away", NULL);
    break;
  case DOING_END:
    trace_begin(&t->row, at, "end", "end", NULL);
    break;
  default:
    break;
  }
}

/* Commands that are executed go. When all but the first of them were, nobody has told:
 * their spans are empty, at the time when the parent learned of it. */
static void drop_executed(struct mf_process *p, struct process_trace *t, uint64_t at) {
  struct load *l;
  while ((l = first_load(t)) && l->number <= p->ndone) {
    if (trace_owns(&t->row) && l->number != t->load) {
      begin_load(t, l, at);
      trace_end(&t->row, at, NULL);
    }
    drop_load(l);
  }
}

static void end_load(struct mf_process *p, struct process_trace *t, uint64_t at) {
  const struct failure *f = p->error;
  if (f)
    trace_end(&t->row, at,
              TRACE_ARGS(TRACE_TEXT("error", mf_errname(f->code)),
                         TRACE_TEXT("message", f->message ? f->message : "")));
  else
    trace_end(&t->row, at, NULL);
}

static void end_doing(struct mf_process *p, struct process_trace *t, uint64_t at) {
  if (t->works)
    trace_end(&t->row, at, TRACE_ARGS(TRACE_TEXT("error", "CLONE_DIED")));
  t->works = 0;
  if (t->doing == DOING_LOAD)
    end_load(p, t, at);
  else if (t->doing != DOING_REST && t->doing != DOING_NEW)
    trace_end(&t->row, at, NULL);
}

/* Whether it goes on with what its span says. */
static int is_same(struct mf_process *p, struct process_trace *t, enum doing doing) {
  const struct load *l = first_load(t);
  return t->doing == doing && (doing != DOING_LOAD || l->number > p->ndone);
}

/* ---- rows ---- */

static void open_row(struct mf_process *p, struct process_trace *t, int is_old) {
  const char *name = p->name ? p->name : kind_of(p);
  trace_open(&t->row, p->pid, name, p->id & 0x7fffffff);
  trace_name(&t->row, NULL, kind_of(p));
  trace_begin(&t->row, t->since_us, "process", name, NULL);
  t->doing = DOING_REST;
  if (!is_old)
    begin_doing(p, t, DOING_BIRTH, t->since_us);
  if (!t->entered_us)
    return;
  end_doing(p, t, t->entered_us);
  begin_doing(p, t, DOING_RUN, t->entered_us);
}

static const char *signal_name(int number, char room[16]) {
  const struct signame *s;
  for (size_t i = 0; (s = signame_at(i)); i++)
    if (s->number == number)
      return s->name;
  snprintf(room, 16, "%d", number);
  return room;
}

static void end_row(struct mf_process *p, struct process_trace *t, uint64_t at) {
  const mf_exit *e = &p->exit;
  char room[16];
  const char *text = e->error ? e->error : "";
  if (!e->known)
    trace_mark(&t->row, at, "death", TRACE_ARGS(TRACE_TEXT("status", "unknown")));
  else if (e->signal)
    trace_mark(&t->row, at, "death",
               TRACE_ARGS(TRACE_TEXT("signal", signal_name(e->signal, room)),
                          TRACE_NUMBER("core", e->core)));
  else if (*text)
    trace_mark(&t->row, at, "death",
               TRACE_ARGS(TRACE_NUMBER("code", e->code), TRACE_TEXT("error", text)));
  else
    trace_mark(&t->row, at, "death", TRACE_ARGS(TRACE_NUMBER("code", e->code)));
  if (e->has_rusage)
    trace_end(&t->row, at,
              TRACE_ARGS(TRACE_NUMBER("utime_us", e->utime_us),
                         TRACE_NUMBER("stime_us", e->stime_us),
                         TRACE_NUMBER("maxrss_bytes", e->maxrss_bytes)));
  trace_leave(&t->row, at);
}

/* It never came to be. */
static void tell_failure(struct mf_process *p, uint64_t at) {
  const struct failure *f = p->error;
  if (!f || f->code == MF_ECANCELLED)
    return;
  trace_mark(NULL, at, "never started",
             TRACE_ARGS(TRACE_TEXT("name", p->name ? p->name : kind_of(p)),
                        TRACE_TEXT("error", mf_errname(f->code)),
                        TRACE_TEXT("message", f->message ? f->message : "")));
}

/* Opens its row, unless it is too early. 1: it is open. */
static int has_row(struct mf_process *p, struct process_trace *t, enum doing doing,
                   enum look look, uint64_t at) {
  if (trace_owns(&t->row))
    return 1;
  if (p->pid <= 0) { /* in whose row? */
    if (doing == DOING_DEAD)
      tell_failure(p, at);
    if (doing == DOING_DEAD || doing == DOING_BIRTH)
      return 0;
    if (look == LOOK_INSIDE) { /* perhaps it is about to be known */
      t->entered_us = doing == DOING_RUN ? at : 0;
      return 0;
    }
  }
  open_row(p, t, look == LOOK_FIRST && doing != DOING_BIRTH);
  return 1;
}

static void look(struct mf_process *p, enum look look) {
  struct process_trace *t;
  enum doing doing;
  uint64_t at;
  if (p->state == BATCHED || (look == LOOK_FIRST && p->state == DEAD))
    return;
  t = get(p);
  if (!t || t->doing == DOING_DEAD)
    return;
  doing = doing_of(p, t);
  if (is_same(p, t, doing) && doing != DOING_LOAD && list_empty(&t->loads))
    return;
  at = look == LOOK_FIRST ? trace_since_us() : now_us(p);
  if (t->doing == DOING_NEW && !t->since_us)
    t->since_us = at;
  if (has_row(p, t, doing, look, at) && !is_same(p, t, doing)) {
    end_doing(p, t, at);
    drop_executed(p, t, at);
    begin_doing(p, t, doing, at);
  }
  if (doing != DOING_DEAD)
    return;
  if (p->context->stopping && !p->exit.known)
    trace_leave(&t->row, at); /* it is let go of, and may well live on */
  else if (trace_owns(&t->row))
    end_row(p, t, at);
  t->doing = DOING_DEAD;
}

/* The processes that are there already when a trace begins. */
static void introduce(struct registry *all) {
  all->traced = trace_number;
  list_each(it, &all->processes) {
    look(list_entry(it, struct mf_process, link), LOOK_FIRST);
  }
}

static void look_at(struct mf_process *p, enum look how) {
  if (registry_of(p->context)->traced != trace_number)
    introduce(registry_of(p->context));
  look(p, how);
}

void trace_look_at(struct mf_process *p) {
  look_at(p, LOOK_AFTER);
}

void trace_look_inside(struct mf_process *p) {
  if (p->state != FAILED) /* its error comes then */
    look_at(p, LOOK_INSIDE);
}

void mf_trace_loop(struct uv_loop_s *loop) {
  struct context *ctx = context_find(loop);
  if (ctx && trace_is_on() && registry_of(ctx)->traced != trace_number)
    introduce(registry_of(ctx));
}

/* ---- what it was told ---- */

/* The name in the body of an eval: u32 count, code, arguments, name. */
static void name_eval(const struct process_command *c, char *text, size_t n) {
  struct reader r;
  const char *code, *name = NULL;
  size_t ncode, length = 0;
  uint32_t count;
  reader_init(&r, c->body, c->length);
  count = reader_u32(&r);
  code = reader_str(&r, &ncode);
  while (r.ok && count-- > 0)
    reader_str(&r, &length);
  if (code && ncode > 4 && !memcmp(code, "-- =", 4)) { /* it names itself */
    const char *end = memchr(code, '\n', ncode);
    name = code + 4;
    length = (end ? (size_t)(end - code) : ncode) - 4;
  } else if (r.ok && reader_left(&r)) {
    name = reader_str(&r, &length);
  }
  if (!name || !length)
    snprintf(text, n, "eval");
  else
    snprintf(text, n, "%s%.*s", strncmp(name, "eval at", 7) ? "eval " : "",
             (int)(length < LOAD_TEXT_MAX ? length : LOAD_TEXT_MAX), name);
}

/* "set NAME": str name, value. */
static void name_set(const struct process_command *c, char *text, size_t n) {
  struct reader r;
  size_t length;
  const char *name;
  if (c->pieces)
    reader_init(&r, c->pieces->iov_base, c->pieces->iov_len);
  else
    reader_init(&r, c->body, c->length);
  name = reader_str(&r, &length);
  snprintf(text, n, "set %.*s", (int)(length < LOAD_TEXT_MAX ? length : LOAD_TEXT_MAX),
           name ? name : "");
}

void trace_take_command(struct mf_process *p, const struct process_command *c) {
  char text[LOAD_TEXT_MAX + 16];
  struct process_trace *t;
  struct load *l;
  size_t n = c->length < LOAD_TEXT_MAX ? c->length : LOAD_TEXT_MAX;
  switch (c->type) {
  case CMD_REQUIRE:
    snprintf(text, sizeof text, "require %.*s", (int)n, (const char *)c->body);
    break;
  case CMD_EVAL:
    name_eval(c, text, sizeof text);
    break;
  case CMD_SET:
    name_set(c, text, sizeof text);
    break;
  case CMD_SEAL:
    snprintf(text, sizeof text, "seal");
    break;
  default:
    return;
  }
  t = get(p);
  n = strlen(text) + 1;
  l = t ? malloc(sizeof *l + n) : NULL;
  if (!l)
    return;
  if (!list_empty(&t->loads)) {
    struct load *last = list_entry(t->loads.prev, struct load, link);
    if (last->number >= p->nsent)
      drop_load(last); /* it could not be sent */
  }
  l->number = p->nsent;
  memcpy(l->text, text, n);
  list_init(&l->link);
  list_push(&t->loads, &l->link);
}

void trace_take_function(struct mf_process *p, const char *function) {
  struct process_trace *t = get(p);
  if (t && !t->function) /* the first: an rpc's comes before that which serves it */
    t->function = strdup(function);
}

/* ---- what happens to it, and inside it ---- */

void process_trace_mark(struct mf_process *p, const char *name,
                        const struct trace_arg *args) {
  struct process_trace *t;
  trace_look_at(p);
  t = get_open(p);
  trace_mark(t ? &t->row : NULL, now_us(p), name, args);
}

void process_trace_kill(struct mf_process *p, int signum) {
  char room[16];
  if (signum && trace_is_on())
    process_trace_mark(p, "kill",
                       TRACE_ARGS(TRACE_TEXT("signal", signal_name(signum, room))));
}

/* Its row, while it is in its function. */
static struct process_trace *running(struct mf_process *p) {
  struct process_trace *t;
  trace_look_at(p);
  t = get_open(p);
  return t && t->doing == DOING_RUN ? t : NULL;
}

void process_trace_work(struct mf_process *p, const char *what, const char *name,
                        const struct trace_arg *args) {
  struct process_trace *t = running(p);
  char room[SPAN_NAME_MAX];
  if (!t || t->works)
    return;
  trace_begin(&t->row, now_us(p), "call", with_function(t, what, name, room), args);
  t->works = 1;
}

static const struct trace_arg *error_arg(int code, struct trace_arg room[2]) {
  if (!code)
    return NULL;
  room[0] = (struct trace_arg)TRACE_TEXT("error", mf_errname(code));
  room[1] = (struct trace_arg){NULL, NULL, 0};
  return room;
}

void process_trace_work_done(struct mf_process *p, int code) {
  struct process_trace *t = running(p);
  struct trace_arg room[2];
  if (!t || !t->works)
    return;
  t->works = 0;
  trace_end(&t->row, now_us(p), error_arg(code, room));
}

void process_trace_beside(struct mf_process *p, uint64_t id,
                          const struct trace_arg *args) {
  struct process_trace *t = running(p);
  char room[SPAN_NAME_MAX];
  if (t)
    trace_begin_beside(&t->row, now_us(p), id, "call",
                       with_function(t, "call", NULL, room), args);
}

void process_trace_beside_done(struct mf_process *p, uint64_t id, int code) {
  struct process_trace *t = get_open(p);
  struct trace_arg error[2];
  char room[SPAN_NAME_MAX];
  if (t)
    trace_end_beside(&t->row, now_us(p), id, "call", with_function(t, "call", NULL, room),
                     error_arg(code, error));
}
