-- Calls, items of a map and stored jobs over a real nats-server while something dies, many of them: how
-- many were answered, how many are unknown, how many were entered twice. test/proc/nats_ledger.lua has the
-- same with few.
--
--   ./dev run lua5.4 test/nats_ledger.lua [COUNT]      COUNT: 10,000
--
-- Prints a line for each failure; the exit status is 0 when no call was entered twice or lost silently,
-- none that is told as not started was entered, and no job was lost.
package.path = "test/help/?.lua;" .. package.path
package.cpath = (os.getenv "MOONFORK_BUILD" or "build") .. "/test/help/?.so;" .. package.cpath

local kit = require "testkit"
local ledger = require "ledger"
local nats = require "nats"

for _, suffix in ipairs{"", "_5_4"} do -- for nodes and their workers
  kit.setenv("LUA_PATH" .. suffix, package.path)
  kit.setenv("LUA_CPATH" .. suffix, package.cpath)
end

local total = tonumber(arg[1] or 10000)
local WINDOW = 2 * 2 + 16
local wrong = 0

local function at(n, f)
  return function(done)
    if done == n then f() end
  end
end

local function expect(ok, what, ...)
  if ok then return end
  wrong = wrong + 1
  print(("  WRONG: " .. what):format(...))
end

local function run(kind, name, options, unknown)
  local server, other
  if options.cluster then
    server, other = nats.cluster()
  else
    server = nats.start(nil, {jetstream = true})
  end
  options.server, options.jobs = server, kind == "jobs" and "LEDGER" or nil
  local link = options.link and nats.link(nil, server)
  if other then options.url = server.url .. "," .. other.url end
  local world = ledger.world(nil, server, options)
  if link then world:node(link.url) end
  local o = {count = total, ms = 1, lease = 2}
  if options.at then o.disturb = options.at(world, server, link) end
  if options.posts then o.disturb_posts = options.posts(world, server) end
  local begun = kit.now()
  local told = ledger[kind](world, o)
  local seconds = kit.now() - begun
  local sums = ledger.compare(world, told, total)
  print(("%-5s %-44s %6d answered %5d unknown (%d never entered) %4d no %5d twice %6.1f s"):format(kind, name,
    sums.ok, sums.unknown, sums.never_unknown, sums.no, sums.twice, seconds))
  expect(sums.entered_no == 0, "%d that are told as not started were entered", sums.entered_no)
  expect(sums.never_ok == 0, "%d with an answer were never entered", sums.never_ok)
  if kind ~= "jobs" then
    expect(sums.twice == 0, "%d %s were entered twice", sums.twice, kind)
    expect(sums.unknown <= unknown, "%d unknown, at most %d expected: %s", sums.unknown, unknown, sums.first or "")
  else
    expect(sums.ok == total, "%d jobs have no result: %s", total - sums.ok, sums.first or "")
  end
  world:close()
  if link then link:close() end
  if other then other:close() end
  server:close()
end

local third = total // 3

local function kill_workers(world)
  local killed = 0
  return function(done)
    if killed == 20 or done % (total // 40) ~= 0 then return end
    local _, pids = world:entered()
    kit.kill(pids[#pids], kit.SIGKILL)
    killed = killed + 1
  end
end

local function kill_nodes(world)
  return at(third, function()
    world.nodes[1]:kill "KILL"
    world.nodes[2]:kill "KILL"
  end)
end

local function drain_node(world)
  return at(third, function() world.nodes[1]:kill "TERM" end)
end

-- For four seconds, or until all but one are over.
local function stop_node(world)
  local since
  return function(done)
    if done == third then
      world.nodes[1]:kill "STOP"
      since = kit.now()
    elseif since and (kit.now() - since > 4 or done == total - 1) then
      world.nodes[1]:kill "CONT"
      since = nil
    end
  end
end

local function restart_server(_, server)
  return at(third, function() server:restart() end)
end

local function cut_link(_, _, link)
  return at(third, function() link:cut() end)
end

local function kill_server(_, server)
  return at(third, function() server:kill() end)
end

run("calls", "nothing dies", {}, 0)
run("calls", "20 workers are killed", {at = kill_workers}, 40)
run("calls", "two of three nodes are killed", {at = kill_nodes}, 2 * WINDOW)
run("calls", "a node is drained", {at = drain_node}, 0)
run("calls", "a node is stopped for 4 s", {at = stop_node}, WINDOW)
run("calls", "the server is killed and started again", {at = restart_server}, 64)
run("calls", "the link to one of two nodes is cut", {nodes = 1, link = true, at = cut_link}, WINDOW)
run("calls", "one of two servers of a cluster is killed", {nodes = 2, cluster = true, at = kill_server}, 64)
-- A node has two chunks of 20 items for each of its two workers, and one more where its room is odd.
local CHUNKS = 5 * 20
run("maps", "nothing dies", {}, 0)
run("maps", "20 workers are killed", {at = kill_workers}, 20)
run("maps", "two of three nodes are killed", {at = kill_nodes}, 2 * CHUNKS)
run("maps", "a node is drained", {at = drain_node}, 0)
run("maps", "a node is stopped for 4 s", {at = stop_node}, CHUNKS)
run("maps", "the server is killed and started again", {at = restart_server}, 3 * CHUNKS)
run("maps", "the link to one of two nodes is cut", {nodes = 1, link = true, at = cut_link}, CHUNKS)
run("maps", "one of two servers of a cluster is killed", {nodes = 2, cluster = true, at = kill_server}, 2 * CHUNKS)
run("jobs", "nothing dies", {})
run("jobs", "20 workers are killed", {at = kill_workers})
run("jobs", "two of three nodes are killed", {at = kill_nodes})
run("jobs", "a node is drained", {at = drain_node})
run("jobs", "a node is stopped for 4 s (lease 2 s)", {at = stop_node})
run("jobs", "the server is killed twice and started again", {at = restart_server,
  posts = function(_, server) return at(total // 6, function() server:restart() end) end})
print(("%d wrong"):format(wrong))
os.exit(wrong == 0, true)
