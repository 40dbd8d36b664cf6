rockspec_format = "3.0"
package = "moonfork"
version = "dev-1"

source = {
  url = "git+file://.",
}

description = {
  summary = "Template processes: fork clones of a prepared Lua interpreter",
  detailed = [[
A template process loads modules once, then forks clones on command; each clone runs a
named Lua function with a socket, handles and strings, and shares the template's memory.
The parent completes asynchronously on libuv and never forks itself.]],
  license = "MIT",
  labels = { "process", "concurrency", "fork", "libuv" },
}

supported_platforms = { "unix" }

dependencies = {
  "lua >= 5.4, < 5.5",
}

external_dependencies = {
  LIBUV = { header = "uv.h", library = "uv" },
  MSGPACK = { header = "msgpack.h" },
}

-- meson and ninja do the work; LuaRocks says where Lua is and where things belong. The build
-- folder is made anew each time: it knows only the tree that it was configured for. The C
-- libraries lie beside LuaRocks's folders (whatever is in lib would be taken for Lua modules),
-- and the module finds the template program, which stays in the rock's own folder, from where
-- LuaRocks deploys the module to.
build = {
  type = "command",
  build_command = [[
    rm -rf build-rock && meson setup build-rock --buildtype=release --prefix="$(PREFIX)" \
      --libdir=native -Dtests=disabled -Dffi=disabled -Dlmoddir="$(LUADIR)" -Dcmoddir="$(LIBDIR)" \
      -Dlua_include="$(LUA_INCDIR)" -Dlua_library="$(LUA_LIBDIR)" \
      -Dtemplate_beside=../../../luarocks/rocks-5.4/moonfork/dev-1/libexec/moonfork \
      && ninja -C build-rock]],
  install_command = "meson install -C build-rock --no-rebuild",
}
