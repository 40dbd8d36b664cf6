-- Calls and stored jobs over a real nats-server while something dies: what the callers are told, joined
-- with what the functions have written down. No call is entered twice, "no" is said of none that was
-- entered, what is unknown is limited by what had failed; no stored job is lost, each has one result.
-- The same with 10,000 each: test/nats_ledger.lua.
local story = require "story"
local kit = story.kit
local ledger = require "ledger"
local nats = require "nats"

story.census = false -- nodes and servers are watched by their own stories

local COUNT = 500
local WINDOW = 2 * 2 + 16 -- of a node with two workers
local AT = 150 -- calls that are over when something happens

if not nats.IS_BUILT then
  story.test("calls and jobs over NATS", function(t) t.skip "built without NATS" end)
  story.done()
end

-- f() once, when so many are over.
local function at(n, f)
  return function(done)
    if done == n then f() end
  end
end

-- What holds of calls, whatever happens; unknown: at most so many.
local function check_calls(t, world, told, unknown)
  local sums = ledger.compare(world, told, COUNT)
  t.note("%d answered, %d unknown (%d of them never entered), %d no: %s", sums.ok, sums.unknown,
    sums.never_unknown, sums.no, sums.first or "-")
  t.eq(sums.twice, 0, "entered twice")
  t.eq(sums.entered_no, 0, "started 'no', and entered")
  t.eq(sums.never_ok, 0, "answered, and never entered")
  t.ok(sums.unknown <= unknown, ("%d unknown, at most %d"):format(sums.unknown, unknown))
  t.eq(sums.ok + sums.no + sums.unknown, COUNT)
  return sums
end

-- No job is lost; each has one result.
local function check_jobs(t, world, told, twice)
  local sums = ledger.compare(world, told, COUNT)
  t.note("%d results, %d entered twice: %s", sums.ok, sums.twice, sums.first or "-")
  t.eq(sums.ok, COUNT, sums.first)
  t.eq(sums.never_ok, 0, "a result, and never entered")
  t.ok(sums.twice <= twice, ("%d entered twice, at most %d"):format(sums.twice, twice))
  return sums
end

local function calls(name, options, f)
  options.deadline = options.deadline or 60
  options.busy = true
  story.test("calls: " .. name, options, f)
end

local function jobs(name, f)
  story.test("jobs: " .. name, {deadline = 60, busy = true}, f)
end

calls("workers are killed", {}, function(t)
  local world = ledger.world(t, nats.start(t), {nodes = 1})
  local killed = 0
  local told = ledger.calls(world, {count = COUNT, disturb = function(done)
    if done % 100 ~= 50 then return end
    local _, pids = world:entered()
    if kit.kill(pids[#pids], kit.SIGKILL) then killed = killed + 1 end
  end})
  local sums = check_calls(t, world, told, 2 * killed) -- a worker has one call, and one behind it
  t.eq(sums.no, 0)
  t.eq(killed, 5)
end)

calls("two of three nodes are killed", {}, function(t)
  local world = ledger.world(t, nats.start(t))
  local told = ledger.calls(world, {count = COUNT, disturb = at(AT, function()
    world.nodes[1]:kill "KILL"
    world.nodes[2]:kill "KILL"
  end)})
  check_calls(t, world, told, 2 * WINDOW)
end)

calls("a node is drained while another starts", {}, function(t)
  local world = ledger.world(t, nats.start(t), {nodes = 2})
  local told = ledger.calls(world, {count = COUNT, disturb = at(AT, function()
    world.nodes[1]:kill "TERM"
  end)})
  local sums = check_calls(t, world, told, 0)
  t.eq(sums.ok, COUNT)
  t.eq(world.nodes[1]:wait(), 143)
end)

calls("a node is stopped, and goes on", {}, function(t)
  local world = ledger.world(t, nats.start(t), {nodes = 2})
  local told = ledger.calls(world, {count = COUNT, disturb = function(done)
    if done == AT then world.nodes[1]:kill "STOP" end
    if done == COUNT - 1 then world.nodes[1]:kill "CONT" end
  end})
  check_calls(t, world, told, WINDOW)
end)

calls("the server is killed, and started again", {}, function(t)
  local server = nats.start(t)
  local world = ledger.world(t, server, {nodes = 2})
  local told = ledger.calls(world, {count = COUNT, disturb = at(AT, function() server:restart() end)})
  check_calls(t, world, told, 64) -- all that were under way
end)

calls("the link to a node is cut", {}, function(t)
  local server = nats.start(t)
  local link = nats.link(t, server)
  local world = ledger.world(t, server, {nodes = 1})
  world:node(link.url)
  local told = ledger.calls(world, {count = COUNT, disturb = at(AT, function() link:cut() end)})
  check_calls(t, world, told, WINDOW)
end)

calls("one of two servers of a cluster is killed", {}, function(t)
  local a, b = nats.cluster(t)
  local world = ledger.world(t, a, {nodes = 2, url = a.url .. "," .. b.url})
  local told = ledger.calls(world, {count = COUNT, disturb = at(AT, function() a:kill() end)})
  check_calls(t, world, told, 64)
end)

-- What the killed caller was told nobody knows; nothing runs twice, and nothing more than it has sent.
calls("the caller is killed", {}, function(t)
  local world = ledger.world(t, nats.start(t), {nodes = 1})
  local _, code = t:lua(([[
    local kit = require "testkit"
    local pool = require "moonfork.nats".pool(%q, {subject = %q})
    for n = 1, 500 do
      pool:call(n, %q, 1, function(err)
        assert(not err, err)
        if n == 150 then kit.kill(kit.getpid(), kit.SIGKILL) end
      end)
    end
    require "moonfork".loop()]]):format(world.url, world.subject, world.path))
  t.eq(code, 137)
  local told = ledger.calls(world, {count = 1}) -- the node works on
  t.eq(told[1].what, "ok")
  for n, times in pairs(world:entered()) do t.ok(times == 1 or n == 1 and times == 2, n) end
end)

jobs("workers are killed, and a node is drained", function(t)
  local world = ledger.world(t, nats.start(t, {jetstream = true}), {nodes = 2, jobs = "LEDGER"})
  local told = ledger.jobs(world, {count = COUNT, disturb = function(done)
    if done % 100 == 50 then
      local _, pids = world:entered()
      kit.kill(pids[#pids], kit.SIGKILL)
    end
    if done == AT then world.nodes[1]:kill "TERM" end
  end})
  check_jobs(t, world, told, 2 * 5)
  t.eq(world.nodes[1]:wait(), 143)
end)

jobs("two of three nodes are killed", function(t)
  local world = ledger.world(t, nats.start(t, {jetstream = true}), {jobs = "LEDGER"})
  local told = ledger.jobs(world, {count = COUNT, disturb = at(AT, function()
    world.nodes[1]:kill "KILL"
    world.nodes[2]:kill "KILL"
  end)})
  check_jobs(t, world, told, 2 * WINDOW)
end)

jobs("a node is stopped for longer than the lease", function(t)
  local world = ledger.world(t, nats.start(t, {jetstream = true}), {nodes = 2, jobs = "LEDGER"})
  local told = ledger.jobs(world, {count = COUNT, lease = 0.5, disturb = function(done)
    if done == AT then world.nodes[1]:kill "STOP" end
    if done == COUNT then world.nodes[1]:kill "CONT" end
  end})
  check_jobs(t, world, told, WINDOW)
  -- The one that goes on has results, too, of jobs that another has done.
  local pool <close> = require "moonfork.nats".pool(world.url, {subject = world.subject})
  local there
  t.within(30, function()
    there = t.got(pool:jobs())
    return there.waiting + there.running + there.leftover == 0
  end)
  t.eq(there.results, COUNT)
end)

jobs("the server is killed while jobs are stored, and while they are worked at", function(t)
  local server = nats.start(t, {jetstream = true})
  local world = ledger.world(t, server, {nodes = 2, jobs = "LEDGER"})
  local told = ledger.jobs(world, {count = COUNT, disturb = at(400, function() server:restart() end),
    disturb_posts = at(100, function() server:restart() end)})
  check_jobs(t, world, told, 2 * 2 * WINDOW) -- what both nodes had, each time
end)

jobs("the caller is killed", function(t)
  local world = ledger.world(t, nats.start(t, {jetstream = true}), {nodes = 1, jobs = "LEDGER"})
  local out, code = t:lua(([[
    local kit = require "testkit"
    local pool = require "moonfork.nats".pool(%q, {subject = %q})
    local stored = 0
    for n = 1, 500 do
      pool:post({}, n, %q, 1, function(err)
        assert(not err, err)
        print(n)
        io.stdout:flush()
        stored = stored + 1
        if stored == 300 then kit.kill(kit.getpid(), kit.SIGKILL) end
      end)
    end
    require "moonfork".loop()]]):format(world.url, world.subject, world.path))
  t.eq(code, 137)
  t.outside(30, function()
    local entered = world:entered()
    for n in out:gmatch "%d+" do
      if not entered[tonumber(n)] then return false end
    end
    return true
  end, "all that were stored are worked at")
  for n, times in pairs(world:entered()) do t.eq(times, 1, n) end
end)

story.done()
