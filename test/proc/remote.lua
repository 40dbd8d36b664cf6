-- fork.remote over `sh -c`: what is only so behind a command. (test/run --remote runs the other
-- stories there once more.) The middle of a link is a relay where a story needs one: cat, which is
-- stopped, or dd, which carries one byte at a time.

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local AGENT, over = remote.AGENT, remote.over

local CODE = [[
  function echo(...) return ... end
  function spin(s) s:write "x" while true do end end
  function block()
    local rpc = require "moonfork.rpc"
    rpc.event() rpc.flush()
    while true do end
  end
  function add(a, b) return a + b end
]]

-- Processes whose command line contains the text.
local function with_words(text)
  local pids = {}
  for pid, process in pairs(kit.processes()) do
    local file = process.state ~= "Z" and io.open("/proc/" .. pid .. "/cmdline", "rb")
    local words = file and file:read "a" or ""
    if file then file:close() end
    if words:gsub("%z", " "):find(text, 1, true) then pids[#pids + 1] = pid end
  end
  return pids
end

local count = 0
-- A word that the command lines of one story's link have, and no other's.
local function mark()
  count = count + 1
  return ("mark-%d-%d"):format(kit.getpid(), count)
end

-- The children of a process, by the name of their program.
local function child_of(pid, name)
  for id, process in pairs(kit.processes()) do
    if process.ppid == pid and process.comm == name and process.state ~= "Z" then return id end
  end
end

-- The processes between the near end and the agent: near end, shell, and its first relay.
local function middle()
  local near = child_of(kit.getpid(), "moonfork-remote")
  local shell = child_of(near, "sh")
  return near, shell, child_of(shell, "cat")
end

story.test("fork at any depth, arguments, socket, status, rusage, last error", function(t)
  local p = over():eval(CODE):send_arg("a", "\0b")
  local deep = p:fork():send_arg "c":fork():fork()
  t.eq({ t.ask(deep, "return select(2, ...)") }, { "a", "\0b", "c" })
  t.eq(t.status(deep).code, 0)
  t.ok(deep:pid() > 0)
  local failing = p:fork():eval "function bad() error 'it is bad' end"
  local socket = t.got(failing:run "bad")
  local status = t.status(failing)
  t.eq(status.code, 1)
  t.match(status.error, "it is bad.*traceback")
  t.ok(status.rusage.maxrss > 0)
  socket:close()
  local _, err = p:fork():run "nothing.there"
  t.error(err, "REMOTE", "nothing")
  t.eq(err.started, "no")
  t.eq(t.ask(p:fork(), "return require 'testkit'.getppid()"), t.ask(p:fork(), "return require 'testkit'.getppid()"))
end)

-- Their sockets are made when somebody needs them: what each user sees is the same.
story.test("forks at once, of functions that say nothing, little, much, and that die", function(t)
  local p = over():eval [[
    function nothing() end
    function little(s) s:write "little" end
    function much(s) s:write(("x"):rep(300000)) end
    function echo(s) s:write((s:read "l")) end
    function shut(s) s:shutdown "w" s:read "a" end
    function dies() os.exit(7) end
    function bad() error { "as told" } end
    function stays() while true do end end
  ]]
  fork.on_error(function() end)
  t:defer(function() fork.on_error(nil) end)
  p:fork():run("nothing"):close() -- the slots are known from here on
  local says = { nothing = "", little = "little", much = ("x"):rep(300000), echo = "hello", shut = "", dies = "",
    bad = "" }
  local codes = { dies = 7, bad = 1 }
  local todo, told = 0, 0
  for _ = 1, 12 do
    for name, expected in pairs(says) do
      local clone = p:fork()
      todo = todo + 1
      clone:run(name, function(err, socket)
        assert(not err, err)
        if name == "echo" then socket:write "hello\n" end
        if name == "shut" then socket:shutdown "w" end
        assert(socket:read "a" == expected, name)
        socket:close()
        clone:on_exit(function(status)
          assert(status.code == (codes[name] or 0), name)
          told = told + 1
          clone:close()
        end)
      end)
    end
    t.within(10, function() return told == todo end)
  end
  for i = 1, 40 do -- one after the other, and what is closed or killed before it begins
    local clone, name = p:fork(), i % 2 == 0 and "stays" or "nothing"
    local ended
    clone:on_exit(function(status) ended = status end)
    clone:run(name, function(_, socket) if socket then socket:close() end end)
    if i % 4 < 2 then clone:kill(9) end
    if i % 8 < 4 then fork.step(0) end
    if name == "stays" and i % 4 >= 2 then clone:kill(9) end
    t.within(10, function() return ended end)
    clone:close()
  end
  t.eq(t.ask(p:fork(), "return 1"), 1)
end)

story.test("sockets of forks under way have descriptors, whatever the program takes meanwhile", function(t)
  local out, code, err = t:lua(([[
    local fork = require "moonfork"
    local p = fork.remote { command = { "sh", "-c", %q } }
    p:eval "function nothing() end function little(s) s:write 'little' end"
    p:fork():run("nothing"):close()
    for round = 1, 5 do
      local told, taken = 0, {}
      for i = 1, 12 do
        local says = i %% 3 > 0 and "little" or ""
        p:fork():run(i %% 3 > 0 and "little" or "nothing", function(err, socket)
          assert(not err, tostring(err))
          assert(socket:read "a" == says)
          socket:close()
          told = told + 1
        end)
      end
      while #taken < 200 do
        local file = io.open "/dev/null"
        if not file then break end
        taken[#taken + 1] = file
      end
      while told < 12 do fork.step(1) end
      for _, file in ipairs(taken) do file:close() end
    end
    p:close()
    fork.loop()
    io.write "fine"
  ]]):format(AGENT), { shell = "ulimit -n 200" })
  t.eq({ out, code, err }, { "fine", 0, "" })
end)

story.test("a process that fails and ends at once: its error comes, not its end", function(t)
  fork.on_error(function() end)
  t:defer(function() fork.on_error(nil) end)
  local p = over()
  for _ = 1, 150 do
    local failing = p:fork():eval "error 'it fails to load'"
    t.error(select(2, failing:fork():run "f"), "REMOTE", "it fails to load")
    failing:close()
  end
end)

story.test("handles: sockets both ways, pipes in their direction; nothing else", function(t)
  local p = over():eval [[
    function use(s, socket, reads, writes)
      socket:write(socket:read "l", "!\n")
      writes:write(reads:read "a", "?") writes:close()
      s:write(socket:read "a")
    end
  ]]
  local mine, theirs = fork.socket.pair()
  local r1, w1 = kit.pipe()
  local r2, w2 = kit.pipe()
  local blocks = kit.getfl(theirs:fileno())
  local clone = p:fork():send_fd(theirs, r1, w2)
  theirs:close()
  kit.close(r1) kit.close(w2)
  local socket = t.got(clone:run "use")
  mine:write "hello\n"
  t.eq(mine:read "l", "hello!")
  kit.write(w1, "through a pipe") kit.close(w1)
  local file = fork.socket.wrap(r2):file()
  t.eq(file:read "a", "through a pipe?")
  file:close()
  mine:write "last words" mine:shutdown "w"
  t.eq(socket:read "a", "last words")
  t.eq(kit.getfl(mine:fileno()) & 1, blocks & 1)
end)

story.test("what can't travel: one sentence says what, why, and what to do", function(t)
  local p = over():eval(CODE)
  local null <close> = assert(io.open "/dev/null")
  local file <close> = assert(io.open "/proc/self/status")
  local folder <close> = assert(io.open "/")
  local listener <close> = fork.socket.listen("@remote-story-" .. kit.getpid())
  local ends = { kit.socketpair "dgram" }
  local datagrams <close> = fork.socket.wrap(ends[1])
  local mine, stream = fork.socket.pair()
  local cases = {
    [null] = "device, which .*open it over there", [file] = "a file, which .*send what is in it",
    [folder] = "a directory, which .*open it over there", [listener] = "a listening socket.*accept here",
    [datagrams] = "datagrams.*open one over there",
  }
  local rpc, pool = p:fork():rpc "add", p:fork():pool("add", { max = 1 })
  for handle, pattern in pairs(cases) do
    for label, err in pairs {
      ["^the handle is "] = select(2, p:fork():send_fd(handle):run "spin"),
      ["^handle 2 is "] = select(2, rpc(1, stream, handle)),
      ["^the option stdin is "] = select(2, p:fork { stdin = handle }:run "spin"),
      ["^the option stderr is "] = select(2, over(nil, { stderr = handle }):run "spin"),
    } do
      t.error(err, "UNSUPPORTED", pattern)
      t.match(err.message, label)
      t.match(err.message, "connected stream sockets and of pipes")
      t.eq(err.started, "no")
    end
  end
  local _, err = pool(null)
  t.error(err, "UNSUPPORTED", "a handle of the call can't travel to the remote worker")
  t.eq(err.started, "no")
  _, err = p:fork():to_fd()
  t.error(err, "UNSUPPORTED", "^to_fd: a remote process .*fork%.remote there")
  local threads = "^option 'isolation': a remote process has no clones in threads"
  t.error(select(2, p:fork { isolation = "thread" }:run "spin"), "UNSUPPORTED", threads)
  t.error(select(2, p:fork():pool("add", { isolation = "thread" }):call(1, 2)), "UNSUPPORTED", threads)
  t.eq({ rpc(1, 2), pool(3, 4) }, { 3, 7 })
  mine:close() stream:close() kit.close(ends[2])
  rpc:close()
  pool:close()
end)

story.test("rpc, events, pool, and one pool over this machine and another", function(t)
  local p = over():eval(CODE .. [[
    function where() return require "moonfork.clone".ppid() end
    function tells(n) for i = 1, n do require "moonfork.rpc".event(i) end return n end
    function dies() os.exit(3) end
  ]])
  local seen = 0
  local rpc = p:fork():rpc("tells", { on_event = function(i) seen = seen + i end })
  t.eq(rpc(100), 100)
  t.eq(seen, 5050)
  rpc:close()
  local dying = p:fork():rpc "dies"
  local _, err = dying()
  t.error(err, "CLONE_DIED")
  t.eq({ err.started, err.exit.code }, { "unknown", 3 })
  dying:close()
  local pool = fork.new_exec():eval "function where() return require 'moonfork.clone'.ppid() end"
    :pool("where", { max = 4, idle = 4 })
  t.got(pool:add(p))
  local parents, untold = {}, 0
  t.within(10, function() -- one call after the other would be the oldest worker's
    while untold < 4 do
      untold = untold + 1
      pool(function(failure, parent) untold, parents[parent or failure] = untold - 1, true end)
    end
    return next(parents, next(parents))
  end, "workers of both")
  t.ok(parents[kit.getpid()])
  pool:close()
  fork.loop()
end)

story.test("map: a worker that dies costs one item, and nothing runs twice", function(t)
  local path = t:file "entered"
  local p = over():eval([[
    local path = ...
    function f(i)
      local file <close> = io.open(path, "a")
      file:write(i, "\n") file:close()
      if i % 50 == 0 then os.exit(3) end
      return i
    end
  ]], path)
  local pool = p:pool("f", { max = 2, restart = { burst = 1000, period = 1 }, backoff = { min = 0.001 } })
  local items, died, done, entered = {}, 0, 0, {}
  for i = 1, 400 do items[i] = i end
  for i, err, value in pool:map(items, { chunk = 30 }) do
    if err then
      died = died + 1
      t.error(err, "CLONE_DIED")
      t.eq({ i % 50, err.started }, { 0, "unknown" })
    else
      done = done + 1
      t.eq(value, i)
    end
  end
  t.eq({ done, died }, { 392, 8 })
  for line in io.lines(path) do
    t.eq(entered[line], nil, line)
    entered[line] = true
  end
  pool:close()
end)

-- What a worker over there has begun is known with its end, or its answer; not before.
story.test("map: a chunk that is under way when the option timeout is over is unknown", function(t)
  local pool = over():eval "local kit = require 'testkit' function f(i) kit.msleep(300) return i end"
    :pool("f", { max = 1 })
  t.eq(pool(0), 0) -- the worker is there
  local told = 0
  for i, err in pool:with { timeout = 0.5 }:map({ 1, 2, 3 }, { chunk = 3 }) do
    t.error(err, "TIMEOUT")
    t.eq(err.started, "unknown")
    told = told + i
  end
  t.eq({ told, pool(4) }, { 6, 4 })
  pool:close()
end)

story.test("kill, memory, limits, timeout, names and numbers of the far side", {deadline = 80}, function(t)
  local p = over(nil, { name = "far" }):eval(CODE)
  local clone = p:fork()
  local socket = t.got(clone:run "spin")
  t.eq(socket:read(1), "x")
  t.ok(t.got(clone:memory()).rss > 0)
  t.ok(t.got(p:memory()).rss > 0)
  t.eq(clone:kill(), true)
  t.eq(t.status(clone).signal, kit.SIGTERM)
  t.eq(clone:kill(), nil)
  local limited = p:fork():limit { fsize = 1000 }:send_arg(t:file "long")
  local writes = t.got(limited:eval "function w(_, path) io.open(path, 'w'):write(('x'):rep(5000)):flush() end":run "w")
  local status = t.status(limited)
  writes:close()
  t.eq(status.signal, 25, story.show(status)) -- SIGXFSZ: a second of a processor's time takes a minute under load
  p:close()
  local orphan = over():eval(CODE)
  local running = orphan:fork()
  t.got(running:run "spin")
  orphan:close()
  t.ok(t.got(running:memory()).rss > 0, "of a clone whose template has gone")
  running:kill "KILL"
  t.eq(t.status(running).signal, kit.SIGKILL)
end)

-- CLONE_PARENT is refused: clones are children of their template, which nobody here sees.
story.test("a sandbox over there in which clones can't be the agent's children", function(t)
  local tool = os.getenv "MOONFORK_BUILD" .. "/test/fault/seccomp_run"
  local code = select(3, os.execute(("'%s' EPERM clone_parent true 2>/dev/null"):format(tool)))
  if code ~= 0 then t.skip "no filter can be set here" end
  local p = over(("exec '%s' EPERM clone_parent %s"):format(tool, AGENT)):eval(CODE .. [[
    function leaves(s) s:write(s:read "a") os.exit(3) end
  ]])
  local clone, status = p:fork():fork(), nil
  local socket = t.got(clone:run "leaves")
  clone:on_exit(function(x) status = x end)
  t.ok(clone:pid() > 0 and clone:pid() ~= p:pid())
  t.ok(t.got(clone:memory()).rss > 0)
  t.eq(clone:kill(0), true)
  fork.sleep(0.05)
  t.eq(status, nil, "it still runs")
  socket:write "to the end" socket:shutdown "w"
  t.eq(socket:read "a", "to the end")
  t.within(10, function() return status end, "its end")
  t.ok(status.code == 3 or status.unknown) -- unknown before Linux 6.15
  local spinning = p:fork()
  socket = t.got(spinning:run "spin")
  t.eq(socket:read(1), "x")
  t.eq(spinning:kill "KILL", true)
  status = t.status(spinning)
  t.ok(status.signal == kit.SIGKILL or status.unknown)
  t.eq(socket:read "a", "")
  local rpc, pool = p:fork():rpc "add", p:pool("add", { max = 2 })
  t.eq({ rpc(1, 2), pool(3, 4) }, { 3, 7 })
  rpc:close()
  pool:close()
end)

story.test("what is printed there comes here", function(t)
  local out, code, err = t:lua(([[
    local fork = require "moonfork"
    local p = fork.remote { command = { "sh", "-c", %q } }
    p:eval "print 'in the template'"
    local clone = p:fork():eval "function f() print 'in the clone' io.stderr:write 'an error\\n' end"
    assert(clone:run "f")
    clone:wait()
  ]]):format("echo a banner; echo another >&2; exec " .. AGENT))
  t.eq({ out, code, err }, { "in the template\nin the clone\n", 0, "another\nan error\n" })
end)

story.test("commands that lead to no agent: the error has what they printed", function(t)
  for script, pattern in pairs {
    ["echo 'Permission denied' >&2; exit 255"] = "exit status 255.*Permission denied",
    ["echo hello; exit 3"] = "exit status 3.*hello",
    ["exec /nowhere/at-all"] = "exit status 127.*nowhere",
    ["kill -9 $$"] = "signal 9.*printed nothing",
    ["true"] = "exit status 0",
    ["head -c 100000 /dev/zero | tr '\\0' z"] = "zzzz",
  } do
    local p = over(script)
    local clone = p:fork()
    local _, err = clone:run "f"
    t.error(err, "TEMPLATE_START", pattern)
    t.eq(err.started, "no")
    t.ok(#err.message < 20000)
    t.error(select(2, p:run "f"), "TEMPLATE_START", pattern)
  end
  local none = fork.remote { command = { "/nowhere/at-all", "x" } }
  t.error(select(2, none:run "f"), "TEMPLATE_START", "/nowhere/at%-all.*No such file")
  local silent = over("echo still waiting; exec sleep 1000", { timeout = 0.3 })
  t.error(select(2, silent:run "f"), "TIMEOUT", "still waiting")
end)

story.test("an agent that greets late: a login may take longer than three beats", function(t)
  local p = over("sleep 1; exec " .. AGENT, { beat = 0.3 }):eval(CODE)
  local rpc = p:fork():rpc "add"
  t.eq(rpc(1, 2), 3)
  rpc:close()
end)

story.test("misuse raises and names what is wrong", function(t)
  t.raises("command", fork.remote, {})
  t.raises("command", fork.remote, { command = "ssh host" })
  t.raises("command%[2%]", fork.remote, { command = { "ssh", true } })
  t.raises("program", fork.remote, { command = { "ssh" }, program = "x" })
  t.raises("beat", fork.remote, { command = { "ssh" }, beat = 0 })
  t.raises("window", fork.remote, { command = { "ssh" }, window = 1 })
  t.raises("command", fork.new_exec, { command = { "ssh" } })
end)

-- A greeting as an agent of another moonfork would say it.
local function greeting(version, build)
  local body = ("<I2I2s4"):pack(version, 0, build)
  local frame = ("<I4I1I1I2I4"):pack(#body, 1, 0, 0, 0) .. body
  return ("printf '%s'; exec sleep 100"):format(("\1MOONFORK-AGENT\n" .. frame):gsub(".", function(c)
    return ("\\%03o"):format(c:byte())
  end))
end

story.test("another version there: the error names both", function(t)
  for _, case in ipairs { { 1, "9.9.9" }, { 77, "0.0.1" } } do
    local _, err = over(greeting(case[1], case[2])):run "f"
    t.error(err, "TEMPLATE_START", case[2]:gsub("%.", "%%."))
    t.match(err.message, fork._VERSION:match "%d[%d.]*" or "0%.1%.0")
    t.eq(err.started, "no")
  end
end)

-- dd asks for memory in a way that no sanitizer lets pass.
story.test("one byte at a time, the marker in pieces", function(t)
  local p = over(("echo banner; LD_PRELOAD= dd bs=1 2>/dev/null | %s | LD_PRELOAD= dd bs=1 2>/dev/null")
    :format(AGENT)):eval(CODE)
  local text = ("0123456789"):rep(2000)
  local rpc = p:fork():rpc "echo"
  t.eq(rpc(text), text)
  rpc:close()
  t.eq(t.ask(p:fork():fork(), "return 1, 2"), 1)
end)

story.test("a flood that nobody reads disturbs nobody, and is not kept here", function(t)
  local p = over():eval(CODE .. [[
    function flood(s) local x = ("f"):rep(65536) while s:write(x) do end end
  ]])
  local clone = p:fork()
  local socket = t.got(clone:run "flood")
  local rpc = p:fork():rpc "add"
  for i = 1, 200 do t.eq(rpc(i, 1), i + 1) end
  local near = child_of(kit.getpid(), "moonfork-remote")
  for _, id in ipairs { near, child_of(near, "moonfork-remote") } do -- and the agent
    local rss = tonumber((t.read("/proc/" .. id .. "/status") or ""):match "RssAnon:%s*(%d+)")
    t.ok(rss < 32 * 1024, ("%d KiB are resident in %d"):format(rss, id))
  end
  local got = 0
  while got < 20 << 20 do got = got + #t.got(socket:read(65536)) end
  t.eq(rpc(1, 1), 2)
  clone:kill "KILL"
  t.status(clone)
  rpc:close()
end)

-- Runs f(template, a clone that spins, an rpc under way) over a link whose processes have `word`,
-- breaks it, and looks what everybody is told.
local function lost(t, word, break_link, options)
  local p = over(("true %s; cat | %s | cat"):format(word, AGENT), options):eval(CODE)
  local begun = false
  local clone, waits = p:fork(), p:fork():rpc("block", { on_event = function() begun = true end })
  local socket = t.got(clone:run "spin")
  t.eq(socket:read(1), "x")
  local pid, failed, ended, p_ended = clone:pid(), nil, nil, nil
  waits:call(function(err) failed = err end)
  t.within(10, function() return begun end)
  clone:on_exit(function(status) ended = status end)
  p:on_exit(function(status) p_ended = status end)
  t.ok(t.alive(pid))
  break_link(p)
  t.within(10, function() return failed and ended and p_ended end, "all are told")
  t.error(failed, "CLONE_DIED", "status unknown: the connection is lost: ")
  t.eq(failed.started, "unknown")
  t.eq({ ended.unknown, p_ended.unknown }, { true, true })
  local _, err = p:fork():run "spin"
  t.error(err, "TEMPLATE_DIED", "the connection is lost: ")
  t.eq(err.started, "no")
  t.eq(socket:read "a", "")
  t.within(10, function() return not t.alive(pid) end, "its clones are gone")
  t.within(10, function() return #with_words(word) == 0 end, "the command has ended")
end

story.test("an agent without a free descriptor: forks and handles are refused, and none hangs", function(t)
  local p = over("ulimit -n 40; exec " .. AGENT):eval [[
    function rest(s) s:read(1) end
    function give(s)
      local fork = require "moonfork"
      for _ = 1, 100 do s:send_fd((fork.socket.pair()), "x") end
      s:read(1)
    end
    function count(...) return select("#", ...) end
  ]]
  local rpc = p:fork():rpc "count"
  t.eq(t.got(rpc:call(1)), 1)
  local waiting = p:fork()
  t.got(waiting:memory())
  local sockets, refused = {}, 0
  for _ = 1, 50 do
    local socket, err = p:fork { timeout = 60 }:run "rest"
    if socket then
      sockets[#sockets + 1] = socket
    else
      refused = refused + 1
      t.eq(err.started, "no", err.message)
      t.error(err, "LIMIT", "the agent has no free descriptor")
    end
  end
  t.ok(#sockets > 0 and refused > 0, #sockets .. " forks, " .. refused .. " refused")
  local ours, theirs = fork.socket.pair()
  local _, err = rpc:call(theirs)
  t.error(err, "LIMIT", "no free descriptor")
  t.eq(t.got(rpc:call(1)), 1)
  _, err = waiting:send_fd(theirs):run "rest"
  t.error(err, "LIMIT", "the agent has no free descriptor")
  ours:close()
  theirs:close()
  for _, socket in ipairs(sockets) do socket:close() end
  t.within(10, function() return (p:fork():run "rest") end, "closed ones make room")
  local giving <close> = t.got(p:fork():run "give") -- too many: it alone is given up
  giving:settimeout(20)
  t.ok(giving:read "a")
  t.eq(t.got(rpc:call(1)), 1)
  rpc:close()
  t.within(10, function() return (p:fork():run "rest") end, "closed ones make room")
  p:close()
end)

-- What the link tells wakes the program only when somebody waits for it.
story.test("ends are told to who waits for them, after a time in which nobody did", function(t)
  local p = over():eval(CODE .. "function leave() end function fail() error(('e'):rep(5000)) end")
  local function run_and_forget(n, name)
    for _ = 1, n do
      local clone = p:fork { stderr = "null" }
      assert(clone:run(name)):close()
      clone:close()
    end
    fork.sleep(0.05)
  end
  local function told(process, signal)
    local status
    process:on_exit(function(s) status = s end)
    run_and_forget(3, "leave")
    kit.kill(process:pid(), signal)
    t.within(10, function() fork.step(0.05) return status end)
    t.eq(status.signal, signal)
  end
  run_and_forget(300, "fail") -- more than may end unread
  local clone = p:fork()
  assert(clone:run "spin"):read(1)
  told(clone, kit.SIGKILL)
  local idle = p:fork():eval "x = 1"
  t.within(10, function() fork.step(0.05) return idle:pid() end)
  told(idle, kit.SIGKILL)
  t.eq(p:fork():rpc "echo"(7), 7)
  told(p, kit.SIGKILL)
  p:close()
  fork.loop()
end)

story.test("SIGUSR2 shows the channels of both ends, and ends neither", function(t)
  local errors = t:tmp() .. "/errors"
  local script = ([[
    local fork = require "moonfork"
    local kit = require "testkit"
    local p = fork.remote { command = { "sh", "-c", %q } }
    local function child_of(pid, name)
      for id, process in pairs(kit.processes()) do
        if process.ppid == pid and process.comm == name then return id end
      end
    end
    p:eval "function flood(s) s:write(('x'):rep(1000000)) end function f(x) return x end"
    local flood = p:fork()
    local socket = assert(flood:run "flood") -- which nobody reads
    local near = child_of(kit.getpid(), "moonfork-remote")
    local agent = child_of(child_of(near, "sh"), "moonfork-remote")
    local rpc = p:fork():rpc "f"
    for i = 1, 200 do
      for _, pid in ipairs { near, agent } do kit.kill(pid, 12) end
      assert(rpc(i) == i)
      local text = io.open %q:read "a"
      if text:find "near end" and text:find "agent, process" and text:find " 262144 bytes wait to be" then
        break
      end
      kit.msleep(50)
    end
    io.write(io.open %q:read "a")
    os.exit(0, true)
  ]]):format("cat | " .. AGENT .. " | cat", errors, errors)
  local file = t:file("usr2.lua", script)
  local lua = io.popen(("'%s' '%s' 2>'%s'"):format(os.getenv "LUA" or "lua5.4", file, errors))
  local text = lua:read "a"
  t.ok(lua:close(), text)
  for _, who in ipairs { "near end", "agent" } do
    t.match(text, "moonfork%-remote [%d.]+, " .. who .. ", process %d+: last sign of life %d")
  end
  t.match(text, "channel %d+: %d+ bytes may be sent, 262144 bytes wait to be read here")
end)

story.test("the near end is killed", function(t)
  local word = mark()
  lost(t, word, function() kit.kill((middle()), kit.SIGKILL) end)
end)

story.test("the command's relay is killed: ssh, say", function(t)
  local word = mark()
  lost(t, word, function() kit.kill(select(3, middle()), kit.SIGKILL) end)
end)

story.test("the agent is killed", function(t)
  local word = mark()
  lost(t, word, function() kit.kill(child_of(select(2, middle()), "moonfork-remote"), kit.SIGKILL) end)
end)

story.test("nothing is heard for three beats, in either direction", function(t)
  local word = mark()
  local relay
  lost(t, word, function()
    relay = select(3, middle())
    kit.kill(relay, kit.SIGSTOP)
  end, { beat = 0.3 })
end)

story.test("a link that is down for less recovers", function(t)
  local p = over(("cat | %s | cat"):format(AGENT), { beat = 1 }):eval(CODE)
  local rpc = p:fork():rpc "add"
  t.eq(rpc(1, 2), 3)
  local _, _, relay = middle()
  kit.kill(relay, kit.SIGSTOP)
  local answer
  rpc:call(3, 4, function(_, sum) answer = sum end)
  fork.sleep(1.5)
  t.eq(answer, nil)
  kit.kill(relay, kit.SIGCONT)
  t.within(10, function() return answer end)
  t.eq(answer, 7)
  rpc:close()
end)

story.test("the command ends with the last process over there, whoever still holds an object of it", function(t)
  local word = mark()
  local p = over(("true %s; cat | %s | cat"):format(word, AGENT)):eval(CODE)
  local clone = p:fork()
  t.eq(t.ask(clone, "return 1"), 1)
  t.eq(t.status(clone).code, 0)
  t.ok(#with_words(word) > 0)
  p:close()
  t.within(10, function() return #with_words(word) == 0 end, "the command has ended")
  t.eq({ clone:wait().code, (clone:kill()) }, { 0 })
end)

story.test("the parent is killed: all over there ends, and the command", function(t)
  local word = mark()
  local spin = word:gsub("%-", "_") -- it stands in the titles of the clones
  local script = ([[
    local fork = require "moonfork"
    local p = fork.remote { command = { "sh", "-c", %q } }
    p:eval "function %s(s) s:write 'x' while true do end end"
    local socket = assert(p:fork():run "%s")
    socket:read(1)
    local socket2 = assert(p:fork { leash = "term" }:run "%s")
    socket2:read(1)
    io.open("/proc/self/comm"):close()
    require "testkit".kill(require "testkit".getpid(), 9)
  ]]):format(("true %s; cat | %s | cat"):format(word, AGENT), spin, spin, spin)
  local _, code = t:lua(script)
  t.eq(code, 128 + kit.SIGKILL)
  t.outside(5, function() return #with_words(word) == 0 end, "the command has ended")
  t.outside(5, function() return #with_words("moonfork: " .. spin) == 0 end, "the clones have ended")
end)

story.done()
