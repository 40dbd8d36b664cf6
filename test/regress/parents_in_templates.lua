-- A template whose own code had used moonfork (a sleep, a timer, processes of its own) could not
-- be forked: the audit took the library's own event loop for somebody's. So a worker that had
-- slept could not be promoted. Such a template forks as others do, and its clones have nothing of
-- what it made there: no descriptor, no wait; their first use of the library begins afresh.
local story = require "story"
local fork = require "moonfork"

local USES = {
  ["a sleep"] = "fork.sleep(0.001)",
  ["a timer"] = "timer = fork.timer(100, print)",
  ["a signal"] = "fork.signal('USR1', print)",
  ["the descriptor for other loops"] = "fork.reactor:pollfd()",
  ["a pool"] = [[
    pool = fork.new():eval "function double(n) return 2 * n end":pool("double", {max = 1})
    assert(pool(4) == 8)]],
  ["a running process"] = [[
    process = fork.new():eval "function wait(s) s:read 'a' end"
    assert(process:run "wait"):detach()]],
  ["a call in the hook before each fork"] = [[
    require "moonfork.clone".before_fork(function() fork.sleep(0.001) end)]],
  ["a coroutine that waits"] = [[
    fork.set_waiter(function(reactor, timeout)
      if coroutine.isyieldable() then coroutine.yield() else reactor:step(timeout or 1) end
    end)
    a, b = fork.socket.pair()
    reader = coroutine.create(function() return b:read "l" end)
    coroutine.resume(reader)
    fork.sleep(0.001)]],
}

local CODE = [[
  fork, kit = require "moonfork", require "testkit"
  %s
  function look(s)
    for fd, target in pairs(kit.fds()) do s:write(fd, " ", target, "\n") end
  end
  function make(s)
    fork.sleep(0.001)
    local p = fork.new():eval "function inner(s) s:write 'inner' end"
    s:write(assert(p:run "inner"):read "a", " ", tostring(p:wait(10).code))
  end
  function foreign(s)
    local ok, err
    if pool then ok, err = pcall(pool.call, pool, 1) end
    if process then ok, err = pcall(process.kill, process) end
    s:write(tostring(ok), " ", tostring(err))
  end
]]

-- What has descriptors of its own beside its socket.
local HOLDS = {
  ["a clone that its template has not forked yet"] = [[
    template = fork.new_exec()
    held = template:fork()]],
  ["a map that was left"] = [[
    pool = fork.new():eval "function double(n) return 2 * n end":pool("double", {max = 2})
    next_item, map = pool:map {1, 2, 3}
    next_item(map)]],
  ["a child that outlives its object"] = [[
    template = fork.new_exec():eval "function wait(s) s:read 'a' end"
    do
      local process = template:fork()
      assert(process:run "wait"):detach()
      process:close()
    end
    fork.sleep(0.01)]],
  ["a template at the other end of a command"] = [[
    far = fork.remote {command = {"/bin/sh", "-c", "read x"}}
    far:close()]],
}

for name, code in pairs(USES) do
  story.test("a template that uses the library can be forked: " .. name, function(t)
    local p = fork.new():eval(CODE:format(code))
    local s = t.ok(p:fork():run "make")
    t.eq(s:read "a", "inner 0")
    t.eq(t.ok(p:fork():fork():run "make"):read "a", "inner 0") -- and so on down
    t.eq(t.ok(p:run "make"):read "a", "inner 0") -- it goes on itself
    p:close()
  end)
end

story.test("a clone of it has none of its descriptors", function(t)
  local function look(process)
    local n, sockets, text = 0, 0, t.ok(process:fork():run "look"):read "a"
    for target in text:gmatch "%d+ ([^\n]*)" do
      n = n + 1
      if target:find "^socket" then sockets = sockets + 1 end
      t.ok(not target:find "anon_inode" and not target:find "memfd:", text)
    end
    return n, sockets, text
  end
  local others = fork.new():eval(CODE:format "")
  local least, own = look(others)
  for _, name in ipairs {"a timer", "a pool", "a running process", "the descriptor for other loops"} do
    local kept = name == "a running process" and 1 or 0 -- the socket, which that code owns
    local p = fork.new():eval(CODE:format(USES[name]))
    local n, sockets, text = look(p)
    t.eq(sockets, own + kept, text)
    t.ok(n <= least + kept + 2, text) -- libuv makes a pipe of its own in each copy
    p:close()
  end
  for name, code in pairs(HOLDS) do
    local p = fork.new():eval(CODE:format(code))
    local n, _, text = look(p)
    t.ok(n <= least + 3, name .. ": " .. text)
    p:close()
  end
  others:close()
end)

story.test("a hook of on_fork from before may use the library: nothing of the template's is left", function(t)
  local p = fork.new():eval [[
    clone = require "moonfork.clone"
    clone.on_fork(function() require "moonfork".sleep(0.001) end)
    fork = require "moonfork"
    fork.set_waiter(function(reactor, timeout)
      if coroutine.isyieldable() then coroutine.yield() else reactor:step(timeout or 1) end
    end)
    sleeper = coroutine.create(function() return fork.sleep(1000) end)
    coroutine.resume(sleeper)
    function f(s)
      fork.loop() -- has nothing to wait for
      local _, slept, err = coroutine.resume(sleeper)
      s:write(tostring(slept), " ", err.code)
    end]]
  for _, process in ipairs {p:fork(), p:fork():fork()} do
    local s = t.ok(process:run "f")
    s:settimeout(20)
    t.eq(s:read "a", "nil CANCELLED")
  end
  p:close()
end)

story.test("what it made answers there that it is another process's", function(t)
  for _, name in ipairs {"a pool", "a running process"} do
    local p = fork.new():eval(CODE:format(USES[name]))
    t.match(t.ok(p:fork():run "foreign"):read "a", "^false .*the process that this one was forked from")
    p:close()
  end
end)

story.test("the end of what it made is seen though clones of it run", function(t)
  local p = fork.new():eval(CODE:format(USES["a pool"])):eval [[
    function block(s) s:read "a" end
    function drained() pool:close() return fork.loop() end
  ]]
  local s = t.ok(p:fork():run "block")
  local rpc = p:rpc "drained"
  t.eq(rpc(), true)
  rpc:close()
  s:close()
end)

story.test("its loop is no finding of the audit", function(t)
  local p = fork.new():eval "require 'moonfork'.sleep(0.001)":eval [[
    function findings(s)
      for _, f in ipairs(require "moonfork.clone".findings()) do s:write(f.kind, "\n") end
    end]]
  t.ok(not t.ok(p:run "findings"):read "a":find "epoll")
end)

story.test("a worker that has slept can be promoted", function(t)
  local pool = fork.new():eval [[
    n = 0
    function learn() require "moonfork".sleep(0.001) n = n + 1 return n end
  ]]:pool("learn", {max = 1})
  for i = 1, 3 do t.eq(pool(), i) end
  t.eq({pool:promote()}, {true})
  local pid = pool:pids()[1]
  require "moonfork.clone".kill(pid, "KILL")
  t.within(10, function() return pool:pids()[1] ~= pid end)
  t.eq(pool(), 4) -- the next one begins with what the first has learnt
  pool:close()
  fork.loop()
end)

story.test("a waiter of the template's code holds in its clones", function(t)
  local p = fork.new():eval [[
    fork = require "moonfork"
    fork.set_waiter(function(reactor, timeout) waited = true reactor:step(timeout or 1) end)
    fork.sleep(0.001)
    waited = false
    function f(s) fork.sleep(0.001) s:write(tostring(waited)) end
  ]]
  t.eq(t.ok(p:fork():run "f"):read "a", "true")
  p:close()
end)

story.done()
