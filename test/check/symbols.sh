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

# exports FILE PATTERN: nothing is exported that the pattern does not allow.
exports() {
  names=$(nm -D --defined-only "$1" | awk '{ print $NF }' | sed 's/@.*//')
  [ -n "$names" ] || complain "${1##*/} exports nothing"
  stray=$(printf '%s\n' "$names" | grep -Ev "$2" | tr '\n' ' ')
  [ -z "$stray" ] || complain "${1##*/} exports $stray"
}

# needs_no FILE LIBRARY: it is not among the needed ones.
needs_no() {
  if readelf -d "$1" | grep -q "NEEDED.*\[$2"; then
    complain "${1##*/} needs $2"
  fi
}

# declares HEADER FILE: every function of the header is exported.
declares() {
  sed 's,/\*.*\*/,,' "$1" | tr '\n' ' ' | grep -o 'MF_API [^;(]*(' |
    sed -n 's/.*[ *]\(mf_[a-z0-9_]*\)($/\1/p' | sort -u >"$build/declared"
  nm -D --defined-only "$2" | awk '{ print $NF }' | sort -u >"$build/exported"
  absent=$(comm -23 "$build/declared" "$build/exported" | tr '\n' ' ')
  [ -z "$absent" ] || complain "${2##*/} does not define $absent"
}

find_one 'libmoonfork.so*'
if [ -n "$found" ]; then
  exports "$found" '^mf_[a-z0-9_]+$'
  declares include/moonfork.h "$found"
  needs_no "$found" liblua
fi
find_one core.so
if [ -n "$found" ]; then
  exports "$found" '^luaopen_moonfork_core$'
  needs_no "$found" liblua
fi
find_one 'libmoonfork-template.so*'
if [ -n "$found" ]; then
  exports "$found" '^mf_[a-z0-9_]+$'
  declares include/moonfork/template.h "$found"
fi
find_one moonfork-template
if [ -n "$found" ]; then
  needs_no "$found" libuv
fi
exit "$bad"
