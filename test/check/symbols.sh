#!/bin/sh
# What the shared objects of a build export and which libraries they need, as the
# headers, the maps of the linker and debian/libmoonfork0.symbols say. A template that
# linked libuv, or a module that brought a second Lua core, would work until it did not.
# usage: symbols.sh BUILD [--write]: writes debian/libmoonfork0.symbols; what is new there has
# appeared in this version
set -u
build=$1
bad=0
packaged=debian/libmoonfork0.symbols

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

# symbols_of FILE: its part of debian/libmoonfork0.symbols as it should be. A function has there
# the version in which it appeared, so that a package shows which came and went.
symbols_of() {
  soname=$(readelf -d "$1" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
  echo "$soname libmoonfork0 #MINVER#"
  exported "$1" | LC_ALL=C sort | while read -r name; do
    line=$(sed -n "/^$soname /,/^lib/s/^ $name@Base .*/&/p" "$packaged" | head -n 1)
    echo "${line:- $name@Base $(./dev version)}"
  done
}

# map_of MAP FILE: the map names each exported function, or its beginning with a star, and no other.
map_of() {
  sed 's/#.*//' "$1" | tr -d '\n' | sed 's/.*global:\(.*\)local:.*/\1/' | tr ';' '\n' |
    tr -d ' ' | grep . >"$build/patterns"
  for name in $(exported "$2"); do
    known=
    while read -r pattern; do
      # shellcheck disable=SC2254  # it is a pattern
      case $name in $pattern) known=1 ;; esac
    done <"$build/patterns"
    [ -n "$known" ] || complain "${2##*/} exports $name, which $1 does not name"
  done
  while read -r pattern; do
    exported "$2" | grep -q "^$(printf %s "$pattern" | sed 's/\*/.*/')\$" ||
      complain "$1 names $pattern, which ${2##*/} does not export"
  done <"$build/patterns"
}

# needs_no FILE LIBRARY: it is not among the needed ones.
needs_no() {
  if readelf -d "$1" | grep -q "NEEDED.*\[$2"; then
    complain "${1##*/} needs $2"
  fi
}

: >"$build/symbols"
find_one 'libmoonfork.so*'
if [ -n "$found" ]; then
  exports_just "$found" include/moonfork.h
  map_of src/parent/libmoonfork.map "$found"
  symbols_of "$found" >>"$build/symbols"
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
  map_of src/template/libmoonfork-template.map "$found"
  symbols_of "$found" >>"$build/symbols"
fi
find_one moonfork-template
if [ -n "$found" ]; then
  needs_no "$found" libuv
fi
if [ "${2:-}" = --write ]; then
  cp "$build/symbols" "$packaged"
elif ! diff "$packaged" "$build/symbols" >"$build/difference"; then
  complain "$packaged is not what the libraries export; test/check/symbols.sh $build --write" \
    "makes it so:" "$(sed -n '/^[<>]/p' "$build/difference" | tr '\n' ' ')"
fi
exit "$bad"
