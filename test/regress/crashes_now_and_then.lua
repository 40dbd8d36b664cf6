-- One crash in ten calls: 300 calls took 57 seconds, because the delay before a dead worker was
-- replaced doubled up to five seconds, and only sixteen answers of one worker ended that.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  function f(i) if i % 10 == 0 then clone.kill(clone.pid(), 9) end return i end
  function last() clone.kill(clone.pid(), 9) end
]]

story.test("one crash in ten calls does not slow down the others", {deadline = 60}, function(t)
  for _, options in ipairs {{max = 1, load = 1}, {max = 2}, {max = 2, start = 0, load = 4}} do
    options.restart = {burst = 1000}
    local pool = fork.new():eval(FUNCTIONS):pool("f", options)
    local answers, errors = 0, 0
    local t0 = kit.now()
    for i = 1, 300 do
      pool(i, function(err, v)
        if err then errors = errors + 1 else answers = answers + 1 t.eq(v, i) end
      end)
    end
    fork.loop()
    local took = kit.now() - t0
    -- 30 deaths. Few of those workers have answered nothing: each costs 0.05 to 0.1 seconds.
    t.eq({answers, errors}, {270, 30})
    t.ok(took < 6 * story.scale, took)
    pool:close()
    fork.loop()
  end
end)

story.test("what never answers is replaced after min, twice min, up to max", function(t)
  local pool = fork.new():eval(FUNCTIONS):pool("last", {max = 1, load = 1,
    restart = {burst = 1000}, backoff = {min = 0.1, max = 0.3}})
  local at, t0 = {}, kit.now()
  for i = 1, 5 do pool(function() at[i] = kit.now() - t0 end) end
  fork.loop()
  for i, least in ipairs {0.1, 0.2, 0.3, 0.3} do
    local waited = at[i + 1] - at[i]
    t.ok(waited > least - 0.02 and waited < least + 0.5 * story.scale, waited)
  end
  pool:close()
end)

story.test("one limit alone moves the default of the other", function(t)
  local pool = fork.new():eval(FUNCTIONS):pool("last", {max = 1, load = 1,
    restart = {burst = 1000}, backoff = {max = 0.01}})
  local n, t0 = 0, kit.now()
  for _ = 1, 8 do pool(function() n = n + 1 end) end
  fork.loop()
  t.eq(n, 8)
  t.ok(kit.now() - t0 < 5) -- of 6.3 with the default
  pool:close()
  fork.new():pool("last", {backoff = {min = 7}}):close()
end)

story.done()
