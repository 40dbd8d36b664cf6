-- The first clone that was asked of a dead template was told less than the second: its socket
-- had ended, but nobody had looked yet how the template had.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function first_and_later(t, make, prepare)
  local p <close> = make():eval "x = 1"
  if prepare then prepare(p) end
  t.within(5, function() return p:pid() end)
  kit.kill(p:pid(), kit.SIGKILL)
  local texts = {}
  for i = 1, 3 do
    local socket, err = p:fork():run("type")
    t.eq(socket, nil)
    t.ok(err.code == "TEMPLATE_DIED" or err.code == "TEMPLATE_START", err.code)
    t.eq(err.started, "no")
    t.match(err, "signal 9")
    t.eq(err.exit and err.exit.signal, 9)
    texts[i] = tostring(err)
  end
  t.eq(texts[2], texts[1])
  t.eq(texts[3], texts[1])
end

local function settled(t)
  return function(p) t.within(5, function() return p:fork():run("type") end) end
end

story.test("every clone of a dead template is told how it ended", function(t)
  first_and_later(t, fork.new_exec)
  first_and_later(t, fork.new_exec, settled(t))
  first_and_later(t, fork.new)
  first_and_later(t, fork.new, settled(t))
  first_and_later(t, function() return fork.new():fork() end)
end)

story.test("those asked for at once, too", function(t)
  local p <close> = fork.new_exec():eval "x = 1"
  settled(t)(p)
  kit.kill(p:pid(), kit.SIGKILL)
  local errors = {}
  for i = 1, 5 do p:fork():run("type", function(err) errors[i] = err end) end
  t.within(5, function() return #errors == 5 end)
  for i = 1, 5 do
    t.error(errors[i], "TEMPLATE_DIED", "signal 9")
    t.eq(errors[i].exit.signal, 9)
  end
end)

-- Code that forks by itself (testkit calls fork(2)) and comes back twice: two servers read
-- one socket then, and answered alternately.
story.test("a copy that user code forks does not serve", function(t)
  local template <close> = fork.new():eval [[
    kit = require "testkit"
    children = {}
    function split() children[#children + 1] = kit.fork() end
  ]]
  template:eval "split()"
  t:module("splitting", "split() return true")
  template:require("splitting")
  template:eval [[
    local clone, forked = require("moonfork.clone"), false
    clone.before_fork(function()
      if not forked then
        forked = true
        split()
      end
    end)
    function ended()
      for i, pid in ipairs(children) do children[i] = kit.waitpid(pid) end
    end
  ]]
  for i = 1, 20 do
    t.eq(t.ask(template:fork(), "return " .. i), i)
  end
  template:eval "ended()" -- waits for them, so they must have
  local n = t.ask(template:fork(), "return #children")
  t.eq(n, 3)
end)

story.test("nor does one in a call, or in init", function(t)
  local functions = [[
    local kit = require "testkit"
    function split(n)
      local pid = kit.fork()
      if pid == 0 then return n, "copy" end
      kit.waitpid(pid)
      return n
    end
    function fails(n)
      local pid = kit.fork()
      if pid == 0 then error "the copy's" end
      kit.waitpid(pid)
      return n
    end
    function init() split() end
  ]]
  for _, name in ipairs{"split", "fails"} do
    local rpc <close> = fork.new():eval(functions):rpc(name, {init = "init"})
    for i = 1, 20 do t.eq(table.pack(t.got(rpc(i))), {i, n = 1}) end
  end
end)

story.test("the error of a copy is not the function's", function(t)
  local p = fork.new{stderr = "null"}:eval [[
    local kit = require "testkit"
    function f()
      local pid = kit.fork()
      if pid == 0 then error "the copy's" end
      kit.waitpid(pid)
    end
  ]]
  t.got(p:run("f")):close()
  local status = t.status(p)
  t.eq(status.code, 0)
  t.eq(status.error, nil)
end)

story.done()
