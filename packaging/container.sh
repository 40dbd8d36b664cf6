#!/bin/sh
# What ./dev container does: carries out a Containerfile without a container engine, and tries the
# image. A base image is a minimal Debian (debootstrap); a stage is a copy of it, in which RUN is
# executed by chroot; a container is a process 1 of its own (unshare) in a copy of the last stage.
# Needs root. usage: container.sh FOLDER CONTAINERFILE: FOLDER keeps base and stages.
set -eu
folder=$1 file=$2
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
say() { printf '%s\n' "$*"; }
die() { printf 'dev: %s\n' "$*" >&2; exit 1; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# inside ROOT COMMAND...: in that root, with the network's configuration of this system.
cat >"$folder/inside.sh" <<'INSIDE'
set -e
root=$1
shift
for place in sys dev; do mount --rbind "/$place" "$root/$place"; done
mount -t proc proc "$root/proc"
for name in resolv.conf hosts; do
  [ -e "$root/etc/$name" ] || : >"$root/etc/$name"
  mount --bind "/etc/$name" "$root/etc/$name"
done
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  chroot $CHROOT_OPTIONS "$root" "$@"
INSIDE
inside() {
  CHROOT_OPTIONS='' unshare --mount --pid --fork --kill-child sh "$folder/inside.sh" "$@"
}

# base NAME: the root of a base image, debian:12 or debian:12-slim, which is made once.
base() {
  case $1 in
  debian:12 | debian:12-slim) ;;
  *) die "$file: this can't make the image $1" ;;
  esac
  [ -e "$folder/base/etc/debian_version" ] || {
    rm -rf "$folder/base.new"
    debootstrap --variant=minbase bookworm "$folder/base.new" >"$folder/base.log" 2>&1 ||
      { tail -n 20 "$folder/base.log"; die "debootstrap failed"; }
    mv "$folder/base.new" "$folder/base"
  }
}

# words LIST: the strings of ["a", "b"], a line each.
words() { printf '%s\n' "$1" | grep -o '"[^"]*"' | sed 's/^"//; s/"$//'; }

root='' stage=0 directory=/ user=root entry='' arguments=''
instruction() {
  word=$1 rest=$2
  case $word in
  FROM)
    # shellcheck disable=SC2086
    set -- $rest
    base "$1"
    stage=$((stage + 1))
    root=$folder/stage-${3:-$stage}
    rm -rf "$root"
    cp -a "$folder/base" "$root"
    ;;
  COPY)
    # shellcheck disable=SC2086
    set -- $rest
    case $1 in
    --from=*) cp -a "$folder/stage-${1#--from=}$2/." "$root$3/" ;;
    .) packaging/tree.sh "$root$2" ;;
    *) cp -a "$1" "$root$2" ;;
    esac
    ;;
  RUN) inside "$root" sh -c "cd '$directory' && $rest" ;;
  LABEL) ;;
  WORKDIR) directory=$rest; mkdir -p "$root$directory" ;;
  USER) user=$rest ;;
  ENTRYPOINT) entry=$(words "$rest") ;;
  CMD) arguments=$(words "$rest") ;;
  *) die "$file: $word is not known here" ;;
  esac
}

# Each instruction in one line, without comments.
sed '/^#/d' "$file" | sed -e ':a' -e '/\\$/{N;s/\\\n */ /;ba' -e '}' | grep . >"$folder/lines"
passed=0 failed=0
while read -r word rest <&3; do
  rc=0
  (instruction "$word" "$rest") >"$folder/step.log" 2>&1 </dev/null || rc=$?
  case $word in
  FROM | WORKDIR | USER | ENTRYPOINT | CMD) [ "$rc" != 0 ] || instruction "$word" "$rest" ;;
  esac
  if [ "$rc" = 0 ]; then
    passed=$((passed + 1))
    say "ok $word $rest"
  else
    say "not ok $word $rest"
    tail -n 30 "$folder/step.log"
    say "$passed passed, 1 failed"
    exit 1
  fi
done 3<"$folder/lines"

# ---- the image ----

result() { # result STATUS SENTENCE
  if [ "$1" = 0 ]; then passed=$((passed + 1)); say "ok $2"; else
    failed=$((failed + 1))
    say "not ok $2"
    cat "$folder/step.log"
  fi
}
# container WORD...: as `docker run IMAGE WORD...`.
container() {
  [ $# != 0 ] || set -- $arguments
  CHROOT_OPTIONS="--userspec=$user" unshare --mount --pid --fork --kill-child \
    sh "$folder/inside.sh" "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$directory" $entry "$@"
}
version=$(./dev version)
rc=0
grep -q "image.version=\"$version\"" "$folder/lines" || rc=1
result "$rc" "the label is of version $version"
container >"$folder/step.log" 2>&1 && grep -q '^Usage: moonfork' "$folder/step.log" && rc=0 || rc=1
result "$rc" "without a command it prints its help"
container --version >"$folder/step.log" 2>&1 && grep -q "^moonfork $version," "$folder/step.log" &&
  rc=0 || rc=1
result "$rc" "--version"
container run -e 'function f(socket) socket:write(require("moonfork").socket and "fine\n") end' f \
  >"$folder/step.log" 2>&1 && grep -qx fine "$folder/step.log" && rc=0 || rc=1
result "$rc" "run"

# A server that is process 1: it says so itself, serves, and ends with 143 when it is told to.
socket=/tmp/server.sock
rm -f "$root$socket"
container serve --http --listen "$socket" -n 2 -e 'function f()
  local line = io.open("/proc/1/cmdline"):read("a"):gsub("%z", " ")
  return 200, nil, line .. "\n"
end' f >"$folder/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do [ ! -S "$root$socket" ] || break; sleep 0.1; done
cat >"$folder/ask.lua" <<'LUA'
local socket = assert(require("moonfork").socket.connect(arg[1]))
socket:settimeout(20)
socket:write("GET / HTTP/1.0\r\n\r\n")
io.write(socket:read("a") or "nothing")
LUA
./dev run lua5.4 "$folder/ask.lua" "$root$socket" >"$folder/step.log" 2>&1 &&
  grep -q 'moonfork serve' "$folder/step.log" && rc=0 || rc=1
result "$rc" "serve as process 1 answers"
below() { ps -o pid= --ppid "$1" | tr -d ' ' | head -n 1; }
pid=$server # of this shell, of unshare, which takes no signal, and of process 1
for _ in 1 2; do pid=$(below "$pid"); done
rc=0
kill -TERM "${pid:?no process 1}"
for _ in $(seq 300); do
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
kill -KILL "$pid" 2>/dev/null || :
wait "$server" || rc=$?
cp "$folder/server.log" "$folder/step.log"
[ "$rc" = 143 ] && rc=0 || rc=1
result "$rc" "process 1 ends with 143 when it gets SIGTERM"
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
