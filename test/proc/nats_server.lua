-- The helper that gives stories a real nats-server: it ends with its test, keeps port and store, speaks
-- TLS, knows accounts, finds its cluster, and a link to it can be cut.
local story = require "story"
local kit = story.kit
local fork = require "moonfork"
local nats = require "nats"

-- A client of two lines.
local function client(address, words)
  local socket = assert(fork.socket.connect(address))
  socket:settimeout(10)
  assert(socket:read "l")
  socket:write("CONNECT {\"verbose\":false", words or "", "}\r\nPING\r\n")
  return socket
end

story.test("a server keeps port and store, can be stopped, and leaves nothing", function(t)
  local server = nats.start(t, {jetstream = true, ping_interval = 1})
  t.match(server.info, '"jetstream":true')
  local socket = client("127.0.0.1:" .. server.port)
  t.match(socket:read "l", "^PONG")
  server:stop()
  socket:write "PING\r\n"
  socket:settimeout(0.2)
  t.eq((socket:read "l"), nil)
  server:continue()
  socket:settimeout(10)
  t.match(socket:read "l", "^PONG")
  local pid = server.pid
  server:restart()
  t.ok(server.pid ~= pid)
  t.eq((socket:read "l"), nil) -- of the one that was killed
  socket:close()
  t.match(client("127.0.0.1:" .. server.port):read "l", "^PONG")
end)

story.test("a server ends with a test that is killed", function(t)
  nats.program(t)
  local pids = t:file "pids"
  local _, code = t:lua(([[
    local nats, kit = require "nats", require "testkit"
    local server = nats.start()
    local file = io.open(%q, "w")
    file:write(server.pid, "\n", server.folder, "\n")
    file:close()
    kit.kill(kit.getpid(), kit.SIGKILL)]]):format(pids))
  t.eq(code, 137)
  local pid, folder = t.read(pids):match "(%d+)\n(.-)\n"
  t.outside(10, function() return not kit.processes()[tonumber(pid)] end)
  os.execute("rm -r '" .. folder .. "'") -- only the processes end by themselves
end)

story.test("two servers are one cluster, and a link can be cut", function(t)
  local a, b = nats.cluster(t)
  local link = nats.link(t, b)
  local listening = client(link.url:match "//(.*)")
  listening:write "SUB greeting 1\r\nPING\r\n"
  t.match(listening:read "l", "^PONG")
  t.match(listening:read "l", "^PONG")
  local speaking = client("127.0.0.1:" .. a.port)
  t.match(speaking:read "l", "^PONG")
  -- The other server hears of the subscription a little later.
  t.outside(10, function()
    speaking:write "PUB greeting 5\r\nhello\r\n"
    listening:settimeout(0.1)
    return listening:read "l"
  end)
  link:cut()
  while listening:read "l" do end
  speaking:write "PUB greeting 3\r\nyou\r\nPING\r\n"
  t.match(speaking:read "l", "^PONG")
  t.eq((listening:read "l"), nil)
  link:mend()
  listening:settimeout(10)
  t.match(listening:read "l", "^MSG greeting 1 3")
  t.match(listening:read "l", "^you")
  b:kill()
  t.eq((listening:read "l"), nil)
end)

story.test("passwords, tokens, certificates and signed accounts", function(t)
  local by_password = nats.start(t, {user = "u", password = "p"})
  t.match(client("127.0.0.1:" .. by_password.port):read "l", "Authorization Violation")
  t.match(client("127.0.0.1:" .. by_password.port, ',"user":"u","pass":"p"'):read "l", "^PONG")
  local by_token = nats.start(t, {token = "secret"})
  t.match(client("127.0.0.1:" .. by_token.port, ',"auth_token":"secret"'):read "l", "^PONG")
  local with_tls = nats.start(t, {tls = "verify"})
  t.match(with_tls.info, '"tls_required":true,"tls_verify":true')
  t.match(with_tls.url, "^tls://")
  local signed = nats.start(t, {creds = true, jetstream = true})
  t.match(signed.info, '"auth_required":true')
  t.match(t.read(signed.creds), "BEGIN USER NKEY SEED%-%-%-%-%-\nSU")
end)

story.done()
