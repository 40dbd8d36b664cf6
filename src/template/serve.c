/* The loop: one ppoll over the control socket and SIGCHLD, and the table that says which
 * command is served in which phase. Runs in templates and in clones before run.
 *
 *   BOOT -> SERVING        (SETUP; a forked clone begins in SERVING)
 *   BOOT, SERVING -> FAILED (a command failed)
 *   SERVING -> CLOSING     (CLOSE)
 *   SERVING -> REAPER      (RUN, when a runner was forked)
 *   any -> REAPING         (end of file: nobody listens any more)
 *
 * Between two forks it runs no Lua and allocates nothing: the inbox and the answers keep
 * their storage. It goes on reading while a write would block, up to a limit, since the
 * parent may be writing to us meanwhile. */
#include "template/serve.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "template/commands.h"
#include "template/runner.h"
#include "template/signals.h"
#include <errno.h>
#include <string.h>

enum { BURST_MAX = 64 };  /* commands between two looks at the children */
enum { REFUSED_MS = 50 }; /* between two attempts to wait */

/* ---- the table ---- */

#define IN(phase) (1u << SERVE_##phase)
enum { LISTENING = IN(SERVING) | IN(FAILED) | IN(CLOSING) | IN(REAPER) };

struct rule {
  int (*handler)(struct server *s, struct command *c);
  unsigned phases; /* in which it is executed */
  int fds_max;
  int fork_like; /* descriptors that were lost refuse it, and don't fail the process */
};

static const struct rule rules[CMD_LAST + 1] = {
    [CMD_SETUP] = {cmd_setup, IN(BOOT), 3, 0},
    [CMD_REQUIRE] = {cmd_require, IN(SERVING), 0, 0},
    [CMD_EVAL] = {cmd_eval, IN(SERVING), 0, 0},
    [CMD_ARG] = {cmd_arg, IN(SERVING), 0, 0},
    [CMD_FD] = {cmd_fd, IN(SERVING), FRAME_FDS_MAX, 0},
    [CMD_FORK] = {cmd_fork, IN(SERVING), FRAME_FDS_MAX, 1},
    [CMD_RUN] = {cmd_run, IN(SERVING), 1, 0},
    [CMD_SETENV] = {cmd_setenv, IN(SERVING), 0, 0},
    [CMD_CHDIR] = {cmd_chdir, IN(SERVING), 0, 0},
    [CMD_LIMIT] = {cmd_limit, IN(SERVING), 0, 0},
    [CMD_SEAL] = {cmd_seal, IN(SERVING), 0, 0},
    [CMD_TAKE_ARGS] = {cmd_take_args, IN(SERVING), 0, 0},
    [CMD_MEMORY] = {cmd_memory, IN(SERVING), 0, 0},
    [CMD_CLOSE] = {cmd_close, IN(SERVING), 0, 0},
    [CMD_ACK] = {cmd_ack, LISTENING, 0, 0},
    [CMD_WHO] = {cmd_who, IN(SERVING), 0, 0},
};

/* What happens to a command that its rule does not allow in the phase. */
static const enum serve_verdict strangers[SERVE_COUNT] = {
    [SERVE_BOOT] = SERVE_REFUSE, [SERVE_SERVING] = SERVE_REFUSE,
    [SERVE_FAILED] = SERVE_DROP, [SERVE_CLOSING] = SERVE_DROP,
    [SERVE_REAPER] = SERVE_DROP, [SERVE_REAPING] = SERVE_DROP,
};

enum serve_verdict serve_verdict(unsigned type, enum phase phase) {
  if (type > CMD_LAST || !rules[type].handler)
    return strangers[phase];
  return rules[type].phases & (1u << phase) ? SERVE_EXECUTE : strangers[phase];
}

static int fail_lost(struct server *s) {
  server_fail_with(s, FAILURE_LIMIT, PHASE_ARGUMENT, EMFILE,
                   "handles were lost: the process has no free descriptor (limit nofile)");
  return 0;
}

static int execute(struct server *s, struct command *c) {
  const struct rule *rule = &rules[c->type];
  switch (serve_verdict(c->type, s->phase)) {
  case SERVE_DROP:
    return 0;
  case SERVE_REFUSE:
    return command_malformed(s, "command not allowed in this phase");
  case SERVE_EXECUTE:
    break;
  }
  if (c->fds->n > rule->fds_max)
    return command_malformed(s, "too many descriptors for this command");
  if (c->lost_fds && !rule->fork_like)
    return fail_lost(s);
  return rule->handler(s, c);
}

int serve_command(struct server *s, struct command *c) {
  int r = execute(s, c);
  fdset_close(c->fds);
  /* In a new clone the count begins at 0; the FORK was the template's. */
  if (r != SERVED_BORN && c->type != CMD_ACK && s->phase != SERVE_FAILED)
    s->conn.executed++;
  return r;
}

/* ---- bodies in parts ---- */

static void begin_gather(struct server *s, const struct frame *f, struct fdset *fds,
                         int lost_fds) {
  gather_init(&s->gather, f->type == CMD_ARG ? s->args.lead : 0);
  s->gather_type = f->type;
  s->gather_id = f->id;
  s->gather_lost = lost_fds;
  s->gather_fds = *fds;
  fdset_init(fds);
}

static void end_gather(struct server *s) {
  s->gather_type = 0;
  gather_deinit(&s->gather);
  fdset_close(&s->gather_fds);
}

static int serve_gathered(struct server *s) {
  struct gather g = s->gather; /* a handler, or a birth inside, begins with a clean one */
  struct fdset fds = s->gather_fds;
  struct command c = {.type = s->gather_type,
                      .id = s->gather_id,
                      .body = gather_body(&g),
                      .length = g.length,
                      .fds = &fds,
                      .lost_fds = s->gather_lost,
                      .gather = &g};
  gather_init(&s->gather, 0);
  fdset_init(&s->gather_fds);
  s->gather_type = 0;
  int r = serve_command(s, &c);
  if (r != SERVED_BORN) /* a birth still reads its options there; clones are few enough */
    gather_deinit(&g);
  return r;
}

static int serve_part(struct server *s, const struct frame *f, struct fdset *fds,
                      int lost_fds) {
  if (serve_verdict(f->type, s->phase) == SERVE_DROP) {
    end_gather(s);
    fdset_close(fds);
    return 0;
  }
  if (s->gather_type == 0)
    begin_gather(s, f, fds, lost_fds);
  else if (s->gather_type != f->type || fds->n > 0) {
    fdset_close(fds);
    end_gather(s);
    return command_malformed(s, "another command inside a command in parts");
  }
  int r = gather_put(&s->gather, f->body, f->length, PROTO_PAYLOAD_MAX);
  if (r < 0) {
    end_gather(s);
    server_fail_with(s, r == -E2BIG ? FAILURE_LIMIT : FAILURE_NOMEM, PHASE_ARGUMENT, -r,
                     r == -E2BIG ? "the command is longer than 4 GiB"
                                 : "not enough memory for a command in parts");
    return 0;
  }
  return f->flags & FRAME_MORE ? 0 : serve_gathered(s);
}

int serve_frame(struct server *s, const struct frame *f, struct fdset *fds,
                int lost_fds) {
  if (s->gather_type || (f->flags & FRAME_MORE))
    return serve_part(s, f, fds, lost_fds);
  struct command c = {.type = f->type,
                      .id = f->id,
                      .body = f->body,
                      .length = f->length,
                      .fds = fds,
                      .lost_fds = lost_fds};
  return serve_command(s, &c);
}

/* ---- the loop ---- */

/* Nobody listens any more: what is under way is forgotten, clones are reaped in silence.
 */
static void stop_listening(struct server *s) {
  if (s->gather_type)
    end_gather(s);
  connection_close(&s->conn);
  s->phase = SERVE_REAPING;
}

/* The stream is no sequence of frames any more. */
static void break_off(struct server *s, int error) {
  if (s->phase == SERVE_BOOT || s->phase == SERVE_SERVING)
    server_fail_with(s, error == -ENOMEM ? FAILURE_NOMEM : FAILURE_PROTOCOL,
                     PHASE_PROTOCOL, -error,
                     error == -ENOMEM ? "not enough memory to read commands"
                                      : "malformed frame");
  connection_flush_all(&s->conn);
  stop_listening(s);
}

static int serve_inbox(struct server *s, int *budget) {
  struct frame f;
  struct fdset fds;
  int r;
  while (*budget > 0 && (r = connection_next(&s->conn, &f)) == 0) {
    fdset_init(&fds);
    int lost_fds = connection_take_fds(&s->conn, &f, &fds);
    (*budget)--;
    r = serve_frame(s, &f, &fds, lost_fds);
    if (r != 0)
      return r;
    if (f.type == CMD_FORK && s->children.n > 1)
      *budget = 0; /* the end of another is not to wait for a row of forks */
  }
  if (*budget > 0 && r < 0)
    break_off(s, r);
  return 0;
}

/* Executes what is there, up to a budget. *ret_dry: nothing is left to read now. */
static int serve_readable(struct server *s, int *ret_dry) {
  int budget = BURST_MAX;
  *ret_dry = 0;
  while (budget > 0) {
    int r = serve_inbox(s, &budget);
    if (r != 0)
      return r;
    if (s->conn.fd < 0)
      break;
    if (budget == 0)
      return 0;
    if (buf_size(&s->conn.out) > CONNECTION_OUT_HIGH &&
        connection_flush(&s->conn) == MF_AGAIN)
      break;
    r = connection_receive(&s->conn);
    if (r == MF_AGAIN)
      break;
    if (r == MF_EOF)
      stop_listening(s);
    else if (r < 0)
      break_off(s, r);
  }
  *ret_dry = 1;
  return 0;
}

static void look_after_children(struct server *s) {
  pid_t hints[BURST_MAX];
  if (s->children.n == 0) {
    s->children.scan_due = 0; /* nobody is looked at, so nothing is to be waked up for */
    return;
  }
  int n = signals_take_hints(hints, BURST_MAX);
  children_look(&s->children, hints, n);
  if (s->conn.fd < 0)
    children_reap_unheard(&s->children);
  else if (children_report(&s->children, &s->conn) < 0)
    break_off(s, -ENOMEM);
}

/* Left behind only to reap: lets go of everything that others may wait for. */
static void retire_if_idle(struct server *s) {
  if (s->phase < SERVE_FAILED || s->retired || s->children.n == 0)
    return;
  s->retired = 1;
  connection_flush(&s->conn);
  runner_retire(s);
}

static int may_end(const struct server *s) {
  return s->phase >= SERVE_FAILED && s->children.n == 0;
}

/* Waits for a command, for room to write, for SIGCHLD; not at all when there is more to
 * do. */
static void wait_for_work(struct server *s, int dry, int patience_ms) {
  struct pollfd p[2] = {{.fd = s->conn.fd, .events = POLLIN}, {.fd = -1}};
  struct timespec t, *timeout = NULL;
  sigset_t none;
  int delay_ms = dry ? children_delay_ms(&s->children) : 0;
  if (patience_ms > 0 && (delay_ms < 0 || delay_ms > patience_ms))
    delay_ms = patience_ms;
  else if (patience_ms == 0 && buf_size(&s->conn.out) > 0)
    p[0].events =
        buf_size(&s->conn.out) > CONNECTION_OUT_HIGH ? POLLOUT : POLLIN | POLLOUT;
  if (s->children.n > 0 && s->leash.broken)
    p[1].fd = s->leash.source;
  if (delay_ms >= 0) {
    t = (struct timespec){delay_ms / 1000, delay_ms % 1000 * 1000000L};
    timeout = &t;
  }
  if (s->children.n > 0)
    leash_rest(&s->leash);
  if (s->children.n > 0 && delay_ms != 0 && s->phase == SERVE_SERVING)
    leash_prepare(&s->leash);
  sigemptyset(&none);
  int r = fdwait_masked(p, 2, timeout, &none);
  if (r > 0 && p[1].revents) {
    children_pull_leash(&s->children);
    fd_close(&s->leash.source);
  } else if (r < 0 && errno != EINTR) {
    poll(NULL, 0, REFUSED_MS); /* no memory: whatever it is, it must not become a spin */
  }
}

static void answer_now(struct server *s, int dry) {
  if (dry && s->phase != SERVE_FAILED && s->phase != SERVE_REAPER)
    connection_tell_done(&s->conn);
  connection_flush(&s->conn);
}

int serve(struct server *s) {
  int dry;
  for (;;) {
    int r = serve_readable(s, &dry);
    if (r != 0)
      return r;
    look_after_children(s);
    int patience_ms = connection_patience_ms(&s->conn);
    if (patience_ms == 0)
      answer_now(s, dry);
    if (may_end(s) && dry) {
      connection_flush_all(&s->conn);
      server_exit(s, s->exit_code);
    }
    if (dry && s->title_stale)
      server_title(s, s->is_clone ? "clone" : "template");
    retire_if_idle(s);
    wait_for_work(s, dry, patience_ms);
  }
}
