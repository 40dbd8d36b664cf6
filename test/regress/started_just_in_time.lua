-- A host that was busy found the time limit of a process over before it had read that the function was entered. It
-- counted as in time, and its socket was given out shut for reading: the function's answer was lost, and what it
-- wrote next failed.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("a function that is entered in time, of which a busy host reads later", function(t)
  local file = t:file("entered", "")
  local template = fork.new():eval(([[
    function answer(s)
      io.open(%q, "a"):write "x":close()
      s:write(s:read(5), " to you")
    end
  ]]):format(file))
  t.got(template:fork():run("answer")):close()
  t.within(10, function() return t.read(file) == "x" end)
  local err, socket
  template:fork({ timeout = 0.5 }):run("answer", function(e, s) err, socket = e, s end)
  fork.step(0)
  local over, late = kit.now() + 0.6, kit.now() + 10
  while kit.now() < over or (t.read(file) ~= "xx" and kit.now() < late) do kit.msleep(1) end
  t.within(10, function() return err or socket end)
  t.eq(err, nil)
  t.ok(socket:write "hello")
  t.eq(socket:read "a", "hello to you")
  socket:close()
  template:close()
end)

story.done()
