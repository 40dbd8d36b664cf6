-- require "moonfork.early": the program forks itself at once, and the copy is the default
-- template and the source of new_exec. Each story is a program of its own. EA-01 to EA-05.
local host = require "host"
local story = require "story"
local kit = story.kit
story.census = false -- the library is not loaded here

local function program(t, source, options)
  local out, code, err = t:lua([[
    require "moonfork.early"
    local fork, kit, actor = require "moonfork", require "testkit", require "actor"
    local function ask(p, code)
      p:eval("local c = ... function story_asked(s, ...) require'actor'.answer(s, load(c), ...) end",
        code)
      local s = assert(p:run "story_asked")
      local r = table.pack(actor.unpack(s:read "a"))
      assert(r[1], r[2])
      return table.unpack(r, 2, r.n)
    end
  ]] .. source, options)
  return out, code, err
end

story.test("EA-01 new and new_exec fork the early process, nothing is executed", function(t)
  local out, code, err = program(t, [[
    local children = {}
    for pid, p in pairs(kit.processes()) do
      if p.ppid == kit.getpid() then children[#children + 1] = pid end
    end
    assert(#children == 1, #children)
    local early = children[1]
    for _, make in ipairs {"new", "new_exec", "new"} do
      local parent = ask(fork[make](), "return require'testkit'.getppid()")
      assert(parent == kit.getpid(), make)
      local program = ask(fork[make](), "return require'testkit'.exec_id()")
      assert(program == kit.exec_id(), make)
    end
    io.write "forked"
  ]], {before = "MOONFORK_TEMPLATE=/nowhere/at/all"})
  t.eq({out, code, err}, {"forked", 0, ""})
end)

story.test("EA-01 new_exec with a program still executes it", function(t)
  local out, code, err = program(t, [[
    local p = fork.new_exec {program = os.getenv "MOONFORK_TEMPLATE"}
    assert(ask(p, "return require'testkit'.getppid()") == kit.getpid())
    local program = "return require'testkit'.exec_id()"
    assert(ask(fork.new_exec {program = os.getenv "MOONFORK_TEMPLATE"}, program) ~= kit.exec_id())
    assert(ask(fork.new_exec(), program) == kit.exec_id())
    local _, e = fork.new_exec {program = "/nowhere/at/all"}:run "type"
    assert(e.code == "TEMPLATE_START", e.code)
    io.write "executed"
  ]])
  t.eq({out, code, err}, {"executed", 0, ""})
end)

-- The early process stands in for a program that would have been executed with them: the options
-- gc and spares were not looked at then.
story.test("EA-01 new_exec has its options from the early process, too", function(t)
  local out, code, err = program(t, [[
    local function mode(options)
      return ask(fork.new_exec(options):eval "x = {}":fork(), [=[
        local running = collectgarbage "isrunning"
        local old = collectgarbage "incremental"
        collectgarbage(old)
        return running and old or "stopped"
      ]=])
    end
    for gc, there in pairs {generational = "generational", incremental = "incremental", stop = "stopped"} do
      local is = mode {gc = gc}
      assert(is == there, gc .. ": " .. is)
    end
    for name, more in pairs {path = "/some/?.lua;", cpath = "/some/?.so;"} do
      local all = more .. package[name] -- the clone loads what answers
      assert(ask(fork.new_exec {[name] = all}, "return package." .. name) == all, name)
    end
    local function wait_for(children)
      local begin, n = os.time()
      repeat
        fork.step(0.01)
        n = 0
        for _, q in pairs(kit.processes()) do
          if q.ppid == kit.getpid() then n = n + 1 end
        end
      until n == children or os.time() - begin > 10
      assert(n == children, n)
    end
    collectgarbage()
    wait_for(1) -- the early process: nobody refers to the others
    local p = fork.new_exec {spares = {max = 3}}
    assert(ask(p:fork(), "return 1") == 1)
    wait_for(1 + 1 + 3)
    io.write "as asked for"
  ]], {before = "MOONFORK_TEMPLATE=/nowhere/at/all"})
  t.eq({out, code, err}, {"as asked for", 0, ""})
end)

story.test("EA-02 it refuses a program that has threads or a loop", function(t)
  local out, code, err = t:lua [[
    local kit = require "testkit"
    kit.threads(1)
    local ok, e = pcall(require, "moonfork.early")
    if ok then -- or no clone comes from it
      ok, e = require "moonfork".new():run "type"
    end
    assert(not ok, "it did not refuse")
    assert(tostring(e):find "thread", tostring(e))
    kit.threads_stop()
    io.write "refused"
  ]]
  t.eq({out, code, err}, {"refused", 0, ""})
end)

story.test("EA-02 it refuses a program with an epoll descriptor", function(t)
  local out, code, err = t:lua [[
    local kit = require "testkit"
    kit.epoll()
    local ok, e = pcall(require, "moonfork.early")
    if ok then ok, e = require "moonfork".new():run "type" end
    assert(not ok, "it did not refuse")
    assert(tostring(e):find "epoll" or tostring(e):find "loop", tostring(e))
    io.write "refused"
  ]]
  t.eq({out, code, err}, {"refused", 0, ""})
end)

story.test("EA-03 the pids are known", function(t)
  local out, code, err = program(t, [[
    local p = fork.new_exec()
    assert(ask(p, "return require'testkit'.getpid()") == p:pid())
    local status = assert(p:wait(5))
    assert(status.code == 0)
    io.write "known"
  ]])
  t.eq({out, code, err}, {"known", 0, ""})
end)

story.test("EA-04 it ends with the program, without the program's finalisers", function(t)
  local path = t:file "marks"
  local out, code, err = t:lua(([[
    local path = %q
    mark = setmetatable({}, {__gc = function()
      local f = io.open(path, "a")
      f:write "finaliser\n"
      f:close()
    end})
    require "testkit".atexit(path)
    io.write "buffered once "
    require "moonfork.early"
    local fork, kit = require "moonfork", require "testkit"
    local p = fork.new():eval "function f(s) end"
    io.write(require "templates".first())
    assert(p:run "f"):read "a"
    assert(p:wait(5))
    os.exit(0, true)
  ]]):format(path))
  t.eq({code, err}, {0, ""})
  local early = math.tointeger(out:match "^buffered once (%d+)$")
  t.ok(early, out)
  t.outside(10, function() return not t.alive(early) end, "the early process ended")
  t.eq(t.read(path), "finaliser\natexit\n", "once, in the program")
end)

story.test("EA-05 handles=close keeps the program's descriptors from clones", function(t)
  local out, code, err = t:lua [[
    local kit = require "testkit"
    local r, w = kit.pipe()
    require "moonfork.early"
    local fork = require "moonfork"
    kit.close(w)
    local code = "function f(s, fd) s:write((select(2, require'testkit'.fstat(math.tointeger(fd))))) end"
    local p = fork.new():eval(code):send_arg(w)
    io.write(assert(p:run "f"):read "a", " ")
    local q = fork.new {handles = "close"}:eval(code):send_arg(w)
    io.write(assert(q:run "f"):read "a")
  ]]
  t.eq({out, code, err}, {"fifo char", 0, ""})
end)

story.test("the copy has what the program had made before, and default signals", function(t)
  local out, code, err = t:lua [[
    function made_before(s) s:write("made before ", counter) end
    counter = 1
    local kit = require "testkit"
    kit.disposition(kit.SIGINT, "ignore")
    kit.block(kit.SIGUSR1)
    require "moonfork.early"
    counter = 2
    function made_after() end
    local fork, actor = require "moonfork", require "actor"
    io.write(assert(fork.new():run "made_before"):read "a", "; ")
    local s, e = fork.new():run "made_after"
    assert(not s and e.code == "REMOTE")
    local p = fork.new():eval "function f(s) local a = require 'actor' \
      s:write(a.status_bits 'SigBlk', ' ', a.status_bits 'SigIgn') end"
    io.write(assert(p:run "f"):read "a")
  ]]
  t.eq({out, code, err}, {"made before 1; 0 0", 0, ""})
end)

story.test("the early process killed: new starts another template, by exec", function(t)
  local out, code, err = program(t, [[
    ask(fork.new(), "return 1")
    local early = require "templates".first()
    kit.kill(early, kit.SIGKILL)
    for _ = 1, 20 do fork.step(0.01) kit.msleep(2) end
    local other = ask(fork.new(), "return require'testkit'.exec_id()")
    assert(other ~= kit.exec_id())
    io.write "another"
  ]])
  t.eq({out, code, err}, {"another", 0, ""})
end)

-- early() forks such a copy, and gives its pid; wait_for(what, ok) calls the library meanwhile.
local COPIES = [[
    local fork, kit = require "moonfork", require "testkit"
    local PROGRAM = os.getenv "MOONFORK_TEMPLATE"
    local function children()
      local all = {}
      for pid, process in pairs(kit.processes()) do
        all[pid] = process.ppid == kit.getpid() or nil
      end
      return all
    end
    local function early()
      local before = children()
      package.loaded["moonfork.early"] = nil
      require "moonfork.early"
      for pid in pairs(children()) do
        if not before[pid] then return pid end
      end
    end
    local function wait_for(what, ok)
      local last = kit.now() + 10
      while not ok() do
        assert(kit.now() < last, what)
        fork.sleep(0.01)
        fork.new_exec {program = PROGRAM}:close()
      end
    end
]]

-- It stayed, and the next process was forked from it: with the environment and the modules of
-- then, though a reset promises those of now.
story.test("reset drops it before its first use, too", function(t)
  local STOP = [[
      kit.kill(copy, kit.SIGSTOP)
      wait_for("it has stopped", function() return kit.processes()[copy].state == "T" end)
  ]]
  for _, before in ipairs { "", "assert(fork.new_exec {program = PROGRAM}:run 'type')", STOP } do
    local out, code, err = t:lua(COPIES .. ([[
      loaded_before = "loaded before"
      local copy = early()
      %s
      assert(fork.reset() == true)
      for _, make in ipairs {"new", "new_exec"} do
        local p = fork[make]():eval "function f(s) s:write(tostring(loaded_before)) end"
        local s = assert(p:run "f")
        io.write(make, ": ", s:read "a", "; ")
      end
      wait_for("the copy was reaped", function() return not kit.processes()[copy] end)
      io.write "gone"
    ]]):format(before))
    t.eq({out, code, err}, {"new: nil; new_exec: nil; gone", 0, ""}, before)
  end
end)

-- It was continued by its pidfd alone, and stayed where there was none.
story.test("reset drops one that is stopped, too, on a kernel without pidfds", function(t)
  local tool = host.tool(t, "seccomp_run")
  for _, errno in ipairs { "ENOSYS", "EPERM" } do
    local out, code, err = t:lua(COPIES .. [[
      local copy = early()
      kit.kill(copy, kit.SIGSTOP)
      wait_for("it has stopped", function() return kit.processes()[copy].state == "T" end)
      assert(fork.reset() == true)
      wait_for("the copy was reaped", function() return not kit.processes()[copy] end)
      io.write "gone"
    ]], { before = ("'%s' %s pidfd_open"):format(tool, errno) })
    if code == 77 then t.skip "no filter of system calls can be set here" end
    t.eq({ out, code, err }, { "gone", 0, "" }, errno)
  end
end)

story.test("another early takes the place of the first", function(t)
  local out, code, err = t:lua(COPIES .. [[
    version = 1
    local first = early()
    version = 2
    local nfds = #kit.ls "/proc/self/fd"
    early()
    assert(#kit.ls "/proc/self/fd" == nfds, "the first one's descriptors are closed")
    wait_for("the first one was reaped", function() return not kit.processes()[first] end)
    local p = fork.new():eval "function f(s) s:write(version) end"
    io.write(assert(p:run "f"):read "a")
  ]])
  t.eq({out, code, err}, {"2", 0, ""})
end)

story.test("a pool over it can't start its template again, and says why", function(t)
  local out, code, err = program(t, [[
    local template = fork.new():eval "function f() return 'answered' end"
    local pool = template:pool("f", {max = 1, max_calls = 1})
    io.write(assert(pool()), "; ")
    template:kill "KILL"
    template:wait(20)
    local _, failure = pool()
    io.write(failure.code, ": ", failure.message)
    pool:close()
  ]])
  t.eq({code, err}, {0, ""})
  t.match(out, "^answered; TEMPLATE_DIED: .*its first process is a copy of the program")
end)

story.test("a program that never uses it leaves nothing behind", function(t)
  local out, code, err = t:lua [[
    require "moonfork.early"
    local kit = require "testkit"
    for pid, p in pairs(kit.processes()) do
      if p.ppid == kit.getpid() then io.write(pid) end
    end
  ]]
  t.eq({code, err}, {0, ""})
  local early = math.tointeger(out)
  t.outside(2, function() return not t.alive(early) end)
  t.ok(kit.getpid() ~= early)
end)

story.test("AF-57 a host with its own interpreter needs no program file", function(t)
  local build = os.getenv "MOONFORK_BUILD"
  local embed = build and build .. "/test/help/embed"
  if not embed or not kit.ls(build) or not io.open(embed) then
    t.skip "needs the build folder of test/run"
  end
  local out = t:file "out"
  local ok, how, code = os.execute(("'%s' >'%s' 2>&1 </dev/null"):format(embed, out))
  local text = t.read(out)
  t.ok(ok, how .. " " .. code .. ": " .. text)
  local one, two = text:match "^new: (%d+) after 1 hooks\nnew_exec: (%d+) after 1 hooks\n$"
  t.ok(one, text)
  t.eq(one, two)
end)

story.done()
