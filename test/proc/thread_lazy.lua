-- Clones in threads that are copied as they touch their memory (the option `lazy`,
-- doc/thread-clones.md). Where the kernel serves no page faults for this user, which is so for
-- ordinary users by default, what is refused and what is copied at once; for root whatever clones do
-- with memory that is not there yet: read, write, collect, give back, move, pass to the system,
-- fork; and what their template may do meanwhile. Real processes and threads.
local story = require "story"
local fork = require "moonfork"
local host = require "host"
local threads = require "thread_story"
local result = threads.result
local source = os.getenv "MOONFORK_SOURCE"

-- 4 MiB of tables, strings and closures, a long string, a table with a large array.
local DATA = [[
  local clone = require "moonfork.clone"
  data = {}
  for i = 1, 20000 do
    data[i] = {i, name = "name " .. i, f = function() return i end, next = data[i - 1]}
  end
  long = ("0123456789abcdef"):rep(40000)
  array = {}
  for i = 1, 100000 do array[i] = i end
  version = 1
  function one(s) s:write(data[4711].name, " ", data[4711].f(), " ", version) end
  function sum(s)
    local n = 0
    for i, v in ipairs(data) do
      assert(v.name == "name " .. i and v.f() == i and v.next == data[i - 1])
      n = n + v[1]
    end
    for i, v in ipairs(array) do assert(i == v) end
    s:write(n, " ", version, " ", long == ("0123456789abcdef"):rep(40000) and "same" or "another")
  end
  function waits(s) s:read() sum(s) end
]]
local SUM = "200010000"

local function template(code)
  return fork.new_exec():eval(DATA .. (code or ""))
end

local function lazy(p, ...)
  return p:fork{isolation = "thread", lazy = true}:send_arg(...)
end

local function find_reason()
  local p = fork.new_exec()
  local q = lazy(p)
  local _, err = q:run "type"
  q:close()
  p:close()
  fork.loop()
  return err and err.code == "UNSUPPORTED" and err
end
local refused = find_reason()

local function test(name, f)
  threads.test(name, {root = true}, function(t)
    if refused then t.skip "even root can't have page faults served here" end
    f(t)
  end)
end

local function number_of(path)
  local n = 0
  for _ in io.popen("LD_PRELOAD= ls " .. path):lines() do n = n + 1 end
  return n
end

threads.test("where faults can't be served it is refused by name, and 'try' copies at once", function(t)
  local p = template()
  local q = p:fork{isolation = "thread", lazy = "try"}
  t.eq((result(t, q, "sum")), SUM .. " 1 same")
  q = lazy(p)
  if refused then
    local _, err = q:run "sum"
    t.error(err, "UNSUPPORTED", "option 'lazy'.*userfaultfd.*'try'")
    t.eq(err.started, "no")
    q:close()
    local pool = p:pool("sum", {isolation = "thread", lazy = true})
    _, err = pool:call()
    t.error(err, "UNSUPPORTED", "option 'lazy'")
    pool:close()
  else
    t.eq((result(t, q, "sum")), SUM .. " 1 same")
    p:close()
  end
end)

-- As in containers; for root, too. The device, where there is one, is beside the filter.
threads.test("a filter of system calls that forbids userfaultfd(2) refuses it by name", function(t)
  for _, errno in ipairs{"ENOSYS", "EPERM"} do
    local h <close> = host.start(t, ([[
      local p = fork.new_exec():eval(%q)
      local socket, err = p:fork{isolation = "thread", lazy = true}:run "one"
      print(socket and socket:read "a" or err.code .. " " .. err.started .. " " .. err.message)
      print(p:fork{isolation = "thread", lazy = "try"}:run "one":read "a")
      print(p:fork{isolation = "thread"}:run "one":read "a")
    ]]):format(DATA), {before = {host.tool(t, "seccomp_run"), errno, "userfaultfd"}})
    local how, number = h:ends(20)
    if number == 77 then t.skip "no filter of system calls can be set here" end
    t.eq({how, number}, {"exit", 0}, h:out() .. h:err())
    local first, rest = h:out():match "^([^\n]*)\n(.*)"
    t.eq(rest, "name 4711 4711 1\nname 4711 4711 1\n")
    if first ~= "name 4711 4711 1" then
      t.match(first, "^UNSUPPORTED no .*option 'lazy'.*userfaultfd%(2%): .*/dev/userfaultfd.*'try'")
    else
      t.ok(io.open("/dev/userfaultfd", "r+"), "by the device alone")
    end
  end
end)

story.test("it is an option of threads, and of three values", function(t)
  local p = fork.new_exec()
  t.raises("option 'lazy'.*isolation = 'thread'", function() p:fork{lazy = true} end)
  t.raises("option 'lazy'.*isolation = 'thread'", function() p:fork{isolation = "process", lazy = "try"} end)
  t.raises("option 'lazy'.*true, false or 'try'", function() p:fork{isolation = "thread", lazy = "yes"} end)
  t.raises("option 'lazy'.*isolation = 'thread'", function() p:pool("type", {lazy = true}) end)
  t.raises("option 'lazy'.*true, false or 'try'", function() p:pool("type", {isolation = "thread", lazy = 1}) end)
  t.raises("lazy", function() fork.new{lazy = true} end)
  p:fork{lazy = false}:close()
  p:close()
end)

test("each has what its template had, and its own from then on", function(t)
  local p = template [[
    function changes(s)
      for i = 1, #data, 7 do data[i].name, data[i].extra = "changed " .. i, {i} end
      array[50000] = nil
      for i = 1, #data, 7 do assert(data[i].name == "changed " .. i and data[i].extra[1] == i) end
      s:write(data[2].name, " ", data[8].name, " ", #long)
    end
  ]]
  for _ = 1, 2 do
    t.eq((result(t, lazy(p), "one")), "name 4711 4711 1")
    t.eq((result(t, lazy(p), "changes")), "name 2 changed 8 640000")
    t.eq((result(t, lazy(p), "sum")), SUM .. " 1 same")
  end
  p:close()
end)

test("collections, large blocks that grow, shrink and go away", function(t)
  local p = template [[
    function collects(s)
      collectgarbage()
      data[1].name, data[20000].next = "name 1", data[19999]
      clone.collect()
      collectgarbage "incremental"
      for _ = 1, 200 do collectgarbage "step" end
      collectgarbage "generational"
      for i = 1, 100000 do local garbage = {i, tostring(i)} end
      sum(s)
    end
    function grows(s)
      for i = 100001, 300000 do array[i] = i end
      sum(s)
      s:write(" ", #array)
    end
    function drops(s)
      local text, n = long, #array
      array, long, data = nil, nil, nil
      collectgarbage()
      collectgarbage()
      local again = {}
      for i = 1, 100000 do again[i] = {i} end
      for i = 1, 100000 do assert(again[i][1] == i) end
      s:write(#text, " ", n, " ", text:sub(-3))
      text = nil
      clone.collect()
      local last = ("y"):rep(640000)
      s:write(" ", #last)
    end
  ]]
  for _ = 1, 2 do
    t.eq((result(t, lazy(p), "collects")), SUM .. " 1 same")
    t.eq((result(t, lazy(p), "grows")), SUM .. " 1 same 300000")
    t.eq((result(t, lazy(p), "drops")), "640000 100000 def 640000")
  end
  p:close()
end)

test("the system reads and writes what nobody has touched", function(t)
  local name = t:tmp() .. "/a file with a long name that lies in memory"
  local p = fork.new_exec():eval(DATA .. [[
    path = ...
    paths, texts, buffers = {}, {}, {}
    for i = 1, 300 do
      paths[i] = path .. i
      texts[i] = (("text %d "):format(i)):rep(1000)
      data[#data + 1] = {i}
    end
    function writes(s)
      for i = 1, 300, 50 do
        local file = assert(io.open(paths[i], "w")) -- a name that only the system reads
        file:setvbuf "no"
        assert(file:write(texts[i]))
        file:close()
        assert(os.rename(paths[i], paths[i + 1]))
      end
      s:write(long)
    end
  ]], name)
  t.eq((result(t, lazy(p), "writes")), ("0123456789abcdef"):rep(40000))
  for i = 1, 300, 50 do t.eq(t.read(name .. i + 1), ("text %d "):format(i):rep(1000)) end
  p:close()
end)

test("a template that goes on changes nothing for the clones that wait", function(t)
  local p = template()
  local clones, sockets, pid = {}, {}, p:pid()
  for i = 1, 6 do
    clones[i] = lazy(p)
    sockets[i] = t.got(clones[i]:run "waits")
    if i % 2 == 0 then
      p:eval(([[
        version = %d
        for i = 1, #data do data[i] = {i, name = "name " .. i, f = data[i].f, next = data[i - 1]} end
        array = table.move(array, 1, #array, 1, {})
        long = long:sub(1, -2) .. "f"
        collectgarbage()
      ]]):format(i // 2 + 1))
    end
  end
  p:close() -- and its end does not, either
  for i = 6, 1, -1 do
    sockets[i]:write "go\n"
    t.eq(sockets[i]:read "a", SUM .. " " .. (i + 1) // 2 .. " same")
    sockets[i]:close()
    t.eq(t.got(clones[i]:wait()).code, 0)
    clones[i]:close()
  end
  t.within(10, function() return not t.alive(pid) end)
end)

test("a template that runs its own function, with hooks, or that is asked", function(t)
  local p = template [[
    local n = 0
    clone.before_fork(function() n = n + 1 version = n data[4711].name = "name 4711" end)
    function runs(s) data[4711], version = nil, "last" s:write "ran" end
  ]]
  local clones, sockets = {}, {}
  for i = 1, 3 do
    clones[i] = lazy(p)
    sockets[i] = t.got(clones[i]:run "waits")
    local q = p:fork()
    t.error(select(2, q:run "one"), "FORK_FAILED", "threads of the template")
    q:close()
    t.ok(t.got(p:memory()).lua > 0)
    p:seal()
  end
  local socket = t.got(p:run "runs")
  t.eq(socket:read "a", "ran")
  socket:close()
  for i = 1, 3 do
    sockets[i]:write "go\n"
    t.eq(sockets[i]:read "a", SUM .. " " .. i .. " same")
    sockets[i]:close()
    t.eq(t.got(clones[i]:wait()).code, 0)
    clones[i]:close()
  end
  t.eq(t.got(p:wait()).code, 0)
  p:close()
end)

-- What they make, they make beside memory that comes and goes.
test("programs run as in a process", function(t)
  for _, name in ipairs{"arrays", "chunks", "closing", "collector", "coroutines", "errors", "metamethods", "sorting",
    "strings", "varargs", "weak"} do
    local f = assert(io.open(source .. "/test/image/programs/" .. name .. ".lua"))
    local p = fork.new_exec():eval(DATA .. [[
      hop = {call = function(f, ...) return f(...) end, moves = function() return 0 end,
        protected = function(...)
          local r = table.pack(pcall(...))
          if not r[1] then return false, r[2] end
          return table.unpack(r, 2, r.n)
        end}
      package.loaded.hop = hop
      local program = assert(load(..., "@" .. select(2, ...)))
      function go(s) program() sum(s) end
    ]], f:read "a", name .. ".lua")
    f:close()
    local q = lazy(p)
    local text, status = result(t, q, "go")
    t.eq({text, status.code, status.error}, {SUM .. " 1 same", 0}, name)
    p:close()
  end
end)

test("C code in one forks: both have everything", function(t)
  local p = template [[
    local function load_fork()
      return assert(package.loadlib(package.searchpath("unsafe.fork", package.cpath:gsub("%?", "unsafe")),
        "luaopen_unsafe_fork"))
    end
    local raw = load_fork()
    function forks(s)
      local reader, writer = clone.pipe()
      local me = io.open "/proc/self/stat":read "n"
      raw()
      if io.open "/proc/self/stat":read "n" ~= me then
        reader:close()
        sum(writer)
        clone.exit(0)
      end
      writer:close()
      s:write(reader:read "a", ", ")
      sum(s)
    end
  ]]
  t.eq((result(t, lazy(p), "forks")), SUM .. " 1 same, " .. SUM .. " 1 same")
  p:close()
end)

-- The copies have no thread that would give a lock back.
test("copies that C code makes while others are served go on", function(t)
  local p = fork.new_exec():eval [[
    local clone = require "moonfork.clone"
    local raw = assert(package.loadlib(package.searchpath("unsafe.fork", package.cpath:gsub("%?", "unsafe")),
      "luaopen_unsafe_fork"))
    data, arrays = {}, {}
    for i = 1, 100000 do data[i] = {i} end
    for i = 1, 20 do arrays[i] = table.move(data, 1, 16384, 1, {}) end
    function reads(s)
      local n = 0
      for i = 1, #data, 97 do n = n + data[i][1] end
      s:write(n)
    end
    function forks(s)
      local me = io.open "/proc/self/stat":read "n"
      for _ = 1, 30 do
        local reader, writer = clone.pipe()
        raw()
        if io.open "/proc/self/stat":read "n" ~= me then
          reader:close()
          for _, array in ipairs(arrays) do array[#array + 1] = 1 end -- large blocks move
          writer:write "done"
          clone.exit(0)
        end
        writer:close()
        assert(reader:read "a" == "done")
        reader:close()
      end
      s:write "all"
    end
  ]]
  local q = lazy(p)
  local s = t.got(q:run "forks")
  for _ = 1, 30 do
    local sockets = {}
    for i = 1, 3 do sockets[i] = t.got(lazy(p):run "reads") end
    for i = 1, 3 do
      t.eq(sockets[i]:read "a", "51504636")
      sockets[i]:close()
    end
  end
  t.eq(s:read "a", "all")
  s:close()
  t.eq(t.got(q:wait()).code, 0)
  q:close()
  p:close()
end)

test("programs that one starts, and a pool", function(t)
  local p = template [[
    function shell(s, n)
      local pipe = io.popen("LD_PRELOAD= exec echo " .. data[4711].name)
      s:write(pipe:read "a", tostring(os.execute "LD_PRELOAD= exec true"))
      pipe:close()
    end
    function name_of(i) return data[i].name end
    function hangs() while true do end end
  ]]
  t.eq((result(t, lazy(p), "shell")), "name 4711\ntrue")
  local pool = p:pool("name_of", {isolation = "thread", lazy = "try", max = 3})
  for i = 1, 3000, 100 do t.eq(pool:call(i), "name " .. i) end
  t.got(pool:drain(10))
  pool:close()
  pool = template "function hangs() while true do end end":pool("hangs", {isolation = "thread", lazy = true, max = 1,
    call_timeout = 0.1})
  t.error(select(2, pool:call()), "TIMEOUT")
  t.got(pool:drain(10))
  pool:close()
end)

test("memory() counts what is there", function(t)
  local p = template()
  local eager, few = threads.thread(p), lazy(p)
  local all, some = t.got(eager:memory()), t.got(few:memory())
  t.ok(all.uss > 4 << 20 and some.uss < 1 << 20, all.uss .. " " .. some.uss)
  t.eq(all.lua, some.lua)
  t.eq((result(t, few, "sum")), SUM .. " 1 same")
  t.eq((result(t, eager, "one")), "name 4711 4711 1")
  p:close()
end)

test("many leave nothing behind: no thread, descriptor or memory", function(t)
  local p = template()
  local pid = p:pid()
  local function burst(n)
    local all = {}
    for i = 1, n do all[i] = lazy(p) end
    for i = 1, n do t.got(all[i]:run "one"):close() end
    for i = 1, n do
      t.eq(t.got(all[i]:wait()).code, 0)
      all[i]:close()
    end
  end
  local function rest() -- a fork of a process waits until all threads are gone
    t.eq((result(t, p:fork(), "one")), "name 4711 4711 1")
    t.within(10, function() return threads.number(pid) == 1 end)
  end
  local function resident()
    return tonumber(t.read("/proc/" .. pid .. "/status"):match "VmRSS:%s*(%d+)")
  end
  burst(50)
  rest()
  local fds, before = number_of("/proc/" .. pid .. "/fd"), resident()
  for _ = 1, 20 do burst(50) end
  rest()
  t.eq(number_of("/proc/" .. pid .. "/fd"), fds)
  if not story.is_sanitized then -- a sanitizer keeps what was freed
    t.ok(resident() < before + 3000, resident() .. " KiB after " .. before)
  end
  p:close()
end)

test("the thread that serves them ends by itself when there are none", function(t)
  local p = template()
  t.eq((result(t, lazy(p), "one")), "name 4711 4711 1")
  p:eval "version = 1" -- the one that was ready for another clone ends
  t.within(10, function() return threads.number(p:pid()) == 1 end)
  t.eq((result(t, lazy(p), "sum")), SUM .. " 1 same")
  p:close()
end)

-- The thread that serves has a table of its own.
test("that no descriptor is free says nothing of page faults", function(t)
  local works = 0
  for n = 3, 14 do
    local p = fork.new_exec():eval "long = ('x'):rep(2 << 20) function size(s) s:write(#long) end"
    local q = lazy(p:limit{nofile = n})
    local socket, err = q:run "size"
    if socket then
      t.eq(socket:read "a", "2097152")
      socket:close()
      works = works + 1
    else
      t.ok(err.code ~= "UNSUPPORTED", err)
    end
    q:close()
    p:close()
  end
  t.ok(works > 0)
end)

test("a template may close all descriptors that it finds", function(t)
  local p = template [[
    function closes(s)
      os.execute "true"
      sum(s)
    end
  ]]
  local q = p:fork{isolation = "thread", lazy = true, handles = "close"}
  t.eq((result(t, q, "closes")), SUM .. " 1 same")
  p:close()
end)

story.done()
