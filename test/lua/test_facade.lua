-- The module as its users see it (doc/lua-api.md): conventions, chains, callbacks, waiting,
-- errors, values. Runs in the parent.
local story = require "story"
local fork = require "moonfork"
local greeter = require("facade_kit").greeter
local called = require("facade_kit").called
local kit = story.kit

-- ---- misuse ----

story.test("unknown options raise and list the valid ones", function(t)
  local err = t.raises("bad argument #1 to 'new' %(unknown option 'colour'", fork.new, { colour = 1 })
  t.match(err, "valid: cwd, dumpable, env, handles, leash, name, session, stderr, stdin, stdout, timeout, tree")
  err = t.raises("unknown option 'x'", fork.new_exec, { x = 1 })
  t.match(err, "program, rebuild, session, spares, .*verify")
  local p <close> = fork.new()
  t.raises("unknown option 'program'", p.fork, p, { program = "x" })
  t.raises("unknown option 'mode'.*valid: audit, gc", p.seal, p, { mode = 1 })
  t.raises("unknown option 'stack'.*valid: as, core, cpu, fsize, nofile, nproc", p.limit, p, { stack = 1 })
end)

story.test("wrong types raise with the argument's name and the caller's line", function(t)
  local p <close> = fork.new()
  local err = t.raises("bad argument #1 to 'run' %(string expected, got number%)", function() p:run(42) end)
  t.match(err, "test_facade%.lua:%d+:")
  t.raises("#2 to 'run' %(function expected, got number%)", p.run, p, "x", 3)
  t.raises("#2 to 'require' %(string expected, got no value%)", p.require, p, "a", nil)
  t.raises("#1 to 'eval'", p.eval, p, nil)
  t.raises("#3 to 'eval' %(string or number expected, got table%)", p.eval, p, "", "a", {})
  t.raises("#1 to 'send_arg' %(string or number expected, got function%)", p.send_arg, p, print)
  t.raises("#2 to 'send_fd' %(a handle expected, got boolean%)", p.send_fd, p, 0, true)
  t.raises("#1 to 'wait'", p.wait, p, "x")
  t.raises("#1 to 'on_exit' %(function expected", p.on_exit, p)
  t.raises("#1 to 'chdir'", p.chdir, p)
  t.raises("#1 to 'setenv'", p.setenv, p, "A=B", "c")
  t.raises("'cpu'", p.limit, p, { cpu = -1 })
  t.raises("option 'timeout'", fork.new, { timeout = 0 })
  t.raises("option 'stdin'", fork.new, { stdin = "pipe" })
  t.raises("option 'leash': one of 'keep', 'kill', 'term' expected, got 'x'", fork.new, { leash = "x" })
  t.raises("option 'env", fork.new, { env = { ["A=B"] = "x" } })
  t.raises("min .* is greater", fork.new_exec, { spares = { min = 3, max = 2 } })
  t.raises("#1 to 'step'", fork.step, -1)
  t.raises("#1 to 'step' %(number expected, got boolean%)", fork.step, false)
  t.raises("#1 to 'on_error'", fork.on_error, 3)
  t.raises("#1 to 'from_fd'", fork.from_fd, {})
  t.raises("unknown signal 'NOPE'", p.kill, p, "NOPE")
  t.raises("moonfork.process expected", p.run, {}, "x")
end)

story.test("durations and counts mean the same in every options table", function(t)
  local options, calls = require "moonfork.options", require "moonfork.calls"
  local p <close> = fork.new()
  for _, bad in ipairs { -1, 0, 0 / 0, -math.huge } do
    local text = ("option 'timeout': a positive number of seconds expected, got %s")
      :format(bad ~= bad and "nan" or bad) -- the sign of a NaN is the processor's
    t.raises(text:gsub("%-", "%%-"), fork.new, { timeout = bad })
    t.raises(text:gsub("%-", "%%-"), p.rpc, p, "f", { timeout = bad })
  end
  for _, f in ipairs { "new", "fork" } do
    t.raises("option 'timeout': number expected, got string", options.read, f, 1, { timeout = "1" })
  end
  t.raises("option 'timeout': number expected, got string", p.rpc, p, "f", { timeout = "1" })
  t.eq(options.read("new", 1, { timeout = 0.0001 }).timeout, 1)
  t.eq(calls.rpc_options("f", { timeout = 0.0001 }).timeout, 1)
  t.eq(options.read("new", 1, { timeout = 1e300 }).timeout, 0x7fffffff)
  t.eq(calls.rpc_options("f", { timeout = 1e300 }).timeout, 0x7fffffff)
  for _, long in ipairs { math.maxinteger, math.maxinteger // 1000 + 1 } do -- in milliseconds it wraps round
    t.eq(options.read("new", 1, { timeout = long }).timeout, 0x7fffffff)
  end
  -- no limit, and not one of 24 days
  t.eq(options.read("new", 1, { timeout = math.huge }).timeout, nil)
  t.raises("option 'spares.max': a whole number from 0 to 1048576 expected, got 1.5",
    fork.new_exec, { spares = { max = 1.5 } })
  t.raises("option 'load': a whole number from 1 to 2147483647 expected, got 2147483648", p.pool, p, "f",
    { load = 2147483648 })
  t.raises("option 'spares': min or max expected", fork.new_exec, { spares = {} })
  t.raises("option 'max': a whole number from 0 to 100000 expected, got 1.5", p.pool, p, "f",
    { max = 1.5 })
end)

story.test("a closed process raises, close does not", function(t)
  local p = fork.new()
  p:close()
  p:close()
  for _, name in ipairs { "fork", "require", "eval", "send_fd", "send_arg", "run", "pid", "kill",
    "on_exit", "wait", "seal", "limit", "take_args", "chdir", "setenv", "memory", "to_fd" } do
    t.raises("'" .. name .. "': the process is closed", p[name], p, "x")
  end
end)

story.test("after run only some methods are left", function(t)
  local p = greeter()
  local socket = t.got(p:run("greet"))
  for _, name in ipairs { "fork", "require", "eval", "send_fd", "send_arg", "run", "seal", "limit",
    "take_args", "chdir", "setenv", "to_fd" } do
    t.raises("given run", p[name], p, "x")
  end
  t.ok(p:pid() > 1)
  t.ok(p:memory().rss > 0)
  t.ok(p:kill(0))
  socket:close()
  t.eq(t.status(p).code, 0)
  p:close()
end)

-- ---- callbacks and waiting ----

story.test("callbacks come later, once, and errors first", function(t)
  local err, socket = called(t, function(f) greeter():run("greet", f) end)
  t.eq(err, nil)
  t.eq(socket:read("l"), "hi")
  socket:close()
  err, socket = called(t, function(f) fork.new():run("no.such.function", f) end)
  t.error(err, "REMOTE")
  t.eq(err.started, "no")
  t.eq(socket, nil)
  err = called(t, function(f) fork.new():send_fd(999999):run("type", f) end)
  t.error(err, "EINVAL", "999999")
end)

story.test("an object that can be called is a callback", function(t)
  local got
  local object = setmetatable({}, { __call = function(_, err, socket) got = { err, socket } end })
  greeter():run("greet", object)
  t.within(10, function() return got end)
  got[2]:close()
end)

story.test("the same call without a callback waits", function(t)
  local socket = t.got(greeter():run("greet"))
  t.eq(socket:read("l"), "hi")
  socket:close()
  local none, err = fork.new():require("no.such.module"):run("x")
  t.eq(none, nil)
  t.error(err, "REMOTE", "no.such.module")
  t.ok(err.traceback)
end)

story.test("a waiting call inside a callback works, others run meanwhile", function(t)
  local template <close> = greeter()
  local order = {}
  template:fork():run("greet", function(err, socket)
    t.eq(err, nil)
    order[#order + 1] = "outer"
    socket:close()
    local second = t.got(template:fork():run("greet"))
    order[#order + 1] = t.got(second:read("l"))
    second:close()
  end)
  template:fork():run("greet", function(_, socket) socket:close() order[#order + 1] = "other" end)
  fork.loop()
  t.eq(#order, 3)
end)

story.test("past 50 waits inside each other the innermost gets LIMIT", { deadline = 60 }, function(t)
  local template <close> = greeter()
  local later = "require 'testkit'.msleep(20)"
  local depth, deepest, code = 0, 0, nil
  local function again(err, socket)
    t.eq(err, nil)
    socket:close()
    depth = depth + 1
    deepest = math.max(deepest, depth)
    template:fork():run("greet", again)
    -- The waiting one comes later, else it would be luck who is inside of whom.
    local mine, failure = template:fork():eval(later):run("greet")
    if mine then mine:close() else code = code or failure.code end
    depth = depth - 1
    if code then again = function(_, s) if s then s:close() end end end
  end
  local function first(...) return again(...) end
  template:fork():run("greet", first)
  t.within(30, function() fork.step(0.05) return code end)
  t.eq(code, "LIMIT")
  t.ok(deepest >= 50, deepest)
  fork.loop()
end)

story.test("a waiter suspends coroutines, each gets its own answer", function(t)
  local template <close> = greeter()
  local ready, n = {}, 0
  fork.set_waiter(function(reactor, timeout)
    t.eq(reactor, fork.reactor)
    t.ok(timeout == nil or timeout >= 0)
    coroutine.yield()
  end)
  for i = 1, 8 do
    ready[i] = coroutine.create(function()
      local socket = t.got(template:fork():send_arg(i):run("greet"))
      t.eq(socket:read("l"), "hi")
      socket:close()
      n = n + 1
    end)
  end
  local last = kit.now() + 10
  while n < 8 do
    t.ok(kit.now() < last, "in time")
    for i = 1, 8 do
      if coroutine.status(ready[i]) == "suspended" then
        local ok, err = coroutine.resume(ready[i])
        if not ok then error(err, 0) end
      end
    end
  end
  fork.set_waiter(nil)
end)

story.test("what another coroutine's turn answered wakes the one that waits", function(t)
  local template <close> = greeter()
  fork.set_waiter(function() coroutine.yield() end)
  local socket
  local waits = coroutine.create(function()
    local p = template:fork():eval("local t = os.clock() while os.clock() - t < 0.1 do end")
    socket = t.got(p:run("greet"))
  end)
  assert(coroutine.resume(waits))
  t.ok(not socket)
  fork.set_waiter(nil)
  -- Somebody else drives; the answer arrives, and the reactor wants attention until the
  -- coroutine has looked.
  fork.loop()
  t.ok(not socket)
  t.eq(fork.reactor:timeout(), 0.0)
  t.eq(fork.reactor:dirty(), true)
  assert(coroutine.resume(waits))
  t.ok(socket)
  socket:close()
  -- The end of an earlier story's process may still wait for its report.
  t.within(5, function() return fork.reactor:timeout() == nil end)
end)

story.test("an abandoned waiting coroutine leaves nothing behind", function(t)
  local template <close> = greeter()
  fork.set_waiter(function() coroutine.yield() end)
  local waits = coroutine.create(function() return template:fork():run("greet") end)
  coroutine.resume(waits)
  local closed = coroutine.create(function() return template:fork():run("greet") end)
  coroutine.resume(closed)
  coroutine.close(closed)
  waits = nil -- luacheck: ignore
  fork.set_waiter(nil)
  t.within(10, function()
    collectgarbage()
    return not fork.step(0.01)
  end)
end)

-- ---- errors ----

story.test("an error in a callback is raised from the driving call", function(t)
  greeter():run("greet", function(_, socket)
    socket:close()
    error("in the callback")
  end)
  t.raises("in the callback", fork.loop)
  fork.loop()
end)

story.test("a handler gets the error and the traceback", function(t)
  local got
  fork.on_error(function(err, traceback) got = { err, traceback } end)
  local thing = {}
  greeter():run("greet", function(_, socket)
    socket:close()
    error(thing)
  end)
  fork.loop()
  fork.on_error(nil)
  t.ok(got[1] == thing)
  t.match(got[2], "stack traceback")
end)

story.test("a handler that fails makes the error raised", function(t)
  fork.on_error(function() error("the handler's") end)
  greeter():run("greet", function(_, socket)
    socket:close()
    error("the first one")
  end)
  t.raises("the first one", fork.loop)
  fork.on_error(nil)
  fork.loop()
end)

story.test("a failure that no call reported goes to on_error, once", function(t)
  local got = {}
  fork.on_error(function(err, traceback) got[#got + 1] = { err, traceback } end)
  local p = fork.new():eval("error('unreported')")
  local child = p:fork()
  p:close()
  child:close()
  fork.loop()
  t.within(5, function() return #got > 0 end)
  fork.loop()
  t.eq(#got, 1)
  t.error(got[1][1], "REMOTE", "unreported")
  t.match(got[1][2], "traceback")
  -- reported by a clone's run: told
  p = fork.new():eval("error('reported')")
  local _, err = p:fork():run("x")
  t.error(err, "REMOTE", "reported")
  p:close()
  fork.loop()
  t.eq(#got, 1)
  -- local failures too
  fork.new():send_fd(999999):close()
  fork.loop()
  t.eq(#got, 2)
  t.error(got[2][1], "EINVAL")
  -- collected
  fork.new():eval("error('collected')")
  fork.step(0.2)
  t.collect()
  t.within(5, function() return #got == 3 end)
  fork.on_error(nil)
end)

story.test("the first failure is remembered and inherited", function(t)
  local p = fork.new():send_fd(999999):eval("error('never executed')")
  local child = p:fork():fork()
  local _, err = child:run("type")
  t.error(err, "EINVAL", "#1 of 'send_fd'")
  t.eq(err.started, "no")
  _, err = p:wait(5)
  t.error(err, "EINVAL")
  t.eq(err.exit.code, 1)
  local exit = called(t, function(f) p:on_exit(f) end)
  t.eq(exit.code, 1)
  p:close()
  child:close()
end)

story.test("wait gives the remembered error of a failed chain", function(t)
  local p = fork.new():eval("error('gone wrong')")
  local _, err = p:wait(10)
  t.error(err, "REMOTE", "gone wrong")
  t.eq(err.exit.code, 1)
  p:close()
end)

-- ---- values ----

story.test("numbers are converted exactly", function(t)
  local numbers = { 0, -1, math.maxinteger, math.mininteger, 0.1, 1 / 3, -0.0, 1e300, 2.0 ^ 53,
    5e-324, math.huge, -math.huge, 3.0, 123456789.123 }
  local p = fork.new()
  for _, n in ipairs(numbers) do p:send_arg(n) end
  local back = table.pack(t.ask(p, [[return select(2, ...)]]))
  t.eq(back.n, #numbers)
  for i, n in ipairs(numbers) do
    local m = tonumber(back[i])
    t.ok(m == n and math.type(m) == math.type(n) and 1 / m == 1 / n, back[i])
  end
  local _, err = fork.new():send_arg(0 / 0):run("type")
  t.error(err, "EINVAL", "nan")
end)

story.test("eval takes strings and numbers", function(t)
  local p = fork.new():eval("given = table.concat({...}, ',')", "a\0b", 1, 2.5)
  t.eq(t.ask(p, "return given"), "a\0b,1,2.5")
end)

story.test("strings of any bytes and any length arrive", function(t)
  local big = ("0123456789abcdef"):rep(1 << 16) .. "\0\255"
  local p = fork.new():send_arg("", "\0", big, big)
  big = nil -- luacheck: ignore
  t.collect()
  t.eq({ t.ask(p, [[
    local _, a, b, c, d = ...
    return #a, b, #c, c:sub(-2), c == d
  ]]) }, { 0, "\0", (1 << 20) + 2, "\0\255", true })
end)

story.test("all kinds of handles can be sent, and closed at once", function(t)
  local a, b = fork.socket.pair()
  local file = io.tmpfile()
  file:write("content")
  file:seek("set")
  local object = { fileno = function() return b:fileno() end }
  local p = fork.new():send_fd(file, a, object, b:fileno())
  file:close()
  a:close()
  b:close()
  t.eq({ t.ask(p, [[
    local _, file, a, b, c = ...
    local text = file:read("a")
    b:write("x\n")
    c:write("y\n")
    return text, a:read("l"), a:read("l")
  ]]) }, { "content", "x", "y" })
end)

story.done()
