# Parts of the test: each is run by itself, and its results are counted. Sourced by ./dev.

# ---- counting ----
# Every part of the test prints lines of its own and may end with "N passed, N failed[, N
# skipped]". tally adds them up; a part without that line counts as one.

total_passed=0 total_failed=0 total_skipped=0

# last_count FILE: the last line that ends in this form, as three numbers.
last_count() {
  n="\([0-9]*\)"
  sed -n "s/^\(.*: \)\{0,1\}$n passed, $n failed\(, $n skipped\)\{0,1\}\$/\2 \3 \5/p" \
    "$1" | tail -n 1
}

# part NAME LIMIT FUNCTION ARG...: runs one part of the test, at most LIMIT seconds. Its
# output goes through a file, so that nothing it leaves behind can keep us waiting.
part() {
  name=$1 limit=$2
  shift 2
  log=build/part-$(printf '%s' "$name" | tr -cs 'a-z0-9' '-').log
  say "" "== $name"
  started=$(date +%s)
  : >"$log"
  watcher=
  if [ -t 1 ]; then
    tail -s 0.2 -n +1 -f --pid=$$ "$log" &
    watcher=$!
  fi
  rc=0 # timeout wants a program, so this script calls itself
  timeout -k 10 "$limit" "$top/dev" part "$@" >"$log" 2>&1 </dev/null || rc=$?
  if [ -n "$watcher" ]; then
    sleep 0.5
    kill "$watcher" 2>/dev/null || :
  else
    cat "$log"
  fi
  counts=$(last_count "$log")
  [ -n "$counts" ] || { [ "$rc" = 0 ] && counts='1 0 0' || counts='0 1 0'; }
  # shellcheck disable=SC2086  # three numbers
  set -- $counts
  failed=$2
  if [ "$rc" != 0 ] && [ "$failed" = 0 ]; then
    failed=1
    say "$name ended with status $rc (124: its $limit seconds were over)"
  fi
  total_passed=$((total_passed + $1))
  total_failed=$((total_failed + failed))
  total_skipped=$((total_skipped + ${3:-0}))
  say "-- $name: $1 passed, $failed failed, ${3:-0} skipped, $(($(date +%s) - started)) s"
}

# unit FOLDER [TIMES]: the unit tests, with TIMES their usual time. Counts the lines of their
# TAP output; a program without any counts as one, and so does one that ends badly although
# no line says so. (cmocka says "not ok # SKIP" of what it skips, which meson takes for a
# failure; so the count decides.)
unit() {
  MESON_TESTTHREADS=2 meson test -C "$1" -t "${2:-1}" --no-rebuild --print-errorlogs \
    ${wrapper:+"$wrapper"} || :
  awk '
    function finish() {
      if (!inside) return
      if (result == "exit status 77") skipped++
      else if (result != "exit status 0" && !bad) failed++
      else if (!lines) passed++
      failed += bad
    }
    /^=+ +[0-9]+\/[0-9]+ +=+$/ { finish(); inside = 1; lines = bad = 0; result = "" }
    sub(/^result: +/, "") { result = $0 }
    /^(not )?ok [0-9]+.*# SKIP/ { lines++; skipped++; next }
    /^ok [0-9]+/ { lines++; passed++ }
    /^not ok [0-9]+/ { lines++; bad++ }
    END {
      finish()
      printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
      exit failed > 0 || !inside
    }' "$1/meson-logs/testlog${wrapper:+-${wrapper##*/}}.txt"
}
