-- The options of new, new_exec, template and fork, and the commands that change a process:
-- "Making processes" and "Preparing" of doc/lua-api.md. Timeouts are in af_errors.lua, the leash in
-- leash.lua, env and cwd in af_fork_point.lua.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local MAKE = {
  new = function(options) return fork.new(options) end,
  new_exec = function(options) return fork.new_exec(options) end,
  fork = function(options) return fork.new():fork(options) end,
}

local function each(f)
  for name, make in pairs(MAKE) do f(make, name) end
end

story.test("stdin, stdout, stderr: null", function(t)
  each(function(make, name)
    local p = make {stdin = "null", stdout = "null", stderr = "null"}
    local same, id = t.ask(p, [[
      local kit = require "testkit"
      local null = kit.open "/dev/null"
      local id = kit.fstat(null)
      return {kit.fstat(0) == id, kit.fstat(1) == id, kit.fstat(2) == id}, io.read "l"
    ]])
    t.eq(same, {true, true, true}, name)
    t.eq(id, nil)
  end)
end)

story.test("stdin, stdout, stderr: a handle, duplicated at call time", function(t)
  each(function(make, name)
    local out, err = t:file(name .. "out"), t:file(name .. "err")
    local input = io.open(t:file(name .. "in", "an input line\n"))
    local o, e = kit.open(out, "w"), kit.open(err, "w")
    local p = make {stdin = input, stdout = o, stderr = e}
    input:close()
    kit.close(o)
    kit.close(e)
    p:eval [[function f() print(io.read "l") io.stderr:write "to the error" end]]
    t.got(p:run "f")
    t.eq(t.status(p).code, 0)
    t.eq(t.read(out), "an input line\n", name)
    t.eq(t.read(err), "to the error")
  end)
  t.raises("stdout", fork.new, {stdout = "nowhere"})
end)

-- It was still in the buffer when the stream became the socket, and came out there.
story.test("stdio socket: what was written before run is not the function's", function(t)
  each(function(make, name)
    local p = make {stdout = "socket"}
    p:eval [[io.write "before" function f() io.write "in it" end]]
    t.eq(t.got(p:run "f"):read "a", "in it", name)
  end)
end)

-- The limit forbade it, nobody looked, and the output went to /dev/null.
story.test("stdio socket: a stream that can't become it fails the run", function(t)
  each(function(make, name)
    local p = make {stdout = "socket"}:limit {nofile = 1}
    local socket, err = p:eval "function f() print 'in it' end":run "f"
    t.eq(socket, nil, name)
    t.eq({err.code, err.started}, {"LIMIT", "no"})
    t.match(err.message, "stdout")
    t.eq(t.status(p).code, 1)
  end)
end)

story.test("stdio socket: the socket from run on, /dev/null before", function(t)
  each(function(make, name)
    local p = make {stdin = "socket", stdout = "socket"}
    p:eval [[
      local kit = require "testkit"
      before = kit.fstat(1) == kit.fstat(kit.open "/dev/null")
      print "this goes nowhere"
      function f()
        collectgarbage() -- whatever becomes of the handle that nobody took
        for line in io.lines() do print(line:upper()) end
        print(before)
      end
    ]]
    local socket = t.got(p:run "f")
    socket:write "one\ntwo\n"
    socket:shutdown "w"
    t.eq(socket:read "a", "ONE\nTWO\ntrue\n", name)
    t.eq(t.status(p).code, 0)
  end)
end)

story.test("stdio in options of a process goes to its clones", function(t)
  local path = t:file "out"
  local fd = kit.open(path, "w")
  local p = fork.new_exec {stdout = fd}
  kit.close(fd)
  local q = p:fork():eval "function f() io.write 'clone ' end"
  t.got(q:run "f")
  t.status(q)
  p:eval "function f() io.write 'template' end"
  t.got(p:run "f")
  t.status(p)
  t.eq(t.read(path), "clone template")
end)

story.test("session new: away from the terminal's signals", function(t)
  each(function(make, name)
    local ask = "local k = require'testkit' return k.getsid(), k.getpid()"
    local sid, pid = t.ask(make {session = "new"}, ask)
    t.eq(sid, pid, name)
    sid = t.ask(make {session = "inherit"}, ask)
    t.ok(sid ~= pid)
  end)
  t.eq(t.ask(fork.new_exec(), "return require'testkit'.getsid()"), kit.getsid())
end)

story.test("handles: inherit by default; close leaves /dev/null under the numbers", function(t)
  local p = fork.new_exec():eval [[
    local kit = require "testkit"
    file = io.open("/proc/self/status")
    number = kit.fileno(file)
    r, w = kit.pipe()
  ]]
  local ask = [[
    local kit = require "testkit"
    local _, one = kit.fstat(number)
    local _, two = kit.fstat(r)
    return one, two, kit.fstat(number) == kit.fstat(kit.open "/dev/null")
  ]]
  t.eq({t.ask(p:fork(), ask)}, {"file", "fifo", false})
  t.eq({t.ask(p:fork {handles = "inherit"}, ask)}, {"file", "fifo", false})
  t.eq({t.ask(p:fork {handles = "close"}, ask)}, {"char", "char", true})
  local sent = p:fork {handles = "close"}:send_fd(io.stdin)
  t.eq(t.ask(sent, "local _, handle = ... return require'testkit'.fstat(handle:fileno())"),
    (kit.fstat(0)), "what was sent is not touched")
  t.eq({t.ask(p, ask)}, {"file", "fifo", false}, "the template is not touched")
end)

story.test("env: changes, false removes; and what a program executed there sees", function(t)
  each(function(make, name)
    local p = make {env = {STORY_A = "a b", STORY_EMPTY = ""}}
    t.eq({t.ask(p:fork(), "return os.getenv 'STORY_A', os.getenv 'STORY_EMPTY'")}, {"a b", ""}, name)
    p:eval "function f(s) s:write(io.popen('echo $STORY_A'):read 'a') end"
    t.eq(t.got(p:run "f"):read "a", "a b\n")
  end)
  t.eq(os.getenv "STORY_A", nil)
end)

story.test("env: a change replaces what the template has, in forks of forks too", function(t)
  each(function(make, name)
    local p = make {env = {STORY_A = "first", STORY_B = "kept", STORY_C = "gone"}}
    local q = p:fork {env = {STORY_A = "second", STORY_C = false}}
    local r = q:fork {env = {STORY_A = "third"}}
    local ask = "return os.getenv 'STORY_A', os.getenv 'STORY_B', os.getenv 'STORY_C'"
    t.eq({t.ask(r, ask)}, {"third", "kept"}, name)
    t.eq({t.ask(q, ask)}, {"second", "kept"}, name)
    t.eq({t.ask(p, ask)}, {"first", "kept", "gone"}, name)
  end)
end)

story.test("stdin, stdout, stderr: nothing of them is open besides", function(t)
  each(function(make, name)
    local p = make {}:require "actor"
    local path = t:file "stream"
    local function count(opts)
      local listed = t.ask(p:fork(opts), "return require 'actor'.descriptors()")
      return #listed
    end
    local without = count {}
    for _, stream in ipairs {"stdin", "stdout", "stderr"} do
      local fd = kit.open(path, "a")
      t.eq(count {[stream] = "null"}, without, name .. " null " .. stream)
      t.eq(count {[stream] = fd}, without, name .. " handle " .. stream)
      kit.close(fd)
    end
    t.eq(count {stdin = "null", stdout = "null", stderr = "null"}, without, name)
  end)
end)

story.test("cwd: relative names follow it; a missing folder is an error", function(t)
  t:file("here.txt", "found")
  each(function(make, name)
    local p = make {cwd = t:tmp()}
    t.eq(t.ask(p, "return io.open 'here.txt':read 'a'"), "found", name)
    local q = make {cwd = t:file "nowhere"}
    local socket, err = q:run "type"
    t.eq(socket, nil)
    t.eq(err.started, "no")
    t.match(tostring(err), "nowhere")
  end)
end)

story.test("gc: the collector of the new interpreter", function(t)
  local function mode(options)
    local p = fork.new_exec(options):eval "x = {}"
    return t.ask(p:fork(), [[
      local running = collectgarbage "isrunning"
      local old = collectgarbage "incremental"
      collectgarbage(old)
      return old, running
    ]])
  end
  t.eq((mode {gc = "generational"}), "generational")
  t.eq((mode {gc = "incremental"}), "incremental")
  t.eq(select(2, mode {gc = "stop"}), false)
end)

story.test("spares: clones forked ahead are as good as others", {deadline = 40}, function(t)
  local p = fork.new_exec {spares = {min = 2, max = 4}}
  p:eval "v = 1":require "actor"
  for round = 1, 3 do
    local pids = {}
    for _ = 1, 10 do
      local q = p:fork()
      local v, pid, parent = t.ask(q, "local k = require'testkit' return v, k.getpid(), k.getppid()")
      t.eq(v, round)
      t.eq(pid, q:pid())
      t.eq(parent, kit.getpid())
      t.eq(pids[pid], nil)
      pids[pid] = true
      t.eq(t.status(q).code, 0)
    end
    for _ = 1, 5 do fork.step(0.01) end
    p:eval("v = " .. round + 1) -- the spares are stale now
  end
  local q = p:fork {env = {STORY_SPARE = "yes"}, cwd = "/"}
  t.eq({t.ask(q, "return os.getenv 'STORY_SPARE', require'testkit'.getcwd()")}, {"yes", "/"})
  fork.loop() -- spares do not keep it waiting
  p:close()
end)

-- A refill goes on until it has reached the maximum, whatever is taken meanwhile; when it is
-- over, nothing comes before fewer than the minimum are left. Both are counted here, so the
-- story has to know when a refill is over: what is asked of the template behind its last fork
-- is answered when that fork is done.
story.test("spares are refilled to max when fewer than min are left", function(t)
  local p
  local others = kit.processes() -- some of them end meanwhile
  local function spares()
    local n = 0
    for pid, process in pairs(kit.processes()) do
      if process.ppid == kit.getpid() and process.state ~= "Z" and not others[pid]
        and pid ~= p:pid() then
        n = n + 1
      end
    end
    return n
  end
  local function refilled(what)
    t.within(10, function() return p:pid() and spares() == 5 end, what)
    t.got(p:memory())
    t.eq(spares(), 5, what)
  end
  -- What is taken has ended when this returns, so what is counted are spares.
  local function take(n)
    local taken = {}
    for i = 1, n do -- the reactor does not turn in between: no refill is beside it
      taken[i] = p:fork()
    end
    for i = 1, n do
      t.got(taken[i]:run "type"):close()
      t.status(taken[i])
    end
  end
  p = fork.new_exec {spares = {min = 2, max = 5}}
  take(1)
  refilled "the first ones"
  for round = 1, 3 do
    take(3)
    t.eq(spares(), 2, "the minimum is left, round " .. round)
    t.got(p:memory()) -- as long as a refill would need to begin, and longer
    fork.sleep(0.02)
    t.got(p:memory())
    t.eq(spares(), 2, "nothing is refilled, round " .. round)
    take(1)
    refilled("fewer than the minimum were left, round " .. round)
  end
  local pid = p:pid()
  p:close()
  t.within(10, function() return not t.alive(pid) end)
end)

story.test("take_args forgets, chdir and setenv change what follows", function(t)
  local p = fork.new():send_arg("a", "b"):send_fd(io.stdin)
  local before = p:fork()
  p:take_args():send_arg "c"
  t.eq({t.ask(p:fork(), "return {select(2, ...)}")}, {{"c"}})
  t.eq(#t.ask(before, "local out = {} for i = 2, select('#', ...) do out[#out+1] = 1 end return out"), 3)
  p:chdir "/":setenv("STORY_B", "b")
  t.eq({t.ask(p, "return require'testkit'.getcwd(), os.getenv 'STORY_B'")}, {"/", "b"})
  local q = fork.new()
  t.raises("setenv", q.setenv, q, "A=B", "x")
  t.raises("setenv", q.setenv, q, "", "x")
  t.raises("chdir", q.chdir, q)
  q:close()
end)

story.test("limit: of the process and its future clones", function(t)
  local p = fork.new():limit {nofile = 64, core = 0, fsize = 1 << 20}
  local ask = [[
    local kit = require "testkit"
    return {kit.getrlimit "nofile"}, {kit.getrlimit "core"}, {kit.getrlimit "fsize"}
  ]]
  for _, process in ipairs {p:fork(), p} do
    t.eq({t.ask(process, ask)}, {{64, 64}, {0, 0}, {1 << 20, 1 << 20}})
  end
  t.ok(kit.getrlimit "nofile" ~= 64)
  local q = fork.new():limit {nofile = 16}
  t.match(t.ask(q, [[
    local n = 0
    local kept = {}
    while true do
      local f, message = io.open "/dev/null"
      if not f then return message end
      kept[#kept + 1] = f
    end
  ]]), "[Tt]oo many")
end)

-- The sanitizer's own reservation counts as address space.
story.test("limit as: counts usable memory; what is too much fails in Lua", {
  skip = story.is_sanitized and "address space is the sanitizer's" or nil}, function(t)
  local p = fork.new():limit {as = 256 << 20}
  local ok, message, after = t.ask(p, [[
    local ok, message = pcall(function()
      local kept = {}
      for i = 1, 1000 do kept[i] = ("x"):rep(1 << 20) .. i end
    end)
    collectgarbage()
    local small = ("y"):rep(1 << 20)
    return ok, tostring(message), #small
  ]])
  t.eq(ok, false)
  t.match(message, "not enough memory")
  t.eq(after, 1 << 20)
  local q = fork.new():limit {as = 256 << 20}
  t.eq(t.ask(q, [[
    local kept = {}
    for i = 1, 100 do kept[i] = ("x"):rep(1 << 20) .. i end
    return #kept
  ]]), 100, "a hundred MiB of 256 can be used")
end)

story.test("seal: by hand, with a collector and an audit", function(t)
  for _, options in ipairs {{}, {gc = "generational"}, {gc = "incremental"}, {gc = "stop"},
    {audit = "off"}, {audit = "warn"}, {audit = "strict"}} do
    local p = fork.new():eval "x = {} for i = 1, 1e4 do x[i] = {i} end":seal(options)
    t.eq(t.ask(p:fork(), "return #x"), 10000, story.show(options))
    p:eval "x[1] = 'changed'"
    t.eq(t.ask(p, "return x[1]"), "changed")
  end
  local p = fork.new()
  t.raises("audit", p.seal, p, {audit = "maybe"})
  t.raises("gc", p.seal, p, {gc = "maybe"})
end)

story.test("memory: of templates and running clones, with and without a callback", function(t)
  local p = fork.new():require("actor"):eval "x = ('x'):rep(4 << 20)"
  local q = p:fork()
  local socket = t.got(q:run "actor:hold")
  local m = t.got(q:memory())
  for _, key in ipairs {"pss", "uss", "rss", "shared", "lua"} do
    t.eq(math.type(m[key]), "integer", key)
  end
  t.ok(m.rss > 100 * 1024)
  local calls, got = 0, nil
  q:memory(function(err, value)
    t.eq(err, nil)
    calls, got = calls + 1, value
  end)
  t.eq(calls, 0)
  fork.loop()
  t.eq(calls, 1)
  t.ok(got.pss <= got.rss)
  t.ok(t.got(p:memory()).lua >= 4 << 20, "the template's Lua heap")
  socket:close()
  t.status(q)
  t.ok(select(2, q:memory()), "of one that has ended: an error")
  p:close()
end)

-- The kernel walked all of its pages while the parent waited: 10 ms for each GiB, in one call.
story.test("memory: of a large process without a template to ask", function(t)
  local p = fork.new_exec():require "actor":eval "x = ('x'):rep(96 << 20)"
  t.got(p:run "actor:hold")
  t.ok(t.got(p:memory()).rss >= 96 << 20)
  local got
  for _ = 1, 3 do
    p:memory(function(err, m) got = (got or 0) + (not err and m.rss >= 96 << 20 and 1 or 0) end)
  end
  fork.loop()
  t.eq(got, 3)
  local told = 0
  for _ = 1, 3 do p:memory(function() told = told + 1 end) end
  t.got(p:kill "KILL")
  p:wait()
  t.eq(told, 3, "before the end")
  t.within(5, function() return #kit.ls "/proc/self/task" == 1 end)
end)

-- An rpc that had called in time, or a pool that nobody called yet, lost its process.
story.test("timeout: rpc and pool disarm it", function(t)
  local slow = [[
    local t = os.clock()
    while os.clock() - t < 0.2 do end
    function f(x) return x end
  ]]
  local rpc = fork.new({timeout = 0.1}):eval(slow):rpc "f"
  local pool = fork.new({timeout = 0.1}):eval(slow):pool "f"
  t.eq({rpc(5)}, {5})
  for _ = 1, 20 do -- nobody calls, while the time runs out
    fork.step()
    kit.msleep(10)
  end
  t.eq({pool(6)}, {6})
  t.eq(pool:stats().template_starts, 0)
  rpc:close()
  pool:close()
end)

-- What a message lists as valid is accepted, and where there is nothing it does not list that.
story.test("each option that a message lists can be used", function(t)
  local file = t:file "image"
  local source = fork.new_exec()
  local possible = source:save(file)
  local values = {beat = 1, command = {"moonfork", "agent"}, cpath = package.cpath, cwd = "/", dumpable = true,
    env = {A = "1"}, gc = "incremental", handles = "close", image = file, isolation = "process", leash = "kill",
    name = "x", path = package.path, program = "no such", rebuild = function() end, session = "new",
    spares = {max = 1}, stderr = "null", stdin = "null", stdout = "null", timeout = 20, tree = true,
    verify = true, window = 65536}
  local makers = {fork.new, fork.new_exec, fork.template, fork.remote,
    function(o) return source:fork(o) end,
    function(o) return fork.load(file, o) end,
    function(o) return fork.from_fd(assert(fork.new():to_fd()), o) end}
  fork.on_error(function() end) -- programs and commands that are none
  for _, make in ipairs(makers) do
    local _, message = pcall(make, {nothing = 1})
    local list = tostring(message):match "unknown option 'nothing' %(valid: ([%l_, ]+)%)%)$"
    t.ok(list, message)
    for name in list:gmatch "[%l_]+" do
      local given = {[name] = values[name], command = list:find "command" and values.command}
      if name == "verify" or name == "rebuild" then given.image = list:find "image" and file end
      local ok, process = pcall(make, given)
      t.ok(ok, name .. ": " .. tostring(process))
      process:close()
    end
  end
  t.raises("load' %(there is no option 'image'", fork.load, file, {image = file})
  t.raises("option 'verify': it needs the option 'image'", fork.new_exec, {verify = true})
  t.raises("unknown option 'a' %(it takes none%)", source.save, source, file, {a = 1})
  if possible then t.eq(source:save(file, {}), true) end
  source:close()
  fork.loop()
  fork.on_error(nil)
end)

-- Where an option means nothing beside another one, or for this kind of process, nobody is left
-- to believe that it does: async took strict away, and from_fd most options, without a word.
story.test("no option is ignored because of another one", function(t)
  local p = fork.new()
  for _, make in ipairs {"rpc", "pool"} do
    for _, serialiser in ipairs {"string", "raw"} do
      t.raises("option 'strict_classes': only 'msgpack' knows classes, and the serialiser is '" .. serialiser,
        p[make], p, "type", {strict_classes = true, serialiser = serialiser})
    end
  end
  t.raises("option 'strict': not with async", p.rpc, p, "type", {strict = true, async = true})
  t.raises("option 'lazy': it needs isolation = 'thread'", p.fork, p, {lazy = true, isolation = "process"})
  t.raises("option 'lazy': it needs isolation = 'thread'", p.pool, p, "type", {lazy = true})
  t.raises("option 'idle': 2 is more than max", p.pool, p, "type", {max = 1, idle = 2})
  local rpc = p:rpc("type", {strict = true, async = false, strict_classes = true, serialiser = "msgpack"})
  t.eq(rpc(1), "number")
  rpc:close()
  t.raises("unknown option 'env' %(valid: name, timeout%)", fork.from_fd, 0, {env = {A = "1"}})
  fork.loop()
end)

story.test("a name shows in messages", function(t)
  local p = fork.new {name = "the-painter"}
  local err = select(2, p:eval "os.exit(3)":run "type")
  t.match(tostring(err), "the%-painter")
  local q = fork.new {name = "the-sculptor", timeout = 0.05}
  err = select(2, q:eval "require'testkit'.msleep(2000)":run "type")
  t.match(tostring(err), "the%-sculptor")
end)

story.test("options are checked before anything is made", function(t)
  local before = kit.fds()
  fork.on_error(function() end)
  for _ = 1, 20 do
    pcall(fork.new_exec, {stdout = 999999})
    pcall(fork.new, {leash = 1})
  end
  t.collect()
  fork.loop()
  local after = kit.fds()
  for fd, target in pairs(after) do t.eq(before[fd], target) end
end)

story.done()
