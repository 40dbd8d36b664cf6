#!/bin/sh
# LuaRocks: what `luarocks make` builds lands in the tree that was asked for, whatever an
# earlier one left in the build folder, and a binary rock of it works in another tree after
# the first one is gone, with its template program.
set -u
command -v luarocks >/dev/null || { echo "luarocks is not installed"; exit 77; }
top=$PWD
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-rock.XXXXXX")
trap 'rm -rf "$room"' EXIT
unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 MOONFORK_TEMPLATE MOONFORK_BUILD LD_LIBRARY_PATH
unset LUA_PATH_5_4 LUA_CPATH_5_4
HOME=$room # no manifests or caches of the person's
export HOME

rocks() { luarocks --lua-version 5.4 "$@" >>"$room/log" 2>&1; }
fail() { echo "$*"; tail -n 20 "$room/log"; exit 1; }

# hello TREE: a program that finds the module by its tree alone.
cat >"$room/hello.lua" <<'LUA'
local fork = require "moonfork"
local socket = assert(fork.new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
hello() {
  answer=$(cd / && LUA_PATH="$1/share/lua/5.4/?.lua;$1/share/lua/5.4/?/init.lua" \
    LUA_CPATH="$1/lib/lua/5.4/?.so" lua5.4 "$room/hello.lua" 2>&1)
  [ "$answer" = "hello world" ] || fail "from $1: $answer"
}

mkdir "$room/source"
cp -R include lua src bench meson.build meson_options.txt moonfork-dev-1.rockspec LICENSE \
  "$room/source/"
cd "$room/source" || exit 1
meson setup build-rock --prefix="$room/earlier" --libdir=native -Dtests=disabled \
  >>"$room/log" 2>&1 || fail "meson setup"
rocks make --tree="$room/one" || fail "luarocks make"
[ ! -e "$room/earlier" ] || fail "luarocks make installed into the earlier tree"
hello "$room/one"
rocks pack --tree="$room/one" moonfork || fail "luarocks pack"
rock=$(ls ./*.rock) || fail "no rock was packed"
mv "$room/one" "$room/gone" # what has the compiled path would still be found
rocks install --tree="$room/two" "$rock" || fail "luarocks install $rock"
hello "$room/two"
cd "$top" || exit 1
exit 0
