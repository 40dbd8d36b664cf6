-- Faults of section B: forks that fail, templates that do not start, environments that do not
-- help. Runs in the parent. What needs root is in root_start.lua.
local crowd = require "crowd"
local fkit = require "faultkit"
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"
local fork = require "moonfork"

--- Injects failures into system calls of a process; returns what takes them away again.
local function inject(t, pid, what)
  if not host.can_trace() then t.skip("needs strace and the right to trace") end
  local trace = t:file("trace")
  local strace = assert(fkit.spawn({"strace", "-qq", "-o", trace, "-e",
    "trace=clone,clone3,fork,vfork", "-e", "inject=" .. what, "-p", tostring(pid)}, {}))
  t.outside(5, function()
    local status = t.read("/proc/" .. pid .. "/status") or ""
    return status:match("TracerPid:%s*(%d+)") == tostring(strace)
  end, "strace is attached")
  return setmetatable({
    detach = function(self)
      if not self.gone then
        kit.kill(strace, kit.SIGTERM)
        kit.waitpid(strace)
      end
      self.gone = true
      return select(2, (t.read(trace) or ""):gsub("INJECTED", ""))
    end,
  }, {__close = function(self) self:detach() end})
end

for _, errno in ipairs{"EAGAIN", "ENOMEM"} do
  standing.test("a fork that fails with " .. errno .. " fails that request only",
    function(t, s)
    local template = fork.new_exec():require("actor")
    t.ask(template:fork(), "return 1") -- it has started, and forked
    local pid = s:watch(template:pid())
    local injected <close> = inject(t, pid, "clone,clone3,fork:error=" .. errno .. ":when=3+5")
    local good, bad = 0, 0
    for i = 1, 40 do
      s:submit("spawn " .. i, function(callback)
        template:fork():run("actor:given", callback)
      end, function(err, socket)
        if not err then
          good = good + 1
          return socket:close()
        end
        t.error(err, "FORK_FAILED", errno == "EAGAIN" and "temporarily unavailable"
          or "[Mm]emory")
        t.eq(err.started, "no")
        bad = bad + 1
      end)
      s:settle(5)
    end
    t.eq(bad, injected:detach(), "as many as were injected")
    t.eq({good, bad}, {32, 8})
    t.eq(template:pid(), pid, "the same template")
    t.eq((t.ask(template:fork(), "return require('testkit').getppid()")), kit.getpid())
    s:forget(pid)
    template:close()
  end)
end

-- The socket of a fork that failed ends, and later clones answer, before the template has told of it.
standing.test("forks that fail among many at once fail alone", {deadline = 40}, function(t, s)
  local template = fork.new_exec():require("actor")
  t.ask(template:fork(), "return 1") -- it has started, and forked
  local pid = s:watch(template:pid())
  local injected <close> = inject(t, pid, "clone,clone3,fork:error=EAGAIN:when=3+5")
  local told, good, bad = 0, 0, 0
  for _ = 1, 40 do
    template:fork():run("actor:given", function(err, socket)
      told = told + 1
      if not err then
        good = good + 1
        return socket:close()
      end
      t.error(err, "FORK_FAILED", "temporarily unavailable")
      t.eq(err.started, "no")
      bad = bad + 1
    end)
  end
  t.within(20, function() return told == 40 end)
  t.eq(bad, injected:detach(), "as many as were injected")
  t.eq({good, bad}, {32, 8})
  s:forget(pid)
  template:close()
end)

-- The limit counts all processes of a user, and root is not bound by it: an ordinary user.
standing.test("at the limit of processes a fork fails, and recovers", {deadline = 90,
  stall = false}, function(t)
  local before = {}
  if kit.getuid() == 0 then
    local own = 100000 + kit.getpid() -- a user who has no other processes
    before = {"setpriv", "--reuid=" .. own, "--regid=65534", "--clear-groups"}
    if not os.execute(table.concat(before, " ") .. " true 2>/dev/null") then t.skip("needs setpriv") end
  end
  local h <close> = host.start(t, [[
    local crowd = require "crowd"
    local function number() -- of the user's processes
      local n, mine = 0, tonumber(io.open("/proc/self/status"):read("a"):match("Uid:%s*(%d+)"))
      for pid in pairs(kit.processes()) do
        local status = io.open("/proc/" .. pid .. "/status")
        local text = status and status:read("a") or "" -- it may have ended meanwhile
        local uid = text:match("Uid:%s*(%d+)")
        if status then status:close() end
        if tonumber(uid) == mine then n = n + 1 end
      end
      return n
    end
    local template, clones
    local function fill()
      template = fork.new_exec():require("actor"):limit{nproc = number() + 6}
      pid_of(template)
      clones = crowd.ask(template)
    end
    fill()
    for _ = 1, 9 do -- again where other programs of the user began or ended meanwhile
      if #clones.started >= 1 and #clones.started <= 6 then break end
      fork.sleep(math.random() / 2) -- copies of this program do the same
      crowd.leave(clones)
      template:close()
      fill()
    end
    crowd.tell(template, clones)
  ]], {before = before})
  crowd.check(t, h, 1, 6, 60)
end)

--- A template that has the shim loaded, or the story is skipped.
local function shimmed(t, settings)
  local shim = host.tool(t, "shim.so")
  kit.setenv("LD_PRELOAD", shim)
  for name, value in pairs(settings) do kit.setenv(name, value) end
  local p = fork.new_exec{name = "shimmed", program = host.plain_template(t)}
  standing.pid(t, p)
  kit.setenv("LD_PRELOAD", nil)
  for name in pairs(settings) do kit.setenv(name, nil) end
  local maps
  t.outside(5, function()
    maps = t.read("/proc/" .. p:pid() .. "/maps") or ""
    return maps:find("libc", 1, true) and maps:find("moonfork-template", 1, true)
  end, "it has been executed")
  if not maps:find("shim.so", 1, true) then
    p:close()
    t.skip("the template does not take preloaded libraries")
  end
  return p
end

for _, row in ipairs{{"exit:3", 3, nil}, {"kill:9", nil, 9}, {"exit:0", 0, nil}} do
  standing.test("a clone that dies right after the fork is told once: " .. row[1],
    function(t, s)
    local template = shimmed(t, {FORK_CHILD = row[1], FAIL_AT = "2"})
    t.eq((t.ask(template:fork(), "return 1")), 1, "the first fork")
    local p, exits, told = template:fork(), 0, nil
    p:on_exit(function(status)
      exits, told = exits + 1, status
    end)
    s:submit("the second", function(callback) p:run("type", callback) end,
      function(err, socket)
      t.eq(socket, nil)
      t.error(err, "CLONE_DIED")
      t.eq(err.started, "no")
      if err.exit then t.eq({err.exit.code, err.exit.signal}, {row[2], row[3]}) end
    end)
    s:settle(5)
    t.within(2, function() return exits > 0 end, "on_exit")
    t.eq({exits, told.code, told.signal}, {1, row[2], row[3]})
    t.eq((t.ask(template:fork(), "return 3")), 3, "the third fork")
    template:close()
  end)
end

for _, number in ipairs {105, 4} do -- ENOBUFS, EINTR
  standing.test(("the n-th send of a template fails with %d: invisible"):format(number),
    {deadline = 60}, function(t)
      for at = 1, 8 do
        local template = shimmed(t, {FAIL_FN = "sendmsg", FAIL_AT = tostring(at),
          FAIL_ERRNO = tostring(number), FAIL_ONCE = "1"})
        for i = 1, 3 do t.eq((t.ask(template:fork(), "return " .. i)), i, at) end
        local q = template:fork()
        t.eq((t.ask(q:fork(), "return 'of a clone'")), "of a clone", at)
        q:close()
        template:close()
      end
    end)
end

-- Modules that do what modules should not. What each must lead to.
local preloads = {
  {"f19_missing", nil, "REMOTE", "f19_missing"},
  {"f19_syntax", "local = 1", "REMOTE", "f19_syntax"},
  {"f19_table", "error({})", "REMOTE"},
  {"f19_nil", "error(nil)", "REMOTE"},
  {"f19_text", "error('with a reason')", "REMOTE", "with a reason"},
  {"f19_exit", "os.exit(3)", "CLONE_DIED", nil, {code = 3}},
  {"f19_segv", "require('testkit').segv()", "CLONE_DIED", nil, {signal = 11}},
  {"f19_abort", "require('testkit').abort()", "CLONE_DIED", nil, {signal = 6}},
  {"f19_kill", "local k = require('testkit') k.kill(k.getpid(), 9)", "CLONE_DIED", nil,
    {signal = 9}},
}

for _, row in ipairs(preloads) do
  local name, source, code, message, exit = table.unpack(row, 1, 5)
  standing.test("a module that fails to load: " .. name, function(t, s)
    if source then t:module(name, source) end
    local p = fork.new_exec{stderr = "null"}:limit{core = 0}:require(name)
    local first, second = p:fork(), p:fork()
    local third = first:fork()
    local exits, told = 0, nil
    p:on_exit(function(status)
      exits, told = exits + 1, status
    end)
    for i, process in ipairs{p, first, second, third} do
      s:submit(i, function(callback) process:run("type", callback) end, function(err, socket)
        t.eq(socket, nil)
        if i == 1 or code == "REMOTE" then
          t.error(err, code, message)
        else
          t.ok(err.code == code or err.code == "TEMPLATE_DIED", err.code)
        end
        t.eq(err.started, "no")
        if code == "REMOTE" then t.ok(err.traceback, "with the traceback") end
        if exit and err.exit and i == 1 then
          t.eq({err.exit.code, err.exit.signal}, {exit.code, exit.signal})
        end
      end)
    end
    s:settle(5)
    t.within(2, function() return exits > 0 end, "on_exit")
    t.eq(exits, 1)
    if exit then
      t.eq({told.code, told.signal}, {exit.code, exit.signal})
    else
      t.eq(told.code, 1, "a process whose command failed exits with 1")
    end
  end)
end

standing.test("a module that never ends: the timeout ends it", function(t, s)
  t:module("f19_loop", "while true do end")
  local p = fork.new_exec{timeout = 0.3}:require("f19_loop")
  s:submit("run", function(callback) p:run("type", callback) end, function(err, socket)
    t.eq(socket, nil)
    t.error(err, "TIMEOUT")
  end)
  s:settle(5)
  t.ok(t.status(p).signal == kit.SIGKILL, "killed")
end)

standing.test("ten megabytes of output by a module are not mixed with anything", function(t)
  t:module("f19_loud", [[
    for _, stream in ipairs{io.stdout, io.stderr} do
      for i = 1, 10 * 1024 do stream:write(("x"):rep(1024)) end
    end
    return true
  ]])
  local out, err = t:file("out"), t:file("err")
  local outfd, errfd = assert(kit.open(out, "w")), assert(kit.open(err, "w"))
  local p = fork.new_exec{stdout = outfd, stderr = errfd}:require("f19_loud")
  kit.close(outfd)
  kit.close(errfd)
  t.eq((t.ask(p:fork(), "return 'clean'")), "clean")
  p:close()
  for _, path in ipairs{out, err} do
    local text = t.read(path)
    t.eq({#text, text:match("^x*$") ~= nil}, {10 * 1024 * 1024, true}, path)
  end
end)

standing.test("a module that closes descriptors it does not own hangs nobody", function(t, s)
  t:module("f19_closes", [[
    local kit = require "testkit"
    for fd = 3, 20 do kit.close(fd) end
    return true
  ]])
  local p = fork.new_exec{stderr = "null"}:require("f19_closes")
  local child = p:fork()
  s:submit("run", function(callback) child:run("type", callback) end, function(err, socket)
    t.eq(socket, nil)
    t.ok(err.code == "CLONE_DIED" or err.code == "TEMPLATE_DIED" or err.code == "FORK_FAILED",
      err.code)
  end)
  s:settle(5)
  local ended
  p:on_exit(function() ended = true end)
  p:close()
  t.within(5, function() return ended end, "the template has ended")
end)

standing.test("a module may change session, directory and mask of its own template",
  function(t)
  t:module("f19_moves", [[
    local kit, fkit = require "testkit", require "faultkit"
    fkit.setsid()
    kit.chdir("/")
    kit.umask(0)
    return true
  ]])
  local cwd, mask = kit.getcwd(), kit.umask()
  local p = fork.new_exec():require("f19_moves")
  local there, session = t.ask(p:fork(), [[
    local kit = require "testkit"
    return kit.getcwd(), kit.getsid()
  ]])
  t.eq({there, session}, {"/", p:pid()})
  t.eq({kit.getcwd(), kit.umask()}, {cwd, mask}, "the parent's stay")
  p:close()
end)

local function program(t, name, text, mode)
  local path = t:file(name, text)
  kit.chmod(path, tonumber(mode, 8))
  return path
end

local bad_programs = {
  {"ENOENT", function(t) return t:file("missing") end, "No such file"},
  {"EACCES", function(t) return program(t, "plain", "x", "644") end, "Permission denied"},
  {"a folder", function(t) return t:tmp() end, "Permission denied"},
  {"ENOEXEC", function(t) return program(t, "garbage", "\1\2\3\4", "755") end,
    "Exec format error"},
  {"a missing interpreter", function(t)
    return program(t, "script", "#!/no/such/interpreter\n", "755")
  end, "No such file"},
  {"a program that says nothing", function() return "/bin/true" end},
  {"a program that fails", function() return "/bin/false" end},
  {"a program that talks", function(t)
    return program(t, "talks", "#!/bin/sh\nfor fd in 0 1 2 3 4 5 6 7 8 9; do\n" ..
      "eval \"printf 'SSH-2.0-OpenSSH_9.2 hello, who is there?' >&$fd\" 2>/dev/null\n" ..
      "done\n", "755")
  end},
}

for _, row in ipairs(bad_programs) do
  standing.test("a template program that does not start: " .. row[1], function(t, s)
    local path = row[2](t)
    local exits = 0
    local p = fork.new_exec{program = path, stdout = "null", stderr = "null"}
    p:on_exit(function() exits = exits + 1 end)
    local child = p:fork()
    for name, process in pairs{child = child, itself = p} do
      s:submit(name, function(callback) process:run("type", callback) end,
        function(err, socket)
        t.eq(socket, nil)
        t.error(err, "TEMPLATE_START", row[3])
        t.eq(err.started, "no")
      end)
    end
    s:settle(5)
    t.within(2, function() return exits > 0 end, "on_exit is told in every case")
    t.eq(exits, 1)
  end)
end

standing.test("a template program that is being written (ETXTBSY)", function(t, s)
  local copy = t:file("busy")
  os.execute(("cp '%s' '%s' && chmod 755 '%s'"):format(os.getenv("MOONFORK_TEMPLATE"), copy,
    copy))
  local writer = assert(io.open(copy, "r+"))
  local p = fork.new_exec{program = copy}
  s:submit("run", function(callback) p:run("type", callback) end, function(err, socket)
    t.eq(socket, nil)
    t.error(err, "TEMPLATE_START", "busy")
    t.eq(err.started, "no")
  end)
  s:settle(5)
  writer:close()
  t.eq((t.ask(fork.new_exec{program = copy}, "return 1")), 1, "and afterwards it starts")
end)

standing.test("a template program that never speaks: the timeout ends it", function(t, s)
  local path = program(t, "silent", "#!/bin/sh\nexec sleep 1000\n", "755")
  local p = fork.new_exec{program = path, timeout = 0.3}
  s:submit("run", function(callback) p:run("type", callback) end, function(err, socket)
    t.eq(socket, nil)
    t.error(err, "TIMEOUT")
    t.eq(err.started, "no")
  end)
  s:settle(5)
end)

-- What a host does in its life, short: run in environments that lack something.
local smoke = [[
  local template = fork.new_exec():require("actor"):eval("x = 41")
  local read, write = kit.pipe()
  local p = template:fork():send_fd(write):send_arg("a"):eval(
    "function f(s, h, a) h:write(a, x + 1) h:close() s:write(s:read('l')) os.exit(5) end")
  kit.close(write)
  local socket = assert(p:run("f"))
  socket:write("hello\n")
  assert(socket:read("a") == "hello")
  assert(kit.read(read, 10) == "a42")
  local status = assert(p:wait(5))
  assert(status.code == 5 or status.unknown, tostring(status.code))
  local victim = template:fork()
  local held = assert(victim:run("actor:hold"))
  assert(victim:kill("KILL"))
  status = assert(victim:wait(5))
  assert(status.signal == 9 or status.unknown, tostring(status.signal))
  held:close()
  local bad, err = template:fork():run("nope")
  assert(not bad and err.code == "REMOTE", tostring(err))
  assert(fork.new():run("type"))
  template:seal()
  assert(template:memory())
  local ended
  template:on_exit(function(s) ended = s end)
  template:close()
  while not ended do fork.step(0.01) end
  assert(ended.code == 0 or ended.unknown)
  print("smoke passed")
]]

local calls = {"pidfd_open", "close_range", "clone3", "prctl", "execveat", "memfd_create",
  "getrandom", "clone_parent", "clone_parent,memfd_create,prctl",
  "pidfd_open,pidfd_send_signal,close_range,memfd_create"}
for _, errno in ipairs{"ENOSYS", "EPERM"} do
  for _, call in ipairs(calls) do
    standing.test(("without %s (%s)"):format(call, errno), {stall = false}, function(t)
      local h <close> = host.start(t, smoke, {
        before = {host.tool(t, "seccomp_run"), errno, call}})
      local how, number = h:ends(20)
      if number == 77 then t.skip("no filter of system calls can be set here") end
      t.eq({how, number}, {"exit", 0}, h:out() .. h:err())
      t.match(h:out(), "smoke passed")
      t.eq(h:err(), "", "and without a word on standard error")
    end)
  end
end

standing.test("variables of Lua and of the shell do not change what a template runs",
  function(t)
  local pwned = t:file("pwned")
  local folder = t:tmp()
  program(t, "lua5.4", "#!/bin/sh\necho x >" .. pwned .. "\n", "755")
  program(t, "lua", "#!/bin/sh\necho x >" .. pwned .. "\n", "755")
  program(t, "moonfork-template", "#!/bin/sh\necho x >" .. pwned .. "\n", "755")
  t:file("actor.lua", ("io.open(%q, 'w'):write('x')"):format(pwned))
  local hostile = {
    LUA_INIT = ("io.open(%q, 'w'):write('x')"):format(pwned),
    LUA_INIT_5_4 = ("io.open(%q, 'w'):write('x')"):format(pwned),
    LUA_PATH = folder .. "/?.lua", LUA_PATH_5_4 = folder .. "/?.lua",
    LUA_CPATH = folder .. "/?.so", LUA_CPATH_5_4 = folder .. "/?.so",
    PATH = folder .. ":" .. os.getenv("PATH"),
  }
  local old = {}
  for name, value in pairs(hostile) do
    old[name] = os.getenv(name)
    kit.setenv(name, value)
  end
  local p = fork.new_exec()
  local ok, path, cpath = pcall(t.ask, p, "require 'actor' return package.path, package.cpath")
  for name in pairs(hostile) do kit.setenv(name, old[name]) end
  t.ok(ok, path)
  t.eq(t.read(pwned), nil, "nothing of it ran")
  t.ok(not path:find(folder, 1, true), "package.path is the parent's")
  t.ok(not cpath:find(folder, 1, true), "package.cpath is the parent's")
end)

standing.test("a preloaded library that does not exist only costs ld.so's warning",
  function(t)
  kit.setenv("LD_PRELOAD", "/no/such/library.so")
  local p = fork.new_exec{stderr = "null"}
  local ok, answer = pcall(t.ask, p, "return 1")
  kit.setenv("LD_PRELOAD", nil)
  t.ok(ok, answer)
  t.eq(answer, 1)
end)

standing.test("an upgrade under a running template touches only the next one", function(t, s)
  local copy = t:file("template-program")
  local original = os.getenv("MOONFORK_TEMPLATE")
  os.execute(("cp '%s' '%s' && chmod 755 '%s'"):format(original, copy, copy))
  t:module("f23_module", "return {version = 'old'}")
  local template = fork.new_exec{program = copy}:require("f23_module")
  t.ask(template:fork(), "return 1") -- it has started, and forked
  s:watch(template:pid())
  local code = "return require('f23_module').version"
  t.eq((t.ask(template:fork(), code)), "old")
  -- As a package manager does it: a new file under the old name.
  program(t, "incompatible", "#!/bin/sh\nexit 0\n", "755")
  assert(os.rename(t:file("incompatible"), copy))
  t:module("f23_module", "return {version = 'new'}")
  for _ = 1, 20 do t.eq((t.ask(template:fork(), code)), "old", "the running one") end
  local socket, err = fork.new_exec{program = copy}:run("type")
  t.eq(socket, nil)
  t.error(err, "TEMPLATE_START")
  t.eq(err.started, "no")
  os.execute(("cp '%s' '%s.new' && chmod 755 '%s.new' && mv '%s.new' '%s'"):format(original,
    copy, copy, copy, copy))
  t.eq((t.ask(fork.new_exec{program = copy}, code)), "new", "a good upgrade")
  s:forget(template:pid())
  template:close()
end)

story.done()
