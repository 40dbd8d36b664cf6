-- The program writes FORKs, and requests of calls, to the command's input by itself
-- (src/wire/link_early.h): the near end need not run for that, both write to one pipe, and its end is
-- noticed although the program has it, too.

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local AGENT = remote.AGENT

local function over(script, beat, window)
  return remote.over(script, { beat = beat, window = window })
end

local function child_of(pid)
  for id, process in pairs(kit.processes()) do
    if process.ppid == pid and process.comm == "moonfork-remote" and process.state ~= "Z" then return id end
  end
end

local function lives(pid)
  local process = kit.processes()[pid]
  return process and process.state ~= "Z"
end

-- Whatever takes its time here turns no loop.
local function soon(t, done, what)
  for _ = 1, 1000 do
    if done() then return end
    kit.msleep(10)
  end
  t.ok(false, what)
end

local function touch(file)
  return ([[
    function nothing() end
    function touch() io.open(%q, "a"):write "x":close() end
  ]]):format(file)
end

story.test("a fork is on its way while the near end does not run", function(t)
  local file = t:file("touched", "")
  local p = over(nil, 10):eval(touch(file))
  for _ = 1, 3 do p:fork():run("nothing"):close() end -- slots are known, and the way is free
  local near = child_of(kit.getpid())
  kit.kill(near, kit.SIGSTOP)
  t:defer(function() kit.kill(near, kit.SIGCONT) end)
  local err, socket
  p:fork():run("touch", function(e, s) err, socket = e, s end)
  t.within(10, function() return t.read(file) == "x" end, "it runs over there")
  kit.kill(near, kit.SIGCONT)
  t.within(10, function() return socket or err end, "it is told of here")
  t.eq(err, nil)
  socket:close()
end)

-- The socket of the first clone goes with its FORK; that of later ones is made by the near end.
story.test("a call is on its way while the near end does not run", function(t)
  local file = t:file("touched", "")
  local p = over(nil, 10):eval(touch(file))
  for nth = 1, 2 do
    local rpc, before = p:fork():rpc "touch", #t.read(file)
    for _ = 1, 20 do rpc() end -- it gives permission meanwhile
    local near = child_of(kit.getpid())
    kit.kill(near, kit.SIGSTOP)
    t:defer(function() kit.kill(near, kit.SIGCONT) end)
    local is_over, err
    rpc:call(function(e) is_over, err = true, e end)
    t.within(10, function() return #t.read(file) == before + 21 end, nth .. ": it runs over there")
    kit.kill(near, kit.SIGCONT)
    t.within(10, function() return is_over end, nth .. ": it is told of here")
    t.eq(err, nil)
    rpc:close()
    for _ = 1, 3 do p:fork():run("nothing"):close() end
  end
end)

story.test("calls keep their order, whichever way they go, and use no more than the window", function(t)
  for _, window in ipairs { 4096, 65536, 262144 } do
    local p = over(nil, nil, window):eval [[
      local last = 0
      function take(i, text)
        assert(i == last + 1, i)
        last = i
        return i, #text
      end
    ]]
    local rpcs, asked, answered = { p:fork():rpc "take", p:fork():rpc "take" }, { 0, 0 }, { 0, 0 }
    local sizes = { 1, 64, 1000, 4000, 4096, 20000, 100000 }
    for turn = 1, 300 do
      for k, rpc in ipairs(rpcs) do
        for _ = 1, turn % 5 == 0 and turn % 4 + 1 or 1 do
          asked[k] = asked[k] + 1
          local i, size = asked[k], sizes[(turn * 3 + k) % (turn % 9 == 0 and #sizes or 4) + 1]
          rpc:call(i, ("x"):rep(size), function(err, got, length)
            assert(not err, err)
            assert(got == i and length == size)
            answered[k] = answered[k] + 1
          end)
        end
      end
      t.within(60, function() return answered[1] == asked[1] and answered[2] == asked[2] end, "all answers")
    end
    rpcs[1]:close()
    rpcs[2]:close()
    p:close()
  end
end)

story.test("a near end that is killed during a call: nobody knows whether it has run", function(t)
  local p = over(nil, 0.2):eval "function wait(n) if n > 0 then os.execute('sleep ' .. n) end end"
  local rpc = p:fork():rpc "wait"
  for _ = 1, 20 do rpc(0) end
  local near = child_of(kit.getpid())
  local err
  rpc:call(30, function(e) err = e end)
  fork.step(0)
  kit.kill(near, kit.SIGKILL)
  t.within(10, function() return err end, "the call fails")
  t.eq(err.code, "CLONE_DIED")
  t.eq(err.started, "unknown")
end)

story.test("forks between large writes of the near end, and commands", function(t)
  local p = over():eval [[
    function nothing() end
    function echo(x) return x end
    function little(s) s:write "little" end
  ]]
  local large, rpc, answers, asked = ("0123456789"):rep(30000), p:fork():rpc "echo", 0, 0
  local function ask()
    asked = asked + 1
    rpc:call(large, function(err, text)
      assert(not err, err)
      assert(text == large)
      answers = answers + 1
      if asked < 40 then ask() end
    end)
  end
  ask()
  ask()
  for i = 1, 400 do
    if i % 7 == 0 then p:eval("last = " .. i) end
    local socket = t.got(p:fork():run(i % 3 == 0 and "little" or "nothing"))
    t.eq(socket:read "a", i % 3 == 0 and "little" or "")
    socket:close()
  end
  t.eq(t.ask(p:fork(), "return last"), 399)
  t.within(60, function() return answers == asked and asked >= 40 end, "all answers")
  rpc:close()
end)

story.test("the near end is killed while the program turns no loop: all over there ends", function(t)
  local p = over(nil, 0.2):eval "function nothing() end"
  for _ = 1, 3 do p:fork():run("nothing"):close() end
  local near = child_of(kit.getpid())
  local agent = child_of(near)
  kit.kill(near, kit.SIGKILL)
  soon(t, function() return not lives(agent) end, "the agent has ended")
  local _, err = p:fork():run "nothing"
  t.eq(err.code, "TEMPLATE_DIED")
end)

story.test("the command ends gently while the program turns no loop", function(t)
  local file = t:file("end", "")
  local p = over(("trap 'echo signal >>%s' TERM; %s; echo ended >>%s"):format(file, AGENT, file))
  p:eval "function nothing() end"
  for _ = 1, 3 do p:fork():run("nothing"):close() end
  p:close()
  for _ = 1, 3 do fork.step(0) end
  soon(t, function() return t.read(file) ~= "" end, "the command has ended")
  t.eq(t.read(file), "ended\n")
end)

-- The copy has the program's descriptors, and with them it held the input of every command: one that waits for
-- the end of its input, as `cat` does, outlived its link.
story.test("a copy of the program by fork(2) does not keep the command from the end of its input", function(t)
  local file = t:file("end", "")
  local p = over(("cat | %s; echo ended >>%s"):format(AGENT, file))
  p:eval "function nothing() end"
  for _ = 1, 3 do p:fork():run("nothing"):close() end
  local copy = kit.fork()
  if copy == 0 then
    kit.msleep(60000)
    kit.exit(0)
  end
  t:defer(function()
    kit.kill(copy, kit.SIGKILL)
    kit.waitpid(copy)
  end)
  p:close()
  t.within(10, function() return t.read(file) == "ended\n" end, "the command ends, although the copy lives")
end)

story.done()
