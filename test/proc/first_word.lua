-- That a function runs is told with the first bytes that it writes to its socket, if those come before
-- it calls another function of C, and within 300 instructions: a message less, which would wake the
-- parent, and have it take the processor from the clone. Nobody may notice: it is told before anybody
-- can see anything else of the function, and its bytes are its own.
local story = require "story"
local fork = require "moonfork"
local testkit = require "testkit"

local FUNCTIONS = [[
  function empty(s) s:write() s:write "" s:write("", "hello", "") end
  function twice(s) s:write "hel" s:write "lo" end
  function pieces(s) s:write("h", "e", "l", "l", "o", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10) end
  function huge(s) s:write(text) end
  text = ("x"):rep(1048576)
  function computes() while true do end end
  function late(s) local n = 0 for i = 1, 100000 do n = n + i end s:write(n) end
  function nested(s) local function f(n) if n == 0 then s:write "hello" else f(n - 1) end end f(20) end
  function in_coroutine(s) coroutine.wrap(function() s:write "hello" end)() end
  function elsewhere(s, gate) gate:write "here" gate:close() s:read "a" end
  function fails() local x = nil + 1 end
  function writes_and_fails(s) s:write "hello" local x = nil + 1 end
  function leaves() os.exit(7) end
  function prints() print "hello" end
  function hooks(s) s:write(debug.gethook() == hook and "kept" or "lost") end
]]

local function result(t, p, name)
  local socket = t.got(p:run(name))
  local text = socket:read "a"
  socket:close()
  local status = t.got(p:wait())
  return text, status.code or status.signal, status
end

story.test("what a function writes first is all that its socket brings", function(t)
  local template = fork.new_exec():eval(FUNCTIONS)
  for name, wanted in pairs { empty = "hello", twice = "hello", nested = "hello", late = "5000050000",
    pieces = "hello12345678910", in_coroutine = "hello", writes_and_fails = "hello",
    huge = ("x"):rep(1048576), fails = "", leaves = "" } do
    local text, code = result(t, template:fork { stderr = "null" }, name)
    t.ok(text == wanted, name .. ": " .. #text .. " bytes")
    t.eq(code, name:match "fails" and 1 or name == "leaves" and 7 or 0, name)
  end
  t.eq(result(t, template:fork { stdout = "socket" }, "prints"), "hello\n")
  local _, _, status = result(t, template:fork { stderr = "null" }, "fails")
  t.match(status.error, "arithmetic on a nil value")
  template:close()
end)

story.test("a function that writes nothing is told of all the same", function(t)
  local template = fork.new_exec():eval(FUNCTIONS)
  local p = template:fork()
  local socket = t.got(p:run "computes")
  t.ok(p:kill "KILL")
  t.eq(socket:read "a", "")
  t.eq(t.got(p:wait()).signal, 9)
  template:close()
end)

story.test("it is told before anything else of the function can be seen", function(t)
  local template = fork.new_exec():eval(FUNCTIONS)
  for _ = 1, 20 do
    local near, far = fork.socket.pair()
    local p, told = template:fork():send_fd(far), nil
    far:close()
    p:run("elsewhere", function(err, socket) told = { err, socket } end)
    t.outside(20, function() return testkit.poll(near:fileno(), "r") == 1 end)
    for _ = 1, 3 do fork.step(0) end
    t.ok(told and not told[1], "run is told when the other socket has bytes")
    t.eq(near:read "a", "here")
    told[2]:close()
    near:close()
    t.eq(t.got(p:wait()).code, 0)
  end
  template:close()
end)

-- Finalisers run without hooks, within the first instructions, too.
story.test("a function whose socket is collected at once goes on", function(t)
  local template = fork.new_exec():eval [[
    local big = ("x"):rep(1 << 20)
    function work()
      for i = 1, 20 do local garbage = big .. i end
      for i = 1, 1000 do local nothing = i end
      os.exit(7)
    end
  ]]
  for _ = 1, 3 do
    local p = template:fork()
    t.eq(t.got(p:run "work"):read "a", "")
    t.eq(t.got(p:wait()).code, 7)
  end
  template:close()
end)

story.test("it is told before a finaliser can be seen", function(t)
  local function check(gc, owner, name)
    local template = fork.new_exec { gc = gc }:eval [[
      local big = ("x"):rep(1 << 20)
      function hold()
        held = setmetatable({}, { __gc = function() os.exit(7) end })
      end
      function drops()
        held = nil
        for i = 1, 20 do local garbage = big .. i end
      end
      function grows() -- until versions of Lua that do so collect old objects, too
        held = nil
        local all = {}
        for i = 1, 70 do all[i] = big .. i end
      end
    ]]
    if owner == "template" then template:eval "hold()" end
    local p = template:fork()
    if owner == "clone" then p:eval "hold()" end
    local socket, err = p:run(name)
    t.ok(socket, ("%s, %s: %s"):format(gc, owner, err))
    t.eq(socket:read "a", "")
    local code = t.got(p:wait()).code
    if name == "drops" then t.eq(code, 7, gc .. ", " .. owner) end
    template:close()
  end
  check("generational", "clone", "drops")
  check("generational", "template", "grows")
  check("incremental", "template", "drops")
end)

story.test("a hook of the template's is left alone", function(t)
  local template = fork.new_exec():eval(FUNCTIONS .. [[
    function hook() end
    debug.sethook(hook, "", 1000000)
  ]])
  t.eq(result(t, template:fork(), "hooks"), "kept")
  template:close()
end)

story.done()
