-- Thousands of processes that end at the same instant kept the loop busy for 20 ms in one turn:
-- libuv hands out 1,024 events a time, 48 times, and each exit was a handle of its own. Now a
-- turn takes a bounded number of exits, and the others wait for the next one.
local story = require "story"
local fork = require "moonfork"
local testkit = require "testkit"

local function read(path)
  local file = io.open(path)
  local text = file and file:read "a"
  if file then file:close() end
  return text or ""
end

-- How many more processes there may be: numbers, of this user, and in this container.
local function room()
  local running = 0
  for _ in pairs(testkit.processes()) do running = running + 1 end
  local limit = tonumber(read "/proc/self/limits":match "Max processes%s+(%d+)") or math.huge
  local most = tonumber(read "/sys/fs/cgroup/pids.max") or math.huge
  local numbers = tonumber(read "/proc/sys/kernel/pid_max") or math.huge
  return math.min(limit - running, numbers - running, most - (tonumber(read "/sys/fs/cgroup/pids.current") or running))
end

-- An eighth of it: what else runs here needs some, too. Each has a descriptor while it lives, and more at
-- its start.
testkit.setrlimit("nofile", math.min(select(2, testkit.getrlimit "nofile"), 20000))
local N = math.min(6000, room() // 8 | 0, testkit.getrlimit "nofile" // 3)
N = story.scale > 1 and 300 or math.max(300, N)
-- What bounds a turn is the number of ends in it, however fast the machine is: the poller hands out
-- 64, and those that waited behind callbacks of collected objects come with them, but no step tells
-- more than 256. A step of Lua's collector that can't be divided (6,000 objects with their functions
-- are 9 MB) or the machine's own work may make a few turns longer.
local ENDS_MAX = 256
local LONGEST = 0.005 * story.scale

story.test("no turn of the loop is long when thousands end at once", {deadline = 60}, function(t)
  local near, far = fork.socket.pair()
  local template = fork.new_exec():eval "function rest(_, gate) gate:read(1) end"
  local started, ended = 0, 0
  for i = 1, N do
    local p = template:fork():send_fd(far)
    p:on_exit(function(status)
      t.eq(status.code, 0)
      ended = ended + 1
    end)
    p:run("rest", function(err, socket)
      assert(not err, err)
      socket:close()
      started = started + 1
    end)
    while started < i - 200 do fork.step(1) end
  end
  while started < N do fork.step(1) end
  far:close()
  near:close() -- the end of file for all
  testkit.msleep(1500 * story.scale) -- nobody looks while they end
  local most, times = 0, {}
  while ended < N do
    local before, ended_before = os.clock(), ended
    fork.step(0)
    times[#times + 1] = os.clock() - before
    most = math.max(most, ended - ended_before)
  end
  t.ok(most <= ENDS_MAX, ("a turn took %d ends"):format(most))
  table.sort(times)
  local took = times[#times * 9 // 10]
  t.ok(took <= LONGEST, ("one of ten turns took %.1f ms and more"):format(took * 1000))
  template:close()
end)

-- All that had completed was told in one step: 20,000 timers of one moment took it 20 ms.
story.test("a step of the reactor tells a bounded number of completions", function(t)
  local TIMERS, TOLD_MAX = 1000, 256
  local told, order = 0, true
  for i = 1, TIMERS do
    fork.timer(0.01, function()
      told = told + 1
      order = order and told == i
    end)
  end
  testkit.msleep(30) -- nobody looks while they become due
  while told < TIMERS do
    local before = told
    local more = fork.step(1)
    t.eq(more, told < TIMERS)
    t.ok(told - before <= TOLD_MAX, ("a step told %d"):format(told - before))
  end
  t.ok(order, "they are told in the order in which they were due")
end)

story.done()
