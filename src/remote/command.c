#include "remote/command.h"

#include "base/list.h"
#include "os/descendants.h"
#include "os/proc.h"
#include "wire/link.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  PIPE_SIZE = 1024 * 1024,
  PIECE = 4096,
  KEPT_MAX = 64 * 1024, /* of standard error, while ours takes nothing */
  GENTLE_MS = 2000,     /* to notice that its input has ended */
  TERM_MS = 500,        /* to end after SIGTERM, before SIGKILL */
  KILL_MS = 20,         /* before whoever was born meanwhile is killed, too */
  KILLS_MAX = 25
};

extern char **environ;

/* ---- standard error ---- */

static void watch_errors(struct link_command *c) {
  if (c->errors.fd < 0)
    return;
  if (buf_size(&c->kept) < KEPT_MAX)
    turn_watch(c->turn, &c->errors_ready, c->errors.fd, TURN_READ);
  else
    turn_watch(c->turn, &c->errors_ready, -1, 0);
}

static void on_own(struct turn_watch *w, int events) {
  struct link_command *c = list_entry(w, struct link_command, own_ready);
  turn_watch(c->turn, w, -1, 0);
  command_accept(c);
}

/* Written on, as far as ours takes it. */
void command_accept(struct link_command *c) {
  if (!c->accepted)
    descendants_adopt(0);
  c->accepted = 1;
  while (buf_size(&c->kept) > 0) {
    ssize_t n = local_write(&c->own, buf_peek(&c->kept), buf_size(&c->kept), NULL, 0);
    if ((n == -EAGAIN || n == -ENOBUFS) &&
        turn_watch(c->turn, &c->own_ready, c->own.fd, TURN_WRITE) == 0)
      break;
    if (n < 0) /* nobody reads it */
      n = (ssize_t)buf_size(&c->kept);
    buf_consume(&c->kept, (size_t)n);
  }
  watch_errors(c);
}

static void end_errors(struct link_command *c) {
  turn_watch(c->turn, &c->errors_ready, -1, 0);
  local_close(&c->errors);
  c->on_change(c);
}

static void on_errors(struct turn_watch *w, int events) {
  struct link_command *c = list_entry(w, struct link_command, errors_ready);
  char text[PIECE];
  struct fdset fds;
  ssize_t n = local_read(&c->errors, text, sizeof text, &fds);
  if (n == -EAGAIN)
    return;
  if (n <= 0) {
    end_errors(c);
    return;
  }
  if (!c->accepted)
    c->print(text, (size_t)n);
  if (buf_size(&c->kept) < KEPT_MAX)
    buf_put(&c->kept, text, (size_t)n);
  if (c->accepted)
    command_accept(c);
  else if (buf_size(&c->kept) >= KEPT_MAX) /* a command that prints without end */
    buf_consume(&c->kept, buf_size(&c->kept) - PIECE);
}

/* ---- its life ---- */

/* Whether a process is an agent: it ends with its input, and what it has started ends, or
 * stays, as its leash says. */
static int is_agent(pid_t pid) {
  char path[48], words[PATH_MAX + 16];
  snprintf(path, sizeof path, "/proc/%ld/cmdline", (long)pid);
  FILE *f = fopen(path, "re");
  size_t n = f ? fread(words, 1, sizeof words - 1, f) : 0;
  if (f)
    fclose(f);
  words[n] = 0;
  size_t first = strlen(words);
  const char *slash = strrchr(words, '/');
  return first < n && strcmp(slash ? slash + 1 : words, "moonfork-remote") == 0 &&
         strcmp(words + first + 1, "agent") == 0;
}

/* What a command has started (a shell's `sleep`, a login that asks for a password) is of
 * no use to anybody without it, and would stay: the shell alone would get the signal. It
 * can't have a process group of its own, which a terminal lets read no password. */
static size_t signal_command(struct link_command *c, int signum) {
  size_t n = descendants_signal(signum, is_agent);
  if (c->pid > 0 && (n == 0 || getpgid(c->pid) != getpgrp()))
    n += kill(c->pid, signum) == 0;
  return n; /* another user's: it sees the end of its input */
}

static void look_whether_over(struct link_command *c) {
  if (c->ending && c->pid == 0 && signal_command(c, 0) == 0)
    _exit(0);
}

static void on_child(uv_signal_t *s, int signum) {
  struct link_command *c = list_entry(s, struct link_command, children);
  pid_t pid;
  int status, has_ended = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != c->pid)
      continue; /* one that it has left */
    c->pid = 0;
    c->status = status;
    has_ended = 1;
  }
  look_whether_over(c);
  if (has_ended && !c->ending)
    c->on_change(c);
}

int command_is_over(const struct link_command *c) {
  return c->pid == 0 && c->errors.fd < 0;
}

void command_describe(const struct link_command *c, char *text, size_t n) {
  if (c->pid)
    snprintf(text, n, "the command closed its standard output");
  else if (WIFSIGNALED(c->status))
    snprintf(text, n, "the command was ended by signal %d (%s)", WTERMSIG(c->status),
             strsignal(WTERMSIG(c->status)));
  else
    snprintf(text, n, "the command ended with exit status %d", WEXITSTATUS(c->status));
}

static void on_patience(uv_timer_t *t) {
  struct link_command *c = list_entry(t, struct link_command, patience);
  int signum = c->nsignals ? SIGKILL : SIGTERM;
  if (c->nsignals > KILLS_MAX || signal_command(c, signum) == 0)
    _exit(0);
  c->nsignals++;
  uv_timer_start(t, on_patience, signum == SIGTERM ? TERM_MS : KILL_MS, 0);
}

void command_end(struct link_command *c, int gently) {
  c->ending = 1;
  look_whether_over(c);
  if (gently)
    uv_timer_start(&c->patience, on_patience, GENTLE_MS, 0);
  else
    on_patience(&c->patience);
}

/* ---- made ---- */

static int make_pipe(int ret[2]) {
  if (pipe2(ret, O_CLOEXEC) < 0)
    return -errno;
  for (int i = 0; i < 2; i++) {
    ret[i] = fd_raise_made(ret[i]);
    if (ret[i] < 0)
      return ret[i];
  }
#ifdef F_SETPIPE_SZ
  (void)fcntl(ret[0], F_SETPIPE_SZ, PIPE_SIZE);
#endif
  return 0;
}

int command_start(struct link_command *c, struct turn *turn, char **argv,
                  void (*print)(const char *text, size_t n),
                  void (*on_change)(struct link_command *c)) {
  int in[2], out[2], err[2], r;
  *c = (struct link_command){.turn = turn, .print = print, .on_change = on_change};
  c->errors_ready.on_ready = on_errors;
  c->own_ready.on_ready = on_own;
  c->errors.fd = c->own.fd = -1;
  buf_init(&c->kept, 2 * KEPT_MAX);
  uv_timer_init(turn->loop, &c->patience);
  uv_signal_init(turn->loop, &c->children);
  uv_signal_start(&c->children, on_child, SIGCHLD);
  r = make_pipe(in);
  if (!r)
    r = make_pipe(out);
  if (!r)
    r = make_pipe(err);
  if (r < 0)
    return r;
  struct proc_spawn spawn = {.program = argv[0],
                             .argv = argv,
                             .envp = environ,
                             .control_fd = -1,
                             .leash_fd = -1,
                             .stdio = {in[0], out[1], err[1]},
                             .ignored = SIGINT};
  descendants_adopt(1);
  signal(SIGINT, SIG_IGN); /* Ctrl-C is for the program, which decides */
  r = proc_spawn(&spawn, &c->pid);
  fd_close(&in[0]);
  fd_close(&out[1]);
  fd_close(&err[1]);
  if (r < 0)
    return r;
  c->input = in[1];
  c->output = out[0];
  r = local_open(&c->errors, err[0]);
  if (!r)
    r = local_open(&c->own, fd_dup(2));
  if (!r)
    watch_errors(c);
  return r;
}
