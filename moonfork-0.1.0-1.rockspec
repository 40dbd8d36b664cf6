rockspec_format = "3.0"

local VERSION = "0.1.0"

package = "moonfork"
version = VERSION .. "-1"

source = {
  url = "git+https://moonfork.example/moonfork.git",
  tag = "v" .. VERSION,
}

description = {
  summary = "Template processes: fork clones of a prepared Lua interpreter",
  detailed = [[
A template process loads modules once, then forks clones on command; each clone runs a
named Lua function with a socket, handles and strings, and shares the template's memory.
The parent completes asynchronously on libuv and never forks itself.]],
  homepage = "https://moonfork.example/",
  license = "MIT",
  labels = { "process", "concurrency", "fork", "libuv" },
}

supported_platforms = { "unix" }

dependencies = {
  "lua >= 5.4, < 5.5",
  "argparse >= 0.7", -- of the program moonfork
}

external_dependencies = {
  LIBUV = { header = "uv.h", library = "uv" },
  MSGPACK = { header = "msgpack.h" },
}

-- meson and ninja do the work, with what LuaRocks says about Lua, the compiler, its flags and
-- where things belong. The build folder is made anew each time: it knows only the tree that it
-- was configured for. The C libraries lie beside LuaRocks's folders (whatever is in lib would be
-- taken for Lua modules). LuaRocks deploys modules and the program into the tree's folders, and
-- the template program stays in the rock's own; from there, each finds the other.
build = {
  type = "command",
  build_command = [[
    rm -rf build-rock && \
    CC="$(CC)" CFLAGS="$(CFLAGS) -I$(LIBUV_INCDIR) -I$(MSGPACK_INCDIR)" \
    LDFLAGS="-L$(LIBUV_LIBDIR)" PATH="$(LUA_BINDIR):$PATH" \
    PKG_CONFIG_PATH="$(LIBUV_LIBDIR)/pkgconfig:$(MSGPACK_INCDIR)/../lib/pkgconfig:$PKG_CONFIG_PATH" \
    meson setup build-rock --buildtype=release --prefix="$(PREFIX)" --bindir="$(BINDIR)" \
      --libdir=native -Dtests=disabled -Dffi=disabled -Dsystemd_unit_dir=no \
      -Dlmoddir="$(LUADIR)" -Dcmoddir="$(LIBDIR)" \
      -Dlua_include="$(LUA_INCDIR)" -Dlua_library="$(LUA_LIBDIR)" \
      -Dmodule_link_args="$(LIBFLAG)" \
      -Dtemplate_beside=../../../luarocks/rocks-5.4/moonfork/]] .. version .. [[/libexec/moonfork \
      -Dlmod_beside=../share/lua/5.4 -Dcmod_beside=../lib/lua/5.4 \
      -Dbench_beside=../lib/luarocks/rocks-5.4/moonfork/]] .. version .. [[/libexec/moonfork/bench && \
    ninja -C build-rock]],
  install_command = "meson install -C build-rock --no-rebuild",
}
