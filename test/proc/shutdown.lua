-- Every shutdown of a process ends within its documented time, whatever that does: close,
-- reset, the end of a scope, the collector, the end of the Lua state and of the program, while
-- a template hangs in user code, loads a module for long, or is stopped. What can be waited for
-- is waited for.
--
-- A template that was closed in an endless eval went on using a whole processor for ever.
local story = require "story"
local fork = require "moonfork"
local templates = require "templates"
local threads = require "thread_story"
local trouble = require "trouble"
local kit = story.kit

local GRACE, SLACK = trouble.grace, trouble.slack
local ends_within, gone_within = trouble.ends_within, trouble.gone_within

story.test("close ends templates in all kinds of trouble", {deadline = 30}, function(t)
  local all, statuses = trouble.all(t), {}
  for i, one in ipairs(all) do
    one.process:on_exit(function(s) statuses[i] = s end)
    one.process:close()
  end
  ends_within(t, GRACE, fork.loop)
  for i, one in ipairs(all) do
    gone_within(t, one.pid, 0, one.name)
    t.ok(statuses[i], "on_exit is told: " .. one.name)
  end
end)

story.test("the end of a scope and the collector close in the same way", {deadline = 30},
function(t)
  local pid
  do
    local p <close> = fork.new()
    pid = trouble.kinds.eval(t, p)
  end
  gone_within(t, pid, GRACE)
  pid = trouble.kinds.eval(t, fork.new_exec())
  t.collect()
  gone_within(t, pid, GRACE)
end)

-- The hello of a template that was closed before it came took the time limit of the close away.
story.test("close and drain end a template that was not started yet", {deadline = 30},
function(t)
  local endless = "while true do end"
  local status
  local p = fork.new_exec():eval(endless)
  p:on_exit(function(s) status = s end)
  p:close()
  ends_within(t, GRACE, fork.loop)
  t.eq(status and status.signal, 9)
  local pool = fork.new_exec():eval(endless):pool("f", {idle = 2, max = 2})
  pool:drain(0.1)
  ends_within(t, GRACE, fork.loop)
  p = fork.new_exec():eval(endless)
  p:fork():close()
  p:close()
  ends_within(t, 2 * GRACE, fork.loop)
end)

story.test("close executes what is queued, and waits for forks that somebody waits for",
{deadline = 30}, function(t)
  local p = fork.new()
  p:eval "os.execute 'exec sleep 3'"
  p:eval "function f(socket) socket:write 'entered' end"
  local outcome
  p:fork():run("f", function(err, socket) outcome = err or socket end)
  p:close()
  fork.loop()
  t.eq(type(outcome) == "userdata" and outcome:read "a", "entered")
  outcome:close()
  local path = t:file "made"
  p = fork.new()
  p:eval("os.execute 'exec sleep 0.5' io.open(..., 'w'):close()", path)
  p:close()
  fork.loop()
  t.ok(t.read(path))
end)

story.test("a fork that is closed before it exists does not wait for its template",
{deadline = 30}, function(t)
  local p = fork.new()
  local pid = trouble.kinds.eval(t, p)
  local c, status = p:fork(), nil
  c:eval "x = 1"
  c:on_exit(function(s) status = s end)
  fork.step(0)
  c:close()
  local outcome
  local d = p:fork()
  d:run("print", function(err) outcome = err end)
  d:close()
  local e, ended, late = p:fork {timeout = 0.2}, nil, nil
  e:on_exit(function(s) ended = s end)
  e:run("print", function(err) late = err end)
  t.within(GRACE + SLACK, function() return status and outcome and ended end)
  t.eq(status.unknown, true)
  t.error(outcome, "CANCELLED")
  t.error(late, "TIMEOUT")
  t.ok(t.alive(pid), "nobody has closed the template")
  p:close()
  e:close()
  gone_within(t, pid, GRACE)
end)

-- It was looked for after the two seconds only, and the loop waited for that.
story.test("a fork that is closed before it exists is reaped soon after its birth", function(t)
  local p = fork.new()
  local pid = trouble.kinds.stopped(t, p)
  local c, outcome = p:fork(), nil
  c:run("print", function(err) outcome = err end)
  fork.step(0)
  c:close()
  t.within(5, function() return outcome end)
  t.error(outcome, "CANCELLED")
  kit.kill(pid, 18)
  local t0 = kit.now()
  fork.loop()
  t.ok(kit.now() - t0 < GRACE / 2, kit.now() - t0)
  p:close()
end)

story.test("running clones of a closed template in trouble are not touched", {deadline = 30},
function(t)
  local p = fork.new():eval "function f(socket) socket:read 'l' end"
  local c = p:fork()
  local socket = t.got(c:run "f")
  local pid = trouble.kinds.eval(t, p)
  p:close()
  gone_within(t, pid, GRACE)
  t.ok(t.alive(c:pid()))
  socket:close()
  t.ok(c:wait(5))
  c:close()
end)

story.test("a program that was busy for longer than the grace has lost nothing", {deadline = 30},
function(t)
  local p = fork.new():eval "function f(socket) socket:read 'l' os.exit(7) end"
  local c = p:fork()
  local socket = t.got(c:run "f")
  local path = t:file "made"
  p:eval("io.open(..., 'w'):close()", path)
  p:close()
  kit.msleep(2500)
  fork.step(0.1)
  t.ok(t.read(path))
  socket:close()
  t.eq(t.status(c).code, 7)
  c:close()
end)

story.test("reset ends a default template that is stopped", {deadline = 30, new_template = true},
function(t)
  local p
  local template = templates.started_by(function()
    fork.reset()
    p = fork.new()
    p:eval "x = 1"
    t.ask(fork.new(), "return 1")
  end)
  kit.kill(template, 19)
  local late = fork.new()
  local outcome
  late:run("print", function(err) outcome = err or "entered" end)
  fork.step(0.05)
  late:close()
  fork.reset()
  ends_within(t, GRACE, fork.loop)
  gone_within(t, template, GRACE)
  t.error(outcome, "CANCELLED")
  p:close()
end)

-- ---- the end of the Lua state, and of the program ----

local ENDS = [[
  local fork, kit = require "moonfork", require "testkit"
  local p = fork.%s()
  local path = %q
  local SAY = [=[
    local f = io.open(%q, "w")
    f:write(require "moonfork.clone".pid(), "\n")
    f:close()
  ]=]
  local function pid() local f = io.open(path) return f and f:read "n" end
  local function go() while not pid() do fork.step(0.01) end end
  p:eval("SAY = ... function f() load(SAY)() while true do end end", SAY)
  %s
  go()
  print("ends at", kit.now())
  io.stdout:flush()
  %s
]]

local begun = {
  eval = "p:eval 'f()'",
  queued = "p:eval 'f()' local c = p:fork() c:run('print', print)",
  stopped = "p:eval(SAY) go() fork.step(0.1) kit.kill(pid(), 19)",
  ["a run"] = "p:eval 'f()' p:run('print', print)",
  ["a run that nobody waits for"] = "p:eval 'f()' local co = coroutine.wrap(function() "
    .. "fork.set_waiter(coroutine.yield) p:run 'print' end) co() fork.set_waiter(nil) co = nil",
  rpc = "local r = p:rpc 'f' r(print)",
  pool = "local r = p:pool('f', {max = 2}) r(print)",
  -- Nothing is outstanding and no socket is left: the end of the state waits all the same.
  ["an idle pool whose template hangs up first"] = "p:eval(SAY) p:eval[[ require 'faultkit'"
    .. ".hang_up_at_exit(require 'hostile'.control(), 700) ]] go() local r = p:pool 'f' "
    .. "fork.step(0.1)",
}

if threads.available then -- the thread that runs keeps the template from being killed for the other one
  begun["a clone in a thread, and one that is not born"] = "p:eval(SAY .. 'function wait(s) s:read(1) end') "
    .. "local o = {isolation = 'thread'} local s = assert(p:fork(o):run 'wait') go() kit.kill(pid(), 19) "
    .. "fork.step(0.1) local c = p:fork(o) c:run('wait', print) fork.step(0.1) p:close()"
  -- A pool waited for the end of its template, which workers that can't be killed put off.
  begun["a pool of threads in C code"] = "p:eval(SAY .. [[ function nap() os.execute 'exec sleep 20' end ]]) "
    .. "local r = p:pool('nap', {max = 2, isolation = 'thread'}) "
    .. "r(function() end) go() fork.step(0.3)"
  begun["a pool of threads whose template is stopped"] = "p:eval(SAY) go() fork.step(0.1) "
    .. "local r = p:pool('f', {max = 1, isolation = 'thread'}) r(function() end) fork.step(0.3) "
    .. "kit.kill(pid(), 19)"
end

local finish = {
  ["the state"] = "os.exit(0, true)",
  ["the program"] = "os.exit(0)",
  ["a killed program"] = "kit.kill(kit.getpid(), 9)",
}

for how, last in pairs(finish) do
  for kind, first in pairs(begun) do
    local maker = (kind == "queued" or kind == "rpc") and "new" or "new_exec"
    story.test(("nobody outlives the end of %s: %s"):format(how, kind), {deadline = 30},
    function(t)
      local path = t:file "pid"
      local out, _, err = t:lua(ENDS:format(maker, path, path, first, last), {deadline = 25})
      t.eq(err, "")
      local took = kit.now() - (tonumber(out:match "ends at%s+([%d.]+)") or t.fail("it did not begin to end: %s", out))
      t.ok(took <= 4 + SLACK, ("it took %.2f s"):format(took))
      local pid = tonumber(t.read(path))
      t.outside(GRACE + SLACK, function() return not t.alive(pid) end)
    end)
  end
end

story.done()
