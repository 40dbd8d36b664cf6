-- Clones that are threads of their template's process (doc/thread-clones.md): what they share
-- with clones that are processes, what they have of their own, what they can't have, and what
-- happens to them when things end. Real processes and threads.
local story = require "story"
local fork = require "moonfork"
local clone = require "moonfork.clone"
local remote = require "remote"
local kit = story.kit
local threads = require "thread_story"
local test, thread, result = threads.test, threads.thread, threads.result
local threads_of = threads.number

local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  numbers, long = {}, ("x"):rep(300000)
  for i = 1, 5000 do numbers[i] = {i} end
  count = 0
  function more(s)
    count = count + 1
    numbers[#numbers + 1] = {count}
    collectgarbage()
    s:write(count, " ", #numbers, " ", numbers[4711][1], " ", #long)
  end
  function arguments(s, ...)
    local got = {}
    for i, v in ipairs{...} do
      if type(v) == "string" then got[i] = #v > 100 and #v or v else got[i] = v:read("a") end
    end
    s:write(table.concat(got, ","))
  end
  function fails() error("on purpose") end
  function leaves() os.exit(7) end
  function leaves_inside() coroutine.wrap(function() pcall(clone.exit, 3) end)() end
  function waits(s) s:read("a") end
  function echoes(s) for line in s:lines() do s:write(line, "\n") end end
  function echo(...) return ... end
  function pid() return clone.pid(), clone.id() end
  function raises() error("raised") end
  function hangs(s) while true do end end
  function sleeps() local a = clone.pipe() a:read("a") end
  function forks() return pcall(clone.fork) end
  function execs() return clone.exec("/bin/true", {"true"}) end
  function terms() return pcall(clone.on_term, function() end) end
]]

local GRACE = 2 -- seconds that a process that was closed may take to end

local function template(code)
  return fork.new_exec():eval(FUNCTIONS .. (code or ""))
end

test("each has the template's data, and its own from then on", function(t)
  local p = template()
  for _ = 1, 5 do
    local text, status = result(t, thread(p), "more")
    t.eq(text, "1 5001 4711 300000")
    t.eq(status.code, 0)
    t.ok(status.rusage.utime >= 0)
  end
  p:eval("count = 10")
  t.eq((result(t, thread(p), "more")), "11 5001 4711 300000")
  p:close()
end)

test("strings, long strings and handles arrive, those of the template, too", function(t)
  local p = template()
  p:send_arg("first")
  for _ = 1, 2 do
    local q = thread(p)
    local reader, writer = clone.pipe()
    q:send_arg("second"):send_arg(("y"):rep(200000)):send_fd(reader)
    reader:close()
    writer:write("through")
    writer:close()
    t.eq((result(t, q, "arguments")), "first,second,200000,through")
  end
  p:close()
end)

test("errors and exit codes come back", function(t)
  local p = template "io.stderr = nil"
  local q = thread(p)
  t.got(q:run("fails")):close()
  local status = t.got(q:wait())
  t.eq(status.code, 1)
  t.match(status.error, "on purpose\nstack traceback:")
  q:close()
  local _, left = result(t, thread(p), "leaves")
  t.eq(left.code, 7)
  _, left = result(t, thread(p), "leaves_inside")
  t.eq(left.code, 3)
  q = thread(p)
  local _, err = q:run("nowhere")
  t.error(err, "REMOTE", "nowhere")
  t.eq(err.started, "no")
  q:close()
  q = thread(p):eval("error('not even that')")
  _, err = q:run("more")
  t.error(err, "REMOTE", "not even that")
  q:close()
  p:close()
end)

test("directory, umask and descriptors are each one's own", function(t)
  local here = t:tmp()
  local p = template(([[
    file = io.open(%q, "w")
    file:close()
    function moves(s)
      s:write(io.open("mark") and "there" or "elsewhere")
    end
  ]]):format(here .. "/mark"))
  t.eq((result(t, thread(p):chdir(here), "moves")), "there")
  t.eq((result(t, thread(p), "moves")), "elsewhere")
  -- The socket of another that waits has no second holder: it ends when that one does.
  local first = thread(p)
  local socket = t.got(first:run("waits"))
  t.eq((result(t, thread(p), "more")), "1 5001 4711 300000")
  socket:shutdown()
  t.eq(t.got(first:wait()).code, 0)
  t.eq(socket:read("a"), "")
  socket:close()
  first:close()
  p:close()
end)

test("what a thread can't have of its own is refused by name", function(t)
  local p = template()
  for name, value in pairs {leash = "term", env = {A = "b"}, session = "new", tree = true,
    dumpable = false, stdout = "null", stdin = "socket"} do
    local q = p:fork{isolation = "thread", [name] = value}
    local _, err = q:run("more")
    t.error(err, "UNSUPPORTED", "option '" .. name .. "'")
    t.eq(err.started, "no")
    q:close()
  end
  for name, value in pairs {leash = "kill", env = {}, session = "inherit", tree = false, stdout = "inherit"} do
    t.eq((result(t, p:fork{isolation = "thread", [name] = value}, "more")), "1 5001 4711 300000") -- asks for nothing
  end
  local q = thread(p)
  t.error(select(2, q:kill()), "UNSUPPORTED")
  t.error(select(2, q:to_fd()), "UNSUPPORTED")
  q:close()
  for _, f in ipairs {function(r) r:limit{cpu = 1} end, function(r) r:setenv("A", "b") end} do
    q = thread(p)
    f(q)
    t.error(select(2, q:run("more")), "UNSUPPORTED")
    q:close()
  end
  t.raises("'process'", function() p:fork{isolation = "fibre"} end)
  p:close()
end)

test("its functions know that they are in a thread", function(t)
  local p = template()
  local pool = p:pool("pid", {isolation = "thread", max = 1})
  local pid, id = pool:call()
  t.eq(pid, pool:pids()[1])
  t.eq(#id, 32)
  t.got(pool:drain(10))
  pool:close()
  for name, pattern in pairs {forks = "can't fork", execs = "another program",
    terms = "no signals"} do
    local of = template():pool(name, {isolation = "thread", max = 1})
    local ok, text = of:call()
    t.ok(not ok)
    t.match(text, pattern)
    t.got(of:drain(10))
    of:close()
  end
end)

test("a copy of the process that C code makes ends alone, and tells nobody", function(t)
  local p = template [[
    local raw = assert(package.loadlib(package.searchpath("unsafe.fork", package.cpath:gsub("%?", "unsafe")),
      "luaopen_unsafe_fork"))
    function copies(s, how, code)
      local reader, writer = clone.pipe()
      local me = io.open "/proc/self/stat":read "n"
      raw()
      if io.open "/proc/self/stat":read "n" ~= me then
        reader:close()
        writer:write "copied"
        load("local clone, code = ... " .. how)(clone, tonumber(code))
      end
      writer:close()
      s:write(reader:read "a", "\n")
      s:read "l"
      s:write "still there"
    end
  ]]
  for _, how in ipairs {"clone.exit(code)", "os.exit(code)", "clone.exit(code, true)", "error 'on purpose'"} do
    local q = thread(p)
    local socket = t.got(q:send_arg(how):send_arg "5":run "copies")
    t.eq(socket:read "l", "copied", how)
    socket:write "go\n"
    t.eq(socket:read "a", "still there", how)
    socket:close()
    local status = t.got(q:wait())
    t.eq({status.code, status.error}, {0}, how)
    q:close()
  end
  p:close()
end)

test("a crash ends all that are in the process, and each is told", function(t)
  local p = template()
  local others, sockets = {}, {}
  for i = 1, 3 do
    others[i] = thread(p)
    sockets[i] = t.got(others[i]:run("waits"))
  end
  local q = thread(p):eval [[assert(package.loadlib(package.searchpath("unsafe.crash",
    package.cpath:gsub("%?", "unsafe")), "luaopen_unsafe_crash"))()]]
  t.error(select(2, q:run("more")), "CLONE_DIED")
  q:close()
  for i = 1, 3 do
    local status = t.got(others[i]:wait())
    t.ok(status.signal == 11 or status.code ~= 0, "a crash, or what a sanitizer makes of it")
    others[i]:close()
    sockets[i]:close()
  end
  p:close()
end)

test("a template that is closed ends when they have ended", function(t)
  local p = template()
  local q = thread(p)
  local socket = t.got(q:run("echoes"))
  local pid = p:pid()
  p:close()
  local rounds, stop = 0, false
  local timer = fork.timer(GRACE + 0.3, function() stop = true end)
  t.within(20, function()
    socket:write("a round\n")
    rounds = rounds + (socket:read() == "a round" and 1 or 0)
    return stop
  end)
  timer:close()
  t.ok(t.alive(pid) and rounds > 1)
  socket:close()
  t.eq(t.got(q:wait()).code, 0)
  t.within(10, function() return not t.alive(pid) end)
  q:close()
end)

test("processes are forked when they have ended, and not before", function(t)
  local p = template()
  local q = thread(p)
  local socket = t.got(q:run("waits"))
  local r = p:fork()
  local _, err = r:run("more")
  t.error(err, "FORK_FAILED", "threads of the template")
  r:close()
  socket:close()
  t.eq(t.got(q:wait()).code, 0)
  q:close()
  t.eq((result(t, p:fork(), "more")), "1 5001 4711 300000")
  t.eq((result(t, thread(p), "more")), "1 5001 4711 300000")
  p:close()
end)

test("hooks run: before_fork in the template, on_fork in the thread", function(t)
  local p = template [[
    local born = 0
    clone.before_fork(function()
      born = born + 1
      if born == 3 then return false, "enough" end
    end)
    clone.on_fork(function() where = "thread " .. born end)
    function tells(s) s:write(where) end
  ]]
  t.eq((result(t, thread(p), "tells")), "thread 1")
  t.eq((result(t, thread(p), "tells")), "thread 2")
  local q = thread(p)
  local _, err = q:run("tells")
  t.error(err, "FORK_FAILED", "enough")
  q:close()
  p:close()
end)

test("many leave nothing behind: no thread, descriptor or address", function(t)
  local p = template()
  local function burst(n)
    local all = {}
    for i = 1, n do all[i] = thread(p) end
    for i = 1, n do t.got(all[i]:run("more")):close() end
    for i = 1, n do
      t.eq(t.got(all[i]:wait()).code, 0)
      all[i]:close()
    end
  end
  -- Of interpreters; malloc's arenas and the stacks that libc keeps for the next threads are smaller, and
  -- how many there are is their affair. A sanitizer has ranges of such sizes, too, which fall apart as it uses them.
  local function ranges()
    local n = 0
    for line in io.lines("/proc/" .. p:pid() .. "/maps") do
      local from, to = line:match "^(%x+)-(%x+)"
      from, to = tonumber(from, 16), tonumber(to, 16)
      -- AddressSanitizer's allocator has ranges of its own there, one more for each new size.
      local is_sanitizers = from >= 0x600000000000 and from < 0x640000000000
      if to - from >= 1 << 32 and not is_sanitizers then n = n + 1 end
    end
    return n
  end
  local function nfds()
    local n = 0
    for _ in io.popen("ls /proc/" .. p:pid() .. "/fd"):lines() do n = n + 1 end
    return n
  end
  local function rest() -- a fork of a process gives back what was kept for the next clones
    t.within(10, function() return threads_of(p:pid()) <= 2 end)
    t.eq((result(t, p:fork(), "more")), "1 5001 4711 300000")
    t.within(10, function() return threads_of(p:pid()) == 1 end)
  end
  burst(20)
  rest()
  local alone, fds = ranges(), nfds()
  local q = thread(p)
  local socket = t.got(q:run("waits"))
  t.ok(ranges() > alone, "one that runs has a range of its own")
  socket:close()
  t.eq(t.got(q:wait()).code, 0)
  q:close()
  for _ = 1, 5 do burst(20) end
  rest()
  if not story.is_sanitized then t.eq(ranges(), alone) end
  t.within(10, function() return nfds() == fds end)
  p:close()
end)

test("rpc and pools: calls, errors, workers that hang in Lua or in a wait", function(t)
  local rpc = thread(template()):rpc("echo")
  t.eq(select(2, rpc:call(1, {2})).n or select("#", rpc:call(1, {2})), 2)
  rpc:close()
  local pool = template():pool("echo", {isolation = "thread", max = 3})
  for i = 1, 50 do t.eq(pool:call(i, "x"), i) end
  t.got(pool:drain(10))
  pool:close()
  pool = template():pool("raises", {isolation = "thread", max = 1})
  local _, err = pool:call()
  t.error(err, "REMOTE", "raised")
  t.got(pool:drain(10))
  pool:close()
  for _, name in ipairs {"hangs", "sleeps"} do
    pool = template():pool(name, {isolation = "thread", max = 1, call_timeout = 0.1})
    _, err = pool:call()
    t.error(err, "TIMEOUT")
    t.got(pool:drain(10))
    pool:close()
  end
end)

test("what its objects hold is written at its end", function(t)
  local p = template [[
    function writes(s, name)
      local file = io.open(name, "w")
      file:write("written")
    end
  ]]
  local name = t:tmp() .. "/file"
  local q = thread(p):send_arg(name)
  t.eq(select(2, result(t, q, "writes")).code, 0)
  t.eq(t.read(name), "written")
  p:close()
end)

test("userdata: vouched for by __clone, known, or refused by type and path", function(t)
  local p = template [[
    app = {log = {file = io.tmpfile()}}
  ]]
  local q = thread(p)
  local _, err = q:run("more")
  t.error(err, "UNSUPPORTED", "userdata of type 'FILE%*' %(app%.log%.file%): an open file")
  t.eq(err.started, "no")
  q:close()
  p:eval "app.log.file:close()"
  t.eq((result(t, thread(p), "more")), "1 5001 4711 300000")
  p:eval [[
    local a, b = require("moonfork.clone").pipe()
    pair = {a, b}
    b:write("buffered\nrest\n")
    assert(a:read() == "buffered")
    function reads(s) s:write(pair[1]:read()) end
    function shuts(s) pair[1]:close() s:write("shut") end
  ]]
  t.eq((result(t, thread(p), "shuts")), "shut") -- frees its own buffer, and nobody else's
  t.eq((result(t, thread(p), "reads")), "rest")
  t.eq((result(t, p:fork():eval("pair[2]:close()"), "more")), "1 5001 4711 300000")
  p:eval [[
    pair[1]:close()
    local object = io.tmpfile()
    debug.setmetatable(object, {__clone = function(o)
      assert(o == kept.object)
      told = (told or 0) + 1
    end, __name = "vouched"})
    kept = {object = object}
    function tells(s) s:write(tostring(told)) end
  ]]
  t.eq((result(t, thread(p), "tells")), "1")
  p:eval "getmetatable(kept.object).__clone = function() error('not this one') end"
  q = thread(p)
  _, err = q:run("tells")
  t.error(err, "REMOTE", "not this one")
  q:close()
  p:close()
end)

-- Each order in which objects are closed or left to the collector.
story.test("a program ends while a clone of it runs in a thread, and so does the clone", function(t)
  for _, last in ipairs{"", "p:close()", "c:close()", "p:close() c:close()", "c:close() p:close()", "os.exit(7, true)",
    "c:on_exit(print)"} do
    local script = t:file("script.lua", [[
      local fork = require "moonfork"
      local p = fork.new_exec():eval "function hangs(s) while true do end end"
      local c = p:fork{isolation = "thread"}
      assert(c:run "hangs")
      print(p:pid())
    ]] .. last)
    local pipe = io.popen(("exec %s '%s' 2>&1"):format(os.getenv "LUA" or "lua5.4", script))
    local began = kit.now()
    local text = pipe:read "a"
    local _, how, code = pipe:close()
    t.eq({how, code}, {"exit", last:find "exit%(7" and 7 or 0}, text)
    local pid = math.tointeger(tonumber(text:match "^(%d+)\n"))
    t.ok(pid, text)
    t.ok(kit.now() - began < 8, "it has waited for the clone") -- of 2 s
    t.within(10, function() return not kit.kill(pid, 0) end)
  end
end)

-- Longer than a process that runs nothing would be given to end. Both orders, by close and by the
-- collector.
story.test("a clone that nobody has an object of runs on when its template is closed", function(t)
  local sockets, pids = {}, {}
  for i, ending in ipairs{"clone first", "template first", "collected"} do
    local p = template()
    local c = thread(p)
    sockets[i] = t.got(c:run "echoes")
    pids[i] = p:pid()
    if ending == "clone first" then c:close() p:close() end
    if ending == "template first" then p:close() c:close() end
  end
  collectgarbage()
  collectgarbage()
  local began = kit.now()
  t.within(10, function()
    fork.step(0.05)
    return kit.now() - began > GRACE + 0.7
  end)
  for i, socket in ipairs(sockets) do
    socket:write("still there\n")
    t.eq(socket:read(), "still there")
    socket:close()
    t.within(10, function() -- its process ends with it
      fork.step(0.01)
      return not kit.kill(pids[i], 0) or not t.alive(pids[i])
    end)
  end
end)

test("modules in C: copied, or refused by name", {needs = "lpeg cjson"}, function(t)
  local p = template [[
    local lpeg = require "lpeg"
    words = lpeg.Ct((lpeg.C(lpeg.R("az")^1) + 1)^0)
    function matches(s) collectgarbage() s:write(table.concat(words:match("ab 1 cd"), ",")) end
  ]]
  for _ = 1, 3 do t.eq((result(t, thread(p), "matches")), "ab,cd") end
  p:eval "cjson = require 'cjson'"
  local q = thread(p)
  local _, err = q:run("matches")
  t.error(err, "UNSUPPORTED", "cjson")
  q:close()
  t.eq((result(t, p:fork(), "matches")), "ab,cd")
  p:close()
end)

test("a clone in a thread has processes of its own, however they are made", function(t)
  local p = template [[
    function tries(s, how, command)
      local fork = require "moonfork"
      fork.on_error(function() end)
      local ok, err = pcall(function()
        local p = how == "from_fd" and fork.from_fd(assert(fork.new():to_fd())) or
          fork[how](how == "remote" and {command = {"sh", "-c", command}} or nil)
        local socket = assert(p:eval "function f(s) s:write 'answer' end":run "f")
        return socket:read "a"
      end)
      s:write(tostring(err), "\n")
      local woken = false
      fork.timer(0.001, function() woken = true end)
      fork.loop()
      s:write(woken and "woken" or "asleep")
    end
  ]]
  local agent = "exec " .. remote.AGENT
  for _, how in ipairs {"new", "new_exec", "remote", "from_fd"} do
    for _ = 1, 2 do
      local q = thread(p):send_arg(how, agent)
      t.eq((result(t, q, "tries")), "answer\nwoken", how)
    end
  end
  local q = thread(p):send_arg("template")
  t.match((result(t, q, "tries")), "thread.*woken$")
  t.eq((result(t, p:fork():send_arg("new_exec"), "tries")), "answer\nwoken")
  p:close()
end)

test("what only a process can have is refused by name", function(t)
  local p = template()
  for _, option in ipairs {{"env", {A = "1"}}, {"stdin", "null"}, {"stdout", "null"}, {"stderr", "socket"},
                           {"session", "new"}, {"leash", "keep"}, {"tree", true}, {"dumpable", true}} do
    local q = p:fork{isolation = "thread", [option[1]] = option[2]}
    local _, err = q:run("more")
    t.error(err, "UNSUPPORTED", "'" .. option[1] .. "'")
    t.eq(err.started, "no")
    q:close()
  end
  for _, method in ipairs {{"limit", {nofile = 50}}, {"setenv", "A", "b"}} do
    local q = thread(p)
    q[method[1]](q, table.unpack(method, 2))
    local _, err = q:run("more")
    t.error(err, "UNSUPPORTED", "'" .. method[1] .. "'")
    q:close()
  end
  for _, method in ipairs {{"kill", "KILL"}, {"to_fd"}, {"save", t:tmp() .. "/image"}} do
    local q = thread(p)
    local _, err = q[method[1]](q, table.unpack(method, 2))
    t.error(err, "UNSUPPORTED", method[1] == "save" and "can't be saved" or "'" .. method[1] .. "'")
    t.eq((result(t, q, "more")), "1 5001 4711 300000") -- and is none the worse
  end
  local pool = p:pool("echo", {isolation = "thread", tree = true})
  local _, err = pool:call(1)
  t.error(err, "UNSUPPORTED", "'tree'")
  pool:close()
  local q = thread(p)
  q:to_fd(function(why) q = why end)
  t.within(10, function() return type(q) == "table" and q.code end)
  t.error(q, "UNSUPPORTED", "to_fd")
  p:close()
end)

test("handles = 'close' takes the template's descriptors away, and its end is still told", function(t)
  local p = template [[
    pipe = {clone.pipe()}
    function reads_it(s) s:write(#pipe[1]:read("a")) end
  ]]
  for _ = 1, 3 do
    local text, status = result(t, p:fork{isolation = "thread", handles = "close"}, "reads_it")
    t.eq(text, "0") -- /dev/null
    t.eq(status.code, 0)
  end
  p:close()
end)

-- Its process ends later, with its clones; whoever reads to the end need not wait for them.
test("a process that runs while clones of it live closes its socket at the end of its function", function(t)
  local p = template()
  local q = p:fork()
  local w = thread(q)
  local waiting = t.got(w:run("waits"))
  local socket = t.got(q:run("more"))
  t.eq(socket:read("a"), "1 5001 4711 300000")
  socket:close()
  waiting:close()
  t.eq(t.got(w:wait()).code, 0)
  t.eq(t.got(q:wait()).code, 0)
  w:close()
  q:close()
  p:close()
end)

test("what a module does in a clone is found in none but the clone", function(t)
  t:module("seeds_in_clone", "math.randomseed(42) return {}")
  local p = template()
  local q = thread(p):require "seeds_in_clone"
  t.got(q:run "more"):read "a"
  t.eq(t.got(q:wait()).code, 0)
  t.got(p:seal{audit = "strict"}:memory())
  local socket, err = p:require "seeds_in_clone":seal{audit = "strict"}:run "more"
  t.eq(socket, nil)
  t.error(err, "FORK_FAILED", "seeds_in_clone")
  q:close()
  p:close()
end)

test("memory: what its interpreter has taken", function(t)
  local p = template()
  local q = thread(p)
  local m = t.got(q:memory())
  t.ok(m.lua > 0 and m.uss >= m.lua and m.shared == 0)
  t.got(q:run("waits"))
  local _, err = q:memory()
  t.error(err, "UNSUPPORTED")
  q:close()
  p:close()
end)

story.done()
