-- Clones over there begin without a socket of their own, once the template has permitted it, and get one with
-- their first use of it, whatever that is. Nobody can tell them from others.

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local function far(code)
  return remote.over():eval(code or "")
end

-- A clone runs the function, whose socket nobody uses here.
local function run(p, name)
  local clone = p:fork()
  clone:run(name):close()
  return clone
end

-- How a clone ended, which is closed.
local function ending(clone)
  local status = clone:wait()
  clone:close()
  return status
end

-- A clone runs the function and answers a read. Returns what was read, and how it ended.
local function read(t, p, name, what)
  local clone = p:fork()
  local socket = t.got(clone:run(name))
  local text = socket:read(what)
  socket:close()
  return text, clone
end

-- The first fork asks, the second one goes without.
local function permitted(p)
  p:eval "function leave() end"
  for _ = 1, 3 do ending(run(p, "leave")) end
  return p
end

local USES = [[
  function write(s) s:write "12" end
  function number(s) local n = s:fileno() s:write(n > 2 and "12" or "no") end
  function read(s) s:write(s:read(2)) end
  function called(s) tostring(1) s:write "12" end
  function long(s) local n = 0 for i = 1, 1000 do n = n + i end s:write "12" end
  function shut(s) s:write "12" s:shutdown "w" s:read "a" end
  function collected(s) s = nil collectgarbage() collectgarbage() end
  function closed(s) s:close() end
  function raised() error "on purpose" end
  function left() os.exit(7) end
  function spins() while true do end end
  function printed() io.stderr:write "" end
  function copies(s) s:write(require("moonfork").clone and "12" or "12") end
]]

story.test("whatever a function does first with its socket, it has one", function(t)
  local p = permitted(far(USES))
  for round = 1, 2 do
    for _, name in ipairs { "write", "number", "called", "long", "shut", "copies" } do
      local text, clone = read(t, p, name, 2)
      t.eq({ round, name, text }, { round, name, "12" })
      clone:close()
    end
    local clone = p:fork()
    local socket = t.got(clone:run "read")
    socket:write "ab"
    t.eq(socket:read(2), "ab")
    t.eq(socket:read "a", "")
    socket:close()
    clone:close()
    for _, name in ipairs { "collected", "closed", "raised", "left", "printed" } do
      local text, ended = read(t, p, name, "a")
      t.eq({ name, text }, { name, "" })
      local code = ending(ended).code
      t.eq({ name, code }, { name, name == "left" and 7 or name == "raised" and 1 or 0 })
    end
    clone = p:fork()
    socket = t.got(clone:run "spins")
    t.ok(clone:kill "KILL")
    t.eq(socket:read "a", "")
    socket:close()
    clone:close()
  end
  p:close()
end)

story.test("a clone has the same descriptors with and without a socket from the beginning", function(t)
  local p = far [[
    function list(s)
      local found = {}
      for fd = 0, 63 do
        local f = io.open("/proc/self/fd/" .. fd .. "/.", "r")
        local info = io.open("/proc/self/fdinfo/" .. fd)
        if info then found[#found + 1] = fd info:close() end
        if f then f:close() end
      end
      s:write(#found, " ", s:fileno() > 2 and "ok" or "not", "\n")
    end
  ]]
  local said = {}
  for i = 1, 5 do
    local clone
    said[i], clone = read(t, p, "list", "l")
    clone:close()
  end
  for i = 2, 5 do t.eq(said[i], said[1]) end
  p:close()
end)

story.test("16 at a time: some say something, some nothing, some are killed", function(t)
  local p = permitted(far [[
    function nothing() end
    function word(s) s:write "w" end
    function waits(s) s:read "a" end
  ]])
  local counts, asked, told = { nothing = 0, word = 0, waits = 0 }, 0, 0
  local names = { "nothing", "word", "nothing", "waits" }
  local function ask()
    asked = asked + 1
    local name, clone = names[asked % 4 + 1], p:fork()
    clone:run(name, function(err, socket)
      told = told + 1
      t.eq({ name, err }, { name })
      if name == "waits" then clone:kill "KILL" end
      local is_right = name ~= "word" or socket:read "a" == "w" -- others are told meanwhile
      counts[name] = counts[name] + (is_right and 1 or 0)
      socket:close()
      clone:close()
      if asked < 400 then ask() end
    end)
  end
  for _ = 1, 16 do ask() end
  t.within(30, function() return told == 400 end)
  t.eq(counts, { nothing = 200, word = 100, waits = 100 })
  p:close()
end)

story.test("ends that are told together are each one's own, and calls go on meanwhile", function(t)
  local p = permitted(far [[
    function nothing() end
    function left() os.exit(7) end
    function same(text) return text end
  ]])
  local rpc = p:fork():rpc "same"
  for round = 1, 20 do
    local clones, told, answered = {}, 0, 0
    for i = 1, 14 do
      clones[i] = p:fork()
      clones[i]:run(i % 4 == 0 and "left" or "nothing", function(err, socket)
        told = told + 1
        t.eq({ i, err }, { i })
        socket:close()
      end)
      rpc:call(tostring(i), function(err, text)
        answered = answered + 1
        t.eq({ err, text }, { nil, tostring(i) })
      end)
    end
    t.within(30, function() return told == 14 and answered == 14 end)
    for i, clone in ipairs(clones) do
      t.eq({ round, i, ending(clone).code }, { round, i, i % 4 == 0 and 7 or 0 })
    end
  end
  rpc:close()
  p:close()
end)

-- In a row of forks one at a time the agent told of ends with the next fork, and had no ear for children: who
-- waits for one all the same is told of it.
story.test("after a row of forks that nobody waited for, an end is told to who waits", function(t)
  local p = permitted(far [[
    function nothing() end
    function left() os.exit(7) end
    function spins() while true do end end
  ]])
  local last
  for round = 1, 20 do
    for _ = 1, 10 do run(p, "nothing"):close() end
    local clone, dies = p:fork(), p:fork()
    if round % 2 == 0 then
      clone:run("nothing"):close()
    else
      t.got(clone:run "left"):close()
    end
    t.eq({ round, ending(clone).code }, { round, round % 2 == 0 and 0 or 7 })
    dies:run("spins", function() end)
    t.within(10, function() return dies:pid() end)
    dies:kill "KILL"
    t.eq(ending(dies).signal, 9)
    if last then t.eq(ending(last).code, 0) end
    last = run(p, "nothing")
  end
  last:close()
  p:close()
end)

-- The report of another's end stopped the timer that ends a row, and who waited by callbacks did not end it: the
-- agent was not woken by ends of children any more, and the end was told with the next fork, or never.
story.test("after a row, an end is told to who waits by callbacks", function(t)
  local p = permitted(far "function nothing() end")
  for round = 1, 20 do
    for _ = 1, 6 do run(p, "nothing"):close() end
    local clone, status = p:fork(), nil
    clone:run("nothing", function(_, socket) socket:close() end)
    clone:on_exit(function(told) status = told end)
    t.within(10, function() return status end)
    t.eq({ round, status.code }, { round, 0 })
    clone:close()
  end
  p:close()
end)

story.test("a command between two forks, and hooks of the template's, hold for the next clone", function(t)
  local p = permitted(far "value = 1 function tell(s) s:write(value) end")
  for i = 2, 6 do
    p:eval(("value = %d"):format(i))
    for _ = 1, 2 do
      local text, clone = read(t, p, "tell", "a")
      t.eq(text, tostring(i))
      clone:close()
    end
  end
  p:close()
end)

story.test("what is asked of a template that dies without a word ends", function(t)
  local p = permitted(far "function waits(s) s:read 'a' end")
  t.ok(p:kill "STOP")
  local told = 0
  for _ = 1, 5 do
    p:fork():run("leave", function(err)
      t.ok(err)
      told = told + 1
    end)
  end
  fork.step(0.05)
  t.ok(p:kill "KILL")
  t.within(10, function() return told == 5 end)
  p:close()
end)

-- The first word of a process goes before the bytes of its function, and the descriptors that come with these lie
-- in the socket behind it. Read together they were passed on together: "malformed frame".
story.test("a descriptor that a function sends at once comes behind the first word of its process", function(t)
  for _, warm in ipairs { false, true } do
    local mark = t:file("sent", "")
    local p = far(([[
      function same(x) return x end
      function give(s)
        local ours, theirs = require "moonfork".socket.pair()
        s:send_fd(theirs, "x")
        io.open(%q, "w"):write "sent":close()
        ours:write "through"
        ours:close()
      end
    ]]):format(mark))
    if warm then permitted(p) end
    local rpc = p:fork():rpc "same"
    t.eq(rpc(1), 1)
    local template = p:pid()
    local agent = kit.processes()[template].ppid
    kit.kill(template, kit.SIGSTOP)
    local given, failed
    p:fork():run("give", function(err, socket) given, failed = socket, err end)
    for i = 1, 3 do t.eq(rpc(i), i) end -- it has the command
    kit.kill(agent, kit.SIGSTOP)
    kit.kill(template, kit.SIGCONT)
    local is_sent, why = pcall(t.within, 10, function() return t.read(mark) == "sent" end)
    kit.kill(agent, kit.SIGCONT)
    t.ok(is_sent, why)
    t.within(10, function() return given or failed end)
    t.eq(failed, nil)
    given:settimeout(10)
    local fd, word = given:recv_fd()
    t.ok(fd, word)
    fd:close()
    given:close()
    rpc:close()
    p:close()
  end
end)

story.done()
