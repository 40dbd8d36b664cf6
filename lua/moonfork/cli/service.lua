-- What a service manager and a long-running command (serve, node) say to each other: sd_notify(3), and
-- a file with the process id.

local cli = require "moonfork.cli"

local service = {}

--- notifier(fork): notify(text), which does nothing where nobody asked to be told.
function service.notifier(fork)
  local name = os.getenv "NOTIFY_SOCKET"
  local socket = name and fork.socket.connect("unixgram:" .. name)
  return function(text)
    if socket then socket:write(text) end
  end
end

-- A file that another server has overwritten meanwhile is that one's.
local function remove_pid_file(path, pid)
  local file = io.open(path)
  if not file then return end
  local written = file:read "n"
  file:close()
  if written == pid then os.remove(path) end
end

--- write_pid_file(path): until the end of the program; which ends where that can't be.
function service.write_pid_file(path)
  local pid = require("moonfork.clone").pid()
  local file, message = io.open(path, "w")
  if not file then cli.fail(cli.UNUSABLE, "%s", message) end
  file:setvbuf "no"
  local ok
  ok, message = file:write(pid, "\n")
  file:close()
  if not ok then cli.fail(cli.UNUSABLE, "%s can't be written: %s", path, message) end
  cli.defer(function() remove_pid_file(path, pid) end)
end

return service
