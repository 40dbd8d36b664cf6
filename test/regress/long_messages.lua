-- One event of 16 MB, many small values, held the parent's loop for 1.2 s and made 1.2 GB. Such
-- messages are read in steps now, their number of values has limits that both sides know, and
-- what one clone sends holds up neither the loop nor other clones.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local HOLD = 0.05 -- seconds of processor time that one turn may take

-- The functions of a server; value() makes what it sends.
local FUNCTIONS = [[
  local rpc = require "moonfork.rpc"
  local functions = {}
  function functions.result() return value() end
  function functions.raise() error(value(), 0) end
  function functions.echo(x) return x end
  function functions.emit(n)
    local v = value()
    for i = 1, n do rpc.event(i, v) end
    return n
  end
  function call(name, ...) return functions[name](...) end
]]

local function server(value, options)
  return fork.new():eval(FUNCTIONS .. "function value() " .. value .. " end"):rpc("call", options)
end

-- Turns the reactor until done(): the longest turn, in seconds of processor time.
local function turn(t, done)
  local worst, last = 0, kit.now() + 60 * story.scale
  while not done() do
    if kit.now() > last then t.fail "it takes too long" end
    local began = os.clock()
    fork.step(0)
    worst = math.max(worst, os.clock() - began)
    kit.msleep(1)
  end
  return worst
end

local function ended(rpc)
  rpc:close()
  fork.loop()
  collectgarbage()
  collectgarbage()
end

local TABLES = "local t = {} for i = 1, 1000000 do t[i] = {} end return t"

local SHAPES = {
  { "tables", TABLES, function(r) return #r[1], 1000000 end },
  { "floats", "local t = {} for i = 1, 3000000 do t[i] = i + 0.5 end return t",
    function(r) return r[1][3000000], 3000000.5 end },
  { "strings", "local t = {} for i = 1, 500000 do t[i] = 's' .. i end return t",
    function(r) return r[1][500000], "s500000" end },
  { "a map of strings", "local t = {} for i = 1, 400000 do t['k' .. i] = i end return t",
    function(r) return r[1].k400000, 400000 end },
  { "a map of numbers", "local t = {} for i = 1, 1000000 do t[i * 7919] = i end return t",
    function(r) return r[1][7919 * 1000000], 1000000 end },
  { "records", "local t = {} for i = 1, 200000 do t[i] = {id = i, n = 'n' .. i} end return t",
    function(r) return r[1][200000], { id = 200000, n = "n200000" } end },
  { "many values", "local t = {} for i = 1, 200000 do t[i] = i end return table.unpack(t)",
    function(r) return { r.n, r[200000] }, { 200000, 200000 } end },
  { "one string", "return ('x'):rep(48 << 20)", function(r) return #r[1], 48 << 20 end },
}

for _, shape in ipairs(SHAPES) do
  story.test("a result does not hold the loop: " .. shape[1], { deadline = 60 }, function(t)
    collectgarbage()
    local rpc, got = server(shape[2]), nil
    rpc:call("result", function(err, ...)
      t.eq(err, nil)
      got = table.pack(...)
    end)
    local worst = turn(t, function() return got end)
    t.eq(shape[3](got))
    t.ok(worst < HOLD * story.scale, ("%.3f s"):format(worst))
    got = nil
    ended(rpc)
  end)
end

story.test("the string serialiser does not hold it either", { deadline = 60 }, function(t)
  local rpc = fork.new():eval [[
    function f() local t = {} for i = 1, 100000 do t[i] = ("s"):rep(100) .. i end return table.unpack(t) end
  ]]:rpc("f", { serialiser = "string" })
  local got
  rpc:call(function(err, ...) got = table.pack(err, ...) end)
  local worst = turn(t, function() return got end)
  t.eq({ got[1], got.n, got[100001] }, { nil, 100001, ("s"):rep(100) .. "100000" })
  t.ok(worst < HOLD * story.scale, ("%.3f s"):format(worst))
  got = nil
  ended(rpc)
end)

story.test("nor do errors, however long, and values that are raised", { deadline = 60 }, function(t)
  for _, value in ipairs { "return ('x'):rep(100 << 20)", TABLES,
    "return {text = ('x'):rep(100 << 20)}", "return ('\\27[2J\\0'):rep(1 << 24)" } do
    local rpc, got = server(value), nil
    rpc:call("raise", function(err) got = err end)
    local worst = turn(t, function() return got end)
    t.error(got, "REMOTE")
    t.ok(#got.message <= 65536 and #(got.traceback or "") <= 65536)
    t.ok(worst < HOLD * story.scale, ("%.3f s"):format(worst))
    ended(rpc)
  end
end)

story.test("too many values are refused where they are sent, with their place", function(t)
  local rpc = server "local t = {} for i = 1, 1 << 22 do t[i] = 1 end return t"
  local value, err = rpc:call "result"
  t.eq(value, nil)
  t.error(err, "LIMIT", "more than 4194304 values")
  local many = {}
  for i = 1, 1 << 20 do many[i] = "" end
  value, err = rpc:call("echo", many)
  t.eq(value, nil)
  t.error(err, "LIMIT", "argument 2%[%d+%]: the message has more than 1048576 tables and strings")
  t.eq(err.started, "no")
  t.eq(rpc:call("echo", 5), 5)
  ended(rpc)
end)

story.test("events stay in order, and what follows a long one waits for it", { deadline = 60 },
  function(t)
    local log = {}
    local rpc = server("local t = {} for i = 1, 300000 do t[i] = {} end return t",
      { on_event = function(i, v) log[#log + 1] = "event " .. i .. " " .. #v end })
    rpc:process():on_exit(function() log[#log + 1] = "exit" end)
    local done
    rpc:call("emit", 3, function(_, n) log[#log + 1] = "result " .. n end)
    rpc:call("echo", "x", function(_, x) log[#log + 1] = x done = true end)
    local worst = turn(t, function() return done end)
    t.eq(log, { "event 1 300000", "event 2 300000", "event 3 300000", "result 3", "x" })
    t.ok(worst < HOLD * story.scale, ("%.3f s"):format(worst))
    rpc:call("result", function(err, v) log[#log + 1] = err and err.code or #v end)
    ended(rpc)
    t.eq({ log[6], log[7] }, { 300000, "exit" })
  end)

story.test("other clones are answered meanwhile", { deadline = 60 }, function(t)
  local slow = server "local t = {} for i = 1, 900000 do t[i] = 's' .. i end return t"
  local quick = server "return 1"
  quick:call "result"
  local got, over, nquick = nil, false, 0
  slow:call("result", function(_, v) got, over = v, true end)
  local function again() -- one is under way when the slow one is over, and is the last
    if over then return end
    quick:call("echo", nquick, function() nquick = nquick + 1 again() end)
  end
  again()
  turn(t, function() return over end)
  t.note("%d quick calls", nquick)
  t.ok(nquick > 20, nquick)
  t.eq(#got, 900000)
  got = nil -- luacheck: ignore
  ended(slow)
  ended(quick)
end)

-- The clone writes its events as fast as it can; the parent has to keep its memory bounded.
story.test("a flood of them fills no memory", { deadline = 90 }, function(t)
  local out, code, err = t:lua([[
    local fork, kit = require "moonfork", require "testkit"
    local n = 0
    local rpc = fork.new():eval [=[
      local rpc = require "moonfork.rpc"
      function flood()
        local v = {}
        for i = 1, 250000 do v[i] = i end
        v.pad = ("x"):rep(3 << 20)
        while true do rpc.event(v) end
      end
    ]=]:rpc("flood", { on_event = function() n = n + 1 end })
    rpc:call(function() end)
    local worst, last, latest = 0, kit.now() + 4, kit.now() + 50
    while kit.now() < last or n <= 5 and kit.now() < latest do
      local began = os.clock()
      fork.step(0)
      worst = math.max(worst, os.clock() - began)
    end
    local peak = io.open "/proc/self/status":read "a":match "VmHWM:%s*(%d+)"
    print(n > 5, worst, peak // 1024)
    rpc:process():kill "KILL"
    os.exit(0, true) -- with one being read
  ]], { deadline = 70 })
  t.eq({ code, err }, { 0, "" }, out)
  local enough, worst, peak = out:match "(%a+)\t(%S+)\t(%S+)"
  t.eq(enough, "true", out)
  t.ok(tonumber(worst) < HOLD * story.scale, out)
  t.ok(tonumber(peak) < 500 * story.scale, out)
end)

story.test("the state ends while one is read, the rpc is closed, the call is cancelled",
  { deadline = 60 }, function(t)
    local head = [[
      local fork, kit = require "moonfork", require "testkit"
      local rpc = fork.new():eval "function f() local t = {} for i = 1, 500000 do t[i] = {} end return t end":rpc "f"
      local got
      local call = rpc:call(function(err, v) got = err and err.code or #v end)
      -- it is there, or nearly
      local last = kit.now() + 20
      while kit.now() < last and fork.reactor:timeout() ~= 0 do kit.msleep(1) end
    ]]
    for _, tail in ipairs { "os.exit(0, true)", "fork.step(0) os.exit(0, true)",
      "fork.step(0) rpc:close() rpc = nil collectgarbage() fork.loop() assert(got == 500000)",
      "call:cancel() fork.loop() assert(got == 500000 or got == 'CANCELLED', got)",
      "fork.step(0) rpc:process():kill 'KILL' fork.loop() assert(got == 500000 or got == 'CLONE_DIED', got)" } do
      local _, code, err = t:lua(head .. tail, { deadline = 40 })
      t.eq({ code, err }, { 0, "" }, tail)
    end
  end)

story.done()
