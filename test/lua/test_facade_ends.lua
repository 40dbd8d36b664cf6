-- The module as its users see it (doc/lua-api.md): the process object, lifetimes, the reactor
-- and other loops, copies. Runs in the parent.
local story = require "story"
local fork = require "moonfork"
local greeter = require("facade_kit").greeter
local called = require("facade_kit").called
local kit = story.kit

local build = os.getenv "MOONFORK_BUILD"
if build then package.cpath = build .. "/test/lua/?.so;" .. package.cpath end

-- ---- process ----

story.test("kill takes names and numbers and tells when it is too late", function(t)
  for _, signal in ipairs { "KILL", "SIGKILL", "kill", 9 } do
    local p = greeter()
    local socket = t.got(p:run("greet"))
    t.eq(p:kill(signal), true)
    t.eq(t.status(p).signal, 9)
    local ok, err = p:kill()
    t.eq(ok, nil)
    t.error(err, "CLOSED")
    socket:close()
    p:close()
  end
end)

story.test("on_exit may be set at any time and more than once", function(t)
  local p = greeter()
  local seen = {}
  p:on_exit(function(status) seen[#seen + 1] = status end)
  t.got(p:run("quick")):close()
  p:on_exit(function(status) seen[#seen + 1] = status end)
  fork.loop()
  t.eq(#seen, 2)
  t.eq(seen[1].code, 0)
  t.ok(seen[1].rusage.maxrss > 0)
  t.eq(called(t, function(f) p:on_exit(f) end).code, 0)
  local pid = p:pid()
  t.ok(pid > 1)
  p:close()
end)

story.test("a function's error is in the status", function(t)
  local p = greeter()
  p:eval("io.stderr = nil")
  local out = fork.new { stderr = "null" }:eval [[function fails() error("on purpose") end]]
  t.got(out:run("fails")):close()
  local status = t.status(out)
  t.eq(status.code, 1)
  t.match(status.error, "on purpose")
  t.match(status.error, "traceback")
  p:close()
end)

story.test("wait has a time limit and leaves the process alone", function(t)
  local p = greeter()
  local _, err = p:wait(0.05)
  t.error(err, "TIMEOUT")
  _, err = p:wait(0)
  t.error(err, "TIMEOUT")
  local socket = t.got(p:run("greet"))
  t.eq(socket:read("l"), "hi")
  socket:close()
  t.eq(t.status(p).code, 0)
  p:close()
end)

story.test("close before run exits with 0 and tells", function(t)
  local p = fork.new()
  local path = t:file("mark")
  p:eval("local f = io.open(..., 'w') f:write('done') f:close()", path)
  local status
  p:on_exit(function(s) status = s end)
  p:close()
  fork.loop()
  t.eq(status and status.code, 0)
  t.eq(t.read(path), "done")
end)

story.test("close of a template does not make loop wait for its clones", function(t)
  local template = greeter()
  local p = template:fork()
  local socket = t.got(p:run("greet"))
  template:close()
  local t0 = kit.now()
  fork.loop()
  t.ok(kit.now() - t0 < 10 * story.scale) -- the clone waits for its socket
  t.eq(socket:read("l"), "hi")
  socket:close()
  t.eq(t.status(p).code, 0)
  p:close()
end)

story.test("close while run is under way cancels it", function(t)
  local p = fork.new():eval("local t = os.clock() while os.clock() - t < 0.2 do end")
  local exits, got = 0, nil
  p:on_exit(function() exits = exits + 1 end)
  p:run("type", function(err) got = err end)
  p:close()
  t.eq(got, nil)
  fork.loop()
  t.error(got, "CANCELLED")
  t.within(5, function() return exits == 1 end)
end)

story.test("close after run keeps on_exit's promise", function(t)
  local p = greeter()
  local status
  p:on_exit(function(s) status = s end)
  local socket = t.got(p:run("greet"))
  p:close()
  t.eq(socket:read("l"), "hi")
  socket:close()
  fork.loop()
  t.eq(status and status.code, 0)
end)

story.test("<close> closes", function(t)
  local status
  do
    local p <close> = fork.new()
    p:on_exit(function(s) status = s end)
  end
  fork.loop()
  t.eq(status and status.code, 0)
end)

-- ---- garbage ----

story.test("configure and forget: what was queued is executed", function(t)
  local path = t:file("mark")
  fork.new():eval("local f = io.open(..., 'w') f:write('done') f:close()", path)
  t.collect()
  fork.loop()
  t.eq(t.read(path), "done")
end)

story.test("a collected idle process ends and its on_exit is told", function(t)
  local status
  local function make()
    local p = fork.new()
    p:on_exit(function(s) status = { s, p ~= nil } end) -- a cycle through the callback
    fork.step(0.05)
  end
  make()
  t.within(10, function()
    t.collect()
    return status
  end)
  t.eq(status[1].code, 0)
end)

story.test("a running function is not touched by the collector", function(t)
  local socket = t.got(greeter():run("greet"))
  for _ = 1, 3 do
    t.collect()
    fork.step(0.02)
  end
  t.eq(socket:read("l"), "hi")
  socket:close()
end)

story.test("on_exit of a forgotten running process is told", function(t)
  local status
  local socket
  do
    local p = greeter()
    p:on_exit(function(s) status = s end)
    socket = t.got(p:run("greet"))
  end
  t.collect()
  t.collect()
  socket:close()
  fork.loop()
  t.eq(status and status.code, 0)
end)

-- ---- transfer ----

story.test("to_fd gives and from_fd takes", function(t)
  local p = fork.new():eval("x = 5")
  local socket = t.got(p:to_fd())
  t.raises("given run or to_fd", p.eval, p, "")
  local q = fork.from_fd(socket)
  t.raises("closed", socket.read, socket, 1)
  t.eq(t.ask(q:fork(), "return x"), 5)
  local pid = t.within(5, function() return q:pid() end)
  t.eq(pid, p:pid())
  q:close()
  p:close()
  local _, err = fork.from_fd(999999):run("x")
  t.error(err, "EINVAL")
end)

-- ---- the reactor ----

story.test("step and loop tell what is outstanding", function(t)
  fork.loop()
  t.eq(fork.step(), false)
  local t0 = kit.now()
  t.eq(fork.step(5), false)
  t.ok(kit.now() - t0 < 4, "at once when nothing is outstanding")
  local p = greeter()
  local socket
  p:run("greet", function(_, s) socket = s end)
  fork.loop()
  t.ok(socket)
  socket:close()
  p:wait(5)
  p:close()
  local _ <close> = greeter()
  fork.loop() -- an idle template does not count
  t.eq(fork.step(), false)
  t.eq(fork.reactor:timeout(), nil)
end)

story.test("the reactor object answers both families of loops", function(t)
  local r = fork.reactor
  t.eq(r:events(), "r")
  t.eq(r:pollfd(), r:getfd())
  t.eq(math.type(r:pollfd()), "integer")
  fork.loop()
  t.eq(r:dirty(), false)
  local done
  greeter():run("greet", function(_, s) s:close() done = true end)
  t.outside(10, function()
    if r:dirty() then r:step() end
    return done
  end)
end)

story.test("ncpu is a positive number", function(t)
  t.ok(math.type(fork.ncpu()) == "integer" and fork.ncpu() >= 1)
end)

story.test("a foreign loop with select drives it", { needs = "socket" }, function(t)
  local select = require "socket".select
  local socket
  greeter():run("greet", function(_, s) socket = s end)
  local last = kit.now() + 10
  while not socket do
    t.ok(kit.now() < last, "in time")
    local ready = select({ fork.reactor }, nil, math.min(fork.reactor:timeout() or 1, 1))
    if ready[1] or fork.reactor:timeout() == 0 then fork.reactor:step() end
  end
  socket:close()
end)

story.test("cqueues drives it, a waiter suspends its coroutines", { needs = "cqueues" }, function(t)
  local out, code, err = t:lua [[
    local cqueues = require "cqueues"
    local fork = require "moonfork"
    fork.set_waiter(function(reactor, timeout) cqueues.poll(reactor, timeout) end)
    local template = fork.new():eval("function greet(s) s:write('hi\\n') s:read('a') end")
    local queue, n = cqueues.new(), 0
    for i = 1, 5 do
      queue:wrap(function()
        local s = assert(template:fork():run("greet"))
        assert(s:read("l") == "hi")
        s:close()
        n = n + 1
      end)
    end
    assert(queue:loop())
    print(n)
  ]]
  t.eq({ out, code, err }, { "5\n", 0, "" })
end)

story.test("luv's loop drives it and returns", { needs = "luv" }, function(t)
  local out, code, err = t:lua [[
    local uv = require "luv"
    local fork = require "moonfork.luv"
    local template = fork.new():eval("function greet(s) s:write('hi\\n') end")
    local n = 0
    for i = 1, 3 do
      local p = template:fork()
      p:run("greet", function(err, s)
        assert(not err, err)
        io.write(s:read("l"), " ")
        s:close()
      end)
      p:on_exit(function(status) io.write(status.code, " ") n = n + 1 end)
    end
    uv.run()
    print(n)
    -- again, with nothing outstanding it returns at once
    uv.run()
    -- an error in a callback comes from the next call
    template:fork():run("greet", function() error("kept") end)
    uv.run()
    print(pcall(fork.step))
    print(pcall(fork.step))
  ]]
  t.eq(code, 0, err)
  t.eq(err, "")
  t.match(out, "3\n")
  t.match(out, "false.*kept")
  t.match(out, "true\tfalse\n$")
end)

local function has(name)
  return package.searchpath(name, package.cpath)
end

story.test("a host's loop drives it and is left empty", { skip = not has "loop_shim" and "no shim" or nil },
  function(t)
    local out, code, err = t:lua(([[
      package.cpath = %q
      local shim = require "loop_shim"
      local loop = shim.new()
      print(shim.other([=[
        package.path, package.cpath = %q, %q
        local shim = require "loop_shim"
        local loop = ...
        local fork = require "moonfork"
        fork.use_loop(loop)
        assert(not pcall(fork.use_loop, loop))
        assert(shim.turn(loop, "nowait") == false)
        local template = fork.new():eval("function greet(s) s:write('hi\\n') end")
        local p, told = template:fork(), nil
        p:on_exit(function(status) told = status.code end)
        p:run("greet", function(err, s)
          assert(not err, err)
          io.write(s:read("l"), "\n")
          s:close()
          error("kept")
        end)
        shim.turn(loop)
        assert(told == 0)
        print(pcall(fork.step))
        print(assert(template:fork():run("greet")):read("l"))
        assert(shim.turn(loop) == false)
      ]=], loop))
      shim.turn(loop)
      print(shim.close(loop))
    ]]):format(package.cpath, package.path, package.cpath))
    t.eq(code, 0, err)
    t.eq(err, "")
    t.match(out, "^hi\nfalse\t[^\n]*kept\nhi\ntrue\ntrue\n$")
  end)

story.test("two states of one process don't meet", { skip = not has "loop_shim" and "no shim" or nil },
  function(t)
    local out, code, err = t:lua(([[
      package.cpath = %q
      local shim = require "loop_shim"
      local fork = require "moonfork"
      local p = fork.new():eval("function where(s) s:write('first\\n') end")
      print(shim.other([=[
        package.path, package.cpath = %q, %q
        local fork = require "moonfork"
        local p = fork.new():eval("function where(s) s:write('second\\n') end")
        print(assert(p:fork():run("where")):read("l"))
      ]=]))
      print(assert(p:fork():run("where")):read("l"))
    ]]):format(package.cpath, package.path, package.cpath))
    t.eq({ out, code, err }, { "second\ntrue\nfirst\n", 0, "" })
  end)

-- ---- ends of the program ----

local unfinished = [[
  local fork = require "moonfork"
  local template = fork.new():eval("function stay(s) s:read('a') end")
  local s = assert(template:fork():run("stay"))
  local p = template:fork()
  p:on_exit(function() print("told") end)
  p:run("stay", function() print("called") end)
  template:fork():eval("while true do end"):run("stay", function() print("called") end)
  fork.new_exec():send_arg(("x"):rep(1 << 22)):run("stay", print)
]]

for _, way in ipairs { "", "os.exit(0)", "os.exit(true, true)", "error('at the top')" } do
  story.test("the program may end at any time: " .. (way == "" and "at its end" or way), function(t)
    local out, code, err = t:lua(unfinished .. way)
    t.eq(out, "")
    t.eq(code, way:find("error") and 1 or 0, err)
    if not way:find("error") then t.eq(err, "") end
  end)
end

-- ---- copies ----

story.test("template() gives a copy of the interpreter as it stands", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local before = fork.new()
    local socket = assert(before:fork():eval("function hi(s) s:write('one\\n') s:read('a') end"):run("hi"))
    local secret = { "from the parent" }
    function tell(s, ...) s:write(secret[1], " ", select("#", ...), "\n") end
    function old(s) s:write(tostring(pcall(before.fork, before)), "\n") end
    function anew(s)
      local q = fork.new():eval("function there(s) s:write('there\\n') end")
      local far = assert(q:run("there"))
      s:write(far:read("l"), "\n")
    end
    local p = fork.template { name = "copy" }
    assert(p:pid() > 1)
    print(assert(p:fork():send_arg("a", "b"):run("tell")):read("l"))
    print(assert(p:fork():run("old")):read("l"))
    print(assert(p:fork():run("anew")):read("l"))
    print(socket:read("l"))
    p:on_exit(function(status) print(status.code) end)
    p:close()
    fork.loop()
  ]]
  t.eq({ out, code, err }, { "from the parent 2\nfalse\nthere\none\n0\n", 0, "" })
end)

story.test("early becomes the default template and serves new_exec", function(t)
  local out, code, err = t:lua [[
    mark = "early"
    require "moonfork.early"
    mark = "late"
    local fork = require "moonfork"
    local function ask(p)
      return assert(p:eval("function tell(s) s:write(tostring(mark), '\\n') end"):run("tell")):read("l")
    end
    print(ask(fork.new()), ask(fork.new_exec()), ask(fork.new()))
    print(ask(fork.new_exec { program = os.getenv("MOONFORK_TEMPLATE") }))
  ]]
  t.eq({ out, code, err }, { "early\tearly\tearly\nnil\n", 0, "" })
end)

story.test("a copy that somebody else forked starts afresh", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local clone = require "moonfork.clone"
    local p = fork.new():eval("function tell(s, who) s:write(who, '\\n') end")
    assert(p:fork():send_arg("before"):run("tell")):close()
    io.stdout:setvbuf("no")
    local pid = clone.fork()
    if pid == 0 then
      local ok, message = pcall(p.fork, p)
      print(ok, (message:gsub("^.-: ", "")))
      local q = fork.new():eval("function tell(s, who) s:write(who, '\\n') end")
      print(assert(q:send_arg("copy"):run("tell")):read("l"))
      os.exit(0, true)
    end
    clone.waitpid(pid)
    print(assert(p:fork():send_arg("parent"):run("tell")):read("l"))
  ]]
  t.eq(code, 0, err)
  t.match(out, "^false\t[^\n]*forked from\ncopy\nparent\n$")
end)

story.done()
