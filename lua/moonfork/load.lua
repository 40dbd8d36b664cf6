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

-- path: what require gives as the place of a file; older callers do not know it.
local here = select(2, ...) or package.searchpath("moonfork.load", package.path) or "?"
local ADVICE = "; both have to be of one version: correct package.path (LUA_PATH) or package.cpath (LUA_CPATH)"

-- A compiled part, which has to be of the version of these Lua files.
local function part(name)
  local ok, result, place = pcall(require, name)
  if not ok then error(type(result) == "string" and explain(result) or result, 0) end
  if result.version ~= VERSION then
    error(("moonfork: the Lua files in package.path are of moonfork %s, and %s is of moonfork %s; the"
      .. " Lua files are those of %s%s"):format(VERSION, place or package.searchpath(name, package.cpath) or name,
      result.version or "(a version that does not say which)", here, ADVICE), 0)
  end
  return result
end

local core = part "moonfork.core"
core.part = part

local folder = here:match("^(.*)/[^/]*$")
local looked_at = {}

-- `require("moonfork.load").of(...)` in a file of moonfork: gives moonfork.core, if the file is of
-- this version. With two versions in package.path a file may come from the second, when the first
-- does not have it.
function core.of(_, path)
  local other = type(path) == "string" and path:match("^(.*)/[^/]*%.lua$")
  if not other or other == folder or looked_at[other] then return core end
  local file = io.open(other .. "/load.lua", "rb")
  local version = file and file:read("a"):match('\nlocal VERSION = "([^"\n]*)"')
  if file then file:close() end
  if version and version ~= VERSION then
    error(("moonfork: %s is of moonfork %s, and %s is of moonfork %s%s"):format(path, version, here,
      VERSION, ADVICE), 0)
  end
  looked_at[other] = true
  return core
end

return core
