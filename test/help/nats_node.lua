-- nats_node.lua: a node of moonfork.nats in a process of its own, for stories that kill it.
--
--   local node = nats_node.start(t, server.url, "subject", {max = 2, load = 2, beat = 0.1})
--   node:kill "KILL" node:drain() node:workers() node:stats()     node.process is what runs it
--
-- Its function is work(n, seconds, ledger): a line with n in the file `ledger` each time that it is
-- entered, then it takes so long, and returns n; its source: nats_node.work. nats_node.entries(ledger):
-- how often each n was entered.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local nats_node = {}

local PROGRAM = [[
WORK = ...
function serve(socket, url, subject, max, load, beat, window, name)
  local fork, nats = require "moonfork", require "moonfork.nats"
  socket = fork.socket.wrap(socket:detach()) -- one that turns the reactor while it waits
  local pool = fork.new_exec():eval(WORK):pool("work", {max = tonumber(max), load = tonumber(load),
    idle = tonumber(max), restart = {burst = 1000}})
  local options = {subject = subject, beat = tonumber(beat), name = name ~= "" and name or nil}
  if window ~= "" then options.window = tonumber(window) end
  local node = assert(nats.node(pool, url, options))
  while node:stats().engine ~= "up" do fork.sleep(0.005) end
  while pool:stats().idle < tonumber(max) do fork.sleep(0.005) end
  socket:write "up\n"
  while true do
    local line = socket:read "l"
    if not line then break end
    if line == "drain" then
      assert(node:drain())
      socket:write "drained\n"
    elseif line == "workers" then
      socket:write(table.concat(pool:pids(), " "), "\n")
    elseif line == "stats" then
      local s = node:stats()
      socket:write(("%d %d %d %d\n"):format(s.calls, s.answers, s.errors, s.held))
    end
  end
end]]

local WORK = [[
function work(n, seconds, ledger)
  if n == "pid" then return require "moonfork.clone".pid() end
  if ledger then
    local file = assert(io.open(ledger, "a"))
    file:setvbuf "full"
    file:write(n, "\n")
    file:close()
  end
  if seconds and seconds > 0 then require "testkit".msleep(math.ceil(seconds * 1000)) end
  return n
end]]

nats_node.work = WORK

local Node = {}
Node.__index = Node

function Node:ask(line)
  assert(self.socket:write(line, "\n"))
  return self.socket:read "l"
end

function Node:drain()
  return assert(self:ask "drain" == "drained", "the node does not drain")
end

function Node:workers()
  local pids = {}
  for pid in self:ask "workers":gmatch "%d+" do pids[#pids + 1] = tonumber(pid) end
  return pids
end

--- stats(): calls, answers, errors, held.
function Node:stats()
  local calls, answers, errors, held = self:ask "stats":match "^(%d+) (%d+) (%d+) (%d+)$"
  return {calls = tonumber(calls), answers = tonumber(answers), errors = tonumber(errors), held = tonumber(held)}
end

function Node:kill(signal)
  return self.process:kill(signal or "KILL")
end

--- start(t, url, subject, [options]): a node that has announced itself.
function nats_node.start(t, url, subject, o)
  o = o or {}
  local process = fork.new_exec():eval(PROGRAM, WORK):send_arg(url, subject, tostring(o.max or 2),
    tostring(o.load or 2), tostring(o.beat or 0.1), tostring(o.window or ""), o.name or "")
  local self = setmetatable({process = process}, Node)
  t:defer(function() -- keeps the socket, too, whose end is the node's
    process:kill "CONT"
    process:kill "KILL"
    process:wait()
    self.socket:close()
  end)
  self.socket = assert(process:run "serve")
  local line = self.socket:read "l"
  assert(line == "up", "the node says " .. tostring(line))
  return self
end

--- entries(ledger): { [n] = how often }, and the sum.
function nats_node.entries(ledger)
  local counts, sum = {}, 0
  local file = io.open(ledger, "r")
  if not file then return counts, 0 end
  for line in file:lines() do
    local n = assert(tonumber(line), "a torn line in the ledger")
    counts[n] = (counts[n] or 0) + 1
    sum = sum + 1
  end
  file:close()
  return counts, sum
end

--- twice(ledger): the numbers that were entered more than once.
function nats_node.twice(ledger)
  local list = {}
  for n, count in pairs((nats_node.entries(ledger))) do
    if count > 1 then list[#list + 1] = n end
  end
  return list
end

--- file(t): the name of a file that is gone at the end of the story.
function nats_node.file(t)
  local folder = assert(kit.mkdtemp())
  t:defer(function()
    os.remove(folder .. "/ledger")
    kit.rmdir(folder)
  end)
  return folder .. "/ledger"
end

return nats_node
