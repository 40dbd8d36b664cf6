-- How processes end, and who is told. Rows PF-05, 08, 09, 10, 11, 17, 18 and 19. Runs in the
-- parent; what happens to a parent is shown with one of its own (help/host.lua).
local host = require "host"
local kit = require "testkit"
local story = require "story"
local fork = require "moonfork"

local LEASH = 2 -- seconds within which everything of a dead parent has ended

story.test("PF-05 every way to end is reported exactly", function(t)
  local template = fork.new_exec():limit{core = 0}:require("testkit"):eval [[
    local kit = require "testkit"
    ways = {
      ret = function() return 77, "whatever" end,
      raise = function() error("on purpose") end,
      TERM = function() kit.kill(kit.getpid(), kit.SIGTERM) end,
      SEGV = kit.segv,
      KILL = function() kit.kill(kit.getpid(), kit.SIGKILL) end,
      ABRT = kit.abort,
    }
    function way(socket, name)
      if tonumber(name) then os.exit(math.tointeger(tonumber(name))) end
      ways[name]()
    end
  ]]
  local rows = {
    {"0", 0}, {"1", 1}, {"42", 42}, {"255", 255}, {"ret", 0}, {"raise", 1},
    {"TERM", nil, kit.SIGTERM}, {"SEGV", nil, kit.SIGSEGV}, {"KILL", nil, kit.SIGKILL},
    {"ABRT", nil, kit.SIGABRT},
  }
  for _, row in ipairs(rows) do
    local p = template:fork{stderr = "null"}:send_arg(row[1])
    local times, told = 0, nil
    p:on_exit(function(status)
      times, told = times + 1, status
    end)
    local socket = t.got(p:run("way"))
    local status = t.status(p)
    t.eq(status.code, row[2], row[1] .. ": code")
    t.eq(status.signal, row[3], row[1] .. ": signal")
    t.ok(not status.core, row[1] .. ": no core with a limit of 0")
    t.ok(not status.unknown, row[1])
    if row[1] == "raise" then t.match(status.error, "on purpose") end
    t.ok(type(status.rusage) == "table" and status.rusage.maxrss > 0, row[1] .. ": rusage")
    t.within(2, function() return times > 0 end, "on_exit")
    t.eq({times, told.code, told.signal}, {1, row[2], row[3]}, row[1] .. ": on_exit, once")
    socket:close()
  end
  template:close()
end)

story.test("PF-05 a thousand exits at once are a thousand notices", {deadline = 60}, function(t)
  local soft = kit.getrlimit("nofile")
  kit.setrlimit("nofile", math.min(select(2, kit.getrlimit("nofile")), 8192))
  local template = fork.new_exec():eval [[
    function leave(socket, code)
      socket:read("a")
      os.exit(math.tointeger(tonumber(code)))
    end
  ]]
  -- Three descriptors for each, if there are so many.
  local N, sockets, notices, wrong = math.min(1000, kit.getrlimit "nofile" // 3 - 20), {}, 0, 0
  for i = 1, N do
    local p, expected, times = template:fork():send_arg(tostring(i % 256)), i % 256, 0
    p:on_exit(function(status)
      notices, times = notices + 1, times + 1
      if status.code ~= expected or times > 1 then wrong = wrong + 1 end
    end)
    p:run("leave", function(err, socket)
      t.eq(err, nil)
      sockets[#sockets + 1] = socket
    end)
  end
  t.within(30, function() return #sockets == N end, "all run")
  for _, socket in ipairs(sockets) do socket:close() end
  t.within(20, function() return notices >= N end, "all told")
  for _ = 1, 20 do fork.step(0.005) end
  t.eq({notices, wrong}, {N, 0})
  template:close()
  kit.setrlimit("nofile", soft)
end)

local sleepers = [[
  for i = 1, 3 do
    local p = fork.new{leash = "kill"}:require("testkit"):eval("function s() "
      .. "while true do require('testkit').msleep(1000) end end")
    assert(p:run("s"))
    print("clone " .. p:pid())
  end
  print("leaving")
]]

for _, how in ipairs{"os.exit(0)", "os.exit(0, true)", "-- falls off the end"} do
  story.test("PF-08 PF-19 an app never waits for its clones: " .. how, function(t)
    local best = math.huge
    for _ = 1, 3 do
      local h <close> = host.start(t, sleepers .. how)
      h:says("leaving")
      local before = kit.now()
      h:succeeds(5)
      best = math.min(best, kit.now() - before)
      for pid in h:out():gmatch("clone (%d+)") do
        t.outside(LEASH, function() return not t.alive(tonumber(pid)) end, "clone " .. pid)
      end
    end
    t.ok(best < 0.1, "the app needs " .. best .. " s to leave")
  end)
end

story.test("PF-19 whoever wants to wait does so by name", function(t)
  local template = fork.new_exec():eval [[ function f(socket) socket:read("a") end ]]
  local processes, sockets = {}, {}
  for i = 1, 5 do
    processes[i] = template:fork()
    sockets[i] = t.got(processes[i]:run("f"))
  end
  local status, err = processes[1]:wait(0.05)
  t.eq(status, nil)
  t.error(err, "TIMEOUT")
  t.ok(t.alive(processes[1]:pid()), "the process is left alone")
  for _, socket in ipairs(sockets) do socket:close() end
  for _, p in ipairs(processes) do t.eq(t.status(p).code, 0) end
  template:close()
end)

story.test("PF-09 exec keeps the pid, gives the status, runs no finalisers", function(t)
  local marker = t:file("finalised")
  local script = t:file("program.sh", "#!/bin/sh\n" .. [[
echo "pid $$"
ls -l /proc/$$/fd
exit 7
]])
  kit.chmod(script, tonumber("755", 8))
  local template = fork.new_exec():eval([[
    local marker = ...
    local function finaliser(text)
      return setmetatable({}, {__gc = function() io.open(marker, "a"):write(text) end})
    end
    inherited = finaliser("template ")
    function program(socket, script, handle)
      own = finaliser("clone ")
      local clone = require "moonfork.clone"
      clone.exec(script, {script}, {fds = {[1] = socket, [5] = handle}})
    end
  ]], marker)
  for _, leash in ipairs{"keep", "kill"} do
    local file = assert(io.open(t:file("handed", "x")))
    local p = template:fork{leash = leash}:send_arg(script):send_fd(file)
    local socket = t.got(p:run("program"))
    local text = socket:read("a")
    t.eq(tonumber(text:match("pid (%d+)")), p:pid(), "the same process")
    t.eq(t.status(p).code, 7)
    local open, extra = {}, {}
    for fd, target in text:gmatch(" (%d+) %-> ([^\n]*)") do
      open[tonumber(fd)] = target
      -- The shell's own is its script.
      local own = target == script
      if not own and not fd:match("^[0125]$") then extra[#extra + 1] = target end
    end
    t.match(open[5], "handed$", "the wanted descriptor")
    if leash == "keep" then
      t.eq(extra, {}, "only 0 to 2 and what was asked for")
    else
      t.ok(#extra <= 1, "at most the leash: " .. table.concat(extra, " "))
      for _, target in ipairs(extra) do t.match(target, "^pipe:", "the leash") end
    end
    socket:close()
    file:close()
  end
  t.eq(t.read(marker), nil, "no finaliser ran")
  template:close()
end)

story.test("PF-09 an exec that fails is told, and the clone lives on", function(t)
  local ok, message, errno = t.ask(fork.new(), [[
    local clone = require "moonfork.clone"
    return clone.exec("/proc/nowhere/program", {"program"})
  ]])
  t.eq(ok, nil)
  t.match(message, "No such file")
  t.eq(errno, 2)
end)

story.test("PF-10 exit does not wait for the clone's own children", function(t)
  local template = fork.new_exec():require("faultkit"):eval [[
    function parent(socket)
      socket:write(require("faultkit").spawn({"sleep", "30"}, {}), "\n")
      socket:read("l")
      os.exit(3)
    end
  ]]
  local best = math.huge
  for _ = 1, 3 do
    local p = template:fork()
    local socket = t.got(p:run("parent"))
    local child = tonumber(socket:read("l"))
    local before = kit.now()
    socket:write("go\n")
    t.eq(t.status(p).code, 3)
    best = math.min(best, kit.now() - before)
    t.ok(t.alive(child), "its child goes on")
    kit.kill(child, kit.SIGKILL)
    t.outside(2, function() return not t.alive(child) end)
    socket:close()
  end
  t.ok(best < 0.1, "the exit was told after " .. best .. " s")
  template:close()
end)

story.test("PF-11 the end of a clone moves no shared file offset and prints nothing twice",
  function(t)
  local lines = {}
  for i = 1, 1000 do lines[i] = ("line %d of a file\n"):format(i) end
  local path, printed = t:file("lines", table.concat(lines)), t:file("printed")
  local file = assert(io.open(printed, "w"))
  local template = fork.new_exec{stdout = file}:eval([[
    f = io.open((...))
    first = f:read("L")
    io.stdout:setvbuf("full")
    io.write("buffered once\n")
    function returns() end
    function exits() os.exit(0) end
    function raises() error("on purpose") end
  ]], path)
  for _, way in ipairs{"returns", "exits", "raises"} do
    for _ = 1, 5 do
      local p = template:fork{stderr = "null"}
      local socket = t.got(p:run(way))
      t.eq(t.status(p).code, way == "raises" and 1 or 0)
      socket:close()
    end
  end
  template:eval [[ second = f:read("L") ]]
  local first, second, rest = t.ask(template, "return first, second, f:read('a')")
  t.eq(first .. second .. rest, table.concat(lines))
  file:close()
  t.eq(t.read(printed), "buffered once\n")
end)

local job = [[
  local function start(leash, code)
    local p = fork.new_exec{leash = leash}:require("testkit"):eval(code)
    local c = p:fork{leash = leash}
    assert(c:run("f"))
    print(leash .. " template " .. p:pid())
    print(leash .. " clone " .. c:pid())
    return p, c
  end
  local marker = ...
  local spin = "function f() while true do end end"
  local work = ("function f(socket) socket:read('a') require('testkit').msleep(2500) "
    .. "io.open(%q, 'w'):write('done') end"):format(marker)
  local all = {}
  all[1] = table.pack(start("kill", spin))
  all[2] = table.pack(start("term", spin))
  all[3] = table.pack(start("keep", work))
  local waiting = fork.new():eval("x = 1")
  pid_of(waiting)
  print("waiting clone " .. waiting:pid())
  print("ready")
  while true do fork.step(1) kit.msleep(10) end
]]

story.test("PF-17 a killed app takes its templates and waiting clones along", function(t)
  kit.subreaper(true)
  local marker = t:file("finished")
  local h <close> = host.start(t, job, {script = {marker}})
  h:says("ready\n")
  local pids = {}
  for what, pid in h:out():gmatch("([%a ]+) (%d+)\n") do pids[what] = tonumber(pid) end
  for what, pid in pairs(pids) do t.ok(t.alive(pid), what) end
  h:kill(kit.SIGKILL)
  t.eq({h:ends()}, {"signal", kit.SIGKILL})
  local before = kit.now()
  for _, what in ipairs{"kill template", "kill clone", "term template", "term clone",
    "waiting clone"} do
    t.outside(LEASH, function() return not t.alive(pids[what]) end, what)
  end
  t.ok(kit.now() - before <= LEASH, "all of them within two seconds")
  t.ok(t.alive(pids["keep clone"]), "one that is kept goes on")
  t.outside(8, function() return not t.alive(pids["keep clone"]) end)
  t.eq(t.read(marker), "done", "and finishes its job")
  t.outside(LEASH, function() return not t.alive(pids["keep template"]) end, "its reaper")
  for _, pid in pairs(pids) do kit.waitpid(pid, true) end
  for pid, process in pairs(kit.processes()) do -- the host's default template
    if process.ppid == kit.getpid() and process.state == "Z" then kit.waitpid(pid, true) end
  end
  kit.subreaper(false)
end)

story.test("PF-18 a killed template leaves its clones running, and their end is noticed",
  function(t)
  local template = fork.new_exec():require("actor")
  local p = template:fork()
  local times, status = 0, nil
  p:on_exit(function(s)
    times, status = times + 1, s
  end)
  local socket = t.got(p:run("actor:echo"))
  kit.kill(template:pid(), kit.SIGKILL)
  t.eq(t.status(template).signal, kit.SIGKILL)
  socket:write("still here\n")
  t.eq(socket:read("l"), "still here")
  t.eq(times, 0, "no notice while it runs")
  socket:close()
  t.within(5, function() return times > 0 end, "the notice of its end")
  t.ok(status.unknown or status.code == 0, "unknown, or exact where the kernel tells")
  t.eq(times, 1)
  t.outside(2, function() return not t.alive(p:pid()) end)
end)

story.done()
