-- with_luasocket.lua: a select loop of one's own. The reactor answers getfd and dirty, so it
-- goes into socket.select beside the sockets of LuaSocket.

local socket = require "socket"
local fork = require "moonfork"

local server = assert(socket.bind("127.0.0.1", 0))
local _, port = server:getsockname()
server:settimeout(0)

-- A clone that connects to the server, by LuaSocket, loaded in the clone.
local process = fork.new():eval([[
  function client(_, port)
    local socket = require "socket"
    local connection = assert(socket.connect("127.0.0.1", tonumber(port)))
    connection:send("knock knock\n")
    connection:close()
  end
]])

local entered, line, status = false, nil, nil
process:send_arg(port):run("client", function(err)
  if err then error(err) end
  entered = true
end)
process:on_exit(function(s) status = s end)

while not (line and status) do
  local ready = socket.select({ server, fork.reactor }, nil, fork.reactor:timeout() or 1)
  if ready[fork.reactor] or #ready == 0 then fork.reactor:step() end
  if ready[server] then
    local connection = server:accept()
    line = assert(connection:receive("*l"))
    connection:close()
  end
end

assert(entered and status.code == 0, status.error)
print("the clone connected and said: " .. line)
server:close()
