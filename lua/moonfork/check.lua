-- Checks of arguments: misuse raises here, naming the argument, with the position of the
-- program's own call. Runs in the parent.

local core = require("moonfork.load").of(...)

local check = {}
local signals, signal_max = core.signals()

local function type_name(value)
  local meta = getmetatable(value)
  if meta == "moonfork.socket" then return meta end -- it hides its metatable
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or type(value)
end

-- The text of a number that another process reads back as the same one, whatever the locale
-- is here; nil where it is none (nan).
function check.number_text(x)
  if x ~= x then return nil end
  if x == math.huge then return "1e999" end
  if x == -math.huge then return "-1e999" end
  return core.number(x)
end

local SHOWN = 60 -- bytes of a string

-- A value that a message shows: an empty string is seen, too.
local function show(value)
  if value ~= value then return "nan" end -- C may show its sign
  if math.type(value) then return core.number(value) end
  if type(value) == "string" then
    return ("'%s'"):format(#value > SHOWN and value:sub(1, SHOWN) .. "..." or value)
  end
  return value == nil and "nil" or type(value) == "boolean" and tostring(value) or type_name(value)
end
check.show = show

-- This library's own files: they lie beside this one.
local folder = debug.getinfo(1, "S").source:match "^(.*)check%.lua$" or ""

local function is_ours(info)
  return info.source:sub(1, #folder) == folder and info.source:find("^[%a_]+%.lua$", #folder + 1)
end

-- The level, seen from the function that calls this one, and the place of the first caller
-- outside of this library; or nil.
local function outside()
  local level = 3
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return nil end
    if info.what ~= "C" and not is_ours(info) then return level - 1, info end
    level = level + 1
  end
end

-- Raises the text with the position of the program's own call.
local function raise(text)
  error(text, outside() or 0)
end

local SHORT = 59 - #"eval at " -- what Lua shows of a chunk's name

-- "main.lua:12": where the program is. A long path loses its beginning.
function check.place()
  local _, info = outside()
  if not info then return "?" end
  local line = info.currentline > 0 and ":" .. info.currentline or ""
  local source, room = info.short_src, SHORT - #line
  if #source > room then source = "..." .. source:sub(-(room - 3)) end
  return source .. line
end

function check.fail(n, f, text)
  raise(("bad argument #%s to '%s' (%s)"):format(n, f, text))
end

-- A method that was not called on its object: mostly a dot in the place of the colon. name:
-- what the object is called in the text.
function check.self(f, name, expected, value)
  raise(("calling '%s' on bad self (%s expected, got %s; use a colon: %s:%s(...))"):format(f,
    expected, value == nil and "no value" or type_name(value), name, f))
end

function check.type(n, f, value, expected)
  if type(value) == expected then return value end
  check.fail(n, f, ("%s expected, got %s"):format(expected,
    value == nil and "no value" or type_name(value)))
end

function check.optional(n, f, value, expected)
  if value ~= nil then check.type(n, f, value, expected) end
  return value
end

-- A function, or an object that can be called like one. fail raises what is wrong.
local function callable(value, fail)
  if value == nil or type(value) == "function" then return value end
  local meta = getmetatable(value)
  if type(meta) == "table" and meta.__call then
    return function(...) return value(...) end
  end
  return fail()
end

function check.callback(n, f, value)
  return callable(value, function()
    check.fail(n, f, "function expected, got " .. type_name(value))
  end)
end

-- A string without a NUL inside, as the system wants names.
function check.name(n, f, value)
  check.type(n, f, value, "string")
  if value:find("\0", 1, true) then check.fail(n, f, "string contains a zero byte") end
  return value
end

function check.seconds(n, f, value)
  check.type(n, f, value, "number")
  if value ~= value or value < 0 then
    check.fail(n, f, "a duration in seconds expected, got " .. show(value))
  end
  return value
end

-- The number of a signal, from its name in any spelling, or its number.
function check.signal(n, f, value)
  if type(value) == "string" then
    local number = signals[value:upper():gsub("^SIG", "")]
    if number then return number end
    check.fail(n, f, ("unknown signal '%s'"):format(value))
  end
  local number = math.type(value) and math.tointeger(value)
  if not number then
    check.fail(n, f, "the name or number of a signal expected, got "
      .. (math.type(value) and show(value) or type_name(value)))
  end
  if number < 0 or number > signal_max then
    check.fail(n, f, ("there is no signal %d"):format(number))
  end
  return number
end

-- Unknown keys of an options table, with the list of those there are.
function check.keys(n, f, options, valid)
  for key in pairs(options) do
    if not valid[key] then
      local names = {}
      for name in pairs(valid) do names[#names + 1] = name end
      table.sort(names)
      check.fail(n, f, ("unknown option '%s' (%s)"):format(tostring(key),
        names[1] and "valid: " .. table.concat(names, ", ") or "it takes none"))
    end
  end
end

-- ---- fields of an options table: where = {f = function, n = argument} ----

local MILLISECONDS_MAX = 0x7fffffff
local COUNT_MAX = 0x7fffffff
check.FOREVER = 0xffffffff -- what option_duration gives for math.huge

-- The keys of an options table, from a list of words.
function check.set(list)
  local set = {}
  for name in list:gmatch("%S+") do set[name] = true end
  return set
end

-- where: argument n of function f, and within ("restart.") for an option in an option.
function check.option_fail(where, name, text)
  check.fail(where.n, where.f, ("option '%s%s': %s"):format(where.within or "", name, text))
end

function check.option_type(where, name, value, kind)
  if type(value) ~= kind then
    check.option_fail(where, name, ("%s expected, got %s"):format(kind, type_name(value)))
  end
  return value
end

--- An option that is true, false, or (nil) as in what the process is made from: the numbers of
--- enum mf_dumpable and enum mf_tree.
function check.option_choice(where, name, value)
  if value == nil then return nil end
  return check.option_type(where, name, value, "boolean") and 1 or 2
end

-- A string without a NUL inside, or nil where the option is not there.
function check.option_text(where, name, value)
  if value == nil then return nil end
  check.option_type(where, name, value, "string")
  if value:find("\0", 1, true) then
    check.option_fail(where, name, "string contains a zero byte")
  end
  return value
end

-- A whole number, or nil where the option is not there. The text names a limit that is
-- that of numbers themselves only for what is beyond it.
function check.option_count(where, name, value, least, most)
  if value == nil then return nil end
  local n = math.type(value) and math.tointeger(value)
  most = most or COUNT_MAX
  if not n or n < least or n > most then
    check.option_fail(where, name, ("a whole number from %d%s expected, got %s"):format(least,
      (most < math.maxinteger or math.type(value) and value > most) and (" to %d"):format(most) or "",
      show(value)))
  end
  return n
end

-- A duration in seconds, as milliseconds, rounded up; nil where the option is not there. Zero
-- only where it means something.
function check.option_duration(where, name, value, zero)
  if value == nil then return nil end
  check.option_type(where, name, value, "number")
  if value ~= value or value < 0 or (value == 0 and not zero) then
    check.option_fail(where, name, ("a %s number of seconds expected, got %s"):format(
      zero and "non-negative" or "positive", show(value)))
  end
  if value == math.huge then return check.FOREVER end
  return math.ceil(math.min(value * 1000.0, MILLISECONDS_MAX)) -- an integer would wrap round
end

-- A function, or an object that can be called like one.
function check.option_callback(where, name, value)
  return callable(value, function()
    check.option_fail(where, name, "function expected, got " .. type_name(value))
  end)
end

check.raise = raise
check.type_name = type_name

return check
