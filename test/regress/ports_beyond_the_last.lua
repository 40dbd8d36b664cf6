-- "127.0.0.1:99999" listened on port 34463: the number was taken modulo 65,536. A client
-- with a typo in the port of its server could have reached somebody else.
local story = require "story"
local fork = require "moonfork"

local function refuses(t, ports)
  for _, port in ipairs(ports) do
    for _, f in ipairs {"listen", "connect"} do
      local socket, message, errno = fork.socket[f]("127.0.0.1:" .. port)
      t.eq(socket, nil, f .. " " .. port)
      t.match(message, "is not an address")
      t.eq(errno, 22)
    end
  end
end

story.test("a port number beyond 65535 is not an address", function(t)
  refuses(t, {"65536", "99999", "4294967296", "00065536"})
end)

story.test("a number behind a space or a sign is not an address", function(t)
  refuses(t, {" 80", "+80", "-80", " 99999", "+99999", "\t99999", "-1"})
end)

story.test("leading zeros do no harm", function(t)
  local listener = t.got(fork.socket.listen "127.0.0.1:0000000")
  local port = tostring(listener):match ":(%d+)"
  if port then t.ok(tonumber(port) > 0) end
  listener:close()
end)

story.done()
