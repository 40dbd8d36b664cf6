/* What every part of a serving process shares: the one record, failing, the bracket around
 * user code, the title, leaving. Runs in templates and clones. */
#include "template/server.h"

#include "os/flush.h"
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
  s->phase = SERVE_ENDING;
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
  collector_touch(&s->collector);
  leash_hold(&s->leash);
  signals_enter_user();
}

void server_end_copy(const struct server *s) {
  if (s->pid == getpid())
    return;
  fflush(NULL);
  _exit(0);
}

void server_leave_user(struct server *s) {
  server_end_copy(s);
  signals_leave_user();
  leash_rest(&s->leash);
}

/* Appends as much of text as fits; gives the new end. By hand: every clone makes a title, and
 * printf would be a dozen pages that it never touches otherwise. */
static char *append(char *at, char *end, const char *text) {
  size_t n = strlen(text);
  if (n > (size_t)(end - at))
    n = (size_t)(end - at);
  memcpy(at, text, n);
  return at + n;
}

static char *append_number(char *at, char *end, uint64_t number) {
  char digits[21], *first = digits + sizeof digits - 1;
  *first = 0;
  do
    *--first = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  return append(at, end, first);
}

void server_title(struct server *s, const char *kind) {
  char text[300], *at = text, *end = text + sizeof text - 1;
  at = append_number(at, end, s->owner_pid);
  at = append(at, end, " moonfork: ");
  at = append(at, end, kind ? kind : s->run.title);
  at = append(at, end, " ");
  at = append(at, end, s->name);
  while (at > text && at[-1] == ' ')
    at--;
  *at = 0;
  proc_set_title(text);
  s->title_stale = 0;
}

void (*server_before_exit)(void);
void (*server_before_first_fork)(void);

void server_exit(struct server *s, int code) {
  if (server_before_exit)
    server_before_exit();
  flush_pending();
  _exit(code);
}
