-- pass_process.lua: a live process changes its owner. The main program prepares a template,
-- takes its control socket out with to_fd and hands that to a manager, which is a process of
-- its own. There from_fd makes a process object of it again; what it forks from then on
-- belongs to the manager.

local fork = require "moonfork"

local MANAGER = [[
  local fork = require "moonfork"
  function manage(socket)
    local control = assert(socket:recv_fd())
    local template = fork.from_fd(control)
    for line in socket:lines() do
      local answer = assert(template:fork():send_arg(line):run("answer"))
      socket:write(answer:read("a"))
      answer:close()
    end
    template:close()
  end
]]

local WORKER = [[
  local clone = require "moonfork.clone"
  function answer(socket, question)
    socket:write(question, "? asked of ", tostring(clone.pid()), "\n")
  end
]]

local manager = fork.new():eval(MANAGER)
local socket = assert(manager:run("manage"))

local template = fork.new():eval(WORKER)
local control = assert(template:to_fd()) -- everything said so far has been executed
assert(socket:send_fd(control))
control:close()

for _, question in ipairs { "who", "where" } do
  socket:write(question, "\n")
  print((socket:read("l"):gsub("%d+$", "a process of the manager")))
end

socket:shutdown("write")
local status = assert(manager:wait(10))
assert(status.code == 0, status.error)
