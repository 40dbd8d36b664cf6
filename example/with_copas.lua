-- with_copas.lua: threads of copas. A thread that waits for a process lies in a queue; one
-- thread of its own waits for the reactor's descriptor, as copas waits for any object that
-- answers `receive`, `getfd` and `dirty`, and then resumes those in the queue.

package.path = package.path .. ";/usr/share/lua/5.2/?.lua" -- where Debian puts copas
local copas = require "copas"
local fork = require "moonfork"

-- Copas puts a thread that yields `object, queue` into that queue.
local waiting = { insert = function() end }
function waiting:push(_, thread) self[#self + 1] = thread end

-- "Receiving" from the door gives true when the reactor has something to do.
local door = { asked = false }
function door.getfd() return fork.reactor:getfd() end
function door.dirty() return fork.reactor:dirty() end
function door:receive()
  self.asked = not self.asked
  if self.asked then return nil, "timeout" end
  return true
end

copas.addthread(function()
  while copas.receive(door) do
    local threads = table.move(waiting, 1, #waiting, 1, {})
    for i = #waiting, 1, -1 do waiting[i] = nil end
    for _, thread in ipairs(threads) do copas.addthread(thread) end
  end
end)

fork.set_waiter(function() coroutine.yield(door, waiting) end)

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
    local answer = assert(socket:read("l"))
    answers[#answers + 1] = answer
    socket:close()
  end)
end

while #answers < 3 do copas.step(0.1) end
table.sort(answers)
print("three threads waited at once: " .. table.concat(answers, ", "))

fork.set_waiter(nil)
template:close()
