-- An interpreter that has required "moonfork", and may have processes, is copied: to an image, by
-- hibernate, to a clone in a thread, to a pseudo-process. The copy makes processes of its own; objects
-- of the original's are of another process there, as after fork(2). Such interpreters could not be
-- copied at all; and all clones in threads but the first of a process could start no programs.
local pseudo = require "pseudo"
local story = require "story"
local image_story = require "image_story"
local fork = require "moonfork"
local kit = story.kit

local CODE = [[
  local fork = require "moonfork"
  local clone = require "moonfork.clone"
  function makes(s)
    local template = fork.new_exec():eval "function f(s) s:write 'inner' end function double(x) return 2 * x end"
    local inner = template:fork()
    local text = assert(inner:run "f"):read "a"
    local code = inner:wait().code
    local pool = template:pool "double"
    local sum = 0
    for _, err, value in pool:map {1, 2, 3} do sum = sum + (err and 1000 or value) end
    pool:close()
    s:write(text, " ", code, " ", sum, " ", tostring(fork.sleep(0.001)))
  end
]]
local MADE = "inner 0 12 true"

local USED = [[
  fork = require "moonfork"
  local t = fork.new_exec():eval "function f(s) s:write 'x' end function g(x) return x end"
  local c, r = t:fork(), t:fork():rpc "g"
  assert(assert(c:run "f"):read "a" == "x" and c:wait().code == 0 and r(7) == 7)
  r:close()
  t:close()
  local socket = fork.socket.listen "127.0.0.1:0"
  socket:close()
  fork.timer(0.001, function() end)
  fork.loop()
  kept = {t, c, r, socket}
]]

local function copies(name, f) image_story(name, {deadline = 60}, f) end

local function answer(t, process, ...)
  local socket = t.got(process:run(...))
  local text = socket:read "a"
  socket:close()
  t.status(process) -- while a clone in a thread runs, its template forks no process
  return text
end

copies("an image of a template that has required the module makes processes", function(t)
  local path = t:file "image"
  for _, before in ipairs {"", USED} do
    local p = fork.new_exec():eval(before):eval(CODE)
    t.eq(p:save(path), true)
    p:close()
    p = fork.load(path)
    t.eq(answer(t, p:fork(), "makes"), MADE)
    t.eq(answer(t, p:fork {isolation = "thread"}, "makes"), MADE)
    t.eq(p:save(path), true)
    p:close()
    p = fork.load(path)
    t.eq(answer(t, p, "makes"), MADE)
    p:close()
  end
end)

copies("what is open is no part of an image: the error says what, and what to do", function(t)
  local path = t:file "image"
  for code, type in pairs {["x = {fork.new_exec()}"] = "moonfork%.process' %(x%[1%]",
    ["x = fork.new_exec():fork()"] = "moonfork%.process' %(x%)",
    ["x = {y = fork.new():rpc 'type'}"] = "moonfork%.rpc or moonfork%.pool' %(x%.y%.",
    ["x = {y = fork.new():pool 'type'}"] = "moonfork%.rpc or moonfork%.pool' %(x%.y%.",
    ["x = fork.timer(1000, print)"] = "moonfork%.timer' %(x%)",
    ["x = fork.socket.pair()"] = "moonfork%.socket' %(x%)"} do
    local p = fork.new_exec():eval("fork = require 'moonfork' " .. code)
    local ok, err = p:save(path)
    t.eq({ok, err.code}, {nil, "EINVAL"}, code)
    t.match(err.message, "userdata of type '" .. type .. ".*close it, and .*after loading", code)
    t.eq(p:eval "if getmetatable(x) ~= 'moonfork.socket' then x = x.close and x or x.y or x[1] end x:close()"
      :save(path), true, code)
    p:close()
  end
end)

copies("a function with processes, waits and callbacks of its own hibernates", function(t)
  local path = t:file "image"
  local p = fork.new_exec():eval(CODE):eval [[
    fork, clone = require "moonfork", require "moonfork.clone"
    function works(s, file)
      local template = fork.new():eval "function f(s) s:write 'x' end function double(x) return 2 * x end"
      local rpc, c = template:fork():rpc "double", template:fork()
      local socket = assert(c:run "f")
      assert(rpc(4) == 8)
      local how, other
      fork.timer(0, function() how, other = assert(clone.hibernate(file)) end)
      local slept, err = fork.sleep(0.001)
      if how == "saved" then
        assert(slept and rpc(5) == 10 and socket:read "a" == "x" and c:wait().code == 0)
        return s:write "saved"
      end
      local texts = {select(2, pcall(rpc, 1)), select(2, pcall(template.fork, template)),
        select(2, pcall(socket.read, socket))}
      for _, text in ipairs(texts) do other:write(text:match "forked from$" or text, ", ") end
      other:write(tostring(c), " ", err.code, "; ")
      rpc:close() template:close() c:close()
      collectgarbage()
      makes(other)
    end]]
  t.eq(answer(t, p:fork():send_arg(path), "works"), "saved")
  p:close()
  for _, forks in ipairs {false, true} do
    local q = fork.load(path)
    t.eq(answer(t, forks and q:fork() or q), "forked from, forked from, attempt to use a closed moonfork.socket, "
      .. "moonfork.process (of another process) CANCELLED; " .. MADE)
    q:close()
  end
end)

copies("a copy that has made processes can be copied again", function(t)
  local path = t:file "image"
  local p = fork.new_exec():eval(CODE):eval [[
    fork, clone = require "moonfork", require "moonfork.clone"
    function goes_on(s, file)
      for i = 1, 3 do
        fork.sleep(0.001)
        local how, other = assert(clone.hibernate(file))
        if how == "saved" then return s:write("saved ", i) end
        s = other
      end
      collectgarbage()
      makes(s)
    end]]
  t.eq(answer(t, p:fork():send_arg(path), "goes_on"), "saved 1")
  for i = 2, 3 do
    local q = fork.load(path)
    t.eq(answer(t, q), "saved " .. i)
    q:close()
  end
  local last = fork.load(path)
  t.eq(answer(t, last), MADE)
  last:close()
  t.eq(p:save(path), true)
  p:close()
  for _ = 1, 2 do
    p = fork.load(path)
    p:eval "fork.sleep(0.001)"
    t.eq(answer(t, p:fork {isolation = "thread"}, "makes"), MADE)
    t.eq(answer(t, p:fork(), "makes"), MADE)
    t.eq(p:save(path), true)
    p:close()
  end
end)

copies("clones in threads make processes, one after another and at once, and leave nothing behind", function(t)
  for _, code in ipairs {CODE, "function makes(s) " .. CODE .. " makes(s) end"} do
    local p = fork.new_exec():eval(code)
      :eval "function looks(s) s:write(tostring(require 'moonfork'.sleep(0.001))) end"
    local function round(n)
      local clones, sockets = {}, {}
      for i = 1, n do
        clones[i] = p:fork {isolation = "thread"}
        sockets[i] = t.got(clones[i]:run "makes")
      end
      for i = 1, n do
        t.eq(sockets[i]:read "a", MADE)
        sockets[i]:close()
        t.eq(t.status(clones[i]).code, 0)
      end
    end
    local function descriptors()
      local n = 0
      for _ in pairs(kit.fds(p:pid())) do n = n + 1 end
      return n
    end
    round(1)
    local before = descriptors()
    for _ = 1, 3 do round(1) end
    round(4)
    t.eq(descriptors(), before)
    -- One that ended after the interpreter that had made it is reaped by the next one that uses the library.
    t.within(10, function()
      local left = 0
      for _, process in pairs(kit.processes()) do
        if process.ppid == p:pid() then left = left + 1 end
      end
      if left > 0 then t.eq(answer(t, p:fork {isolation = "thread"}, "looks"), "true") end
      return left == 0
    end)
    p:close()
  end
end)

copies("signals and traces are of whole processes, and refused in clones in threads", function(t)
  local p = fork.new_exec():eval [[
    local fork = require "moonfork"
    function asks(s, path)
      for _, answer in ipairs {{fork.signal("USR1", print)}, {fork.trace(path)}, {fork.signal("USR1", nil)}} do
        s:write(tostring(answer[1]), " ", answer[2] and answer[2].code or "-", " ")
      end
    end]]
  t.eq(answer(t, p:fork {isolation = "thread"}:send_arg(t:file "trace"), "asks"),
    "nil UNSUPPORTED nil UNSUPPORTED true - ")
  t.eq(answer(t, p:fork():send_arg(t:file "trace"), "asks"), "true - true - true - ")
  p:close()
end)

copies("descriptors of a template stay open in its clones after one in a thread has made processes", function(t)
  local p = fork.new_exec():eval("function makes(s) " .. CODE .. " makes(s) end")
  t.eq(answer(t, p:fork {isolation = "thread"}, "makes"), MADE) -- its loop is the first one of the process
  p:eval [[
    local kit, pipes = require "testkit", {}
    for i = 1, 40 do pipes[i] = {require "moonfork.clone".pipe()} end
    local before = kit.fds()
    function all(s)
      local now = kit.fds()
      for _, pipe in ipairs(pipes) do
        for _, fd in ipairs {pipe[1]:fileno(), pipe[2]:fileno()} do assert(now[fd] == before[fd], fd) end
      end
      s:write "all"
    end]]
  t.eq(answer(t, p:fork(), "all"), "all")
  p:close()
end)

story.test("a pseudo-process makes processes, and has its parent's sockets", {timeout = 60}, function(t)
  pseudo.ok(t, [[
    local fork = require "moonfork"
    local template = fork.new():eval "function f(s) s:write 'x' end function double(x) return 2 * x end"
    local rpc, c = template:fork():rpc "double", template:fork()
    local socket = assert(c:run "f")
    local near, far = fork.socket.pair()
    local closed = fork.socket.pair()
    closed:close()
    near:write "one\ntwo\n"
    assert(rpc(4) == 8 and far:read "l" == "one")
    local timer = fork.timer(1000, print)
    assert(ended(child(function()
      assert(socket:read "a" == "x" and far:read "l" == "two" and tostring(closed) == "moonfork.socket (closed)")
      assert(select(2, pcall(rpc, 1)):find "forked from")
      assert(select(2, pcall(template.fork, template)):find "forked from")
      local inner = fork.new():eval "function f(s) s:write 'inner' end":fork()
      assert(assert(inner:run "f"):read "a" == "inner" and inner:wait().code == 0)
      fork.loop()
      assert(select(2, fork.signal("USR1", print)).code == "UNSUPPORTED")
      assert(ended(child(function() fork.sleep(0.001) collectgarbage() fork.sleep(0.001) os.exit(6, true) end)) == 6)
      rpc:close() template:close() timer:close() socket:close() near:close() far:close()
      collectgarbage()
      os.exit(7, true)
    end)) == 7)
    assert(far:read "l" == "two" and rpc(5) == 10 and c:wait().code == 0)
    timer:close() rpc:close() template:close()
    print "all"]], "all\n")
end)

-- The copy's collector finalised sockets that were garbage at the fork before their buffers were
-- made its own: they were freed twice.
story.test("garbage of a pseudo-process is finalised in its copies after it was made theirs", function(t)
  pseudo.ok(t, [[
    local socket = require("moonfork").socket
    collectgarbage("incremental", 100, 1000, 4)
    for i = 1, 30 do
      do
        local near, far = socket.pair()
        near:write(("line\n"):rep(100))
        far:read "l"
      end
      local text = {}
      for j = 1, i do text[j] = ("x"):rep(j) end
      assert(ended(child(function() os.exit(0, true) end)) == 0)
    end
    print "all"]], "all\n")
end)

story.test("a program's clones keep its descriptors though pseudo-processes that have ended had processes", function(t)
  pseudo.ok(t, [[
    local fork = require "moonfork"
    fork.sleep(0.001)
    assert(ended(child(function()
      local template = fork.new_exec():eval "function double(x) return 2 * x end"
      assert(template:fork():rpc "double"(2) == 4)
      os.exit(5)
    end)) == 5)
    local pairs_of = {}
    for i = 1, 40 do pairs_of[i] = {fork.socket.pair()} end
    function check(s)
      for _, pair in ipairs(pairs_of) do
        assert(pair[1]:write "x\n" and pair[2]:read "l" == "x")
      end
      s:write "all"
    end
    local template = assert(fork.template())
    print(assert(template:fork():run "check"):read "a")
    template:close()]], "all\n")
end)

-- The kernel counts their threads for some time; whoever had sent one a signal counted for 0.2 s more.
story.test("a program can be copied as soon as its pseudo-processes have ended", function(t)
  pseudo.ok(t, [[
    local fork = require "moonfork"
    for i = 1, 60 do
      local pid = child(function()
        local kept = {}
        for j = 1, 30 do kept[j] = {fork.socket.pair()} end
        if i % 10 == 0 then kept[1][1]:read(1) end
      end)
      if i % 10 == 0 then
        fork.sleep(0.02)
        pseudo.kill(pid, "TERM")
      end
      ended(pid)
      fork.template():close()
      fork.step() -- raises if it could not be made
    end
    print "all"]], "all\n")
end)

story.done()
