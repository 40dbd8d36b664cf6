-- What moonfork.doctor runs in the template that it audits: loads the modules one after the other,
-- and reports on a socket what each of them took and what the audit finds. A line is a word and
-- fields, name=value, with tabs between them.

local clone = require "moonfork.clone"

-- Modules may do anything to the globals.
local collectgarbage, getmetatable, ipairs, pairs, rawget, rawset, require, tonumber, tostring, type, xpcall =
  collectgarbage, getmetatable, ipairs, pairs, rawget, rawset, require, tonumber, tostring, type, xpcall
local concat, getinfo, open, stdout, globals = table.concat, debug.getinfo, io.open, io.stdout, _G

local worker = {}

local ESCAPES = {["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t"}

local function send(report, word, fields)
  local parts = {word}
  for name, value in pairs(fields or {}) do
    parts[#parts + 1] = name .. "=" .. tostring(value):gsub("[\\\n\t]", ESCAPES)
  end
  report:write(concat(parts, "\t"), "\n")
end

-- "Name:  123 kB" of /proc/self/status, in bytes; nil where it can't be read.
local function resident()
  local file = open "/proc/self/status"
  local text = file and file:read "a"
  if file then file:close() end
  local kib = text and text:match "VmRSS:%s*(%d+)"
  return kib and tonumber(kib) * 1024
end

local function look(report)
  local found, threads, fds = clone.findings()
  local list = {}
  for _, finding in ipairs(found) do
    if finding.fd ~= report:fileno() then list[#list + 1] = finding end
  end
  return {found = list, threads = threads, fds = fds, lua = collectgarbage "count" * 1024 // 1 | 0,
    resident = resident() or 0}
end

local function key(finding)
  return finding.kind .. " " .. finding.text
end

-- What has come while the module was loaded is its, where the audit knows no other.
local function attribute(list, owner, module)
  for _, finding in ipairs(list) do
    local name = key(finding)
    if not owner[name] then owner[name] = {module = finding.module or module, requested = module} end
  end
end

local function with_place(err)
  if type(err) == "string" or (getmetatable(err) or {}).__tostring then return tostring(err) end
  return ("(error object is a %s value)"):format(type(err))
end

-- The places where setmetatable is given a finaliser until stop() is called: nobody else sees objects
-- that nothing refers to when the module has been loaded.
local function watch_finalisers()
  local original, places = setmetatable, {}
  local function watched(...)
    local object, meta = ...
    if type(object) == "table" and type(meta) == "table" and rawget(meta, "__gc") ~= nil then
      local info = getinfo(2, "Sl") or {short_src = "?", currentline = 0}
      places[#places + 1] = ("%s:%d"):format(info.short_src, info.currentline)
    end
    return original(...)
  end
  rawset(globals, "setmetatable", watched)
  return function()
    if rawget(globals, "setmetatable") == watched then rawset(globals, "setmetatable", original) end
    return places
  end
end

-- Loads it; false when it can't be.
local function load_module(report, name)
  local pid, start = clone.pid(), clone.time()
  local stop = watch_finalisers()
  local ok, err = xpcall(require, with_place, name)
  local seconds = clone.time() - start
  local places = stop()
  if clone.pid() ~= pid then clone.exit(0) end -- a copy that the module has forked by itself
  if ok then return true, seconds, places end
  send(report, "unusable", {module = name, message = err})
  return false
end

-- Whether the audit has found an object with a finaliser that came with the last module.
local function has_finaliser(list, owner)
  for _, finding in ipairs(list) do
    if finding.kind == "finaliser" and not owner[key(finding)] then return true end
  end
  return false
end

--- main(report, name...): report: a moonfork.socket.
function worker.main(report, ...)
  local owner = {}
  local before = look(report)
  attribute(before.found, owner, nil)
  for _, name in ipairs{...} do
    send(report, "loading", {module = name})
    local ok, seconds, places = load_module(report, name)
    if not ok then return end
    local now = look(report)
    if #places > 0 and not has_finaliser(now.found, owner) then
      send(report, "finalised", {module = name, place = places[1]})
    end
    attribute(now.found, owner, name)
    stdout:flush() -- before the line, so that whose output it was is known
    send(report, "module", {name = name, seconds = ("%.6f"):format(seconds), lua = now.lua - before.lua,
      memory = now.resident - before.resident, threads = now.threads - before.threads,
      descriptors = now.fds - before.fds})
    before = now
  end
  for _, finding in ipairs(before.found) do
    local by = owner[key(finding)] or {}
    finding.module, finding.requested = finding.module or by.module, by.requested
    send(report, "finding", finding)
  end
  send(report, "done")
end

--- trial(socket): the function of the clone that is forked to see whether that works.
function worker.trial(socket)
  socket:write(("%d\n"):format(clone.ppid()))
end

return worker
