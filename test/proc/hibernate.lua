-- clone.hibernate(file): a running function that goes on in another process (section 1.13 of the
-- manual), at any depth, as often as one likes, at the same address and at another one; with a new
-- socket and closed handles; and what can't be saved is an error that changes nothing.
local image_file = require "image_file"
local story = require "story"
local image_story = require "image_story"
local fork = require "moonfork"
local kit = story.kit

-- Starts code as a function that sees the socket and what was sent, and hibernate(file), which
-- leaves the process once it is saved; what it returns is written to the socket that is the last.
local FUNCTION = [==[
  local clone = require "moonfork.clone"
  local code = ...
  function hibernate(file)
    local how, socket = clone.hibernate(file)
    if how == "saved" then os.exit(7) end
    if how == "loaded" then current = socket end
    return how, socket
  end
  function go(socket, ...)
    current = socket
    local text = assert(load(code, "=function"))(socket, ...)
    current:write(tostring(text))
  end
]==]

local function begin(process, code, ...)
  process:eval(FUNCTION, code)
  if select("#", ...) > 0 then process:send_arg(...) end
  return process, (assert(process:run "go"))
end

local function answer(t, process, socket)
  local text = socket:read "a"
  socket:close()
  local status = t.status(process)
  return text, status.code, status.error
end

-- Until the function has saved itself and left.
local function saved(t, process, code, ...)
  local p, socket = begin(process, code, ...)
  local text, code_of_exit, err = answer(t, p, socket)
  t.eq({text, code_of_exit, err}, {"", 7})
end

local function continued(t, process)
  local socket = t.got(process:run())
  return answer(t, process, socket)
end

local DEEP = [==[
  local socket, file = ...
  local log = {}
  local function closing(name)
    return setmetatable({}, {__close = function(_, err) log[#log + 1] = name .. (err and "!" or "") end})
  end
  local weak = setmetatable({}, {__mode = "k"})
  local key = {}
  weak[key], weak[{}] = "kept", "lost"
  local by_function = {[print] = "print", [string.format] = "format", [io.stdout] = "stdout"}
  local Number = {}
  Number.__add = function(a) return pcall(function()
    local guard <close> = closing "add"
    log[#log + 1] = hibernate(file)
    return a.n
  end) end
  local function generator(n)
    return coroutine.wrap(function()
      local guard <close> = closing "generator"
      for i = 1, n do
        if i == 3 then
          local inner = coroutine.create(function(a, ...)
            local guard <close> = closing "inner"
            local _, v = setmetatable({n = 40}, Number) + 1, ...
            local x = coroutine.yield(a, v)
            error(x, 0)
          end)
          local ok, a, v = coroutine.resume(inner, "a", "b")
          assert(ok and a == "a" and v == "b", a)
          local bad, err = coroutine.resume(inner, "raised")
          assert(not bad and err == "raised")
          coroutine.close(inner)
        end
        coroutine.yield(i)
      end
    end)
  end
  local function deep(n)
    if n > 0 then
      local r = deep(n - 1)
      return r + 1
    end
    local sum = 0
    local t = setmetatable({}, {__index = function(_, k)
      local ok, value = xpcall(function()
        for i in generator(5) do sum = sum + i end
        error {sum = sum, k = k}
      end, function(e) e.handled = true return e end)
      assert(not ok and value.handled)
      return value
    end})
    local got = t.field
    assert(got.k == "field")
    return got.sum
  end
  local guard <close> = closing "outer"
  local result = deep(50)
  collectgarbage()
  assert(weak[key] == "kept")
  assert(by_function[print] == "print" and by_function[string.format] == "format")
  assert(by_function[io.stdout] == "stdout")
  for i = 1, 1000 do weak[{}] = {i} end
  return result .. " " .. table.concat(log, " ")
]==]
local DEEP_RESULT = "65 loaded add inner! generator"

image_story("goes on at any depth of functions, pcalls, metamethods and coroutines", function(t)
  local file = t:file "image"
  saved(t, fork.new(), DEEP, file)
  for _ = 1, 2 do t.eq({continued(t, fork.load(file))}, {DEEP_RESULT, 0}) end
  local template = fork.load(file) -- is a template, too
  template:eval "extra = 1"
  t.eq({continued(t, template:fork())}, {DEEP_RESULT, 0})
  t.eq({continued(t, template:fork():fork())}, {DEEP_RESULT, 0})
  t.eq(t.ask(template:fork(), "return extra"), 1) -- another function
  t.eq({continued(t, template)}, {DEEP_RESULT, 0})
end)

image_story("at another address", function(t)
  local file = t:file "image"
  saved(t, fork.new(), DEEP, file)
  local program = image_file.occupied(t, file)
  t.eq({continued(t, fork.new_exec{program = program, image = file})}, {DEEP_RESULT, 0})
  t.eq({continued(t, fork.new_exec{program = program, image = file}:fork())}, {DEEP_RESULT, 0})
end)

image_story("the one who saves goes on as well", function(t)
  local file = t:file "image"
  local p, socket = begin(fork.new(), [[
    local socket, file = ...
    local clone, n = require "moonfork.clone", 0
    local count = coroutine.wrap(function() while true do n = n + 1 coroutine.yield(clone.hibernate(file)) end end)
    local how = {}
    for i = 1, 3 do
      local s
      how[i], s = count()
      current = s or current
    end
    return table.concat(how, " ") .. " " .. n .. " " .. tostring(coroutine.isyieldable()) .. " "
      .. tostring(select(2, coroutine.running()))
  ]], file)
  t.eq({answer(t, p, socket)}, {"saved saved saved 3 false true", 0})
  t.eq({continued(t, fork.load(file))}, {"saved saved loaded 3 false true", 0}) -- the last of them
end)

image_story("again and again: each process does a part of the work", function(t)
  local file = t:file "image"
  local code = [[
    local socket, file = ...
    local list = {}
    for i = 1, 5 do
      for k = 1, 2000 do list[#list + 1] = {i, k, ("x"):rep(k % 50)} end
      hibernate(file)
    end
    local sum = 0
    for _, v in ipairs(list) do sum = sum + v[1] + #v[3] end
    return #list .. " " .. sum
  ]]
  saved(t, fork.new(), code, file)
  for i = 1, 4 do
    local p = i % 2 == 0 and fork.load(file) or fork.load(file):fork()
    t.eq({continued(t, p)}, {"", 7})
  end
  t.eq({continued(t, fork.load(file))}, {"10000 275000", 0})
end)

image_story("a new socket and new arguments; the old objects for handles are closed", function(t)
  local file = t:file "image"
  local mine, theirs = fork.socket.pair()
  local p = fork.new():send_fd(theirs)
  local _, s = begin(p, [[
    local socket, handle, file = ...
    local other = require "moonfork.clone".pipe
    assert(handle:read "l" == "begin" and handle:fileno() >= 0)
    handle:settimeout(3)
    local results = table.pack(require "moonfork.clone".hibernate(file))
    if results[1] == "saved" then
      return "saved " .. handle:read "l" -- what was read ahead is still there
    end
    current = results[2]
    local ok, err = pcall(handle.write, handle, "x")
    assert(not ok and err:find "closed", err)
    assert(tostring(socket) == "moonfork.socket (closed)", tostring(socket))
    assert(handle:close() and socket:close())
    assert(results[2]:read "l" == "hello")
    assert(results[4]:write "written\n")
    return results.n .. results[1] .. results[3] .. results[5]
  ]], file)
  theirs:close()
  mine:write "begin\nahead\n"
  t.eq({answer(t, p, s)}, {"saved ahead", 0})
  local far, near = fork.socket.pair()
  local q = fork.load(file):send_arg("one"):send_fd(near):send_arg "two"
  local socket = t.got(q:run())
  near:close()
  socket:write "hello\n"
  t.eq({answer(t, q, socket)}, {"5loadedonetwo", 0})
  t.eq(far:read "l", "written")
  far:close()
  mine:close()
end)

image_story("the new process is one of its own", function(t)
  local file = t:file "image"
  kit.setenv("HIBERNATE_STORY", "before")
  local p = fork.new_exec():eval [[
    local clone = require "moonfork.clone"
    clone.on_fork(function() born = (born or 0) + 1 end)
    function ended(name) local f = io.open(ends, "a") f:write(name) f:close() end
    made_in_template = setmetatable({}, {__gc = function() ended "template's" end})
  ]]:fork()
  local _, s = begin(p, [[
    local socket, file = ...
    local clone = require "moonfork.clone"
    clone.on_term(function() current:write "term " terminated = true end)
    ends = file .. ".ends"
    local own = setmetatable({}, {__gc = function() ended "mine" end})
    local before = {clone.id(), clone.pid(), math.random(0)}
    hibernate(file)
    local after = {clone.id(), clone.pid(), math.random(0)}
    for i = 1, 3 do assert(before[i] ~= after[i], i) end
    clone.collect()
    for i = 1, 20000 do own[i] = {i} end
    current:write("ready ", os.getenv "HIBERNATE_STORY", " ", born, "\n")
    while not terminated do local _ = {} end
    clone.exit(5, true)
  ]], file)
  t.eq({answer(t, p, s)}, {"", 7})
  kit.setenv("HIBERNATE_STORY", "after")
  t:defer(function() kit.setenv("HIBERNATE_STORY", nil) end)
  local q = fork.load(file)
  local socket = t.got(q:run())
  t.eq(socket:read "l", "ready after 1")
  q:kill "TERM"
  t.eq({answer(t, q, socket)}, {"term ", 5})
  t.eq(t.read(file .. ".ends"), "mine") -- the finalisers of what the function made, not the template's
end)

image_story("errors and exits of what goes on are told as of any function", function(t)
  local file = t:file "image"
  saved(t, fork.new(), [[
    local socket, file = ...
    local function inner() hibernate(file) error "at the end" end
    inner()
  ]], file)
  local text, code, err = continued(t, fork.load(file):fork())
  t.eq({text, code}, {"", 1})
  t.match(err, "function:2: at the end.*stack traceback.*in local 'inner'")
  t.eq(err:find "%[C%]: in %?", nil) -- nothing of ours is in it
  text, code, err = answer(t, begin(fork.new(), "error 'plain'"))
  t.eq({text, code, err:find "%[C%]: in %?"}, {"", 1})
  t.match(err, "plain.*stack traceback")
end)

image_story("inside of a C function it is an error that names it", function(t)
  local file = t:file "image"
  t:module("hibernate_module", "return {require 'moonfork.clone'.hibernate(hibernate_file)}")
  local p, s = begin(fork.new(), [[
    local socket, file = ...
    local clone, found = require "moonfork.clone", {}
    hibernate_file = file
    local function try(name, f)
      local how, err
      f(function()
        if not how then how, err = clone.hibernate(file) end
        return how, err
      end)
      found[#found + 1] = ("%s: %s %s %s"):format(name, how, err and err.code, err)
    end
    try("sort", function(f) table.sort({2, 1}, function() f() end) end)
    try("gsub", function(f) pcall(string.gsub, "x", "x", function() f() end) end)
    try("in a coroutine", function(f)
      coroutine.wrap(function() pcall(string.gsub, "x", "x", function() f() end) end)()
    end)
    try("outside of a coroutine", function(f) table.sort({2, 1}, function() coroutine.wrap(f)() end) end)
    try("finaliser", function(f) setmetatable({}, {__gc = f}) collectgarbage() collectgarbage() end)
    try("hook", function(f) debug.sethook(function() debug.sethook() f() end, "l") local _ = 1 end)
    try("tostring", function(f) tostring(setmetatable({}, {__tostring = function() f() return "" end})) end)
    try("load", function(f) load(function() f() end) end)
    try("close", function(f)
      local co = coroutine.create(function()
        local guard <close> = setmetatable({}, {__close = function() f() end})
        coroutine.yield()
      end)
      coroutine.resume(co)
      coroutine.close(co)
    end)
    local got = require "hibernate_module"
    found[#found + 1] = "require: " .. tostring(got[1]) .. " " .. got[2]
    local fine = clone.hibernate(file)
    return table.concat(found, "\n") .. "\n" .. fine
  ]], file)
  local text, code, err = answer(t, p, s)
  t.eq({code, err}, {0})
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  local function where(name) return "would have to leave the C function " .. name .. ", called at function:%d+" end
  for i, pattern in ipairs{"sort: nil EINVAL.*" .. where "table.sort",
      "gsub: nil EINVAL.*" .. where "string.gsub",
      "in a coroutine: nil EINVAL.*" .. where "string.gsub",
      "outside of a coroutine: nil EINVAL.*" .. where "table.sort",
      "finaliser: nil EINVAL.*leave a finaliser", "hook: nil EINVAL.*leave a debug hook",
      "tostring: nil EINVAL.*" .. where "tostring", "load: nil EINVAL.*" .. where "load",
      "close: nil EINVAL.*" .. where "coroutine.close",
      "require: nil .*" .. where "require", "^saved$"} do
    t.match(lines[i] or "nothing", pattern)
  end
end)

image_story("a second thread of a C library is in the way, by module; audit = 'off' says that it is known", function(t)
  local file = t:file "image"
  local code = [[
    local _, file = ...
    require "hostile_thread"
    local how, err = require "moonfork.clone".hibernate(file)
    if how == "loaded" then current = err end
    return how and how .. " with a thread" or err.code .. ": " .. err
  ]]
  local text, status, err = answer(t, begin(fork.new_exec(), code, file))
  t.eq({status, err}, {0})
  t.match(text, "^EINVAL: .*2 threads, the last of module 'hostile_thread'")
  t.eq(t.read(file), nil)
  local p = fork.new_exec():seal{audit = "off"}
  t.eq((answer(t, begin(p:fork(), code, file))), "saved with a thread")
  t.eq((continued(t, fork.load(file))), "loaded with a thread")
  p:close()
end)

image_story("where no function of run can be left it is an error", function(t)
  local file = t:file "image"
  local ask = ("local how, err = require 'moonfork.clone'.hibernate %q return how, err.code, err.message"):format(file)
  local p = fork.new_exec():eval("function try() " .. ask .. " end")
  local rpc = p:fork():rpc "try"
  local how, code, message = rpc()
  t.eq({how, code}, {nil, "EINVAL"})
  t.match(message, "leave the C function moonfork.rpc")
  rpc:close()
  p:eval "result = table.pack(try())"
  how, code, message = t.ask(p:fork(), "return table.unpack(result, 1, 3)")
  t.eq({how, code}, {nil, "EINVAL"})
  t.match(message, "no function of run")
  local thread = p:fork{isolation = "thread"}
  how, code, message = t.ask(thread, ask)
  t.eq({how, code}, {nil, "UNSUPPORTED"})
  t.match(message, "thread")
  how, code = t.ask(fork.template(), ask)
  t.eq({how, code}, {nil, "UNSUPPORTED"})
  t.raises("no clone", require "moonfork.clone".hibernate, file)
  t.eq(t.read(file), nil)
  p:close()
end)

image_story("what can't be saved is an error with type and path; the function goes on", function(t)
  local file = t:file "image"
  kit.mkdir(t:file "folder")
  local p, s = begin(fork.new(), [[
    local socket, file, folder = ...
    local clone, found = require "moonfork.clone", {}
    local function try(path)
      local how, err = clone.hibernate(path or file)
      found[#found + 1] = how or err.code .. " " .. err
    end
    box = {file = assert(io.open "/dev/null")}
    try()
    box.file:close()
    collectgarbage "stop" -- it has to be collected for that
    box = {io.open "/dev/null", require "moonfork.clone".pipe()}
    box = nil -- open, but garbage
    try()
    collectgarbage "restart"
    box = {kit = require "testkit".itimer}
    try(folder)
    try(folder .. "/no/such")
    local limits, kit = {}, require "testkit"
    kit.disposition(kit.SIGXFSZ, "ignore")
    local soft, hard = kit.getrlimit "fsize"
    kit.setrlimit("fsize", 8192, hard)
    try()
    kit.setrlimit("fsize", soft, hard)
    for _, bad in ipairs {{}, {true}, {""}, {"a\0b"}} do
      found[#found + 1] = select(2, pcall(clone.hibernate, table.unpack(bad)))
    end
    try()
    return table.concat(found, "\n")
  ]], file, t:file "folder")
  local text, code, err = answer(t, p, s)
  t.eq({code, err}, {0})
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  for i, pattern in ipairs{"EINVAL.*FILE%*.*box%.file.*open file", "^saved$", "EINVAL.*folder: Is a directory",
      "EINVAL.*No such file", "LIMIT.*File too large", "string expected, got no value",
      "string expected, got boolean", "empty string", "zero byte", "^saved$"} do
    t.match(lines[i] or "nothing", pattern)
  end
  text, code, err = continued(t, fork.load(file)) -- the closed socket of before is what it writes to
  t.eq({text, code}, {"", 1})
  t.match(err, "attempt to use a closed moonfork.socket")
end)

image_story("what the template shares stays shared while a clone of it is saved", function(t)
  local file = t:file "image"
  local template = fork.new_exec():eval "data = {} for i = 1, 120000 do data[i] = {i} end"
  local p, s = begin(template:fork(), [[
    local socket, file = ...
    socket:write "."
    socket:read(1)
    local how, new_socket = require "moonfork.clone".hibernate(file)
    current = new_socket or socket
    current:write ":"
    current:read(1)
    return data[120000][1]
  ]], file)
  t.eq(s:read(1), ".")
  local function anonymous() -- what was copied, too; what is read of a file of the template's is not
    local text = t.read(("/proc/%d/smaps_rollup"):format(p:pid()))
    return text and tonumber(text:match "\nAnonymous: +(%d+) kB") or t.skip "the kernel does not tell"
  end
  local before = anonymous()
  s:write "x"
  t.eq(s:read(1), ":")
  t.ok(t.got(p:memory()).lua > 8 << 20)
  t.ok(anonymous() - before < 2048, anonymous() - before)
  s:write "x"
  t.eq({answer(t, p, s)}, {"120000", 0})
  p = fork.load(file)
  s = t.got(p:run())
  s:write "x"
  t.eq({answer(t, p, s)}, {":120000", 0})
end)

image_story("killed while it saves it leaves the old file", function(t)
  local file = t:file "image"
  saved(t, fork.new(), "local socket, file = ... hibernate(file) return 'old'", file)
  local p, s = begin(fork.new(), [[
    local socket, file = ...
    local filler = {}
    for i = 1, 200000 do filler[i] = {i} end
    socket:write "."
    for i = 1, 100 do require "moonfork.clone".hibernate(file .. i) hibernate(file) end
  ]], file)
  t.eq(s:read(1), ".")
  kit.kill(p:pid(), kit.SIGKILL) -- somewhere in the middle
  t.eq(t.status(p).signal, kit.SIGKILL)
  s:close()
  t.eq({continued(t, fork.load(file))}, {"old", 0})
end)

image_story("a full disk leaves the old file, and the function goes on", {root = true}, function(t)
  local folder = t:tmp() .. "/small"
  local script = t:file("script.lua", ([[
    local fork, file = require "moonfork", %q
    local function run(process, name)
      local socket = assert(process:run(name))
      io.write(socket:read "a", "\n")
    end
    run(fork.new():eval [==[function f(socket, file)
      local how, other = require "moonfork.clone".hibernate(file)
      socket = other or socket
      socket:write(how)
    end]==]:send_arg(file), "f")
    run(fork.new():eval [==[function g(socket, file)
      local filler = ("x"):rep(8 << 20)
      local how, err = require "moonfork.clone".hibernate(file)
      socket:write(tostring(how), " ", err.code, " ", tostring(err), " ", #filler)
    end]==]:send_arg(file), "g")
    run(fork.load(file))]]):format(folder .. "/image"))
  local pipe = io.popen(("mkdir '%s'; unshare -m sh -c 'mount -t tmpfs -o size=4m small \"%s\" && exec %s \"%s\"' 2>&1")
    :format(folder, folder, os.getenv "LUA" or "lua5.4", script))
  local text = pipe:read "a"
  pipe:close()
  if text:find "unshare:" or text:find "mount:" then t.skip(text) end
  t.match(text, "^saved\nnil LIMIT [^\n]*image: No space left on device 8388608\nloaded\n$")
end)

image_story("run without a name is for what was hibernated", function(t)
  local file = t:file "image"
  t.eq(fork.new_exec():save(file), true)
  local p = fork.new()
  t.raises("string expected", p.run, p)
  t.raises("string expected", p.run, p, function() end)
  p:close()
  local socket, err = fork.load(file):run()
  t.eq(socket, nil)
  t.error(err, "EINVAL", "no function to go on with.*name a function")
  t.eq(err.started, "no")
  socket, err = fork.load(t:file "nothing"):run()
  t.eq(socket, nil)
  t.error(err, "EINVAL", "No such file")
  saved(t, fork.new(), "local socket, file = ... hibernate(file) return 'done'", file)
  for _, form in ipairs{function(q, f) q:run(f) end, function(q, f) q:run(nil, f) end} do
    local got
    local q = fork.load(file)
    form(q, function(...) got = table.pack(...) end)
    t.within(10, function() fork.step(0.02) return got end)
    t.eq({got.n, got[1]}, {2})
    t.eq({answer(t, q, got[2])}, {"done", 0})
  end
end)

image_story("another function of a loaded process may hibernate, too", function(t)
  local first, second = t:file "first", t:file "second"
  saved(t, fork.new(), "local socket, file = ... hibernate(file) return 'first'", first)
  local code = [[
    local socket, file = ...
    collectgarbage()
    local co = coroutine.wrap(function() hibernate(file) return "second" end)
    local result = co()
    for _ = 1, 3 do collectgarbage() end
    return result
  ]]
  saved(t, fork.load(first), code, second)
  t.eq({continued(t, fork.load(second))}, {"second", 0})
  local p = fork.load(second):eval "collectgarbage() collectgarbage() for i = 1, 1e5 do local _ = {i} end"
  t.eq({continued(t, p:fork())}, {"second", 0})
  t.eq({continued(t, p)}, {"second", 0})
  saved(t, fork.load(second), code, first)
  t.eq({continued(t, fork.load(first))}, {"second", 0})
end)

image_story("a template with a suspended function may be changed and saved again", function(t)
  local first, second = t:file "first", t:file "second"
  saved(t, fork.new(), "local socket, file = ... hibernate(file) return added", first)
  local p = fork.load(first):eval "added = 'added'"
  t.eq(p:save(second), true)
  t.eq({continued(t, p)}, {"added", 0})
  t.eq({continued(t, fork.load(second):fork())}, {"added", 0})
  t.eq({continued(t, fork.load(first))}, {"nil", 0})
end)

image_story("the function is no coroutine for its code", function(t)
  local text, code, err = answer(t, begin(fork.new(), [[
    local ok, err = pcall(coroutine.yield, 1)
    assert(not ok and err == "attempt to yield from outside a coroutine", err)
    local fine, e = pcall(function() require "testkit".yield(1) return "went on" end)
    assert(not fine and e:find "attempt to yield from outside a coroutine", e)
    assert(debug.gethook() == nil)
    assert(not coroutine.isyieldable() and coroutine.wrap(coroutine.isyieldable)())
    local thread, main = coroutine.running()
    assert(main and not coroutine.isyieldable(thread))
    assert(coroutine.wrap(function() return coroutine.status(thread) end)() == "normal")
    assert(not pcall(coroutine.wrap(function() error "x" end)))
    local again = coroutine.wrap(function() return coroutine.resume(thread) end)
    assert(select(2, again()):find "cannot resume non%-suspended")
    return select("#", pcall(coroutine.resume, coroutine.create(print), table.unpack({}, 1, 100)))
  ]]))
  t.eq({code, err}, {0})
  t.eq(text, "2")
end)

story.done()
