#!/bin/sh
# What ./dev deb does: builds the Debian packages as an ordinary user, asks lintian about them,
# and installs and tries them in a copy of this system that is gone afterwards.
# usage: deb.sh FOLDER: where the packages are put. DEB_BUILD_OPTIONS=nocheck: no unit tests.
set -eu
folder=$1
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
room=$(mktemp -d "${TMPDIR:-/tmp}/moonfork-deb.XXXXXX")
trap 'rm -rf "$room"' EXIT
chmod 755 "$room"
passed=0 failed=0 skipped=0
say() { printf '%s\n' "$*"; }
note() { # note RESULT SENTENCE
  case $1 in
  0) passed=$((passed + 1)); say "ok $2" ;;
  77) skipped=$((skipped + 1)); say "ok $2 # SKIP" ;;
  *) failed=$((failed + 1)); say "not ok $2" ;;
  esac
}
finish() {
  say "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] || exit 1
  exit 0
}

# ---- build ----

version=$(./dev version)
tree=$room/moonfork-$version
packaging/tree.sh "$tree"
as_user=
if [ "$(id -u)" = 0 ]; then
  chown -R 65534:65534 "$room"
  as_user='setpriv --reuid=65534 --regid=65534 --clear-groups'
fi
rc=0
# shellcheck disable=SC2086  # words
(cd "$tree" && $as_user env -u CC -u CFLAGS -u LDFLAGS -u MESON_TESTTHREADS HOME="$room" \
  PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -b -us -uc) >"$room/log" 2>&1 \
  </dev/null || rc=$?
mkdir -p "$folder"
cp "$room/log" "$folder/build.log"
note "$rc" 'dpkg-buildpackage -b, as an ordinary user'
[ "$rc" = 0 ] || { tail -n 40 "$room/log"; finish; }
cp "$room"/*.deb "$room"/*.changes "$room"/*.buildinfo "$folder/"
for package in moonfork libmoonfork0 libmoonfork-dev lua-moonfork libmoonfork-nats0 \
  libmoonfork-nats-dev lua-moonfork-nats; do
  ls "$room/${package}_$version"-*.deb >/dev/null 2>&1 && rc=0 || rc=1
  note "$rc" "there is a package $package"
done

# ---- lintian ----
# There is no bug report to close outside of Debian.

rc=0
# shellcheck disable=SC2086
(cd "$room" && $as_user lintian --fail-on error,warning \
  --suppress-tags initial-upload-closes-no-bugs ./*.changes) >"$folder/lintian.log" 2>&1 || rc=$?
cat "$folder/lintian.log"
note "$rc" 'lintian finds no error and no warning'

# ---- install, in a system of its own ----
# An overlay over /: what dpkg writes goes to memory. Root, or a user who may make namespaces.

cp packaging/deb_test.sh example/host.c "$room/"
if [ "$(id -u)" = 0 ]; then namespace='unshare -m'; else namespace='unshare -Urm'; fi
cat >"$room/enter.sh" <<'ENTER'
set -e
cd "$1"
mkdir over
mount -t tmpfs -o mode=755 tmpfs over
mkdir over/upper over/work over/root
mount -t overlay overlay -o lowerdir=/,upperdir=over/upper,workdir=over/work over/root ||
  mount -t overlay overlay -o userxattr,lowerdir=/,upperdir=over/upper,workdir=over/work over/root
for place in proc sys dev; do mount --rbind "/$place" "over/root/$place"; done
[ "${2:-}" != try ] || exit 0
for place in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "over/root/$place"; done
mkdir over/root/run/deb
cp ./*.deb deb_test.sh host.c over/root/run/deb/
rm over/root/run/deb/*dbgsym* # what is for debuggers
exec chroot over/root sh /run/deb/deb_test.sh "$2"
ENTER
# shellcheck disable=SC2086
if ! $namespace sh "$room/enter.sh" "$room" try >"$folder/test.log" 2>&1; then
  cat "$folder/test.log"
  note 77 "installing: this user may not mount an overlay here"
  finish
fi
rmdir "$room/over"
rc=0
# shellcheck disable=SC2086
timeout -k 10 300 $namespace sh "$room/enter.sh" "$room" "$version" >"$folder/test.log" 2>&1 \
  </dev/null || rc=$?
grep -E '^(ok|not ok) ' "$folder/test.log" >"$room/lines" || :
passed=$((passed + $(grep -c '^ok ' "$room/lines" || :)))
failed=$((failed + $(grep -c '^not ok ' "$room/lines" || :)))
cat "$room/lines"
if [ "$rc" != 0 ]; then
  grep -q '^not ok' "$room/lines" || note 1 'the installed packages work'
  sed -n '/^not ok/,$p' "$folder/test.log" | head -n 60
fi
finish
