-- Every shutdown of an rpc or a pool ends within its documented time, whatever the other side
-- does: a function that never returns, is stopped, or floods; a template that hangs. What makes
-- progress is waited for.
--
-- pool:drain(0.5) never returned while the template hung, nor did fork.loop() after pool:close()
-- or rpc:close().
local story = require "story"
local fork = require "moonfork"
local trouble = require "trouble"
local kit = story.kit

local GRACE = trouble.grace
local ends_within, gone_within = trouble.ends_within, trouble.gone_within

local FUNCTIONS = [[
  function echo(...) return ... end
  function hang() while true do end end
  function nap(s) os.execute("exec sleep " .. s) return s end
  function flood() local e = require "moonfork.rpc".event while true do e(("x"):rep(1000)) end end
  function stop() require "moonfork.clone".kill(require "moonfork.clone".pid(), 19) end
]]

local function template() return fork.new():eval(FUNCTIONS) end

for _, name in ipairs {"hang", "flood", "stop"} do
  story.test("rpc:close ends although its function does not return: " .. name, function(t)
    local p = template()
    local rpc = p:rpc(name, {grace = 0.5, on_event = function() end})
    local outcome, status
    p:on_exit(function(s) status = s end)
    rpc(function(err) outcome = err end)
    fork.step(0.2)
    local pid = t.ok(p:pid())
    rpc:close()
    ends_within(t, 0.5, fork.loop)
    t.error(outcome, "CANCELLED", "no answer came within 500 ms")
    t.eq(status and status.signal, 9) -- the program killed it, so it can tell
    gone_within(t, pid, 0)
    p:close()
  end)

  story.test("a pool's shutdown ends although its function does not return: " .. name, function(t)
    local options = {grace = 0.5, max = 2, load = 1, start = 0, on_event = function() end}
    local pool, outcomes = template():pool(name, options), {}
    for _ = 1, 3 do pool(function(err) outcomes[#outcomes + 1] = err end) end
    t.within(5, function() return pool:stats().running == 2 end)
    fork.step(0.1)
    pool:close()
    ends_within(t, 1, fork.loop)
    t.eq(#outcomes, 3)
    local outcome
    pool = template():pool(name, options)
    pool(function(err) outcome = err end)
    t.within(5, function() return pool:stats().running == 1 end)
    local ok, err
    ends_within(t, 1, function() ok, err = pool:drain() end)
    t.eq(ok, nil)
    t.error(err, "TIMEOUT")
    t.error(outcome, "CLONE_DIED")
    pool:close()
  end)
end

story.test("without the option grace calls get ten seconds", {deadline = 40}, function(t)
  local rpc, one = template():rpc "hang", nil
  rpc(function(err) one = err end)
  local pool, two = template():pool("hang", {max = 1}), nil
  pool(function(err) two = err end)
  fork.step(0.2)
  rpc:close()
  pool:close()
  local took = ends_within(t, 10.5, fork.loop)
  t.ok(took > 9.5, took)
  t.error(one, "CANCELLED")
  t.error(two, "CLONE_DIED")
end)

story.test("rpc:close waits as long as answers come, and for a call's own timeout", function(t)
  local rpc, n = template():rpc("nap", {grace = 0.8}), 0
  for _ = 1, 4 do rpc("0.4", function(err) n = n + (err and 0 or 1) end) end
  rpc:close()
  fork.loop()
  t.eq(n, 4)
  local outcome
  rpc = template():rpc("nap", {grace = 0.2})
  rpc:with {timeout = 10}:call("1", function(err, v) outcome = err or v end)
  rpc:close()
  fork.loop()
  t.eq(outcome, "1")
  rpc = template():rpc("nap", {grace = math.huge})
  rpc("1", function(err, v) outcome = err or "once more " .. v end)
  rpc:close()
  fork.loop()
  t.eq(outcome, "once more 1")
end)

story.test("pool:close waits as long as answers come, and for a call's own time", function(t)
  local pool, n = template():pool("nap", {grace = 0.8, max = 1, load = 1}), 0
  for _ = 1, 6 do pool("0.3", function(err) n = n + (err and 0 or 1) end) end
  pool:close()
  fork.loop()
  t.eq(n, 6)
  for _, option in ipairs {"timeout", "call_timeout"} do
    local outcome
    pool = template():pool("nap", {grace = 0.2, max = 1, [option] = 10})
    pool("1", function(err, v) outcome = err or v end)
    pool:close()
    fork.loop()
    t.eq(outcome, "1")
  end
end)

story.test("a program that was busy for longer than the grace has lost no answer", function(t)
  local rpc, outcome = template():rpc("nap", {grace = 0.3}), nil
  t.got(rpc "0")
  rpc("0.1", function(err, v) outcome = err or v end)
  fork.step(0)
  rpc:close()
  kit.msleep(800)
  fork.loop()
  t.eq(outcome, "0.1")
  local pool = template():pool("nap", {grace = 0.3, max = 1})
  t.got(pool "0")
  pool("0.1", function(err, v) outcome = err or "pool " .. v end)
  fork.step(0)
  pool:close()
  kit.msleep(800)
  fork.loop()
  t.eq(outcome, "pool 0.1")
end)

story.test("rpc:close and pool:close end with a template in trouble", {deadline = 40}, function(t)
  local all, outcomes = trouble.all(t), {}
  for i, one in ipairs(all) do
    local rpc = one.process:fork():rpc("print", {grace = 0.3})
    rpc(function(err) outcomes[i] = err end)
    fork.step(0)
    local pool = one.process:pool("print", {grace = 0.3, max = 2})
    pool(function(err) outcomes[-i] = err end)
    rpc:close()
    pool:close()
  end
  ends_within(t, GRACE + 1, fork.loop)
  for i, one in ipairs(all) do
    t.error(outcomes[i], "CANCELLED")
    t.error(outcomes[-i], "CANCELLED")
    gone_within(t, one.pid, 0, one.name)
  end
end)

-- The error named call_timeout, which nobody had set.
story.test("a call that waited to the end of a drain is told so", {deadline = 20}, function(t)
  for _, timeout in ipairs {false, 60} do
    local pool = fork.new():eval "while true do end":pool("f", {timeout = timeout or nil})
    local err
    pool:call(function(e) err = e end)
    pool:drain(0.1)
    t.within(5, function() return err ~= nil end)
    t.error(err, "TIMEOUT", "drained")
    t.eq(err.started, "no")
    pool:close()
    fork.loop()
  end
end)

story.test("pool:drain(0.5) returns with a template in trouble", {deadline = 40}, function(t)
  local all, pools, drained = trouble.all(t), {}, 0
  for i, one in ipairs(all) do
    pools[i] = one.process:pool("print", {idle = 1, max = 2})
    pools[i](function(err) one.outcome = err end)
    pools[i]:drain(0.5, function(err)
      drained = drained + 1
      one.drained = err
    end)
  end
  t.within(1 + trouble.slack, function() return drained == #all end)
  for i, one in ipairs(all) do
    t.error(one.drained, "TIMEOUT")
    t.error(one.outcome, "TIMEOUT")
    t.eq(one.outcome.started, "no")
    pools[i]:close()
  end
  ends_within(t, GRACE, fork.loop)
  for _, one in ipairs(all) do gone_within(t, one.pid, 0, one.name) end
end)

-- A closed pool closed its template at once, and who had asked heard "unknown".
story.test("who asks how a pool's template ends is told when the pool is closed", function(t)
  local function ended(p, options)
    local told = {}
    p:on_exit(function(status) told[#told + 1] = status end)
    local pool = p:pool("echo", options)
    pool(1, function() end)
    pool:close()
    ends_within(t, GRACE + 1, fork.loop)
    t.eq(#told, 1)
    return told[1]
  end
  t.eq(ended(template()).code, 0)
  t.eq(ended(template():eval "while true do end", {grace = 0.3}).signal, 9)
end)

-- The state waited ten seconds and failed an assertion where the template's socket had ended and
-- the process had not, which is a matter of microseconds: nothing kept the loop alive for that.
story.test("a state that is closed behind a drained pool ends its template",
    {deadline = 40}, function(t)
  local function run(code)
    local began = kit.now()
    local _, status, err = t:lua([[
      local fork = require "moonfork"
      local p = fork.new_exec():eval "function echo(...) return ... end"
      local pool = p:pool("echo", {max = 2, idle = 2})
      assert(pool(1) == 1)
      local pid = p:pid()
      assert(pool:drain())
      ]] .. code)
    t.eq({status, err}, {0, ""}, code)
    t.ok(kit.now() - began < 6 * story.scale, code)
  end
  for _ = 1, 12 do run "pool:close()" end
  for _, close in ipairs {"", "pool:close()", "pool = nil collectgarbage()"} do
    run('require "testkit".kill(pid, 19) ' .. close)
  end
end)

story.test("a reload onto a template that hangs does not hold up the end", {deadline = 30},
function(t)
  local pool = template():pool("echo", {grace = 0.5})
  local outcome
  t.got(pool(1))
  local fresh = fork.new()
  local pid = trouble.kinds.eval(t, fresh)
  pool:reload(fresh, function(err) outcome = err end)
  fork.step(0.1)
  local ok
  ends_within(t, 1.2, function() ok = pool:drain(3) end)
  t.ok(ok)
  t.error(outcome, "CANCELLED")
  pool:close()
  gone_within(t, pid, GRACE)
end)

story.done()
