-- A waiter that turned the reactor itself with reactor:step(seconds) came back to the waiter,
-- because step blocks through it: the stack overflowed. "Suspend in a coroutine, else step" is
-- the first waiter that anybody writes.
local story = require "story"
local fork = require "moonfork"

local SLOW = "function f() require'testkit'.msleep(100) return 1 end"

story.test("a waiter may step, with and without a time", function(t)
  for _, seconds in ipairs {0.01, 0, 5} do
    fork.set_waiter(function(reactor) reactor:step(seconds) end)
    local rpc = fork.new():eval(SLOW):rpc "f"
    t.eq(rpc(), 1)
    local answer
    rpc:call(function(_, value) answer = value end)
    t.eq(fork.loop(), true)
    t.eq(answer, 1)
    t.eq(fork.step(0.1), false)
    rpc:close()
    local a, b = fork.socket.pair()
    b:write "line\n"
    t.eq(a:read "l", "line")
    a:settimeout(0.05)
    t.eq(a:read "l", nil)
    a:close()
    b:close()
  end
end)

story.test("suspend in a coroutine, else step", function(t)
  fork.set_waiter(function(reactor, timeout)
    if coroutine.isyieldable() then return coroutine.yield() end
    reactor:step(timeout or 1)
  end)
  local rpc = fork.new():eval(SLOW):rpc "f"
  local n, all = 0, {}
  for i = 1, 3 do
    all[i] = coroutine.create(function() t.eq(rpc(), 1) n = n + 1 end)
    t.ok(coroutine.resume(all[i]))
  end
  t.eq(rpc(), 1)
  t.within(5, function()
    for _, co in ipairs(all) do
      if coroutine.status(co) == "suspended" then t.ok(coroutine.resume(co)) end
    end
    return n == 3
  end)
  rpc:close()
end)

story.test("a callback that waits inside of a waiter's step blocks there", function(t)
  fork.set_waiter(function(reactor) reactor:step(1) end)
  local inner
  fork.new():run("type", function() inner = fork.new():eval(SLOW):rpc "f" () end)
  t.eq(fork.loop(), true)
  t.eq(inner, 1)
end)

story.test("a waiter that fails is called again the next time", function(t)
  local calls = 0
  fork.set_waiter(function(reactor)
    calls = calls + 1
    if calls == 1 then error "not today" end
    reactor:step(1)
  end)
  local rpc = fork.new():eval(SLOW):rpc "f"
  t.raises("not today", rpc)
  t.eq(rpc(), 1)
  t.ok(calls > 1)
  rpc:close()
end)

story.done()
