-- perlfork's rows for pseudo-processes (doc/compatibility.md): how they are named and end, and what is
-- each one's own. Each story runs the stock interpreter on a program.
local story = require "story"
local pseudo = require "pseudo"

story.test("PF-01 PF-02 numbers are positive and given once", function(t)
  pseudo.ok(t, [[
    assert(pseudo.getpid() == 1 and pseudo.getppid() == 0)
    local seen = {}
    for _ = 1, 10 do
      local pid = assert(fork())
      if pid == 0 then
        assert(pseudo.getpid() > 1 and pseudo.getppid() == 1)
        local grandchild = child(function() assert(pseudo.getppid() > 1) end)
        assert(grandchild > pseudo.getpid() and ended(grandchild) == 0)
        os.exit(5)
      end
      assert(math.type(pid) == "integer" and pid > 1 and not seen[pid])
      seen[pid] = true
      assert(ended(pid) == 5)
      local done, err = pseudo.kill(pid, "KILL")
      assert(done == nil and err.code == "EINVAL" and tostring(err) == ("there is no process %d"):format(pid))
    end]])
end)

story.test("PF-03 the environment is private, and what a copy starts sees it", function(t)
  pseudo.ok(t, [[
    assert(pseudo.setenv("WHO", "parent") and os.getenv "WHO" == "parent")
    local pid = child(function()
      assert(pseudo.getenv "WHO" == "parent")
      pseudo.setenv("WHO", "child")
      local p = io.popen "echo $WHO"
      assert(p:read() == "child" and select(3, p:close()) == 0)
      assert(select(3, os.execute "test $WHO = child") == 0)
      pseudo.setenv("WHO", nil)
      assert(os.getenv "WHO" == nil and select(3, os.execute "test -z $WHO; exit 4") == 4)
    end)
    assert(ended(pid) == 0 and os.getenv "WHO" == "parent" and os.getenv "PATH" and os.execute())
    local p = io.popen("cat; exit 3", "w")
    p:write "to a command\n"
    local _, how, code = p:close()
    print(how, code)]], "to a command\nexit\t3\n")
end)

story.test("PF-04 directory and file mode mask are private", function(t)
  pseudo.ok(t, [[
    local here, mask = pseudo.getcwd(), pseudo.umask()
    local pid = child(function()
      assert(pseudo.chdir "/" and pseudo.getcwd() == "/" and pseudo.umask(63) == mask and pseudo.umask() == 63)
      local p = io.popen "pwd; umask"
      assert(p:read() == "/" and tonumber(p:read(), 8) == 63)
      p:close()
      assert(ended(child(function() assert(pseudo.getcwd() == "/" and pseudo.umask() == 63) end)) == 0)
    end)
    assert(ended(pid) == 0 and pseudo.getcwd() == here and pseudo.umask() == mask)]])
end)

story.test("PF-05 every way to end is told exactly, once", function(t)
  local out, err, code = pseudo.run(t, [[
    local function tell(f)
      local pid = child(f)
      local p, exit, signal = wait()
      assert(p == pid and not wait() and not waitpid(pid))
      print(exit, signal)
    end
    tell(function() end)
    tell(function() os.exit(3) end)
    tell(function() os.exit(false) end)
    tell(function() os.exit(true, true) end)
    tell(function() pseudo.exit(300) end)
    tell(function() pseudo.exit() end)
    tell(function() pcall(pcall, function() local x <close> = setmetatable({}, {__close = print}) os.exit(9) end) end)
    tell(function() ("x"):gsub("x", function() pcall(os.exit, 8) print "never" end) print "never" end)
    tell(function() coroutine.wrap(function() table.sort({1, 2, 3}, function() os.exit(7) end) end)() end)
    tell(function() setmetatable({}, {__gc = function() print "never" end}) os.exit(6) end)
    tell(function() local k = setmetatable({}, {__gc = function() print "closed" end}) os.exit(5, k) end)
    tell(function() pseudo.kill(pseudo.getpid(), "KILL") print "never" end)
    tell(function() pcall(pseudo.kill, pseudo.getpid(), 15) print "never" end)
    tell(function() error "E" end)
    tell(function() error {} end)
    os.exit(42)]])
  t.eq(out, "0\tnil\n3\tnil\n1\tnil\n0\tnil\n44\tnil\n0\tnil\n9\tnil\n8\tnil\n7\tnil\n6\tnil\nclosed\n5\tnil\n" ..
    "nil\t9\nnil\t15\n1\tnil\n1\tnil\n")
  t.match(err, ": E\nstack traceback:.*%(error object is a table value%)")
  t.eq(code, 42)
  for text, expected in pairs {["error 'x'"] = 1, ["os.exit(256 + 7)"] = 7, [""] = 0,
    ["pseudo.kill(1, 'TERM')"] = 128 + 15} do
    t.eq(select(3, pseudo.run(t, text)), expected, text)
  end
end)

story.test("PF-06 PF-28 a kill ends one of them wherever its Lua code is, and harms nobody", function(t)
  pseudo.ok(t, "local ROUNDS = " .. (story.scale > 1 and 1 or 4) .. [[

    local places = {
      function() while true do end end,
      function() while true do pcall(function() while true do end end) end end,
      function() ("x"):gsub("x", function() while true do end end) end,
      function() coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)() end,
      function() local function f() return f() end f() end,
      function() while true do local t = {} for i = 1, 100 do t[i] = {} end end end,
      function() while true do coroutine.wrap(function() pcall(error) end)() end end,
      function() wait() while true do assert(ended(child(function() end)) == 0) end end,
      function() xpcall(function() while true do end end, function() while true do end end) end,
      function() while true do local x <close> = setmetatable({}, {__close = function() end}) end end,
    }
    for _ = 1, ROUNDS do
      local pids = {}
      for i, f in ipairs(places) do
        local r, w = pseudo.pipe()
        pids[i] = child(function() r:close() w:write "x" w:close() f() end)
        w:close()
        assert(r:read(1) == "x")
        r:close()
      end
      local busy = child(function() local n = 0 for i = 1, 200000 do n = n + i end os.exit(n % 100) end)
      for i, pid in ipairs(pids) do
        assert(waitpid(pid, true) == 0 and pseudo.kill(pid, 0))
        assert(pseudo.kill(pid, i % 2 == 0 and "KILL" or "SIGTERM"))
      end
      for i, pid in ipairs(pids) do
        local code, signal = ended(pid)
        assert(code == nil and signal == (i % 2 == 0 and 9 or 15), i)
      end
      assert(ended(busy) == 0)
    end]])
end)

story.test("PF-07 a kill interrupts what waits", function(t)
  pseudo.ok(t, [[
    local function asleep(f)
      local r, w = pseudo.pipe()
      local pid = child(function() r:close() w:write "x" w:close() f() print "never" end)
      w:close()
      assert(r:read(1) == "x")
      r:close()
      assert(pseudo.kill(pid, "TERM"))
      assert(select(2, ended(pid)) == 15)
    end
    asleep(function() local r, w = pseudo.pipe() while true do r:read(1) r:seek "cur" end end)
    local held, holder = pseudo.pipe()
    asleep(function()
      child(function() holder:close() held:read() end)
      holder:close()
      wait()
    end)
    local fork = require "moonfork"
    asleep(function() fork.socket.pair():read(1) end)
    asleep(function() fork.socket.listen("127.0.0.1:0"):accept() end)
    asleep(function() coroutine.wrap(pcall)(fork.sleep, 100) end)]])
end)

story.test("PF-07 a kill interrupts who waits for a command; the command goes on", function(t)
  pseudo.ok(t, [[
    local begun, fifo = ... .. "1", ... .. "2"
    assert(os.execute(("mkfifo %s %s"):format(begun, fifo)))
    local command = ("echo begun >%s; exec cat <%s"):format(begun, fifo)
    for _, f in ipairs {function() os.execute(command) end, function() io.popen(command):close() end} do
      local pid = child(function() f() print "never" end)
      local file = assert(io.open(begun))
      assert(file:read() == "begun" and file:close())
      assert(pseudo.kill(pid, "TERM"))
      assert(select(2, ended(pid)) == 15)
      assert(io.open(fifo, "w")):close() -- which the command waits for
    end]], "", {arguments = t:file "fifo"})
end)

story.test("PF-08 PF-19 the program ends when all have ended, with the first one's code", function(t)
  local out, _, code = pseudo.run(t, [[
    io.stdout:setvbuf "no"
    local r, w = pseudo.pipe()
    child(function()
      w:close()
      r:read() -- the end comes when the first one has ended
      repeat until pseudo.getppid() == 0
      child(function() print "the last" end)
      print "the second"
    end)
    print "the first"
    os.exit(6)]])
  t.match(out, "^the first\n")
  t.match(out, "the second\n")
  t.match(out, "the last\n")
  t.eq(code, 6)
end)

story.test("PF-09 there is no exec: commands are started beside it", function(t)
  pseudo.ok(t, [[
    assert(pseudo.exec == nil)
    local pid = child(function() os.exit(select(3, os.execute "exit 9")) end)
    assert(ended(pid) == 9)]])
end)

story.test("PF-10 exit ends that one only, at once, without finalisers", function(t)
  pseudo.ok(t, [[
    local r, w = pseudo.pipe()
    local object = setmetatable({}, {__gc = function() print("finalised in", pseudo.getpid()) end})
    local pid = child(function()
      child(function() r:close() w:write "still here\n" w:close() end)
      os.exit(2)
    end)
    w:close()
    assert(ended(pid) == 2 and r:read "a" == "still here\n")
    os.exit(object and 0)]])
end)

story.test("PF-10 an exit that closes the state does so in the interpreter's order, in a coroutine, too", function(t)
  local out = pseudo.run(t, [[
    local function closing(name)
      return setmetatable({}, {__close = function() io.write(name, pseudo.getpid(), " ") end})
    end
    local outer <close> = closing "outer"
    local object = setmetatable({}, {__gc = function() io.write("object", pseudo.getpid(), "; ") end})
    assert(ended(child(function()
      local inner <close> = closing "inner"
      os.exit(3, true)
    end)) == 3)
    assert(ended(child(function()
      coroutine.wrap(function()
        local lost <close> = closing "lost"
        os.exit(4, true)
      end)()
    end)) == 4)
    assert(ended(child(function() os.exit(5) end)) == 5)
    os.exit(object and 0, true)]])
  t.eq(out, "inner2 outer2 object2; outer3 object3; outer1 object1; ")
end)

story.test("PF-11 nothing is printed twice, and no file position moves at an end", function(t)
  local out = pseudo.run(t, ([[
    io.write "before " -- buffered
    local f = assert(io.open(%q, "w+"))
    f:write "one\ntwo\nthree\nfour\n"
    f:seek "set"
    assert(f:read() == "one")
    for i = 1, 3 do ended(child(function() if i == 2 then os.exit(0) end end)) end
    assert(f:read() == "two")
    ended(child(function() assert(f:read() == "three") end))
    assert(f:seek "cur" and f:read() == "four", f:seek "cur")
    io.write "after\n"]]):format(t:file("positions", "")))
  t.eq(out, "before after\n")
end)

story.test("PF-12 PF-13 PF-14 closing is private, positions are shared by what was opened once", function(t)
  pseudo.ok(t, ([[
    local name = %q
    local f = assert(io.open(name, "w"))
    f:write "first\n"
    local pid = child(function() f:write "child\n" assert(f:close()) end)
    assert(ended(pid) == 0)
    assert(f:write "parent\n" and f:close())
    f = assert(io.open(name))
    assert(f:read "a" == "first\nchild\nparent\n")
    f:seek "set"
    pid = child(function()
      local own = assert(io.open(name))
      assert(own:read() == "first" and f:read() == "first" and own:read() == "child")
      f:seek("set", 6)
    end)
    assert(ended(pid) == 0 and f:read() == "child")
    f:seek "set" -- who closes it after reading leaves the position where it has read to
    pid = child(function() assert(f:read() == "first" and f:close()) end)
    assert(ended(pid) == 0 and f:read() == "child")
    pid = child(function() pseudo.waitpid(child(function() f:close() end)) assert(f:read() == "parent") end)
    assert(f:close() and ended(pid) == 0)
    for _, mode in ipairs {"no", "line", "full"} do
      local b = assert(io.open(name, "w"))
      b:setvbuf(mode)
      ended(child(function() b:write "x" if mode == "no" then os.exit(0) end b:close() end))
      b:close()
    end]]):format(t:file("shared", "")))
end)

story.test("PF-15 a directory is listed anew in the copy", function(t)
  pseudo.ok(t, ([[
    local function list() local p = io.popen "ls -d p*.lua" local s = p:read "a" p:close() return s end
    assert(pseudo.chdir(%q))
    local pid = child(function() assert(list() == "program.lua\n") end)
    assert(ended(pid) == 0 and list() == "program.lua\n")]]):format(t:file("x", ""):match "^(.*)/"))
end)

story.test("PF-17 PF-18 killing any of them leaves the others; killing the program ends all", function(t)
  pseudo.ok(t, [[
    local r, w = pseudo.pipe()
    local middle = child(function()
      child(function() r:close() w:write(pseudo.getpid(), "\n") w:flush() while true do end end)
      while true do wait() end
    end)
    w:close()
    local last = math.tointeger(r:read "n")
    assert(pseudo.kill(middle, 9) and select(2, ended(middle)) == 9)
    assert(pseudo.kill(last, 0) and not waitpid(last))
    assert(pseudo.kill(last, 9))
    assert(r:read "a" == "\n")]])
  local _, _, code = pseudo.run(t, "child(function() while true do end end) os.execute 'kill -9 $PPID'")
  t.eq(code, 137)
end)

story.test("PF-20 no fork in the middle of a module's load", function(t)
  pseudo.ok(t, [[
    package.preload.forks = function() return {fork()} end
    local result = require "forks"
    assert(result[1] == nil and tostring(result[2]):find "C function require")]])
end)

story.test("PF-21 PF-22 PF-23 pipes in both directions end when their last holder has ended", function(t)
  pseudo.ok(t, [[
    local to_child, from_parent = pseudo.pipe()
    local from_child, to_parent = pseudo.pipe()
    to_child, from_parent = to_child, from_parent
    local pid = child(function()
      from_parent:close() from_child:close()
      to_parent:setvbuf "line"
      for line in to_child:lines() do to_parent:write(line:upper(), "\n") end
    end)
    to_child:close() to_parent:close()
    for i = 1, 5000 do from_parent:write("line ", i, "\n") if i % 1000 == 0 then from_parent:flush()
      for k = i - 999, i do assert(from_child:read() == "LINE " .. k) end end end
    from_parent:close()
    assert(from_child:read() == nil and ended(pid) == 0)
    from_child:close()]])
end)

story.test("PF-24 PF-32 what can't be in two interpreters is refused by name, and never freed twice", function(t)
  pseudo.ok(t, [[
    local function refused(name, pattern)
      local ok, made = pcall(require, name)
      if not ok then return end
      local pid, err = fork()
      assert(pid == nil and err.code == "FORK_FAILED" and tostring(err):find(pattern), tostring(err))
      made, package.loaded[name] = nil, nil
      assert(made == nil)
    end
    refused("cjson", "the userdata .*cjson.* can't be in two interpreters: it has a finaliser")
    refused("luv", "the userdata .*luv.* can't be in two interpreters: it ") -- which stays: whichever is met first
    debug.getregistry().uv_loop = nil
    local none, err = fork()
    if none == 0 then os.exit(0) end
    assert(none == nil and tostring(err):find "uv_" or ended(none) == 0)]])
end)

story.test("PF-24 modules of C that keep nothing elsewhere go on in every copy", function(t)
  pseudo.ok(t, [[
    local all = {}
    for _, name in ipairs {"lfs", "lpeg", "socket", "mime"} do
      local ok, module = pcall(require, name)
      if ok then all[name] = module end
    end
    local pattern = all.lpeg and all.lpeg.P "a" ^ 1 * all.lpeg.Cp()
    local function use()
      assert(not pattern or pattern:match "aaab" == 4)
      assert(not all.lfs or all.lfs.attributes("/", "mode") == "directory")
      assert(not all.socket or all.socket.gettime() > 1)
      assert(not all.mime or all.mime.b64 "x" == "eA==")
      collectgarbage()
    end
    for i = 1, 4 do child(function() use() assert(ended(child(use)) == 0) end) end
    for i = 1, 4 do assert(select(2, wait()) == 0) end
    use()]])
end)

story.test("PF-25 __clone is called in the copy, and may refuse it", function(t)
  pseudo.ok(t, [[
    local lfs = pcall(require, "lfs") and require "lfs"
    local calls, mode = 0, "good"
    local file = assert(io.tmpfile())
    local meta = debug.getmetatable(file)
    meta.__clone = function(f)
      calls = calls + 1
      assert(io.type(f) == "file" or f == io.stdout or true)
      if mode == "bad" then error "not here" end
    end
    local pid = child(function() assert(calls >= 1) os.exit(calls) end)
    assert(ended(pid) >= 1 and calls == 0)
    mode = "bad"
    local none, err = fork()
    assert(none == nil and tostring(err):find "cannot fork here: __clone of the userdata of type FILE%* .-: .*not here")
    assert(not wait())
    mode = "exit"
    meta.__clone = function() os.exit(3) end
    none, err = fork()
    assert(none == nil and tostring(err):find "__clone of the userdata of type FILE%* .-: it has ended the copy")
    meta.__clone = nil
    assert(ended(child(function() end)) == 0 and lfs ~= nil)]])
end)

story.test("PF-26 PF-29 the program goes on behind the fork in both, as after fork(2)", function(t)
  pseudo.ok(t, [[
    io.stdout:setvbuf "line"
    local where = fork() == 0 and "copy" or "caller"
    if where == "caller" then wait() end
    print(where)]], "copy\ncaller\n")
end)

story.test("PF-27 all run at the same time, each in a thread", function(t)
  pseudo.ok(t, [[
    local ends = {}
    for i = 1, 8 do
      local r, w = pseudo.pipe()
      local back, answer = pseudo.pipe()
      child(function() w:close() back:close() assert(r:read() == "go") answer:write("at ", i, "\n") end)
      r:close() answer:close()
      ends[i] = {w, back}
    end
    for i = 8, 1, -1 do
      ends[i][1]:write "go\n" ends[i][1]:flush()
      assert(ends[i][2]:read() == "at " .. i)
    end
    for _ = 1, 8 do assert(select(2, wait()) == 0) end]])
end)

story.test("PF-16 PF-30 limits, user and number of the process are the program's", function(t)
  pseudo.ok(t, [[
    local function of(name)
      local f = assert(io.open "/proc/self/status")
      local s = f:read "a":match("\n" .. name .. ":%s*([^\n]*)")
      f:close()
      return s
    end
    local pid, uid = of "Pid", of "Uid"
    assert(ended(child(function() assert(of "Pid" == pid and of "Uid" == uid) end)) == 0)]])
end)

story.test("PF-31 random numbers differ in each copy", function(t)
  pseudo.ok(t, [[
    local r, w = pseudo.pipe()
    math.randomseed(7)
    for _ = 1, 5 do ended(child(function() r:close() w:write(math.random(0), "\n") w:close() end)) end
    w:close()
    local seen = {[tostring(math.random(0))] = true}
    for line in r:lines() do assert(not seen[line]) seen[line] = true end]])
end)

story.done()
