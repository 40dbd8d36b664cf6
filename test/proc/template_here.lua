-- fork.template(): the interpreter that is running is forked as it stands. Each story is a
-- program of its own, because a copy of this file would be one more harness. AT-01 to AT-04.
local story = require "story"
story.census = false -- the programs are other processes, and look after themselves

story.test("AT-01 clones of the copy have what the program made before it", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local upvalue = "an upvalue"
    function made_before(s, a) s:write(upvalue, " and ", a) end
    local p = fork.template()
    local clone = p:fork():send_arg "an argument"
    io.write(assert(clone:run "made_before"):read "a")
    assert(clone:wait(5).code == 0)
    assert(p:pid() == nil or p:pid() ~= require "testkit".getpid())
  ]]
  t.eq({out, code, err}, {"an upvalue and an argument", 0, ""})
end)

story.test("AT-01 it is a process like others, and new does not use it", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    local p = fork.template {env = {STORY_HERE = "yes"}, cwd = "/", name = "copy"}
    p:require "actor":eval "x = os.getenv 'STORY_HERE'"
    function f() end
    local q = p:fork():eval "function g(s) s:write(x, kit and '' or '', require'testkit'.getcwd()) end"
    assert(assert(q:run "g"):read "a" == "yes/")
    local other = fork.new():eval "function g(s) s:write(tostring(x)) end"
    assert(assert(other:run "g"):read "a" == "nil")
    local s = assert(p:run "actor:hello")
    assert(math.tointeger(s:read "l") == p:pid())
    assert(kit.processes()[p:pid()].ppid == kit.getpid())
    s:close()
    assert(p:wait(5).code == 0)
    io.write "fine"
  ]]
  t.eq({out, code, err}, {"fine", 0, ""})
end)

story.test("AT-02 what the program makes after the call does not exist there", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    function before(s) s:write "before" end
    local p = fork.template()
    function after(s) s:write "after" end
    io.write(assert(p:fork():run "before"):read "a")
    local s, e = p:fork():run "after"
    assert(s == nil and e.code == "REMOTE" and e.started == "no", tostring(e))
    local q = fork.template()
    io.write(" ", assert(q:fork():run "after"):read "a")
  ]]
  t.eq({out, code, err}, {"before after", 0, ""})
end)

story.test("AT-03 finalisers, atexit handlers and buffered output are the program's alone",
  function(t)
    local path = t:file "marks"
    local out, code, err = t:lua(([[
      local path = %q
      mark = setmetatable({}, {__gc = function()
        local f = io.open(path, "a")
        f:write "finaliser\n"
        f:close()
      end})
      local kit, fork = require "testkit", require "moonfork"
      kit.atexit(path)
      kit.printf "buffered once;"
      local p = fork.template()
      for _ = 1, 3 do
        local clone = p:fork()
        assert(clone:run "type")
        assert(clone:wait(5).code == 0)
      end
      p:close()
      assert(p and fork.loop == fork.loop)
      os.exit(0, true)
    ]]):format(path))
    t.eq({out, code, err}, {"buffered once;", 0, ""})
    t.eq(t.read(path), "finaliser\natexit\n")
  end)

story.test("AT-04 the copy holds no control socket of other processes", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    local a = fork.new_exec()
    local b = fork.new()
    fork.loop()
    local c = fork.template()
    local clone = c:fork():require "actor"
    local s = assert(clone:run "actor:hello")
    s:read "l"
    local ended = 0
    a:on_exit(function(status) assert(status.code == 0) ended = ended + 1 end)
    b:on_exit(function(status) assert(status.code == 0) ended = ended + 1 end)
    a:close()
    b:close()
    local last = kit.now() + 2
    while ended < 2 and kit.now() < last do fork.step(0.02) end
    assert(ended == 2, ended .. " ended")
    s:close()
    assert(clone:wait(5).code == 0)
    io.write "ended"
  ]]
  t.eq({out, code, err}, {"ended", 0, ""})
end)

story.test("old process objects are inert in the copy", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    old = fork.new():require "actor"
    running = fork.new():require "actor"
    socket = assert(running:run "actor:echo")
    function try(s)
      local a = pcall(old.eval, old, "x = 1")
      local b = pcall(running.kill, running)
      local own = require "moonfork".new():eval "function f(s) s:write 'its own' end"
      s:write(tostring(a), " ", tostring(b), " ", assert(own:run "f"):read "a")
    end
    local p = fork.template()
    io.write(assert(p:fork():run "try"):read "a")
    socket:write "still\n"
    assert(socket:read "l" == "still")
    assert(assert(old:run "type"))
  ]]
  t.eq({out, code, err}, {"false false its own", 0, ""})
end)

story.test("the call may stand anywhere: in functions, coroutines, pcall and callbacks", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    local main = kit.getpid()
    function f(s) s:write "f;" end
    local function check(p)
      assert(kit.getpid() == main)
      io.write(assert(p:fork():run "f"):read "a")
      p:close()
    end
    local function deep(n) if n > 0 then return (deep(n - 1)) end return fork.template() end
    check(deep(50))
    check(select(2, pcall(fork.template)))
    check(coroutine.wrap(function() return fork.template() end)())
    check(coroutine.wrap(function() return select(2, pcall(fork.template)) end)())
    local done
    fork.new():run("type", function() check(fork.template()) done = true end)
    while not done do fork.step(0.1) end
    table.sort({2, 1}, function(a, b) if not once then once = true check(fork.template()) end return a < b end)
    io.write(tostring(kit.getpid() == main))
  ]]
  t.eq({out, code, err}, {("f;"):rep(6) .. "true", 0, ""})
end)

story.test("no statement after the call runs in another process", function(t)
  local path = t:file "who"
  local out, code, err = t:lua(([[
    local fork, kit = require "moonfork", require "testkit"
    local path = %q
    local p = fork.template()
    local f = io.open(path, "a")
    f:write(kit.getpid(), "\n")
    f:close()
    assert(p:fork():run "type")
    p:close()
    fork.loop()
    io.write(kit.getpid(), "\n")
  ]]):format(path))
  t.eq({code, err}, {0, ""})
  t.eq(t.read(path), out)
end)

story.test("it refuses a program with threads", function(t)
  local out, code, err = t:lua [[
    local fork, kit = require "moonfork", require "testkit"
    kit.threads(2)
    local s, e = nil, nil
    local ok, raised = pcall(function() s, e = fork.template():fork():run "type" end)
    e = not ok and raised or e
    assert(not s, "it did not refuse")
    assert(tostring(e):find "thread", tostring(e))
    kit.threads_stop()
    assert(assert(fork.template():fork():run "type"))
    io.write "refused"
  ]]
  t.eq({out, code, err}, {"refused", 0, ""})
end)

story.test("a template of a template's function: templates here work in clones too", function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local p = fork.new():eval [=[
      function outer(s)
        local fork = require "moonfork"
        local mine = "made in the clone"
        function inner(s2) s2:write(mine) end
        local q = fork.template()
        s:write(assert(q:fork():run "inner"):read "a")
      end
    ]=]
    io.write(assert(p:run "outer"):read "a")
    assert(p:wait(5).code == 0)
  ]]
  t.eq({out, code, err}, {"made in the clone", 0, ""})
end)

story.done()
