--- pool:map (API 1.10): chunks of any size, orders, iterators, errors of items, handles, and
-- workers that die or hang at any item: every item is told once and begun once. Real processes.
local story = require "story"
local fork = require "moonfork"
local socket = fork.socket
local kit = story.kit

-- note(i) leaves a line in a file that all workers share, so that what was begun is known.
local FUNCTIONS = [[
  local clone = require "moonfork.clone"
  local ledger = ...
  function note(i)
    local f = assert(io.open(ledger, "a"))
    f:setvbuf "no"
    f:write(i .. "\n")
    f:close()
  end
  local function spin(seconds)
    local e = os.clock() + seconds
    while os.clock() < e do end
  end
  function echo(...) return ... end
  function twice(i) if i % 13 == 0 then error("item " .. i, 0) end return i * 2, nil, "r" .. i, nil end
  function mortal(i, dies) note(i) if dies then clone.kill(clone.pid(), 9) end return i end
  function hangs(i) note(i) if i == 7 then while true do end end return i end
  function work(i, ms) note(i) spin(ms / 1000) return i end
  function nap(i, ms) note(i) require "testkit".msleep(ms) return i end
  function slow(i) spin(0.002) return i end
  function first_slow(i) if i == 1 then spin(0.3) end return i end
  function say(handle, text) handle:write(text) handle:close() return text end
  function long(i) return ("x"):rep(i * 1000) end
]]

local function template()
  local ledger = kit.mkdtemp() .. "/ledger"
  return fork.new():eval(FUNCTIONS, ledger), function()
    local counts, n = {}, 0
    local f = io.open(ledger)
    if not f then return counts, 0 end
    for line in f:lines() do
      local i = assert(math.tointeger(tonumber(line)), line)
      counts[i], n = (counts[i] or 0) + 1, n + 1
    end
    f:close()
    return counts, n
  end
end

local function count_to(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

-- What map tells, by index; each index once, in order unless it may be another.
local function tell(t, unordered, ...)
  local told, last = {}, 0
  for i, err, a, b, c, d in ... do
    t.ok(not told[i], "told twice")
    if not unordered then t.eq(i, last + 1) end
    last = i
    told[i] = {err = err, a, b, c, d}
  end
  return told
end

story.test("chunks of any size give each item its results or its error", function(t)
  local pool = template():pool("twice", {max = 2})
  for _, n in ipairs {0, 1, 2, 7, 100, 1500} do
    for _, chunk in ipairs {"auto", 1, 2, math.random(3, 99), 2000} do
      for _, unordered in ipairs {false, true} do
        local told = tell(t, unordered, pool:map(count_to(n), {chunk = chunk, unordered = unordered}))
        t.eq(#told, n)
        for i = 1, n do
          local x = told[i]
          if i % 13 == 0 then
            t.eq(x.err.code, "REMOTE")
            t.match(tostring(x.err), "item " .. i)
          else
            t.eq(x, {i * 2, nil, "r" .. i})
          end
        end
      end
    end
  end
  pool:close()
end)

story.test("lists, functions, iterators with their state; unpack; nil among arguments", function(t)
  local pool = template():pool("echo", {max = 2})
  for _, chunk in ipairs {"auto", 1, 3} do
    local n = 0
    local told = tell(t, false, pool:map(function() n = n + 1 return n <= 20 and n or nil end, {chunk = chunk}))
    t.eq({#told, told[20]}, {20, {20}})
    told = tell(t, false, pool:map({ipairs {"a", "b"}}, {chunk = chunk}))
    t.eq(told, {{1, "a"}, {2, "b"}})
    told = tell(t, false, pool:map({{1, 2}, {n = 3, [3] = "c"}, {}, 5}, {chunk = chunk, unpack = true}))
    t.eq({told[1], told[2], told[3]}, {{1, 2}, {nil, nil, "c"}, {}})
    t.eq(told[4].err.code, "EINVAL")
    t.match(told[4].err.message, "number")
    told = tell(t, false, pool:map({ipairs {{1, 2}}}, {chunk = chunk, unpack = true}))
    t.eq(#told, 1)
    told = tell(t, false, pool:map({1, print, 3}, {chunk = chunk}))
    t.eq({told[1], told[3]}, {{1}, {3}})
    t.eq(told[2].err.code, "EINVAL")
    t.eq(told[2].err.started, "no")
  end
  pool:close()
end)

for name, options in pairs {string = {serialiser = "string"}, raw = {serialiser = "raw"},
                            module = {serialiser = "pool_map_module"}} do
  story.test("chunks by the serialiser " .. name, function(t)
    local CODE = [[package.loaded.pool_map_module =
      {encode = function(...) return table.concat({...}, ",") end, decode = function(s) return s end}]]
    load(CODE)()
    local pool = fork.new():eval(CODE .. " function f(s) return s .. s end"):pool("f", options)
    local list = {}
    for i = 1, 300 do list[i] = "s" .. i end
    local told = tell(t, false, pool:map(list))
    for i = 1, 300 do t.eq(told[i], {list[i] .. list[i]}) end
    pool:close()
  end)
end

story.test("workers that die at random items cost these items and no other", function(t)
  for round = 1, 8 do
    local p, read = template()
    local n, items, dies = 200, {}, {}
    for _ = 1, math.random(1, 6) do dies[math.random(n)] = true end
    for i = 1, n do items[i] = {i, dies[i]} end
    local pool = p:pool("mortal", {max = 2, start = 0, load = math.random(3), restart = {burst = 100}})
    local chunk, unordered = ({"auto", 1, 10, 64, 500})[math.random(5)], round % 2 == 0
    local told = tell(t, unordered, pool:map(items, {chunk = chunk, unordered = unordered, unpack = true}))
    local begun, all = read()
    for i = 1, n do
      if dies[i] then
        t.eq({told[i].err.code, told[i].err.started}, {"CLONE_DIED", "unknown"})
        t.eq(told[i].err.exit.signal, 9)
      else
        t.eq(told[i], {i})
      end
      t.eq(begun[i], 1, ("item %d, chunk %s"):format(i, chunk))
    end
    t.eq(all, n)
    pool:close()
  end
end)

-- A message counted as answered only as a whole: workers that died at their first one, behind
-- items that they had answered, were six that had answered nothing, and the pool failed.
for _, isolation in ipairs {"process", "thread"} do
  story.test(("a %s that dies behind items of its message has answered"):format(isolation), function(t)
    local function pool_of(name)
      return fork.new_exec():eval [[
        function tenth(x) if x % 10 == 0 then os.exit(3) end return x end
        function never(x) os.exit(3) end
      ]]:pool(name, {max = 1, load = 1, isolation = isolation, backoff = {min = 0.001, max = 0.001}})
    end
    local pool = pool_of "tenth"
    local told = tell(t, false, pool:map(count_to(120), {chunk = 10}))
    for i = 1, 120 do
      if i % 10 == 0 then t.error(told[i].err, "CLONE_DIED") else t.eq(told[i], {i}) end
    end
    t.eq({#told, pool:stats().state, pool:stats().deaths}, {120, "running", 12})
    t.got(pool:drain(5))
    pool = pool_of "never"
    for _, one in ipairs(tell(t, false, pool:map(count_to(120), {chunk = 10}))) do
      t.error(one.err, "CLONE_DIED")
    end
    t.eq(pool:stats().state, "failed", "those that answer nothing still fail it")
    pool:close()
  end)
end

story.test("items that may run twice do when their worker dies, three times at most", function(t)
  for _, chunk in ipairs {"auto", 20, 1} do
    local p, read = template()
    local pool = p:pool("mortal", {max = 2, start = 0, restart = {burst = 100}})
    local items = {}
    for i = 1, 60 do items[i] = {i, i == 31} end
    local told = tell(t, false, pool:with {idempotent = true}:map(items, {chunk = chunk, unpack = true}))
    local begun = read()
    for i = 1, 60 do
      if i == 31 then
        t.eq(told[i].err.code, "CLONE_DIED")
        t.eq(begun[i], 3)
      else
        t.eq(told[i], {i})
        if chunk ~= 1 then t.eq(begun[i], 1) end
      end
    end
    pool:close()
  end
end)

story.test("call_timeout is an item's: the one that hangs is killed, the others go on", function(t)
  for _, chunk in ipairs {"auto", 5, 50} do
    local p, read = template()
    local pool = p:pool("hangs", {max = 2, start = 0, call_timeout = 1})
    local told = tell(t, false, pool:map(count_to(50), {chunk = chunk}))
    local begun = read()
    for i = 1, 50 do
      if i == 7 then t.eq(told[i].err.code, "TIMEOUT") else t.eq(told[i], {i}) end
      t.eq(begun[i], 1)
    end
    pool:close()
  end
end)

story.test("items together may take longer than call_timeout", function(t)
  local p, read = template()
  local pool = p:pool("nap", {max = 1, start = 0, call_timeout = 1})
  local items = {}
  for i = 1, 30 do items[i] = {i, 60} end -- 1.8 s
  local told = tell(t, false, pool:map(items, {chunk = 30, unpack = true}))
  for i = 1, 30 do t.eq(told[i], {i}) end
  t.eq(select(2, read()), 30)
  pool:close()
end)

story.test("timeout counts from the moment an item is given to the pool", function(t)
  local p, read = template()
  local pool = p:pool("work", {max = 1, start = 0})
  t.eq(pool(0, 0), 0)
  local items = {}
  for i = 1, 40 do items[i] = {i, i == 1 and 0 or 50} end -- all: longer than their timeout
  local told = tell(t, false, pool:with {timeout = 1.2}:map(items, {chunk = 40, unpack = true}))
  t.eq(told[1], {1})
  t.eq({told[40].err.code, told[40].err.started}, {"TIMEOUT", "no"})
  t.ok(pool:drain(20))
  local begun = read()
  for i = 1, 40 do
    local x = told[i]
    if not x.err then t.eq({x[1], begun[i]}, {i, 1}) end
    if x.err and x.err.started == "no" then t.eq(begun[i], nil, "it was begun") end
  end
end)

story.test("leaving the loop ends what is under way behind the item that runs", function(t)
  local p, read = template()
  local pool = p:pool("work", {max = 2, start = 0})
  local items = {}
  for i = 1, 4000 do items[i] = {i, 2} end
  for i in pool:map(items, {chunk = 100, unpack = true, unordered = true,
    progress = function() end}) do
    if i then break end
  end
  t.ok(pool:drain(20))
  local _, n = read()
  t.ok(n < 4000, "all chunks were worked through: " .. n)
  pool:close()
  p, read = template()
  pool = p:pool("work", {max = 1, start = 0, load = 1})
  local map <const> = table.pack(pool:map(items, {chunk = 4000, unpack = true}))
  fork.set_waiter(function()
    if coroutine.isyieldable() then coroutine.yield "waits" else kit.msleep(1) end
  end)
  local waiting <const> = coroutine.wrap(function() map[1]() end)
  t.eq(waiting(), "waits")
  collectgarbage() -- a wait that is garbage would end the map
  t.within(10, function() fork.step(0.01) return select(2, read()) > 5 end)
  fork.set_waiter(nil)
  map[4]:close()
  t.ok(pool:drain(20))
  t.ok(select(2, read()) < 3000, "a chunk that was left was worked through")
end)

story.test("an endless iterator is read ahead by twice what the workers take", function(t)
  local pool = template():pool("slow", {max = 2, load = 2, start = 0})
  for _, chunk in ipairs {"auto", 1, 8} do
    local n, size = 0, chunk == 8 and 8 or 1
    for i, err in pool:map(function() n = n + 1 return n end, {chunk = chunk}) do
      t.ok(not err)
      t.ok(n - i <= 2 * 2 * 2 * size, ("read %d, told %d"):format(n, i))
      if i == 100 then break end
    end
  end
  pool:close()
end)

story.test("quick items travel together, slow ones alone", function(t)
  local pool = template():pool("echo", {max = 2})
  tell(t, false, pool:map(count_to(20000)))
  t.ok(pool:stats().calls < 2000, "messages: " .. pool:stats().calls)
  pool:close()
  pool = template():pool("slow", {max = 2})
  tell(t, false, pool:map(count_to(100)))
  t.eq(pool:stats().calls, 100)
  pool:close()
end)

story.test("unordered results come when they are there", function(t)
  local pool = template():pool("first_slow", {max = 2, start = 0, idle = 2})
  local place, at = nil, 0
  for i, err, v in pool:map(count_to(30), {unordered = true}) do
    at = at + 1
    t.eq({err, v}, {nil, i})
    if i == 1 then place = at end
  end
  t.eq(at, 30)
  t.ok(place > 5, "the slow item held the others: " .. place)
  pool:close()
end)

story.test("an iterator's error comes behind the items before it", function(t)
  local pool = template():pool("echo", {max = 2})
  for _, chunk in ipairs {"auto", 1, 4} do
    local n, told = 0, 0
    local ok, err = pcall(function()
      for i, e in pool:map(function() n = n + 1 if n == 30 then error {mine = true} end return n end,
        {chunk = chunk}) do
        t.ok(not e)
        told = i
      end
    end)
    t.eq({ok, err.mine, told}, {false, true, 29})
  end
  t.eq(pool("alive"), "alive")
  pool:close()
end)

story.test("progress counts what is done and failed, up to all", function(t)
  local pool = template():pool("twice", {max = 2})
  for _, chunk in ipairs {"auto", 1, 50} do
    local done, failed, total = 0, 0, nil
    tell(t, false, pool:map(count_to(130), {chunk = chunk, progress = function(d, f, n)
      t.ok(d >= done and f >= failed and d + f > done + failed)
      done, failed, total = d, f, n
    end}))
    t.eq({done, failed, total}, {120, 10, 130})
  end
  local last
  local n = 0
  tell(t, false, pool:map(function() n = n + 1 return n <= 5 and n or nil end,
    {progress = function(...) last = table.pack(...) end}))
  t.eq(last, {5, 0, nil, n = 3})
  pool:close()
end)

story.test("items and results may have handles", function(t)
  local GIVE = [[
    local kit = require "testkit"
    function give(i)
      if i % 5 > 0 then return i end
      local r, w = kit.pipe()
      kit.write(w, "hi " .. i)
      kit.close(w)
      last = setmetatable({}, {__index = {fileno = function() return r end},
        __gc = function() kit.close(r) end})
      return i, last
    end
  ]]
  local pool = template():pool("say", {max = 2})
  local items, near = {}, {}
  for i = 1, 12 do
    local a, b = socket.pair()
    near[i], items[i] = a, {b, "text " .. i}
  end
  local told = tell(t, false, pool:map(items, {unpack = true, chunk = 4}))
  for i = 1, 12 do
    t.eq(told[i], {"text " .. i})
    items[i][1]:close()
    t.eq(near[i]:read "a", "text " .. i)
    near[i]:close()
  end
  pool:close()
  pool = fork.new():eval(GIVE):pool("give", {max = 2, handles = true})
  for i, err, v, handle in pool:map(count_to(100), {chunk = 30}) do
    t.eq({err, v}, {nil, i})
    t.eq(handle ~= nil, i % 5 == 0)
    if handle then
      t.eq(handle:read "a", "hi " .. i)
      handle:close()
    end
  end
  pool:close()
end)

story.test("long results, short messages, asynchronous functions, small queues", function(t)
  local pool = template():pool("long", {max = 2})
  for i, err, v in pool:map(count_to(300), {chunk = 100}) do t.eq({err, #v}, {nil, i * 1000}) end
  pool:close()
  pool = template():pool("echo", {max = 2, message_max = 100})
  for i, err, v in pool:map(count_to(50), {chunk = 10}) do t.eq({err, v}, {nil, i}) end
  pool:close()
  pool = template():pool("slow", {max = 2, queue_max = 1, call_timeout = 5})
  for i, err, v in pool:map(count_to(100), {chunk = 25}) do t.eq({err, v}, {nil, i}) end
  pool:close()
end)

story.test("workers without a free descriptor take the items as calls", function(t)
  local pool = fork.new():eval [[
    local kit = require "testkit"
    local held = {}
    function init() while true do local r, w = kit.pipe() if not r then break end held[#held + 1] = r end end
    function f(i, ...) return i + 1, ... end
  ]]:limit {nofile = 40}:pool("f", {init = "init", max = 2})
  for _, unordered in ipairs {false, true} do
    local told = tell(t, unordered, pool:map({{1, nil, "x"}, {2}, {3, true}, {4}, {5}},
      {chunk = 3, unpack = true, unordered = unordered}))
    t.eq(told, {{2, nil, "x"}, {3}, {4, true}, {5}, {6}})
  end
  pool:close()
end)

story.test("a pool that is closed, and one that fails", function(t)
  local pool = template():pool("echo", {max = 2})
  pool:close()
  local told = tell(t, false, pool:map(count_to(20), {chunk = 4}))
  t.eq(#told, 20)
  for i = 1, 20 do t.eq({told[i].err.code, told[i].err.started}, {"CLOSED", "no"}) end
  pool = fork.new():eval "function f() end function init() error 'no' end"
    :pool("f", {init = "init", max = 2, start = 0, backoff = {min = 0, max = 0}, on_error = function() end})
  told = tell(t, false, pool:map(count_to(50), {chunk = 10}))
  t.eq(#told, 50)
  for i = 1, 50 do t.ok(told[i].err and told[i].err.started == "no") end
  pool:close()
end)

story.test("options that are none are named", function(t)
  local pool = template():pool("echo", {max = 1})
  for _, wrong in ipairs {{chunk = 0}, {chunk = "many"}, {chunk = 1.5}, {unordered = 1}, {unpack = "x"},
                          {progress = 1}, {chunks = 3}} do
    local ok, message = pcall(pool.map, pool, {1}, wrong)
    t.ok(not ok)
    t.match(message, "bad argument #2 to 'map'")
    t.match(message, (next(wrong)))
  end
  pool:close()
end)

story.test("nothing stays open: descriptors after maps of all kinds", function(t)
  local pool = template():pool("twice", {max = 2})
  tell(t, false, pool:map(count_to(100), {chunk = 10}))
  collectgarbage()
  local function count()
    local n = 0
    for _ in pairs(kit.fds()) do n = n + 1 end
    return n
  end
  local before = count()
  for _ = 1, 5 do
    tell(t, false, pool:map(count_to(100), {chunk = 10}))
    for i in pool:map(count_to(100), {chunk = 10}) do if i == 3 then break end end
  end
  t.within(10, function() fork.step(0.01) collectgarbage() return count() <= before end)
  pool:close()
end)

story.done()
