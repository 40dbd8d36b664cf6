#!/bin/sh
# Installs the packages of /run/deb with dpkg, uses them as their users do, and removes them.
# Runs as root of a system that is thrown away (deb.sh). usage: deb_test.sh VERSION
set -u
cd /run/deb || exit 1
version=$1 bad=0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp DEBIAN_FRONTEND=noninteractive
unset LUA_PATH LUA_CPATH LUA_INIT LUA_INIT_5_4 LD_LIBRARY_PATH LUA_PATH_5_4 LUA_CPATH_5_4
unset PKG_CONFIG_PATH MOONFORK_TEMPLATE MOONFORK_LIBRARY MOONFORK_BUILD
rm -rf /usr/local/lib/lua /usr/local/share/lua /usr/local/lib/libmoonfork* /usr/local/bin/moonfork
ldconfig

user=
[ "$(cat /proc/self/uid_map | wc -l)" != 1 ] || [ "$(awk '{print $3}' /proc/self/uid_map)" = 1 ] ||
  user='setpriv --reuid=65534 --regid=65534 --clear-groups'
# try SENTENCE COMMAND...
try() {
  sentence=$1
  shift
  if "$@" >out 2>&1; then echo "ok $sentence"; else
    echo "not ok $sentence"
    sed 's/^/  /' out
    bad=1
  fi
}
# answers TEXT COMMAND...: as an ordinary user, and prints this and nothing else.
answers() {
  want=$1
  shift
  got=$(cd / && $user "$@" 2>&1)
  [ "$got" = "$want" ] || { echo "$got"; return 1; }
}
packages='moonfork libmoonfork0 libmoonfork-dev lua-moonfork libmoonfork-nats0
  libmoonfork-nats-dev lua-moonfork-nats'

try 'dpkg installs them' dpkg -i ./*.deb
[ "$bad" = 0 ] || exit 1
# shellcheck disable=SC2086
dpkg -L $packages | sort -u | while read -r path; do [ -d "$path" ] || echo "$path"; done >files
try 'nothing is left half done' sh -c '[ -z "$(dpkg --audit)" ]'
# shellcheck disable=SC2086
try 'the files are those of the packages' sh -c '[ -z "$(dpkg --verify '"$packages"')" ]'

try 'moonfork --version' sh -c "moonfork --version | grep -q '^moonfork $version, Lua 5.4'"
try 'moonfork run' answers 'hello world' moonfork run \
  -e 'function hello(socket, name) socket:write("hello ", name, "\n") end' hello world
try 'moonfork map' answers 'A
B' sh -c 'printf "a\nb\n" | moonfork map string.upper'
cat >hello.lua <<'LUA'
local socket = assert(require("moonfork").new():eval([[
  function hello(socket, name) socket:write("hello ", name) end
]]):send_arg("world"):run("hello"))
io.write(socket:read("a"), "\n")
LUA
sed 's/^local socket/local fd/; s/"moonfork"/"moonfork.ffi"/
  s/socket:read("a")/require("moonfork.ffi").read(fd)/' hello.lua >other.lua
chmod 644 hello.lua other.lua
try 'a script of lua5.4' answers 'hello world' lua5.4 /run/deb/hello.lua
for other in lua5.1 lua5.2 lua5.3 luajit; do
  ! command -v "$other" >/dev/null ||
    try "a script of $other" answers 'hello world' "$other" /run/deb/other.lua
done
try 'moonfork serve --http' sh -c '
  moonfork serve --http --listen /tmp/web.sock -n 1 \
    -e "function f(r) return 200, nil, \"hello \" .. r.target end" f >log 2>&1 &
  server=$! n=0
  until [ -S /tmp/web.sock ]; do
    n=$((n + 1)); [ $n -lt 100 ] || { cat log; exit 1; }
    sleep 0.1
  done
  answer=$(lua5.4 -e "local s = assert(require(\"moonfork\").socket.connect(\"/tmp/web.sock\"))
    s:write(\"GET /world HTTP/1.0\r\n\r\n\") io.write(s:read(\"a\"))")
  kill $server; wait $server
  case $answer in *"hello /world"*) ;; *) echo "$answer"; cat log; exit 1 ;; esac'

cat >version.c <<'C'
#include <moonfork.h>
#include <stdio.h>
int main(void) {
  puts(mf_version_string());
  return mf_version() != MF_VERSION_NUMBER;
}
C
# shellcheck disable=SC2016
try 'a C program with moonfork.pc' sh -c '
  cc -Wall -Werror -o version version.c $(pkg-config --cflags --libs moonfork) &&
    [ "$(./version)" = "$(pkg-config --modversion moonfork)" ]'
# shellcheck disable=SC2016
try 'a C program that is its own template, with moonfork-template.pc' sh -c '
  cc -Wall -Werror -o host host.c $(pkg-config --cflags --libs moonfork-template libuv lua5.4) &&
    '"$user"' ./host | grep "the host.s own module"'
cat >nats.c <<'C'
#include <moonfork/nats.h>
int main(void) {
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  mf_far *far;
  return mf_far_new(0, &o, &far) != MF_EINVAL; /* there is no URL */
}
C
# shellcheck disable=SC2016
try 'a C program with moonfork-nats.pc' sh -c '
  cc -Wall -Werror -o nats nats.c $(pkg-config --cflags --libs moonfork-nats) && ./nats'
try 'a script with moonfork.nats' answers 'ENGINE' lua5.4 -e '
  local far = require("moonfork.nats").pool("nats://127.0.0.1:1", {subject = "x"})
  io.write(select(2, far:with{timeout = 0.5}:call(1)).code)'
try 'the program needs no libnats' sh -c '
  ! dpkg -s moonfork libmoonfork0 lua-moonfork | grep libnats'
try 'manual pages' sh -c 'man -w moonfork && man -w moonfork-run && man -w moonfork-serve'
try 'completion for bash' bash -n /usr/share/bash-completion/completions/moonfork.bash
# shellcheck disable=SC2016
try 'the unit starts a program that is there' sh -c '
  unit=$(dpkg -L moonfork | grep "/moonfork@.service$") &&
    [ -x "$(sed -n "s/^ExecStart=\([^ ]*\).*/\1/p" "$unit")" ] && [ -d /etc/moonfork ]'

# shellcheck disable=SC2086
try 'dpkg removes them' dpkg -P $packages
# shellcheck disable=SC2016
try 'nothing of them remains' sh -c '
  ! while read -r path; do [ ! -e "$path" ] || echo "$path"; done <files | grep . &&
  [ ! -e /etc/moonfork ] && ! lua5.4 -e "require \"moonfork\"" 2>/dev/null'
exit "$bad"
