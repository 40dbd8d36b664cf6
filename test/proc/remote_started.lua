-- What is said of a function whose process is over there when the link is lost, or nobody waits any longer,
-- before anything was heard of that process: it may have run. And that its end is told last.

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local AGENT = remote.AGENT

local function over(script, options)
  options = options or {}
  options.beat = options.beat or 10
  return remote.over(script, options)
end

-- A process over a relay. hold_up(): nothing that the agent says arrives from now on; let_go(): it does, and the
-- relay ends, which it can when the link is lost or closed.
local function over_relay(t, options)
  local relay = t:file("relay", "")
  local p = over(("cat | %s | sh -c 'echo $$ >%s; exec cat'"):format(AGENT, relay), options)
  local pid
  local function hold_up()
    pid = assert(math.tointeger(tonumber(t.read(relay))))
    kit.kill(pid, kit.SIGSTOP)
  end
  local function let_go()
    kit.kill(pid, kit.SIGCONT)
    t.within(10, function() return not t.alive(pid) end)
  end
  return p, hold_up, let_go
end

local function near_end()
  for id, process in pairs(kit.processes()) do
    local is_one = process.comm == "moonfork-remote" and process.state ~= "Z"
    if process.ppid == kit.getpid() and is_one then return id end
  end
end

-- What the agent tells is held up, so that nobody here knows of the birth when the link is lost.
story.test("the function of a sent fork may have run before its birth is told", function(t)
  local ways = {
    ["without a socket"] = function(clone, done) clone:run("mark", done) end,
    ["with a handle"] = function(clone, done) clone:send_fd((fork.socket.pair())):run("mark", done) end,
    ["told later what to run"] = function(clone, done)
      fork.step(0)
      clone:run("mark", done)
    end,
  }
  for way, begin in pairs(ways) do
    local file = t:file("ran", "")
    local p, hold_up, let_go = over_relay(t)
    p:eval(([[
      function mark() io.open(%q, "a"):write("x"):close() end
    ]]):format(file))
    t.got(p:fork():run("mark")):close() -- slots are known from here on
    t.within(10, function() return t.read(file) == "x" end)
    local near = near_end()
    hold_up()
    local failed, unsent
    begin(p:fork(), function(err) failed = err end)
    t.within(10, function() return t.read(file) == "xx" end, way .. ": it runs")
    t.eq(failed, nil)
    local late, closed
    begin(p:fork { timeout = 1 }, function(err) late = err end)
    t.within(10, function() return late end)
    t.eq({ way, late.code, late.started }, { way, "TIMEOUT", "unknown" })
    local clone, ran = p:fork(), #t.read(file)
    begin(clone, function(err) closed = err end)
    t.within(10, function() return #t.read(file) > ran end, way .. ": that runs, too")
    clone:close()
    t.within(10, function() return closed end)
    t.eq({ way, closed.code, closed.started }, { way, "CANCELLED", "unknown" })
    kit.kill(assert(near), kit.SIGKILL)
    t.within(10, function() return failed end, way .. ": it is told")
    t.error(failed, "TEMPLATE_DIED", "the connection is lost: ")
    t.eq({ way, failed.started }, { way, "unknown" })
    p:fork():run("mark", function(err) unsent = err end)
    t.within(10, function() return unsent end)
    t.eq({ unsent.code, unsent.started }, { "TEMPLATE_DIED", "no" })
    let_go()
  end
end)

story.test("forks that are given up again and again, while the near end does not run, fit into its window", function(t)
  local name = ("long"):rep(25)
  local p = over("exec " .. AGENT, { window = 4096 }):eval(("function %s() end"):format(name))
  t.got(p:fork():run(name)):close()
  local near, told = assert(near_end()), 0
  kit.kill(near, kit.SIGSTOP)
  for round = 1, 4 do
    for _ = 1, 14 do
      p:fork({ timeout = 0.05 }):run(name, function() told = told + 1 end)
    end
    t.within(10, function() return told == 14 * round end)
  end
  kit.kill(near, kit.SIGCONT)
  t.got(p:fork():run(name)):close()
end)

-- A host that was busy when the agent greeted has not read that yet when the time is over.
story.test("a function whose time ends before the agent's greeting is read may have run", function(t)
  for _, way in ipairs { "timeout", "close" } do
    local begun, go, file = t:file("begun", ""), t:file("go", ""), t:file("ran", "")
    local p, hold_up, let_go = over_relay(t)
    p:eval(([[
      io.open(%q, "w"):write "x":close()
      while io.open(%q):read "a" == "" do os.execute "sleep 0.05" end
      function mark() io.open(%q, "a"):write "x":close() end
    ]]):format(begun, go, file))
    local clone, failed = p:fork { timeout = way == "timeout" and 0.5 or nil }
    clone:run("mark", function(err) failed = err or "no error" end)
    fork.step(0)
    local last = kit.now() + 10 * story.scale
    local function await(name)
      while t.read(name) == "" and kit.now() < last do kit.msleep(5) end
      t.eq(t.read(name), "x")
    end
    await(begun)
    hold_up()
    io.open(go, "w"):write("x"):close()
    await(file)
    kit.msleep(500)
    if way == "close" then clone:close() end
    t.within(10, function() return failed end)
    t.eq({ way, failed.code, failed.started }, { way, way == "timeout" and "TIMEOUT" or "CANCELLED", "unknown" })
    p:close()
    let_go()
  end
end)

-- Who hears of the end has the last words already.
story.test("an end is not told before the bytes that the process wrote", function(t)
  local SIZE, AT_ONCE = 150000, 20
  local p = fork.remote { command = { "sh", "-c", "exec " .. AGENT } }:eval(
    ("function say(s) s:write(('x'):rep(%d)) os.exit(0) end"):format(SIZE))
  t.got(p:fork():run "say"):close()
  for round = 1, 20 do
    local lengths, clones = {}, {}
    t.keep = clones
    for i = 1, AT_ONCE do
      local clone = p:fork()
      clones[i] = clone
      clone:run("say", function(err, socket)
        assert(not err, err)
        clone:on_exit(function()
          socket:settimeout(0)
          lengths[#lengths + 1] = #(socket:read(SIZE) or "")
          socket:close()
        end)
      end)
    end
    t.within(10, function() return #lengths == AT_ONCE end)
    for _, length in ipairs(lengths) do t.eq(length, SIZE, round) end
  end
end)

-- A worker takes its calls one after the other, so of those without an answer only the first was entered: where
-- all answers have come. The others were said not to be started, and a pool gave them to another worker.
story.test("calls behind one whose answer was lost with the link may have run", function(t)
  for _, kind in ipairs { "rpc", "pool" } do
    local file = t:file("ran", "")
    local p, hold_up, let_go = over_relay(t)
    p:eval(([[
      function mark(x)
        io.open(%q, "a"):write(x):close()
        return x
      end
    ]]):format(file))
    local service = kind == "rpc" and p:fork():rpc "mark" or p:pool("mark", { max = 1, idle = 1, load = 4 })
    t.eq(service("0"), "0")
    local near = assert(near_end())
    hold_up()
    local told = {}
    for i = 1, 4 do service:call(tostring(i), function(err) told[#told + 1] = err or "no error" end) end
    t.within(10, function() return t.read(file) == "01234" end, "all have run")
    t.eq(told, {})
    kit.kill(near, kit.SIGKILL)
    t.within(10, function() return #told == 4 end)
    for _, err in ipairs(told) do t.eq({ kind, err.code, err.started }, { kind, "CLONE_DIED", "unknown" }) end
    t.eq(t.read(file), "01234")
    service:close()
    let_go()
  end
end)

-- A closing service gives up after its grace. What has run by then did not get a word here.
story.test("calls of a service that is given up at its close may all have run", function(t)
  local file = t:file("ran", "")
  local p, hold_up, let_go = over_relay(t)
  p:eval(([[
    function mark(x)
      io.open(%q, "a"):write(x):close()
      return x
    end
  ]]):format(file))
  local rpc = p:fork():rpc("mark", { grace = 0.3, strict = true })
  t.eq(rpc("0"), "0")
  hold_up()
  local told = {}
  for i = 1, 4 do rpc:call(tostring(i), function(err) told[#told + 1] = err or "no error" end) end
  t.within(10, function() return t.read(file) == "01234" end, "all have run")
  rpc:close(function() end)
  t.within(10, function() return #told == 4 end)
  for i, err in ipairs(told) do t.eq({ i, err.code, err.started }, { i, "CANCELLED", "unknown" }) end
  p:close()
  let_go()
end)

-- The template itself may be told to run a function. It was said not to have entered it, for a link tells of its
-- birth before.
story.test("the function of the far template itself may have run when the link is lost", function(t)
  for _, way in ipairs { "lost", "timeout" } do
    local file = t:file("ran", "")
    local p, hold_up, let_go = over_relay(t, { timeout = way == "timeout" and 2 or nil })
    p:eval(("function mark(s) io.open(%q, 'a'):write 'x':close() s:read 'a' end"):format(file))
    t.got(p:memory())
    local near = assert(near_end())
    hold_up()
    local failed
    p:run("mark", function(err) failed = err or "no error" end)
    t.within(10, function() return t.read(file) == "x" end, "it runs")
    t.eq(failed, nil)
    if way == "lost" then kit.kill(near, kit.SIGKILL) end
    t.within(10, function() return failed end)
    t.eq({ way, failed.code, failed.started }, { way, way == "lost" and "CLONE_DIED" or "TIMEOUT", "unknown" })
    p:close()
    let_go()
  end
end)

-- What stands in a queue here never left: the near end had stopped, and read no more. Those were said to have
-- perhaps begun.
-- The agent had greeted, and what was sent might have been on its way.
story.test("nothing is started where the agent can't start the template program", function(t)
  for _, way in ipairs { "run", "fork", "rpc" } do
    local p = fork.remote { command = { os.getenv "MOONFORK_REMOTE", "agent", "/nowhere/template" } }
    local err
    if way == "rpc" then
      local rpc = p:fork():rpc "f"
      err = select(2, rpc())
      rpc:close()
    else
      err = select(2, (way == "fork" and p:fork() or p):run "f")
    end
    t.error(err, "TEMPLATE_START", "/nowhere/template can't be started there: No such file")
    t.eq({ way, err.started }, { way, "no" })
    if way ~= "run" then t.error(select(2, p:run "f"), "TEMPLATE_START") end -- else on_error hears of it
    p:close()
  end
end)

story.test("a function whose run was not sent when the link is lost is not started", function(t)
  local long = ("x"):rep(2 ^ 20)
  local ways = {
    ["the template itself"] = { "CLONE_DIED", function(p) return p:send_arg(long) end },
    ["a clone with a long argument"] = { "TEMPLATE_DIED", function(p) return p:fork():send_arg(long) end },
    ["a clone behind a long command"] = { "TEMPLATE_DIED", function(p) return p:eval("", long):fork() end },
  }
  for way, expected in pairs(ways) do
    for _, kind in ipairs { "run", "rpc" } do
      local p = over("exec " .. AGENT):eval "function mark() end"
      t.got(p:fork():run("mark")):close()
      local near, failed = assert(near_end())
      kit.kill(near, kit.SIGSTOP)
      local process = expected[2](p)
      if kind == "run" then
        process:run("mark", function(err) failed = err or "no error" end)
      else
        process:rpc("mark", { on_error = function() end }):call(function(err) failed = err or "no error" end)
      end
      fork.step(0)
      t.eq(failed, nil)
      kit.kill(near, kit.SIGKILL)
      t.within(10, function() return failed end)
      t.eq({ way, kind, failed.code, failed.started }, { way, kind, expected[1], "no" })
      p:close()
    end
  end
end)

-- The agent reads the word that the function is entered, and the handle that it sends at once, in one piece: run said
-- "malformed frame" of three in four.
story.test("a function that first of all sends a handle", function(t)
  local AT_ONCE = 20
  local p = over("exec " .. AGENT):eval [[
    local fork = require "moonfork"
    function give(s)
      local near, far = fork.socket.pair()
      far:write "from there"
      s:send_fd(near, "x")
      s:write "more"
    end
  ]]
  for _ = 1, 5 do
    local told = 0
    for _ = 1, AT_ONCE do
      p:fork():run("give", function(err, socket)
        t.eq(err, nil)
        local handle, text = socket:recv_fd()
        t.eq({ text, handle:read(10), socket:read "a" }, { "x", "from there", "more" })
        handle:close()
        socket:close()
        told = told + 1
      end)
    end
    t.within(20, function() return told == AT_ONCE end)
  end
end)

story.done()
