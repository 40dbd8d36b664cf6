-- A completion was taken from the list of those to be told before Lua had what it needs to call a
-- function. Where there was no memory for that, the error was raised by the call that drove the
-- reactor, and the function was never called: a waiting call would have waited for ever.
local story = require "story"
local fork = require "moonfork"
local faultkit = require "faultkit"

local told = 0

local function tell()
  told = told + 1
  if coroutine.isyieldable() then coroutine.yield() end
end

-- Turns once in a coroutine of its own. With n, the n-th allocation fails, and all behind it: how
-- many have failed.
local function step_in_coroutine(t, n)
  local co = coroutine.create(fork.step)
  local timer = t.got(fork.timer(0, tell))
  if n then faultkit.lua_memory(n) end
  coroutine.resume(co, 10)
  local failed = n and faultkit.lua_memory() or 0
  return co, timer, failed
end

-- What is known of coroutines that are inside of callbacks grows now and then.
story.test("a callback is called once, wherever memory runs out before", function(t)
  local suspended, failures = {}, 0
  for i = 1, 34 do
    for n = 1, 8 do
      told = 0
      local _, timer, failed = step_in_coroutine(t, n)
      failures = failures + math.min(failed, 1)
      t.within(10, function() return told > 0 end,
        ("the callback, where allocation %d failed, with %d others"):format(n, #suspended))
      t.eq(told, 1)
      timer:close()
    end
    suspended[i] = step_in_coroutine(t)
  end
  t.ok(failures > 40, failures .. " failures")
  for _, co in ipairs(suspended) do t.ok(coroutine.close(co)) end
end)

story.done()
