-- Ctrl-C and SIGTERM: the first asks the command to drain, the second to end at once.

local interrupt = {
  code = nil, -- the exit code of the signal that came first
}

local CODES = {INT = 130, TERM = 143}

--- watch(drain, kill): drain(name) at the first signal, kill(name) at each later one. The handlers
-- run from the reactor.
function interrupt.watch(drain, kill)
  local fork = require "moonfork"
  local function told(name)
    if interrupt.code then return kill(name) end
    interrupt.code = CODES[name]
    drain(name)
  end
  for name in pairs(CODES) do assert(fork.signal(name, told)) end
end

return interrupt
