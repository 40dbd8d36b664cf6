-- A call that waits for a process polls its socket itself, and the loop does not watch it
-- meanwhile (src/parent/process/attend.c). A wait slept for ever where the process ended
-- later than its socket; whatever the host waits for next, no zombie may stay and nobody may
-- miss an end.
local story = require "story"
local kit = require "testkit"
local fork = require "moonfork"

local CODE = [[
  local kit = require "testkit"
  function at_once() end
  function later(s) s:close() kit.msleep(60) os.exit(3) end
  function watches(s) -- looks at the parent's children while the parent only sleeps
    local n
    s:read(1)
    kit.msleep(200)
    for _ = 1, 300 do
      n = 0
      for _, p in pairs(kit.processes()) do
        if p.ppid == kit.getppid() and p.state == "Z" then n = n + 1 end
      end
      if n == 0 then break end
      kit.msleep(10)
    end
    s:write(n == 0 and "none" or "some")
  end
  function rests(s) s:write "r" s:read(1) end
]]

local function zombies()
  local n = 0
  for _, p in pairs(kit.processes()) do
    if p.ppid == kit.getpid() and p.state == "Z" then n = n + 1 end
  end
  return n
end

story.test("a process that ends after its socket is waited for", function(t)
  local template <close> = fork.new_exec():eval(CODE)
  for _ = 1, 3 do
    local p = template:fork()
    local s = t.ok(p:run "later")
    t.eq(s:read(1), nil)
    s:close()
    t.eq(t.ok(p:wait()).code, 3)
    t.eq(p:wait().code, 3)
  end
end)

story.test("no zombie stays while the host sleeps in another call", function(t)
  local template <close> = fork.new_exec():eval(CODE)
  local sleepers = {
    read = function(watcher)
      watcher:write "x"
      t.eq(watcher:read "a", "none")
    end,
    sleep = function() fork.sleep(0.2) end,
    ["the wait for another one"] = function()
      local other <close> = template:fork()
      local s <close> = t.ok(other:run "later") -- luacheck: ignore
      t.eq(other:wait().code, 3)
    end,
  }
  for name, sleep in pairs(sleepers) do
    local looks <close> = template:fork()
    local watcher <close> = t.ok(looks:run "watches")
    local p = template:fork()
    local s <close> = t.ok(p:run "later")
    t.eq(s:read(1), nil)
    sleep(watcher)
    t.within(10, function() fork.step(0.01) return zombies() == 0 end, name)
    t.eq(p:wait().code, 3, name)
    p:close()
    looks:kill "KILL"
    t.ok(looks:wait())
  end
end)

story.test("a callback hears of the end of a process that was run by a waiting call", function(t)
  local template <close> = fork.new_exec():eval(CODE)
  local p <close> = template:fork()
  local s <close> = t.ok(p:run "rests")
  t.eq(s:read(1), "r")
  local status
  p:on_exit(function(st) status = st end)
  s:write "x"
  t.within(10, function() fork.step(0.1) return status end)
  t.eq(status.code, 0)
end)

story.test("a process is killed, dropped or asked for by a timed wait", function(t)
  local template <close> = fork.new_exec():eval(CODE)
  local p <close> = template:fork()
  local s <close> = t.ok(p:run "rests")
  t.eq(s:read(1), "r")
  t.eq((p:wait(0.02)), nil)
  t.ok(p:kill "KILL")
  t.eq(p:wait().signal, 9)
  do
    local dropped = template:fork()
    local d = t.ok(dropped:run "rests")
    d:close()
  end
  collectgarbage()
  collectgarbage()
  t.within(10, function() fork.step(0.01) return zombies() == 0 end)
end)

story.test("one that dies before its function has an error, and others go on", function(t)
  local template <close> = fork.new_exec():eval(CODE)
  for _ = 1, 2 do
    local p <close> = template:fork()
    local s, err = p:run "missing"
    t.eq(s, nil)
    t.match(err, "missing")
    local q <close> = template:fork()
    local r <close> = t.ok(q:run "at_once") -- luacheck: ignore
    t.eq(q:wait().code, 0)
  end
end)

story.done()
