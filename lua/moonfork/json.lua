-- JSON of what moonfork itself writes and reads: status pages, logs, reports. Values of users go
-- through cjson.

local json = {}

local LIST = {}

--- list(t): t, which is a list also while it is empty.
function json.list(t)
  return setmetatable(t, LIST)
end

-- ---- writing ----

local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t"}

local function escape(c)
  return ESCAPES[c] or ("\\u%04x"):format(c:byte())
end

-- Bytes that are no UTF-8 are taken for Latin-1.
local function quote(text)
  if not utf8.len(text) then
    text = text:gsub("[\x80-\xff]", function(c) return utf8.char(c:byte()) end)
  end
  return '"' .. text:gsub('[%c"\\\x7f]', escape) .. '"'
end

local function number(value)
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  if math.type(value) == "integer" then return ("%d"):format(value) end
  return (("%.6f"):format(value):gsub(",", "."):gsub("0+$", ""):gsub("%.$", ".0"))
end

--- encode(value): of strings, numbers (six places), booleans, lists and tables with text keys, which
-- come in order. What JSON has no word for is null.
function json.encode(value)
  local kind = type(value)
  if kind == "string" then return quote(value) end
  if kind == "number" then return number(value) end
  if kind == "boolean" then return tostring(value) end
  if kind ~= "table" then return "null" end
  local parts = {}
  if #value > 0 or getmetatable(value) == LIST then
    for i, item in ipairs(value) do parts[i] = json.encode(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = quote(key) .. ":" .. json.encode(value[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- ---- reading ----

local DEPTH_MAX = 100
local UNESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/"}

local function fail(at, what)
  error({at = at, what = what}, 0)
end

local function skip(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

local function read_hex(text, at)
  local hex = text:match("^%x%x%x%x", at) or fail(at, "four hexadecimal digits were expected")
  return tonumber(hex, 16), at + 4
end

-- at: behind \u. Two surrogates are one character; a lone one is U+FFFD.
local function read_character(text, at)
  local code
  code, at = read_hex(text, at)
  if code >= 0xd800 and code < 0xdc00 and text:match("^\\u[dD][c-fC-F]%x%x", at) then
    local low
    low, at = read_hex(text, at + 2)
    return utf8.char(0x10000 + ((code & 0x3ff) << 10) + (low & 0x3ff)), at
  end
  return utf8.char(code >= 0xd800 and code < 0xe000 and 0xfffd or code), at
end

local function read_string(text, at)
  local parts = {}
  at = at + 1
  while true do
    local stop = text:find('[%c"\\]', at) or fail(at, "a string does not end")
    parts[#parts + 1] = text:sub(at, stop - 1)
    local c = text:sub(stop, stop)
    at = stop + 1
    if c == '"' then return table.concat(parts), at end
    if c ~= "\\" then fail(stop, "a control character in a string") end
    local escaped = text:sub(at, at)
    if escaped == "u" then
      parts[#parts + 1], at = read_character(text, at + 1)
    else
      parts[#parts + 1] = UNESCAPES[escaped] or fail(stop, "an unknown escape")
      at = at + 1
    end
  end
end

local read_value

-- The members between two brackets, each read by one(at) -> at.
local function read_members(text, at, close, one)
  at = skip(text, at + 1)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = skip(text, one(at))
    local c = text:sub(at, at)
    if c == close then return at + 1 end
    if c ~= "," then fail(at, ("',' or '%s' was expected"):format(close)) end
    at = skip(text, at + 1)
  end
end

local function read_list(text, at, depth)
  local list = json.list{}
  at = read_members(text, at, "]", function(here)
    list[#list + 1], here = read_value(text, here, depth + 1)
    return here
  end)
  return list, at
end

local function read_object(text, at, depth)
  local object = {}
  at = read_members(text, at, "}", function(here)
    if text:sub(here, here) ~= '"' then fail(here, "a key was expected") end
    local key
    key, here = read_string(text, here)
    here = skip(text, here)
    if text:sub(here, here) ~= ":" then fail(here, "':' was expected") end
    object[key], here = read_value(text, skip(text, here + 1), depth)
    return here
  end)
  return object, at
end

local WORDS = {["true"] = true, ["false"] = false}

function read_value(text, at, depth)
  if depth > DEPTH_MAX then fail(at, "it is nested too deeply") end
  local c = text:sub(at, at)
  if c == '"' then return read_string(text, at) end
  if c == "[" then return read_list(text, at, depth) end
  if c == "{" then return read_object(text, at, depth + 1) end
  local word = text:match("^%a+", at)
  if word == "null" then return nil, at + 4 end
  if WORDS[word] ~= nil then return WORDS[word], at + #word end
  local digits = text:match("^-?%d[%w.+-]*", at)
  local value = digits and not digits:find "[xX]" and tonumber(digits)
  if not value then fail(at, "a value was expected") end
  return value, at + #digits
end

--- decode(text): the value, or nil, message. null is nil, in a list it is left out.
function json.decode(text)
  local ok, value, at = pcall(read_value, text, skip(text, 1), 1)
  if not ok then
    if type(value) ~= "table" then error(value, 0) end
    return nil, ("%s at byte %d"):format(value.what, value.at)
  end
  at = skip(text, at)
  if at <= #text then return nil, ("more than a value at byte %d"):format(at) end
  return value
end

return json
