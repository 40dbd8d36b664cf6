-- Closing and collecting: what ends with an object and what does not, and whose finalisers
-- run. The rows AF-35, AF-36 and the sentences of the manual about close.
local story = require "story"
local fork = require "moonfork"

local function told(t, process)
  local status
  process:on_exit(function(s) status = s end)
  return function()
    t.collect()
    return status
  end
end

story.test("AF-36 close before run: the process exits with 0, and on_exit is told", function(t)
  for _, make in ipairs {"new", "new_exec"} do
    local p = fork[make]():eval "x = 1"
    local status = told(t, p)
    p:close()
    p:close()
    t.eq(t.within(5, status).code, 0, make)
  end
end)

story.test("AF-36 leaving a scope of <close> closes", function(t)
  local status
  do
    local p <close> = fork.new()
    status = told(t, p)
  end
  t.eq(t.within(5, status).code, 0)
end)

story.test("AF-36 collection closes what nothing refers to", function(t)
  local status
  do
    local p = fork.new_exec()
    status = told(t, p)
    p = nil -- luacheck: ignore
  end
  t.eq(t.within(5, status).code, 0)
end)

story.test("collection does not close what outstanding work needs", function(t)
  local entered, ended
  do
    local p = fork.new():eval "require'testkit'.msleep(100)"
    p:run("type", function(err) entered = err or true end)
    p:on_exit(function(s) ended = s end)
  end
  t.collect()
  t.collect()
  fork.loop()
  t.eq(entered, true)
  t.within(5, function() return ended end)
  t.eq(ended.code, 0)
end)

story.test("close executes what was queued before it", function(t)
  local path = t:file "effect"
  local p = fork.new():eval("io.open(..., 'w'):close()", path)
  p:close()
  t.within(5, function() return t.read(path) end)
end)

story.test("close of a template: running clones are not touched, their exits reported", function(t)
  local p = fork.new_exec():require "actor"
  local q = p:fork()
  local socket = t.got(q:run "actor:echo")
  local pid = p:pid()
  p:close()
  t.within(5, function() return not t.alive(pid) end, "it ends at once")
  socket:write "after\n"
  t.eq(socket:read "l", "after")
  socket:close()
  local status = t.status(q)
  t.eq(status.code, 0)
  t.eq(status.unknown, nil)
  t.ok(status.rusage.maxrss > 0)
end)

story.test("close after run forgets the object; clone and socket are not touched", function(t)
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:echo")
  local pid = p:pid()
  local status = told(t, p)
  p:close()
  socket:write "one\n"
  t.eq(socket:read "l", "one")
  t.ok(t.alive(pid))
  t.eq(status(), nil)
  socket:close()
  t.eq(t.within(5, status).code, 0, "told after the object was forgotten")
end)

story.test("on_exit may be set after the end, and is told once", function(t)
  local p = fork.new()
  t.got(p:run "type")
  t.status(p)
  local n, status = 0, nil
  p:on_exit(function(s) n, status = n + 1, s end)
  t.eq(n, 0, "later, not inside the call")
  t.within(5, function() return status end)
  t.eq(status.code, 0)
  for _ = 1, 5 do fork.step(0.001) end
  t.eq(n, 1)
end)

story.test("AF-35 inherited finalisers and atexit handlers do not run in clones", function(t)
  local path = t:file "marks"
  local p = fork.new_exec():eval([[
    local path = ...
    marker = setmetatable({}, {__gc = function()
      local f = io.open(path, "a")
      f:write "finaliser\n"
      f:close()
    end})
    require "testkit".atexit(path)
  ]], path)
  for _, code in ipairs {
    "return", "os.exit(0)", "os.exit(0, true)", "error 'end'",
    "require'moonfork.clone'.exit(0)", "require'moonfork.clone'.exit(0, true)",
    "marker = nil collectgarbage() collectgarbage()",
  } do
    local q = p:fork {stderr = "null"}:eval("function f() " .. code .. " end")
    t.got(q:run "f")
    t.status(q)
    t.eq(t.read(path), nil, code)
  end
  local q = p:fork()
  q:close()
  t.eq(t.status(p:fork():eval "os.exit(3)").code, 3)
  t.eq(t.read(path), nil)
  p:close()
end)

story.test("clone.exit finalises what was made in this clone, if asked", function(t)
  local path = t:file "marks"
  local p = fork.new():eval([[
    path = ...
    function mark(name)
      return setmetatable({}, {__gc = function()
        local f = io.open(path, "a")
        f:write(name, "\n")
        f:close()
      end})
    end
    inherited = mark "inherited"
  ]], path)
  local q = p:fork():eval [[
    function f(_, how)
      own = mark "own"
      local clone = require "moonfork.clone"
      if how == "finalise" then clone.exit(4, true) end
      clone.exit(5)
    end
  ]]
  local r = q:fork()
  t.got(q:send_arg "no":run "f")
  t.eq(t.status(q).code, 5)
  t.eq(t.read(path), nil)
  t.got(r:send_arg "finalise":run "f")
  t.eq(t.status(r).code, 4)
  t.eq(t.read(path), "own\n")
  p:close()
end)

story.test("a process that runs while clones of it live leaves a silent reaper", function(t)
  local p = fork.new():require "actor"
  local clone = p:fork()
  local socket = t.got(clone:run "actor:hello")
  socket:read "l"
  local own = t.got(p:run "actor:hello")
  local pid = math.tointeger(own:read "l")
  t.eq(p:pid(), pid, "the pid is that of the function")
  own:close()
  t.eq(t.status(p).code, 0)
  socket:close()
  local status = t.status(clone)
  t.eq({status.code, status.unknown}, {0, nil})
end)

story.test("killing and closing hundreds leaves nothing", {deadline = 40}, function(t)
  local ended = 0
  for i = 1, 300 do
    local p = fork.new():require "actor"
    p:on_exit(function() ended = ended + 1 end)
    if i % 3 == 0 then
      t.got(p:run "actor:hold")
      p:kill "KILL"
    elseif i % 3 == 1 then
      p:run("actor:hold", function() end)
    end
    p:close()
  end
  t.within(20, function()
    t.collect()
    return ended == 300
  end, ended .. " of 300 ended")
end)

story.test("long errors leave no memory behind", function(t)
  if story.is_sanitized then t.skip "the sanitizer keeps what is freed" end
  local function resident()
    return tonumber(t.read("/proc/self/statm"):match "%d+ (%d+)") * 4096
  end
  local function round()
    local p = fork.new {stderr = "null"}:eval "error(('x'):rep(50000), 0)"
    local _, err = p:run "type"
    t.eq(#err.message, 50000)
    local answered
    p:memory(function(e) answered = e end)
    p:close()
    t.within(5, function() return answered end)
    local rpc = fork.new():eval "function f() error(('y'):rep(50000), 0) end":rpc "f"
    _, err = rpc()
    t.eq(#err.message, 50000)
    rpc:close()
  end
  for _ = 1, 30 do round() end
  t.collect()
  local before = resident()
  for _ = 1, 200 do round() end
  t.collect()
  local grown = resident() - before -- 10 MB of each text
  t.ok(grown < 5e6, ("%d bytes more"):format(grown))
end)

story.done()
