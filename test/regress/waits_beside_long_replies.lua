-- A long reply is read in steps, one in each turn of the reactor. wait of a process, and read of its
-- socket, which wait without Lua where no callback is due, turned the loop and took no step: until they
-- had their answer the callback of the reply was not called, and the program used all of a processor.
local story = require "story"
local fork = require "moonfork"

local function wait_beside(wait)
  return function(t)
    local template = fork.new_exec():eval [[
      function long() local list = {} for i = 1, 2000000 do list[i] = i end return list end
      function echo(socket) socket:write(socket:read("l"), "\n") end
    ]]
    local rpc, clone = template:fork():rpc "long", template:fork()
    local socket, before, length = clone:run "echo", collectgarbage "count", nil
    rpc:call(function(err, list)
      length = err or #list
      socket:write "go on\n"
    end)
    t.within(60, function() return length or collectgarbage "count" > before + 4096 end)
    t.eq(length, nil, "it is read by half")
    wait(t, clone, socket)
    t.eq(length, 2000000)
    socket:close()
    rpc:close()
    clone:close()
    template:close()
    fork.loop()
  end
end

story.test("a process is waited for while a long reply is read", {deadline = 90},
  wait_beside(function(t, clone) t.eq(clone:wait().code, 0) end))

story.test("a socket is read while a long reply is", {deadline = 90},
  wait_beside(function(t, _, socket) t.eq(socket:read "l", "go on") end))

story.done()
