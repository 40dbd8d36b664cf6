# Those of ./dev configurations that need more than other options of meson. Part of dev, whose
# functions it uses; sourced where one is built. $folder: the build folder.

sources=$top/build-sources

# skip_it WHY: there is something that it needs.
skip_it() {
  say "not tried: $*"
  say '0 passed, 0 failed, 1 skipped'
  exit 0
}

# add_unit FOLDER TIMES: the unit tests, added to what is counted here.
count=0 bad=0 skips=0
add_unit() {
  out=$folder/unit.out
  rc=0
  unit "$@" >"$out" 2>&1 || rc=$?
  cat "$out"
  # shellcheck disable=SC2046
  set -- $(last_count "$out")
  count=$((count + ${1:-0})) bad=$((bad + ${2:-1})) skips=$((skips + ${3:-0}))
}
# smoke COMMAND...: the script of this folder, by that interpreter, in the build's environment.
smoke() {
  if in_build "$folder" timeout 120 "$@" "$top/test/configurations/smoke.lua"; then
    count=$((count + 1))
  else
    bad=$((bad + 1))
  fi
}
# What uses states in other ways than an interpreter does: copies, images, ends, values, calls.
CHECKED_STORIES='thread_clones thread_ends thread_lazy thread_ready pseudo_fork pseudo_pf classes
  audit clone_lib gc_close image_memory image_same image_save early on_term rpc_calls pool_map'
# add_stories NAME...: these files of test/proc, with the Lua of $prefix.
add_stories() {
  out=$folder/stories.out
  set -- $(printf "$top/test/proc/%s.lua " "$@")
  PATH=$prefix/bin:$PATH "$top/test/run" --build "$top/$folder" "$@" >"$out" 2>&1 || :
  cat "$out"
  # shellcheck disable=SC2046
  set -- $(last_count "$out")
  count=$((count + ${1:-0})) bad=$((bad + ${2:-1})) skips=$((skips + ${3:-0}))
}
finish() {
  say "$count passed, $bad failed, $skips skipped"
  [ "$bad" = 0 ]
}

# lua_from VERSION PACKAGE COMPILER [checked]: a Lua of its source in $prefix, static, with its
# interpreter. checked: with its own assertions, which also look at the arguments of its API.
# At the end of a clone in a thread what it inherited stays old (relocate_close), which is no fault
# where nothing is collected any more.
lua_from() {
  source=$(packaging/source.sh lua "$1" "$2") ||
    skip_it "there is no source of Lua $1 (\$MOONFORK_SOURCES names folders of archives)"
  prefix=$sources/prefix-$3-${4:+$4-}${source##*/} flags=-fPIC
  [ -x "$prefix/bin/lua" ] || {
    rm -rf "$prefix.build" "$prefix"
    cp -R "$source/src" "$prefix.build"
    if [ "${4:-}" = checked ]; then
      flags='-fPIC -g -DLUAI_ASSERT -DLUA_USE_APICHECK'
      sed -i 's/lua_assert(\((g->gckind == KGC_GEN) ==\)/lua_assert((g->gcstp \& GCSTPCLS) || \1/' \
        "$prefix.build/lgc.c"
    fi
    make -C "$prefix.build" CC="$3" MYCFLAGS="$flags" linux-noreadline >"$prefix.log" 2>&1 ||
      { tail -n 20 "$prefix.log"; die "${source##*/} does not compile with $3"; }
    mkdir -p "$prefix/include" "$prefix/lib" "$prefix/bin"
    (cd "$prefix.build" && cp lua.h luaconf.h lauxlib.h lualib.h "$prefix/include/" &&
      cp liblua.a "$prefix/lib/" && cp lua "$prefix/bin/lua" && ln -s lua "$prefix/bin/lua5.4")
  }
}

own_lua() {
  CC=$1 && shift
  export CC
  configure "$folder" -Dtests=enabled -Dwerror=true -Dlua_prefix="$prefix" "$@"
  compile "$folder"
}

# musl has no libraries of its own in Debian: headers of the kernel and of msgpack-c are the
# system's, the others are compiled.
musl_libraries() {
  uv=$(packaging/source.sh libuv '1.[4-9]*' libuv1) ||
    skip_it 'there is no source of libuv for musl'
  [ -f /usr/include/msgpack.h ] || skip_it 'there are no headers of msgpack-c'
  [ -f "$prefix/lib/libuv.a" ] || {
    for header in linux asm-generic; do ln -sfn "/usr/include/$header" "$prefix/include/"; done
    ln -sfn "/usr/include/$(gcc -print-multiarch)/asm" "$prefix/include/asm"
    for header in /usr/include/msgpack*; do ln -sfn "$header" "$prefix/include/"; done
    rm -rf "$prefix.uv"
    { cmake -S "$uv" -B "$prefix.uv" -DCMAKE_C_COMPILER=musl-gcc -DBUILD_TESTING=OFF \
        -DLIBUV_BUILD_TESTS=OFF -DCMAKE_C_FLAGS="-fPIC -O2 -I$prefix/include" &&
      make -C "$prefix.uv" -j 2 uv_a && cp "$uv"/include/uv.h "$prefix/include/" &&
      cp -R "$uv/include/uv" "$prefix/include/"; } >"$prefix.log" 2>&1 ||
      { tail -n 20 "$prefix.log"; die 'libuv does not compile with musl-gcc'; }
    mkdir -p "$prefix/lib/pkgconfig"
    version=${uv##*-}
    printf '%s\n' 'Name: libuv' 'Description: libuv' "Version: $version" \
      "Libs: -L$prefix/lib -luv -lpthread -ldl -lrt" "Cflags: -I$prefix/include" \
      >"$prefix/lib/pkgconfig/libuv.pc"
    version=$(pkg-config --modversion msgpack 2>/dev/null || pkg-config --modversion msgpack-c)
    printf '%s\n' 'Name: msgpack' 'Description: msgpack-c' "Version: $version" \
      "Cflags: -I$prefix/include" >"$prefix/lib/pkgconfig/msgpack.pc"
    for made in libuv_a.a libuv.a; do # its name changed
      [ ! -f "$prefix.uv/$made" ] || cp "$prefix.uv/$made" "$prefix/lib/libuv.a"
    done
  }
}
# Returns 1 where there is no source of it.
musl_cmocka() {
  [ ! -f "$prefix/lib/libcmocka.a" ] || return 0
  cmocka=$(packaging/source.sh cmocka '1.1.*') || return 1
  rm -rf "$prefix.cmocka"
  { cmake -S "$cmocka" -B "$prefix.cmocka" -DCMAKE_C_COMPILER=musl-gcc -DBUILD_SHARED_LIBS=OFF \
      -DWITH_EXAMPLES=OFF -DUNIT_TESTING=OFF -DCMAKE_C_FLAGS=-O2 &&
    make -C "$prefix.cmocka" -j 2; } >"$prefix.log" 2>&1 ||
    { tail -n 20 "$prefix.log"; die 'cmocka does not compile with musl-gcc'; }
  cp "$cmocka"/include/*.h "$prefix/include/"
  cp "$prefix.cmocka/src/libcmocka.a" "$prefix/lib/"
  printf '%s\n' 'Name: cmocka' 'Description: cmocka' "Version: ${cmocka##*-}" \
    "Libs: -L$prefix/lib -lcmocka" "Cflags: -I$prefix/include" >"$prefix/lib/pkgconfig/cmocka.pc"
}

# Unit tests of what knows no glibc, in a folder of their own, where nothing else is compiled.
MUSL_UNITS='blockcache blockpool buf list minheap cpus stdin memfile fd drop fdwait flush sock chunk
  failure frame inbox link message outbox parts heap heap_frozen heap_model heap_copy collector'
musl_units() {
  units=$folder-units # the functions below change $folder
  configure "$units" -Dtests=enabled -Dwerror=true -Dlua_prefix="$prefix" "$@"
  # shellcheck disable=SC2046,SC2086  # a list of words
  compile "$units" $(printf 'test/unit/test_%s ' $MUSL_UNITS)
  for unit in $MUSL_UNITS; do
    out=$units/$unit.out
    CMOCKA_MESSAGE_OUTPUT=TAP MOONFORK_TEST_DATA=$top/test/data \
      timeout 120 "$units/test/unit/test_$unit" >"$out" 2>&1 || { cat "$out"; bad=$((bad + 1)); }
    skips=$((skips + $(grep -c '^\(not \)\?ok [0-9].*# SKIP' "$out" || :)))
    count=$((count + $(grep '^ok [0-9]' "$out" | grep -vc '# SKIP' || :)))
  done
}

# walk_55 COMPILER FOLDER: that src/image describes the states of this Lua: the self-check, and the
# programs that are moved (test/image), three times.
walk_55() {
  room=$sources/walk-${2##*/}
  rm -rf "$room"
  cp -R "$2/src" "$room"
  make -C "$room" CC="$1" MYCFLAGS=-fPIC linux >"$room.log" 2>&1 ||
    { tail -n 20 "$room.log"; die "${2##*/} does not compile with $1"; }
  flags="-Wall -Werror -O1 -g -D_GNU_SOURCE -I$room -Isrc -Itest -Itest/image"
  # shellcheck disable=SC2086  # flags are words
  for file in relocate pointers compare objects selfcheck; do
    "$1" $flags -c -o "$room/image_$file.o" "src/image/$file.c" || exit 1
  done
  # shellcheck disable=SC2086
  for program in hop selfcheck_55; do
    "$1" $flags -o "$room/$program" "test/image/$program.c" test/image/arena.c \
      "$room"/image_*.o "$room/liblua.a" -lm -ldl -lpthread || exit 1
  done
  if "$room/selfcheck_55"; then count=$((count + 1)); else bad=$((bad + 1)); fi
  for seed in 1 2 3; do
    "$room/hop" --seed "$seed" test/image/programs/*.lua >"$room/out" 2>&1 || cat "$room/out"
    count=$((count + $(grep -c '^ok' "$room/out" || :)))
    bad=$((bad + $(grep -c '^not ok' "$room/out" || :)))
  done
}

# /proc is an empty folder for what comes after it; words for unshare.
if [ "$(id -u)" = 0 ]; then namespace=-m; else namespace=-Urm; fi
EMPTY_PROC='mount -t tmpfs none /proc && exec "$@"'

configuration_of() {
  name=$1 compiler=$2
  shift 2
  case $name in
  m32)
    m32_ready || skip_it 'dpkg --add-architecture i386 && apt-get update makes it possible'
    ;;
  lua5.4.4) lua_from 5.4.4 lua5.4 gcc ;;
  lua5.4) lua_from '5.4.[5-9]*' lua5.4 gcc ;;
  checked) lua_from '5.4.[5-9]*' lua5.4 gcc checked ;;
  lua5.5)
    source=$(packaging/source.sh lua '5.5.*' lua5.5) || skip_it 'there is no source of Lua 5.5'
    if meson setup "$folder" -Dlua_include="$source/src" >"$sources/lua5.5.log" 2>&1; then
      die "meson takes ${source##*/}, and this does not test all of it yet"
    fi
    grep -q 'ERROR: .*moonfork needs Lua 5.4' "$sources/lua5.5.log" ||
      { tail -n 5 "$sources/lua5.5.log"; die "meson does not say that it is for Lua 5.4"; }
    say "meson says of ${source##*/} that moonfork is for Lua 5.4: the walk through a state alone"
    walk_55 "$compiler" "$source"
    finish
    return
    ;;
  musl)
    command -v musl-gcc >/dev/null || skip_it 'there is no musl-gcc (Debian: musl-tools)'
    lua_from 5.4.4 lua5.4 musl-gcc
    musl_libraries
    # As headers of the system, which are not warned about.
    PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig CFLAGS="-isystem $prefix/include"
    export PKG_CONFIG_LIBDIR CFLAGS
    own_lua musl-gcc "$@" -Dtests=disabled
    smoke "$prefix/bin/lua"
    if musl_cmocka; then musl_units "$@"; else skips=$((skips + 1)); fi
    finish
    return
    ;;
  noproc)
    unshare "$namespace" sh -c "$EMPTY_PROC" sh true 2>/dev/null ||
      skip_it 'this user may not make a mount namespace'
    ;;
  esac
  case $name in
  lua5.4* | checked) own_lua "$compiler" "$@" ;;
  *)
    (CC=$compiler; export CC; configure "$folder" -Dtests=enabled -Dwerror=true "$@") &&
      compile "$folder" || exit 1
    ;;
  esac
  case $name in
  lua5.4*)
    add_unit "$folder" 3
    smoke "$prefix/bin/lua"
    ;;
  checked)
    add_unit "$folder" 5
    # shellcheck disable=SC2086  # a list of words
    add_stories $CHECKED_STORIES
    ;;
  noproc) # tests look into /proc themselves, so the script is what is tried
    smoke unshare "$namespace" sh -c "$EMPTY_PROC" sh lua5.4
    ;;
  nohuge)
    gcc -O2 -Wall -Werror -o "$folder/nohuge" test/configurations/nohuge.c || exit 1
    wrapper="--wrapper=$top/$folder/nohuge"
    add_unit "$folder" 3
    smoke "$folder/nohuge" lua5.4
    ;;
  m32) add_unit "$folder" 3 ;;
  *)
    add_unit "$folder" 3
    smoke lua5.4
    ;;
  esac
  finish
}
