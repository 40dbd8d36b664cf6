-- Log lines of a server and of its workers: text for people, or JSON, a line each. Each line is one
-- write, so that those of several processes do not mix. What is wrong goes to standard error,
-- everything else to standard output. Where that can't be written, because the disk is full, one of the
-- processes says so, once, and one says when it is written again: what they do goes on.

local json = require "moonfork.json"

local log = {}

local format = "none" -- "text", "json"; "none": only what is wrong, as text
local core_time

local function time()
  if not core_time then core_time = require("moonfork.clone").time end
  return core_time()
end

local own = {n = 0} -- lines that could not be written: a board with what it has of one
local lost = own

function own:add()
  self.n = self.n + 1
  return self.n
end

function own:get()
  return self.n
end

function own:swap(_, n)
  local old = self.n
  self.n = n
  return old
end

local lost_cell

--- configure(format, board, cell): "text", "json" or nil. Where several processes write, they count in
-- that cell of the board which they share what could not be written.
function log.configure(wanted, board, cell)
  format = wanted or "none"
  lost, lost_cell = board or own, cell
end

local FIRST = {"pid", "peer", "request", "status", "seconds", "bytes", "signal", "reason", "message"}

local function show(value)
  if type(value) == "number" then return json.encode(value) end
  value = tostring(value)
  if value:find "[%s%c=\"]" then return json.encode(value) end
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

local function line_of(level, event, fields)
  local now = time()
  if format ~= "json" then return text_line(now, level, event, fields) end
  local all = {time = now, level = level, event = event}
  for key, value in pairs(fields) do all[key] = value end
  return json.encode(all)
end

local put_bytes

-- True, or nil and the reason. What the program itself has printed goes first.
local function put(file, text)
  file:flush()
  if not put_bytes then put_bytes = require("moonfork.serve_core").put end
  return put_bytes(file == io.stderr and 2 or 1, text)
end

-- A part of the last line may have been written: the next one begins on a line of its own.
local function put_output(text)
  local was_lost = lost:get(lost_cell) > 0
  local ok, message = put(io.stdout, (was_lost and "\n" or "") .. text)
  if not ok and lost:add(lost_cell) == 1 then
    put(io.stderr, line_of("error", "log not written", {message = "standard output: " .. message}) .. "\n")
  elseif ok and was_lost then
    local n = lost:swap(lost_cell, 0)
    if n > 0 then put(io.stderr, line_of("info", "log written again", {lost = n}) .. "\n") end
  end
end

--- write(level, event, fields): level is "info" or "error".
function log.write(level, event, fields)
  if format == "none" and level ~= "error" then return end
  local line = line_of(level, event, fields) .. "\n"
  if level == "error" then put(io.stderr, line) else put_output(line) end
end

--- one_line(text): the first line of a message, and the second where the first only introduces it.
function log.one_line(text)
  local first, second = text:match "^([^\n]*)\n?%s*([^\n]*)"
  if first:match ":$" and second ~= "" then return first .. " " .. second end
  return first
end

return log
