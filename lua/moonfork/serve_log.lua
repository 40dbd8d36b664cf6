-- Log lines of a server and of its workers: text for people, or JSON, a line each. Each line is one
-- write, so that those of several processes do not mix. What is wrong goes to standard error,
-- everything else to standard output.

local json = require "moonfork.json"

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

local FIRST = {"pid", "peer", "request", "status", "seconds", "bytes", "signal", "reason", "message"}

local function show(value)
  if type(value) == "number" then return json.encode(value) end
  value = tostring(value)
  if value:find "[%s=\"]" then return json.encode(value) end
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
    line = json.encode(all)
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
