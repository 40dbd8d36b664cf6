-- drain_server.lua: blocking workers that wait for three things at once. Each has the
-- listener, its connection, and the socket to its parent, and one call tells which of them
-- has something: a new client, the next line, or the request to drain, which may be a SIGTERM,
-- too. A worker that drains takes no new connection, finishes the one it has, and ends.
--
--   example/run drain_server 8080       serves lines until end of file on standard input
--   example/run drain_server            serves itself two clients, drains, and ends

local fork = require "moonfork"

local WORKER = [[
  local clone = require "moonfork.clone"
  local poll = require "moonfork".socket.poll
  local LINE_MAX, PATIENCE = 1000, 10

  -- Where each line goes; false: the connection is over.
  local function answer(connection)
    local line, message = connection:read("l")
    if message then connection:write("error: ", message, "\n") end
    return line and connection:write(line:upper(), "\n")
  end

  local function accept(listener)
    local connection = listener:accept()
    if connection then connection:limit(LINE_MAX):settimeout(PATIENCE) end
    return connection
  end

  function work(parent, listener)
    local draining, connection = false, nil
    clone.on_term(function() draining = true end) -- poll returns then
    while connection or not draining do
      local waited_for = { connection }
      if not draining then table.insert(waited_for, parent) end
      if not draining and not connection then table.insert(waited_for, listener) end
      local ready = {}
      for _, s in ipairs(assert(poll(waited_for))) do ready[s] = true end

      if ready[parent] then draining = true end
      if connection and ready[connection] and not answer(connection) then
        connection:close()
        connection = nil
      elseif ready[listener] and not draining then
        -- Of all workers that were woken one gets it; the others find nothing in time.
        listener:settimeout(0)
        connection = accept(listener)
      end
    end
  end
]]

-- Without a port the system gives a free one.
local listener = assert(fork.socket.listen("127.0.0.1:" .. (arg[1] or 0), { backlog = 100 }))
local address = assert(listener:address())
local template = fork.new():eval(WORKER):send_fd(listener)
local workers = {}
for i = 1, fork.ncpu() + 1 do
  local process = template:fork()
  workers[i] = { process = process, socket = assert(process:run("work")) }
end
listener:close()

-- Each worker sees the end of its socket, and has time to finish.
local function drain()
  for _, worker in ipairs(workers) do worker.socket:close() end
  for _, worker in ipairs(workers) do
    local status, err = worker.process:wait(30)
    assert(status and status.code == 0, err or status)
  end
end

if arg[1] then
  print("serving on " .. address .. ", until end of file")
  local input <close> = assert(fork.socket.wrap(0))
  while input:read("l") do end
  drain()
  template:close()
  return
end

local one, two = assert(fork.socket.connect(address)), assert(fork.socket.connect(address))
for _, client in ipairs { one, two } do
  client:write("hello\n")
  assert(client:read("l") == "HELLO")
end
print("two clients of " .. one:peer() .. " were served")

for _, worker in ipairs(workers) do worker.socket:shutdown("w") end
one:write("still here\n")
print("while it drains a client is told: " .. assert(one:read("l")))
one:close()
two:close()
drain()
print("all workers have ended by themselves")
template:close()
