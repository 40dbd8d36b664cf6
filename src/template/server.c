/* What every part of a serving process shares: the one record, failing, the bracket around
 * user code, the title, leaving. Runs in templates and clones. */
#include "template/server.h"

#include "os/proc.h"
#include "template/signals.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct server *self;

struct server *server_self(void) {
  return self;
}

void server_set_self(struct server *s) {
  self = s;
}

void server_fail(struct server *s) {
  struct buf body;
  buf_init(&body, FRAME_BODY_MAX);
  connection_tell_done(&s->conn);
  if (failure_encode(&s->failure, &body) == 0)
    connection_answer(&s->conn, ANS_FAILED, s->conn.executed + 1, buf_peek(&body),
                      buf_size(&body));
  buf_deinit(&body);
  args_clear(&s->args);
  s->exit_code = 1;
  s->phase = SERVE_FAILED;
}

void server_fail_with(struct server *s, int code, int phase, int error, const char *format,
                      ...) {
  struct failure *f = &s->failure;
  va_list ap;
  failure_clear(f);
  f->code = code;
  f->phase = phase;
  f->error = error;
  va_start(ap, format);
  int n = vsnprintf(f->message, sizeof f->message, format, ap);
  va_end(ap);
  f->nmessage = n < 0 ? 0 : (size_t)n < sizeof f->message ? (size_t)n : sizeof f->message - 1;
  server_fail(s);
}

void server_enter_user(struct server *s) {
  if (buf_size(&s->conn.out) > 0) {
    connection_tell_done(&s->conn);
    connection_flush(&s->conn); /* it may take long; what goes not now goes later */
  }
  if (s->title_stale)
    server_title(s, s->is_clone ? "clone" : "template");
  seal_touch(&s->seal);
  leash_hold(&s->leash);
  signals_enter_user();
}

void server_leave_user(struct server *s) {
  signals_leave_user();
}

void server_title(struct server *s, const char *kind) {
  char text[300];
  if (kind)
    snprintf(text, sizeof text, "%llu moonfork: %s %s", (unsigned long long)s->owner_pid,
             kind, s->name);
  else
    snprintf(text, sizeof text, "%llu moonfork: %s", (unsigned long long)s->owner_pid,
             s->run.title);
  size_t n = strlen(text);
  while (n > 0 && text[n - 1] == ' ')
    text[--n] = 0;
  proc_set_title(text);
  s->title_stale = 0;
}

void (*server_before_exit)(void);

void server_exit(struct server *s, int code) {
  if (server_before_exit)
    server_before_exit();
  fflush(NULL);
  _exit(code);
}
