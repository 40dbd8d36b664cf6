-- story: the harness of the tests that use real processes. Runs in the parent. A file under
-- test/proc or test/lua is one process and a few stories; each story is one sentence and a
-- function that proves it.
--
--   local story = require "story"
--   story.test("AF-05 the fork point is a position in the command stream", function(t)
--     ...
--   end)
--   story.done()
--
-- Before a story's processes are let go of, those that still live are watched for a moment,
-- and so is this one: whoever waits uses no processor time. A story whose processes work on
-- says busy=true, and why. At the end of the file the templates that stay are watched, too.
--
-- Around every story a census is taken: the descriptors of this process, its descendants
-- (zombies too) and whether work is outstanding. What differs afterwards fails the story.
-- What the library keeps for the whole process (its default template, its loop, its leash)
-- exists already: the first census comes after a warm-up. story.census = false, or the
-- option census=false of one story, switches that off, and the file says why.
--
-- Options of story.test(name, options, f): deadline (seconds, default 60), census,
-- new_template (the story replaces the default template: descriptors are then compared by
-- kind), root / user (needs that kind of account), needs (a module that must be there), busy
-- (what it leaves is at work: that nobody uses the processor is not asked for).
--
-- The output is TAP. A story has a deadline: first its Lua code is interrupted, then the
-- process ends, and the runner says which story it was.
local kit = require "testkit"
local actor = require "actor"

local story = {census = true}
local scale = tonumber(os.getenv("STORY_SCALE") or "") or 1
local lua = os.getenv("LUA") or "lua5.4"
local count, failures = 0, 0
local fork, base
local folder -- of modules; exists, and is on package.path, before any template does
local SKIP, FAIL = {}, {}

story.kit, story.scale = kit, scale
story.is_sanitized = (os.getenv "STORY_PRELOAD" or "") ~= "" -- a sanitizer's runtime is loaded first

-- ---- files ----

-- Never what a symbolic link leads to: os.remove takes the link itself.
local function remove_tree(path)
  if os.remove(path) then return end
  for _, name in ipairs(kit.ls(path) or {}) do remove_tree(path .. "/" .. name) end
  kit.rmdir(path)
end

local function write_file(path, text)
  local f = assert(io.open(path, "w"))
  assert(f:write(text))
  assert(f:close())
  return path
end

local function read_file(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local text = f:read("a")
  f:close()
  return text
end

-- ---- the census ----

local function descendants()
  local all, mine = kit.processes(), {[kit.getpid()] = true}
  local found, grew = {}, true
  while grew do
    grew = false
    for pid, p in pairs(all) do
      if mine[p.ppid] and not mine[pid] then
        mine[pid], found[pid], grew = true, p, true
      end
    end
  end
  return found
end

local function kinds(fds)
  local out = {}
  for _, target in pairs(fds) do
    local kind = target:gsub("%[%d+%]", ""):gsub("^/proc/%d+", "/proc/N")
    out[kind] = (out[kind] or 0) + 1
  end
  return out
end

local function take_census()
  return {fds = kit.fds(), processes = descendants()}
end

-- What a failed story has left is in the next census, and may go at any time.
local function forgive(old, new)
  local extra = {fds = {}, processes = {}}
  for what, set in pairs(extra) do
    for key, value in pairs(new[what]) do
      if old[what][key] == nil or what == "fds" and old[what][key] ~= value or
         old.extra and old.extra[what][key] then
        set[key] = true
      end
    end
  end
  new.extra = extra
  return new
end

local function fd_difference(old, new, by_kind, say, extra)
  if by_kind then
    old, new = kinds(old), kinds(new)
    for kind, n in pairs(new) do
      if n > (old[kind] or 0) then say("%d more of %s", n - (old[kind] or 0), kind) end
    end
    return
  end
  for fd, target in pairs(new) do
    if old[fd] ~= target then say("descriptor %d is now %s", fd, target) end
  end
  for fd, target in pairs(old) do
    if new[fd] == nil and not extra[fd] then say("descriptor %d (%s) is gone", fd, target) end
  end
end

local function process_difference(old, new, by_kind, say, extra)
  if by_kind then
    local n, m = 0, 0
    for _ in pairs(old) do n = n + 1 end
    for _ in pairs(new) do m = m + 1 end
    if m <= n then return end
  end
  for pid, p in pairs(new) do
    if not old[pid] then
      local line = (read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
      say("process %d of %d is left, state %s: %s %s", pid, p.ppid, p.state, p.comm, line)
    end
  end
  for pid, p in pairs(old) do
    if not new[pid] and not extra[pid] then say("process %d (%s) is gone", pid, p.comm) end
  end
end

local function difference(old, new, by_kind)
  local lines = {}
  local function say(...) lines[#lines + 1] = string.format(...) end
  local extra = old.extra or {fds = {}, processes = {}}
  fd_difference(old.fds, new.fds, by_kind, say, extra.fds)
  process_difference(old.processes, new.processes, by_kind, say, extra.processes)
  return lines
end

local function warm_up()
  fork = fork or require "moonfork"
  local p = fork.new()
  local socket, err = p:run("type")
  if not socket then error("warm-up: " .. tostring(err), 0) end
  socket:close()
  local status
  status, err = p:wait(10)
  if not status then error("warm-up: " .. tostring(err), 0) end
  p:close()
end

-- The warm-up's own clone may be reported late: the census waits until nobody is a zombie. And
-- a template of the file's that stands behind a command is there only after a while.
local function first_census()
  warm_up()
  local last = kit.now() + 3 * scale
  local census
  repeat
    collectgarbage()
    fork.step(0)
    census = take_census()
    local moves = fork.dump():find ": FORKING"
    for _, p in pairs(census.processes) do moves = moves or p.state == "Z" end
    if not moves then break end
    kit.msleep(5)
  until kit.now() > last
  return census
end

local function look_left(by_kind)
  collectgarbage()
  collectgarbage()
  local outstanding = fork.step(0)
  local lines = difference(base, take_census(), by_kind)
  if outstanding then lines[#lines + 1] = "work is outstanding in the reactor" end
  return lines
end

-- Turns the reactor while work is outstanding, for a moment at most.
local function finish_turns()
  local last = kit.now() + 0.5 * scale
  while fork.step(0.02) and kit.now() < last do end
end

-- Returns what is left over, nothing when all is as before. A look may come between an end and the turn in
-- which it is told, and on a loaded machine it may be the last one before the time is over: then one more.
local function settle(by_kind)
  if by_kind then warm_up() end
  local last = kit.now() + 3 * scale
  local lines
  repeat
    lines = look_left(by_kind)
    if #lines == 0 then break end
    kit.msleep(5)
  until kit.now() > last
  if #lines > 0 then
    finish_turns()
    lines = look_left(by_kind)
  end
  if #lines > 0 then return lines end
  local t0 = kit.now()
  fork.loop()
  if kit.now() - t0 > 0.5 * scale then return {"fork.loop() waits for something"} end
  return lines
end

-- ---- whoever waits, sleeps ----

local WINDOW = 0.1 -- seconds of watching
local QUIET = 0.002 -- seconds of processor time that are no sign of anything
local LOOKS = 15 -- windows until it is believed that somebody does not come to rest

-- Seconds that the threads of a process have run, and have waited for a processor: on a loaded
-- machine one that spins does either. nil: it is gone.
local function used(pid)
  local run, wait
  for _, task in ipairs(kit.ls("/proc/" .. pid .. "/task") or {}) do
    local text = read_file("/proc/" .. pid .. "/task/" .. task .. "/schedstat") or ""
    local ran, waited = text:match("^(%d+) (%d+)")
    if ran then run, wait = (run or 0) + ran / 1e9, (wait or 0) + waited / 1e9 end
  end
  return run, wait
end

--- The seconds, from some moment on, that this thread has neither run nor waited for a
--- processor: what it blocks for. (Exact to some milliseconds.)
function story.slept()
  local text = read_file "/proc/thread-self/schedstat" or ""
  local ran, waited = text:match "^(%d+) (%d+)"
  return kit.now() - ((ran or 0) + (waited or 0)) / 1e9
end

local function watch(pids)
  local before = {}
  for pid in pairs(pids) do before[pid] = table.pack(used(pid)) end
  local mine, reactor, last = table.pack(used("self")), fork.reactor, kit.now() + WINDOW
  local left = WINDOW
  while left > 0 do -- as a foreign loop does, so that idle things are waited for, too
    local timeout = math.min(reactor:timeout() or left, left)
    kit.poll(reactor:pollfd(), "r", math.ceil(timeout * 1000))
    reactor:step()
    left = last - kit.now()
  end
  local lines = {}
  local function compare(name, old, run, wait)
    if not run or not old[1] then return end
    run, wait = run - old[1], wait - old[2]
    if run > QUIET or wait > WINDOW / 2 then
      lines[#lines + 1] = ("%s does not sleep: %.1f ms of %.0f, and %.1f more waiting for a " ..
        "processor"):format(name, run * 1000, WINDOW * 1000, wait * 1000)
    end
  end
  compare("this process", mine, used("self"))
  for pid, p in pairs(pids) do
    local line = (read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z+", " ")
    compare(("process %d of %d (%s: %s)"):format(pid, p.ppid, p.comm, line), before[pid], used(pid))
  end
  return lines
end

--- Lines about those who use processor time though nobody asks anything of them: this
--- process, and its descendants but those in the table `except`. What is under way has a
--- second and a half to come to an end.
local function restless(except)
  local lines = {}
  for _ = 1, LOOKS do
    local pids = descendants()
    for pid, p in pairs(pids) do
      if except and except[pid] or p.state == "Z" then pids[pid] = nil end
    end
    if except and not next(pids) then return {} end
    lines = watch(pids)
    if #lines == 0 then break end
  end
  return lines
end

-- ---- what a story is given ----

local T = {}
T.__index = T

local function show(value, depth)
  depth = depth or 0
  if type(value) == "string" then
    local text = string.format("%q", #value > 300 and value:sub(1, 300) .. "..." or value)
    return (text:gsub("\n", "n"))
  end
  if type(value) ~= "table" or depth > 3 or (getmetatable(value) or {}).__tostring then
    return tostring(value)
  end
  local out = {}
  for k, v in pairs(value) do
    out[#out + 1] = "[" .. show(k, depth + 1) .. "]=" .. show(v, depth + 1)
  end
  table.sort(out)
  return "{" .. table.concat(out, ", ") .. "}"
end
story.show = show

local function fail(level, ...)
  local text = string.format(...)
  error(setmetatable({FAIL, text = debug.traceback(text, level + 1)}, {
    __tostring = function(self) return self.text end,
  }), 0)
end

local function same(a, b)
  if a == b then return math.type(a) == math.type(b) end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  for k, v in pairs(a) do
    if not same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

local function about(what)
  return what and " (" .. tostring(what) .. ")" or ""
end

--- Equal in value; tables by content; 1 and 1.0 differ.
function T.eq(got, expected, what)
  if same(got, expected) then return end
  fail(2, "expected %s, got %s%s", show(expected), show(got), about(what))
end

function T.ok(value, what)
  if value then return value end
  fail(2, "expected something true, got %s%s", tostring(value), about(what))
end

function T.match(text, pattern, what)
  if tostring(text):find(pattern) then return end
  fail(2, "expected a match of %q, got %s%s", pattern, show(tostring(text)), about(what))
end

function T.fail(...)
  fail(2, ...)
end

--- f(...) raises, and the message matches.
function T.raises(pattern, f, ...)
  local ok, err = pcall(f, ...)
  if ok then fail(2, "expected an error like %q, but none was raised", pattern) end
  if tostring(err):find(pattern) then return err end
  fail(2, "expected an error like %q, got %s", pattern, show(tostring(err)))
end

--- err is an error object with that code; its message matches the pattern, if given.
function T.error(err, code, pattern)
  if err == nil then fail(2, "expected the error %s, got nil", code) end
  if type(err) == "string" then fail(2, "expected an error object, got %s", show(err)) end
  if err.code ~= code then
    fail(2, "expected the error %s, got %s: %s", code, tostring(err.code), tostring(err))
  end
  if pattern and not tostring(err):find(pattern) then
    fail(2, "expected an error like %q, got %s", pattern, show(tostring(err)))
  end
  return err
end

--- Passes a call's values on; nil, err fails the story and shows err.
function T.got(...)
  if (...) then return ... end
  local _, err = ...
  if type(err) ~= "string" and err ~= nil then
    fail(2, "%s: %s%s", tostring(err.code), tostring(err),
      err.traceback and "\n" .. err.traceback or "")
  end
  fail(2, "got nil: %s", tostring(err))
end

--- Turns the reactor until predicate() is true, and returns its value.
function T.within(seconds, predicate, what)
  fork = fork or require "moonfork"
  local last = kit.now() + seconds * scale
  while true do
    local value = predicate()
    if value then return value end
    if kit.now() > last then
      fail(2, "not within %g s%s", seconds * scale, about(what))
    end
    if not fork.step(0.02) then kit.msleep(2) end
  end
end

--- The same without turning the reactor: what others must do without us.
function T.outside(seconds, predicate, what)
  local last = kit.now() + seconds * scale
  while true do
    local value = predicate()
    if value then return value end
    if kit.now() > last then fail(2, "not within %g s%s", seconds * scale, about(what)) end
    kit.msleep(2)
  end
end

--- Ends the story as skipped.
function T.skip(reason)
  error({SKIP, reason = reason}, 0)
end

function T.note(...)
  print("# " .. string.format(...))
end

--- A temporary folder, gone at the end of the story.
function T:tmp()
  if not self.folder then self.folder = assert(kit.mkdtemp()) end
  return self.folder
end

--- A path in that folder; with text a file of that content.
function T:file(name, text)
  local path = self:tmp() .. "/" .. name
  if text then write_file(path, text) end
  return path
end

function T.read(path)
  return read_file(path)
end

--- f() at the end of the story, however it ends.
function T:defer(f)
  self.deferred = self.deferred or {}
  table.insert(self.deferred, f)
end

--- A module that parents and clones can require, until the end of the story.
function T:module(name, source)
  local path = folder .. "/" .. name:gsub("%.", "/") .. ".lua"
  local parent = path:match("^(.*)/")
  if parent ~= folder then kit.mkdir(parent) end
  write_file(path, source)
  self.modules[#self.modules + 1] = name
  return path
end

--- Lets go of all that is garbage.
function T.collect()
  collectgarbage()
  collectgarbage()
end

--- Runs Lua source in the process, as the function of its clone, and returns its results:
--- code sees the socket and what was sent as `...`.
function T.ask(process, code)
  local socket = T.got(T.started(process, code))
  local text, err = socket:read("a")
  socket:close()
  if not text or text == "" then
    fail(2, "the clone answered nothing: %s", tostring(err))
  end
  local results = table.pack(actor.unpack(text))
  if not results[1] then fail(2, "in the clone: %s", tostring(results[2])) end
  return table.unpack(results, 2, results.n)
end

--- The first half of ask: prepares and runs, returns what run returns.
function T.started(process, code)
  process:eval([[
    local code = ...
    function story_asked(socket, ...)
      require("actor").answer(socket, assert(load(code, "=asked")), ...)
    end
  ]], code)
  return process:run("story_asked")
end

--- Reads the answer of a clone that was started so.
function T.answer(socket)
  local text = socket:read("a")
  socket:close()
  if not text or text == "" then fail(2, "the clone answered nothing") end
  local results = table.pack(actor.unpack(text))
  if not results[1] then fail(2, "in the clone: %s", tostring(results[2])) end
  return table.unpack(results, 2, results.n)
end

--- The values in the text of actor.pack.
function T.unpack(text)
  return actor.unpack(text)
end

--- Waits for the process's end.
function T.status(process, seconds)
  local status, err = process:wait((seconds or 10) * scale)
  status = status or err.exit -- after a failed chain wait gives that error
  if not status then fail(2, "no exit status: %s", tostring(err)) end
  return status
end

--- Everybody sleeps: this process, and all that descend from it.
function T.sleeps(what)
  local lines = restless()
  if #lines > 0 then fail(2, "%s%s", table.concat(lines, "\n"), about(what)) end
end

function T.alive(pid)
  assert(type(pid) == "number", "the number of a process expected")
  local p = kit.processes()[pid]
  return p ~= nil and p.state ~= "Z" and p.state ~= "X"
end

--- Runs Lua source in a fresh interpreter with the same paths; returns what it wrote to
--- standard output, its exit code (128 + n for signal n) and standard error.
--- Options: before (shell text in front of the command), after (shell text behind it).
function T:lua(source, options)
  options = options or {}
  self.nscripts = (self.nscripts or 0) + 1
  local script = self:file("script" .. self.nscripts .. ".lua", source)
  local out, err = script .. ".out", script .. ".err"
  local command = string.format("exec timeout -k 2 %d env %s %s '%s' >'%s' 2>'%s' %s",
    math.ceil((options.deadline or 45) * scale), options.before or "", lua, script, out, err,
    options.after or "</dev/null")
  if options.shell then command = options.shell .. "\n" .. command end
  local _, how, code = os.execute(command)
  return read_file(out), how == "signal" and code + 128 or code, read_file(err)
end

-- ---- running ----

local function prepare()
  if folder then return end
  folder = assert(kit.mkdtemp())
  package.path = folder .. "/?.lua;" .. package.path
end
prepare()

-- Why a story does not apply behind a command (test/run --remote, test/remote_stories).
local function refuse_remote(name)
  if not os.getenv "STORY_REMOTE" then return end
  local file = arg[0]:match "test/[^/]+/[^/]+$"
  for line in io.lines(os.getenv "MOONFORK_SOURCE" .. "/test/remote_stories") do
    local path, beginning, why = line:match "^(test/%S+): (.-): ([^:]+)$"
    if path == file and name:sub(1, #beginning) == beginning then return "over a link: " .. why end
  end
end

local function refuse(options)
  if options.root and kit.getuid() ~= 0 then return "needs root" end
  if options.user and kit.getuid() == 0 then return "needs an ordinary user" end
  for name in (options.needs or ""):gmatch("%S+") do
    if not package.searchpath(name, package.path) and
       not package.searchpath(name, package.cpath) then
      return "needs the module " .. name
    end
  end
  return options.skip
end

local function report(ok, name, text)
  if ok then
    print(("ok %d - %s%s"):format(count, name, text and " # SKIP " .. text or ""))
    return
  end
  failures = failures + 1
  print(("not ok %d - %s"):format(count, name))
  for line in (text .. "\n"):gmatch("(.-)\n") do print("#   " .. line) end
end

local function tidy(t)
  for _, f in ipairs(t.deferred or {}) do f() end
  for _, name in ipairs(t.modules) do
    os.remove(folder .. "/" .. name:gsub("%.", "/") .. ".lua")
    package.loaded[name] = nil
  end
  if t.folder then remove_tree(t.folder) end
  if fork then
    fork.on_error(nil)
    fork.set_waiter(nil)
  end
end

local function describe(err)
  if type(err) == "table" and (err[1] == SKIP or err[1] == FAIL) then return err end
  local text = tostring(err)
  if type(err) == "table" and err.traceback then text = text .. "\n" .. err.traceback end
  return {FAIL, text = debug.traceback(text, 2)}
end

--- story.test(name, [options,] f): runs f now.
function story.test(name, options, f)
  if not f then options, f = {}, options end
  count = count + 1
  local only = os.getenv("STORY_ONLY")
  if only and not name:find(only, 1, true) then return report(true, name, "not asked for") end
  local why = refuse(options) or refuse_remote(name)
  if why then return report(true, name, why) end
  local counted = story.census and options.census ~= false
  print(("# begin %d - %s"):format(count, name))
  kit.deadline(math.ceil((options.deadline or 60) * scale), 5)
  local t = setmetatable({modules = {}}, T)
  local ok, err = xpcall(function()
    if counted and not base then base = first_census() end
    f(t)
  end, describe)
  -- What the story made is garbage now, its locals and upvalues included.
  f = nil
  pcall(tidy, t)
  t = nil -- luacheck: ignore
  local left = {}
  if ok and fork and base and not options.busy then
    local looked, lines = xpcall(restless, debug.traceback, base.processes)
    if not looked or #lines > 0 then
      ok, err = false, {FAIL, text = looked and table.concat(lines, "\n") or tostring(lines)}
    end
  end
  if counted and base then
    local settled, lines = xpcall(settle, debug.traceback, options.new_template)
    left = settled and lines or {tostring(lines)}
    if #left > 0 then
      base = forgive(base, take_census())
    elseif options.new_template then
      base = take_census()
    end
  end
  kit.deadline(0, 0)
  if not ok and err[1] == SKIP then return report(true, name, err.reason) end
  local text = ok and "" or err.text
  if #left > 0 then text = text .. "\nleft over:\n  " .. table.concat(left, "\n  ") end
  report(ok and #left == 0, name, not (ok and #left == 0) and text or nil)
end

--- The end of the file: the plan, and the exit status.
function story.done()
  if base and failures == 0 then
    local lines = restless()
    count = count + 1
    report(#lines == 0, "what stays sleeps", #lines > 0 and table.concat(lines, "\n") or nil)
  end
  print("1.." .. count)
  remove_tree(folder)
  os.exit(failures == 0 and 0 or 1, true)
end

io.stdout:setvbuf("line")
print("TAP version 13")
return story
