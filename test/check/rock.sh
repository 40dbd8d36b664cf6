#!/bin/sh
# LuaRocks, as an ordinary user: what `luarocks build` makes of the tagged source lands in the
# user's own tree, whatever an earlier one left in the build folder; the compiler and the flags
# that LuaRocks names are used; and a binary rock of it works in another tree, of another user,
# after the first one is gone: module, program and template program.
set -u
command -v luarocks >/dev/null || { echo "luarocks is not installed"; exit 77; }
command -v git >/dev/null || { echo "git is not installed"; exit 77; }
argparse=$(lua5.4 -e 'io.write(package.searchpath("argparse", package.path) or "")')
[ -n "$argparse" ] || { echo "argparse is not installed"; exit 77; }
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-rock.XXXXXX")
trap 'rm -rf "$room"' EXIT
chmod 755 "$room"
unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 MOONFORK_TEMPLATE MOONFORK_BUILD LD_LIBRARY_PATH
unset LUA_PATH_5_4 LUA_CPATH_5_4 MOONFORK_LIBRARY

fail() { echo "$*"; tail -n 20 "$room/log"; exit 1; }

# as USER COMMAND...: two users where this one is root, itself otherwise. Each has a HOME with no
# manifests or caches of the person's.
as() {
  user=$1
  shift
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid="$user" --regid="$user" --clear-groups env HOME="$room/$user" "$@"
  else
    env HOME="$room/$user" "$@"
  fi
}
one=65534 two=65533
mkdir "$room/$one" "$room/$two" "$room/source" "$room/packed"
rocks() {
  user=$1
  shift
  (cd "$room/packed" && as "$user" luarocks --lua-version 5.4 "$@" >>"$room/log" 2>&1)
}

# ---- the source, tagged ----

spec=$(ls moonfork-*.rockspec)
version=$(sed -n 's/^local VERSION = "\(.*\)"/\1/p' "$spec")
packaging/tree.sh "$room/source"
sed "s,git+https://[^\"]*,git+file://$room/source," "$spec" >"$room/packed/$spec"
mkdir "$room/argparse"
cp "$argparse" "$room/argparse/argparse.lua"
printf '%s\n' 'package = "argparse"' 'version = "0.7.1-1"' 'source = { url = "file://." }' \
  'build = { type = "builtin", modules = { argparse = "argparse.lua" } }' \
  >"$room/argparse/argparse-0.7.1-1.rockspec"
[ "$(id -u)" != 0 ] || chown -R "$one:$one" "$room"
as "$one" sh -c 'cd "$1" && git init -q &&
  meson setup build-rock --prefix="$2" --libdir=native -Dtests=disabled &&
  git add -f . && git -c user.name=x -c user.email=x commit -q -m x && git tag "v$3"' \
  sh "$room/source" "$room/earlier" "$version" >>"$room/log" 2>&1 || fail "the source"
as "$one" sh -c 'cd "$1" && luarocks --lua-version 5.4 make --local' sh "$room/argparse" \
  >>"$room/log" 2>&1 || fail "luarocks make argparse"

# ---- into the tree of a user ----

rocks "$one" build --local "$spec" CFLAGS="-O1 -fPIC -frecord-gcc-switches -fno-tree-sra" \
  LIBFLAG="-shared -Wl,--build-id=0x6d6f6f6e" || fail "luarocks build"
[ ! -e "$room/earlier" ] || fail "luarocks build installed into the earlier tree"
tree=$room/$one/.luarocks
core=$tree/lib/lua/5.4/moonfork/core.so
readelf -p .GCC.command.line "$core" | grep -q "fno-tree-sra" || fail "CFLAGS is not used"
readelf -n "$core" | grep -q 'Build ID: 6d6f6f6e' || fail "LIBFLAG is not used"

cat >"$room/hello.lua" <<'LUA'
local fork = require "moonfork"
local socket = assert(fork.new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
# hello USER TREE: Lua finds the module by its tree alone, and the program needs no more.
hello() {
  answer=$(cd / && as "$1" env LUA_PATH="$2/share/lua/5.4/?.lua;$2/share/lua/5.4/?/init.lua" \
    LUA_CPATH="$2/lib/lua/5.4/?.so" lua5.4 "$room/hello.lua" 2>&1)
  [ "$answer" = "hello world" ] || fail "from $2: $answer"
  answer=$(cd / && as "$1" env LUA_PATH=/none/?.lua LUA_CPATH=/none/?.so "$2/bin/moonfork" run \
    -e 'function hello(socket, name) socket:write("hello ", name, "\n") end' hello world 2>&1)
  [ "$answer" = "hello world" ] || fail "the program in $2: $answer"
}
hello "$one" "$tree"

# ---- a binary rock, for somebody else ----

rocks "$one" pack moonfork || fail "luarocks pack moonfork"
rocks "$one" pack argparse || fail "luarocks pack argparse"
rock=$(ls "$room"/packed/moonfork-*.*.rock) || fail "no rock was packed"
mv "$tree" "$room/$one/gone" # what has the compiled path would still be found
[ "$(id -u)" != 0 ] || chown -R "$two:$two" "$room/packed" "$room/$two"
rocks "$two" install --tree="$room/$two/tree" "$(ls "$room"/packed/argparse-*.rock)" ||
  fail "luarocks install argparse"
rocks "$two" install --tree="$room/$two/tree" "$rock" || fail "luarocks install $rock"
hello "$two" "$room/$two/tree"
exit 0
