-- fork.signal: signals of the program, in every loop mode. Section 1.5 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function raise(name) kit.kill(kit.getpid(), kit["SIG" .. name]) end

local function bits(what)
  for line in io.lines "/proc/self/status" do
    local hex = line:match("^" .. what .. ":%s*(%x+)")
    if hex then return tonumber(hex, 16) end
  end
end

local function dispositions() return {bits "SigCgt", bits "SigIgn", bits "SigBlk"} end

story.test("callback(name) for each signal, later, from the reactor", function(t)
  local seen = {}
  t.eq(fork.signal("USR1", function(...) seen[#seen + 1] = table.concat({...}, ",") end), true)
  t.eq(fork.signal("SIGUSR2", function(name) seen[#seen + 1] = name end), true)
  for _ = 1, 3 do raise "USR1" end
  raise "USR2"
  t.eq(seen, {})
  t.within(5, function() fork.step() return #seen == 4 end)
  table.sort(seen)
  t.eq(seen, {"USR1", "USR1", "USR1", "USR2"})
  fork.signal("usr1", nil)
  fork.signal(kit.SIGUSR2, nil)
end)

story.test("a second callback replaces the first; nil takes it back; nil again is nothing", function(t)
  local before = dispositions()
  local log = {}
  fork.signal("USR1", function() log[#log + 1] = "first" end)
  fork.signal("USR1", function() log[#log + 1] = "second" end)
  raise "USR1"
  fork.step()
  t.eq(log, {"second"})
  t.eq(fork.signal("USR1", nil), true)
  t.eq(fork.signal("USR1", nil), true)
  t.eq(fork.signal("WINCH"), true)
  t.eq(dispositions(), before)
end)

story.test("taken back while some wait to be told: those are not told", function(t)
  local n = 0
  fork.signal("USR1", function()
    n = n + 1
    fork.signal("USR1", nil)
  end)
  for _ = 1, 3 do raise "USR1" end
  fork.loop()
  fork.step()
  t.eq(n, 1)
end)

story.test("the disposition that was there is put back: a handler, ignored, the default", function(t)
  local before = dispositions()
  for _, how in ipairs {"count", "ignore", "default"} do
    kit.disposition(kit.SIGUSR1, how)
    local there = dispositions()
    local n = 0
    fork.signal("USR1", function() n = n + 1 end)
    raise "USR1"
    fork.step()
    fork.signal("USR1", nil)
    t.eq(n, 1, how)
    t.eq(dispositions(), there, how)
    if how ~= "default" then raise "USR1" end
    if how == "count" then t.ok(kit.count(kit.SIGUSR1) == 1, "the handler is at work again") end
  end
  kit.disposition(kit.SIGUSR1, "default")
  t.eq(dispositions(), before)
end)

story.test("a handler that somebody put there meanwhile stays", function(t)
  fork.signal("USR1", function() end)
  kit.disposition(kit.SIGUSR1, "ignore")
  fork.signal("USR1", nil)
  t.ok(bits "SigIgn" & (1 << (kit.SIGUSR1 - 1)) ~= 0)
  kit.disposition(kit.SIGUSR1, "default")
end)

story.test("misuse raises: signals that can't be had, and names that there are not", function(t)
  for _, name in ipairs {"CHLD", "KILL", "STOP", "SIGCHLD", "sigkill", kit.SIGSTOP, 0} do
    t.raises("%.lua:%d+: bad argument #1 to 'signal' %(.* can't be watched", fork.signal,
      name, print)
    t.raises("can't be watched", fork.signal, name, nil)
  end
  t.raises("unknown signal 'NOPE'", fork.signal, "NOPE", print)
  t.raises("there is no signal 1000", fork.signal, 1000, print)
  t.raises("name or number of a signal expected, got nil", fork.signal, nil, print)
  t.raises("#2 to 'signal' %(function expected, got string", fork.signal, "USR1", "f")
end)

story.test("it does not keep loop waiting, and wakes a step", function(t)
  local seen
  fork.signal("ALRM", function(name) seen = name end)
  fork.loop()
  t.eq(fork.step(), false)
  local long = fork.timer(60, function() end)
  os.execute(("(sleep 0.1; kill -ALRM %d) &"):format(kit.getpid()))
  local t0 = kit.now()
  fork.step(20)
  t.ok(kit.now() - t0 < 10)
  t.eq(seen, "ALRM")
  long:close()
  fork.signal("ALRM", nil)
end)

story.test("callbacks may wait, raise, and run inside of waiting calls", function(t)
  local log, errors = {}, {}
  fork.on_error(function(err) errors[#errors + 1] = err end)
  fork.signal("USR1", function()
    log[#log + 1] = t.ask(fork.new(), "return 'answer'")
    error("raised", 0)
  end)
  raise "USR1"
  fork.sleep(0)
  t.within(5, function() fork.step(0.01) return #log == 1 end)
  t.eq({log, errors}, {{"answer"}, {"raised"}})
  fork.on_error(nil)
  fork.signal("USR1", nil)
end)

story.test("processes that are started have the defaults; the copy of the program, too", function(t)
  local n = 0
  fork.signal("USR1", function() n = n + 1 end)
  fork.signal("TERM", function() n = n + 1 end)
  local ask = "return require 'actor'.status_bits 'SigCgt', require 'actor'.status_bits 'SigBlk'"
  local function check(p)
    local caught, blocked = t.ask(p, ask)
    t.eq({caught & (1 << (kit.SIGUSR1 - 1) | 1 << (kit.SIGTERM - 1)), blocked}, {0, 0})
  end
  check(fork.new())
  local copy = fork.template()
  check(copy:fork())
  local victim = copy:fork():eval [[function f(s) s:write 'in\n' s:read 'a' end]]
  local socket = t.got(victim:run "f")
  t.eq(socket:read "l", "in")
  victim:kill "TERM"
  t.eq(t.status(victim).signal, kit.SIGTERM)
  socket:close()
  copy:close()
  local pid = kit.fork()
  if pid == 0 then
    raise "TERM" -- ends it by the default
    kit.exit(0)
  end
  local _, how, number = kit.waitpid(pid)
  t.eq({how, number}, {"signal", kit.SIGTERM})
  fork.step()
  t.eq(n, 0, "what came to others is not told here")
  fork.signal("USR1", nil)
  fork.signal("TERM", nil)
end)

story.test("a signal in the middle of many forks of the program is told once", {deadline = 40},
  function(t)
    local n, sent = 0, 0
    fork.signal("USR1", function() n = n + 1 end)
    for _ = 1, 30 do
      local pid = kit.fork()
      if pid == 0 then kit.exit(0) end
      raise "USR1"
      sent = sent + 1
      kit.waitpid(pid)
      fork.step()
    end
    fork.step()
    t.eq(n, sent)
    fork.signal("USR1", nil)
  end)

story.test("the end of the state puts dispositions back, and ends by the signal work again", function(t)
  local out, code = t:lua [[
    local fork = require "moonfork"
    fork.signal("INT", function() print "told" os.exit(0, true) end)
    local kit = require "testkit"
    kit.kill(kit.getpid(), kit.SIGINT)
    fork.sleep(5)
  ]]
  t.eq({out, code}, {"told\n", 0})
end)

-- ---- other loops ----

story.test("luv: both watch one signal, whoever comes and goes first", {needs = "luv"}, function(t)
  local out, code, err = t:lua [[
    local fork, uv, kit = require "moonfork", require "luv", require "testkit"
    require "moonfork.luv"
    local log = {}
    local function luv()
      local s = uv.new_signal()
      s:start("sigusr1", function() log[#log + 1] = "luv" end)
      return s
    end
    local function moonfork()
      fork.signal("USR1", function() log[#log + 1] = "moonfork" end)
    end
    local function raise()
      kit.kill(kit.getpid(), kit.SIGUSR1)
      fork.timer(0.02, function() uv.stop() end)
      uv.run()
      table.sort(log)
      io.write(table.concat(log, " "), ";")
      log = {}
    end
    local s = luv() moonfork() raise()
    s:close() raise()
    s = luv() raise()
    fork.signal("USR1", nil) raise()
    moonfork() s:close() raise()
    fork.signal("USR1", nil)
    io.write "end\n"
    for line in io.lines "/proc/self/status" do
      local hex = line:match "^SigCgt:%s*(%x+)"
      if hex then print(tonumber(hex, 16) & 1 << (kit.SIGUSR1 - 1)) end
    end
  ]]
  t.eq({out, code, err}, {"luv moonfork;moonfork;luv moonfork;luv;moonfork;end\n0\n", 0, ""})
end)

story.test("luv: signals alone don't keep uv.run, and reach it", {needs = "luv"}, function(t)
  local out, code, err = t:lua [[
    local fork, uv, kit = require "moonfork", require "luv", require "testkit"
    require "moonfork.luv"
    fork.signal("TERM", function(name) print(name) uv.stop() end)
    uv.run()
    print "returned"
    local timer = uv.new_timer()
    timer:start(30000, 0, function() end)
    os.execute("(sleep 0.1; kill -TERM " .. kit.getpid() .. ") &")
    uv.run()
  ]]
  t.eq({out, code, err}, {"returned\nTERM\n", 0, ""})
end)

story.test("cqueues and a waiter: a signal wakes the coroutine that waits", {needs = "cqueues"},
  function(t)
    local out, code, err = t:lua [[
      local cqueues, fork, kit = require "cqueues", require "moonfork", require "testkit"
      local cq = cqueues.new()
      fork.set_waiter(function(reactor, timeout)
        cqueues.poll(reactor, timeout)
        reactor:step()
      end)
      local seen
      fork.signal("HUP", function(name) seen = name end)
      cq:wrap(function()
        kit.kill(kit.getpid(), kit.SIGHUP)
        fork.sleep(0.05)
        print(seen)
      end)
      assert(cq:loop())
    ]]
    t.eq({out, code, err}, {"HUP\n", 0, ""})
  end)

-- On a terminal the template of the program gets it, too. What the loop has to do then is nothing to
-- tell Lua, and the wait went on.
story.test("Ctrl-C ends a wait, also where processes end by it in the same moment", {deadline = 60},
  function(t)
    local waits = {
      wait = "p:wait()", read = "socket:read 'l'", sleep = "fork.sleep(30)",
      run = "template:fork{session = 'new'}:eval 'hang()':run 'f'",
      rpc = "template:fork{session = 'new'}:rpc 'hang' ()",
    }
    for name, wait in pairs(waits) do
      for _ = 1, 3 do
        local _, code, err = t:lua([[
          local fork = require "moonfork"
          local template = fork.new_exec():eval [=[
            function f(s) s:read "a" end
            function hang()
              local near, far = require "moonfork.clone".pipe()
              near:read "a"
            end
          ]=]
          local p = template:fork{session = "new"}
          local socket = assert(p:run "f")
          os.execute "(sleep 0.2; kill -INT 0) &"
          ]] .. wait, {before = "setsid", deadline = 10})
        t.eq({name, code, err:match "interrupted!"}, {name, 1, "interrupted!"})
      end
    end
  end)

story.done()
