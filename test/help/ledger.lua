-- ledger.lua: what becomes of calls and jobs over NATS when something dies. The function that is called
-- writes its number into a file before anything else; the caller notes what it was told of each number;
-- compare() joins the two. Nodes are the program `moonfork node`.
--
--   local world = ledger.world(t, server, {nodes = 3, workers = 2})      t: a story, or nil
--   local told = ledger.calls(world, {count = 500, disturb = function(done) ... end})
--   local sums = ledger.compare(world, told, 500)
--   world:close()
local fork = require "moonfork"
local kit = require "testkit"

local ledger = {}

local SECONDS = 60 -- for anything to come to an end
local scale = tonumber(os.getenv "STORY_SCALE" or "") or 1

local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text
end

local WORK = [[
function work(n, path, ms)
  local file = io.open(path, "a")
  file:setvbuf "full"
  file:write(n, " ", require "moonfork.clone".pid(), "\n")
  file:close()
  if ms > 0 then require "testkit".msleep(ms) end
  return n
end]]

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- ---- nodes ----

local Node = {}
Node.__index = Node

--- kill(signal): a name of testkit's, without SIG.
function Node:kill(name)
  kit.kill(self.pid, kit["SIG" .. name])
end

--- wait(): reads to its end; its exit code.
function Node:wait()
  if not self.pipe then return self.code end
  self.pipe:read "a"
  local _, how, code = self.pipe:close()
  self.pipe = nil
  self.code = how == "signal" and 128 + code or code
  return self.code
end

-- Its log goes on into a pipe, which is larger than what a node says here.
local function launch(world, url)
  local command = ("echo $$; exec %s node --engine %s --subject %s %s -n %d -e %s %s work 2>&1"):format(
    quote(world.program), quote(url or world.url), world.subject, world.jobs and "--jobs " .. world.jobs or "",
    world.workers, quote(WORK), world.words)
  local node = setmetatable({pipe = assert(io.popen(command))}, Node)
  node.pid = tonumber(node.pipe:read "l")
  world.nodes[#world.nodes + 1] = node
  return node
end

local function wait_ready(node)
  for line in node.pipe:lines() do
    if line:find " ready " then return node end
  end
  error("a node has ended before it was ready", 0)
end

local World = {}
World.__index = World

--- node([url]): one more, which serves.
function World:node(url)
  return wait_ready(launch(self, url))
end

--- entered(): number -> how often; and the processes that were at it.
function World:entered()
  local counts, pids = {}, {}
  for n, pid in read(self.path):gmatch "(%d+) (%d+)\n" do
    n = tonumber(n)
    counts[n] = (counts[n] or 0) + 1
    pids[#pids + 1] = tonumber(pid)
  end
  return counts, pids
end

--- close(): ends all nodes.
function World:close()
  for _, node in ipairs(self.nodes) do
    if node.pipe then
      node:kill "KILL"
      node:kill "CONT"
      node:wait()
    end
  end
  os.remove(self.path)
end

local count = 0

--- world(t, server, options): nodes (3), workers of each (2), jobs (the name of a stream), url (of the
-- nodes), words (further options of the nodes).
function ledger.world(t, server, options)
  count = count + 1
  local o = options or {}
  local world = setmetatable({url = o.url or server.url, server = server, workers = o.workers or 2, jobs = o.jobs,
    words = o.words or "", subject = ("ledger.%d.%d"):format(kit.getpid(), count), nodes = {},
    program = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork", path = os.tmpname()}, World)
  if t then t:defer(function() world:close() end) end
  for _ = 1, o.nodes or 3 do launch(world) end
  for _, node in ipairs(world.nodes) do wait_ready(node) end
  return world
end

-- ---- callers ----

-- begin(n, told) for each number, so many at a time, until each was told.
local function drive(o, begin)
  local told, begun, done = {}, 0, 0
  local last = kit.now() + SECONDS * scale
  local more
  local function on_told(n, what, err)
    assert(told[n] == nil, "told twice")
    told[n] = {what = what, err = err}
    done = done + 1
    if o.disturb then o.disturb(done) end
    more()
  end
  function more()
    while begun < o.count and begun - done < (o.in_flight or 64) do
      begun = begun + 1
      begin(begun, on_told)
    end
  end
  more()
  while done < o.count do
    if kit.now() > last then error(("%d of %d were told after %d s"):format(done, o.count, SECONDS * scale), 0) end
    fork.step(0.1)
  end
  return told
end

--- calls(world, options): count, ms (1: how long one works), disturb(done), pool (of moonfork.nats):
-- number -> {what = "ok", "no", "unknown", err =}.
function ledger.calls(world, o)
  local pool = o.pool or require "moonfork.nats".pool(world.url, {subject = world.subject, timeout = SECONDS})
  local told = drive(o, function(n, on_told)
    pool:call(n, world.path, o.ms or 1, function(err, answer)
      assert(err or answer == n, "the answer of another call")
      on_told(n, err and err.started or "ok", err)
    end)
  end)
  pool:close()
  return told
end

--- maps(world, options): the same by far:map, `chunk` (20) items in a message.
function ledger.maps(world, o)
  local pool = require "moonfork.nats".pool(world.url, {subject = world.subject})
  local told, items = {}, {}
  for n = 1, o.count do items[n] = {n, world.path, o.ms or 1} end
  for n, err, answer in pool:map(items, {unpack = true, chunk = o.chunk or 20}) do
    assert(told[n] == nil, "told twice")
    assert(err or answer == n, "the answer of another item")
    told[n] = {what = err and err.started or "ok", err = err}
    if o.disturb then o.disturb(n) end
  end
  pool:close()
  return told
end

--- jobs(world, options): the same for stored jobs; also lease, tries; disturb_posts(stored).
function ledger.jobs(world, o)
  local pool = o.pool or require "moonfork.nats".pool(world.url, {subject = world.subject, timeout = SECONDS})
  local stored = 0
  local told = drive(o, function(n, on_told)
    local options = {id = "job " .. n, lease = o.lease or 1, tries = o.tries or 20}
    pool:post(options, n, world.path, o.ms or 1, function(err, id)
      if err then return on_told(n, err.started, err) end
      assert(id == "job " .. n, "the id of another job")
      stored = stored + 1
      if o.disturb_posts then o.disturb_posts(stored) end
      pool:result(id, SECONDS, function(failure, answer)
        assert(failure or answer == n, "the result of another job")
        on_told(n, failure and "failed" or "ok", failure)
      end)
    end)
  end)
  pool:close()
  return told
end

-- ---- the account ----

--- compare(world, told, count): how many were answered, unknown or refused ("no"), and what must never
-- be: entered twice, "no" and entered, answered and never entered. Of those that are unknown: never
-- entered. first: what the first error says.
function ledger.compare(world, told, n)
  local entered = world:entered()
  local sums = {ok = 0, no = 0, unknown = 0, failed = 0, twice = 0, more = 0, entered_no = 0, never_ok = 0,
    never_unknown = 0}
  for i = 1, n do
    local what, times = told[i].what, entered[i] or 0
    sums[what] = sums[what] + 1
    sums.first = sums.first or told[i].err and ("%s: %s"):format(told[i].err.code, told[i].err.message)
    if times > 1 then sums.twice = sums.twice + 1 end
    if times > 2 then sums.more = sums.more + 1 end
    if what == "no" and times > 0 then sums.entered_no = sums.entered_no + 1 end
    if what == "ok" and times == 0 then sums.never_ok = sums.never_ok + 1 end
    if what == "unknown" and times == 0 then sums.never_unknown = sums.never_unknown + 1 end
  end
  return sums
end

return ledger
