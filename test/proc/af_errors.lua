-- What goes wrong, and how it is told: the error object, its codes, the first failure of a
-- chain, misuse, and what follows for a failed process and its clones. The rows AF-10,
-- AF-12, AF-18, AF-20, AF-28, AF-32 and AF-34.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("an error object has code, message, traceback and started", function(t)
  t:module("broken", "local function inner() error 'on purpose' end inner()")
  local socket, err = fork.new():require("broken"):run "type"
  t.eq(socket, nil)
  t.error(err, "REMOTE", "on purpose")
  t.eq(type(err.message), "string")
  t.match(err.message, "on purpose")
  t.match(err.traceback, "broken%.lua:1")
  t.match(err.traceback, "traceback")
  t.eq(err.started, "no")
  t.match(tostring(err), "%S")
end)

story.test("AF-18 an error in an eval: the rest is not executed, the status is 1", function(t)
  local path = t:file "never"
  local p = fork.new():eval "error 'first'":eval("io.open(..., 'w'):close()", path):eval "error 'x'"
  local calls, err = 0, nil
  p:run("type", function(e) calls, err = calls + 1, e end)
  local status
  p:on_exit(function(s) status = s end)
  t.within(5, function() return err and status end)
  t.error(err, "REMOTE", "first")
  t.ok(not err.message:find "x'")
  t.eq(err.started, "no")
  t.eq(status.code, 1)
  t.eq(t.read(path), nil)
  t.eq(calls, 1)
end)

story.test("AF-18 a syntax error, and errors that are not strings", function(t)
  t.error(select(2, fork.new():eval "x = = 1":run "type"), "REMOTE", "=")
  local err = t.error(select(2, fork.new():eval "error({})":run "type"), "REMOTE")
  t.match(tostring(err), "%S")
  err = t.error(select(2, fork.new():eval "error(nil)":run "type"), "REMOTE")
  t.match(tostring(err), "%S")
  err = t.error(select(2, fork.new():eval [[
    error(setmetatable({}, {__tostring = function() return "made to text" end}))
  ]]:run "type"), "REMOTE", "made to text")
  t.eq(err.started, "no")
end)

story.test("AF-20 a module that is missing or fails is named", function(t)
  t:module("good20", "good = true")
  t:module("bad20", "error 'bad20 fails'")
  local err = select(2, fork.new():require("good20", "no.such.module", "bad20"):run "type")
  t.error(err, "REMOTE", "no%.such%.module")
  t.match(err.message, "no/such/module%.lua")
  err = select(2, fork.new():require("good20", "bad20"):run "type")
  t.error(err, "REMOTE", "bad20 fails")
end)

-- Its text was "a Lua error in the other process".
story.test("memory of a process that failed tells what it failed of", function(t)
  local p = fork.new_exec():eval 'error "not today"'
  local memory, err = p:memory()
  t.eq(memory, nil)
  t.error(err, "REMOTE", "not today")
  t.match(err.traceback, "stack traceback")
  t.eq(err.started, "no")
  memory, err = p:memory() -- now it is known
  t.eq(memory, nil)
  t.error(err, "REMOTE", "not today")
  local told -- by the close, because memory does not finish the chain
  fork.on_error(function(e) told = e end)
  p:close()
  t.within(5, function() return told end)
  t.error(told, "REMOTE", "not today")
end)

story.test("AF-28 no function is entered where anything failed", function(t)
  t:module("af28", "return {f = function() end, number = 1}")
  local cases = {
    ["no_such_function"] = "no_such_function",
    ["af28:missing"] = "missing",
    ["af28:number"] = "number",
    ["nowhere:f"] = "nowhere",
    ["af28:f.deeper"] = "deeper",
    ["string.no.such"] = "string",
  }
  for name, pattern in pairs(cases) do
    local calls, err, socket = 0, nil, nil
    local p = fork.new()
    local status
    p:on_exit(function(s) status = s end)
    p:run(name, function(e, s) calls, err, socket = calls + 1, e, s end)
    t.within(5, function() return calls > 0 and status end)
    t.error(err, "REMOTE", pattern)
    t.eq(err.started, "no")
    t.eq(socket, nil)
    t.eq(status.code, 1, name)
    t.eq(calls, 1)
  end
end)

story.test("AF-28 a fork that fails is an error of that process only", {user = true}, function(t)
  local p = fork.new_exec():limit {nproc = 0}
  local err = select(2, p:fork():run "type")
  t.error(err, "FORK_FAILED")
  t.eq(err.started, "no")
  t.got(p:run "type")
end)

story.test("AF-10 program: option, then environment, then the installed one", function(t)
  local log = t:file "log"
  local function wrapper(name)
    local path = t:file(name, ("#!/bin/sh\necho %s >>'%s'\nexec '%s' \"$@\"\n")
      :format(name, log, os.getenv "MOONFORK_TEMPLATE"))
    kit.chmod(path, tonumber("755", 8))
    return path
  end
  local one, two = wrapper "one", wrapper "two"
  local real = os.getenv "MOONFORK_TEMPLATE"
  kit.setenv("MOONFORK_TEMPLATE", one)
  t.got(fork.new_exec():run "type")
  t.got(fork.new_exec {program = two}:run "type")
  kit.setenv("MOONFORK_TEMPLATE", two)
  t.got(fork.new_exec():run "type")
  kit.setenv "MOONFORK_TEMPLATE"
  local socket, err = fork.new_exec():run "type"
  kit.setenv("MOONFORK_TEMPLATE", real)
  t.eq(t.read(log), "one\ntwo\ntwo\n")
  if socket then return end -- one is installed
  t.error(err, "TEMPLATE_START", "libexec/moonfork/moonfork%-template")
end)

story.test("AF-12 a program that cannot be executed gives one error", function(t)
  local cases = {
    [t:file "missing"] = "No such file",
    [t:file("text", "#!/bin/sh\n")] = "denied",
    [t:file("format", "\1\2\3 no program")] = "format",
    [t:tmp()] = "denied",
  }
  kit.chmod(t:file "format", tonumber("755", 8))
  for program, pattern in pairs(cases) do
    local calls, err, status = 0, nil, nil
    local p = fork.new_exec {program = program}
    p:eval "x = 1"
    p:on_exit(function(s) status = s or "told" end)
    p:run("type", function(e) calls, err = calls + 1, e end)
    t.eq(calls, 0)
    t.within(5, function() return calls > 0 and status end)
    for _ = 1, 5 do fork.step(0.001) end
    t.eq(calls, 1)
    t.error(err, "TEMPLATE_START", pattern)
    t.match(tostring(err), program:match "[^/]+$")
    t.eq(err.started, "no")
    local q = fork.new_exec {program = program}
    t.error(select(2, q:fork():run "type"), "TEMPLATE_START", pattern)
    q:close()
  end
end)

story.test("AF-12 a program that is no template gives TEMPLATE_START", function(t)
  local cases = {"/bin/true", "/bin/false"}
  cases[3] = t:file("chatty", "#!/bin/sh\necho hello\nexec sleep 0.2\n")
  cases[4] = t:file("garbage", "#!/bin/sh\nfor fd in 3 4 5 6 7 8 9; do\n" ..
    "  (echo 'garbage that is no hello, and long enough to be more than one header' >&$fd)" ..
    " 2>/dev/null\ndone\nsleep 0.2\n")
  kit.chmod(cases[3], tonumber("755", 8))
  kit.chmod(cases[4], tonumber("755", 8))
  for _, program in ipairs(cases) do
    local socket, err = fork.new_exec {program = program, stdout = "null"}:run "type"
    t.eq(socket, nil, program)
    t.error(err, "TEMPLATE_START")
    t.eq(err.started, "no", program)
  end
end)

story.test("AF-32 after run only pid, kill, on_exit, wait, memory and close remain", function(t)
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:hold")
  local wrong = {
    require = {"string"}, eval = {"x = 1"}, send_fd = {0}, send_arg = {"a"}, run = {"type"},
    seal = {}, limit = {{core = 0}}, take_args = {}, chdir = {"/"}, setenv = {"A", "b"},
    to_fd = {}, fork = {},
  }
  for name, arguments in pairs(wrong) do
    local err = t.raises("", p[name], p, table.unpack(arguments))
    t.match(err, "run")
  end
  t.eq(math.type(p:pid()), "integer")
  t.ok(t.got(p:memory()).rss > 0)
  local status
  p:on_exit(function(s) status = s end)
  t.got(p:kill "KILL")
  t.eq(t.status(p).signal, kit.SIGKILL)
  t.within(5, function() return status end)
  socket:close()
  p:close()
end)

story.test("use of a closed process raises", function(t)
  local p = fork.new()
  p:close()
  p:close()
  for _, name in ipairs {"require", "eval", "send_arg", "run", "seal", "to_fd", "chdir"} do
    t.match(t.raises("", p[name], p, "x"), "closed")
  end
  t.match(t.raises("", p.fork, p), "closed")
end)

story.test("AF-34 an error in the function: status 1, and its text with traceback", function(t)
  t:module("af34", [[
    local function deep() error "the function fails" end
    return {f = function(socket)
      socket:write "entered"
      deep()
    end}
  ]])
  local path = t:file "stderr"
  local fd = kit.open(path, "w")
  local p = fork.new {stderr = fd}
  kit.close(fd)
  local socket = t.got(p:run "af34:f")
  t.eq(socket:read "a", "entered")
  local status = t.status(p)
  t.eq(status.code, 1)
  t.match(status.error, "the function fails")
  t.match(status.error, "af34%.lua:1")
  t.match(status.error, "traceback")
  t.match(t.read(path), "the function fails")
  t.match(t.read(path), "traceback")
end)

story.test("the first failure of a chain is the one that is reported", function(t)
  local p = fork.new():send_fd(999999):eval "error 'second'"
  t.error(select(2, p:run "type"), "EINVAL")
  local q = fork.new():eval "error 'first'"
  t.within(5, function()
    local err = select(2, q:wait(5))
    return t.error(err, "REMOTE", "first")
  end)
end)

story.test("a failure that no call reported goes to on_error, once", function(t)
  local seen = {}
  fork.on_error(function(err) seen[#seen + 1] = err end)
  local p = fork.new():eval "error 'unreported'"
  for _ = 1, 10 do fork.step(0.01) end
  fork.loop()
  t.eq(#seen, 0, "not before close")
  p:close()
  t.within(5, function() return #seen > 0 end)
  t.error(seen[1], "REMOTE", "unreported")
  do
    local q = fork.new():eval "error 'collected'" -- luacheck: ignore
  end
  t.within(5, function()
    t.collect()
    return #seen > 1
  end)
  t.error(seen[2], "REMOTE", "collected")
  local r = fork.new():eval "error 'reported'"
  t.error(select(2, r:run "type"), "REMOTE", "reported")
  r:close()
  for _ = 1, 10 do
    t.collect()
    fork.step(0.005)
  end
  t.eq(#seen, 2)
end)

-- What was told of one clone was taken for told of every other clone of the same template that
-- failed with the same words, so that their failures were lost; and a template kept those words
-- for as long as it lived.
story.test("each clone's own failure goes to on_error, though another's has the same words", function(t)
  local seen = {}
  fork.on_error(function(err) seen[#seen + 1] = err end)
  local p = fork.new_exec()
  local makes = {
    {"REMOTE", "the clone fails", function() return p:fork():eval "-- =clone\nerror 'the clone fails'" end},
    {"EINVAL", "^option cwd", function() return p:fork{cwd = "/dev/null/none"}:eval "x = 1" end},
    {"EINVAL", "^argument #1 of 'send_fd'", function() return p:fork():send_fd(999999) end},
  }
  for _, make in ipairs(makes) do
    local code, text, new = table.unpack(make)
    t.error(select(2, new():run "type"), code, text)
    local before = #seen
    for n = 1, 3 do
      new():close()
      t.within(5, function() return #seen == before + n end)
      t.error(seen[#seen], code, text)
    end
    do
      local q = new() -- luacheck: ignore
    end
    t.within(5, function()
      t.collect()
      return #seen == before + 4
    end)
  end
  for _ = 1, 10 do
    t.collect()
    fork.step(0.005)
  end
  t.eq(#seen, 4 * #makes, "each once")
end)

story.test("a template's failure is told once, whichever of its clones tells it", function(t)
  local seen = {}
  fork.on_error(function(err) seen[#seen + 1] = err end)
  local p = fork.new_exec():eval "error 'the template fails'"
  local a = p:fork()
  local b, c = a:fork(), p:fork()
  t.error(select(2, b:run "type"), "REMOTE", "the template fails")
  for _, process in ipairs {c, a, p, b} do process:close() end
  for _ = 1, 10 do fork.step(0.005) end
  t.eq(#seen, 0)
  p = fork.new_exec():eval "error 'nobody asks'"
  a, c = p:fork(), p:fork()
  b = a:fork()
  for _, process in ipairs {b, c, p, a} do process:close() end
  t.within(5, function() return #seen > 0 end)
  for _ = 1, 10 do fork.step(0.005) end
  t.eq(#seen, 1)
end)

-- Of a template that has ended only its clones tell.
story.test("a template's end is told once, whichever of its clones tells it", function(t)
  local seen = {}
  fork.on_error(function(err) seen[#seen + 1] = err end)
  local p = fork.new_exec()
  t.got(p:memory())
  p:kill "STOP" -- it executes none of them
  local a, b, c = p:fork(), p:fork(), p:fork()
  fork.step(0)
  p:kill "KILL"
  t.error(select(2, a:run "type"), "TEMPLATE_DIED")
  for _, process in ipairs {b, c, p, a} do process:close() end
  for _ = 1, 10 do fork.step(0.005) end
  t.eq(#seen, 0)
end)

story.test("every clone asked of a failed process gets its error, older ones live", function(t)
  local p = fork.new_exec():require "actor"
  local old = p:fork()
  local socket = t.got(old:run "actor:echo")
  p:eval "error 'the source fails'"
  local a = p:fork()
  local b = a:fork()
  local errors = {}
  for i, process in ipairs {a, b} do
    process:run("type", function(err) errors[i] = err or "entered" end)
  end
  t.within(5, function() return errors[1] and errors[2] end)
  for i = 1, 2 do
    t.error(errors[i], "REMOTE", "the source fails")
    t.eq(errors[i].started, "no")
  end
  local status
  p:on_exit(function(s) status = s end)
  t.error(select(2, p:fork():run "type"), "REMOTE", "the source fails")
  t.within(5, function() return status end, "it exits at once")
  t.eq(status.code, 1)
  socket:write "still here\n"
  t.eq(socket:read "l", "still here")
  socket:close()
  t.eq(t.status(old).code, 0)
end)

story.test("misuse raises and names the argument; unknown options list the valid ones", function(t)
  for _, make in ipairs {"new", "new_exec", "template"} do
    local err = t.raises("colour", fork[make], {colour = "red"})
    t.match(err, "stdin")
    t.match(err, "leash")
    t.raises("leash", fork[make], {leash = "rope"})
    t.raises("stdin", fork[make], {stdin = "nothing"})
    t.raises("env", fork[make], {env = "A=b"})
    t.raises("cwd", fork[make], {cwd = {}})
    t.raises("timeout", fork[make], {timeout = "soon"})
    t.raises("session", fork[make], {session = "old"})
    t.raises("handles", fork[make], {handles = "maybe"})
    t.raises("name", fork[make], {name = {}})
    t.raises("", fork[make], 42)
  end
  t.raises("gc", fork.new_exec, {gc = "none"})
  t.raises("spares", fork.new_exec, {spares = {most = 3}})
  t.raises("program", fork.new_exec, {program = {}})
  t.raises("program", fork.new, {program = "/bin/true"})
  local p = fork.new()
  t.raises("limit", p.limit, p, {memory = 1})
  t.raises("seal", p.seal, p, {speed = 1})
  t.raises("option 'gc': one of .* expected, got 'fast'%)", p.seal, p, {gc = "fast"})
  t.raises("option 'audit': one of .* expected, got 1%)", p.seal, p, {audit = 1})
  t.raises("kill", p.kill, p, "NOSUCH")
  t.raises("kill", p.kill, p, {})
  t.raises("wait", p.wait, p, "long")
  t.raises("on_exit", p.on_exit, p, 1)
  t.raises("run", p.run, p)
  t.raises("run", p.run, p, "type", "callback")
  t.raises("from_fd", fork.from_fd, "no")
  t.raises("step", fork.step, "no")
  t.raises("set_waiter", fork.set_waiter, 1)
  t.raises("on_error", fork.on_error, 1)
  t.got(p:run "type")
end)

story.test("TIMEOUT: the function was not entered in time; the process is killed", function(t)
  local t0 = kit.now()
  local p = fork.new {timeout = 0.2}
  p:eval "while true do end"
  local socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "TIMEOUT")
  t.ok(kit.now() - t0 > 0.15, kit.now() - t0)
  local status = t.status(p)
  t.eq(status.signal, kit.SIGKILL)
end)

story.test("TIMEOUT counts from the creation; a fork disarms it, success too", function(t)
  local p = fork.new_exec {timeout = 0.2 * story.scale}
  local q = p:fork():require "actor"
  t.within(2, function() return not kit.msleep(300 * story.scale) end)
  fork.step(0)
  local socket = t.got(q:run "actor:hold")
  t.got(p:run "type")
  socket:close()
  local r = fork.new {timeout = 0.2 * story.scale}:require "actor"
  socket = t.got(r:run "actor:hello")
  socket:read "l"
  kit.msleep(300 * story.scale)
  fork.step(0.01)
  t.ok(t.alive(r:pid()))
  socket:close()
  local given = fork.new {timeout = 0.2 * story.scale}
  local handle = t.got(given:to_fd())
  kit.msleep(300 * story.scale)
  fork.step(0.01)
  local taken = fork.from_fd(handle)
  handle:close()
  t.got(taken:run "type")
  local s = fork.new {timeout = 0.05}
  kit.msleep(100)
  t.error(select(2, s:run "type"), "TIMEOUT")
end)

story.test("CANCELLED: closed while under way", function(t)
  local p = fork.new():eval "require'testkit'.msleep(500)"
  local calls, err = 0, nil
  p:run("type", function(e) calls, err = calls + 1, e or "entered" end)
  fork.step(0.01)
  p:close()
  t.eq(calls, 0, "not inside close")
  t.within(5, function() return err end)
  t.error(err, "CANCELLED")
  fork.step(0.01)
  t.eq(calls, 1)
end)

story.test("CLONE_DIED: it ended instead of answering", function(t)
  local p = fork.new():eval "require'testkit'.kill(require'testkit'.getpid(), 9)"
  local socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "CLONE_DIED")
  t.eq(err.started, "no")
  t.eq(err.exit and err.exit.signal, kit.SIGKILL)
end)

story.test("LIMIT: waits inside waits have a bound", {deadline = 40}, function(t)
  local depth, deepest, failure = 0, 0, nil
  local gate, gate_end = fork.socket.pair()
  local function nested(err)
    if err or failure then
      failure = failure or err
      return
    end
    depth = depth + 1
    if depth > deepest then deepest = depth end
    fork.new():run("type", nested)
    local socket, e = fork.new():run "type"
    if socket then
      socket:close()
      gate:read(1)
    else
      failure = failure or e
      gate_end:close()
    end
    depth = depth - 1
  end
  -- Each callback starts another process, then waits until there were too many: waits pile up.
  fork.new():run("type", function(err)
    if err then failure = err else nested() end
  end)
  t.within(30, function() return failure end)
  t.error(failure, "LIMIT")
  t.ok(deepest >= 40, "waits inside each other: " .. deepest)
  fork.loop()
  gate:close()
end)

story.done()
