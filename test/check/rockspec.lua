-- rockspec.lua: the rockspec is Lua that sets the fields LuaRocks wants, its build names
-- options that meson knows, its source is the tag of its version, and its Lua versions are
-- those that meson.build accepts.

local check = dofile "test/check/report.lua"
local read = check.read

local function expect(condition, ...)
  if not condition then check.complain(...) end
end

local pipe = assert(io.popen("ls *.rockspec"))
local SPEC = pipe:read("l") -- `luarocks make` wants to find one
expect(pipe:read("l") == nil, "there is more than one rockspec")
pipe:close()
local spec = {}
assert(loadfile(SPEC, "t", spec))()

expect(spec.package == "moonfork", "package is %s", spec.package)
expect(SPEC == ("%s-%s.rockspec"):format(spec.package, spec.version), "version is %s", spec.version)
local source = spec.source or {}
expect(type(source.url) == "string" and source.url:find "^git%+https://", "source.url")
expect(source.tag == "v" .. tostring(spec.version):gsub("%-%d+$", ""), "source.tag is %s", source.tag)
expect(type(spec.description) == "table" and spec.description.license == "MIT", "license")
local homepage = tostring(spec.description.homepage)
for path, form in pairs { ["debian/control"] = "\nHomepage: %s\n", ["debian/copyright"] = "\nSource: %s\n",
  Containerfile = 'image.url="%s"\n' } do
  expect(read(path):find(form:format(homepage), 1, true), "%s has another homepage than %s", path,
    homepage)
end
expect(read("debian/control"):find("\nVcs-Git: " .. source.url:sub(5) .. "\n", 1, true), "Vcs-Git")
expect(read("LICENSE"):find("MIT", 1, true), "LICENSE is not MIT")

local low, high = read("src/lua/meson.build"):match("version: %['>=([%d.]+)', '<([%d.]+)'%]")
local lua = (spec.dependencies or {})[1] or ""
expect(low and lua == ("lua >= %s, < %s"):format(low, high), "%s: meson wants >= %s, < %s", lua,
  low, high)

-- What LuaRocks says about Lua, the compiler and where things belong is used.
local build = spec.build or {}
expect(build.type == "command", "build.type is %s", build.type)
local options = read("meson_options.txt")
for option in ((build.build_command or "") .. read("debian/rules")):gmatch("%-D([%w_]+)=") do
  expect(options:find("option('" .. option .. "'", 1, true), "meson has no option %s", option)
end
for _, variable in ipairs { "PREFIX", "BINDIR", "LUADIR", "LIBDIR", "LUA_INCDIR", "LUA_LIBDIR",
  "LUA_BINDIR", "CC", "CFLAGS", "LIBFLAG", "LIBUV_INCDIR", "LIBUV_LIBDIR", "MSGPACK_INCDIR" } do
  expect(build.build_command:find("$(" .. variable .. ")", 1, true), "%s is not used", variable)
end
expect((build.install_command or ""):find("meson install", 1, true), "install_command")
check.done()
