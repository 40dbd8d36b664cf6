-- pool:promote (doc/rpc.md): the worker with the most answers is forked between two calls, and
-- its copy is the template of the later ones. Real processes.
local story = require "story"
local fork = require "moonfork"
local services = require "services"
local kit = story.kit

local FUNCTIONS = [[
  clone = require "moonfork.clone"
  function build(n) made = {} for i = 1, n do made[i] = {i, tostring(i)} end return clone.pid() end
  function count() return made and #made or 0, clone.pid(), clone.ppid() end
  function snooze(s) os.execute("sleep " .. s) return clone.pid() end
  function die() clone.kill(clone.pid(), 9) end
  function do_it(name, ...) return _G[name](...) end
]]

local function template(more)
  return fork.new():eval(FUNCTIONS):eval(more or "")
end

local finish = services.finish_pool

-- Asks every worker of a pool with load 1; gives their answers.
local function ask_all(t, pool, n, ...)
  local answers, told = {}, 0
  for _ = 1, n do
    local args = table.pack(...)
    args[args.n + 1] = function(err, ...)
      t.eq(err, nil)
      answers[#answers + 1], told = table.pack(...), told + 1
    end
    pool(table.unpack(args, 1, args.n + 1))
  end
  t.within(20, function() return told == n end)
  return answers
end

-- All workers but the one that was promoted.
local function replace_others(t, pool, keep)
  t.ok(pool:resize(0))
  t.within(20, function() return pool:stats().workers == 0 end)
  t.ok(pool:resize(keep))
end

local function private_bytes(pid)
  local bytes = 0
  for line in assert(io.open(("/proc/%d/smaps_rollup"):format(pid))):lines() do
    local kb = line:match "^Private_%a+:%s+(%d+) kB"
    if kb then bytes = bytes + kb * 1024 end
  end
  return bytes
end

-- A worker has built a table of some tens of megabytes. A worker that builds it for itself has
-- all of that for itself; one that is forked from the promoted copy has next to nothing.
story.test("PP-01 later workers share what the promoted one has built", function(t)
  local n = 200000
  local pool = template():pool("do_it", {max = 1, load = 1, start = 0, idle = 1, stop = 600})
  t.got(pool "count")
  local fresh = private_bytes(pool:pids()[1])
  local pid = t.got(pool("build", n))
  local built = private_bytes(pid) - fresh
  t.ok(built > 10 << 20, built)
  t.eq(pool:promote(), true)
  t.eq(pool:stats().promotions, 1)
  t.eq(pool:stats().templates, 1)
  t.eq((t.got(pool "count")), n, "the worker itself goes on")
  replace_others(t, pool, 3)
  for _, answer in ipairs(ask_all(t, pool, 3, "count")) do t.eq(answer[1], n) end
  t.within(20, function() return #pool:pids() == pool:stats().workers end, "all are there")
  for _, w in ipairs(pool:stats().per_worker) do
    t.ok(w.pid ~= pid)
    local more = private_bytes(w.pid) - fresh
    t.ok(more < built / 4, ("%d bytes more than a new one, %d when it had built it"):format(more,
      built))
    t.note("%d KiB of its own instead of %d", more // 1024, built // 1024)
  end
  finish(t, pool)
end)

story.test("PP-01 the tree stays flat: copy and workers are the program's children", function(t)
  local pool = template():pool("do_it", {max = 1, idle = 1})
  t.got(pool("build", 10))
  t.eq(pool:promote(), true)
  replace_others(t, pool, 1)
  local n, _, parent = t.got(pool "count")
  t.eq(n, 10)
  t.eq(parent, kit.getpid())
  finish(t, pool)
end)

story.test("PP-02 init runs in workers of the copy, with its arguments again", function(t)
  local here, there = fork.socket.pair()
  local p = template [[
    function begin(text, socket, number)
      starts = (starts or 0) + 1
      socket:write(text, ":", starts, ":", number, "\n")
      channel = socket
    end
  ]]
  p:send_arg("hello"):send_fd(there):send_arg(7)
  there:close()
  local pool = p:pool("do_it", {max = 1, idle = 1, init = "begin"})
  t.eq(here:read "l", "hello:1:7")
  t.got(pool("build", 10))
  t.eq(pool:promote(), true)
  t.eq(here:read "l", "hello:2:7", "the first one of the copy, on trial: it has run before")
  replace_others(t, pool, 1)
  t.eq(here:read "l", "hello:2:7")
  t.eq((t.got(pool "count")), 10)
  finish(t, pool)
  t.eq(here:read "a", "", "nobody has the handle any more")
  here:close()
end)

story.test("PP-02 a handle that init has closed can't be given on: the promotion is refused",
  function(t)
    local here, there = fork.socket.pair()
    local p = template "function begin(socket) socket:close() end"
    p:send_fd(there)
    there:close()
    local pool = p:pool("do_it", {max = 1, idle = 1, init = "begin"})
    local pid = t.got(pool("build", 10))
    t.error(select(2, pool:promote()), "FORK_FAILED", "argument 1 of init, a handle, is closed")
    t.eq(select(2, t.got(pool "count")), pid)
    t.eq(pool:stats().promotions, 0)
    finish(t, pool)
    here:close()
  end)

story.test("PP-02 so it is where init's strings are long", function(t)
  local p = template "function begin(text) length = #text end"
  p:send_arg(("x"):rep(70000))
  local pool = p:pool("do_it", {max = 1, idle = 1, init = "begin"})
  t.got(pool("build", 10))
  t.error(select(2, pool:promote()), "FORK_FAILED", "longer than 64 KiB")
  t.eq((t.got(pool "count")), 10)
  finish(t, pool)
end)

-- What its descriptors lead to, without the numbers.
local function descriptors(pid)
  local list = {}
  for _, target in pairs(kit.fds(pid)) do list[#list + 1] = target:gsub("%[%d+%]", "") end
  table.sort(list)
  return table.concat(list, "\n")
end

-- The children of this program, as a set.
local function children()
  local pids, own = {}, kit.getpid()
  for pid, process in pairs(kit.processes()) do
    if process.ppid == own and process.state ~= "Z" then pids[pid] = true end
  end
  return pids
end

-- The template that pool:promote makes: a child that is neither a worker nor was there.
local function promote(t, pool)
  local known = children()
  t.eq(pool:promote(), true)
  t.within(10, function() return pool:stats().leaving == 0 end)
  for _, pid in ipairs(pool:pids()) do known[pid] = true end
  local copy
  for pid in pairs(children()) do
    if not known[pid] then
      t.eq(copy, nil)
      copy = pid
    end
  end
  t.ok(copy, "the copy is a child of this program")
  return copy
end

-- The copy has a control socket, as the template had, and nothing else: not the socket of the
-- worker, not the handles of calls that wait in it.
story.test("PP-03 nothing of the worker's descriptors is in the copy, or in what it forks",
  function(t)
    local p = template()
    t.got(p:memory())
    local before = descriptors(p:pid()) -- later it has, for a moment, the socket of the worker that it forks
    local pool = p:pool("do_it", {max = 1, load = 8, idle = 1})
    t.got(pool("build", 10))
    local fresh = descriptors(pool:pids()[1])
    local here, there = fork.socket.pair()
    local n, promoted = 0, nil
    for _ = 1, 3 do pool("snooze", 0.1, there, function(err) t.eq(err, nil) n = n + 1 end) end
    there:close()
    pool:promote(function(err) promoted = {err} end)
    for _ = 1, 3 do pool("snooze", 0, here, function(err) t.eq(err, nil) n = n + 1 end) end
    t.within(20, function() return n == 6 and promoted end)
    t.eq(promoted[1], nil)
    local copy = promote(t, pool)
    -- For a moment it has the socket of the worker that it forks.
    t.within(20, function() return descriptors(copy) == before end)
    replace_others(t, pool, 1)
    t.eq((t.got(pool "count")), 10)
    t.eq(descriptors(pool:pids()[1]), fresh)
    finish(t, pool)
    here:close()
  end)

story.test("PP-04 without a worker it is an error; so it is of async and of closed pools",
  function(t)
    local pool = template():pool("do_it", {max = 1})
    t.error(select(2, pool:promote()), "FORK_FAILED", "no worker")
    t.eq(pool:stats().state, "running")
    local told
    t.eq(pool:promote(function(...) told = table.pack(...) end), true)
    t.eq(told, nil)
    t.within(10, function() return told end)
    t.error(told[1], "FORK_FAILED")
    t.eq(told.n >= 1 and told[2], nil)
    t.raises("function expected", pool.promote, pool, 1)
    finish(t, pool)
    t.error(select(2, pool:promote()), "CLOSED")
    pool = fork.new():eval "function f(done) done() end":pool("f", {max = 1, async = true})
    t.error(select(2, pool:promote()), "UNSUPPORTED", "asynchronous")
    pool:close()
  end)

story.test("PP-04 what can't be forked is not promoted, and the old template stays", function(t)
  local pool = template [[
    function refuse() require("moonfork.clone").before_fork(function() return false, "not now" end) end
    function allow() require("moonfork.clone").before_fork(function() end) end
  ]]:pool("do_it", {max = 1, idle = 1})
  local pid = t.got(pool "count") and select(2, t.got(pool "count"))
  t.ok(pool "refuse" == nil)
  t.error(select(2, pool:promote()), "FORK_FAILED", "not now")
  t.eq(select(2, t.got(pool "count")), pid)
  t.ok(pool:resize(2))
  t.got(pool "count")
  t.eq(pool:stats().promotions, 0)
  t.eq(pool:stats().deaths, 0)
  finish(t, pool)
end)

-- The thread of a module that the worker has loaded would be missing in every copy.
story.test("PP-04 an event loop in the worker refuses it by name", {needs = "luv"}, function(t)
  local pool = template "function loop() require('luv').new_timer() return 1 end"
    :pool("do_it", {max = 1, idle = 1})
  t.got(pool "loop")
  local _, err = pool:promote()
  t.error(err, "FORK_FAILED", "luv")
  t.eq((t.got(pool "count")), 0)
  finish(t, pool)
end)

story.test("PP-04 workers of the copy that fail in init leave the old template in use", function(t)
  local pool = template "function begin() if made then error 'warm already' end end"
    :pool("do_it", {max = 1, idle = 1, init = "begin"})
  t.got(pool("build", 10))
  t.error(select(2, pool:promote()), "REMOTE", "warm already")
  replace_others(t, pool, 1)
  t.eq((t.got(pool "count")), 0)
  t.eq(pool:stats().promotions, 0)
  finish(t, pool)
end)

-- What it had been given is known, what the worker has built is not.
story.test("PP-05 a promoted template that dies is started again as the original was", function(t)
  local pool = template "generation = 1":pool("do_it", {max = 1, idle = 1})
  t.got(pool("build", 10))
  kit.kill(promote(t, pool), 9)
  replace_others(t, pool, 1)
  t.eq((t.got(pool "count")), 0)
  t.eq(pool:stats().template_starts, 1)
  t.eq(pool:stats().state, "running")
  finish(t, pool)
end)

-- Garbage of the worker is collected before the fork, so nothing is finalised twice; what is
-- alive then is inherited, and the copy's end finalises nothing.
story.test("PP-06 finalisers run once", function(t)
  local file = os.tmpname()
  local pool = template(([[
    function litter() setmetatable({}, {__gc = function()
      local f = io.open(%q, "a") f:write("x\n") f:close() end}) end
  ]]):format(file)):pool("do_it", {max = 1, idle = 1})
  for _ = 1, 3 do pool "litter" end
  t.eq(pool:promote(), true)
  replace_others(t, pool, 1)
  t.got(pool "count")
  finish(t, pool)
  local text = assert(io.open(file)):read "a"
  os.remove(file)
  t.eq(text, "x\nx\nx\n")
end)

-- Old garbage is what young collections don't find; it must not be left to both processes.
story.test("PP-06 finalisers of what had grown old run once, too", function(t)
  local file = os.tmpname()
  local pool = template(([[
    function keep() kept = setmetatable({}, {__gc = function()
      local f = io.open(%q, "a") f:write("x\n") f:close() end}) end
    function churn() for i = 1, 100000 do local _ = {i} end end
    big = {} -- so that a little more is no reason to collect everything
    for i = 1, 200000 do big[i] = {i} end
    function drop() kept = nil end
    function collect() clone.collect() clone.collect() return clone.pid() end
  ]]):format(file)):pool("do_it", {max = 1, idle = 1})
  pool "keep"
  for _ = 1, 5 do pool "churn" end
  pool "drop"
  t.eq(pool:promote(), true)
  t.got(pool "collect")
  replace_others(t, pool, 1)
  t.got(pool "collect")
  finish(t, pool)
  local text = assert(io.open(file)):read "a"
  os.remove(file)
  t.eq(text, "x\n")
end)

-- Between two calls: those that are under way are answered once, in their order.
story.test("PP-07 calls go on meanwhile, and each is answered once", function(t)
  local pool = template "function echo(i) return i end":pool("do_it", {max = 2, load = 4})
  t.eq((t.got(pool("echo", 0))), 0)
  local answers, promoted, n = {}, 0, 400
  for i = 1, n do
    pool("echo", i, function(err, v)
      t.eq(err, nil)
      t.eq(answers[v], nil)
      answers[v], answers.n = true, (answers.n or 0) + 1
    end)
    if i % 100 == 0 then
      pool:promote(function(err) t.eq(err, nil) promoted = promoted + 1 end)
      fork.step(0)
    end
  end
  t.within(30, function() return answers.n == n and promoted == 4 end)
  t.eq(pool:stats().promotions, 4)
  t.eq(pool:stats().deaths, 0)
  finish(t, pool)
end)

story.test("PP-07 generation after generation", function(t)
  local pool = template "function more() made = made or {} made[#made + 1] = 1 return #made end"
    :pool("do_it", {max = 1, idle = 1})
  for i = 1, 6 do
    t.eq(t.got(pool "more"), i)
    t.eq(pool:promote(), true)
    replace_others(t, pool, 1)
  end
  local _, err = pool("die_of_an_error")
  t.error(err, "REMOTE")
  local depth = select(2, err.traceback:gsub("moonfork.rpc.serve", ""))
  t.eq(depth, 1, err.traceback)
  t.eq((t.got(pool "count")), 6)
  finish(t, pool)
end)

-- A long call is not interrupted; the promotion waits for it.
story.test("PP-07 a call under way ends first", function(t)
  local pool = template():pool("do_it", {max = 1, idle = 1})
  t.got(pool("build", 10))
  local slept, promoted
  pool("snooze", 0.3, function(err) t.eq(err, nil) slept = not promoted end)
  pool:promote(function(err) t.eq(err, nil) promoted = true end)
  t.within(20, function() return promoted end)
  t.eq(slept, true)
  finish(t, pool)
end)

story.test("PP-08 a drain and a reload end it with CANCELLED", function(t)
  local pool = template():pool("do_it", {max = 1, idle = 1})
  t.got(pool("build", 10))
  local told = {}
  pool("snooze", 0.2, function() end)
  pool:promote(function(err) told[1] = err end)
  t.eq(pool:reload(template()), true)
  t.error(told[1], "CANCELLED")
  t.eq((t.got(pool "count")), 0)
  pool("snooze", 0.2, function() end)
  pool:promote(function(err) told[2] = err end)
  t.got(pool:drain(10))
  t.error(told[2], "CANCELLED")
  pool:close()
end)

-- clone.on_term, the leash, signals: the copy is a template, and its workers are workers.
story.test("PP-09 SIGTERM: workers of the copy drain as their init says, the copy just ends",
  function(t)
    local pool = template [[
      function begin() require("moonfork.clone").on_term(function() os.exit(3) end) end
    ]]:pool("do_it", {max = 1, idle = 1, init = "begin"})
    t.got(pool("build", 10))
    t.eq(pool:promote(), true)
    replace_others(t, pool, 1)
    local pid = select(2, t.got(pool "count"))
    kit.kill(pid, 15)
    t.within(10, function() return pool:stats().deaths == 1 end)
    t.eq(pool:stats().last[1].exit.code, 3)
    finish(t, pool)
  end)

-- The program is killed: template, copy and workers end, as all that is on its leash.
for _, how in ipairs {"", "require 'moonfork.early'"} do
  story.test("PP-09 the copy and its workers end with the program" .. (how ~= "" and ", early" or ""),
    function(t)
      local code = how .. [[
        local fork = require "moonfork"
        local entered = 0
        local pool = fork.new():eval "function f() require('moonfork.rpc').event() while true do end end"
          :eval "function g() made = {} end function do_it(name) return _G[name]() end"
          :pool("do_it", {max = 2, load = 1, start = 10, on_event = function() entered = entered + 1 end})
        pool "g"
        assert(pool:promote())
        for _ = 1, 2 do pool("f", function() end) end -- in the promoted one, and in one of the copy
        while entered < 2 do fork.step(0.1) end
        local kit = require "testkit"
        for pid, process in pairs(kit.processes()) do
          if process.ppid == kit.getpid() then print(pid) end
        end
        io.stdout:flush()
        kit.kill(kit.getpid(), 9)
      ]]
      local out, status, err = t:lua(code)
      t.eq(status, 137, err)
      local pids = {}
      for pid in out:gmatch "%d+" do pids[#pids + 1] = pid end
      t.ok(#pids >= 3)
      t.outside(10, function()
        for _, pid in ipairs(pids) do
          if t.alive(tonumber(pid)) then return false end
        end
        return true
      end)
    end)
end

-- limits, counts: the worker that was promoted is recycled when it is due, later ones too.
story.test("PP-10 max_calls goes on counting in the worker, and anew in later ones", function(t)
  local log = {}
  local pool = template():pool("do_it", {max = 1, idle = 1, max_calls = 4,
    on_worker = function(event, pid, reason) log[#log + 1] = event .. " " .. reason
      log[pid] = event end})
  local pid = t.got(pool("build", 10))
  t.eq(pool:promote(), true)
  for _ = 1, 4 do t.eq((t.got(pool "count")), 10) end
  t.within(10, function() return log[pid] == "recycled" end)
  for _ = 1, 8 do t.eq((t.got(pool "count")), 10, "all of the copy's") end
  t.ok(table.concat(log, "\n"):find("started promote", 1, true))
  finish(t, pool)
end)

story.test("PP-10 map goes on over a promotion", function(t)
  local pool = template "function square(i) return i * i end function do_it(i) return square(i) end"
    :pool("do_it", {max = 2})
  local items, n, promoted = {}, 0, 0
  for i = 1, 20000 do items[i] = i end
  for i, err, v in pool:map(items) do
    t.eq(err, nil)
    n = n + (v == i * i and 1 or 0)
    if i % 5000 == 1 then pool:promote(function(e) t.eq(e, nil) promoted = promoted + 1 end) end
  end
  t.eq(n, 20000)
  t.within(10, function() return promoted == 4 end)
  finish(t, pool)
end)

-- ---- where it is hard ----

-- The worker needs four descriptors for the fork; it says so, and goes on.
story.test("PP-11 a worker without free descriptors", function(t)
  local pool = template():limit{nofile = 7}:pool("do_it", {max = 1, idle = 1})
  local _, pid = t.got(pool "count")
  t.error(select(2, pool:promote()), "LIMIT", "no free descriptor")
  t.eq(select(2, t.got(pool "count")), pid)
  t.eq(pool:stats().deaths, 0)
  finish(t, pool)
end)

-- With so few descriptors left here, each promotion is an error or a success, and nothing leaks.
story.test("PP-11 a program without free descriptors", function(t)
  local pool = template():pool("do_it", {max = 1, idle = 1})
  t.got(pool("build", 10))
  local before = kit.getrlimit "nofile"
  local succeeded
  for free = 0, 12 do
    local held = {}
    kit.setrlimit("nofile", 60)
    while true do
      local fd = kit.dup(0)
      if not fd then break end
      held[#held + 1] = fd
    end
    for _ = 1, free do kit.close(table.remove(held)) end
    local ok, err = pool:promote()
    for _, fd in ipairs(held) do kit.close(fd) end
    kit.setrlimit("nofile", before)
    t.ok(ok or (err.code and err.started == "no"), err and err.code)
    succeeded = ok
    t.within(10, function() return pool:stats().leaving == 0 end)
  end
  t.eq(succeeded, true)
  t.eq((t.got(pool "count")), 10)
  finish(t, pool)
end)

-- A program that ignores SIGCHLD: the kernel takes its children away, and clones say themselves
-- who they are.
story.test("PP-11 a program that ignores SIGCHLD", function(t)
  local out, status, err = t:lua [[
    local kit = require "testkit"
    kit.disposition(kit.SIGCHLD, "ignore")
    local fork = require "moonfork"
    local pool = fork.new():eval "function f(n) n0 = n0 or n return n0 end"
      :pool("f", {max = 1, idle = 1})
    assert(pool(5) == 5)
    assert(pool:promote())
    assert(pool:resize(0))
    while pool:stats().workers > 0 do fork.step(0.1) end
    pool:resize(1)
    print(pool(6), pool:drain(10))
  ]]
  t.eq(status, 0, err)
  t.match(out, "^5\ttrue")
end)

for _, how in ipairs {"fork.template()", "fork.new_exec()", "fork.new():fork():fork()"} do
  story.test("PP-12 workers of " .. how, function(t)
    local out, status, err = t:lua(([[
      local fork = require "moonfork"
      local pool = %s:eval "function f(n) n0 = n0 or n return n0 end":pool("f", {max = 1, idle = 1})
      for i = 1, 3 do
        assert(pool(5) == 5)
        assert(pool:promote())
        assert(pool:resize(0))
        while pool:stats().workers > 0 do fork.step(0.1) end
        pool:resize(1)
      end
      print(pool(6), pool:drain(10))
    ]]):format(how))
    t.eq(status, 0, err)
    t.match(out, "^5\ttrue")
    t.eq(err, "")
  end)
end

-- With tree a worker leads a process group, which ends with it: the copy is not of that group, and
-- workers of the copy lead groups as all do.
story.test("PP-12 workers that are trees", function(t)
  local pool = template "function start() helper = io.popen 'exec sleep 300' return clone.pid() end"
    :pool("do_it", {max = 1, idle = 1, tree = true, call_timeout = 1})
  t.got(pool("build", 10))
  t.got(pool "start")
  local copy = promote(t, pool)
  t.eq(kit.getpgid(copy), copy)
  t.error(select(2, pool("snooze", 30)), "TIMEOUT")
  t.ok(t.alive(copy))
  local n, pid = t.got(pool "count")
  t.eq(n, 10)
  t.eq(kit.getpgid(pid), pid)
  t.got(pool "start")
  t.ok(pool:resize(0))
  t.within(10, function() return pool:stats().leaving == 0 and #pool:pids() == 0 end)
  t.ok(t.alive(copy))
  finish(t, pool)
  t.outside(10, function() return not t.alive(copy) end)
end)

-- The order in which they were asked for: an addition, a promotion, an addition.
story.test("PP-12 promotions and additions wait for each other", function(t)
  local pool = template():pool("do_it", {max = 4, load = 1, start = 0, idle = 4})
  t.within(10, function() return pool:stats().idle == 4 end)
  t.got(pool("build", 10))
  local order = {}
  local function note(what) return function(err) t.eq(err, nil) order[#order + 1] = what end end
  pool:add(template(), note "add")
  pool:promote(note "promote")
  pool:add(template(), note "add more")
  pool:promote(note "promote more")
  t.within(20, function() return #order == 4 end)
  t.eq(table.concat(order, ", "), "add, promote, add more, promote more")
  t.eq(pool:stats().templates, 3)
  t.eq(pool:stats().promotions, 2)
  finish(t, pool)
end)

-- Handles in calls and results, and classes of an own serialiser, go on in workers of the copy.
story.test("PP-12 handles go on in workers of the copy", function(t)
  local pool = template "function echo(h) return h end"
    :pool("do_it", {max = 1, idle = 1, handles = true})
  t.got(pool("build", 10))
  t.eq(pool:promote(), true)
  replace_others(t, pool, 1)
  local here, there = fork.socket.pair()
  local back = t.got(pool("echo", there))
  there:close()
  back:write "hello\n"
  back:close()
  t.eq(here:read "l", "hello")
  here:close()
  finish(t, pool)
end)

story.done()
