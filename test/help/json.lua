-- json: reads JSON, strictly (RFC 8259), for tests of what the library writes. Arrays become
-- lists, null becomes json.null; a number that is written without point and exponent is an
-- integer. Text that is no JSON raises, with the place.
--
--   local value = json.read(text)
local json = {null = setmetatable({}, {__tostring = function() return "null" end})}

local ESCAPES = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n",
  r = "\r", t = "\t"}
local value

local function fail(text, at, what)
  error(("no JSON at byte %d: %s: %q"):format(at, what, text:sub(at, at + 30)), 0)
end

local function skip(text, at) return text:find("[^ \t\r\n]", at) or #text + 1 end

local function string_at(text, at)
  local parts, from = {}, at + 1
  while true do
    local stop = text:find('["\\%c]', from)
    if not stop then fail(text, at, "a string without an end") end
    parts[#parts + 1] = text:sub(from, stop - 1)
    local c = text:sub(stop, stop)
    if c == '"' then
      local all = table.concat(parts)
      if not utf8.len(all) then fail(text, at, "no UTF-8") end
      return all, stop + 1
    elseif c ~= "\\" then
      fail(text, stop, "a control character in a string")
    end
    local e = text:sub(stop + 1, stop + 1)
    if e == "u" then
      local digits = text:match("^%x%x%x%x", stop + 2)
      if not digits then fail(text, stop, "a bad escape") end
      parts[#parts + 1] = utf8.char(tonumber(digits, 16))
      from = stop + 6
    else
      parts[#parts + 1] = ESCAPES[e] or fail(text, stop, "a bad escape")
      from = stop + 2
    end
  end
end

local function number_at(text, at)
  local digits = text:match("^-?%d+%.?%d*[eE]?[+-]?%d*", at)
  if not digits or digits:find("^-?0%d") or digits:find("%.%D") or digits:find("%D$") then
    fail(text, at, "no value")
  end
  return tonumber(digits), at + #digits
end

-- Members until the closing bracket; each(at) reads one and gives the place behind it.
local function members(text, at, close, each)
  at = skip(text, at + 1)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = skip(text, each(at))
    local c = text:sub(at, at)
    if c == close then return at + 1 end
    if c ~= "," then fail(text, at, "expected , or " .. close) end
    at = skip(text, at + 1)
  end
end

function value(text, at)
  at = skip(text, at)
  local c = text:sub(at, at)
  if c == '"' then return string_at(text, at) end
  if c == "[" or c == "{" then
    local all = {}
    return all, members(text, at, c == "[" and "]" or "}", function(from)
      local key, one
      if c == "{" then
        if text:sub(from, from) ~= '"' then fail(text, from, "expected a name") end
        key, from = string_at(text, from)
        from = skip(text, from)
        if text:sub(from, from) ~= ":" then fail(text, from, "expected :") end
        from = from + 1
      end
      one, from = value(text, from)
      all[key or #all + 1] = one
      return from
    end)
  end
  for word, meaning in pairs {["true"] = true, ["false"] = false, null = json.null} do
    if text:sub(at, at + #word - 1) == word then return meaning, at + #word end
  end
  return number_at(text, at)
end

function json.read(text)
  local all, at = value(text, 1)
  at = skip(text, at)
  if at <= #text then fail(text, at, "something behind the value") end
  return all
end

return json
