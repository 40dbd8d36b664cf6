#!/bin/sh
# What the shared objects of a build export and which libraries they need, as the
# headers, the maps of the linker and debian/*.symbols say. A template that
# linked libuv, or a module that brought a second Lua core, would work until it did not.
# usage: symbols.sh BUILD [--write]: writes debian/*.symbols; what is new there has appeared in
# this version
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

# symbols_of FILE PACKAGE: its part of debian/PACKAGE.symbols as it should be. A function has there
# the version in which it appeared, so that a package shows which came and went.
symbols_of() {
  soname=$(readelf -d "$1" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
  packaged=debian/$2.symbols
  echo "$soname $2 #MINVER#"
  echo "* Build-Depends-Package: $(echo "$2" | sed "s/[0-9]*$/-dev/")"
  exported "$1" | LC_ALL=C sort | while read -r name; do
    line=$(sed -n "/^$soname /,/^lib/s/^ $name@Base .*/&/p" "$packaged" 2>/dev/null | head -n 1)
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

: >"$build/libmoonfork0.symbols"
find_one 'libmoonfork.so*'
if [ -n "$found" ]; then
  exports_just "$found" include/moonfork.h
  map_of src/parent/libmoonfork.map "$found"
  symbols_of "$found" libmoonfork0 >>"$build/libmoonfork0.symbols"
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
  symbols_of "$found" libmoonfork0 >>"$build/libmoonfork0.symbols"
fi
find_one moonfork-template
if [ -n "$found" ]; then
  needs_no "$found" libuv
fi
if [ -e "$build/src/nats/libmoonfork-nats.so" ]; then # where libnats is
  find_one 'libmoonfork-nats.so*'
  exports_just "$found" include/moonfork/nats.h
  map_of src/nats/libmoonfork-nats.map "$found"
  symbols_of "$found" libmoonfork-nats0 >"$build/libmoonfork-nats0.symbols"
  needs_no "$found" liblua
  find_one nats_core.so
  names=$(exported "$found")
  [ "$names" = luaopen_moonfork_nats_core ] || complain "nats_core.so exports $names"
  needs_no "$found" liblua
  needs_no "$found" libmoonfork # moonfork.core has it inside, and that is one too many
fi

# Only these two know libnats.
for file in $(find "$build" -type f \( -name '*.so*' -o -perm -u+x \) -path "*/src/*" |
  grep -v '\.p/\|libmoonfork-nats\.so\|nats_core\.so'); do
  needs_no "$file" libnats
  nm -D --undefined-only "$file" 2>/dev/null | grep -q ' nats[A-Z_]' &&
    complain "${file##*/} has symbols of libnats"
done

for file in "$build"/libmoonfork*.symbols; do
  packaged=debian/${file##*/}
  if [ "${2:-}" = --write ]; then
    cp "$file" "$packaged"
  elif ! diff "$packaged" "$file" >"$build/difference"; then
    complain "$packaged is not what the libraries export; test/check/symbols.sh $build --write" \
      "makes it so:" "$(sed -n '/^[<>]/p' "$build/difference" | tr '\n' ' ')"
  fi
done
exit "$bad"
