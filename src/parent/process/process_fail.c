/* The error of a process, and of what could not be forked from it. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/greeting.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text) {
  return text ? strdup(text) : NULL;
}

/* A copy of a message about p, with its name before it where it has one. */
char *failure_message(const struct mf_process *p, const char *text, size_t n) {
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

char *failure_text(const struct mf_process *p, const char *text) {
  return failure_message(p, text, strlen(text));
}

/* Takes message (may be NULL). */
struct failure *failure_new_at(const char *origin, int code, int started, char *message,
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
  failure_set_origin(f, origin);
  return f;
}

/* Takes f (may be NULL: no memory). */
void process_fail_with(struct mf_process *p, struct failure *f) {
  if (p->error) {
    failure_free(f);
    return;
  }
  p->error = f;
  if (p->finish.kind != FINISH_NONE)
    process_pend(p, PENDING_FINISH);
  else if (p->error_to.cb && !p->idle_death)
    process_pend(p, PENDING_ERROR);
  process_post_to_forks(p, EV_SOURCE_FAILED);
}

void process_fail_at(const char *origin, struct mf_process *p, int code, int started,
                     const char *traceback, const char *format, ...) {
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
  process_fail_with(
      p, failure_new_at(origin, code, started, failure_text(p, message), traceback));
  if (message == long_text)
    free(long_text);
}

void process_describe_end(const struct mf_process *p, char *text, size_t n) {
  if (!p->exit.known)
    snprintf(text, n, "%s", p->exit.error ? p->exit.error : "exit status unknown");
  else if (p->exit.signal)
    snprintf(text, n, "signal %d (%s)%s", p->exit.signal, strsignal(p->exit.signal),
             p->exit.core ? ", core dumped" : "");
  else
    snprintf(text, n, "exit status %d", p->exit.code);
}

/* The error that a process gets because its source can't fork it, or perhaps has: of one
 * over there nobody tells any more when the link is lost. */
void process_fail_like_source(struct mf_process *p) {
  const struct mf_process *s = p->source;
  const struct failure *f = s ? s->error : NULL;
  int code = f ? f->code : MF_ETEMPLATE_DIED, started = process_may_have_started(p);
  if (s && s->exit.known) {
    p->source_exit = s->exit;
    p->source_exit.error = NULL; /* the source's own, which may be freed first */
  }
  if (code == MF_ECLONE_DIED)
    code = MF_ETEMPLATE_DIED;
  if (!f && s && s->greeting) {
    char room[GREETING_NAME_MAX], how[128];
    process_describe_end(s, how, sizeof how);
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "%s ended before it said hello (%s)%s", greeting_name(s, room), how,
                 greeting_hint(s));
    return;
  }
  if (!f || !f->message) {
    const char *why = s && !s->exit.known ? s->exit.error : NULL; /* a lost link */
    process_fail(p, code, started, NULL, "the template has ended%s%s", why ? ": " : "",
                 why ? why : "");
    return;
  }
  struct failure *copy = failure_new(code, started, NULL, NULL);
  if (copy) {
    mf_error e;
    failure_tell(f, &e);
    e.code = code;
    e.started = started;
    failure_copy(copy, &e);
    copy->origin = f->origin;
  }
  process_fail_with(p, copy);
}

/* The failure of p in a frame's body; NULL when it is malformed (or no memory). */
struct failure *failure_decode(const struct mf_process *p, const struct frame *f) {
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
  fail->message = b.message ? failure_message(p, b.message, b.nmessage) : NULL;
  failure_take(fail, &b);
  return fail;
}
