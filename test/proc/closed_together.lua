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

story.test("a number that was told is free at once", function(t)
  local busy = fork.new_exec():eval "function nothing() end"
  t.eq(busy:fork():run("nothing"):read "a", "")
  local resume = stopped(t)
  for _, tell in ipairs { "fileno", "getfd", "pollfd" } do
    local p = busy:fork()
    local socket = p:run "nothing"
    t.eq(socket:read "a", "")
    local number = socket[tell](socket)
    local what = kit.fds()[number]
    socket:close()
    t.ok(what and kit.fds()[number] ~= what, tell)
    t.eq(p:wait().code, 0)
  end
  local mine, other = assert(fork.socket.pair())
  local number = mine:detach()
  local wrapped, what = fork.socket.wrap(number), kit.fds()[number]
  other:close()
  t.eq(wrapped:read "a", "")
  wrapped:close()
  t.ok(what and kit.fds()[number] ~= what, "wrap")
  resume()
  busy:close()
end)

story.test("a copy of the program has none of them", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    function nothing() end
    function count(socket)
      local n = 0
      for _ in pairs(kit.fds()) do n = n + 1 end
      socket:write(tostring(n))
    end
    local function in_copy()
      local copy = fork.template()
      local socket = assert(copy:run "count")
      local n = tonumber((socket:read "a"))
      socket:close()
      assert(copy:wait(10).code == 0)
      return n
    end
    local template = fork.new_exec():eval "function nothing() end"
    assert(template:fork():run("nothing"):read "a" == "")
    local before = in_copy()
    template:kill "STOP"
    local p, entered = template:fork(), nil
    p:run("nothing", function(e, socket) entered = e or socket end)
    local busy = fork.new_exec():eval "function nothing() end"
    for _ = 1, 7 do
      local q = busy:fork()
      local socket = q:run "nothing"
      assert(socket:read "a" == "")
      socket:close()
      assert(q:wait(10).code == 0)
    end
    local n = in_copy()
    template:kill "CONT"
    while not entered do fork.step(0.1) end
    assert(entered:read "a" == "")
    print(n < before + 4) -- of 7 that were put off
  ]]
  t.eq({ out, code, err }, { "true\n", 0, "" })
end)

story.done()
