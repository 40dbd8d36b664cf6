#include "socket/numeral.h"

#include "base/number.h"
#include <string.h>

static void convert(lua_State *L, int idx, const char *whole) {
  char text[NUMBER_TEXT_MAX + 2];
  if (lua_type(L, idx) != LUA_TNUMBER)
    return;
  if (lua_isinteger(L, idx)) {
    lua_tolstring(L, idx, NULL);
    return;
  }
  idx = lua_absindex(L, idx);
  size_t n = number_text((double)lua_tonumber(L, idx), text);
  if (text[strspn(text, "-0123456789")] == '\0') {
    strcpy(text + n, whole);
    n += strlen(whole);
  }
  lua_pushlstring(L, text, n);
  lua_replace(L, idx);
}

void numeral_put(lua_State *L, int idx) {
  convert(L, idx, ".0");
}

void numeral_put_plain(lua_State *L, int idx) {
  convert(L, idx, "");
}
