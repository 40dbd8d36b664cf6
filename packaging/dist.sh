#!/bin/sh
# What ./dev dist does: the archive of a release, from what is committed, and a look at whether it
# compiles and works where there is no git. usage: dist.sh FOLDER
set -eu
folder=$1
cd "$(dirname "$0")/.."
say() { printf '%s\n' "$*"; }
die() { printf 'dev: %s\n' "$*" >&2; exit 1; }
git rev-parse HEAD >/dev/null 2>&1 || die 'dist: the archive is made of a git repository'
[ -z "$(git status --porcelain)" ] ||
  say 'dev: what is not committed is not in the archive' >&2
version=$(./dev version)
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-dist.XXXXXX")
trap 'rm -rf "$room"' EXIT
archive=moonfork-$version.tar.xz
meson setup "$room/build" -Dtests=disabled >"$room/log" 2>&1 &&
  meson dist -C "$room/build" --no-tests --allow-dirty >>"$room/log" 2>&1 ||
  { tail "$room/log"; die "meson dist failed"; }
mkdir -p "$folder"
cp "$room/build/meson-dist/$archive" "$room/build/meson-dist/$archive.sha256sum" "$folder/"

mkdir "$room/bin"
printf '#!/bin/sh\necho "git $*" >>"%s"\nexit 127\n' "$room/git.log" >"$room/bin/git"
chmod +x "$room/bin/git"
PATH=$room/bin:$PATH
unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 LD_LIBRARY_PATH LUA_PATH_5_4 LUA_CPATH_5_4
unset MOONFORK_TEMPLATE MOONFORK_LIBRARY MOONFORK_BUILD
(cd "$folder" && sha256sum --quiet -c "$archive.sha256sum") &&
  tar -C "$room" -xf "$folder/$archive" || die "$folder/$archive is damaged"
cd "$room/moonfork-$version"
[ ! -e .git ] || die 'the archive has .git'
passed=0 failed=0
try() {
  sentence=$1
  shift
  if "$@" >"$room/log" 2>&1; then passed=$((passed + 1)); say "ok $sentence"; else
    failed=$((failed + 1))
    say "not ok $sentence"
    tail -n 30 "$room/log"
  fi
}
try 'the archive compiles, and is installed' ./dev install "$room/prefix"
cat >"$room/hello.lua" <<'LUA'
local socket = assert(require("moonfork").new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
assert(socket:read("a") == "hello world")
LUA
LUA_PATH="$room/prefix/share/lua/5.4/?.lua;$room/prefix/share/lua/5.4/?/init.lua;;"
LUA_CPATH="$room/prefix/lib/lua/5.4/?.so"
export LUA_PATH LUA_CPATH
try 'a script works' lua5.4 "$room/hello.lua"
try 'the program has its version' sh -c '"$1" --version | grep "^moonfork $2,"' sh \
  "$room/prefix/bin/moonfork" "$version"
try 'everything tells one version' lua5.4 test/check/version.lua
try 'it is removed' ./dev uninstall "$room/prefix"
try 'nothing remains' sh -c '! [ -e "$1" ]' sh "$room/prefix"
try 'git was not asked for' sh -c '! cat "$1"' sh "$room/git.log"
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
