-- A program that forks itself while forks of its template are on their way leaves the copy with the
-- far ends of their sockets, which do not end then as long as the copy lives. A function that returns
-- at once is told of by that end alone: `run` must be told all the same, and so must its exit.
local story = require "story"
local fork = require "moonfork"
local kit = require "testkit"

local N = 400 -- more than a socket takes of a template that is stopped

story.test("runs are told while a copy of the program holds their sockets", function(t)
  local template <close> = fork.new_exec():eval "function nothing() end"
  t.got(template:fork():run "nothing"):close() -- that clones are ours is known from here on
  local pid = template:pid()
  t.ok(kit.kill(pid, 19))
  local started, ended = 0, 0
  for _ = 1, N do
    template:fork():on_exit(function(status)
      t.eq(status.code, 0)
      ended = ended + 1
    end):run("nothing", function(err, socket)
      t.eq(err, nil)
      socket:close()
      started = started + 1
    end)
  end
  fork.step(0)
  local near, far = fork.socket.pair()
  local copy = kit.fork()
  if copy == 0 then
    near:close()
    far:read "a"
    kit.exit(0)
  end
  far:close()
  t.ok(kit.kill(pid, 18))
  t.within(20, function() return started == N and ended == N end)
  near:close()
  t.eq(kit.waitpid(copy), copy)
end)

story.done()
