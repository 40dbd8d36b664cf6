-- What a clone changes is its own: environment, directory, limits, the state of C modules,
-- timers and locks. Rows PF-03, 04, 16, 24 and 30. Runs in the parent.
local story = require "story"
local fork = require "moonfork"
local kit = require "testkit"

story.test("PF-03 the environment is private, and what a clone executes sees it", function(t)
  local template = fork.new_exec{env = {PF03 = "template"}}
  local changed = template:fork():setenv("PF03", "clone")
  local gone = template:fork():setenv("PF03", nil)
  local code = [[
    local pipe = io.popen('printf %s "${PF03-unset}"')
    local text = pipe:read("a")
    pipe:close()
    return os.getenv("PF03"), text
  ]]
  local mine, commands = t.ask(changed, code)
  t.eq({mine, commands}, {"clone", "clone"}, "the clone that changed it")
  mine, commands = t.ask(gone, code)
  t.eq(mine, nil, "the clone that removed it")
  t.eq(commands, "unset")
  mine, commands = t.ask(template:fork(), code)
  t.eq({mine, commands}, {"template", "template"}, "a sibling")
  t.eq((t.ask(template, code)), "template", "the template itself")
  t.eq(os.getenv("PF03"), nil, "the app")
end)

story.test("PF-04 the working directory and the file mode mask are private", function(t)
  local folder = t:tmp()
  t:file("relative.txt", "found\n")
  t:file("pf04_relative.lua", "return {where = 'relative'}\n")
  local template = fork.new_exec()
  local before, mask = t.ask(template:fork(), [[
    local kit = require "testkit"
    return kit.getcwd(), kit.umask()
  ]])
  local moved = template:fork():chdir(folder)
  local cwd, line, where = t.ask(moved, [[
    local kit = require "testkit"
    kit.umask(tonumber("077", 8))
    local line = io.open("relative.txt"):read("l")
    package.path = "./?.lua"
    return kit.getcwd(), line, require("pf04_relative").where
  ]])
  t.eq(cwd, folder)
  t.eq(line, "found", "io.open follows the directory")
  t.eq(where, "relative", "and so does require")
  local inside = template:fork()
  t.ask(inside, [[ require("testkit").chdir("/") require("testkit").umask(0) return 1 ]])
  local code = "local kit = require 'testkit' return kit.getcwd(), kit.umask()"
  t.eq({t.ask(template:fork(), code)}, {before, mask}, "a sibling")
  t.eq({t.ask(template, code)}, {before, mask}, "the template")
end)

story.test("PF-16 resource limits are a clone's own", function(t)
  local template = fork.new_exec()
  local low = template:fork():limit{nofile = 32}
  local code = [[
    local files = {}
    for i = 1, 60 do
      local f, message, errno = io.open("/dev/null")
      if not f then return i, errno end
      files[i] = f
    end
    return "all"
  ]]
  local at, errno = t.ask(low, code)
  t.ok(math.type(at) == "integer" and at <= 32, "it stops at " .. tostring(at))
  t.eq(errno, 24, "EMFILE")
  t.eq((t.ask(template:fork(), code)), "all", "a sibling")
  local parent = template:fork():limit{nofile = 40, core = 0}
  local heir = parent:fork()
  t.ok(math.type((t.ask(heir, code))) == "integer", "clones of a limited process inherit")
  t.eq((t.ask(template, code)), "all", "the template")
  parent:close()
end)

story.test("PF-24 static data of C modules is a private copy", function(t)
  local template = fork.new_exec():require("testkit"):eval [[
    for i = 1, 5 do require("testkit").count() end
  ]]
  local code = "local n = require('testkit').count() return n, require('testkit').count()"
  for _ = 1, 3 do t.eq({t.ask(template:fork(), code)}, {6, 7}) end
  t.eq({t.ask(template, code)}, {6, 7}, "the template")
end)

story.test("PF-30 timers, pending signals and processor time are not inherited", function(t)
  local template = fork.new_exec():eval [[
    local kit = require "testkit"
    kit.itimer(200) -- SIGALRM, counted here
    kit.disposition(kit.SIGUSR1, "count")
    kit.block(kit.SIGUSR1)
    kit.kill(kit.getpid(), kit.SIGUSR1) -- pending in the template
    local before = os.clock()
    while os.clock() - before < 0.3 do end
  ]]
  local left, pending, clock, blocked = t.ask(template:fork(), [[
    local kit, fkit = require "testkit", require "faultkit"
    local left = fkit.itimer_left()
    kit.msleep(500) -- longer than the template's interval
    return left, fkit.pending(kit.SIGUSR1), os.clock(), require("actor").status_bits("SigBlk")
  ]])
  t.eq(left + 0.0, 0.0, "seconds left of an interval timer")
  t.eq(pending, false)
  t.eq(blocked, 0, "blocked signals")
  t.ok(clock < 0.1, "processor time starts near 0, not at " .. clock)
  template:close()
end)

story.test("PF-30 record locks are not inherited, locks of descriptions are shared", function(t)
  local path = t:file("locked", "x")
  local template = fork.new_exec():eval([[
    local kit = require "testkit"
    record = kit.open((...), "rw")
    whole = kit.open((...) .. ".flock", "rw")
    assert(kit.lock(record, "record"))
    assert(kit.lock(whole, "flock"))
  ]], path)
  local taken, holder, shared, other = t.ask(template:fork(), [[
    local kit, fkit = require "testkit", require "faultkit"
    local path = require("faultkit").readlink("/proc/self/fd/" .. whole)
    return kit.lock(record, "record") or false, fkit.getlk(record), kit.lock(whole, "flock"),
      kit.lock(kit.open(path, "rw"), "flock") or false
  ]])
  t.eq(taken, false, "the template's record lock keeps the clone out")
  t.eq(holder, template:pid(), "and the holder is the template")
  t.eq(shared, true, "the inherited description holds the flock already")
  t.eq(other, false, "a description of its own does not")
  template:close()
end)

story.test("PF-30 priority, session, group and mask of file modes are inherited", function(t)
  local template = fork.new_exec():eval [[
    local kit, fkit = require "testkit", require "faultkit"
    fkit.nice(19) -- what everybody may set, whatever it is
    kit.umask(tonumber("027", 8))
  ]]
  local nice, mask, session, group, parent = t.ask(template:fork(), [[
    local kit, fkit = require "testkit", require "faultkit"
    return fkit.nice(), kit.umask(), kit.getsid(), kit.getpgid(), kit.getppid()
  ]])
  t.eq(nice, 19)
  t.eq(mask, tonumber("027", 8))
  t.eq(session, kit.getsid())
  t.eq(parent, kit.getpid())
  t.eq(group, kit.getpgid(parent))
  local apart, own = t.ask(template:fork{session = "new"}, [[
    local kit = require "testkit"
    return kit.getsid(), kit.getpid()
  ]])
  t.eq(apart, own, "session='new'")
  template:close()
end)

story.done()
