-- A template with spares was given a function that it does not have. It waited for its last
-- clone, as a failed process does, and that was a spare, which nobody ended: its own end was
-- never told.
local story = require "story"
local fork = require "moonfork"

story.test("a template that fails while spares wait for it ends all the same", function(t)
  local p = fork.new_exec {spares = {min = 1, max = 2}}
  t.within(5, function() return p:pid() end)
  local q = p:fork() -- from now on there are spares
  q:close()
  local until_spares = story.kit.now() + 0.2
  t.within(5, function() return story.kit.now() > until_spares end)
  local told
  p:on_exit(function(status) told = status end)
  local socket, err = p:run "nothing_here"
  t.eq(socket, nil)
  t.error(err, "REMOTE", "nothing_here")
  t.within(5, function() return told end, "its end")
  t.eq(told.code, 1)
  p:close()
end)

story.done()
