-- with_cqueues.lua: coroutines of cqueues. The waiter suspends the coroutine that waits, and
-- the others go on; a moonfork.socket can be polled like any object of cqueues.

local cqueues = require "cqueues"
local fork = require "moonfork"

fork.set_waiter(function(reactor, timeout) cqueues.poll(reactor, timeout) end)

local template = fork.new():eval([[
  function slow(socket, name)
    local start = os.clock()
    while os.clock() - start < 0.05 do end
    socket:write(name, "\n")
  end
]])

local queue = cqueues.new()
local running, ticks = 3, 0

for _, name in ipairs { "one", "two", "three" } do
  queue:wrap(function()
    local socket = assert(template:fork():send_arg(name):run("slow"))
    assert(socket:read("l") == name)
    socket:close()
    running = running - 1
  end)
end

queue:wrap(function()
  while running > 0 do
    ticks = ticks + 1
    cqueues.sleep(0.005)
  end
end)

assert(queue:loop())
assert(running == 0)
print("three coroutines waited at once, another one ticked: " .. tostring(ticks > 5))

fork.set_waiter(nil)
template:close()
