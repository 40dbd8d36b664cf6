/* moonfork.core, the C half of `require "moonfork"`. It is loaded into the program's own
 * interpreter, exports this one symbol, and is never unloaded (the library leaves a
 * handler with pthread_atfork). Runs in the parent. */
#include "bind/lua_chunk.h"
#include "bind/lua_reactor.h"
#include "bind/service.h"
#include "bind/service_call.h"
#include "bind/timer.h"
#include "bind/values.h"
#include "bind/watch.h"
#include "os/interrupt.h"
#include "socket/socket.h"
#include "socket/socket_module.h"
#include "template/modules.h"

MF_API int luaopen_moonfork_core(lua_State *L);

/* Every function has the box as its upvalue. Stack: module, box. */
static void add(lua_State *L, const luaL_Reg *functions) {
  lua_pushvalue(L, -2);
  lua_pushvalue(L, -2);
  luaL_setfuncs(L, functions, 1);
  lua_pop(L, 1);
}

static void open_metatables(lua_State *L) {
  bind_error_open(L);
  service_open(L);
  call_open(L);
  chunk_open(L);
  watch_open(L);
  timer_open(L);
  bound_open(L);
}

static lua_CFunction see_interrupt;

static void on_interrupt(void) {
  see_interrupt(NULL);
}

/* A clone in a thread, or a pseudo-process, that waits in here can be ended, too. All
 * interpreters of the process share what is found: one that a C module has made has no
 * such function, and takes it from nobody. */
static void find_interrupt(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, INTERRUPT_KEY);
  lua_CFunction found = lua_tocfunction(L, -1);
  lua_pop(L, 1);
  if (!found)
    return;
  see_interrupt = found;
  interrupt_elsewhere = on_interrupt;
}

/* The other variables of this library, and of those that it needs, begin anew with the
 * first reactor of a process: an image of its interpreter does not need them. */
static int l_loaded_with_image(lua_State *L) {
  find_interrupt(L);
  return 0;
}

static void vouch(lua_State *L) {
  lua_createtable(L, 0, 1);
  reactor_copies(L, l_loaded_with_image, NULL);
  lua_setmetatable(L, -2);
}

int luaopen_moonfork_core(lua_State *L) {
  luaL_checkversion(L);
  int is_template = template_check_build(L, "moonfork.core");
  find_interrupt(L);
  open_metatables(L);
  lua_newtable(L);
  box_open(L); /* before anything that has to be finalised before it */
  add(L, bind_process_functions);
  add(L, bind_set_functions);
  add(L, bind_memory_functions);
  add(L, bind_object_functions);
  add(L, bind_callback_functions);
  add(L, bind_reactor_functions);
  add(L, bind_step_functions);
  add(L, bind_watch_functions);
  add(L, bind_timer_functions);
  add(L, bind_signal_functions);
  add(L, bind_copy_functions);
  add(L, bind_embedded_functions);
  add(L, bind_service_functions);
  add(L, bind_call_functions);
  add(L, bind_chunk_functions);
  add(L, bind_rpc_functions);
  add(L, bind_pool_functions);
  add(L, bind_foreign_functions);
  add(L, bind_system_functions);
  add(L, bind_survey_functions);
  add(L, bind_trace_functions);
  lua_pop(L, 1);
  socket_module_open(L);
  if (!is_template)
    socket_copies(L);
  lua_setfield(L, -2, "socket");
  lua_pushcfunction(L, template_open_clone);
  lua_setfield(L, -2, "open_clone");
  lua_pushcfunction(L, template_open_rpc);
  lua_setfield(L, -2, "open_rpc");
  lua_pushcfunction(L, template_open_pool);
  lua_setfield(L, -2, "open_pool");
  lua_pushstring(L, mf_version_string());
  lua_setfield(L, -2, "version");
  vouch(L);
  return 1;
}
