-- The reactor: loop and step, callbacks and their errors, waiters, and other people's event
-- loops. Section 1.5 of the manual.
local story = require "story"
local fork = require "moonfork"
local templates = require "templates"
local kit = story.kit

story.test("loop runs until nothing is outstanding; idle templates do not count", function(t)
  local p, q = fork.new_exec(), fork.new()
  local done = 0
  for _ = 1, 5 do
    fork.new():eval("require'testkit'.msleep(20)"):run("type", function(err)
      t.eq(err, nil)
      done = done + 1
    end)
  end
  t.eq(done, 0)
  fork.loop()
  t.eq(done, 5)
  local t0 = story.slept()
  fork.loop()
  t.ok(story.slept() - t0 < 0.2)
  p:close()
  q:close()
end)

story.test("step: returns whether work is outstanding, waits at most its timeout", function(t)
  t.eq(fork.step(), false)
  local t0 = story.slept()
  t.eq(fork.step(1), false)
  t.ok(story.slept() - t0 < 0.5, "at once when nothing is outstanding")
  local p = fork.new():eval "require'testkit'.msleep(300)"
  local entered
  p:run("type", function() entered = true end)
  t0 = story.slept()
  t.eq(fork.step(), true)
  t.ok(story.slept() - t0 < 0.2, "the default timeout is 0")
  t.within(5, function() return not fork.step(0.05) end)
  t.eq(entered, true)
end)

story.test("the reactor for others: pollfd, events, timeout, step, getfd, dirty", function(t)
  local r = fork.reactor
  t.eq(math.type(r:pollfd()), "integer")
  t.eq(r:getfd(), r:pollfd())
  t.match(r:events(), "r")
  local idle = fork.new_exec()
  fork.loop()
  t.eq(r:timeout(), nil, "only idle things remain")
  t.eq(r:dirty(), false)
  local done
  fork.new():run("type", function(err) done = err or "entered" end)
  local last = kit.now() + 5 * story.scale
  while not done and kit.now() < last do
    local timeout = r:timeout()
    kit.poll(r:pollfd(), "r", timeout and math.ceil(timeout * 1000) or 2000)
    r:step()
  end
  t.eq(done, "entered")
  idle:close()
end)

story.test("timeout() is 0 and the descriptor readable while completions wait", function(t)
  local r = fork.reactor
  local first
  for _ = 1, 2 do
    fork.new():run("type", function()
      if first then return end
      first = true
    end)
  end
  -- One wait lets both answers arrive; what completes waits for the next dispatch.
  local p = fork.new()
  t.got(p:run "type")
  local seen
  fork.new():wait(0.01)
  local calls = 0
  local q = fork.new()
  t.got(q:run "type")
  t.status(q)
  q:on_exit(function() calls = calls + 1 end) -- already ended: a completion that waits
  t.eq(calls, 0)
  t.ok(r:timeout() == 0)
  seen = kit.poll(r:pollfd(), "r", 1000)
  t.ok(seen > 0, "readable")
  r:step()
  t.eq(calls, 1)
  fork.loop()
end)

-- A loop that asks `while fork.reactor:timeout()` and then polls with a second answer hung: after the
-- last timer the first answer was 0, only because libuv had to let go of a closed handle.
story.test("timeout() is nil from the first answer on when the last timer is over", function(t)
  local reactor = fork.reactor
  reactor:pollfd()
  fork.timer(0, function() end)
  fork.loop()
  t.eq(reactor:timeout(), nil)
  fork.sleep(0.001)
  t.eq(reactor:timeout(), nil)
  fork.timer(1000, function() end):close()
  t.eq(reactor:timeout(), nil)
end)

story.test("an error in a callback reaches on_error with a traceback", function(t)
  local seen, trace
  fork.on_error(function(err, traceback) seen, trace = err, traceback end)
  fork.new():run("type", function() error "in the callback" end)
  fork.loop()
  t.match(seen, "in the callback")
  t.match(trace, "loops%.lua")
  t.match(trace, "traceback")
end)

story.test("without a handler it is raised from the call that drives the reactor", function(t)
  local function start() fork.new():run("type", function() error "nobody handles this" end) end
  start()
  t.raises("nobody handles this", fork.loop)
  start()
  t.raises("nobody handles this", function()
    for _ = 1, 200 do fork.step(0.05) end
  end)
  start()
  t.raises("nobody handles this", function()
    fork.new():eval("require'testkit'.msleep(200)"):wait(1)
  end)
  fork.on_error(function() error "the handler fails" end)
  start()
  t.raises("nobody handles this", fork.loop)
  fork.on_error(nil)
  start()
  t.raises("nobody handles this", fork.loop)
  t.got(fork.new():run "type")
end)

story.test("after an error in one callback the others still run", function(t)
  local done, errors = 0, 0
  for i = 1, 10 do
    fork.new():run("type", function()
      if i % 2 == 0 then error "every other one" end
      done = done + 1
    end)
  end
  for _ = 1, 20 do
    local ok = pcall(fork.loop)
    if not ok then errors = errors + 1 end
  end
  t.eq({done, errors}, {5, 5})
end)

story.test("a waiting call inside a callback works, others run meanwhile", function(t)
  local order = {}
  fork.new():run("type", function()
    fork.new():run("type", function() order[#order + 1] = "inner callback" end)
    local p = fork.new():eval "require'testkit'.msleep(100)"
    assert(p:run "type")
    order[#order + 1] = "inner wait"
  end)
  fork.loop()
  t.eq(order, {"inner callback", "inner wait"})
end)

story.test("a callback suspends the coroutine that steps; what it raises later is told there",
  function(t)
    local log = {}
    local function add(what) log[#log + 1] = what end
    local function soon(f) t.got(fork.timer(0, f)) end
    local function drive()
      soon(function() add "one" coroutine.yield() error("late", 0) end)
      soon(function() add "two" end)
      return select(2, pcall(fork.step, 10))
    end
    local co = coroutine.create(drive)
    t.ok(coroutine.resume(co))
    t.within(10, function() return log[2] end) -- others go on meanwhile
    t.eq({coroutine.resume(co)}, {true, "late"})
    -- A handler may suspend it, too, and it may be closed in the middle.
    fork.on_error(function(err) add(err) coroutine.yield() add "handled" end)
    co = coroutine.create(function() soon(function() error("x", 0) end) fork.step(10) end)
    t.ok(coroutine.resume(co))
    t.ok(coroutine.resume(co))
    fork.on_error(nil)
    t.eq(log, {"one", "two", "x", "handled"})
    for _ = 1, 60 do
      co = coroutine.create(function() soon(coroutine.yield) fork.step(10) end)
      t.ok(coroutine.resume(co))
      t.ok(coroutine.close(co))
    end
    t.eq(fork.sleep(0), true) -- none of them counts as a wait that is under way
    soon(function() t.eq(fork.sleep(0), true) add "end" end)
    t.within(10, function() return log[5] end)
  end)

story.test("callbacks may close, start, reset and collect", {new_template = true}, function(t)
  local p = fork.new():require "actor"
  local ended
  p:on_exit(function()
    p:close()
    ended = true
  end)
  p:run("actor:hold", function(_, socket)
    p:close()
    p:close()
    socket:close()
    fork.new():run("type", function() collectgarbage() end)
    fork.reset()
  end)
  fork.loop()
  t.within(5, function() return ended end)
end)

story.test("reset changes the default template for the next new", {new_template = true}, function(t)
  local ask, one = "return require'testkit'.exec_id()", nil
  local template = templates.started_by(function()
    fork.reset()
    one = t.ask(fork.new(), ask)
  end)
  local running = fork.new():require "actor"
  local socket = t.got(running:run "actor:echo")
  fork.reset()
  local two = t.ask(fork.new(), ask)
  t.ok(one ~= two)
  t.eq(t.ask(fork.new(), ask), two)
  socket:write "unharmed\n"
  t.eq(socket:read "l", "unharmed")
  socket:close()
  t.eq(t.status(running).code, 0)
  t.within(5, function() return not t.alive(template) end, "the old one ends")
end)

-- A scheduler as small as can be: coroutines that wait in the waiter until a poll.
local function schedule(t, functions)
  local threads, waits = {}, 0
  fork.set_waiter(function(reactor, timeout)
    t.ok(reactor.step and reactor.pollfd)
    waits = waits + 1
    coroutine.yield(timeout)
  end)
  for i, f in ipairs(functions) do threads[i] = coroutine.create(f) end
  local last = kit.now() + 10 * story.scale
  repeat
    local alive = false
    for i, thread in ipairs(threads) do
      if coroutine.status(thread) ~= "dead" then
        local ok, err = coroutine.resume(thread)
        if not ok then t.fail("thread %d: %s", i, tostring(err)) end
        alive = alive or coroutine.status(thread) ~= "dead"
      end
    end
    if alive then
      kit.poll(fork.reactor:pollfd(), "r", 20)
      fork.reactor:step()
    end
  until not alive or kit.now() > last
  fork.set_waiter(nil)
  return waits
end

story.test("set_waiter: waiting calls suspend coroutines", function(t)
  local begun, log = {}, {}
  local function worker(name)
    return function()
      local p = fork.new():eval "function f(s) s:read(1) s:write 'woke' end"
      begun[name] = assert(p:run "f")
      assert(begun[name]:read "a" == "woke")
      assert(assert(p:wait(5)).code == 0)
      log[#log + 1] = name
    end
  end
  local order = {"quick", "middle", "slow"}
  local function wakes_them() -- when all run: they wait at the same time
    while not (begun.quick and begun.middle and begun.slow) do coroutine.yield() end
    for i, name in ipairs(order) do
      begun[name]:write "!"
      while not log[i] do coroutine.yield() end
    end
  end
  local waits = schedule(t, {worker "slow", worker "quick", worker "middle", wakes_them})
  t.eq(log, order)
  t.ok(waits > 3)
end)

-- The loop that resumes the coroutines waits for the reactor's descriptor by a waiting call of
-- moonfork. The reactor can't watch itself: the call tried again for ever, whatever its time limit.
story.test("set_waiter: the main loop polls the reactor by fork.socket.poll", function(t)
  local reactor = fork.reactor
  fork.set_waiter(function(r, timeout)
    if coroutine.isyieldable() then return coroutine.yield() end
    fork.socket.poll({r}, timeout)
    r:step()
  end)
  local waits = fork.timer(1000, function() end)
  t.eq(#fork.socket.poll({reactor}, 0.05), 0, "its time is up")
  waits:close()
  local p <close> = fork.new():eval "function f(x) return x + 1 end"
  local rpc <close> = p:fork():rpc "f"
  local got
  local co = coroutine.create(function() fork.sleep(0.01) got = rpc(41) end)
  while coroutine.resume(co) and coroutine.status(co) ~= "dead" do
    fork.socket.poll({reactor}, 20 * story.scale)
    reactor:step()
  end
  t.eq(got, 42)
  local a, b = fork.socket.pair()
  fork.timer(0.01, function() b:write "x" end)
  t.eq(fork.socket.poll({a, reactor}, 20 * story.scale)[1] ~= nil, true)
  fork.set_waiter(nil)
  fork.loop()
  a:close()
  b:close()
end)

story.test("set_waiter: an error and a failure inside a coroutine stay there", function(t)
  local code
  schedule(t, {function()
    local _, err = fork.new():eval "error 'there'":run "type"
    code = err.code
  end})
  t.eq(code, "REMOTE")
end)

story.test("a waiting coroutine that is dropped or closed leaves no harm", function(t)
  fork.set_waiter(function() coroutine.yield() end)
  for _, how in ipairs {"drop", "close"} do
    local thread = coroutine.create(function()
      fork.new():eval("require'testkit'.msleep(50)"):run "type"
    end)
    t.ok(coroutine.resume(thread))
    t.eq(coroutine.status(thread), "suspended")
    if how == "close" then coroutine.close(thread) end
    thread = nil -- luacheck: ignore
    t.collect()
  end
  fork.set_waiter(nil)
  fork.loop()
  t.got(fork.new():run "type")
end)

story.test("ncpu: usable processors", function(t)
  t.eq(math.type(fork.ncpu()), "integer")
  t.ok(fork.ncpu() >= 1)
  local first = t.read "/proc/thread-self/status":match "Cpus_allowed_list:%s*(%d+)"
  local out = t:lua([[io.write(require "moonfork".ncpu())]], {before = "taskset -c " .. first})
  t.eq(out, "1")
end)

story.test("nothing prints, and nothing exits, by itself", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    fork.on_error(function() end)
    fork.new():eval "error 'quiet'":run("type", function() end)
    fork.new():eval "error 'unreported'"
    fork.new_exec {program = "/nowhere"}:run("type", function() end)
    fork.new():run("no_such", function() end)
    fork.loop()
    io.write "end"
  ]]
  t.eq({out, code, err}, {"end", 0, ""})
end)

-- ---- other loops; each in a program of its own ----

story.test("luv: uv.run drives both, and returns when nothing is outstanding", {needs = "luv"},
  function(t)
    local out, code, err = t:lua [[
      local fork, uv = require "moonfork", require "luv"
      require "moonfork.luv"
      local idle = fork.new_exec()
      local log = {}
      local timer = uv.new_timer()
      timer:start(20, 0, function()
        log[#log + 1] = "timer"
        timer:close()
      end)
      local p = fork.new():eval "require'testkit'.msleep(100)"
      p:run("type", function(e, s)
        assert(e == nil)
        log[#log + 1] = "run"
      end)
      p:on_exit(function(status) log[#log + 1] = "exit" .. status.code end)
      uv.run()
      print(table.concat(log, " "))
      uv.run()
      local q = fork.new():require "actor"
      local s = assert(q:run "actor:echo")
      s:write "waiting works\n"
      print(s:read "l")
      s:close()
      idle:close()
      uv.run()
    ]]
    t.eq({out, code, err}, {"timer run exit0\nwaiting works\n", 0, ""})
  end)

story.test("luv: an unhandled error in a callback is raised by the next call", {needs = "luv"},
  function(t)
    local out, code, err = t:lua [[
      local fork, uv = require "moonfork", require "luv"
      require "moonfork.luv"
      fork.new():run("type", function() error "in a callback under luv" end)
      uv.run()
      local ok, e = pcall(fork.new)
      if ok then ok, e = pcall(fork.step) end
      assert(not ok)
      io.write(tostring(e))
    ]]
    t.match(out, "in a callback under luv")
    t.eq({code, err}, {0, ""})
  end)

story.test("luv: many at once, with luv's thread pool at work", {needs = "luv", deadline = 40},
  function(t)
    local out, code, err = t:lua [[
      local fork, uv = require "moonfork", require "luv"
      require "moonfork.luv"
      local work, entered, ended = 0, 0, 0
      local job = uv.new_work(function(n) return n * 2 end, function() work = work + 1 end)
      for i = 1, 200 do
        if i % 4 == 0 then job:queue(i) end
        local p = fork.new()
        p:run("type", function(e) assert(not e) entered = entered + 1 end)
        p:on_exit(function() ended = ended + 1 end)
      end
      uv.run()
      print(work, entered, ended)
    ]]
    t.eq({out, code, err}, {"50\t200\t200\n", 0, ""})
  end)

story.test("luv: a socket's descriptor is polled by luv", {needs = "luv"}, function(t)
  local out, code, err = t:lua [[
    local fork, uv = require "moonfork", require "luv"
    require "moonfork.luv"
    local p = fork.new():eval "function f(s) require'testkit'.msleep(50) s:write 'ping' end"
    p:run("f", function(e, s)
      assert(not e)
      local poll = uv.new_poll(s:fileno())
      poll:start("r", function()
        io.write(s:read "a")
        poll:close()
        s:close()
      end)
    end)
    uv.run()
  ]]
  t.eq({out, code, err}, {"ping", 0, ""})
end)

story.test("cqueues: the reactor and sockets are polled as they are", {needs = "cqueues"},
  function(t)
    local out, code, err = t:lua [[
      local cqueues, fork = require "cqueues", require "moonfork"
      local cq = cqueues.new()
      local log = {}
      fork.set_waiter(function(reactor, timeout)
        cqueues.poll(reactor, timeout)
        reactor:step()
      end)
      local sockets = {}
      for i = 1, 2 do
        cq:wrap(function()
          local p = fork.new():eval "function f(s) s:read 'l' s:write 'woke\\n' end"
          local s = assert(p:run "f")
          sockets[i] = s
          cqueues.poll(s)
          local line = s:read "l"
          log[#log + 1] = i .. line
          assert(assert(p:wait(20)).code == 0)
          if i == 2 then sockets[1]:write "go\n" end
        end)
      end
      cq:wrap(function()
        while not sockets[1] or not sockets[2] do cqueues.sleep(0.01) end
        log[#log + 1] = "tick"
        sockets[2]:write "go\n"
      end)
      assert(cq:loop())
      print(table.concat(log, " "))
    ]]
    t.eq({out, code, err}, {"tick 2woke 1woke\n", 0, ""})
  end)

story.test("luasocket: select watches the reactor and sockets", {needs = "socket"}, function(t)
  local out, code, err = t:lua [[
    local socket, fork = require "socket", require "moonfork"
    local p = fork.new():eval "function f(s) require'testkit'.msleep(50) s:write 'ready' end"
    local s
    p:run("f", function(e, given) assert(not e) s = given end)
    while not s do
      local r = fork.reactor
      socket.select({r}, nil, r:timeout() or 1)
      r:step()
    end
    local readable = socket.select({s}, nil, 5)
    assert(readable[s])
    print(s:read "a")
  ]]
  t.eq({out, code, err}, {"ready\n", 0, ""})
end)

local COPAS = [[
  package.path = package.path .. ";/usr/share/lua/5.2/?.lua;/usr/share/lua/5.3/?.lua"
  if not pcall(require, "copas") then os.exit(77) end
]]

story.test("copas: waiting calls let its other threads run", {needs = "socket"}, function(t)
  local out, code, err = t:lua(COPAS .. [[
    local copas, fork = require "copas", require "moonfork"
    fork.set_waiter(function(reactor)
      -- A thread that gives way; old versions have no sleep.
      copas.receive {
        getfd = function() return reactor:getfd() end,
        dirty = function() return reactor:dirty() end,
        close = function() end,
        receive = function(self)
          if self.asked then return true end
          self.asked = true
          return nil, "timeout"
        end,
      }
      reactor:step()
    end)
    local log = {}
    for i, ms in ipairs {150, 50} do
      copas.addthread(function()
        local p = fork.new():eval("ms = math.tointeger(...)", ms)
        p:eval "function f(s) require'testkit'.msleep(ms) s:write('woke\\n') end"
        local s = assert(p:run "f")
        local line = s:read "l" -- before #log is looked at: this waits
        log[#log + 1] = i .. line
        assert(assert(p:wait(5)).code == 0)
      end)
    end
    local last = os.time() + 10
    while #log < 2 and os.time() < last do copas.step(0.05) end
    print(table.concat(log, " "))
  ]])
  if code == 77 then t.skip "needs copas" end
  t.eq({out, code, err}, {"2woke 1woke\n", 0, ""})
end)

story.done()
