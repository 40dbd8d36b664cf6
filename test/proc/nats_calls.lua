-- Calls over a NATS server: a pool that is elsewhere is called, mapped and drained like one that is
-- here, and what is not so is told. The node is in this process; test/proc/nats_failures.lua has those
-- that die.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local kit = story.kit

local CODE = [[
  function echo(...) return ... end
  function bad(what) if what then error{code = what} end error "it went wrong" end
  function long(n) return ("x"):rep(n) end
  function sleep(seconds) require "testkit".msleep(math.ceil(seconds * 1000)) return "slept" end
  function await(path)
    while not io.open(path) do require "testkit".msleep(5) end
    return "came"
  end
  function handle() return io.stdout end
  local entered = 0
  function count() entered = entered + 1 return entered end
  function leave(code) os.exit(code) end
  function fall() require "testkit".kill(require "testkit".getpid(), 9) end
  function any(name, ...) return _ENV[name](...) end
]]

local server = helper.CAN_START and helper.start() -- before the first census, for all stories

-- A pool here as a node, and a far pool; both are closed at the end of the story.
local function pair(t, node_options, far_options, pool_options)
  local nats = require "moonfork.nats"
  local pool = fork.new_exec():eval(CODE):pool("any", pool_options or {max = 2, idle = 2, handles = true})
  node_options = node_options or {}
  local subject = ("s%d.%d"):format(kit.getpid(), math.random(1 << 30))
  local function options(more)
    local o = {subject = subject}
    if more == node_options then o.beat = 0.05 end
    for key, value in pairs(more or {}) do o[key] = value end
    return o
  end
  local node = assert(nats.node(pool, server.url, options(node_options)))
  local far = nats.pool(server.url, options(far_options))
  t:defer(function()
    far:close()
    node:close()
    pool:close()
    assert(fork.loop())
  end)
  return far, node, pool, subject
end

-- A connection of its own: what a stranger sends and hears.
local function stranger(t)
  local socket = assert(fork.socket.connect((server.url:match "//(.*)")))
  socket:settimeout(20)
  socket:write 'CONNECT {"verbose":false}\r\n'
  t:defer(function() socket:close() end)
  return socket
end

local test = helper.test

test("values go there and back, by waiting, by callback, by map, in coroutines", function(t)
  local far, node = pair(t)
  local table_ = t.got(far:call("echo", {1, {2.5, "x\0y"}, [-3] = true}))
  t.eq(table_, {1, {2.5, "x\0y"}, [-3] = true})
  t.eq(select("#", far("echo", 1, nil, nil)), 3)
  local answers = {}
  for i = 1, 100 do
    far:call("echo", i, function(err, v) answers[i] = err or v end)
  end
  t.eq(#answers, 0, "before the reactor turns")
  t.ok(fork.loop())
  for i = 1, 100 do t.eq(answers[i], i) end
  local sum = 0
  for i, err, v in far:map({{"echo", 1}, {"echo", 2}, {"echo", 3}}, {unpack = true}) do
    t.eq(err, nil)
    t.eq(v, i)
    sum = sum + v
  end
  t.eq(sum, 6)
  t.eq(far:with{timeout = 10, idempotent = true}("echo", 7), 7)
  local big = ("y"):rep(900000)
  t.eq(t.got(far:call("echo", big)), big)
  local stats = far:stats()
  t.eq({stats.state, stats.engine, stats.nodes, stats.queued, stats.running, stats.failed},
    {"running", "up", 1, 0, 0, 0})
  t.eq(stats.done, stats.calls)
  t.ok(stats.p50 > 0 and stats.p50 <= stats.p99 and stats.p99 <= stats.max)
  t.eq(node:stats().answers, stats.done)
end)

test("errors of the function come with their traceback and value", function(t)
  local far = pair(t)
  local _, err = far:call("bad")
  t.error(err, "REMOTE", "it went wrong")
  t.match(err.traceback, "in function 'bad'")
  t.eq(err.started, "unknown")
  _, err = far:call("bad", 42)
  t.eq(err.value, {code = 42})
end)

test("errors say how the worker's process ended, of single calls and in a map", function(t)
  local far = pair(t)
  local _, err = far:call("leave", 3)
  t.error(err, "CLONE_DIED")
  t.eq({err.exit.code, err.exit.signal}, {3, nil})
  _, err = far:call "fall"
  t.error(err, "CLONE_DIED")
  t.eq({err.exit.code, err.exit.signal}, {nil, 9})
  _, err = far:call "bad"
  t.eq(err.exit, nil)
  for _, failure in far:map({{"leave", 4}}, {unpack = true}) do
    t.error(failure, "CLONE_DIED")
    t.eq(failure.exit.code, 4)
  end
end)

test("what can't travel is refused before it is sent, and says what to do", function(t)
  local far = pair(t)
  local _, err = far:call("echo", io.stdout)
  t.error(err, "EINVAL", "handles can't leave the machine")
  t.eq(err.started, "no")
  _, err = far:call("echo", {print})
  t.error(err, "EINVAL", "function")
  _, err = far:call("echo", ("x"):rep(1 << 20))
  t.error(err, "LIMIT", "max_payload of the server")
  t.eq(err.started, "no")
  _, err = far:call("long", 1 << 20)
  t.error(err, "LIMIT", "max_payload of the server")
  t.eq(err.started, "unknown")
  _, err = far:call("handle")
  t.error(err, "EINVAL", "handles")
  t.eq(t.got(far:call("echo", "still here")), "still here")
end)

test("a time limit, a cancelled call and a late answer each concern one call", function(t)
  local far, node = pair(t, nil, nil, {max = 1, load = 1, idle = 1})
  t.eq(t.got(far:call("echo", 1)), 1)
  local told = {}
  local call = far:call("sleep", 0.3, function(err) told.cancelled = err end)
  t.eq(far:with{timeout = 0.05}:call("count"), nil, "it waits in the node")
  t.eq(far:stats().running, 1)
  t.ok(call:cancel())
  t.eq(told.cancelled, nil, "not inside of cancel")
  t.within(10, function() return told.cancelled end)
  t.error(told.cancelled, "CANCELLED")
  t.eq(call:cancel(), false)
  t.eq(t.got(far:call "count"), 1, "the node did not begin the one whose time was over")
  t.within(10, function() return node:stats().held == 0 end)
  local stats = far:stats()
  t.eq({stats.timeouts, stats.cancelled, stats.running, stats.queued}, {1, 1, 0, 0})
end)

test("without a node calls wait, as many as queue_max, and for their time", function(t)
  local far = require "moonfork.nats".pool(server.url, {subject = "nobody.there", queue_max = 3})
  t:defer(function() far:close() end)
  t.within(20, function() -- until it is connected, which the time limit of a call may come before
    local _, err = far:with{timeout = 0.05}:call(0)
    return tostring(err):find "no node has announced itself"
  end)
  local begin, errors = kit.now(), {}
  for i = 1, 5 do far:with{timeout = 0.1}:call(i, function(err) errors[i] = err end) end
  t.ok(fork.loop())
  t.ok(kit.now() - begin >= 0.1)
  for i = 1, 5 do
    t.error(errors[i], i <= 3 and "TIMEOUT" or "LIMIT", i <= 3 and "no node has announced itself" or "queue_max")
    t.eq(errors[i].started, "no")
  end
  t.eq(far:nodes(), {})
end)

test("a node holds its window, and callers who share it lose nothing", function(t)
  local far, node, _, subject = pair(t, {window = 4}, nil, {max = 2, load = 2, idle = 2})
  local other = require "moonfork.nats".pool(server.url, {subject = subject})
  local done, most = 0, 0
  for i = 1, 400 do
    local from = i % 2 == 0 and far or other
    from:call("echo", i, function(err, v)
      t.eq(err, nil)
      t.eq(v, i)
      done = done + 1
      most = math.max(most, node:stats().held)
    end)
  end
  t.within(20, function() return done == 400 end)
  t.ok(most <= 4, "held " .. most)
  local stats = node:stats()
  t.eq({stats.calls, stats.answers, stats.errors}, {400, 400, 0})
  other:close()
end)

test("an idle node and an idle pool are not outstanding, and use no processor", function(t)
  local far, node = pair(t, {beat = 0.05})
  t.eq(t.got(far:call("echo", 1)), 1)
  t.ok(fork.loop())
  t.eq(fork.step(0), false)
  fork.sleep(0.3) -- some beats
  t.eq(#far:nodes(), 1)
  t.ok(far:nodes()[1].beat < 0.25)
  t.eq(far:nodes()[1].room, node:stats().window)
end)

test("drain of a pool finishes what it has, and close is final", function(t)
  local far = pair(t)
  local answers = 0
  for _ = 1, 20 do
    far:call("sleep", 0.01, function(err) answers = answers + (err and 0 or 1) end)
  end
  local ok, report = far:drain(20)
  t.eq({ok, answers}, {true, 20})
  t.eq(report, {answered = 20, dropped = 0, interrupted = 0, killed = 0})
  local _, err = far:call("echo", 1)
  t.error(err, "CLOSED")
  _, err = far:drain()
  t.error(err, "CLOSED")
  far:close()
  far:close()
  t.ok(fork.loop())
  t.eq(far:stats().state, "closed")
  t.eq(far:nodes(), {})
end)

test("a drain whose time is over gives up what is left", function(t)
  local far = pair(t)
  t.eq(t.got(far:call("echo", 1)), 1)
  local told
  far:call("sleep", 0.5, function(err) told = err end)
  t.within(10, function() return far:stats().running == 1 end)
  local ok, err, report = far:drain(0.05)
  t.eq(ok, nil)
  t.error(err, "TIMEOUT")
  t.eq(report.interrupted, 1)
  t.error(told, "CANCELLED")
  t.eq(told.started, "unknown")
end)

test("a drained node answers what it has; what comes meanwhile goes to another", function(t)
  local far, node, pool, subject = pair(t, {beat = 0.05})
  local nats = require "moonfork.nats"
  local slept
  far:call("sleep", 0.4, function(err, v) slept = err or v end)
  t.within(10, function() return node:stats().held == 1 end)
  local second = assert(nats.node(pool, server.url, {subject = subject, beat = 0.05, name = "second"}))
  t.within(10, function() return #far:nodes() == 2 end)
  local answers, drained = 0, nil
  for i = 1, 300 do
    far:call("echo", i, function(err)
      t.eq(err, nil)
      answers = answers + 1
      if answers == 50 then node:drain(function(e, ok) drained = e or ok end) end
      if i <= 300 then far:call("echo", i, function(e) t.eq(e, nil) answers = answers + 1 end) end
    end)
  end
  t.within(20, function() return answers == 600 and drained ~= nil end)
  t.eq({drained, slept}, {true, "slept"})
  t.eq(node:stats().held, 0)
  local _, err = node:drain()
  t.error(err, "CLOSED")
  t.eq(t.got(far:call("echo", "by the second")), "by the second")
  second:close()
end)

test("a node whose pool is closed takes no calls; one whose pool has failed says why", function(t)
  local far, _, pool = pair(t)
  t.eq(t.got(far:call("echo", 1)), 1)
  pool:close()
  local _, err = far:with{timeout = 0.2}:call("echo", 2)
  t.error(err, "TIMEOUT", "no node had room")
  t.eq(err.started, "no")
  local second = pair(t, nil, nil, {max = 1, init = "there_is_no_such_function", restart = {burst = 0}})
  _, err = second:with{timeout = 20}:call("echo", 3)
  t.error(err, "REMOTE", "there_is_no_such_function")
end)

test("a call that the node's pool never takes is refused, and not sent again for ever", function(t)
  local far, node = pair(t, nil, nil, {max = 1, message_max = 1000})
  local _, err = far:with{timeout = 20}:call("echo", ("x"):rep(5000))
  t.error(err, "LIMIT", "message_max")
  t.eq(err.started, "no")
  t.eq(t.got(far:call("echo", 1)), 1)
  t.eq({far:stats().retried, node:stats().refused}, {0, 0})
end)

test("an engine that can't be reached, or refuses, is told as ENGINE", function(t)
  local nats = require "moonfork.nats"
  local listener = assert(fork.socket.listen "127.0.0.1:0")
  local address = listener:address()
  listener:close()
  local far = nats.pool("nats://" .. address, {subject = "x"})
  local _, err = far:with{timeout = 0.3}:call(1)
  t.error(err, "ENGINE", "can't be reached: no server answers at nats://" .. address:gsub("%p", "%%%0"))
  t.eq(err.started, "no")
  t.ok(not far:stats().engine_reason:find "%.c:")
  far:close()
  local locked = helper.start(t, {user = "ada", password = "secret"})
  far = nats.pool(locked.url, {subject = "x", user = "ada", password = "wrong"})
  _, err = far:call(1)
  t.error(err, "ENGINE", "refused")
  t.ok(not tostring(err):find "secret" and not tostring(err):find "wrong", "the error has the password")
  far:close()
  far = nats.pool(locked.url:gsub("://", "://ada:wrong@"), {subject = "x"})
  _, err = far:call(1)
  t.error(err, "ENGINE", "refused")
  t.ok(not tostring(err):find "wrong", "the error has the password")
  far:close()
  far = nats.pool(server.url:gsub("^nats", "tls"), {subject = "x"})
  _, err = far:call(1)
  t.error(err, "ENGINE", "refused")
  far:close()
  _, err = nats.pool(locked.url, {subject = "x", ca = "/nowhere"}):call(1)
  t.error(err, "ENGINE", "/nowhere")
  local pool = fork.new_exec():eval(CODE):pool("echo")
  local node, refusal = nats.node(pool, locked.url, {subject = "x", creds = "/nowhere"})
  t.eq(node, nil)
  t.error(refusal, "ENGINE", "/nowhere")
  pool:close()
end)

test("users, tokens and certificates are shown to the server", function(t)
  local nats = require "moonfork.nats"
  local function try(options, with)
    local closed = helper.start(t, options)
    with.subject = "x.y"
    local pool = fork.new_exec():eval(CODE):pool "echo"
    for key, value in pairs(with) do with[key] = value:gsub("^FOLDER", closed.folder) end
    local node = assert(nats.node(pool, closed.url, with))
    local far = nats.pool(closed.url, with)
    t.eq(t.got(far:with{timeout = 20}:call "hello"), "hello")
    far:close()
    node:close()
    pool:close()
    t.ok(fork.loop())
    return closed
  end
  try({user = "ada", password = "secret"}, {user = "ada", password = "secret"})
  try({token = "t0ken"}, {token = "t0ken"})
  local closed = try({tls = "verify"}, {ca = "FOLDER/ca.pem", cert = "FOLDER/client.pem", key = "FOLDER/client.key"})
  local far = nats.pool(closed.url, {subject = "x", ca = closed.folder .. "/other.pem"})
  local _, err = far:call(1)
  t.error(err, "ENGINE", "refused")
  far:close()
end)

-- Node and caller are in this process, so each use of the serialiser here is counted.
test("a node passes values on as they are, without reading them", function(t)
  local used = {encode = 0, decode = 0}
  package.preload.counted = function()
    return {encode = function(...) used.encode = used.encode + 1 return table.concat({...}, "\0") end,
      decode = function(text) used.decode = used.decode + 1 return text end}
  end
  t:defer(function() package.preload.counted, package.loaded.counted = nil, nil end)
  local nats = require "moonfork.nats"
  local pool = fork.new_exec():eval [[
    package.preload.counted = function()
      return {encode = function(...) return (...) end, decode = function(text) return text end}
    end
    function echo(text) return text end]]:pool("echo", {serialiser = "counted"})
  local node = t.got(nats.node(pool, server.url, {subject = "counted", beat = 0.05}))
  local far = nats.pool(server.url, {subject = "counted", serialiser = "counted", timeout = 20})
  local bytes = "\xc1 \0 \xff no MessagePack" -- c1 is never used there
  t.eq(far:call(bytes), bytes)
  t.eq(used, {encode = 1, decode = 1})
  t.eq({node:stats().answers, node:stats().bad}, {1, 0})
  far:close()
  node:close()
  pool:close()
  t.ok(fork.loop())
end)

test("fork.dump shows nodes and far pools", function(t)
  local far, node = pair(t, {beat = 0.05, name = "dumped"}, nil, {max = 1, idle = 1})
  t.eq(t.got(far:call("echo", 1)), 1)
  local done
  far:call("sleep", 0.3, function() done = true end)
  t.within(10, function() return node:stats().held == 1 end)
  local text = fork.dump()
  t.match(text, 'far pool of "s[%d.]+": engine nats://127.0.0.1:%d+ UP, .*, 1 nodes, 0 calls wait, 1 with nodes')
  t.match(text, 'node "dumped" %(%w+%): heard 0%.%d+ s ago, holds %d of 18, .*, 1 calls with it, the oldest since 0%.')
  t.match(text, 'node "dumped" of "s[%d.]+": open, engine .* UP.*, holds 1 of 18, 1 calls of 1 callers\n')
  t.within(10, function() return done end)
  far:close()
  t.within(10, function() return not fork.dump():find "far pool" end)
end)

test("a watch hears of all nodes of all subjects, and calls none", function(t)
  local far, node, pool, subject = pair(t, {beat = 0.05, name = "one"})
  local nats = require "moonfork.nats"
  local deep = subject .. (".x"):rep(30) -- as many words as are looked at
  local other = t.got(nats.node(pool, server.url, {subject = deep, beat = 0.05, name = "two"}))
  local watch = t.got(nats.watch(server.url, {silent = 0.5}))
  local function names()
    local found = {}
    for _, group in ipairs(watch:groups()) do
      for _, one in ipairs(group.nodes) do found[#found + 1] = group.subject .. " " .. one.name end
    end
    table.sort(found)
    return found
  end
  t.within(20, function() return #names() == 2 end)
  t.eq(names(), {subject .. " one", deep .. " two"})
  local group = watch:groups()[1]
  t.eq(group.nodes[1].room, 20)
  t.eq({watch:stats().engine, node:stats().calls}, {"up", 0})
  t.eq(t.got(far:call("echo", 1)), 1)
  t.within(20, function()
    for _, one in ipairs(watch:groups()) do
      if one.subject == subject then return one.nodes[1].calls == 1 end
    end
  end)
  local _, err = watch:jobs(subject, 0.3)
  t.error(err, "ENGINE")
  -- Beats of anybody: none of ours, and a subject that would move a terminal's cursor.
  local port = server.url:match ":(%d+)$"
  local socket = assert(fork.socket.connect("127.0.0.1:" .. port))
  socket:write('CONNECT {"verbose":false}\r\nPUB a.beat 3\r\nmfb\r\nPUB a\27[2J.beat 3\r\nmfb\r\n')
  t.within(20, function() return watch:stats().bad == 2 end)
  socket:close()
  other:close()
  t.within(20, function() return #names() == 1 end)
  t.eq(#watch:groups(), 2, "a group stays: its jobs may wait")
  t.raises("unknown option 'subject' %(valid: ca, cert", nats.watch, server.url, {subject = "x"})
  t.raises("argument #1 to 'jobs'", watch.jobs, watch, "a b")
  watch:close()
  t.within(10, function() return #watch:groups() == 0 end)
  t.eq(watch:stats().engine, "closed")
  _, err = watch:jobs(subject)
  t.error(err, "CLOSED")
end)

test("wrong arguments are named", function(t)
  local nats = require "moonfork.nats"
  t.raises("argument #1 to 'pool' %(string expected", nats.pool)
  t.raises("unknown option 'subjekt' %(valid: ca, cert", nats.pool, "nats://x", {subjekt = "x"})
  for _, subject in ipairs{"", "a b", "a..b", "a.*", ">", ".a", "a.", "$SYS.x", ("x"):rep(201), "a\nb", "a\0b"} do
    t.raises("option 'subject'", nats.pool, "nats://x", {subject = subject})
  end
  t.raises("option 'subject': string expected, got nil", nats.pool, "nats://x", {})
  t.raises("'cert' and 'key' belong together", nats.pool, "nats://x", {subject = "x", cert = "/dev/null"})
  t.raises("there is no 'user'", nats.pool, "nats://x", {subject = "x", password = "x"})
  t.raises("argument #1 to 'node' %(moonfork.pool expected, got nil", nats.node)
  for url, what in pairs{["http://x"] = "neither with nats:// nor with tls://", ["nats://x,ws://y"] = "neither",
                         ["nats://x y"] = "a blank", ["nats://x\n"] = "control", [""] = "an empty string",
                         [("x"):rep(4096)] = "4,096 bytes", ["nats://h:65536"] = "from 1 to 65535",
                         ["h:1,u:p@h:0"] = "from 1 to 65535", ["nats://h:4a"] = "from 1 to 65535",
                         ["nats://"] = "no host", ["/tmp/x"] = "no host", [":4222"] = "no host", [","] = "no host",
                         ["tls://u:p@"] = "no host", ["h,nats:///x"] = "no host", ["nats://u@:1"] = "no host"} do
    t.raises("argument #1 to 'pool' %(.*" .. what, nats.pool, url, {subject = "x"})
  end
  for _, url in ipairs{"127.0.0.1:1", "nats://127.0.0.1:1", "TLS://127.0.0.1:1,nats://u:p@127.0.0.1:1,", "::1", "h,,i",
                       "nats://u:p@h/x:0", "u:p@[::1]"} do
    nats.pool(url, {subject = "x"}):close()
  end
  local pool = fork.new_exec():eval(CODE):pool "echo"
  t.raises("argument #2 to 'node' %(string expected, got no value", nats.node, pool)
  t.raises("argument #3 to 'node' %(option 'window': a whole number", nats.node, pool, "nats://x", {subject = "x",
    window = 0})
  local node = nats.node(pool, "nats://127.0.0.1:1", {subject = "x"})
  local watch = nats.watch "nats://127.0.0.1:1"
  node:close()
  watch:close()
  t.eq(tostring(select(2, node:drain())), "the node is closed")
  t.eq(tostring(select(2, watch:jobs "x")), "the watch is closed")
  pool:close()
  local far = nats.pool("nats://127.0.0.1:1", {subject = "x"})
  t.raises("use a colon", far.call)
  t.raises("unknown option 'idem'", far.with, far, {idem = true})
  far:close()
end)

test("a call that is cancelled while it waits in the node is never entered", function(t)
  local far, node = pair(t, nil, nil, {max = 1, load = 1})
  local path, told = t:file("wait", "") .. ".over", {}
  far:call("await", path, function(err, v) told[1] = err or v end)
  local second = far:call("count", function(err, v) told[2] = err or v end)
  t.within(20, function() return node:stats().held == 2 end)
  t.ok(second:cancel())
  t.within(20, function() return node:stats().held == 1 end)
  t.error(told[2], "CANCELLED")
  t:file("wait.over", "")
  t.eq(far("count"), 1)
  t.eq(told[1], "came")
end)

-- The nodes are the story's own: each is silent once it has the call.
test("an idempotent call goes to two other nodes at most", function(t)
  local far = require "moonfork.nats".pool(server.url, {subject = "gone", silent = 0.2})
  local socket, told, had = stranger(t), nil, {}
  t:defer(function() far:close() end)
  socket:write "SUB gone.node.* 1\r\n"
  far:with{idempotent = true}("x", function(err) told = err or "answered" end)
  local function beat(k)
    local text = "mfb\2" .. ("<s4s4I4I4I4I4I1I4I8"):pack(("%022d"):format(k), "silent", 20, 0, 2, 2, 0, 300, 0)
    socket:write(("PUB gone.beat %d\r\n"):format(#text), text, "\r\nPING\r\n")
    repeat
      local line = t.ok(socket:read "l")
      local size = line:match "^MSG .* (%d+)\r?$"
      -- The kind of its first record: a call, and not a question about one.
      if size and socket:read(tonumber(size) + 2):byte(5) == 1 then had[#had + 1] = line:match "%d+" end
    until line:find "^PONG"
  end
  for k = 1, 5 do
    t.within(20, function()
      if not told and #had < k then beat(k) end
      return told or #had == k
    end)
  end
  t.error(told, "CLONE_DIED", "gave no sign of life for 200 ms")
  t.eq(told.started, "unknown")
  t.eq(#had, 3)
end)

test("who asks right after a beat gets one, too", function(t)
  local far, _, _, subject = pair(t, {beat = 600})
  t.eq(far("echo", 1), 1)
  local socket = stranger(t)
  socket:write(("SUB %s.beat 1\r\n"):format(subject))
  for _ = 1, 3 do
    socket:write(("PUB %s.ask 0\r\n\r\n"):format(subject))
    repeat
      local line = t.ok(socket:read "l", "no beat")
    until line:find "^MSG "
  end
end)

test("a node with few beats ends as soon as others", function(t)
  local nats = require "moonfork.nats"
  local pool = fork.new_exec():eval(CODE):pool "echo"
  local node = assert(nats.node(pool, server.url, {subject = "seldom", beat = 4000000}))
  t.within(20, function() return node:stats().engine == "up" end)
  local begun = kit.now()
  t.eq(node:drain(), true)
  t.ok(kit.now() - begun < 10, "the drain waited for a beat")
  node:close()
  pool:close()
  t.ok(fork.loop())
end)

test("the name of a node may have any characters but those that control a terminal", function(t)
  local nats = require "moonfork.nats"
  local far = pair(t, {name = "B\u{fc}ro \"7\" \\"})
  t.eq(far("echo", 1), 1)
  t.eq(far:nodes()[1].name, "B\u{fc}ro \"7\" \\")
  local pool = fork.new_exec():eval(CODE):pool "echo"
  for _, name in ipairs{"a\27[2J", "a\n", "\127"} do
    t.raises("argument #3 to 'node' %(option 'name': .* has a control character", nats.node, pool, server.url,
      {subject = "x", name = name})
  end
  pool:close()
end)

-- libnats tries servers in any order; one that says nothing costs two seconds of an attempt.
test("calls wait for the end of the first attempt to connect", function(t)
  local nats = require "moonfork.nats"
  local _, _, _, subject = pair(t)
  local a, b = assert(fork.socket.listen "127.0.0.1:0"), assert(fork.socket.listen "127.0.0.1:0")
  local answers, fars = {}, {}
  for i = 1, 12 do -- a third of them tries both first
    fars[i] = nats.pool(("nats://%s,nats://%s,%s"):format(a:address(), b:address(), server.url), {subject = subject})
    fars[i]:call("echo", i, function(err, v) answers[#answers + 1] = err and tostring(err) or v == i end)
  end
  t.within(15, function() return #answers == #fars end)
  for i, far in ipairs(fars) do
    t.eq(answers[i], true)
    far:close()
  end
  a:close()
  b:close()
end)

test("what nobody refers to is closed, without a thread or a descriptor left", function(t)
  local nats = require "moonfork.nats"
  local function threads() return #kit.ls "/proc/self/task" end
  local before = threads()
  local pool = fork.new_exec():eval(CODE):pool "echo"
  do
    local node = nats.node(pool, server.url, {subject = "g"})
    local far = nats.pool(server.url, {subject = "g"})
    t.eq(t.got(far:call(1)), 1)
    t.eq({node:stats().engine, far:stats().engine}, {"up", "up"})
  end
  t.collect()
  t.within(20, function() return threads() == before end)
  pool:close()
end)

if server then server:close() end
story.done()
