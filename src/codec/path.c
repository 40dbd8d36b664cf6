#include "codec/path.h"

#include "base/number.h"
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

void path_add(struct path *t, const char *s, size_t n) {
  for (size_t i = 0; i < n && t->n + 1 < t->room; i++)
    t->text[t->n++] = (unsigned char)s[i] < 32 || s[i] == 127 ? '?' : s[i];
  t->text[t->n] = 0;
}

static int is_name(const char *s, size_t n) {
  if (n == 0 || n > 60)
    return 0;
  for (size_t i = 0; i < n; i++)
    if (!strchr("_-", s[i]) && !((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z') &&
        !(s[i] >= '0' && s[i] <= '9'))
      return 0;
  return 1;
}

void path_begin(struct path *t, const char *what, lua_Integer position) {
  char plain[64];
  int n = position ? snprintf(plain, sizeof plain, "%s " LUA_INTEGER_FMT, what, position)
                   : snprintf(plain, sizeof plain, "%s", what);
  path_add(t, plain, (size_t)n);
}

void path_add_position(struct path *t, lua_Integer position) {
  char plain[40];
  int n = snprintf(plain, sizeof plain, "[" LUA_INTEGER_FMT "]", position);
  path_add(t, plain, (size_t)n);
}

void path_add_key(lua_State *L, struct path *t, int idx) {
  char plain[80];
  int n;
  if (lua_type(L, idx) == LUA_TSTRING) {
    size_t size;
    const char *s = lua_tolstring(L, idx, &size);
    if (is_name(s, size)) {
      path_add(t, ".", 1);
      path_add(t, s, size);
      return;
    }
    n = snprintf(plain, sizeof plain, "[\"%.*s\"]", (int)(size < 40 ? size : 40), s);
  } else if (lua_isinteger(L, idx)) {
    path_add_position(t, lua_tointeger(L, idx));
    return;
  } else if (lua_type(L, idx) == LUA_TNUMBER) {
    char number[NUMBER_TEXT_MAX];
    number_text(lua_tonumber(L, idx), number);
    n = snprintf(plain, sizeof plain, "[%s]", number);
  } else {
    n = snprintf(plain, sizeof plain, "[%s]", luaL_typename(L, idx));
  }
  path_add(t, plain, (size_t)n);
}

void path_end(struct path *t, size_t room, const char *reason) {
  t->room += room;
  path_add(t, ": ", 2);
  path_add(t, reason, strlen(reason));
}
