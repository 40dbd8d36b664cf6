-- Callers and nodes in words, by the messages of doc/nats-protocol.md: of another version, and at
-- moments that a caller of the library avoids.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local nats_node = require "nats_node"
local kit = story.kit

local test = helper.test
local nats = helper.CAN_START and require "moonfork.nats"
local VERSION, OLDER, NEWER = "\2", "\1", "\3"
local RESULT, ERROR, BUSY, CHECK, GONE = 3, 4, 5, 6, 7
local ME, STRANGER = ("C"):rep(22), ("S"):rep(22)

-- ---- a connection in words ----

local Client = {}
Client.__index = Client

local function connect(t, server)
  local socket = t.got(fork.socket.connect("127.0.0.1:" .. server.port))
  socket:settimeout(20 * story.scale)
  assert(socket:read "l")
  socket:write "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n"
  t:defer(function() socket:close() end)
  return setmetatable({socket = socket, sids = 0}, Client)
end

function Client:subscribe(subject)
  self.sids = self.sids + 1
  self.socket:write(("SUB %s %d\r\n"):format(subject, self.sids))
end

function Client:publish(subject, reply, body)
  self.socket:write(("PUB %s %s %d\r\n"):format(subject, reply or "", #body), body, "\r\n")
end

--- The next message: subject, body, reply; body false: nobody has the subject of the message it answers.
--- nil: it was a PONG.
function Client:next()
  while true do
    local line = assert(self.socket:read "l")
    local subject, reply, size = line:match "^MSG (%S+) %d+ ?(%S*) (%d+)"
    local told, head, all = line:match "^HMSG (%S+) %d+ ?%S* (%d+) (%d+)"
    if line:find "^PONG" then return nil end
    if line:find "^PING" then
      self.socket:write "PONG\r\n"
    elseif subject then
      local body = size == "0" and "" or assert(self.socket:read(tonumber(size)))
      self.socket:read "l"
      return subject, body, reply
    elseif told then
      local body = assert(self.socket:read(tonumber(all)))
      self.socket:read "l"
      if body:sub(1, tonumber(head)):find "^NATS/1.0 503" then return told, false end
    end
  end
end

local function beat(version, id, name, tail)
  return "mfb" .. version .. ("<s4s4I4I4I4I4I1I4I8"):pack(id, name, 20, 0, 2, 2, 0, 100, 0) .. (tail or "")
end

local function call(id, n, ledger)
  local values = "\x93\xce" .. (">I4"):pack(n) .. "\0\xd9" .. ("s1"):pack(ledger)
  return ("<I1I8I4I1s4"):pack(1, id, 0, 0, values)
end

local function far_pool(t, server, subject, options)
  local o = {subject = subject, silent = 1}
  for name, value in pairs(options or {}) do o[name] = value end
  local far = nats.pool(server.url, o)
  t:defer(function()
    far:close()
    fork.loop()
  end)
  return far
end

-- ---- versions ----

for what, version in pairs{older = OLDER, newer = NEWER} do
  test("a node of " .. what .. " messages gets no calls, and who calls is told of both versions", function(t)
    local server = helper.start(t)
    local client = connect(t, server)
    local far = far_pool(t, server, "w")
    local text = ("the node lucifer speaks version %d of the messages, this program version %d"):format(
      version:byte(), VERSION:byte())
    client:subscribe("w.node." .. STRANGER)
    local late, told
    far:with{timeout = 0.5}:call(1, function(err) late = err end)
    far:call(2, function(err) told = err end)
    local function say()
      client:publish("w.beat", nil, beat(version, STRANGER, "lucifer", what == "newer" and "and more" or ""))
      fork.sleep(0.05)
    end
    t.within(20, function() say() return late and told end)
    t.eq({late.code, late.started, told.code, told.started}, {"TIMEOUT", "no", "PROTOCOL", "no"})
    t.match(late.message, text)
    t.match(told.message, text)
    t.eq(#far:nodes(), 0)
    nats_node.start(t, server.url, "w") -- as when all nodes are replaced, one after the other
    local answer
    far:call(3, function(_, value) answer = value end)
    t.within(20, function() say() return answer end)
    t.eq(answer, 3)
    client.socket:write "PING\r\n"
    t.eq(client:next(), nil, "it was sent no call")
  end)
end

test("a node that can't read calls says in which version it speaks, and goes on", function(t)
  local server = helper.start(t)
  local client = connect(t, server)
  local node = nats_node.start(t, server.url, "w")
  local far = far_pool(t, server, "w")
  t.within(20, function() return #far:nodes() == 1 end)
  local id = far:nodes()[1].id
  client:subscribe("_INBOX." .. ME .. ".>")
  for _, version in ipairs{OLDER, NEWER, "\0", "\255"} do
    client:publish("w.node." .. id, "_INBOX." .. ME .. ".s.1", "mfc" .. version .. ("\255"):rep(100))
    local subject, body = client:next()
    t.eq(subject, "_INBOX." .. ME .. ".a")
    t.eq(body, "mfa" .. VERSION .. ("<s4"):pack(id))
  end
  t.eq(far(7), 7)
  t.eq(node:stats().held, 0)
end)

test("a node that answers in another version: its calls are unknown, and the error names both", function(t)
  local server = helper.start(t)
  local client = connect(t, server)
  local far = far_pool(t, server, "w")
  client:subscribe("w.node." .. STRANGER)
  t.within(20, function()
    client:publish("w.beat", nil, beat(VERSION, STRANGER, "lucifer"))
    fork.sleep(0.01)
    return #far:nodes() == 1
  end)
  local told
  far:call(1, function(err) told = err end)
  fork.step(0)
  local _, _, reply = client:next()
  client:publish(reply:match "^_INBOX%.%w+" .. ".a", nil, "mfa" .. NEWER .. ("<s4"):pack(STRANGER))
  t.within(20, function() return told end)
  t.eq({told.code, told.started}, {"PROTOCOL", "unknown"})
  t.match(told.message, "the node lucifer speaks version 3 of the messages, this program version 2")
end)

-- ---- a call that was lost on its way ----

-- A node in this process, and a client that hears its answers.
local function node_here(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local client = connect(t, server)
  local pool = fork.new_exec():eval(nats_node.work):pool("work", {max = 2, idle = 2})
  client:subscribe "w.beat"
  client:subscribe("_INBOX." .. ME .. ".a")
  local node = t.got(nats.node(pool, server.url, {subject = "w", beat = 0.05}))
  t:defer(function()
    node:close()
    pool:close()
    fork.loop()
  end)
  local here = {client = client, node = node, pool = pool, ledger = ledger}
  --- The next answer to the client: its bytes behind the node's name; nil: there is none in so many seconds.
  function here.answer(seconds)
    local till = kit.now() + seconds
    repeat
      fork.step(0)
      if fork.socket.poll({client.socket}, 0.01)[1] then
        local subject, body = client:next()
        if subject == "w.beat" then
          here.id = ("<s4"):unpack(body, 5)
        elseif subject then
          return body:sub(4 + 4 + 22 + 1), body
        end
      end
    until kit.now() > till
  end
  t.within(20, function() return here.answer(0.02) == nil and here.id end)
  function here.say(words, version)
    client:publish("w.node." .. here.id, "_INBOX." .. ME .. ".s.1", "mfc" .. (version or VERSION) .. words)
  end
  return here
end

local function record(kind, id) return ("<I1I8"):pack(kind, id) end

test("who asks a node about a call hears that it is gone, or nothing while it is there", function(t)
  local here = node_here(t)
  here.say(record(CHECK, 77))
  t.eq(here.answer(20), record(GONE, 77))
  local slow = "\x93\x01\xcb" .. (">d"):pack(0.4 * story.scale) .. "\xd9" .. ("s1"):pack(here.ledger)
  here.say(("<I1I8I4I1s4"):pack(1, 5, 0, 0, slow))
  t.within(20, function() here.answer(0) return nats_node.entries(here.ledger)[1] end)
  here.say(record(CHECK, 5) .. record(CHECK, 6))
  t.eq(here.answer(20), record(GONE, 6), "the one that works is not gone")
  local answer = here.answer(20)
  t.eq(answer:sub(1, 9), record(RESULT, 5))
  here.say(record(CHECK, 5))
  t.eq(here.answer(20), record(GONE, 5), "its answer came before")
  here.say(("\255"):rep(9), OLDER)
  local none, all = here.answer(20)
  t.eq({none, all:sub(1, 4)}, {"", "mfa" .. VERSION})
end)

-- It was heard a moment ago, and silence would tell only after half a minute: the server says at once that
-- nobody has its subject. So the call has not been entered, and another node may have it.
test("a call to a node that has gone since its beat goes to another", function(t)
  local server = helper.start(t)
  local client = connect(t, server)
  local far = far_pool(t, server, "w", {silent = 30})
  t.within(20, function()
    client:publish("w.beat", nil, beat(VERSION, STRANGER, "lucifer"))
    fork.sleep(0.01)
    return #far:nodes() == 1
  end)
  local ends = {}
  for n = 1, 5 do far:call(n, function(err, value) ends[n] = err or value end) end
  local till, were_sent, running = kit.now() + 5, false
  repeat -- they are sent to it and come back, perhaps within one step
    running = far:nodes()[1].running
    were_sent = were_sent or running > 0
    fork.step(0.01)
  until were_sent and running == 0 or kit.now() > till
  t.eq(running, 0)
  t.eq(ends, {})
  nats_node.start(t, server.url, "w")
  t.within(20, function() return #ends == 5 end)
  t.eq(ends, {1, 2, 3, 4, 5})
end)

test("a drain whose time is over gives up what the node still has, and the pool goes on", function(t)
  local here = node_here(t)
  local slow = "\x93\x01\xcb" .. (">d"):pack(60) .. "\xd9" .. ("s1"):pack(here.ledger)
  here.say(("<I1I8I4I1s4"):pack(1, 5, 0, 0, slow))
  t.within(20, function() here.answer(0) return nats_node.entries(here.ledger)[1] end)
  local begun = kit.now()
  local none, err = here.node:drain(0.1)
  t.eq(none, nil)
  t.error(err, "TIMEOUT")
  t.ok(kit.now() - begun < 30)
  t.eq(here.pool:stats().running, 1, "the pool is not touched")
end)

-- ---- a window that nobody minds ----

test("a node refuses what a caller sends beyond its window", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local client = connect(t, server)
  nats_node.start(t, server.url, "w", {window = 4})
  local far = far_pool(t, server, "w")
  t.within(20, function() return #far:nodes() == 1 end)
  client:subscribe("_INBOX." .. ME .. ".a")
  local calls, busy, entered = {}, 0, 0
  for n = 1, 12 do calls[n] = call(n, n, ledger) end
  client:publish("w.node." .. far:nodes()[1].id, "_INBOX." .. ME .. ".s.1", "mfc" .. VERSION .. table.concat(calls))
  while busy + entered < 12 do
    local _, body = client:next()
    local at = 4 + 4 + 22 + 1
    while at <= #body do
      local kind, _, behind = ("<I1I8"):unpack(body, at)
      at = behind
      if kind == RESULT then
        at = select(2, ("<s4"):unpack(body, at))
        entered = entered + 1
      else
        t.eq(kind, BUSY)
        busy = busy + 1
      end
    end
  end
  t.eq({entered, busy}, {4, 8})
end)

-- ---- a drain that nobody waits for ----

-- A caller of the library stops when it hears of the drain, for which a node waits. This one goes on:
-- each of its calls is answered, or the server says that nobody has the subject; never both, never neither.
test("calls that come while a node drains, and behind it, have one end each", function(t)
  local server, ledger = helper.start(t), nats_node.file(t)
  local client = connect(t, server)
  local pool = fork.new_exec():eval(nats_node.work):pool("work", {max = 2, idle = 2})
  t:defer(function()
    pool:close()
    fork.loop()
  end)
  client:subscribe "w.beat"
  client:subscribe("_INBOX." .. ME .. ".>")
  local sent, told, entered, refused, absent = 0, {}, 0, 0, 0
  local function tell(n, what)
    t.eq(told[n], nil, ("call %d has another end"):format(n))
    told[n] = what
  end
  local function hear(subject, body)
    local batch = subject:match "%.s%.(%x+)$"
    if batch and body == false then
      absent = absent + 1
      return tell(tonumber(batch, 16), "absent")
    end
    if not subject:find "%.a$" then return end
    local at = 4 + 4 + 22 + 1
    while at <= #body do
      local kind, n, behind = ("<I1I8"):unpack(body, at)
      at = behind
      if kind == RESULT then
        at = select(2, ("<s4"):unpack(body, at))
        entered = entered + 1
      elseif kind == ERROR then
        local _, started, _, _, _, _, _, next_at = ("<i4I1I1i4s4s4I4"):unpack(body, at)
        at = next_at
        t.eq(started, 0)
        refused = refused + 1
      else
        t.eq(kind, BUSY)
        refused = refused + 1
      end
      tell(n, kind)
    end
  end
  for round = 1, 15 do
    local node = t.got(nats.node(pool, server.url,
      {subject = "w", beat = round % 3 == 0 and 0.3 or 0.02, window = 500}))
    local id
    repeat
      fork.step(0)
      if fork.socket.poll({client.socket}, 0.01)[1] then
        local subject, body = client:next()
        if subject == "w.beat" then id = ("<s4"):unpack(body, 5) end
      end
    until id
    local drained, more = false, 60
    for i = 1, 100000 do
      sent = sent + 1
      client:publish("w.node." .. id, ("_INBOX.%s.s.%x"):format(ME, sent), "mfc" .. VERSION .. call(sent, sent, ledger))
      if i == 20 + round then node:drain(function() drained = true end) end
      fork.step(i % 3 == 0 and 0.001 or 0)
      if drained then more = more - 1 end
      if more == 0 then break end
    end
    node:close()
    client.socket:write "PING\r\n"
    local subject, body
    repeat
      subject, body = client:next()
      if subject then hear(subject, body) end
    until not subject
  end
  local counts = nats_node.entries(ledger)
  for n = 1, sent do
    t.ok(told[n], ("call %d has no end"):format(n))
    t.eq(counts[n] or 0, told[n] == RESULT and 1 or 0, ("call %d, whose end is %s"):format(n, told[n]))
  end
  t.ok(entered > 0 and absent > 0, ("%d entered, %d refused, %d without a node"):format(entered, refused, absent))
end)

story.done()
