-- p:memory() under way was never answered when p was closed meanwhile: closing has a process
-- that serves finish its commands, and this one never did. The library cancels it, as mf_close
-- does.
local story = require "story"
local fork = require "moonfork"

local makers = {
  ["a template at work"] = function()
    return fork.new():eval("require'testkit'.msleep(...)", 1000 * story.scale)
  end,
  ["a stopped clone"] = function(t)
    local p = fork.new()
    t.got(p:memory())
    t.got(p:kill "STOP")
    return p, function() p:kill "CONT" end
  end,
  ["a process that starts"] = function()
    local p = fork.new():eval("require'testkit'.msleep(...)", 1000 * story.scale)
    p:run("type", function() end)
    return p
  end,
}

for name, make in pairs(makers) do
  story.test(name .. ": close cancels memory, waiting", function(t)
    local p, after = make(t)
    fork.new():run("type", function()
      if after then after() end
      p:close()
    end)
    local t0 = story.slept()
    local info, err = p:memory()
    t.eq(info, nil)
    t.error(err, "CANCELLED")
    t.ok(story.slept() - t0 < 2)
  end)

  story.test(name .. ": close cancels memory, with a callback", function(t)
    local p, after = make(t)
    local told, err = 0, nil
    for _ = 1, 2 do
      p:memory(function(e)
        told, err = told + 1, e
      end)
    end
    if after then after() end
    p:close()
    t.eq(told, 0, "not inside of close")
    t.within(0.5, function() return told == 2 end)
    t.error(err, "CANCELLED")
  end)
end

story.test("what nobody holds is answered before it ends", function(t)
  local info
  fork.new():memory(function(_, i) info = i end)
  t.collect()
  t.within(5, function() return info end)
  t.ok(info.pss > 0)
end)

story.done()
