# ./dev install and uninstall. Sourced by it.

# may_write PREFIX: whether this user may make files there. Says what is in the way, if not.
may_write() {
  place=$1
  while [ ! -e "$place" ]; do place=$(dirname "$place"); done
  if [ ! -d "$place" ]; then
    obstacle="$place is no folder"
  elif [ ! -w "$place" ] || [ ! -x "$place" ]; then
    obstacle="$(id -un) may not write in $place"
  else
    return 0
  fi
  return 1
}

install_into() {
  for place in "$1" "$1/lib" "$1/lib/lua/5.4" "$1/lib/pkgconfig" "$1/share/lua/5.4" \
    "$1/libexec" "$1/include"; do
    may_write "$place" || die "can't install into $1: $obstacle; do it as root, or into a" \
      "folder of your own, for example ./dev install \"\$HOME/.local\""
  done
  configure build-install --prefix="$1" --buildtype=release -Dtests=disabled
  compile build-install
  rm -rf build-install/staged
  meson install -C build-install --no-rebuild --quiet --destdir "$top/build-install/staged" \
    >build-install/install.log 2>&1 &&
    packaging/installed.sh made "$1" "$top/build-install/staged" >build-install/made &&
    meson install -C build-install --no-rebuild --quiet >build-install/install.log 2>&1 &&
    packaging/installed.sh record "$1" "$top/build-install/staged" "$top/build-install/made" ||
    die "can't install into $1: $(grep . build-install/install.log | tail -n 1)"
}

# exports PREFIX: the variables that programs need to find what is there; nothing where they
# find it by themselves.
exports() {
  lib=$1/lib
  lua=$(command -v lua5.4 || command -v lua || :)
  lua_path= lua_cpath=
  if [ -n "$lua" ]; then
    lua_path=$("$lua" -e 'io.write(package.path)' 2>/dev/null || :)
    lua_cpath=$("$lua" -e 'io.write(package.cpath)' 2>/dev/null || :)
  fi
  case ";$lua_path;" in
  *";$1/share/lua/5.4/?.lua;"*";$1/share/lua/5.4/?/init.lua;"*) ;;
  *)
    modules=$1/share/lua/5.4
    say "  export LUA_PATH_5_4='$modules/?.lua;$modules/?/init.lua;${LUA_PATH_5_4:-;}'"
    ;;
  esac
  case ";$lua_cpath;" in
  *";$lib/lua/5.4/?.so;"*) ;;
  *) say "  export LUA_CPATH_5_4='$lib/lua/5.4/?.so;${LUA_CPATH_5_4:-;}'" ;;
  esac
  case ":$(pkg-config --variable pc_path pkg-config 2>/dev/null):${PKG_CONFIG_PATH:-}:" in
  *":$lib/pkgconfig:"*) ;;
  *) say "  export PKG_CONFIG_PATH='$lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}'" ;;
  esac
  case ":${LD_LIBRARY_PATH:-}:" in
  *":$lib:"*) ;;
  *)
    (PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null) | grep -qF " $lib/libmoonfork.so" ||
      say "  export LD_LIBRARY_PATH='$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}'"
    ;;
  esac
  [ ! -d "$1/bin" ] || case ":$PATH:" in
  *":$1/bin:"*) ;;
  *) say "  export PATH=\"$1/bin:\$PATH\"" ;;
  esac
}

# prefix_of ARGUMENT...: sets prefix, an absolute path.
prefix_of() {
  at_most 1 "$@"
  prefix=${1-/usr/local}
  case $prefix in
  '') misuse 'PREFIX is empty' ;;
  *[\'\"\;:\?]*) misuse "PREFIX has a character that search paths can't hold: $prefix" ;;
  /*) ;;
  *) prefix=$called_from/$prefix ;;
  esac
  prefix=$(realpath -m -s "$prefix" 2>/dev/null || printf %s "$prefix")
}

install_command() {
  prefix_of "$@"
  # shellcheck disable=SC2086
  need $build_packages
  install_into "$prefix"
  if [ "$prefix" = /usr/local ] && [ "$(id -u)" = 0 ]; then ldconfig; fi # for C hosts
  say "installed into $prefix"
  variables=$(exports "$prefix")
  if [ -n "$variables" ]; then
    say "These variables have to be set, for Lua and for C programs:"
    say "$variables"
  fi
}

uninstall_command() {
  prefix_of "$@"
  rc=0
  packaging/installed.sh remove "$prefix" || rc=$?
  if [ "$prefix" = /usr/local ] && [ "$(id -u)" = 0 ]; then ldconfig; fi
  return "$rc"
}
