-- rockspec.lua: the rockspec is Lua that sets the fields LuaRocks wants, its build names
-- options that meson knows, and its Lua versions are those that meson.build accepts.

local check = dofile "test/check/report.lua"
local read = check.read

local function expect(condition, ...)
  if not condition then check.complain(...) end
end

local SPEC = "moonfork-dev-1.rockspec"
local spec = {}
assert(loadfile(SPEC, "t", spec))()

expect(spec.package == "moonfork", "package is %s", spec.package)
expect(SPEC == ("%s-%s.rockspec"):format(spec.package, spec.version), "version is %s", spec.version)
expect(type(spec.source) == "table" and type(spec.source.url) == "string", "source.url")
expect(type(spec.description) == "table" and spec.description.license == "MIT", "license")
expect(read("LICENSE"):find("MIT", 1, true), "LICENSE is not MIT")

local low, high = read("src/lua/meson.build"):match("version: %['>=([%d.]+)', '<([%d.]+)'%]")
local lua = (spec.dependencies or {})[1] or ""
expect(low and lua == ("lua >= %s, < %s"):format(low, high), "%s: meson wants >= %s, < %s", lua,
  low, high)

-- The version stands in four places that can't read each other.
local version = read("meson.build"):match("version: '([%d.]+)'")
expect(read("include/moonfork.h"):find('MF_VERSION_STRING "' .. version .. '"', 1, true),
  "moonfork.h is not of version %s", version)
expect(read("lua/moonfork/load.lua"):find('VERSION = "' .. version .. '"', 1, true),
  "lua/moonfork/load.lua is not of version %s", version)
expect(read("lua/moonfork/ffi.lua"):find('VERSION = "' .. version .. '"', 1, true),
  "lua/moonfork/ffi.lua is not of version %s", version)

local build = spec.build or {}
expect(build.type == "command", "build.type is %s", build.type)
local options = read("meson_options.txt")
for option in (build.build_command or ""):gmatch("%-D([%w_]+)=") do
  expect(options:find("option('" .. option .. "'", 1, true), "meson has no option %s", option)
end
expect((build.install_command or ""):find("meson install", 1, true), "install_command")
check.done()
