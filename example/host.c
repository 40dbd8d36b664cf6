/* host.c: a C program with a loop, a C module and scripts of its own. It runs as parent
 * and, executed again by the library, as the template program: mf_template_check() at the
 * top of main() tells which. So its scripts find the host's C module in every clone.
 *
 *   host: uv_loop_t --- libmoonfork ---> host as template, with the module "host"
 *     \__ Lua script, fork.use_loop(loop)    \__ clone: greet(socket, ...)
 *
 * 1. From C: a process in a newly executed interpreter, one clone, its answer and exit.
 * 2. From Lua: a script of the host that uses the module on the same loop. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <moonfork.h>
#include <moonfork/template.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

/* ---- the host's C module, in the host's own state and in every template ---- */

static int l_greeting(lua_State *L) {
  lua_pushfstring(L, "Hello, %s, says the host's own module", luaL_checkstring(L, 1));
  return 1;
}

static int open_host_module(lua_State *L) {
  static const luaL_Reg functions[] = {{"greeting", l_greeting}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

static int open_libs(lua_State *L, void *data) {
  luaL_openlibs(L);
  luaL_requiref(L, "host", open_host_module, 0);
  lua_pop(L, 1);
  return 0;
}

/* ---- 1. from C ---- */

struct job {
  uv_pipe_t pipe; /* owns the clone's socket */
  char answer[256], room[256];
  size_t nanswer;
  int failed, exited;
};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  struct job *job = handle->data;
  *buf = uv_buf_init(job->room, sizeof job->room);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  struct job *job = stream->data;
  if (n < 0) { /* the end: the clone has closed its side */
    uv_close((uv_handle_t *)stream, NULL);
    return;
  }
  if (job->nanswer + (size_t)n < sizeof job->answer) {
    memcpy(job->answer + job->nanswer, buf->base, (size_t)n);
    job->nanswer += (size_t)n;
  }
}

static void on_run(mf_process *process, const mf_error *error, int socket, void *data) {
  struct job *job = data;
  if (error) {
    fprintf(stderr, "run: %s\n%s\n", error->message,
            error->traceback ? error->traceback : "");
    job->failed = 1;
    return;
  }
  job->pipe.data = job;
  uv_pipe_open(&job->pipe, socket); /* the socket is ours from here on */
  uv_read_start((uv_stream_t *)&job->pipe, on_alloc, on_read);
}

static void on_exit_status(mf_process *process, const mf_exit *status, void *data) {
  struct job *job = data;
  job->exited = status->known && status->code == 0 && status->signal == 0;
  mf_close(process, NULL, NULL);
}

static const char GREET[] = "local host = require 'host'\n"
                            "function greet(socket, name)\n"
                            "  socket:write(host.greeting(name))\n"
                            "end\n";

static int check(int code, const char *what) {
  if (code < 0) {
    fprintf(stderr, "%s: %s\n", what, mf_strerror(code));
    exit(1);
  }
  return code;
}

static void greet_from_c(uv_loop_t *loop, const char *self) {
  struct job job = {.nanswer = 0};
  check(uv_pipe_init(loop, &job.pipe, 0), "uv_pipe_init");
  mf_options options = MF_OPTIONS_INIT;
  options.loop = loop;
  options.program = self; /* this very program is the template */

  mf_process *template, *clone;
  check(mf_new_exec(&options, &template), "mf_new_exec");
  check(mf_eval(template, GREET, strlen(GREET), 0, NULL, NULL), "mf_eval");
  check(mf_fork(template, &clone), "mf_fork");
  check(mf_send_arg(clone, "C", 1), "mf_send_arg");
  check(mf_on_exit(clone, on_exit_status, &job), "mf_on_exit");
  check(mf_run(clone, "greet", on_run, &job), "mf_run");
  uv_run(loop, UV_RUN_DEFAULT);
  mf_close(template, NULL, NULL);
  uv_run(loop, UV_RUN_DEFAULT);

  if (job.failed || !job.exited)
    exit(1);
  printf("%.*s\n", (int)job.nanswer, job.answer);
}

/* ---- 2. from Lua, on the same loop ---- */

static const char SCRIPT[] =
    "local loop, self = ...\n"
    "local fork = require 'moonfork'\n"
    "fork.use_loop(loop)\n"
    "local template = fork.new_exec { program = self }:eval [[\n"
    "  local host = require 'host'\n"
    "  function greet(socket, name) socket:write(host.greeting(name)) end\n"
    "]]\n"
    "template:fork():send_arg('Lua'):run('greet', function(err, socket)\n"
    "  if err then error(err) end\n"
    "  print(assert(socket:read('a')))\n"
    "  socket:close()\n"
    "  template:close()\n"
    "end)\n";

static void greet_from_lua(uv_loop_t *loop, const char *self) {
  lua_State *L = luaL_newstate();
  if (!L)
    exit(1);
  open_libs(L, NULL);
  if (luaL_loadstring(L, SCRIPT) == LUA_OK) {
    lua_pushlightuserdata(L, loop);
    lua_pushstring(L, self);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK) {
      uv_run(loop, UV_RUN_DEFAULT); /* the host's loop drives the script's processes */
      lua_close(L);
      uv_run(loop, UV_RUN_DEFAULT);
      return;
    }
  }
  fprintf(stderr, "%s\n", lua_tostring(L, -1));
  exit(1);
}

int main(int argc, char **argv) {
  mf_template_options template = MF_TEMPLATE_OPTIONS_INIT;
  template.open_libs = open_libs;
  mf_template_check(argc, argv, &template); /* in a template this does not return */

  char self[4096];
  size_t nself = sizeof self;
  check(uv_exepath(self, &nself), "uv_exepath");
  uv_loop_t loop;
  check(uv_loop_init(&loop), "uv_loop_init");
  greet_from_c(&loop, self);
  greet_from_lua(&loop, self);
  /* A loop that closes has no handle of anybody's left. */
  if (check(uv_loop_close(&loop), "uv_loop_close") == 0)
    puts("the loop is empty");
  return 0;
}
