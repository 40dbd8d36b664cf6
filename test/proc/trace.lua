-- fork.trace: what happened, as a timeline that Perfetto opens. The file is read as JSON here,
-- at any moment, also of a program that was killed; spans have to nest, and each process has a
-- row with a beginning and an end.
local story = require "story"
local fork = require "moonfork"
local host = require "host"
local json = require "json"
local stop = require "stop"
local kit = story.kit

-- The spans and marks of each row: {[pid] = {name=, spans = {...}, marks = {...}}}. Checks that
-- spans nest; with `cut` the last ones may be without an end.
local function rows_of(t, text, cut)
  local rows, order = {}, {}
  for i, e in ipairs(json.read(text)) do
    t.eq(math.type(e.pid), "integer", "pid")
    t.eq(math.type(e.ts), "integer", "ts")
    rows[e.pid] = rows[e.pid] or {spans = {}, marks = {}, beside = {}, open = {}}
    order[i] = {event = e, i = i}
  end
  table.sort(order, function(a, b)
    if a.event.ts ~= b.event.ts then return a.event.ts < b.event.ts end
    return a.i < b.i
  end)
  for _, o in ipairs(order) do
    local e, row = o.event, rows[o.event.pid]
    if e.ph == "M" then
      row[e.name] = e.args.name
    elseif e.ph == "i" then
      row.marks[#row.marks + 1] = e
    elseif e.ph == "B" then
      local span = {name = e.name, cat = e.cat, from = e.ts, args = e.args or {},
        parent = row.open[#row.open]}
      row.spans[#row.spans + 1] = span
      row.open[#row.open + 1] = span
    elseif e.ph == "E" then
      local span = table.remove(row.open)
      t.ok(span, "an end without a beginning in row " .. e.pid)
      t.ok(span.from <= e.ts)
      span.to = e.ts
      for key, value in pairs(e.args or {}) do span.args[key] = value end
    elseif e.ph == "b" or e.ph == "e" then
      local id = e.id2["local"]
      t.eq(row.beside[id] ~= nil, e.ph == "e", "calls beside each other")
      if e.ph == "b" then
        row.beside[id] = e
      else
        row.spans[#row.spans + 1] = {name = e.name, cat = e.cat, from = row.beside[id].ts,
          to = e.ts, args = row.beside[id].args or {}, beside = true}
        row.beside[id] = nil
      end
    else
      t.fail("an event of the kind %s", tostring(e.ph))
    end
  end
  for pid, row in pairs(rows) do
    t.ok(row.process_name, "row " .. pid .. " has a name")
    if not cut then
      t.eq(#row.open, 0, "spans without an end in row " .. pid)
      t.eq(next(row.beside), nil)
    end
  end
  return rows
end

local function span(row, name)
  for _, s in ipairs(row.spans) do
    if s.name == name then return s end
  end
end

local function mark(row, name)
  for _, m in ipairs(row.marks) do
    if m.name == name then return m end
  end
end

local function count(list, name)
  local n = 0
  for _, s in ipairs(list) do
    if s.name == name then n = n + 1 end
  end
  return n
end

-- Traces f, and gives the rows and the text.
local function traced(t, f)
  local path = t:tmp() .. "/trace.json"
  t.got(fork.trace(path))
  local ok, err = xpcall(f, debug.traceback)
  t.got(fork.trace(nil))
  if not ok then error(err, 0) end
  local text = t.read(path)
  return rows_of(t, text), text
end

story.test("a trace has a row for each process, and what it did", function(t)
  local template, clone, pids
  local rows = traced(t, function()
    template = fork.new_exec{name = "words"}
    template:require "string"
    t.within(10, function() fork.step(0.05) return not fork.step(0) end)
    template:eval([[-- =prepare
      local kit, go = require "testkit", ...
      while not io.open(go) do kit.msleep(1) end
      function work(s) s:read(1) s:write "done" end]], t:tmp() .. "/go")
    kit.msleep(30)
    t:file("go", "")
    t.within(10, function() fork.step(0.05) return not fork.step(0) end)
    template:set("answer", 42)
    template:seal()
    clone = template:fork()
    local s = t.got(clone:run "work")
    kit.msleep(30)
    s:write "."
    t.eq(s:read "a", "done")
    s:close()
    t.eq(t.status(clone).code, 0)
    pids = {template:pid(), clone:pid()}
    template:close()
    fork.loop()
    t.outside(10, function() return not t.alive(pids[1]) end)
    fork.step(0) -- nobody waits for the template's end, but it is noticed
  end)
  local parent, mother, child = rows[kit.getpid()], rows[pids[1]], rows[pids[2]]
  t.ok(parent and mother and child, "each has the row of its number")
  t.eq(mother.process_name, "words")
  t.eq(child.process_name, "work")
  t.eq(child.thread_name, "work")
  for name, category in pairs {start = "start", ["require string"] = "load",
    ["eval prepare"] = "load", ["set answer"] = "load", seal = "seal"} do
    local s = span(mother, name)
    t.ok(s, name)
    t.eq(s.cat, category)
    t.eq(s.parent.name, "words")
  end
  t.ok(span(mother, "eval prepare").to - span(mother, "eval prepare").from >= 30000)
  t.ok(span(mother, "start").args.program:find "moonfork%-template")
  local born, run = span(child, "fork"), span(child, "run work")
  t.eq(born.args.template, pids[1])
  t.ok(run.from >= born.to and run.to - run.from >= 30000)
  t.eq(mark(child, "death").args.code, 0)
  t.eq(mark(mother, "death").args.code, 0)
  for _, row in ipairs {mother, child} do
    t.ok(row.spans[1].from and row.spans[1].to and not row.spans[1].parent)
    t.ok(row.spans[1].args.maxrss_bytes > 0)
  end
end)

story.test("a trace shows how a process ended, and what killed it", function(t)
  local killed, raised, missing, late
  local rows = traced(t, function()
    local mother = fork.new():eval [[
      function hang() while true do require"testkit".msleep(1e6) end end
      function raise() error("no luck", 0) end]]
    killed, raised, missing = mother:fork(), mother:fork{stderr = "null"}, mother:fork()
    t.got(killed:run "hang"):close()
    t.got(killed:kill "USR1")
    t.eq(t.status(killed).signal, kit.SIGUSR1 or 10)
    t.got(raised:run "raise"):close()
    t.eq(t.status(raised).code, 1)
    local _, err = missing:run "not_there"
    t.error(err, "REMOTE")
    t.status(missing)
    late = fork.new{timeout = 0.1}:eval "require'testkit'.msleep(5000)"
    _, err = late:run "type"
    t.error(err, "TIMEOUT")
    t.status(late)
    mother:close()
    fork.loop()
  end)
  local row = rows[killed:pid()]
  t.eq(mark(row, "kill").args.signal, "USR1")
  t.eq(mark(row, "death").args.signal, "USR1")
  row = rows[raised:pid()]
  t.eq(mark(row, "death").args.code, 1)
  t.match(mark(row, "death").args.error, "no luck")
  row = rows[missing:pid()]
  t.ok(row and mark(row, "death").args.code == 1)
  t.eq(span(row, "run not_there"), nil)
  row = rows[late:pid()]
  t.eq(mark(row, "timeout").args.after_ms, 100)
  t.eq(mark(row, "kill").args.signal, "KILL")
end)

story.test("a failed load has its error in the span; what never started is told", function(t)
  local pid
  local rows = traced(t, function()
    local p = fork.new():eval "error 'broken on purpose'"
    local _, err = p:run "type"
    t.error(err, "REMOTE")
    t.status(p)
    local q = fork.new_exec{program = "/no/such/program", name = "nobody"}
    _, err = q:run "type"
    t.error(err, "TEMPLATE_START")
    q:close()
    pid = p:pid()
    p:close()
    fork.loop()
  end)
  local failed
  for _, s in ipairs(rows[pid].spans) do failed = failed or s.args.error and s end
  t.eq(failed.args.error, "REMOTE")
  t.match(failed.args.message, "broken on purpose")
  local never = mark(rows[kit.getpid()], "never started")
  t.eq(never.args.name, "nobody")
  t.eq(never.args.error, "TEMPLATE_START")
end)

story.test("calls: one after the other, with the time that each waited", function(t)
  local pid
  local rows = traced(t, function()
    local rpc = fork.new():eval([[
      local kit, go = require "testkit", ...
      function nap(i)
        while not io.open(go .. i) do kit.msleep(1) end
        if i == 4 then error "four" end
      end
      function prepare() nap(0) end]], t:tmp() .. "/go"):rpc("nap", {init = "prepare"})
    local n = 0
    local function answered(err)
      n = n + 1
      t.eq(err and err.code, n == 4 and "REMOTE" or nil)
      kit.msleep(10) -- the next call is at work meanwhile
      t:file("go" .. n + 1, "")
    end
    for i = 1, 4 do rpc:call(i, answered) end
    kit.msleep(20)
    t:file("go0", "")
    t:file("go1", "")
    t.within(10, function() fork.step(0.05) return n == 4 end)
    pid = rpc:process():pid()
    rpc:close()
    fork.loop()
  end)
  local row = rows[pid]
  local before, n = span(row, "init prepare"), 0
  t.eq(before.parent.name, "run nap")
  for _, s in ipairs(row.spans) do
    if s.name == "call nap" then
      n = n + 1
      t.eq(s.parent.name, "run nap")
      t.ok(s.from >= before.to)
      t.ok(s.args.queue_us >= 20000, "they waited for the init function")
      if n > 1 then t.ok(s.to - s.from >= 10000) end
      t.eq(s.args.error, n == 4 and "REMOTE" or nil)
      before = s
    end
  end
  t.eq(n, 4)
end)

story.test("calls that a pool hands to its workers, and what becomes of workers", function(t)
  local worker
  local limit = story.scale > 1 and 2 or 0.5 -- far above the 150 ms that a call naps
  local rows = traced(t, function()
    local mother = fork.new():eval [[
      function work(ms) require"testkit".msleep(ms) return ms end]]
    local pool = mother:pool("work", {max = 1, load = 1, call_timeout = limit})
    local function run(ms)
      local done, failed
      pool:with{idempotent = true}:call(ms, function(err, v) done, failed = v or false, err end)
      t.within(10, function() fork.step(0.05) return done ~= nil end)
      return done, failed
    end
    t.eq(run(1), 1)
    worker = pool:pids()[1]
    -- its worker dies: the call is run again
    local done
    pool:with{idempotent = true}:call(150, function(_, v) done = v end)
    fork.step(0.02)
    kit.kill(worker, kit.SIGKILL)
    t.within(10, function() fork.step(0.05) return done == 150 end)
    local _, err = run(5000) -- longer than call_timeout
    t.error(err, "TIMEOUT")
    t.eq(run(2), 2)
    t.got(pool:reload(fork.new():eval "function work(ms) return -ms end"))
    t.eq(run(3), -3)
    for _, e in pool:map {1, 2, 3} do t.eq(e, nil) end
    pool:close()
    fork.loop()
  end)
  local parent = rows[kit.getpid()]
  t.eq(count(rows[worker].spans, "call work"), 2)
  t.eq(rows[worker].spans[#rows[worker].spans].args.error, "CLONE_DIED")
  t.eq(mark(rows[worker], "death").args.signal, "KILL")
  t.eq(mark(parent, "retry").args.runs, 1)
  local stuck
  for _, row in pairs(rows) do stuck = stuck or row ~= parent and mark(row, "timeout") and row end
  t.eq(mark(stuck, "timeout").args.after_ms, math.tointeger(limit * 1000))
  t.eq(mark(stuck, "kill").args.signal, "KILL")
  t.eq(mark(parent, "reload").args.result, "done")
  local nchunks = 0
  for _, row in pairs(rows) do
    nchunks = nchunks + count(row.spans, "chunk work")
    for _, s in ipairs(row.spans) do
      if s.cat == "call" and s.name ~= "init" then t.ok(s.args.queue_us >= 0) end
    end
  end
  t.ok(nchunks >= 1)
end)

story.test("asynchronous calls stand beside each other", {needs = "luv"}, function(t)
  local pid
  local rows = traced(t, function()
    local rpc = fork.new():eval [[
      function later(done, ms)
        local uv = require "luv"
        local timer = uv.new_timer()
        timer:start(ms, 0, function() timer:close() done(ms) end)
      end]]:rpc("later", {async = true})
    local n = 0
    for _ = 1, 3 do rpc:call(100, function(err) t.eq(err, nil) n = n + 1 end) end
    t.within(10, function() fork.step(0.05) return n == 3 end)
    pid = rpc:process():pid()
    rpc:close()
    fork.loop()
  end)
  local from, to = {}, {}
  for _, s in ipairs(rows[pid].spans) do
    if s.beside then from[#from + 1], to[#to + 1] = s.from, s.to end
  end
  t.eq(#from, 3)
  t.ok(math.max(table.unpack(from)) < math.min(table.unpack(to)), "all at once")
end)

story.test("processes that were there before get their rows when a trace begins", function(t)
  local p = fork.new():eval "function hang() require'testkit'.msleep(1e6) end"
  local q = p:fork{name = "older"}
  t.got(q:run "hang"):close()
  local rows = traced(t, function() fork.step(0.01) end)
  local row = rows[q:pid()]
  t.eq(row.process_name, "older")
  t.eq(row.spans[#row.spans].name, "run") -- what it entered then nobody has noted
  t.ok(rows[p:pid()])
  q:kill "KILL"
  q:wait()
  p:close()
  fork.loop()
end)

story.test("names of any bytes, and long ones, are JSON", function(t)
  local pid
  local name = 'a"b\\c\n\27[2J\255' .. ("\u{20ac}"):rep(200)
  local rows = traced(t, function()
    local p = fork.new{name = name:gsub("\n", "")}:eval("-- =" .. ("x"):rep(1000) .. "\nlocal a")
    t.got(p:run "type"):close()
    t.status(p)
    pid = p:pid()
    p:close()
    fork.loop()
  end)
  t.match(rows[pid].process_name, '^a"b\\c\27%[2J\u{fffd}\u{20ac}')
end)

story.test("wrong arguments raise; paths that can't be written are an error", function(t)
  t.raises("bad argument #1 to 'trace' %(string expected, got number%)", fork.trace, 42)
  t.raises("the path is empty", fork.trace, "")
  t.raises("zero byte", fork.trace, "a\0b")
  local path = t:tmp() .. "/trace.json"
  t.got(fork.trace(path))
  local ok, err = fork.trace(t:tmp() .. "/no/folder/t")
  t.eq(ok, nil)
  t.error(err, "EINVAL", "/no/folder/t can't be written: .*[Nn]o such file")
  ok, err = fork.trace(t:tmp())
  t.eq(ok, nil)
  t.error(err, "EINVAL", "no regular file")
  local p = fork.new()
  t.got(p:run "type"):close()
  t.status(p)
  local out = t:lua(([[
    local fork = require "moonfork"
    local ok, err = fork.trace(%q)
    print(ok, err.code, err)]]):format(path))
  t.match(out, "^nil\tEINVAL\t.*another program writes its trace there")
  t.eq(fork.trace(), true)
  t.eq(fork.trace(nil), true)
  t.ok(rows_of(t, t.read(path))[p:pid()], "the trace went on all the while")
  p:close()
end)

-- A program that is busy with all that is traced.
local BUSY = [[
  fork.trace(arg[1])
  local template = fork.new_exec():eval "function work(x) return x end function quick(s) end"
  local pool = template:fork():pool("work", {max = 2})
  local function again(err) pool:call(1, again) end
  for _ = 1, 8 do again() end
  local function born(err, socket)
    if socket then socket:close() end
    template:fork():run("quick", born)
  end
  for _ = 1, 4 do born() end
  print "ready"
  fork.loop()
]]

story.test("a program that is killed at any moment leaves JSON", {busy = true, deadline = 60},
  function(t)
    math.randomseed()
    for round = 1, host.rounds(12, 500) do
      local path = t:tmp() .. "/killed.json"
      local h <close> = host.start(t, BUSY, {script = {path}})
      h:says "ready"
      kit.msleep(math.random(0, 150))
      h:kill(kit.SIGKILL)
      h:ends()
      local text = t.read(path)
      local ok, rows = pcall(rows_of, t, text, true)
      if not ok then t.fail("round %d: %s", round, tostring(rows)) end
      t.ok(rows[h.pid], "the parent's row")
      os.remove(path)
    end
  end)

story.test("the file is JSON at any moment of a running program", {busy = true}, function(t)
  local path = t:tmp() .. "/live.json"
  local h <close> = host.start(t, BUSY, {script = {path}})
  h:says "ready"
  local size = 0
  local last = kit.now() + 0.6
  while kit.now() < last do
    stop(h.pid) -- who reads a file while it is written may see a half of that
    local text = t.read(path)
    kit.kill(h.pid, kit.SIGCONT)
    json.read(text)
    size = #text
    kit.msleep(math.random(0, 3))
  end
  t.ok(size > 100000, size)
  h:kill(kit.SIGKILL)
end)

story.test("MOONFORK_TRACE traces a program from its beginning to its end", function(t)
  local path = t:tmp() .. "/by%p.json"
  local out = t:lua([[
    local fork = require "moonfork"
    local p = fork.new()
    assert(p:run "type"):close()
    p:wait()
    io.write(p:pid(), " ", require"testkit".getpid())]], {before = "env MOONFORK_TRACE=" .. path})
  local pid, own = out:match "(%d+) (%d+)"
  local rows = rows_of(t, t.read((path:gsub("%%p", own))))
  t.ok(rows[tonumber(pid)] and rows[tonumber(own)])
end)

story.test("MOONFORK_TRACE: programs inside of programs have files of their own", function(t)
  local path = t:tmp() .. "/outer.json"
  local out = t:lua([[
    local fork = require "moonfork"
    local p = fork.new():eval [=[function nest(s)
      local fork = require "moonfork"
      local q = fork.new_exec()
      assert(q:run "type"):close()
      q:wait()
      s:write(q:pid(), " ", require"testkit".getpid())
    end]=]
    local s = assert(p:run "nest")
    io.write(s:read "a", " ", p:pid())
    p:wait()]], {before = "env MOONFORK_TRACE=" .. path})
  local inner, middle, outer = out:match "(%d+) (%d+) (%d+)"
  t.eq(middle, outer)
  local rows = rows_of(t, t.read(path))
  t.ok(rows[tonumber(middle)] and not rows[tonumber(inner)])
  rows = rows_of(t, t.read(path .. "." .. middle), true) -- a clone leaves without a last word
  t.ok(rows[tonumber(middle)] and rows[tonumber(inner)])
end)

story.test("MOONFORK_TRACE that can't be written disturbs no program", function(t)
  local program = [[
    local fork = require "moonfork"
    if arg[1] then fork.on_error(function(err) print(err.code, err) end) end
    local p = fork.new()
    assert(p:run "type"):close()
    p:wait()
    print "fine"]]
  local before = "env MOONFORK_TRACE=/no/such/folder/t"
  local out, code, err = t:lua(program, {before = before})
  t.eq(out, "fine\n")
  t.eq(code, 0)
  t.eq(err, "")
  out = t:lua(program, {before = before, after = "x </dev/null"})
  t.match(out, "^EINVAL\t[^\n]*/no/such/folder/t can't be written[^\n]*\nfine\n$")
end)

story.test("a full disk ends the trace, on_error hears of it once, the program goes on",
  function(t)
    local path = t:tmp() .. "/full.json"
    local out, code = t:lua(([[
      local fork = require "moonfork"
      local heard = 0
      fork.on_error(function(err) heard = heard + 1 print(err.code, err) end)
      assert(fork.trace(%q))
      local rpc = fork.new():eval "function echo(x) return x end":rpc "echo"
      for i = 1, 8000 do assert(rpc(i) == i) end
      assert(heard == 1, heard)
      print(fork.trace(nil))
      rpc:close()
      fork.loop()]]):format(path), {shell = "ulimit -f 1024"})
    t.eq(code, 0)
    t.match(out, "^LIMIT\t[^\n]*full.json can't be written, and has ended: [^\n]*\ntrue\n$")
    rows_of(t, t.read(path), true)
  end)

story.test("copies of the program don't write its trace", function(t)
  local path = t:tmp() .. "/copies.json"
  local out = t:lua(([[
    local fork = require "moonfork"
    assert(fork.trace(%q))
    function work(s) s:write(require"testkit".getpid()) end
    local copy = fork.template()
    local pids = {}
    for i = 1, 3 do
      local p = copy:fork()
      local s = assert(p:run "work")
      assert(tonumber(s:read "a") == p:pid())
      p:wait()
    end
    io.write(copy:pid())
    copy:close()
    fork.loop()]]):format(path))
  local rows = rows_of(t, t.read(path))
  t.ok(rows[tonumber(out)])
  local n = 0
  for _, row in pairs(rows) do n = n + count(row.spans, "run work") end
  t.eq(n, 3)
end)

story.test("early: the template's copy has no trace of its parent's", function(t)
  local path = t:tmp() .. "/early.json"
  local out = t:lua([[
    require "moonfork.early"
    local fork = require "moonfork"
    local p = fork.new()
    assert(p:run "type"):close()
    p:wait()
    io.write(p:pid())]], {before = "env MOONFORK_TRACE=" .. path})
  t.ok(rows_of(t, t.read(path))[tonumber(out)])
end)

story.done()
