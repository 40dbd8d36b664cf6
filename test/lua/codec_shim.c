/* The codec for a stock interpreter: pack(...) and unpack(text), as src/codec does it. */
#include "codec/codec.h"
#include <lauxlib.h>

__attribute__((visibility("default"))) int luaopen_codec_shim(lua_State *L);

static int f_pack(lua_State *L) { /* pack(...) -> text; or nil, message */
  struct codec_error e;
  struct buf b;
  buf_init(&b, (size_t)1 << 30);
  int rc = codec_pack(L, 1, lua_gettop(L), "argument", &b, NULL, &e);
  if (rc == 0)
    lua_pushlstring(L, (const char *)buf_peek(&b), buf_size(&b));
  else
    luaL_pushfail(L);
  buf_deinit(&b);
  if (rc == 0)
    return 1;
  lua_pushstring(L, e.text);
  return 2;
}

static int f_unpack(lua_State *L) { /* unpack(text) -> count, ...; or nil, message */
  struct codec_error e;
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  lua_pushnil(L);
  int n = codec_unpack(L, text, size, NULL, 0, NULL, &e);
  if (n < 0) {
    lua_pushstring(L, e.text);
    return 2;
  }
  lua_pushinteger(L, n);
  lua_replace(L, 2);
  return n + 1;
}

int luaopen_codec_shim(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"pack", f_pack}, {"unpack", f_unpack}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
