/* The handlers of the short commands. Runs in templates and clones before run. Bodies are
 * parsed by options_parse.c, Lua is run by script.c; what is here connects the two. */
#include "template/serve/commands.h"

#include "base/result.h"
#include "moonfork.h"
#include "template/fork/clone.h"
#include "template/lua/script.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A copy with a NUL at its end, to be freed; NULL with the command failed where it has
 * NUL bytes inside or there is no memory. */
static char *text_dup(struct server *s, struct text t, int phase) {
  char *copy = memchr(t.p, 0, t.n) ? NULL : strndup(t.p, t.n);
  if (!copy)
    server_fail_with(s, FAILURE_INVAL, phase, EINVAL,
                     "a string with a zero byte can't be used here");
  return copy;
}

static int open_state(struct server *s, const struct options *o) {
  if (s->L)
    return 0;
  if (script_open(s, o) == 0)
    return 0;
  if (s->failure.code == 0)
    server_fail_with(s, FAILURE_NOMEM, PHASE_START, ENOMEM,
                     "not enough memory for an interpreter");
  else
    server_fail(s);
  return -1;
}

int cmd_setup(struct server *s, struct command *c) {
  const unsigned char *body;
  size_t length;
  unsigned version;
  struct options o;
  struct build build;
  s->owner_is_agent = c->id == 0;
  s->owner_pid = c->id ? c->id : (uint64_t)getppid();
  s->may_sibling = (uint64_t)getppid() == s->owner_pid;
  int r = options_parse_setup(c->body, c->length, &body, &length, &version, &build);
  if (r == -EPROTONOSUPPORT) {
    server_answer_hello(s); /* says which version we speak */
    server_fail_with(s, FAILURE_UNSUPPORTED, PHASE_START, EPROTONOSUPPORT,
                     "the parent speaks protocol version %u, this program version %u",
                     version, (unsigned)PROTO_VERSION);
    return 0;
  }
  if (r == 0 && !build_is_own(&build)) {
    server_answer_hello(s);
    server_fail_with(
        s, FAILURE_UNSUPPORTED, PHASE_START, EPROTONOSUPPORT,
        "the parent is moonfork %s for Lua %s, this program is moonfork %s for "
        "Lua %s",
        build.version, build.lua, build_own.version, build_own.lua);
    return 0;
  }
  if (r < 0 || options_parse(&o, body, length, 0) < 0 ||
      c->fds->n != o.nstdio_fds + o.words)
    return server_malformed(s, "malformed setup command");
  if (o.words)
    slots_map_words(&s->last_words, c->fds->fd[o.nstdio_fds]);
  s->collector.gc = o.gc;
  if (o.pipe_leash || !s->may_sibling)
    leash_use_pipe(&s->leash, -1);
  if (clone_apply_options(s, &o, -1, c->fds) < 0 || open_state(s, &o) < 0)
    return 0;
  s->phase = SERVE_SERVING;
  s->title_stale = 1;
  server_answer_hello(s);
  return 0;
}

int cmd_require(struct server *s, struct command *c) {
  server_enter_user(s);
  int r = script_require(s, (const char *)c->body, c->length);
  server_leave_user(s);
  if (r < 0)
    server_fail(s);
  return 0;
}

int cmd_eval(struct server *s, struct command *c) {
  struct eval eval;
  if (options_parse_eval(&eval, c->body, c->length) < 0)
    return server_malformed(s, "malformed eval command");
  server_enter_user(s);
  int r = script_eval(s, &eval);
  server_leave_user(s);
  if (r < 0)
    server_fail(s);
  return 0;
}

int cmd_arg(struct server *s, struct command *c) {
  int r = c->gather ? args_put_gather(&s->args, c->gather)
                    : args_put_string(&s->args, c->body, c->length);
  if (r == -E2BIG)
    server_fail_with(s, FAILURE_LIMIT, PHASE_ARGUMENT, E2BIG,
                     "more than 4 GiB of arguments");
  else if (r < 0)
    server_fail_with(s, FAILURE_NOMEM, PHASE_ARGUMENT, ENOMEM,
                     "not enough memory for an argument");
  return 0;
}

int cmd_fd(struct server *s, struct command *c) {
  for (int i = 0; i < c->fds->n; i++)
    if (args_put_handle(&s->args, fdset_steal(c->fds, i)) < 0) {
      server_fail_with(s, FAILURE_NOMEM, PHASE_ARGUMENT, ENOMEM,
                       "not enough memory for a handle");
      return 0;
    }
  return 0;
}

int cmd_setenv(struct server *s, struct command *c) {
  struct text name, value;
  if (options_parse_setenv(c->body, c->length, &name, &value) < 0)
    return server_malformed(s, "malformed setenv command");
  char *n = text_dup(s, name, PHASE_SETENV);
  char *v = n && value.p ? text_dup(s, value, PHASE_SETENV) : NULL;
  int r = 0;
  if (n && !value.p)
    r = unsetenv(n);
  else if (n && v)
    r = setenv(n, v, 1);
  if (r < 0)
    server_fail_with(s, FAILURE_INVAL, PHASE_SETENV, errno, "setenv %s: %s", n,
                     strerror(errno));
  free(v);
  free(n);
  return 0;
}

int cmd_chdir(struct server *s, struct command *c) {
  char *path = text_dup(s, (struct text){(const char *)c->body, c->length}, PHASE_CHDIR);
  if (path && chdir(path) < 0)
    server_fail_with(s, FAILURE_INVAL, PHASE_CHDIR, errno, "chdir %s: %s", path,
                     strerror(errno));
  free(path);
  return 0;
}

int cmd_seal(struct server *s, struct command *c) {
  int gc = (int)(c->id & (MF_SEAL_INCREMENTAL | MF_SEAL_STOP));
  if (gc > COLLECTOR_STOP)
    return server_malformed(s, "malformed seal command: unknown collector");
  server_enter_user(s); /* finalisers run, and are user code */
  int r = 0,
      level =
          (int)(c->id & (MF_SEAL_AUDIT_OFF | MF_SEAL_AUDIT_WARN | MF_SEAL_AUDIT_STRICT));
  int audited = clone_audit_aloud(s, level); /* first: its garbage is not sealed */
  if (audited == 0) {
    if (gc != s->collector.gc)
      collector_touch(&s->collector);
    s->collector.gc = gc;
    r = collector_seal(&s->collector, s->L);
  }
  server_leave_user(s);
  s->collector.dirty = 0;
  if (r < 0) {
    server_fail_with(s, FAILURE_NOMEM, PHASE_SEAL, ENOMEM, "not enough memory to seal");
    return 0;
  }
  if (audited < 0)
    server_fail(s);
  return 0;
}

int cmd_listen(struct server *s, struct command *c) {
  if (c->lost_fds) {
    accepting_close(&s->accepting);
    return 0;
  }
  if (c->fds->n != 1)
    return server_malformed(s, "malformed listen command");
  accepting_set(&s->accepting, fdset_steal(c->fds, 0));
  return 0;
}

int cmd_take_args(struct server *s, struct command *c) {
  args_clear(&s->args);
  return 0;
}

int cmd_close(struct server *s, struct command *c) {
  s->phase = SERVE_ENDING;
  return 0;
}

/* Somebody has taken up the socket: clones are theirs from now on, in slots of theirs,
 * and they are not the parent of any, unless they are ours. */
int cmd_who(struct server *s, struct command *c) {
  s->owner_pid = c->id;
  s->may_sibling = (uint64_t)getppid() == c->id;
  s->title_stale = 1;
  slots_forget(&s->slots);
  accepting_close(&s->accepting);
  int pipe = c->fds->n ? fdset_steal(c->fds, 0) : -1;
  if (s->may_sibling && !s->leash.by_pipe) /* clones may be asked for before the answer */
    leash_keep_pipe(&s->leash, pipe);
  else
    leash_use_pipe(&s->leash, pipe);
  server_answer_hello(s);
  return 0;
}
