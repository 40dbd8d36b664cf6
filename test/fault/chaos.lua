-- Chaos: a pool and rpcs under random kill -9, SIGSTOP and SIGCONT of workers and of the
-- template, during many calls, with a ledger on both sides. Here a call's outcome is noted
-- by its number; there each worker appends the number of the call to a file, as its first
-- act. At the end the two are joined:
--
--   nothing is lost           every call has an outcome
--   nothing completes twice   a second callback fails at once
--   "no" is proof             what was reported as not started is not in the file
--   a result is proof         what was answered is in it, and only idempotent calls twice
--
--   lua5.4 chaos.lua [CALLS [SEED]]     default 4,000 calls; the seed is printed
--
-- Runs in the parent; the environment is that of test/run.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit
local templates = require "templates"

local CALLS = math.tointeger(tonumber(arg and arg[1] or os.getenv "CHAOS_CALLS" or 4000))
local SEED = math.tointeger(tonumber(arg and arg[2] or os.getenv "CHAOS_SEED" or os.time()))
local IN_FLIGHT = 48
local CALLS_PER_FAULT = 80
local DEADLINE = 30 + CALLS // 100

local WORKER = [[
  local ledger
  function work(path, i, weight)
    if not ledger then
      ledger = assert(io.open(path, "a"))
      ledger:setvbuf("no")
    end
    ledger:write(i .. "\n") -- one write: others append, too
    local x = 0
    for k = 1, weight do x = x + k end
    return i
  end
]]

-- ---- faults ----

local stopped = {} -- pid -> when it goes on

local function go_on(all)
  for pid, at in pairs(stopped) do
    if all or kit.now() >= at then
      kit.kill(pid, kit.SIGCONT)
      stopped[pid] = nil
    end
  end
end

local function stop(pid)
  kit.kill(pid, kit.SIGSTOP)
  stopped[pid] = kit.now() + math.random() * 0.05
end

-- A worker, or the template that forked it; only what descends from this process.
local function victim(pids)
  local pid = pids[math.random(#pids)]
  local p = pid and kit.processes()[pid]
  if not p then return nil end
  if math.random(12) > 1 then return pid end
  local all = templates.list()
  return all[math.random(math.max(#all, 1))] or pid
end

local function fault(pids, counts)
  if #pids == 0 then return end
  local pid = victim(pids)
  if not pid then return end
  if math.random(3) == 1 then
    counts.stops = counts.stops + 1
    return stop(pid)
  end
  counts.kills = counts.kills + 1
  kit.kill(pid, kit.SIGKILL)
  stopped[pid] = nil
end

-- ---- ledgers ----

local function read_ledger(path)
  local ran = {}
  for line in io.lines(path) do
    local i = math.tointeger(tonumber(line))
    if i then ran[i] = (ran[i] or 0) + 1 end
  end
  return ran
end

local function join(t, outcomes, ran, n, idempotent)
  local results, errors, unstarted = 0, 0, 0
  for i = 1, n do
    local outcome = outcomes[i]
    local times = ran[i] or 0
    t.ok(outcome ~= nil, "call " .. i .. " has no outcome")
    if outcome == true then
      results = results + 1
      t.ok(times >= 1, "call " .. i .. " was answered and never ran")
    else
      errors = errors + 1
      if outcome.started == "no" then
        unstarted = unstarted + 1
        t.ok(times == 0, "call " .. i .. " ran though it was reported as not started: "
          .. tostring(outcome))
      end
    end
    t.ok(times <= (idempotent(i) and 3 or 1), "call " .. i .. " ran " .. times .. " times")
  end
  return results, errors, unstarted
end

-- ---- the stories ----

story.test("chaos: a pool loses nothing and repeats nothing", {deadline = DEADLINE}, function(t)
  math.randomseed(SEED)
  t.note("seed %d, %d calls", SEED, CALLS)
  local path = t:file("ledger", "")
  local pool = fork.new_exec():eval(WORKER):pool("work", {max = 4, load = 3, start = 0.005,
    stop = 0.05, queue_max = 1000, grace = 1, restart = {burst = 1000, period = 1}})
  local careful = pool:with {idempotent = true}
  local function idempotent(i) return i % 5 == 0 end
  local outcomes, sent, told = {}, 0, 0
  local counts = {kills = 0, stops = 0}
  local function send()
    sent = sent + 1
    local i = sent
    local callee = idempotent(i) and careful or pool
    callee(path, i, math.random(2000), function(err, value)
      assert(outcomes[i] == nil, "told twice")
      assert(err or value == i, "the answer of another call")
      outcomes[i], told = err or true, told + 1
    end)
  end
  local next_fault = CALLS_PER_FAULT
  while told < CALLS do
    while sent < CALLS and sent - told < IN_FLIGHT do send() end
    fork.step(0.005)
    go_on()
    if told >= next_fault then
      fault(pool:pids(), counts)
      next_fault = told + math.random(2 * CALLS_PER_FAULT)
    end
  end
  go_on(true)
  t.got(pool:drain(20))
  local stats = pool:stats()
  pool:close()
  local results, errors, unstarted = join(t, outcomes, read_ledger(path), CALLS, idempotent)
  t.note("%d kills, %d stops: %d results, %d errors (%d not started), %d deaths, %d templates",
    counts.kills, counts.stops, results, errors, unstarted, stats.deaths,
    stats.template_starts + 1)
  t.eq(results + errors, CALLS)
  t.ok(counts.kills > 0 and stats.deaths > 0)
  t.ok(results > CALLS * 0.9, "most calls are answered")
end)

local function rpc_round(t, path, first, n, opts)
  local outcomes, told = {}, 0
  local rpc = fork.new():eval(WORKER):rpc("work", opts)
  for k = 1, n do
    local i = first + k
    rpc(path, i, 500, function(err, value)
      assert(outcomes[k] == nil, "told twice")
      assert(err or value == i, "the answer of another call")
      outcomes[k], told = err or true, told + 1
    end)
  end
  local after = math.random(n)
  t.within(10, function() return told >= after // 2 end)
  rpc:process():kill(math.random(2) == 1 and "KILL" or "TERM")
  t.within(10, function() return told == n end)
  rpc:close()
  t.status(rpc:process())
  rpc:process():close()
  return outcomes
end

for _, strict in ipairs {false, true} do
  story.test("chaos: rpcs that are killed tell each call once, strict " .. tostring(strict),
    {deadline = DEADLINE}, function(t)
      math.randomseed(SEED)
      local path, rounds, n = t:file("ledger", ""), math.max(10, CALLS // 400), 100
      local all = {}
      for round = 0, rounds - 1 do
        local outcomes = rpc_round(t, path, round * n, n, {strict = strict,
          on_error = function() end})
        for k = 1, n do all[round * n + k] = outcomes[k] end
      end
      local results, errors, unstarted = join(t, all, read_ledger(path), rounds * n,
        function() return false end)
      t.note("%d results, %d errors (%d not started)", results, errors, unstarted)
      t.eq(results + errors, rounds * n)
      if strict then t.ok(errors - unstarted <= rounds, "one at most is in doubt each time") end
    end)
end

story.done()
