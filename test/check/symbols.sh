#!/bin/sh
# What the shared objects of a build export and which libraries they need. A template that
# linked libuv, or a module that brought a second Lua core, would work until it did not.
# usage: symbols.sh BUILD
set -u
build=$1
bad=0

complain() { echo "$*"; bad=1; }

# find_one NAME: the built file of that name.
find_one() {
  found=$(find "$build" -name "$1" -type f | grep -v '\.p/' | head -n 1)
  [ -n "$found" ] || complain "$1 was not built"
}

exported() { nm -D --defined-only "$1" | awk '{ print $NF }' | sed 's/@.*//' | sort -u; }

# exports_just FILE HEADER [NAME...]: the functions of the header, all of them, those of libc that
# the library stands before, and nothing else.
exports_just() {
  sed 's,/\*.*\*/,,' "$2" | tr '\n' ' ' | grep -o 'MF_API [^;(]*(' |
    sed -n 's/.*[ *]\(mf_[a-z0-9_]*\)($/\1/p' | sort -u >"$build/declared"
  file=$1 header=$2
  shift 2
  for name; do echo "$name"; done | sort -u - "$build/declared" >"$build/allowed"
  set -- "$file" "$header"
  exported "$1" >"$build/exported"
  absent=$(comm -23 "$build/declared" "$build/exported" | tr '\n' ' ')
  [ -z "$absent" ] || complain "${1##*/} does not define $absent"
  stray=$(comm -13 "$build/allowed" "$build/exported" | tr '\n' ' ')
  [ -z "$stray" ] || complain "${1##*/} exports $stray which $2 does not declare"
}

# needs_no FILE LIBRARY: it is not among the needed ones.
needs_no() {
  if readelf -d "$1" | grep -q "NEEDED.*\[$2"; then
    complain "${1##*/} needs $2"
  fi
}

find_one 'libmoonfork.so*'
if [ -n "$found" ]; then
  exports_just "$found" include/moonfork.h
  needs_no "$found" liblua
fi
find_one core.so
if [ -n "$found" ]; then
  names=$(exported "$found")
  [ "$names" = luaopen_moonfork_core ] || complain "core.so exports $names"
  needs_no "$found" liblua
fi
find_one 'libmoonfork-template.so*'
if [ -n "$found" ]; then
  exports_just "$found" include/moonfork/template.h __cxa_atexit \
    __register_atfork setuid seteuid setreuid \
    setresuid setgid setegid setregid setresgid
fi
find_one moonfork-template
if [ -n "$found" ]; then
  needs_no "$found" libuv
fi
exit "$bad"
