-- moonfork.socket in the parent and in clones. Section 1.7 of the manual.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("pair: what is written at one end is read at the other, in every format", function(t)
  local a, b = t.got(fork.socket.pair())
  t.ok(a:write("one\ntwo\n", 3, " ", 4.5, "\nabcdefrest"))
  t.eq(b:read "l", "one")
  t.eq(b:read "L", "two\n")
  t.eq({b:read("n", "n")}, {3, 4.5})
  t.eq(b:read "l", "")
  t.eq({b:read(3, 3)}, {"abc", "def"})
  a:shutdown "w"
  t.eq(b:read "a", "rest")
  t.eq(b:read "a", "")
  t.eq(b:read "l", nil)
  t.eq(b:read(1), nil)
  t.ok(b:write "back")
  b:close()
  t.eq(a:read "a", "back")
  a:close()
end)

story.test("read: nothing given means a line; 0 bytes ask for the end; missing newline", function(t)
  local a, b = t.got(fork.socket.pair())
  a:write "first\nlast"
  t.eq(b:read(), "first")
  t.eq(b:read(0), "")
  a:close()
  t.eq(b:read "L", "last")
  t.eq(b:read(0), nil)
  t.eq(b:read "L", nil)
  b:close()
end)

story.test("read: records that end in NUL, among lines", function(t)
  local a, b = t.got(fork.socket.pair())
  a:write "one\ntwo\0three\0\0line\nlast\nof all"
  t.eq({b:read("0", "0", "0")}, {"one\ntwo", "three", ""})
  t.eq(b:read "l", "line")
  b:settimeout(0)
  t.eq(select(2, b:read "0"), "timed out")
  t.eq(b:read "l", "last")
  a:close()
  t.eq({b:read("0", "0")}, {"of all", nil})
  b:close()
end)

story.test("lines, with and without a format", function(t)
  local a, b = t.got(fork.socket.pair())
  a:write "1\n2\n\n3"
  a:close()
  local lines = {}
  for line in b:lines() do lines[#lines + 1] = line end
  t.eq(lines, {"1", "2", "", "3"})
  b:close()
  a, b = t.got(fork.socket.pair())
  a:write "aabbc"
  a:close()
  local parts = {}
  for part in b:lines(2) do parts[#parts + 1] = part end
  t.eq(parts, {"aa", "bb", "c"})
  b:close()
end)

story.test("write returns the socket, as io does; failures are nil, message, errno", function(t)
  local a, b = t.got(fork.socket.pair())
  t.ok(a:write "x" == a)
  t.ok(a:write() == a)
  t.ok(a:flush())
  b:close()
  local ok, message, errno = a:write "y"
  t.eq(ok, nil)
  t.match(message, "[Pp]ipe")
  t.eq(math.type(errno), "integer")
  a:close()
  local none, text, number = fork.socket.connect(t:file "nobody")
  t.eq(none, nil)
  t.match(text, "No such file")
  t.eq(number, 2)
  none, text, number = fork.socket.open(t:file "missing", "r")
  t.eq(none, nil)
  t.match(text, "missing.*No such file")
  t.eq(number, 2)
end)

story.test("use of a closed socket raises, close may be repeated", function(t)
  local a, b = t.got(fork.socket.pair())
  a:close()
  pcall(a.close, a)
  t.match(t.raises("", a.read, a), "closed")
  t.match(t.raises("", a.write, a, "x"), "closed")
  t.match(tostring(a), "closed")
  t.raises("format", b.read, b, "z")
  t.raises("", b.write, b, {})
  do
    local c <close> = b:dup()
    t.ok(c:fileno() ~= b:fileno())
  end
  b:close()
end)

story.test("megabytes both ways at once, both ends here", {deadline = 40}, function(t)
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:echo")
  local line = ("0123456789"):rep(10000) .. "\n"
  local got = 0
  for _ = 1, 5 do
    t.ok(socket:write(line))
    t.ok(socket:read "L" == line)
    got = got + 1
  end
  t.eq(got, 5)
  local a, b = t.got(fork.socket.pair())
  local big = ("x"):rep(5 * 1024 * 1024)
  local q = fork.new():send_fd(b):eval "function f(_, s) s:write(s:read(5 * 1024 * 1024)) end"
  b:close()
  t.got(q:run "f")
  t.ok(a:write(big))
  t.ok(a:read "a" == big)
  a:close()
end)

story.test("waiting turns the reactor: callbacks of others run meanwhile", function(t)
  local slow = fork.new():eval [[
    function f(s)
      require "testkit".msleep(200)
      s:write "slow"
    end
  ]]
  local socket = t.got(slow:run "f")
  local other
  fork.new():run("type", function(err) other = err or "entered" end)
  t.eq(socket:read "a", "slow")
  t.eq(other, "entered")
end)

story.test("settimeout: nil, message, errno; and the connection goes on", function(t)
  local a, b = t.got(fork.socket.pair())
  a:settimeout(0.1)
  local t0 = kit.now()
  local line, message, errno = a:read "l"
  t.eq(line, nil)
  t.match(message, "[Tt]ime")
  t.ok(errno)
  t.ok(kit.now() - t0 >= 0.09)
  b:write "late\n"
  t.eq(a:read "l", "late")
  a:settimeout(0)
  t.eq(a:read "l", nil)
  a:settimeout(nil)
  b:write "partial"
  b:close()
  t.eq(a:read "l", "partial")
  a:close()
end)

story.test("send_fd and recv_fd: a handle and its data", function(t)
  local a, b = t.got(fork.socket.pair())
  local r, w = kit.pipe()
  t.ok(a:send_fd(w, "label"))
  local handle, data = b:recv_fd()
  t.eq(data, "label")
  t.eq(kit.fstat(handle:fileno()), (kit.fstat(w)))
  t.eq(kit.cloexec(handle:fileno()), true)
  t.ok(handle:fileno() ~= w)
  kit.close(w)
  handle:write "through"
  handle:close()
  t.eq(kit.read(r, 100), "through")
  t.ok(a:send_fd(r))
  kit.close(r)
  handle, data = b:recv_fd()
  t.ok(handle)
  t.ok(data == nil or #data <= 1)
  handle:close()
  a:close()
  t.eq((b:recv_fd()), nil)
  b:close()
end)

story.test("send_fd and recv_fd with a clone, both directions", function(t)
  local p = fork.new():eval [[
    function f(socket)
      local fork_side, data = socket:recv_fd()
      fork_side:write("got ", data)
      fork_side:close()
      local kit = require "testkit"
      local r, w = kit.pipe()
      kit.write(w, "from a pipe over there")
      kit.close(w)
      socket:send_fd(r, "take this")
    end
  ]]
  local socket = t.got(p:run "f")
  local a, b = t.got(fork.socket.pair())
  t.ok(socket:send_fd(b, "hello"))
  b:close()
  t.eq(a:read "a", "got hello")
  a:close()
  local pipe, data = socket:recv_fd()
  t.eq(data, "take this")
  t.eq(pipe:read "a", "from a pipe over there")
  pipe:close()
end)

story.test("fileno, detach, dup, wrap", function(t)
  local a, b = t.got(fork.socket.pair())
  local fd = a:fileno()
  t.eq(math.type(fd), "integer")
  local c = t.got(a:dup())
  t.eq(kit.fstat(c:fileno()), (kit.fstat(fd)))
  t.eq(kit.cloexec(c:fileno()), true)
  t.eq(a:detach(), fd)
  t.raises("", a.read, a)
  t.ok(kit.fstat(fd), "detach does not close")
  local d = fork.socket.wrap(fd)
  t.eq(d:fileno(), fd)
  d:write "by d\n"
  c:write "by c\n"
  t.eq({b:read("l", "l")}, {"by d", "by c"})
  d:close()
  t.eq(kit.fstat(fd), nil, "wrap owns")
  c:close()
  t.eq(b:read "a", "")
  b:close()
end)

story.test("the blocking flag of what the library did not create is never changed", function(t)
  local r, w = kit.pipe()
  local wrapped = fork.socket.wrap(r)
  t.eq(kit.nonblocking(r), false)
  wrapped:settimeout(0.05)
  t.eq(wrapped:read "l", nil)
  t.eq(kit.nonblocking(r), false)
  kit.write(w, "text\n")
  t.eq(wrapped:read "l", "text")
  t.eq(kit.nonblocking(r), false)
  wrapped:close()
  kit.close(w)
  for _, nonblocking in ipairs {true, false} do
    local x, y = kit.socketpair()
    kit.nonblocking(x, nonblocking)
    local p = fork.new():send_fd(x):eval [[
      function f(_, handle)
        handle:write(handle:read(5))
        handle:write(require "testkit".nonblocking(handle:fileno()) and "non" or "blocking")
      end
    ]]
    t.got(p:run "f")
    t.within(1, function() return not kit.msleep(50) end)
    kit.write(y, "12345")
    t.status(p)
    t.eq(kit.read(y, 100), "12345" .. (nonblocking and "non" or "blocking"))
    t.eq(kit.nonblocking(x), nonblocking)
    kit.close(x)
    kit.close(y)
  end
end)

story.test("file: one of our own becomes blocking and an io file", function(t)
  local a, b = t.got(fork.socket.pair())
  local fd = a:fileno()
  local file = t.got(a:file "r+")
  t.eq(io.type(file), "file")
  t.eq(kit.nonblocking(file), false)
  t.raises("", a.read, a)
  b:write "a line\n"
  t.eq(file:read "l", "a line")
  file:close()
  t.eq(kit.fstat(fd), nil)
  t.eq(b:read "a", "")
  b:close()
end)

story.test("open: files by name and mode", function(t)
  local path = t:file "text"
  local w = t.got(fork.socket.open(path, "w"))
  t.eq(kit.cloexec(w:fileno()), true)
  t.ok(w:write "one\ntwo\n")
  w:close()
  local r = t.got(fork.socket.open(path, "r"))
  t.eq(r:read "a", "one\ntwo\n")
  r:close()
  local a = t.got(fork.socket.open(path, "a"))
  a:write "three\n"
  a:close()
  t.eq(t.read(path), "one\ntwo\nthree\n")
  t.raises("mode", fork.socket.open, path, "q")
end)

local function serve_one(t, address, to)
  local listener = t.got(fork.socket.listen(address))
  local p = fork.new():send_fd(listener):eval [[
    function f(socket, listener)
      local c = listener:accept()
      c:write("you said ", c:read "l")
      c:close()
    end
  ]]
  t.got(p:run "f")
  local name = to or address
  local c = t.got(fork.socket.connect(name(listener)))
  c:write "hello\n"
  t.eq(c:read "a", "you said hello")
  c:close()
  listener:close()
  t.eq(t.status(p).code, 0)
end

-- The port of a listener, from /proc/net: the library names no such call.
local function port_of(listener)
  local ino = kit.fstat(listener:fileno()):match ":(%d+)$"
  for _, file in ipairs {"/proc/net/tcp", "/proc/net/tcp6"} do
    for line in io.lines(file) do
      local fields = {}
      for field in line:gmatch "%S+" do fields[#fields + 1] = field end
      if fields[10] == ino then return tonumber(fields[2]:match ":(%x+)$", 16) end
    end
  end
end

story.test("listen and connect: paths, host:port, [v6]:port", function(t)
  local path = t:file "listener"
  serve_one(t, path, function() return path end)
  serve_one(t, "127.0.0.1:0", function(l) return "127.0.0.1:" .. port_of(l) end)
  serve_one(t, "localhost:0", function(l) return "localhost:" .. port_of(l) end)
  local six = fork.socket.listen "[::1]:0"
  if six then
    six:close()
    serve_one(t, "[::1]:0", function(l) return "[::1]:" .. port_of(l) end)
  end
  t.raises("", fork.socket.connect, {})
  for _, bad in ipairs {"no port", "127.0.0.1:99999", "[::1", ""} do
    local ok, socket = pcall(fork.socket.connect, bad)
    t.ok(not ok or socket == nil, bad)
  end
end)

story.test("accept here: waits, and many connections come one by one", function(t)
  local path = t:file "listener"
  local listener = t.got(fork.socket.listen(path))
  for _ = 1, 3 do
    local p = fork.new():send_arg(path):eval [[
      function f(socket, path)
        local c = require "moonfork".socket.connect(path)
        c:write "knock"
        c:close()
      end
    ]]
    t.got(p:run "f")
  end
  for _ = 1, 3 do
    local c = t.got(listener:accept())
    t.eq(kit.cloexec(c:fileno()), true)
    t.eq(kit.nonblocking(c:fileno()), true)
    t.eq(c:read "a", "knock")
    c:close()
  end
  listener:settimeout(0.05)
  t.eq((listener:accept()), nil)
  listener:close()
end)

story.test("names are looked up without blocking and without threads left", function(t)
  local function threads() return #kit.ls "/proc/self/task" end
  local before = threads()
  local turned
  fork.new():run("type", function() turned = true end)
  local socket, message = fork.socket.connect "no-such-host.invalid:80"
  t.eq(socket, nil)
  t.match(message, "no%-such%-host%.invalid")
  t.ok(turned ~= nil or true)
  t.within(5, function() return turned end)
  t.within(5, function() return threads() == before end, "threads")
  t.eq(threads(), before)
end)

story.test("connect to nobody: the message and errno", function(t)
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  local port = port_of(listener)
  listener:close()
  local socket, message, errno = fork.socket.connect("127.0.0.1:" .. port)
  t.eq(socket, nil)
  t.match(message, "refused")
  t.eq(errno, 111)
end)

story.test("for other loops: getfd, pollfd, events, timeout, dirty", function(t)
  local a, b = t.got(fork.socket.pair())
  t.eq(a:getfd(), a:fileno())
  t.eq(a:pollfd(), a:fileno())
  t.match(tostring(a:events() or "r"), "^[rw]*$")
  t.eq(a:timeout(), nil)
  t.eq(b:dirty(), false)
  a:write "one\ntwo\n"
  t.eq(b:read "l", "one")
  -- What the first read took along is there without the kernel's help.
  if b:dirty() then t.eq(kit.poll(b:fileno(), "r", 0), 0) end
  t.eq(b:read "l", "two")
  t.eq(b:dirty(), false)
  a:close()
  b:close()
end)

story.test("in a clone: blocking, and the same methods", function(t)
  local p = fork.new():eval [[
    function f(socket)
      local kit = require "testkit"
      assert(kit.nonblocking(socket:fileno()) == false)
      local n, word = socket:read("n", "l")
      socket:settimeout(0.05)
      local nothing, message = socket:read "l"
      socket:settimeout(nil)
      socket:write(n * 2, word, nothing == nil and message ~= nil and " waited" or " ?", "\n")
      for line in socket:lines "L" do socket:write(line:upper()) end
      socket:shutdown "w"
    end
  ]]
  local socket = t.got(p:run "f")
  socket:write "21 apples\n"
  t.eq(socket:read "l", "42 apples waited")
  socket:write "shout\nloud"
  socket:shutdown "w"
  t.eq(socket:read "a", "SHOUT\nLOUD")
  t.eq(t.status(p).code, 0)
end)

story.test("shutdown: reading, writing, both", function(t)
  local a, b = t.got(fork.socket.pair())
  t.ok(a:shutdown "r")
  t.ok(a:shutdown())
  t.eq(b:read "a", "")
  t.eq((b:write "x"), nil)
  t.raises("", a.shutdown, a, "sideways")
  a:close()
  b:close()
end)

story.test("send_fd with much data sends the handle once", function(t)
  local p = fork.new():eval [[
    function f(s) s:send_fd(io.stdin, ("x"):rep(3000000)) s:shutdown "w" end
  ]]
  local socket = t.got(p:run "f")
  local handle, data = t.got(socket:recv_fd())
  handle:close()
  t.eq(#data + #t.got(socket:read "a"), 3000000)
  t.eq({socket:recv_fd()}, {nil, "end of file", 0})
  socket:close()
  t.status(p)
end)

story.test("wrap: programs do not inherit it", function(t)
  local r, w = kit.pipe()
  kit.cloexec(r, false)
  local reader <close> = fork.socket.wrap(r)
  t.eq(reader:fileno(), r)
  t.eq(kit.cloexec(r), true)
  kit.close(w)
end)

story.test("interrupted writes to a pipe are invisible", function(t)
  local r, w = kit.pipe()
  local p = fork.new():send_fd(w):eval [[
    function f(_, pipe)
      require "testkit".itimer(1) -- a signal each millisecond, also while it waits
      assert(pipe:write(("0123456789"):rep(40000)))
      pipe:close()
    end
  ]]
  kit.close(w)
  local socket = t.got(p:run "f")
  local pipe <close> = fork.socket.wrap(r)
  kit.msleep(30) -- the pipe is full, and the writer waits
  local n = 0
  repeat
    local part = pipe:read(40000)
    n = n + #(part or "")
    kit.msleep(3)
  until not part
  t.eq(n, 400000)
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.done()
