-- How clones in threads end where C code of a module ends them (doc/thread-clones.md, "Ends"): by
-- pthread_exit() only that clone, by exit(), abort() or a crash all of the process; each is told of, and what
-- is left of the template works on. Real processes and threads.
local story = require "story"
local fork = require "moonfork"
local threads = require "thread_story"
local test, thread, result = threads.test, threads.thread, threads.result

local FUNCTIONS = [[
  local module = package.searchpath("unsafe.crash", (package.cpath:gsub("%?", "unsafe")))
  local function does(name) return assert(package.loadlib(module, "luaopen_unsafe_" .. name))() end
  count = 0
  function writes_and_does(s, name) s:write "x" does(name) s:write "y" end
  function does_first(_, name) does(name) end
  function inside(s, name) coroutine.wrap(function() pcall(does, name) end)() s:write "y" end
  function finaliser(s, name)
    kept = setmetatable({}, {__gc = function() does(name) end})
    s:write "x"
  end
  function file(_, name, path)
    opened = io.open(path, "w")
    opened:write "written"
    does(name)
  end
  function call(name) return does(name) end
  function load(name) does(name) end
  function waits(s) s:read "a" end
  function counts(s) count = count + 1 s:write(count) end
]]

local LEFT = "C code has ended the clone's thread"

local function template(code)
  return fork.new_exec():eval(FUNCTIONS .. (code or ""))
end

-- The template has no clone in a thread left: then it forks, and ends when it is closed.
local function is_whole(t, p)
  t.eq((result(t, p:fork(), "counts")), "1")
  t.eq((result(t, thread(p, ""), "counts")), "1")
  local pid = p:pid()
  p:close()
  t.within(10, function() return not t.alive(pid) end, "the template's process")
end

test("a thread that C code ends is a clone that ended with an error, and no other", function(t)
  for _, what in ipairs {"thread_exit", "thread_cancel"} do
    local p = template()
    local other = thread(p, "")
    local waiting = t.got(other:run "waits")
    for _, case in ipairs {{"writes_and_does", "x"}, {"does_first", ""}, {"inside", ""}, {"finaliser", "x"}} do
      for _ = 1, 2 do -- the second was made ahead
        local text, status = result(t, thread(p, what), case[1])
        t.eq(text, case[2], case[1])
        t.eq(status.code, 1)
        t.match(status.error, LEFT)
      end
    end
    waiting:close()
    t.eq(t.got(other:wait()).code, 0)
    other:close()
    is_whole(t, p)
  end
end)

test("the same in a command, a hook of a birth, and a pool", function(t)
  local p = template()
  local q = thread(p, "thread_exit"):eval "call 'thread_exit'"
  local _, err = q:run "counts"
  t.error(err, "REMOTE", LEFT)
  t.eq(err.started, "no")
  q:close()
  is_whole(t, p)
  p = template [[ require "moonfork.clone".on_fork(function() if born then call "thread_exit" end end) ]]
  p:eval "born = true"
  q = thread(p, "")
  _, err = q:run "counts"
  t.error(err, "REMOTE", LEFT)
  q:close()
  p:eval "born = nil"
  is_whole(t, p)
  local pool = template():pool("call", {isolation = "thread", max = 1})
  _, err = pool:call "thread_exit"
  t.error(err, "CLONE_DIED", LEFT)
  t.ok(pool:call "thread_detach") -- the next worker; it is detached already
  t.got(pool:drain(10))
  pool:close()
end)

test("what its objects hold is written then, too, and nothing of it stays", function(t)
  local p = template()
  local function nfds()
    local n = 0
    for _ in io.popen("ls /proc/" .. p:pid() .. "/fd"):lines() do n = n + 1 end
    return n
  end
  local path = t:tmp() .. "/file"
  t.eq((result(t, thread(p, ""), "counts")), "1")
  local before = nfds()
  for _ = 1, 20 do
    t.eq(select(2, result(t, thread(p, "thread_exit", path), "file")).code, 1)
    t.eq(t.read(path), "written")
    os.remove(path)
  end
  t.within(10, function() return nfds() == before end)
  is_whole(t, p)
end)

-- Two collections make an object old.
test("what a clone has made is finalised at its end, old or young, and nothing that it inherited", function(t)
  local path = t:tmp() .. "/told"
  local p = template [[
    local clone = require "moonfork.clone"
    local function finalised(path, text)
      return setmetatable({}, {__gc = function() assert(io.open(path, "a")):write(text):close() end})
    end
    function inherit(path) inherited = finalised(path, "inherited ") collectgarbage() end
    function makes(_, path, ncollections, exits)
      first = finalised(path, "first ")
      for _ = 1, ncollections do collectgarbage() end
      second = finalised(path, "second ")
      if exits == "exits" then clone.exit(0, true) end
    end
  ]]
  p:eval("inherit(...)", path)
  for ncollections = 0, 3 do
    for _, exits in ipairs {"", "exits"} do
      t.eq(select(2, result(t, thread(p, path, ncollections, exits), "makes")).code, 0)
      t.eq(t.read(path), "second first ")
      os.remove(path)
    end
  end
  is_whole(t, p)
end)

-- Lua was told of the other mode of its collector first, in which old objects hold no young ones: a
-- collection while variables were closed freed what was in use.
test("what is collected while a clone's variables are closed at its exit is garbage", function(t)
  local p = template [[
    local clone = require "moonfork.clone"
    local function fill(list)
      for i = 1, 2000 do list[i] = {n = i, text = ("x"):rep(50) .. i} end
    end
    local function use_and_count_wrong(lists)
      local wrong = 0
      for i = 1, 300000 do local _ = {i} end
      for _, list in ipairs(lists) do
        for i, item in ipairs(list) do
          if item.n ~= i or item.text ~= ("x"):rep(50) .. i then wrong = wrong + 1 end
        end
      end
      return wrong
    end
    function uses(_, path, finalise)
      local lists = {}
      local _ <close> = setmetatable({}, {__close = function()
        assert(io.open(path, "w")):write(use_and_count_wrong(lists), " wrong"):close()
      end})
      for i = 1, 20 do
        lists[i] = {}
        fill(lists[i])
        if i % 3 == 0 then collectgarbage "step" end
      end
      clone.exit(0, finalise == "finalise")
    end
  ]]
  local path = t:tmp() .. "/wrong"
  for _, finalise in ipairs {"", "finalise"} do
    t.eq(select(2, result(t, thread(p, path, finalise), "uses")).code, 0)
    t.eq(t.read(path), "0 wrong", finalise)
    os.remove(path)
  end
  is_whole(t, p)
end)

-- Whoever called it, none of them has returned: 0 would be a success.
test("no process is forked while a thread runs that a clone in a thread has left", function(t)
  local p = template()
  t.eq((result(t, p:fork(), "counts")), "1") -- there was none
  t.eq((result(t, thread(p, "thread"), "writes_and_does")), "xy")
  local q = p:fork()
  local _, err = q:run("counts")
  t.error(err, "FORK_FAILED", "the process has 2 threads")
  q:close()
  t.eq((result(t, thread(p, ""), "counts")), "1")
  p:close()
end)

test("C code that ends the process ends all, and none of them with success", function(t)
  for what, status in pairs {leave = 1, exit = 9} do
    local p = template()
    local others, waiting = {}, {}
    for i = 1, 3 do
      others[i] = thread(p, "")
      waiting[i] = t.got(others[i]:run "waits")
    end
    local q = thread(p, what)
    t.got(q:run "writes_and_does"):close()
    others[4] = q
    for i = 1, 4 do
      local s = t.got(others[i]:wait())
      t.eq(s.code, status)
      t.match(s.error, "the template's process.*exit status " .. (what == "exit" and 9 or 0))
      others[i]:close()
    end
    for i = 1, 3 do waiting[i]:close() end
    p:close()
  end
  local p = template()
  local other = thread(p, "")
  local waiting = t.got(other:run "waits")
  t.got(thread(p, "abort"):run "does_first"):close()
  local s = t.got(other:wait())
  t.ok(s.signal == 6 or s.code ~= 0, "or what a sanitizer makes of it")
  waiting:close()
  other:close()
  p:close()
end)

-- The thread that serves is the first one, and can't be missed.
test("a template that C code has taken its thread ends, and its clones in threads", function(t)
  local p = template()
  local q = thread(p, "")
  local waiting = t.got(q:run "waits")
  p:eval "call 'thread_exit'"
  local _, err = p:fork():run "counts"
  t.ok(err)
  t.got(p:wait(20))
  t.ok(t.got(q:wait(20)).code ~= 0)
  waiting:close()
  q:close()
  p:close()
end)

-- What was kept for the next clones, hundreds of GiB of addresses, counted as used: such a template could map
-- nothing any more, and forked nobody.
test("a limit on addresses after clones in threads", {
  skip = story.is_sanitized and "a sanitizer needs more addresses" or nil}, function(t)
  local p = template "function sums(s) local l = {} for i = 1, 1000 do l[i] = {i} end s:write(#l) end"
  for _ = 1, 5 do t.eq((result(t, thread(p, ""), "sums")), "1000") end
  p:limit {as = 256 << 20}
  t.eq((result(t, p:fork(), "sums")), "1000")
  local _, err = thread(p, ""):run "sums"
  t.error(err, "UNSUPPORTED", "address space is limited")
  p:limit {as = 200 << 20}
  t.eq((result(t, p:fork(), "sums")), "1000")
  -- The stacks of threads that had ended, 8 MiB each, counted as used, too.
  p:limit {as = 16 << 20}
  t.eq((result(t, p:fork(), "sums")), "1000")
  p:close()
  p = template()
  local q = thread(p, "")
  local waiting = t.got(q:run "waits")
  _, err = p:limit({as = 256 << 20}):fork():run "counts"
  t.error(err, "UNSUPPORTED", "limit as: clones of the process run in threads")
  waiting:close()
  t.eq(t.got(q:wait(20)).code, 0) -- it was not disturbed
  p:close()
end)

-- The handler by which threads are ended took the place of a module's.
test("a module's own handler of SIGURG is called, whoever was first, and clones are ended", function(t)
  local URGENT = [[
    urgent = call 'urgent'
    function urgents(first) if first then urgent = call 'urgent' end return urgent() > 0 end
    function spins() while true do end end
  ]]
  for _, first in ipairs {"the module", "the thread"} do
    local p = template(first == "the module" and URGENT or URGENT:gsub("^%s*urgent = call 'urgent'", ""))
    p:seal {audit = "off"}
    local rpc = p:fork {isolation = "thread"}:rpc "urgents"
    t.eq(t.got(rpc:call(first == "the thread")), true, first)
    t.eq(t.got(rpc:call()), true, first)
    rpc:close()
    local ends = p:pool("spins", {isolation = "thread", max = 1, call_timeout = 0.05})
    local value, err = ends:call()
    t.ok(value == nil)
    t.error(err, "TIMEOUT")
    t.got(ends:drain(20))
  end
end)

local FUNCTIONS_OF_THE_LIBRARY = [[
  require "moonfork"
  function waits(how)
    local fork = require "moonfork"
    local a, b = fork.socket.pair()
    if how == "reads" then return b:read(1) end
    if how == "accepts" then return fork.socket.listen("127.0.0.1:0"):accept() end
    fork.timer(100, print)
    a:write(("x"):rep(60000))
    b:limit(50000)
    assert(b:read "l" == nil)
    if how == "sleeps" then fork.sleep(100) end
    while true do end
  end
]]

local function ends_in_time(t, pool, ...)
  for _, how in ipairs {...} do
    local value, err = pool:call(how)
    t.ok(value == nil)
    t.error(err, "TIMEOUT")
  end
end

-- The module has the code that waits once more, and was not told that its clone is to end: such a clone stayed
-- for ever, and with it the pool.
test("a clone in a thread that waits in the module's sockets is ended in time", function(t)
  local pool = fork.new_exec():eval(FUNCTIONS_OF_THE_LIBRARY):pool("waits",
    {isolation = "thread", max = 1, call_timeout = 0.05, backoff = {min = 0.001, max = 0.001}})
  ends_in_time(t, pool, "reads", "accepts", "sleeps", "runs")
  t.got(pool:drain(20))
end)

-- Another interpreter of the same process that had loaded the module, too, took that from all clones.
test("an interpreter of a C module's leaves them that", function(t)
  local p = fork.new_exec():eval(FUNCTIONS_OF_THE_LIBRARY):eval [[
    local other = require "faultkit".state(package.path, package.cpath)
    assert(other:here "return require 'moonfork'")
    other:close()
  ]]
  local pool = p:pool("waits", {isolation = "thread", max = 1, call_timeout = 0.05,
    backoff = {min = 0.001, max = 0.001}})
  ends_in_time(t, pool, "reads")
  t.got(pool:drain(20))
end)

-- As with pseudo-processes that end at once (pseudo_fork.lua).
test("clones in threads that are ended leave no memory of the library's", {
  skip = story.scale > 1 and "needs a plain build" or nil}, function(t)
  local p = fork.new_exec():eval(FUNCTIONS_OF_THE_LIBRARY)
  t.got(p:memory())
  local pid = t.got(p:pid())
  local pool = p:pool("waits", {isolation = "thread", max = 1, call_timeout = 0.02,
    restart = {burst = 1000, period = 1}, backoff = {min = 0.001, max = 0.001}})
  local function some(n)
    for _ = 1, n do ends_in_time(t, pool, "sleeps", "runs") end
  end
  local function kib() return tonumber(t.read("/proc/" .. pid .. "/status"):match("VmRSS:%s*(%d+) kB")) end
  some(8)
  local before = kib()
  some(20)
  -- the last one may still be there, and the next one already
  t.within(10, function() return kib() < before + 1500 end, "64 KiB of each stayed")
  t.got(pool:drain(20))
end)

-- The kill was sent while the record of the birth was read, and looked for the end itself: the
-- record of that was lost, and the end of the process was waited for, which came five seconds late.
test("a clone that is killed before its birth, and has ended at once, is not waited for",
{deadline = 30}, function(t)
  local p = fork.new_exec():eval "function waits(s) s:read 'a' end function echo(...) return ... end"
  local runs = thread(p)
  local socket = t.got(runs:run "waits") -- the template goes on
  p:eval "os.execute 'exec sleep 1'"
  local pool = p:pool("echo", {max = 1, isolation = "thread"})
  local err, failure
  pool(1, function(e) err = e end)
  pool:drain(0.05, function(e) failure = e end)
  t.within(10, function() return failure end)
  t.error(err, "TIMEOUT")
  t.error(failure, "TIMEOUT")
  story.kit.msleep(1000) -- it is born and ends, and this program hears of both at once
  pool:close()
  local t0 = story.kit.now()
  fork.loop()
  local took = story.kit.now() - t0
  t.ok(took < 4, took)
  socket:close()
  t.got(runs:wait(10))
  runs:close()
end)

-- The template's process stayed until the C code had returned.
test("a pool that is closed ends its template's process, though a worker is in C code", {deadline = 30}, function(t)
  local p = fork.new_exec():eval "function nap() os.execute 'exec sleep 20' end"
  t.got(p:memory())
  local pid, status, err = t.got(p:pid()), nil, nil
  p:on_exit(function(s) status = s end)
  local pool = p:pool("nap", {max = 1, isolation = "thread", grace = 0.1})
  pool(function(e) err = e end)
  t.within(10, function() return pool:stats().running == 1 end)
  pool:close()
  t.within(10, function() return status end)
  t.error(err, "CLONE_DIED")
  t.eq(status.signal, 9)
  t.ok(not t.alive(pid))
end)

-- When a drain had told the template to end, and it was left to the thread, nobody told the pool again, which
-- waited for the thread.
for _, what in ipairs {"a pool that is closed", "a drained pool that is closed"} do
  test(what .. " leaves other clones in threads of its template alone", {deadline = 30}, function(t)
    local p = fork.new_exec():eval "function echoes(s) for l in s:lines() do s:write(l, '\\n') end end"
    local q = thread(p)
    local socket = t.got(q:run "echoes")
    local status
    p:on_exit(function(s) status = s end)
    local pool = p:pool("string.upper", {max = 1, isolation = "thread"})
    t.eq(t.got(pool:call "x"), "X")
    if what:find "drained" then
      t.got(pool:drain())
      t.within(10, function() return fork.dump():find "ends with its clones in threads" end)
    end
    pool:close()
    t.within(10, function() return not fork.step(0) end, "the pool is closed")
    t.ok(status and status.unknown)
    socket:write "still there\n"
    t.eq(socket:read(), "still there")
    socket:close()
    t.eq(t.got(q:wait(10)).code, 0)
    q:close()
  end)
end

story.done()
