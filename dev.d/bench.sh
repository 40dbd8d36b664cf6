# Measurements and the site: ./dev bench, ./dev site. Sourced by it.

# Servers to compare with, unpacked into build-bench/peers: where they are installed, Debian starts
# them. One that can't be had is left out.
http_peers='nginx libnginx-mod-http-lua libnginx-mod-http-ndk lua-resty-core lua-resty-lrucache
  libluajit2-5.1-2 wrk python3-gunicorn'
unpack_peers() {
  peers=$top/build-bench/peers
  command -v apt-get >/dev/null || return 0
  for package in $http_peers; do
    [ ! -e "$peers/have/$package" ] || continue
    mkdir -p "$peers/have" "$peers/packages/$package"
    (cd "$peers/packages/$package" && apt-get -q download "$package" >/dev/null 2>&1 &&
      dpkg -x ./*.deb "$peers" && : >"$peers/have/$package") || say "dev: without $package"
    rm -rf "$peers/packages/$package"
  done
}

# Nothing runs beside it, and everybody gets the same flags: those of a release.
bench() {
  configure build-bench --buildtype=release -Dtests=disabled
  compile build-bench
  case " ${*:-http} " in *" http "*) unpack_peers ;; esac
  if [ $# = 0 ]; then # what is only looked at does not replace what is kept
    set -- --output "$top/bench/results" --samples "$top/build-bench/samples"
  fi
  MOONFORK_PEERS=$top/build-bench/peers \
    in_build build-bench build-bench/src/program/moonfork bench "$@"
}

site() {
  mkdir -p build-site
  lua5.4 doc/site/build.lua build-site || die "the site can't be prepared"
  mkdocs build -q -f build-site/mkdocs.yml || die "mkdocs failed"
  say "made build-site/html/index.html"
}
