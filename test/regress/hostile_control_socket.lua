-- Code that runs in a process before `run` can write to its own control socket what it likes.
-- Once that made the parent keep gigabytes of acknowledgements, read for seconds in one turn,
-- believe in another's pid and kill that process.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function rss()
  local f <close> = assert(io.open("/proc/self/status"))
  return tonumber(f:read("a"):match("VmRSS:%s*(%d+)")) * 1024
end

-- The longest call of the reactor while predicate() is not true, at most so many seconds.
local function worst(seconds, predicate)
  local last, longest = kit.now() + seconds * story.scale, 0
  while not predicate() and kit.now() < last do
    local before = kit.now()
    fork.step(0)
    longest = math.max(longest, kit.now() - before)
    kit.msleep(1)
  end
  return longest
end

story.test("a flood of exit reports of unknown processes costs no memory", function(t)
  local before = rss()
  local p = fork.new():eval [[
    local hostile = require "hostile"
    hostile.flood(hostile.exited(12345, 1))
  ]]
  local status
  p:on_exit(function(s) status = s end)
  t.eq(p:pid(), nil) -- which sends the fork
  worst(15, function() return status or rss() - before > 64 << 20 end)
  t.ok(rss() - before < 16 << 20, "memory")
  t.ok(status, "it ends")
  t.eq(status.signal, kit.SIGKILL)
  local _, err = p:wait()
  t.error(err, "PROTOCOL")
end)

story.test("children of a dead clone flood its socket, and no turn is long", function(t)
  local p = fork.new():eval [[
    local hostile, kit = require "hostile", require "testkit"
    function die()
      for _ = 1, 4 do
        if kit.fork() == 0 then
          kit.deadline(10, 0)
          hostile.flood(hostile.frame(hostile.DONE, 0))
          kit.exit(0)
        end
      end
      kit.msleep(100)
      kit.kill(kit.getpid(), kit.SIGKILL)
    end
  ]]
  p:eval "die()"
  local err
  p:run("type", function(e) err = e end)
  local longest = worst(15, function() return err end)
  t.error(err, "CLONE_DIED")
  t.ok(longest < 0.2 * story.scale, ("one turn took %.0f ms"):format(longest * 1000))
end)

story.done()
