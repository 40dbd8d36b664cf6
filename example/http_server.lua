-- http_server.lua: an HTTP server in clones. A template is loaded once; its clones accept on one
-- listener and answer, each one connection at a time. moonfork.server replaces those that end,
-- reloads and drains.
--
--   example/run http_server 8080       serves until it gets SIGTERM; SIGHUP loads the code anew
--   example/run http_server            serves itself two requests, and ends

local fork = require "moonfork"
local server = require "moonfork.server"

local APPLICATION = [[
  local clone = require "moonfork.clone"

  -- Method and path of the next request, and whether the client wants another one.
  local function read_request(connection)
    local method, path = (connection:read "l" or ""):match "^(%u+) (%S+) HTTP/1%.1\r$"
    local keep = method ~= nil
    for line in connection:lines() do
      if line == "\r" then return method, path, keep end
      if line:lower():find "^connection:%s*close" then keep = false end
    end
  end

  function handle(connection)
    connection:limit(8192):settimeout(10)
    repeat
      local method, path, keep = read_request(connection)
      if not method then return end
      local body = ("%s of %s by process %d\n"):format(method, path, clone.pid())
      connection:write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ", #body,
        "\r\n\r\n", body)
    until not keep
  end
]]

local listener = assert(fork.socket.listen("127.0.0.1:" .. (arg[1] or 0)))
local instance = assert(server.new {
  template = function() return fork.new_exec():eval(APPLICATION) end,
  name = "handle",
  sockets = { listener },
  workers = 2 * fork.ncpu(),
})
for _, name in ipairs { "TERM", "INT" } do
  fork.signal(name, function() instance:stop() end)
end
fork.signal("HUP", function() instance:reload() end)

if arg[1] then
  print("serving on http://" .. assert(listener:address()))
  assert(instance:run())
  return
end

fork.timer(0.01, function()
  local client = assert(fork.socket.connect(assert(listener:address())))
  client:write("GET /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
  io.write((client:read("a"):gsub("\r", "")))
  client:close()
  instance:stop()
end)
assert(instance:run())
