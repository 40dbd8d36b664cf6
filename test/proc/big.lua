-- Much of everything: long arguments, many of them, many handles, many processes at once.
-- AF-24, and the sentences of the manual about sizes and waiting.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function peak(pid)
  for line in io.lines("/proc/" .. pid .. "/status") do
    local kib = line:match "^VmHWM:%s*(%d+)"
    if kib then return math.tointeger(kib) // 1024 end
  end
end

-- STORY_HUGE=1 sends all that may be sent: four GiB, which takes that much memory over there.
local MIB = os.getenv "STORY_HUGE" and 1024 or 128

story.test("AF-24 long strings arrive, and are held once on either side", {deadline = 120},
  function(t)
    local before = peak(kit.getpid())
    local text = ("x"):rep(MIB * 1024 * 1024)
    local alone = peak(kit.getpid())
    t.ok(alone - before >= MIB - 1)
    local p = fork.new():send_arg(text, text, text, text)
    p:eval [[
      function f(socket, ...)
        local n = 0
        for i = 1, select("#", ...) do n = n + #select(i, ...) end
        socket:write(n, "\n")
        socket:read "a"
      end
    ]]
    local socket = t.got(p:run "f")
    t.eq(socket:read "l", tostring(4 * #text))
    if not story.is_sanitized then
      t.ok(peak(kit.getpid()) < alone + 32, "parent: " .. peak(kit.getpid()) .. " MiB")
      t.ok(peak(p:pid()) < 4 * MIB + 64, "clone: " .. peak(p:pid()) .. " MiB")
    end
    socket:close()
    t.eq(t.status(p).code, 0)
  end)

-- What was not too much yet is on its way when run has failed: it is not waited for.
story.test("beyond four GiB in all: LIMIT, before anything is sent", function(t)
  local text = ("x"):rep(1 << 20) -- long ones are lent, so this is all the memory that it takes
  local p = fork.new()
  for _ = 1, 4096 do p:send_arg(text) end
  p:send_arg "x"
  local socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "LIMIT")
  t.eq(err.started, "no")
  t.ok(p:kill "KILL")
  t.eq(t.status(p).signal, 9)
end)

-- The one with the long argument does not even take it before the others are there.
-- What of it has come is thrown away; the template has not seen it.
-- A sanitizer ends a process that can't map a page for it.
story.test("a command that does not fit into the memory over there: NOMEM, and its process alone ends", {
  deadline = 60, skip = story.is_sanitized and "address space is the sanitizer's" or nil},
  function(t)
    local text = ("x"):rep(100 << 20)
    local template = fork.new_exec():eval "function size(s, a) s:write(a and #a or 0, '\\n') end"
    for _, put in ipairs{
      function(p) p:send_arg(text) end,
      function(p) p:eval("local s = ...", text) end,
      function(p) p:set("a", text) end,
    } do
      local ended
      local p = template:fork():limit{as = 48 << 20}:on_exit(function(status) ended = status end)
      put(p)
      local none, err = p:run "size"
      t.eq(none, nil)
      t.error(err, "NOMEM", "not enough memory for a command in parts")
      t.eq(err.started, "no")
      t.within(20, function() return ended end)
      t.eq(ended.code, 1)
    end
    t.eq(t.got(template:fork():run "size"):read "n", 0)
    template:close()
  end)

story.test("nobody waits behind another's long argument", {deadline = 60}, function(t)
  local p = fork.new()
  t.got(p:fork():run "type")
  local r, w = kit.pipe()
  local slow = p:fork():send_fd(r):eval [[
    local handle = require "moonfork.clone".run_args()
    handle:read(1)
    handle:close()
  ]]
  kit.close(r)
  slow:send_arg(("x"):rep(100 * 1024 * 1024))
  local outcome
  slow:run("type", function(err) outcome = err or "entered" end)
  for _ = 1, 50 do t.got(p:fork():run "type") end
  t.eq(outcome, nil)
  kit.close(w)
  fork.loop()
  t.eq(outcome, "entered")
  t.eq(t.status(slow).code, 0)
end)

story.test("a hundred thousand arguments, and a thousand handles", {deadline = 60}, function(t)
  local p = fork.new()
  for i = 1, 1000 do
    p:send_arg(table.unpack((function()
      local list = {}
      for k = 1, 100 do list[k] = i * 100 + k end
      return list
    end)()))
  end
  t.eq({t.ask(p, [[
    local sum = 0
    for i, v in ipairs {select(2, ...)} do sum = sum + v end
    return select("#", ...) - 1, math.tointeger(sum)
  ]])}, {100000, 100000 * 100000 // 2 + 50000 + 100 * 100000})
  local q, r = fork.new(), {kit.pipe()}
  for _ = 1, 1000 do q:send_fd(r[2]) end
  local id = kit.fstat(r[2])
  t.eq({t.ask(q, [[
    local kit, ids, n = require "testkit", {}, 0
    for i = 2, select("#", ...) do ids[kit.fstat((select(i, ...)):fileno())] = true end
    for _ in pairs(ids) do n = n + 1 end
    return select("#", ...) - 1, n, (next(ids))
  ]])}, {1000, 1, id})
  kit.close(r[1])
  kit.close(r[2])
end)

story.test("three hundred at once live, answer and end", {deadline = 60}, function(t)
  local p = fork.new():require "actor"
  local clones, sockets = {}, {}
  for i = 1, 300 do
    clones[i] = p:fork():send_arg(i)
    clones[i]:run("actor:echo", function(err, socket)
      t.eq(err, nil)
      sockets[i] = socket
    end)
  end
  t.within(20, function()
    for i = 1, 300 do if not sockets[i] then return false end end
    return true
  end)
  for i = 1, 300 do t.ok(sockets[i]:write("to ", i, "\n")) end
  for i = 300, 1, -1 do t.eq(sockets[i]:read "l", "to " .. i) end
  local ended = 0
  for i = 1, 300 do
    clones[i]:on_exit(function(status) if status.code == 0 then ended = ended + 1 end end)
    sockets[i]:close()
  end
  t.within(20, function() return ended == 300 end)
  p:close()
end)

story.test("many forks before the loop turns are an error at most, never a hang", function(t)
  local out, code, err = t:lua([[
    local fork, kit = require "moonfork", require "testkit"
    assert(fork.new():run "type")
    local entered, failed = 0, 0
    for i = 1, 100 do
      fork.new():run("type", function(e)
        if e then
          failed = failed + 1
          assert(e.code == "LIMIT" or e.code == "FORK_FAILED", e.code)
          assert(tostring(e):find "[Tt]oo many open files", tostring(e))
          assert(e.started == "no")
        else
          entered = entered + 1
        end
      end)
    end
    fork.loop()
    assert(entered + failed == 100)
    assert(entered > 5)
    collectgarbage()
    assert(fork.new():run "type")
    io.write "fine"
  ]], {shell = "ulimit -n 64"})
  t.eq({out, code, err}, {"fine", 0, ""})
end)

story.done()
