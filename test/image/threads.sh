#!/bin/sh
# Pseudo-processes under ThreadSanitizer: a Lua from its source and moonfork.pseudo_core, both
# compiled with it, run a program whose copies fork, collect, wait and kill at the same time. Ends
# with 0 when it has nothing to report, with 77 where there is no source of Lua. What loops in Lua
# alone is not killed there: the sanitizer delivers signals in system calls only.
#
#   test/image/threads.sh
set -eu
cd "$(dirname "$0")/../.."
lua=$(packaging/source.sh lua 5.4.4 lua5.4) || { echo 'there is no source of Lua 5.4.4'; exit 77; }
work=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-threads.XXXXXX")
trap 'rm -rf "$work"' EXIT
flags='-O1 -g -fsanitize=thread -fPIC -D_GNU_SOURCE -w'
version=$(sed -n "s/^project('moonfork'.* version: '\([0-9.]*\)'.*/\1/p" meson.build)
mkdir "$work/moonfork"
# shellcheck disable=SC2046,SC2086  # words
gcc $flags -DLUA_USE_LINUX -Wl,-E -o "$work/lua" \
  $(ls "$lua"/src/*.c | grep -v '/luac\.c$') -lm -ldl
# shellcheck disable=SC2046,SC2086
gcc $flags -shared -DMOONFORK_VERSION="\"$version\"" -DMOONFORK_LUA='"threads"' -Isrc -Iinclude \
  -I"$lua/src" -o "$work/moonfork/pseudo_core.so" src/pseudo/*.c src/image/*.c \
  src/template/heap/*.c $(ls src/os/*.c | grep -v 'coverage\|posix\|zombie') src/base/*.c -lpthread
LUA_PATH="$PWD/lua/?.lua" LUA_CPATH="$work/?.so" TSAN_OPTIONS=halt_on_error=0:exitcode=66 \
  timeout 120 "$work/lua" test/image/threads.lua
