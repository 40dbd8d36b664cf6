-- TCP sockets never had TCP_NODELAY: the second of two small writes waited for the other side's
-- delayed acknowledgement, 44 ms. It is on by default now for every TCP socket that becomes a
-- moonfork.socket, on either side, and may be switched off.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- A listener, a connection to it, and what it accepted.
local function connection(t, address)
  local listener = t.got(fork.socket.listen(address or "127.0.0.1:0"))
  local client = t.got(fork.socket.connect(listener:address()))
  return listener, client, t.got(listener:accept())
end

local function close(...)
  for _, socket in ipairs { ... } do socket:close() end
end

story.test("connected, listening and accepted ones have it", function(t)
  local listener, client, server = connection(t)
  for _, socket in ipairs { listener, client, server } do
    t.eq(socket:option "nodelay", true)
  end
  close(listener, client, server)
end)

story.test("so have those that others made: wrapped, sent to a function, received", function(t)
  local ok, luasocket = pcall(require, "socket")
  if not ok then t.skip "needs LuaSocket" end
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  local function stranger() -- a descriptor with Nagle's algorithm on
    local client = assert(luasocket.connect("127.0.0.1", listener:address():match "%d+$"))
    t.eq(client:getoption "tcp-nodelay", false)
    return client
  end
  local one = stranger()
  local wrapped = fork.socket.wrap(kit.dup(one:getfd()))
  t.eq(wrapped:option "nodelay", true)
  local two = stranger()
  t.eq(t.ask(fork.new():send_fd(two), "local _, fd = ... return fd:option 'nodelay'"), true)
  local three = stranger()
  local a, b = fork.socket.pair()
  a:send_fd(three)
  local received = t.got(b:recv_fd())
  t.eq(received:option "nodelay", true)
  local rpc = fork.new():eval "function f(fd) return fd:option 'nodelay' end":rpc "f"
  local four = stranger()
  t.eq(rpc:call(four), true)
  rpc:close()
  fork.loop()
  close(one, two, three, four, wrapped, received, a, b, listener)
end)

story.test("a clone that accepts on a listener it was sent has it, too", function(t)
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  local p = fork.new():eval [[
    function serve(socket, listener)
      local connection = listener:accept()
      socket:write(tostring(connection:option "nodelay"), "\n")
    end
  ]]
  local socket = t.got(p:send_fd(listener):run "serve")
  local client = t.got(fork.socket.connect(listener:address()))
  t.eq(socket:read "l", "true")
  t.status(p)
  p:close()
  close(client, socket, listener)
end)

story.test("two small writes arrive at once", function(t)
  local listener, client, server = connection(t)
  local took = {}
  for _ = 1, 20 do
    local began = kit.now()
    client:write "a"
    client:write "b\n"
    t.eq(server:read "l", "ab")
    server:write "c\n" -- a dialogue: the next first write finds an acknowledgement delayed
    client:read "l"
    took[#took + 1] = kit.now() - began
  end
  table.sort(took) -- a loaded machine makes some of them slow, the delay every one: 40 ms
  t.ok(took[10] < 0.03 * story.scale, took[10])
  close(listener, client, server)
end)

story.test("options are read and set; dup leaves them", function(t)
  local listener, client, server = connection(t)
  t.eq(client:option("nodelay", false), client)
  t.eq(client:option "nodelay", false)
  local copy = client:dup()
  t.eq(copy:option "nodelay", false)
  t.eq(client:option "keepalive", false)
  t.eq(client:option("keepalive", true):option "keepalive", true)
  for _, name in ipairs { "sndbuf", "rcvbuf" } do
    local before = client:option(name)
    t.eq(math.type(before), "integer")
    t.ok(client:option(name, 30000))
    t.ok(client:option(name) ~= before)
    t.ok(client:option(name) >= 30000)
  end
  close(copy, listener, client, server)
end)

story.test("misuse raises, what the system refuses is returned", function(t)
  local a, b = fork.socket.pair()
  t.raises("unknown option 'colour' %(valid: keepalive, nodelay, rcvbuf, sndbuf%)", a.option, a,
    "colour")
  t.raises("boolean expected, got number", a.option, a, "keepalive", 1)
  t.raises("number of bytes", a.option, a, "sndbuf", 0)
  t.raises("number of bytes", a.option, a, "sndbuf", 1 << 40)
  t.raises("number expected", a.option, a, "rcvbuf", "much")
  local value, message, errno = a:option "nodelay"
  t.eq({ value, math.type(errno) }, { nil, "integer" })
  t.match(message, "not supported")
  value = a:option("nodelay", true)
  t.eq(value, nil)
  t.ok(a:option("sndbuf", 20000))
  close(a, b)
  t.raises("closed", a.option, a, "nodelay")
end)

story.test("a listener by IPv6 and one by name have it", function(t)
  local listener, message = fork.socket.listen "[::1]:0"
  if not listener then t.skip(message) end
  local client = t.got(fork.socket.connect(listener:address()))
  t.eq({ listener:option "nodelay", client:option "nodelay" }, { true, true })
  close(listener, client)
  listener = t.got(fork.socket.listen "localhost:0")
  t.eq(listener:option "nodelay", true)
  close(listener)
end)

story.done()
