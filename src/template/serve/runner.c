/* RUN. Runs in clones and templates, up to the end of the user's function. */
#include "template/serve/runner.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/flush.h"
#include "os/sock.h"
#include "socket/sys.h"
#include "template/fork/atfork.h"
#include "template/lua/clone_exec.h"
#include "template/lua/clone_posix.h"
#include "template/lua/on_term.h"
#include "template/lua/script.h"
#include "template/lua/thread_end.h"
#include "template/server/bare.h"
#include "template/server/signals.h"
#include "template/server/wakeup.h"
#include "template/thread/thread_slot.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* 3. Fails before anything is announced: a limit on descriptors can forbid it. The
 * highest first, so that then none has changed. */
static int place_streams(struct server *s) {
  static const char *const names[3] = {"stdin", "stdout", "stderr"};
  if (s->to_socket[0] || s->to_socket[1] || s->to_socket[2]) {
    flush_pending(); /* what was written before goes where it went before */
    (void)connection_need(&s->conn);
  }
  for (int i = 2; i >= 0; i--) {
    if (!s->to_socket[i] || dup2(s->conn.fd, i) >= 0)
      continue;
    int error = errno;
    server_fail_with(s, FAILURE_LIMIT, PHASE_OPTION, error,
                     "option %s: the socket can't be put there: %s", names[i],
                     strerror(error));
    return -1;
  }
  return 0;
}

static int hold_leash(struct server *s) {
  int r = leash_run(&s->leash, s->leash_mode);
  if (r < 0)
    server_fail_with(s, FAILURE_LIMIT, PHASE_FUNCTION, -r,
                     "no free descriptor for the leash (limit nofile)");
  return r;
}

/* The beginning of a function that was entered for a parent that is gone has been seen by
 * nobody. */
static void on_told(int error) {
  struct server *s = server_self();
  server_release(s);
  if (error && s->thread)
    thread_end_now(); /* and no code of the user's runs at that end */
  else if (error)
    server_exit(s, 0);
}

/* It needs its socket. Without one nobody can be told anything. */
static void on_need(void) {
  struct server *s = server_self();
  int r = connection_need(&s->conn);
  if (r == 0)
    return;
  char text[200];
  snprintf(text, sizeof text, "the socket of the clone can't be made: %s", strerror(-r));
  failure_record_set(&s->failure, FAILURE_LIMIT, PHASE_FUNCTION, -r, text);
  runner_leave_words(s);
  server_exit(s, 1);
}

/* Not yet: with its first bytes. */
static void announce_late(struct server *s) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = ANS_RUNNING, .id = (uint64_t)s->pid};
  frame_encode(header, &f);
  sys_write_first(s->conn.fd, header, sizeof header, on_told);
  if (s->conn.intake >= 0)
    sys_before_first(on_need);
}

/* Finalisers run without hooks, and at any allocation. Those of sockets tell by
 * themselves, and so does the collector's canary, before those of the template. Others
 * may run at the beginning of the function where user code has made objects since the
 * heap was sealed, and in the incremental mode, which has no canary. */
static int may_finalise(const struct server *s) {
  return s->collector.dirty || s->collector.gc == COLLECTOR_INCREMENTAL;
}

/* 4. and 5.: nobody enters a function for a parent that is gone. A thread that was not
 * made ahead has released its template, which may have told of it. */
static void announce(struct server *s) {
  if (!s->leash.by_pipe && s->leash.own != SIGKILL && leash_snapped(&s->leash))
    server_exit(s, 0);
  if ((s->release || (!s->thread && !s->run.goes_on)) && !may_finalise(s)) {
    announce_late(s);
    return;
  }
  server_release(s);
  if (connection_say(&s->conn, ANS_RUNNING, (uint64_t)s->pid) < 0)
    server_exit(s, 0);
}

static void note_title(struct server *s, const struct command *c) {
  static const char again[] = "(continued)";
  const void *name = c->length ? (const void *)c->body : again;
  size_t n = c->length ? c->length : sizeof again - 1;
  n = n < sizeof s->run.title ? n : sizeof s->run.title - 1;
  memcpy(s->run.title, name, n);
  s->run.title[n] = 0;
}

/* A global function is found without any user code, and so without what is around that.
 */
static int resolve(struct server *s, const struct command *c) {
  s->run.goes_on = c->length == 0;
  if (s->run.goes_on) {
    int found = script_find_suspended(s);
    if (found < 0)
      server_fail(s);
    return found;
  }
  if (script_find_global(s, (const char *)c->body, c->length))
    return 0;
  server_enter_user(s);
  int r = script_resolve(s, (const char *)c->body, c->length);
  server_leave_user(s);
  if (r < 0)
    server_fail(s);
  return r;
}

int cmd_run(struct server *s, struct command *c) {
  if (!s->being_born && inbox_pending(&s->conn.in) > 0)
    return server_malformed(s, "commands after run");
  s->title_stale = 0;
  note_title(s, c);
  s->run.is_fresh = s->being_born;
  if (resolve(s, c) < 0)
    return 0;
  connection_flush_all(&s->conn);
  if (script_push_args(s) < 0) {
    server_fail(s);
    return 0;
  }
  if (place_streams(s) < 0)
    return 0;
  if (s->heap)
    heap_keep(s->heap);
  if (hold_leash(s) < 0) /* what running promises must hold when it is read */
    return 0;
  if (!s->thread)
    signals_release(); /* the same: a signal that is sent then meets the default */
  accepting_close(&s->accepting); /* nothing is asked of it any more */
  announce(s);
  return SERVED_RUN;
}

/* ---- the function ---- */

/* For clone.exec. */
static int armed_leash(void) {
  struct server *s = server_self();
  if (!s)
    return -1;
  if (s->before_exit)
    s->before_exit();
  leash_again(&s->leash);
  return s->leash.armed;
}

static int prepare_socket(struct server *s) {
  int fd = s->conn.fd;
  s->conn.fd = -1;
  if (!s->run.is_fresh && fd_is_nonblocking(fd) == 1)
    fd_set_nonblocking(fd, 0);
  return fd;
}

/* To a standard error that may be a full pipe: waits a moment, not for ever. */
static void write_stderr(const char *text, size_t n) {
  while (n > 0) {
    ssize_t r = write(2, text, n);
    if (r > 0) {
      text += r;
      n -= (size_t)r;
    } else if (r < 0 && errno == EAGAIN) {
      struct pollfd p = {.fd = 2, .events = POLLOUT};
      if (fdwait(&p, 1, 1000) == 0)
        return;
    } else if (r == 0 || errno != EINTR) {
      return;
    }
  }
}

static void write_text(const char *text) {
  write_stderr(text, strlen(text));
}

void runner_leave_words(struct server *s) {
  if (s->words)
    *s->nwords = failure_record_last_words(&s->failure, s->words, s->words_max);
  if (s->pid != getpid()) /* a copy's words are not the function's */
    return;
  if (s->slot)
    s->slot->text_size =
        (uint32_t)failure_record_last_words(&s->failure, s->slot_text, SLOT_TEXT_MAX);
  if (s->last_words)
    s->last_words->text_size = (uint32_t)failure_record_last_words(
        &s->failure, s->last_words->text, SLOT_TEXT_MAX);
}

static void leave_last_words(struct server *s) {
  enum { TEXT_MAX = 2 * FAILURE_TEXT_MAX + 1 };
  static char shared[TEXT_MAX];
  char *own = s->thread ? malloc(TEXT_MAX) : NULL, *text = own ? own : shared;
  runner_leave_words(s);
  if (s->thread && !own)
    return;
  size_t n = failure_record_last_words(&s->failure, text, TEXT_MAX - 1);
  text[n++] = '\n';
  flush_pending();
  write_text("moonfork: ");
  if (s->name[0]) {
    write_text(s->name);
    write_text(": ");
  }
  write_stderr(text, n);
  free(own);
}

/* The function has returned before *running* was due: that stands in the slot, and the
 * end of the socket, which wakes the parent anyway, is the message. Where the parent has
 * the slot and knows who this is, and nobody else can have the socket: no code of the
 * user's ran before the function (may_finalise), and none of C's in it. */
static int return_silently(struct server *s, int fd) {
  if (!sys_has_first() || s->thread || !s->slot || !s->run.is_fresh ||
      !s->birth.sibling || s->birth.options.introduce)
    return 0;
  s->slot->returned = s->birth.id;
  s->run.is_silent = atfork_are_seen && !atfork_child;
  sys_drop_first();
  if (s->conn.intake >= 0 && (s->birth.flags & FRAME_TELL))
    bare_tell_return(fd);
  else if (s->conn.intake < 0 && s->owner_is_agent && !s->to_socket[0] &&
           !s->to_socket[1] && !s->to_socket[2])
    shutdown(fd, SHUT_RDWR);
  return 1;
}

void runner_enter(struct server *s) {
  if (!s->thread) {
    wakeup_enter_user(); /* a template that has forked runs it itself */
    clone_exec_prepare = armed_leash;
    clone_fork_refused = NULL;
    if (s->await_threads) /* it had clones in threads, and will have none */
      thread_slot_drop();
  }
  int fd = prepare_socket(s);
  if (!s->thread)
    fd_close(&s->intake_fd); /* a template's */
  server_title(s, NULL);
  if (!s->thread)
    on_term_enter(s->L);
  int r = script_run(s, fd);
  if (r != 0 || !return_silently(s, fd))
    sys_flush_first();
  if (r == 0)
    server_exit(s, 0);
  leave_last_words(s);
  server_exit(s, 1);
}
