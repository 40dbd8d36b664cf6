-- The common path of a process: fork, run, read, wait, close and on_exit are C methods of the
-- object, and cost a bounded number of calls and little garbage. What they do is what the methods
-- in Lua do, also where they hand over to these in the middle.
--
-- Once somebody has taken the reactor's descriptor, for a loop of his own, the methods in Lua do
-- all; the harness takes it when it watches whether all sleep, where a process still lives. So the
-- stories of the common path say busy=true, which keeps it from that, and every story is told a
-- second time with the descriptor taken, for what they do has to be the same.
local story = require "story"
local fork = require "moonfork"
local testkit = require "testkit"

local way -- " on the common path" or " in Lua"
local is_common

local function test(name, f)
  story.test(name .. way, { busy = is_common }, f)
end

local CALLS_MAX, GARBAGE_MAX = 12, 600 -- of one process
local N = 48

local function new_template()
  return fork.new_exec():eval [[
    function nothing() end
    function say(s) s:write "hello" end
    function seven() os.exit(7) end
    function rest(s) s:read "a" end
    function fail() error "it fails" end
  ]]
end

local function by_waiting(template)
  local p = template:fork()
  local s = p:run "nothing"
  s:read "a"
  s:close()
  p:wait()
end

local ended = 0
local function on_end() ended = ended + 1 end
local function on_run(_, s)
  s:read "a"
  s:close()
end
local function by_callbacks(template)
  local p, before = template:fork(), ended
  p:on_exit(on_end)
  p:run("nothing", on_run)
  while ended == before do fork.step(1) end
end

-- C functions that Lua calls in f, by a hook.
local function count_calls(f)
  local n = 0
  debug.sethook(function()
    if debug.getinfo(2, "S").what == "C" then n = n + 1 end
  end, "c")
  f()
  debug.sethook()
  return n - 1 -- sethook
end

local function count_garbage(f)
  collectgarbage()
  collectgarbage "stop"
  local before = collectgarbage "count"
  f()
  local n = (collectgarbage "count" - before) * 1024
  collectgarbage "restart"
  return n
end

local AT_A_TIME = 16
local function many_by_callbacks(template)
  local before = ended
  for _ = 1, AT_A_TIME do
    local p = template:fork()
    p:on_exit(on_end)
    p:run("nothing", on_run)
  end
  while ended < before + AT_A_TIME do fork.step(1) end
end

local WAYS = {
  { "by waiting calls", by_waiting, 1 },
  { "by callbacks", by_callbacks, 1 },
  { "by callbacks, 16 at a time,", many_by_callbacks, AT_A_TIME },
}

local function tell_all()
  for _, case in ipairs(WAYS) do
    local name, some, n = table.unpack(case)
    test("a process " .. name .. " costs few calls and little garbage", function(t)
      local template = new_template()
      local function many() for _ = 1, N / n do some(template) end end
      many()
      -- Turns of the loop come as they come: what the best of some rounds needs.
      local calls, garbage = math.huge, math.huge
      for _ = 1, 5 do
        calls = math.min(calls, count_calls(many) / N)
        garbage = math.min(garbage, count_garbage(many) / N)
      end
      if not is_common then
        -- Else this says nothing of what it measures.
        t.ok(calls > CALLS_MAX, calls .. " calls of C functions")
        t.ok(garbage > GARBAGE_MAX, garbage .. " bytes")
      else
        t.ok(calls <= CALLS_MAX, calls .. " calls of C functions")
        t.ok(garbage <= GARBAGE_MAX, garbage .. " bytes")
      end
      template:close()
    end)
  end

  test("the methods are C functions", function(t)
    local template = new_template()
    local p = template:fork()
    local s = t.got(p:run "rest")
    for _, f in ipairs { p.fork, p.run, p.wait, p.on_exit, p.close, s.read, s.close } do
      t.eq(debug.getinfo(f, "S").what, "C")
    end
    s:close()
    p:wait()
    template:close()
  end)

  test("an end is told to on_exit first, once, and again to each wait", function(t)
    local template = new_template()
    local p, told = template:fork(), {}
    t.eq(p:on_exit(function(status) told[#told + 1] = status.code end), p)
    t.got(p:run "seven"):close()
    t.eq(t.got(p:wait()).code, 7)
    t.eq(told, { 7 })
    t.eq(t.got(p:wait()).code, 7)
    p:on_exit(function(status) told[#told + 1] = status.code end)
    fork.loop()
    t.eq(told, { 7, 7 })
    p:close()
    template:close()
  end)

  test("failures of run are told, and mark the process", function(t)
    local template = new_template()
    local p = template:fork()
    local s, err = p:run "nowhere"
    t.eq({ s, err.code, err.started }, { nil, "REMOTE", "no" })
    local told
    p = template:fork()
    t.eq(p:run("nowhere", function(e, socket) told = { e.code, socket } end), p)
    while not told do fork.step(1) end
    t.eq(told, { "REMOTE" })
    s, err = p:wait()
    t.eq({ s, err and err.code }, { nil, "REMOTE" })
    for _, name in ipairs { "", "with\0zero" } do
      if name == "" then
        s, err = template:fork():run(name)
        t.eq({ s, err.code }, { nil, "EINVAL" })
      else
        t.raises("zero byte", p.run, template:fork(), name)
      end
    end
    p = template:fork()
    t.got(p:run "fail"):close()
    t.match(t.got(p:wait()).error, "it fails")
    template:close()
  end)

  test("misuse raises as ever", function(t)
    local template = new_template()
    local p = template:fork()
    t.got(p:run "nothing"):close()
    t.raises("was given run", p.run, p, "nothing")
    t.raises("was given run", p.fork, p)
    t.raises("was given run", p.eval, p, "")
    p:close()
    p:close()
    t.raises("the process is closed", p.wait, p)
    t.raises("the process is closed", p.on_exit, p, print)
    t.raises("moonfork.process expected, got table", p.run, {}, "nothing")
    t.raises("function expected", p.on_exit, template:fork(), nil)
    template:close()
  end)

  test("others are told while a call waits", function(t)
    local template = new_template()
    local order = {}
    local slow = template:fork()
    local gate = t.got(slow:run "rest")
    for i = 1, 3 do
      local p = template:fork()
      p:on_exit(function() order[#order + 1] = i end)
      p:run("nothing", function(_, s)
        s:close()
        if i == 3 then gate:close() end -- only this lets the wait end
      end)
    end
    t.eq(t.got(slow:wait()).code, 0)
    while #order < 3 do fork.step(1) end
    table.sort(order)
    t.eq(order, { 1, 2, 3 })
    local s = t.got(template:fork():run "say")
    local sum = 0
    for i = 1, 20 do
      template:fork():run("nothing", function(_, socket)
        sum = sum + i
        socket:close()
      end)
    end
    t.eq(s:read "a", "hello")
    s:close()
    while sum < 210 do fork.step(1) end
    template:close()
  end)

  test("a call waits inside of a callback", function(t)
    local template = new_template()
    local code
    template:fork():run("nothing", function(_, s)
      s:close()
      local p = template:fork()
      p:run "seven":close()
      code = p:wait().code
    end)
    while not code do fork.step(1) end
    t.eq(code, 7)
    template:close()
  end)

  test("a waiter holds coroutines back, others block", function(t)
    local template = new_template()
    local waited, done = 0, 0
    fork.set_waiter(function() waited = waited + 1 coroutine.yield() end)
    local list = {}
    for i = 1, 3 do
      list[i] = coroutine.create(function()
        local p = template:fork()
        local s = p:run "say"
        assert(s:read "a" == "hello")
        s:close()
        assert(p:wait().code == 0)
        done = done + 1
      end)
    end
    while done < 3 do
      for _, co in ipairs(list) do
        if coroutine.status(co) == "suspended" then t.ok(coroutine.resume(co)) end
      end
      testkit.msleep(1)
    end
    fork.set_waiter(nil)
    t.ok(waited > 0)
    template:close()
  end)

  test("what is collected while it runs runs on, and on_exit is called", function(t)
    local template = new_template()
    local code, gate
    do
      local p = template:fork()
      p:on_exit(function(status) code = status.code end)
      gate = t.got(p:run "rest")
    end
    for _ = 1, 3 do collectgarbage() end
    fork.step(0)
    t.eq(code, nil)
    gate:close()
    while not code do fork.step(1) end
    t.eq(code, 0)
    local s
    do s = t.got(template:fork():run "rest") end
    for _ = 1, 3 do collectgarbage() end
    s:close()
    do -- serving, never asked to run: closed as the garbage that it is
      local p = template:fork()
      t.eq(p:on_exit(function(status) code = status.code + 1 end), p)
    end
    for _ = 1, 3 do collectgarbage() end
    while code ~= 1 do fork.step(1) end
    template:close()
  end)

  test("callbacks inside each other are counted, however they end", function(t)
    local core, depths = require "moonfork.core", {}
    local function look() depths[#depths + 1] = core.callback_depth() end
    fork.on_error(look)
    fork.timer(0, function()
      look()
      fork.timer(0, look)
      fork.sleep(0.01)
      coroutine.wrap(look)()
      error "for on_error"
    end)
    fork.loop()
    look()
    t.eq(depths, { 1, 2, 1, 0, 0 })
    depths = {}
    local co = coroutine.create(function()
      fork.timer(0, function()
        look()
        coroutine.yield()
        fork.timer(0, look)
        fork.sleep(0.01)
      end)
      fork.loop()
      look()
    end)
    t.ok(coroutine.resume(co))
    look()
    coroutine.wrap(look)()
    fork.timer(0, look) -- while the other is suspended in the middle of its callback
    fork.loop()
    t.ok(coroutine.resume(co))
    look()
    t.eq(coroutine.status(co), "dead")
    t.eq(depths, { 1, 0, 0, 1, 2, 0, 0 })
    fork.on_error(nil)
  end)

  test("an object goes from one path to the other at any time", function(t)
    local template = new_template()
    local p = template:fork()
    t.match(tostring(p), "moonfork.process")
    t.eq(p:eval "x = 1", p)
    local c = p:fork() -- of a process that was on the common path
    local s = t.got(c:run "say")
    t.eq(s:read "a", "hello")
    t.ok(c:pid() > 0)
    t.eq(t.got(c:wait()).code, 0)
    s:close()
    c:close()
    local q = template:fork()
    local n = 0
    q:on_exit(function() n = n + 1 end)
    q:on_exit(function() n = n + 10 end)
    t.got(q:run "nothing"):close()
    t.eq(t.got(q:wait(10)).code, 0)
    t.eq(n, 11)
    local r = template:fork()
    local gate = t.got(r:run "rest")
    local status, err = r:wait(0.01)
    t.eq({ status, err.code }, { nil, "TIMEOUT" })
    t.eq(r:kill "KILL", true)
    t.eq(t.got(r:wait()).signal, 9)
    gate:close()
    p:close()
    template:close()
  end)
end

way, is_common = " on the common path", true
tell_all()
fork.reactor:pollfd()
way, is_common = " in Lua", false
tell_all()
story.done()
