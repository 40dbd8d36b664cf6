-- Strings there and back, for rpcs and pools, and numbers as text. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"

local message = {}

-- A number as text: exact, whatever the locale is; nil where it is none (nan).
local math_type = rawget(math, "type")
local is_integer = math_type and function(x) return math_type(x) == "integer" end
  or function(x) return x == math.floor(x) and x > -2 ^ 53 and x < 2 ^ 53 end

function message.number_text(x)
  if x ~= x then return nil end
  if x == math.huge then return "1e999" end
  if x == -math.huge then return "-1e999" end
  if is_integer(x) then return ("%d"):format(x) end
  for digits = 14, 17 do
    local text = ("%." .. digits .. "g"):format(x)
    if digits == 17 or tonumber(text) == x then
      text = text:gsub("[^%d%-+e]", ".")
      return text:find("[.e]") and text or text .. ".0"
    end
  end
end

local char, byte = string.char, string.byte

-- Each string is its length (32 bits, the lowest byte first) and its bytes.
function message.encode(what, ...)
  local parts = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "number" then value = message.number_text(value) or value end
    if type(value) ~= "string" then
      return nil, errors.new("EINVAL", ("%s %d: a %s can't be sent by this serialiser"):format(what,
        i, check.type_name(value)))
    end
    local n = #value
    if n >= 2 ^ 32 - 1 then
      return nil, errors.new("LIMIT", ("%s %d: the string is too long"):format(what, i))
    end
    parts[2 * i - 1] = char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256,
      math.floor(n / 16777216))
    parts[2 * i] = value
  end
  return table.concat(parts)
end

-- The strings, packed; nil: it is no such message.
function message.decode(bytes)
  local values, at, n = {}, 1, 0
  while at <= #bytes do
    local a, b, c, d = byte(bytes, at, at + 3)
    if not d then return nil end
    local length = a + b * 256 + c * 65536 + d * 16777216
    if length > #bytes - at - 3 then return nil end
    n = n + 1
    values[n] = bytes:sub(at + 4, at + 3 + length)
    at = at + 4 + length
  end
  values.n = n
  return values
end

return message
