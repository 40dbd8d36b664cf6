-- far:map: items over a NATS server in chunks. For the program each item is a call of its own: it has
-- its own result or error and is entered once, whatever dies while a chunk is under way - a worker, a
-- node, the server; "no" is said of items that were never begun, by the record that the node keeps of
-- each chunk. The calls that travel one by one are in nats_calls.lua and nats_failures.lua.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local nats_node = require "nats_node"
local kit = story.kit

local server = helper.CAN_START and helper.start() -- before the first census, for all stories

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  local kit = require "testkit"
  local function note(n, ledger)
    local file = assert(io.open(ledger, "a"))
    file:setvbuf "no"
    file:write(n .. "\n")
    file:close()
  end
  function echo(...) return ... end
  function twice(i) if i % 13 == 0 then error("item " .. i, 0) end return i * 2, nil, "r" .. i, nil end
  function mortal(i, dies, ledger) note(i, ledger) if dies then clone.kill(clone.pid(), 9) end return i end
  function hangs(i, ledger) note(i, ledger) if i == 7 then while true do end end return i end
  function nap(i, ms, ledger) note(i, ledger) kit.msleep(ms) return i end
  function long(i, size) return ("x"):rep(size) end
  function handle(i) if i == 3 then return io.stdout end return i end
]]

local subjects = 0

-- A pool here as a node, and a far pool; both are closed at the end of the story.
local function pair(t, name, pool_options, o)
  local nats = require "moonfork.nats"
  o = o or {}
  subjects = subjects + 1
  local url, subject = o.url or server.url, ("map.%d.%d"):format(kit.getpid(), subjects)
  pool_options = pool_options or {}
  pool_options.max, pool_options.start = pool_options.max or 2, 0
  local template = fork.new_exec():eval(FUNCTIONS)
  if o.limit then template:limit(o.limit) end
  local pool = template:pool(name, pool_options)
  local node = assert(nats.node(pool, url, {subject = subject, beat = 0.05, window = o.window}))
  local far = nats.pool(url, {subject = subject, queue_max = o.queue_max})
  t:defer(function()
    far:close()
    node:close()
    pool:close()
    assert(fork.loop())
  end)
  t.within(20, function() return #far:nodes() == 1 end)
  return far, node, pool, subject
end

local test = helper.test

local function count_to(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

-- What map tells, by index; each index once, in order unless it may be another. at(i): when i are told.
local function tell(t, unordered, at, ...)
  local told, n = {}, 0
  for i, err, a, b, c, d in ... do
    n = n + 1
    t.ok(not told[i], "told twice")
    if not unordered then t.eq(i, n) end
    told[i] = {err = err, a, b, c, d}
    if at then at(n) end
  end
  return told, n
end

-- told against the ledger: nothing is entered twice, nothing that is told as not started was entered.
local function audit(t, told, ledger, most)
  local entered, unknown, no = nats_node.entries(ledger), 0, 0
  for i, x in ipairs(told) do
    local times = entered[i] or 0
    t.ok(times <= (most or 1), ("item %d was entered %d times"):format(i, times))
    if not x.err then
      t.eq(x[1], i)
      t.ok(times >= 1, "answered and never entered")
    elseif x.err.started == "no" then
      no = no + 1
      t.eq(times, 0, "told as not started, and entered")
    else
      unknown = unknown + 1
    end
  end
  return unknown, no
end

test("chunks of any size give each item its results or its error", function(t)
  local far = pair(t, "twice")
  for _, n in ipairs{0, 1, 7, 100, 1500} do
    for _, chunk in ipairs{"auto", 1, 2, math.random(3, 99), 2000} do
      local unordered = math.random(2) == 1
      local told = tell(t, unordered, nil, far:map(count_to(n), {chunk = chunk, unordered = unordered}))
      t.eq(#told, n)
      for i = 1, n do
        if i % 13 == 0 then
          t.error(told[i].err, "REMOTE", "item " .. i)
        else
          t.eq(told[i], {i * 2, nil, "r" .. i})
        end
      end
    end
  end
end)

test("quick items travel together, slow ones alone", function(t)
  local far, node = pair(t, "nap")
  local ledger = nats_node.file(t)
  local items = {}
  for i = 1, 60 do items[i] = {i, 1, ledger} end
  tell(t, false, nil, far:map(items, {unpack = true}))
  t.eq(node:stats().calls, 60)
  far, node = pair(t, "echo")
  tell(t, false, nil, far:map(count_to(20000)))
  t.ok(node:stats().calls < 2000, "messages: " .. node:stats().calls)
  t.eq(node:stats().held, 0)
end)

test("workers that die at random items cost these items and no other", function(t)
  for _, chunk in ipairs{"auto", 10, 500} do
    local ledger, items, dies = nats_node.file(t), {}, {}
    local far = pair(t, "mortal", {restart = {burst = 100}, load = math.random(3)})
    for _ = 1, 4 do dies[math.random(200)] = true end
    for i = 1, 200 do items[i] = {i, dies[i] or false, ledger} end
    local told = tell(t, false, nil, far:map(items, {chunk = chunk, unpack = true}))
    audit(t, told, ledger)
    for i = 1, 200 do
      if dies[i] then
        t.error(told[i].err, "CLONE_DIED")
        t.eq(told[i].err.started, "unknown")
      else
        t.eq(told[i], {i}, ("item %d, chunk %s"):format(i, chunk))
      end
    end
    t.eq(select(2, nats_node.entries(ledger)), 200)
  end
end)

test("items that may run twice do when their worker dies, three times at most", function(t)
  local ledger, items = nats_node.file(t), {}
  local far = pair(t, "mortal", {restart = {burst = 100}})
  for i = 1, 60 do items[i] = {i, i == 31, ledger} end
  local told = tell(t, false, nil, far:with{idempotent = true}:map(items, {chunk = 20, unpack = true}))
  local entered = nats_node.entries(ledger)
  for i = 1, 60 do
    if i == 31 then
      t.error(told[i].err, "CLONE_DIED")
      t.eq(entered[i], 3)
    else
      t.eq({told[i], entered[i]}, {{i}, 1})
    end
  end
end)

test("the node's call_timeout is an item's", function(t)
  local ledger, items = nats_node.file(t), {}
  local far = pair(t, "hangs", {call_timeout = 1})
  for i = 1, 50 do items[i] = {i, ledger} end
  local told = tell(t, false, nil, far:map(items, {chunk = 50, unpack = true}))
  audit(t, told, ledger)
  for i = 1, 50 do
    if i == 7 then t.error(told[i].err, "TIMEOUT") else t.eq(told[i], {i}) end
  end
end)

test("timeout: what was begun is unknown, the rest is not started and never runs", function(t)
  local ledger, items = nats_node.file(t), {}
  local far, _, pool = pair(t, "nap", {max = 1, idle = 1})
  t.eq(far(0, 0, ledger), 0)
  for i = 1, 4000 do items[i] = {i, 1, ledger} end
  local told = tell(t, false, nil, far:with{timeout = 0.2}:map(items, {chunk = 40, unpack = true}))
  t.error(told[400].err, "TIMEOUT")
  t.eq(told[400].err.started, "no")
  t.ok(pool:drain(20)) -- nothing goes on behind it
  local unknown, no = audit(t, told, ledger)
  t.ok(unknown <= 32, unknown .. " unknown") -- one of each message that was read ahead
  t.ok(no > 3000)
end)

test("leaving the loop: the node begins no other item", function(t)
  local ledger, items = nats_node.file(t), {}
  local far, node, pool = pair(t, "nap", {max = 1, idle = 1})
  for i = 1, 2000 do items[i] = {i, 1, ledger} end
  for i in far:map(items, {chunk = 500, unpack = true}) do
    if i == 3 then break end
  end
  t.within(20, function() return node:stats().held == 0 end, "the node has it still")
  t.ok(pool:drain(20))
  t.ok(select(2, nats_node.entries(ledger)) < 1000, "chunks that were left were worked through")
end)

-- Quick items, so that chunks are long: what a node has when it dies is unknown, all else is exact.
local function run_while(t, nodes_with, disturb, o)
  o = o or {}
  local ledger = nats_node.file(t)
  local own = o.server or server
  subjects = subjects + 1
  local subject = ("map.%d.%d"):format(kit.getpid(), subjects)
  local nodes = {}
  for i, options in ipairs(nodes_with) do nodes[i] = nats_node.start(t, own.url, subject, options) end
  local far = require "moonfork.nats".pool(own.url, {subject = subject, silent = 0.4})
  t:defer(function()
    far:close()
    fork.loop()
  end)
  t.within(20, function() return #far:nodes() == #nodes end)
  local items = {}
  for i = 1, 2000 do items[i] = {i, 0, ledger} end
  local service = o.idempotent and far:with{idempotent = true} or far
  local told = tell(t, false, function(n) disturb(n, nodes, far) end, service:map(items,
    {unpack = true, chunk = o.chunk}))
  t.eq(#told, #items)
  local unknown, no = audit(t, told, ledger, o.idempotent and 3 or 1)
  t.note("%d unknown, %d not started, %d entered", unknown, no, select(2, nats_node.entries(ledger)))
  return told, unknown, no, far, nodes
end

test("a node that is killed costs the chunks that it had", function(t)
  local told, unknown, no = run_while(t, {{}, {}}, function(n, nodes)
    if n == 500 then nodes[1]:kill() end
  end, {chunk = 20})
  t.ok(unknown <= 5 * 20, unknown .. " unknown") -- two workers with two chunks each, and one more
  t.eq(no, 0)
  for _, x in ipairs(told) do
    if x.err then t.error(x.err, "CLONE_DIED", "no sign of life") end
  end
end)

test("items marked idempotent of a node that is killed go to another", function(t)
  local told = run_while(t, {{}, {}}, function(n, nodes)
    if n == 500 then nodes[1]:kill() end
  end, {idempotent = true})
  for i, x in ipairs(told) do t.eq(x, {i}) end
end)

test("workers of nodes are killed", function(t)
  local killed = 0
  local _, unknown, no = run_while(t, {{}}, function(n, nodes)
    if n % 700 ~= 0 then return end
    for _, pid in ipairs(nodes[1]:workers()) do
      if kit.kill(pid, kit.SIGKILL) then killed = killed + 1 end
    end
  end)
  t.ok(killed > 0 and unknown <= killed, ("%d unknown, %d killed"):format(unknown, killed))
  t.eq(no, 0)
end)

test("a node is drained: nothing is lost", function(t)
  local told = run_while(t, {{beat = 0.05}, {beat = 0.05}}, function(n, nodes)
    if n == 500 then nodes[1].socket:write "drain\n" end
  end)
  for i, x in ipairs(told) do t.eq(x, {i}) end
end)

test("a node is stopped, and its late answers are dropped", function(t)
  local _, unknown, no, far, nodes = run_while(t, {{}, {}}, function(n, nodes)
    if n == 500 then nodes[1]:kill "STOP" end
  end, {chunk = 20})
  t.ok(unknown >= 1 and unknown <= 5 * 20, unknown .. " unknown")
  t.eq(no, 0)
  nodes[1]:kill "CONT"
  t.within(20, function() return #far:nodes() == 2 end)
  for i, err, v in far:map({{1, 0}, {2, 0}}, {unpack = true}) do t.eq({err, v}, {nil, i}) end
end)

test("the server is killed, and started again", function(t)
  local own = helper.start(t)
  local told, unknown, no = run_while(t, {{}}, function(n)
    if n == 500 then own:restart() end
  end, {chunk = 20, server = own})
  t.ok(unknown <= 5 * 20, unknown .. " unknown")
  t.eq(no, 0)
  for _, x in ipairs(told) do
    if x.err then t.error(x.err, "ENGINE", "lost") end
  end
end)

test("results that can't travel are errors of their items; long ones come in parts", function(t)
  local own = helper.start(t, {max_payload = 65536})
  local far = pair(t, "long", nil, {url = own.url})
  local items = {}
  for i = 1, 60 do items[i] = {i, i == 31 and 100000 or i * 1000} end -- up to 60,000 bytes each
  local told = tell(t, false, nil, far:map(items, {unpack = true, chunk = 60}))
  for i = 1, 60 do
    if i == 31 then
      t.error(told[i].err, "LIMIT", "100.* bytes, and the engine takes messages of 65536")
      t.eq(told[i].err.started, "unknown")
    else
      t.eq(#told[i][1], i * 1000)
    end
  end
  far = pair(t, "handle", {handles = true})
  told = tell(t, false, nil, far:map(count_to(6), {chunk = 6}))
  for i = 1, 6 do
    if i == 3 then t.error(told[i].err, "EINVAL", "handles") else t.eq(told[i], {i}) end
  end
end)

test("long items travel alone, and those that are too long are told so", function(t)
  local own = helper.start(t, {max_payload = 65536})
  local far = pair(t, "echo", nil, {url = own.url})
  local items = {}
  for i = 1, 40 do items[i] = ("x"):rep(i == 20 and 80000 or i % 4 == 0 and 50000 or 10) end
  for i, x in ipairs(tell(t, false, nil, far:map(items, {chunk = 10}))) do
    if i == 20 then
      t.error(x.err, "LIMIT", "max_payload")
      t.eq(x.err.started, "no")
    else
      t.ok(x[1] == items[i], i)
    end
  end
  for _, bad in ipairs{print, io.stdout} do
    local told = tell(t, false, nil, far:map({1, bad, 3}, {chunk = 3}))
    t.eq({told[1], told[3]}, {{1}, {3}})
    t.error(told[2].err, "EINVAL")
    t.eq(told[2].err.started, "no")
  end
end)

-- Nodes in words, by the messages of doc/nats-protocol.md: respond(kind, id, body) gives records.
local FAKE = [[
function fake(socket, port, subject, flags)
  local ID = ("F"):rep(22)
  local server = assert(require "moonfork".socket.connect("127.0.0.1:" .. port))
  assert(server:read "l")
  server:write "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"
  server:write("SUB ", subject, ".node.", ID, " 1\r\nSUB ", subject, ".ask 2\r\n")
  local function publish(to, body) server:write(("PUB %s %d\r\n"):format(to, #body), body, "\r\n") end
  local function say()
    publish(subject .. ".beat", "mfb\2" .. ("<s4s4I4I4I4I4I1I4I8"):pack(ID, "fake", 20, 0, 2, 2, tonumber(flags),
      50, 0))
  end
  say()
  socket:write "up\n"
  while true do
    local ready = require "moonfork".socket.poll({server, socket}, 0.1)
    if ready[1] == socket or ready[2] == socket then return end
    say()
    while ready[1] do
      local line = server:read "l"
      if not line then return end
      if line:find "^PING" then server:write "PONG\r\n" end
      local sid, reply, size = line:match "^MSG %S+ (%d+) ?(%S*) (%d+)"
      if size then
        local body = size == "0" and "" or server:read(tonumber(size))
        server:read "l"
        if sid == "1" then
          local at, out = 5, {}
          while at <= #body do
            local kind, id, next_at = ("<I1I8"):unpack(body, at)
            at = next_at
            local value
            if kind == 1 or kind == 8 then
              local _, _, bytes, behind = ("<I4I1s4"):unpack(body, at)
              value, at = bytes, behind
            end
            out[#out + 1] = respond(kind, id, value)
          end
          local answers = "mfa\2" .. ("<s4"):pack(ID) .. table.concat(out)
          for _ = 1, MESSAGES or 1 do publish(reply:match "^_INBOX%.%w+" .. ".a", answers) end
        end
      end
      ready = require "moonfork".socket.poll({server}, 0)
    end
  end
end]]

local function fake(t, flags, respond)
  subjects = subjects + 1
  local subject = ("map.%d.%d"):format(kit.getpid(), subjects)
  local process = fork.new_exec():eval(respond):eval(FAKE):send_arg(tostring(server.port), subject, tostring(flags))
  local socket = assert(process:run "fake")
  t.eq(socket:read "l", "up")
  local far = require "moonfork.nats".pool(server.url, {subject = subject, silent = 5})
  t:defer(function()
    far:close()
    socket:close()
    process:kill "KILL"
    process:wait()
    fork.loop()
  end)
  t.within(20, function() return #far:nodes() == 1 end)
  return far
end

test("a node of an older release, without a flag for chunks, gets calls", function(t)
  local far = fake(t, 0, [[function respond(kind, id, value)
    assert(kind == 1)
    return ("<I1I8s4"):pack(3, id, value)
  end]])
  for _, chunk in ipairs{"auto", 10} do
    for i, x in ipairs(tell(t, false, nil, far:map(count_to(200), {chunk = chunk}))) do t.eq(x, {i}) end
  end
end)

-- What an honest node never says: each is an error of the items, and no harm.
for what, answer in pairs{
  ["no answers"] = [["", 5, 0]], ["more than it was asked"] = [[("\0\1\0\0\0\x90"):rep(90), 90, 0]],
  ["a kind that is none"] = [["\9\0\0\0\0", 1, 0]],
  ["a length that lies"] = [["\0\255\255\255\255", 1, 0]], ["a broken failure"] = [["\1\1\0\0\0x", 1, 0]],
  ["no value"] = [["\0\1\0\0\0\xc1", 1, 0]], ["an error, and all entered"] = [["", 4294967295, -20005]],
} do
  test("a hostile node: " .. what, function(t)
    local far = fake(t, 4, ([[function respond(kind, id, value)
      if kind == 1 then return ("<I1I8s4"):pack(3, id, value) end
      local items, n, code = %s
      return ("<I1I8I4s4"):pack(9, id, 0, items) .. ("<I1I8I4I4i4I1I1i4I4I4I4"):pack(10, id, n, 7, code, 1,
        0, 0, 0, 0, 0)
    end]]):format(answer))
    local told, n = tell(t, false, nil, far:map(count_to(20), {chunk = 5}))
    t.eq(n, 20)
    for i = 1, 20 do t.ok(told[i].err, ("item %d has no error"):format(i)) end
  end)
end

test("a hostile node: answers without an end are cut off", function(t)
  local far = fake(t, 4, [[MESSAGES = 4
  function respond(kind, id, value)
    return ("<I1I8I4s4"):pack(9, id, 0, ("x"):rep(400000)) .. ("<I1I8I4s4"):pack(9, id, 400000, ("x"):rep(400000))
  end]])
  local told, n = tell(t, false, nil, far:map(count_to(20), {chunk = 20}))
  t.eq(n, 20)
  for i = 1, 20 do t.error(told[i].err, "PROTOCOL", "malformed") end
end)

-- A message with some of the answers is lost: the others are of the items that they were.
for what, x in pairs{lost = {14, "CLONE_DIED", "lost"}, repeated = {0, "PROTOCOL", "malformed"}} do
  test("a part of the answers is " .. what .. ": none is told of another item", function(t)
    local far = fake(t, 4, ([[function respond(kind, id, value)
      if kind == 1 then return ("<I1I8s4"):pack(3, id, value) end
      local function part(before, n) return ("<I1I8I4s4"):pack(9, id, before, "\0\2\0\0\0\x91" .. string.char(n)) end
      return part(0, 1) .. part(%d, 3) .. ("<I1I8I4I4i4I1I1i4I4I4I4"):pack(10, id, 3, 7, -20001, 1, 0, 0,
        0, 0, 0)
    end]]):format(x[1]))
    local told, n = tell(t, false, nil, far:map(count_to(3), {chunk = 3}))
    t.eq(n, 3)
    t.eq(told[1], {1})
    for i = 2, 3 do
      t.error(told[i].err, x[2], x[3])
      t.eq(told[i].err.started, "unknown")
    end
  end)
end

-- All items of such a chunk were PROTOCOL, those too whose answers had come.
test("the last part of the answers is lost: the others are told, and started is right", function(t)
  local far = fake(t, 4, [[function respond(kind, id, value)
    if kind == 1 then return ("<I1I8s4"):pack(3, id, value) end
    return ("<I1I8I4s4"):pack(9, id, 0, "\0\2\0\0\0\x91\1") .. ("<I1I8I4I4i4I1I1i4I4I4I4"):pack(10, id, 3, 7, 0, 0,
      0, 0, 0, 0, 0)
  end]])
  local told, n = tell(t, false, nil, far:map(count_to(3), {chunk = 3}))
  t.eq(n, 3)
  t.eq(told[1], {1})
  for i = 2, 3 do
    t.error(told[i].err, "CLONE_DIED", "lost")
    t.eq(told[i].err.started, "unknown")
  end
end)

-- One with a small message_max has no flag for chunks for chunks in its beats; one with a small message_max neither.
test("nodes that take no chunks get the items as calls, beside those that do", function(t)
  local far, node, _, subject = pair(t, "echo", {message_max = 1000})
  for i, x in ipairs(tell(t, false, nil, far:map(count_to(100), {chunk = 10}))) do t.eq(x, {i}) end
  t.eq(node:stats().calls, 100)
  local pool = fork.new_exec():eval(FUNCTIONS):pool("echo", {max = 2, start = 0})
  local other = assert(require "moonfork.nats".node(pool, server.url, {subject = subject, beat = 0.05}))
  t:defer(function()
    other:close()
    pool:close()
  end)
  t.within(20, function() return #far:nodes() == 2 end)
  for i, x in ipairs(tell(t, false, nil, far:map(count_to(500), {chunk = 10}))) do t.eq(x, {i}) end
end)

test("workers without a free descriptor get the items as calls", function(t)
  local nats = require "moonfork.nats"
  local pool = fork.new_exec():eval [[
    local kit = require "testkit"
    local held = {}
    function init() while true do local r, w = kit.pipe() if not r then break end held[#held + 1] = r end end
    function f(i) return i + 1 end]]:limit{nofile = 40}:pool("f", {init = "init", max = 2})
  local node = assert(nats.node(pool, server.url, {subject = "few", beat = 0.05}))
  local far = nats.pool(server.url, {subject = "few"})
  for i, x in ipairs(tell(t, false, nil, far:map(count_to(30), {chunk = 5}))) do t.eq(x, {i + 1}) end
  far:close()
  node:close()
  pool:close()
end)

test("small windows and queues hold items back, endless iterators are read ahead a little", function(t)
  local far = pair(t, "echo", {max = 1}, {window = 1, queue_max = 3})
  for i, x in ipairs(tell(t, false, nil, far:map(count_to(500), {chunk = 7}))) do t.eq(x, {i}) end
  local n = 0
  for i, err in far:map(function() n = n + 1 return n end, {chunk = 5}) do
    t.ok(not err)
    t.ok(n - i <= 2 * 16 * 5, ("read %d, told %d"):format(n, i))
    if i == 300 then break end
  end
end)

test("nothing stays open: descriptors and memory files after maps of all kinds", function(t)
  local far, node = pair(t, "twice")
  local function count()
    local n = 0
    for _ in pairs(kit.fds()) do n = n + 1 end
    return n
  end
  local function all()
    tell(t, false, nil, far:map(count_to(100), {chunk = 10}))
    for i in far:map(count_to(100), {chunk = 10}) do if i == 3 then break end end
    t.within(10, function() fork.step(0.01) return node:stats().held == 0 end)
  end
  all()
  collectgarbage()
  local before = count()
  for _ = 1, 5 do all() end
  t.within(10, function() fork.step(0.01) collectgarbage() return count() <= before + 16 end) -- spare records
end)

if server then server:close() end
story.done()
