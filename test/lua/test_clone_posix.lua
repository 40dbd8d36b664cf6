-- The plain-POSIX part of moonfork.clone (src/template/lua/clone_posix.h), run by a stock
-- interpreter with the shim beside this file.
-- luacheck: globals TestPosix TestExec
local lu = require "luaunit"
local build = os.getenv "MOONFORK_BUILD"
if build then package.cpath = build .. "/test/lua/?.so;" .. package.cpath end
local shim = require "clone_shim"
local clone, socket = shim.clone, shim.socket

local function checked(class)
  function class:setUp()
    collectgarbage()
    collectgarbage()
    self.fds = shim.count_fds()
  end
  function class:tearDown()
    collectgarbage()
    collectgarbage()
    lu.assertEquals(shim.count_fds(), self.fds, "descriptors left")
    lu.assertNil((clone.waitpid(-1, "nohang")), "children left")
  end
  return class
end

-- Runs f in a new process, which leaves with what it returns.
local function in_child(f, ...)
  local pid = assert(clone.fork())
  if pid == 0 then
    local ok, code = pcall(f, ...)
    if not ok then io.stderr:write(tostring(code), "\n") end
    io.stderr:flush()
    shim.exit(ok and code or 99)
  end
  local got, status = clone.waitpid(pid)
  lu.assertEquals(got, pid)
  return status
end

TestPosix = checked {}

function TestPosix.test_fork_and_wait()
  local pid = clone.pid()
  lu.assertEquals(in_child(function() return clone.ppid() == pid and clone.pid() ~= pid and 7 or 1 end), {code = 7})
  local none, message, errno = clone.waitpid()
  lu.assertNil(none)
  lu.assertEquals(message, "No child processes")
  lu.assertEquals(errno, 10)
end

function TestPosix.test_kill()
  local reader, writer = clone.pipe()
  local pid = clone.fork()
  if pid == 0 then
    writer:close()
    reader:read(1)
    shim.exit(0)
  end
  lu.assertEquals(clone.waitpid(pid, "nohang"), 0)
  lu.assertTrue(clone.kill(pid, 0))
  lu.assertTrue(clone.kill(pid))
  lu.assertEquals(select(2, clone.waitpid(pid)), {signal = 15, core = false})
  lu.assertEquals(select(3, clone.kill(pid, "SIGUSR1")), 3)
  lu.assertErrorMsgContains("unknown signal 'NOPE'", clone.kill, pid, "NOPE")
  reader:close()
  writer:close()
end

function TestPosix.test_pipe()
  local reader, writer = clone.pipe()
  writer:write("x\n")
  lu.assertEquals(reader:read(), "x")
  writer:close()
  lu.assertNil(reader:read())
  reader:close()
end

function TestPosix.test_id()
  local id = clone.id()
  lu.assertStrMatches(id, ("%x"):rep(32))
  lu.assertEquals(clone.id(), id)
  local reader, writer = clone.pipe()
  in_child(function()
    writer:write(clone.id() == clone.id() and clone.id())
    return 0
  end)
  writer:close()
  local other = reader:read("a")
  reader:close()
  lu.assertStrMatches(other, ("%x"):rep(32))
  lu.assertNotEquals(other, id)
  lu.assertEquals(clone.id(), id)
end

function TestPosix.test_title()
  clone.title("a title of ours")
  local f = io.open("/proc/self/comm")
  lu.assertEquals(f:read(), "a title of ours")
  f:close()
end

function TestPosix.test_pipe_from_fork()
  local pid, near = clone.pipe_from_fork(function(far)
    print "printed"
    io.stdout:flush()
    far:write("written\n")
  end)
  lu.assertEquals(near:read("a"), "printed\nwritten\n")
  near:close()
  lu.assertEquals(select(2, clone.waitpid(pid)), {code = 0})
end

function TestPosix.test_pipe_to_fork()
  local reader, writer = clone.pipe()
  local pid, near = clone.pipe_to_fork(function(far)
    writer:write(io.read(), "|", far:fileno())
  end)
  writer:close()
  near:write("down\n")
  near:close()
  lu.assertEquals(reader:read("a"), "down|0")
  reader:close()
  lu.assertEquals(select(2, clone.waitpid(pid)), {code = 0})
end

function TestPosix.test_what_a_forked_function_raises()
  local pid, near = clone.pipe_from_fork(function()
    shim.close(2) -- keeps the traceback off the screen
    error "on purpose"
  end)
  lu.assertEquals(near:read("a"), "")
  near:close()
  lu.assertEquals(select(2, clone.waitpid(pid)), {code = 1})
  lu.assertError(clone.pipe_to_fork, 7)
end

TestExec = checked {}

-- What a program says that is executed by f in a new process.
local function output_of(f)
  local reader, writer = clone.pipe()
  local pid = clone.fork()
  if pid == 0 then
    reader:close()
    local _, message = pcall(f, writer)
    writer:write("failed: ", tostring(message))
    shim.exit(98)
  end
  writer:close()
  local text = reader:read("a")
  reader:close()
  return text, select(2, clone.waitpid(pid))
end

function TestExec.test_program_arguments_and_status()
  local text, status = output_of(function(w)
    clone.exec("sh", {"name of it", "-c", 'echo "$0 $1 $$"; exit 7', "zero", 12}, {fds = {[1] = w}})
  end)
  lu.assertStrMatches(text, "zero 12 %d+\n")
  lu.assertEquals(status, {code = 7})
end

-- What ls finds open besides its own; what the caller of this test left open is in both.
local function numbers_of(text)
  local t = {}
  for n in text:gmatch "%d+" do t[#t + 1] = n end
  return t
end

local function plain_numbers()
  return numbers_of((output_of(function(w)
    clone.exec("ls", {"ls", "/proc/self/fd"}, {fds = {[1] = w}})
  end)))
end

function TestExec.test_descriptors_may_change_places()
  local text = output_of(function(w)
    local p, q = socket.pair()
    p:write("from p\n")
    q:write("from q\n")
    local x, y = p:fileno(), q:fileno()
    clone.exec("sh", {"sh", "-c", ("head -1 <&%d; head -1 <&%d; ls /proc/self/fd"):format(x, y)},
      {fds = {[x] = q, [y] = p, [1] = w, [0] = 0}})
  end)
  lu.assertStrContains(text, "from p\nfrom q\n0\n")
  lu.assertEquals(#numbers_of(text), #plain_numbers() + 2)
end

function TestExec.test_environment_and_directory()
  local text = output_of(function(w)
    clone.exec("sh", {"sh", "-c", 'echo "$ONE|${HOME-none}|$PWD|${PATH:+path}"'},
      {fds = {[1] = w}, env = {ONE = 1, HOME = false}, cwd = "/usr"})
  end)
  lu.assertEquals(text, "1|none|/usr|path\n")
end

function TestExec.test_the_leash_goes_along()
  local text = output_of(function(w)
    local p = socket.pair()
    shim.leash(p:fileno())
    clone.exec("ls", {"ls", "/proc/self/fd"}, {fds = {[1] = w, [p:fileno()] = 0}})
  end)
  lu.assertEquals(#numbers_of(text), #plain_numbers() + 2) -- the target and the leash
end

function TestExec.test_a_failure_changes_nothing()
  local a, b = socket.pair()
  local directory = assert(io.popen "pwd"):read()
  local none, message, errno = clone.exec("no-such-program", {"x"},
    {fds = {[0] = a, [1] = b, [b:fileno()] = a, [40] = 2}, cwd = "/usr", env = {A = "b"}})
  lu.assertNil(none)
  local texts = {[2] = "No such file or directory", [13] = "Permission denied"} -- of a folder in PATH
  lu.assertEquals(message, "no-such-program: " .. tostring(texts[errno]))
  local p = assert(io.popen "pwd; echo $A")
  lu.assertEquals(p:read(), directory)
  lu.assertEquals(p:read(), "")
  p:close()
  a:write("still here\n")
  lu.assertEquals(b:read(), "still here")
  io.stdout:write("")
  a:close()
  b:close()
  none, message, errno = clone.exec("sh", {"sh"}, {cwd = "/nowhere"})
  lu.assertNil(none)
  lu.assertEquals(message, "option 'cwd': /nowhere: No such file or directory")
  lu.assertEquals(errno, 2)
  none, message, errno = clone.exec("no-such-program", {"x"}, {cwd = "/dev/null", fds = {[1] = 2}})
  lu.assertNil(none)
  lu.assertEquals(message, "option 'cwd': /dev/null: Not a directory")
  lu.assertEquals(errno, 20)
  none, message = clone.exec("sh", {"sh"}, {env = {BIG = ("x"):rep(1 << 23)}})
  lu.assertNil(none)
  lu.assertStrContains(message, "sh: Argument list too long (arguments: 3 bytes, environment: 8")
  none, message = clone.exec("sh", {"sh"}, {fds = {[1 << 29] = 2}})
  lu.assertNil(none)
  lu.assertStrMatches(message, "option 'fds': %[536870912%]: .*")
  none, message = clone.exec("sh", {"sh"}, {fds = {[5] = 12345}})
  lu.assertNil(none)
  lu.assertEquals(message, "option 'fds': [5]: 12345 is not an open descriptor")
end

function TestExec.test_misuse_raises()
  lu.assertErrorMsgContains("empty", clone.exec, "sh", {})
  lu.assertErrorMsgContains("zero byte", clone.exec, "s\0h", {"sh"})
  lu.assertErrorMsgContains("arguments must be strings", clone.exec, "sh", {"sh", {}})
  lu.assertErrorMsgContains("arguments must be strings", clone.exec, "sh", {"sh", "a\0b"})
  lu.assertErrorMsgContains("unknown option 'foo' (valid: fds, env, cwd)", clone.exec, "sh", {"sh"}, {foo = 1})
  lu.assertErrorMsgContains("a key of fds", clone.exec, "sh", {"sh"}, {fds = {x = 1}})
  lu.assertErrorMsgContains("values in env", clone.exec, "sh", {"sh"}, {env = {A = {}}})
  lu.assertErrorMsgContains("names in env", clone.exec, "sh", {"sh"}, {env = {["A=B"] = "x"}})
  lu.assertErrorMsgContains("#3", clone.exec, "sh", {"sh"}, {fds = {[1] = {}}})
  lu.assertErrorMsgContains("option 'fds': a handle expected for [1], got table", clone.exec, "sh", {"sh"},
    {fds = {[1] = {}}})
  lu.assertErrorMsgContains("option 'cwd'", clone.exec, "sh", {"sh"}, {cwd = {}})
  lu.assertErrorMsgContains("option 'env'", clone.exec, "sh", {"sh"}, {env = 1})
  lu.assertError(clone.exec, "sh")
end

local runner = lu.LuaUnit.new()
runner:setOutputType(build and "tap" or "text")
os.exit(runner:runSuite())
