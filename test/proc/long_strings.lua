-- Long strings in messages (doc/rpc.md, "Long messages"): they are sent from where they lie and
-- become Lua strings where they arrive, with whatever stands before, behind and around them.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local FUNCTIONS = [[
  function echo(...) return ... end
  function swap(a, b, ...) return b, a, ... end
  function churn(...) -- garbage of all sizes beside what came
    local kept = {}
    for i = 1, 50, 7 do kept[i % 3] = ("g"):rep(i * 5000) end
    return ...
  end
  function hold(seconds) os.execute("sleep " .. seconds) end
]]

-- Bytes that tell their place, so that one that is moved or missing shows.
local function bytes(n, seed)
  local block = {}
  for i = 1, 64 do block[i] = string.pack("<I4", (i * 2654435761 + seed) & 0xffffffff) end
  return (table.concat(block):rep(n // 256 + 1)):sub(1, n)
end

local SIZES = { 32 * 1024 - 1, 32 * 1024, 65536, 128 * 1024 - 30, 128 * 1024, 262144 - 6,
  262144, 262145, 1000003 }

story.test("strings of every length come back, wherever in the message they stand", function(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "swap"
  for seed, n in ipairs(SIZES) do
    local s = bytes(n, seed)
    t.ok(t.got(rpc(nil, s)) == s)
    t.ok(select(2, t.got(rpc(s, 1))) == s)
    t.ok(t.got(rpc(1, { x = { s }, y = 2 })).x[1] == s)
    local list, key = t.got(rpc({ [s] = "value" }, { s, s:sub(1, -2), s, 7 }))
    t.ok(list[1] == s and list[2] == s:sub(1, -2) and list[3] == s and list[4] == 7)
    t.eq(key[s], "value")
  end
end)

story.test("whatever stands before the last string: its first bytes are its own", function(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "churn"
  local s = bytes(300000, 1)
  for n = 0, 40 do
    local before = ("b"):rep(n)
    local a, b = t.got(rpc(before, s))
    t.ok(a == before and b == s, n)
    a, b = t.got(rpc(n, { before, last = s }))
    t.ok(a == n and b[1] == before and b.last == s, n)
  end
  t.ok(t.got(rpc(s)) == s)
end)

story.test("a process holds a string that came, or goes, once", {
  skip = story.is_sanitized and "sanitizers" or nil,
}, function(t)
  local function peak(pid)
    for line in io.lines("/proc/" .. pid .. "/status") do
      local kib = line:match "^VmHWM:%s*(%d+)"
      if kib then return math.tointeger(kib) // 1024 end
    end
  end
  local rpc <close> = fork.new():eval [[
    function f(name, s) kept = s or kept return name == "get" and {kept} or #kept end
  ]]:rpc "f"
  local pid = rpc:process() and (t.got(rpc("put", "")) and rpc:process():pid())
  local before, s = peak(pid), bytes(40 << 20, 7)
  t.eq(t.got(rpc("put", s)), #s)
  t.ok(peak(pid) - before < 44, ("taken: %d MiB"):format(peak(pid) - before))
  t.ok(t.got(rpc "get")[1] == s)
  t.ok(peak(pid) - before < 44, ("given: %d MiB"):format(peak(pid) - before))
end)

story.test("more long strings than are sent apart", function(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "echo"
  local list = {}
  for i = 1, 40 do list[i] = bytes(40000 + i, i) end
  local got = t.got(rpc(list))
  for i = 1, 40 do t.ok(got[i] == list[i], i) end
end)

story.test("with handles among them", function(t)
  local near, far = fork.socket.pair()
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc("echo", { handles = true })
  local s = bytes(200000, 3)
  local a, list, b = t.got(rpc(s, { far, far, s }, s))
  t.ok(a == s and b == s and list[3] == s)
  list[1]:write "one\n"
  list[2]:write "two\n"
  t.eq({ near:read("l", "l") }, { "one", "two" })
  for _, socket in ipairs { near, far, list[1], list[2] } do socket:close() end
end)

story.test("in asynchronous processes, too", { needs = "luv" }, function(t)
  local rpc <close> = fork.new():eval "function f(done, ...) done(...) end":rpc("f", { async = true })
  local s, answers = bytes(500000, 4), 0
  for i = 1, 10 do
    rpc(i, s, function(err, n, got)
      t.ok(not err and n == i and got == s)
      answers = answers + 1
    end)
  end
  t.within(20, function() return answers == 10 end)
end)

story.test("a string that waits to be sent is kept, and then let go of", function(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "echo"
  t.got(rpc(1))
  local pid = rpc:process():pid()
  kit.kill(pid, 19)
  local answers = 0
  for i = 1, 20 do
    rpc(bytes(1 << 20, i), i, function(err, s, n)
      t.ok(not err and n == i and s == bytes(1 << 20, i))
      answers = answers + 1
    end)
    if i % 5 == 0 then collectgarbage() end
  end
  fork.step()
  collectgarbage()
  t.ok(collectgarbage "count" > 15 * 1024)
  kit.kill(pid, 18)
  t.within(20, function() return answers == 20 end)
  t.within(5, function()
    fork.step()
    t.collect()
    return collectgarbage "count" < 8 * 1024
  end)
end)

story.test("calls that are never sent let go of theirs", function(t)
  local rpc = fork.new():eval(FUNCTIONS):rpc "echo"
  t.got(rpc(1))
  local pid = rpc:process():pid()
  kit.kill(pid, 19)
  local told, calls = 0, {}
  for i = 1, 20 do
    calls[i] = rpc(bytes(1 << 20, i), function() told = told + 1 end)
  end
  fork.step()
  for i = 1, 20 do calls[i]:cancel() end
  t.within(5, function() return told == 20 end)
  kit.kill(pid, 9)
  rpc:close()
  t.within(10, function() return not kit.processes()[pid] end)
  t.within(5, function()
    fork.step()
    t.collect()
    return collectgarbage "count" < 8 * 1024
  end)
end)

story.test("a worker that dies costs nothing: the call has its string still", function(t)
  local pool = fork.new():eval([[
    local clone = require "moonfork.clone"
    function once(marker, s)
      local file = io.open(marker)
      if file then file:close() return #s, s:sub(-5) end
      io.open(marker, "w"):close()
      clone.kill(clone.pid(), 9)
    end
  ]]):pool("once", { max = 1, backoff = { min = 0 } })
  local s = bytes(2000000, 5)
  t.eq({ t.got(pool:with { idempotent = true }(t:tmp() .. "/marker", s)) }, { #s, s:sub(-5) })
  t.got(pool:drain(10))
end)

story.test("a call that is too long is LIMIT, however its bytes lie", function(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc("echo", { message_max = 100000 })
  local s = bytes(60000, 6)
  t.ok(t.got(rpc(s)) == s)
  t.error(select(2, rpc(s, s)), "LIMIT", "argument 2: the message is too long")
  t.error(select(2, rpc { s, x = s }), "LIMIT", "the message is too long")
  local rep <close> = fork.new():eval "function f(n) local s = ('x'):rep(n) return s, s end":rpc("f",
    { message_max = 100000 })
  t.error(select(2, rep(60000)), "LIMIT", "result 2: the message is too long")
end)

story.done()
