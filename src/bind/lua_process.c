/* Raw processes: one mf_process behind a userdata, each function one call of the library.
 * The userdata has no finaliser: it is kept by its cell, the cell by the registry, until
 * close() or the end of the state, so that what is under way outlives the objects that
 * Lua programs hold. Runs in the parent. */
#include "bind/lua_process.h"

#include "bind/far_handle.h"
#include "bind/loan.h"
#include "bind/lua_options.h"
#include "os/fd.h"
#include "os/sock.h"
#include "socket/socket.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

enum { ARG_COPY_MAX = 4096 }; /* longer strings are lent, not copied */

/* ---- events from the library ---- */

/* p stays until it was popped. */
static void deliver(struct proc *p, struct completion *c) {
  p->holds++;
  completion_done(c);
}

static void tell_exit(struct proc *p) {
  if (p->told || !p->watched || !p->known)
    return;
  p->told = 1;
  deliver(p, &p->exit);
}

static void on_exit_known(mf_process *process, const mf_exit *status, void *data) {
  struct proc *p = data;
  (void)process;
  if (p->known)
    return;
  ending_set(&p->exit.ending, status);
  p->known = 1;
  tell_exit(p);
}

static void on_failure(mf_process *process, const mf_error *error, void *data) {
  struct proc *p = data;
  (void)process;
  completion_set_error(&p->error, error);
  if (p->common)
    p->failed = 1;
  else
    deliver(p, &p->error);
}

static void on_socket(mf_process *process, const mf_error *error, int fd, void *data) {
  struct completion *c = data;
  (void)process;
  completion_set_error(c, error);
  c->fd = fd;
  completion_done(c);
}

void proc_unhold(struct proc *p) {
  if (--p->holds > 0)
    return;
  completion_clear(&p->exit);
  completion_clear(&p->error);
  reactor_discard(p->reactor, &p->exit.trash);
}

void proc_ask_exit(struct proc *p) {
  if (!p->process)
    return;
  mf_exit_quiet(p->process, !p->watched);
  if (!p->asked)
    mf_on_exit(p->process, on_exit_known, p);
  p->asked = 1;
  tell_exit(p);
}

static void on_closed(mf_process *process, void *data) {
  struct proc *p = data;
  (void)process;
  p->reactor->nclosing--;
  proc_unhold(p);
}

/* ---- popping ---- */

/* on_exit's callback of an object on the common path: what it knows stays for wait(). */
static int push_common_exit(lua_State *L, struct proc *p) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
  bind_ending_push(L, &p->exit.ending);
  list_remove(&p->exit.link);
  reactor_unref(L, p->reactor, p->exit.trash.ref);
  p->exit.trash.ref = LUA_NOREF;
  p->popped = 1;
  if (p->is_dropped)
    bound_release(p);
  proc_unhold(p);
  return -2;
}

static int push_exit(lua_State *L, struct completion *c) {
  struct proc *p = list_entry(c, struct proc, exit);
  if (p->common)
    return push_common_exit(L, p);
  completion_push(L, c, "exit");
  bind_ending_push(L, &c->ending);
  list_remove(&c->link);
  completion_clear(c);
  proc_unhold(p);
  return 4;
}

static int push_failure(lua_State *L, struct completion *c) {
  completion_push(L, c, "error");
  lua_pushnil(L);
  list_remove(&c->link);
  completion_clear(c);
  proc_unhold(list_entry(c, struct proc, error));
  return 4;
}

/* The end of the state: the process is closed, and nobody pops the other one either. */
static void forget_exit(struct completion *c) {
  completion_clear(c);
  reactor_discard(c->reactor, &c->trash);
}

static void forget_failure(struct completion *c) {
  completion_clear(c);
  reactor_discard(c->reactor, &list_entry(c, struct proc, error)->exit.trash);
}

static const struct completion_ops exit_ops = {push_exit, forget_exit};
static const struct completion_ops error_ops = {push_failure, forget_failure};

int proc_push_socket(lua_State *L, struct completion *c, const char *kind) {
  int n = kind ? completion_push(L, c, kind) : completion_push_answer(L, c);
  if (c->fd < 0)
    lua_pushnil(L);
  else {
    socket_adopt_unix(socket_new(L), c->fd); /* what raises leaves it there */
    c->fd = -1;
  }
  return n + 1;
}

static int push_socket(lua_State *L, struct completion *c) {
  int n = proc_push_socket(L, c, "call");
  completion_end(c);
  return n;
}

static const struct completion_ops socket_ops = {push_socket, completion_end};

/* ---- life ---- */

static void release(struct resident *r) {
  bound_release(list_entry(r, struct proc, resident));
}

struct proc *proc_new(struct reactor *r, int ref) {
  struct proc *p = blockpool_take(&r->procs, sizeof(*p));
  if (!p)
    return NULL;
  memset(p, 0, offsetof(struct proc, run)); /* run: when it is asked for */
  list_init(&p->resident.link);
  p->resident.release = release;
  p->reactor = r;
  completion_init(&p->exit, r, &exit_ops);
  completion_init(&p->error, r, &error_ops);
  p->exit.behind = p->error.behind = &p->behind;
  p->exit.trash.ref = p->error.trash.ref = ref;
  p->exit.trash.block = p;
  p->exit.trash.pool = &r->procs;
  return p;
}

void proc_begin(struct proc *p, mf_process *process) {
  p->process = process;
  p->holds = 1;
  list_push(&p->reactor->residents, &p->resident.link);
  mf_on_error(process, on_failure, p);
  reactor_touch(p->reactor);
}

struct proc bound_of_others = {.reactor = &reactor_of_others, .pid = -1};

static int l_copied(lua_State *L) {
  struct proc **box = lua_touserdata(L, 1);
  if (*box)
    *box = &bound_of_others;
  return 0;
}

void bound_open(lua_State *L) {
  luaL_newmetatable(L, BIND_PROCESS);
  lua_pushliteral(L, "moonfork.process");
  lua_setfield(L, -2, "__name");
  reactor_copies(L, l_copied, NULL);
  lua_pop(L, 1);
}

struct proc *bound_push(lua_State *L, struct reactor *r, int cell) {
  cell = lua_absindex(L, cell);
  struct proc **box = lua_newuserdatauv(L, sizeof(*box), 0);
  *box = NULL;
  luaL_setmetatable(L, BIND_PROCESS);
  lua_pushvalue(L, cell);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct proc *p = proc_new(r, ref);
  if (!p) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    bind_result_push(L, -ENOMEM);
    return NULL;
  }
  *box = p;
  return p;
}

int bound_fill(lua_State *L, struct proc *p, int rc, mf_process *process) {
  struct proc **box = lua_touserdata(L, -1);
  if (rc < 0) {
    *box = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, p->exit.trash.ref);
    blockpool_give(&p->reactor->procs, p);
    return bind_result_push(L, rc);
  }
  proc_begin(p, process);
  return 1;
}

/* What a pool was given: told of its end, or before the pool closes it. */
static void on_given_exit(mf_process *process, const mf_exit *status, void *data) {
  on_exit_known(process, status, data);
  bound_gone(data);
  proc_unhold(data);
}

void bound_lend(struct proc *p) {
  p->lent = 1;
  if (p->watched || p->asked)
    return;
  mf_exit_quiet(p->process, 1);
  mf_on_exit(p->process, on_exit_known, p); /* its end may be asked for when it is gone */
}

void bound_give(struct proc *p) {
  p->holds++;
  p->lent = 1;
  mf_exit_quiet(p->process, 1);
  mf_on_exit(p->process, on_given_exit, p);
}

void bound_gone(struct proc *p) {
  if (p->process)
    p->pid = mf_pid(p->process);
  p->process = NULL;
  if (p->dropped)
    proc_unhold(p);
}

void bound_release(struct proc *p) {
  mf_process *process = p->process;
  list_remove(&p->resident.link);
  if (process)
    reactor_unattend(p->reactor, process);
  if (p->lent && process) {
    p->dropped = 1; /* bound_gone is still to come */
    return;
  }
  if (p->lent) {
    proc_unhold(p);
    return;
  }
  p->process = NULL;
  p->reactor->nclosing++;
  mf_close(process, on_closed, p);
}

struct proc *bound_check_any(lua_State *L, int idx) {
  struct proc **box = luaL_checkudata(L, idx, BIND_PROCESS);
  if (!*box)
    luaL_error(L, "the process is closed");
  else if (reactor_foreign((*box)->reactor))
    luaL_error(L,
               "the process object belongs to the process that this one was forked from");
  reactor_get(L);
  return *box;
}

struct proc *bound_check(lua_State *L, int idx) {
  struct proc *p = bound_check_any(L, idx);
  if (!p->process)
    luaL_error(L, "the process is closed");
  return p;
}

int bound_done(lua_State *L, struct proc *p, int rc) {
  reactor_touch(p->reactor);
  if (rc != MF_ELIMIT)
    return bind_result_push(L, rc);
  lua_pushnil(L);
  bind_error_push(
      L, "LIMIT",
      "a command, and all arguments of a process together, have 4 GiB at most", NULL,
      MF_STARTED_NO, NULL);
  return 2;
}

/* ---- make: -> raw; or nil, error ---- */

static int refused(lua_State *L, const char *code, const char *why) {
  lua_pushnil(L);
  bind_error_push(L, code, why, NULL, MF_STARTED_NO, NULL);
  return 2;
}

int bound_unsupported(lua_State *L, const char *why) {
  return refused(L, "UNSUPPORTED", why);
}

/* o: the options that were asked for. */
static int made(lua_State *L, struct proc *p, int rc, mf_process *process,
                const mf_options *o, int is_remote) {
  char room[FAR_HANDLE_TEXT];
  const char *why =
      rc == MF_EUNSUPPORTED ? far_options_refusal(room, o, is_remote) : NULL;
  int n = bound_fill(L, p, rc, process);
  return why ? bound_unsupported(L, why) : n;
}

static int make(lua_State *L, int (*make_process)(const mf_options *, mf_process **)) {
  mf_options options;
  mf_process *process = NULL;
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  bind_options_read(L, 2, r, &options);
  struct proc *p = bound_push(L, r, 1);
  if (!p)
    return 2;
  int rc = make_process(&options, &process);
  return made(L, p, rc, process, &options, make_process == mf_remote);
}

static int l_new(lua_State *L) { /* new(cell, options) */
  return make(L, mf_new);
}

static int l_new_exec(lua_State *L) { /* new_exec(cell, options) */
  return make(L, mf_new_exec);
}

static int l_remote(lua_State *L) { /* remote(cell, options) */
  return make(L, mf_remote);
}

static int l_fork(lua_State *L) { /* fork(raw, cell, options) */
  mf_options options;
  mf_process *process = NULL;
  struct proc *source = bound_check(L, 1);
  bind_options_read(L, 3, source->reactor, &options);
  struct proc *p = bound_push(L, source->reactor, 2);
  if (!p)
    return 2;
  int rc = mf_fork_options(source->process, &options, &process);
  return made(L, p, rc, process, &options, mf_is_remote(source->process));
}

/* from_fd(cell, options, fd, copy) -> raw; or nil, error, is fd still the caller's? It is
 * taken, or (copy) a duplicate is used. */
static int l_from_fd(lua_State *L) {
  mf_options options;
  mf_process *process = NULL;
  struct reactor *r = reactor_get(L);
  int fd = (int)luaL_checkinteger(L, 3), copy = lua_toboolean(L, 4);
  if (!r) {
    lua_pushboolean(L, 1);
    return 3;
  }
  if (!sock_is_nameless(fd)) {
    lua_pushnil(L);
    bind_error_push(L, "EINVAL", "the handle is no process: a socket from to_fd expected",
                    NULL, MF_STARTED_NO, NULL);
    lua_pushboolean(L, 1);
    return 3;
  }
  bind_options_read(L, 2, r, &options);
  struct proc *p = bound_push(L, r, 1);
  if (!p) {
    lua_pushboolean(L, 1);
    return 3;
  }
  if (copy)
    fd = fd_dup(fd);
  int rc = fd < 0 ? fd : mf_from_fd(&options, fd, &process);
  return bound_fill(L, p, rc, process);
}

/* ---- prepare: -> true; or nil, error ---- */

static int l_require(lua_State *L) { /* require(raw, module) */
  struct proc *p = bound_check(L, 1);
  return bound_done(L, p, mf_require(p->process, luaL_checkstring(L, 2)));
}

static int l_eval(lua_State *L) { /* eval(raw, name of the chunk, code, string...) */
  struct proc *p = bound_check(L, 1);
  size_t length;
  const char *name = luaL_checkstring(L, 2);
  const char *code = luaL_checklstring(L, 3, &length);
  int argc = lua_gettop(L) - 3;
  const char **argv = lua_newuserdatauv(L, sizeof(*argv) * (size_t)(argc + 1), 0);
  size_t *lengths = lua_newuserdatauv(L, sizeof(*lengths) * (size_t)(argc + 1), 0);
  for (int i = 0; i < argc; i++)
    argv[i] = luaL_checklstring(L, i + 4, &lengths[i]);
  return bound_done(L, p,
                    mf_eval_named(p->process, name, code, length, argc, argv, lengths));
}

static int l_send_fd(lua_State *L) { /* send_fd(raw, fd) */
  struct proc *p = bound_check(L, 1);
  char room[FAR_HANDLE_TEXT];
  int fd = (int)luaL_checkinteger(L, 2), rc = mf_send_fd(p->process, fd);
  if (rc == MF_EUNSUPPORTED)
    return bound_unsupported(L, far_handle_refusal(room, "the handle", fd));
  if (rc == MF_EINVAL) /* it is open: the caller has looked */
    return refused(L, "EINVAL", "a socket of the library's own can't be sent");
  return bound_done(L, p, rc);
}

static int l_send_arg(lua_State *L) { /* send_arg(raw, string) */
  struct proc *p = bound_check(L, 1);
  size_t length;
  luaL_checktype(L, 2, LUA_TSTRING);
  const char *s = lua_tolstring(L, 2, &length);
  if (length <= ARG_COPY_MAX)
    return bound_done(L, p, mf_send_arg(p->process, s, length));
  void *loan = loan_new(L, p->reactor, 2, NULL);
  return bound_done(
      L, p, loan ? mf_send_arg_ref(p->process, s, length, loan_release, loan) : -ENOMEM);
}

static int l_take_args(lua_State *L) { /* take_args(raw) */
  struct proc *p = bound_check(L, 1);
  return bound_done(L, p, mf_take_args(p->process));
}

static int l_chdir(lua_State *L) { /* chdir(raw, path) */
  struct proc *p = bound_check(L, 1);
  return bound_done(L, p, mf_chdir(p->process, luaL_checkstring(L, 2)));
}

static int l_setenv(lua_State *L) { /* setenv(raw, name, value | nil) */
  struct proc *p = bound_check(L, 1);
  const char *name = luaL_checkstring(L, 2);
  return bound_done(L, p, mf_setenv(p->process, name, luaL_optstring(L, 3, NULL)));
}

static int l_seal(lua_State *L) { /* seal(raw, gc 0..2, audit 0..3) */
  static const int audits[] = {0, MF_SEAL_AUDIT_OFF, MF_SEAL_AUDIT_WARN,
                               MF_SEAL_AUDIT_STRICT};
  struct proc *p = bound_check(L, 1);
  int gc = (int)luaL_checkinteger(L, 2) & 3;
  int audit = (int)luaL_checkinteger(L, 3) & 3;
  return bound_done(L, p, mf_seal(p->process, gc | audits[audit]));
}

static int
l_limit(lua_State *L) { /* limit(raw, {name, value, ...}); value -1: infinity */
  enum { LIMITS_MAX = 16 };
  mf_rlimit limits[LIMITS_MAX];
  struct proc *p = bound_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  size_t n = lua_rawlen(L, 2) / 2;
  luaL_argcheck(L, n <= LIMITS_MAX, 2, "too many limits");
  luaL_checkstack(L, (int)(2 * n) + 2, NULL);
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 2, (lua_Integer)(2 * i + 1));
    lua_rawgeti(L, 2, (lua_Integer)(2 * i + 2));
    limits[i].name = luaL_checkstring(L, -2);
    limits[i].value = (uint64_t)luaL_checkinteger(L, -1); /* -1 is MF_LIMIT_INFINITY */
  }
  return bound_done(L, p, mf_limit(p->process, limits, n));
}

/* ---- finish: the function is called with error, value. -> true; or nil, error ---- */

int bound_refused(lua_State *L, struct proc *p, struct completion *c, int rc) {
  if (rc < 0 && c)
    completion_drop(L, c);
  return bound_done(L, p, rc);
}

static int l_run(lua_State *L) { /* run(raw, name, f); name nil: the suspended function */
  struct proc *p = bound_check(L, 1);
  const char *name = luaL_optstring(L, 2, NULL);
  struct completion *c = completion_new(L, p->reactor, &socket_ops, 3);
  return bound_refused(L, p, c, c ? mf_run(p->process, name, on_socket, c) : -ENOMEM);
}

static int l_may_go_on(lua_State *L) { /* may_go_on(raw): may run have no name? */
  struct proc *p = bound_check_any(L, 1);
  lua_pushboolean(L, p->process && mf_may_go_on(p->process));
  return 1;
}

static int l_to_fd_refusal(lua_State *L) { /* to_fd_refusal(raw) -> error; or nothing */
  if (!mf_is_remote(bound_check(L, 1)->process))
    return 0;
  bound_unsupported(
      L, "to_fd: a remote process can't be given to another process, which would not "
         "learn how it and its clones end (start one with fork.remote there)");
  return 1; /* the error, without the nil before it */
}

static int l_to_fd(lua_State *L) { /* to_fd(raw, f) */
  struct proc *p = bound_check(L, 1);
  struct completion *c = completion_new(L, p->reactor, &socket_ops, 2);
  return bound_refused(L, p, c, c ? mf_to_fd(p->process, on_socket, c) : -ENOMEM);
}

static int l_is_remote(lua_State *L) { /* is_remote(raw) */
  lua_pushboolean(L, mf_is_remote(bound_check(L, 1)->process));
  return 1;
}

/* run_quiet(raw): the run or to_fd under way is no outstanding work from now on */
static int l_run_quiet(lua_State *L) {
  struct proc *p = bound_check_any(L, 1);
  if (p->process)
    mf_run_quiet(p->process);
  return 0;
}

static int l_finish(lua_State *L) { /* finish(raw) */
  struct proc *p = bound_check(L, 1);
  return bound_done(L, p, mf_finish(p->process));
}

/* ---- ask ---- */

/* watch_exit(raw [, quiet]): "exit" for the cell, once; quiet: no loop waits for it */
static int l_watch_exit(lua_State *L) {
  struct proc *p = bound_check_any(L, 1);
  int rc = 0;
  if (p->process)
    mf_exit_quiet(p->process, lua_toboolean(L, 2));
  if (p->process && !p->watched && !p->asked && !p->lent)
    rc = mf_on_exit(p->process, on_exit_known, p);
  p->watched = 1;
  tell_exit(p);
  return bound_done(L, p, rc);
}

static int l_pid(lua_State *L) { /* pid(raw) -> integer | nil */
  struct proc *p = bound_check_any(L, 1);
  int pid = p->process ? mf_pid(p->process) : p->pid;
  if (pid < 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, pid);
  return 1;
}

static int l_kill(lua_State *L) { /* kill(raw, number) -> true; or nil, error */
  struct proc *p = bound_check_any(L, 1);
  int number = (int)luaL_checkinteger(L, 2);
  int rc = p->process ? mf_kill(p->process, number) : -ESRCH;
  if (rc != -ESRCH)
    return bound_done(L, p, rc);
  lua_pushnil(L);
  bind_error_push(L, "CLOSED", "the process has ended", NULL, MF_STARTED_UNKNOWN, NULL);
  return 2;
}

static int l_close(lua_State *L) { /* close(raw): cancels what is under way */
  struct proc **box = luaL_checkudata(L, 1, BIND_PROCESS);
  struct proc *p = *box;
  if (!p || box_get(L)->closed || reactor_foreign(p->reactor))
    return 0;
  *box = NULL;
  bound_release(p);
  reactor_touch(p->reactor);
  return 0;
}

/* Whether finalisers have to leave it alone. */
static int l_inert(lua_State *L) { /* inert(raw) -> boolean */
  struct proc **box = luaL_checkudata(L, 1, BIND_PROCESS);
  lua_pushboolean(L, !*box || box_get(L)->closed || reactor_foreign((*box)->reactor));
  return 1;
}

const luaL_Reg bind_process_functions[] = {
    {"new", l_new},
    {"new_exec", l_new_exec},
    {"remote", l_remote},
    {"fork", l_fork},
    {"from_fd", l_from_fd},
    {"require", l_require},
    {"eval", l_eval},
    {"send_fd", l_send_fd},
    {"send_arg", l_send_arg},
    {"take_args", l_take_args},
    {"chdir", l_chdir},
    {"setenv", l_setenv},
    {"seal", l_seal},
    {"limit", l_limit},
    {"run", l_run},
    {"may_go_on", l_may_go_on},
    {"to_fd", l_to_fd},
    {"to_fd_refusal", l_to_fd_refusal},
    {"run_quiet", l_run_quiet},
    {"is_remote", l_is_remote},
    {"finish", l_finish},
    {"watch_exit", l_watch_exit},
    {"pid", l_pid},
    {"kill", l_kill},
    {"close", l_close},
    {"inert", l_inert},
    {NULL, NULL},
};
