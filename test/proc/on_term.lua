-- clone.on_term: a function in place of the end by SIGTERM. Section 1.8 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local TERM = kit.SIGTERM

-- Runs code as the function of a clone with `clone`, `kit` and `socket`, `...`: what was sent.
local function clone_with(t, code, prepare)
  local p = fork.new()
  if prepare then prepare(p) end
  p:eval(([[
    clone, kit = require "moonfork.clone", require "testkit"
    function f(socket, ...) %s end
  ]]):format(code))
  local socket = t.got(p:run "f")
  return p, socket
end

local function terminate(t, code, want)
  local p, socket = clone_with(t, code)
  t.eq(socket:read "l", "ready")
  kit.msleep(20) -- it is most likely where it wants to be; the other places are as good
  p:kill "TERM"
  t.eq(socket:read "a", want)
  socket:close()
  t.eq(t.status(p).code, 0)
end

-- Clones of p, so many, each of which is told to end a little later in its work than the one before.
local function drain_each(t, p, rounds, step)
  for i = 1, rounds do
    local q = p:fork()
    local socket = t.got(q:run "f")
    t.eq(socket:read "l", "ready")
    for _ = 1, i * step do end -- luacheck: ignore
    q:kill "TERM"
    socket:settimeout(10)
    t.eq(socket:read "a", "drained")
    socket:close()
    t.eq(t.status(q).code, 0)
  end
end

story.test("in Lua code: before the next instruction, in loops without any call", function(t)
  terminate(t, [[
    local stop
    clone.on_term(function() stop = true end)
    socket:write "ready\n"
    while not stop do end
    socket:write "drained"
  ]], "drained")
end)

story.test("in Lua code that allocates, so that the collector's hook is there as well", function(t)
  terminate(t, [[
    local stop
    clone.on_term(function() stop = true end)
    socket:write "ready\n"
    local t = {}
    while not stop do t[#t % 1000 + 1] = {#t} end
    socket:write "drained"
  ]], "drained")
end)

story.test("in coroutines, of resume and of wrap, inside each other", function(t)
  for _, how in ipairs {
    "local co = coroutine.create(work) assert(coroutine.resume(co))",
    "coroutine.wrap(work)()",
    [[coroutine.wrap(function()
      local idle = coroutine.wrap(function() while true do coroutine.yield() end end)
      idle() idle()
      assert(coroutine.resume(coroutine.create(work)))
    end)()]],
    [[local co = coroutine.wrap(function()
      while not stop do coroutine.yield() end
    end)
    while not stop do co() end]],
  } do
    terminate(t, [[
      clone.on_term(function() stop = (stop or 0) + 1 end)
      socket:write "ready\n"
      local function work() while not stop do end end
    ]] .. how .. [[
      while not stop do end
      socket:write("drained ", stop)
    ]], "drained 1")
  end
end)

story.test("resume and wrap are as Lua's: values, errors, ends, misuse", function(t)
  local code = [[
    local out = {}
    local function add(...) out[#out + 1] = table.pack(...) end
    local co = coroutine.create(function(a, b)
      local c = coroutine.yield(a + b, nil)
      error({c})
    end)
    add(coroutine.resume(co, 1, 2))
    local ok, e = coroutine.resume(co, "c")
    add(ok, e[1])
    add(coroutine.resume(co))
    add(coroutine.status(co))
    local w = coroutine.wrap(function(...) coroutine.yield(...) error "text" end)
    add(w(nil, 3, nil))
    add(pcall(w))
    add(pcall(w))
    add(pcall(coroutine.wrap(function() error({}) end)))
    out[#out][2] = type(out[#out][2])
    add(pcall(coroutine.resume, 1))
    add(pcall(coroutine.wrap, 1))
    add(pcall(coroutine.wrap(function() return pcall(error, "inner") end)))
    local closed = {}
    add(pcall(coroutine.wrap(function()
      local _ <close> = setmetatable({}, {__close = function() closed[1] = "closed" end})
      error "with close"
    end)))
    add(closed[1])
    add(pcall(coroutine.wrap(function() coroutine.yield(table.unpack({}, 1, 100)) end)))
    add(coroutine.resume(coroutine.running()))
    add(coroutine.resume(coroutine.create(function() return coroutine.isyieldable() end)))
    local lines = {}
    for i, values in ipairs(out) do
      local words = {}
      for j = 1, values.n do words[j] = tostring(values[j]) end
      lines[i] = table.concat(words, " ")
    end
    return table.concat(lines, "\n")
  ]]
  local here = assert(load(code, "=(eval)"))()
  local there = t.ask(fork.new(), code)
  local function plain(text) return (text:gsub("%S+:(%d+):", "at %1:")) end
  t.eq(plain(there), plain(here))
end)

story.test("a blocked accept: the connection is finished, then the worker stops", function(t)
  local listener = assert(fork.socket.listen "127.0.0.1:0")
  local address = listener:address()
  local p = fork.new():send_fd(listener):eval [[
    local clone = require "moonfork.clone"
    function serve(socket, listener)
      local stopping
      clone.on_term(function() stopping = true listener:close() end)
      socket:write "ready\n"
      while not stopping do
        local connection = listener:accept()
        if connection then
          connection:write(connection:read "l", "\n")
          connection:close()
        end
      end
      socket:write "drained"
    end
  ]]
  local q = p:fork()
  local first = p:fork()
  local socket, other = t.got(first:run "serve"), t.got(q:run "serve")
  t.eq({socket:read "l", other:read "l"}, {"ready", "ready"})
  q:kill "TERM"
  t.eq(other:read "a", "drained")
  t.eq(t.status(q).code, 0)
  local r = p:fork() -- in the middle of a connection
  p:close()
  local third = t.got(r:run "serve")
  t.eq(third:read "l", "ready")
  local served = 0
  r:kill "TERM"
  t.eq(third:read "a", "drained")
  local connection = assert(fork.socket.connect(address))
  connection:write "the first still serves\n"
  if connection:read "l" == "the first still serves" then served = served + 1 end
  t.eq(served, 1)
  connection:close()
  first:kill "TERM"
  t.eq(socket:read "a", "drained")
  t.eq(t.status(first).code, 0)
  listener:close()
  socket:close()
  other:close()
  third:close()
end)

story.test("a read in the middle of a connection goes on after the function", function(t)
  local p, socket = clone_with(t, [[
    local stop
    clone.on_term(function() stop = true socket:write "asked\n" end)
    socket:write "ready\n"
    local line = socket:read "l"
    socket:write(line, " ", tostring(stop), "\n")
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.eq(socket:read "l", "asked")
  socket:write "line\n"
  t.eq(socket:read "a", "line true\n")
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.test("a write to a peer that does not read, a read with a time limit", function(t)
  terminate(t, [[
    clone.on_term(function() error("enough", 0) end)
    socket:settimeout(30)
    local ok, err = pcall(function()
      socket:write "ready\n"
      return socket:read "l"
    end)
    socket:write(tostring(ok), " ", err)
  ]], "false enough")
  local p, socket = clone_with(t, [[
    clone.on_term(function() clone.exit(7) end)
    socket:write "ready\n"
    socket:write(("x"):rep(1 << 26))
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.eq(t.status(p).code, 7)
  socket:close()
end)

story.test("waitpid: between two waits; the child is not lost", function(t)
  for _, which in ipairs {"pid", "-1", "0"} do
    terminate(t, ([[
      local asked
      local r, w = kit.pipe()
      clone.on_term(function() asked = true kit.write(w, "x") end)
      local pid = clone.fork()
      if pid == 0 then kit.read(r, 1) kit.exit(5) end
      socket:write "ready\n"
      local got, status = clone.waitpid(%s)
      socket:write(tostring(got == pid), " ", status.code, " ", tostring(asked))
    ]]):format(which), "true 5 true")
  end
end)

story.test("once; a second SIGTERM ends by the signal, also while the function runs", function(t)
  local p, socket = clone_with(t, [[
    clone.on_term(function() socket:write "asked\n" end)
    socket:write "ready\n"
    while true do end
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.eq(socket:read "l", "asked")
  p:kill "TERM"
  t.eq(t.status(p).signal, TERM)
  socket:close()
  p, socket = clone_with(t, [[
    clone.on_term(function() socket:write "asked\n" while true do end end)
    socket:write "ready\n"
    while true do end
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.eq(socket:read "l", "asked")
  p:kill "TERM"
  t.eq(t.status(p).signal, TERM)
  socket:close()
end)

story.test("a second function replaces the first; nil takes it back; it may be set again", function(t)
  terminate(t, [[
    local stop
    clone.on_term(function() stop = "first" end)
    clone.on_term(function()
      clone.on_term(function() stop = "again" end)
      kit.kill(kit.getpid(), kit.SIGTERM)
    end)
    socket:write "ready\n"
    while not stop do end
    socket:write(stop)
  ]], "again")
  local p, socket = clone_with(t, [[
    clone.on_term(function() end)
    clone.on_term(nil)
    socket:write "ready\n"
    while true do end
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.eq(t.status(p).signal, TERM)
  socket:close()
end)

story.test("an error of the function goes on from where it was called", function(t)
  local p, socket = clone_with(t, [[
    clone.on_term(function() error "asked to stop" end)
    local ok, err = pcall(function()
      socket:write "ready\n"
      while true do end
    end)
    socket:write(tostring(ok), " ", err)
  ]])
  t.eq(socket:read "l", "ready")
  p:kill "TERM"
  t.match(socket:read "a", "^false .*asked to stop$")
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.test("a debug hook of the program's is kept, and gets its events", function(t)
  -- With lines the signal may come while Lua looks for them; then the count event was lost, in
  -- one of twenty or so.
  local masks = {"l", "c", "r", "crl"}
  for i = 5, 34 do masks[i] = i % 2 == 0 and "l" or "crl" end
  for _, mask in ipairs(masks) do
    terminate(t, ([[
      local stop, lines = nil, 0
      local function hook() lines = lines + 1 end
      debug.sethook(hook, %q)
      clone.on_term(function() stop = true end)
      socket:write "ready\n"
      local function one()
        return 1
      end
      while not stop do
        one()
      end
      local f, m = debug.gethook()
      local before = lines
      one() one()
      socket:write(tostring(f == hook), " ", m, " ", tostring(lines > before))
    ]]):format(mask), "true " .. mask .. " true")
  end
end)

story.test("nothing is lost where a program sets and clears hooks all the time", {deadline = 60},
  function(t)
    local p = fork.new():eval [[
      local clone = require "moonfork.clone"
      function f(socket)
        local stop
        clone.on_term(function() stop = true end)
        local function hook() end
        socket:write "ready\n"
        while not stop do debug.sethook(hook, "l") debug.sethook() end
        socket:write "drained"
      end
    ]]
    drain_each(t, p, 60, 500)
    p:close()
  end)

story.test("set in the template: it holds in the functions of its clones, not in templates", function(t)
  local p = fork.new():eval [[
    local clone = require "moonfork.clone"
    clone.on_term(function() stop = true end)
    function f(socket)
      socket:write "ready\n"
      while not stop do end
      socket:write "drained"
    end
  ]]
  local q = p:fork()
  local socket = t.got(q:run "f")
  t.eq(socket:read "l", "ready")
  q:kill "TERM"
  t.eq(socket:read "a", "drained")
  socket:close()
  t.eq(t.status(q).code, 0)
  local caught = t.ask(p:fork(), "return require 'actor'.status_bits 'SigCgt'")
  t.ok(caught & 1 << (TERM - 1) ~= 0)
  local idle = p:fork()
  t.got(idle:memory())
  idle:kill "TERM"
  t.eq(t.status(idle).signal, TERM)
  p:close()
end)

story.test("an rpc server that waits for calls; one at work answers first", function(t)
  local p = fork.new():eval [[
    local clone, rpc = require "moonfork.clone", require "moonfork.rpc"
    function start() clone.on_term(function() rpc.event "asked" end) end
    function work(ms) require "testkit".msleep(ms) return "done" end
  ]]
  for _, ms in ipairs {0, 200} do
    local events = 0
    local q = p:fork()
    local rpc = q:rpc("work", {init = "start", on_event = function() events = events + 1 end})
    t.eq(rpc(0), "done")
    local answer
    if ms > 0 then rpc(ms, function(_, a) answer = a end) end
    kit.msleep(20)
    q:kill "TERM"
    t.within(5, function() fork.step(0.05) return events == 1 end)
    t.within(5, function() fork.step(0.05) return ms == 0 or answer == "done" end)
    t.eq(rpc(0), "done", "it serves on")
    rpc:close()
    t.eq(t.status(q).code, 0)
  end
  p:close()
end)

story.test("an asynchronous rpc server that waits in luv's loop", {needs = "luv"}, function(t)
  local p = fork.new():eval [[
    local clone, rpc = require "moonfork.clone", require "moonfork.rpc"
    function watch(done)
      clone.on_term(function() rpc.event "asked" end)
      done "watches"
    end
  ]]
  local events = 0
  local q = p:fork()
  local rpc = q:rpc("watch", {async = true, on_event = function() events = events + 1 end})
  for i = 1, 3 do
    t.eq(rpc(), "watches")
    kit.msleep(20)
    q:kill "TERM"
    t.within(5, function() fork.step(0.05) return events == i end)
  end
  rpc:close()
  t.eq(t.status(q).code, 0)
  p:close()
end)

story.test("a clone that is a parent itself: in sleep, loop, and a wait for its own process", function(t)
  for i, wait in ipairs {"fork.sleep(60)", "fork.timer(60, print) fork.loop()",
    "local p = fork.new():eval [[function g(s) s:read 'a' end]] assert(p:run 'g') p:wait()"} do
    local p, socket = clone_with(t, [[
      local fork = require "moonfork"
      local ok, err = pcall(function()
        clone.on_term(function() error("asked", 0) end)
        socket:write "ready\n"
        ]] .. wait .. [[

      end)
      socket:write(tostring(ok), " ", err)
    ]])
    t.eq(socket:read "l", "ready")
    kit.msleep(i * 20)
    p:kill "TERM"
    socket:settimeout(10)
    t.eq(socket:read "a", "false asked", wait)
    socket:close()
    t.eq(t.status(p).code, 0)
  end
end)

story.test("at any moment: nothing is lost", {deadline = 60}, function(t)
  local p = fork.new():eval [[
    local clone = require "moonfork.clone"
    function f(socket)
      local stop
      clone.on_term(function() stop = true end)
      socket:write "ready\n"
      local co = coroutine.wrap(function()
        while true do
          local t = {}
          for i = 1, 50 do t[i] = {} end
          coroutine.yield()
        end
      end)
      socket:settimeout(0.0005)
      while not stop do
        co()
        socket:read(1)
      end
      socket:write "drained"
    end
  ]]
  drain_each(t, p, 100, 200)
  p:close()
end)

story.test("misuse raises", function(t)
  t.eq(t.ask(fork.new(), [[
    local ok, e = pcall(require "moonfork.clone".on_term, 1)
    return ok, (e:match "function expected, got number")
  ]]), false)
end)

story.done()
