-- moonfork.pseudo: where fork may be called, what both copies have, who may use the module and
-- how it says that somebody may not. Each story runs the stock interpreter on a program.
local story = require "story"
local pseudo = require "pseudo"

story.test("the program goes on twice from any depth of Lua code", function(t)
  pseudo.ok(t, [[
    local function both(name, f)
      local pid = f()
      if pid == 0 then os.exit(7) end
      assert(ended(assert(pid, name)) == 7, name)
    end
    local function deep(n, f) if n == 0 then return f() end return (deep(n - 1, f)) end
    local function in_coroutines(n)
      if n == 0 then return fork() end
      return select(2, coroutine.resume(coroutine.create(in_coroutines), n - 1))
    end
    local closed = 0
    local function closing() return setmetatable({}, {__close = function() closed = closed + 1 end}) end
    both("plain", fork)
    both("deep", function() return deep(150, fork) end)
    both("pcall", function() return select(2, pcall(function() local _ <close> = closing() return fork() end)) end)
    both("xpcall", function() return select(3, pcall(xpcall, function() return fork() end, debug.traceback)) end)
    both("error", function() return select(2, pcall(function() local pid = fork() error(pid) end)) end)
    both("index", function() return setmetatable({}, {__index = function() return (fork()) end}).x end)
    both("concat", function() return setmetatable({}, {__concat = function() return (fork()) end}) .. "" end)
    both("lt", function()
      local pid
      local o = setmetatable({}, {__lt = function() pid = fork() return true end})
      return o < o and pid
    end)
    both("close", function()
      local pid
      do local _ <close> = setmetatable({}, {__close = function() pid = fork() end}) end
      return pid
    end)
    both("coroutines", function() return in_coroutines(6) end)
    both("generator", function()
      local got
      for pid in coroutine.wrap(function() coroutine.yield((fork())) end) do got = pid end
      return got
    end)
    both("pcall in wrap in pcall", function()
      local _, pid = pcall(coroutine.wrap(function() return select(2, pcall(fork)) end))
      return pid
    end)
    both("dofile", function()
      local name = os.tmpname()
      local f = assert(io.open(name, "w"))
      f:write 'return require "moonfork.pseudo".fork()'
      f:close()
      local pid = dofile(name)
      if pid ~= 0 then os.remove(name) end
      return pid
    end)
    assert(closed == 1)
    print "all"]], "all\n")
end)

story.test("where C is in the way fork says which function it is, and where it was called", function(t)
  pseudo.ok(t, [[
    local function tell(f)
      local pid, err
      f(function() pid, err = fork() return false end)
      assert(pid == nil and err.code == "FORK_FAILED", pid)
      print((tostring(err):gsub("%S*/", "")))
    end
    tell(function(f) ("x"):gsub("x", f) end)
    tell(function(f) table.sort({2, 1}, f) end)
    tell(function(f) tostring(setmetatable({}, {__tostring = function() f() return "" end})) end)
    tell(function(f) package.preload.x = f require "x" end)
    tell(function(f) load(f) end)
    tell(function(f) local co = coroutine.wrap(f); ("x"):gsub("x", function() co() end) end)
    tell(function(f) setmetatable({}, {__gc = f}) collectgarbage() end)
    tell(function(f) coroutine.close(coroutine.create(f)) local co = coroutine.create(function()
      local _ <close> = setmetatable({}, {__close = f}) coroutine.yield() end)
      coroutine.resume(co) coroutine.close(co) end)
    tell(function(f) pcall(pcall, string.gsub, "x", "x", function() pcall(f) end) end)
    assert(fork)]], [[
cannot fork here: it would have to leave the C function string.gsub, called at program.lua:8
cannot fork here: it would have to leave the C function table.sort, called at program.lua:9
cannot fork here: it would have to leave the C function tostring, called at program.lua:10
cannot fork here: it would have to leave the C function require, called at program.lua:11
cannot fork here: it would have to leave the C function load, called at program.lua:12
cannot fork here: it would have to leave the C function string.gsub, called at program.lua:13
cannot fork here: it would have to leave a finaliser
cannot fork here: it would have to leave the C function coroutine.close, called at program.lua:17
cannot fork here: it would have to leave the C function string.gsub, called at program.lua:18
]])
end)

story.test("both copies have everything, and change only their own", function(t)
  pseudo.ok(t, [[
    local shared, up = {n = 1, text = ("x"):rep(100000), weak = setmetatable({}, {__mode = "k"})}, 0
    local function count() up = up + 1 return up end
    local key = {}
    shared.weak[key] = {1}
    local co = coroutine.wrap(function() local n = 0 while true do n = n + 1 coroutine.yield(n) end end)
    co()
    local finished = {}
    local object = setmetatable({}, {__gc = function() finished[#finished + 1] = pseudo.getpid() end})
    local pids = {}
    for i = 1, 4 do
      pids[i] = child(function()
        shared.n = shared.n + i
        object = nil
        count()
        local list = {}
        for round = 1, 10 do
          for k = 1, 1000 do list[k] = {k, tostring(k * round), {round}} end
          collectgarbage(round % 3 == 0 and "collect" or round % 3 == 1 and "generational" or "incremental")
        end
        for k = 1, 1000 do assert(list[k][1] == k and list[k][2] == tostring(k * 10)) end
        assert(co() == 2 and up == 1 and shared.n == 1 + i and shared.weak[key][1] == 1 and #shared.text == 100000)
        assert(#finished == 1 and finished[1] == pseudo.getpid())
        local grandchild = child(function() assert(co() == 3 and list[1000][1] == 1000) os.exit(3) end)
        assert(ended(grandchild) == 3)
        os.exit(i)
      end)
    end
    for round = 1, 30 do
      local list = {}
      for k = 1, 1000 do list[k] = {k, tostring(k)} end
      collectgarbage(round % 2 == 0 and "generational" or "incremental")
      collectgarbage()
    end
    for i = 4, 1, -1 do assert(ended(pids[i]) == i) end
    assert(up == 0 and shared.n == 1 and co() == 2 and #finished == 0 and object)
    print "whole"]], "whole\n")
end)

story.test("the program is the main program: it can't yield, and runs as one does", function(t)
  pseudo.ok(t, [[
    assert(not coroutine.isyieldable() and select(2, coroutine.running()) and select("#", ...) == 2)
    local ok, err = pcall(coroutine.yield)
    assert(not ok and err:find "attempt to yield from outside a coroutine")
    assert(arg[0]:find "program.lua$" and arg[1] == "a" and arg[2] == "b c" and (...) == "a")
    local co = coroutine.create(function() return coroutine.isyieldable(), coroutine.running() end)
    local _, yieldable, running, main = coroutine.resume(co)
    assert(yieldable and running == co and not main and coroutine.status(co) == "dead")
    assert(select(2, coroutine.resume(co)) == "cannot resume dead coroutine")
    assert(select(2, coroutine.resume((coroutine.running()))):find "non%-suspended")
    local w = coroutine.wrap(function() error "lost" end)
    local _, message = pcall(function() w() end)
    assert(message:find "program.lua:%d+: .*program.lua:%d+: lost", message)
    assert(package.loaded["moonfork.pseudo"] == pseudo and pseudo._VERSION:find "^moonfork %d")
    local n = 0
    for a, b in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i, i * 2) end end) do n = n + a * b end
    print(n)]], "28\n", {arguments = "a 'b c'"})
end)

story.test("errors are told as the interpreter tells them, with 1 as exit code", function(t)
  local out, err, code = pseudo.run(t, [[
    local pid = assert(fork())
    if pid == 0 then error "in the copy" end
    print(ended(pid))
    local t <close> = setmetatable({}, {__close = function() print "closed" end})
    error(setmetatable({}, {__tostring = function() return "an object" end}))]])
  t.eq(out, "1\tnil\nclosed\n")
  t.match(err, "^lua5.4: .-program.lua:3: in the copy\nstack traceback:\n\t%[C%]: in function 'error'\n")
  t.match(err, "program.lua:3: in main chunk\n")
  t.match(err, "lua5.4: an object\n$")
  t.eq(code, 1)
  out, err, code = pseudo.run(t, "if = 1")
  t.eq(out .. code, "1")
  t.match(err, "program.lua:2: unexpected symbol near '='")
end)

story.test("where it can't be used require says why", function(t)
  local first = pseudo.FIRST .. "\n"
  local function refused(pattern, text, options)
    options = options or {}
    options.whole = true
    local out, err, code = pseudo.run(t, text, options)
    t.match(err, "moonfork.pseudo: .*" .. pattern)
    t.eq(out .. code, "1")
  end
  refused("comes from standard input", "", {lua = "lua5.4 -", stdin = t:file("stdin.lua", first)})
  refused("there is no script", "", {lua = "lua5.4 -e 'require \"moonfork.pseudo\"'", bare = true})
  refused("started with %-l io, which would be lost", first, {lua = "lua5.4 -l io"})
  refused("something stands before it in .*program.lua %(line 3%), which would happen twice",
    "-- a comment\nprint = print\n" .. first)
  refused("in a function", "local function f() require 'moonfork.pseudo' end f()")
  refused("by another file", ("dofile %q"):format(t:file("other.lua", first)))
  local precompiled = string.dump(assert(load(first)))
  refused("program.lua is precompiled", precompiled)
  refused("program.lua is precompiled", "#!/usr/bin/lua\n" .. precompiled)
  pseudo.ok(t, "#!/usr/bin/lua\n-- a comment\n\n--[==[ and ]] another\n]==] local p = require 'moonfork.pseudo'" ..
    " print(p.getpid())", "1\n", {whole = true})
  pseudo.ok(t, "local pid = require 'moonfork.pseudo'.getpid() print(pid)", "1\n",
    {whole = true, lua = "lua5.4 -W"})
end)

story.test("functions that succeed return what they promise, and no more", function(t)
  pseudo.ok(t, [[
    print(select("#", pseudo.getcwd()), select("#", pseudo.chdir "/"), select("#", pseudo.setenv("A", "b")),
      select("#", pseudo.pipe()), select("#", pseudo.umask()), select("#", pseudo.kill(1, 0)))]], "1\t1\t1\t2\t1\t1\n")
end)

story.test("wrong arguments are named", function(t)
  pseudo.ok(t, [[
    local function raises(pattern, f, ...)
      local ok, err = pcall(f, ...)
      assert(not ok and tostring(err):find(pattern), tostring(err))
    end
    raises("#1 to 'waitpid' %(a process's number expected, got no value%)", waitpid)
    raises("#1 to 'waitpid' .*string", waitpid, "1")
    raises("#1 to 'waitpid' .*%-1 expected, got 0", waitpid, 0)
    raises("#1 to 'kill' .*table", pseudo.kill, {}, 9)
    raises("#2 to 'kill' .*no value", pseudo.kill, 1)
    raises("#1 to 'exit' .*fraction", pseudo.exit, 1.5)
    raises("#1 to 'setenv' .*no '='", pseudo.setenv, "a=b", "c")
    raises("#2 to 'setenv' .*table", pseudo.setenv, "a", {})
    raises("#1 to 'chdir' .*no value", pseudo.chdir)
    raises("#1 to 'umask'", pseudo.umask, 512)
    assert(not pseudo.chdir "/is/not/there" and pseudo.getcwd())
    local pid, err = wait()
    assert(pid == nil and err.code == "EINVAL" and tostring(err) == "there is no such child to wait for")
    local done, other = pseudo.kill(pseudo.getpid(), "HUP")
    assert(done == nil and other.code == "UNSUPPORTED" and tostring(other):find "HUP")
    assert(select(2, pseudo.kill(4711, 9)).code == "EINVAL")]])
end)

-- A sanitizer looks after all of a copy's address space, which takes a hundred times longer.
local MANY = story.scale > 1 and 20 or 900

story.test("a file that is not buffered, or by lines, is so in the copy, too", function(t)
  for _, how in ipairs {"no", "line"} do
    pseudo.ok(t, [[
      local name, how = ...
      local from, to = pseudo.pipe()
      local go, ready = pseudo.pipe()
      local file = assert(io.open(name, "w"))
      file:setvbuf(how)
      local pid = child(function()
        ready:close()
        file:write "of the copy\n"
        to:write "written\n"
        to:close()
        go:read() -- it lives, so nothing is written by its end
      end)
      to:close()
      from:read()
      print(io.open(name):read "a")
      ready:close()
      ended(pid)]], "of the copy\n\n", {arguments = t:file(how, "") .. " " .. how})
  end
end)

-- The program has returned, failed or called os.exit(code, true), and what it has is closed.
story.test("finalisers and variables that are closed at the end: no fork, and the last exit counts", function(t)
  local ends = {
    {"object = setmetatable({}, {__gc = function() ACTION end})", 0},
    {"object = setmetatable({}, {__gc = function() ACTION end}) os.exit(5, true)", 5},
    {"local c <close> = setmetatable({}, {__close = function() ACTION end}) os.exit(6, true)", 6},
    {"local c <close> = setmetatable({}, {__close = function() ACTION end}) error('on purpose', 0)", 1},
  }
  local actions = {
    {"print(fork())", "nil\tcannot fork here: the program is ending\n"},
    {"print(coroutine.wrap(function() return fork() end)())", "nil\tcannot fork here: the program is ending\n"},
    {"print((coroutine.wrap(function() coroutine.yield(fork() == nil) end)()))", "true\n"},
    {"table.sort({2, 1}, function() print((select(2, fork()).message:gsub(', called.*', ''))) end)",
      "cannot fork here: it would have to leave the C function table.sort\n"},
    {"print(pcall(coroutine.yield))", "false\tattempt to yield from outside a coroutine\n"},
    {"pseudo.exit(3) print 'lives'", "", 3},
    {"os.exit(4) print 'lives'", "", 4},
    {"pseudo.kill(pseudo.getpid(), 'TERM') print 'lives'", "", 15},
  }
  for _, ending in ipairs(ends) do
    for _, action in ipairs(actions) do
      local out, _, code = pseudo.run(t, (ending[1]:gsub("ACTION", action[1])))
      t.eq(out, action[2], action[1])
      t.eq(code, action[3] == 15 and 128 + 15 or action[3] or ending[2], action[1])
    end
  end
  -- A child, which somebody else ends while it closes its variable.
  pseudo.ok(t, [[
    local from, to = pseudo.pipe()
    local pid = child(function()
      local c <close> = setmetatable({}, {__close = function() to:write "closing\n" to:close() while true do end end})
      os.exit(0, true)
    end)
    to:close()
    print(from:read())
    pseudo.kill(pid, "KILL")
    print(ended(pid))]], "closing\nnil\t9\n")
end)

story.test("many copies come and go without growth", function(t)
  pseudo.ok(t, ([[
    local function kib(name)
      local f = assert(io.open "/proc/self/status")
      local n = f:read "a":match(name .. ":%%s*(%%d+) kB")
      f:close()
      return tonumber(n)
    end
    local function some(n)
      for i = 1, n do assert(ended(child(function() os.exit(i %% 200) end)) == i %% 200) end
    end
    some(%d)
    collectgarbage()
    local memory = kib "VmRSS"
    some(%d)
    collectgarbage()
    assert(kib "VmRSS" < memory + %d, kib "VmRSS" - memory)]]):format(MANY // 9, MANY,
    story.scale > 1 and 100000 or 2048))
end)

-- What the library had outside of the interpreter stayed where no finalisers run, 28 KiB of each: its loop,
-- and what a socket has read ahead. ASan's own memory is no measure.
story.test("copies that end at once leave no memory of the library's", {
  skip = story.scale > 1 and "needs a plain build" or nil}, function(t)
  pseudo.ok(t, [[
    local function kib()
      local f = assert(io.open "/proc/self/status")
      local n = f:read "a":match("VmRSS:%s*(%d+) kB")
      f:close()
      return tonumber(n)
    end
    local function use()
      local fork = require "moonfork"
      fork.timer(100, print)
      local a, b = fork.socket.pair()
      a:write(("x"):rep(60000))
      b:limit(50000)
      assert(b:read "l" == nil)
    end
    local function some(n)
      for _ = 1, n do
        assert(ended(child(function() use() os.exit(3) end)) == 3)
        local pid = child(function() use() pseudo.kill(pseudo.getpid(), "KILL") while true do end end)
        assert(select(2, ended(pid)) == 9)
      end
    end
    some(10)
    collectgarbage()
    local memory = kib()
    some(40)
    collectgarbage()
    assert(kib() < memory + 2000, kib() - memory)]])
end)

story.test("Ctrl-C ends all of them, whatever they do", function(t)
  for _, what in ipairs{"while true do end", "wait()", "pseudo.pipe():read 'a'"} do
    local out, err, code = pseudo.run(t, [[
      child(function() while true do end end)
      os.execute "(sleep 0.1; kill -INT $PPID) &"
      ]] .. what)
    t.eq({what, out, err, code}, {what, "", "", 130})
  end
end)

story.done()
