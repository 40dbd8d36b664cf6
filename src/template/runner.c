/* RUN. Runs in clones and templates, up to the end of the user's function.
 *
 * A process that has clones, or is told to report about itself, stays as their reaper and
 * forks once more for the function:
 *
 *      process --fork()--> runner: takes the socket, runs the function
 *         \--> reaper: closes the socket, reports on the channel (or to nobody)
 */
#include "template/runner.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/flush.h"
#include "os/sock.h"
#include "template/clone.h"
#include "template/clone_posix.h"
#include "template/commands.h"
#include "template/script.h"
#include "template/signals.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void runner_retire(struct server *s) {
  int keep[] = {s->conn.fd, s->leash.source, s->leash.armed};
  int null_fd;
  leash_given(&s->leash);
  fflush(NULL);
  args_clear(&s->args);
  fd_close_from(3, keep, 3);
  null_fd = fd_open_null();
  for (int i = 0; i < 3 && null_fd >= 0; i++)
    dup2(null_fd, i);
  fd_close(&null_fd);
}

/* The old process, from now on. Takes report_fd. */
static void become_reaper(struct server *s, int report_fd) {
  lua_settop(s->L, 0);
  connection_close(&s->conn);
  connection_open(&s->conn, report_fd);
  s->phase = report_fd >= 0 ? SERVE_REAPER : SERVE_REAPING;
  s->exit_code = 0;
  runner_retire(s);
  server_title(s, "reaper");
}

static int fail_fork(struct server *s, int error) {
  server_fail_with(s, FAILURE_FORK, PHASE_FORK, error, "fork of the runner: %s",
                   strerror(error));
  return -1;
}

/* 0: this is the runner; 1: the reaper; -1: failed. */
static int fork_runner(struct server *s, uint64_t id, int report_fd) {
  uint32_t slot;
  sigset_t mask;
  if (children_reserve(&s->children, server_lua_live(s), &slot) < 0)
    return fail_fork(s, ENOMEM);
  fflush(NULL);
  signals_watch_children();
  signals_block_all(&mask);
  pid_t pid = fork();
  int error = errno;
  if (pid == 0) {
    s->slot = slot == SLOT_NONE ? NULL : slots_at(&s->children.slots, slot);
    s->slot_text = slot == SLOT_NONE ? NULL : slots_text(&s->children.slots, slot);
    fd_close(&report_fd);
    clone_after_fork(s);
    s->is_clone = 1;
    return 0;
  }
  signals_restore(&mask);
  if (pid < 0) {
    children_cancel(&s->children, slot);
    fd_close(&report_fd);
    return fail_fork(s, error);
  }
  children_add(&s->children, id, pid, slot, s->leash_mode);
  become_reaper(s, report_fd);
  return 1;
}

/* 3. Fails before anything is announced: a limit on descriptors can forbid it. The highest
 * first, so that then none has changed. */
static int place_streams(struct server *s) {
  static const char *const names[3] = {"stdin", "stdout", "stderr"};
  if (s->to_socket[0] || s->to_socket[1] || s->to_socket[2])
    flush_pending(); /* what was written before goes where it went before */
  for (int i = 2; i >= 0; i--) {
    if (!s->to_socket[i] || dup2(s->conn.fd, i) >= 0)
      continue;
    int error = errno;
    server_fail_with(s, FAILURE_LIMIT, PHASE_OPTION, error,
                     "option %s: the socket can't be put there: %s", names[i], strerror(error));
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

/* 4. and 5.: nobody enters a function for a parent that is gone. */
static void announce(struct server *s) {
  if (sock_hung_up(s->conn.fd))
    server_exit(s, 0);
  if (connection_say(&s->conn, ANS_RUNNING, (uint64_t)getpid()) < 0)
    server_exit(s, 0);
}

static void note_title(struct server *s, const struct command *c) {
  size_t n = c->length < sizeof s->run.title ? c->length : sizeof s->run.title - 1;
  memcpy(s->run.title, c->body, n);
  s->run.title[n] = 0;
}

static int resolve(struct server *s, const struct command *c) {
  server_enter_user(s);
  int r = script_resolve(s, (const char *)c->body, c->length);
  server_leave_user(s);
  if (r < 0)
    server_fail(s);
  return r;
}

int cmd_run(struct server *s, struct command *c) {
  int report_fd = c->fds->n ? fdset_steal(c->fds, 0) : -1;
  if (!s->being_born && inbox_pending(&s->conn.in) > 0) {
    fd_close(&report_fd);
    return command_malformed(s, "commands after the run command");
  }
  s->title_stale = 0;
  note_title(s, c);
  if (resolve(s, c) < 0) {
    fd_close(&report_fd);
    return 0;
  }
  connection_flush_all(&s->conn); /* answers of before are the old process's to write */
  if ((report_fd >= 0 || s->children.n > 0) && fork_runner(s, c->id, report_fd) != 0)
    return 0;
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
  announce(s);
  return SERVED_RUN;
}

/* ---- the function ---- */

/* For clone.exec. */
static int armed_leash(void) {
  const struct server *s = server_self();
  if (server_before_exit)
    server_before_exit();
  return s ? s->leash.armed : -1;
}

static int prepare_socket(struct server *s) {
  int fd = s->conn.fd;
  s->conn.fd = -1;
  if (fd_is_nonblocking(fd) == 1)
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

void runner_leave_words(struct server *s) {
  if (!s->slot || s->pid != getpid()) /* a copy's words are not the function's */
    return;
  s->slot->text_size = (uint32_t)failure_last_words(&s->failure, s->slot_text, SLOT_TEXT_MAX);
}

static void leave_last_words(struct server *s) {
  static char text[2 * FAILURE_TEXT_MAX + 1];
  size_t n = failure_last_words(&s->failure, text, sizeof text - 1);
  runner_leave_words(s);
  text[n++] = '\n';
  flush_pending();
  write_stderr("moonfork: ", 10);
  if (s->name[0]) {
    write_stderr(s->name, strlen(s->name));
    write_stderr(": ", 2);
  }
  write_stderr(text, n);
}

void runner_enter(struct server *s) {
  signals_release();
  clone_exec_prepare = armed_leash;
  clone_fork_refused = NULL;
  int fd = prepare_socket(s);
  server_title(s, NULL);
  if (script_run(s, fd) == 0)
    server_exit(s, 0);
  leave_last_words(s);
  server_exit(s, 1);
}
