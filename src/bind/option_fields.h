/* The options that Lua passes as numbers, strings and flags, in Lua 5.4 and in other
 * versions: X(field of the struct in moonfork.h, its name in the plain table that the Lua
 * files have made). test/check/ffi.lua compares LuaJIT's lists with these. Pure. */
#ifndef BIND_OPTION_FIELDS_H
#define BIND_OPTION_FIELDS_H

/* clang-format off */
#define PROCESS_STRINGS(X)                                                               \
  X(program, program) X(cwd, cwd) X(name, name) X(lua_path, path) X(lua_cpath, cpath)    \
  X(image, image)

#define PROCESS_NUMBERS(X)                                                               \
  X(gc, gc) X(leash, leash) X(handles, handles) X(new_session, session)                  \
  X(timeout_ms, timeout) X(spares_min, spares_min) X(spares_max, spares_max)             \
  X(dumpable, dumpable) X(tree, tree) X(beat_ms, beat) X(window, window)                 \
  X(isolation, isolation) X(lazy, lazy) X(image_verify, verify)

#define RPC_STRINGS(X) X(init, init) X(serialiser, serialiser)

#define RPC_FLAGS(X)                                                                     \
  X(async, async) X(handles, handles) X(strict, strict) X(strict_classes, strict_classes)

#define RPC_NUMBERS(X)                                                                   \
  X(timeout_ms, timeout) X(grace_ms, grace) X(message_max, message_max)

#define POOL_NUMBERS(X)                                                                  \
  X(max, max) X(idle, idle) X(load, load) X(start_ms, start) X(stop_ms, stop)            \
  X(queue_max, queue_max) X(max_calls, max_calls) X(call_timeout_ms, call_timeout)       \
  X(max_memory, max_memory) X(restart_burst, burst) X(restart_period_ms, period)         \
  X(restart_starts, starts) X(grace_ms, grace) X(backoff_min_ms, backoff_min)            \
  X(backoff_max_ms, backoff_max) X(tree, tree) X(isolation, isolation) X(lazy, lazy)

/* clang-format on */

#endif
