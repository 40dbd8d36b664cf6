#!/bin/sh
# A Lua that pkg-config does not know, as `make install` of Lua's own sources leaves it: a
# static archive, compiled without -fPIC, and headers, in a prefix of its own. Here it is made
# of the system's. The tree must compile for it; nobody but the template program may have a
# copy of it inside; and what is compiled against the installed copy must work.
# usage: own_lua.sh
set -u
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-lua.XXXXXX")
trap 'rm -rf "$room"' EXIT
bad=0
complain() { echo "$*"; bad=1; }
cc=${CC:-cc} # may be words: ccache gcc

libdir=$(pkg-config --variable=libdir lua5.4) && [ -f "$libdir/liblua5.4.a" ] ||
  { echo "there is no static Lua here"; exit 77; }
mkdir -p "$room/lua/lib" "$room/lua/include"
for header in lua.h luaconf.h lauxlib.h lualib.h; do
  printf '#include "%s/%s"\n' "$(pkg-config --cflags-only-I lua5.4 | sed 's/-I//; s/ *$//')" \
    "$header" >"$room/lua/include/$header"
done
cp "$libdir/liblua5.4.a" "$room/lua/lib/liblua.a"
# Code that only a program at a fixed address can have.
printf 'static int x;\nint *lua_fixed_place(void) { return &x; }\n' >"$room/fixed.c"
$cc -fno-pic -fno-pie -O0 -c -o "$room/fixed.o" "$room/fixed.c" &&
  ar r "$room/lua/lib/liblua.a" "$room/fixed.o" 2>/dev/null || exit 1

setup() {
  meson setup "$@" -Dtests=disabled --buildtype=release >"$room/log" 2>&1
}
setup "$room/build" --prefix="$room/prefix" -Dlua_prefix="$room/lua" &&
  ninja -C "$room/build" >>"$room/log" 2>&1 &&
  meson install -C "$room/build" --no-rebuild >>"$room/log" 2>&1 ||
  { tail -n 30 "$room/log"; echo "does not compile for a Lua of one's own"; exit 1; }
test/check/symbols.sh "$room/build" || bad=1
readelf -d "$room/prefix/libexec/moonfork/moonfork-template" | grep -q 'NEEDED.*liblua' &&
  complain "the template program needs a shared Lua"

unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 MOONFORK_TEMPLATE MOONFORK_BUILD LD_LIBRARY_PATH
LUA_PATH_5_4="$room/prefix/share/lua/5.4/?.lua;$room/prefix/share/lua/5.4/?/init.lua"
LUA_CPATH_5_4="$room/prefix/lib/lua/5.4/?.so"
export LUA_PATH_5_4 LUA_CPATH_5_4
cat >"$room/hello.lua" <<'LUA'
local socket = assert(require("moonfork").new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
answer=$(lua5.4 "$room/hello.lua" 2>&1)
[ "$answer" = "hello world" ] || complain "from Lua: $answer"

# A template program of somebody's, which is given the interpreter by moonfork-template.pc.
cat >"$room/template.c" <<'C'
#include <moonfork/template.h>
int main(int argc, char **argv) {
  mf_template_options options = MF_TEMPLATE_OPTIONS_INIT;
  return mf_template_main(argc, argv, &options);
}
C
# shellcheck disable=SC2046  # flags are words
PKG_CONFIG_PATH=$room/prefix/lib/pkgconfig $cc -Wall -Werror -o "$room/template" \
  "$room/template.c" $(PKG_CONFIG_PATH=$room/prefix/lib/pkgconfig \
  pkg-config --cflags --libs moonfork-template) -Wl,-rpath,"$room/prefix/lib" ||
  complain "a C program with moonfork-template.pc does not compile"
answer=$(MOONFORK_TEMPLATE=$room/template lua5.4 "$room/hello.lua" 2>&1)
[ "$answer" = "hello world" ] || complain "with a template program of somebody's: $answer"

# refuses TEXT OPTION...: meson ends with a sentence that has this text.
refuses() {
  text=$1
  shift
  rm -rf "$room/refused"
  setup "$room/refused" "$@" && complain "meson accepts $*"
  grep -q "ERROR: .*$text" "$room/log" || complain "$*: $(tail -n 3 "$room/log")"
}
mkdir "$room/empty"
refuses 'no lua.h in' -Dlua_prefix="$room/empty"
refuses 'no Lua library in' -Dlua_prefix="$room/lua" -Dlua_library="$room/empty"
refuses 'lua_library needs lua_include' -Dlua_library="$room/lua/lib"
printf '#define LUA_VERSION_NUM 505\n' >"$room/empty/lua.h"
refuses 'needs Lua 5.4, and lua.h is that of Lua 5.5' -Dlua_include="$room/empty"
exit "$bad"
