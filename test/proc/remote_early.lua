-- The program writes FORKs to the command's input by itself (src/wire/link_early.h): the near end need
-- not run for that, both write to one pipe, and its end is noticed although the program has it, too.

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local AGENT = remote.AGENT

local function over(script, beat)
  return remote.over(script, { beat = beat })
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
