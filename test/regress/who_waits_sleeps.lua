-- Whoever waits uses no processor time: an idle template that had executed code asked the
-- kernel for a timeout of zero, for ever, while it had no clone. Here is each way in which a
-- process of the library, or the parent, waits for somebody.
local fork = require "moonfork"
local story = require "story"
local host = require "host"
local kit = story.kit

-- Its pid is known when everything before was executed.
local function ready(t, p)
  t.within(5, function() return p:pid() end, "its pid")
  return p
end

story.test("templates that have executed something, without and with clones", function(t)
  local bare = ready(t, fork.new():eval "x = 1")
  local executed = ready(t, fork.new_exec():eval "x = 1")
  t.sleeps("after eval")
  local sealed = ready(t, fork.new():eval("x = 1"):seal())
  t.sleeps("after seal")
  local with = fork.new():eval "function rest(s) s:read('a') end"
  local clone = with:fork()
  local socket = t.got(clone:run("rest"))
  t.sleeps("with a clone")
  socket:close()
  t.status(clone)
  t.sleeps("after its clone")
  local spares = fork.new_exec{spares = {min = 1, max = 3}}:eval "function rest(s) s:read('a') end"
  t.got(spares:fork():run("rest")):close()
  t.sleeps("with spares")
  t.ok(bare:pid() and executed:pid() and sealed:pid())
end)

story.test("templates that have failed, or were closed, while clones of theirs live", function(t)
  local source = "function rest(s) s:read('a') end"
  local failed, closed, ran = fork.new():eval(source), fork.new_exec():eval(source),
    fork.new():eval(source)
  local sockets = {}
  for i, p in ipairs{failed, closed, ran} do sockets[i] = t.got(p:fork():run("rest")) end
  fork.on_error(function() end)
  failed:eval "error 'on purpose'"
  local _, err = failed:fork():run("rest")
  t.error(err, "REMOTE")
  closed:close()
  sockets[4] = t.got(ran:run("rest")) -- it stays for its clone
  t.sleeps("failed, closed, running")
  for _, socket in ipairs(sockets) do socket:close() end
end)

story.test("children of user code that end in an idle template", function(t)
  local p = ready(t, fork.new():eval [[
    local f = io.popen("sleep 0.05")
    f:close()
    os.execute "true"
    hold = io.popen("sleep 0.2") -- ends while the template waits
  ]])
  kit.msleep(300)
  t.sleeps()
  t.ok(p:pid())
end)

story.test("workers, calls under way, and a full queue", function(t)
  local functions = [[
    function nap(seconds) require("testkit").msleep(seconds * 1000) return true end
    function echo(...) return ... end
  ]]
  local rpc <close> = fork.new():eval(functions):rpc("echo")
  t.eq(t.got(rpc(1)), 1)
  t.sleeps("an idle rpc")
  local pool <close> = fork.new():eval(functions):pool("nap", {max = 2, queue_max = 2})
  t.ok(t.got(pool(0)))
  t.sleeps("an idle pool")
  local done = 0
  for _ = 1, 4 do pool(0.6, function() done = done + 1 end) end
  t.sleeps("calls that take long, and others that wait for them")
  t.within(5, function() return done == 4 end)
end)

story.test("a worker on luv", {needs = "luv"}, function(t)
  local rpc <close> = fork.new():eval "function echo(done, ...) done(...) end":rpc("echo",
    {async = true})
  t.eq(t.got(rpc(1)), 1)
  t.sleeps()
end)

story.test("a copy of this interpreter, and what was given away and taken up", function(t)
  local copy <close> = fork.template()
  copy:eval "x = 1"
  ready(t, copy)
  t.sleeps("a copy")
  local p = fork.new():eval "x = 1"
  local taken <close> = fork.from_fd(t.got(p:to_fd()))
  taken:eval "y = 1"
  ready(t, taken)
  t.sleeps("taken up")
end)

story.test("a parent that waits for a stopped process", function(t)
  local p = ready(t, fork.new())
  t.ok(p:kill(kit.SIGSTOP))
  local text = ("x"):rep(100000)
  for _ = 1, 20 do p:send_arg(text) end -- more than the socket takes
  t.sleeps("with commands that the socket does not take")
  t.ok(p:kill(kit.SIGCONT))
end)

story.test("a process in its function, whose children hold its sockets", function(t)
  local p = fork.new():eval [[
    function hold(s)
      io.popen("exec sleep 1 >/dev/null")
      require("testkit").exit(0)
    end
  ]]
  local socket = t.got(p:run("hold"))
  t.status(p)
  t.sleeps()
  socket:close()
end)

story.test("calls that a stopped worker does not take", function(t)
  local p = fork.new():eval "function echo(...) return ... end"
  local rpc = p:rpc("echo")
  t.eq(t.got(rpc(1)), 1)
  t.ok(p:kill(kit.SIGSTOP))
  local told = 0
  for _ = 1, 100 do rpc(("x"):rep(20000), function() told = told + 1 end) end
  t.sleeps("with calls on their way and others parked")
  t.ok(p:kill(kit.SIGCONT))
  t.within(10, function() return told == 100 end)
  rpc:close()
end)

story.test("an answer that a stopped parent's socket does not take", function(t)
  local p = fork.new():eval [[
    function f(socket) socket:write(("x"):rep(4000000)) end
    function big() return ("x"):rep(4000000) end
  ]]
  local socket = t.got(p:fork():run("f"))
  local code = [[
    local fork, kit = require "moonfork", require "testkit"
    local p = fork.new():eval "function big() return ('x'):rep(8000000) end"
    p:rpc("big")(function() end)
    fork.step(0)
    kit.msleep(2000) -- does not turn its loop
  ]]
  local pid = kit.fork()
  if pid == 0 then kit.exit(select(2, t:lua(code)) or 1) end
  kit.msleep(500)
  t.sleeps()
  socket:close()
  kit.waitpid(pid)
end)

story.test("a socket that says nothing, taken up", function(t)
  local a, b = fork.socket.pair()
  local p = fork.from_fd(a)
  p:eval "x = 1"
  t.sleeps()
  a:close()
  b:close()
  t.error(select(2, p:wait(5)), "TEMPLATE_START")
  p:close()
end)

story.test("processes that hang up and live on", function(t)
  local p = fork.new():eval [[
    local hostile, kit = require "hostile", require "testkit"
    kit.close(hostile.control())
    kit.msleep(3000)
  ]]
  t.within(10, function() return p:pid() end) -- it is forked; whether at once is not promised
  t.sleeps()
  t.ok(t.alive(p:pid()))
  local worker = fork.new():eval [[
    local hostile, kit = require "hostile", require "testkit"
    function quiet() kit.close(hostile.control()) kit.msleep(3000) end
  ]]
  local rpc = worker:rpc("quiet")
  local err
  rpc(function(e) err = e end)
  t.sleeps("an rpc")
  t.within(5, function() return err end)
  fork.on_error(function() end)
  rpc:close()
  p:wait(5)
end)

-- Such a socket is writable, so no poll waits for it.
for _, row in ipairs{{"a template", function(p) p:eval "x = 1" end},
                     {"a worker", function(p) return p:rpc("type") end},
                     {"a function", function(p)
                       p:eval "function f(s) while true do s:write('x') end end"
                       return (p:run("f"))
                     end}} do
  story.test(row[1] .. " whose kernel has no memory for what it sends", function(t)
    local shim = host.tool(t, "shim.so")
    if story.is_sanitized then t.skip "another library must come first" end
    kit.setenv("LD_PRELOAD", shim)
    kit.setenv("FAIL_FN", "sendmsg")
    kit.setenv("FAIL_AT", row[1] == "a template" and "2" or "6")
    local p = fork.new_exec{program = host.plain_template(t)}
    t.within(5, function() return p:pid() end)
    for _, name in ipairs{"LD_PRELOAD", "FAIL_FN", "FAIL_AT"} do kit.setenv(name, nil) end
    local maps
    t.outside(5, function()
      maps = t.read("/proc/" .. p:pid() .. "/maps") or ""
      return maps:find("libc", 1, true) and maps:find("moonfork-template", 1, true)
    end, "it has been executed")
    if not maps:find("shim.so", 1, true) then
      p:close()
      t.skip("the template does not take preloaded libraries")
    end
    local hold = row[2](p)
    local told = row[1] ~= "a worker"
    if row[1] == "a worker" then hold(1, function() end) end
    t.sleeps()
    fork.on_error(function() told = true end) -- of what is killed here
    p:kill(kit.SIGKILL)
    t.within(5, function() return not t.alive(p:pid()) end)
    if row[1] ~= "a worker" then p:wait(5) end -- which reports the end
    if hold then hold:close() end
    p:close()
    t.within(5, function() return told end)
  end)
end

story.done()
