-- What the stories of the module as its users see it share (test/lua/test_facade*.lua).
local fork = require "moonfork"

local kit = {}

-- A process that answers "hi" and stays until the socket is closed.
function kit.greeter()
  return fork.new():eval [[
    function greet(socket) socket:write("hi\n") socket:read("a") end
    function quick() end
    function fails() error("on purpose") end
  ]]
end

-- Calls f(callback) and turns the reactor until the callback came: its values.
function kit.called(t, f)
  local got
  f(function(...)
    t.ok(not got, "called twice")
    got = table.pack(...)
  end)
  t.ok(not got, "called inside the call")
  t.within(10, function() return got end)
  return table.unpack(got, 1, got.n)
end

return kit
