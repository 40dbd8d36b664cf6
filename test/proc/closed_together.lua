-- Sockets of processes that have ended, closed while forks are on their way to a template:
-- together, and nobody notices (src/os/drop.h).
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function count_fds()
  local n = 0
  for _ in pairs(kit.fds()) do n = n + 1 end
  return n
end

-- A template that is stopped, with a fork on its way to it. resume() lets it go on, and
-- gives the process.
local function stopped(t)
  local template = fork.new_exec():eval "function nothing() end"
  t.eq(template:fork():run("nothing"):read "a", "")
  template:kill "STOP"
  t.within(10, function() return kit.processes()[template:pid()].state == "T" end)
  local p, entered = template:fork(), nil
  p:run("nothing", function(err, socket) entered = err or socket end)
  return function()
    template:kill "CONT"
    t.within(10, function() return entered end)
    t.eq(entered:read "a", "")
    entered:close()
    t.eq(p:wait().code, 0)
    template:close()
  end
end

story.test("what was put off is closed when no fork is on its way any more", function(t)
  local busy = fork.new_exec():eval "function nothing() end"
  t.eq(busy:fork():run("nothing"):read "a", "")
  local resume = stopped(t)
  local before = count_fds()
  for _ = 1, 40 do
    local p = busy:fork()
    local socket = p:run "nothing"
    t.eq(socket:read "a", "")
    socket:close()
    t.eq(p:wait().code, 0)
    t.collect()
    fork.step(0)
  end
  t.ok(count_fds() < before + 30, "descriptors that are left meanwhile")
  resume()
  t.collect()
  fork.step(0)
  t.ok(count_fds() <= before, "descriptors that are left at the end")
  busy:close()
end)

story.test("who has the other end hears of a close at once", function(t)
  local p = fork.new_exec():eval [[
    function waits(socket)
      socket:shutdown "write"
      local rest = socket:read "a" -- to its end: the other side has closed
      os.exit(rest == "all" and 0 or 1)
    end
  ]]
  local socket = p:run "waits"
  local resume = stopped(t)
  t.eq(socket:read "a", "")
  socket:write "all"
  socket:close()
  t.eq(p:wait(10).code, 0)
  resume()
end)

story.done()
