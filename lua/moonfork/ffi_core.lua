-- The back end of moonfork.ffi for this Lua: raw functions, see src/otherlua/otherlua.h. In the
-- syntax of every Lua.

local jit = rawget(_G, "jit")

if _VERSION ~= "Lua 5.1" and _VERSION ~= "Lua 5.2" and _VERSION ~= "Lua 5.3" then
  error("moonfork.ffi is for LuaJIT and Lua 5.1 to 5.3, and this interpreter is " .. _VERSION ..
    ": it uses require \"moonfork\"", 0)
end

local VERSION = "0.1.0"

local function load_core()
  if jit and pcall(require, "ffi") then return require "moonfork.ffi_luajit" end
  return require("moonfork.ffi" .. _VERSION:match("(%d)%.") .. _VERSION:match("%.(%d)"))
end

local core = load_core()
local here = debug.getinfo(1, "S").source:gsub("^@", "")
for _, build in ipairs { core.module or core.library, core.library } do -- each: version, path
  if build[1] ~= VERSION then
    error(("moonfork.ffi: the Lua files in package.path are of moonfork %s, and its library %s is of"
      .. " moonfork %s; the Lua files are those of %s; both have to be of one version: correct LUA_PATH,"
      .. " LUA_CPATH or %s"):format(VERSION, build[2], build[1], here,
      jit and "MOONFORK_LIBRARY" or "LD_LIBRARY_PATH"), 0)
  end
end
core.version = VERSION

return core
