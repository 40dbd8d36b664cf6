-- More of what rpcs and pools promise: floods, many pending calls, half-done writes, short
-- input and output, coroutines that die, copies of the interpreter, other loops, the end of
-- the program. Real processes.
local story = require "story"
local fork = require "moonfork"
local services = require "services"
local host = require "host"
local kit = story.kit

local FUNCTIONS = [[
  function echo(...) return ... end
  function flood(n) local event = require "moonfork.rpc".event
    for i = 1, n do event(i) end return n end
  function stall(s) os.execute("sleep " .. s) return s end
]]

local function server(name, opts)
  return fork.new():eval(FUNCTIONS):rpc(name, opts)
end

local finish = services.finish_rpc

story.test("interrupted system calls are invisible", function(t)
  local rpc = fork.new():require("testkit"):eval(FUNCTIONS):eval [[
    local kit = require "testkit"
    function begin() kit.itimer(1) end
  ]]:rpc("echo", {init = "begin"})
  for i = 1, 3000 do t.eq(rpc(i), i) end
  local big = ("x"):rep(1 << 20)
  for _ = 1, 10 do t.ok(rpc(big) == big) end
  finish(t, rpc)
end)

story.test("short input and output everywhere are invisible", function(t)
  local shim, program = host.tool(t, "shim.so"), host.plain_template(t)
  if story.is_sanitized then
    t.skip "the shim and the sanitizer wrap the same calls"
  end
  local _, code, err = t:lua([[
    local fork = require "moonfork"
    local rpc = fork.new_exec():eval "function echo(...) return ... end":rpc("echo",
      {handles = true})
    math.randomseed(3)
    for i = 1, 1500 do
      local text = ("%d"):format(i):rep(math.random(60))
      local a, b, c = rpc(i, text, {i, x = text})
      assert(a == i and b == text and c.x == text)
    end
    local file, list = io.open "/dev/null", {}
    for i = 1, 20 do
      list[i] = file
      local got = assert(rpc(list))
      assert(#got == i)
      for _, handle in ipairs(got) do handle:close() end
    end
    rpc:close()
    fork.loop()
  ]], {before = ("LD_PRELOAD=%s SHORTIO=7 MOONFORK_TEMPLATE=%s"):format(shim, program)})
  t.eq(err, "")
  t.eq(code, 0)
end)

story.test("a flood of events from one clone does not starve another", function(t)
  local events = 0
  local a = server("flood", {on_event = function() events = events + 1 end})
  local b = server "echo"
  t.eq(b(1), 1)
  local flooded
  a(100000, function(err, n) flooded = err or n end)
  local worst = 0
  for i = 1, 200 do
    local t0 = os.clock() -- what is done for the other one before b's answer is told
    t.eq(b(i), i)
    worst = math.max(worst, os.clock() - t0)
  end
  t.ok(worst < 0.5 * story.scale, worst)
  t.within(15, function() return flooded == 100000 end)
  t.eq(events, 100000)
  finish(t, a)
  finish(t, b)
end)

story.test("a kill with very many pending calls", {deadline = 40}, function(t)
  local rpc = server("stall", {on_error = function() end})
  t.eq(rpc(0), 0)
  local n, told = 100000, 0
  for _ = 1, n do
    rpc(10, function(err)
      if not err or err.code ~= "CLONE_DIED" then error("not as expected: " .. tostring(err)) end
      told = told + 1
    end)
  end
  fork.step(0)
  rpc:process():kill "KILL"
  local worst, last = 0, kit.now()
  while told < n do
    fork.step(0.05)
    worst, last = math.max(worst, kit.now() - last), kit.now()
  end
  t.note("the longest turn took %.0f ms", worst * 1000)
  t.eq(told, n)
  finish(t, rpc)
end)

story.test("a function that closes the socket under it is a death", function(t)
  local rpc = fork.new():require("testkit"):eval [[
    local kit = require "testkit"
    function f() for fd in pairs(kit.fds()) do if fd > 2 then kit.close(fd) end end end
  ]]:rpc("f", {on_error = function() end})
  local _, err = rpc()
  t.ok(err)
  t.ok(err.code == "CLONE_DIED" or err.code == "PROTOCOL", err)
  finish(t, rpc)
end)

story.test("garbage on the socket ends that rpc alone", function(t)
  local rpc = fork.new():require("testkit"):eval [[
    local kit = require "testkit"
    function f() for fd, target in pairs(kit.fds()) do
      if fd > 2 and target:find "^socket" then kit.write(fd, ("\255"):rep(100)) end end end
  ]]:rpc("f", {on_error = function() end})
  local other = server "echo"
  local _, err = rpc()
  t.error(err, "PROTOCOL")
  t.eq(other(1), 1)
  finish(t, rpc)
  finish(t, other)
end)

story.test("a waiting coroutine that is dropped or closed wakes nobody", function(t)
  local rpc = server "echo"
  t.eq(rpc(1), 1)
  fork.set_waiter(function()
    if coroutine.isyieldable() then coroutine.yield() else kit.msleep(1) end
  end)
  local dropped = coroutine.create(function() return rpc("dropped") end)
  local closed = coroutine.create(function() return rpc("closed") end)
  t.ok(coroutine.resume(dropped))
  t.ok(coroutine.resume(closed))
  t.ok(coroutine.close(closed))
  dropped = nil -- luacheck: ignore
  t.collect()
  fork.set_waiter(nil)
  t.eq(rpc(2), 2)
  t.within(5, function() return not fork.step(0) end)
  finish(t, rpc)
end)

story.test("finalisers of the template's objects don't run in workers", function(t)
  local path = t:file("ledger", "")
  local pool = fork.new():eval([[
    local path = ...
    kept = setmetatable({}, {__gc = function()
      local f = io.open(path, "a") f:write("gc\n") f:close() end})
    function f() return 1 end
  ]], path):pool("f", {max = 2, max_calls = 5})
  for _ = 1, 30 do t.eq(pool(), 1) end
  t.got(pool:drain(10))
  pool:close()
  t.eq(t.read(path), "")
end)

story.test("a program that ends with calls under way ends at once", function(t)
  for _, how in ipairs {"os.exit(0)", "os.exit(0, true)", "", "error 'top'"} do
    local t0 = kit.now()
    local out, code = t:lua(([[
      local fork = require "moonfork"
      local p = fork.new():eval(%q)
      local rpc = p:rpc "stall"
      local pool = fork.new():eval(%q):pool("stall", {max = 2, idle = 2})
      assert(rpc(0) == 0 and pool(0) == 0)
      for _ = 1, 10 do rpc(60, print) pool(60, print) end
      fork.step(0.05)
      print(rpc:process():pid(), table.concat(pool:pids(), " "))
      %s
    ]]):format(FUNCTIONS, FUNCTIONS, how))
    t.eq(code, how:find "error" and 1 or 0, how)
    t.ok(kit.now() - t0 < 8 * story.scale)
    local n = 0
    for pid in out:gmatch "%d+" do
      n = n + 1
      t.outside(3, function() return not t.alive(tonumber(pid)) end, how)
    end
    t.ok(n >= 2)
  end
end)

story.test("a copy of the interpreter serves rpcs and pools, too", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local rpc_module = require "moonfork.rpc"
    local pool_module = require "moonfork.pool"
    local base = 40
    function add(n) rpc_module.event("event", n) return base + n end
    function once() pool_module.retire() return true end
    local seen
    local template = fork.template()
    local rpc = template:fork():rpc("add", {on_event = function(...) seen = table.pack(...) end})
    assert(rpc(2) == 42)
    assert(seen[1] == "event" and seen[2] == 2)
    local pool = template:fork():pool("once", {max = 2})
    for _ = 1, 5 do assert(pool()) end
    assert(pool:drain(5))
    assert(not pcall(rpc_module.event, 1))
    rpc:close()
    print "fine"
  ]]
  t.eq(err, "")
  t.eq(code, 0)
  t.eq(out, "fine\n")
end)

story.test("calls complete while luv's loop runs", {needs = "luv"}, function(t)
  local out, code, err = t:lua(([[
    local uv = require "luv"
    local fork = require "moonfork.luv"
    local pool = fork.new():eval(%q):pool("echo", {max = 2})
    local n = 0
    for i = 1, 100 do pool(i, function(e, v) assert(not e and v == i) n = n + 1 end) end
    uv.run()
    assert(n == 100)
    pool(1, function() n = n + 1 pool:close() end)
    uv.run()
    print(n)
  ]]):format(FUNCTIONS))
  t.eq(err, "")
  t.eq(code, 0)
  t.eq(out, "101\n")
end)

story.test("a function forks by itself and its child leaves without an answer", function(t)
  local rpc = fork.new():eval [[
    function f(n)
      local clone = require "moonfork.clone"
      require "moonfork.rpc".event("from the parent of it")
      local pid = clone.fork()
      if pid == 0 then os.exit(n) end
      return select(2, clone.waitpid(pid))
    end
  ]]:rpc("f", {on_event = function() end})
  for i = 1, 5 do t.eq(rpc(i), {code = i}) end
  finish(t, rpc)
end)

story.test("100 reloads under constant load, 20 of which fail, fail no call", {deadline = 60},
  function(t)
    local pool = fork.new():eval "function f() return 0 end":pool("f", {max = 2, start = 0})
    local failed, answered, sent, stop = 0, 0, 0, false
    local function again(err)
      if err then
        failed = failed + 1
        t.note("%s", tostring(err))
      end
      answered = answered + 1
      if stop then return end
      sent = sent + 1
      pool(again)
    end
    for _ = 1, 8 do
      sent = sent + 1
      pool(again)
    end
    local last = 0
    for i = 1, 100 do
      if i % 5 == 0 then
        local ok, err = pool:reload(fork.new():eval "error 'fails to load'")
        t.eq(ok, nil)
        t.error(err, "REMOTE", "fails to load")
      else
        t.got(pool:reload(fork.new():eval(("function f() return %d end"):format(i))))
        last = i
      end
      t.eq(pool(), last)
    end
    stop = true
    t.within(10, function() return answered == sent end)
    t.eq(failed, 0)
    t.note("%d calls", sent)
    t.eq(pool:stats().deaths, 0)
    t.got(pool:drain(10))
    pool:close()
  end)

story.test("an asynchronous function's events all arrive, however many wait to be written",
  {needs = "luv", deadline = 40}, function(t)
    for _, size in ipairs {10, 1000, 70000, 300000} do
      local n = math.max(6, 400000 // size) -- more than 64 KiB, and than a socket holds
      local events = {}
      local rpc = fork.new():eval [[
        local rpc, uv = require "moonfork.rpc", require "luv"
        function f(done, n, size)
          local text = ("x"):rep(size)
          for i = 1, n do assert(rpc.event("before", i, text)) end
          done(n)
          for i = 1, n do assert(rpc.event("after", i, text)) end
          uv.new_timer():start(1, 0, function()
            for i = 1, n do assert(rpc.event("later", i, text)) end
            assert(rpc.event "end")
          end)
        end
      ]]:rpc("f", {async = true, on_event = function(what, i, text)
        events[#events + 1] = text and #text == size and what .. i or what
      end})
      rpc(n, size, function(err, value)
        t.eq({err, value}, {nil, n})
        events[#events + 1] = "result"
      end)
      t.within(10, function() return events[#events] == "end" end)
      local expected = {}
      for _, part in ipairs {"before", "result", "after", "later", "end"} do
        local more = part == "result" or part == "end"
        for i = 1, more and 1 or n do expected[#expected + 1] = more and part or part .. i end
      end
      t.eq(events, expected, size)
      finish(t, rpc)
    end
  end)

story.test("clone.exec and exit in a function: the answers before it arrive", function(t)
  local rpc = fork.new():eval [[
    function f(how, i)
      if how == "exec" then require "moonfork.clone".exec("true", {"true"}) end
      return i
    end
  ]]:rpc("f", {on_error = function() end})
  local n, last = 0, nil
  for i = 1, 200 do rpc("", i, function(err, v) t.ok(not err and v == i) n = n + 1 end) end
  rpc("exec", 0, function(err) last = err end)
  t.within(5, function() return last end)
  t.eq(n, 200)
  t.error(last, "CLONE_DIED")
  finish(t, rpc)
end)

story.done()
