-- Faults of section C: templates, clones and hosts that die, in every way and moment. Runs in
-- the parent; dying hosts are its children (help/host.lua). What needs root is in
-- root_death.lua.
local fkit = require "faultkit"
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"
local fork = require "moonfork"

local LEASH = 2

for _, signum in ipairs{kit.SIGKILL, kit.SIGSEGV, kit.SIGTERM, kit.SIGPIPE} do
  standing.test("an idle template is ended by signal " .. signum, function(t, s)
    local template = fork.new_exec():limit{core = 0}:require("actor")
    local p, exits, told = template:fork(), 0, nil
    local socket = t.got(p:run("actor:echo"))
    template:on_exit(function(status)
      exits, told = exits + 1, status
    end)
    kit.kill(template:pid(), signum)
    t.within(5, function() return exits > 0 end, "the notice")
    t.eq({exits, told.signal}, {1, signum})
    socket:write("still here\n")
    t.eq(socket:read("l"), "still here", "running clones continue")
    s:submit("a fork from it", function(callback)
      template:fork():run("type", callback)
    end, function(err)
      t.error(err, "TEMPLATE_DIED")
      t.eq(err.started, "no")
    end)
    s:settle(5)
    socket:close()
    t.ok(t.status(p))
  end)
end

standing.test("a default template that was killed is started again", {new_template = true,
  signals = false}, function(t, s)
  local pid = standing.default_template(t)
  local p = fork.new():require("actor")
  local exits = 0
  p:on_exit(function() exits = exits + 1 end)
  local socket = t.got(p:run("actor:echo"))
  local queued = {}
  local before = t.ask(fork.new(), "return require'testkit'.exec_id()")
  kit.kill(pid, kit.SIGKILL)
  for i = 1, 5 do
    s:submit("at the death " .. i, function(callback)
      fork.new():run("type", callback)
    end, function(err, sock)
      queued[i] = err and err.code or "started"
      if err then t.eq(err.started, "no") end
      if sock then sock:close() end
    end)
  end
  s:settle(10)
  for i = 1, 5 do
    t.ok(queued[i] == "started" or queued[i] == "TEMPLATE_DIED", queued[i])
  end
  local fresh
  t.within(5, function()
    local q = fork.new():require("testkit"):eval [[
      function f(socket) socket:write(require("testkit").exec_id()) end
    ]]
    local sock = q:run("f")
    if not sock then return false end
    fresh = sock:read("a")
    sock:close()
    return fresh
  end, "the next one works")
  t.ok(fresh ~= before)
  socket:write("still here\n")
  t.eq(socket:read("l"), "still here")
  t.eq(exits, 0)
  socket:close()
  t.within(5, function() return exits > 0 end)
  t.eq(exits, 1)
end)

for _, row in ipairs{{"always", "exit 1"}, {"every second time",
  "[ $(( $(wc -l <\"$COUNT\") % 2 )) = 1 ] && exit 1; exec \"$REAL\" \"$@\""}} do
  standing.test("a default template that crashes at start, " .. row[1], {stall = false},
    function(t)
    local count = t:file("count", "")
    local wrapper = t:file("wrapper", ("#!/bin/sh\nCOUNT='%s' REAL='%s'\necho x >>\"$COUNT\"\n" ..
      "sleep 0.02\n%s\n"):format(count, os.getenv("MOONFORK_TEMPLATE"), row[2]))
    kit.chmod(wrapper, tonumber("755", 8))
    local h <close> = host.start(t, [[
      kit.setenv("MOONFORK_TEMPLATE", (...))
      local n, good, bad, kinds = 20, 0, 0, {}
      local calls = {}
      for i = 1, n do
        fork.new():run("type", function(err, socket)
          calls[i] = (calls[i] or 0) + 1
          if err then
            bad = bad + 1
            kinds[err.code .. " " .. err.started] = tostring(err)
          else
            good = good + 1
            socket:close()
          end
        end)
      end
      fork.loop()
      for i = 1, n do assert(calls[i] == 1, "callback " .. i) end
      print("good " .. good .. " bad " .. bad)
      for kind, text in pairs(kinds) do print("error " .. kind .. ": " .. text) end
      local cpu, before = fkit.cputime(), kit.now()
      while kit.now() - before < 1 do fork.step(0.1) kit.msleep(1) end
      print("cpu " .. math.floor((fkit.cputime() - cpu) * 1000))
    ]], {script = {wrapper}})
    local good, bad = h:says("good (%d+) bad (%d+)", 15)
    t.eq(tonumber(good) + tonumber(bad), 20)
    if row[1] == "always" then t.eq(good, "0") end
    for kind in h:out():gmatch("error ([^:]*):") do
      t.ok(kind == "TEMPLATE_START no" or kind == "TEMPLATE_DIED no", kind)
    end
    local cpu = tonumber((h:says("cpu (%d+)")))
    h:succeeds()
    local starts = select(2, t.read(count):gsub("\n", ""))
    t.note("%d starts for 20 processes, %s good", starts, good)
    t.ok(starts <= 20, "no more starts than were asked for: " .. starts)
    t.ok(cpu < 50, "busy for " .. cpu .. " ms of an idle second")
  end)
end

standing.test("a clone killed before run ends that run once", function(t, s)
  local template = fork.new_exec():require("actor")
  local p = template:fork()
  standing.pid(t, p) -- it is there, and idle
  local exits, told = 0, nil
  p:on_exit(function(status)
    exits, told = exits + 1, status
  end)
  kit.kill(p:pid(), kit.SIGKILL)
  s:submit("run", function(callback) p:run("actor:echo", callback) end, function(err)
    t.error(err, "CLONE_DIED")
    t.eq(err.started, "no")
    if err.exit then t.eq(err.exit.signal, kit.SIGKILL) end
  end)
  s:settle(5)
  t.within(2, function() return exits > 0 end)
  t.eq({exits, told.signal}, {1, kit.SIGKILL})
  template:close()
end)

standing.test("clones killed at random moments: every callback once, every exit once",
  {deadline = 40}, function(t, s)
  local seed = tonumber(os.getenv("FAULT_SEED")) or math.floor(kit.now() * 1e6)
  t.note("seed %d (FAULT_SEED)", seed)
  math.randomseed(seed)
  local template = fork.new_exec():require("actor")
  local exits, rounds = 0, host.rounds(200, 2000)
  for i = 1, rounds do
    local p = template:fork():send_arg(("x"):rep(math.random(0, 3000)))
    p:on_exit(function() exits = exits + 1 end)
    s:submit("run " .. i, function(callback) p:run("actor:hold", callback) end,
      function(err, socket)
      if socket then
        socket:close()
      else
        t.error(err, "CLONE_DIED")
        t.ok(err.started == "no" or err.started == "unknown")
      end
    end)
    if math.random() < 0.5 then fork.step(0) end
    p:kill("KILL")
    fork.step(math.random() < 0.3 and 0.001 or 0)
  end
  s:settle(10)
  t.within(10, function() return exits >= rounds end)
  for _ = 1, 10 do fork.step(0.005) end
  t.eq(exits, rounds)
  template:close()
end)

standing.test("a clone killed in the middle of an answer", function(t, s)
  local shim = host.tool(t, "shim.so")
  for at = 1, 4 do
    for name, value in pairs{LD_PRELOAD = shim, SHIM_CHILD = "1", WRITE_KILL = tostring(at)} do
      kit.setenv(name, value)
    end
    local template = fork.new_exec{program = host.plain_template(t)}
    standing.pid(t, template)
    for _, name in ipairs{"LD_PRELOAD", "SHIM_CHILD", "WRITE_KILL"} do kit.setenv(name, nil) end
    local maps
    t.outside(5, function()
      maps = t.read("/proc/" .. template:pid() .. "/maps") or ""
      return maps:find("libc", 1, true) and maps:find("moonfork-template", 1, true)
    end, "it has been executed")
    if not maps:find("shim.so", 1, true) then
      template:close()
      t.skip("the template does not take preloaded libraries")
    end
    local p, exits, told = template:fork(), 0, nil
    p:on_exit(function(status)
      exits, told = exits + 1, status
    end)
    p:eval("x = 1"):eval("error('an answer of some length, ' .. ('x'):rep(3000))")
    s:submit("run, write " .. at, function(callback) p:run("type", callback) end,
      function(err, socket)
      t.eq(socket, nil)
      t.ok(err.code == "CLONE_DIED" or err.code == "REMOTE", err.code .. ": " .. tostring(err))
      t.eq(err.started, "no")
    end)
    s:settle(5)
    t.within(2, function() return exits > 0 end)
    t.ok(exits == 1 and (told.signal == kit.SIGKILL or told.code == 1))
    template:close()
  end
end)

standing.test("a running clone killed halfway through writing to its socket", function(t)
  local p = fork.new():eval [[
    function half(socket)
      socket:write(("x"):rep(1000))
      socket:flush()
      local kit = require "testkit"
      kit.kill(kit.getpid(), kit.SIGKILL)
    end
  ]]
  local socket = t.got(p:run("half"))
  t.eq(#socket:read("a"), 1000, "what reached the kernel is read, then the end")
  t.eq(t.status(p).signal, kit.SIGKILL)
  socket:close()
end)

standing.test("kinds of ends", {deadline = 60}, function(t)
  local template = fork.new_exec{stderr = "null"}:limit{core = 0}:require("faultkit"):eval [[
    local kit, fkit = require "testkit", require "faultkit"
    ends = {
      ["return"] = function() return 5 end,
      ["error"] = function() error("plain") end,
      ["error table"] = function() error({}) end,
      ["error nil"] = function() error(nil) end,
      abort = kit.abort,
      segv = kit.segv,
      ["stack overflow"] = function() local function f() return 1 + f() end f() end,
      ["C stack overflow"] = function()
        local function f(s) return (s:gsub(".", f)) end
        f("x")
      end,
      ["out of memory"] = function() return #("x"):rep(1 << 30) end,
      cpu = function()
        fkit.prlimit(0, "cpu", 1, 10)
        kit.spin()
      end,
      ["file size"] = function(path)
        fkit.prlimit(0, "fsize", 100, 100)
        local f = io.open(path, "w")
        f:write(("x"):rep(1000))
        f:flush()
      end,
    }
    function ending(socket, name, ...)
      local number = math.tointeger(tonumber(name))
      if number then os.exit(number) end
      return ends[name](...)
    end
  ]]
  local function status_of(name)
    local p = template:fork():send_arg(name, t:file("big"))
    if name == "out of memory" then p:limit{as = 256 << 20} end
    local socket = t.got(p:run("ending"))
    local status = t.status(p, 15)
    socket:close()
    return status
  end
  local rows = {
    {"return", 0}, {"error", 1, nil, "plain"}, {"error table", 1, nil, ""},
    {"error nil", 1, nil, ""}, {"abort", nil, kit.SIGABRT}, {"segv", nil, kit.SIGSEGV},
    {"stack overflow", 1, nil, "stack overflow"},
    {"C stack overflow", 1, nil, "stack overflow"},
    {"out of memory", 1, nil, "memory"}, {"cpu", nil, kit.SIGXCPU},
    {"file size", nil, kit.SIGXFSZ},
  }
  for _, row in ipairs(rows) do
    local name, code, signal, message = table.unpack(row, 1, 4)
    local status = status_of(name)
    t.eq({status.code, status.signal}, {code, signal}, name)
    if message then t.match(status.error, message, name) end
    if not message then t.eq(status.error, nil, name) end
    t.ok(not status.core, name .. ": a core file")
  end
  for n = 0, 255 do
    local status = status_of(tostring(n))
    t.eq({status.code, status.signal}, {n, nil}, "os.exit(" .. n .. ")")
  end
  template:close()
end)

standing.test("a grandchild that keeps the socket does not hide the end", function(t)
  for _, how in ipairs{"fork", "popen"} do
    local p = fork.new():require("testkit"):send_arg(how):eval [[
      function leaves(socket, how)
        local kit, clone = require "testkit", require "moonfork.clone"
        if how == "fork" then
          local pid = clone.fork()
          if pid == 0 then
            kit.msleep(60000)
            kit.exit(0)
          end
          socket:write(pid, "\n")
        else
          local pipe = io.popen("echo $$; exec sleep 60")
          socket:write(pipe:read("l"), "\n")
        end
        socket:read("l")
        os.exit(4)
      end
    ]]
    local exits, status = 0, nil
    p:on_exit(function(s)
      exits, status = exits + 1, s
    end)
    local socket = t.got(p:run("leaves"))
    local grandchild = tonumber(socket:read("l"))
    socket:write("go\n")
    t.within(1, function() return exits > 0 end, how .. ": the notice of its end")
    t.eq({exits, status.code}, {1, 4}, how)
    t.ok(t.alive(grandchild), how .. ": the grandchild is alive")
    socket:close()
    kit.kill(grandchild, kit.SIGKILL)
    t.outside(2, function() return not t.alive(grandchild) end)
  end
end)

local crowd = [[
  local template = fork.new_exec():require("testkit"):eval("function spin() while true do end end "
    .. "function read(s) s:read('a') s:read('a') require('testkit').msleep(60000) end "
    .. "function blocked(s) require('testkit').kill(require('testkit').getpid(), 19) end")
  pid_of(template)
  local all, sockets = {}, {}
  for i = 1, 50 do
    local p = template:fork()
    local kind = ({"idle", "spin", "read", "blocked"})[i % 4 + 1]
    if kind == "idle" then
      pid_of(p)
    else
      sockets[i] = assert(p:run(kind))
    end
    all[i] = p
    print("clone " .. p:pid() .. " " .. kind)
  end
  print("template " .. template:pid())
  print("ready")
  while true do fork.step(0.2) kit.msleep(5) end
]]

standing.test("a killed host takes everything along within two seconds", {deadline = 40,
  stall = false}, function(t)
  kit.subreaper(true)
  local h <close> = host.start(t, crowd)
  h:says("ready\n", 20)
  local pids, n = {}, 0
  for pid, kind in h:out():gmatch("(%d+) ?(%a*)\n") do
    pids[tonumber(pid)], n = kind == "" and "template" or kind, n + 1
  end
  t.eq(n, 51)
  for pid, kind in pairs(pids) do t.ok(t.alive(pid), kind) end
  h:kill(kit.SIGKILL)
  h:ends()
  local last = kit.now() + LEASH * host.scale
  repeat
    local left = {}
    for pid, kind in pairs(pids) do
      if t.alive(pid) then left[#left + 1] = kind .. " " .. pid end
    end
    if #left == 0 then break end
    if kit.now() > last then
      for pid in pairs(pids) do kit.kill(pid, kit.SIGKILL) end
      t.fail("left after %g s: %s", LEASH, table.concat(left, ", "))
    end
    kit.msleep(5)
  until false
  local function reap()
    local zombies = false
    for pid, process in pairs(kit.processes()) do
      if process.ppid == kit.getpid() and process.state == "Z" then
        kit.waitpid(pid, true)
        zombies = true
      end
    end
    return not zombies
  end
  t.outside(2, reap)
  kit.subreaper(false)
end)

-- The thread that made it is only a thread: PR_SET_PDEATHSIG would kill the template here.
standing.test("a template outlives the thread that created it", {stall = false}, function(t)
  local state <close> = setmetatable({state = fkit.state(package.path, package.cpath)}, {
    __close = function(self) self.state:close() end})
  local kept = state.state
  kept:start [[
    fork = require "moonfork"
    p = fork.new_exec():require("actor")
    assert(p:memory())
    return p:pid()
  ]]
  local pid = t.got(kept:join())
  local last = kit.now() + (host.nightly and 5 or 1)
  t.outside(10, function()
    t.ok(t.alive(tonumber(pid)), "the template has ended with the thread")
    return kit.now() > last
  end)
  t.eq(t.got(kept:here [[
    local q = p:fork()
    local socket = assert(q:run("actor:echo"))
    socket:write("alive\n")
    local line = socket:read("l")
    socket:close()
    assert(q:wait(5))
    p:close()
    return line
  ]]), "alive")
end)

story.done()
