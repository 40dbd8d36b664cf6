-- A process was given run while clones of it had just ended. The parent still acknowledged
-- their exits on the control socket, behind the run command: the bytes reached the function
-- as if the user had sent them, and where nobody read them the answer's end became
-- "Connection reset by peer".
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("no acknowledgement of an exit reaches the function's socket", {deadline = 60},
  function(t)
    for round = 1, 60 do
      local p = fork.new():eval [[
        function g(socket)
          local text = socket:read "a"
          socket:write(#text)
        end
      ]]
      local a, b = p:fork(), p:fork()
      a:run("type", function() end)
      b:run("type", function() end)
      t.within(5, function() return a:pid() and b:pid() end)
      kit.msleep(round % 5) -- the reports wait in the socket, or are still to come
      local socket = t.got(p:run "g")
      kit.msleep(2)
      socket:shutdown "w"
      t.eq(socket:read "a", "0", "bytes that the function received")
      socket:close()
      t.eq(t.status(p).code, 0)
    end
  end)

story.done()
