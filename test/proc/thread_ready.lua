-- A small template whose last command was a fork of a thread has the next clone ready: copy, thread and
-- descriptors (doc/thread-clones.md, "A clone made ahead"). Nobody may notice but by the time it takes:
-- each clone begins as the template is at that moment, nothing of an earlier one is in it, and the template
-- ends, forks and fails as without. That one is ready shows in the number of the template's threads.
local story = require "story"
local host = require "host"
local fork = require "moonfork"
local stop = require "stop"
local clone = require "moonfork.clone"
local threads = require "thread_story"
local test, thread, result = threads.test, threads.thread, threads.result
local kit = story.kit

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  seen, text = {}, "template"
  function tells(s, ...)
    local all = {text, #seen, select("#", ...)}
    for _, v in ipairs{...} do all[#all + 1] = type(v) == "string" and v or v:read("a") end
    seen[#seen + 1], text = true, "clone"
    local junk = {}
    for i = 1, 2000 do junk[i] = {tostring(i)} end
    s:write(table.concat(all, " "))
  end
  function here(s) s:write(io.open("mark") and "there" or "elsewhere") end
  function leaves() os.exit(7) end
  function breaks() error "on purpose" end
  function waits(s) s:read("a") end
  function nothing() end
  function computes() while true do end end
  function tells_early(s, gate) -- not by its socket
    gate:write("here")
    gate:close()
    s:read("a")
  end
  function sends(s, handle) s:send_fd(handle) s:write("sent") end
  function hooks(s)
    local before, n = debug.gethook(), 0
    debug.sethook(function() n = n + 1 end, "", 1)
    for _ = 1, 1000 do end
    debug.sethook()
    s:write(tostring(before), " ", n > 1000 and "counted" or n)
  end
  function fails_at_once(s) local x = nil + s end
  function compute(n) local sum = 0 for i = 1, n do sum = sum + i end return sum end
  function late(s) compute(5000) s:write("late ", compute(10)) end
]]

-- The thread of a clone that has ended may be on its way out of the kernel.
local function has_threads(t, p, n)
  t.within(10, function() return threads.number(p:pid()) == n end, n .. " threads")
end

local function ready_template(t, code)
  local p = fork.new_exec():eval(FUNCTIONS .. (code or ""))
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  return p
end

test("one is ready after a fork of a thread, and none after anything else", function(t)
  local p = fork.new_exec():eval(FUNCTIONS)
  t.got(p:memory())
  t.eq(threads.number(p:pid()), 1)
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  has_threads(t, p, 2)
  t.got(p:memory())
  has_threads(t, p, 1)
  result(t, thread(p), "tells")
  has_threads(t, p, 2)
  result(t, p:fork(), "tells")
  has_threads(t, p, 1)
  p:close()
end)

test("a large template has none", function(t)
  local p = fork.new_exec():eval(FUNCTIONS .. "data = {} for i = 1, 30000 do data[i] = {i} end")
  for _ = 1, 3 do t.eq((result(t, thread(p), "tells")), "template 0 0") end
  has_threads(t, p, 1)
  p:close()
end)

test("nothing of a clone is in a later one", function(t)
  local p = ready_template(t)
  for _ = 1, 50 do
    local text, status = result(t, thread(p), "tells")
    t.eq(text, "template 0 0")
    t.eq(status.code, 0)
  end
  for _, case in ipairs { { "leaves", 7 }, { "breaks", 1 } } do
    local _, status = result(t, thread(p), case[1])
    t.eq(status.code, case[2])
    t.eq((result(t, thread(p), "tells")), "template 0 0")
  end
  p:close()
end)

test("each begins as the template is by then", function(t)
  local dir = t:tmp()
  assert(io.open(dir .. "/mark", "w")):close()
  local p = ready_template(t)
  p:eval "text = 'changed'"
  t.eq((result(t, thread(p), "tells")), "changed 0 0")
  p:send_arg "kept"
  t.eq((result(t, thread(p), "tells")), "changed 0 1 kept")
  t.eq((result(t, thread(p), "tells")), "changed 0 1 kept")
  t.eq((result(t, thread(p):send_arg "own", "tells")), "changed 0 2 kept own")
  t.eq((result(t, thread(p), "here")), "elsewhere")
  p:chdir(dir)
  t.eq((result(t, thread(p), "here")), "there")
  t.eq((result(t, thread(p):chdir "/", "here")), "elsewhere")
  t.eq((result(t, thread(p), "here")), "there")
  p:close()
end)

test("arguments and handles come to it", function(t)
  local p = ready_template(t)
  for i = 1, 5 do
    local reader, writer = clone.pipe()
    local q = thread(p):send_arg("a" .. i):send_fd(reader):send_arg(("y"):rep(3000))
    reader:close()
    writer:write("through")
    writer:close()
    t.eq((result(t, q, "tells")), "template 0 3 a" .. i .. " through " .. ("y"):rep(3000))
  end
  p:close()
end)

test("handles for which the template has no room are refused, and it lives on", function(t)
  local p = fork.new_exec():eval(FUNCTIONS):limit { nofile = 16 }
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  has_threads(t, p, 2)
  local q = thread(p)
  local reader, writer = clone.pipe()
  for _ = 1, 20 do q:send_fd(reader) end
  local _, err = q:run("tells")
  t.error(err, "LIMIT", "descriptor")
  t.eq(err.started, "no")
  q:close()
  reader:close()
  writer:close()
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  p:close()
end)

test("many at a time, with and without a function to run at once", function(t)
  local p = ready_template(t)
  local all = {}
  for i = 1, 24 do all[i] = thread(p) end
  for i = 1, 24 do
    if i % 3 == 0 then t.ok(t.got(all[i]:memory()).lua > 0) end -- it is there before it runs
    t.eq((result(t, all[i], "tells")), "template 0 0")
  end
  p:close()
end)

test("more are ready after many at a time, not for long, and none after anything else", function(t)
  local p = ready_template(t)
  local function burst()
    local all, sockets = {}, {}
    t.ok(p:kill "STOP") -- so that they are all there when it looks
    for i = 1, 16 do
      all[i] = thread(p)
      all[i]:run("tells", function(err, socket)
        t.eq(err, nil)
        sockets[#sockets + 1] = socket
      end)
    end
    fork.step() -- one may run before it stops
    t.ok(p:kill "CONT")
    t.within(20, function()
      fork.step(0.01)
      return #sockets == 16
    end)
    for i = 1, 16 do
      t.eq(sockets[i]:read("a"), "template 0 0")
      sockets[i]:close()
    end
    for i = 1, 16 do
      t.eq(t.got(all[i]:wait()).code, 0)
      all[i]:close()
    end
  end
  t.within(20, function() -- a second later there is one again, and a loaded machine may not see more
    burst()
    local n = threads.number(p:pid())
    fork.sleep(0.005) -- threads that have ended are gone
    return n > 2 and threads.number(p:pid()) > 2
  end, "more than one is ready")
  t.within(10, function() return threads.number(p:pid()) <= 5 end)
  has_threads(t, p, 2) -- after a second
  burst()
  p:eval "text = 'changed'"
  t.got(p:memory())
  has_threads(t, p, 1)
  t.eq((result(t, thread(p), "tells")), "changed 0 0")
  p:eval "text = 'template'"
  for _ = 1, 3 do
    burst()
    t.eq((result(t, p:fork(), "tells")), "template 0 0") -- no clone that has told its end is in its way
    t.eq((result(t, thread(p), "tells")), "template 0 0")
  end
  p:close()
end)

-- That it runs is told with its first bytes, or before anything else that it does can be seen.
test("whatever the function does first, its run has been told", function(t)
  local p = ready_template(t)
  local text, status = result(t, thread(p), "nothing")
  t.eq(text, "")
  t.eq(status.code, 0)
  t.eq((result(t, thread(p), "late")), "late 55")
  t.eq((result(t, thread(p), "hooks")), "nil counted")
  text, status = result(t, thread(p), "fails_at_once")
  t.eq(text, "")
  t.eq(status.code, 1)
  t.match(status.error, "arithmetic")
  local near, far = fork.socket.pair()
  local q = thread(p):send_fd(far)
  far:close()
  local socket = t.got(q:run("tells_early"))
  t.eq(near:read("a"), "here")
  near:close()
  socket:close()
  t.eq(t.got(q:wait()).code, 0)
  q:close()
  near, far = fork.socket.pair()
  q = thread(p):send_fd(far)
  socket = t.got(q:run("sends"))
  local got = socket:recv_fd()
  t.eq(socket:read("a"), "sent")
  far:close()
  got:write("through it")
  got:close()
  t.got(q:wait())
  socket:close()
  q:close()
  t.eq(near:read("a"), "through it")
  near:close()
  q = thread(p)
  socket = t.got(q:run("computes")) -- only its process can be ended
  p:kill "KILL"
  t.eq(t.got(q:wait()).signal, 9)
  t.eq(socket:read("a"), "")
  socket:close()
  q:close()
  p:close()
end)

test("a debug hook of the template's stays", function(t)
  local p = fork.new_exec():eval(FUNCTIONS .. [[
    lines = 0
    function counts(s) local before = lines local x = 1 s:write(lines - before > 0 and "counts" or "lost") end
    debug.sethook(function() lines = lines + 1 end, "", 1)
  ]])
  for _ = 1, 3 do t.eq((result(t, thread(p), "counts")), "counts") end
  p:close()
end)

test("hooks of a birth that wait delay no other", function(t)
  local p = fork.new_exec():eval(FUNCTIONS .. [[
    clone.on_fork(function() if #seen == 1 then clone.pipe():read("a") end end)
  ]])
  for _ = 1, 3 do t.eq((result(t, thread(p), "nothing")), "") end
  has_threads(t, p, 2)
  p:eval "seen[1] = true"
  local waiting = {}
  for i = 1, 3 do
    waiting[i] = thread(p)
    waiting[i]:run("nothing", function() end)
  end
  t.ok(t.got(p:memory()).lua > 0) -- it serves
  p:eval "seen[1] = nil"
  t.eq((result(t, thread(p), "nothing")), "")
  p:kill "KILL"
  for _, q in ipairs(waiting) do
    t.eq(t.got(q:wait()).signal, 9)
    q:close()
  end
  p:close()
end)

test("a template with one ready ends when it is closed, killed, or left alone", function(t)
  local p = ready_template(t)
  has_threads(t, p, 2)
  local first = p:pid()
  p:close()
  t.within(10, function() return not t.alive(first) end, "a template that was closed")
  p = ready_template(t)
  has_threads(t, p, 2)
  p:kill "KILL"
  t.eq(t.got(p:wait()).signal, 9)
  p:close()
  local h <close> = host.start(t, ([[
    local p = fork.new_exec():eval(%q)
    local q = p:fork { isolation = "thread" }
    q:run("tells"):read("a")
    q:wait()
    print("template " .. pid_of(p))
    kit.msleep(60000)
  ]]):format(FUNCTIONS))
  local pid = tonumber(h:says("template (%d+)"))
  h:kill(9)
  t.outside(10, function() return not t.alive(pid) end, "the template of a host that was killed")
end)

test("where unshare, or a thread, is forbidden there are none, and the template says why", function(t)
  for _, case in ipairs {
    { "ENOSYS", "unshare", "UNSUPPORTED\tno\t[^\n]*unshare%(2%) is forbidden" },
    { "EPERM", "unshare", "UNSUPPORTED\tno\t[^\n]*unshare%(2%) is forbidden" },
    { "EPERM", "clone3", "FORK_FAILED\tno\ta thread can't be made: Operation not permitted" },
  } do
    local errno, call, why = table.unpack(case)
    local h <close> = host.start(t, ([[
      local p = fork.new_exec():eval(%q)
      for _ = 1, 2 do
        local socket, err = p:fork { isolation = "thread" }:run("tells")
        print(socket, err.code, err.started, err.message)
        print(p:fork():run("tells"):read("a"))
      end
    ]]):format(FUNCTIONS), { before = { host.tool(t, "seccomp_run"), errno, call } })
    local how, number = h:ends(20)
    if number == 77 then t.skip("no filter of system calls can be set here") end
    t.eq({ how, number }, { "exit", 0 }, h:out() .. h:err())
    local refused = "nil\t" .. why .. "[^\n]*\ntemplate 0 0\n"
    t.match(h:out(), "^" .. refused .. refused .. "$")
  end
end)

test("the end of the template's process is told of those that run, not of the one that is ready", function(t)
  local p = ready_template(t)
  local q = thread(p)
  local socket = t.got(q:run("waits"))
  has_threads(t, p, 3)
  p:kill "KILL"
  t.eq(t.got(q:wait()).signal, 9)
  socket:close()
  q:close()
  p:close()
end)

-- As modules do that a clone requires. A clone that is a thread forks none, so the hook is for nobody.
test("a clone's own before_fork hooks don't make its template slower", function(t)
  local p = ready_template(t, [[ function adds(s)
    clone.before_fork(function() error "for nobody" end)
    clone.on_fork(function() error "for nobody" end)
    s:write("added")
  end ]])
  for _ = 1, 2 do
    t.eq((result(t, thread(p), "adds")), "added")
    t.eq((result(t, thread(p), "tells")), "template 0 0")
    has_threads(t, p, 2)
  end
  t.eq((result(t, p:fork(), "tells")), "template 0 0")
  p:eval [[
    hooked = 0
    require("moonfork.clone").before_fork(function()
      hooked = hooked + 1
      text = "hook " .. hooked
    end)
  ]]
  t.eq((result(t, thread(p), "tells")), "hook 1 0 0")
  t.eq((result(t, thread(p), "tells")), "hook 2 0 0")
  has_threads(t, p, 1)
  p:close()
end)

-- The library's own, by which clones in threads are ended.
test("the handler for their signal is no finding, and no process has it", function(t)
  local p = fork.new_exec():eval(FUNCTIONS .. [[
    function caught(s) s:write(io.open("/proc/self/status"):read("a"):match("SigCgt:%s*%x*(%x%x%x%x%x%x%x%x)\n")) end
  ]])
  local before = t.got(result(t, p:fork(), "caught"))
  for _ = 1, 2 do
    for _ = 1, 2 do t.eq((result(t, thread(p), "tells")), "template 0 0") end
    t.eq((result(t, p:fork(), "caught")), before)
  end
  t.eq((result(t, thread(p), "tells")), "template 0 0")
  p:seal { audit = "strict" }
  t.eq((result(t, p:fork(), "caught")), before)
  p:close()
end)

test("a refused clone leaves the template its handles", function(t)
  local p = fork.new_exec():eval(FUNCTIONS)
  local reader, writer = clone.pipe()
  p:send_fd(reader)
  reader:close()
  p:eval "file = io.open('/dev/null')"
  local q = thread(p)
  local _, err = q:run("tells")
  t.error(err, "UNSUPPORTED", "file")
  q:close()
  p:eval "file:close() file = nil"
  writer:write("through")
  writer:close()
  t.eq((result(t, p:fork(), "tells")), "template 0 1 through")
  p:close()
end)

-- Its socket was shut, which it found out with its first bytes, and it went on.
test("a function that nobody waits for any more is not entered", function(t)
  local file = t:file("entered", "")
  local functions = {
    opens = "",
    writes = "s:write 'x'",
    sends = "s:send_fd(s, 'x')",
    computes_first = "local sum = 0 for i = 1, 1000 do sum = sum + i end",
  }
  for name, first in pairs(functions) do
    local p = ready_template(t, ("function %s(s) %s io.open(%q, 'a'):write('%s '):close() end"):format(
      name, first, file, name))
    has_threads(t, p, 2)
    local told, pid = {}, p:pid()
    local function tell(err) told[#told + 1] = err and err.code .. " " .. err.started or "entered" end
    stop(pid)
    p:fork({ isolation = "thread", timeout = 0.1 }):run(name, tell)
    local given_up, closed = t.within(10, function() return told[1] end), thread(p)
    closed:run(name, tell)
    fork.step(0)
    closed:close()
    t.within(10, function() return told[2] end)
    kit.kill(pid, kit.SIGCONT)
    t.eq({ name, given_up, told[2] }, { name, "TIMEOUT no", "CANCELLED no" })
    t.got(p:memory())
    has_threads(t, p, 1)
    t.eq(t.read(file), "")
    t.eq((result(t, thread(p), "tells")), "template 0 0")
    p:close()
  end
end)

story.done()
