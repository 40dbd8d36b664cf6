-- hostile: what a process before `run` can do with its own control socket, when its code is
-- not what its parent thinks. Runs in clones and templates.
local kit = require "testkit"

local hostile = {HELLO = 64, DONE = 65, FORK_FAILED = 67, FAILED = 68, RUNNING = 69, MEMORY = 71}

--- The number of this process's control socket.
function hostile.control()
  local found
  for fd, target in pairs(kit.fds()) do
    if fd > 2 and target:find("^socket:") and (not found or fd < found) then found = fd end
  end
  return assert(found, "no control socket")
end

--- An answer, as its parent would get it.
function hostile.frame(kind, id, body)
  body = body or ""
  return string.pack("<I4I1I1I2I8", #body, kind, 0, 0, id) .. body
end

--- What the memory of a clone with that number is said to be.
function hostile.memory(id)
  return hostile.frame(hostile.MEMORY, id, string.pack("<I4I4i8i8i8i8i8", 0, 0, 1, 1, 1, 1, 1))
end

function hostile.say(...)
  return kit.write(hostile.control(), hostile.frame(...))
end

--- Writes the text again and again, until the parent closes.
function hostile.flood(text)
  local fd = hostile.control()
  text = text:rep(math.max(1, 16384 // #text))
  repeat until not kit.write(fd, text)
end

return hostile
