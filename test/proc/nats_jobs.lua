-- Stored jobs: nats.node with `jobs`, and post, result, cancel, on_dead and jobs of nats.pool, over a
-- real nats-server. What becomes of them when something dies: nats_ledger.lua.
local story = require "story"
local kit = story.kit
local fork = require "moonfork"
local nats_server = require "nats"

if not nats_server.IS_BUILT then
  story.test("stored jobs", function(t) t.skip "built without NATS" end)
  story.done()
end

local nats = require "moonfork.nats"

local CODE = [[
  local kit = require "testkit"
  function work(what, ...)
    if what == "raise" then error(...) end
    if what == "throw" then error{reason = ...} end
    if what == "die" then kit.kill(kit.getpid(), kit.SIGKILL) end
    if what == "sleep" then
      kit.msleep(...)
      if select(2, ...) == "die" then kit.kill(kit.getpid(), kit.SIGKILL) end
    end
    if what == "note" then
      local path, id, ms = ...
      local file = io.open(path, "a")
      file:write(id, "\n")
      file:close()
      kit.msleep(ms)
    end
    if what == "once" then -- raises until there are so many lines
      local path, n = ...
      local file = io.open(path, "a+")
      file:write "x\n"
      file:seek("set", 0)
      local lines = select(2, file:read "a":gsub("\n", ""))
      file:close()
      if lines < n then error("try " .. lines) end
      return lines
    end
    return what, ...
  end]]

local count = 0

-- A server, a pool, a node of it with jobs, and a pool elsewhere.
local function world(t, options)
  options = options or {}
  count = count + 1
  nats_server.program(t)
  local w = {server = nats_server.start(nil, {jetstream = true}), -- ended after all that use it
    subject = ("jobs.%d"):format(count), stream = ("JOBS%d"):format(count)}
  w.pool = fork.new_exec():eval(CODE):pool("work", {max = options.max or 2, idle = options.max or 2})
  w.node = t.got(nats.node(w.pool, w.server.url, {subject = w.subject, jobs = w.stream, keep = options.keep}))
  w.far = t.got(nats.pool(w.server.url, {subject = w.subject, timeout = 10 * story.scale, silent = 5}))
  t:defer(function()
    w.far:close()
    w.node:close()
    w.pool:close()
    fork.loop()
    w.server:close()
  end)
  return w
end

story.test("a job is stored, worked at, and has a result that stays", function(t)
  local w = world(t)
  local id = t.got(w.far:post({}, "a", 1, nil, {2.5, "b\0c"}))
  local results = table.pack(w.far:result(id))
  t.eq(results, {"a", 1, nil, {2.5, "b\0c"}, n = 4})
  t.eq(w.far:result(id, 0), "a")
  t.eq(select("#", w.far:result(t.got(w.far:post({}, nil, nil)))), 2)
  local jobs
  t.within(10, function()
    jobs = t.got(w.far:jobs())
    return jobs.running + jobs.leftover == 0
  end)
  t.eq(jobs, {stream = w.stream, waiting = 0, delayed = 0, running = 0, redelivered = 0, results = 2, dead = 0,
    leftover = 0})
  t.eq(w.far:stats().jobs.results, 2)
  t.eq(w.node:stats().jobs_done, 2)
end)

-- A node gives it back as soon as it gets it, and the server has not written that down: it came with the next
-- delivery, 30 s after the first.
story.test("a job that waits comes a little late at most when the server is killed", function(t)
  local w = world(t)
  t.eq(w.far:call "here", "here")
  local begun = kit.now()
  local id = t.got(w.far:post({delay = 0.5}, "x"))
  local stop = kit.now() + 0.01
  while kit.now() < stop do fork.step(0.005) end
  w.server:restart()
  t.eq({w.far:result(id, 25)}, {"x"})
  t.ok(kit.now() - begun >= 0.5)
end)

story.test("the same id twice is one job, as long as it waits, works or has a result", function(t)
  local w = world(t)
  local path = t:file "lines"
  t.eq(t.got(w.far:post({id = "mail 7.*>"}, "once", path, 1)), "mail 7.*>")
  t.eq(t.got(w.far:post({id = "mail 7.*>"}, "once", path, 1)), "mail 7.*>")
  t.eq(t.got(w.far:result "mail 7.*>"), 1)
  t.eq(t.got(w.far:post({id = "mail 7.*>", lease = 2}, "another")), "mail 7.*>")
  t.eq(t.got(w.far:result "mail 7.*>"), 1)
  t.eq(t.got(w.far:post({id = "later", delay = 1000}, "x")), "later")
  t.eq(t.got(w.far:post({id = "later"}, "x")), "later")
  t.eq(w.far:jobs().delayed, 1)
  t.eq(w.far:jobs().waiting, 0)
  t.eq(t.read(path), "x\n")
end)

story.test("a job that raises is tried again, up to its tries; then it is a dead letter", function(t)
  local w = world(t)
  local dead = {}
  w.far:on_dead(function(id, tries, err) dead[#dead + 1] = {id, tries, err} end)
  local path = t:file "lines"
  t.got(w.far:result(t.got(w.far:post({}, "a")))) -- its stream and consumers are there
  local begun = kit.now()
  t.eq(w.far:result(t.got(w.far:post({}, "once", path, 3))), 3)
  t.ok(kit.now() - begun > 0.25, "the second try comes after 0.1 s, the third 0.2 s later")
  t.eq(t.read(path), "x\nx\nx\n")
  local id = t.got(w.far:post({tries = 2}, "raise", "it does not work"))
  local _, err = w.far:result(id)
  t.error(err, "REMOTE", "it does not work")
  t.match(err.traceback, "stack traceback")
  t.eq(err.started, "unknown")
  t.within(10, function() return dead[1] end)
  t.eq({dead[1][1], dead[1][2]}, {id, 2})
  t.error(dead[1][3], "REMOTE", "it does not work")
  local _, err2 = w.far:result(t.got(w.far:post({tries = 1}, "throw", "bad")))
  t.eq(err2.value, {reason = "bad"})
  t.within(10, function() return dead[2] end)
  t.eq(w.far:jobs().dead, 2)
  w.far:on_dead(nil)
end)

story.test("a job whose worker dies is tried again as one that raises", function(t)
  local w = world(t)
  local id = t.got(w.far:post({tries = 2}, "die"))
  local _, err = w.far:result(id)
  t.error(err, "CLONE_DIED")
  t.eq(err.exit.signal, 9)
  t.eq(w.node:stats().jobs_failed, 2)
  t.within(10, function() return w.node:stats().jobs_dead == 1 end)
end)

-- The node asks for no more for a while, which doubles, and gives the job back: it was not tried.
story.test("a job that a pool can start no worker for waits for a pool that can", {deadline = 60}, function(t)
  local w = world(t)
  t.got(w.far:result(t.got(w.far:post({}, "a")))) -- its stream and consumers are there
  local refuse = " require('moonfork.clone').before_fork(function() return false, 'full' end)"
  local broken = fork.new_exec():eval(CODE .. refuse):pool("work", {max = 1, idle = 0})
  local node = t.got(nats.node(broken, w.server.url, {subject = w.subject, jobs = w.stream}))
  t:defer(function()
    node:close()
    broken:close()
    fork.loop()
  end)
  t.within(20, function() return node:stats().engine == "up" end)
  t.got(w.node:drain())
  local id = t.got(w.far:post({tries = 1}, "b"))
  t.within(20, function() return broken:stats().failed >= 2 end)
  t.eq({node:stats().jobs_failed, node:stats().jobs_dead}, {0, 0})
  local good = t.got(nats.node(w.pool, w.server.url, {subject = w.subject, jobs = w.stream}))
  t:defer(function()
    good:close()
    fork.loop()
  end)
  t.eq(w.far:result(id), "b")
  t.eq(w.far:jobs().dead, 0)
end)

story.test("a lease is renewed while the function works", function(t)
  local w = world(t)
  local id = t.got(w.far:post({lease = 0.3}, "sleep", 1200))
  t.within(10, function() return w.node:stats().jobs_held == 1 end)
  t.match(fork.dump(), "1 jobs\n    job " .. id:gsub("%-", "%%-")
    .. ": at work, 0 of 5 tries over, lease of 0.300 s renewed 0%.%d+ s ago\n")
  t.eq(w.far:result(id), "sleep")
  t.eq(w.node:stats().jobs_redelivered, 0)
  t.eq(w.node:stats().jobs_done, 1)
end)

story.test("a job may wait for its time", function(t)
  local w = world(t)
  local begun = kit.now()
  local id = t.got(w.far:post({delay = 0.4}, "x"))
  local value, err = w.far:result(id, 0)
  if not value or kit.now() - begun < 0.4 then t.error(err, "TIMEOUT") end -- asked in time
  t.eq(w.far:result(id), "x")
  t.ok(kit.now() - begun >= 0.4)
end)

story.test("a job that waits can be taken away, one that works can't", function(t)
  local w = world(t, {max = 1})
  local waits = t.got(w.far:post({delay = 1000}, "x"))
  local working = t.got(w.far:post({}, "sleep", 600))
  t.within(10, function() return w.node:stats().jobs_held == 1 end)
  t.eq(w.far:cancel(waits), true)
  t.eq(w.far:cancel(waits), false)
  t.eq(w.far:cancel(working), false)
  t.eq(w.far:cancel "never heard of", false)
  local _, err = w.far:result(waits)
  t.error(err, "CANCELLED")
  t.eq(err.started, "no")
  t.eq(w.far:result(working), "sleep")
  t.eq(w.far:cancel(working), false)
  t.eq(w.far:jobs().delayed, 0)
end)

-- "no" was told of what had been tried before.
story.test("of a job that was taken away between two tries nobody says that it was not started", {deadline = 60},
  function(t)
    local w = world(t)
    local id = t.got(w.far:post({tries = 50}, "raise", "x"))
    t.within(20, function() return w.node:stats().jobs_failed >= 3 end)
    t.within(20, function() return t.got(w.far:cancel(id)) end)
    local _, err = w.far:result(id)
    t.error(err, "CANCELLED")
    t.eq(err.started, "unknown")
  end)

-- Whoever waited took it from the subject of the result, where it is also said if the stream refuses it.
story.test("a cancel that comes after the result is not the result", {deadline = 60}, function(t)
  local w = world(t)
  local id = t.got(w.far:post({}, "sleep", 1000))
  local results
  w.far:result(id, 20, function(...) results = {...} end)
  t.within(20, function() return w.node:stats().jobs_held == 1 end)
  local socket = t.got(fork.socket.connect("127.0.0.1:" .. w.server.port))
  socket:settimeout(10)
  t.ok(socket:read "l")
  local head = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 99\r\nMf-Error: CANCELLED\r\nMf-Started: no\r\n\r\n"
  socket:write('CONNECT {"verbose":false,"headers":true}\r\n', ("HPUB %s.done.%s %d %d\r\n%s\r\nPING\r\n"):format(
    w.subject, id, #head, #head, head))
  t.match(socket:read "l", "^PONG")
  socket:close()
  t.within(20, function() return results end)
  t.eq(results, {nil, "sleep", 1000})
end)

-- It was taken out of the stream all the same: whoever waited for its result waited for ever.
story.test("a job at work has a result also when it could not be taken away", {deadline = 60}, function(t)
  local w = world(t, {max = 1})
  local id = t.got(w.far:post({lease = 0.5}, "sleep", 800, "die"))
  t.within(10, function() return w.node:stats().jobs_held == 1 end)
  t.eq(w.far:cancel(id), false)
  local _, err = w.far:result(id)
  t.error(err, "CLONE_DIED", "")
  t.eq({w.far:jobs().waiting, w.far:jobs().running}, {0, 0}, "it is not tried again")
end)

-- The same of one whose node ends.
story.test("a job that could not be taken away is done by another node if its own ends", {deadline = 60}, function(t)
  local w = world(t, {max = 1})
  w.node:close()
  local with = ("--engine %s --subject %s --jobs %s -n 1"):format(w.server.url, w.subject, w.stream)
  local entered = t:file("entered", "")
  local code = ("-e 'function f(x) io.open(%q, %q):write(x):close() require(%q).msleep(1000) return x end' f"):format(
    entered, "a", "testkit")
  local program = require "program"
  local function node()
    local made = program.start(t, "node " .. with .. " " .. code)
    t.outside(30, function() return made.out():find " ready " or made:ended() end, "the node")
    return made
  end
  local first = node()
  local id = t.got(w.far:post({lease = 0.5}, "x"))
  t.within(20, function() return t.read(entered) == "x" end)
  t.eq(w.far:cancel(id), false)
  first:kill(kit.SIGKILL)
  first:wait()
  local second = node()
  t.eq(w.far:result(id, 20), "x")
  second:kill(kit.SIGTERM)
  second:wait()
end)

-- Its error had the id of the result, which was stored meanwhile: the stream took it for one more copy and
-- acknowledged it, and "taken away" was told of a job that had run.
story.test("a job that ends while it is taken away was not taken away", {deadline = 60}, function(t)
  local w = world(t)
  local n, over, taken = 200, 0, {}
  for i = 1, n do
    w.far:post({}, i, function(err, id)
      t.eq(err, nil)
      local function cancel()
        w.far:cancel(id, function(err2, is_taken)
          t.eq(err2, nil)
          taken[id], over = is_taken, over + 1
        end)
      end
      fork.timer(i % 20 / 1000, cancel) -- at other moments of its way
    end)
    while i - over > 10 do fork.step(1) end
  end
  t.within(30, function() return over == n end)
  for id, is_taken in pairs(taken) do
    local _, err = w.far:result(id)
    t.eq(is_taken, err ~= nil, id)
    if err then t.error(err, "CANCELLED") end
  end
end)

-- The stream of jobs remembered the id for two minutes, and "stored" was told of what it had dropped.
story.test("an id whose result is over can be posted again", {deadline = 60}, function(t)
  local w = world(t, {keep = 1})
  for i = 1, 2 do
    t.eq(w.far:post({id = "again"}, i), "again")
    t.eq(w.far:result "again", i)
    t.outside(30, function() return select(2, w.far:result("again", 0)) ~= nil end, "the end of its result")
  end
end)

-- It was looked for among the results first, and then among the jobs: what ended in between was found in
-- neither, and a job that took longer than the stream remembers its id ran once more.
story.test("an id that is posted while its job ends is that job", {deadline = 60}, function(t)
  local w = world(t, {max = 8, keep = 1})
  local ledger, n, over, under_way = t:file("ledger", ""), 24, 0, 0
  for i = 1, n do
    local id, is_over = "job" .. i, false
    local function post()
      under_way = under_way + 1
      w.far:post({id = id}, "note", ledger, i, 1500, function(err)
        t.eq(err, nil)
        under_way = under_way - 1
        if not is_over then post() end
      end)
    end
    post()
    w.far:result(id, 50, function(err)
      t.eq(err, nil)
      is_over, over = true, over + 1
    end)
  end
  t.within(50, function() return over == n and under_way == 0 end)
  t.within(20, function() return w.far:jobs().waiting + w.far:jobs().running == 0 end)
  local lines = 0
  for _ in io.lines(ledger) do lines = lines + 1 end
  t.eq(lines, n)
end)

-- Found with a full store: nothing woke the caller when the second that nodes have was over, so the cancel
-- timed out; the job was gone, and had no result.
story.test("a job is taken away also when a node does not answer", function(t)
  local w = world(t)
  t.within(20, function() return #w.far:nodes() == 1 end)
  local socket = t.got(fork.socket.connect("127.0.0.1:" .. w.server.port))
  local beat = "mfb\2" .. ("<s4s4I4I4I4I4I1I4I8"):pack(("S"):rep(22), "silent", 20, 0, 2, 2, 0, 300, 0)
  socket:settimeout(10)
  t.ok(socket:read "l")
  socket:write("CONNECT {\"verbose\":false}\r\n", ("PUB %s.beat %d\r\n%s\r\nPING\r\n"):format(w.subject, #beat,
    beat))
  t.match(socket:read "l", "^PONG")
  t.within(20, function() return #w.far:nodes() == 2 end)
  local id = t.got(w.far:post({delay = 1000}, "x"))
  t.eq(t.got(w.far:cancel(id)), true)
  t.error(select(2, w.far:result(id, 0)), "CANCELLED")
  socket:close()
end)

story.test("callbacks, and many jobs of several leases at once", function(t)
  local w = world(t)
  local n, ids = 0, {}
  for i = 1, 300 do
    t.eq(w.far:post({lease = 1 + i % 3}, i, function(err, id)
      t.ok(not err, err)
      t.ok(not ids[id], "an id twice")
      ids[id] = true
      w.far:result(id, function(failure, value)
        t.eq(value, i, failure)
        n = n + 1
      end)
    end), true)
  end
  fork.loop()
  t.eq(n, 300)
end)

story.test("the longest subject and the longest id work for calls and jobs", function(t)
  local server = nats_server.start(t, {jetstream = true})
  local subject = ("s"):rep(200)
  local pool = fork.new_exec():eval(CODE):pool("work", {max = 1})
  local node = t.got(nats.node(pool, server.url, {subject = subject, jobs = ("J"):rep(64)}))
  local far = t.got(nats.pool(server.url, {subject = subject, timeout = 10 * story.scale}))
  t.eq(far "call", "call")
  local id = ("%"):rep(128) -- each byte takes three in a subject
  t.eq(far:post({id = id}, "job"), id)
  t.eq(far:result(id), "job")
  t.raises("it is longer than 200 bytes", nats.pool, server.url, {subject = subject .. "s"})
  far:close()
  node:close()
  pool:close()
  fork.loop()
end)

story.test("without a stream, a server, or with what can't be posted: errors that say so", function(t)
  local server = nats_server.start(t, {jetstream = true})
  local far = t.got(nats.pool(server.url, {subject = "nobody"}))
  local id, err = far:post({timeout = 0.5}, 1)
  t.eq(id, nil)
  t.error(err, "ENGINE", "no stream stores jobs of nobody: start a node with jobs")
  t.eq(err.started, "no")
  id, err = far:post({}, io.stdout)
  t.eq(id, nil)
  t.error(err, "EINVAL", "handles")
  err = select(2, far:post({}, print, 2))
  t.error(err, "EINVAL", "argument")
  t.raises("unknown option 'try'", far.post, far, {try = 1})
  t.raises("option 'tries'", far.post, far, {tries = 0}, 1)
  t.raises("option 'lease'", far.post, far, {lease = 0.01}, 1)
  t.raises("option 'id': 1 to 128 bytes expected, got 129", far.post, far, {id = ("x"):rep(129)}, 1)
  t.raises("string expected, got no value", far.result, far)
  t.raises("bad argument #1 to 'cancel'", far.cancel, far, "")
  far:close()
  err = select(2, far:post({}, 1))
  t.error(err, "CLOSED")
  fork.loop()
  server:kill()
  far = nats.pool(server.url, {subject = "nobody"})
  err = select(2, far:post({timeout = 0.5}, 1))
  t.error(err, "ENGINE", "can't be reached")
  t.eq(err.started, "no")
  far:close()
  fork.loop()
  local without = nats_server.start(t)
  far = nats.pool(without.url, {subject = "nobody"})
  err = select(2, far:post({timeout = 0.5}, 1))
  t.error(err, "ENGINE", "JetStream")
  far:close()
  fork.loop()
  t.raises("option 'jobs'", nats.node, fork.new():pool("type", {}), server.url, {subject = "a", jobs = "a.b"})
end)

story.test("a node whose server is gone ends, although a result could not be stored", function(t)
  local w = world(t)
  t.got(w.far:post({}, "sleep", 300))
  t.within(10, function() return w.node:stats().jobs_held == 1 end)
  w.server:kill()
  local begun = kit.now()
  t.got(w.node:drain(30))
  t.ok(kit.now() - begun < 15 * story.scale)
end)

-- nats-server 2.9.10 ends when it is asked for a message of a stream that it is about to make: the first
-- post with an id of its own, while the first node was starting, took the server away from all.
story.test("no message is asked for of a stream of results that does not serve yet", function(t)
  local server = nats_server.start(t, {jetstream = true})
  local spy = assert(fork.socket.connect("127.0.0.1:" .. server.port))
  t:defer(function() spy:close() end)
  local seen, body = {}, '{"name":"J","subjects":["a.job.*.*","a.later.*.*"],"retention":"workqueue"}'
  local function look(mark) -- at what the server was asked, up to now
    spy:write(("PUB mark %d\r\n%s\r\n"):format(#mark, mark))
    repeat
      local line = assert(spy:read "l"):gsub("\r$", "")
      local subject = line:match "^MSG %$JS%.API%.(%S+)"
      if subject then seen[#seen + 1] = subject end
    until line == mark
    local text = table.concat(seen, " ")
    seen = {}
    return text
  end
  spy:write('CONNECT {"verbose":false}\r\nSUB mark 1\r\nSUB $JS.API.STREAM.> 2\r\n')
  spy:write(("PUB $JS.API.STREAM.CREATE.J answer %d\r\n%s\r\n"):format(#body, body))
  t.match(look "made", "STREAM.CREATE.J")
  local far, err = t.got(nats.pool(server.url, {subject = "a", timeout = 10 * story.scale}))
  t.within(10, function() -- before it is connected, other errors
    err = select(2, far:post({id = "x", timeout = 0.7}, 1))
    return tostring(err):find("J_done", 1, true)
  end)
  t.error(err, "ENGINE", "the stream J_done does not answer: it is not there, or does not allow")
  t.eq(err.started, "no")
  local asked = look "asked"
  t.match(asked, "STREAM.NAMES")
  t.ok(not asked:find("STREAM.MSG.GET", 1, true), asked)
  local pool = fork.new_exec():eval(CODE):pool("work", {max = 1})
  local node = t.got(nats.node(pool, server.url, {subject = "a", jobs = "J"}))
  t.eq(t.got(far:post({id = "x"}, 1)), "x")
  t.eq(far:result "x", 1)
  asked = look "done"
  local at = {}
  for i, name in ipairs{"STREAM.CREATE.J_done", "STREAM.CREATE.J_dead", "STREAM.CREATE.J "} do
    at[i] = t.ok(asked:find(name, 1, true), name)
  end
  t.ok(at[1] < at[2] and at[2] < at[3], asked)
  t.match(asked, "STREAM.MSG.GET.J_done")
  far:close()
  node:close()
  pool:close()
  fork.loop()
end)

story.test("a pool that is closed lets go of who waits for a result", function(t)
  local w = world(t)
  local err
  w.far:result("nothing", function(e) err = e end)
  fork.step(0.1)
  w.far:close()
  fork.loop()
  t.error(err, "CANCELLED")
end)

story.done()
