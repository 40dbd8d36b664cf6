-- The audit: modules that are deliberately unsafe are each recognised, by moonfork.doctor and by
-- p:seal{audit=}, which are the same code; and modules that are safe are not accused. The modules of
-- test/help/unsafe.c do one thing each while they are loaded; those in Lua stand below.
local story = require "story"
local fork = require "moonfork"
local doctor = require "moonfork.doctor"
local core = require "moonfork.load"

-- name of the module, kind of the finding; { } where the account or the kernel may refuse it.
local IN_C = {
  thread = "thread", epoll = "epoll", io_uring = {"io_uring"}, timerfd = "timerfd", signalfd = "signalfd",
  eventfd = "eventfd", inotify = "inotify", fanotify = {"fanotify"}, perf_event = {"perf-event"},
  userfaultfd = {"userfaultfd"}, pidfd = {"pidfd"}, pipe = "pipe", listener = "listener",
  connection = "connection", socket = "socket", directory = "directory", memfd = "memfd",
  terminal = {"terminal"}, device = {"device"}, kernel_object = "kernel-object", flock = "lock",
  record_lock = "lock", timer = "timer", posix_timer = {"posix-timer"},
  signal_handler = "signal-handler", realtime_handler = "signal-handler",
  signal_ignored = "signal-ignored", signal_mask = "signal-mask", signal_stack = "signal-stack",
  environment = "environment", c_finaliser = "c-finaliser", registry = "c-finaliser",
  shared_memory = "shared-memory", absent_memory = "absent-memory", locked_memory = {"locked-memory"},
  aio = {"aio"}, child_process = "child-process", working_directory = "working-directory", umask = "umask",
  nice = {"nice"}, affinity = {"affinity"}, credentials = {"credentials"}, process_group = {"process-group"},
  resource_limits = {"resource-limits"}, exit_handler = "exit-handler", fork_handler = "fork-handler",
}

local IN_LUA = {
  seeded = {"fixed-seed", "math.randomseed(42)"},
  seeded_by_time = {"fixed-seed", "math.randomseed(os.time())"},
  draws = {"random", "return {id = math.random(1 << 30)}"},
  reads_environment = {"environment-read", "return {home = os.getenv 'HOME'}"},
  finalised = {"finaliser", "return {deep = {setmetatable({}, {__gc = function() end})}}"},
  finalised_upvalue = {"finaliser", [[
    local session = setmetatable({}, {__gc = function() end})
    return {name = function() return session end}]]},
  finalised_in_coroutine = {"finaliser", [[
    local co = coroutine.create(function()
      local kept = setmetatable({}, {__gc = function() end})
      coroutine.yield()
      return kept
    end)
    coroutine.resume(co)
    return {co = co}]]},
  reads_a_file = {"file", "return {file = io.open(arg and arg[0] or '/proc/version')}"},
  writes_a_file = {"file-written", "return {file = io.tmpfile()}"},
  does_not_flush = {"unwritten-output", [[local f = io.open("/dev/null", "w")
    f:setvbuf("full")
    f:write "a line"
    return {f = f}]]},
  popen = {"child-process", "return {program = io.popen('sleep 1000')}"},
  stops_the_collector = {"collector-stopped", "collectgarbage 'stop'"},
  changes_the_collector = {"collector-mode", "collectgarbage 'incremental'"},
  hooks = {"debug-hook", "debug.sethook(function() end, 'l')"},
  finalised_and_gone = {"finalised", "local guard = setmetatable({}, {__gc = function() end}) guard.x = 1"},
  asks_its_pid = {"identity", "return {pid = require('moonfork.clone').pid()}"},
  asks_its_id = {"identity", "return {id = require('moonfork.clone').id()}"},
  names_a_file = {"temporary-name", "os.remove(os.tmpname())"},
  background = {"child-process", "os.execute('sleep 1000 >/dev/null 2>&1 &')"},
  replaces = {"replaced-function", "os.exit = function() end"},
  localised = {"locale", "assert(os.setlocale 'C.UTF-8' or os.setlocale 'C.utf8' or error 'refused', 'refused')"},
  prints = {"output", "print 'hello'"},
  refuses = {"fork-failed", "require('moonfork.clone').before_fork(function() return false, 'not now' end)"},
  raises_in_clones = {"fork-failed", "require('moonfork.clone').on_fork(function() error 'no database' end)"},
}
-- What only the doctor can see, since it is no state of the template.
local DOCTOR_ONLY = {output = true, ["fork-failed"] = true, finalised = true}

local function sources(t)
  for name, case in pairs(IN_LUA) do t:module("audited_" .. name, case[2] .. "\n") end
end

-- Each module's name, kind, and whether it may be refused.
local function each_case()
  local list = {}
  for name, case in pairs(IN_C) do
    list[#list + 1] = {"unsafe." .. name, type(case) == "table" and case[1] or case, type(case) == "table"}
  end
  for name, case in pairs(IN_LUA) do list[#list + 1] = {"audited_" .. name, case[1], name == "localised"} end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  local i = 0
  return function()
    i = i + 1
    if list[i] then return table.unpack(list[i]) end
  end
end

local function find(report, kind)
  for _, finding in ipairs(report.findings) do
    if finding.kind == kind then return finding end
  end
end

local function show(report)
  local lines = {}
  for i, finding in ipairs(report.findings) do lines[i] = finding.kind .. ": " .. finding.text end
  return table.concat(lines, "; ")
end

local kinds = core.finding_kinds()

story.test("the doctor recognises each unsafe module, and names it", {deadline = 60}, function(t)
  sources(t)
  local refused = {}
  for module, kind, may_be_refused in each_case() do
    local report, err = doctor.audit{module}
    if not report and may_be_refused and err.message:find "refused" then
      refused[#refused + 1] = module
    else
      if not report then t.fail("%s: %s", module, err.message) end
      local finding = find(report, kind)
      if not finding then t.fail("%s: no finding %s in: %s", module, kind, show(report)) end
      local severity = kinds[kind].severity
      t.eq(finding.severity, severity, module)
      if kind ~= "fork-failed" then t.eq(finding.module, module, module .. ": " .. finding.text) end
      t.eq(report.safe, severity ~= "refuses", module .. ": " .. show(report))
      t.eq(report.safe_strictly, severity == "note", module .. ": " .. show(report))
    end
  end
  if #refused > 0 then t.note("refused here: %s", table.concat(refused, ", ")) end
end)

-- Many of them in one template; the message has a line for each that is no note.
story.test("p:seal{audit=\"strict\"} recognises the same ones", {deadline = 60}, function(t)
  sources(t)
  local expected, names = {}, {}
  local function flush()
    local p = fork.new_exec():eval("for _, name in ipairs{...} do pcall(require, name) end", table.unpack(names))
    local socket, err = p:seal{audit = "strict"}:run "type"
    t.eq(socket, nil)
    t.error(err, "FORK_FAILED")
    for module, why in pairs(expected) do
      local found
      for line in err.message:gmatch "[^\n]+" do found = found or line:find(why, 1, true) end
      if not found then t.fail("%s: no %q in: %s", module, why, err.message) end
    end
    expected, names = {}, {}
  end
  for module, kind, may_be_refused in each_case() do
    if not DOCTOR_ONLY[kind] and module ~= "audited_background" then -- it has a group of its own to look at
      names[#names + 1] = module
      if kinds[kind].severity ~= "note" and not may_be_refused then expected[module] = kinds[kind].why end
    end
    if #names == 15 then flush() end
  end
  flush()
end)

story.test("p:seal{audit=\"strict\"} lets notes pass", function(t)
  sources(t)
  local p = fork.new_exec()
  for module, kind, may_be_refused in each_case() do
    if kinds[kind].severity == "note" and not may_be_refused and not DOCTOR_ONLY[kind] then p:require(module) end
  end
  t.got(p:seal{audit = "strict"}:fork():run "type"):close()
end)

story.test("modules that are safe are not accused", function(t)
  t:module("audited_safe", [[
    local M = {words = {}, pattern = ("a"):rep(100)}
    for i = 1, 1000 do M.words[i] = {i, tostring(i)} end
    local f = io.open "/dev/null"
    f:close()
    M.object = setmetatable({}, {__index = M, __call = function() end, __close = function() end})
    M.co = coroutine.wrap(function() coroutine.yield() end)
    local pipe = io.popen "true"
    pipe:close()
    math.randomseed()
    collectgarbage()
    require("moonfork.clone").on_fork(function() end)
    return M]])
  local modules = {"audited_safe"}
  for _, name in ipairs{"lpeg", "cjson", "socket", "socket.http", "lfs", "argparse"} do
    if package.searchpath(name, package.path) or package.searchpath(name, package.cpath) then
      modules[#modules + 1] = name
    end
  end
  local report = assert(doctor.audit(modules))
  for _, finding in ipairs(report.findings) do
    if finding.severity ~= "note" then t.fail("%s", finding.text) end
    t.ok(not finding.text:find "audited_safe", finding.text)
  end
  t.eq(report.safe_strictly, true)
  t.eq(report.flat, true)
  t.ok(report.fork_seconds > 0)
  t.eq(#report.modules, #modules)
  for i, module in ipairs(report.modules) do
    t.eq(module.name, modules[i])
    t.eq(module.threads, 0)
    t.eq(module.descriptors, 0)
    t.ok(module.seconds > 0, module.name)
  end
  t.ok(report.modules[1].lua > 100000, "the memory of its tables")
end)

story.test("a module is named by who required it, too", function(t)
  t:module("audited_inner", "math.randomseed(1)")
  t:module("audited_outer", "require 'audited_inner'")
  local finding = find(assert(doctor.audit{"string", "audited_outer"}), "fixed-seed")
  t.eq(finding.module, "audited_inner")
  t.eq(finding.requested, "audited_outer")
end)

story.test("what a module has put back is not told", function(t)
  t:module("audited_back", [[
    local outside = os.setlocale()
    os.setlocale "C.UTF-8"
    os.setlocale(outside)
    collectgarbage "stop"
    collectgarbage "restart"
    debug.sethook(function() end, "l")
    debug.sethook()]])
  local report = assert(doctor.audit{"audited_back"})
  t.eq(show(report), "")
end)

story.test("an error inside of a require does not give its name to others", function(t)
  t:module("audited_fails", "error 'not here'")
  t:module("audited_after", "pcall(require, 'audited_fails') math.randomseed(7) return {os.getenv 'USER'}")
  local report = assert(doctor.audit{"audited_after"})
  t.eq(find(report, "fixed-seed").module, "audited_after")
  t.eq(find(report, "environment-read").module, "audited_after")
end)

story.test("functions read the environment when they run, and nobody minds", function(t)
  t:module("audited_later", "return {home = function() return os.getenv 'HOME' end}")
  local p = fork.new_exec():require "audited_later"
  t.eq(t.ask(p, [[
    require("audited_later").home()
    for _, finding in ipairs(require("moonfork.clone").findings()) do
      if finding.kind == "environment-read" then return finding.text end
    end
    return "nothing"]]), "nothing")
  t.raises("bad argument #1 to 'getenv'", function()
    error(t.ask(fork.new_exec(), "return select(2, pcall(function() os.getenv({}) end))"), 0)
  end)
end)

story.test("what can't be loaded is an error with its reason", function(t)
  t:module("audited_raises", "error 'out of order'")
  t:module("audited_exits", "os.exit(3)")
  local cases = {
    {"audited_missing", "REMOTE", "'audited_missing' can't be loaded: module 'audited_missing' not found"},
    {"audited_raises", "REMOTE", "'audited_raises' can't be loaded: .*audited_raises.lua:1: out of order"},
    {"audited_exits", "TEMPLATE_DIED", "'audited_exits' ended the template while it was loaded: exit code 3"},
    {"unsafe.crash", "TEMPLATE_DIED", "'unsafe.crash' ended the template while it was loaded: SIGSEGV"},
  }
  for _, case in ipairs(cases) do
    local report, err = doctor.audit{"string", case[1]}
    t.eq(report, nil, case[1])
    t.error(err, case[2], case[3])
  end
end)

story.test("a module that does not come to its end has so many seconds", function(t)
  t:module("audited_hangs", "while true do end")
  t:module("audited_waits", "io.popen('sleep 1000'):read 'a'")
  t.error(select(2, doctor.audit({"audited_hangs"}, {timeout = 0.2})), "TIMEOUT",
    "'audited_hangs' was not loaded within 0.2 s; it is at [^;]*audited_hangs.lua:1:")
  t.error(select(2, doctor.audit({"audited_waits"}, {timeout = 0.2})), "TIMEOUT", "audited_waits")
end)

story.test("a module that prints without end does not hold it up", function(t)
  t:module("audited_floods", "local line = ('x'):rep(1000) while true do print(line) end")
  t:module("audited_prints_much", "for i = 1, 5000 do print(i) end")
  t.error(select(2, doctor.audit({"audited_floods"}, {timeout = 0.2})), "TIMEOUT", "audited_floods")
  local report = assert(doctor.audit{"audited_prints_much", "string"})
  t.match(find(report, "output").text, "'audited_prints_much' prints while it is loaded %(1%)")
  t.eq(#report.findings, 1)
end)

story.test("a module that takes the globals away does not take them from the audit", function(t)
  t:module("audited_sweeps", [[
    string, table, io, os, debug, coroutine, math = nil
    for name in pairs(package.loaded) do package.loaded[name] = nil end
    local globals = _G
    for name in pairs(globals) do globals[name] = nil end]])
  local report, err = doctor.audit{"audited_sweeps"}
  t.eq(err, nil)
  t.eq(report.modules[1].name, "audited_sweeps")
end)

story.test("a module that forks by itself leaves one template", function(t)
  local report = assert(doctor.audit{"unsafe.fork", "string"})
  t.ok(find(report, "child-process"), show(report))
  t.eq(#report.modules, 2)
end)

story.test("misuse raises", function(t)
  t.raises("argument #1 to 'audit'", doctor.audit)
  t.raises("item 2: a module's name expected, got 5", doctor.audit, {"a", 5})
  t.raises("option", doctor.audit, {}, {timout = 1})
  t.raises("option 'timeout'", doctor.audit, {}, {timeout = 0})
  t.raises("option 'stop'", doctor.audit, {}, {stop = true})
end)

story.done()
