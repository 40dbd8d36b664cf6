-- prefork_server.lua: a pre-forked TCP server. The template loads the modules once and is
-- sent the listening socket; each clone forked from it has both, and accepts by itself. A
-- connection never passes through the parent. SIGTERM (and Ctrl-C) drains it: each worker
-- finishes the connection that it is at.
--
--   example/run prefork_server 8080       serves until it gets SIGTERM or SIGINT
--   example/run prefork_server            serves itself a few requests, and ends

local fork = require "moonfork"

local SERVER = [[
  local clone = require "moonfork.clone"
  clone.title("server: waiting")

  local function answer(connection)
    local name = connection:read("l")
    if not name then return end
    connection:write("Hello, ", name, ", from ", tostring(clone.pid()), "\n")
  end

  function serve(socket, listener)
    local draining = false
    clone.on_term(function()
      draining = true
      listener:close() -- a blocked accept() gives nil
    end)
    while not draining do
      local connection <close>, message = listener:accept()
      if connection then
        local ok, failure = pcall(answer, connection)
        if not ok then io.stderr:write(failure, "\n") end
      elseif not draining then
        error(message)
      end
    end
  end
]]

-- Without a port the system gives a free one.
local listener = assert(fork.socket.listen("127.0.0.1:" .. (arg[1] or 0)))
local address = assert(listener:address())
-- A session of their own: Ctrl-C reaches this program only, which then drains the workers.
local template = fork.new { session = "new" }:eval(SERVER):send_fd(listener)

-- Keeps n clones accepting; one that ends is replaced.
local stopping = false
local workers = {}
local function start_worker(i)
  local worker = template:fork()
  workers[i] = worker
  worker:run("serve", function(err)
    if err and not stopping then error(err) end
  end)
  worker:on_exit(function(status)
    if stopping then return end
    io.stderr:write("a worker ended: ", status.error or tostring(status.signal), "\n")
    start_worker(i)
  end)
end
for i = 1, 2 * fork.ncpu() do start_worker(i) end
listener:close()

local function stop() stopping = true end
fork.signal("TERM", stop)
fork.signal("INT", stop)

if arg[1] then
  print("serving on " .. address)
  while not stopping do fork.step(3600) end
else
  local pids, npids = {}, 0
  for i = 1, 20 do
    local connection = assert(fork.socket.connect(address))
    connection:write("client ", tostring(i), "\n")
    local pid = assert(connection:read("l")):match("^Hello, client %d+, from (%d+)$")
    if not pids[pid] then pids[pid], npids = true, npids + 1 end
    connection:close()
  end
  print(("20 connections, answered by %d of %d processes"):format(npids, #workers))
end

stopping = true
for _, worker in ipairs(workers) do worker:kill("TERM") end
local drained = 0
for _, worker in ipairs(workers) do
  local status, err = worker:wait(10)
  assert(status or err.exit, err) -- one that had not entered its function yet ended, too
  if status and status.code == 0 then drained = drained + 1 end
end
if arg[1] then print(("%d of %d workers drained"):format(drained, #workers)) end
template:close()
