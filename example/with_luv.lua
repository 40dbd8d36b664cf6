-- with_luv.lua: a program that lives on luv's loop. After `require "moonfork.luv"` one
-- uv.run() drives both, and returns when nothing is outstanding.

local uv = require "luv"
local fork = require "moonfork"
require "moonfork.luv"

local ticks = 0
local timer = uv.new_timer()
timer:start(0, 5, function() ticks = ticks + 1 end)

local process = fork.new():eval([[
  function slow(socket)
    local start = os.clock()
    while os.clock() - start < 0.1 do end
    socket:write("done\n")
  end
]])

-- The socket of a running function is the program's own; here luv takes it.
process:run("slow", function(err, socket)
  if err then error(err) end
  local pipe = uv.new_pipe(false)
  pipe:open((socket:detach()))
  pipe:read_start(function(failure, text)
    assert(not failure, failure)
    if text then return io.write("the clone says: ", text) end
    pipe:close()
    timer:close()
  end)
end)

uv.run()
print(ticks > 5 and "luv's timer went on meanwhile" or "luv's timer stood still")
