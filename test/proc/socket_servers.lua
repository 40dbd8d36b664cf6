-- What servers need of moonfork.socket: several sockets at once, limits, addresses, datagrams,
-- a port of several processes, and a question with its whole answer. Section 1.7 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit
local socket = fork.socket

-- Abstract names are the whole machine's.
local function fresh() return ("%d-%s"):format(os.time(), tostring({}):match "0x(%x+)") end

local WORKER = [[
  -- One process waits for its listener, a connection and a word from its parent.
  function work(parent, listener)
    local poll = require "moonfork".socket.poll
    local connection
    while true do
      local ready = {}
      for _, s in ipairs(poll {parent, listener, connection}) do ready[s] = true end
      if ready[parent] then
        parent:write("bye after ", parent:read "l" or "the end", "\n")
        return
      end
      if connection and ready[connection] then
        local line = connection:read "l"
        if line then
          connection:write(line:upper(), "\n")
        else
          connection:close()
          connection = nil
        end
      end
      if ready[listener] and not connection then
        connection = listener:accept()
        connection:write "welcome\n"
      end
    end
  end
]]

story.test("a blocking worker waits for listener, connection and a drain request at once",
  function(t)
    local listener = t.got(socket.listen "127.0.0.1:0")
    local p = fork.new():eval(WORKER):send_fd(listener)
    local word = t.got(p:run "work")
    for i = 1, 2 do
      local c = t.got(socket.connect(listener:address()))
      t.eq(c:read "l", "welcome")
      c:write("hello ", i, "\n", "again\n")
      t.eq({c:read("l", "l")}, {"HELLO " .. i, "AGAIN"})
      c:close()
    end
    local c = t.got(socket.connect(listener:address()))
    t.eq(c:read "l", "welcome")
    word:write "drain\n"
    t.eq(word:read "l", "bye after drain")
    t.eq(t.status(p).code, 0)
    c:close()
    word:close()
    listener:close()
  end)

story.test("poll here: callbacks run meanwhile, those that are ready come back", function(t)
  local a, b = t.got(socket.pair())
  local c, d = t.got(socket.pair())
  local ran
  fork.timer(0.02, function()
    ran = true
    c:write "x"
  end)
  t.eq(socket.poll({b, d}, 10 * story.scale), {d})
  t.eq(ran, true)
  t.eq(d:read(1), "x")
  t.eq(socket.poll({b, d}, 0), {})
  local t0 = kit.now()
  t.eq(socket.poll({b, d}, 0.05), {})
  t.ok(kit.now() - t0 >= 0.05)
  ran, t0 = false, kit.now() -- An empty list waits for the time alone, and drives the reactor, too.
  fork.timer(0.01, function() ran = true end)
  t.eq(socket.poll({}, 0.05), {})
  t.ok(ran)
  t.ok(kit.now() - t0 >= 0.05)
  t.eq(socket.poll({}, 0), {})
  for _ = 1, 2 do
    a:write "y"
    c:write "z"
    t.eq(socket.poll({b, d, a}, math.huge), {b, d})
    t.eq({b:read(1), d:read(1)}, {"y", "z"})
  end
  -- A program that asks again and again without waiting still has its callbacks.
  ran = false
  fork.timer(0.01, function() ran = true end)
  t.within(5, function() return #socket.poll({b, d}, 0) == 0 and ran end)
  b:close()
  t.match(t.raises("", socket.poll, {a, b}, 0), "entry 2: a closed moonfork.socket")
  for _, s in ipairs {a, c, d} do s:close() end
end)

story.test("poll with a waiter: the coroutine is suspended, others go on", function(t)
  local a, b = t.got(socket.pair())
  local c, d = t.got(socket.pair())
  local waiting = {}
  fork.set_waiter(function(reactor, timeout)
    local co, main = coroutine.running()
    if main then return kit.poll(reactor:pollfd(), "r", timeout and math.ceil(timeout * 1000) or 1000) end
    waiting[co] = true
    coroutine.yield()
  end)
  local got = {}
  local function start(name, f)
    local co = coroutine.create(function() got[name] = f() end)
    assert(coroutine.resume(co))
    return co
  end
  local first = start("first", function() return socket.poll {b, d} end)
  local second = start("second", function() return socket.poll({a, c}, 0.05) end)
  local third = start("third", function() return d:read "l" end)
  t.ok(waiting[first] and waiting[second] and waiting[third])
  local function turn()
    fork.step(0.01)
    for _, co in ipairs {first, second, third} do
      if coroutine.status(co) == "suspended" then assert(coroutine.resume(co)) end
    end
  end
  t.within(5, function() turn() return got.second end)
  t.eq(got.second, {})
  t.eq(got.first, nil)
  a:write "x"
  t.within(5, function() turn() return got.first end)
  t.eq(got.first, {b})
  c:write "line\n"
  t.within(5, function() turn() return got.third end)
  t.eq(got.third, "line")
  fork.set_waiter(nil)
  for _, s in ipairs {a, b, c, d} do s:close() end
end)

story.test("a socket that is closed by another coroutine ends the waits for it", function(t)
  local waiting
  fork.set_waiter(function(reactor, timeout)
    if select(2, coroutine.running()) then
      return kit.poll(reactor:pollfd(), "r", timeout and math.ceil(timeout * 1000) or 1000)
    end
    coroutine.yield()
  end)
  local a, b = t.got(socket.pair())
  for _, wait in ipairs {
    function(s) return s:read(1) end,
    function(s) return s:communicate "x" end,
    function(s) return socket.poll {s} end,
    function(s) return socket.poll {s, a} end,
  } do
    local c, d = t.got(socket.pair())
    local got
    waiting = coroutine.create(function() got = table.pack(wait(d)) end)
    assert(coroutine.resume(waiting))
    t.eq(got, nil)
    d:close()
    t.eq(kit.poll(fork.reactor:pollfd(), "r", 2000) > 0, true) -- whoever watches it is told
    t.within(5, function()
      fork.step(0)
      if coroutine.status(waiting) == "suspended" then assert(coroutine.resume(waiting)) end
      return got
    end)
    t.eq({got[1], got[3]}, {nil, 9})
    c:close()
  end
  fork.set_waiter(nil)
  a:close()
  b:close()
end)

story.test("poll beside cqueues", {needs = "cqueues"}, function(t)
  local cqueues = require "cqueues"
  fork.set_waiter(function(reactor, timeout) cqueues.poll(reactor, timeout) end)
  local a, b = t.got(socket.pair())
  local c, d = t.got(socket.pair())
  local queue, got, ticks = cqueues.new(), nil, 0
  queue:wrap(function() got = socket.poll({b, d}, 10 * story.scale) end)
  queue:wrap(function()
    for _ = 1, 5 do
      cqueues.sleep(0.005)
      ticks = ticks + 1
    end
    c:write "x"
  end)
  assert(queue:loop())
  t.eq(got, {d})
  t.eq(ticks, 5)
  fork.set_waiter(nil)
  for _, s in ipairs {a, b, c, d} do s:close() end
end)

story.test("poll in a clone: signals do not end it, time does", function(t)
  local p = fork.new():eval [[
    function f(s)
      local kit = require "testkit"
      kit.itimer(2)
      local poll = require "moonfork".socket.poll
      local t0 = kit.now()
      local none = poll({s}, 0.1)
      local waited = kit.now() - t0
      assert(#none == 0 and waited >= 0.1, waited)
      s:write "now\n"
      local ready = poll({s, s:dup()})
      s:write(#ready, " ready\n")
      kit.itimer(0)
    end
  ]]
  local s = t.got(p:run "f")
  t.eq(s:read "l", "now")
  kit.msleep(20)
  s:write "x"
  t.eq(s:read "l", "2 ready")
  t.eq(t.status(p).code, 0)
  s:close()
end)

story.test("an idle poll uses no processor time, here and in clones", function(t)
  local p = fork.new():eval [[
    function f(s)
      local a, b = require "moonfork".socket.pair()
      require "moonfork".socket.poll {a, b, s}
      s:read(1)
      s:write(os.clock() < 1 and "idle" or "busy")
    end
  ]]
  local s = t.got(p:run "f")
  local a, b = t.got(socket.pair())
  local before = os.clock()
  t.eq(socket.poll({a, b, s}, 0.3), {})
  t.ok(os.clock() - before < 0.1)
  s:write "x"
  t.eq(socket.poll({a, b, s}), {s})
  t.eq(s:read "a", "idle")
  for _, x in ipairs {a, b, s} do x:close() end
end)

story.test("SIGTERM with on_term ends a poll, whenever it comes", function(t)
  local listener = t.got(socket.listen "127.0.0.1:0")
  local template = fork.new():send_fd(listener):eval [[
    local clone, poll = require "moonfork.clone", require "moonfork".socket.poll
    function idle(s, listener)
      local draining
      clone.on_term(function() draining = true end)
      s:write "ready\n"
      while not draining do
        for _, ready in ipairs(poll {s, listener}) do
          if ready == s then os.exit(7) end
        end
      end
      s:write "drained\n"
    end
    -- The signal comes after the flag was looked at.
    function just_before(s, listener)
      local draining
      clone.on_term(function() draining = true end)
      s:write "ready\n"
      while not draining do
        clone.kill(clone.pid(), "TERM")
        poll {s, listener}
      end
      s:write "drained\n"
    end
  ]]
  for _, name in ipairs {"idle", "just_before"} do
    local p = template:fork()
    local s = t.got(p:run(name))
    t.eq(s:read "l", "ready")
    if name == "idle" then
      kit.msleep(20)
      p:kill "TERM"
    end
    t.eq(s:read "l", "drained")
    t.eq(t.status(p).code, 0)
    s:close()
  end
  template:close()
  listener:close()
end)

story.test("a datagram, as sd_notify sends it", function(t)
  local path = t:file "notify"
  for _, name in ipairs {path, "@moonfork-notify-" .. fresh()} do
    local service_manager = t.got(socket.listen("unixgram:" .. name))
    local p = fork.new():send_arg(name):eval [[
      function f(_, name)
        local s = assert(require "moonfork".socket.connect("unixgram:" .. name))
        s:write("READY=1\nSTATUS=", "serving", "\n")
        s:write("WATCHDOG=1")
      end
    ]]
    local s = t.got(p:run "f")
    service_manager:settimeout(10 * story.scale)
    t.eq(service_manager:read "a", "READY=1\nSTATUS=serving\n")
    t.eq(service_manager:read "a", "WATCHDOG=1")
    service_manager:close()
    s:close()
    t.status(p)
  end
end)

story.test("two workers listen on one port of their own", function(t)
  local first = t.got(socket.listen("127.0.0.1:0", {reuseport = true}))
  local template = fork.new():send_arg(first:address()):eval [[
    function f(s, address)
      local l = assert(require "moonfork".socket.listen(address, {reuseport = true, backlog = 50}))
      s:write(l:address(), "\n")
      while true do
        local ready = require "moonfork".socket.poll {s, l}
        if ready[1] == s then return end
        local c = l:accept()
        c:write(require "moonfork.clone".pid(), " ", c:peer(), "\n")
        c:close()
      end
    end
  ]]
  local workers = {}
  for i = 1, 2 do
    local p = template:fork()
    workers[i] = {process = p, socket = t.got(p:run "f")}
    t.eq(workers[i].socket:read "l", first:address())
  end
  local address = first:address()
  first:close()
  local seen, n = {}, 0
  t.within(10, function()
    local c = t.got(socket.connect(address))
    local pid, peer = t.got(c:read "l"):match "^(%d+) (.*)$"
    t.eq(peer, c:address())
    t.eq(c:peer(), address)
    c:close()
    if not seen[pid] then seen[pid], n = true, n + 1 end
    return n == 2
  end)
  for _, w in ipairs(workers) do
    w.socket:close()
    t.eq(t.status(w.process).code, 0)
  end
  template:close()
end)

story.test("a client that sends an endless line slowly is cut off", function(t)
  local p = fork.new():eval [[
    function f(s)
      s:limit(20):settimeout(30)
      for _ = 1, 2 do
        local line, message, errno = s:read "l"
        s:write(line or "refused: " .. message .. " " .. errno, "\n")
      end
    end
  ]]
  local s = t.got(p:run "f")
  for _ = 1, 20 do
    s:write "x"
    kit.msleep(1)
  end
  s:write "\n"
  t.eq(s:read "l", ("x"):rep(20))
  for _ = 1, 21 do
    s:write "y"
    kit.msleep(1)
  end
  t.eq(s:read "l", "refused: line too long 90")
  t.eq(t.status(p).code, 0)
  s:close()
end)

story.test("communicate: ten megabytes through cat, here and in a clone", {deadline = 60},
  function(t)
    local data = ("0123456789abcdef"):rep(640 * 1024)
    local cat = [[
      function cat(s)
        require "moonfork.clone".exec("cat", {"cat"}, {fds = {[0] = s, [1] = s}})
      end
    ]]
    local p = fork.new():eval(cat)
    local s = t.got(p:run "cat")
    local turned
    fork.timer(0, function() turned = true end)
    t.ok(t.got(s:communicate(data)) == data)
    t.eq(turned, true)
    s:close()
    t.eq(t.status(p).code, 0)

    local there = fork.new():eval [[
      function ask(result, cat)
        local data = ("0123456789abcdef"):rep(640 * 1024)
        require "testkit".itimer(1) -- and signals all the time
        local answer = cat:communicate(data)
        require "testkit".itimer(0)
        result:write(answer == data and "the same" or "another")
      end
    ]]
    local q = fork.new():eval(cat)
    local program = t.got(q:run "cat")
    there:send_fd(program)
    program:close()
    local result = t.got(there:run "ask")
    t.eq(result:read "a", "the same")
    result:close()
    t.eq(t.status(there).code, 0)
    t.eq(t.status(q).code, 0)
  end)

-- It answers late: until then only the writing can go on.
story.test("communicate with a peer that first reads everything", {deadline = 60}, function(t)
  local template = fork.new():eval [[
    function f(s)
      local all = s:read "a"
      s:write(all:upper())
    end
  ]]
  local data = ("x"):rep(4 * 1024 * 1024)
  local s = t.got(template:fork():run "f")
  t.ok(s:communicate(data) == data:upper())
  s:close()
  local ticks, timer = 0
  timer = fork.timer(0.001, function() ticks = ticks + 1 end, 0.001)
  s = t.got(template:fork():run "f")
  t.ok(s:communicate(data) == data:upper())
  t.ok(ticks > 0)
  timer:close()
  s:close()
  s = t.got(template:fork():run "f")
  local waits = 0
  fork.set_waiter(function(reactor, timeout)
    waits = waits + 1
    kit.poll(reactor:pollfd(), "r", timeout and math.ceil(timeout * 1000) or 2000)
    reactor:step()
  end)
  local co = coroutine.wrap(function() return s:communicate(data) end)
  t.ok(co() == data:upper())
  fork.set_waiter(nil)
  t.ok(waits > 0)
  s:close()
  template:close()
end)

story.test("communicate with a peer that dies in the middle ends", function(t)
  local p = fork.new():eval [[
    function f(s)
      s:write(s:read(10))
      os.exit(0)
    end
  ]]
  local s = t.got(p:run "f")
  t.eq(s:communicate(("x"):rep(20 * 1024 * 1024)), ("x"):rep(10))
  s:close()
  t.status(p)
end)

story.test("without descriptors: poll, listen and connect fail with a reason, and recover",
  function(t)
    local a, b = t.got(socket.pair())
    local c, d = t.got(socket.pair())
    t.eq(socket.poll({b, d}, 0.001), {}) -- what it needs once is there
    local soft = kit.getrlimit "nofile"
    local r, w = kit.pipe()
    kit.close(w)
    kit.setrlimit("nofile", r)
    local results = {
      {socket.poll({b, d}, 0.01)},
      {socket.listen("@moonfork-none-" .. fresh())},
      {socket.connect "127.0.0.1:1"},
      {socket.connect "localhost:1"},
      {socket.open("/dev/null", "r")},
    }
    local one = socket.poll({b}, 0.01)
    a:write "x"
    local ready = socket.poll({b, d}, 1)
    kit.setrlimit("nofile", soft)
    kit.close(r)
    for i, result in ipairs(results) do
      t.eq({result[1], result[3]}, {nil, 24}, "result " .. i)
    end
    t.eq(one, {})
    t.eq(ready, {b})
    t.eq(socket.poll({d, b}, 0.01), {b})
    for _, s in ipairs {a, b, c, d} do s:close() end
  end)

story.done()
