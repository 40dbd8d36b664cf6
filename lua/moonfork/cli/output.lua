-- Standard output of a command that has processes to look after: a reader that does not read must
-- not keep the program from Ctrl-C or from its clones, and one that has left ends it quietly.

local terminal = require "moonfork.cli.terminal"

local output = {}

local BUFFER_MAX = 65536
local EPIPE = 32

local target -- a moonfork.socket, or io.stdout
local parts, size = {}, 0
local closed

-- A pipe or a terminal is opened once more, for a description of our own: that one may be made
-- non-blocking without a change for others who have the same one. Files don't block, and the
-- rest can't be opened again.
local function open()
  if terminal.kind(1) ~= "other" then
    target = require("moonfork").socket.open("/proc/self/fd/1", "a")
  end
  if not target then
    io.stdout:setvbuf "no"
    target = io.stdout
  end
end

--- flush(): writes what is buffered. Waits, and drives the reactor meanwhile where it can. Ends the
-- program: with 0 when nobody reads any more, else with 1 and the reason.
function output.flush()
  if size == 0 or closed then return end
  if not target then open() end
  local text = table.concat(parts)
  parts, size = {}, 0
  local ok, message, errno = target:write(text)
  if ok then return end
  closed = true
  local cli = require "moonfork.cli"
  if errno == EPIPE then cli.quit(cli.OK) end
  cli.fail(cli.FAILED, "standard output: %s", message)
end

--- write(text): buffers text, and writes when there is much.
function output.write(text)
  if closed then return end
  parts[#parts + 1] = text
  size = size + #text
  if size >= BUFFER_MAX then output.flush() end
end

--- pending(): whether flush() has something to write.
function output.pending()
  return size > 0
end

return output
