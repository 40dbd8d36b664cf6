-- A call that waited in a coroutine stayed outstanding when nobody was left to take its answer:
-- the library's reference to the waiting stack kept a dropped coroutine alive, and after
-- coroutine.close, or a death of an error, nobody gave the call up. fork.loop() never returned.
local story = require "story"
local fork = require "moonfork"

-- So long it would take them to end by themselves, and so long they may take without. What is
-- at work runs on.
local LONG, SHORT = 2 * story.scale, 0.5
local LATE = ("local function late() require'testkit'.msleep(%d) end\n"):format(LONG * 1000)
local SERVER = LATE .. "f = late"

-- Each waits, and keeps nothing that others could ask.
local waits = {
  run = function() fork.new():eval(LATE .. "late()"):run "f" end,
  wait = function()
    local p = fork.new():eval (LATE .. "function f(s) s:read 'a' late() end")
    p:run "f"
    p:wait()
  end,
  ["wait with a time"] = function()
    local p = fork.new():eval (LATE .. "function f(s) s:read 'a' late() end")
    p:run "f"
    p:wait(1000)
  end,
  ["rpc"] = function() fork.new():eval(SERVER):rpc "f" () end,
  ["rpc with options"] = function()
    fork.new():eval(SERVER):rpc "f":with {timeout = 1000} ()
  end,
  pool = function() fork.new():eval(SERVER):pool("f", {max = 1})() end,
  map = function()
    for _ in fork.new():eval(SERVER):pool("f", {max = 2, load = 1}):map {1, 2, 3} do end
  end,
  reload = function()
    local pool = fork.new():eval "function f() end function begin() end"
      :pool("f", {max = 1, init = "begin"})
    pool:reload(fork.new():eval(LATE .. "function f() end begin = late"))
  end,
  socket = function(t)
    local a, b = fork.socket.pair()
    t.kept = b
    a:read "l"
  end,
}

-- Waits in a coroutine, until it is suspended in the wait that is meant.
local function suspended(t, wait)
  fork.set_waiter(function() coroutine.yield() end)
  local co = coroutine.create(wait)
  local last = story.kit.now() + 0.2 * story.scale
  repeat
    t.ok(coroutine.resume(co, t))
    fork.step(0)
    story.kit.msleep(2)
  until story.kit.now() > last
  t.eq(coroutine.status(co), "suspended")
  fork.set_waiter(nil)
  return co
end

local function ends(t, name)
  t.within(SHORT, function() return not fork.step(0) end, name .. " is outstanding")
  t.eq(fork.loop(), true)
end

for name, wait in pairs(waits) do
  story.test(name .. ": nothing is outstanding when its coroutine is garbage", function(t)
    local weak = setmetatable({suspended(t, wait)}, {__mode = "v"})
    t.collect()
    ends(t, name)
    t.collect()
    t.eq(weak[1], nil, "the coroutine is collected")
  end)

  story.test(name .. ": nor when it was closed", function(t)
    local co = suspended(t, wait)
    t.eq(coroutine.close(co), true)
    co = nil -- luacheck: ignore
    t.collect()
    ends(t, name)
  end)
end

story.test("a closed coroutine's call is given up, whoever has the objects", function(t)
  local rpc = fork.new():eval [[
    n = 0
    function f(ms) n = n + 1 require'testkit'.msleep(ms) return n end
  ]]:rpc "f"
  local stopped = fork.new()
  t.got(stopped:memory())
  t.got(stopped:kill "STOP")
  local running = fork.new():eval "function f(s) s:read 'a' end"
  local socket = t.got(running:run "f")
  local all = {
    suspended(t, function() rpc(1000 * story.scale) end),
    suspended(t, function() stopped:memory() end),
    suspended(t, function() running:wait() end),
  }
  for _, co in ipairs(all) do t.eq(coroutine.close(co), true) end
  fork.step(0)
  t.eq(fork.step(0), false)
  t.got(stopped:kill "CONT")
  t.eq({rpc(0)}, {2}, "what was at work ran on, its answer was dropped")
  socket:close()
  t.eq(t.status(running).code, 0)
  rpc:close()
end)

story.test("the process whose run nobody waits for runs on, its socket is closed", function(t)
  local p = fork.new():eval [[
    require'testkit'.msleep(100)
    function f(s) s:read 'a' os.exit(7) end
  ]]
  fork.set_waiter(function() coroutine.yield() end)
  local co = coroutine.create(function() p:run "f" end)
  t.ok(coroutine.resume(co))
  t.eq(coroutine.close(co), true)
  fork.set_waiter(nil)
  t.eq(t.status(p).code, 7)
end)

story.test("a coroutine that dies of an error while it waits gives its call up", function(t)
  local rpc = fork.new():eval(SERVER):rpc "f"
  local failing
  fork.set_waiter(function()
    coroutine.yield()
    if failing then error "the scheduler gives up" end
  end)
  local co = coroutine.create(function() rpc() end)
  t.ok(coroutine.resume(co))
  failing = true
  t.eq(coroutine.resume(co), false)
  t.eq(coroutine.status(co), "dead")
  fork.set_waiter(nil)
  ends(t, "the call")
  rpc:close()
end)

story.test("a wait that is left by a callback's error gives its call up", function(t)
  local rpc = fork.new():eval(SERVER):rpc "f"
  fork.new():run("type", function() error "not handled" end)
  t.raises("not handled", rpc)
  ends(t, "the call")
  rpc:close()
end)

story.test("p:wait whose time ran out waits for nothing any more", function(t)
  local p = fork.new():eval "function f(s) s:read 'a' end"
  local socket = t.got(p:run "f")
  local _, err = p:wait(0.01)
  t.error(err, "TIMEOUT")
  t.eq(fork.step(0), false)
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.done()
