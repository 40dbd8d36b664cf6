#!/bin/sh
# The command lines of ./dev: help is never an argument, a wrong one gets a sentence and
# status 2 before anything is compiled or installed, and somebody who may not write where
# things belong reads that, and no traceback. `./dev demo` compiles no tests.
set -u
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-dev.XXXXXX")
chmod 755 "$room"
trap 'rm -rf "$room"' EXIT
bad=0
complain() { echo "$*"; bad=1; }

# says STATUS PATTERN ARGUMENT...: ./dev ends so and prints one line that matches.
says() {
  want=$1 pattern=$2
  shift 2
  ./dev "$@" >"$room/out" 2>&1 </dev/null
  got=$?
  [ "$got" = "$want" ] || complain "./dev $*: status $got, not $want"
  grep -q -- "$pattern" "$room/out" || complain "./dev $*: no '$pattern' in: $(cat "$room/out")"
}

commands='demo build run install uninstall deb dist container version test check configurations
  fuzz random planted asan tsan coverage bench site help'
for command in $commands; do
  says 0 "^usage: ./dev $command" "$command" --help
  says 0 "^usage: ./dev $command" "$command" -h
  says 0 "^usage: ./dev $command" help "$command"
  says 2 'there is no option .--nonsense.' "$command" --nonsense
done
for command in demo build test check asan site container deb dist; do
  says 2 "unexpected argument 'x'" "$command" x
done
says 0 '^usage: ./dev install' install "$room/prefix" --help
says 2 "unexpected argument 'b'" install a b
says 2 'PREFIX is empty' install ''
says 2 "there is no command 'instal'" instal
says 2 "there is no command 'x'" help x
says 2 'whole number' fuzz ten
says 2 'whole number' random ten
says 2 "no measurement 'speed'" bench speed
says 2 "no configuration 'x'" configurations x
says 2 'there is no file .*no_such_story.lua' coverage no_such_story.lua
says 2 'which command' run
says 2 "no defect whose name contains 'no such one'" planted 'no such one'
if [ -f build/env.sh ]; then # what is not there passes no test
  stories=test/proc/annotations.lua
  says 2 "no story has 'no such' in its name" run test/run --only 'no such' "$stories"
  says 2 "there is no file 'no_such.lua'" run test/run no_such.lua "$stories"
fi
[ ! -e ./--help ] && [ ! -e "$room/prefix" ] || complain 'something was installed'

# Nobody may write there: found out before anything is compiled.
: >"$room/file"
says 1 "$room/file is no folder" install "$room/file/prefix"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
  mkdir -p "$room/tree"
  cp -R dev dev.d "$room/tree/"
  setpriv --reuid=65534 --regid=65534 --clear-groups "$room/tree/dev" install "$room/prefix" \
    >"$room/out" 2>&1 </dev/null
  [ $? = 1 ] && [ "$(wc -l <"$room/out")" = 1 ] && grep -q 'may not write' "$room/out" ||
    complain "./dev install as nobody says: $(cat "$room/out")"
fi

# A command runs where its caller is: the tutorial is read in a folder of the reader's.
if [ -f build/env.sh ]; then
  here=$PWD
  ran=$(cd "$room" && "$here/dev" run pwd)
  [ "$ran" = "$(cd "$room" && pwd -P)" ] || complain "./dev run pwd says: $ran"
fi

# What `./dev demo` asks ninja for.
meson setup "$room/build" -Dtests=disabled >"$room/log" 2>&1 || { cat "$room/log"; exit 1; }
ninja -C "$room/build" -n moonfork-module >"$room/log" || complain 'no target moonfork-module'
stray=$(grep -oE '(test|fuzz|example|bench)/[a-z_/.]*' "$room/log" | head -n 3 | tr '\n' ' ')
[ -z "$stray" ] || complain "./dev demo compiles $stray"
exit "$bad"
