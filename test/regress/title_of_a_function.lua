-- The title of a process lost its name when its function began, just when somebody who
-- looks for a busy worker wants to know whose it is.
local story = require "story"
local fork = require "moonfork"

story.test("a running function's title has the name of its process", function(t)
  local p = fork.new {name = "painter"}
  p:eval "function paint(socket) socket:write 'x' socket:read 'a' end"
  local socket = t.got(p:run "paint")
  t.eq(socket:read(1), "x")
  local title = t.read("/proc/" .. p:pid() .. "/cmdline")
  t.match(title, "moonfork: paint painter")
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.done()
