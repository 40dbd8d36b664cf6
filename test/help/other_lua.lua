-- What LuaJIT and Lua 5.1 to 5.3 do with moonfork.ffi: one test of those below, by its name, in
-- a process of its own (test/proc/other_lua.lua starts it). Prints nothing and ends with 0 when
-- the test holds. Before and after it this process has the same descriptors, and no children but
-- the default template. In the syntax of every Lua.
local wanted, without_ffi = ...

if without_ffi then package.preload.ffi = nil end -- LuaJIT takes the C module then
local fork = require "moonfork.ffi"

local tests = {}

local look = assert(loadfile(arg[0]:match "^(.*)/" .. "/other_lua_look.lua"))(fork)
local descriptors, children, is_at_rest, show = look.descriptors, look.children, look.is_at_rest, look.show
local eq, is_error, raises, read_all = look.eq, look.is_error, look.raises, look.read_all
local within = look.within

local template_code = [[
  function hello(socket, ...) socket:write("hello ", table.concat({...}, " ")) end
  function upper(...)
    local list = {...}
    for i, s in ipairs(list) do list[i] = s:upper() end
    return table.unpack(list)
  end
  function echo(...) return ... end
  function sleep(seconds) os.execute("sleep " .. seconds) return "slept" end
  function work(what) while what == "hang" do end return what end
  function fail(text) error(text, 0) end
  function die() os.exit(7) end
  function wait(socket) socket:read(1) end
  function leave(socket, code) os.exit(tonumber(code)) end
  function raise(socket) error("raised over there") end
]]

local function template()
  return fork.new():eval(template_code)
end

-- ---- tests ----

tests["a clone gets arguments and answers on the descriptor"] = function()
  local t = template()
  local fd = assert(t:fork():send_arg("one", 2, 2.5, "\0"):run "hello")
  eq(type(fd), "number")
  eq(read_all(fd), "hello one 2 2.5 \0")
  local got
  t:fork():send_arg("two"):run("hello", function(err, n)
    assert(not err, tostring(err))
    got = n
  end)
  eq(got, nil, "inside of the call")
  assert(fork.loop())
  eq(read_all(got), "hello two")
  t:close()
end

tests["modules are loaded and clones of clones work"] = function()
  local t = fork.new():require("string", "table"):eval([[ first = ... ]], "x" .. ("y"):rep(1e6))
  local u = t:fork():eval [[ function size(s) s:write(#first, " ", debug.getinfo(1).nparams) end ]]
  eq(read_all(assert(u:fork():run "size")), "1000001 1")
  eq(read_all(assert(u:run "size")), "1000001 1")
  local e = fork.new_exec { path = "/nowhere/?.lua", name = "exec" }
  eq(read_all(assert(e:eval "function p(s) s:write(package.path) end":run "p")), "/nowhere/?.lua")
  t:close()
end

tests["options reach the process"] = function()
  local p = fork.new { env = { MF_A = "x=y", MF_B = 0.1, HOME = false }, cwd = "/",
    stdout = "socket", name = "worker", session = "new" }
  local fd = assert(p:eval [[ function f()
    print(os.getenv "MF_A", os.getenv "MF_B", os.getenv "HOME", io.popen("pwd"):read "l")
  end ]]:run "f")
  eq(read_all(fd), "x=y\t0.1\tnil\t/\n")
  is_error(select(2, fork.new { name = "painter" }:send_fd(999):run "f"), "EINVAL",
    "^painter: argument #1 of 'send_fd': 999 is not an open descriptor, or is a socket of the library's own$")
end

-- Sockets have numbers under /proc that can't be opened.
tests["the sockets of the library are refused, and the error says so"] = function()
  local t, refused = template(), 0
  within(10, function() return t:pid() end, "its process")
  for fd = 3, 30 do
    local file, why = io.open("/proc/self/fd/" .. fd)
    if file then
      file:close()
    elseif why:find "No such device" then
      local socket, err = t:fork():send_fd(fd):run "wait"
      if not socket then
        is_error(err, "EINVAL", "is a socket of the library's own$")
        refused = refused + 1
      else
        fork.close(socket)
      end
    end
  end
  assert(refused > 0, "its control socket")
  t:close()
end

tests["a descriptor is sent"] = function()
  local t = template()
  local a = assert(t:fork():run "wait")
  local b = assert(fork.new():eval [[ function put(s, other) other:write("!") end ]]
    :send_fd(a):run "put")
  eq(read_all(b), "")
  eq(read_all(a), "")
  t:close()
end

tests["bytes go both ways, more than a socket holds"] = function()
  local p = fork.new():eval [[ function back(s)
    local data = s:read(3000000)
    s:write(data:reverse())
  end ]]
  local fd = assert(p:run "back")
  local data = ("abc"):rep(1000000)
  assert(fork.write(fd, data))
  eq(read_all(fd), data:reverse())
  is_error(select(2, fork.read(fd)), "EINVAL")
  local q = assert(fork.new():eval(template_code):run "wait")
  is_error(select(2, fork.read(q, 1, 0.05)), "TIMEOUT")
  assert(fork.close(q))
end

tests["errors of each kind have their code"] = function()
  local err = is_error(select(2, fork.new():eval "error 'first'":eval "error 'second'":run "f"),
    "REMOTE", "first")
  eq(err.started, "no")
  assert(err.traceback and tostring(err):find(err.traceback, 1, true), "no traceback")
  eq("text: " .. err, "text: " .. err.message)
  is_error(select(2, fork.new():require "no.such.module":run "f"), "REMOTE", "no%.such%.module")
  is_error(select(2, fork.new():run "no_such_function"), "REMOTE", "no_such_function")
  is_error(select(2, fork.new():eval "os.exit(3)":run "f"), "CLONE_DIED")
  is_error(select(2, fork.new_exec { program = "/dev/null/none" }:run "f"), "TEMPLATE_START",
    "/dev/null/none")
  is_error(select(2, fork.new { timeout = 0.1 }:eval "while true do end":run "f"), "TIMEOUT")
  is_error(select(2, fork.new():send_arg(0 / 0):run "f"), "EINVAL", "nan")
  is_error(select(2, fork.new():send_fd(-1):run "f"), "EINVAL")
  is_error(select(2, fork.new():require "":run "f"), "EINVAL", "empty")
  local bad = fork.new():eval "error 'of the source'"
  is_error(select(2, bad:fork():run "f"), "REMOTE", "of the source")
  is_error(select(2, bad:run "f"), "REMOTE", "of the source")
  is_error(select(2, fork.new():wait(0.05)), "TIMEOUT")
  local cancelled
  local p = fork.new():eval "os.execute 'sleep 0.2'"
  p:run("f", function(e) cancelled = e end)
  p:close()
  within(10, function() return cancelled end, "CANCELLED")
  is_error(cancelled, "CANCELLED")
  local dead
  fork.new():eval "os.exit(3)":run("f", function(e, fd) dead = { e, fd } end)
  fork.loop()
  is_error(dead[1], "CLONE_DIED")
  eq(dead[1].exit and dead[1].exit.code, 3)
end

tests["tree: what a function starts ends with it"] = function()
  local t = fork.new():eval [[
    function start(socket)
      local pipe = io.popen "echo $$; exec sleep 600"
      socket:write(pipe:read "l", "\n")
      socket:read "a"
    end
    function hang() os.execute "sleep 600" end
  ]]
  local p = t:fork { tree = true }
  local fd = assert(p:run "start")
  local pid = assert(fork.read(fd, 100)):match "%d+"
  local function lives()
    local f = io.open("/proc/" .. pid .. "/stat")
    local text = f and f:read "*a"
    if f then f:close() end
    return text and not text:find "%) [ZX]"
  end
  eq(lives(), true)
  assert(p:kill())
  eq(assert(p:wait(10)).signal, 15)
  within(10, function() return not lives() end, "it is gone")
  fork.close(fd)
  raises("boolean expected, got number", fork.new, { tree = 1 })
  raises("boolean expected, got string", t.pool, t, "f", { tree = "yes" })
  local pool = t:pool("hang", { max = 1, call_timeout = 0.2, tree = true })
  is_error(select(2, pool:call()), "TIMEOUT")
  pool:close()
end

tests["misuse raises and says what is valid"] = function()
  raises("unknown option 'foo' %(valid: cwd, dumpable, env", fork.new, { foo = 1 })
  raises("unknown option 'program'", fork.new, { program = "x" })
  raises("table expected, got number", fork.new_exec, 1)
  raises("one of 'inherit', 'new' expected, got 'old'", fork.new, { session = "old" })
  raises("a positive number of seconds", fork.new, { timeout = 0 })
  raises("'inherit', 'null', 'socket' or a descriptor", fork.new, { stdin = "x" })
  raises("not the name of a variable", fork.new, { env = { ["a=b"] = "c" } })
  raises("the module itself is no options table", function() return fork:new() end)
  local p = template()
  raises("bad argument #1 to 'require' %(string expected", p.require, p, 1)
  raises("zero byte", p.require, p, "a\0b")
  raises("bad argument #2 to 'send_arg' %(string or number expected, got table", p.send_arg, p, "",
    {})
  raises("bad argument #1 to 'send_fd' %(a descriptor's number expected, got string", p.send_fd, p,
    "1")
  raises("unknown signal 'NOPE'", p.kill, p, "NOPE")
  raises("bad self", p.run, {}, "f")
  raises("unknown option 'handles' %(valid: async, backoff, call_timeout", p.pool, p, "f", { handles = true })
  raises("unknown option 'max'", p.rpc, p, "f", { max = 1 })
  raises("'string' expected, the only one here, got 'msgpack'", p.rpc, p, "f",
    { serialiser = "msgpack" })
  raises("unknown option 'burts' %(valid: burst, period", p.pool, p, "f",
    { restart = { burts = 1 } })
  raises("idle': 3 is more than max %(2%)", p.pool, p, "f", { max = 2, idle = 3 })
  eq(read_all(assert(p:fork():run "hello")), "hello ") -- nothing has changed
  local rpc = p:fork():rpc "upper"
  raises("unknown option 'idempotent' %(valid: timeout", rpc.with, rpc, { idempotent = true })
  rpc:close()
  p:close()
  p:close()
  raises("the process is closed", p.fork, p)
  local q = template()
  assert(fork.close(assert(q:run "hello")))
  raises("was given run", q.eval, q, "")
  local ok, err = pcall(function() fork.new { foo = 1 } end)
  assert(not ok and err:find "other_lua%.lua:%d+:", "without the caller's place: " .. err)
  ok, err = pcall(function() template():pool("f", { restart = { burst = -1 } }) end)
  assert(not ok and err:find "other_lua%.lua:%d+:.*'restart%.burst': a whole number from 0 to %d+ expected", err)
end

tests["the end of a process is told"] = function()
  local t = template()
  local function status(code, name)
    local p = t:fork { stderr = "null" }:send_arg(code)
    assert(fork.close(assert(p:run(name))))
    return assert(p:wait(10)), p
  end
  local s, p = status(3, "leave")
  eq(s.code, 3)
  eq(s.signal, nil)
  eq(s.core, false)
  assert(s.rusage and s.rusage.maxrss > 100000 and s.rusage.utime >= 0)
  assert(p:pid() > 1)
  local again
  p:on_exit(function(x) again = x end)
  eq(again, nil)
  fork.loop()
  eq(again, s)
  s = status(0, "raise")
  eq(s.code, 1)
  assert(s.error:find "raised over there", s.error)
  local q = t:fork()
  local fd = assert(q:run "wait")
  eq(q:kill(0), true)
  eq(q:kill "KILL", true)
  s = assert(q:wait(10))
  eq(s.signal, 9)
  eq(s.code, nil)
  is_error(select(2, q:kill()), "EINVAL")
  fork.close(fd)
  local told
  local r = t:fork():on_exit(function(x) told = x end)
  r:close()
  within(10, function() return told end, "the end of a closed process")
  eq(told.code, 0)
  t:close()
end

assert(loadfile(arg[0]:match "^(.*)/" .. "/other_lua_failures.lua"))(tests, fork, template, look)

tests["5,000 calls of an rpc, one at a time and at once"] = function()
  local rpc = template():rpc "upper"
  for i = 1, 500 do eq(rpc("x" .. i), "X" .. i) end
  local n = 0
  for i = 1, 5000 do
    rpc:call("x" .. i, "y", function(err, a, b, c)
      assert(not err, tostring(err))
      n = n + 1
      eq(n, i)
      eq(a, "X" .. i)
      eq(b, "Y")
      eq(c, nil)
    end)
  end
  eq(n, 0, "inside of the call")
  fork.loop()
  eq(n, 5000)
  eq(select("#", rpc()), 0)
  eq(rpc "", "")
  local bytes = {}
  for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
  local all = table.concat(bytes):rep(5000)
  eq(rpc(all), all:upper())
  eq(rpc(1), "1")
  rpc:close()
  is_error(select(2, rpc "x"), "CLOSED")
  local status = assert(rpc:process():wait(10))
  eq(status.code, 0)
end

tests["errors of calls"] = function()
  local t = template()
  local rpc = t:fork():rpc("fail", { timeout = 10 })
  local err = is_error(select(2, rpc "bang"), "REMOTE", "bang")
  assert(err.traceback, "no traceback")
  is_error(select(2, rpc({})), "EINVAL", "argument 1: a table can't be sent")
  local later
  rpc(true, function(e) later = e end)
  eq(later, nil)
  fork.loop()
  is_error(later, "EINVAL", "argument 1: a boolean")
  rpc:close()
  local sleeper = t:fork():rpc "sleep"
  is_error(select(2, sleeper:with { timeout = 0.05 } "0.3"), "TIMEOUT")
  local call
  local cancelled
  call = sleeper("0.01", function(e) cancelled = e end)
  eq(call:cancel(), true)
  eq(cancelled, nil)
  fork.loop()
  is_error(cancelled, "CANCELLED")
  eq(call:cancel(), false)
  eq(sleeper "0.01", "slept")
  sleeper:close()
  local told
  local dead = t:fork():rpc("die", { on_error = function(e) told = e end })
  local first = is_error(select(2, dead()), "CLONE_DIED")
  eq(first.started, "unknown")
  is_error(select(2, dead()), "CLONE_DIED")
  within(5, function() return told end, "on_error")
  is_error(told, "CLONE_DIED")
  dead:close()
  is_error(select(2, t:fork():rpc "no_such" "x"), "REMOTE", "no_such")
  is_error(select(2, fork.new():eval "error 'early'":rpc "f" "x"), "REMOTE", "early")
  is_error(select(2, fork.new():send_fd(999):rpc "f" "x"), "EINVAL", "999")
  t:close()
end

tests["events and an orderly end are told"] = function()
  local events, is_closed = {}, false
  local rpc = fork.new():eval [[
    function say(n)
      for i = 1, n do require("moonfork.rpc").event("event", i) end
      return "said"
    end
  ]]:rpc("say", { on_event = function(a, b) events[#events + 1] = a .. b end,
    on_close = function() is_closed = true end })
  eq(rpc "100", "said")
  rpc:close()
  within(5, function() return is_closed end, "on_close")
  eq(#events, 100)
  eq(events[100], "event100")
end

tests["a pool answers 3,000 calls, is drained and reloaded"] = function()
  local pool = template():pool("upper", { max = 2, load = 4 })
  local n = 0
  for i = 1, 3000 do
    pool("x" .. i, function(err, s)
      assert(not err, tostring(err))
      eq(s, "X" .. i)
      n = n + 1
    end)
  end
  fork.loop()
  eq(n, 3000)
  local stats = pool:stats()
  assert(stats.queue_time.max >= stats.queue_time.p50 and stats.run_time.max > 0)
  eq(stats.done, 3000)
  eq(stats.state, "running")
  eq(#pool:pids(), stats.workers)
  local calls = 0
  for i, worker in ipairs(stats.per_worker) do
    eq(worker.pid, pool:pids()[i])
    calls = calls + worker.calls
    assert(worker.run_time.total >= worker.run_time.max and worker.run_time.max >= worker.run_time.p50)
  end
  eq(#stats.per_worker, stats.workers)
  eq(#stats.last, 0)
  eq(pool:resize(1), true)
  local ok, err = pcall(pool.resize, pool, 1e18)
  assert(not ok and err:find("a whole number from 0 to 100000 expected", 1, true), err)
  eq(assert(pool:reload(fork.new():eval "function upper(s) return 'new ' .. s end")), true)
  eq(pool "x", "new x")
  is_error(select(2, pool:reload(fork.new():eval "error 'broken'")), "REMOTE", "broken")
  eq(pool "x", "new x")
  eq(pool:drain(), true)
  is_error(select(2, pool "x"), "CLOSED")
  is_error(select(2, pool:drain()), "CLOSED")
  pool:close()
  within(10, function() return pool:stats().state == "closed" end, "closed")
  eq(#pool:pids(), 0)
end

tests["a pool tells of its workers, grows, and says what became of its calls"] = function()
  local told, pids, reasons = {}, {}, {}
  local pool = template():pool("upper", { max = 1, on_worker = function(event, pid, reason)
    told[#told + 1], pids[#pids + 1], reasons[#reasons + 1] = event, pid, reason
  end })
  eq(pool "a", "A")
  eq(told[1], "started")
  eq(pids[1], pool:pids()[1])
  eq(reasons[1], "calls wait")
  eq(assert(pool:add(template())), true)
  eq(pool:stats().templates, 2)
  is_error(select(2, pool:add(fork.new():eval "error 'broken'")), "REMOTE", "broken")
  raises("bad argument #1 to 'add' %(moonfork.process expected, got number", pool.add, pool, 1)
  eq(assert(pool:promote()), true)
  eq(pool:stats().promotions, 1)
  local done
  pool:promote(function(err, ok) done = ok or err end)
  within(5, function() return done end, "promote")
  eq(done, true)
  eq(pool "b", "B")
  local ok, report = pool:drain()
  eq(ok, true)
  eq(report.interrupted + report.dropped + report.killed, 0)
  eq(told[#told] == "started", false)
  local _, err, late = pool:drain()
  is_error(err, "CLOSED")
  eq(late.answered, 0)
  is_error(select(2, pool:promote()), "CLOSED")
  pool:close()
  local slow, got, killed = template():pool("work", { max = 1, load = 1 }), nil, nil
  slow("hang", function() end)
  slow("hang", function() end)
  within(5, function() return slow:stats().running == 1 end, "running")
  slow:drain(0.05, function(e, _, r) got, killed = e, r end)
  within(10, function() return got end, "drain")
  is_error(got, "TIMEOUT")
  eq(killed.killed, 1)
  eq(killed.interrupted, 1)
  eq(killed.dropped, 1)
end

-- A min above the default max, and a max below the default min, made a failed pool here, and not
-- in Lua 5.4.
tests["one limit of backoff moves the default of the other"] = function()
  for _, backoff in ipairs { { min = 10 }, { max = 0.01 }, { min = 0 }, { max = math.huge } } do
    local pool = template():pool("upper", { max = 1, backoff = backoff })
    eq(pool "a", "A")
    pool:close()
  end
  raises("'backoff': min %(2%) is more than max %(1%)", fork.new().pool, template(), "f",
    { backoff = { min = 2, max = 1 } })
end

tests["workers of a pool die and are replaced"] = function()
  local deaths = 0
  local pool = fork.new():eval [[
    function work(s)
      if s == "die" then os.exit(1) end
      return s
    end
  ]]:pool("work", { max = 2, on_error = function() deaths = deaths + 1 end,
    backoff = { min = 0, max = 0.1 } })
  eq(pool "a", "a")
  is_error(select(2, pool "die"), "CLONE_DIED")
  local death = pool:stats().last[1]
  assert(death.pid > 1 and death.age >= 0 and death.reason:find "CLONE_DIED" and (death.exit.code or death.exit.signal))
  eq(pool "b", "b")
  is_error(select(2, pool:with { idempotent = true } "die"), "CLONE_DIED")
  eq(pool "c", "c")
  assert(deaths >= 2, deaths)
  local small = template():pool("sleep", { max = 1, load = 1, queue_max = 1 })
  local codes = {}
  for i = 1, 6 do small("0.05", function(e) codes[i] = e and e.code or "ok" end) end
  fork.loop()
  eq(codes[1], "ok")
  eq(codes[6], "LIMIT")
  small:close()
  pool:close()
  local failed = fork.new():eval "error 'no template'":pool "f"
  is_error(select(2, failed "x"), "REMOTE", "no template")
  failed:close()
end

tests["closing at bad moments answers every call once"] = function()
  local t = template()
  for round = 1, 12 do
    local answers, calls = 0, 0
    local function count() answers = answers + 1 end
    local rpc, pool = t:fork():rpc "sleep", t:fork():pool("sleep", { max = 2 })
    for _ = 1, 5 do
      rpc("0.002", count)
      pool("0.002", count)
      calls = calls + 2
    end
    local p = t:fork()
    p:run("hello", function(_, fd)
      count()
      if fd then fork.close(fd) end
    end)
    calls = calls + 1
    if round % 3 == 1 then fork.step(0.003 * round) end
    if round % 4 == 0 then p:close() end
    if round % 2 == 0 then
      rpc:close()
      pool:close()
    end
    if round % 5 == 0 then pool:drain(0.001, function() end) end
    rpc, pool, p = nil, nil, nil -- luacheck: ignore
    collectgarbage()
    fork.loop()
    eq(answers, calls, "round " .. round)
  end
  t:close()
end

tests["the collector may run at any time"] = function()
  collectgarbage("setpause", 0)
  collectgarbage("setstepmul", 1000)
  local t = template()
  local n = 0
  for i = 1, 40 do -- they may all wait inside each other: 50 at most can
    local p = t:fork():send_arg(("x"):rep(i * 100))
    p:run("hello", function(err, fd)
      collectgarbage()
      assert(not err, tostring(err))
      eq(#read_all(fd), 6 + i * 100)
      n = n + 1
    end)
    p = nil -- luacheck: ignore
    if i % 7 == 0 then collectgarbage() end
  end
  fork.loop()
  eq(n, 40)
  n = 0
  local pool = t:fork():pool("echo", { max = 2 })
  for i = 1, 150 do
    pool(("y"):rep(i), i, function(err, s, j)
      if i % 10 == 0 then collectgarbage() end
      assert(not err, tostring(err))
      eq(#s, i)
      eq(j, tostring(i))
      n = n + 1
    end)
  end
  pool = nil -- luacheck: ignore
  collectgarbage()
  fork.loop()
  eq(n, 150)
  for _ = 1, 30 do
    template()
    t:fork():eval("x = ...", "1")
    t:fork():rpc "echo"
  end
  t = nil -- luacheck: ignore
end

tests["a callback may wait, and not without end"] = function()
  local t = template()
  local rpc, inner = t:fork():rpc "upper", nil
  rpc("a", function(err, s)
    assert(not err)
    inner = s .. rpc "b" .. read_all(assert(t:fork():run "hello"))
  end)
  fork.loop()
  eq(inner, "ABhello ")
  local deepest, limit = 0, nil
  local function down()
    if limit then return end
    deepest = deepest + 1
    rpc("x", down)
    local s, err = rpc "y"
    if not s then limit = limit or err end
  end
  rpc("x", down)
  within(20, function() return limit end, "the limit of nested waits")
  is_error(limit, "LIMIT", "50 waiting calls")
  rpc:close()
  t:close()
end

tests["what callbacks raise is raised by the driving call, or handled"] = function()
  local rpc = template():rpc "echo"
  local n = 0
  rpc("a", function() error("in the callback", 0) end)
  rpc("b", function() n = n + 1 end)
  raises("^in the callback$", fork.loop)
  fork.loop()
  eq(n, 1)
  local seen
  fork.on_error(function(err, traceback) seen = { err, traceback } end)
  rpc("a", function() error { 1 } end)
  fork.loop()
  eq(seen[1][1], 1)
  assert(seen[2]:find "traceback")
  seen = nil
  local p = fork.new():eval "error 'nobody asked'"
  within(5, function()
    fork.step(0.02)
    return tostring(p):find "failed"
  end, "the failure")
  p:close()
  fork.loop()
  is_error(seen[1], "REMOTE", "nobody asked")
  fork.on_error(nil)
  rpc:close()
end

tests["idle processes, rpcs and pools are not outstanding"] = function()
  local t = template()
  local rpc, pool = t:fork():rpc "echo", t:fork():pool("echo", { idle = 1 })
  eq(rpc "x", "x")
  eq(pool "x", "x")
  eq(fork.loop(), true)
  eq(fork.step(5), false)
  rpc:close()
  pool:close()
  t:close()
end

-- Not by the list below: what is left when the Lua state ends, whose pids are printed.
local function left_behind()
  local t = template()
  local pids = {}
  local function note(p) pids[#pids + 1] = p:pid() end
  local keep = { t, t:fork():rpc "work", t:fork():pool("work", { max = 2 }), t:fork() }
  assert(keep[2] "once")
  assert(keep[3] "once")
  keep[2]("hang", function() end)
  keep[3]("hang", function() end)
  keep[4]:run("wait", function() end)
  fork.step(0.05)
  note(t)
  note(keep[2]:process())
  note(keep[4])
  for _, pid in ipairs(keep[3]:pids()) do pids[#pids + 1] = pid end
  io.write(table.concat(pids, " "), "\n")
end

-- ---- running ----

if wanted == "list" then
  local names = {}
  for name in pairs(tests) do names[#names + 1] = name end
  table.sort(names)
  io.write(table.concat(names, "\n"), "\n")
  return
elseif wanted == "left behind" then
  return left_behind()
end

local function same(a, b)
  if #a ~= #b then return false end
  for i, line in ipairs(a) do
    if line ~= b[i] then return false end
  end
  return true
end

assert(fork.close(assert(template():fork():run "hello"))) -- what stays for good exists from here on
for _ = 1, 5 do collectgarbage() end
fork.loop()
local before
within(10, function()
  if #children() > 1 or not is_at_rest() then return false end
  before = descriptors()
  return true
end, "rest before the test")

assert(tests[wanted], "there is no test " .. tostring(wanted))()

local after
local ok, why = pcall(within, 10, function()
  for _ = 1, 3 do collectgarbage() end
  fork.step(0.01)
  after = descriptors()
  return same(before, after) and #children() <= 1
end, "the same as before")
if not ok then
  error(("%s\nbefore:\n%s\nafter:\n%s\n%s"):format(tostring(why), table.concat(before, "\n"),
    table.concat(after or {}, "\n"), show()), 0)
end
assert(not fork.step(0), "work is outstanding")
