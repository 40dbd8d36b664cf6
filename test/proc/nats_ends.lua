-- Whatever ends has a deadline, also when the NATS server is gone: closed at once, a pool elsewhere, a node
-- with jobs, its pool and a watch keep the loop for seconds at most, whether the server was killed, stands
-- still, or stands still in the middle of a connection. A TLS handshake that stands still is given up, and
-- begun again.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local host = require "host"
local kit = story.kit

local HELLO = 'INFO {"server_id":"x","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576,'
  .. '"tls_required":true}\r\n'

local function test(name, f)
  story.test(name, {deadline = 60}, function(t)
    if not helper.IS_BUILT then t.skip "built without NATS" end
    return f(t, require "moonfork.nats")
  end)
end

-- What asks for TLS and then says nothing. The connections stay open until the end of the story.
local function mute(t)
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  listener:settimeout(20)
  local peers = {}
  t:defer(function()
    for _, peer in ipairs(peers) do peer:close() end
    listener:close()
  end)
  local function accept()
    local peer = t.got(listener:accept())
    peers[#peers + 1] = peer
    t.got(peer:write(HELLO))
    return peer
  end
  return "nats://" .. listener:address(), accept
end

local function loop_ends(t)
  local begun = kit.now()
  fork.loop()
  t.ok(kit.now() - begun < 20, ("the loop took %.1f s"):format(kit.now() - begun))
end

local function threads()
  return #kit.ls "/proc/self/task"
end

test("a pool closes beside a TLS handshake that stands still", function(t, nats)
  local before = threads()
  local url, accept = mute(t)
  local far = nats.pool(url, {subject = "w"})
  t.eq(accept():read(1), "\x16") -- it has begun its handshake
  fork.step(0.2)
  far:close()
  loop_ends(t)
  t.within(20, function() return threads() == before end, "the thread that connects")
end)

test("a TLS handshake that stands still is given up, and begun again", function(t, nats)
  local url, accept = mute(t)
  local far = nats.pool(url, {subject = "w"})
  accept()
  local failure
  far:call(1, function(err) failure = err end)
  t.within(30, function() return far:stats().engine_reason:find "handshake" end, "the end of the attempt")
  accept()
  t.within(30, function() return failure end, "the call")
  t.error(failure, "ENGINE", "can't be reached: .*TLS handshake")
  far:close()
  loop_ends(t)
end)

-- The handshake begins when nobody waits for the attempt any more, who could give it up.
test("an attempt whose TLS handshake begins after the end of its pool ends, too", function(t, nats)
  local before = threads()
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  listener:settimeout(20)
  local far = nats.pool("nats://" .. listener:address(), {subject = "w"})
  local peer = t.got(listener:accept())
  t:defer(function()
    peer:close()
    listener:close()
  end)
  far:close()
  loop_ends(t)
  peer:write(HELLO)
  t.within(20, function() return threads() == before end, "the thread that connects")
end)

local EXIT = [[
local fork, nats = require "moonfork", require "moonfork.nats"
local far = nats.pool(%q, {subject = "w"})
fork.socket.connect(%q):read "a"
os.exit(7)
]]

-- libnats and OpenSSL have functions that exit calls, and each waits for attempts.
test("a program that exits beside a TLS handshake that stands still ends soon", function(t)
  local url, accept = mute(t)
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  listener:settimeout(20)
  local script = t:file("exit.lua", EXIT:format(url, listener:address()))
  local pipe = io.popen(("%s '%s' 2>&1; echo status $?"):format(os.getenv "LUA" or "lua5.4", script))
  local gate = t.got(listener:accept())
  listener:close()
  t.eq(accept():read(1), "\x16")
  local begun = kit.now()
  gate:close()
  t.eq(pipe:read "a", "status 7\n")
  pipe:close()
  t.ok(kit.now() - begun < 4, ("it took %.1f s"):format(kit.now() - begun))
end)

-- What the end waits for was said before there was a connection, so no server took it; and the connection
-- is there before the loop turns again.
test("a node that is closed while it connects has ended in seconds", function(t, nats)
  local server = helper.start(t, {jetstream = true})
  local far = nats.pool(server.url, {subject = "w"})
  t.within(20, function() return far:stats().engine == "up" end, "the connection")
  local before = threads()
  for _, jobs in ipairs {"", "JOBS"} do
    local pool = fork.new():eval "function f(...) return ... end":pool "f"
    local node = t.got(nats.node(pool, server.url, {subject = "w", jobs = jobs ~= "" and jobs or nil}))
    node:close()
    local begun = kit.now()
    while threads() > before and kit.now() - begun < 20 do kit.msleep(5) end -- its thread connects
    t.within(20, function() return node:stats().state == "closed" end, "the end of the node")
    pool:close()
  end
  far:close()
  loop_ends(t)
end)

local function all_at_once(what, gone)
  test("all that is closed at once when the server is " .. what .. " has ended in seconds", function(t, nats)
    local server = helper.start(t, {jetstream = true})
    local pool = fork.new():eval "function f(...) return ... end":pool("f", {max = 2})
    local node = t.got(nats.node(pool, server.url, {subject = "w", jobs = "JOBS", beat = 0.05}))
    local far = nats.pool(server.url, {subject = "w", silent = 0.4, timeout = 2})
    local watch = t.got(nats.watch(server.url))
    t.eq({far:call(1)}, {1})
    t.eq({far:result(t.got(far:post({}, 2)))}, {2})
    local told, asked = 0, 0
    local function ask(service, name, ...)
      asked = asked + 1
      local arguments = table.pack(...)
      arguments[arguments.n + 1] = function() told = told + 1 end
      service[name](service, table.unpack(arguments, 1, arguments.n + 1))
    end
    gone(server, t)
    ask(far, "call", 1)
    ask(far, "post", {}, 1)
    ask(far, "post", {delay = 1}, 1)
    ask(far, "result", "none")
    ask(far, "cancel", "none")
    ask(far, "jobs")
    far:nodes()
    far:stats()
    far:close()
    node:close()
    pool:close()
    watch:close()
    loop_ends(t)
    t.eq(told, asked)
  end)
end

all_at_once("killed", function(server) server:kill() end)
all_at_once("stopped", function(server) server:stop() end)
-- Attempts to connect wait for its first word.
all_at_once("one that takes connections and says nothing", function(server, t)
  server:kill()
  local listener
  t.within(20, function()
    listener = fork.socket.listen("127.0.0.1:" .. server.port)
    return listener
  end, "the port")
  t:defer(function() listener:close() end)
  t.within(20, function() return #fork.socket.poll({listener}, 0) == 1 end, "an attempt")
end)

test("a copy that the program has forked itself ends by exit, whatever stands still there", function(t)
  local url = mute(t)
  local pipe = io.popen(("'%s/test/help/nats_exit' %s 2>&1"):format(os.getenv "MOONFORK_BUILD", url))
  local text = pipe:read "a"
  pipe:close()
  t.eq(text, "left status 7\n")
end)

-- It heard "Resource temporarily unavailable", and not of what.
test("a program that may start no threads hears what it needs them for, and what to do", function(t)
  local h <close> = host.start(t, [[
    local nats = require "moonfork.nats"
    local url = "nats://127.0.0.1:1"
    local far = nats.pool(url, {subject = "w"})
    local _, err = far:call(1)
    print(err.code, err.started, err)
    _, err = nats.watch(url)
    print(err.code, err)
    print "end"
  ]], {before = {host.tool(t, "seccomp_run"), "EPERM", "clone,clone3"}})
  local how, number = h:ends(30)
  if number == 77 then t.skip "no filter of system calls can be set here" end
  t.eq({how, number}, {"exit", 0}, h:err())
  local text = "libnats can't start its threads: raise the limit on processes and threads %(ulimit %-u; TasksMax= of "
    .. "a service, or pids.max of a control group%)\n"
  t.match(h:out(), "^LIMIT\tno\t" .. text .. "LIMIT\t" .. text .. "end\n$")
end)

story.done()
