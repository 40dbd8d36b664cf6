-- standing: the assertions that hold after every fault, whatever it was. Runs in the parent.
--
--   standing.test("...", {options}, function(t, s) ... end)
--
-- is story.test, and afterwards checks
--   A1  each operation submitted by s:submit ended once, and not inside its own call
--   A2  this process and the watched templates have the descriptors they had; s:watch(pid)
--   A3  no descriptor is in flight in a socket of theirs
--   A4  no zombie, and no process of this run is left, orphans included
--   A5  registry and memory of Lua are back
--   A6  the loop was never late by more than 100 ms (what the whole machine lost aside)
--   A7  this process's signal dispositions and mask are unchanged
--   A8  the next operation works
--   A9  whoever lives and is asked nothing uses no processor time (story.lua sees to it)
--
-- Options: those of story.test; memory (KiB that may stay, default 96), stall=false (the
-- story blocks the loop on purpose), signals=false.
local fkit = require "faultkit"
local kit = require "testkit"
local story = require "story"
local templates = require "templates"

local standing = {}
local S = {}
S.__index = S

local STALL = 0.1 -- seconds
local NOISE = 4096 -- open files of the whole system
local marker = ("%d-%.6f"):format(kit.getpid(), kit.now())
-- Set before the first template exists, so that all our processes carry it.
kit.setenv("MOONFORK_STORY", marker)

local fork
local default -- the pid of the default template

local function read_file(path)
  local f = io.open(path, "rb")
  if not f then return "" end
  local text = f:read("a") or ""
  f:close()
  return text
end

local function signals()
  local status = read_file("/proc/self/status")
  return (status:match("SigBlk:%s*%x+") or "") .. (status:match("SigIgn:%s*%x+") or "") ..
    (status:match("SigCgt:%s*%x+") or "")
end

-- References held from C: numbered ones, of which a freed slot holds a number, and others. A
-- table that is made at first use and kept is no leak: a few of those may appear.
local KEPT = 4

local function live_references()
  local numbered, others = 0, 0
  for key, value in pairs(debug.getregistry()) do
    if type(key) ~= "number" then
      others = others + 1
    elseif type(value) ~= "number" then
      numbered = numbered + 1
    end
  end
  return numbered, others
end

local function files_open()
  return tonumber(read_file("/proc/sys/fs/file-nr"):match("^%d+")) or 0
end

local function in_flight(pid)
  for _, name in ipairs(kit.ls("/proc/" .. pid .. "/fdinfo") or {}) do
    local count = read_file("/proc/" .. pid .. "/fdinfo/" .. name):match("scm_fds:%s*(%d+)")
    if count and count ~= "0" then return name end
  end
end

--- Processes that carry this run's mark and do not descend from us: orphans.
local function strays()
  local all, found = kit.processes(), {}
  local function descends(pid)
    while pid and pid > 1 do
      if pid == kit.getpid() then return true end
      pid = all[pid] and all[pid].ppid
    end
  end
  for pid, process in pairs(all) do
    if process.state ~= "Z" and process.state ~= "X" and not descends(pid) and
       read_file("/proc/" .. pid .. "/environ"):find("MOONFORK_STORY=" .. marker, 1, true)
    then
      found[#found + 1] = pid .. " (" .. process.comm .. ")"
    end
  end
  return found
end
standing.strays = strays

local function same_fds(old, new)
  for fd, target in pairs(new) do
    if old[fd] ~= target then return false, ("%d is now %s"):format(fd, target) end
  end
  for fd, target in pairs(old) do
    if not new[fd] then return false, ("%d (%s) is gone"):format(fd, target) end
  end
  return true
end

--- The process that forks for fork.new().
function standing.default_template(t)
  local started = templates.started_by(function()
    local p = fork.new()
    t.got(p:run "type"):close()
    t.status(p)
  end)
  if started then
    default = started
  elseif not default or not t.alive(default) then
    default = templates.list()[1] -- the framework has started it
  end
  return default
end

--- The pid of a process that has not run: known some time after it was asked for.
function standing.pid(t, process)
  return t.within(5, function() return process:pid() end, "its pid")
end

local function collect()
  for _ = 1, 2 do
    collectgarbage()
    collectgarbage()
    fork.step(0)
  end
end

-- Every step that a story takes is timed: late is what it took beyond its timeout.
local function watch_steps(s)
  local step = fork.step
  s.step, s.worst = step, 0
  fork.step = function(timeout)
    local before = kit.now()
    local work = step(timeout)
    local late = kit.now() - before - (timeout or 0)
    if late > s.worst then s.worst = late end
    return work
  end
end

local function begin(t, options)
  fork = fork or require "moonfork"
  local s = setmetatable({t = t, options = options, entries = {}, watched = {}}, S)
  if not options.new_template then s:watch(standing.default_template(t)) end
  fkit.canary_start() -- before the census of signals: a first thread makes libc catch one
  collect()
  s.fds, s.files, s.signals = kit.fds(), files_open(), signals()
  s.numbered, s.others = live_references()
  s.memory = collectgarbage("count")
  watch_steps(s)
  return s
end

--- The descriptors of that process must be at the end what they are now.
function S:watch(pid)
  local before
  local now = kit.fds(pid)
  repeat -- a template that has just forked lets go of something yet
    before = now
    kit.msleep(5)
    now = kit.fds(pid)
  until same_fds(before, now)
  self.watched[pid] = now
  return pid
end

--- The process may end, or change, in this story.
function S:forget(pid)
  self.watched[pid] = nil
end

--- call(callback) starts an operation; its callback must come once, and later.
function S:submit(id, call, callback)
  local entry = {id = id, times = 0, inside = true}
  self.entries[#self.entries + 1] = entry
  call(function(...)
    entry.times = entry.times + 1
    if entry.inside then entry.early = true end
    if callback and not self.closed then return callback(...) end
  end)
  entry.inside = false
  return entry
end

function S:pending()
  local n = 0
  for _, entry in ipairs(self.entries) do
    if entry.times == 0 then n = n + 1 end
  end
  return n
end

--- Turns the reactor until everything that was submitted has ended.
function S:settle(seconds)
  self.t.within(seconds or 10, function() return self:pending() == 0 end,
    "operations that never ended: " .. self:pending())
end

local function check_ledger(s, t)
  for _, entry in ipairs(s.entries) do
    t.eq(entry.times, 1, "A1: completions of " .. tostring(entry.id))
    t.ok(not entry.early, "A1: inside the call: " .. tostring(entry.id))
  end
end

local function check_watched(s, t)
  for pid, fds in pairs(s.watched) do
    local why
    t.within(2, function()
      local now = kit.fds(pid)
      if not now then
        why = "it is gone"
        return false
      end
      local ok
      ok, why = same_fds(fds, now)
      return ok
    end, setmetatable({}, {__tostring = function()
      return ("A2: descriptors of %d: %s"):format(pid, tostring(why))
    end}))
    t.eq(in_flight(pid), nil, "A3: a socket of " .. pid .. " holds descriptors")
  end
end

local function check_own(s, t)
  local why
  t.within(2, function()
    collect()
    local ok
    ok, why = same_fds(s.fds, kit.fds())
    return ok or s.options.new_template
  end, setmetatable({}, {__tostring = function()
    return "A2: own descriptors: " .. tostring(why)
  end}))
  t.eq(in_flight("self"), nil, "A3: a socket of ours holds descriptors")
  -- Other programs open files, too: only much is a sign, and only for a while.
  t.outside(5, function() return files_open() - s.files < NOISE end, "A3: open files in all")
  local numbered, others
  t.within(2, function()
    collect()
    numbered, others = live_references()
    return numbered <= s.numbered and others <= s.others + KEPT
  end, setmetatable({}, {__tostring = function()
    return ("A5: references in the registry: %d and %d, were %d and %d"):format(numbered,
      others, s.numbered, s.others)
  end}))
  local kept = collectgarbage("count") - s.memory
  t.ok(kept < (s.options.memory or 96), ("A5: %.0f KiB of Lua memory stay"):format(kept))
end

function S:finish()
  local t = self.t
  check_ledger(self, t)
  self.entries = {}
  local canary_late = fkit.canary_stop()
  if self.options.stall ~= false then
    t.ok(self.worst - canary_late <= STALL * story.scale,
      ("A6: the loop was late by %.0f ms"):format(self.worst * 1000))
  end
  t.eq((t.ask(fork.new(), "return 6 * 7")), 42, "A8: the next operation")
  t.outside(2, function() return #strays() == 0 end, "A4: orphans of this run")
  check_watched(self, t)
  check_own(self, t)
  if self.options.signals ~= false then t.eq(signals(), self.signals, "A7") end
end

function S:__close()
  self.closed = true -- what a failed story left under way says nothing in the next one
  fkit.canary_stop()
  if self.step then fork.step = self.step end
end

function standing.test(name, options, body)
  if not body then options, body = {}, options end
  story.test(name, options, function(t)
    local s <close> = begin(t, options)
    body(t, s)
    s:finish()
  end)
end

return standing
