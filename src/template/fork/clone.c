/* fork, and what a new process does before it is a clone. Runs in templates up to fork(),
 * in the clone from then on.
 *
 * A clone leaves the server loop by returning: cmd_fork returns SERVED_BORN in the child,
 * through serve() to entry.c, which calls clone_born. What the FORK said waits in
 * s->birth; the bytes of its body are still in the inbox, which is not read before they
 * are used. */
#include "template/fork/clone.h"

#include "base/result.h"
#include "moonfork.h"
#include "os/flush.h"
#include "os/proc.h"
#include "os/stdin.h"
#include "template/fork/birth.h"
#include "template/fork/process_group.h"
#include "template/lua/script.h"
#include "template/server/autoreap.h"
#include "template/server/signals.h"
#include "template/server/wakeup.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- before ---- */

int clone_prepare_fork(struct server *s) {
  int r = 0;
  if (s->collector.dirty) {
    leash_hold(&s->leash);
    signals_enter_user(); /* finalisers */
    r = collector_seal(&s->collector, s->L);
    server_end_copy(s);
    signals_leave_user();
    leash_rest(&s->leash);
  }
  if (s->heap)
    heap_inherit(s->heap);
  flush_pending();
  return r;
}

struct complaints {
  struct server *s;
  int to_stderr, worst;
};

static void on_finding(const struct finding *f, void *data) {
  struct complaints *c = data;
  static const char *const labels[] = {[AUDIT_NOTES] = "note",
                                       [AUDIT_WARNS] = "warning",
                                       [AUDIT_REFUSES] = "not safe to fork"};
  int severity = (int)audit_kinds[f->kind].severity;
  char line[AUDIT_LINE_MAX];
  finding_line(f, line, sizeof line);
  if (severity > c->worst)
    c->worst = severity;
  if (c->to_stderr)
    fprintf(stderr, "moonfork: %s: %s\n", labels[severity], line);
  if (severity == AUDIT_NOTES)
    return;
  struct failure_record *to = &c->s->failure;
  size_t at = to->nmessage, room = sizeof to->message - at;
  int n = snprintf(to->message + at, room, "%s%s", at ? "\n" : "", line);
  if (n > 0)
    to->nmessage += (size_t)n < room ? (size_t)n : room - 1;
}

static int l_find(lua_State *L) {
  struct complaints *c = lua_touserdata(L, 1);
  audit_findings(L, &c->s->audit, on_finding, c);
  return 0;
}

int clone_await_threads(const struct server *s) {
  enum { THREAD_END_MS = 5000 };
  return s->await_threads ? s->await_threads(s, THREAD_END_MS) : 0;
}

/* The findings of an explicit seal. */
static int audit_aloud(struct server *s, int level) {
  struct complaints c = {.s = s, .to_stderr = level == MF_SEAL_AUDIT_WARN, .worst = -1};
  audit_touch(&s->audit);
  (void)clone_await_threads(s);
  if (script_protect(s, l_find, &c, 0, FAILURE_NOMEM, PHASE_SEAL) < 0)
    return -1;
  if (level != MF_SEAL_AUDIT_STRICT || c.worst < AUDIT_WARNS)
    return 0;
  s->failure.code = FAILURE_FORK;
  s->failure.phase = PHASE_SEAL;
  return -1;
}

int clone_audit_aloud(struct server *s, int level) {
  if (level)
    s->audit_level = level;
  return level == 0 || level == MF_SEAL_AUDIT_OFF ? 0 : audit_aloud(s, level);
}

int clone_audit(struct server *s) {
  char reason[AUDIT_REASON_MAX];
  if (s->audit_level == MF_SEAL_AUDIT_OFF ||
      audit_check(s->L, &s->audit, reason, sizeof reason) == 0)
    return 0;
  failure_record_set(&s->failure, FAILURE_FORK, PHASE_FORK, 0, reason);
  return -1;
}

/* ---- fork ---- */

/* s->failure says so. -1. */
static int deny_at(const char *origin, struct server *s, int code, int error,
                   const char *what) {
  char text[256];
  snprintf(text, sizeof text, "%s: %s", what, strerror(error));
  failure_record_set_at(origin, &s->failure, code, PHASE_FORK, error, text);
  return -1;
}
#define deny(...) deny_at(ORIGIN, __VA_ARGS__)

/* Hooks don't unseal: a hook that runs at every fork would make every fork a collection.
 */
int clone_before_fork(struct server *s) {
  if (!script_has_before_fork())
    return 0;
  leash_hold(&s->leash);
  signals_enter_user();
  int r = script_before_fork(s);
  server_end_copy(s);
  signals_leave_user();
  leash_rest(&s->leash);
  audit_touch(&s->audit);
  return r;
}

/* In the child: everything that outlives the return to entry.c. */
static int be_born(struct server *s, const struct options *o, struct fdset *fds,
                   int sibling) {
  if (s->accepting.fd > 0)
    accepting_close(&s->accepting);
  s->birth.options = *o;
  process_group_born(s, &s->birth.options);
  s->birth.sibling = sibling;
  fdset_init(&s->birth.fds);
  for (int i = 0; i < fds->n;
       i++) /* not all at once: it has room for many, in two pages */
    fdset_push(&s->birth.fds, fdset_steal(fds, i));
  s->birth.slot = slots_at(&s->slots, o->slot);
  s->birth.slot_text = slots_text(&s->slots, o->slot);
  return SERVED_BORN;
}

/* Where a clone can't be a child of our parent, it is ours. That shows at the first fork:
 * a process 1, a sandbox. From then on the pipe is the clones' leash. */
static int is_refused(int error) {
  return error == EINVAL || error == EPERM || error == ENOSYS;
}

static pid_t fork_sibling(struct server *s, const struct options *o) {
  volatile uint32_t *birth = slots_birth(&s->slots, o->slot);
  if (!s->may_sibling || !birth) {
    errno = ENOSYS;
    return -1;
  }
  pid_t pid = birth_sibling(birth);
  if (pid > 0)
    leash_drop_pipe(&s->leash);
  if (pid < 0 && is_refused(errno))
    s->may_sibling = 0;
  return pid;
}

/* told: where the agent looks for the number of a child of ours, which the kernel does
 * not write there; or NULL. The clone says nothing before it stands there. */
static pid_t fork_child(volatile uint32_t *told) {
  int gate[2] = {-1, -1};
  char none;
  if (autoreap_prepare() < 0) {
    errno = ENOMEM;
    return -1;
  }
  if (told && pipe2(gate, O_CLOEXEC) < 0) /* then it may be late */
    gate[0] = gate[1] = -1;
  pid_t pid = fork();
  int error = errno;
  if (pid > 0) {
    autoreap_add(pid);
    if (told)
      *told = (uint32_t)pid;
  }
  fd_close(&gate[1]);
  while (pid == 0 && gate[0] >= 0 && read(gate[0], &none, 1) < 0 && errno == EINTR)
    ;
  fd_close(&gate[0]);
  errno = error;
  return pid;
}

/* As fork(); *ret_sibling: whose child it is. A slot belongs to one process until its
 * parent has seen the number there and cleared it: a command that comes twice would hide
 * the first child from it for ever. */
static pid_t make_clone(struct server *s, const struct options *o, int *ret_sibling) {
  const volatile uint32_t *birth = slots_birth(&s->slots, o->slot);
  if (birth && *birth) {
    errno = EBUSY;
    return -1;
  }
  *ret_sibling = 1;
  pid_t pid = fork_sibling(s, o);
  if (pid >= 0 || !is_refused(errno))
    return pid;
  *ret_sibling = 0;
  return fork_child(s->owner_is_agent ? slots_birth(&s->slots, o->slot) : NULL);
}

static int take_step(struct server *s, struct fdset *fds, const struct options *o) {
  int births = fdset_steal(fds, 1), words = fdset_steal(fds, 2);
  int r = slots_map(&s->slots, o->step_first, o->step_count, births, words);
  fd_close(&births);
  fd_close(&words);
  return r;
}

int clone_parse_fork(struct options *o, const struct command *c) {
  return options_parse(o, c->body, c->length, 1) == 0 && (!o->connection || !o->thread) &&
         c->fds->n + (o->connection != 0) ==
             options_first_stdio(o) + o->nstdio_fds + o->ncommand_fds;
}

int clone_fork(struct server *s, const struct options *o, struct fdset *fds,
               int *ret_sibling) {
  int r = o->has_step ? take_step(s, fds, o) : 0;
  if (r < 0)
    return deny(s, FAILURE_NOMEM, -r, "memory for the news of clones");
  if (clone_await_threads(s) > 0)
    return deny(s, FAILURE_FORK, EBUSY, "clones that are threads of the template run");
  if (clone_before_fork(s) < 0)
    return -1;
  if (clone_prepare_fork(s) < 0)
    return deny(s, FAILURE_NOMEM, ENOMEM, "the template can't be sealed");
  if (clone_audit(s) < 0)
    return -1;
  if (server_before_first_fork) { /* after the audit, which needs stack */
    server_before_first_fork();
    server_before_first_fork = NULL;
  }
  struct slot *slot = slots_at(&s->slots, o->slot);
  if (slot)
    slot->lua_live = server_lua_live(s);
  if (slot && s->accepting.fd > 0) /* a hook may install a filter of system calls */
    slot->listens = !script_has_before_fork() && accepting_is_usable(&s->accepting);
  signals_before_fork();
  pid_t pid = make_clone(s, o, ret_sibling);
  int error = errno;
  if (pid == 0)
    return be_born(s, o, fds, *ret_sibling);
  signals_after_fork();
  if (pid < 0)
    return deny(s, FAILURE_FORK, error, "fork");
  process_group_await_leaving(s, pid);
  s->nforks++;
  return 0;
}

/* ---- options ---- */

static int fail_option(struct server *s, const char *what, int error) {
  server_fail_with(s, error == ENOTSUP ? FAILURE_UNSUPPORTED : FAILURE_INVAL,
                   PHASE_OPTION, error, "option %s: %s", what, strerror(error));
  return -1;
}

static int apply_stdio(struct server *s, const struct options *o, struct fdset *fds) {
  static const char *const names[3] = {"stdin", "stdout", "stderr"};
  int next = 0, null_fd = -1, r = 0;
  for (int i = 0; i < 3 && r == 0; i++) {
    int kind = o->stdio[i], from = -1;
    s->to_socket[i] = kind == MF_STDIO_SOCKET;
    if (kind == MF_STDIO_INHERIT)
      continue;
    if (kind == MF_STDIO_FD)
      from = fds->fd[next];
    else
      from = null_fd = null_fd < 0 ? fd_open_null() : null_fd;
    if (from < 0 || dup2(from, i) < 0)
      r = fail_option(s, names[i], from < 0 ? -from : errno);
    if (kind == MF_STDIO_FD)
      fd_close(&fds->fd[next++]);
    if (i == 0)
      stdin_reset();
  }
  fd_close(&null_fd);
  return r;
}

static int apply_change(struct text t, int unset) {
  char *copy = strndup(t.p, t.n);
  if (!copy)
    return -ENOMEM;
  char *equals = strchr(copy, '=');
  if (equals)
    *equals = 0;
  int r = unset ? unsetenv(copy) : setenv(copy, equals ? equals + 1 : "", 1);
  int error = errno;
  free(copy);
  return r < 0 ? -error : 0;
}

static int apply_env(struct server *s, const struct options *o) {
  struct env_change change;
  size_t at = 0;
  int r;
  if (!o->has_env)
    return 0;
  while (options_next_env(o, &at, &change))
    if ((r = apply_change(change.text, change.unset)) < 0)
      return fail_option(s, "env", -r);
  return 0;
}

static int apply_cwd(struct server *s, const struct options *o) {
  char what[300];
  if (!o->cwd.p)
    return 0;
  char *path = strndup(o->cwd.p, o->cwd.n);
  if (!path)
    return fail_option(s, "cwd", ENOMEM);
  int r = chdir(path), error = errno;
  snprintf(what, sizeof what, "cwd %s", *path ? path : "''");
  free(path);
  return r < 0 ? fail_option(s, what, error) : 0;
}

struct found_fds {
  int *fd;
  size_t n, cap;
  int failed;
};

static void collect_fd(int fd, void *data) {
  struct found_fds *f = data;
  if (f->n == f->cap) {
    size_t cap = f->cap ? f->cap * 2 : 64;
    int *grown = realloc(f->fd, cap * sizeof *grown);
    if (!grown) {
      f->failed = 1;
      return;
    }
    f->fd = grown;
    f->cap = cap;
  }
  f->fd[f->n++] = fd;
}

static int is_own(const struct server *s, const struct fdset *fds, int fd) {
  if (server_has_fd(s, fd))
    return 1;
  for (int i = 0; i < fds->n; i++)
    if (fds->fd[i] == fd)
      return 1;
  for (int i = 0; i < s->birth.fds.n; i++)
    if (s->birth.fds.fd[i] == fd)
      return 1;
  return 0;
}

/* handles="close": numbers that the template's code remembers must not come to mean
 * something else, so /dev/null takes their places. */
static int apply_handles(struct server *s, const struct options *o,
                         const struct fdset *fds) {
  struct found_fds found = {0};
  if (o->handles != MF_HANDLES_CLOSE)
    return 0;
  fd_each(3, collect_fd, &found);
  int null_fd = fd_open_null(), r = 0;
  if (found.failed || null_fd < 0)
    r = fail_option(s, "handles", null_fd < 0 ? -null_fd : ENOMEM);
  for (size_t i = 0; i < found.n && r == 0; i++)
    if (!is_own(s, fds, found.fd[i]) && dup3(null_fd, found.fd[i], O_CLOEXEC) < 0)
      r = fail_option(s, "handles", errno);
  fd_close(&null_fd);
  free(found.fd);
  return r;
}

static int apply_tree(struct server *s, const struct options *o, int leash) {
  int r = process_group_lead(s, o, leash);
  if (r == -ENOENT || r == -EACCES)
    server_fail_with(s, FAILURE_UNSUPPORTED, PHASE_OPTION, -r,
                     "option tree: it needs /proc for its leash: %s", strerror(-r));
  else if (r == -EMFILE || r == -ENFILE)
    server_fail_with(s, FAILURE_LIMIT, PHASE_OPTION, -r,
                     "option tree: no free descriptor for its leash (limit nofile)");
  else if (r < 0)
    fail_option(s, "tree", -r);
  return r < 0 ? -1 : 0;
}

int clone_apply_options(struct server *s, const struct options *o, int leash,
                        struct fdset *fds) {
  if (o->name.p) {
    size_t n = o->name.n < sizeof s->name ? o->name.n : sizeof s->name - 1;
    memcpy(s->name, o->name.p, n);
    s->name[n] = 0;
  }
  if (o->dumpable && proc_set_dumpable(o->dumpable == MF_DUMPABLE_YES) < 0)
    return fail_option(s, "dumpable", errno);
  s->leash_mode = o->leash;
  if (o->session && setsid() < 0 && getsid(0) != getpid())
    return fail_option(s, "session", errno);
  if (apply_tree(s, o, leash) < 0)
    return -1;
  if (apply_stdio(s, o, fds) < 0 || apply_env(s, o) < 0 || apply_cwd(s, o) < 0)
    return -1;
  return apply_handles(s, o, fds);
}

/* ---- after ---- */

/* The numbers are those of doc/design.md, "Birth of a clone".
 * 3. Signals: until here all are blocked, so that no handler of the template's ran. */
void clone_after_fork(struct server *s) {
  wakeup_forked();
  server_take_pid(s);
  s->nforks = 0;
  signals_forked();
  slots_forked(&s->slots);
  s->last_words = NULL; /* the template's, and not mapped here */
  leash_forked(&s->leash, s->birth.sibling, s->birth.options.tree == MF_TREE_YES);
  if (s->heap) /* 4. */
    heap_forked(s->heap);
  collector_forked(&s->collector, s->L);
  if (s->heap)
    heap_publish(s->heap, s->slot ? &s->slot->lua_live : NULL, 1);
}

static void run_on_fork(struct server *s) {
  if (!script_has_on_fork(s))
    return;
  s->hide_args = 1;
  server_enter_user(s); /* 6. arms the leash */
  int r = script_on_fork(s);
  server_leave_user(s);
  s->hide_args = 0;
  if (r < 0)
    server_fail(s);
}

static int steal_leash(struct server *s, const struct options *o) {
  return o->ntree_fds ? fdset_steal(&s->birth.fds, options_first_stdio(o) - 1) : -1;
}

/* A thread begins with a record of its own, where all this is done
 * (thread/thread_clone.c). */
static void be_process(struct server *s) {
  connection_forked(&s->conn); /* 2. the template's socket first of all */
  fd_close(&s->intake_fd);     /* of a clone that has a socket */
  s->slot = s->birth.slot;
  s->slot_text = s->birth.slot_text;
  clone_after_fork(s);
}

void clone_born(struct server *s) {
  const struct options *o = &s->birth.options;
  if (!s->thread)
    be_process(s);
  if (s->birth.flags & FRAME_BARE)
    connection_adopt_intake(&s->conn, fdset_steal(&s->birth.fds, 0));
  else
    connection_adopt(&s->conn, fdset_steal(&s->birth.fds, 0));
  s->is_clone = 1;
  s->phase = SERVE_SERVING;
  s->exit_code = 0;
  s->title_stale = !o->has_run;
  struct fdset stdio;
  fdset_init(&stdio);
  for (int i = 0; i < o->nstdio_fds; i++)
    fdset_push(&stdio, fdset_steal(&s->birth.fds, options_first_stdio(o) + i));
  if (!s->birth.sibling)
    s->may_sibling = 0;
  if (!s->birth.sibling || o->introduce) {
    server_answer_hello(s);
    connection_flush(&s->conn);
  }
  if ((s->birth.settle && s->birth.settle(s) < 0) ||
      (!s->birth.is_seeded && script_reseed(s) < 0))
    server_fail(s);
  else if (clone_apply_options(s, o, steal_leash(s, o), &stdio) == 0) /* 5. */
    run_on_fork(s);                                                   /* 7. */
  fdset_close(&stdio);
}
