-- What a template may be when it forks, and what its modules may say about it. Rows PF-20, 25,
-- 26, 27 and 32. Runs in the parent.
local kit = require "testkit"
local story = require "story"
local fork = require "moonfork"

story.test("PF-20 a module that asks for a fork while it loads is refused", function(t)
  t:module("pf20_forks", [[
    local ok, result = pcall(require("moonfork.clone").fork)
    if ok and result == 0 then require("testkit").exit(9) end -- a copy in mid-load
    return {forked = ok and result and true or false, message = tostring(result)}
  ]])
  local p = fork.new_exec():require("pf20_forks")
  t.eq((t.ask(p:fork(), "return require('pf20_forks').forked")), false,
    "the template has forked in the middle of a load")
  t.eq((t.ask(p, "return 1")), 1, "the template is usable")
end)

story.test("PF-25 hooks run in order, before the arguments are visible", function(t)
  t:module("pf25_hooks", [[
    local clone = require "moonfork.clone"
    local M = {order = {}}
    local function note(text) M.order[#M.order + 1] = text end
    clone.before_fork(function() note("before") end)
    clone.on_fork(function() note("clone 1 sees " .. select("#", clone.run_args())) end)
    clone.on_fork(function() note("clone 2") end)
    return M
  ]])
  local template = fork.new_exec():require("pf25_hooks")
  local code = [[
    local n = select("#", ...) - 1
    return table.concat(require("pf25_hooks").order, ", "), n
  ]]
  t.eq({t.ask(template:fork():send_arg("a", "b"), code)},
    {"before, clone 1 sees 0, clone 2", 2})
  local order = t.ask(template, code)
  t.match(order, "^before")
  t.ok(not order:find("clone"), "those of clones ran in clones only: " .. order)
end)

story.test("PF-25 a hook may refuse a fork, and only that one", function(t)
  local template = fork.new_exec():eval [[
    refuse = false
    require("moonfork.clone").before_fork(function()
      if refuse then return false, "not while it rains" end
    end)
  ]]
  t.eq((t.ask(template:fork(), "return 1")), 1)
  template:eval("refuse = true")
  local socket, err = template:fork():run("type")
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "not while it rains")
  t.eq(err.started, "no")
  template:eval("refuse = false")
  t.eq((t.ask(template:fork(), "return 2")), 2, "the template is fine")
  template:close()
end)

story.test("PF-25 an error in a clone's hook ends that clone and is reported", function(t)
  local template = fork.new_exec():eval [[
    require("moonfork.clone").on_fork(function()
      if fails then error("the hook fails") end
    end)
  ]]
  template:eval("fails = true")
  local bad = template:fork{stderr = "null"}
  local socket, err = bad:run("type")
  t.eq(socket, nil)
  t.error(err, "REMOTE", "the hook fails")
  t.match(err.traceback, "traceback")
  t.eq(err.started, "no")
  t.status(bad)
  template:eval("fails = false")
  t.eq((t.ask(template:fork(), "return 1")), 1, "the template is fine")
  template:close()
end)

story.test("PF-25 the C hooks of a loaded module run too", function(t)
  local template = fork.new_exec():eval("require('testkit').atfork()")
  t.eq((t.ask(template:fork(), "return require('testkit').atfork()")), 1)
  template:close()
end)

story.test("PF-26 an executed template contains nothing of the app", function(t)
  pf26_secret = "the app's" -- luacheck: ignore
  package.loaded.pf26_secret = true
  local global, loaded, args = t.ask(fork.new_exec(), [[
    return pf26_secret, package.loaded.pf26_secret, type(arg) == "table" and #arg or 0
  ]])
  t.eq(global, nil)
  t.eq(loaded, nil)
  t.eq(args, 0)
  pf26_secret, package.loaded.pf26_secret = nil, nil -- luacheck: ignore
end)

story.test("PF-26 a copy of the app never returns into the app's program", function(t)
  local out, code, err = t:lua([[
    local fork, kit = require "moonfork", require "testkit"
    local function trace(text) io.write(text, " ", kit.getpid(), "\n") io.flush() end
    trace "start"
    local secret = "the app's"
    function reveal(socket) socket:write(secret) end
    local template = fork.template()
    trace "template"
    function late(socket) end
    local p = template:fork()
    local socket = assert(p:run("reveal"))
    assert(socket:read("a") == secret)
    trace "run"
    local nothing, err = template:fork():run("late")
    assert(not nothing and err.code == "REMOTE" and err.started == "no", tostring(err))
    template:close()
    p:wait(5)
    trace "end"
  ]])
  t.eq(code, 0, err)
  local pids, lines = {}, 0
  for pid in out:gmatch(" (%d+)\n") do
    pids[pid], lines = true, lines + 1
  end
  t.eq(lines, 4, "each statement once: " .. out)
  t.eq(next(pids, next(pids)), nil, "in one process: " .. out)
end)

story.test("PF-27 a template with a thread refuses to fork and names the module", function(t)
  local template = fork.new_exec():require("hostile_thread")
  local socket, err = template:fork():run("type")
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "hostile_thread")
  t.match(tostring(err), "thread")
  t.eq(err.started, "no")
  t.ok(t.alive(template:pid()), "the template lives")
  template:seal{audit = "off"}
  t.eq((t.ask(template:fork(), "return 1")), 1, "audit='off' overrides")
  template:close()
end)

story.test("PF-27 neither templates nor clones get threads from the library", function(t)
  local code = "return #require('testkit').ls('/proc/self/task')"
  local template = fork.new_exec()
  t.eq((t.ask(template:fork(), code)), 1, "a clone")
  t.eq((t.ask(template, code)), 1, "a template")
  t.eq(#kit.ls("/proc/self/task"), 1, "the app")
end)

story.test("PF-32 a template with a loop of libuv refuses to fork", {needs = "luv"}, function(t)
  local template = fork.new_exec():require("luv"):eval [[
    local uv = require "luv"
    timer = uv.new_timer()
    timer:start(10, 10, function() end)
    uv.run("nowait")
  ]]
  local socket, err = template:fork():run("type")
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "luv")
  t.eq(err.started, "no")
  template:close()
end)

story.test("PF-32 a clone's own loop runs timers, children and worker threads", {
  needs = "luv"}, function(t)
  local timer, code, size, result = t.ask(fork.new(), [[
    local uv = require "luv"
    local timer, exit, size, sum
    local clock = uv.new_timer()
    clock:start(10, 0, function() timer = true clock:close() end)
    local child
    child = uv.spawn("sh", {args = {"-c", "exit 5"}}, function(status)
      exit = status
      child:close()
    end)
    uv.fs_stat("/", function(err, stat) size = not err and stat.type end)
    local work = uv.new_work(function(a, b) return a + b end, function(n) sum = n end)
    work:queue(40, 2)
    uv.run()
    return timer, exit, size, sum
  ]])
  t.eq({timer, code, size, result + 0.0}, {true, 5, "directory", 42.0})
end)

story.done()
