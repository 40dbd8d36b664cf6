/* A process with two copies of the library: libmoonfork-nats, and moonfork.nats in an
 * interpreter. Each makes a call when the other has closed.
 *
 *   nats_copies URL SUBJECT      prints what each was answered, a line each */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <moonfork/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

static const mf_message request = {"\x91\xa1x", 3, NULL, 0};
static mf_nats_options options = MF_NATS_OPTIONS_INIT;
static uv_loop_t loop;

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  (void)reply;
  (void)data;
  printf("C: %s\n", error ? error->message : "x");
  fflush(stdout);
}

static mf_far *open_and_call(void) {
  mf_far *far;
  if (mf_far_new(&loop, &options, &far) < 0 ||
      mf_far_call(far, &request, NULL, on_reply, NULL, NULL) < 0)
    exit(99);
  uv_run(&loop, UV_RUN_DEFAULT);
  return far;
}

static void close_it(mf_far *far) {
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
}

static void run(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK)
    printf("Lua: %s\n", lua_tostring(L, -1));
  fflush(stdout);
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (argc != 3 || !L || uv_loop_init(&loop) != 0)
    return 2;
  luaL_openlibs(L);
  lua_pushstring(L, argv[1]);
  lua_setglobal(L, "url");
  lua_pushstring(L, argv[2]);
  lua_setglobal(L, "subject");
  options.url = argv[1];
  options.subject = argv[2];
  options.timeout_ms = 20000;
  mf_far *far = open_and_call();
  run(L, "nats = require 'moonfork.nats'\n"
         "function open() return nats.pool(url, {subject = subject, timeout = 20}) end\n"
         "first = open()\n"
         "print('Lua:', first:call 'x')");
  close_it(far);
  run(L, "second = open()\n"
         "print('Lua:', first:call 'x')\n"
         "print('Lua:', second:call 'x')\n"
         "print('Lua:', second:result(second:post({}, 'x')))\n"
         "first:close()\n"
         "second:close()\n"
         "require 'moonfork'.loop()");
  close_it(open_and_call());
  lua_close(L);
  return uv_loop_close(&loop) == 0 ? 0 : 3;
}
