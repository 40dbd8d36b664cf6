# The ways in which somebody may compile moonfork: ./dev configurations. Sourced by it.

# NAME|COMPILER|WHAT IT IS|MESON OPTION...
configuration_table() {
  cat <<'TXT'
gcc|gcc|as people compile it|--buildtype=debugoptimized
clang|clang|the other compiler|--buildtype=debugoptimized
lto|gcc|optimised when it is linked|--buildtype=release -Db_lto=true
o0|gcc|-O0|--buildtype=debug
ndebug|gcc|a release without asserts|--buildtype=release -Db_ndebug=true
level3|gcc|warning level 3|--buildtype=debugoptimized -Dwarning_level=3
clang3|clang|warning level 3, -O0, no asserts|--buildtype=debug -Dwarning_level=3 -Db_ndebug=true
m32|gcc -m32|32 bits, where dpkg knows i386|--buildtype=debugoptimized
lua5.4.4|gcc|Lua 5.4.4 from its source, linked statically|--buildtype=debugoptimized
lua5.4|gcc|the newest Lua 5.4 from its source|--buildtype=debugoptimized
checked|gcc|Lua with its own assertions: units, and stories of its states|--buildtype=debugoptimized
lua5.5|gcc|Lua 5.5 from its source: the description of its states|--buildtype=debugoptimized
musl|musl-gcc|musl in the place of glibc|--buildtype=debugoptimized -Dffi=disabled -Dhttp=disabled
noproc|gcc|without /proc|--buildtype=debugoptimized
nohuge|gcc|without huge pages|--buildtype=debugoptimized
TXT
}

# For 32 bits the packages of another architecture are needed, which is not ours to add. Who has
# a 32-bit Lua, libuv and cmocka elsewhere sets PKG_CONFIG_LIBDIR.
m32_packages='gcc-multilib liblua5.4-dev:i386 libuv1-dev:i386 libcmocka-dev:i386'
m32_ready() {
  [ -z "${PKG_CONFIG_LIBDIR:-}" ] || return 0
  dpkg --print-foreign-architectures 2>/dev/null | grep -qx i386 || return 1
  # shellcheck disable=SC2086
  need $m32_packages
  PKG_CONFIG_LIBDIR=/usr/lib/i386-linux-gnu/pkgconfig:/usr/share/pkgconfig
  export PKG_CONFIG_LIBDIR
}

# configuration NAME COMPILER OPTION...: builds and tests one; prints what failed. What some need
# besides is in test/configurations/prepare.sh.
configuration() {
  folder=build-configuration-$1
  . test/configurations/prepare.sh
  configuration_of "$@"
}

# result_row NAME SECONDS WHY_NOT PASSED FAILED SKIPPED: a line of the table; the numbers are the
# totals before it.
result_row() {
  failed=$((total_failed - $5)) result=ok
  [ "$failed" = 0 ] || result=FAILED
  [ -z "$3" ] || result=skipped
  printf '%-13s %-8s %7d %7d %8d %5d%s' "$1" "$result" $((total_passed - $4)) "$failed" \
    $((total_skipped - $6)) "$2" "${3:+  $3}"
}

configurations() {
  known=$(configuration_table | sed 's/|.*//')
  for name in "$@"; do
    printf '%s\n' "$known" | grep -qxF -- "$name" ||
      misuse "there is no configuration '$name' (there are:" $known")"
  done
  # shellcheck disable=SC2086
  need $build_packages $unit_packages clang make cmake musl-tools util-linux
  mkdir -p build # of the parts' output
  results=
  # shellcheck disable=SC2086  # a list of words
  for configuration in ${*:-$known}; do
    name=$configuration # which part() changes
    row=$(configuration_table | grep "^$name|")
    compiler=$(printf '%s' "$row" | cut -d'|' -f2)
    before="$total_passed $total_failed $total_skipped" started=$(date +%s)
    part "$name: $(printf '%s' "$row" | cut -d'|' -f3)" 3600 \
      configuration "$name" "$compiler" $(printf '%s' "$row" | cut -d'|' -f4)
    why=$(sed -n 's/^not tried: //p' "$log" | head -n 1)
    # shellcheck disable=SC2086  # three numbers
    results="$results$(result_row "$configuration" "$(($(date +%s) - started))" "$why" $before)
"
  done
  say ""
  printf '%-13s %-8s %7s %7s %8s %5s\n' configuration result passed failed skipped s
  printf '%s' "$results"
  say "" "$total_passed passed, $total_failed failed, $total_skipped skipped"
  [ "$total_failed" = 0 ]
}
