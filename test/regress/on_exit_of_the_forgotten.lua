-- A function given to on_exit had a socket as an upvalue, and nobody else referred to the process or the
-- socket. The collector finalised all three, for the process's record was kept by nothing but itself:
-- the process was closed, its end was told all the same, and the function found a closed socket. It was
-- so for every process that was made with options, or in another way than by a plain fork.
local story = require "story"
local fork = require "moonfork"

local CODE = "function work(s) s:write 'x' s:read 'a' end"

-- fork(): the process. Nothing but its on_exit refers to it.
local function forget(make, told)
  local process = make()
  process:run("work", function(err, socket)
    if err then return told(err) end
    process:on_exit(function(status)
      told(nil, status.code, pcall(socket.read, socket, "a"))
      socket:close()
      process:close()
    end)
    socket:shutdown("w")
  end)
end

for name, make in pairs {
  ["a plain fork"] = function(p) return p:fork() end,
  ["a fork with options"] = function(p) return p:fork {name = "named"} end,
  ["a process of its own"] = function() return fork.new():eval(CODE) end,
} do
  story.test("on_exit keeps what it refers to: " .. name, function(t)
    local p = fork.new():eval(CODE)
    local n, last = 0, nil
    for _ = 1, 20 do
      forget(function() return make(p) end, function(err, code, ok, text)
        n = n + 1
        if err or code ~= 0 or not ok or text ~= "x" then last = err or text or code end
      end)
    end
    t.within(20, function()
      collectgarbage()
      return n == 20
    end)
    t.eq(last and tostring(last), nil)
    p:close()
  end)
end

story.done()
