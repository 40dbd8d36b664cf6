-- What the parent's end does to its processes. Each story starts a parent of its own, ends
-- it in some way, and looks who is left. AF-39 and the option leash.
local story = require "story"
local kit = story.kit
-- The parents of these stories end on purpose, so their descendants are looked for by pid.
story.census = false

-- Starts a parent that makes processes, prints their pids and then does as `last` says.
local PARENT = [[
  local fork, kit = require "moonfork", require "testkit"
  local function hello(p, name)
    local s = assert(p:require "actor":run(name))
    kept[#kept + 1] = s
    return math.tointeger(s:read "l")
  end
  kept = {}
  local BUSY = "function busy(s) s:write(require'testkit'.getpid(), '\\n') while true do end end"
  local STUCK = "function stuck(s) s:write(require'testkit'.getpid(), '\\n') " ..
    "require'testkit'.spin() end"
  local SLEEP = "function asleep(s) s:write(require'testkit'.getpid(), '\\n') " ..
    "require'testkit'.msleep(60000) end"
  local function say(...) print(...) io.stdout:flush() end
]]

-- Runs the parent; returns the pids it printed once it has printed "ready".
local function start(t, source)
  local script = t:file("parent.lua", PARENT .. source .. "\nsay 'ready'\n" ..
    "while true do fork.step(0.05) kit.msleep(5) end")
  local out = t:file "out"
  os.remove(out) -- of an earlier parent, if the shell has not emptied it when it is read
  os.execute(("%s '%s' >'%s' 2>&1 </dev/null & echo $! >'%s'"):format(
    os.getenv "LUA" or "lua5.4", script, out, t:file "pid"))
  local parent = math.tointeger(t.read(t:file "pid"):match "%d+")
  t:defer(function() -- if it is still that parent: the story has failed
    if (t.read("/proc/" .. parent .. "/cmdline") or ""):find(script, 1, true) then
      kit.kill(parent, kit.SIGKILL)
    end
  end)
  t.outside(10, function()
    local text = t.read(out) or ""
    return text:find "ready" or not t.alive(parent)
  end, "the parent is ready")
  local text = t.read(out)
  if not text:find "ready" then t.fail("the parent says: %s", text) end
  local pids = {}
  for name, pid in text:gmatch "([%w_]+)%s+(%d+)" do pids[name] = math.tointeger(pid) end
  return parent, pids
end

local function gone_within(t, seconds, pids)
  t.outside(seconds, function()
    for _, pid in pairs(pids) do
      if t.alive(pid) then return false end
    end
    return true
  end, "all are gone: " .. story.show(pids))
end

local ALL = [[
  local function make(how)
    local p = fork.new {leash = how}
    return p
  end
  local template = fork.new_exec()
  template:eval "x = 1"
  local waiting = template:fork():eval "y = 1"
  fork.loop()
  say("template", template:pid())
  say("waiting", waiting:pid())
  say("idle", hello(make(LEASH), "actor:hello"))
  say("busy", hello(make(LEASH):eval(BUSY), "busy"))
  say("stuck", hello(make(LEASH):eval(STUCK), "stuck"))
  say("asleep", hello(make(LEASH):eval(SLEEP), "asleep"))
]]

story.test("AF-39 the parent is killed: all its processes are gone within two seconds", function(t)
  local parent, pids = start(t, "local LEASH = nil " .. ALL .. [[
    local looping = template:fork()
    looping:eval "require'testkit'.spin()"
    for _ = 1, 20 do fork.step(0.01) end
    say("looping", looping:pid())
    local stopped = hello(make "kill", "actor:hello")
    kit.kill(stopped, kit.SIGSTOP)
    say("stopped", stopped)
  ]])
  for name, pid in pairs(pids) do t.ok(t.alive(pid), name) end
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

-- They ended when they were continued, which nobody did.
story.test("the parent of a link is killed: its ends are gone, also those that are stopped", function(t)
  for _, stopped in ipairs {"near", "agent"} do
    local parent, pids = start(t, [[
      local link = require "remote".over():eval(BUSY)
      say("busy", hello(link, "busy"))
      local all = kit.processes()
      for pid, process in pairs(all) do
        if process.comm == "moonfork-remote" and process.ppid == kit.getpid() then
          say("near", pid)
        elseif process.comm == "moonfork-remote" and all[process.ppid].ppid == kit.getpid() then
          say("agent", pid)
        end
      end
    ]])
    for _, name in ipairs {"busy", "near", "agent"} do t.ok(pids[name] and t.alive(pids[name]), name) end
    kit.kill(pids[stopped], kit.SIGSTOP)
    t.outside(5, function() return kit.processes()[pids[stopped]].state == "T" end)
    kit.kill(parent, kit.SIGKILL)
    if stopped == "agent" then kit.kill(pids.near, kit.SIGKILL) end
    gone_within(t, 10, pids)
  end
end)

for _, how in ipairs {"os.exit(0)", "os.exit(3, true)", "error 'the parent fails'",
  "kit.kill(kit.getpid(), kit.SIGTERM)", "kit.kill(kit.getpid(), kit.SIGSEGV)"} do
  story.test("the parent ends by " .. how .. ": the same", function(t)
    local parent, pids = start(t, "local LEASH = 'kill' " .. ALL .. [[
      say("ready")
      kit.msleep(100)
      kit.setrlimit("core", 0)
    ]] .. how)
    t.outside(5, function() return not t.alive(parent) end)
    gone_within(t, 2, pids)
  end)
end

story.test("leash=term: SIGTERM, so a function may do something about it", function(t)
  local path = t:file "status"
  local parent, pids = start(t, "local LEASH = 'term' " .. ALL .. ([[
    local p = fork.new {leash = "term"}:eval(
      "function f(s) require'testkit'.disposition(15, 'count') s:write(require'testkit'.getpid(), '\\n')" ..
      "while require'testkit'.nsignals() == 0 do end io.open('%s', 'w'):close() end")
    say("handler", hello(p, "f"))
  ]]):format(path))
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
  t.ok(t.read(path), "it had the signal")
end)

story.test("leash=keep: the function goes on; what runs nothing ends", function(t)
  local path = t:file "finished"
  local parent, pids = start(t, ([[
    local p = fork.new_exec()
    local waiting = p:fork():eval "y = 1"
    local keep = p:fork {leash = "keep"}:eval(
      "function f(s) s:write(require'testkit'.getpid(), '\\n') s:read 'a' require'testkit'.msleep(700) " ..
      "io.open('%s', 'w'):close() end")
    fork.loop()
    local other = p:fork():eval(BUSY)
    say("waiting", waiting:pid())
    say("keep", hello(keep, "f"))
    say("other", hello(other, "busy"))
  ]]):format(path))
  local keep = pids.keep
  pids.keep = nil
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
  t.outside(5, function() return t.read(path) end, "the function finished")
  gone_within(t, 2, {keep})
end)

-- A clone that was told "kill" went on as its template's "keep" said: nothing was sent for the
-- default.
story.test("a clone has its own leash, whatever its template has", function(t)
  local parent, pids = start(t, [[
    local DEAF = "function deaf(s) require'testkit'.disposition(15, 'ignore') " ..
      "s:write(require'testkit'.getpid(), '\\n') while true do end end"
    for _, how in ipairs {"keep", "term"} do
      local template = fork.new_exec {leash = how}:eval(DEAF)
      say(how .. "_default", hello(template:fork(), "deaf"))
      say(how .. "_kill", hello(template:fork {leash = "kill"}, "deaf"))
      say(how .. "_later", hello(template:fork {leash = how}:fork(), "deaf"))
    end
  ]])
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

story.test("workers of a pool have the leash of its template", function(t)
  local path = t:file "finished"
  local parent, pids = start(t, ([[
    local pool = fork.new {leash = "keep"}:eval(
      "function f(path) local kit = require 'testkit' " ..
      "io.open(path .. '.pid', 'w'):write(kit.getpid(), '\\n'):close() kit.msleep(700) " ..
      "io.open(path, 'w'):close() end"):pool("f", {max = 1})
    pool:call('%s', function() end)
    local file
    repeat
      fork.step(0.05)
      file = io.open '%s.pid'
    until file and file:seek "end" > 0
    file:seek "set"
    say("worker", file:read "l")
  ]]):format(path, path))
  kit.kill(parent, kit.SIGKILL)
  t.outside(5, function() return t.read(path) end, "the call finished")
  gone_within(t, 2, pids)
end)

-- What was asked for before the process had answered its new owner is no child of the program, and
-- had no leash at all.
story.test("clones of a process that was taken up have a leash, and pools over it kill", function(t)
  local parent, pids = start(t, [[
    local function taken_up() return fork.from_fd(assert(fork.new {leash = "keep"}:eval(BUSY):to_fd())) end
    local p = taken_up()
    say("at_once", hello(p:fork(), "busy"))
    say("later", hello(p:fork(), "busy"))
    say("term", hello(taken_up():fork {leash = "term"}, "busy"))
    local pool = taken_up():pool("busy", {max = 1})
    local near, far = fork.socket.pair()
    pool:call(far, function() end)
    say("worker", near:read "l")
    kept[#kept + 1] = pool
  ]])
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

-- It stayed on the leash of the program that had it between.
story.test("a process that comes back is on the leash of its first owner", function(t)
  local parent, pids = start(t, [[
    local other = fork.new():eval [=[
      function back(s)
        local p = require "moonfork".from_fd((assert(s:recv_fd())))
        s:send_fd(assert(p:eval("x = 1"):to_fd()))
        s:read "a"
      end
    ]=]
    local s = assert(other:run "back")
    assert(s:send_fd(assert(fork.new():eval(BUSY):to_fd())))
    local p = fork.from_fd((assert(s:recv_fd())))
    local q, r = p:fork(), p:fork()
    say("at_once", hello(q, "busy"))
    say("later", hello(r, "busy"))
    s:close()
    assert(other:wait(10).code == 0)
    for _, clone in ipairs {q, r} do
      local status, err = clone:wait(0.1)
      assert(not status and err.code == "TIMEOUT", "it ended with the program that had it between")
    end
  ]])
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

story.test("the leash holds for programs that clone.exec starts, unless keep", function(t)
  local parent, pids = start(t, [[
    local function program(how)
      local p = fork.new {leash = how}:eval(
        "function f() require'moonfork.clone'.exec('sleep', {'sleep', '30'}) end")
      assert(p:run "f")
      return p:pid()
    end
    say("default", program(nil))
    say("term", program "term")
    say("keep", program "keep")
    kit.msleep(200)
  ]])
  local keep = pids.keep
  pids.keep = nil
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
  t.ok(t.alive(keep))
  kit.kill(keep, kit.SIGKILL)
end)

story.test("fifty of all kinds", {deadline = 40}, function(t)
  local parent, pids = start(t, [[
    for i = 1, 50 do
      local name = ({"actor:hello", "busy", "asleep"})[i % 3 + 1]
      if i % 3 == 1 and i > 6 then name = "actor:hello" end
      say("p" .. i, hello(fork.new():eval(BUSY):eval(SLEEP), name))
    end
  ]])
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

story.test("a template's death kills no clone", function(t)
  local parent, pids = start(t, [[
    local p = fork.new_exec()
    say("clone", hello(p:fork(), "actor:hello"))
    say("busy", hello(p:fork():eval(BUSY), "busy"))
    say("template", p:pid())
  ]])
  kit.kill(pids.template, kit.SIGKILL)
  gone_within(t, 2, {pids.template})
  kit.msleep(200)
  t.ok(t.alive(pids.clone))
  t.ok(t.alive(pids.busy))
  kit.kill(parent, kit.SIGKILL)
  gone_within(t, 2, pids)
end)

story.done()
