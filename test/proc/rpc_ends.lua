-- What an rpc promises when something ends or fails: order, errors, deaths, timeouts,
-- cancelled calls, both ways of serving. Real processes; names begin with the row of
-- AnyEvent::Fork::RPC (doc/compatibility.md) that a story stands for.
local story = require "story"
local fork = require "moonfork"
local services = require "services"
local kit = story.kit

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  local rpc = require "moonfork.rpc"
  local uv
  function echo(...) return ... end
  function fails(what) if what == "table" then error {} end error(what, 0) end
  function ends(how, ...)
    if how == "exit" then os.exit(7) end
    if how == "kill" then clone.kill(clone.pid(), 9) end
    return ...
  end
  function last_words() rpc.event "bye" assert(rpc.flush()) os.exit(3) end
  function spin() while true do end end
  function nap(done, s, ...)
    uv = uv or require "luv"
    local timer, args = uv.new_timer(), table.pack(...)
    timer:start(math.floor(s * 1000), 0, function()
      timer:close() done(table.unpack(args, 1, args.n)) end)
  end
  local met = {}
  function meet(done, n, ...)
    met[#met + 1] = {done, ...}
    if #met == n then for _, call in ipairs(met) do call[1](table.unpack(call, 2)) end end
  end
  function snooze(s) os.execute("sleep " .. s) return s end
]]

local function server(name, opts)
  return fork.new():eval(FUNCTIONS):rpc(name, opts)
end

local finish = services.finish_rpc
local start = services.collect

-- A read ends where descriptors came, however much follows; of one that has ended, nothing tells
-- later that there is more.
story.test("what was sent with handles before an exit arrives, the rest too", function(t)
  local events, died = {}, nil
  local rpc = fork.new():eval(FUNCTIONS .. [[
    function gives(n)
      local socket = require "moonfork".socket
      for i = 1, n do
        local a, b = socket.pair()
        rpc.event(i, a)
        rpc.event(-i)
        a:close() b:close()
      end
      assert(rpc.flush())
      os.exit(3)
    end
  ]]):rpc("gives", {handles = true, on_error = function(err) died = err end,
    on_event = function(i, handle)
      events[#events + 1] = i
      if handle then handle:close() end
    end})
  local p = rpc:process()
  local failed
  rpc(6, function(err) failed = err end)
  t.within(10, function() return p:pid() end)
  -- All is written, and it has ended, before anything of it is read.
  local state = ("/proc/%d/stat"):format(p:pid())
  local deadline = kit.now() + 10
  repeat
    local file <close> = io.open(state)
    local text = file and file:read "a"
    local ended = not text or text:find "%) Z"
    if not ended then kit.msleep(2) end
  until ended or kit.now() > deadline
  t.within(10, function() return died end)
  t.error(failed, "CLONE_DIED")
  t.eq(#events, 12)
  for i = 1, 6 do
    t.eq(events[2 * i - 1], i)
    t.eq(events[2 * i], -i)
  end
  rpc:close()
  p:close()
end)

story.test("RP-03 synchronous calls run one after the other", function(t)
  local rpc = server "snooze"
  rpc(0)
  local t0 = kit.now()
  local answers = start(rpc, 3, 0.1)
  t.within(10, function() return answers.n >= 1 end)
  t.ok(answers.n < 3, "the first answer does not wait for the others")
  t.within(10, function() return answers.n == 3 end)
  t.ok(kit.now() - t0 >= 0.3)
  finish(t, rpc)
end)

story.test("RP-03 asynchronous calls run beside each other", {needs = "luv"}, function(t)
  local rpc = server("meet", {async = true}) -- the third call answers all
  local answers = start(rpc, 3, 3, "x")
  t.within(10, function() return answers.n == 3 end)
  t.eq(answers[3], {nil, "x", n = 2})
  finish(t, rpc)
end)

story.test("RP-04 asynchronous calls complete in any order", {needs = "luv"}, function(t)
  local rpc, order = server("nap", {async = true}), {}
  for i, s in ipairs {0.15, 0.1, 0.05, 0} do
    rpc(s, function(err) order[#order + 1] = err or i end)
  end
  fork.loop()
  t.eq(order, {4, 3, 2, 1})
  finish(t, rpc)
end)

story.test("RP-04 events and results come in the order in which they were made", function(t)
  local seen, expected = {}, {}
  local rpc = fork.new():eval [[
    function f(i) require "moonfork.rpc".event("before", i) return i end
  ]]:rpc("f", {on_event = function(what, i) seen[#seen + 1] = what .. i end})
  for i = 1, 200 do
    rpc(i, function(_, value) seen[#seen + 1] = "result" .. value end)
    expected[#expected + 1], expected[#expected + 2] = "before" .. i, "result" .. i
  end
  fork.loop()
  t.eq(seen, expected)
  finish(t, rpc)
end)

story.test("RP-08 the death of an idle process is an error with its status", function(t)
  local told, closed = {}, 0
  local rpc = server("echo", {on_error = function(err) told[#told + 1] = err end,
    on_close = function() closed = closed + 1 end})
  t.eq(rpc(1), 1)
  local p = rpc:process()
  t.ok(p:kill "KILL")
  t.within(5, function() return told[1] end)
  t.error(told[1], "CLONE_DIED")
  t.eq(told[1].exit.signal, 9)
  local _, err = rpc(1)
  t.error(err, "CLONE_DIED")
  t.eq(err.started, "no")
  rpc:close()
  t.status(p)
  t.eq(#told, 1)
  t.eq(closed, 0)
  p:close()
end)

story.test("RP-09 every pending and later call gets an error, once", function(t)
  local rpc = server("ends", {on_error = function() end})
  t.eq(rpc("", 1), 1)
  local answers = start(rpc, 1, "kill")
  local rest = start(rpc, 500, "", 1)
  t.within(5, function() return answers.n + rest.n == 501 end)
  t.error(answers[1][1], "CLONE_DIED")
  t.eq(answers[1][1].started, "unknown")
  for i = 1, 500 do t.error(rest[i][1], "CLONE_DIED") end
  local _, err = rpc("", 1)
  t.error(err, "CLONE_DIED")
  finish(t, rpc)
end)

story.test("RP-09 strict: all calls but the first are known as not started", function(t)
  local path = t:file("ran", "")
  local rpc = fork.new():eval [[
    function f(path, i)
      local file = io.open(path, "a") file:write(i, "\n") file:close()
      if i == 5 then require "moonfork.clone".kill(require "moonfork.clone".pid(), 9) end
      return i
    end
  ]]:rpc("f", {strict = true, on_error = function() end})
  local answers = {}
  for i = 1, 20 do rpc(path, i, function(err, value) answers[i] = err or value end) end
  t.within(5, function() return #answers == 20 end)
  for i = 1, 4 do t.eq(answers[i], i) end
  t.eq(answers[5].started, "unknown")
  for i = 6, 20 do t.eq(answers[i].started, "no") end
  t.eq(t.read(path), "1\n2\n3\n4\n5\n")
  finish(t, rpc)
end)

story.test("RP-09 a process that exits in a call: the status is in the error", function(t)
  local rpc = server("ends", {on_error = function() end})
  local _, err = rpc "exit"
  t.error(err, "CLONE_DIED")
  t.eq(err.exit.code, 7)
  t.eq(err.started, "unknown")
  finish(t, rpc)
end)

story.test("RP-10 without on_error the trouble goes to on_event", function(t)
  local seen = {}
  local rpc = server("echo", {on_event = function(...) seen[#seen + 1] = {...} end})
  t.eq(rpc(1), 1)
  rpc:process():kill "KILL"
  t.within(5, function() return seen[1] end)
  t.eq(seen[1][1], "error")
  t.match(seen[1][2], "CLONE_DIED")
  finish(t, rpc)
end)

story.test("RP-10 a death that nobody was told of goes to fork.on_error", function(t)
  local seen
  local rpc = server "echo"
  local p = rpc:process()
  t.eq(rpc(1), 1)
  fork.on_error(function(err) seen = err end)
  p:kill "KILL"
  t.status(p)
  fork.step(0.05)
  rpc:close()
  t.within(5, function() return seen end)
  t.error(seen, "CLONE_DIED")
  p:close()
end)

story.test("RP-11 a raising function is an error result, and the process lives on", function(t)
  local rpc = server "fails"
  local p = rpc:process()
  for _ = 1, 3 do
    local value, err = rpc "on purpose"
    t.eq(value, nil)
    t.error(err, "REMOTE", "on purpose")
    t.match(err.traceback, "in function 'fails'")
    t.eq(err.started, "unknown")
    _, err = rpc "table"
    t.error(err, "REMOTE")
  end
  t.ok(t.alive(p:pid()))
  finish(t, rpc)
end)

story.test("RP-12 the same asynchronously; a done that is lost is answered", {needs = "luv"},
  function(t)
    local rpc = fork.new():eval [[
      function f(done, what)
        if what == "raise" then error "on purpose" end
        if what == "after" then done "first" error "ignored" end
        if what == "lose" then return end
        if what == "collect" then collectgarbage() collectgarbage() end
        if what == "twice" then done(1) done(2) return end
        done(what)
      end
    ]]:rpc("f", {async = true})
    local _, err = rpc "raise"
    t.error(err, "REMOTE", "on purpose")
    t.match(err.traceback, "traceback")
    t.eq(rpc "twice", 1)
    t.eq(rpc "x", "x")
    rpc("lose", function(e) err = e end)
    t.within(5, function()
      rpc "collect"
      return err.message:find "dropped done"
    end)
    finish(t, rpc)
  end)

story.test("RP-12 when the parent goes the worker leaves, whatever is outstanding", {needs = "luv"},
  function(t)
    local out, code = t:lua(([[
      local fork = require "moonfork"
      local rpc = fork.new({leash = "keep"}):eval(%q):rpc("nap", {async = true})
      assert(rpc(0, 1) == 1)
      for _ = 1, 5 do rpc(60, function() end) end
      print(rpc:process():pid())
      fork.step(0.1)
      os.exit(0)
    ]]):format(FUNCTIONS))
    t.eq(code, 0)
    local pid = tonumber(out:match "%d+")
    t.outside(3, function() return not t.alive(pid) end)
  end)

story.test("RP-14 what was sent before an exit arrives", function(t)
  local seen = {}
  local rpc = server("last_words", {on_event = function(what) seen[#seen + 1] = what end,
    on_error = function(err) seen[#seen + 1] = err.code end})
  local _, err = rpc()
  t.error(err, "CLONE_DIED")
  t.eq(err.exit.code, 3)
  t.within(5, function() return #seen == 2 end)
  t.eq(seen, {"bye", "CLONE_DIED"})
  finish(t, rpc)
end)

story.test("RP-14 answers of calls before an exit arrive, too", function(t)
  local rpc = server("ends", {on_error = function() end})
  local answers = start(rpc, 300, "", "x")
  local last = start(rpc, 1, "exit")
  t.within(5, function() return last.n == 1 end)
  for i = 1, 300 do t.eq(answers[i], {nil, "x", n = 2}) end
  t.error(last[1][1], "CLONE_DIED")
  finish(t, rpc)
end)

story.test("RP-16 an idle asynchronous worker leaves at the end, handles of its own or not",
  {needs = "luv"}, function(t)
    local rpc = fork.new():eval [[
      local timer
      function f(done) local uv = require "luv" timer = uv.new_timer()
        timer:start(10, 10, function() end) done "ready" end
    ]]:rpc("f", {async = true})
    t.eq(rpc(), "ready")
    finish(t, rpc)
  end)

story.test("RP-16 the async option names what is missing", function(t)
  local rpc = fork.new():eval([[
    package.preload.luv = function() error "no luv here" end
    function f() end
  ]]):rpc("f", {async = true, on_error = function() end})
  local _, err = rpc()
  t.error(err, "REMOTE", "no luv here")
  t.eq(err.started, "no")
  finish(t, rpc)
end)

story.test("RP-20 limits: calls beyond them are refused, and on_drain tells", function(t)
  local drained = 0
  local rpc = server("echo", {on_drain = function() drained = drained + 1 end})
  t.eq(rpc(1), 1)
  rpc:process():kill "STOP"
  local refused, answered, n = 0, 0, 0
  local big = ("x"):rep(1 << 20)
  repeat
    n = n + 1
    rpc(big, function(err, value)
      if err then
        t.error(err, "LIMIT")
        t.eq(err.started, "no")
        refused = refused + 1
      else
        t.eq(#value, #big)
        answered = answered + 1
      end
    end)
    if n % 10 == 0 then fork.step(0) end
    t.ok(n < 1000, "there is no limit")
  until refused > 0
  rpc:process():kill "CONT"
  t.within(15, function() return refused + answered == n end)
  t.ok(answered > 10)
  t.eq(drained, 1)
  t.eq(rpc(2), 2)
  finish(t, rpc)
end)

story.test("RP-20 both sides saturated don't deadlock", function(t)
  local rpc = server "echo"
  local big, n = ("x"):rep(300000), 0
  for _ = 1, 100 do
    rpc(big, function(err, value) t.ok(not err and #value == #big) n = n + 1 end)
  end
  t.within(15, function() return n == 100 end)
  finish(t, rpc)
end)

-- An rpc or a pool of a chain that had failed already was told of twice, to its own on_error and
-- to fork.on_error, when it was closed in the same turn.
story.test("a failure is told once, whenever its rpc or pool is closed", function(t)
  for _, make in ipairs {"rpc", "pool"} do
    for _, own in ipairs {"on_error", "on_event", "neither"} do
      for _, failed_before in ipairs {true, false} do
        local told = {}
        local function tell(a, b) told[#told + 1] = tostring(a) .. tostring(b) end
        fork.on_error(tell)
        local p = fork.new():eval "error 'boom'"
        if failed_before then t.error(select(2, p:fork():run "type"), "REMOTE", "boom") end
        local service = p[make](p, "f", {[own ~= "neither" and own or "on_error"] = own ~= "neither" and tell or nil})
        service:close()
        local over = false
        fork.timer(0.05, function() over = true end)
        t.within(5, function() return over and #told > 0 end)
        fork.loop()
        t.eq(#told, 1, make .. ", " .. own .. ": " .. table.concat(told, " | "))
        t.match(told[1], "boom")
      end
    end
  end
  fork.on_error(nil)
end)

story.test("RP-22 a process that can't start tells the calls and on_error", function(t)
  local told
  local rpc = fork.new_exec {program = "/no/such/program"}:rpc("f", {
    on_error = function(err) told = err end})
  local _, err = rpc(1)
  t.error(err, "TEMPLATE_START")
  t.eq(err.started, "no")
  t.within(5, function() return told end)
  rpc:close()
  rpc = fork.new():rpc("no.such.function", {on_error = function() end})
  _, err = rpc(1)
  t.error(err, "REMOTE", "no.such.function")
  t.eq(err.started, "no")
  finish(t, rpc)
end)

story.test("timeouts and cancelled calls are told once, late answers never to others",
  function(t)
    local rpc = server("snooze", {timeout = 0.1})
    local _, err = rpc(0.3)
    t.error(err, "TIMEOUT")
    t.eq(rpc:with {timeout = 5} (0), 0)
    local outcomes = {}
    local call = rpc:with {timeout = 5} (0.2, function(e, v) outcomes[1] = e and e.code or v end)
    local waiting = rpc:with {timeout = 5} (0.2, function(e, v) outcomes[2] = e and e.code or v end)
    t.eq(call:cancel(), true)
    t.eq(waiting:cancel(), true)
    t.eq(call:cancel(), false)
    t.eq(outcomes, {})
    for i = 1, 20 do t.eq(rpc:with {timeout = 5} (i / 1000), i / 1000) end
    t.eq(outcomes, {"CANCELLED", "CANCELLED"})
    finish(t, rpc)
  end)

story.test("a stopped clone holds up nobody else", function(t)
  local a, b = server("echo", {timeout = 1}), server "echo"
  t.eq(a(1), 1)
  t.eq(b(1), 1)
  a:process():kill "STOP"
  local answers = start(a, 1000, "x")
  for i = 1, 100 do t.eq(b(i), i) end
  t.eq(answers.n, 0, "nobody has waited for a's time to run out")
  t.within(10, function() return answers.n == 1000 end)
  for i = 1, 1000 do t.error(answers[i][1], "TIMEOUT") end
  a:process():kill "CONT"
  t.eq(a:with {timeout = 10} "alive", "alive")
  finish(t, a)
  finish(t, b)
end)

story.test("a huge error text is cut", function(t)
  local rpc = fork.new():eval [[function f() error(("x"):rep(10000000), 0) end]]:rpc "f"
  local _, err = rpc()
  t.error(err, "REMOTE")
  t.ok(#err.message <= 65536)
  t.match(err.message, "cut")
  finish(t, rpc)
end)

story.test("calls, close and waiting in callbacks", function(t)
  local rpc, seen = server "echo", {}
  rpc(1, function(_, a)
    seen[#seen + 1] = a
    seen[#seen + 1] = rpc(2)
    rpc(3, function(_, c)
      seen[#seen + 1] = c
      rpc:close()
      rpc:close()
      rpc(4, function(err) seen[#seen + 1] = err.code end)
    end)
  end)
  fork.loop()
  t.eq(seen, {1, 2, 3, "CLOSED"})
  t.status(rpc:process())
  rpc:process():close()
end)

story.test("an error in a callback reaches fork.on_error", function(t)
  local rpc, seen = server "echo"
  fork.on_error(function(err, traceback) seen = {err, traceback} end)
  rpc(1, function() error("in a callback", 0) end)
  fork.loop()
  t.eq(seen[1], "in a callback")
  t.match(seen[2], "traceback")
  finish(t, rpc)
end)

story.done()
