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
if core.version ~= VERSION then
  error("moonfork.ffi: the Lua files in package.path are of moonfork " .. VERSION ..
    ", and its library is of moonfork " .. core.version .. "; both have to be of one version", 0)
end

return core
