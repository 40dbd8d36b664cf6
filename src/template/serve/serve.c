/* The loop: a read of the control socket in which it sleeps, and the table that says
 * which command is served in which phase. Runs in templates and in clones before run.
 *
 *   BOOT -> SERVING           (SETUP; a forked clone begins in SERVING)
 *   BOOT, SERVING -> ENDING   (a command failed; CLOSE; nobody listens any more)
 *
 * An ending process writes its answers and exits: nobody needs it, since its clones are
 * its parent's children.
 *
 * Between two forks it runs no Lua and allocates nothing: the inbox and the answers keep
 * their storage. It goes on reading while a write would block, up to a limit, since the
 * parent may be writing to us meanwhile. */
#include "template/serve/serve.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include "template/fork/clone.h"
#include "template/serve/commands.h"
#include "template/serve/runner.h"
#include "template/server/signals.h"
#include "template/thread/thread_ready.h"
#include <errno.h>
#include <string.h>

enum { REFUSED_MS = 50 }; /* between two attempts to wait */

/* ---- the table ---- */

#define IN(phase) (1u << SERVE_##phase)

struct rule {
  int (*handler)(struct server *s, struct command *c);
  unsigned phases; /* in which it is executed */
  int fds_max;
  int changes; /* the interpreter */
  int loses;   /* it sees to descriptors that were lost, which else fail the process */
};

static const struct rule rules[CMD_LAST + 1] = {
    [CMD_SETUP] = {cmd_setup, IN(BOOT), 4, 0, 0},
    [CMD_REQUIRE] = {cmd_require, IN(SERVING), 0, 1, 0},
    [CMD_EVAL] = {cmd_eval, IN(SERVING), 0, 1, 0},
    [CMD_ARG] = {cmd_arg, IN(SERVING), 0, 0, 0},
    [CMD_FD] = {cmd_fd, IN(SERVING), FRAME_FDS_MAX, 0, 0},
    [CMD_FORK] = {cmd_fork, IN(SERVING), FRAME_FDS_MAX, 0, 1},
    [CMD_RUN] = {cmd_run, IN(SERVING), 0, 1, 0},
    [CMD_SETENV] = {cmd_setenv, IN(SERVING), 0, 0, 0},
    [CMD_CHDIR] = {cmd_chdir, IN(SERVING), 0, 0, 0},
    [CMD_LIMIT] = {cmd_limit, IN(SERVING), 0, 0, 0},
    [CMD_SEAL] = {cmd_seal, IN(SERVING), 0, 1, 0},
    [CMD_TAKE_ARGS] = {cmd_take_args, IN(SERVING), 0, 0, 0},
    [CMD_MEMORY] = {cmd_memory, IN(SERVING), 0, 0, 0},
    [CMD_CLOSE] = {cmd_close, IN(SERVING), 0, 0, 0},
    [CMD_WHO] = {cmd_who, IN(SERVING), 1, 0, 0},
    [CMD_SAVE] = {cmd_save, IN(SERVING), 0, 1, 0},
    [CMD_LISTEN] = {cmd_listen, IN(SERVING), 1, 0, 1},
    [CMD_SET] = {cmd_set, IN(SERVING), FRAME_FDS_MAX, 1, 0},
};

/* What happens to a command that its rule does not allow in the phase. */
enum verdict { SERVE_EXECUTE, SERVE_REFUSE, SERVE_DROP };

static const enum verdict strangers[SERVE_COUNT] = {
    [SERVE_BOOT] = SERVE_REFUSE,
    [SERVE_SERVING] = SERVE_REFUSE,
    [SERVE_ENDING] = SERVE_DROP,
};

static enum verdict verdict_of(unsigned type, enum serve_phase phase) {
  if (type > CMD_LAST || !rules[type].handler)
    return strangers[phase];
  return rules[type].phases & (1u << phase) ? SERVE_EXECUTE : strangers[phase];
}

static int fail_lost(struct server *s, int lost) {
  server_fail_with(s, FAILURE_LIMIT, PHASE_ARGUMENT, EMFILE,
                   "handles were lost: the %s has no free descriptor (limit nofile)",
                   lost == LOST_AT_AGENT ? "agent" : "process");
  return 0;
}

static int fail_change(struct server *s) {
  server_fail_with(s, FAILURE_NOMEM, PHASE_FORK, ENOMEM,
                   "not enough memory to keep what clones (lazy) have not copied yet");
  return 0;
}

static int execute(struct server *s, struct command *c) {
  const struct rule *rule = &rules[c->type];
  switch (verdict_of(c->type, s->phase)) {
  case SERVE_DROP:
    return 0;
  case SERVE_REFUSE:
    return server_malformed(s, "command not allowed in this phase");
  case SERVE_EXECUTE:
    break;
  }
  if (c->fds->n > rule->fds_max)
    return server_malformed(s, "too many descriptors for this command");
  if (c->lost_fds && !rule->loses)
    return fail_lost(s, c->lost_fds);
  if (rule->changes && server_before_change(s) < 0)
    return fail_change(s);
  return rule->handler(s, c);
}

/* What was read together with a limit on descriptors came before the limit was set, and
 * is lost all the same: commands are executed in order, however many are read at once. */
static int is_beyond_limit(const struct server *s, const struct fdset *fds) {
  for (int i = 0; s->limits_nofile && i < fds->n; i++)
    if (fds->fd[i] >= 0 && (uint64_t)fds->fd[i] >= s->nofile)
      return 1;
  return 0;
}

/* The agent had no room for one of them. */
static int has_missing(const struct server *s, const struct fdset *fds) {
  for (int i = 0; s->owner_is_agent && i < fds->n; i++)
    if (sock_is_missing(fds->fd[i]))
      return 1;
  return 0;
}

/* One command through the table, counted: 0 or enum served. The command's descriptors
 * that nobody stole are closed. */
static int serve_command(struct server *s, struct command *c) {
  unsigned outer = s->executing; /* a FORK has commands inside */
  s->executing = c->type + 1;
  s->lends = NULL;
  if (!c->lost_fds && is_beyond_limit(s, c->fds))
    c->lost_fds = 1;
  if (!c->lost_fds && has_missing(s, c->fds))
    c->lost_fds = LOST_AT_AGENT;
  int r = execute(s, c);
  s->executing = r == SERVED_BORN ? 0 : outer;
  fdset_close(c->fds);
  if (c->type != CMD_FORK)
    accepting_doubt(&s->accepting);
  /* In a new clone the count begins at 0; the FORK was the template's. */
  if (r != SERVED_BORN && (s->phase != SERVE_ENDING || c->type == CMD_CLOSE))
    s->conn.executed++;
  return r;
}

/* ---- bodies in parts ---- */

static void begin_gather(struct server *s, const struct frame *f, struct fdset *fds,
                         int lost_fds) {
  parts_begin(&s->parts, f);
  gather_init(&s->gather, f->type == CMD_ARG ? s->args.lead : 0);
  s->gather_lost = lost_fds;
  s->gather_fds = *fds;
  fdset_init(fds);
}

static void end_gather(struct server *s) {
  parts_end(&s->parts);
  gather_deinit(&s->gather);
  fdset_close(&s->gather_fds);
}

static int serve_gathered(struct server *s) {
  struct gather g = s->gather; /* a handler, or a birth inside, begins with a clean one */
  struct fdset fds = s->gather_fds;
  struct command c = {.type = s->parts.type,
                      .id = s->parts.id,
                      .body = gather_body(&g),
                      .length = g.length,
                      .fds = &fds,
                      .lost_fds = s->gather_lost,
                      .gather = &g};
  gather_init(&s->gather, 0);
  fdset_init(&s->gather_fds);
  parts_end(&s->parts);
  int r = serve_command(s, &c);
  if (r != SERVED_BORN) /* a birth still reads its options there; clones are few enough */
    gather_deinit(&g);
  return r;
}

static int fail_part(struct server *s, int r) {
  server_fail_with(s, r == -E2BIG ? FAILURE_LIMIT : FAILURE_NOMEM, PHASE_ARGUMENT, -r,
                   r == -E2BIG ? "the command is longer than 4 GiB"
                               : "not enough memory for a command in parts");
  return 0;
}

static int serve_part(struct server *s, const struct frame *f, struct fdset *fds,
                      int lost_fds) {
  int drops = verdict_of(f->type, s->phase) == SERVE_DROP;
  const char *wrong = s->parts.type && !drops ? parts_refuse(&s->parts, f) : NULL;
  if (drops || wrong) {
    end_gather(s);
    fdset_close(fds);
    return wrong ? server_malformed(s, wrong) : 0;
  }
  if (!s->parts.type)
    begin_gather(s, f, fds, lost_fds);
  int r = parts_grow(&s->parts, f->length, PROTO_PAYLOAD_MAX);
  if (r == 0)
    r = gather_put(&s->gather, f->body, f->length);
  if (r < 0) {
    end_gather(s);
    return fail_part(s, r);
  }
  return f->flags & FRAME_MORE ? 0 : serve_gathered(s);
}

int serve_frame(struct server *s, const struct frame *f, struct fdset *fds,
                int lost_fds) {
  if (s->parts.type || (f->flags & FRAME_MORE))
    return serve_part(s, f, fds, lost_fds);
  struct command c = {.type = f->type,
                      .flags = f->flags,
                      .id = f->id,
                      .body = f->body,
                      .length = f->length,
                      .fds = fds,
                      .lost_fds = lost_fds};
  return serve_command(s, &c);
}

/* ---- what came with a fork ---- */

static int run_inner(struct server *s) {
  const struct options *o = &s->birth.options;
  int next = options_first_stdio(o) + o->nstdio_fds, r = 0;
  size_t at = 0;
  struct frame f;
  s->being_born = 1;
  while (r == 0 && s->phase == SERVE_SERVING &&
         options_next_frame(o->commands, &at, &f) == 0) {
    struct fdset fds;
    fdset_init(&fds);
    for (int i = 0; i < f.nfds; i++)
      fdset_push(&fds, fdset_steal(&s->birth.fds, next++));
    r = serve_frame(s, &f, &fds, 0);
  }
  s->being_born = 0;
  return r;
}

int serve_inner(struct server *s) {
  int r = 0;
  if (s->phase == SERVE_SERVING && s->birth.options.commands.p)
    r = run_inner(s);
  fdset_close(&s->birth.fds);
  connection_forget_input(&s->conn);
  return r;
}

/* ---- the loop ---- */

/* The stream is no sequence of frames any more. */
static void break_off(struct server *s, int error) {
  if (s->phase == SERVE_ENDING)
    return;
  server_fail_with(
      s, error == -ENOMEM ? FAILURE_NOMEM : FAILURE_PROTOCOL, PHASE_PROTOCOL, -error,
      error == -ENOMEM ? "not enough memory to read commands" : "malformed frame");
}

static _Noreturn void end(struct server *s) {
  connection_flush_all(&s->conn);
  server_exit(s, s->exit_code);
}

/* Executes the commands that are here. */
static int serve_inbox(struct server *s) {
  struct frame f;
  struct fdset fds;
  int r = 0;
  while (s->phase != SERVE_ENDING && (r = connection_next(&s->conn, &f)) == 0) {
    fdset_init(&fds);
    int lost_fds = connection_take_fds(&s->conn, &f, &fds);
    r = serve_frame(s, &f, &fds, lost_fds);
    if (r != 0)
      return r;
  }
  if (r < 0)
    break_off(s, r);
  return 0;
}

/* 0, or MF_AGAIN: nothing is there now. */
static int receive(struct server *s, int sleep) {
  int r = connection_receive(&s->conn, sleep);
  if (r == MF_EOF)
    server_exit(s, s->exit_code); /* the parent is gone, or wants it so */
  if (r < 0)
    break_off(s, r);
  return r < 0 ? 0 : r;
}

/* Waits for a command, and for room to write where that is wanted. */
static void wait_for(struct server *s, int events) {
  struct pollfd p = {.fd = s->conn.fd, .events = (short)events};
  if (fdwait(&p, 1, -1) < 0 && errno != EINTR)
    poll(NULL, 0, REFUSED_MS); /* no memory: whatever it is, it must not become a spin */
}

/* Something is to be told, or done before a sleep. */
static int has_news(const struct server *s) {
  return buf_size(&s->conn.out) > 0 || s->conn.executed != s->conn.told || s->title_stale;
}

/* A clone that waits for its commands, a spare, has the tables of addresses mapped when
 * the first comes: a page fault less on the way to its function. */
static void map_tables(void) {
  (void)*(const volatile unsigned *)&rules[CMD_RUN].phases;
}

/* Nothing more is here to be executed: what was done is told, and written as far as it
 * goes. */
static void come_to_rest(struct server *s) {
  connection_tell_done(&s->conn);
  if (connection_flush(&s->conn) == MF_AGAIN)
    wait_for(s,
             buf_size(&s->conn.out) > CONNECTION_OUT_HIGH ? POLLOUT : POLLIN | POLLOUT);
  if (!s->title_stale)
    return;
  server_title(s, s->is_clone ? "clone" : "template");
  map_tables();
}

int serve(struct server *s) {
  for (;;) {
    int r = serve_inbox(s);
    if (r != 0)
      return r;
    if (s->phase == SERVE_ENDING)
      end(s);
    if (!has_news(s)) {
      if (thread_ready_wait(s))
        continue;
      if (receive(s, 1) ==
          MF_AGAIN) /* whoever has the socket, too, made it non-blocking */
        wait_for(s, POLLIN);
    } else if (buf_size(&s->conn.out) > CONNECTION_OUT_HIGH ||
               receive(s, 0) == MF_AGAIN) {
      come_to_rest(s);
    }
  }
}
