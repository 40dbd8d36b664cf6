-- moonfork.socket: reading and writing, with limits and without; the object.
-- luacheck: globals TestRead TestWrite TestObject TestLimits TestCommunicate
local kit = require "socket_kit"
local lu, shim, socket = kit.lu, kit.shim, kit.socket
local need_shim, pair, counted = kit.need_shim, kit.pair, kit.counted

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
  lu.assertErrorMsgContains("closed moonfork.socket", a.settimeout, a, 1)
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

kit.run()
