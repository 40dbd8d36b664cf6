-- Loads the C part, moonfork.core, for the other modules, after a look at the interpreter: in
-- another Lua, or in one that keeps its C functions to itself, the loader would say "undefined
-- symbol". Gives moonfork.core. In the syntax of every Lua, because any may come here.

local VERSION = "0.1.0" -- of these Lua files

local function interpreter()
  local jit = rawget(_G, "jit")
  return type(jit) == "table" and jit.version or _VERSION
end

if _VERSION ~= "Lua 5.4" or rawget(_G, "jit") then
  error("moonfork needs Lua 5.4, and this interpreter is " .. interpreter() ..
    "; run the program with lua5.4, or use require \"moonfork.ffi\", which is for LuaJIT and " ..
    "Lua 5.1 to 5.3", 0)
end

-- What the loader's message means for a person.
local function explain(message)
  local symbol = message:match("undefined symbol: (lua%a*_[%w_]+)") or
                 message:match("Symbol not found: _?'?_?(lua%a*_[%w_]+)")
  if not symbol then return message end
  local file = message:match("from file '([^']+)'") or "its C part"
  return "moonfork: this interpreter does not export Lua's C functions (" .. symbol ..
    "), which " .. file .. " needs; it has to be linked with -Wl,-E, as Lua's own makefile does"
end

local ok, core = pcall(require, "moonfork.core")
if not ok then error(type(core) == "string" and explain(core) or core, 0) end
if core.version ~= VERSION then
  error("moonfork: the Lua files in package.path are of moonfork " .. VERSION ..
    ", and " .. (package.searchpath("moonfork.core", package.cpath) or "moonfork.core") ..
    " is of moonfork " .. core.version .. "; both have to be of one version", 0)
end
return core
