-- Faults of section A: bad arguments and handles, many of them, big ones. Runs in the parent.
local fkit = require "faultkit"
local host = require "host"
local kit = require "testkit"
local remote = require "remote"
local standing = require "standing"
local story = require "story"
local fork = require "moonfork"

standing.test("an unknown function is an error of the other side, entered never", function(t)
  for _, name in ipairs{"nope", "no.pe", "no_such_module:f", "string:nope", "_VERSION"} do
    local socket, err = fork.new():run(name)
    t.eq(socket, nil, name)
    t.error(err, "REMOTE")
    t.eq(err.started, "no", name)
  end
end)

standing.test("values of the wrong type are named, before anything is sent", function(t)
  local cycle = {}
  cycle.cycle = cycle
  for _, value in ipairs{print, cycle, {print}, io.stdout, true} do
    local p = fork.new()
    t.raises("argument", p.send_arg, p, value)
    t.raises("argument", p.eval, p, "return", value)
    t.raises("argument", p.require, p, value)
    t.raises("argument", p.run, p, value)
    p:close()
  end
  local p = fork.new()
  t.raises("argument", p.send_arg, p, "good", print)
  t.eq(t.ask(p, "return select('#', ...)"), 1, "none of a refused call was taken")
end)

standing.test("a bad argument sends nothing", function(t)
  if not host.can_trace() then t.skip("needs strace and the right to trace") end
  local trace = t:file("trace")
  local h <close> = host.start(t, [[
    local p = fork.new()
    pid_of(p)
    kit.write(2, "BEGIN\n")
    for _, value in ipairs{print, {}, io.stdout} do
      assert(not pcall(p.send_arg, p, value))
      assert(not pcall(p.eval, p, "x = 1", value))
      assert(not pcall(p.run, p, value))
    end
    kit.write(2, "END\n")
    assert(p:run("type"))
  ]], {before = {"strace", "-qq", "-e", "trace=sendmsg,sendto,write,writev", "-o", trace}})
  h:succeeds(20)
  local between = t.read(trace):match('write%(2, "BEGIN.-\n(.-)write%(2, "END')
  t.ok(between, "the marks are in the trace")
  t.eq(between, "", "what was sent for them")
end)

standing.test("a bad descriptor fails its own process only", function(t, s)
  local template = fork.new_exec():require("actor")
  t.ask(template:fork(), "return 1") -- it has started, and forked
  s:watch(template:pid())
  local good, bad = 0, 0
  for i = 1, 100 do
    s:submit("good " .. i, function(callback)
      template:fork():run("actor:given", callback)
    end, function(err, socket)
      t.eq(err, nil)
      good = good + 1
      socket:close()
    end)
    if i % 10 == 0 then
      local number = ({-1, 999999, 1000000})[i // 10 % 3 + 1]
      s:submit("bad " .. i, function(callback)
        template:fork():send_fd(number):run("actor:given", callback)
      end, function(err, socket)
        t.error(err, "EINVAL")
        t.eq(err.started, "no")
        t.eq(socket, nil)
        bad = bad + 1
      end)
    end
  end
  s:settle(20)
  t.eq({good, bad}, {100, 10})
  local closed = kit.dup(0, 50)
  kit.close(closed)
  local socket, err = template:fork():send_fd(closed):run("actor:given")
  t.eq(socket, nil)
  t.error(err, "EINVAL")
  s:forget(template:pid())
  template:close()
end)

local identities = [[
  local kit, out = require "testkit", {}
  for i = 2, select("#", ...) do out[i - 1] = (kit.fstat((select(i, ...)):fileno())) end
  return out
]]

standing.test("the same descriptor twice is two handles of one thing", function(t)
  local fd = assert(kit.open(t:file("twice", "x")))
  local given = t.ask(fork.new():send_fd(fd, fd), identities)
  local identity = kit.fstat(fd)
  t.eq(given, {identity, identity})
  kit.close(fd)
end)

standing.test("any number of handles arrives, in order, as itself", {memory = 256},
  function(t)
  local soft = kit.getrlimit("nofile")
  kit.setrlimit("nofile", math.min(select(2, kit.getrlimit("nofile")), 4096))
  local fds, expected = {}, {}
  for i = 1, 520 do
    fds[i] = assert(kit.open(t:file("handle" .. i, "x")))
    expected[i] = kit.fstat(fds[i])
  end
  for _, n in ipairs{0, 1, 6, 7, 8, 15, 16, 17, 31, 32, 33, 252, 253, 254, 255, 256, 257, 520} do
    local p = fork.new()
    for i = 1, n do p:send_fd(fds[i]) end
    t.eq(t.ask(p, identities), table.move(expected, 1, n, 1, {}), n .. " handles")
    p = n > 0 and fork.new():send_fd(table.unpack(fds, 1, n))
    if p then t.eq(t.ask(p, identities), table.move(expected, 1, n, 1, {}), n .. " at once") end
  end
  for _, fd in ipairs(fds) do kit.close(fd) end
  kit.setrlimit("nofile", soft)
end)

local many_spawns = [[
  local n = math.tointeger(tonumber((...)))
  local template = fork.new_exec():require("actor")
  pid_of(template)
  print("template " .. template:pid())
  io.read("l")
  local started, failed = 0, 0
  local file = assert(io.open("/dev/null"))
  for _ = 1, n do
    local p = template:fork():send_fd(file):send_arg("a", "b")
    local socket, err = p:run("actor:given")
    if socket then
      if socket:read("a") == '"handle","a","b"' then started = started + 1 end
      socket:close()
      p:wait(5)
    else
      failed = failed + 1
      io.stderr:write(tostring(err), "\n")
    end
  end
  print("started " .. started .. " failed " .. failed)
]]

-- Transient failures of the calls that move messages, in the host and in the template.
for _, row in ipairs{
  {"sendmsg", "EINTR", "2+3"}, {"sendmsg", "EAGAIN", "2+3"}, {"sendmsg", "ENOBUFS", "2+3"},
  {"recvmsg", "EINTR", "2+3"},
} do
  local call, errno, when = table.unpack(row)
  for _, side in ipairs{"host", "template"} do
    local name = ("%s of %s in the %s is invisible"):format(errno, call, side)
    standing.test(name, {deadline = 60, stall = false}, function(t)
      if not host.can_trace() then t.skip("needs strace and the right to trace") end
      local n = host.rounds(150, 1000)
      local gate = t:file("gate")
      os.execute("mkfifo " .. gate)
      local h <close> = host.start(t, many_spawns:gsub("io.read%(\"l\"%)",
        ("io.open(%q):read('l')"):format(gate)), {script = {tostring(n)}})
      local template = h:says("template (%d+)")
      local pid = side == "host" and tostring(h.pid) or template
      local trace = t:file("trace")
      local err = t:file("strace.err", "")
      local errfd = assert(kit.open(err, "w"))
      local strace = assert(fkit.spawn({"strace", "-qq", "-f", "-o", trace, "-e",
        ("trace=%s"):format(call), "-e", ("inject=%s:error=%s:when=%s"):format(call, errno,
        when), "-p", pid}, {[2] = errfd}))
      kit.close(errfd)
      t.outside(5, function()
        local status = t.read("/proc/" .. pid .. "/status") or ""
        return status:match("TracerPid:%s*(%d+)") == tostring(strace)
      end, "strace is attached")
      local go = assert(io.open(gate, "w"))
      go:write("go\n")
      go:close()
      local started, failed = h:says("started (%d+) failed (%d+)", 50)
      kit.kill(strace, kit.SIGTERM)
      kit.waitpid(strace)
      t.eq({started, failed}, {tostring(n), "0"}, h:err())
      h:succeeds()
    end)
  end
end

standing.test("a template whose descriptor table is full refuses that frame only",
  function(t, s)
  local marker, handles = t:file("entered"), 6
  local template = fork.new_exec():eval([[
    local marker = ...
    function enter(socket, ...)
      io.open(marker, "a"):write(select("#", ...), "\n")
    end
  ]], marker)
  t.ask(template:fork(), "return 1") -- it has started, and forked
  local pid = s:watch(template:pid())
  local soft, hard = fkit.prlimit(pid, "nofile")
  local free, used = 0, kit.fds(pid)
  local fd = assert(kit.open("/dev/null"))
  -- A limit of that number leaves room for k more descriptors.
  local function limit_for(k)
    local number, left = 0, k
    while true do
      if not used[number] then
        if left == 0 then return number end
        left = left - 1
      end
      number = number + 1
    end
  end
  for k = 0, handles do
    fkit.prlimit(pid, "nofile", limit_for(k), hard)
    s:submit("with room for " .. k, function(callback)
      template:fork():send_fd(fd, fd, fd, fd, fd, fd):run("enter", callback)
    end, function(err, socket)
      t.eq(socket, nil, "room for " .. k)
      t.error(err, "LIMIT")
      t.eq(err.started, "no")
      free = free + 1
    end)
    s:settle(5)
    t.ok(t.alive(pid), "the template lives on")
  end
  t.eq(free, handles + 1)
  t.eq(t.read(marker), nil, "no function was entered")
  fkit.prlimit(pid, "nofile", soft, hard)
  local p = template:fork():send_fd(fd, fd, fd, fd, fd, fd)
  local socket = t.got(p:run("enter"))
  t.status(p)
  t.eq(t.read(marker), "6\n", "with the limit raised again")
  socket:close()
  kit.close(fd)
  t.outside(2, function()
    return story.show(kit.fds(pid)) == story.show(used)
  end, "the template has the descriptors it had")
  s:forget(pid)
  template:close()
end)

-- The kernel counts descriptors in flight for each user against the sender's soft limit, and
-- lets root alone: an ordinary user. Where others of that user have some in flight, fewer are taken, and
-- those that wait can fill the program's own limit: it refuses the rest.
standing.test("P3 too many descriptors in flight wait until the template reads again", {
  deadline = 40, stall = false}, function(t)
  local before, is_alone = {"prlimit", "--nofile=128", "--"}, kit.getuid() == 0
  if is_alone then
    local own = 100000 + kit.getpid() -- a user who has no other processes
    local as_user = {"setpriv", "--reuid=" .. own, "--regid=65534", "--clear-groups"}
    if not os.execute(table.concat(as_user, " ") .. " true 2>/dev/null") then t.skip("needs setpriv") end
    before = table.move(before, 1, #before, #as_user + 1, as_user)
  end
  local h <close> = host.start(t, [[
    local template = fork.new_exec():require("actor")
    pid_of(template)
    local pid, n, calls, good, refused = template:pid(), 12, 0, 0, 0
    local file = assert(io.open("/dev/null"))
    kit.kill(pid, kit.SIGSTOP)
    for i = 1, n do
      local p = template:fork()
      for _ = 1, 16 do p:send_fd(file) end
      p:run("actor:given", function(err, socket)
        if err then
          print("error " .. tostring(err))
          if err.code == "LIMIT" and err.started == "no" then refused = refused + 1 end
          return
        end
        calls = calls + 1
        if socket:read("a") == ('"handle",'):rep(15) .. '"handle"' then good = good + 1 end
        socket:close()
      end)
    end
    for _ = 1, 10 do fork.step(0.02) end
    print("while it is stopped " .. calls)
    kit.kill(pid, kit.SIGCONT)
    fork.loop()
    print(("calls %d good %d refused %d"):format(calls, good, refused))
  ]], {before = before})
  t.eq(h:says("stopped (%d+)"), "0", h:out())
  local calls, good, refused = h:says("calls (%d+) good (%d+) refused (%d+)", 20)
  h:succeeds()
  t.eq(calls, good, h:out())
  t.eq(calls + refused, 12, h:out())
  if is_alone then t.eq(refused, "0", h:out()) end
end)

-- The tables that thousands of failing processes pass through stay as large as they were.
standing.test("the library's own sockets can't be passed, other things can", {
  memory = 2048}, function(t)
  fork.on_error(function(err) t.error(err, "EINVAL") end)
  local before = kit.fds()
  local p = fork.new_exec()
  standing.pid(t, p)
  local own = {}
  for fd in pairs(kit.fds()) do
    local _, kind = kit.fstat(fd)
    if not before[fd] and kind == "socket" then own[#own + 1] = fd end
  end
  t.eq(#own, 1, "the control socket of the new process")
  local function files()
    return tonumber(t.read("/proc/sys/fs/file-nr"):match("^%d+"))
  end
  local at_start = files()
  local refused = 0 -- what no run reports comes here
  fork.on_error(function(err)
    t.error(err, "EINVAL")
    refused = refused + 1
  end)
  for i = 1, host.rounds(1000, 10000) do
    local child = fork.new():send_fd(own[1])
    if i % 100 == 1 then
      local socket, err = child:run("type")
      t.eq(socket, nil)
      t.error(err, "EINVAL")
      t.eq(err.started, "no")
    end
    child:close()
    if i % 50 == 0 then fork.step(0) end
  end
  t.within(2, function() return refused > 900 end)
  fork.on_error(nil)
  t.eq((t.ask(p:fork(), "return 1")), 1, "its owner is well")
  fork.step(0)
  t.within(10, function() return files() - at_start < 500 end,
    "no cycle of sockets stays in the kernel")
  local epoll, pidfd = kit.epoll(), fkit.pidfd_open(kit.getpid())
  local given = t.ask(fork.new():send_fd(epoll):send_fd(pidfd or epoll), identities)
  t.eq(#given, 2, "an epoll descriptor and a pidfd pass")
  kit.close(epoll)
  if pidfd then kit.close(pidfd) end
  p:close()
end)

-- Those of rpcs and of the link to a command were taken: whoever got one read what was for the rpc, or the
-- link, which then came to its end.
standing.test("the sockets of rpcs and links can't be passed either", function(t)
  local function check(what, template)
    local before = kit.fds()
    local rpc = template():eval("function double(n) return 2 * n end"):rpc("double")
    t.eq(t.got(rpc(4)), 8)
    local other = template()
    standing.pid(t, other)
    local refused = 0
    for fd in pairs(kit.fds()) do
      local _, kind = kit.fstat(fd)
      if not before[fd] and kind == "socket" then
        local socket, err = other:fork():send_fd(fd):run("type")
        t.eq(socket, nil, ("%s: descriptor %d was taken"):format(what, fd))
        t.error(err, "EINVAL", "a socket of the library's own can't be sent")
        t.eq(err.started, "no")
        refused = refused + 1
      end
    end
    t.ok(refused >= 2, what .. ": there were some")
    t.eq(t.got(rpc(5)), 10, what .. ": the rpc is well")
    t.eq((t.ask(other:fork(), "return 1")), 1, what .. ": the template is well")
    rpc:close()
    other:close()
  end
  check("local", fork.new_exec)
  check("remote", function() return remote.over() end)
end)

standing.test("the socket of one clone can be given to another, and closes well", function(t)
  local a, b = fork.new():require("actor"), fork.new()
  local socket = t.got(a:run("actor:echo"))
  local line = t.ask(b:send_fd(socket), [[
    local _, other = ...
    other:write("across\n")
    return other:read("l")
  ]])
  t.eq(line, "across")
  socket:close()
  t.eq(t.status(a).code, 0)
end)

standing.test("the flags of descriptions that are passed stay as they are", function(t)
  local read, write = kit.pipe()
  local master, slave = fkit.openpty()
  local listener = fork.socket.listen("127.0.0.1:0")
  local shared = {read = read, write = write, master = master, slave = slave}
  local flags = {}
  for name, fd in pairs(shared) do flags[name] = kit.getfl(fd) end
  local socket = t.got(fork.new():send_fd(read, write, master, slave, listener):eval [[
    function use(socket, read, write, master, slave, listener)
      write:write("through the pipe\n")
      local piped = read:read("l")
      slave:write("through the terminal\n")
      local typed = master:read("l")
      listener:settimeout(0.05)
      listener:accept()
      read:settimeout(0.05)
      read:read(1)
      socket:write(piped, "\n", typed, "\n")
    end
  ]]:run("use"))
  socket:settimeout(10)
  t.eq(socket:read("l"), "through the pipe")
  t.match(socket:read("l"), "through the terminal")
  socket:close()
  for name, fd in pairs(shared) do t.eq(kit.getfl(fd), flags[name], name) end
  for _, fd in pairs(shared) do kit.close(fd) end
  listener:close()
end)

standing.test("a host without standard streams keeps its descriptors above 2", function(t)
  local answer = t:file("answer")
  local script = t:file("closed.lua", ([[
    local fork, kit = require "moonfork", require "testkit"
    local out = {}
    local p = fork.new():eval("function f(s) s:write(s:read('l'), ' ', s:fileno(), '\\n') end")
    local socket, err = p:run("f")
    if socket then
      socket:write("clean\n")
      out[1] = socket:read("l")
      socket:close()
      out[2] = tostring(p:wait(5).code)
    else
      out[1] = tostring(err)
    end
    local own = {}
    for fd, target in pairs(kit.fds()) do
      if fd < 3 then own[#own + 1] = fd .. "=" .. target end
    end
    out[3] = "own " .. table.concat(own, " ")
    local file = io.open(%q, "w")
    file:write(table.concat(out, "\n"))
    file:close()
  ]]):format(answer))
  os.execute(("exec timeout 20 '%s' '%s' <&- >&- 2>&-"):format(os.getenv("LUA") or "lua5.4",
    script))
  local text = t.read(answer) or "no answer"
  local line, number, code, own = text:match("^(%a+) (%d+)\n(%d+)\nown (.*)$")
  t.ok(line, text)
  t.eq({line, code}, {"clean", "0"})
  t.ok(tonumber(number) > 2, "the clone's socket is " .. number)
  t.eq(own, "", "descriptors of the library below 3")
end)

standing.test("small processes do not wait for a big argument", {deadline = 60,
  memory = 1024}, function(t, s)
  local template = fork.new_exec():eval [[
    function small() end
    function big(socket, text) socket:write(#text, " ", require("faultkit").hash(text)) end
  ]]
  local function p99()
    local times = {}
    for i = 1, 200 do
      local before = kit.now()
      s:submit("small " .. i, function(callback)
        template:fork():run("small", callback)
      end, function(err, socket)
        t.eq(err, nil)
        times[i] = kit.now() - before
        socket:close()
      end)
      t.within(10, function() return times[i] end)
    end
    table.sort(times)
    return times[198]
  end
  p99()
  local text = ("0123456789abcdef"):rep(100 * 1024 * 1024 // 16)
  local expected = ("%d %d"):format(#text, fkit.hash(text))
  local baseline, loaded
  for _ = 1, 3 do
    baseline = p99()
    local answer
    local p = template:fork():send_arg(text)
    s:submit("big", function(callback) p:run("big", callback) end, function(err, socket)
      t.eq(err, nil)
      answer = socket
    end)
    loaded = p99()
    t.within(20, function() return answer end, "the big one starts")
    t.eq(answer:read("a"), expected)
    answer:close()
    t.eq(t.status(p).code, 0)
    if loaded < 5 * baseline then break end
  end
  t.note("p99 %.2f ms alone, %.2f ms beside 100 MiB", baseline * 1000, loaded * 1000)
  t.ok(loaded < 5 * baseline, ("p99 %.2f ms, alone %.2f ms"):format(loaded * 1000,
    baseline * 1000))
  template:close()
end)

standing.test("arguments of every size arrive whole", {memory = 512}, function(t)
  local wmem = math.tointeger(tonumber(t.read("/proc/sys/net/core/wmem_default") or "212992"))
  local template = fork.new_exec():require("faultkit")
  local sizes = {0, 1, 2}
  for _, size in ipairs{16, 255, 4096, 8192, 16384, 32768, 65536, 131072, wmem, 262144,
    1048576, 16777216} do
    for d = -1, 1 do sizes[#sizes + 1] = size + d end
  end
  for _, size in ipairs(sizes) do
    local text = string.pack("I8", size):rep(size // 8 + 1):sub(1, size)
    local length, hash, tail = t.ask(template:fork():send_arg(text, "tail"), [[
      local _, text, tail = ...
      return #text, require("faultkit").hash(text), tail
    ]])
    t.eq({length, hash, tail}, {size, fkit.hash(text), "tail"}, size .. " bytes")
  end
  template:close()
end)

story.done()
