#!/bin/sh
# Installs into a folder of its own and uses what is there as a stranger would: the module
# from Lua, the libraries by pkg-config from C, the programs by name. Where things belong is
# said in README.md.
set -u
build=build-install-check
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-install.XXXXXX")
trap 'rm -rf "$room"' EXIT
prefix=$room/prefix
bad=0
complain() { echo "$*"; bad=1; }

# A prefix is compiled in, so the folder is configured anew; ccache or not, it is short.
rm -rf "$build"
meson setup "$build" --prefix="$prefix" --buildtype=release -Dtests=disabled >"$room/log" 2>&1 &&
  ninja -C "$build" >>"$room/log" 2>&1 &&
  meson install -C "$build" --no-rebuild >>"$room/log" 2>&1 || { cat "$room/log"; exit 1; }
rm -rf "$build" # nothing below may lean on it

for path in share/lua/5.4/moonfork lib/lua/5.4/moonfork/core.so \
  libexec/moonfork/moonfork-template include/moonfork.h include/moonfork/template.h \
  lib/pkgconfig/moonfork.pc lib/pkgconfig/moonfork-template.pc; do
  [ -e "$prefix/$path" ] || complain "$path is not installed"
done
[ "$bad" = 0 ] || exit 1

# ---- from Lua: nothing but the two search paths is set ----

unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 MOONFORK_TEMPLATE MOONFORK_BUILD LD_LIBRARY_PATH
LUA_PATH_5_4="$prefix/share/lua/5.4/?.lua;$prefix/share/lua/5.4/?/init.lua;;"
LUA_CPATH_5_4="$prefix/lib/lua/5.4/?.so;;"
export LUA_PATH_5_4 LUA_CPATH_5_4
cat >"$room/hello.lua" <<'LUA'
local fork = require "moonfork"
local socket = assert(fork.new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
answer=$(cd "$room" && lua5.4 hello.lua 2>&1)
[ "$answer" = "hello world" ] || complain "from Lua: $answer"

# ---- from C ----

PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export PKG_CONFIG_PATH
case " $(pkg-config --print-requires --print-requires-private moonfork | tr '\n' ' ')" in
*" lua"*) complain "moonfork.pc asks for Lua" ;;
esac
cat >"$room/version.c" <<'C'
#include <moonfork.h>
#include <stdio.h>
int main(void) {
  mf_options options = MF_OPTIONS_INIT;
  if (mf_version() != MF_VERSION_NUMBER || options.size != sizeof options) return 1;
  return puts(mf_version_string()) < 0;
}
C
# shellcheck disable=SC2046  # flags are words
cc -Wall -Werror -o "$room/version" "$room/version.c" \
  $(pkg-config --cflags --libs moonfork) -Wl,-rpath,"$prefix/lib" &&
  [ "$("$room/version")" = "$(pkg-config --modversion moonfork)" ] ||
  complain "a C program with moonfork.pc does not work"

cat >"$room/template.c" <<'C'
#include <moonfork/template.h>
int main(int argc, char **argv) {
  mf_template_options options = MF_TEMPLATE_OPTIONS_INIT;
  return mf_template_main(argc, argv, &options);
}
C
# shellcheck disable=SC2046
cc -Wall -Werror -o "$room/template" "$room/template.c" \
  $(pkg-config --cflags --libs moonfork-template) -Wl,-rpath,"$prefix/lib" ||
  complain "a C program with moonfork-template.pc does not compile"
answer=$(cd "$room" && MOONFORK_TEMPLATE=$room/template lua5.4 hello.lua 2>&1)
[ "$answer" = "hello world" ] || complain "with a template program of its own: $answer"

# ---- the headers are C++ too, where there is a compiler ----

if command -v c++ >/dev/null; then
  printf '#include <moonfork.h>\n#include <moonfork/template.h>\n' >"$room/headers.cc"
  # shellcheck disable=SC2046
  c++ -Wall -Werror -fsyntax-only $(pkg-config --cflags moonfork moonfork-template) \
    "$room/headers.cc" || complain "the headers are no C++"
fi

if [ -e "$prefix/bin/moonfork" ]; then
  case $("$prefix/bin/moonfork" --version 2>&1) in
  *"$(pkg-config --modversion moonfork)"*) ;;
  *) complain "moonfork --version does not say its version" ;;
  esac
fi
exit "$bad"
