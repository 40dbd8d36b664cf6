-- Log lines of a server and of its workers: text for people, or JSON, a line each. Each line is one
-- write, so that those of several processes do not mix. What is wrong goes to standard error,
-- everything else to standard output.

local log = {}

local format = "none" -- "text", "json"; "none": only what is wrong, as text
local core_time

local function time()
  if not core_time then core_time = require("moonfork.clone").time end
  return core_time()
end

--- configure(format): "text", "json" or nil.
function log.configure(wanted)
  format = wanted or "none"
end

local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t"}

local function quote(text)
  return '"' .. text:gsub('[%c"\\\x7f]', function(c)
    return ESCAPES[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function is_utf8(text)
  return utf8.len(text) ~= nil
end

--- json(value): of strings, numbers, booleans, lists and tables with text keys. Bytes that are no
-- UTF-8 are taken for Latin-1.
function log.json(value)
  local kind = type(value)
  if kind == "string" then
    if not is_utf8(value) then
      value = value:gsub("[\x80-\xff]", function(c) return utf8.char(c:byte()) end)
    end
    return quote(value)
  end
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then return "null" end
    if math.type(value) == "integer" then return ("%d"):format(value) end
    return (("%.6f"):format(value):gsub(",", "."):gsub("0+$", ""):gsub("%.$", ".0"))
  end
  if kind ~= "table" then return tostring(value) end
  local parts = {}
  if #value > 0 or value.is_list then
    for i, item in ipairs(value) do parts[i] = log.json(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = quote(key) .. ":" .. log.json(value[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local FIRST = {"pid", "peer", "request", "status", "seconds", "bytes", "signal", "reason", "message"}

local function show(value)
  if type(value) == "number" then return log.json(value) end
  value = tostring(value)
  if value:find "[%s=\"]" then return quote(value) end
  return value
end

local function text_line(now, level, event, fields)
  local parts = {os.date("%Y-%m-%d %H:%M:%S", math.floor(now)) .. (".%03d"):format(now % 1 * 1000 // 1)}
  if level ~= "info" then parts[2] = level end
  parts[#parts + 1] = event
  local told = {traceback = true}
  for _, key in ipairs(FIRST) do
    if fields[key] ~= nil then parts[#parts + 1] = key .. "=" .. show(fields[key]) end
    told[key] = true
  end
  local keys = {}
  for key in pairs(fields) do
    if not told[key] then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do parts[#parts + 1] = key .. "=" .. show(fields[key]) end
  local line = table.concat(parts, " ")
  if fields.traceback then line = line .. "\n" .. fields.traceback end
  return line
end

--- write(level, event, fields): level is "info" or "error".
function log.write(level, event, fields)
  if format == "none" and level ~= "error" then return end
  local now = time()
  local line
  if format == "json" then
    local all = {time = now, level = level, event = event}
    for key, value in pairs(fields) do all[key] = value end
    line = log.json(all)
  else
    line = text_line(now, level, event, fields)
  end
  local file = level == "error" and io.stderr or io.stdout
  file:setvbuf "full"
  file:write(line, "\n")
  file:flush()
end

--- one_line(text): the first line of a message, and the second where the first only introduces it.
function log.one_line(text)
  local first, second = text:match "^([^\n]*)\n?%s*([^\n]*)"
  if first:match ":$" and second ~= "" then return first .. " " .. second end
  return first
end

return log
