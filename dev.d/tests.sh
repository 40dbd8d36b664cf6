# What the parts of the test do: stories, faults, fuzzing, sanitizers, coverage, random drivers.
# Sourced by ./dev.

# The stories run as an ordinary user, from whom nothing is hidden (root has no RLIMIT_NPROC and
# no ETOOMANYREFS); what asks for root runs once more as root. The sanitizers' stories run as
# whoever started this.
stories() { for_everybody stories_in; }
stories_in() { "$1/test/run" --again --user --build "$1/build"; }
remote_stories() { for_everybody remote_stories_in; }
remote_stories_in() { "$1/test/run" --again --user --remote --build "$1/build"; }
root_stories() {
  [ "$(id -u)" = 0 ] || { say "0 passed, 0 failed, 1 skipped"; return 0; }
  "$top/test/run" --again --root --build "$top/build"
}
faults() { for_everybody faults_in; }
faults_in() {
  "$1/test/run" --again --build "$1/build" "$1"/test/fault/f_*.lua "$1"/test/fault/root_*.lua
}

# for_everybody FUNCTION: calls it with a folder that has the tree and its build and that
# every user can read: this one, or, in root's home for example, a copy.
for_everybody() {
  PATH=/usr/local/bin:/usr/bin:/bin # not the folders of root
  export PATH
  if [ "$(id -u)" != 0 ] || $as_nobody test -r "$top/test/run"; then
    "$1" "$top"
    return
  fi
  room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-room.XXXXXX")
  chmod 755 "$room"
  cp -R build test lua example src include bench doc "$room/"
  rc=0
  "$1" "$room" || rc=$?
  rm -rf "$room"
  return "$rc"
}
as_nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'

# The fuzz targets: every file of the corpora once, then SECONDS shared among the targets.
fuzz() {
  seconds=$1
  (export CC=clang; configure build-fuzz -Dfuzz=true -Dtests=enabled \
    -Db_sanitize=address,undefined -Db_lundef=false)
  ninja -C build-fuzz build.ninja >/dev/null # where a meson.build has changed
  targets=$(ninja -C build-fuzz -t targets all | sed -n 's,^\(test/fuzz/fuzz_[a-z_]*\): .*,\1,p')
  # shellcheck disable=SC2086  # a list of words
  compile build-fuzz $targets
  ntargets=0
  for target in $targets; do ntargets=$((ntargets + 1)); done
  [ "$ntargets" -gt 0 ] || die "no fuzz targets were built"
  rm -f build-fuzz/told-*
  printf '%s\n' "$targets" |
    xargs -n 1 -P "$(nproc)" "$top/dev" part fuzz_target $((seconds / ntargets + 1)) || :
  cat build-fuzz/told-*
  passed=$(cat build-fuzz/told-* | grep -c '^ok ') || :
  say "$passed passed, $((2 * ntargets - passed)) failed"
  [ "$passed" = $((2 * ntargets)) ]
}

# fuzz_target SECONDS TARGET: its corpus, then fuzzing; what comes of it in build-fuzz/told-NOUN.
fuzz_target() {
  seconds=$1 target=build-fuzz/$2
  noun=${target##*/}
  noun=${noun#fuzz_}
  corpus=test/fuzz/corpus/$noun
  found=build-fuzz/found/$noun
  mkdir -p "$found"
  [ -d "$corpus" ] || corpus=$found
  {
    fuzz_once "replay $noun" "$target" -runs=0 "$corpus"
    fuzz_once "fuzz $noun" "$target" -max_total_time="$seconds" \
      -artifact_prefix="$found/../crash-$noun-" "$found" "$corpus"
  } >"build-fuzz/told-$noun"
}

fuzz_once() {
  label=$1
  shift
  if "$@" >"build-fuzz/fuzz-$noun.log" 2>&1; then
    fuzz_log=build-fuzz/fuzz-$noun.log
    say "ok $label: $(grep -c . "$fuzz_log") lines, $(tail -n 1 "$fuzz_log")"
  else
    tail -n 40 "build-fuzz/fuzz-$noun.log"
    say "not ok $label"
  fi
}

asan_configure() {
  configure build-asan -Dtests=enabled -Db_sanitize=address,undefined -Db_lundef=false
  compile build-asan
}

# The unit tests end in the usual way, so they may be asked for leaks.
asan_unit() {
  asan_configure
  ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    unit build-asan 3
}

# The counters start at nothing: those of an earlier run would be added. Optimised code has
# lines that no instruction belongs to, so this is built without.
coverage_configure() {
  (CC=gcc; export CC; configure build-coverage -Dtests=enabled -Db_coverage=true \
    --buildtype=debug)
  compile build-coverage
  find build-coverage -name '*.gcda' -delete
}

coverage_stories() { "$top/test/run" --build "$top/build-coverage" --deadline 360 "$@"; }

# The lines of each folder of src/, from the table of files.
coverage_summary() {
  awk -F, '
    NR == 1 { next }
    {
      folder = $1
      sub(/\/[^\/]*$/, "", folder)
      lines[folder] += $2; covered[folder] += $3
      all += $2; all_covered += $3
    }
    function row(name, n, of) {
      return sprintf("%-24s %7d %7d %6.1f %%", name, of, n, 100 * n / of)
    }
    END {
      printf "%-24s %7s %7s %8s\n", "folder", "lines", "covered", "part"
      fflush()
      for (folder in lines)
        if (lines[folder] > 0)
          print row(folder, covered[folder], lines[folder]) | "sort"
      close("sort")
      if (all > 0) print row("all", all_covered, all)
    }' "$1"
}

# A process that was killed while it wrote may leave a file of counters that can't be read:
# that is no reason to report nothing.
coverage_report() {
  rm -rf build-coverage/coverage
  mkdir build-coverage/coverage
  gcovr --root "$top" --filter "$top/src/" --object-directory build-coverage \
    --gcov-ignore-parse-errors -j 2 \
    --csv build-coverage/coverage.csv --html-details build-coverage/coverage/index.html \
    build-coverage >build-coverage/gcovr.log 2>&1 ||
    { cat build-coverage/gcovr.log; die "gcovr could not read the counters"; }
  coverage_summary build-coverage/coverage.csv >build-coverage/coverage.txt
  cat build-coverage/coverage.txt
}

coverage() {
  coverage_configure
  GCOV_ERROR_FILE=/dev/null # not the standard error of processes that tests look at
  export GCOV_ERROR_FILE
  mkdir -p build # of the parts' output
  part 'coverage: unit tests' 900 unit build-coverage 5
  part 'coverage: stories' 3600 coverage_stories "$@"
  [ $# -gt 0 ] || part 'coverage: faults' 1800 coverage_stories "$top"/test/fault/f_*.lua
  say ""
  coverage_report
  say ""
  say "line by line: build-coverage/coverage/index.html"
  say "$total_passed passed, $total_failed failed, $total_skipped skipped"
  [ "$total_failed" = 0 ]
}

# Random rounds for so many seconds: FOLDER SECONDS OPTION...
random_rounds() {
  folder=$1 seconds=$2
  shift 2
  "$top/test/random/run" --build "$top/$folder" --seconds "$seconds" "$@"
}

# The rounds that pass in so many seconds are as many as the machine allows: they count as one.
random_part() {
  rc=0
  random_rounds "$@" || rc=$?
  [ "$rc" = 0 ] && say '1 passed, 0 failed' || say '0 passed, 1 failed'
}

# The program alone: the Lua of the host can't load modules that have the sanitizer in them.
tsan() {
  configure build-tsan -Dtests=disabled -Db_sanitize=thread -Db_lundef=false
  ninja -C build-tsan src/template/moonfork-template >build-tsan/compile.log 2>&1 ||
    die "the build with ThreadSanitizer failed: see $top/build-tsan/compile.log"
  rm -f build-tsan/reports.*
  status=0
  for how in '' lazy; do
    TSAN_OPTIONS="log_path=$top/build-tsan/reports suppressions=$top/test/data/tsan.suppressions" \
      "$top/dev" run lua5.4 test/thread_soak.lua "$1" \
      "$top/build-tsan/src/template/moonfork-template" $how || status=1
  done
  for report in build-tsan/reports.*; do
    [ -e "$report" ] || continue
    cat "$report"
    status=1
  done
  return $status
}

asan_random() {
  asan_configure
  random_part build-asan 20 --sanitize
}

asan_stories() {
  asan_configure
  "$top/test/run" --again --sanitize --build "$top/build-asan"
}

test_all() {
  # shellcheck disable=SC2086
  need $build_packages $unit_packages $story_packages $check_packages $fuzz_packages
  started_all=$(date +%s)
  build
  part 'unit tests' 180 unit build
  part 'stories' 900 stories
  part 'stories behind a command' 360 remote_stories
  part 'stories as root' 240 root_stories
  part 'faults' 420 faults
  part 'random' 200 random_part build 40
  part 'checks' 900 checks
  part 'fuzz' 300 fuzz 60
  part 'asan: unit tests' 600 asan_unit
  part 'asan: stories' 1200 asan_stories
  part 'asan: random' 300 asan_random
  say "" "all parts together: $(($(date +%s) - started_all)) s"
  if [ "$total_skipped" = 0 ]; then
    say "$total_passed passed, $total_failed failed"
  else
    say "$total_passed passed, $total_failed failed, $total_skipped skipped"
  fi
  [ "$total_failed" = 0 ]
}

checks() { in_build build "$top/test/check/run"; }
