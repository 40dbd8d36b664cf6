/* The Lua binding of the parent's side: names, and the functions of the module by file.
 * Runs in the parent (and is inactive in copies of it that template() and early made).
 *
 * moonfork.core is raw: a function checks its arguments, calls the library once and
 * pushes. What is pleasant - chains, options, waiting, error handling - is Lua
 * (lua/moonfork). The contract of each Lua function stands at its C function; "-> x" is
 * what it returns.
 *
 *   box (one per Lua state, a userdata in the registry)
 *    '- reactor (one per process that uses it; a forked copy gets a new one)
 *        |- uv_loop_t, private, turned only by reactor_turn: never inside itself
 *        |- done: completions, in the order in which they came, waiting for pop()
 *        |- residents: processes, rpcs, pools, watches: what ends with it
 *        '- trash: what is freed in a Lua context only (registry references)
 *
 * A callback of the library never runs Lua. It fills a completion that was allocated when
 * the request was made, and so needs no memory to be delivered. Lua pops it later.
 *
 * Each file knows those before it:
 *
 *   values < reactor < loan, callback, completion < embedded, watch, timer, signals,
 * lua_process, process_object < service < reply < service_call, rpc_service,
 * pool_service, foreign_service < lua_reactor < lua_step < core
 */
#ifndef BIND_BIND_H
#define BIND_BIND_H

#include <lauxlib.h>
#include <lua.h>
#include <moonfork.h>

/* The names carry the side and the version, so that the template program's never match.
 */
#define BIND_ID "moonfork.module." MF_VERSION_STRING "."
#define BIND_BOX BIND_ID "box"
#define BIND_PROCESS BIND_ID "process"
#define BIND_OBJECT BIND_ID "object"
#define BIND_WATCH BIND_ID "watch"
#define BIND_TIMER BIND_ID "timer"
#define BIND_ERROR BIND_ID "error"
#define BIND_SERVICE BIND_ID "service"
#define BIND_CALL BIND_ID "call"
#define BIND_CALL_OPTIONS BIND_ID "call_options"

extern const luaL_Reg bind_process_functions[], bind_object_functions[],
    bind_reactor_functions[], bind_step_functions[], bind_callback_functions[],
    bind_embedded_functions[], bind_watch_functions[], bind_copy_functions[],
    bind_system_functions[], bind_service_functions[], bind_call_functions[],
    bind_foreign_functions[], bind_rpc_functions[], bind_pool_functions[],
    bind_timer_functions[], bind_signal_functions[], bind_set_functions[],
    bind_memory_functions[], bind_trace_functions[], bind_survey_functions[];

#endif
