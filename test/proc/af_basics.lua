-- What every process does: it is made, prepared, runs its function, and ends. The rows
-- AF-01 to AF-38 of doc/compatibility.md that are neither fork points, handles nor errors.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("AF-01 loading the module makes and changes nothing", function(t)
  local out, code, err = t:lua [[
    local kit = require "testkit"
    local function threads() return #kit.ls "/proc/self/task" end
    local function signals()
      local out = {}
      for line in io.lines "/proc/self/status" do
        if line:find "^Sig[CIB]" then out[#out + 1] = line end
      end
      return table.concat(out, " ")
    end
    local function state()
      local out = {signals(), "threads " .. threads()}
      for fd, target in pairs(kit.fds()) do
        if not target:find "^/proc/" then out[#out + 1] = fd .. target end
      end
      table.sort(out)
      return table.concat(out, "\n")
    end
    local globals = {}
    for name in pairs(_G) do globals[name] = true end
    local before = state()
    local fork = require "moonfork"
    local after = state()
    assert(type(fork) == "table", type(fork))
    assert(before == after, before .. "\n---\n" .. after)
    for name in pairs(_G) do assert(globals[name], "new global " .. name) end
    for pid, p in pairs(kit.processes()) do assert(p.ppid ~= kit.getpid(), pid) end
    io.write "same"
  ]]
  t.eq(err, "")
  t.eq({out, code}, {"same", 0})
end)

story.test("AF-02 every new process is forked from one default template, executed once", function(t)
  local log = t:file "log"
  local wrapper = t:file("wrapper", ("#!/bin/sh\necho executed >>'%s'\nexec '%s' \"$@\"\n")
    :format(log, os.getenv "MOONFORK_TEMPLATE"))
  kit.chmod(wrapper, tonumber("755", 8))
  local out, code, err = t:lua([==[
    local fork, kit = require "moonfork", require "testkit"
    local function program_of_new()
      local p = fork.new():eval [=[function f(s)
        s:write(require'testkit'.getppid(), "\n", require'testkit'.exec_id())
      end]=]
      local s = assert(p:run "f")
      assert(s:read "n" == kit.getpid())
      assert(s:read "l")
      return s:read "a"
    end
    local a, b = program_of_new(), program_of_new()
    assert(a == b, a .. " " .. b)
    assert(a ~= kit.exec_id())
  ]==], {before = ("MOONFORK_TEMPLATE='%s'"):format(wrapper)})
  t.eq({out, code, err}, {"", 0, ""})
  t.eq(t.read(log), "executed\n")
end)

story.test("AF-03 what is queued is written at once, without the loop", function(t)
  local path = t:file "done"
  local p = fork.new_exec()
  p:eval("local f = io.open(..., 'w') f:write 'there' f:close()", path)
  t.outside(5, function() return t.read(path) == "there" end, "the template acted on it")
  local path2 = t:file "done2"
  local q = fork.new()
  q:eval("local f = io.open(..., 'w') f:write 'there' f:close()", path2)
  t.outside(5, function() return t.read(path2) == "there" end, "the clone acted on it")
  p:close()
  q:close()
end)

story.test("AF-07 a process that has not run can be forked, at any depth", function(t)
  for level = 1, 5 do
    t:module("level" .. level, "levels = (levels or '') .. '" .. level .. "'")
  end
  local chain = {fork.new_exec()}
  for level = 1, 5 do
    chain[level]:require("level" .. level)
    chain[level + 1] = chain[level]:fork()
  end
  local seen = {}
  for level = 6, 1, -1 do
    chain[level]:eval "function f(s) s:write(levels) end"
    seen[level] = t.got(chain[level]:run "f"):read "a"
  end
  t.eq(seen, {"1", "12", "123", "1234", "12345", "12345"})
end)

story.test("AF-08 what a clone changes reaches neither its source nor its siblings", function(t)
  local template = fork.new_exec():eval "mark = 'original' kit = require 'testkit'"
  local ask = [[return mark, os.getenv "STORY_MARK", kit.getcwd(), kit.umask()]]
  local before = table.pack(t.ask(template:fork(), ask))
  t.ask(template:fork(), [[
    mark = "changed"
    kit.setenv("STORY_MARK", "changed")
    assert(kit.chdir "/")
    kit.umask(kit.umask() == 63 and 18 or 63)
  ]])
  t.eq(table.pack(t.ask(template:fork(), ask)), before)
  t.eq(table.pack(t.ask(template, ask)), before)
  t.eq(before[1], "original")
end)

story.test("AF-09 new_exec is a newly executed child of the caller", function(t)
  local p = fork.new_exec()
  t.eq(t.ask(p, "return require'testkit'.getppid()"), kit.getpid())
end)

story.test("AF-14 the pid is nil before it is known, right then, and kept", function(t)
  local p = fork.new()
  local first = p:pid()
  t.ok(first == nil or math.type(first) == "integer")
  local pid = t.ask(p, "return require'testkit'.getpid()")
  t.eq(p:pid(), pid)
  t.status(p)
  t.eq(p:pid(), pid, "after the end")
  local e = fork.new_exec()
  t.eq(t.ask(e, "return require'testkit'.getpid()"), e:pid())
end)

story.test("AF-15 the library reaps its children, and nobody else's", {deadline = 60}, function(t)
  local child = kit.fork()
  if child == 0 then kit.exit(42) end
  for _ = 1, 150 do
    local p = fork.new_exec()
    t.got(p:run "type"):close()
    t.eq(t.status(p).code, 0)
  end
  for _ = 1, 1000 do
    local p = fork.new()
    t.got(p:run "type"):close()
    t.eq(t.status(p).code, 0)
  end
  local pid, how, code = kit.waitpid(child)
  t.eq({pid, how, code}, {child, "exit", 42})
  for id, process in pairs(kit.processes()) do
    if process.ppid == kit.getpid() and process.state == "Z" then t.fail("zombie %d", id) end
  end
end)

story.test("AF-16 evals run in order and get their strings and numbers", function(t)
  local p = fork.new()
  p:eval("seen = table.concat({...}, ' ')", "a", "", "b\0c")
  p:eval("seen = seen .. '|' .. select('#', ...)")
  p:eval("local n, f = ... seen = seen .. '|' .. n .. '|' .. f", 12, 0.5)
  t.eq(t.ask(p, "return seen"), "a  b\0c|0|12|0.5")
end)

story.test("AF-17 an evaluated chunk sees its arguments and the globals, no more", function(t)
  local p = fork.new():eval [[
    local chunk = debug.getinfo(1, "f").func
    names = {}
    for i = 1, 20 do
      local name = debug.getupvalue(chunk, i)
      if not name then break end
      names[#names + 1] = name
    end
    is_global = _ENV == _G
  ]]
  local names, is_global = t.ask(p, "return table.concat(names, ' '), is_global")
  t.eq(names, "_ENV")
  t.eq(is_global, true)
end)

story.test("AF-19 os.exit in an eval ends the process with that status", function(t)
  local p = fork.new():eval "os.exit(7)"
  local seen
  p:on_exit(function(status) seen = status end)
  local socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "CLONE_DIED")
  t.eq(err.started, "no")
  t.within(5, function() return seen end)
  t.eq(seen.code, 7)
  t.eq(err.exit and err.exit.code, 7)
end)

story.test("AF-20 modules load in order, each once", function(t)
  for _, name in ipairs {"one_a", "one_b", "one_c"} do
    t:module(name, ("order = (order or '') .. '%s '"):format(name))
  end
  local p = fork.new():require("one_b", "one_a", "one_b"):require("one_c", "one_a")
  t.eq(t.ask(p, "return order"), "one_b one_a one_c ")
end)

story.test("AF-26 preparing calls return the process, run its socket", function(t)
  local p = fork.new_exec()
  t.ok(p:require "string" == p)
  t.ok(p:eval "x = 1" == p)
  t.ok(p:send_arg "a" == p)
  t.ok(p:send_arg() == p)
  t.ok(p:send_fd(io.stdin) == p)
  t.ok(p:take_args() == p)
  t.ok(p:chdir "/" == p)
  t.ok(p:setenv("A", "b") == p)
  t.ok(p:limit {core = 0} == p)
  t.ok(p:seal() == p)
  local socket = t.got(p:run "type")
  t.ok(socket.read and socket.write and socket.close)
end)

story.test("AF-27 the function gets its socket, then everything in the order sent", function(t)
  t:module("af27", [[
    local m = {deep = {er = {}}}
    local answer = require "actor".given
    m.f, m.deep.er.f = answer, answer
    return m
  ]])
  local function run(name)
    local p = fork.new():eval [[
      local answer = require "actor".given
      plain, dotted = answer, {a = {b = answer}}
    ]]
    p:send_arg("1", "2"):send_fd(io.stdin):send_arg("3"):send_fd(io.stdout, io.stderr):send_arg "4"
    return t.unpack(t.got(p:run(name)):read "a")
  end
  for _, name in ipairs {"plain", "dotted.a.b", "af27:f", "af27:deep.er.f", "actor:given"} do
    t.eq(table.pack(run(name)),
      {"1", "2", "handle", "3", "handle", "handle", "4", n = 7}, name)
  end
end)

story.test("AF-28 the callback is called once, later, and when the function is entered", function(t)
  local path = t:file "entered"
  local p = fork.new()
  p:eval [[
    function f(socket, path)
      io.open(path, "w"):close()
      socket:read "a"
    end
  ]]
  local calls, socket, failure = 0, nil, nil
  p:send_arg(path):run("f", function(err, s) calls, socket, failure = calls + 1, s, err end)
  t.eq(calls, 0)
  t.within(5, function() return calls > 0 end)
  t.eq(failure, nil)
  t.ok(p:pid())
  t.within(5, function() return t.read(path) end)
  for _ = 1, 20 do fork.step(0.001) end
  t.eq(calls, 1)
  socket:close()
  t.eq(t.status(p).code, 0)
end)

story.test("AF-29 a socket that nobody keeps is closed", function(t)
  local p = fork.new():require "actor"
  p:run("actor:hold", function() end)
  t.within(5, function() return p:pid() end)
  local status
  p:on_exit(function(s) status = s end)
  t.within(5, function()
    t.collect()
    return status
  end, "the clone saw the end of file")
  t.eq(status.code, 0)
end)

story.test("AF-30 sockets: non-blocking here, blocking there, close-on-exec both", function(t)
  local p = fork.new():eval [[
    function f(socket)
      local kit = require "testkit"
      socket:write(tostring(kit.nonblocking(socket:fileno())), " ",
        tostring(kit.cloexec(socket:fileno())))
    end
  ]]
  local socket = t.got(p:run "f")
  t.eq(kit.nonblocking(socket:fileno()), true)
  t.eq(kit.cloexec(socket:fileno()), true)
  t.eq(socket:read "a", "false true")
end)

-- A checksum that both sides compute; a megabyte takes a tenth of a second.
local CHECKSUM = [[
  return function(text)
    local sum = 1
    for i = 1, #text - 7, 8 do
      sum = (sum * 31 + string.unpack("<i8", text, i)) & 0xffffffffffffff
    end
    return sum .. " " .. #text
  end
]]

story.test("AF-31 every byte written after the callback reaches the function", function(t)
  local checksum = load(CHECKSUM)()
  local random = {}
  for i = 1, 131072 do random[i] = string.pack("<i8", math.random(0)) end
  local texts = {
    table.concat(random),
    ("\0"):rep(65536),
    ("\255"):rep(4096),
    "run looks like a command\nfork\nrequire\n" .. ("x"):rep(8),
  }
  -- What looks like frames: small integers in every order and width.
  local frames = {}
  for kind = 0, 40 do
    frames[#frames + 1] = string.pack("<I1I1I2I4I8", kind, kind, kind, kind, kind)
    frames[#frames + 1] = string.pack("<I4I4I8", kind, 16, 0)
    frames[#frames + 1] = string.pack(">I4I4I8", 16, kind, 0)
  end
  texts[#texts + 1] = table.concat(frames)
  for i, text in ipairs(texts) do
    local p = fork.new():eval([[
      local make = ...
      checksum = load(make)()
      function f(socket) socket:write(checksum(socket:read "a")) end
    ]], CHECKSUM)
    local socket
    p:run("f", function(err, s)
      t.eq(err, nil)
      socket = s
    end)
    t.within(5, function() return socket end)
    t.ok(socket:write(text))
    socket:shutdown "w"
    t.eq(socket:read "a", checksum(text), "text " .. i)
  end
end)

story.test("AF-33 a function that returns exits with 0, whatever it returns", function(t)
  for _, value in ipairs {"nil", "false", "7", "'text'", "nil, 'error'"} do
    local p = fork.new():eval("function f() return " .. value .. " end")
    t.got(p:run "f")
    t.eq(t.status(p).code, 0, value)
  end
end)

story.test("AF-38 an exit is noticed although a grandchild holds the socket", function(t)
  local p = fork.new():eval [[
    function f(socket)
      local kit = require "testkit"
      local child = kit.fork()
      if child == 0 then
        kit.msleep(60000)
        kit.exit(0)
      end
      socket:write(child, "\n")
    end
  ]]
  local socket = t.got(p:run "f")
  local child = math.tointeger(socket:read "l")
  local t0 = kit.now()
  t.eq(t.status(p).code, 0)
  t.ok(kit.now() - t0 < 10 * story.scale, "the end does not wait for the grandchild")
  t.ok(t.alive(child), "the grandchild lives")
  kit.kill(child, kit.SIGKILL)
end)

story.test("AF-40 titles name the library, the role, the owner and the function", function(t)
  local function title(pid)
    return (t.read("/proc/" .. pid .. "/cmdline"):gsub("%z+", " ")),
      t.read("/proc/" .. pid .. "/comm")
  end
  local p = fork.new_exec {name = "painter"}
  local q = p:fork()
  local socket = t.got(q:run "actor:hello")
  local text, comm = title(t.ok(math.tointeger(socket:read "l")))
  t.match(text, "moonfork")
  t.match(text, "actor:hello")
  t.match(text, tostring(kit.getpid()))
  t.match(comm, "%S")
  -- A template may set its title after it has done what it was asked to do.
  text = t.within(2, function()
    local now = title(p:pid())
    return now:find "painter" and now
  end, "the template's title")
  t.match(text, "moonfork")
  t.match(text, "template")
  t.match(text, tostring(kit.getpid()))
  socket:close()
  t.status(q)
  p:close()
end)

story.test("AF-41 descriptors 0, 1 and 2 are the caller's", function(t)
  for _, make in ipairs {"new", "new_exec"} do
    local ids = t.ask(fork[make](), [[
      local kit = require "testkit"
      return {(kit.fstat(0)), (kit.fstat(1)), (kit.fstat(2))}
    ]])
    t.eq(ids, {(kit.fstat(0)), (kit.fstat(1)), (kit.fstat(2))}, make)
  end
end)

story.done()
