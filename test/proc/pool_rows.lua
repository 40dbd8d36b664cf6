-- p:pool (doc/lua-api.md), row by row of AnyEvent::Fork::Pool: workers that come and go, the queue,
-- deaths, retirement, limits, map. Real processes.
local story = require "story"
local fork = require "moonfork"
local services = require "services"
local kit = story.kit
local templates = require "templates"

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  local pool = require "moonfork.pool"
  count = 0
  function echo(...) return ... end
  function pid() return clone.pid() end
  function snooze(s, ...) os.execute("sleep " .. s) return clone.pid(), ... end
  function die() clone.kill(clone.pid(), 9) end
  function numbered() count = count + 1 return clone.pid(), count end
  function retire() pool.retire() pool.retire() return clone.pid() end
  function grow(n) kept = kept or {} for i = 1, n do kept[#kept + 1] = {i} end return clone.pid() end
]]

local function template()
  return fork.new():eval(FUNCTIONS)
end

local finish = services.finish_pool
local collect = services.collect

story.test("PO-01 the process becomes the pool's template", function(t)
  local p = template()
  local pool = p:pool("pid", {max = 2})
  t.raises("was given run", p.fork, p)
  t.raises("was given run", p.pool, p, "pid")
  local a = t.got(pool())
  t.ok(a ~= p:pid())
  finish(t, pool)
  p:close()
end)

story.test("PO-02 options are checked by name", function(t)
  local p <close> = template()
  t.raises("unknown option 'min' %(valid: async, backoff, call_timeout, grace, handles, idle",
    p.pool, p, "pid", {min = 1})
  t.raises("option 'restart': table expected", p.pool, p, "pid", {restart = 1})
  t.raises("unknown option 'bursts'", p.pool, p, "pid", {restart = {bursts = 1}})
  t.raises("option 'backoff': table expected, got number", p.pool, p, "pid", {backoff = 1})
  t.raises("unknown option 'most' %(valid: max, min%)", p.pool, p, "pid", {backoff = {most = 1}})
  t.raises("option 'backoff.min': a non%-negative number of seconds expected", p.pool, p, "pid",
    {backoff = {min = -1}})
  t.raises("option 'backoff': min %(2%) is more than max %(1%)", p.pool, p, "pid",
    {backoff = {min = 2, max = 1}})
  t.raises("option 'restart.burst': a whole number from 0 to 1000 expected, got 1001", p.pool, p, "pid",
    {restart = {burst = 1001}})
  t.raises("option 'max_memory': a whole number from 1 expected, got 0", p.pool, p, "pid", {max_memory = 0})
  t.raises("option 'max_memory': a whole number from 1 to 9223372036854775807 expected, got 1e%+20", p.pool, p, "pid",
    {max_memory = 1e20})
  local pool = p:pool "echo"
  t.eq(pool(1), 1)
  t.eq(pool:stats().max, fork.ncpu())
  t.eq(pool:stats().state, "running")
  finish(t, pool)
end)

story.test("PO-03 the first call starts a worker at once; the least loaded is next", function(t)
  local pool = template():pool("snooze", {max = 2, load = 2, start = 0, idle = 2})
  t.within(5, function() return pool:stats().idle == 2 end)
  local answers = collect(pool, 2, 0.1)
  t.within(5, function() return answers.n == 2 end)
  t.ok(answers[1][2] ~= answers[2][2], "one call each")
  finish(t, pool)
  pool = template():pool("pid", {max = 1, start = 10})
  local t0 = kit.now()
  t.ok(pool())
  t.ok(kit.now() - t0 < 9)
  finish(t, pool)
end)

story.test("PO-03 the queue is first in, first out", function(t)
  local pool, order = template():pool("echo", {max = 1, load = 1}), {}
  for i = 1, 100 do pool(i, function(_, v) order[#order + 1] = v end) end
  fork.loop()
  for i = 1, 100 do t.eq(order[i], i) end
  finish(t, pool)
end)

story.test("PO-04 idle workers are started at creation; more than max is an error", function(t)
  local pool = template():pool("echo", {max = 3, idle = 2})
  t.within(5, function() return pool:stats().idle == 2 end)
  finish(t, pool)
  local p <close> = template()
  t.raises("option 'idle': 3 is more than max %(2%)", p.pool, p, "echo", {max = 2, idle = 3})
end)

story.test("PO-05 it grows by one worker per start seconds while calls wait", function(t)
  local pool = template():pool("snooze", {max = 4, load = 1, start = 0.2})
  local answers = collect(pool, 12, 0.4)
  local seen, t0 = {}, kit.now()
  t.within(10, function()
    local n = pool:stats().workers
    seen[n] = seen[n] or kit.now() - t0
    return answers.n == 12
  end)
  t.ok(seen[1] and seen[1] < 0.15)
  for n = 2, 4 do
    t.ok(seen[n], n)
    t.ok(seen[n] > (n - 1) * 0.2 - 0.08, seen[n])
  end
  t.eq(pool:stats().started, 4)
  finish(t, pool)
end)

story.test("PO-06 one idle worker is stopped per stop seconds, down to idle", function(t)
  for _, idle in ipairs {0, 2} do
    local pool = template():pool("snooze", {max = 3, load = 1, start = 0, stop = 0.2, idle = idle})
    local answers = collect(pool, 3, 0.2)
    t.within(10, function() return answers.n == 3 end)
    t.eq(pool:stats().started, 3)
    t.within(10, function() return pool:stats().workers == idle end)
    kit.msleep(300)
    fork.step(0)
    t.eq(pool:stats().workers, idle)
    t.eq(pool:stats().deaths, 0)
    finish(t, pool)
  end
end)

story.test("PO-07 zeros are honoured, or refused by name", function(t)
  local p <close> = template()
  t.raises("option 'load': a whole number from 1", p.pool, p, "echo", {load = 0})
  t.raises("option 'call_timeout': a positive number", p.pool, p, "echo", {call_timeout = 0})
  t.raises("option 'max_calls': a whole number from 1", p.pool, p, "echo", {max_calls = 0})
  local pool = template():pool("snooze", {max = 3, load = 1, start = 0})
  local answers = collect(pool, 3, 0.3)
  t.within(2, function() return pool:stats().workers == 3 end)
  t.within(5, function() return answers.n == 3 end)
  finish(t, pool)
  pool = template():pool("echo", {max = 0})
  local value
  pool(1, function(_, v) value = v end)
  fork.step(0.1)
  t.eq(value, nil)
  t.eq(pool:stats().workers, 0)
  t.ok(pool:resize(1))
  t.within(5, function() return value == 1 end)
  finish(t, pool)
  pool = template():pool("snooze", {max = 1, load = 1, queue_max = 0})
  answers = collect(pool, 2, 0.1)
  t.within(5, function() return answers.n == 2 end)
  local refused = (answers[1][1] and 1 or 0) + (answers[2][1] and 1 or 0)
  t.ok(refused >= 1)
  finish(t, pool)
end)

story.test("PO-08 a retired worker finishes what it has and gets no more", function(t)
  local pool = template():pool("retire", {max = 1, load = 4})
  local pids, answers = {}, collect(pool, 8)
  t.within(10, function() return answers.n == 8 end)
  for i = 1, 8 do
    t.eq(answers[i][1], nil)
    pids[answers[i][2]] = true
  end
  t.ok(next(pids, next(pids)), "several workers did it")
  t.within(5, function() return pool:stats().retired >= 1 end)
  t.eq(pool:stats().deaths, 0)
  finish(t, pool)
end)

story.test("PO-09 a worker that dies: its call is told, on_error knows, it is replaced", function(t)
  local told = {}
  local pool = template():pool("die", {max = 1, load = 1, on_error = function(err)
    told[#told + 1] = err end})
  local _, err = pool()
  t.error(err, "CLONE_DIED")
  t.eq(err.started, "unknown")
  t.eq(err.exit.signal, 9)
  t.within(5, function() return told[1] end)
  t.error(told[1], "CLONE_DIED")
  t.eq(told[1].exit.signal, 9)
  _, err = pool()
  t.error(err, "CLONE_DIED")
  local stats = pool:stats()
  t.eq(stats.deaths, 2)
  t.eq(stats.last[1].exit.signal, 9)
  t.ok(stats.last[1].pid)
  t.ok(stats.last[1].reason)
  finish(t, pool)
end)

story.test("PO-09 calls of a dead worker that had not begun run elsewhere or say so", function(t)
  local path = t:file("ran", "")
  local pool = fork.new():eval([[
    function f(path, i)
      local file = io.open(path, "a") file:write(i, "\n") file:close()
      if i % 10 == 3 then require "moonfork.clone".kill(require "moonfork.clone".pid(), 9) end
      return i
    end
  ]]):pool("f", {max = 2, load = 4, start = 0, restart = {burst = 100, period = 1}})
  local outcome, n = {}, 0
  for i = 1, 60 do
    pool(path, i, function(err, v)
      t.ok(outcome[i] == nil)
      outcome[i], n = err or v, n + 1
    end)
  end
  t.within(15, function() return n == 60 end)
  local ran = {}
  for line in t.read(path):gmatch "%d+" do
    local i = tonumber(line)
    t.ok(not ran[i], "ran twice")
    ran[i] = true
  end
  for i = 1, 60 do
    if outcome[i] == i then
      t.ok(ran[i])
    else
      t.error(outcome[i], "CLONE_DIED")
      t.ok(outcome[i].started == "unknown" or not ran[i], i)
    end
  end
  for i = 3, 60, 10 do t.error(outcome[i], "CLONE_DIED") end
  finish(t, pool)
end)

story.test("a call marked idempotent runs again elsewhere", function(t)
  local path = t:file "once"
  local pool = fork.new():eval([[
    function f(path, always)
      local clone = require "moonfork.clone"
      local file = io.open(path, "r")
      if file and not always then file:close() return "second" end
      io.open(path, "w"):close()
      clone.kill(clone.pid(), 9)
    end
  ]]):pool("f", {max = 1})
  t.eq(pool:with {idempotent = true} (path), "second")
  t.eq(pool:stats().retried, 1)
  local _, err = pool:with {idempotent = true} (path, true)
  t.error(err, "CLONE_DIED")
  finish(t, pool)
end)

story.test("a crash loop fails the pool, every call is answered, reload mends it", function(t)
  local told = {}
  local pool = fork.new():eval [[
    function begin() error("no start", 0) end function echo(...) return ... end
  ]]:pool("echo", {init = "begin", restart = {burst = 3, period = 10},
    on_error = function(err) told[#told + 1] = err end})
  local answers = collect(pool, 20, "x")
  t.within(10, function() return answers.n == 20 end)
  for i = 1, 20 do t.ok(answers[i][1], i) end
  t.eq(pool:stats().state, "failed")
  t.ok(pool:stats().started <= 5, pool:stats().started)
  local _, err = pool(1)
  t.ok(err)
  t.eq(err.started, "no")
  t.ok(#told >= 1)
  t.got(pool:reload(template():eval "function begin() end"))
  t.eq(pool(5), 5)
  t.eq(pool:stats().state, "running")
  finish(t, pool)
end)

story.test("PO-10 close lets queued calls run, then ends", function(t)
  local closed, n = 0, 0
  local pool = template():pool("echo", {max = 2, on_close = function() closed = closed + 1 end})
  for i = 1, 200 do pool(i, function(err) t.ok(not err) n = n + 1 end) end
  pool:close()
  local _, err = pool(1)
  t.error(err, "CLOSED")
  t.within(10, function() return closed == 1 end)
  t.eq(n, 200)
  t.eq(pool:stats().state, "closed")
end)

story.test("PO-10 a pool that is collected finishes its calls and ends", function(t)
  local closed, n = 0, 0
  do
    local pool = template():pool("echo", {max = 1, on_close = function() closed = closed + 1 end})
    for i = 1, 20 do pool(i, function(err) t.ok(not err) n = n + 1 end) end
  end
  t.collect()
  t.within(10, function() return closed == 1 end)
  t.eq(n, 20)
end)

story.test("PO-12 the default of max is the number of usable processors", function(t)
  local pool = template():pool "echo"
  t.eq(pool:stats().max, fork.ncpu())
  finish(t, pool)
end)

story.test("PO-13 a full queue refuses", function(t)
  local pool = template():pool("snooze", {max = 1, load = 1, queue_max = 5})
  t.ok(pool(0))
  local answers = collect(pool, 10, 0.05)
  t.within(5, function() return answers.n == 10 end)
  local refused = 0
  for i = 1, 10 do
    if answers[i][1] then
      t.error(answers[i][1], "LIMIT")
      t.eq(answers[i][1].started, "no")
      refused = refused + 1
    end
  end
  t.eq(refused, 4)
  t.eq(pool:stats().refused, 4)
  finish(t, pool)
end)

-- With queue_max = 0 and nothing kept every call was refused, though nothing had begun yet.
story.test("PO-13 what a worker about to start will take is not in the queue", function(t)
  for _, case in ipairs {
    -- max, load, queue_max, calls at once, of which are refused
    {1, 1, 0, 3, 2}, {1, 2, 0, 3, 1}, {1, 1, 2, 5, 2}, {2, 1, 0, 3, 2}, {0, 2, 0, 2, 2},
  } do
    local pool = template():pool("snooze", {max = case[1], load = case[2],
      queue_max = case[3]})
    local answers = collect(pool, case[4], 0.05)
    t.within(5, function() return answers.n == case[4] end)
    local refused = 0
    for i = 1, case[4] do
      if answers[i][1] then
        t.error(answers[i][1], "LIMIT", "queue_max")
        refused = refused + 1
      end
    end
    t.eq(refused, case[5], table.concat(case, " "))
    finish(t, pool)
  end
  local pool = template():pool("snooze", {max = 2, load = 1, queue_max = 0, start = 0})
  local answers = {n = 0}
  t.within(5, function() -- one call after the other, as places come
    if #answers < 2 then
      answers[#answers + 1] = pool(0.3, function(err)
        t.eq(err, nil)
        answers.n = answers.n + 1
      end)
      t.within(5, function() return pool:stats().queued == 0 end)
    end
    return answers.n == 2
  end)
  t.eq(pool:stats().started, 2, "the second call had a worker of its own")
  finish(t, pool)
end)

story.test("PO-13 call_timeout kills the worker and replaces it", function(t)
  local pool = template():pool("snooze", {max = 1, load = 1, call_timeout = 0.3})
  local pid = t.got(pool(0))
  local _, err = pool(5)
  t.error(err, "TIMEOUT")
  local other = t.got(pool(0))
  t.ok(other ~= pid)
  t.within(5, function() return not t.alive(pid) end)
  t.eq(pool:stats().timeouts, 1)
  finish(t, pool)
end)

story.test("PO-13 a queued call can be cancelled and never runs", function(t)
  local path = t:file("ran", "")
  local pool = fork.new():eval([[
    function f(path, i) os.execute "sleep 0.1"
      local file = io.open(path, "a") file:write(i, "\n") file:close() return i end
  ]]):pool("f", {max = 1, load = 1})
  local outcome = {}
  local function done(i) return function(err, v) outcome[i] = err and err.code or v end end
  pool(path, 1, done(1))
  local second = pool(path, 2, done(2))
  pool(path, 3, done(3))
  t.eq(second:cancel(), true)
  fork.loop()
  t.eq(outcome, {1, "CANCELLED", 3})
  t.eq(t.read(path), "1\n3\n")
  t.eq(pool:stats().cancelled, 1)
  finish(t, pool)
end)

story.test("PO-13 stats counts and measures", function(t)
  local pool = template():pool("echo", {max = 2})
  for i = 1, 100 do t.eq(pool(i), i) end
  local stats = pool:stats()
  t.eq(stats.done, 100)
  t.eq(stats.calls, 100)
  t.eq(stats.failed, 0)
  t.eq(stats.queued, 0)
  t.eq(stats.running, 0)
  t.ok(stats.p50 > 0 and stats.p50 <= stats.p99 and stats.p99 < 5)
  for _, key in ipairs {"workers", "idle", "started", "deaths"} do
    t.eq(math.type(stats[key]), "integer", key)
  end
  finish(t, pool)
end)

story.test("max_calls recycles workers and loses no call", function(t)
  local pool = template():pool("numbered", {max = 2, max_calls = 20})
  local pids, answers = {}, collect(pool, 200)
  t.within(10, function() return answers.n == 200 end)
  local npids = 0
  for i = 1, 200 do
    t.eq(answers[i][1], nil)
    t.ok(answers[i][3] <= 20)
    if not pids[answers[i][2]] then pids[answers[i][2]], npids = true, npids + 1 end
  end
  t.ok(npids >= 10, npids)
  t.eq(pool:stats().deaths, 0)
  finish(t, pool)
end)

story.test("max_memory recycles a worker that has grown", function(t)
  local pool = template():pool("grow", {max = 1, max_memory = 8 << 20})
  local first = t.got(pool(1))
  local changed = t.within(10, function()
    local pid = t.got(pool(20000))
    return pid ~= first
  end)
  t.ok(changed)
  t.ok(pool:stats().recycled >= 1)
  finish(t, pool)
end)

story.test("resize to 0 and back loses nothing", function(t)
  local pool, n = template():pool("echo", {max = 2, load = 2}), 0
  for i = 1, 300 do
    pool(i, function(err, v) t.ok(not err and v == i) n = n + 1 end)
    if i % 50 == 0 then
      t.ok(pool:resize(i % 100 == 0 and 2 or 0))
      fork.step(0.01)
    end
  end
  t.raises("#1 to 'resize' %(a whole number from 0 to 100000 expected, got 1e%+18%)", pool.resize, pool, 1e18)
  t.ok(pool:resize(2))
  t.within(10, function() return n == 300 end)
  finish(t, pool)
end)

story.test("reload exchanges the template under load; one that fails changes nothing", function(t)
  local pool = fork.new():eval "function f() return 1 end":pool("f", {max = 2})
  t.eq(pool(), 1)
  local failed, answered, sent, stop = 0, 0, 0, false
  local function again(err)
    if err then failed = failed + 1 end
    answered = answered + 1
    if not stop then
      sent = sent + 1
      pool(again)
    end
  end
  for _ = 1, 8 do again() end
  answered = answered - 8
  for i = 2, 7 do
    t.got(pool:reload(fork.new():eval(("function f() return %d end"):format(i))))
    t.eq(pool(), i)
  end
  local ok, err = pool:reload(fork.new():require "no.such.module")
  t.eq(ok, nil)
  t.error(err, "REMOTE", "no%.such%.module")
  t.eq(pool(), 7)
  stop = true
  t.within(10, function() return answered == sent end)
  t.eq(failed, 0)
  finish(t, pool)
end)

story.test("the last of several reloads counts, the others are cancelled", function(t)
  local pool = fork.new():eval "function f() return 1 end":pool("f", {max = 2})
  t.eq(pool(), 1)
  local order = {}
  for i = 2, 5 do
    pool:reload(fork.new():eval(("function f() return %d end"):format(i)), function(err, ok)
      order[#order + 1] = {i, err and err.code or ok, err and err.message}
    end)
  end
  t.eq(#order, 0)
  t.within(10, function() return #order == 4 end)
  for i = 1, 4 do t.eq(order[i][1], i + 1) end
  for i = 1, 3 do
    t.eq(order[i][2], "CANCELLED")
    t.match(order[i][3], "later reload")
  end
  t.eq(order[4][2], true)
  t.eq(pool(), 5)
  t.eq(pool:stats().reloads, 1)
  finish(t, pool)
end)

-- A process that is not ready before go() is called.
local function late()
  local r, w = kit.pipe()
  local p = fork.new():send_fd(r):eval [[
    local handle = require "moonfork.clone".run_args()
    handle:read(1)
    handle:close()
  ]]
  kit.close(r)
  return p, function() kit.close(w) end
end

story.test("a reload that takes long is replaced, and one that is refused keeps its process", function(t)
  local pool = fork.new():eval "function f() return 1 end":pool("f", {max = 1})
  t.eq(pool(), 1)
  local first
  local slow, go = late()
  pool:reload(slow, function(err) first = err end)
  t.got(pool:reload(fork.new():eval "function f() return 2 end"))
  t.error(first, "CANCELLED")
  t.eq(pool(), 2)
  go()
  t.got(pool:drain(10))
  local p = fork.new():eval "function g() end"
  local ok, err = pool:reload(p)
  t.eq(ok, nil)
  t.error(err, "CLOSED")
  t.got(p:run "g")
  t.eq(t.status(p).code, 0)
end)

story.test("a reload whose coroutine is closed is taken back, the ones after it are not", function(t)
  local pool = fork.new():eval "function f() return 1 end":pool("f", {max = 1})
  t.eq(pool(), 1)
  local last
  local slow, go = late()
  pool:reload(slow, function() end)
  local thread
  fork.set_waiter(function(reactor, timeout)
    if coroutine.running() == thread then return coroutine.yield() end
    fork.socket.poll({reactor}, timeout)
  end)
  thread = coroutine.create(function() return pool:reload(fork.new():eval "function f() return 2 end") end)
  coroutine.resume(thread)
  coroutine.close(thread)
  fork.set_waiter(nil)
  pool:reload(fork.new():eval "function f() return 3 end", function(err) last = err or true end)
  t.within(10, function() return last end)
  t.eq(last, true)
  t.eq(pool(), 3)
  go()
  finish(t, pool)
end)

story.test("drain with a time limit kills what is left", function(t)
  local pool = template():pool("snooze", {max = 1, load = 1, grace = 0.1})
  t.ok(pool(0))
  local outcome
  pool(30, function(err) outcome = err end)
  fork.step(0.05)
  local t0 = kit.now()
  local ok, err = pool:drain(0.3)
  t.ok(kit.now() - t0 < 25) -- of 30
  t.eq(ok, nil)
  t.error(err, "TIMEOUT")
  t.ok(outcome)
  pool:close()
  t.within(5, function() return pool:stats().state == "closed" end)
end)

story.test("a template that dies is started again", function(t)
  local p = template()
  local pool = p:pool("pid", {max = 1, load = 1})
  local first = t.got(pool())
  kit.kill(t.ok(p:pid()), 9)
  kit.kill(first, 9)
  t.within(10, function()
    local pid = pool()
    return pid and pid ~= first
  end)
  t.ok(pool:stats().template_starts >= 1)
  finish(t, pool)
  p:close()
end)

story.test("map gives results in input order, from lists and iterators", function(t)
  local pool = template():pool("snooze", {max = 3, load = 1, start = 0})
  local indices, values = {}, {}
  for i, err, _, v in pool:map {1} do t.eq({i, err, v}, {1, nil, nil}) end
  finish(t, pool)
  pool = fork.new():eval [[
    function f(n) if n % 7 == 0 then error("seven", 0) end
      os.execute("sleep " .. (n % 3) / 50) return n * n, n end
  ]]:pool("f", {max = 3, load = 1, start = 0})
  local n = 0
  local function next_item() n = n + 1 return n <= 30 and n or nil end
  -- One item in each message: so many messages are read ahead.
  for i, err, square, same in pool:map(next_item, {chunk = 1}) do
    indices[#indices + 1] = i
    values[#values + 1] = err and err.message or square
    t.ok(n - i <= 2 * 3 + 1, "reads ahead too far")
    if not err then t.eq(same, i) end
  end
  for i = 1, 30 do
    t.eq(indices[i], i)
    t.eq(values[i], i % 7 == 0 and "seven" or i * i)
  end
  t.eq(#indices, 30)
  for i in pool:map {} do t.fail("an empty list gave %s", tostring(i)) end
  finish(t, pool)
end)

story.test("map left early cancels what nobody wants", function(t)
  local pool = template():pool("echo", {max = 2})
  for i, _, v in pool:map {5, 6, 7, 8, 9, 10} do
    t.eq(v, i + 4)
    if i == 2 then break end
  end
  t.eq(pool("x"), "x")
  finish(t, pool)
end)

story.test("map works in coroutines under a waiter", function(t)
  local pool, sums, threads = template():pool("echo", {max = 2}), {}, {}
  fork.set_waiter(function()
    if coroutine.isyieldable() then coroutine.yield() else kit.msleep(1) end
  end)
  for k = 1, 5 do
    threads[k] = coroutine.create(function()
      local sum = 0
      for _, err, v in pool:map {1, 2, 3, 4, 5} do
        t.ok(not err)
        sum = sum + v
      end
      sums[k] = sum
    end)
  end
  t.within(10, function()
    for k, thread in pairs(threads) do
      t.ok(coroutine.resume(thread))
      if coroutine.status(thread) == "dead" then threads[k] = nil end
    end
    return not next(threads)
  end)
  fork.set_waiter(nil)
  t.eq(sums, {15, 15, 15, 15, 15})
  finish(t, pool)
end)

story.test("events of all workers reach on_event; asynchronous pools", {needs = "luv"}, function(t)
  local events = 0
  local pool = fork.new():eval [[
    function f(done, i) require "moonfork.rpc".event(i)
      local uv = require "luv" local timer = uv.new_timer()
      timer:start(20, 0, function() timer:close() done(i) end) end
  ]]:pool("f", {max = 2, load = 16, async = true, on_event = function() events = events + 1 end})
  local n = 0
  for i = 1, 64 do pool(i, function(err, v) t.ok(not err and v == i) n = n + 1 end) end
  t.within(10, function() return n == 64 end)
  t.eq(events, 64)
  finish(t, pool)
end)

story.test("a template that is started again has all that the first one had", function(t)
  local pool, first
  local forked_from = templates.started_by(function()
    pool = fork.new_exec {env = {STORY_A = "1", STORY_B = "2", STORY_C = "3"},
    cwd = "/", name = "again"}:setenv("STORY_E", "5"):eval("x = ...", "argument"):eval [[
    function f()
      local kit = require "testkit"
      return {os.getenv "STORY_A", os.getenv "STORY_B", os.getenv "STORY_C", os.getenv "STORY_E",
        x, kit.getcwd(), kit.exec_id()}
    end
  ]]:pool("f", {max = 1, backoff = {min = 0.01, max = 0.05}})
    first = t.got(pool())
  end)
  kit.kill(forked_from, kit.SIGKILL)
  kit.kill(pool:pids()[1], kit.SIGKILL)
  local again
  t.within(10, function()
    again = pool()
    return again and again[7] ~= first[7]
  end, "a worker of a new template")
  first[7], again[7] = nil, nil
  t.eq(again, first)
  t.eq(first, {"1", "2", "3", "5", "argument", "/"})
  pool:close()
end)

story.done()
