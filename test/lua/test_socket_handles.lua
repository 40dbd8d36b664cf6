-- moonfork.socket: addresses, datagrams, descriptors, and what counts as a handle. Those of
-- interoperation skip, with a notice, what is not installed.
-- luacheck: globals TestDescriptors TestAddresses TestHandles TestDatagrams
local kit = require "socket_kit"
local lu, shim, socket = kit.lu, kit.shim, kit.socket
local has_shim, need_shim, need, pair = kit.has_shim, kit.need_shim, kit.need, kit.pair
local counted, fresh_name = kit.counted, kit.fresh_name

---- descriptors ----

TestDescriptors = counted {}

function TestDescriptors.test_what_was_not_taken_is_closed()
  need_shim()
  local a, b = pair()
  for i = 1, 3 do
    a:send_fd(io.stdout, i .. "\n")
    lu.assertEquals(b:read(), tostring(i)) -- the descriptors wait; tearDown counts them
  end
  a:close()
  b:close()
end

function TestDescriptors.test_wrapped_ones_are_closed_by_exec()
  need_shim()
  local rd, wr = shim.pipe()
  local r <close> = socket.wrap(rd)
  local w <close> = socket.wrap(wr)
  lu.assertTrue(shim.is_cloexec(r:fileno()))
  lu.assertTrue(shim.is_cloexec(w:fileno()))
end

function TestDescriptors.test_send_and_receive()
  need_shim()
  local a, b = pair()
  local rd, wr = shim.pipe()
  lu.assertIs(a:send_fd(wr, "with this"), a)
  shim.close(wr)
  local w, data = b:recv_fd()
  lu.assertEquals(data, "with this")
  lu.assertTrue(shim.is_cloexec(w:fileno()))
  w:write("through\n")
  w:close()
  local r <close> = socket.wrap(rd)
  lu.assertEquals(r:read("a"), "through\n")
  a:send_fd(io.stdout)
  w, data = b:recv_fd()
  lu.assertEquals(data, "\0")
  w:close()
  a:close()
  local none, message, errno = b:recv_fd()
  lu.assertNil(none)
  lu.assertEquals(message, "end of file")
  lu.assertEquals(errno, 0)
  b:close()
end

function TestDescriptors.test_one_that_was_not_sent_in_time_is_closed()
  need_shim()
  local a, b = pair()
  local c, d = pair()
  a:settimeout(0)
  local chunk = ("x"):rep(65536)
  local message
  repeat message = select(2, a:write(chunk)) until message
  lu.assertEquals(message, "timed out")
  collectgarbage "stop"
  local fds = shim.count_fds()
  a:settimeout(0.01)
  lu.assertEquals({a:send_fd(c, "with this")}, {nil, "timed out", 110, 0})
  lu.assertEquals(shim.count_fds(), fds) -- closed at once, not by the collector
  collectgarbage "restart"
  b:close()
  lu.assertEquals({select(2, a:send_fd(c, "with this"))}, {"Broken pipe", 32, 0})
  lu.assertEquals(shim.count_fds(), fds - 1)
  lu.assertIs(c:write("here\n"), c) -- the caller's own is untouched
  lu.assertEquals(d:read(), "here")
  for _, x in ipairs {a, c, d} do x:close() end
end

-- A line that was sent before the descriptor comes in together with it.
function TestDescriptors.test_reading_ahead_loses_no_descriptor()
  local a, b = pair()
  local c, d = pair()
  a:write("hello\n")
  a:send_fd(c, "first")
  a:send_fd(d, "second")
  a:write(" tail\n")
  lu.assertEquals(b:read(), "hello")
  local x, data = b:recv_fd()
  lu.assertEquals(data, "first")
  local y
  y, data = b:recv_fd()
  lu.assertEquals(data, "second")
  lu.assertEquals(b:read(), " tail")
  x:write("to d")
  lu.assertEquals(y:read(4), "to d")
  for _, s in ipairs {a, b, c, d, x, y} do s:close() end
end

function TestDescriptors.test_bytes_read_before_are_not_given_again()
  local a, b = pair()
  a:send_fd(0, "line\n")
  lu.assertEquals(b:read(), "line")
  lu.assertTrue(b:dirty())
  local s, data = b:recv_fd()
  lu.assertEquals(data, "")
  s:close()
  a:close()
  b:close()
end

function TestDescriptors.test_a_flood_is_bounded_and_told()
  need_shim()
  local a, b = pair()
  lu.assertEquals(shim.send_many(a:fileno(), 0, 40), 1)
  a:write("\n")
  b:read()
  local got = 0
  local s, message, errno = b:recv_fd()
  while s do
    got = got + 1
    s:close()
    s, message, errno = b:recv_fd()
  end
  lu.assertEquals(got, 16)
  lu.assertEquals(errno, 24)
  lu.assertIsString(message)
  a:close()
  b:close()
end

function TestDescriptors.test_big_data_goes_with_it()
  need_shim()
  local a, b = pair()
  local text = ("0123456789"):rep(100000)
  local sender = coroutine.wrap(function() a:send_fd(0, text) a:close() return "sent" end)
  shim.set_wait(coroutine.yield)
  sender()
  shim.set_wait(nil)
  local s, data = b:recv_fd()
  s:close()
  shim.set_wait(coroutine.yield)
  local reader = coroutine.wrap(function() return data .. b:read("a") end)
  local r = reader()
  while r ~= text do
    sender(true)
    r = reader(true)
  end
  b:close()
end

function TestDescriptors.test_refusals()
  local a, b = pair()
  local r, message, errno = a:send_fd(99999)
  lu.assertNil(r)
  lu.assertEquals(message, "99999 is not an open descriptor")
  lu.assertEquals(errno, 9)
  lu.assertErrorMsgContains("handle", a.send_fd, a, "string")
  lu.assertErrorMsgContains("handle", a.send_fd, a, true)
  lu.assertError(a.send_fd, a)
  local path = os.tmpname()
  local f <close> = socket.open(path)
  lu.assertNil(f:send_fd(0))
  lu.assertNil(f:recv_fd())
  os.remove(path)
  a:close()
  b:close()
end

---- addresses ----

TestAddresses = counted {}

function TestAddresses.test_tcp()
  for _, host in ipairs {"127.0.0.1", "[::1]", "localhost"} do
    local l, message = socket.listen(host .. ":0")
    if not l then
      lu.assertNotEquals(host, "127.0.0.1")
      print("# skipped " .. host .. ": " .. message)
    else
      local address = l:address()
      lu.assertNotNil(address:match ":%d+$")
      local c = assert(socket.connect(address, 5))
      local s = assert(l:accept())
      c:write("hello\n")
      lu.assertEquals(s:read(), "hello")
      lu.assertEquals(s:address(), address)
      s:close()
      lu.assertNil(c:read())
      c:close()
      l:close()
    end
  end
end

function TestAddresses.test_unix()
  local path = os.tmpname()
  os.remove(path)
  local l = assert(socket.listen(path))
  lu.assertEquals(l:address(), path)
  local again, message, errno = socket.listen(path)
  lu.assertNil(again)
  lu.assertEquals(errno, 98, message)
  l:settimeout(0)
  lu.assertNil(l:accept()) -- the look whether somebody listens there is no connection
  l:settimeout(5)
  local c = assert(socket.connect(path))
  local s = assert(l:accept())
  s:write("x")
  lu.assertEquals(c:read(1), "x")
  for _, x in ipairs {l, c, s} do x:close() end
  lu.assertEquals(select(3, socket.connect(path)), 111)
  l = assert(socket.listen(path)) -- over the abandoned one
  l:close()
  os.remove(path)
end

function TestAddresses.test_full_unix_backlog_is_waited_for()
  need_shim()
  local path = os.tmpname()
  os.remove(path)
  local l = assert(socket.listen(path, 0))
  local first = assert(socket.connect(path, 0.05))
  collectgarbage "stop"
  local fds = shim.count_fds()
  local c, message = socket.connect(path, 0.05)
  lu.assertEquals(shim.count_fds(), fds) -- closed at once, not by the collector
  collectgarbage "restart"
  lu.assertNil(c)
  lu.assertEquals(message, "timed out")
  shim.set_wait(coroutine.yield)
  local connector = coroutine.wrap(function() return socket.connect(path) end)
  local _, _, timeout = connector()
  lu.assertAlmostEquals(timeout, 0.01, 0.001)
  local s = l:accept()
  c = connector(false)
  lu.assertStrContains(tostring(c), "moonfork.socket")
  for _, x in ipairs {l, c, s, first} do x:close() end
  os.remove(path)
end

function TestAddresses.test_accept_times_out()
  local l = assert(socket.listen("127.0.0.1:0"))
  l:settimeout(0.01)
  lu.assertEquals({l:accept()}, {nil, "timed out", 110})
  l:close()
end

-- Linux says EAGAIN of a Unix listener that was shut down, and poll that it is ready: accept span.
function TestAddresses.test_accept_of_what_was_shut_down()
  for _, address in ipairs {"@" .. fresh_name(), "127.0.0.1:0"} do
    for _, reactor in ipairs {false, true} do
      local listener = assert(socket.listen(address))
      if reactor and has_shim then shim.set_wait(function() return true end) end
      listener:settimeout(10)
      listener:shutdown()
      lu.assertEquals({listener:accept()}, {nil, "Invalid argument", 22})
      if has_shim then shim.set_wait(nil) end
      listener:close()
    end
  end
end

function TestAddresses.test_bad_addresses()
  for _, text in ipairs {"", "host", "host:", "::1:80", "a\0b:1"} do
    local r, message, errno = socket.connect(text)
    lu.assertNil(r)
    lu.assertStrContains(message, "is not an address")
    lu.assertStrContains(message, '"./path"') -- what "host" may have been meant as
    lu.assertEquals(errno, 22)
  end
  lu.assertEquals(select(3, socket.connect("/" .. ("x"):rep(200))), 36)
  lu.assertError(socket.connect)
  lu.assertError(socket.listen, {})
  local l = assert(socket.listen("127.0.0.1:0"))
  local address = l:address()
  l:close()
  lu.assertEquals(select(3, socket.connect(address)), 111)
end

-- With a reactor the resolver runs in a thread, of which nothing is left.
function TestAddresses.test_names_are_looked_up_aside()
  need_shim()
  local l = assert(socket.listen("127.0.0.1:0"))
  shim.set_wait(coroutine.yield)
  local connector = coroutine.wrap(function()
    return socket.connect("localhost:" .. l:address():match "%d+$")
  end)
  local r = connector()
  local waits = 0
  while type(r) == "number" do
    waits = waits + 1
    shim.sleep(0.005)
    r = connector(true)
  end
  lu.assertTrue(waits > 0)
  lu.assertStrContains(tostring(r), "moonfork.socket")
  r:close()
  l:close()
end

function TestAddresses.test_unknown_name()
  local r, message, errno = socket.connect("no.such.host.invalid:80", 10)
  lu.assertNil(r)
  lu.assertIsString(message)
  lu.assertIsNumber(errno)
end

function TestAddresses.test_abandoned_lookup_cleans_up()
  need_shim()
  shim.set_wait(coroutine.yield)
  for _ = 1, 20 do
    coroutine.wrap(function() return socket.connect("no.such.host.invalid:80") end)()
    collectgarbage()
  end
  collectgarbage()
  local deadline = shim.now() + 20
  while shim.threads() > 1 and shim.now() < deadline do shim.sleep(0.01) end
end

---- what counts as a handle ----

TestHandles = counted {}

function TestHandles.test_kinds()
  need_shim()
  local a, b = pair()
  lu.assertEquals(shim.check(0), 0)
  lu.assertEquals(shim.check(io.stdout), 1)
  lu.assertEquals(shim.check(a), a:fileno())
  lu.assertEquals(shim.check {fileno = function(self) return self.n end, n = 2}, 2)
  lu.assertEquals(shim.check {getfd = function() return 1 end}, 1)
  lu.assertEquals(shim.check {pollfd = function() return b:fileno() end}, b:fileno())
  lu.assertEquals(shim.check {fd = function() return 0 end}, 0)
  lu.assertEquals(shim.check {fd = 2}, 2)
  lu.assertEquals(shim.check {fd = setmetatable({}, {__call = function() return 1 end})}, 1)
  a:close()
  b:close()
end

function TestHandles.test_no_handles()
  need_shim()
  local f = io.tmpfile()
  f:close()
  lu.assertEquals({shim.check(f)}, {nil, "a closed file is not an open descriptor"})
  local a, b = pair()
  a:close()
  b:close()
  lu.assertEquals({shim.check(a)}, {nil, "a closed moonfork.socket is not an open descriptor"})
  lu.assertEquals({shim.check(-1)}, {nil, "-1 is not an open descriptor"})
  lu.assertEquals({shim.check(1 << 40)}, {nil, "1099511627776 is not an open descriptor"})
  lu.assertStrContains(select(2, shim.check {fd = function() end}), "is not an open descriptor")
  for _, x in ipairs {"0", true, {}, print, coroutine.create(print)} do
    lu.assertErrorMsgContains("handle", shim.check, x)
  end
  lu.assertError(shim.check)
  lu.assertError(shim.check, 1.5)
  lu.assertErrorMsgContains("own", shim.check, {fileno = function() error("own") end})
end

function TestHandles:test_luv()
  need_shim()
  local uv = need "luv"
  for _ = 1, 2 do
    local rd, wr = shim.pipe()
    local p = uv.new_pipe(false)
    p:open(rd)
    lu.assertEquals(shim.check(p), rd)
    p:close()
    uv.run()
    lu.assertNil((shim.check(p)))
    shim.close(wr)
    self.fds = self.once and self.fds or shim.count_fds() -- the loop's own stay
    self.once = true
  end
end

function TestHandles.test_luasocket()
  need_shim()
  local luasocket = need "socket"
  local l = assert(luasocket.bind("127.0.0.1", 0))
  lu.assertEquals(shim.check(l), l:getfd())
  l:close()
  lu.assertNil((shim.check(l)))
end

function TestHandles.test_luasocket_select()
  local luasocket = need "socket"
  local a, b = socket.pair()
  lu.assertEquals(#luasocket.select({b}, nil, 0), 0)
  a:write("x\ny\n")
  lu.assertIs(luasocket.select({b}, nil, 5)[1], b)
  b:read()
  lu.assertIs(luasocket.select({b}, nil, 5)[1], b) -- dirty
  b:read()
  lu.assertEquals(#luasocket.select({b}, nil, 0), 0)
  a:close()
  b:close()
end

function TestHandles.test_cqueues()
  need_shim()
  local cqueues, cs = need "cqueues", need "cqueues.socket"
  local x, y = cs.pair()
  lu.assertEquals(shim.check(x), x:pollfd())
  x:close()
  y:close()
  local a, b = pair()
  local loop, order = cqueues.new(), {}
  loop:wrap(function()
    cqueues.poll(b)
    order[#order + 1] = b:read()
    cqueues.poll(b) -- returns at once: timeout() is 0
    order[#order + 1] = b:read()
  end)
  loop:wrap(function()
    order[#order + 1] = "write"
    a:write("one\ntwo\n")
  end)
  lu.assertTrue(loop:loop())
  lu.assertEquals(order, {"write", "one", "two"})
  a:close()
  b:close()
end

---- datagrams and names ----

TestDatagrams = counted {}

local function check_datagrams(address)
  local here = assert(socket.listen(address))
  lu.assertEquals(here:address(), address)
  local there = assert(socket.connect(address))
  lu.assertEquals(there:peer(), address)
  lu.assertEquals(there:address(), "")
  lu.assertNil((here:peer())) -- it is connected to nobody
  there:write("READY=1\n", "STATUS=up")
  there:write("STOPPING=1")
  lu.assertEquals(here:read("a"), "READY=1\nSTATUS=up")
  lu.assertEquals(here:read("l"), "STOPPING=1")
  there:write("one\ntwo\n")
  there:write("three")
  lu.assertEquals({here:read("l", "l", "l")}, {"one", "two", "three"})
  here:settimeout(0.01)
  lu.assertEquals(select(2, here:read("a")), "timed out")
  lu.assertEquals(select(2, here:accept()) ~= nil, true)
  there:write("a longer one")
  lu.assertEquals(here:read(3), "a l")
  lu.assertEquals(here:read("a"), "onger one")
  local many = ("x"):rep(150000)
  there:write(many)
  lu.assertTrue(here:read("a") == many)
  here:limit(4)
  there:write("12345")
  lu.assertEquals(select(2, here:read("a")), "line too long")
  lu.assertEquals(select(3, there:write(("x"):rep(1 << 24))), 90)
  lu.assertEquals(select(3, there:communicate("x")), 95)
  here:close()
  lu.assertEquals(select(3, there:write("nobody")), 111)
  there:close()
end

function TestDatagrams.test_path()
  local path = os.tmpname()
  os.remove(path)
  check_datagrams("unixgram:" .. path)
  lu.assertEquals(select(3, socket.connect("unixgram:" .. path)), 111)
  local again = assert(socket.listen("unixgram:" .. path)) -- nobody has it any more
  local r, _, errno = socket.listen("unixgram:" .. path)
  lu.assertNil(r)
  lu.assertEquals(errno, 98)
  r, _, errno = socket.listen(path) -- nor may a stream take it
  lu.assertNil(r)
  lu.assertEquals(errno, 98)
  again:close()
  os.remove(path)
end

function TestDatagrams.test_abstract()
  check_datagrams("unixgram:@" .. fresh_name())
end

function TestDatagrams.test_descriptors_go_along()
  local name = "unixgram:@" .. fresh_name()
  local here, there = assert(socket.listen(name)), assert(socket.connect(name))
  local a, b = pair()
  there:send_fd(a, "FDSTORE=1")
  local got, data = here:recv_fd()
  lu.assertEquals(data, "FDSTORE=1")
  got:write("x")
  lu.assertEquals(b:read(1), "x")
  for _, s in ipairs {here, there, a, b, got} do s:close() end
end

function TestDatagrams.test_empty_messages()
  need_shim()
  local name = "unixgram:@" .. fresh_name()
  local here, there = assert(socket.listen(name)), assert(socket.connect(name))
  shim.send_empty(there:fileno())
  there:write("next")
  lu.assertEquals(here:read("a"), "")
  lu.assertEquals(here:read("a"), "next")
  here:close()
  there:close()
end

function TestAddresses.test_abstract_stream()
  local address = "@" .. fresh_name() .. "/with:odd@signs"
  local l = assert(socket.listen(address))
  lu.assertEquals(l:address(), address)
  local c = assert(socket.connect(address))
  local s = assert(l:accept())
  lu.assertEquals(c:peer(), address)
  lu.assertEquals(s:address(), address)
  lu.assertEquals(s:peer(), "")
  c:write("x")
  lu.assertEquals(s:read(1), "x")
  lu.assertEquals(select(3, socket.listen(address)), 98)
  l:close()
  lu.assertEquals(select(3, socket.connect(address)), 111) -- the name is gone at once
  l = assert(socket.listen(address))
  for _, x in ipairs {l, c, s} do x:close() end
  local longest = "@" .. ("n"):rep(107)
  l = assert(socket.listen(longest))
  lu.assertEquals(l:address(), longest)
  l:close()
  for _, text in ipairs {longest .. "n", "unixgram:" .. longest .. "n", "/" .. ("n"):rep(108)} do
    lu.assertEquals(select(3, socket.connect(text)), 36)
  end
  for _, text in ipairs {"@", "unixgram:", "unixgram:@", "unixgram:name", "unixgram:1:2"} do
    lu.assertEquals(select(3, socket.listen(text)), 22)
  end
end

function TestAddresses.test_peer()
  local l = assert(socket.listen("127.0.0.1:0"))
  local c = assert(socket.connect(l:address()))
  local s = assert(l:accept())
  lu.assertEquals(c:peer(), l:address())
  lu.assertEquals(s:peer(), c:address())
  lu.assertStrMatches(s:peer(), "127%.0%.0%.1:%d+")
  lu.assertEquals(select(3, l:peer()), 107)
  for _, x in ipairs {l, c, s} do x:close() end
  lu.assertErrorMsgContains("closed", s.peer, s)
  local six = socket.listen("[::1]:0")
  if six then
    c = assert(socket.connect(six:address()))
    lu.assertEquals(c:peer(), six:address())
    lu.assertStrMatches(c:peer(), "%[::1%]:%d+")
    c:close()
    six:close()
  end
  local a, b = pair()
  lu.assertEquals(a:peer(), "")
  a:close()
  b:close()
  local path = os.tmpname()
  local f <close> = socket.open(path)
  lu.assertEquals(select(3, f:peer()), 88)
  os.remove(path)
end

function TestAddresses.test_listen_options()
  local l = assert(socket.listen("127.0.0.1:0", {reuseport = true, backlog = 5}))
  local again = assert(socket.listen(l:address(), {reuseport = true}))
  lu.assertEquals(again:address(), l:address())
  local r, _, errno = socket.listen(l:address())
  lu.assertNil(r)
  lu.assertEquals(errno, 98)
  l:close()
  again:close()
  l = assert(socket.listen("127.0.0.1:0", {}))
  lu.assertEquals(select(3, socket.listen(l:address(), {reuseport = true})), 98)
  l:close()
  socket.listen("127.0.0.1:0", 3):close()
  lu.assertErrorMsgContains("unknown option 'reuse'", socket.listen, "127.0.0.1:0", {reuse = true})
  lu.assertErrorMsgContains("unknown option '1'", socket.listen, "127.0.0.1:0", {5})
  lu.assertErrorMsgContains("backlog", socket.listen, "127.0.0.1:0", {backlog = -1})
  lu.assertErrorMsgContains("backlog", socket.listen, "127.0.0.1:0", {backlog = "5"})
  lu.assertErrorMsgContains("backlog", socket.listen, "127.0.0.1:0", 70000)
  lu.assertErrorMsgContains("reuseport", socket.listen, "127.0.0.1:0", {reuseport = 1})
end

kit.run()
