-- What is lost and what is doubled when something between a caller and a worker dies: calls over a real
-- nats-server, and a ledger in which every entry of the function is a line. No call is entered twice that
-- was not marked idempotent; the number of calls whose fate is unknown is limited by what the dead one
-- held; "no" is said with proof only: such a call is never in the ledger.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local nats_node = require "nats_node"
local kit = story.kit

local test = helper.test

local function far_pool(t, url, options)
  local o = {subject = "w", silent = 0.4}
  for key, value in pairs(options or {}) do o[key] = value end
  local far = require "moonfork.nats".pool(url, o)
  t:defer(function()
    far:close()
    fork.loop()
  end)
  return far
end

local function wait_nodes(t, far, n)
  t.within(30, function() return #far:nodes() == n end, n .. " nodes")
end

-- count calls of some time each, `flying` at a time; at(done) is called after each answer. What came of
-- them: ok, and by number the errors.
local function run(t, far, ledger, o)
  local out = {ok = 0, unknown = {}, no = {}, answered = {}}
  local begun, done = 0, 0
  local service = o.with and far:with(o.with) or far
  local function begin()
    begun = begun + 1
    local n = begun
    service:call(n, o.seconds or 0.001, ledger, function(err, v)
      done = done + 1
      if not err then
        t.eq(v, n)
        out.ok = out.ok + 1
        out.answered[n] = true
      elseif err.started == "no" then
        out.no[n] = err
      else
        out.unknown[n] = err
      end
      if begun < o.count then begin() end
      if o.at then o.at(done) end
    end)
  end
  for _ = 1, math.min(o.flying or 32, o.count) do begin() end
  t.within(40, function() return done == o.count end, "the calls")
  return out
end

local function size(set)
  local n = 0
  for _ in pairs(set) do n = n + 1 end
  return n
end

-- The ledger against what was told.
local function audit(t, ledger, out, idempotent)
  local counts = nats_node.entries(ledger)
  for n, count in pairs(counts) do
    if not idempotent then t.ok(count == 1, ("call %d was entered %d times"):format(n, count)) end
    t.ok(not out.no[n], ("call %d is said not to be started, and was"):format(n))
  end
  for n in pairs(out.answered) do t.ok(counts[n], ("call %d was answered and never entered"):format(n)) end
  return counts
end

test("nodes that are killed cost what they held, and nothing else", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local nodes = {}
  for i = 1, 3 do nodes[i] = nats_node.start(t, server.url, "w", {window = 8}) end
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 3)
  local out = run(t, far, ledger, {count = 600, at = function(done)
    if done == 100 then nodes[1]:kill() end
    if done == 300 then nodes[2]:kill() end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) <= 16, size(out.unknown) .. " unknown")
  t.eq(out.ok, 600 - size(out.unknown) - size(out.no))
  t.eq(size(out.no), 0)
  for _, err in pairs(out.unknown) do t.error(err, "CLONE_DIED", "no sign of life") end
  wait_nodes(t, far, 1)
end)

test("calls marked idempotent go to another node", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local a = nats_node.start(t, server.url, "w", {window = 8})
  nats_node.start(t, server.url, "w", {window = 8})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 2)
  local out = run(t, far, ledger, {count = 200, with = {idempotent = true}, at = function(done)
    if done == 50 then a:kill() end
  end})
  t.eq(out.ok, 200)
  for n, count in pairs(audit(t, ledger, out, true)) do t.ok(count <= 3, n .. " was entered " .. count .. " times") end
  t.ok(far:stats().retried >= 1)
end)

-- Found while chunks were built: the second try waited for a node, and its TIMEOUT said "no".
test("a call that a node has had may have run, also when its next try found no node", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local node = nats_node.start(t, server.url, "w")
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 1)
  local failure
  far:with{idempotent = true, timeout = 2}:call(1, 60, ledger, function(err) failure = err end)
  t.within(20, function() return nats_node.entries(ledger)[1] end, "it is entered")
  node:kill()
  t.within(20, function() return far:stats().queued == 1 end, "it waits again")
  t.within(20, function() return failure end)
  t.error(failure, "TIMEOUT")
  t.eq(failure.started, "unknown")
end)

test("nobody loses a call when nodes are drained and others come", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local a = nats_node.start(t, server.url, "w", {beat = 0.05})
  local b = nats_node.start(t, server.url, "w", {beat = 0.05})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 2)
  local out = run(t, far, ledger, {count = 600, at = function(done)
    if done == 100 then a.socket:write "drain\n" end
    if done == 400 then t.eq(a.socket:read "l", "drained") end
  end})
  audit(t, ledger, out)
  t.eq(out.ok, 600)
  t.eq(a:stats().held, 0)
  t.ok(b:stats().calls > 0)
end)

test("a node that is stopped is given up, and its late answers are dropped", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local a = nats_node.start(t, server.url, "w", {window = 8})
  nats_node.start(t, server.url, "w", {window = 8})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 2)
  local out = run(t, far, ledger, {count = 300, at = function(done)
    if done == 100 then a:kill "STOP" end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) >= 1 and size(out.unknown) <= 8, size(out.unknown) .. " unknown")
  t.eq(out.ok, 300 - size(out.unknown))
  a:kill "CONT"
  wait_nodes(t, far, 2) -- it is heard again
  t.within(20, function() return far:stats().late >= 1 end, "late answers")
  local more = run(t, far, nil, {count = 50})
  t.eq(more.ok, 50)
  audit(t, ledger, out)
end)

test("an engine that is killed costs what was under way; what waits goes on", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  nats_node.start(t, server.url, "w", {window = 8})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 1)
  local out = run(t, far, ledger, {count = 400, at = function(done)
    if done == 100 then server:restart() end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) <= 8, size(out.unknown) .. " unknown")
  t.eq(out.ok, 400 - size(out.unknown))
  for _, err in pairs(out.unknown) do t.error(err, "ENGINE", "lost") end
  t.ok(far:stats().connects >= 2)
end)

test("calls wait for an engine that is away, for their time, and are not started", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  nats_node.start(t, server.url, "w")
  local far = far_pool(t, server.url)
  t.eq(t.got(far:call(1, 0, ledger)), 1)
  server:kill()
  t.within(20, function() return far:stats().engine ~= "up" end)
  local _, err = far:with{timeout = 0.1}:call(2, 0, ledger)
  t.error(err, "TIMEOUT", "can't be reached")
  t.eq(err.started, "no")
  local answer
  far:with{timeout = 40}:call(3, 0, ledger, function(e, v) answer = e or v end)
  fork.sleep(0.1)
  t.eq(answer, nil)
  server:restart()
  t.within(40, function() return answer end)
  t.eq(answer, 3)
  t.eq(nats_node.entries(ledger), {[1] = 1, [3] = 1})
end)

test("workers that are killed in a node cost one call each, told at once", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local node = nats_node.start(t, server.url, "w", {max = 2, load = 1})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 1)
  local killed = 0
  local out = run(t, far, ledger, {count = 300, at = function(done)
    if done % 60 ~= 0 then return end
    for _, pid in ipairs(node:workers()) do
      killed = killed + 1
      kit.kill(pid, kit.SIGKILL)
    end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) <= killed, size(out.unknown) .. " unknown of " .. killed)
  t.eq(out.ok, 300 - size(out.unknown) - size(out.no))
  for _, err in pairs(out.unknown) do t.error(err, "CLONE_DIED") end
  t.eq(#far:nodes(), 1)
end)

test("a link that is cut costs what its node held, within the time of silence", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local link = helper.link(t, server)
  nats_node.start(t, link.url, "w", {window = 8})
  nats_node.start(t, server.url, "w", {window = 8})
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 2)
  local out = run(t, far, ledger, {count = 300, at = function(done)
    if done == 100 then link:cut() end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) <= 8, size(out.unknown) .. " unknown")
  t.eq(out.ok, 300 - size(out.unknown))
  link:mend()
  wait_nodes(t, far, 2)
end)

test("in a cluster the death of one server is survived", function(t)
  local a, b = helper.cluster(t)
  local ledger = nats_node.file(t)
  nats_node.start(t, b.url, "w", {window = 8})
  local far = far_pool(t, a.url)
  wait_nodes(t, far, 1)
  local out = run(t, far, ledger, {count = 200, at = function(done)
    if done == 50 then a:kill() end
  end})
  audit(t, ledger, out)
  t.ok(size(out.unknown) <= 8, size(out.unknown) .. " unknown")
  t.eq(out.ok, 200 - size(out.unknown))
end)

test("a caller that stood still does not take its nodes for dead", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  nats_node.start(t, server.url, "w")
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 1)
  local answer
  far:call(1, 0.2, ledger, function(err, v) answer = err or v end)
  t.within(20, function() return far:stats().running == 1 end)
  kit.msleep(900) -- more than twice the silence
  t.within(20, function() return answer end)
  t.eq(answer, 1)
  t.eq(far:stats().lost, 0)
end)

test("what strangers publish breaks nothing", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local node = nats_node.start(t, server.url, "w")
  local far = far_pool(t, server.url)
  wait_nodes(t, far, 1)
  local stranger = assert(fork.socket.connect("127.0.0.1:" .. server.port))
  stranger:settimeout(10)
  assert(stranger:read "l")
  stranger:write "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"
  local function publish(subject, reply, body)
    stranger:write(("PUB %s %s %d\r\n"):format(subject, reply, #body), body, "\r\n")
  end
  local id = far:nodes()[1].id
  local bodies = {"", "mfc\2", "mfc\3x", "mfa\2", "mfb\2", "mfc\2\1", ("\255"):rep(100),
    "mfc\2\9" .. ("\0"):rep(20),
    "mfc\2" .. ("<I1I8I4I1s4"):pack(8, 1, 0, 0, ""), "mfc\2" .. ("<I1I8I4I1s4"):pack(8, 2, 0, 0, ("\0"):rep(8)),
    "mfc\2" .. ("<I1I8I4I1s4"):pack(8, 3, 0, 0, ("\255"):rep(12)),
    "mfc\2" .. ("<I1I8I4I1s4"):pack(8, 4, 0, 0, "\1\0\0\0\0\0\0\0\255\255\255\127x"),
    "mfa\2\22\0\0\0" .. id .. ("<I1I8I4s4"):pack(9, 1, 0, "\7\0\0\0\0"),
    "mfa\2\22\0\0\0" .. id .. ("<I1I8I4I4i4I1I1i4I4I4I4"):pack(10, 1, 7, 7, 0, 0, 0, 0, 0, 0, 0),
    "mfc\2\1\1\0\0\0\0\0\0\0\0\0\0\0\0\255\255\255\127x",
    "mfa\2\22\0\0\0" .. id .. "\3\1\0\0\0\0\0\0\0\255\255\255\255",
    "mfb\2\22\0\0\0" .. ("Z"):rep(22) .. "\4\0\0\0\27[1m" .. ("\255"):rep(29),
    "mfb\2\22\0\0\0" .. ("../../../../../../../.."):sub(1, 22) .. "\0\0\0\0" .. ("\1"):rep(29)}
  for _, body in ipairs(bodies) do
    for _, subject in ipairs{"w.beat", "w.ask", "w.node." .. id} do
      for _, reply in ipairs{"", "_INBOX.x", "w.beat", "_INBOX." .. ("a"):rep(22) .. ".s.1", ("r"):rep(200)} do
        publish(subject, reply, body)
      end
    end
  end
  stranger:write "PING\r\n"
  repeat local line = assert(stranger:read "l") until line:find "^PONG"
  local out = run(t, far, ledger, {count = 50, with = {timeout = 40}})
  audit(t, ledger, out)
  t.eq(out.ok + size(out.no) + size(out.unknown), 50)
  t.ok(out.ok >= 1)
  for _, one in ipairs(far:nodes()) do t.ok(not one.name:find "[^ -~]", "a name has control characters") end
  t.ok(far:stats().bad > 0)
  t.eq(node:stats().held, 0)
  stranger:close()
end)

story.done()
