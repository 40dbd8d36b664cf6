-- Pools (doc/rpc.md): what they tell of themselves. Real processes.
local story = require "story"
local fork = require "moonfork"
local services = require "services"

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  function echo(...) return ... end
  function pid() return clone.pid() end
  function snooze(s) os.execute("sleep " .. s) return clone.pid() end
  function retire() require("moonfork.pool").retire() return clone.pid() end
  function die() clone.kill(clone.pid(), 9) end
]]

local function template()
  return fork.new():eval(FUNCTIONS)
end

local finish = services.finish_pool

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
  t.ok(w.run_time.total > 2 * w.run_time.max, "they overlap")
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

-- ---- on_worker ----

-- A function for on_worker, and the list that it fills: "event word" of each pid, in order.
local function watcher()
  local log = {}
  return function(event, pid, reason)
    assert(math.type(pid) == "integer" and type(reason) == "string")
    log[pid] = log[pid] or {}
    log[pid][#log[pid] + 1] = event .. " " .. reason:match "^[^:]+"
    log[#log + 1] = {event = event, pid = pid, reason = reason}
  end, log
end

-- Every process has started, and has ended once.
local function check_pairs(t, log)
  local pids = {}
  for _, e in ipairs(log) do pids[e.pid] = true end
  for pid in pairs(pids) do
    t.eq(#log[pid], 2)
    t.ok(log[pid][1]:find "^started ")
    t.ok(not log[pid][2]:find "^started ")
  end
end

local function count(log, text)
  local n = 0
  for _, e in ipairs(log) do
    if (e.event .. " " .. e.reason):find(text, 1, true) then n = n + 1 end
  end
  return n
end

story.test("PM-02 on_worker: workers that come and go with the work", function(t)
  local on_worker, log = watcher()
  local pool = template():pool("pid", {max = 1, stop = 0.1, on_worker = on_worker})
  local pid = t.got(pool())
  t.within(10, function() return log[pid] and #log[pid] == 2 end)
  t.eq(log[pid][1], "started calls wait")
  t.eq(log[pid][2], "ended idle")
  finish(t, pool)
  check_pairs(t, log)
end)

story.test("PM-02 on_worker: max_calls, retire, resize, reload, drain", function(t)
  local on_worker, log = watcher()
  local pool = template():pool("pid", {max = 2, idle = 1, max_calls = 1, on_worker = on_worker})
  local pid = t.got(pool())
  t.within(10, function() return log[pid] and log[pid][2] == "recycled max_calls" end)
  t.eq(pool:reload(template()), true)
  t.within(10, function() return count(log, "ended reload") == 1 end)
  t.eq(count(log, "started reload"), 1)
  t.ok(pool:resize(0))
  t.within(10, function() return count(log, "ended resize") == 1 end)
  t.ok(pool:resize(1))
  t.within(10, function() return pool:stats().idle == 1 end)
  finish(t, pool)
  t.eq(count(log, "ended drain"), 1)
  check_pairs(t, log)
  local more, log2 = watcher()
  pool = template():pool("retire", {max = 1, on_worker = more})
  pid = t.got(pool())
  t.within(10, function() return log2[pid] and log2[pid][2] == "recycled retire" end)
  pool:close()
  t.within(10, function() return pool:stats().state == "closed" end)
  check_pairs(t, log2)
end)

story.test("PM-02 on_worker: crashes have their status, and come from init, too", function(t)
  local on_worker, log = watcher()
  local pool = template():pool("die", {max = 1, on_worker = on_worker})
  t.error(select(2, pool()), "CLONE_DIED")
  t.within(10, function() return count(log, "ended crash") == 1 end)
  t.ok(log[#log].reason:find "signal 9")
  finish(t, pool)
  check_pairs(t, log)
  local more, log2 = watcher()
  pool = fork.new():eval(FUNCTIONS):eval "function bad() error 'no luck' end"
    :pool("pid", {max = 1, init = "bad", restart = {burst = 0}, on_worker = more})
  t.error(select(2, pool()), "REMOTE")
  t.within(10, function() return count(log2, "no luck") > 0 end)
  pool:close()
  t.within(10, function() return pool:stats().state == "closed" end)
  t.ok(count(log2, "ended init") > 0)
  check_pairs(t, log2)
end)

story.test("PM-02 on_worker: those that the pool kills", function(t)
  local on_worker, log = watcher()
  local pool = template():pool("snooze", {max = 1, call_timeout = 0.1, on_worker = on_worker})
  t.error(select(2, pool(30)), "TIMEOUT")
  t.within(10, function() return count(log, "killed call_timeout") == 1 end)
  finish(t, pool)
  check_pairs(t, log)
  local more, log2 = watcher()
  pool = fork.new():eval "function grow() local s = ('x'):rep(1 << 22) kept = s return #s end"
    :pool("grow", {max = 1, max_memory = 1 << 20, on_worker = more})
  t.got(pool())
  t.within(20, function() pool(function() end) return count(log2, "recycled max_memory") > 0 end)
  finish(t, pool)
  check_pairs(t, log2)
end)

story.test("PM-02 on_worker: an error in it is on_error's; a pool without it works", function(t)
  local told
  fork.on_error(function(e) told = tostring(e) end)
  local pool = template():pool("pid", {max = 1, on_worker = function() error "my own" end})
  t.got(pool())
  t.within(10, function() return told end)
  t.ok(told:find "my own")
  fork.on_error(nil)
  fork.on_error(function() end)
  finish(t, pool)
  fork.on_error(nil)
  local p <close> = template()
  t.raises("option 'on_worker'", p.pool, p, "pid", {on_worker = 1})
end)

-- ---- several templates ----

local function of(name, more)
  return fork.new():eval(FUNCTIONS):eval("function who(s) if s then os.execute('sleep ' .. s) end "
    .. "return '" .. name .. "' end " .. (more or ""))
end

-- Who answers n calls that need n workers.
local function ask_all(t, pool, n)
  local names, told = {}, 0
  for _ = 1, n do
    pool(0.1, function(err, name)
      t.eq(err, nil)
      names[name], told = (names[name] or 0) + 1, told + 1
    end)
  end
  t.within(20, function() return told == n end)
  return names
end

story.test("PM-04 workers of two templates share the work", function(t)
  local pool = of "A":pool("who", {max = 4, load = 1, start = 0, idle = 4})
  t.within(10, function() return pool:stats().idle == 4 end)
  t.eq(ask_all(t, pool, 4).A, 4)
  t.eq(pool:add(of "B"), true)
  t.eq(pool:stats().templates, 2)
  t.ok(ask_all(t, pool, 4).B)
  local other
  t.ok(pool:add(of "C", function(err, ok) other = {err, ok} end))
  t.within(10, function() return other end)
  t.eq(other[1], nil)
  t.eq(other[2], true)
  local names = ask_all(t, pool, 4)
  t.ok(names.A and names.B and names.C)
  t.eq(pool:reload(of "D"), true)
  t.eq(pool:stats().templates, 1)
  t.eq(ask_all(t, pool, 4).D, 4)
  finish(t, pool)
end)

story.test("PM-04 a template that can't load is refused, and nothing has changed", function(t)
  local pool = of "A":pool("who", {max = 1})
  t.error(select(2, pool:add(fork.new():eval "error 'broken'")), "REMOTE", "broken")
  t.error(select(2, pool:add(of("B", "who = nil"))), "REMOTE", "who")
  t.eq(pool:stats().templates, 1)
  t.eq((t.got(pool())), "A")
  finish(t, pool)
end)

story.test("PM-04 what can't be added", function(t)
  local pool, p = of "A":pool("who", {max = 2}), of "B"
  t.eq(pool:add(p), true)
  t.raises("was given run", pool.add, pool, p)
  t.raises("moonfork.process expected", pool.add, pool, "B")
  t.raises("function expected", pool.add, pool, of "C", 1)
  local q = of "C"
  finish(t, pool)
  t.error(select(2, pool:add(q)), "CLOSED")
  local told
  t.eq(pool:add(q, function(err) told = err end), true)
  t.within(10, function() return told end)
  t.error(told, "CLOSED")
  t.eq((t.got(q:rpc "who"())), "C")
end)

-- The one that is killed is started again with what it had been given; the other one's workers
-- never notice.
story.test("PM-04 one of two templates dies", function(t)
  local b = fork.new_exec():eval(FUNCTIONS):eval "function who(s) os.execute('sleep ' .. s) return 'B' end"
  local pool = of "A":pool("who", {max = 2, load = 1, start = 0, idle = 2})
  t.within(10, function() return pool:stats().idle == 2 end)
  t.eq(pool:add(b), true)
  t.within(10, function() local n = ask_all(t, pool, 2) return n.A == 1 and n.B == 1 end)
  t.ok(b:kill "KILL")
  t.ok(b:wait(10))
  local names = ask_all(t, pool, 2)
  t.eq(names.A, 1)
  t.eq(names.B, 1)
  t.eq(pool:stats().deaths, 0)
  t.ok(pool:resize(0))
  t.within(10, function() return pool:stats().workers == 0 end)
  t.ok(pool:resize(2))
  t.within(10, function() local n = ask_all(t, pool, 2) return n.A == 1 and n.B == 1 end)
  t.eq(pool:stats().template_starts, 1)
  finish(t, pool)
end)

-- A call right behind resize(0) was given to a worker that was about to leave.
story.test("PM-02 resize(0) holds calls from the next one on", function(t)
  local pool = of "A":pool("who", {max = 1, idle = 1})
  t.eq(pool(0), "A")
  t.eq(pool:stats().idle, 1)
  t.ok(pool:resize(0))
  local name
  pool(0, function(_, v) name = v end)
  t.eq(pool:stats().queued, 1)
  t.within(10, function() return pool:stats().workers == 0 end)
  t.eq(name, nil)
  t.ok(pool:resize(1))
  t.within(10, function() return name == "A" end)
  finish(t, pool)
end)

-- It said that workers had been killed, and there was none.
story.test("PM-02 a drain without time, of a pool that has nothing to do", function(t)
  for _, options in ipairs {{max = 1}, {max = 0}} do
    local pool = of "A":pool("who", options)
    local ok, report = pool:drain(0)
    t.eq(ok, true)
    t.eq(report, {answered = 0, dropped = 0, interrupted = 0, killed = 0})
    pool:close()
  end
  local pool = of "A":pool("who", {max = 0})
  local code
  pool(0, function(err) code = err.code end)
  local ok, err, report = pool:drain(0)
  t.eq({ok, err.code, report.dropped, report.killed}, {nil, "TIMEOUT", 1, 0})
  t.match(err.message, "calls were given up")
  t.eq(code, "TIMEOUT")
  pool:close()
end)

-- B's workers can't start any more: it fails, is told of, and A does the work.
story.test("PM-04 one of two templates fails", function(t)
  local errors, file = {}, os.tmpname()
  os.remove(file)
  local pool = of("A", "function begin() end"):pool("who", {max = 2, load = 1, start = 0, idle = 2,
    init = "begin", restart = {burst = 0},
    on_error = function(err) errors[#errors + 1] = tostring(err) end})
  t.within(10, function() return pool:stats().idle == 2 end)
  t.eq(pool:add(of("B", ("function begin() if io.open(%q) then error 'gone bad' end end")
    :format(file))), true)
  assert(io.open(file, "w")):close()
  t.ok(pool:resize(0))
  t.within(10, function() return pool:stats().workers == 0 end)
  t.ok(pool:resize(2))
  t.eq(ask_all(t, pool, 4).A, 4)
  t.within(10, function() return pool:stats().templates == 1 end)
  t.eq(pool:stats().state, "running")
  t.within(10, function() return #errors == 2 end)
  t.ok(errors[2]:find "a template of the pool has failed, 1 left; the last reason: .*gone bad")
  finish(t, pool)
  os.remove(file)
end)

-- ---- the report of a drain ----

story.test("PM-03 drain tells what it finished", function(t)
  local pool = template():pool("snooze", {max = 1, load = 1})
  local n = 0
  for _ = 1, 3 do pool(0.05, function(err) t.eq(err, nil) n = n + 1 end) end
  local ok, report = pool:drain()
  t.eq(ok, true)
  t.eq(n, 3)
  t.eq(report.answered, 3)
  t.eq(report.dropped + report.interrupted + report.killed, 0)
  pool:close()
end)

story.test("PM-03 drain tells what it could not finish", function(t)
  local pool = template():pool("snooze", {max = 1, load = 2})
  local codes = {}
  for i = 1, 4 do
    pool(i == 1 and 0.01 or 60, function(err) codes[i] = err and err.started or "ok" end)
  end
  t.within(10, function() return codes[1] end)
  local told, ok, report
  t.ok(pool:drain(0.1, function(...) told, ok, report = ... end))
  t.within(10, function() return told end)
  t.error(told, "TIMEOUT")
  t.eq(ok, nil)
  t.eq(report.answered, 0)
  t.eq(report.interrupted, 1)
  t.eq(report.dropped, 2)
  t.eq(report.killed, 1)
  t.eq(codes[2], "unknown")
  t.eq(codes[3], "no")
  t.eq(codes[4], "no")
  pool:close()
end)

story.test("PM-03 drain without a callback gives the report behind the error, too", function(t)
  local pool = template():pool("snooze", {max = 1, load = 1})
  pool(60, function() end)
  t.within(10, function() return pool:stats().running == 1 end)
  local ok, err, report = pool:drain(0)
  t.eq(ok, nil)
  t.error(err, "TIMEOUT")
  t.eq(report.interrupted, 1)
  t.eq(report.killed, 1)
  ok, err, report = pool:drain(0)
  t.eq(ok, nil)
  t.error(err, "CLOSED")
  t.eq(report.killed, 0)
  pool:close()
end)

story.done()
