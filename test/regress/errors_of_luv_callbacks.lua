-- luv ends the program where a callback raises. The calls of such an asynchronous process were
-- told of exit status 255 and nothing else; the text was on its standard error, if it had one.
local story = require "story"
local fork = require "moonfork"

local function server(code)
  return fork.new {stderr = "null"}:eval(code)
end

local LATER = [[
  function later(f)
    local timer = require "luv".new_timer()
    timer:start(10, 0, function() timer:close() f() end)
  end
]]

story.test("the text of the error is the process's last words", {needs = "luv"}, function(t)
  local rpc = server(LATER .. [[
    function f(done, x)
      require "moonfork.rpc".event("before")
      later(function() error("broken by " .. x) end)
    end
  ]])
  local status, first
  rpc = rpc:rpc("f", {async = true, on_event = function(e) first = first or e end})
  rpc:process():on_exit(function(s) status = s end)
  local told = 0
  for i = 1, 2 do
    rpc:call(i, function(err)
      told = told + 1
      t.error(err, "CLONE_DIED", "exit status 1: .*broken by 1")
      t.match(err.exit.error, "broken by 1")
      t.match(err.exit.error, "stack traceback")
      t.eq(err.exit.code, 1)
    end)
  end
  t.within(5, function() return told == 2 and status end)
  t.match(status.error, "broken by 1")
  t.eq(first, "before", "what it had sent arrives")
  t.error(select(2, rpc(3)), "CLONE_DIED", "broken by 1")
  rpc:close()
end)

story.test("debug.traceback answers as before, and leaves no words", {needs = "luv"}, function(t)
  local rpc = server(LATER .. [[
    local function here(...) return (debug.traceback(...)) end
    function f(done)
      later(function()
        local thread = coroutine.create(function() coroutine.yield() end)
        coroutine.resume(thread)
        local ok, handled = xpcall(function() error "caught" end, debug.traceback)
        local object = {}
        done(here("m"), here("m", 0), here("m", 2), here(nil, 1), here(thread),
          here(thread, "m", 0), debug.traceback(object) == object, handled,
          select(2, pcall(debug.traceback, "m", {})))
      end)
    end
    function plain() end
  ]]):rpc("f", {async = true})
  local r = table.pack(t.got(rpc()))
  t.match(r[1], "^m\nstack traceback:\n\teval at [^\n]*: in .-upvalue 'here'")
  t.match(r[2], "^m\nstack traceback:\n\t%[C%]: in function 'debug.traceback'\n\teval at ")
  t.match(r[3], "^m\nstack traceback:\n\teval at [^\n]*: in .*function")
  t.ok(not r[3]:find("'here'", 1, true))
  t.match(r[4], "^stack traceback:\n\teval at [^\n]*: in .-upvalue 'here'")
  t.match(r[5], "^stack traceback:\n\t%[C%]: in function 'coroutine.yield'")
  t.match(r[6], "^m\nstack traceback:\n\t%[C%]: in function 'coroutine.yield'")
  t.eq(r[7], true)
  t.match(r[8], "caught\nstack traceback")
  t.match(r[9], "number expected")
  t.got(rpc:process():kill "KILL")
  local _, err = rpc()
  t.error(err, "CLONE_DIED")
  t.eq(err.exit.error, nil)
  rpc:close()
end)

story.done()
