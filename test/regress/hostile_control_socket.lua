-- Code that runs in a process before `run` can write to its own control socket what it likes.
-- Once that made the parent keep gigabytes of answers to it, read for seconds in one turn,
-- believe in another's pid and kill that process.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function rss()
  local f <close> = assert(io.open("/proc/self/status"))
  return tonumber(f:read("a"):match("VmRSS:%s*(%d+)")) * 1024
end

-- The longest call of the reactor while predicate() is not true, at most so many seconds. In processor
-- time: those that flood it take the processors.
local function worst(seconds, predicate)
  local last, longest = kit.now() + seconds * story.scale, 0
  while not predicate() and kit.now() < last do
    local before = os.clock()
    fork.step(0)
    longest = math.max(longest, os.clock() - before)
    kit.msleep(1)
  end
  return longest
end

story.test("a flood of answers that nobody asked for costs no memory", function(t)
  if story.is_sanitized then t.skip "the sanitizer keeps what is freed" end
  local before = rss()
  local p = fork.new():eval [[
    local hostile = require "hostile"
    hostile.flood(hostile.memory(12345))
  ]]
  local status
  p:on_exit(function(s) status = s end)
  local longest = worst(3, function() return rss() - before > 64 << 20 end)
  t.ok(rss() - before < 16 << 20, "memory")
  t.ok(longest < 0.2 * story.scale, ("one turn took %.0f ms"):format(longest * 1000))
  t.ok(p:kill "KILL")
  t.within(5, function() return status end, "it ends")
  t.eq(status.signal, kit.SIGKILL)
  t.error(select(2, p:run "type"), "CLONE_DIED")
end)

story.test("children of a dead clone flood its socket, and no turn is long", function(t)
  local p = fork.new():eval [[
    local hostile, kit = require "hostile", require "testkit"
    function die()
      for _ = 1, 4 do
        if kit.fork() == 0 then
          kit.deadline(10, 0)
          hostile.flood(hostile.frame(hostile.DONE, 1))
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

-- A process that nobody may harm; ends with `close`.
local function victim(t)
  local pid = kit.fork()
  if pid == 0 then
    kit.deadline(60, 0)
    while true do kit.msleep(1000) end
  end
  return setmetatable({pid = pid}, {__close = function()
    kit.kill(pid, kit.SIGKILL)
    kit.waitpid(pid)
  end}), function() t.ok(t.alive(pid), "the victim lives") end
end

-- Code that says that it runs, under the number in its first argument, and stays.
local SAYS_RUNNING = [[
  local hostile, kit = require "hostile", require "testkit"
  local pid, user, child = ...
  pid = tonumber(pid)
  if child == "true" then
    local mine = kit.fork()
    if mine ~= 0 then kit.waitpid(mine) kit.exit(0) end
    kit.deadline(60, 0)
  end
  if user ~= "" then assert(kit.setuid(tonumber(user))) end
  hostile.say(hostile.RUNNING, pid)
  if child == "noise" then kit.write(hostile.control(), ("x"):rep(100)) end
  while true do kit.msleep(1000) end
]]

story.test("a number that a clone tells of itself is not believed", function(t)
  for _, whose in ipairs{"victim", "parent", "init"} do
    for _, user in ipairs{"", kit.getuid() == 0 and "65534" or nil} do
      local v <close>, lives = victim(t)
      local pid = whose == "victim" and v.pid or whose == "parent" and kit.getpid() or 1
      local p = fork.new():eval(SAYS_RUNNING, pid, user, "false")
      t.got(p:run("type")):close()
      t.ok(p:pid() ~= pid, "the number of " .. whose)
      local ok, err = p:kill(kit.SIGKILL)
      if ok then
        t.eq(t.status(p).signal, kit.SIGKILL)
      else
        t.ok(err, "an error")
      end
      lives()
      p:close()
    end
  end
end)

story.test("nor that of another clone, of a child, or of its template's child", function(t)
  local template = fork.new():eval [[ stranger = io.popen("exec sleep 30") ]]
  local sibling = template:fork()
  local rest = t.got(sibling:eval("function rest(s) s:read('a') end"):run("rest"))
  local p = template:fork():eval(SAYS_RUNNING, sibling:pid(), "", "false")
  t.got(p:run("type")):close()
  t.ok(p:pid() ~= sibling:pid(), "the number of a sibling")
  p:kill(kit.SIGKILL)
  kit.msleep(20)
  t.ok(t.alive(sibling:pid()), "the sibling lives")
  rest:close()
  local q = template:fork():eval(SAYS_RUNNING, kit.getpid(), "", "true")
  t.got(q:run("type")):close()
  t.ok(q:pid() ~= kit.getpid())
  q:kill(kit.SIGKILL)
  q:close()
end)

story.test("nor when its template has ended, nor by from_fd", function(t)
  local v <close>, lives = victim(t)
  local template = fork.new_exec():eval "x = 1"
  local p = template:fork()
  t.within(5, function() return p:pid() end)
  local taken <close> = fork.from_fd(t.got(p:to_fd()))
  taken:eval(([[
    local hostile, kit = require "hostile", require "testkit"
    hostile.say(hostile.HELLO, %d, string.pack("<I4I2I2I8", 0x314b464d, 1, 0, 0))
    hostile.say(hostile.RUNNING, %d)
    while true do kit.msleep(1000) end
  ]]):format(v.pid, v.pid))
  taken:run("type", function() end)
  t.within(5, function() return taken:pid() end)
  t.ok(taken:pid() ~= v.pid)
  taken:kill(kit.SIGKILL)
  kit.msleep(50)
  lives()
end)

story.test("a broken rpc kills nobody but its process", function(t)
  local v <close>, lives = victim(t)
  local p = fork.new():eval(SAYS_RUNNING, v.pid, "", "noise")
  local rpc = p:rpc("echo")
  local _, err = rpc(1)
  t.error(err, "PROTOCOL")
  rpc:close()
  kit.msleep(50)
  lives()
end)

story.done()
