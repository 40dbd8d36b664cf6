/* The C part of "moonfork.ffi" for Lua 5.1 to 5.3 (and LuaJIT without its ffi): the
 * public C API as plain functions, and the queue of what it completed. Runs in the
 * parent.
 *
 *   lua/moonfork/ffi.lua --> functions.c, calls.c --> libmoonfork
 *                      <-- pop() <-- queue.c <-- its callbacks, which never run Lua
 *
 * lua/moonfork/ffi_luajit.lua is the same in Lua, by LuaJIT's ffi. Both are raw: handles
 * are light userdata, and ffi.lua sees to it that none is used after its end. Each
 * completion has the token (a whole number) that ffi.lua gave; nothing here refers to a
 * Lua value. */
#ifndef OTHERLUA_OTHERLUA_H
#define OTHERLUA_OTHERLUA_H

#include <lauxlib.h>
#include <lua.h>
#include <moonfork.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum outcome_kind {
  GOT_ERROR,
  GOT_SOCKET,
  GOT_EXIT,
  GOT_BYTES,
  GOT_REPORT,
  GOT_WORKER,
  GOT_END
};

/* One callback of the library's. It has all its memory from the start but for texts and
 * bytes; where there is none for those, the code's own text stands in. */
struct outcome {
  struct outcome *next;
  struct core *core;
  double token;
  enum outcome_kind kind;
  int is_queued;
  int code, started; /* code 0: success */
  int fd;            /* of GOT_SOCKET; -1: none */
  char *message, *traceback, *bytes;
  size_t length; /* of bytes */
  int has_exit;
  mf_exit exit;                      /* its error is ours */
  mf_drain_report report;            /* of GOT_REPORT */
  int event, pid;                    /* of GOT_WORKER; bytes are the reason */
  uint64_t call;                     /* id of the rpc's or pool's call, for cancelling */
  void (*release)(struct outcome *); /* frees it with what it is part of */
  void *owner;                       /* for release */
};

/* The library's side of one Lua state. */
struct core {
  uv_loop_t loop;
  uv_async_t wake; /* keeps the loop turning where nothing else does */
  int is_open;     /* the loop exists */
  int nhandles;    /* processes, rpcs and pools that are not closed */
  struct outcome *first, **last;
};

/* A process of ffi.lua's, until it is closed. */
struct raw_process {
  mf_process *mf; /* NULL: a service had taken it, and its end is about to be told */
  struct outcome error; /* the first failure that nothing else reports */
  int is_closed;
  struct raw_process *next; /* of those that a service has taken */
};

/* ---- queue.c ---- */
void queue_init(struct core *core);
void outcome_init(struct outcome *c, struct core *core, double token,
                  enum outcome_kind kind);
struct outcome *outcome_new(struct core *core, double token, enum outcome_kind kind);
void outcome_free(struct outcome *c); /* one of outcome_new that is not queued */
void outcome_set_error(struct outcome *c, const mf_error *error);
void outcome_set_exit(struct outcome *c, const mf_exit *status);
void push_exit(lua_State *L, const mf_exit *status); /* as a table */
void outcome_set_bytes(struct outcome *c, const mf_message *message);
void outcome_done(struct outcome *c); /* to the queue, which owns it from now on */
void queue_clear(struct core *core);  /* drops what nobody popped */
int l_pop(lua_State *L);

/* ---- functions.c ---- */
struct core *core_get(lua_State *L);
double get_token(lua_State *L, int idx);
void *get_pointer(lua_State *L, int idx);
int push_code(lua_State *L, int code); /* -> true; or nil, code */
const char *field_string(lua_State *L, int idx, const char *name); /* leaves a slot */
double field_number(lua_State *L, int idx, const char *name, double fallback);
void raw_process_free(struct raw_process *p); /* of a closed process */

/* ---- calls.c ---- */
extern const luaL_Reg service_functions[];

#endif
