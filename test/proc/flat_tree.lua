-- The flat tree: the program is the parent of every process, at any depth, so that exit status,
-- resources and last error are exact whatever becomes of the template; no zombie is left; fork
-- handlers run as at fork(); hosts that reap whatever child they have, or ignore SIGCHLD, are told
-- each exit once; where clones can't be the program's children everything works all the same.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- ---- what a status says ----

local FUNCTIONS = [[
  function leaves(s) s:read(1) os.exit(7) end
  function raises(s) s:read(1) error "the last words" end
  function hangs(s) s:read "a" while true do end end
  function answers(s) s:write(require "testkit".getppid()) end
]]

local function zombies()
  local found = {}
  for pid, process in pairs(kit.processes()) do
    if process.ppid == kit.getpid() and process.state == "Z" then found[#found + 1] = pid end
  end
  return found
end

local makers = {
  executed = function() return fork.new_exec():eval(FUNCTIONS) end,
  nested = function(t)
    local first = fork.new_exec():eval(FUNCTIONS)
    t.keep = first
    return first:fork():eval "x = 1":fork():eval "x = 2"
  end,
  default = function() return fork.new():eval(FUNCTIONS) end,
  copied = function() return fork.template():eval(FUNCTIONS) end,
}

local ways = {
  closed = function(_, p) p:close() end,
  killed = function(_, _, pid) kit.kill(pid, kit.SIGKILL) end,
  stuck = function(_, _, pid) kit.kill(pid, kit.SIGSTOP) end,
  failed = function(t, p) t.error(select(2, p:eval("error 'it fails'"):run "type"), "REMOTE") end,
}

for kind, make in pairs(makers) do
  for way, finish in pairs(ways) do
    story.test(("exact status of clones whose %s template is %s"):format(kind, way), function(t)
      local p = make(t)
      local clones, sockets = {}, {}
      for i, name in ipairs {"leaves", "raises", "hangs"} do
        clones[i] = p:fork {stderr = "null"}
        sockets[i] = t.got(clones[i]:run(name))
      end
      local pid = t.within(5, function() return p:pid() end)
      finish(t, p, pid)
      fork.step(0.02)
      for _, socket in ipairs(sockets) do socket:write "x" socket:close() end
      local status = t.status(clones[1])
      t.eq({status.code, status.signal, status.error, status.unknown}, {7})
      t.ok(status.rusage.maxrss > 0)
      status = t.status(clones[2])
      t.eq({status.code, status.unknown}, {1})
      t.match(status.error, "the last words.*stack traceback")
      t.ok(clones[3]:kill "TERM")
      status = t.status(clones[3])
      t.eq({status.signal, status.code}, {15})
      t.ok(status.rusage.utime >= 0)
      if way == "stuck" then kit.kill(pid, kit.SIGCONT) end
      if way ~= "closed" then p:close() end
      t.within(5, function() fork.step(0.01) return not t.alive(pid) end)
      t.within(5, function() fork.step(0.01) return #zombies() == 0 end)
    end)
  end
end

story.test("the program is the parent, at any depth", function(t)
  local p = fork.new_exec():eval(FUNCTIONS)
  local list = {p}
  for depth = 1, 4 do list[depth + 1] = list[depth]:fork():eval("x = " .. depth) end
  for i = #list, 1, -1 do
    t.eq(tonumber(t.got(list[i]:run "answers"):read "a"), kit.getpid(), i)
    t.eq(t.status(list[i]).code, 0)
  end
end)

story.test("a process that is given run while clones of it live just runs", function(t)
  local p = fork.new_exec():eval(FUNCTIONS)
  local pid = t.within(5, function() fork.step(0.01) return p:pid() end)
  local clone = p:fork()
  local held = t.got(clone:run "leaves")
  local socket = t.got(p:run "leaves")
  t.eq(p:pid(), pid)
  socket:write "x"
  t.eq(t.status(p).code, 7)
  held:write "x"
  t.eq(t.status(clone).code, 7)
end)

story.test("closed handles leave no zombies while others are open", function(t)
  local keep = fork.new_exec():eval(FUNCTIONS)
  t.got(keep:fork():run "answers"):read "a"
  for _ = 1, 40 do
    local p = keep:fork()
    local socket = t.got(p:run "leaves")
    p:close()
    socket:write "x"
    socket:close()
  end
  t.within(5, function() fork.step(0.01) return #zombies() == 0 end)
  for _ = 1, 10 do keep:fork():close() end
  t.within(5, function() fork.step(0.01) return #zombies() == 0 end)
  keep:close()
end)

-- ---- a clone is what fork() would have made ----

-- Asked of clones: how often prepare, parent and child handlers have run there, in which order.
local HANDLERS = "return require 'testkit'.handlers()"

story.test("fork handlers of libraries run, in their order, and no more often", function(t)
  local p = fork.new_exec():eval "require 'testkit'.handlers()"
  t.eq({t.ask(p:fork(), HANDLERS)}, {2, 0, 2, "bacd"})
  t.eq({t.ask(p:fork(), HANDLERS)}, {4, 1, 2, "bapbacd"})
  local q = p:fork():eval "x = 1"
  t.eq({t.ask(q:fork(), HANDLERS)}, {8, 2, 4, "bapbapbacdbacd"})
end)

-- In a copy of a program the library comes too late to see them: some were registered before it was
-- loaded. At the forks of copies they did not run at all.
for kind, make in pairs {
  ["template()"] = "kit.handlers() local p = fork.template()",
  early = "local p = fork.new():eval \"require 'testkit'.handlers()\"",
} do
  story.test(("fork handlers of libraries run in a copy by %s, too"):format(kind), function(t)
    if not kit.redirects() then t.skip "no syscall user dispatch here" end
    local out, code, err = t:lua(([[
      local kit = require "testkit"
      %s
      local fork = require "moonfork"
      %s
      local function ask(p)
        local s = assert(p:eval "function f(s) s:write(table.concat({require 'testkit'.handlers()}, ' ')) end":run "f")
        return s:read "a"
      end
      local before = ask(p:fork())
      p:eval "require 'testkit'.signals_in_prepare()"
      local first, second = ask(p:fork()), ask(p:fork():eval "x = 1":fork())
      print(before) print(first) print(second)
      local s = assert(p:fork():eval "function g(s) s:write(require 'testkit'.signals_in_prepare()) end":run "g")
      assert(s:read "a" == "3")
      p:close()
      fork.loop()
    ]]):format(kind == "early" and 'require "moonfork.early"' or "", make))
    t.eq({code, err}, {0, ""}, out)
    t.eq(out, kind == "early" and "2 0 2 bacd\n4 1 2 bapbacd\n8 2 4 bapbapbacdbacd\n" or
      "4 0 4 bacdbacd\n6 1 4 bacdbapbacd\n10 2 6 bacdbapbapbacdbacd\n")
  end)
end

-- A function that calls nothing has its clone flush nothing: a fork handler's words were lost.
for kind, make in pairs {["moonfork-template"] = fork.new_exec, ["template()"] = fork.template} do
  story.test(("what a fork handler writes in clones of %s is there"):format(kind), function(t)
    if kind == "template()" and not kit.redirects() then t.skip "no syscall user dispatch here" end
    local name = os.tmpname()
    local p = make():eval(("require 'testkit'.note_births(%q) function nothing() end"):format(name))
    for _ = 1, 3 do t.got(p:fork():run "nothing"):read "a" end
    t.within(5, function()
      local f = io.open(name)
      local text = f:read "a"
      f:close()
      return text == ("born "):rep(3)
    end)
    p:close()
    os.remove(name)
  end)
end

-- It was taken for a system call, number 0, and swallowed.
story.test("SIGSYS ends a copy also while it forks", function(t)
  if not kit.redirects() then t.skip "no syscall user dispatch here" end
  local p = fork.template():eval "require 'testkit'.sigsys_in_prepare()"
  t.error(select(2, p:fork():run "type"), "TEMPLATE_DIED")
  local status = t.status(p)
  t.eq({status.code, status.signal}, {nil, 31})
end)

-- valgrind makes the system calls itself: where these come as SIGSYS it dies.
story.test("copies under valgrind fork as ever", {deadline = 90}, function(t)
  if not os.execute "valgrind --version >/dev/null 2>&1" then t.skip "valgrind is not installed" end
  if story.is_sanitized then t.skip "not with sanitizers" end
  local out, code, err = t:lua([[
    local fork = require "moonfork"
    local p = fork.template():eval "function say(s) s:write 'said' end"
    io.write(assert(p:fork():run "say"):read "a")
    p:close()
    fork.loop()
  ]], {before = "valgrind -q --tool=none", deadline = 80})
  t.eq({out, code}, {"said", 0}, err)
end)

story.test("threads, mutexes, system and fork work in clones, at any depth", function(t)
  local p = fork.new_exec()
  local code = "require 'testkit'.selftest() return 'right'"
  t.eq(t.ask(p:fork(), code), "right")
  t.eq(t.ask(p:fork():eval "x = 1":fork(), code), "right")
  t.eq(t.ask(fork.template():fork(), code), "right")
end)

story.test("no two clones draw the same of a library's generator", function(t)
  if not kit.random() then t.skip "no libcrypto" end
  local p = fork.new_exec():eval "kit = require 'testkit' kit.random()"
  local seen = {}
  for i = 1, 20 do
    local q = i % 2 == 0 and p or p:fork():eval "x = 1"
    local drawn = t.ask(q:fork(), "return kit.random()")
    t.eq(#drawn, 16)
    t.ok(not seen[drawn], "drawn twice")
    seen[drawn] = true
  end
end)

-- ---- templates that lie ----

story.test("numbers that a template has made up are nobody's", {deadline = 40}, function(t)
  local file = t:file "victim"
  os.execute(("sleep 60 </dev/null >/dev/null 2>&1 & echo $! >'%s'"):format(file)) -- no child
  local victim = tonumber((t.read(file):match "%d+"))
  local before = {}
  for pid in pairs(kit.processes()) do before[pid] = true end
  for _, pid in ipairs {victim, kit.getpid(), 1, -1, 0x7fffffff} do
    local p = fork.new_exec():eval(FUNCTIONS)
    t.got(p:fork():run "answers"):close()
    p:eval(("require 'testkit'.forged(%d)"):format(pid))
    for i = 1, 5 do
      local q = p:fork()
      local socket = q:run "hangs"
      if i % 2 == 0 then q:kill "KILL" end
      if i == 3 then q:close() else q:on_exit(function(status)
        if not status.unknown then t.ok(status.code == 0 or status.signal == kit.SIGKILL) end
      end) end
      if socket then socket:close() end
    end
    fork.step(0.05)
    t.ok(t.alive(victim))
    p:kill "KILL"
    p:close()
    fork.step(0.05)
    for left, process in pairs(kit.processes()) do -- nobody knows them
      if process.ppid == kit.getpid() and not before[left] then
        kit.kill(left, kit.SIGKILL)
        kit.waitpid(left)
      end
    end
  end
  t.ok(t.alive(victim))
  kit.kill(victim, kit.SIGKILL)
end)

-- ---- hosts that reap what comes ----

-- What the kernel keeps of processes that others have reaped (Linux 6.15).
local major, minor = (io.open "/proc/sys/kernel/osrelease":read "l"):match "^(%d+)%.(%d+)"
local keeps = tonumber(major) > 6 or (tonumber(major) == 6 and tonumber(minor) >= 16)

local careless = [[
  local fork, kit = require "moonfork", require "testkit"
  local how = %q
  if how ~= "waits" then kit.disposition(kit.SIGCHLD, how) end
  local p = fork.new_exec():eval [=[
    function f(s, i) os.exit(tonumber(i)) end
    function g(s) s:read 'a' end
  ]=]
  local told, exact, wrong, n = {}, 0, 0, 60
  for i = 1, n do
    local q = p:fork():send_arg(i)
    q:run("f", function(err) if err then error(err) end end)
    q:on_exit(function(status)
      told[i] = (told[i] or 0) + 1
      if status.unknown then return end
      if status.code == i then exact = exact + 1 else wrong = wrong + 1 end
    end)
    if i %% 10 == 0 then fork.step(0.01) end
    if how == "waits" then repeat local pid = kit.waitpid(-1, true) until not pid or pid == 0 end
  end
  fork.loop()
  for i = 1, n do assert(told[i] == 1, i) end
  assert(wrong == 0, wrong)
  -- A long one, which is known while it lives.
  local q = p:fork()
  local s = assert(q:run "g")
  assert(q:kill(0))
  assert(q:kill "KILL")
  local status = assert(q:wait(10))
  assert(status.unknown or status.signal == 9)
  assert(not q:kill "KILL")
  p:close()
  fork.loop()
  io.write(exact, " of ", n, " ", tostring(status.signal))
]]

for _, how in ipairs {"ignore", "nowait", "thief", "waits"} do
  story.test(("each exit once, and none wrong, in a host that %s"):format(how), {deadline = 40},
  function(t)
    local out, code, err = t:lua(careless:format(how))
    t.eq({code, err}, {0, ""}, out)
    local exact, n, signal = out:match "^(%d+) of (%d+) (%w+)$"
    t.ok(exact, out)
    if keeps and how ~= "waits" then -- there the first may be gone before it was looked at
      t.eq({exact, signal}, {n, "9"})
    end
  end)
end

-- ---- where clones can't be the program's children ----

local job = [[
  local fork, kit = require "moonfork", require "testkit"
  local p = fork.new_exec():eval(%q)
  for i = 1, 5 do
    local q = p:fork {stderr = "null"}
    local s = assert(q:run(i %% 2 == 0 and "raises" or "leaves"))
    assert(q:pid() and kit.processes()[q:pid()], "its pid")
    s:write "x"
    local status = assert(q:wait(10))
    assert(status.unknown or status.code == (i %% 2 == 0 and 1 or 7), tostring(status.code))
    io.write(status.unknown and "?" or "!")
  end
  local q = p:fork()
  local nested = q:fork()
  local s = assert(nested:run "hangs")
  assert(nested:kill "KILL")
  local status = assert(nested:wait(10))
  assert(status.unknown or status.signal == 9)
  q:close()
  p:eval "local f = io.popen 'exit 3' assert(select(3, f:close()) == 3, 'a child of user code')"
  assert(p:fork():run "leaves"):close()
  p:close()
  fork.loop()
  local deadline = kit.now() + 5
  repeat
    fork.step(0.01)
    local n = 0
    for _, process in pairs(kit.processes()) do
      if process.ppid == kit.getpid() and process.state == "Z" then n = n + 1 end
    end
  until n == 0 or assert(kit.now() < deadline, "a zombie")
]]

local function can(command)
  return os.execute(command .. " >/dev/null 2>&1 </dev/null") == true
end

story.test("a host that is process 1 of a container", function(t)
  if not can "unshare -p -f --mount-proc true" then t.skip "no namespace can be made here" end
  local out, code, err = t:lua(job:format(FUNCTIONS), {before = "unshare -p -f --mount-proc"})
  t.eq({out, code, err}, {"!!!!!", 0, ""})
end)

story.test("a template that is process 1 of a container", function(t)
  if not can "unshare -p sh -c true" then t.skip "no namespace can be made here" end
  local out, code, err = t:lua(job:format(FUNCTIONS), {before = "unshare -p"})
  t.eq({code, err}, {0, ""}, out)
  t.match(out, keeps and "^!!!!!$" or "^[?!]+$")
end)

-- ---- other owners ----

-- A gives a template away to B and ends: what B forks, and the template, are B's.
story.test("a process that was taken up, and what it forks, follow their new owner",
{deadline = 40}, function(t)
  if keeps == nil then t.skip "no Linux" end
  local function pid_of(name)
    local text
    t.within(10, function() text = t.read(t:tmp() .. "/" .. name) return text and #text > 0 end,
      name)
    return tonumber(text)
  end
  local b = t:file("b.lua", ([[
    local fork, kit = require "moonfork", require "testkit"
    local function tell(name, pid)
      local f = io.open(%q .. "/" .. name, "w") f:write(pid) f:close()
    end
    local p = fork.from_fd(tonumber(arg[1]))
    local s = assert(p:fork():run "actor_spin")
    local q = p:fork()
    assert(q:run "actor_spin")
    tell("clone", q:pid())
    tell("template", p:pid())
    tell("b", kit.getpid())
    while not io.open(%q .. "/go") do fork.step(0.02) kit.msleep(5) end
    local status
    q:kill "KILL"
    status = assert(q:wait(5))
    assert(status.unknown or status.signal == 9)
    local late = p:fork()
    assert(late:run "actor_spin")
    tell("late", late:pid())
    kit.msleep(20000)
  ]]):format(t:tmp(), t:tmp()))
  local out, code, err = t:lua(([[
    local fork, kit = require "moonfork", require "testkit"
    local p = fork.new_exec():eval "function actor_spin() require 'testkit'.spin() end"
    local socket = assert(p:to_fd())
    local fd = socket:detach()
    kit.cloexec(fd, false)
    os.execute(("'%%s' '%%s' %%d </dev/null >/dev/null 2>'%%s' &"):format(
      os.getenv "LUA" or "lua5.4", %q, fd, %q))
    local deadline = kit.now() + 10
    while not io.open(%q .. "/b") and kit.now() < deadline do kit.msleep(10) end
    os.exit(0, false)
  ]]):format(b, t:tmp() .. "/b.err", t:tmp()))
  t.eq({code, err}, {0, ""}, out .. (t.read(t:tmp() .. "/b.err") or ""))
  local template, clone, owner = pid_of "template", pid_of "clone", pid_of "b"
  kit.msleep(300) -- A is gone; nothing of B's may have gone with it
  t.ok(t.alive(template) and t.alive(clone) and t.alive(owner), t.read(t:tmp() .. "/b.err"))
  t:file("go", "x")
  local late = pid_of "late"
  t.ok(t.alive(late))
  kit.kill(owner, kit.SIGKILL)
  t.outside(2, function() return not t.alive(late) and not t.alive(template) end,
    "they follow their owner")
end)

-- ---- who dies with the host ----

local function own_children()
  local found = {}
  for pid, process in pairs(kit.processes()) do
    if process.ppid == kit.getpid() then found[pid] = true end
  end
  return found
end

-- What is left of hosts becomes this process's: their pids, without those in `own`.
local function orphans(own)
  local found = {}
  for pid in pairs(own_children()) do
    if not own[pid] and kit.waitpid(pid, true) ~= pid then found[#found + 1] = pid end
  end
  return found
end

local HOST = [[
  local fork, kit = require "moonfork", require "testkit"
  local kind = tonumber(arg[1])
  local code = [=[
    function spin() require 'testkit'.spin() end
    function wait(s) s:read 'a' end
  ]=]
  local p = kind % 3 == 0 and fork.new() or kind % 3 == 1 and fork.new_exec() or fork.template()
  p:eval(code)
  if kind % 2 == 0 then p = p:fork():eval "x = 1" end
  for i = 1, 12 do
    local q = p:fork()
    if i % 4 == 0 then q:eval "require 'testkit'.spin()" end
    q:run(i % 3 == 0 and "wait" or "spin", function() end)
    fork.step(i % 2 == 0 and 0 or 0.001)
  end
  while true do fork.step(1) end
]]

story.test("hosts that are killed at any moment leave nobody", {deadline = 120, census = false},
function(t)
  local seed = tonumber(os.getenv "STORY_SEED" or "") or os.time()
  math.randomseed(seed)
  local own = own_children()
  local script = t:file("host.lua", HOST)
  kit.subreaper(true)
  for round = 1, 25 do
    local file = t:file "pids"
    local line = {}
    for i = 1, 8 do
      line[i] = ("'%s' '%s' %d </dev/null >/dev/null 2>&1 & echo $!;"):format(
        os.getenv "LUA" or "lua5.4", script, i)
    end
    os.execute(("( %s ) >'%s'"):format(table.concat(line, " "), file))
    local pids = {}
    for pid in t.read(file):gmatch "%d+" do pids[#pids + 1] = tonumber(pid) end
    t.eq(#pids, 8)
    kit.msleep(math.random(2, 60))
    for _, pid in ipairs(pids) do
      kit.msleep(math.random(0, 8))
      kit.kill(pid, kit.SIGKILL)
    end
    t.outside(5, function() return #orphans(own) == 0 end,
      ("round %d of STORY_SEED=%d: %s"):format(round, seed, story.show(orphans(own))))
  end
  kit.subreaper(false)
end)

story.test("who changes its user and group stays on the leash", {census = false, root = true}, function(t)
  local out = t:file "out"
  local script = t:file("host.lua", [[
    local fork, kit = require "moonfork", require "testkit"
    local p = fork.new_exec():eval [=[
      function drop(s)
        local kit = require "testkit"
        kit.setuid(65534)
        s:write "x"
        kit.spin()
      end
    ]=]
    local clone = p:fork()
    local socket = assert(clone:run "drop")
    assert(socket:read(1) == "x")
    print(clone:pid(), kit.getpid())
    io.stdout:flush()
    kit.msleep(20000)
  ]])
  os.execute(("'%s' '%s' </dev/null >'%s' 2>&1 &"):format(os.getenv "LUA" or "lua5.4", script,
    out))
  local clone, host
  t.outside(10, function()
    clone, host = (t.read(out) or ""):match "(%d+)%s+(%d+)"
    return host
  end, "it runs")
  t.ok(t.alive(tonumber(clone)))
  kit.kill(tonumber(host), kit.SIGKILL)
  t.outside(2, function() return not t.alive(tonumber(clone)) end, "it dies with the host")
end)

story.test("a thread of the host that made templates may end", {census = false}, function(t)
  if not package.searchpath("luv", package.cpath) then t.skip "no luv" end
  local out = t:file "out"
  local script = t:file("host.lua", ([[
    local uv, kit = require "luv", require "testkit"
    local thread = uv.new_thread(function(out)
      local fork = require "moonfork"
      local p = fork.new_exec():eval "function spin() require 'testkit'.spin() end"
      local q = p:fork():eval "x = 1"
      local clone, second = p:fork(), q:fork()
      assert(clone:run "spin")
      assert(second:run "spin")
      local f = io.open(out, "w")
      f:write(clone:pid(), " ", second:pid(), " ", require "testkit".getpid())
      f:close()
    end, %q)
    thread:join()
    kit.msleep(20000)
  ]]):format(out))
  os.execute(("'%s' '%s' </dev/null >/dev/null 2>'%s' &"):format(os.getenv "LUA" or "lua5.4",
    script, t:tmp() .. "/err"))
  local first, second, host
  t.outside(10, function()
    first, second, host = (t.read(out) or ""):match "(%d+) (%d+) (%d+)"
    return host
  end, "the thread has run: " .. (t.read(t:tmp() .. "/err") or ""))
  first, second, host = tonumber(first), tonumber(second), tonumber(host)
  kit.msleep(500)
  t.ok(t.alive(first) and t.alive(second), "they outlive the thread")
  kit.kill(host, kit.SIGKILL)
  t.outside(2, function() return not t.alive(first) and not t.alive(second) end,
    "they die with the host")
end)

story.done()
