#!/bin/sh
# Installs into a folder of its own and uses what is there as a stranger would, with the
# variables that ./dev install prints: the module from Lua, the libraries by pkg-config from
# C, the programs by name. Then the same after the folder was moved. Where things belong is
# said in README.md.
set -u
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-install.XXXXXX")
trap 'rm -rf "$room" "$room".*' EXIT
bad=0
complain() { echo "$*"; bad=1; }

unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 LD_LIBRARY_PATH
unset LUA_PATH_5_4 LUA_CPATH_5_4 PKG_CONFIG_PATH
unset MOONFORK_TEMPLATE MOONFORK_LIBRARY MOONFORK_BUILD
# What is there before: a folder that is empty, a file beside ours.
prefix=$room/above/prefix
mkdir -p "$prefix/bin" "$prefix/share/lua/5.4/moonfork"
echo 'return 1' >"$prefix/share/lua/5.4/moonfork/of_somebody.lua"
(cd "$room" && find . ! -name log | sort) >"$room.before"
./dev install "$prefix" >"$room/log" 2>&1 || { cat "$room/log"; exit 1; }
rm -rf build-install # nothing below may lean on it
for variable in LUA_PATH_5_4 LUA_CPATH_5_4 PKG_CONFIG_PATH LD_LIBRARY_PATH; do
  grep -q "^  export $variable='" "$room/log" || complain "./dev install does not set $variable"
done
sed -n 's/^  export/export/p' "$room/log" >"$room/variables"

for path in share/lua/5.4/moonfork lib/lua/5.4/moonfork/core.so \
  libexec/moonfork/moonfork-template include/moonfork.h include/moonfork/template.h \
  lib/pkgconfig/moonfork.pc lib/pkgconfig/moonfork-template.pc; do
  [ -e "$prefix/$path" ] || complain "$path is not installed"
done
[ "$bad" = 0 ] || exit 1

# ---- from Lua ----

. "$room/variables"
cat >"$room/hello.lua" <<'LUA'
local fork = require "moonfork"
local socket = assert(fork.new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
answer=$(cd "$room" && lua5.4 hello.lua 2>&1)
[ "$answer" = "hello world" ] || complain "from Lua: $answer"

# ---- from other Lua versions, where they are here ----

cat >"$room/other.lua" <<'LUA'
local fork = require "moonfork.ffi"
local fd = assert(fork.new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(fork.read(fd), "\n")
LUA
# others FOLDER: each interpreter with what is installed there, and with nothing else set.
others() {
  for other in lua5.1 lua5.2 lua5.3 luajit; do
    version=${other#lua}
    [ "$version" != jit ] || version=5.1
    command -v "$other" >/dev/null && [ -d "$1/lib/lua/$version" ] || continue
    answer=$(cd / && LUA_PATH="$1/share/lua/$version/?.lua" LUA_CPATH="$1/lib/lua/$version/?.so" \
      "$other" "$room/other.lua" 2>&1)
    [ "$answer" = "hello world" ] || complain "from $other in $1: $answer"
  done
}
[ -e "$prefix/share/lua/5.1/moonfork/ffi.lua" ] || complain "moonfork.ffi is not installed"
(unset LD_LIBRARY_PATH; others "$prefix"; exit "$bad") || bad=1

# ---- from C ----

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
  $(pkg-config --cflags --libs moonfork) &&
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
  $(pkg-config --cflags --libs moonfork-template) ||
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
  answer=$(cd / && "$prefix/bin/moonfork" bench --quick exec 2>&1)
  case $answer in
  *"moonfork, C: mf_new_exec to ready |"*) ;;
  *) complain "moonfork bench: $answer" ;;
  esac
fi

# ---- moved ----

mv "$prefix" "$room/moved"
sed "s,$prefix/,$room/moved/,g" "$room/variables" >"$room/moved.variables"
answer=$(. "$room/moved.variables" && cd / && lua5.4 "$room/hello.lua" 2>&1)
[ "$answer" = "hello world" ] || complain "from Lua, moved: $answer"
answer=$(cd "$room/moved/lib/lua/5.4" && . "$room/moved.variables" && LUA_CPATH_5_4='./?.so' \
  lua5.4 "$room/hello.lua" 2>&1)
[ "$answer" = "hello world" ] || complain "from Lua, moved, by a relative path: $answer"
(unset LD_LIBRARY_PATH; others "$room/moved"; exit "$bad") || bad=1
# shellcheck disable=SC2046
(. "$room/moved.variables" && cc -o "$room/version" "$room/version.c" \
  $(pkg-config --cflags --libs moonfork) && "$room/version" >/dev/null) ||
  complain "a C program with the moved moonfork.pc does not work"

# ---- removed: what was installed, and neither what was there nor what was changed since ----

mv "$room/moved" "$prefix"
rm -f "$room"/*.* "$room/version" "$room/template" "$room/variables"
mkdir "$room/other"
./dev uninstall "$room/other" >"$room/log" 2>&1 && complain "uninstall of nothing ends with 0"
grep -q "has put nothing into $room/other" "$room/log" || complain "uninstall: $(cat "$room/log")"
rmdir "$room/other"
echo '-- mine' >>"$prefix/share/lua/5.4/moonfork/map.lua"
./dev uninstall "$prefix" >"$room/log" 2>&1 && complain "uninstall left a file and ends with 0"
grep -q "^left: $prefix/share/lua/5.4/moonfork/map.lua was changed" "$room/log" ||
  complain "uninstall: $(cat "$room/log")"
rm "$prefix/share/lua/5.4/moonfork/map.lua"
(cd "$room" && find . ! -name log | sort) | diff "$room.before" - ||
  complain "uninstall leaves or takes this"
exit "$bad"
