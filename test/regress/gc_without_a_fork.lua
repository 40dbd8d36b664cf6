-- The option gc said nothing to a process that ran its function itself: it is settled with the
-- seal, and the seal comes with the first fork.
local story = require "story"
local fork = require "moonfork"

local LOOK = [[
  function look(s)
    local running = collectgarbage "isrunning"
    s:write(collectgarbage "incremental", " ", tostring(running))
  end
]]

local function look(t, p)
  local socket = t.got(p:eval(LOOK):run "look")
  local text = socket:read "a"
  t.eq(t.status(p).code, 0)
  return text
end

story.test("gc of new_exec: holds for a function that the process runs itself", function(t)
  t.eq(look(t, fork.new_exec()), "generational true")
  t.eq(look(t, fork.new_exec {gc = "generational"}), "generational true")
  t.eq(look(t, fork.new_exec {gc = "incremental"}), "incremental true")
  t.match(look(t, fork.new_exec {gc = "stop"}), " false$")
end)

story.test("gc of new_exec: nothing is collected while it is stopped", function(t)
  local p = fork.new_exec {gc = "stop"}
  p:eval [[
    function f(s)
      local before = collectgarbage "count"
      for i = 1, 100000 do local x = {i} end
      s:write(math.floor(collectgarbage "count" - before))
    end
  ]]
  t.ok(tonumber(t.got(p:run "f"):read "a") > 5000)
  t.eq(t.status(p).code, 0)
end)

story.test("gc of new_exec: what the program's code asked for stays", function(t)
  local p = fork.new_exec():eval "collectgarbage 'incremental'"
  t.eq(look(t, p), "incremental true")
  p = fork.new_exec {gc = "incremental"}:eval "collectgarbage 'generational'"
  t.eq(look(t, p), "generational true")
  p = fork.new_exec():eval "collectgarbage 'stop'"
  t.match(look(t, p), " false$")
end)

story.test("template(): a copied interpreter collects as its program did", function(t)
  local text = t:lua [[
    local fork = require "moonfork"
    for _, mode in ipairs {"incremental", "generational"} do
      collectgarbage(mode)
      local p = fork.template():eval "function f(s) s:write(collectgarbage 'incremental') end"
      io.write(assert(p:run "f"):read "a", "\n")
    end
  ]]
  t.eq(text, "incremental\ngenerational\n")
end)

story.done()
