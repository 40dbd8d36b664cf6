-- A template was asked for many forks at once, and could not make some of them. A clone that it made later
-- answered first, by which the parent took the earlier forks for made, too: the refusal of one was then a
-- broken protocol, or, where the end of its socket came first, the death of a clone.
local story = require "story"
local fork = require "moonfork"

-- The interpreter can't be copied for a thread; for a process it can.
story.test("a fork that is refused says why, though a later one has answered", {deadline = 30}, function(t)
  local template = fork.new_exec():eval [[
    held = io.popen("exit", "r")
    function hello(socket) socket:write "hello" end
  ]]
  t.eq((t.ask(template:fork(), "return 1")), 1, "it has started")
  for _, runs in ipairs {false, true} do
    local told, idle, good, refused = 0, {}, 0, 0
    local function check(socket, err)
      t.eq(socket, nil)
      t.error(err, "UNSUPPORTED")
      t.eq(err.started, "no")
      refused = refused + 1
    end
    for i = 1, 60 do
      if i % 3 ~= 1 or i > 45 then
        template:fork():run("hello", function(err, socket)
          told = told + 1
          t.eq(err, nil)
          good = good + 1
          socket:close()
        end)
      elseif runs then
        template:fork {isolation = "thread"}:run("hello", function(err, socket)
          told = told + 1
          check(socket, err)
        end)
      else -- it has nothing to say for itself
        idle[#idle + 1] = template:fork {isolation = "thread"}:eval "x = 1"
      end
    end
    t.within(20, function() return told == (runs and 60 or 45) end)
    for _, p in ipairs(idle) do
      check(p:run "hello")
      p:close()
    end
    t.eq({good, refused}, {45, 15})
  end
  t.eq((t.ask(template:fork(), "return 1")), 1, "the template goes on")
  template:close()
end)

story.done()
