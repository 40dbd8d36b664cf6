-- single_file.lua: the worker's code is a string of the program itself, so that one file is
-- all there is to ship. Run it with `example/run single_file`.

local fork = require "moonfork"

-- What the clones run. It is compiled once, in the template; each clone finds it there.
local WORKER = [[
  local factor = ...
  function multiply(socket, number)
    socket:write(tostring(factor * number), "\n")
  end
]]

local template = fork.new():eval(WORKER, 7)

for number = 1, 5 do
  local socket = assert(template:fork():send_arg(number):run("multiply"))
  print(("7 x %d = %s"):format(number, socket:read("l")))
  socket:close()
end

template:close()
