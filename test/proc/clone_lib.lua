-- What a clone is and what it may use: require "moonfork.clone", hooks, randomness, output,
-- signals, the audit of templates. Section 1.8 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("on_fork runs in every clone at birth, in order, before arguments are visible",
  function(t)
    local p = fork.new_exec():eval [[
      local clone = require "moonfork.clone"
      kit = require "testkit"
      log = {}
      for i = 1, 3 do
        clone.on_fork(function()
          log[#log + 1] = i .. (kit.getpid() ~= template_pid and "c" or "t") ..
            select("#", clone.run_args())
        end)
      end
      template_pid = kit.getpid()
    ]]
    p:send_arg("a", "b")
    local q = p:fork():send_arg "c"
    t.eq({t.ask(q:fork(), "return log, {select(2, ...)}")},
      {{"1c0", "2c0", "3c0", "1c0", "2c0", "3c0"}, {"a", "b", "c"}})
    t.eq({t.ask(q, "return log, {select(2, ...)}")}, {{"1c0", "2c0", "3c0"}, {"a", "b", "c"}})
    t.eq((t.ask(p, "return log")), {})
  end)

story.test("on_fork that raises ends that clone and is reported", function(t)
  local p = fork.new_exec():eval [[
    require "moonfork.clone".on_fork(function() if fails then error "the hook fails" end end)
  ]]
  t.got(p:fork():run "type")
  p:eval "fails = true"
  local q = p:fork()
  local socket, err = q:run "type"
  t.eq(socket, nil)
  t.error(err, "REMOTE", "the hook fails")
  t.eq(err.started, "no")
  t.eq(t.status(p:fork():eval "x = 1").code, 1)
  p:eval "fails = false"
  t.got(p:fork():run "type")
  p:close()
end)

story.test("before_fork runs in the template; false refuses that fork", function(t)
  local p = fork.new_exec():eval [[
    local clone = require "moonfork.clone"
    asked = 0
    clone.before_fork(function()
      asked = asked + 1
      if refuse then return false, "not just now" end
    end)
  ]]
  t.eq(t.ask(p:fork(), "return asked"), 1)
  p:eval "refuse = true"
  local socket, err = p:fork():run "type"
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "not just now")
  t.eq(err.started, "no")
  p:eval "refuse = false"
  t.eq(t.ask(p:fork(), "return asked"), 3)
  t.eq(t.ask(p, "return asked"), 3)
end)

story.test("id: 128 random bits in hex, different in every process", function(t)
  local p = fork.new():eval "clone = require 'moonfork.clone' own = clone.id()"
  local seen = {}
  for i = 1, 10 do
    local id, again, templates = t.ask(p:fork(), "return clone.id(), clone.id(), own")
    t.match(id, "^" .. ("%x"):rep(32) .. "$")
    t.eq(id, again)
    t.ok(id ~= templates)
    t.eq(seen[id], nil, i)
    seen[id] = true
  end
end)

story.test("math.random is reseeded in every clone, randomseed() draws anew", function(t)
  local p = fork.new():eval "math.randomseed(42) first = math.random(0)"
  local plain, seeded = {}, {}
  for _ = 1, 50 do
    local a, b = t.ask(p:fork(), "local a = math.random(0) math.randomseed() return a, math.random(0)")
    t.eq(plain[a] or seeded[b], nil)
    plain[a], seeded[b] = true, true
  end
  local a, b = t.ask(p:fork(), [[
    math.randomseed(7)
    local a = math.random(1 << 40)
    math.randomseed(7)
    return a, math.random(1 << 40)
  ]])
  t.eq(a, b, "a seed of one's own still counts")
end)

story.test("on_fork hooks see the clone's own randomness, and what they seed stays", function(t)
  local p = fork.new():eval [[
    local clone = require "moonfork.clone"
    math.randomseed(42)
    templates_id = clone.id()
    clone.on_fork(function()
      drawn, id = math.random(0), clone.id()
      if seed_it then math.randomseed(7) end
    end)
  ]]
  local seen = {}
  local function ask(process)
    local drawn, id, templates, now, cloned = t.ask(process, [[
      return drawn, id, templates_id, require "moonfork.clone".id(), math.random(0)
    ]])
    t.eq(id, now, "the hook's id is the clone's")
    t.ok(id ~= templates)
    for _, value in ipairs {drawn, id} do
      t.eq(seen[value], nil, "drawn by another hook")
      seen[value] = true
    end
    return cloned
  end
  for _ = 1, 5 do
    ask(p:fork())
    local middle = p:fork() -- a clone of a clone: the hook runs in both
    ask(middle:fork())
    middle:close()
  end
  p:eval "seed_it = true"
  math.randomseed(7)
  local seventh = math.random(0)
  t.eq(ask(p:fork():eval "-- ask evaluates something of its own"), seventh)
  p:close()
end)

story.test("buffered output is written once, whoever forks", function(t)
  local path = t:file "out"
  local fd = kit.open(path, "a")
  local p = fork.new_exec {stdout = fd}:eval [[
    io.write "by Lua;"
    require "testkit".printf "by C;"
  ]]
  for _ = 1, 3 do
    local q = p:fork():eval "function f() io.write 'clone;' end"
    t.got(q:run "f")
    t.status(q)
  end
  local pid = p:pid()
  p:close()
  kit.close(fd)
  t.within(5, function() return not t.alive(pid) end)
  t.eq(t.read(path), "by Lua;by C;clone;clone;clone;")
end)

story.test("a clone's end does not move shared file offsets", function(t)
  local lines = {}
  for i = 1, 1000 do lines[i] = "line " .. i end
  local path = t:file("lines", table.concat(lines, "\n") .. "\n")
  local p = fork.new_exec():eval("file = io.open(...) first = file:read 'l'", path)
  for _, how in ipairs {"return", "os.exit(0)", "os.exit(1, true)", "error 'x'"} do
    local q = p:fork {stderr = "null"}:eval("function f() " .. how .. " end")
    t.got(q:run "f")
    t.status(q)
  end
  t.eq({t.ask(p, "local n, last = 1 for l in file:lines() do n, last = n + 1, l end return first, n, last")},
    {"line 1", 1000, "line 1000"})
end)

story.test("signals: an empty mask and default dispositions", function(t)
  local p = fork.new_exec():eval [[
    local kit = require "testkit"
    kit.disposition(kit.SIGUSR1, "count")
    kit.disposition(kit.SIGPIPE, "ignore")
    kit.disposition(kit.SIGCHLD, "ignore")
    kit.block(kit.SIGTERM)
  ]]
  local blocked, ignored, caught = t.ask(p:fork(), [[
    local a = require "actor"
    return a.status_bits "SigBlk", a.status_bits "SigIgn", a.status_bits "SigCgt"
  ]])
  t.eq({blocked, ignored}, {0, 0})
  t.ok(caught == 0 or caught & (caught - 1) == 0, "one signal of the library at most")
  p:close()
end)

story.test("signals: every one of them, whatever the template's code did with it", function(t)
  for _, how in ipairs {"ignore", "count"} do
    local p = fork.new_exec():send_arg(how):eval([[
      local kit, how = require "testkit", ...
      for i = 1, 64 do
        if i ~= kit.SIGKILL and i ~= kit.SIGSTOP then pcall(kit.disposition, i, how) end
      end
    ]], how)
    local ignored, caught = t.ask(p:fork(), [[
      local a = require "actor"
      return a.status_bits "SigIgn", a.status_bits "SigCgt"
    ]])
    t.eq(ignored, 0, how)
    t.ok(caught == 0 or caught & (caught - 1) == 0, "one signal of the library at most")
    p:close()
  end
end)

story.test("signals: a clone has no alternate stack", function(t)
  local p = fork.new():eval "fkit = require 'faultkit' assert(fkit.altstack(true))"
  t.eq(t.ask(p:fork(), "return fkit.altstack()"), false)
  p:eval "assert(fkit.altstack(), 'the template has one still')"
  t.eq(t.ask(p:fork(), "return fkit.altstack()"), false)
  p:close()
end)

story.test("exec: env, cwd, descriptors; pid and status are the program's", function(t)
  local path = t:file "out"
  local p = fork.new():send_arg(path):eval [[
    local clone, kit = require "moonfork.clone", require "testkit"
    function f(socket, path)
      local out = kit.open(path, "w")
      clone.exec("sh", {"sh", "-c", 'echo $$ $STORY_EXEC $(pwd); echo five >&5; exit 7'},
        {fds = {[1] = out, [5] = out}, env = {STORY_EXEC = "yes"}, cwd = "/"})
    end
  ]]
  t.got(p:run "f")
  t.eq(t.status(p).code, 7)
  t.eq(t.read(path), p:pid() .. " yes /\nfive\n")
end)

-- doc/lua-api.md, "The leash is a descriptor".
story.test("exec: a program gets no descriptor of the library's", function(t)
  for _, leash in ipairs {"kill", "term", "keep"} do
    local p = fork.new {leash = leash, stdout = "socket"}:eval [[
      function f()
        require "moonfork.clone".exec("ls", {"ls", "-l", "/proc/self/fd"})
      end
    ]]
    local text = t.got(p:run "f"):read "a"
    t.eq(t.status(p).code, 0)
    local seen = 0
    for fd, what in text:gmatch "(%d+) %-> (%S+)" do
      seen = seen + 1
      if tonumber(fd) > 2 then
        t.match(what, "^/proc/", leash) -- the folder that ls reads
      end
    end
    t.ok(seen >= 3, text)
  end
end)

story.test("exec: crossed numbers, and a program that is missing", function(t)
  local one, two = t:file "one", t:file "two"
  local p = fork.new():send_arg(one, two):eval [[
    local clone, kit = require "moonfork.clone", require "testkit"
    function f(socket, one, two)
      local a, b = kit.open(one, "w"), kit.open(two, "w")
      clone.exec("/bin/sh", {"sh", "-c", "echo a >&" .. b .. "; echo b >&" .. a},
        {fds = {[a] = b, [b] = a}})
    end
  ]]
  local q = p:fork():eval [[
    function g(socket)
      local ok, a, b = pcall(require "moonfork.clone".exec, "/no/such/program", {"x"})
      socket:write(tostring(a), " ", tostring(b))
    end
  ]]
  t.got(p:run "f")
  t.eq(t.status(p).code, 0)
  t.eq({t.read(one), t.read(two)}, {"a\n", "b\n"})
  t.match(t.got(q:run "g"):read "a", "[Nn]o such file")
end)

story.test("exit flushes and leaves with that code", function(t)
  local path = t:file "out"
  local fd = kit.open(path, "w")
  local p = fork.new {stdout = fd}:eval [[
    function f()
      io.write "flushed"
      require "moonfork.clone".exit(21)
    end
  ]]
  kit.close(fd)
  t.got(p:run "f")
  t.eq(t.status(p).code, 21)
  t.eq(t.read(path), "flushed")
  local q = fork.new():eval "function f() coroutine.wrap(function() pcall(os.exit, 22) end)() end"
  t.got(q:run "f")
  t.eq(t.status(q).code, 22)
end)

story.test("collectgarbage in a clone: what was dropped lately is gone", function(t)
  local p = fork.new_exec():eval [[
    old = {}
    for i = 1, 1e5 do old[i] = {i} end
  ]]:seal()
  t.eq({t.ask(p:fork(), [[
    local weak = setmetatable({}, {__mode = "v"})
    local finalised = 0
    do
      local x = setmetatable({}, {__gc = function() finalised = finalised + 1 end})
      weak[1] = x
    end
    collectgarbage()
    return finalised, weak[1] == nil
  ]])}, {1, true})
  t.eq({t.ask(p:fork(), [[
    local before = collectgarbage "count"
    old = nil
    require "moonfork.clone".collect()
    return collectgarbage "count" < before / 2
  ]])}, {true})
  t.eq((t.ask(p, "return #old")), 100000)
end)

story.test("title sets the process title", function(t)
  local p = fork.new():eval [[
    function f(socket)
      require "moonfork.clone".title "painting the moon"
      socket:write "set\n"
      socket:read "a"
    end
  ]]
  local socket = t.got(p:run "f")
  socket:read "l"
  t.match(t.read("/proc/" .. p:pid() .. "/cmdline"), "painting the moon")
  t.match(t.read("/proc/" .. p:pid() .. "/comm"), "painting")
  socket:close()
  t.status(p)
end)

story.test("plain POSIX: fork, waitpid, kill, pipe, pid, ppid", function(t)
  local p = fork.new():eval [[
    function f(socket)
      local clone, kit = require "moonfork.clone", require "testkit"
      assert(clone.pid() == kit.getpid() and clone.ppid() == kit.getppid())
      local r, w = clone.pipe()
      local child = clone.fork()
      if child == 0 then
        r:close()
        w:write("child of ", clone.ppid())
        w:close()
        clone.exit(5)
      end
      w:close()
      assert(r:read "a" == "child of " .. clone.pid())
      local results = table.pack(clone.waitpid(child))
      local sleeper = clone.fork()
      if sleeper == 0 then kit.msleep(60000) end
      assert(clone.kill(sleeper, "KILL"))
      local second = table.pack(clone.waitpid(sleeper))
      socket:write(require "actor".pack(results[1] == child, second[1] == sleeper))
    end
  ]]
  t.eq({t.unpack(t.got(p:run "f"):read "a")}, {true, true})
  t.eq(t.status(p).code, 0)
end)

story.test("pipe_to_fork and pipe_from_fork", function(t)
  local p = fork.new():eval [[
    local clone = require "moonfork.clone"
    function f(socket)
      local pid, near = clone.pipe_from_fork(function()
        collectgarbage() -- nothing that the collector finds is the far end
        io.write "printed by the child"
      end)
      local text = near:read "a"
      near:close()
      clone.waitpid(pid)
      local r, w = clone.pipe()
      local other, out = clone.pipe_to_fork(function()
        collectgarbage()
        w:write(io.read "l":upper())
        w:close()
      end)
      w:close()
      out:write "fed to the child\n"
      out:close()
      socket:write(text, "; ", r:read "a")
      clone.waitpid(other)
    end
  ]]
  t.eq(t.got(p:run "f"):read "a", "printed by the child; FED TO THE CHILD")
  t.eq(t.status(p).code, 0)
end)

story.test("a template with a second thread refuses to fork and names who brought it", function(t)
  local p = fork.new_exec():require("string", "hostile_thread", "table")
  local socket, err = p:fork():run "type"
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "hostile_thread")
  t.match(err.message, "thread")
  t.eq(err.started, "no")
  local q = fork.new_exec():require "hostile_thread":seal {audit = "off"}
  t.got(q:fork():run "type")
  p:close()
  q:close()
end)

story.test("the same for an epoll descriptor", function(t)
  local p = fork.new_exec():require "hostile_epoll"
  local socket, err = p:fork():run "type"
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "hostile_epoll")
  t.match(err.message, "epoll")
  local q = fork.new_exec():require "hostile_epoll":seal {audit = "off"}
  t.got(q:fork():run "type")
  p:close()
  q:close()
end)

story.test("luv belongs into the clone: a template with luv refuses", {needs = "luv"}, function(t)
  local p = fork.new_exec():require "luv"
  t.error(select(2, p:fork():run "type"), "FORK_FAILED", "luv")
  p:close()
  local q = fork.new():eval [[
    function f(socket)
      local uv = require "luv"
      local timer = uv.new_timer()
      timer:start(10, 0, function()
        socket:write "a timer in the clone"
        timer:close()
      end)
      uv.run()
    end
  ]]
  t.eq(t.got(q:run "f"):read "a", "a timer in the clone")
  t.eq(t.status(q).code, 0)
end)

story.test("atfork handlers of C modules run", function(t)
  local p = fork.new_exec():eval "kit = require 'testkit' kit.atfork()"
  t.eq(t.ask(p:fork(), "return kit.atfork()"), 1)
  t.eq(t.ask(p:fork():fork(), "return kit.atfork()"), 2)
  p:close()
end)

story.test("the library works in clones: a clone is a parent too", function(t)
  -- The function travels as text, so every level can send it on.
  local text = [[
    source = ...
    function outer(socket, depth)
      depth = math.tointeger(depth)
      if depth == 0 then return socket:write "bottom" end
      local fork = require "moonfork"
      local q = fork.new():eval(source, source):send_arg(depth - 1)
      local inner = assert(q:run "outer")
      socket:write(depth, " ", inner:read "a")
      assert(assert(q:wait(5)).code == 0)
    end
  ]]
  local p = fork.new():eval(text, text):send_arg(3)
  t.eq(t.got(p:run "outer"):read "a", "3 2 1 bottom")
  t.eq(t.status(p).code, 0)
end)

story.test("no clone.fork in the middle of a module that a template loads", function(t)
  t:module("forks20", [[
    local clone = require "moonfork.clone"
    local ok, message = pcall(clone.fork)
    if ok and message == 0 then require "testkit".exit(0) end
    refused = not ok or message == nil
    return refused
  ]])
  local p = fork.new_exec():require "forks20"
  local refused = t.ask(p:fork(), "return refused")
  t.eq(type(refused), "boolean", "the template is still of use")
  p:close()
end)

story.done()
