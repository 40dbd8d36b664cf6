-- The program whose trace doc/pictures/timeline.svg shows: a template, a pool with two workers, one
-- of which is killed, and a process that is alone.
--
--   ./dev run lua5.4 doc/pictures/timeline_program.lua trace.json
local fork = require "moonfork"

assert(fork.trace(arg[1] or "trace.json"))
local template = fork.new_exec{name = "words"}:eval [[-- =words.lua
  local function spin(ms)
    local stop = os.clock() + ms / 1000
    repeat until os.clock() >= stop
  end
  spin(12)
  function count(ms) spin(ms) return ms end
  function report(socket) spin(25) socket:write "done" end
]]
template:seal()
local report = template:fork{name = "report"}
local pool = template:fork():pool("count", {max = 2, start = 0.004})
local left = 9
for i = 1, left do
  pool:with{idempotent = true}:call(4 + i % 3 * 3, function() left = left - 1 end)
end
local socket
report:run("report", function(err, s) socket = assert(s, err) end)
fork.timer(0.04, function()
  local pid = pool:pids()[1]
  if pid then os.execute("kill -9 " .. pid) end
end)
while left > 0 or not socket do fork.step(0.01) end
assert(socket:read "a" == "done")
report:wait()
pool:close()
template:close()
fork.loop()
