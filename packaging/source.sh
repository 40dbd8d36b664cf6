#!/bin/sh
# Finds the source of a library that the system does not have in this version, unpacks it into
# build-sources/, and prints its folder. Looks, in this order, at what was unpacked before, at the
# archives and folders in $MOONFORK_SOURCES (folders, with colons between them) and /usr/src, and at
# the sources of Debian's releases by apt. Where there is none it ends with 1.
# usage: source.sh NAME VERSION [PACKAGE]: VERSION is a pattern of the shell ("5.4.[5-9]*"); of
# several the newest. PACKAGE: the name in Debian.
set -eu
name=$1 version=$2 package=${3:-$1}
cd "$(dirname "$0")/.."
mkdir -p build-sources
top=$PWD/build-sources

# newest FILE...: the last one by version, of those that are there.
newest() {
  for file in "$@"; do [ ! -e "$file" ] || printf '%s\n' "$file"; done | sort -V | tail -n 1
}
unpacked() { # shellcheck disable=SC2086
  found=$(newest "$top/$name"-$version/)
  [ -n "$found" ] && printf '%s\n' "${found%/}"
}
! unpacked || exit 0

# unpack ARCHIVE: a tar, which has one folder of any name.
unpack() {
  number=$(basename "$1" | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  rm -rf "$top/new"
  mkdir "$top/new"
  tar -C "$top/new" -xf "$1" && mv "$top/new"/* "$top/$name-$number"
  rm -rf "$top/new"
}
IFS=:
for place in ${MOONFORK_SOURCES:-} /usr/src; do
  unset IFS
  # shellcheck disable=SC2086
  found=$(newest "$place/$name"-$version/ "$place/$name"-$version.tar.* \
    "$place/${package}_"$version.orig.tar.*)
  case $found in
  '') ;;
  */) cp -R "$found" "$top/" && unpacked && exit 0 ;;
  *) unpack "$found" && unpacked && exit 0 ;;
  esac
done
unset IFS

# ---- Debian's, with lists of our own ----

command -v apt-get >/dev/null && [ "${MOONFORK_SOURCES:-}" != none ] || exit 1
apt=$top/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/tar"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 2>/dev/null |
  grep '/debian/*$' | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -n "$mirror" ] && [ -f "$keys" ] || exit 1
for release in bookworm trixie sid; do
  echo "deb-src [signed-by=$keys] $mirror $release main"
done >"$apt/list"
cat >"$apt/conf" <<CONF
Dir::State "$apt/state";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$apt/conf"
[ -n "$(find "$apt/state/lists" -name '*_Sources*' -mtime -7 | head -n 1)" ] ||
  timeout 120 apt-get update -q >"$apt/log" 2>&1 || exit 1
for found in $(apt-cache showsrc "$package" 2>/dev/null | sed -n 's/^Version: //p' | sort -rV); do
  # shellcheck disable=SC2254
  case ${found%%-*} in $version) ;; *) continue ;; esac
  # The archive is enough; what Debian adds to it may be gone from the mirror.
  (cd "$apt/tar" && timeout 120 apt-get source -q --download-only "$package=$found") \
    >>"$apt/log" 2>&1 </dev/null || :
  archive=$(newest "$apt/tar/${package}_${found%%-*}".orig.tar.[gx]z)
  [ -n "$archive" ] || continue
  unpack "$archive" && unpacked && exit 0
done
exit 1
