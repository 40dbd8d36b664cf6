-- A clone is a process of the kernel: its pid, its signals, its memory are its own. Rows
-- PF-01, 02, 06, 07, 28, 29 and 31. Runs in the parent.
local kit = require "testkit"
local story = require "story"
local fork = require "moonfork"

local CLONES = 100

story.test("PF-01 pids are the kernel's and nothing is cached from the template", function(t)
  local template = fork.new_exec{name = "pf01"}
  template:eval [[
    cached_id = require("moonfork.clone").id()
    function who(socket)
      local clone, kit = require "moonfork.clone", require "testkit"
      local stat = io.open("/proc/self/stat"):read("a")
      socket:write(("%d %d %s %s %d %s\n"):format(kit.getpid(), clone.pid(),
        stat:match("^%d+"), clone.id(), kit.getppid(), cached_id))
      socket:read("a")
    end
  ]]
  local sockets, seen, ids, ppids = {}, {}, {}, {}
  for i = 1, CLONES do
    local p = template:fork()
    local socket = t.got(p:run("who"))
    socket:settimeout(10)
    local own, said, stat, id, ppid, cached = socket:read("l"):match(
      "^(%d+) (%d+) (%d+) (%x+) (%d+) (%x+)$")
    t.eq(tonumber(own), p:pid(), "getpid in the clone, and the pid that was reported")
    t.eq(said, own, "clone.pid()")
    t.eq(stat, own, "/proc/self/stat")
    t.ok(not seen[own], "a pid given twice at once")
    t.ok(not ids[id] and id ~= cached, "clone.id() repeated")
    t.eq(#id, 32, "128 bits in hex")
    seen[own], ids[id], ppids[ppid] = true, true, true
    sockets[i] = {socket, p}
  end
  t.ok(not seen[tostring(kit.getpid())], "the pid of the app")
  t.eq(next(ppids, next(ppids)), nil, "all clones have one parent")
  t.ok(not seen[tostring(template:pid())], "the pid of the template")
  t.eq(tonumber((next(ppids))), kit.getpid(), "the app is the parent")
  for _, pair in ipairs(sockets) do pair[1]:close() end
  for _, pair in ipairs(sockets) do t.eq(t.status(pair[2]).code, 0) end
  template:close()
end)

story.test("PF-02 pids are positive, and a kill after the end reaches nobody", function(t)
  local p = fork.new()
  local socket = t.got(p:run("type"))
  local pid = p:pid()
  t.ok(pid > 1)
  t.eq(t.status(p).code, 0)
  t.eq(p:pid(), pid, "kept after the end")
  t.outside(2, function() return not t.alive(pid) end)
  local ok, err = p:kill("KILL")
  t.eq(ok, nil)
  t.ok(type(err) == "table" and err.code and tostring(err) ~= "", "an error object")
  socket:close()
end)

story.test("PF-06 PF-28 one of eight clones killed a thousand times leaves the rest alone", {
  deadline = 60}, function(t)
  local template = fork.new_exec()
  template:require("faultkit"):eval [[
    local kit, fkit = require "testkit", require "faultkit"
    fkit.share()
    function sibling(socket, i)
      i = math.tointeger(tonumber(i))
      while true do
        fkit.cell(i, 1)
        kit.msleep(1)
      end
    end
    function victim(socket)
      while true do end
    end
    function count(socket)
      for i = 1, 7 do socket:write(fkit.cell(i), "\n") end
    end
  ]]
  local siblings = {}
  for i = 1, 7 do
    siblings[i] = template:fork():send_arg(tostring(i))
    t.got(siblings[i]:run("sibling"))
  end
  local function counters()
    local p = template:fork()
    local socket = t.got(p:run("count"))
    local out = {}
    for line in socket:lines() do out[#out + 1] = tonumber(line) end
    socket:close()
    t.status(p)
    return out
  end
  local function kill_one()
    local p = template:fork()
    local socket = t.got(p:run("victim"))
    t.eq(p:kill("KILL"), true)
    local status = t.status(p)
    t.eq(status.signal, kit.SIGKILL)
    t.eq(status.code, nil)
    socket:close()
  end
  local function rss()
    for line in io.lines("/proc/" .. template:pid() .. "/status") do
      local kib = line:match("^VmRSS:%s*(%d+)")
      if kib then return tonumber(kib) end
    end
  end
  for _ = 1, 20 do kill_one() end
  local before, fds, memory = counters(), kit.fds(template:pid()), rss()
  for _ = 1, 1000 do kill_one() end
  local after = counters()
  for i = 1, 7 do t.ok(after[i] > before[i], "sibling " .. i .. " stands still") end
  t.outside(2, function()
    return story.show(kit.fds(template:pid())) == story.show(fds)
  end, "the template's descriptors are what they were")
  t.ok(rss() - memory < 512, "the template grows: " .. memory .. " to " .. rss() .. " KiB")
  for _, p in ipairs(siblings) do t.eq(p:kill("KILL"), true) end
  for _, p in ipairs(siblings) do t.eq(t.status(p).signal, kit.SIGKILL) end
  template:close()
end)

story.test("PF-07 a signal interrupts a blocking read at once", function(t)
  local best = math.huge
  for _ = 1, 5 do
    local p = fork.new():eval [[
      function block(socket) socket:write("x") socket:read(1) end
    ]]
    local socket = t.got(p:run("block"))
    t.eq(socket:read(1), "x")
    local pid = p:pid()
    t.outside(5, function()
      return t.read("/proc/" .. pid .. "/stat"):match("%) (%a)") == "S"
    end, "it sleeps in the read")
    local before = kit.now()
    t.eq(p:kill(), true)
    t.eq(t.status(p).signal, kit.SIGTERM)
    best = math.min(best, kit.now() - before)
    socket:close()
  end
  t.ok(best < 0.1, "TERM takes " .. best .. " s")
end)

story.test("PF-29 nothing that the app does after a fork is done in another process", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    local function trace(text) io.write(text, " ", kit.getpid(), "\n") io.flush() end
    trace "start"
    local a = fork.new()
    trace "new"
    local b = a:fork()
    trace "fork"
    assert(b:run("type"))
    trace "run"
    local c = fork.new_exec():fork()
    trace "exec"
    assert(c:run("type"))
    trace "end"
  ]]
  t.eq(code, 0, err)
  local pids, lines = {}, 0
  for pid in out:gmatch(" (%d+)\n") do
    pids[pid], lines = true, lines + 1
  end
  t.eq(lines, 6, "each statement once: " .. out)
  t.eq(next(pids, next(pids)), nil, "one process: " .. out)
end)

story.test("PF-31 clones have different random streams, seeded again or not", function(t)
  for _, seed in ipairs{"", "math.randomseed()"} do
    local template = fork.new_exec():eval("math.randomseed(42) math.random()")
    template:eval([[
      local seed = ...
      function roll(socket)
        load(seed)()
        socket:write(("%d %d"):format(math.random(0), math.random(0)))
      end
    ]], seed)
    local sockets, seen, n = {}, {}, 0
    for _ = 1, CLONES do
      local p = template:fork()
      p:run("roll", function(err, socket)
        t.eq(err, nil)
        sockets[#sockets + 1] = socket
      end)
    end
    t.within(10, function() return #sockets == CLONES end)
    for _, socket in ipairs(sockets) do
      local text = socket:read("a")
      t.match(text, "^%-?%d+ %-?%d+$")
      if not seen[text] then n = n + 1 end
      seen[text] = true
      socket:close()
    end
    t.eq(n, CLONES, "different first values with " .. (seed == "" and "nothing" or seed))
    template:close()
  end
end)

story.test("PF-31 a seed given by the user still decides", function(t)
  local template = fork.new_exec()
  local code = "math.randomseed(7) return math.random(0)"
  local a, b = t.ask(template:fork(), code), t.ask(template:fork(), code)
  t.eq(a, b)
  math.randomseed(7)
  t.eq(a, math.random(0))
  template:close()
end)

story.done()
