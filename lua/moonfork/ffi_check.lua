-- What moonfork.ffi checks of its arguments. Misuse raises with the position of the program's own
-- call. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local check = { FOREVER = 0xffffffff } -- as milliseconds

local MILLISECONDS_MAX = 0x7fffffff
local COUNT_MAX = 0x7fffffff

-- This library's own files: they lie beside this one.
local folder = debug.getinfo(1, "S").source:match "^(.*)ffi_check%.lua$" or ""

local function is_ours(source)
  return source:sub(1, #folder) == folder and source:find("^[%a_]+%.lua$", #folder + 1)
end

function check.raise(text)
  local level = 2
  while true do
    local info = debug.getinfo(level, "S")
    if not info then return error(text, 0) end
    if info.what ~= "C" and info.what ~= "tail" and not is_ours(info.source) then
      error(text, level)
    end
    level = level + 1
  end
end

function check.type_name(value)
  local meta = type(value) == "table" and getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or type(value)
end

-- A value that a message shows: an empty string is seen, too.
function check.show(value)
  if type(value) == "string" then return ("'%s'"):format(value) end
  local plain = value == nil or type(value) == "number" or type(value) == "boolean"
  return plain and tostring(value) or check.type_name(value)
end

function check.fail(n, f, text)
  check.raise(("bad argument #%d to '%s' (%s)"):format(n, f, text))
end

function check.type(n, f, value, expected)
  if type(value) == expected then return value end
  check.fail(n, f, ("%s expected, got %s"):format(expected,
    value == nil and "no value" or check.type_name(value)))
end

local function has_zero(text)
  return text:find("%z") or text:find("\0", 1, true)
end

function check.name(n, f, value)
  check.type(n, f, value, "string")
  if has_zero(value) then
    check.fail(n, f, "string contains a zero byte")
  end
  return value
end

function check.callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

function check.callback(n, f, value)
  if value == nil or check.callable(value) then return value end
  check.fail(n, f, "function expected, got " .. check.type_name(value))
end

function check.set(list)
  local keys = {}
  for name in list:gmatch("%S+") do keys[name] = true end
  return keys
end

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

-- where: argument n of function f, and within ("restart.") for an option in an option.
function check.option_fail(where, name, text)
  check.fail(where.n, where.f, ("option '%s%s': %s"):format(where.within or "", name, text))
end

function check.option_type(where, name, value, kind)
  if type(value) ~= kind then
    check.option_fail(where, name, ("%s expected, got %s"):format(kind, check.type_name(value)))
  end
  return value
end

function check.option_text(where, name, value)
  if value == nil then return nil end
  check.option_type(where, name, value, "string")
  if has_zero(value) then
    check.option_fail(where, name, "string contains a zero byte")
  end
  return value
end

function check.option_count(where, name, value, least, most)
  if value == nil then return nil end
  most = most or COUNT_MAX
  if type(value) ~= "number" or value ~= math.floor(value) or value < least or value > most then
    check.option_fail(where, name, ("a whole number from %d to %.0f expected, got %s"):format(least, most,
      check.show(value)))
  end
  return value
end

-- Seconds, as milliseconds, rounded up. Zero only where it means something.
function check.option_duration(where, name, value, zero)
  if value == nil then return nil end
  check.option_type(where, name, value, "number")
  if value ~= value or value < 0 or (value == 0 and not zero) then
    check.option_fail(where, name, ("a %s number of seconds expected, got %s"):format(
      zero and "non-negative" or "positive", check.show(value)))
  end
  if value == math.huge then return check.FOREVER end
  return math.ceil(math.min(value * 1000.0, MILLISECONDS_MAX)) -- an integer would wrap round
end

function check.option_flag(where, name, value)
  if value == nil then return 0 end
  return check.option_type(where, name, value, "boolean") and 1 or 0
end

-- An option that is true, false, or (nil) as in what the process is made from: the numbers of
-- enum mf_dumpable and enum mf_tree.
function check.option_choice(where, name, value)
  if value == nil then return nil end
  return check.option_type(where, name, value, "boolean") and 1 or 2
end

function check.option_callback(where, name, value)
  if value == nil or check.callable(value) then return value end
  check.option_fail(where, name, "function expected, got " .. check.type_name(value))
end

function check.is_fd(value)
  return type(value) == "number" and value == math.floor(value) and value > -2 ^ 31
    and value < 2 ^ 31
end

function check.fd(n, f, value)
  if check.is_fd(value) then return value end
  check.fail(n, f, "a descriptor's number expected, got "
    .. (type(value) == "number" and tostring(value) or check.type_name(value)))
end

-- A time limit; nil: none.
function check.seconds(n, f, value)
  if value == nil then return nil end
  check.type(n, f, value, "number")
  if value ~= value or value < 0 then
    check.fail(n, f, "a duration in seconds expected, got " .. check.show(value))
  end
  return value
end

return check
