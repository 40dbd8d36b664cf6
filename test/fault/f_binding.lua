-- Faults of section F: what programs do to the binding. Callbacks that close what calls them,
-- coroutines that are gone, ways to leave, finalisers, two interpreters, signals. Runs in the
-- parent.
local fkit = require "faultkit"
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"
local fork = require "moonfork"

standing.test("a callback may close its own process, its sibling, its source", function(t, s)
  local template = fork.new_exec():require("actor")
  local a, b = template:fork(), template:fork()
  local order = {}
  s:submit("a", function(callback) a:run("actor:hold", callback) end, function(err, socket)
    order[#order + 1] = err and err.code or "a"
    a:close()
    b:close()
    template:close()
    a:close()
    if socket then socket:close() end
  end)
  s:submit("b", function(callback) b:run("actor:hold", callback) end, function(err, socket)
    order[#order + 1] = err and err.code or "b"
    if err then t.ok(err.code == "CANCELLED" or err.code == "CLONE_DIED", err.code) end
    if socket then socket:close() end
  end)
  s:settle(5)
  t.eq(#order, 2)
end)

standing.test("a callback may start, wait and turn the loop", function(t, s)
  local depth, results = 0, {}
  local function again(err, socket)
    t.eq(err, nil)
    socket:close()
    depth = depth + 1
    results[depth] = t.ask(fork.new(), "return 'inside'")
    fork.step(0)
    if depth < 5 then
      s:submit("level " .. depth, function(callback) fork.new():run("type", callback) end, again)
      fork.loop()
    end
  end
  s:submit("level 0", function(callback) fork.new():run("type", callback) end, again)
  s.options.stall = false -- a step waits for what its callbacks wait for
  s:settle(15)
  t.eq(results, {"inside", "inside", "inside", "inside", "inside"})
end)

standing.test("waits inside waits end at fifty with LIMIT", {deadline = 60, stall = false,
  memory = 2048}, function(t)
  local held = fork.new():require("actor")
  local socket = t.got(held:run("actor:hold"))
  local deepest, limited = 0, nil
  local function wait(level)
    deepest = level
    if level <= 60 then
      fork.new():run("type", function(err, s)
        t.eq(err, nil)
        s:close()
        if not limited then wait(level + 1) end
      end)
    else
      socket:close()
    end
    local status, err = held:wait(20) -- it ends when the deepest has been refused
    if status then return end
    t.error(err, "LIMIT")
    limited = limited or level
    socket:close()
  end
  wait(1)
  fork.loop()
  -- Fifty in each other, whether or not the one outside all callbacks counts.
  t.ok(limited == 51 or limited == 52, "LIMIT at " .. tostring(limited) .. " of " .. deepest)
end)

standing.test("closing twice, and in on_error, is defined", {signals = false}, function(t)
  local p = fork.new()
  p:close()
  p:close()
  t.raises("closed", p.eval, p, "x = 1")
  local told = 0
  local q = fork.new():eval("error('never reported')")
  fork.on_error(function(err)
    told = told + 1
    t.match(tostring(err), "never reported")
    q:close()
  end)
  q:close()
  t.within(5, function() return told > 0 end, "on_error")
  for _ = 1, 5 do fork.step(0.005) end
  t.eq(told, 1)
  fork.on_error(nil)
end)

standing.test("an error in a callback comes out of the call that drives", function(t)
  fork.new():run("type", function() error("from a callback") end)
  local ok, err = pcall(fork.loop)
  t.eq(ok, false)
  t.match(tostring(err), "from a callback")
  local told
  fork.on_error(function(e, traceback) told = {tostring(e), traceback} end)
  fork.new():run("type", function() error("handled") end)
  fork.loop()
  t.match(told[1], "handled")
  t.match(told[2], "traceback")
  fork.on_error(nil)
end)

standing.test("uv.run inside a callback", {needs = "luv", stall = false}, function(t)
  local out, code, err = t:lua [[
    local fork, uv = require "moonfork", require "luv"
    require "moonfork.luv"
    local n = 0
    local function count(e, socket)
      assert(not e, tostring(e))
      socket:close()
      n = n + 1
    end
    fork.new():run("type", function(e, socket)
      count(e, socket)
      fork.new():run("type", count)
      pcall(uv.run, "nowait")
      pcall(uv.run)
    end)
    uv.run()
    uv.run()
    fork.loop()
    print(n)
  ]]
  t.eq(code, 0, err)
  t.eq(out, "2\n")
end)

-- A waiter for schedulers of one coroutine: whoever waits is suspended; the main thread polls.
local function waiter(reactor, timeout)
  if coroutine.isyieldable() then return coroutine.yield("waiting") end
  kit.poll(reactor:pollfd(), "r", timeout and math.ceil(timeout * 1000) or -1)
end

local function suspended(f)
  fork.set_waiter(waiter)
  local co = coroutine.create(f)
  return co, coroutine.resume(co)
end

-- A process that answers late enough for somebody to wait.
local function slow()
  return fork.new():require("testkit"):eval("require('testkit').msleep(50)")
end

standing.test("a waiting coroutine that is closed is not resumed", function(t)
  local after = false
  local co, ok, what = suspended(function()
    local p <close> = slow()
    p:run("type")
    after = true
  end)
  t.eq({ok, what}, {true, "waiting"})
  t.eq(coroutine.close(co), true)
  fork.set_waiter(nil)
  fork.loop()
  t.eq(after, false)
  t.eq(coroutine.status(co), "dead")
end)

standing.test("a waiting coroutine that is garbage leaves nothing behind", function(t)
  local weak = setmetatable({}, {__mode = "k"})
  do
    local co, ok, what = suspended(function() slow():run("type") end)
    t.eq({ok, what}, {true, "waiting"})
    weak[co] = true
  end
  fork.set_waiter(nil)
  fork.loop()
  t.within(5, function()
    t.collect()
    return next(weak) == nil
  end, "the coroutine is collected")
end)

standing.test("a waiter may resume as it likes, and waits across pcall and metamethods",
  function(t)
  local result
  local object = setmetatable({}, {__index = function(_, key)
    return (t.ask(fork.new(), "return " .. key))
  end})
  local co = suspended(function()
    result = {pcall(function() return object["6 * 7"] end)}
  end)
  t.within(10, function()
    if coroutine.status(co) == "suspended" then t.ok(coroutine.resume(co)) end
    return result
  end)
  t.eq(result, {true, 42})
end)

standing.test("two coroutines wait at once, each gets its own answer", function(t)
  fork.set_waiter(waiter)
  local results, n = {}, 0
  local all = {}
  for i = 1, 10 do
    all[i] = coroutine.create(function()
      results[i] = t.ask(fork.new():send_arg(tostring(i)), "return (select(2, ...))")
      n = n + 1
    end)
  end
  t.within(15, function()
    for _, co in ipairs(all) do
      if coroutine.status(co) == "suspended" then t.ok(coroutine.resume(co)) end
    end
    return n == 10
  end)
  for i = 1, 10 do t.eq(results[i], tostring(i)) end
end)

local pending = [[
  local p = fork.new():require("actor")
  assert(p:run("actor:hold"))
  print("clone " .. p:pid())
  local q = fork.new_exec()
  pid_of(q)
  print("template " .. q:pid())
  local waiting = q:fork():eval("while true do end")
  waiting:run("type", function() end)
  for _ = 1, 5 do fork.step(0.01) end
  print("ready")
]]

local exits = {
  {"os.exit(0)", "exit", 0},
  {"os.exit(0, true)", "exit", 0},
  {"os.exit(7, true)", "exit", 7},
  {"error('at the top')", "exit", 1},
  {"-- falls off", "exit", 0},
  {"fork.step(30) error('woken')", "signal", kit.SIGTERM, kit.SIGTERM},
  {"fork.loop()", "signal", kit.SIGTERM, kit.SIGTERM},
  {"fork.loop()", "signal", kit.SIGKILL, kit.SIGKILL},
  -- The stock interpreter turns SIGINT into an error of the script.
  {"while true do fork.step(0.1) end", "exit", 1, kit.SIGINT},
}

for _, row in ipairs(exits) do
  local code, how, number, signum = table.unpack(row, 1, 4)
  local name = ("leaving by %s%s with work pending"):format(code,
    signum and " and signal " .. signum or "")
  standing.test(name, {stall = false}, function(t)
    local h <close> = host.start(t, pending .. code)
    h:says("ready")
    if signum then
      kit.msleep(20) -- into the wait; either way the answer is the same
      h:kill(signum)
    end
    t.eq({h:ends(5)}, {how, number}, h:err())
    for pid in h:out():gmatch(" (%d+)\n") do
      t.outside(2, function() return not t.alive(tonumber(pid)) end, "process " .. pid)
    end
  end)
end

standing.test("a process with work under way is not collected", function(t)
  local done = 0
  for i = 1, 20 do
    fork.new():send_arg(tostring(i)):run("type", function(err, socket)
      t.eq(err, nil)
      done = done + 1
      socket:close()
    end)
    t.collect()
  end
  t.within(10, function() return done == 20 end)
  local path = t:file("configured")
  do
    fork.new():send_arg(path):eval [[
      local _, path = nil, require("moonfork.clone").run_args()
      io.open(path, "w"):write("done")
    ]]
  end
  t.collect()
  t.within(5, function() return t.read(path) == "done" end, "configured and forgotten")
end)

standing.test("finalisers of a template's objects do not run in its clones", function(t)
  local path, atexit = t:file("finalised"), t:file("atexit")
  local template = fork.new_exec():eval([[
    local path, atexit = ...
    object = setmetatable({}, {__gc = function()
      local file = io.open(path, "a")
      file:write(require("testkit").getpid(), "\n")
      file:close()
    end})
    require("testkit").atexit(atexit)
    function keeps() end
    function drops()
      object = nil
      collectgarbage()
    end
    function exits() os.exit(0) end
    function closes() os.exit(0, true) end
    function raises() error("on purpose") end
  ]], path, atexit)
  for _, way in ipairs{"keeps", "exits", "closes", "raises"} do
    local p = template:fork{stderr = "null"}
    local socket = t.got(p:run(way))
    t.status(p)
    socket:close()
    t.eq(t.read(path), nil, way)
    t.eq(t.read(atexit), nil, way .. ": atexit handlers")
  end
  template:close()
end)

standing.test("an object made in a clone is finalised when it is asked for", function(t)
  local path = t:file("finalised")
  local template = fork.new_exec():eval([[
    local path = ...
    local function marked(text)
      return setmetatable({}, {__gc = function()
        local file = io.open(path, "a")
        file:write(text)
        file:close()
      end})
    end
    inherited = marked("inherited ")
    function asks()
      own = marked("own ")
      require("moonfork.clone").exit(6, true)
    end
    function leaves()
      own = marked("own ")
      require("moonfork.clone").exit(7)
    end
    function fails()
      setmetatable({}, {__gc = function() error("a finaliser fails") end})
      collectgarbage()
      own = setmetatable({}, {__gc = function() error("a finaliser fails") end})
      require("moonfork.clone").exit(8, true)
    end
  ]], path)
  for way, code in pairs{asks = 6, leaves = 7, fails = 8} do
    local p = template:fork{stderr = "null"}
    local socket = t.got(p:run(way))
    t.eq(t.status(p).code, code, way)
    socket:close()
  end
  t.eq(t.read(path), "own ")
  template:close()
end)

standing.test("<close> ends a process at the end of its scope", function(t)
  local pid
  do
    local p <close> = fork.new()
    standing.pid(t, p)
    pid = p:pid()
    t.ok(t.alive(pid))
  end
  t.within(2, function() return not t.alive(pid) end)
end)

standing.test("two interpreters on two threads at once", {deadline = 60, stall = false},
  function(t)
  local states = {}
  for i = 1, 2 do states[i] = fkit.state(package.path, package.cpath) end
  local job = [[
    local fork = require "moonfork"
    local template = fork.new_exec():require("actor")
    local n = 0
    for i = 1, %d do
      local p = template:fork():send_arg(tostring(i))
      local socket = assert(p:run("actor:given"))
      assert(socket:read("a") == '"' .. i .. '"')
      socket:close()
      assert(p:wait(5).code == 0)
      n = n + 1
    end
    local own = assert(fork.new():run("type"))
    own:close()
    template:close()
    return n
  ]]
  local n = host.rounds(100, 2000)
  for i = 1, 2 do t.got(states[i]:start(job:format(n))) end
  local answers = {}
  for i = 1, 2 do answers[i] = {states[i]:join()} end
  for i = 1, 2 do states[i]:close() end
  for i = 1, 2 do t.eq(answers[i], {tostring(n)}) end
end)

standing.test("waits for sockets that time out leave nothing", function(t)
  local a, b = fork.socket.pair()
  fork.set_waiter(waiter)
  a:settimeout(0.001)
  for _ = 1, 100 do t.eq((a:read "l"), nil) end -- more references than may stay
  b:write "a line\n"
  t.eq(a:read "l", "a line")
  fork.set_waiter(nil)
  a:close()
  b:close()
end)

standing.test("clones have default signals whatever the host has", function(t)
  local out, code, err = t:lua [==[
    local fork, kit, fkit = require "moonfork", require "testkit", require "faultkit"
    local actor = require "actor"
    for _, signum in ipairs{kit.SIGPIPE, kit.SIGCHLD, kit.SIGHUP, kit.SIGUSR2} do
      kit.disposition(signum, "ignore")
    end
    kit.disposition(kit.SIGUSR1, "count")
    kit.disposition(kit.SIGTERM, "count")
    fkit.sigmask("block", "all")
    local function mine()
      return ("%x %x %x"):format(actor.status_bits("SigBlk"), actor.status_bits("SigIgn"),
        actor.status_bits("SigCgt"))
    end
    local before = mine()
    local ask = [[
      local actor = require "actor"
      function f(socket)
        socket:write(("%x %x %x"):format(actor.status_bits("SigBlk"),
          actor.status_bits("SigIgn"), actor.status_bits("SigCgt")))
      end
    ]]
    local template = fork.new_exec():eval(ask)
    for _, p in ipairs{template:fork(), fork.new():eval(ask), template} do
      local socket = assert(p:run("f"))
      io.write("clone ", socket:read("a"), "\n")
      socket:close()
      local status = assert(p:wait(5))
      assert(status.code == 0, tostring(status.signal))
    end
    io.write(before == mine() and "unchanged" or before .. " became " .. mine(), "\n")
  ]==]
  t.eq(code, 0, err)
  t.eq(out, ("clone 0 0 0\n"):rep(3) .. "unchanged\n")
end)

standing.test("a clone in a session of its own does not get the terminal's signals",
  function(t)
  local p = fork.new{session = "new"}:require("actor")
  local socket = t.got(p:run("actor:echo"))
  t.eq(kit.getsid(p:pid()), p:pid())
  t.eq(kit.getpgid(p:pid()), p:pid())
  local q = fork.new():require("actor")
  local other = t.got(q:run("actor:echo"))
  t.eq(kit.getsid(q:pid()), kit.getsid())
  socket:close()
  other:close()
end)

story.done()
