-- How a process ended: status tables, wait and on_exit, kill, and who is told what when
-- templates die. Section 1.4 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function run(t, code, options)
  local p = fork.new(options):eval("kit = require 'testkit' function f(socket) " .. code .. " end")
  t.got(p:run "f")
  return t.status(p), p
end

story.test("codes and signals are exact, one of the two is set", {deadline = 40}, function(t)
  for _, code in ipairs {0, 1, 2, 42, 127, 128, 254, 255} do
    local status = run(t, "os.exit(" .. code .. ")")
    t.eq({status.code, status.signal, status.unknown}, {code, nil, nil})
  end
  t.eq(run(t, "os.exit(true)").code, 0)
  t.eq(run(t, "os.exit(false)").code, 1)
  t.eq(run(t, "require'moonfork.clone'.exit(9)").code, 9)
  for _, name in ipairs {"SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGUSR1", "SIGHUP"} do
    local status = run(t, "kit.setrlimit('core', 0) kit.kill(kit.getpid(), kit." .. name ..
      ") kit.msleep(5000)")
    t.eq({status.code, status.signal}, {nil, kit[name]}, name)
    t.eq(status.core or false, false)
  end
  t.eq(run(t, "kit.setrlimit('core', 0) kit.abort()").signal, kit.SIGABRT)
  t.eq(run(t, "kit.setrlimit('core', 0) kit.segv()").signal, kit.SIGSEGV)
end)

story.test("rusage: what the process used, not what its template did", function(t)
  local status = run(t, "local x = 0 for i = 1, 3e7 do x = x + i end")
  local usage = status.rusage
  t.eq(math.type(usage.utime), "float")
  t.ok(usage.utime > 0.02 and usage.utime < 15, usage.utime)
  t.ok(usage.stime >= 0)
  t.ok(usage.maxrss > 100 * 1024, usage.maxrss)
end)

story.test("a function that raises: code 1 and error; a traceback on its stderr", function(t)
  local status = run(t, "error 'raised by f'", {stderr = "null"})
  t.eq(status.code, 1)
  t.match(status.error, "raised by f")
  t.match(status.error, "traceback")
  t.eq(run(t, "return").error, nil)
  local big = run(t, "error(('long '):rep(1e6))", {stderr = "null"})
  t.eq(big.code, 1)
  t.match(big.error, "long long")
  t.match(run(t, "local function r() return r() + 1 end r()", {stderr = "null"}).error, "overflow")
  t.eq(run(t, "error()", {stderr = "null"}).code, 1)
  t.match(run(t, "error({code = 5})", {stderr = "null"}).error, "table")
end)

-- No template has forked these, so there is no slot of a template's for them.
story.test("the error of a process that was executed or copied, with clones of it and without", function(t)
  local function error_of(p, who)
    t.got(p:eval("function f() error('raised by " .. who .. "') end"):run "f")
    local status = t.status(p)
    t.eq(status.code, 1, who)
    t.match(status.error, "raised by " .. who)
    t.match(status.error, "traceback")
  end
  error_of(fork.new_exec{stderr = "null"}, "an executed one")
  error_of(fork.new_exec{stderr = "null", stdin = "null", stdout = io.stderr, tree = true}, "one with handles")
  local template = fork.new_exec{stderr = "null"}
  local sleeper = template:fork():eval "function sleep(socket) socket:read 'a' error 'raised by a sleeper' end"
  local socket = t.got(sleeper:run "sleep")
  local failing = template:fork()
  error_of(failing, "a clone")
  error_of(template, "a template")
  socket:close()
  t.match(t.status(sleeper).error, "raised by a sleeper")
  error_of(fork.template{stderr = "null"}, "a copy of this")
  local p = fork.new_exec{stderr = "null"} -- what a copy raises is not the function's error
  t.got(p:eval [[function f()
    local clone = require "moonfork.clone"
    local pid = clone.fork()
    if pid == 0 then error "raised by a copy" end
    clone.waitpid(pid)
    os.exit(7)
  end]]:run "f")
  local status = t.status(p)
  t.eq({status.code, status.error}, {7, nil})
  p = fork.new_exec() -- a quiet end after it
  t.got(p:eval "function f() end":run "f")
  t.eq(t.status(p).error, nil)
end)

story.test("wait: TIMEOUT leaves the process alone; then the status, again and again", function(t)
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:echo")
  local t0 = kit.now()
  local status, err = p:wait(0.1)
  t.eq(status, nil)
  t.error(err, "TIMEOUT")
  t.ok(kit.now() - t0 >= 0.09)
  t.error(select(2, p:wait(0)), "TIMEOUT")
  socket:write "fine\n"
  t.eq(socket:read "l", "fine")
  socket:close()
  t.eq(t.status(p).code, 0)
  t.eq(t.status(p).code, 0)
  t.eq(t.got(p:wait(0)).code, 0)
end)

story.test("wait on a process that never ran", function(t)
  local p = fork.new():eval "os.exit(6)"
  t.eq(t.status(p).code, 6)
  local q = fork.new()
  t.error(select(2, q:wait(0.05)), "TIMEOUT")
  q:kill()
  t.eq(t.status(q).signal, kit.SIGTERM)
  local r = fork.new_exec()
  t.got(r:kill "KILL")
  t.eq(t.status(r).signal, kit.SIGKILL)
end)

story.test("kill: names and numbers; a stopped process; and never a reused pid", function(t)
  for _, signal in ipairs {"TERM", "KILL", "USR1", "SIGINT", 9, kit.SIGHUP} do
    local p = fork.new():require "actor"
    t.got(p:run "actor:hold")
    t.eq(p:kill(signal), true)
    local number = math.type(signal) == "integer" and signal or
      kit["SIG" .. signal] or kit[signal]
    t.eq(t.status(p).signal, number)
    local ok, err = p:kill(signal)
    t.eq(ok, nil)
    t.ok(err)
  end
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:hold")
  t.eq(p:kill "STOP", true)
  t.within(5, function() return kit.processes()[p:pid()].state == "T" end)
  t.eq(p:kill "CONT", true)
  socket:close()
  t.eq(t.status(p).code, 0)
  local q = fork.new():eval "while true do end"
  q:run("type", function() end)
  t.eq(q:kill "KILL", true)
  t.eq(t.status(q).signal, kit.SIGKILL)
end)

story.test("a template killed: its clones live on, their status is exact or unknown", function(t)
  local p = fork.new_exec():require "actor"
  local clones, sockets = {}, {}
  for i = 1, 5 do
    clones[i] = p:fork()
    sockets[i] = t.got(clones[i]:run "actor:echo")
  end
  t.got(p:kill "KILL")
  t.eq(t.status(p).signal, kit.SIGKILL)
  for i = 1, 5 do
    sockets[i]:write "alive\n"
    t.eq(sockets[i]:read "l", "alive")
    sockets[i]:close()
    local status = t.status(clones[i])
    t.ok(status.unknown == true or status.code == 0)
  end
  t.raises("", function() assert(p:fork():run "type") end)
end)

story.test("one process ends, one exit is told: 1000 of them", {deadline = 60}, function(t)
  local told, wrong = 0, 0
  for i = 1, 1000 do
    local code = i % 256
    local p = fork.new():eval("local n = ... function f() os.exit(math.tointeger(n)) end", code)
    local mine = 0
    p:run("f", function(err, socket)
      if err then wrong = wrong + 1 else socket:close() end
    end)
    p:on_exit(function(status)
      mine = mine + 1
      told = told + 1
      if mine > 1 or status.code ~= code then wrong = wrong + 1 end
    end)
    if i % 100 == 0 then t.within(30, function() return told == i end) end
  end
  t.eq({told, wrong}, {1000, 0})
end)

story.test("on_exit does not keep loop waiting for an idle process", function(t)
  local p = fork.new_exec()
  local told
  p:on_exit(function(status) told = status end)
  t.got(p:fork():run "type")
  local t0 = kit.now()
  fork.loop()
  t.ok(kit.now() - t0 < 3 * story.scale)
  t.eq(told, nil)
  p:close()
  t.within(5, function() return told end)
  t.eq(told.code, 0)
end)

story.test("the resource limits of limit{} end a process with their signals", {deadline = 80}, function(t)
  local p = fork.new():limit {cpu = 1, core = 0}
  p:eval "function f() while true do end end"
  t.got(p:run "f")
  local status = t.status(p, 60) -- a second of a processor's time
  t.eq(status.signal, kit.SIGXCPU, "the signal that says why")
  local path = t:file "big"
  local q = fork.new():limit {fsize = 4096, core = 0}:send_arg(path):eval [[
    function f(_, path)
      local f = io.open(path, "w")
      f:setvbuf "no"
      for _ = 1, 100 do f:write(("x"):rep(1000)) end
    end
  ]]
  t.got(q:run "f")
  t.eq(t.status(q).signal, kit.SIGXFSZ)
end)

story.done()
