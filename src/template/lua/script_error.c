/* How a step in Lua is protected, and what becomes of its error. See script.h.
 *
 * A step is a C function that gets its job as light userdata, so that not even pushing a
 * string can raise outside. The message handler writes message and traceback straight
 * into s->failure: no Lua value has to survive the error, and an error object of any
 * kind, one whose __tostring raises included, becomes a text. */
#include "template/lua/script_error.h"

#include "codec/codec.h"
#include "socket/numeral.h"
#include "template/lua/hibernate.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

static int to_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* An error object of moonfork's, which a clone got from a process of its own and raised
 * again. Pushes its field where that is a string; else nothing, and gives NULL. */
static const char *get_from_error(lua_State *L, int index, const char *field,
                                  size_t *ret_n) {
  const char *text = NULL;
  int top = lua_gettop(L);
  if (!lua_istable(L, index) || luaL_getmetafield(L, index, "__name") != LUA_TSTRING ||
      strcmp(lua_tostring(L, -1), "moonfork.error") != 0) {
    lua_settop(L, top);
    return NULL;
  }
  lua_settop(L, top);
  lua_pushstring(L, field);
  if (lua_rawget(L, index) == LUA_TSTRING)
    text = lua_tolstring(L, -1, ret_n);
  else
    lua_settop(L, top);
  return text;
}

static void describe(lua_State *L, int index, struct failure_record *f) {
  size_t n;
  const char *text = get_from_error(L, index, "message", &n);
  if (text) {
    failure_record_set_message(f, text, n);
    lua_pop(L, 1);
    return;
  }
  lua_pushvalue(L, index);
  numeral_put(L, -1);
  if (lua_type(L, -1) == LUA_TSTRING)
    text = lua_tolstring(L, -1, &n);
  else if (luaL_getmetafield(L, -1, "__tostring") != LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushcfunction(L, to_text);
    lua_insert(L, -2);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK)
      text = lua_tolstring(L, -1, &n);
  }
  if (!text) {
    char plain[64];
    int size = snprintf(plain, sizeof plain, "(error object is a %s value)",
                        luaL_typename(L, index));
    failure_record_set_message(f, plain, (size_t)size);
  } else {
    failure_record_set_message(f, text, n);
  }
  lua_pop(L, 1);
}

/* The traceback; before it that of the process which an error object came from. */
static void add_traceback(lua_State *L, int index, struct failure_record *f) {
  static const char bottom[] = "\n\t[C]: in ?";
  size_t n, end = sizeof bottom - 1;
  const char *inner = get_from_error(L, index, "traceback", &n);
  luaL_traceback(L, L, inner, 1);
  const char *text = lua_tolstring(L, -1, &n);
  if (hibernate_is_program(L) && n > end && strcmp(text + n - end, bottom) == 0)
    n -= end; /* l_enter */
  failure_record_set_traceback(f, text, n);
  lua_pop(L, inner ? 2 : 1);
}

/* Protected. Stack: value | failure */
static int pack_value(lua_State *L) {
  struct failure_record *f = lua_touserdata(L, 2);
  struct buf out = {.data = f->value, .cap = sizeof f->value, .max = sizeof f->value};
  struct codec_error e;
  if (codec_pack(L, 1, 1, "value", &out, NULL, &e) == 0)
    f->nvalue = buf_size(&out);
  return 0;
}

/* Nothing where it can't be sent: the text has to do. */
static void add_value(lua_State *L, int index, struct failure_record *f) {
  f->nvalue = 0;
  if (lua_type(L, index) == LUA_TSTRING || lua_isnil(L, index))
    return;
  lua_pushcfunction(L, pack_value);
  lua_pushvalue(L, index);
  lua_pushlightuserdata(L, f);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK)
    lua_pop(L, 1);
}

void script_describe(lua_State *L, int index, struct failure_record *f) {
  describe(L, index, f);
  add_traceback(L, index, f);
  add_value(L, index, f);
}

int script_on_error(lua_State *L) {
  script_describe(L, 1, &server_self()->failure);
  lua_settop(L, 1);
  return 1;
}

void script_complete(lua_State *L, struct failure_record *f, int status, int code,
                     int phase) {
  f->code = code;
  f->phase = phase;
  if (f->nmessage > 0 && status != LUA_ERRMEM)
    return;
  if (status == LUA_ERRERR) {
    /* The message handler could not be called. Lua 5.4.9 keeps no room for it where a
     * generation of its collector ends near the limit of the stack. */
    static const char text[] =
        "stack overflow: no room is left to handle it (error in error handling)";
    failure_record_set_message(f, text, sizeof text - 1);
    return;
  }
  if (lua_type(L, -1) == LUA_TSTRING) {
    size_t n;
    const char *text = lua_tolstring(L, -1, &n);
    failure_record_set_message(f, text, n);
  } else if (f->nmessage == 0) {
    static const char text[] = "unknown error";
    failure_record_set_message(f, text, sizeof text - 1);
  }
}

int script_out_of_memory(struct server *s, int phase) {
  failure_record_set(&s->failure, FAILURE_NOMEM, phase, ENOMEM, "not enough memory");
  return -1;
}

int script_protect(struct server *s, lua_CFunction step, void *job, int nresults,
                   int code, int phase) {
  lua_State *L = s->L;
  if (!lua_checkstack(L, 8))
    return script_out_of_memory(s, phase);
  int base = lua_gettop(L);
  failure_record_clear(&s->failure);
  lua_pushcfunction(L, script_on_error);
  lua_pushcfunction(L, step);
  lua_pushlightuserdata(L, job);
  int status = lua_pcall(L, 1, nresults, base + 1);
  if (status == LUA_OK) {
    lua_remove(L, base + 1);
    return 0;
  }
  script_complete(L, &s->failure, status, code, phase);
  lua_settop(L, base);
  return -1;
}
