/* Processes, the loop and descriptors, as functions for lua/moonfork/ffi.lua. Its
 * comments say what each one means; lua/moonfork/ffi_luajit.lua has the same ones. Runs
 * in the parent. */
#include "otherlua/otherlua.h"

#include "bind/option_fields.h"
#include "os/signame.h"
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct core_box {
  struct core *core; /* NULL after shutdown */
};

struct core *core_get(lua_State *L) {
  struct core_box *box = lua_touserdata(L, lua_upvalueindex(1));
  if (!box->core)
    luaL_error(L, "the Lua state is being closed");
  return box->core;
}

double get_token(lua_State *L, int idx) {
  return (double)luaL_checknumber(L, idx);
}

void *get_pointer(lua_State *L, int idx) {
  luaL_checktype(L, idx, LUA_TLIGHTUSERDATA);
  return lua_touserdata(L, idx);
}

int push_code(lua_State *L, int code) {
  if (code >= 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushinteger(L, code);
  return 2;
}

const char *field_string(lua_State *L, int idx, const char *name) {
  lua_getfield(L, idx, name);
  return lua_isnil(L, -1) ? NULL : luaL_checkstring(L, -1);
}

double field_number(lua_State *L, int idx, const char *name, double fallback) {
  lua_getfield(L, idx, name);
  double number = lua_isnil(L, -1) ? fallback : (double)luaL_checknumber(L, -1);
  lua_pop(L, 1);
  return number;
}

/* ---- the loop ---- */

static void on_wake(uv_async_t *wake) {
  (void)wake; /* its turn is all that it is for */
}

/* libuv aborts where its first loop finds too few descriptors: three pipes are as many.
 */
static int check_loop_room(void) {
  int fds[6], n = 0;
  while (n < 6 && pipe(fds + n) == 0)
    n += 2;
  int rc = n < 6 ? -errno : 0;
  while (n > 0)
    close(fds[--n]);
  return rc;
}

static int l_open(lua_State *L) { /* open() -> true; or nil, code */
  struct core *core = core_get(L);
  if (core->is_open)
    return push_code(L, 0);
  int rc = check_loop_room();
  if (rc == 0)
    rc = uv_loop_init(&core->loop);
  if (rc < 0)
    return push_code(L, rc);
  rc = uv_async_init(&core->loop, &core->wake, on_wake);
  if (rc < 0) {
    uv_loop_close(&core->loop);
    return push_code(L, rc);
  }
  uv_unref((uv_handle_t *)&core->wake);
  core->is_open = 1;
  return push_code(L, 0);
}

/* A loop that only has idle things would not look at them. */
static void turn(struct core *core) {
  uv_ref((uv_handle_t *)&core->wake);
  uv_run(&core->loop, UV_RUN_NOWAIT);
  uv_unref((uv_handle_t *)&core->wake);
}

static int l_turn(lua_State *L) { /* turn(): without waiting */
  struct core *core = core_get(L);
  if (core->is_open)
    turn(core);
  return 0;
}

/* outstanding(is_queue_alone) -> boolean: completions wait, or the loop is alive */
static int l_outstanding(lua_State *L) {
  struct core *core = core_get(L);
  int asks_loop = core->is_open && !lua_toboolean(L, 1);
  lua_pushboolean(L, core->first || (asks_loop && uv_loop_alive(&core->loop)));
  return 1;
}

static int loop_timeout(struct core *core) { /* in ms; -1: none */
  if (core->first)
    return 0;
  if (!core->is_open)
    return -1;
  uv_update_time(&core->loop);
  uv_ref((uv_handle_t *)&core->wake);
  int ms = uv_backend_timeout(&core->loop);
  uv_unref((uv_handle_t *)&core->wake);
  return ms;
}

/* block(seconds or nil [, fd, "r" or "w"]) -> is fd ready? Until the loop wants a turn,
 * fd is ready, a signal came, or the time is over. */
static int l_block(lua_State *L) {
  struct core *core = core_get(L);
  int ms = loop_timeout(core);
  if (!lua_isnoneornil(L, 1)) {
    double limit = ceil((double)luaL_checknumber(L, 1) * 1000);
    int most = limit > 1e9 ? 1000000000 : limit > 0 ? (int)limit : 0;
    ms = ms < 0 || most < ms ? most : ms;
  }
  struct pollfd fds[2] = {{.fd = -1}, {.fd = -1}};
  if (core->is_open)
    fds[0] = (struct pollfd){.fd = uv_backend_fd(&core->loop), .events = POLLIN};
  if (!lua_isnoneornil(L, 2)) {
    int writes = *luaL_checkstring(L, 3) == 'w';
    fds[1] = (struct pollfd){.fd = (int)luaL_checkinteger(L, 2),
                             .events = writes ? POLLOUT : POLLIN};
  }
  int n = poll(fds, 2, ms);
  lua_pushboolean(L, n > 0 && fds[1].revents != 0);
  return 1;
}

static int l_now(lua_State *L) { /* now() -> seconds of a clock that only goes forward */
  (void)core_get(L);
  lua_pushnumber(L, (lua_Number)uv_hrtime() / 1e9);
  return 1;
}

static void on_wake_closed(uv_handle_t *wake) {
  *(int *)wake->data = 1;
}

/* shutdown(): everything was closed; lets the loop go. The limit is never met; it stands
 * against a hang at exit. */
static int l_shutdown(lua_State *L) {
  struct core_box *box = lua_touserdata(L, lua_upvalueindex(1));
  struct core *core = core_get(L);
  box->core = NULL;
  int is_closed = 1;
  if (core->is_open) {
    int is_woken = 0;
    mf_reset(&core->loop);
    is_closed = 0;
    for (int i = 0; i < 5000 && core->nhandles > 0; i++) {
      turn(core);
      if (core->nhandles > 0)
        poll(NULL, 0, 1);
    }
    core->wake.data = &is_woken;
    uv_close((uv_handle_t *)&core->wake, on_wake_closed);
    for (int i = 0; i < 5000 && !is_closed; i++) {
      uv_run(&core->loop, UV_RUN_NOWAIT);
      is_closed = is_woken && uv_loop_close(&core->loop) == 0;
      if (!is_closed)
        poll(NULL, 0, 1);
    }
  }
  queue_clear(core);
  if (is_closed) /* else it is still in use: leave it */
    free(core);
  return 0;
}

/* ---- making processes ---- */

static void release_error(struct outcome *c) {
  struct raw_process *p = c->owner;
  if (p->is_closed)
    free(p);
}

void raw_process_free(struct raw_process *p) {
  p->is_closed = 1;
  if (!p->error.is_queued)
    free(p);
}

static void on_closed(mf_process *mf, void *data) {
  struct raw_process *p = data;
  (void)mf;
  p->error.core->nhandles--;
  raw_process_free(p);
}

static void on_error(mf_process *mf, const mf_error *error, void *data) {
  struct raw_process *p = data;
  (void)mf;
  outcome_set_error(&p->error, error);
  outcome_done(&p->error);
}

static const char *const *field_env(lua_State *L, int idx) {
  lua_getfield(L, idx, "env");
  if (lua_isnil(L, -1))
    return NULL;
  int table = lua_gettop(L), n = 0;
  for (;; n++) {
    lua_rawgeti(L, table, n + 1);
    int is_end = lua_isnil(L, -1);
    lua_pop(L, 1);
    if (is_end)
      break;
  }
  const char **env = lua_newuserdata(L, sizeof *env * (size_t)(n + 1));
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, table, i + 1);
    env[i] = luaL_checkstring(L, -1);
    lua_pop(L, 1); /* the table keeps it */
  }
  env[n] = NULL;
  return env;
}

/* The strings are borrowed from the table at idx, and slots on the stack. */
static void read_options(lua_State *L, int idx, struct core *core, mf_options *ret) {
  static const char *const kinds[] = {"stdin", "stdout", "stderr"};
  static const char *const fds[] = {"stdin_fd", "stdout_fd", "stderr_fd"};
  mf_options_init(ret);
  ret->loop = &core->loop;
  luaL_checkstack(L, 20, "too many values");
#define STRING(field, name) ret->field = field_string(L, idx, #name);
#define NUMBER(field, name) ret->field = field_number(L, idx, #name, ret->field);
  PROCESS_STRINGS(STRING)
  PROCESS_NUMBERS(NUMBER)
#undef STRING
#undef NUMBER
  ret->env = field_env(L, idx);
  for (int i = 0; i < 3; i++) {
    ret->stdio[i].kind = (int)field_number(L, idx, kinds[i], MF_STDIO_INHERIT);
    ret->stdio[i].fd = (int)field_number(L, idx, fds[i], 0);
  }
}

static int make(mf_process *source, const char *how, const mf_options *options,
                mf_process **ret) {
  if (source)
    return mf_fork_options(source, options, ret);
  return strcmp(how, "new_exec") == 0 ? mf_new_exec(options, ret) : mf_new(options, ret);
}

/* make(source or nil, "new" | "new_exec" | "fork", options, token) -> process; or nil,
 * code. The completion of the token has the first failure that run does not report. */
static int l_make(lua_State *L) {
  struct core *core = core_get(L);
  struct raw_process *source = lua_isnil(L, 1) ? NULL : get_pointer(L, 1);
  const char *how = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  double token = get_token(L, 4);
  mf_options options;
  read_options(L, 3, core, &options);
  struct raw_process *p = calloc(1, sizeof *p);
  if (!p)
    return push_code(L, MF_ENOMEM);
  outcome_init(&p->error, core, token, GOT_ERROR);
  p->error.release = release_error;
  p->error.owner = p;
  int rc = make(source ? source->mf : NULL, how, &options, &p->mf);
  if (rc < 0) {
    free(p);
    return push_code(L, rc);
  }
  core->nhandles++;
  mf_on_error(p->mf, on_error, p);
  lua_pushlightuserdata(L, p);
  return 1;
}

/* ---- commands ---- */

static mf_process *get_process(lua_State *L, int idx) {
  return ((struct raw_process *)get_pointer(L, idx))->mf;
}

static int l_require(lua_State *L) { /* require(process, module) -> true; or nil, code */
  return push_code(L, mf_require(get_process(L, 1), luaL_checkstring(L, 2)));
}

static int
l_eval(lua_State *L) { /* eval(process, code, string...) -> true; or nil, code */
  mf_process *mf = get_process(L, 1);
  size_t length;
  const char *code = luaL_checklstring(L, 2, &length);
  int n = lua_gettop(L) - 2;
  luaL_checkstack(L, 4, "too many values");
  const char **texts = lua_newuserdata(L, sizeof *texts * (size_t)(n + 1));
  size_t *lengths = lua_newuserdata(L, sizeof *lengths * (size_t)(n + 1));
  for (int i = 0; i < n; i++)
    texts[i] = luaL_checklstring(L, 3 + i, &lengths[i]);
  return push_code(L, mf_eval(mf, code, length, n, texts, lengths));
}

static int
l_send_arg(lua_State *L) { /* send_arg(process, string) -> true; or nil, code */
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  return push_code(L, mf_send_arg(get_process(L, 1), text, length));
}

static int l_send_fd(lua_State *L) { /* send_fd(process, fd) -> true; or nil, code */
  return push_code(L, mf_send_fd(get_process(L, 1), (int)luaL_checkinteger(L, 2)));
}

static void on_run(mf_process *mf, const mf_error *error, int fd, void *data) {
  struct outcome *c = data;
  (void)mf;
  outcome_set_error(c, error);
  c->fd = fd;
  outcome_done(c);
}

static int l_run(lua_State *L) { /* run(process, name, token) -> true; or nil, code */
  struct core *core = core_get(L);
  mf_process *mf = get_process(L, 1);
  const char *name = luaL_checkstring(L, 2);
  struct outcome *c = outcome_new(core, get_token(L, 3), GOT_SOCKET);
  if (!c)
    return push_code(L, MF_ENOMEM);
  int rc = mf_run(mf, name, on_run, c);
  if (rc < 0)
    outcome_free(c);
  return push_code(L, rc);
}

static void on_exit_(mf_process *mf, const mf_exit *status, void *data) {
  struct outcome *c = data;
  (void)mf;
  outcome_set_exit(c, status);
  outcome_done(c);
}

static int l_on_exit(lua_State *L) { /* on_exit(process, token) -> true; or nil, code */
  struct core *core = core_get(L);
  mf_process *mf = get_process(L, 1);
  if (!mf)
    return push_code(L, MF_ECLOSED);
  struct outcome *c = outcome_new(core, get_token(L, 2), GOT_EXIT);
  if (!c)
    return push_code(L, MF_ENOMEM);
  int rc = mf_on_exit(mf, on_exit_, c);
  if (rc < 0)
    outcome_free(c);
  return push_code(L, rc);
}

static int l_finish(lua_State *L) { /* finish(process) -> true; or nil, code */
  return push_code(L, mf_finish(get_process(L, 1)));
}

static int l_kill(lua_State *L) { /* kill(process, number) -> true; or nil, code */
  mf_process *mf = get_process(L, 1);
  return push_code(L, mf ? mf_kill(mf, (int)luaL_checkinteger(L, 2)) : MF_ECLOSED);
}

static int l_pid(lua_State *L) { /* pid(process) -> number; or nil */
  mf_process *mf = get_process(L, 1);
  int pid = mf ? mf_pid(mf) : -1;
  if (pid < 0)
    return 0;
  lua_pushinteger(L, pid);
  return 1;
}

static int l_close(lua_State *L) { /* close(process): it is no more */
  struct raw_process *p = get_pointer(L, 1);
  mf_close(p->mf, on_closed, p);
  return 0;
}

/* ---- descriptors ---- */

static int l_read(lua_State *L) { /* read(fd, n) -> string, "" at the end; or nil, code */
  int fd = (int)luaL_checkinteger(L, 1);
  size_t room = (size_t)luaL_checkinteger(L, 2);
  char *buffer = lua_newuserdata(L, room + 1);
  ssize_t n = read(fd, buffer, room);
  if (n < 0)
    return push_code(L, -errno);
  lua_pushlstring(L, buffer, (size_t)n);
  return 1;
}

/* MSG_NOSIGNAL: a peer that is gone is no reason to end. */
static ssize_t put(int fd, const char *data, size_t length) {
  ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
  return n < 0 && errno == ENOTSOCK ? write(fd, data, length) : n;
}

/* write(fd, string, from) -> how many bytes from that one on; or nil, code */
static int l_write(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  size_t length, from = (size_t)luaL_checkinteger(L, 3) - 1;
  const char *data = luaL_checklstring(L, 2, &length);
  ssize_t n = from < length ? put(fd, data + from, length - from) : 0;
  if (n < 0)
    return push_code(L, -errno);
  lua_pushinteger(L, n);
  return 1;
}

static int l_close_fd(lua_State *L) { /* close_fd(fd) -> true; or nil, code */
  return push_code(L, close((int)luaL_checkinteger(L, 1)) < 0 ? -errno : 0);
}

/* ---- texts ---- */

static int l_error_name(lua_State *L) { /* error_name(code) -> string */
  lua_pushstring(L, mf_errname((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int l_error_text(lua_State *L) { /* error_text(code) -> string */
  lua_pushstring(L, mf_strerror((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* ---- the module ---- */

static const luaL_Reg functions[] = {
    {"open", l_open},
    {"turn", l_turn},
    {"outstanding", l_outstanding},
    {"block", l_block},
    {"now", l_now},
    {"pop", l_pop},
    {"shutdown", l_shutdown},
    {"make", l_make},
    {"require", l_require},
    {"eval", l_eval},
    {"send_arg", l_send_arg},
    {"send_fd", l_send_fd},
    {"run", l_run},
    {"on_exit", l_on_exit},
    {"finish", l_finish},
    {"kill", l_kill},
    {"pid", l_pid},
    {"close", l_close},
    {"read", l_read},
    {"write", l_write},
    {"close_fd", l_close_fd},
    {"error_name", l_error_name},
    {"error_text", l_error_text},
    {NULL, NULL},
};

static void push_signals(lua_State *L) {
  const struct signame *s;
  lua_newtable(L);
  for (size_t i = 0; (s = signame_at(i)); i++) {
    lua_pushinteger(L, s->number);
    lua_setfield(L, -2, s->name);
  }
}

/* The functions into the table on top, with the box below it as upvalue. */
static void add(lua_State *L, const luaL_Reg *list) {
  for (; list->name; list++) {
    lua_pushvalue(L, -2);
    lua_pushcclosure(L, list->func, 1);
    lua_setfield(L, -2, list->name);
  }
}

/* {version, path}: a version, and the object whose text it is. */
static void push_build(lua_State *L, const char *version) {
  Dl_info info;
  lua_createtable(L, 2, 0);
  lua_pushstring(L, version);
  lua_rawseti(L, -2, 1);
  lua_pushstring(L, dladdr(version, &info) && info.dli_fname ? info.dli_fname : "?");
  lua_rawseti(L, -2, 2);
}

static int open_module(lua_State *L) {
  struct core_box *box = lua_newuserdata(L, sizeof *box);
  box->core = calloc(1, sizeof *box->core);
  if (!box->core)
    return luaL_error(L, "moonfork.ffi: not enough memory");
  queue_init(box->core);
  lua_newtable(L);
  add(L, functions);
  add(L, service_functions);
  push_signals(L);
  lua_setfield(L, -2, "signals");
  push_build(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "module");
  push_build(L, mf_version_string());
  lua_setfield(L, -2, "library");
  return 1;
}

/* Named after the Lua it was compiled for: one folder may have several. */
#if LUA_VERSION_NUM == 501
#define OPEN luaopen_moonfork_ffi51
#elif LUA_VERSION_NUM == 502
#define OPEN luaopen_moonfork_ffi52
#elif LUA_VERSION_NUM == 503
#define OPEN luaopen_moonfork_ffi53
#else
#error "for Lua 5.1 to 5.3"
#endif

MF_API int OPEN(lua_State *L);
int OPEN(lua_State *L) {
  return open_module(L);
}
