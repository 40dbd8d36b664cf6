# Packages and builds of ./dev. Sourced by it.

# ---- packages ----
# Each command names what it uses and no more.

build_packages='gcc libc6-dev meson ninja-build pkg-config lua5.4 liblua5.4-dev
  libuv1-dev libmsgpack-dev lua-argparse libhttp-parser-dev libnats-dev'
unit_packages='libcmocka-dev liblua5.1-0-dev liblua5.3-dev'
story_packages='lua-unit lua-luv lua-socket lua-cqueues lua-copas strace util-linux
  lua-lpeg lua-cjson lua-sql-sqlite3 lua-filesystem lua-zlib lua-expat lua-luaossl lua-sec
  locales lua5.1 lua5.3 luajit nats-server openssl
  bubblewrap sudo openssh-client iproute2 nftables'
# Docker's package has a runc, and conflicts with Debian's.
command -v runc >/dev/null 2>&1 || story_packages="$story_packages runc"
# A story starts an sshd of its own, but the package starts one for everybody on port 22
# where there is an init system: there it is installed by hand, or the story is skipped.
[ -d /run/systemd/system ] || story_packages="$story_packages openssh-server"
check_packages='lua-check clang binutils luarocks
  clang-tidy clang-format cppcheck'
bench_packages='libanyevent-fork-perl libev-perl python3 lua-luv parallel nats-server'
site_packages='lua5.4 mkdocs'
site_check_packages='chromium python3'
fuzz_packages='clang libclang-rt-dev'
deb_packages='debhelper dpkg-dev lintian util-linux man-db liblua5.2-dev'
coverage_packages='gcovr'

missing_packages() {
  for package in "$@"; do
    case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) in
      installed) ;;
      *) printf '%s ' "$package" ;;
    esac
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "packages are missing and there is neither root nor sudo; please run as root:
  apt-get install $packages_wanted"
  fi
}

lists_are_fresh() {
  [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -7 2>/dev/null |
    head -n 1)" ]
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

# need PACKAGE...: makes sure that they are installed.
need() {
  command -v dpkg-query >/dev/null || return 0
  packages_wanted=$(missing_packages "$@")
  [ -n "$packages_wanted" ] || return 0
  command -v apt-get >/dev/null ||
    die "these packages are missing, and there is no apt-get: $packages_wanted"
  say "dev: installing $packages_wanted"
  lists_are_fresh || apt update
  # shellcheck disable=SC2086  # a list of words
  apt install -y --no-install-recommends $packages_wanted ||
    { apt update && apt install -y --no-install-recommends $packages_wanted; } ||
    die "apt-get could not install $packages_wanted"
}

# ---- building ----

# configure FOLDER MESON_OPTION...: once; meson itself notices later changes. A folder that
# was configured for another place of the tree (moved, copied) is made again.
configure() {
  folder=$1
  shift
  [ ! -e "$folder" ] || [ -w "$folder" ] ||
    die "$top/$folder was made by another user; remove it, or do this as that user"
  [ -e "$folder" ] || [ -w . ] || die "the build needs to make the folder $top/$folder," \
    "and $(id -un) may not write there; work on a copy of your own"
  if [ -f "$folder/build.ninja" ] && [ "$(cat "$folder/dev.options" 2>/dev/null)" = "$top $*" ]
  then
    return 0
  fi
  rm -rf "$folder"
  output=$(meson setup "$folder" "$@" 2>&1) || die "meson setup failed:
$output"
  printf '%s' "$top $*" >"$folder/dev.options"
}

# compile FOLDER [TARGET...]: builds and writes FOLDER/env.sh, the environment of `meson devenv`.
compile() {
  folder=$1
  shift
  ninja -C "$folder" "$@" >"$folder/ninja.log" 2>&1 ||
    { cat "$folder/ninja.log"; die "the build of $folder failed"; }
  tail -n 1 "$folder/ninja.log"
  meson devenv -C "$folder" --dump >"$folder/env.sh.new"
  mv "$folder/env.sh.new" "$folder/env.sh"
}

# in_build FOLDER COMMAND...: runs with that build's modules and programs.
in_build() (
  set +u # it appends to variables that need not be set
  . "./$1/env.sh"
  set -u
  shift
  "$@"
)

# The tests join a folder that was made without them; what is compiled stays.
build() {
  # shellcheck disable=SC2086
  need $build_packages $unit_packages
  if [ "$(cat build/dev.options 2>/dev/null)" = "$top -Dtests=disabled" ]; then
    meson configure build -Dtests=enabled >/dev/null || die "meson configure failed"
    printf '%s' "$top -Dtests=enabled" >build/dev.options
  else
    configure build -Dtests=enabled
  fi
  compile build
}

# The module and the template program, and nothing else.
build_module() {
  # shellcheck disable=SC2086
  need $build_packages
  [ "$(cat build/dev.options 2>/dev/null)" = "$top -Dtests=enabled" ] ||
    configure build -Dtests=disabled
  compile build moonfork-module
}
