-- Pools (doc/rpc.md): what they tell of themselves. Real processes.
local story = require "story"
local fork = require "moonfork"

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  function echo(...) return ... end
  function pid() return clone.pid() end
  function snooze(s) os.execute("sleep " .. s) return clone.pid() end
  function die() clone.kill(clone.pid(), 9) end
]]

local function template()
  return fork.new():eval(FUNCTIONS)
end

-- Ends it and waits for that.
local function finish(t, pool)
  t.got(pool:drain(10))
  pool:close()
  t.eq(pool:stats().workers, 0)
end

-- One worker, three calls: each waits for those before it, and runs for itself.
story.test("PM-01 time in the queue and time in a worker are told apart", function(t)
  local pool = template():pool("snooze", {max = 1, load = 3, idle = 1})
  t.within(10, function() return pool:stats().idle == 1 end)
  local n = 0
  for _ = 1, 3 do pool(0.1, function(err) t.eq(err, nil) n = n + 1 end) end
  t.within(10, function() return n == 3 end)
  local s = pool:stats()
  t.ok(s.run_time.p50 >= 0.1 and s.run_time.p50 < s.queue_time.max)
  t.ok(s.queue_time.max >= 0.2 and s.queue_time.max < s.p99 * 33 / 32)
  for _, times in ipairs {s.queue_time, s.run_time} do
    t.ok(times.p50 <= times.p90 and times.p90 <= times.p99 and times.p99 <= times.max)
  end
  t.eq(#s.per_worker, 1)
  local w = s.per_worker[1]
  t.eq(w.pid, pool:pids()[1])
  t.eq(w.calls, 3)
  t.eq(w.running, 0)
  t.ok(w.run_time.total >= 0.3 and w.run_time.max <= w.run_time.total)
  t.eq(w.run_time.p50, s.run_time.p50)
  finish(t, pool)
  s = pool:stats()
  t.eq(#s.per_worker, 0)
  t.ok(s.run_time.max >= 0.1, "kept when the pool is closed")
end)

story.test("PM-01 asynchronous calls run beside each other", {needs = "luv"}, function(t)
  local pool = fork.new():eval [[
    function later(done, ms)
      local uv = require "luv"
      local timer = uv.new_timer()
      timer:start(ms, 0, function() timer:close() done() end)
    end
  ]]:pool("later", {max = 1, load = 10, async = true})
  local n = 0
  for _ = 1, 5 do pool(200, function(err) t.eq(err, nil) n = n + 1 end) end
  t.within(10, function() local w = pool:stats().per_worker[1] return w and w.running == 5 end)
  t.within(10, function() return n == 5 end)
  local w = pool:stats().per_worker[1]
  t.eq(w.calls, 5)
  t.eq(w.running, 0)
  t.ok(w.run_time.total >= 1, "five times 0.2 seconds")
  finish(t, pool)
end)

story.test("PM-01 statistics of a pool that never came to be have all fields", function(t)
  local pool = fork.new():eval "error 'no'":pool "echo"
  local _, err = pool(1)
  t.error(err, "REMOTE")
  pool:close()
  local s = pool:stats()
  for _, times in ipairs {s.queue_time, s.run_time} do
    for _, key in ipairs {"p50", "p90", "p99", "max"} do t.eq(type(times[key]), "number") end
  end
  t.eq(#s.per_worker, 0)
end)

story.done()
