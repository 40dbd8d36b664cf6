-- with_copas.lua: threads of copas. Copas can suspend a thread on any object that answers
-- `receive`, `getfd` and `dirty`; so a small door to the reactor is all the waiter needs.

package.path = package.path .. ";/usr/share/lua/5.2/?.lua" -- where Debian puts copas
local copas = require "copas"
local fork = require "moonfork"

-- "Receiving" from the door suspends the thread until the reactor has something to do.
local function door(reactor)
  local asked = false
  return {
    getfd = function() return reactor:getfd() end,
    dirty = function() return reactor:dirty() end,
    receive = function()
      if asked then return true end
      asked = true
      return nil, "timeout"
    end,
  }
end

fork.set_waiter(function(reactor) copas.receive(door(reactor)) end)

local template = fork.new():eval([[
  function slow(socket, name)
    local start = os.clock()
    while os.clock() - start < 0.05 do end
    socket:write(name, "\n")
  end
]])

local answers = {}
for _, name in ipairs { "one", "two", "three" } do
  copas.addthread(function()
    local socket = assert(template:fork():send_arg(name):run("slow"))
    answers[#answers + 1] = assert(socket:read("l"))
    socket:close()
  end)
end

while #answers < 3 do copas.step(0.1) end
table.sort(answers)
print("three threads waited at once: " .. table.concat(answers, ", "))

fork.set_waiter(nil)
template:close()
