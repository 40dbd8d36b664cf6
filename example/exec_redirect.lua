-- exec_redirect.lua: a faster fork and exec. The program that wants to start another one may
-- be big and have many threads; the template is small and has one, so forking it is cheap
-- and safe. The clone is given the descriptors as handles, puts them where the new program
-- expects them, and becomes that program: no shell, no quoting, the same process id.

local fork = require "moonfork"

-- In the clone: arguments are the handles for 0 and 1, then the program and its arguments.
local EXEC = [[
  local clone = require "moonfork.clone"
  function exec(socket, input, output, file, ...)
    assert(clone.exec(file, { file, ... }, { fds = { [0] = input, [1] = output, [2] = 2 } }))
  end
]]

local launcher = fork.new():eval(EXEC)

-- Starts file with its standard input and output on the given handles; gives the process.
local function start(input, output, file, ...)
  local process = launcher:fork():send_fd(input, output):send_arg(file, ...)
  assert(process:run("exec"))
  return process
end

-- A whole pipeline, without a shell: sort -r | head -n 2.
local ours, sort_input = assert(fork.socket.pair())
local sort_output, head_input = assert(fork.socket.pair())
local head_output, result = assert(fork.socket.pair())

local sort = start(sort_input, sort_output, "sort", "-r")
local head = start(head_input, head_output, "head", "-n", "2")
for _, handle in ipairs { sort_input, sort_output, head_input, head_output } do
  handle:close() -- send_fd has duplicated them
end

ours:write("ant\nbee\ncat\ndog\n")
ours:shutdown("write")
io.write(result:read("a"))

for name, process in pairs { sort = sort, head = head } do
  local status = assert(process:wait(10))
  assert(status.code == 0, name .. " ended with " .. tostring(status.code or status.signal))
end
launcher:close()
