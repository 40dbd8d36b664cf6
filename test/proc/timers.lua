-- fork.sleep and fork.timer, in every loop mode. Section 1.5 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("sleep waits as long as asked, never less, and drives the reactor", function(t)
  for _, seconds in ipairs {0, 0.0004, 0.001, 0.0123, 0.05} do
    local t0 = kit.now()
    t.eq(fork.sleep(seconds), true)
    local took = kit.now() - t0
    t.ok(took >= seconds, ("%s s took %s s"):format(seconds, took))
  end
  local entered
  fork.new():run("type", function(err) entered = err or true end)
  local last = kit.now() + 5 * story.scale
  while not entered and kit.now() < last do fork.sleep(0.01) end
  t.eq(entered, true)
end)

story.test("sleep for ever is left by an error of a callback; the reactor is whole", function(t)
  fork.timer(0.01, function() error "enough" end)
  t.raises("enough", fork.sleep, math.huge)
  t.eq(fork.step(), false)
end)

story.test("a timer calls once, later, from the reactor, and is outstanding until then", function(t)
  local n, given = 0, nil
  local timer = fork.timer(0, function(...)
    n, given = n + 1, {...}
  end)
  t.eq(n, 0)
  t.eq(fork.step(), false)
  t.eq({n, given}, {1, {}})
  timer:close()
  timer:close()
  local t0 = kit.now()
  fork.timer(0.05, function() n = n + 1 end)
  timer = nil -- luacheck: ignore
  t.collect()
  t.eq(fork.step(), true)
  fork.loop()
  t.ok(kit.now() - t0 >= 0.05)
  t.eq(n, 2)
end)

story.test("timers are called by date, those of one date in the order of their making", function(t)
  local log = {}
  for i, seconds in ipairs {0.03, 0.01, 0.02, 0, 0} do
    fork.timer(seconds, function() log[#log + 1] = i end)
  end
  fork.loop()
  t.eq(log, {4, 5, 2, 3, 1})
end)

story.test("a repeated timer goes on until it is closed, also inside of its callback", function(t)
  local n, timer = 0, nil
  local t0 = kit.now()
  timer = fork.timer(0.03, function()
    n = n + 1
    if n == 4 then timer:close() end
  end, 0.01)
  fork.loop()
  t.eq(n, 4)
  t.ok(kit.now() - t0 >= 0.06)
  t.eq(fork.step(), false)
  timer:close()
end)

story.test("a repeated timer that was late does not catch up, and lets others run", function(t)
  local n, others = 0, 0
  local _ <close> = fork.timer(0.001, function() n = n + 1 end, 0.001)
  kit.msleep(100)
  fork.step()
  t.eq(n, 1)
  local _ <close> = fork.timer(0, function() end, 1e-9)
  for _ = 1, 5 do fork.timer(0, function() others = others + 1 end) end
  fork.step()
  fork.step()
  t.eq(others, 5)
end)

story.test("a timer closed when it is due already is not called", function(t)
  local called
  local second = nil
  fork.timer(0, function() second:close() end)
  second = fork.timer(0, function() called = true end)
  kit.msleep(5)
  fork.loop()
  t.eq(called, nil)
  do
    local _ <close> = fork.timer(0, function() called = true end)
  end
  fork.loop()
  t.eq(called, nil)
end)

story.test("for ever: outstanding, without a date, until it is closed", function(t)
  for _, seconds in ipairs {math.huge, 1e300} do
    local timer = fork.timer(seconds, function() t.fail "called" end)
    t.eq(fork.step(0.01), true)
    t.eq(fork.reactor:timeout(), nil)
    timer:close()
    t.eq(fork.step(), false)
  end
  local n = 0
  local timer = fork.timer(0, function() n = n + 1 end, math.huge)
  t.eq(fork.step(0.01), true)
  t.eq(n, 1)
  timer:close()
end)

story.test("misuse names the argument and the caller's line", function(t)
  for _, value in ipairs {-1, -0.001, 0 / 0, -math.huge} do
    t.raises("%.lua:%d+: bad argument #1 to 'sleep' %(a duration", fork.sleep, value)
    t.raises("bad argument #1 to 'timer' %(a duration", fork.timer, value, print)
    t.raises("bad argument #3 to 'timer' %(a duration", fork.timer, 0, print, value)
  end
  t.raises("#1 to 'sleep' %(number expected, got string", fork.sleep, "1")
  t.raises("#1 to 'sleep' %(number expected, got no value", fork.sleep)
  t.raises("#2 to 'timer' %(function expected, got no value", fork.timer, 1)
  t.raises("#2 to 'timer' %(function expected, got number", fork.timer, 1, 2)
  t.raises("#3 to 'timer' %(a positive number", fork.timer, 1, print, 0)
  t.eq(fork.step(), false, "nothing was started")
end)

story.test("an error in a callback goes to on_error, and a repeated timer goes on", function(t)
  local errors, n, timer = {}, 0, nil
  fork.on_error(function(err, traceback)
    errors[#errors + 1] = err
    t.match(traceback, "timers%.lua")
  end)
  timer = fork.timer(0, function()
    n = n + 1
    if n == 3 then timer:close() end
    error("tick " .. n, 0)
  end, 0.001)
  fork.loop()
  fork.on_error(nil)
  t.eq(errors, {"tick 1", "tick 2", "tick 3"})
  timer = fork.timer(0, function() error "nobody handles this" end, 0.001)
  t.raises("nobody handles this", fork.loop)
  t.raises("nobody handles this", fork.loop)
  timer:close()
  fork.loop()
end)

story.test("sleep inside of callbacks; past 50 inside each other it gives LIMIT", function(t)
  local deepest, err = 0, nil
  local function go(n)
    fork.timer(0, function()
      deepest = math.max(deepest, n)
      if n < 60 then go(n + 1) end
      local _, e = fork.sleep(0.01)
      err = err or e
    end)
  end
  go(1)
  fork.loop()
  t.error(err, "LIMIT")
  t.ok(deepest > 50)
end)

story.test("10,000 timers cost little, and each is called once", function(t)
  local n = 0
  local used = collectgarbage("count")
  local cpu = os.clock()
  local timers = {}
  for i = 1, 10000 do
    timers[i] = fork.timer((i * 7919 % 10000) * 1e-5, function() n = n + 1 end)
  end
  for i = 1, 10000, 2 do timers[i]:close() end
  fork.loop()
  t.eq(n, 5000)
  local took = os.clock() - cpu
  t.ok(took < 0.5 * story.scale, took .. " s of processor time")
  timers = nil -- luacheck: ignore
  t.collect()
  t.ok(collectgarbage("count") - used < 1000)
end)

story.test("a copy of the program has no timers", function(t)
  local n = 0
  local _ <close> = fork.timer(0, function() n = n + 1 end, 0.001)
  local p = fork.template()
  t.eq(t.ask(p:fork(), "return 'quiet'"), "quiet")
  p:close()
  t.ok(n > 0)
end)

-- A scheduler that knows nothing of dates: it resumes when the descriptor is readable.
story.test("set_waiter: the descriptor is readable when a sleep is over", function(t)
  fork.set_waiter(function() coroutine.yield() end)
  local log, threads = {}, {}
  local t0 = kit.now()
  for i, seconds in ipairs {0.15, 0.05, 0.1} do
    threads[i] = coroutine.create(function()
      t.eq(fork.sleep(seconds), true)
      log[#log + 1] = i
      t.ok(kit.now() - t0 >= seconds)
    end)
  end
  local sleeper = fork.new():eval "require 'testkit'.msleep(60000)"
  threads[4] = coroutine.create(function()
    local _, err = sleeper:wait(0.12)
    t.error(err, "TIMEOUT")
    log[#log + 1] = 4
  end)
  local polls = 0
  repeat
    local alive = 0
    for _, thread in ipairs(threads) do
      if coroutine.status(thread) ~= "dead" then
        assert(coroutine.resume(thread))
        alive = alive + 1
      end
    end
    if alive > 0 and #log < 4 then
      polls = polls + 1
      t.ok(kit.poll(fork.reactor:pollfd(), "r", 5000) > 0, "readable in time")
      fork.reactor:step()
    end
  until alive == 0
  fork.set_waiter(nil)
  table.sort(log) -- on a busy machine several are over at the same time
  t.eq(log, {1, 2, 3, 4})
  t.ok(polls < 100, polls .. " polls")
  sleeper:kill "KILL"
  sleeper:close()
  fork.loop()
end)

story.test("a sleeping coroutine that is closed, dropped or dies leaves nothing", function(t)
  fork.set_waiter(function() coroutine.yield() end)
  for _, how in ipairs {"close", "drop", "error"} do
    local thread = coroutine.create(function() fork.sleep(60) end)
    t.ok(coroutine.resume(thread))
    if how == "close" then coroutine.close(thread) end
    if how == "error" then
      thread = coroutine.create(function()
        local wait = coroutine.wrap(function() fork.sleep(60) end)
        wait()
        error "dead"
      end)
      t.eq(coroutine.resume(thread), false)
    end
    thread = nil -- luacheck: ignore
    t.collect()
    t.eq(fork.step(), false, how)
  end
  fork.set_waiter(nil)
end)

-- ---- other loops; each in a program of its own ----

story.test("luv: uv.run drives timers and sleeps, and returns after the last", {needs = "luv"},
  function(t)
    local out, code, err = t:lua [[
      local fork, uv = require "moonfork", require "luv"
      require "moonfork.luv"
      local log = {}
      local timer = uv.new_timer()
      timer:start(30, 0, function() log[#log + 1] = "luv" timer:close() end)
      fork.timer(0.06, function() log[#log + 1] = "once" end)
      local n, every = 0, nil
      every = fork.timer(0.001, function()
        n = n + 1
        if n == 10 then every:close() end
      end, 0.005)
      uv.run()
      print(table.concat(log, " "), n)
      fork.timer(0, function() fork.sleep(0.01) print "slept" end)
      uv.run()
      fork.timer(0, function() error "kept" end)
      uv.run()
      print(pcall(fork.sleep, 0))
    ]]
    t.eq(#out:match "^[^\t]*", #"luv once") -- each once; on a loaded machine in any order
    t.match(out, "luv.*\t10\nslept\nfalse\t.*kept\n$")
    t.match(out, "once.*\t10\n")
    t.eq({code, err}, {0, ""})
  end)

story.test("cqueues: sleeps suspend coroutines, timers are called", {needs = "cqueues"},
  function(t)
    local out, code, err = t:lua [[
      local cqueues, fork = require "cqueues", require "moonfork"
      local cq = cqueues.new()
      local log = {}
      fork.set_waiter(function(reactor, timeout)
        cqueues.poll(reactor, timeout)
        reactor:step()
      end)
      for i, seconds in ipairs {0.1, 0.03} do
        cq:wrap(function()
          fork.timer(seconds / 2, function() log[#log + 1] = "timer" .. i end)
          assert(fork.sleep(seconds))
          log[#log + 1] = "slept" .. i
        end)
      end
      assert(cq:loop())
      print(table.concat(log, " "))
    ]]
    t.eq({code, err}, {0, ""})
    t.eq(#out, #"timer2 slept2 timer1 slept1\n") -- each once; those of the two may come in any order
    t.match(out, "timer1.*slept1")
    t.match(out, "timer2.*slept2")
  end)

story.test("copas: a thread that only watches the descriptor wakes up in time", {needs = "socket"},
  function(t)
    local out, code, err = t:lua [[
      package.path = package.path .. ";/usr/share/lua/5.2/?.lua;/usr/share/lua/5.3/?.lua"
      if not pcall(require, "copas") then os.exit(77) end
      local copas, fork = require "copas", require "moonfork"
      local waiting = {insert = function() end}
      function waiting:push(_, thread) self[#self + 1] = thread end
      local door = {asked = false}
      function door.getfd() return fork.reactor:getfd() end
      function door.dirty() return fork.reactor:dirty() end
      function door:receive()
        self.asked = not self.asked
        if self.asked then return nil, "timeout" end
        return true
      end
      copas.addthread(function()
        while copas.receive(door) do
          local threads = table.move(waiting, 1, #waiting, 1, {})
          for i = #waiting, 1, -1 do waiting[i] = nil end
          for _, thread in ipairs(threads) do copas.addthread(thread) end
        end
      end)
      fork.set_waiter(function() coroutine.yield(door, waiting) end)
      local log = {}
      for i, seconds in ipairs {0.15, 0.05} do
        copas.addthread(function()
          fork.sleep(seconds)
          log[#log + 1] = i
        end)
      end
      local t0 = os.time()
      while #log < 2 do copas.step(10) end
      assert(os.time() - t0 < 8, "it waited for the select's own time")
      print(table.concat(log, " "))
    ]]
    if code == 77 then t.skip "needs copas" end
    t.eq({out, code, err}, {"2 1\n", 0, ""})
  end)

story.done()
