-- trouble: templates that don't do what they are told, for the stories about shutdowns. Each of
-- trouble.kinds is a function (t, process) -> pid that brings the process into one state:
-- in an endless eval, in a long program, in a module that loads for eight seconds, in a
-- before_fork that does not return, stopped.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local trouble = {
  grace = 2, -- seconds that a closed process gets, as documented
  slack = 1.5 * story.scale,
  kinds = {},
}

local SAY_PID = [[
  local f = io.open(..., "w")
  f:write(require "moonfork.clone".pid())
  f:close()
]]

--- Evaluates code in p and gives p's pid once it has begun with it.
function trouble.begin(t, p, code)
  t.npids = (t.npids or 0) + 1
  local file = t:file("pid" .. t.npids)
  p:eval(SAY_PID .. (code or ""), file)
  return t.within(5, function() return math.tointeger(tonumber(t.read(file) or "")) end)
end

local kinds, begin = trouble.kinds, trouble.begin

function kinds.eval(t, p) return begin(t, p, "while true do end") end

function kinds.program(t, p) return begin(t, p, "os.execute 'exec sleep 8'") end

function kinds.module(t, p)
  t:module("slow_to_load", "local t = os.time() while os.time() < t + 8 do end")
  local pid = begin(t, p)
  p:require "slow_to_load"
  fork.step(0.1)
  return pid
end

function kinds.before_fork(t, p)
  local pid = begin(t, p,
    "require 'moonfork.clone'.before_fork(function() while true do end end)")
  local c = p:fork()
  c:eval "x = 1"
  fork.step(0.1)
  c:close()
  return pid
end

function kinds.stopped(t, p)
  local pid = begin(t, p)
  kit.kill(pid, 19)
  return pid
end

--- A list of all of them, forked and executed: {name =, process =, pid =}.
function trouble.all(t)
  local list = {}
  for name, kind in pairs(kinds) do
    for maker, make in pairs {new = fork.new, new_exec = fork.new_exec} do
      local p = make()
      list[#list + 1] = {name = name .. " of " .. maker, process = p, pid = kind(t, p)}
    end
  end
  return list
end

--- f() takes no longer than that; gives how long it took.
function trouble.ends_within(t, seconds, f)
  local t0 = kit.now()
  f()
  local took = kit.now() - t0
  if took > seconds + trouble.slack then
    t.fail("it took %.2f s, %.2f s allowed", took, seconds)
  end
  return took
end

function trouble.gone_within(t, pid, seconds, what)
  t.within(seconds + trouble.slack, function() return not t.alive(pid) end,
    ("process %d has to end: %s"):format(pid, what or ""))
end

return trouble
