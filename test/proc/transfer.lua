-- Giving processes away: to_fd and from_fd, within a process and between two, and what
-- forked copies of the parent may do. The rows AF-45 to AF-47.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("AF-45 to_fd flushes, then gives the control socket away", function(t)
  local path = t:file "done"
  local p = fork.new():eval("local f = io.open(..., 'w') f:write 'x' f:close()", path)
  local handle = t.got(p:to_fd())
  t.eq(t.read(path), "x", "what was queued is executed")
  t.eq(kit.cloexec(handle:fileno()), true)
  for _, name in ipairs {"eval", "run", "to_fd"} do t.raises("", p[name], p, "x") end
  local calls, given = 0, nil
  fork.new():to_fd(function(err, h)
    t.eq(err, nil)
    calls, given = calls + 1, h
  end)
  t.eq(calls, 0, "the callback is always later")
  t.within(5, function() return given end)
  t.eq(calls, 1)
  handle:close()
  given:close()
end)

-- A template says that a fork is done before the clone has obeyed its options and run its
-- hooks. to_fd of a clone that had been sent nothing took that for success, and the failure
-- went to whoever took the socket up, or to nobody.
story.test("to_fd reports what failed at the birth of a clone that was sent nothing", function(t)
  local hooked = fork.new_exec():eval [[
    require "moonfork.clone".on_fork(function() error "the hook fails" end)
  ]]
  local births = {
    {"EINVAL", "^option cwd /dev/null/none: ", function() return fork.new {cwd = "/dev/null/none"} end},
    {"EINVAL", "^option cwd /dev/null/none: ",
      function() return fork.new():eval "x = 1":fork {cwd = "/dev/null/none"} end},
    {"EINVAL", "^option cwd /dev/null/none: ", function()
      local p = fork.new():fork {cwd = "/dev/null/none"}
      fork.step(0) -- the fork is written by itself
      return p
    end},
    {"REMOTE", "the hook fails", function() return hooked:fork() end},
  }
  for _, birth in ipairs(births) do
    local code, text, make = table.unpack(birth)
    local handle, err = make():to_fd()
    t.eq(handle, nil)
    t.error(err, code, text)
    t.eq(err.started, "no")
    local given
    make():to_fd(function(...) given = table.pack(...) end)
    t.within(5, function() return given end)
    t.error(given[1], code, text)
    t.eq(given[2], nil)
  end
end)

story.test("AF-46 from_fd takes it up; the process is as it was", function(t)
  local p = fork.new():eval "x = 5":send_arg "a"
  local handle = t.got(p:to_fd())
  local q = fork.from_fd(handle)
  handle:close()
  q:send_arg "b"
  local x, args = t.ask(q:fork(), "return x, {select(2, ...)}")
  t.eq({x, args}, {5, {"a", "b"}})
  t.eq({t.ask(q, "return x, {select(2, ...)}")}, {5, {"a", "b"}})
end)

story.test("AF-46 the pid, kill and the notice of the end survive the transfer", function(t)
  local p = fork.new()
  local handle = t.got(p:to_fd())
  local q = fork.from_fd(handle)
  handle:close()
  local pid = t.ask(q, "return require'testkit'.getpid()")
  t.eq(q:pid(), pid)
  local status = t.status(q)
  t.ok(status.unknown == true or status.code == 0)
  local r = fork.from_fd(t.got(fork.new():to_fd()):detach())
  r:require "actor"
  t.got(r:run "actor:hold")
  t.got(r:kill "KILL")
  status = t.status(r)
  t.ok(status.unknown == true or status.signal == kit.SIGKILL)
end)

story.test("AF-46 what it forks from then on is the new owner's", function(t)
  local q = fork.from_fd(t.got(fork.new():to_fd()))
  local clone = q:fork():eval "function f() os.exit(9) end"
  t.got(clone:run "f")
  local status = t.status(clone)
  t.eq({status.code, status.unknown}, {9, nil})
  q:close()
end)

-- It had no slot while the number of its source was not known: it was a child of its source then, and what the
-- kernel tells a parent alone, and its last words, were lost.
story.test("AF-46 a clone that is asked for before the new owner knows the number is its child", function(t)
  for _, make in ipairs {function() return fork.new() end, function() return fork.new_exec():fork() end} do
    local q = fork.from_fd(t.got(make():to_fd()))
    t.eq(q:pid(), nil, "it is not known yet")
    local clone = q:fork():eval [[
      function f(s) s:write(require "moonfork.clone".ppid()) s:close() error "at last" end
    ]]
    local inner = clone:fork()
    t.eq(t.got(clone:run "f"):read "a", tostring(kit.getpid()))
    t.got(inner:run "f")
    for _, process in ipairs {clone, inner} do
      local status = t.status(process)
      t.eq({status.code, status.unknown}, {1, nil})
      t.match(status.error, "at last")
      t.ok(status.rusage and status.rusage.maxrss > 0, "and what it used")
    end
    q:close()
  end
end)

story.test("AF-46 a process is handed to a second process, which uses it there", function(t)
  local p = fork.new_exec():eval "carried = 'across'":send_arg "sent"
  local pid = t.within(5, function()
    fork.step(0.01)
    return p:pid()
  end)
  local handle = t.got(p:to_fd())
  local user = fork.new():eval [[
    function f(socket)
      local fork = require "moonfork"
      local handle = socket:recv_fd()
      local p = fork.from_fd(handle)
      handle:close()
      local clone = p:fork():eval "function g(s, a) s:write(carried, ' ', a) end"
      local s = assert(clone:run "g")
      local text = s:read "a"
      local status = assert(clone:wait(5))
      p:eval "function h(s) s:write(require'testkit'.getpid()) end"
      local pid = assert(p:run "h"):read "a"
      local ended = assert(p:wait(5))
      socket:write(text, "\n", pid, "\n", p:pid(), "\n", status.code, "\n",
        tostring(ended.unknown or ended.code), "\n")
    end
  ]]
  local socket = t.got(user:run "f")
  t.ok(socket:send_fd(handle))
  handle:close()
  t.eq(socket:read "l", "across sent")
  t.eq(socket:read "l", tostring(pid))
  t.eq(socket:read "l", tostring(pid))
  t.eq(socket:read "l", "0")
  t.match(socket:read "l", "^[t0]")
  t.eq(t.status(user).code, 0)
end)

story.test("from_fd of what is no such socket fails, and says so", function(t)
  local a, b = t.got(fork.socket.pair())
  local p = fork.from_fd(a)
  b:write(("garbage "):rep(20))
  local socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "TEMPLATE_START", "^whoever has the other end of that socket does not speak moonfork's "
    .. "protocol %(malformed frame%), and the socket was closed$")
  t.eq(err.started, "no")
  b:close()
  for _, said in ipairs {"", "hello\n", ("\0"):rep(15)} do -- less than a frame
    local c, d = t.got(fork.socket.pair())
    local q = fork.from_fd(c)
    d:write(said)
    d:close()
    socket, err = q:run "type"
    t.eq(socket, nil)
    t.error(err, "TEMPLATE_START", "closed it without the first word of a process")
    t.eq(err.started, "no")
  end
  t.ok(not pcall(function() assert(fork.from_fd(999999):run "type") end))
end)

story.test("AF-47 a forked copy of the parent gets its own template, old objects raise",
  function(t)
    local p = fork.new():require "actor"
    local running = fork.new():require "actor"
    local socket = t.got(running:run "actor:echo")
    local program = t.ask(fork.new(), "return require'testkit'.exec_id()")
    local r, w = kit.pipe()
    local child = kit.fork()
    if child == 0 then
      local ok, text = pcall(function()
        local out = {}
        for _, name in ipairs {"eval", "run", "fork"} do
          out[#out + 1] = tostring(pcall(p[name], p, "type"))
        end
        out[#out + 1] = tostring(pcall(running.kill, running))
        local q = fork.new():eval [[
          function f(s) s:write(require'testkit'.exec_id()) end
        ]]
        local s = assert(q:run "f")
        out[#out + 1] = s:read "a" == program and "shared" or "own"
        out[#out + 1] = tostring(assert(q:wait(5)).code)
        return table.concat(out, " ")
      end)
      kit.write(w, tostring(ok) .. " " .. tostring(text))
      kit.exit(0)
    end
    kit.close(w)
    t.within(10, function() return kit.poll(r, "r", 0) > 0 end)
    t.eq(kit.read(r, 1000), "true false false false false own 0")
    kit.close(r)
    kit.waitpid(child)
    socket:write "the original\n"
    t.eq(socket:read "l", "the original")
    socket:close()
    t.eq(t.status(running).code, 0)
    t.eq(t.got(p:run "actor:given"):read "a", "")
    t.eq(t.ask(fork.new(), "return require'testkit'.exec_id()"), program)
  end)

story.test("a remote process that can't be given away is as it was", function(t)
  local command = { os.getenv "MOONFORK_REMOTE", "agent", os.getenv "MOONFORK_TEMPLATE" }
  local p = fork.remote { command = command }:eval "function twice(x) return 2 * x end"
  t.error(select(2, p:to_fd()), "UNSUPPORTED", "^to_fd: ")
  local told
  t.eq(p:to_fd(function(err) told = err end), p)
  t.eq(told, nil)
  t.within(10, function() return told end)
  t.error(told, "UNSUPPORTED", "^to_fd: ")
  local rpc = p:rpc "twice"
  t.eq(rpc(4), 8)
  rpc:close()
end)

-- The chain's failure comes first, as from any call that ends one.
story.test("to_fd of a remote process or a thread that has failed says of what", function(t)
  local command = { os.getenv "MOONFORK_REMOTE", "agent", os.getenv "MOONFORK_TEMPLATE" }
  local p, template = fork.remote { command = command }, fork.new()
  for _, failed in ipairs { p:send_fd(999999), template:fork { isolation = "thread" }:send_fd(999999) } do
    t.error(select(2, failed:to_fd()), "EINVAL", "^argument #1 of 'send_fd'")
    failed:close()
  end
  template:close()
end)

story.test("AF-47 the copy's end does not end the original's processes", function(t)
  local p = fork.new():require "actor"
  local q = fork.new():require "actor"
  local socket = t.got(q:run "actor:hello")
  socket:read "l"
  local child = kit.fork()
  if child == 0 then kit.exit(0) end
  kit.waitpid(child)
  for _ = 1, 20 do fork.step(0.005) end
  t.ok(t.alive(q:pid()))
  t.got(p:run "actor:given")
  socket:close()
  t.eq(t.status(q).code, 0)
end)

story.done()
