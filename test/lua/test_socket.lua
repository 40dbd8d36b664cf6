-- moonfork.socket, run by a stock interpreter. The tests use the shim beside this
-- file where it is on the cpath, else the installed module (and skip what needs the shim).
-- Those of interoperation skip, with a notice, what is not installed.
-- luacheck: globals TestLimits TestCommunicate TestDatagrams TestPoll
-- luacheck: globals TestRead TestWrite TestObject TestDescriptors TestWaiting TestAddresses TestHandles
local lu = require "luaunit"
local build = os.getenv "MOONFORK_BUILD"
if build then package.cpath = build .. "/test/lua/?.so;" .. package.cpath end
local has_shim, shim = pcall(require, "socket_shim")
local socket = has_shim and shim.socket or require "moonfork".socket

local function need_shim()
  lu.skipIf(not has_shim, "needs socket_shim")
end

local function need(name)
  local ok, module = pcall(require, name)
  lu.skipIf(not ok, name .. " is not installed")
  return module
end

local function pair()
  local a, b = socket.pair()
  lu.assertNotNil(a, b)
  return a, b
end

-- A descriptor leak in any test fails it.
local function counted(class)
  function class:setUp()
    if has_shim then
      collectgarbage()
      collectgarbage()
      self.fds = shim.count_fds()
    end
  end
  function class:tearDown()
    if has_shim then
      shim.set_wait(nil)
      collectgarbage()
      collectgarbage()
      lu.assertEquals(shim.count_fds(), self.fds, "descriptors left")
      lu.assertEquals(shim.threads(), 1, "threads left")
    end
  end
  return class
end

---- reading ----

TestRead = counted {}

function TestRead.test_lines_and_bytes()
  local a, b = pair()
  lu.assertIs(a:write("one\n", "two\n", "three\n", "12345"), a)
  a:shutdown("write")
  lu.assertEquals(b:read(), "one")
  lu.assertEquals(b:read("L"), "two\n")
  lu.assertEquals(b:read("*l"), "three")
  lu.assertEquals({b:read(2, 1, 10)}, {"12", "3", "45"})
  lu.assertNil(b:read(1))
  a:close()
  b:close()
end

function TestRead.test_end_of_file_like_io()
  local a, b = pair()
  a:write("rest")
  lu.assertEquals(b:read(0), "")
  a:close()
  lu.assertEquals(b:read("a"), "rest")
  lu.assertEquals(b:read("a"), "")
  lu.assertEquals(select("#", b:read("l")), 1)
  lu.assertNil(b:read("l"))
  lu.assertNil(b:read("L"))
  lu.assertNil(b:read("n"))
  lu.assertNil(b:read(5))
  lu.assertNil(b:read(0))
  b:close()
end

function TestRead.test_last_line_without_newline()
  local a, b = pair()
  a:write("x\ny")
  a:close()
  lu.assertEquals({b:read("L", "L", "L")}, {"x\n", "y", nil})
  b:close()
end

function TestRead.test_several_formats_stop_at_the_first_failure()
  local a, b = pair()
  a:write("7 abc\n")
  a:close()
  local r = table.pack(b:read("n", "l", "l", "a"))
  lu.assertEquals(r.n, 3)
  lu.assertEquals(r[1], 7)
  lu.assertEquals(r[2], " abc")
  lu.assertNil(r[3])
  b:close()
end

-- Every numeral reads as io reads it from a file, whole and byte by byte.
function TestRead.test_numbers_like_io_but_exact()
  local texts = {"1", " 42 ", "-0x1F", "0x.8p1", "3.25e2x", "+7", "0x", "e5", "1e", "1e+", "--1", ".5", "5.", ".",
    "0xA.8", "1 2", "99999999999999999999", "0" .. ("1"):rep(198), ("1"):rep(201), "nan", "\n\t 8", "", "  ", "0b1"}
  for _, text in ipairs(texts) do
    local f = io.tmpfile()
    f:write(text)
    f:seek("set")
    local number = f:read("n")
    local rest = f:read("a")
    f:close()
    local a, b = pair()
    a:write(text)
    a:close()
    local got = b:read("n")
    lu.assertEquals(got, number, text)
    lu.assertEquals(math.type(got), math.type(number), text)
    if #text < 200 then
      lu.assertEquals(b:read("a"), rest, text)
    end
    b:close()
  end
end

function TestRead.test_big_read_keeps_order()
  need_shim()
  local a, b = pair()
  local text = {}
  for i = 1, 200000 do text[i] = i end
  text = table.concat(text, "\n") .. "\n"
  local writer = coroutine.wrap(function() a:write(text) a:close() end)
  shim.set_wait(coroutine.yield)
  local reader = coroutine.wrap(function() return b:read(#text // 2), b:read("a") end)
  writer()
  local first, second
  repeat
    first, second = reader(true)
    if type(first) == "string" then break end
    writer(true)
  until false
  lu.assertTrue(first .. second == text)
  b:close()
end

function TestRead.test_bad_formats_raise()
  local a, b = pair()
  lu.assertErrorMsgContains("invalid format", a.read, a, "x")
  lu.assertErrorMsgContains("invalid format", a.read, a, "")
  lu.assertErrorMsgContains("bad argument", a.read, a, {})
  lu.assertErrorMsgContains("negative", a.read, a, -1)
  a:close()
  b:close()
end

function TestRead.test_lines()
  local a, b = pair()
  a:write("1\n2\n3\n")
  a:close()
  local t = {}
  for line in b:lines() do t[#t + 1] = line end
  lu.assertEquals(t, {"1", "2", "3"})
  b:close()
  a, b = pair()
  a:write("1 2 3 4")
  a:close()
  t = {}
  for x, y in b:lines("n", "n") do t[#t + 1] = x * y end
  lu.assertEquals(t, {2, 12})
  local next_line = b:lines()
  b:close()
  lu.assertErrorMsgContains("closed", next_line)
end

function TestRead.test_lines_raises_on_failure()
  local a, b = pair()
  b:settimeout(0.01)
  lu.assertErrorMsgContains("timed out", b:lines())
  a:close()
  b:close()
end

function TestRead.test_time_out_keeps_what_came()
  local a, b = pair()
  b:settimeout(0.02)
  a:write("half a l")
  local r, message, errno = b:read("l")
  lu.assertNil(r)
  lu.assertEquals(message, "timed out")
  lu.assertEquals(errno, 110)
  lu.assertTrue(b:dirty())
  lu.assertEquals(b:timeout(), 0)
  a:write("ine\n")
  lu.assertEquals(b:read("l"), "half a line")
  lu.assertFalse(b:dirty())
  lu.assertNil(b:timeout())
  b:settimeout(nil)
  a:close()
  lu.assertNil(b:read())
  b:close()
end

---- writing ----

TestWrite = counted {}

function TestWrite.test_numbers_like_io()
  local a, b = pair()
  local f = io.tmpfile()
  local values = {1, -7, 1.5, 3.0, 1e100, "x", math.mininteger, 1/0, 0.1}
  f:write(table.unpack(values))
  f:seek("set")
  a:write(table.unpack(values))
  a:write()
  a:close()
  lu.assertEquals(b:read("a"), f:read("a"))
  f:close()
  b:close()
end

function TestWrite.test_numbers_exactly()
  local a, b = pair()
  for _, value in ipairs {2^53, 1/3, 0.1 + 0.2, 1e15 + 0.5, 5e-324} do
    a:write(value, "\n")
    lu.assertEquals(tonumber(b:read("l")), value + 0)
  end
  a:close()
  b:close()
end

function TestWrite.test_many_arguments()
  local a, b = pair()
  local t = {}
  for i = 1, 200 do t[i] = i .. "," end
  a:write(table.unpack(t))
  a:close()
  lu.assertEquals(b:read("a"), table.concat(t))
  b:close()
end

function TestWrite.test_no_signal_when_nobody_reads()
  local a, b = pair()
  b:close()
  local r, message, errno, n = a:write("x")
  lu.assertNil(r)
  lu.assertEquals(message, "Broken pipe")
  lu.assertEquals(errno, 32)
  lu.assertEquals(n, 0)
  a:close()
  need_shim()
  local rd, wr = shim.pipe()
  shim.close(rd)
  local p <close> = socket.wrap(wr)
  lu.assertEquals(select(3, p:write("x")), 32)
  lu.assertFalse(shim.sigpipe_pending())
end

function TestWrite.test_time_out_tells_how_much_went()
  local a, b = pair()
  a:settimeout(0.02)
  local r, message, _, n = a:write(("x"):rep(10000000))
  lu.assertNil(r)
  lu.assertEquals(message, "timed out")
  a:close()
  lu.assertEquals(#b:read("a"), n)
  b:close()
end

function TestWrite.test_misuse_raises()
  local a, b = pair()
  lu.assertErrorMsgContains("bad argument", a.write, a, {})
  a:close()
  b:close()
  lu.assertErrorMsgContains("closed moonfork.socket", a.write, a, "x")
  lu.assertErrorMsgContains("closed moonfork.socket", a.read, a)
  lu.assertErrorMsgContains("closed moonfork.socket", a.fileno, a)
  lu.assertErrorMsgContains("moonfork.socket expected", a.read, io.stdout)
end

---- the object ----

TestObject = counted {}

function TestObject.test_text_and_metatable()
  local a, b = pair()
  lu.assertEquals(tostring(a), ("moonfork.socket (fd %d)"):format(a:fileno()))
  lu.assertTrue(a:close())
  lu.assertTrue(a:close())
  lu.assertEquals(tostring(a), "moonfork.socket (closed)")
  lu.assertEquals(getmetatable(a), "moonfork.socket")
  lu.assertError(setmetatable, a, {})
  lu.assertEquals(a:getfd(), -1)
  b:close()
end

function TestObject.test_close_variable_and_collection()
  need_shim()
  local fd
  do
    local x, y = socket.pair()
    local a <close> = x
    local b <close> = y
    fd = a:fileno()
    lu.assertTrue(shim.is_open(fd))
    lu.assertTrue(shim.is_cloexec(fd))
    lu.assertTrue(shim.is_cloexec(b:fileno()))
    lu.assertTrue(fd > 2 and b:fileno() > 2)
  end
  lu.assertFalse(shim.is_open(fd))
  do
    local a = socket.pair()
    fd = a:fileno()
  end
  collectgarbage()
  collectgarbage()
  lu.assertFalse(shim.is_open(fd))
end

function TestObject.test_shutdown()
  local a, b = pair()
  lu.assertTrue(a:shutdown("w"))
  lu.assertNil(b:read())
  lu.assertIs(b:write("still"), b)
  lu.assertTrue(b:shutdown())
  lu.assertEquals(a:read("a"), "still")
  lu.assertErrorMsgContains("invalid option", a.shutdown, a, "sideways")
  a:close()
  b:close()
end

function TestObject.test_detach_gives_what_was_read_ahead()
  need_shim()
  local a, b = pair()
  a:write("line\nmore")
  lu.assertEquals(b:read(), "line")
  local fd, rest = b:detach()
  lu.assertEquals(rest, "more")
  lu.assertEquals(tostring(b), "moonfork.socket (closed)")
  lu.assertTrue(shim.is_open(fd))
  shim.close(fd)
  local only = table.pack(a:detach())
  lu.assertEquals(only.n, 1)
  shim.close(only[1])
end

function TestObject.test_dup()
  local a, b = pair()
  local c = b:dup()
  b:close()
  a:write("x\n")
  lu.assertEquals(c:read(), "x")
  a:close()
  c:close()
end

function TestObject.test_file()
  local a, b = pair()
  a:write("one\ntwo\nthree\n")
  lu.assertEquals(b:read(), "one")
  local f = assert(b:file("r"))
  lu.assertEquals(io.type(f), "file")
  lu.assertEquals(tostring(b), "moonfork.socket (closed)")
  lu.assertEquals(f:read(), "two")
  lu.assertEquals(f:read(), "three")
  local g = a:file()
  g:write("back\n")
  g:flush()
  lu.assertTrue(g:close())
  lu.assertNil(f:read("a"):match("%S.*three"))
  f:close()
end

function TestObject.test_file_changes_only_own_descriptions()
  need_shim()
  local a, b = pair()
  shim.nonblocking(a:fileno(), true)
  shim.nonblocking(b:fileno(), true)
  local keep_a, keep_b = a:dup(), b:dup()
  local foreign = socket.wrap((a:detach()))
  local f, g = foreign:file(), b:file()
  lu.assertTrue(shim.nonblocking(keep_a:fileno()))
  lu.assertFalse(shim.nonblocking(keep_b:fileno()))
  for _, x in ipairs {f, g, keep_a, keep_b} do x:close() end
end

function TestObject.test_file_in_bad_mode_changes_nothing()
  local path = os.tmpname()
  local s = assert(socket.open(path, "w"))
  lu.assertErrorMsgContains("invalid mode", s.file, s, "q")
  local f, message, errno = s:file("r")
  lu.assertNil(f)
  lu.assertEquals(errno, 22)
  lu.assertIsString(message)
  lu.assertIs(s:write("x"), s)
  s:close()
  os.remove(path)
end

function TestObject.test_open()
  local path = os.tmpname()
  local s = assert(socket.open(path, "w"))
  s:write("a\nb\n")
  s:close()
  s = assert(socket.open(path, "a"))
  s:write("c\n")
  s:close()
  s = assert(socket.open(path))
  lu.assertEquals(s:read("a"), "a\nb\nc\n")
  s:close()
  local r, message, errno = socket.open("/nowhere/at/all")
  lu.assertNil(r)
  lu.assertEquals(message, "/nowhere/at/all: No such file or directory")
  lu.assertEquals(errno, 2)
  lu.assertErrorMsgContains("invalid mode", socket.open, path, "rw")
  os.remove(path)
end

function TestObject.test_wrap()
  local r, message, errno = socket.wrap(99999)
  lu.assertNil(r)
  lu.assertEquals(message, "Bad file descriptor")
  lu.assertEquals(errno, 9)
  lu.assertError(socket.wrap, "x")
end

function TestObject.test_foreign_blocking_pipe_is_left_blocking()
  need_shim()
  local rd, wr = shim.pipe()
  local r <close> = socket.wrap(rd)
  local w <close> = socket.wrap(wr)
  r:settimeout(0.01)
  w:settimeout(0.01)
  lu.assertEquals(select(2, r:read(1)), "timed out")
  local _, message, _, n = w:write(("x"):rep(1000000))
  lu.assertEquals(message, "timed out")
  lu.assertTrue(n > 0 and n < 1000000)
  lu.assertEquals(#r:read(n), n)
  lu.assertFalse(shim.nonblocking(rd))
  lu.assertFalse(shim.nonblocking(wr))
end

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

---- waiting ----

TestWaiting = counted {}

function TestWaiting.test_wait_function_may_yield()
  need_shim()
  shim.set_wait(function(...) return coroutine.yield(...) end)
  local a, b = pair()
  local reader = coroutine.wrap(function() return b:read("l", "n", 3) end)
  local fd, events, timeout = reader()
  lu.assertEquals({fd, events, timeout}, {b:fileno(), "r", nil})
  a:write("li")
  lu.assertEquals(reader(true), fd)
  a:write("ne\n1")
  lu.assertEquals(reader(true), fd)
  a:write("2 a")
  reader(true)
  a:write("bc")
  lu.assertEquals({reader(true)}, {"line", 12, " ab"})
  lu.assertEquals(coroutine.wrap(function() return b:read(1) end)(), "c")
  a:close()
  b:close()
end

function TestWaiting.test_lines_may_yield()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  local t = {}
  local reader = coroutine.wrap(function()
    for line in b:lines() do t[#t + 1] = line end
    return "end"
  end)
  reader()
  a:write("x\ny\nz")
  reader(true)
  lu.assertEquals(t, {"x", "y"})
  a:close()
  lu.assertEquals(reader(true), "end")
  lu.assertEquals(t, {"x", "y", "z"})
  b:close()
end

function TestWaiting.test_answers_of_the_wait_function()
  need_shim()
  local a, b = pair()
  shim.set_wait(function() return nil, "the sky fell", 42 end)
  lu.assertEquals({b:read(1)}, {nil, "the sky fell", 42})
  shim.set_wait(function() end)
  lu.assertEquals(select(2, b:read(1)), "the wait function returned nothing")
  shim.set_wait(function(_, _, timeout)
    shim.sleep(timeout)
    return false, "timed out"
  end)
  b:settimeout(0.01)
  lu.assertEquals({b:read(1)}, {nil, "timed out", 110})
  shim.set_wait(function() error("oh") end)
  lu.assertErrorMsgContains("oh", b.read, b, 1)
  a:close()
  b:close()
end

function TestWaiting.test_closed_while_waiting()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  local reader = coroutine.wrap(function() return b:read(1) end)
  reader()
  b:close()
  lu.assertEquals({reader(true)}, {nil, "Bad file descriptor", 9})
  a:close()
end

function TestWaiting.test_non_blocking_underneath_with_a_reactor()
  need_shim()
  shim.set_wait(function() return false end)
  local a, b = pair()
  lu.assertTrue(shim.nonblocking(a:fileno()))
  lu.assertFalse(shim.nonblocking(b:fileno()))
  a:close()
  b:close()
end

-- The kernel says nothing to who watches a descriptor that is closed: the wait function does.
function TestWaiting.test_a_close_tells_who_waits()
  need_shim()
  local told = {}
  shim.set_wait(function(fd, events)
    if events == "" then told[#told + 1] = fd return end
    return coroutine.yield(fd)
  end)
  for _, give in ipairs {"close", "detach", "file"} do
    for _, wait in ipairs {function(s) return s:read(1) end, function(s, t) return socket.poll({t, s}) end} do
      local a, b = pair()
      local fd = b:fileno()
      local waiting = coroutine.wrap(wait)
      waiting(b, a)
      told = {}
      local result = b[give](b)
      lu.assertEquals(told, {fd})
      lu.assertEquals({waiting(true)}, {nil, "Bad file descriptor", 9})
      if give == "detach" then shim.close(result) elseif give == "file" then result:close() end
      a:close()
      lu.assertEquals(#told, 1) -- nobody waits for that one any more
    end
  end
  local a, b = pair()
  a:write("x")
  b:read(1)
  told = {}
  a:close()
  b:close()
  lu.assertEquals(told, {})
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

function TestAddresses.test_bad_addresses()
  for _, text in ipairs {"", "host", "host:", "::1:80", "a\0b:1"} do
    local r, message, errno = socket.connect(text)
    lu.assertNil(r)
    lu.assertStrContains(message, "is not an address")
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

---- limits ----

TestLimits = counted {}

function TestLimits.test_lines_at_the_boundary()
  for _, format in ipairs {"l", "L"} do
    local a, b = pair()
    lu.assertIs(b:limit(5), b)
    local newline = format == "L" and "\n" or ""
    a:write("12345\n", "\n", "1234\n", "123456\n")
    lu.assertEquals(b:read(format), "12345" .. newline)
    lu.assertEquals(b:read(format), newline)
    lu.assertEquals(b:read(format), "1234" .. newline)
    local r, message, errno = b:read(format)
    lu.assertNil(r)
    lu.assertEquals(message, "line too long")
    lu.assertEquals(errno, 90)
    lu.assertNil((b:read(format))) -- nothing of it is gone
    lu.assertEquals(b:read(6), "123456") -- whoever names the number knows it
    lu.assertEquals(b:read(format), newline)
    a:close()
    b:close()
  end
end

function TestLimits.test_a_line_that_comes_slowly()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  b:limit(3)
  local function read_slowly(text)
    local reader = coroutine.wrap(function() return table.pack(b:read("l")) end)
    local r = reader()
    for c in text:gmatch "." do
      lu.assertIsNumber(r)
      a:write(c)
      r = reader(true)
    end
    if type(r) == "number" then
      a:write("\n")
      r = reader(true)
    end
    return r
  end
  lu.assertEquals(read_slowly("abc")[1], "abc")
  lu.assertEquals(read_slowly("abcd")[2], "line too long")
  a:close()
  b:close()
end

function TestLimits.test_everything_at_the_boundary()
  for n, good in pairs {[0] = true, [4] = true, [5] = true, [6] = false} do
    local a, b = pair()
    b:limit(5)
    a:write(("x"):rep(n))
    a:close()
    local r, message = b:read("a")
    lu.assertEquals(r, good and ("x"):rep(n) or nil)
    lu.assertEquals(message, not good and "line too long" or nil)
    lu.assertEquals(b:limit(nil):read("a"), good and "" or ("x"):rep(n))
    b:close()
  end
end

function TestLimits.test_an_endless_line_takes_no_memory()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  b:limit(10000)
  local reader = coroutine.wrap(function() return b:read("l") end)
  reader()
  a:settimeout(0)
  local writer = coroutine.create(function() a:write(("x"):rep(10000000)) end)
  coroutine.resume(writer)
  local r, message = reader(true)
  lu.assertNil(r)
  lu.assertEquals(message, "line too long")
  local fd, ahead = b:detach()
  shim.close(fd)
  lu.assertTrue(#ahead <= 10000 + 256 * 1024)
  a:close()
end

function TestLimits.test_lines_raise_and_misuse()
  local a, b = pair()
  a:write("ok\ntoo long\n")
  b:limit(2)
  local next_line = b:lines()
  lu.assertEquals(next_line(), "ok")
  lu.assertErrorMsgContains("line too long", next_line)
  lu.assertErrorMsgContains("number of bytes", b.limit, b, -1)
  lu.assertErrorMsgContains("number", b.limit, b, "x")
  lu.assertEquals(b:limit():read(), "too long")
  b:limit(0)
  a:write("\nx")
  lu.assertEquals(b:read(), "")
  lu.assertEquals(select(2, b:read()), "line too long")
  a:close()
  b:close()
  lu.assertErrorMsgContains("closed", b.limit, b, 1)
end

---- communicate ----

TestCommunicate = counted {}

local function with_command(text, f)
  need_shim()
  local a, b = pair()
  local number = b:fileno()
  shim.cloexec(number, false)
  local program = assert(io.popen(("exec %s <&%d >&%d %d>&-"):format(text, number, number, number), "w"))
  b:close()
  f(a)
  a:close()
  program:close()
end

function TestCommunicate.test_ten_megabytes_both_ways()
  local data = {}
  for i = 1, 1250000 do data[i] = ("%08d"):format(i) end
  data = table.concat(data)
  with_command("cat", function(a)
    local answer = a:communicate(data)
    lu.assertEquals(#answer, #data)
    lu.assertTrue(answer == data)
    lu.assertNil(a:read(1))
  end)
end

function TestCommunicate.test_an_answer_after_the_end()
  with_command("sort", function(a) lu.assertEquals(a:communicate("b\na\n"), "a\nb\n") end)
  with_command("cat", function(a) lu.assertEquals(a:communicate(), "") end)
  with_command("cat", function(a) lu.assertEquals(a:communicate(42), "42") end)
end

-- It stops reading, and its answer counts nevertheless.
function TestCommunicate.test_a_peer_that_reads_only_the_beginning()
  with_command("head -n 1", function(a)
    lu.assertEquals(a:communicate("first\n" .. ("x"):rep(5000000)), "first\n")
  end)
end

function TestCommunicate.test_what_was_read_ahead_counts()
  local a, b = pair()
  b:write("hello\nrest,")
  lu.assertEquals(a:read(), "hello")
  b:write("and more")
  b:shutdown("w")
  lu.assertEquals(a:communicate("question"), "rest,and more")
  lu.assertEquals(b:read("a"), "question")
  a:close()
  b:close()
end

function TestCommunicate.test_with_a_reactor()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  local text = ("0123456789"):rep(300000)
  local asks = coroutine.wrap(function() return a:communicate(text) end)
  local echoes = coroutine.wrap(function()
    while true do
      local part = b:read(65536)
      if not part then break end
      b:write(part)
    end
    b:close()
    return "done"
  end)
  local fd, events = asks()
  lu.assertEquals({fd, events}, {a:fileno(), "rw"})
  local answer
  local e = echoes()
  repeat
    answer = asks(true)
    if e ~= "done" then e = echoes(true) end
  until type(answer) == "string"
  lu.assertTrue(answer == text)
  a:close()
end

function TestCommunicate.test_failures()
  local a, b = pair()
  a:settimeout(0.02)
  local r, message, errno, n = a:communicate(("x"):rep(3000000))
  lu.assertNil(r)
  lu.assertEquals(message, "timed out")
  lu.assertEquals(errno, 110)
  a:settimeout(nil)
  lu.assertEquals(#b:read(n), n)
  b:write("answer")
  b:shutdown("w")
  lu.assertEquals(a:communicate("rest"), "answer") -- goes on where it stopped
  lu.assertEquals(b:read("a"), "rest")
  a:close()
  b:close()
  a, b = pair()
  a:limit(10)
  b:write("01234567890")
  b:close()
  lu.assertEquals({a:communicate("")}, {nil, "line too long", 90, 0})
  a:close()
  lu.assertErrorMsgContains("closed", a.communicate, a, "")
  local path = os.tmpname()
  local f <close> = socket.open(path, "w")
  lu.assertEquals(select(3, f:communicate("x")), 88)
  os.remove(path)
  a, b = pair()
  lu.assertErrorMsgContains("string", a.communicate, a, {})
  a:close()
  b:close()
end

---- datagrams and names ----

TestDatagrams = counted {}

local names = 0
local function fresh_name()
  names = names + 1
  return ("moonfork-test-%d-%d-%d"):format(os.time(), names, math.random(1 << 30))
end

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

---- several at once ----

TestPoll = counted {}

function TestPoll.test_those_that_can_be_read()
  local a, b = pair()
  local c, d = pair()
  lu.assertEquals(socket.poll({a, b, c, d}, 0), {})
  a:write("x")
  local ready = socket.poll({a, b, c, d})
  lu.assertEquals(#ready, 1)
  lu.assertIs(ready[1], b)
  c:close() -- an end can be read, too
  ready = socket.poll({d, a, b}, math.huge)
  lu.assertEquals(#ready, 2)
  lu.assertIs(ready[1], d)
  lu.assertIs(ready[2], b)
  for _, s in ipairs {a, b, d} do s:close() end
end

function TestPoll.test_a_listener_and_what_was_read_ahead()
  local l = assert(socket.listen("127.0.0.1:0"))
  local a, b = pair()
  a:write("one\ntwo\n")
  lu.assertEquals(b:read(), "one")
  lu.assertEquals(socket.poll({l, b}, 0), {b})
  lu.assertEquals(b:read(), "two")
  lu.assertEquals(socket.poll({l, b}, 0), {})
  local c = assert(socket.connect(l:address()))
  lu.assertEquals(socket.poll({l, b}, 5), {l})
  l:accept():close()
  a:send_fd(0, "line\n")
  lu.assertEquals(b:read(), "line")
  lu.assertEquals(socket.poll({l, b}, 0), {b}) -- its descriptor waits
  for _, s in ipairs {a, b, c, l} do s:close() end
end

function TestPoll.test_time_out_is_an_empty_list()
  need_shim()
  local a, b = pair()
  local t0 = shim.now()
  lu.assertEquals(socket.poll({a, b}, 0.05), {})
  lu.assertTrue(shim.now() - t0 >= 0.05)
  b:settimeout(0) -- is of no account
  t0 = shim.now()
  lu.assertEquals(socket.poll({b}, 0.02), {})
  lu.assertTrue(shim.now() - t0 >= 0.02)
  a:close()
  b:close()
end

function TestPoll.test_misuse()
  local a, b = pair()
  b:close()
  lu.assertErrorMsgContains("entry 2: a closed moonfork.socket", socket.poll, {a, b}, 0)
  lu.assertErrorMsgContains("entry 1", socket.poll, {"x"}, 0)
  lu.assertErrorMsgContains("entry 1", socket.poll, {{}}, 0)
  lu.assertErrorMsgContains("entry 2", socket.poll, {a, 99999}, 0)
  lu.assertErrorMsgContains("got none", socket.poll, {}, 0)
  lu.assertErrorMsgContains("table", socket.poll, a, 0)
  lu.assertErrorMsgContains("not a number of seconds", socket.poll, {a}, 0/0)
  lu.assertErrorMsgContains("number", socket.poll, {a}, "soon")
  lu.assertError(socket.poll)
  a:close()
end

function TestPoll.test_all_kinds()
  need_shim()
  local rd, wr = shim.pipe()
  local r <close> = socket.wrap(rd)
  local w <close> = socket.wrap(wr)
  local path = os.tmpname()
  local f <close> = socket.open(path)
  lu.assertEquals(socket.poll({r, f}), {f}) -- a file never waits
  os.remove(path)
  lu.assertEquals(socket.poll({r, rd}, 0), {})
  w:write("x")
  lu.assertEquals(socket.poll({r, rd}), {r, rd})
  local foreign = setmetatable({}, {__index = {fileno = function() return rd end}})
  lu.assertEquals(socket.poll({foreign}), {foreign})
  r:read(1)
  lu.assertEquals(socket.poll({foreign}, 0), {})
  getmetatable(foreign).__index.dirty = function() return true end
  lu.assertEquals(socket.poll({foreign}, 0), {foreign})
end

-- Behind one descriptor, which is there only while it waits.
function TestPoll.test_with_a_reactor()
  need_shim()
  local a, b = pair()
  local c, d = pair()
  local before = shim.count_fds()
  shim.set_wait(coroutine.yield)
  local list = {b, d, b}
  local poller = coroutine.wrap(function() return socket.poll(list) end)
  local fd, events, timeout = poller()
  lu.assertEquals({events, timeout}, {"r", nil})
  lu.assertTrue(shim.is_cloexec(fd))
  list[1] = nil -- it has its own
  lu.assertEquals(poller(true), fd)
  local gathered <close> = socket.wrap(shim.dup(fd))
  shim.set_wait(nil)
  lu.assertEquals(socket.poll({gathered}, 0), {})
  c:write("x")
  lu.assertEquals(socket.poll({gathered}), {gathered})
  shim.set_wait(coroutine.yield)
  gathered:close()
  lu.assertEquals(poller(true), {d})
  lu.assertEquals(shim.count_fds(), before)
  -- Time out: no failure. One socket alone, or no time at all, needs no descriptor.
  for _, args in ipairs {{{b, a}, 5}, {{b}, 5}, {{b, a}, 0}} do
    poller = coroutine.wrap(function() return socket.poll(args[1], args[2]) end)
    fd, events, timeout = poller()
    lu.assertEquals(events, "r")
    lu.assertTrue(timeout <= 5)
    lu.assertEquals(shim.is_open(fd), true)
    lu.assertEquals(fd == b:fileno(), #args[1] == 1 or args[2] == 0)
    if args[2] == 0 then
      lu.assertEquals(poller(false), {})
    else
      a:write("y")
      lu.assertEquals(poller(true), {b})
      b:read(1)
    end
    lu.assertEquals(shim.count_fds(), before)
  end
  -- Closed meanwhile, and a wait that failed.
  poller = coroutine.wrap(function() return socket.poll({a, b}) end)
  poller()
  lu.assertEquals({poller(nil, "no memory", 12)}, {nil, "no memory", 12})
  poller = coroutine.wrap(function() return socket.poll({a, b}) end)
  poller()
  b:close()
  lu.assertEquals({poller(true)}, {nil, "Bad file descriptor", 9})
  for _, s in ipairs {a, c, d} do s:close() end
end

function TestPoll.test_without_a_free_descriptor()
  need_shim()
  local a, b = pair()
  local restore = shim.limit_fds()
  shim.set_wait(function() return false end)
  local r, message, errno = socket.poll({a, b}, 1)
  local zero, one = socket.poll({a, b}, 0), socket.poll({a}, 0.001)
  shim.set_wait(nil)
  local blocking = socket.poll({a, b}, 0.001)
  local listener = table.pack(socket.listen("@" .. fresh_name()))
  shim.limit_fds(restore)
  lu.assertNil(r)
  lu.assertEquals(message, "Too many open files")
  lu.assertEquals(errno, 24)
  lu.assertEquals({zero, one, blocking}, {{}, {}, {}})
  lu.assertEquals(listener[3], 24)
  a:write("x")
  lu.assertEquals(socket.poll({a, b}), {b})
  a:close()
  b:close()
end

-- What a clone has to look after runs between two waits, and ends a poll.
function TestPoll.test_attending()
  need_shim()
  local a, b = pair()
  local calls, answers = 0, {false, true}
  shim.set_attend(function()
    calls = calls + 1
    return answers[calls]
  end)
  a:settimeout(5)
  lu.assertEquals(socket.poll({a, b}, 0.01), {}) -- looked once, then slept
  lu.assertEquals(calls, 1)
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(calls, 2)
  answers = {true, true, false}
  calls = 0
  local reader = function() b:settimeout(0.02) return select(2, b:read("l")) end
  lu.assertEquals(reader(), "timed out") -- others go on waiting
  lu.assertTrue(calls >= 3)
  shim.set_attend(function() error("from there", 0) end)
  b:settimeout(nil)
  lu.assertErrorMsgContains("from there", b.read, b, "l")
  lu.assertErrorMsgContains("from there", socket.poll, {a, b})
  lu.assertFalse(shim.is_blocked(15))
  shim.set_attend(nil)
  a:close()
  b:close()
end

-- It was done in Lua code, after the worker has looked at its flag and before it polls.
function TestPoll.test_attended_a_moment_before()
  need_shim()
  local a, b = pair()
  shim.end_next_poll()
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(socket.poll({a, b}, 0.001), {})
  shim.end_next_poll()
  a:write("x")
  lu.assertEquals(socket.poll({a, b}), {b}) -- what is ready comes first
  b:read(1)
  lu.assertEquals(socket.poll({a, b}), {})
  a:close()
  b:close()
end

-- A signal between the look and the sleep is not slept through.
function TestPoll.test_attending_to_a_signal_of_just_now()
  need_shim()
  local a, b = pair()
  local calls = 0
  shim.count_signal(15)
  shim.set_attend(function()
    calls = calls + 1
    if calls == 1 then shim.raise(15) end -- stays pending until the sleep
    return shim.count_signal() > 0
  end)
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(calls, 2)
  shim.set_attend(nil)
  a:close()
  b:close()
end

local runner = lu.LuaUnit.new()
runner:setOutputType(build and "tap" or "text")
os.exit(runner:runSuite())
