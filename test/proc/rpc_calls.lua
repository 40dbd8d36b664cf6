-- p:rpc (doc/rpc.md): options, values, results, init, serialisers, handles. Real processes; the
-- names begin with the row of AnyEvent::Fork::RPC that a story stands for.
local story = require "story"
local fork = require "moonfork"
local services = require "services"

local FUNCTIONS = [[
  function echo(...) return ... end
  function nothing() end
  function many(n) local t = {} for i = 1, n do t[i] = i end return table.unpack(t) end
]]

local function server(opts, name)
  return fork.new():eval(FUNCTIONS):rpc(name or "echo", opts)
end

local finish = services.finish_rpc

story.test("RP-01 rpc takes the process over and returns a callable", function(t)
  local p = fork.new():eval(FUNCTIONS)
  local rpc = p:rpc "echo"
  t.eq(t.got(rpc:call("a")), "a")
  t.eq(t.got(rpc("b")), "b")
  t.eq(rpc:process(), p)
  t.raises("was given run", p.run, p, "echo")
  t.raises("was given run", p.send_arg, p, "x")
  t.raises("was given run", p.rpc, p, "echo")
  t.ok(p:pid())
  finish(t, rpc)
end)

story.test("RP-02 options are checked, unknown ones are errors that list the valid", function(t)
  local p <close> = fork.new():eval(FUNCTIONS)
  t.raises("bad argument #2 to 'rpc' %(unknown option 'buflen' %(valid: async, grace, handles, init",
    p.rpc, p, "echo", {buflen = 1})
  t.raises("option 'async': boolean expected, got number", p.rpc, p, "echo", {async = 1})
  t.raises("option 'timeout': a positive number", p.rpc, p, "echo", {timeout = 0})
  t.raises("option 'on_event': function expected", p.rpc, p, "echo", {on_event = "x"})
  t.raises("option 'init': a name expected", p.rpc, p, "echo", {init = ""})
  t.raises("bad argument #1 to 'rpc'", p.rpc, p, 5)
  t.raises("bad argument #2 to 'rpc'", p.rpc, p, "echo", "x")
  local rpc = p:rpc "echo"
  t.raises("unknown option 'idempotent' %(valid: timeout%)", rpc.with, rpc, {idempotent = true})
  t.eq(rpc:with {timeout = 5} (1), 1)
  t.eq(rpc:with {timeout = 5}:call(2), 2)
  finish(t, rpc)
end)

story.test("RP-05 all results arrive, none, one, twenty and nils at the end", function(t)
  local rpc = server(nil, "many")
  for _, n in ipairs {0, 1, 20, 200} do
    local got = table.pack(rpc(n))
    t.eq(got.n, n)
    t.eq(got[n], n > 0 and n or nil)
  end
  finish(t, rpc)
  rpc = server()
  t.eq(select("#", rpc(nil, nil, nil)), 3)
  t.eq(table.pack(rpc(1, nil, false, nil)), {1, nil, false, n = 4})
  finish(t, rpc)
end)

story.test("RP-05 a callback gets nil and the results, later and once", function(t)
  local rpc, seen = server(), {}
  local call = rpc("x", nil, function(...) seen[#seen + 1] = table.pack(...) end)
  t.eq(#seen, 0)
  t.ok(call.cancel)
  fork.loop()
  t.eq(seen, {{nil, "x", nil, n = 3}})
  t.eq(call:cancel(), false)
  finish(t, rpc)
end)

story.test("RP-06 calls made before the process is up are queued", function(t)
  local p = fork.new_exec():eval(FUNCTIONS)
  local rpc, order = p:rpc "echo", {}
  for i = 1, 100 do rpc(i, function(err, value) order[i] = not err and value end) end
  t.eq(rpc(101), 101)
  for i = 1, 100 do t.eq(order[i], i) end
  finish(t, rpc)
end)

story.test("RP-07 close lets outstanding calls finish, then ends it and tells", function(t)
  local events = {}
  local rpc = server {on_close = function() events[#events + 1] = "closed" end,
    on_error = function(err) events[#events + 1] = err end}
  local p = rpc:process()
  for i = 1, 50 do rpc(i, function(err, value) events[#events + 1] = err or value end) end
  rpc:close()
  rpc:close()
  local value, err = rpc(1)
  t.eq(value, nil)
  t.error(err, "CLOSED")
  local late
  rpc(2, function(e) late = e end)
  fork.loop()
  t.eq(#events, 51)
  t.eq(events[50], 50)
  t.eq(events[51], "closed")
  t.error(late, "CLOSED")
  t.eq(late.started, "no")
  t.eq(t.status(p).code, 0)
  p:close()
end)

story.test("RP-07 an rpc that is collected finishes its calls and ends", function(t)
  local got, closed = 0, false
  do
    local rpc = server {on_close = function() closed = true end}
    for _ = 1, 10 do rpc(1, function(err) t.ok(not err) got = got + 1 end) end
  end
  t.collect()
  t.within(5, function() return closed end)
  t.eq(got, 10)
end)

story.test("RP-13 events reach on_event, from init too", function(t)
  local events = {}
  local p = fork.new():eval [[
    function begin(a, b) require "moonfork.rpc".event("init", a, b) end
    function work(n)
      local event = require "moonfork.rpc".event
      for i = 1, n do assert(event(i, {i})) end
      return n
    end
  ]]
  local rpc = p:send_arg("x", "y"):rpc("work", {init = "begin", on_event = function(...)
    events[#events + 1] = table.pack(...)
  end})
  t.eq(rpc(3), 3)
  t.eq(events, {{"init", "x", "y", n = 3}, {1, {1}, n = 2}, {2, {2}, n = 2}, {3, {3}, n = 2}})
  finish(t, rpc)
end)

story.test("RP-15 init runs once, first, with the arguments sent, and may load", function(t)
  t:module("app.late", "return {value = function() return init_got end}")
  local p = fork.new():eval [[
    function begin(...) init_got = {n = select("#", ...), ...} init_got[1]:close()
      init_got[1] = nil package.loaded["app.ready"] = true end
  ]]
  local file <close> = assert(io.open("/dev/null"))
  local rpc = p:send_fd(file):send_arg("a", "b"):rpc("app.late:value", {init = "begin"})
  t.eq(rpc(), {n = 3, [2] = "a", [3] = "b"})
  t.eq(rpc(), {n = 3, [2] = "a", [3] = "b"})
  finish(t, rpc)
end)

story.test("RP-15 an init that fails fails every call, with its traceback", function(t)
  local told = {}
  local p = fork.new():eval [[ function begin() error "not today" end function f() end ]]
  local rpc = p:rpc("f", {init = "begin", on_error = function(e) told[#told + 1] = e end})
  local value, err = rpc()
  t.eq(value, nil)
  t.error(err, "REMOTE", "not today")
  t.match(err.traceback, "begin")
  t.eq(err.started, "no")
  t.within(5, function() return told[1] end)
  t.error(told[1], "REMOTE", "not today")
  local _, again = rpc()
  t.error(again, "REMOTE", "not today")
  finish(t, rpc)
end)

story.test("RP-17 the serialiser may be strings, or a module on both sides", function(t)
  local rpc = server {serialiser = "string"}
  t.eq({rpc("a\0b", "", 5)}, {"a\0b", "", "5"})
  local _, err = rpc({})
  t.error(err, "EINVAL", "argument 1: a table can't be sent by this serialiser")
  t.eq(err.started, "no")
  finish(t, rpc)
  t:module("app.codec", [[
    local codec = {}
    function codec.encode(...)
      local t = table.pack(...)
      for i = 1, t.n do t[i] = tostring(t[i]) end
      return "<" .. table.concat(t, ",") .. ">"
    end
    function codec.decode(text) return text:match "^<(.*)>$" end
    return codec
  ]])
  rpc = server {serialiser = "app.codec"}
  t.eq(rpc(1, true, "x"), "1,true,x")
  finish(t, rpc)
  -- One that fails, here and over there: that call alone fails, and says so.
  t:module("app.picky", [[
    local codec = {}
    function codec.encode(value)
      if value == "raise" then error "not that" end
      if value == "table" then error{} end
      if value == "nothing" then return end
      return value
    end
    function codec.decode(text) return text:gsub("!", "") end
    return codec
  ]])
  rpc = server {serialiser = "app.picky"}
  for value, text in pairs{raise = ".*not that", table = "an error", nothing = "it returned no string"} do
    local message = "the serialiser's encode: " .. text
    local _, here = rpc(value)
    t.error(here, "EINVAL", message)
    t.eq(here.started, "no")
    local _, there = rpc(value .. "!")
    t.error(there, "EINVAL", message)
    t.eq(there.started, "unknown")
    t.eq(rpc "good", "good")
  end
  finish(t, rpc)
  local p <close> = fork.new()
  t.raises("no%-such%-codec", p.rpc, p, "echo", {serialiser = "no-such-codec"})
end)

story.test("RP-17 a serialiser that the clone can't load fails the calls by its name", function(t)
  package.preload["only.here"] = function()
    return {encode = tostring, decode = function(s) return s end}
  end
  local rpc = server {serialiser = "only.here"}
  local _, err = rpc(1)
  t.error(err, "REMOTE", "only.here")
  finish(t, rpc)
  package.preload["only.here"], package.loaded["only.here"] = nil, nil
end)

story.test("RP-18 a message that is too long is refused, and the rpc lives on", function(t)
  local rpc = server {message_max = 100000}
  local _, err = rpc(("x"):rep(200000))
  t.error(err, "LIMIT")
  t.eq(err.started, "no")
  t.eq(#rpc(("x"):rep(90000)), 90000)
  finish(t, rpc)
  rpc = fork.new():eval [[function big(n) return ("x"):rep(n) end]]:rpc("big",
    {message_max = 100000})
  _, err = rpc(200000)
  t.error(err, "LIMIT")
  t.eq(#rpc(5), 5)
  finish(t, rpc)
end)

-- The limit is for what the user sends. It was applied to the text of an error, too: a function that
-- raised ended its process with PROTOCOL.
story.test("an error longer than message_max arrives whole, and the rpc lives on", function(t)
  local code = [[function f(n) if n > 0 then error(("y"):rep(n), 0) end return "fine" end]]
  for _, n in ipairs {3000, 20000, 60000} do
    local rpc = fork.new():eval(code):rpc("f", {message_max = 2048})
    local _, err = rpc(n)
    t.error(err, "REMOTE")
    t.eq(err.message, ("y"):rep(n))
    t.eq(rpc(0), "fine")
    finish(t, rpc)
    local pool = fork.new():eval(code):pool("f", {message_max = 2048, max = 1})
    local deaths
    _, err = pool(n)
    t.error(err, "REMOTE")
    t.eq(pool(0), "fine")
    deaths = pool:stats().deaths
    t.eq(deaths, 0)
    pool:drain()
  end
end)

story.test("RP-19 large values pass whole", function(t)
  local rpc = server()
  for _, n in ipairs {1, 65535, 65536, 262143, 262144, 262145, 1 << 20, 20 << 20} do
    local text = ("0123456789abcdef"):rep(n // 16 + 1):sub(1, n)
    t.ok(rpc(text) == text, n)
  end
  finish(t, rpc)
end)

-- Bodies that are read and written where they lie, among short ones, in every combination.
local function pass_mixed(t, opts)
  local rpc = fork.new():eval [[
    function echo(text) return text end
    function later(done, text) done(text) end
  ]]:rpc(opts.async and "later" or "echo", opts)
  local sizes = {5, 1 << 20, 70000, 0, 300000, 128 << 10, 3 << 20, 17000, 262144, 40, 5 << 20, 1}
  local left = 0
  for round = 1, 3 do
    for i, n in ipairs(sizes) do
      local unit = ("%d.%d "):format(round, i)
      local text = unit:rep(n // #unit + 1):sub(1, n)
      left = left + 1
      rpc:call(text, function(err, got)
        t.eq(err, nil)
        t.ok(got == text, n)
        left = left - 1
      end)
    end
    while left > 0 do fork.step(1) end
  end
  finish(t, rpc)
end

story.test("RP-19 long and short ones do not mix", function(t)
  for _, serialiser in ipairs {"msgpack", "string", "raw"} do
    pass_mixed(t, {serialiser = serialiser})
    pass_mixed(t, {serialiser = serialiser, handles = true, strict = true})
  end
end)

story.test("RP-19 nor asynchronously", {needs = "luv"}, function(t)
  for _, serialiser in ipairs {"msgpack", "string", "raw"} do
    pass_mixed(t, {serialiser = serialiser, async = true})
  end
end)

story.test("RP-19 events and errors between long ones", function(t)
  local events = {}
  local rpc = fork.new():eval [[
    local event = require "moonfork.rpc".event
    function f(text) event(text .. "1") event(text .. "2") error(text:sub(1, 3), 0) end
  ]]:rpc("f", {on_event = function(text) events[#events + 1] = text end})
  for _, n in ipairs {1 << 20, 100, 100000} do
    local text = ("abc"):rep(n)
    local _, err = rpc(text)
    t.error(err, "REMOTE", "abc")
    t.eq(#events, 2)
    t.ok(events[1] == text .. "1" and events[2] == text .. "2", n)
    events = {}
  end
  finish(t, rpc)
end)

story.test("long calls need no fresh memory", function(t)
  local function faults()
    local f <close> = assert(io.open "/proc/self/stat")
    return tonumber(f:read "a":match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+)")
  end
  if story.is_sanitized then t.skip "the sanitizer's memory is always fresh" end
  if not pcall(faults) then t.skip "needs /proc" end
  for _, serialiser in ipairs {"raw", "string", "msgpack"} do
    local rpc = fork.new():eval [[
      function faults()
        local f <close> = assert(io.open "/proc/self/stat")
        return f:read "a":match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+)"
      end
      function f(text) return #text > 0 and text or faults() end
    ]]:rpc("f", {serialiser = serialiser})
    local text = ("x"):rep(1 << 20)
    for _ = 1, 20 do assert(rpc(text)) end
    local before = tonumber(rpc "")
    for _ = 1, 50 do assert(rpc(text)) end
    local each = (tonumber(rpc "") - before) / 50
    t.ok(each < 30, serialiser .. ": " .. each)
    finish(t, rpc)
  end
end)

story.test("RP-23 handles are arguments", function(t)
  local rpc = fork.new():eval [[
    function write(file, text) file:write(text) file:close() return "done" end
  ]]:rpc "write"
  local a, b = fork.socket.pair()
  t.eq(rpc(b, "hello"), "done")
  b:close()
  t.eq(a:read "a", "hello")
  a:close()
  local _, err = rpc({x = b})
  t.error(err, "EINVAL", "argument 1%.x: not an open descriptor")
  finish(t, rpc)
  rpc = fork.new():eval [[
    function count(list)
      for _, handle in ipairs(list) do handle:fileno() handle:close() end
      return #list
    end
  ]]:rpc "count"
  local null <close> = assert(io.open "/dev/null")
  for _, n in ipairs {1, 16, 17, 100, 300} do
    local list = {}
    for i = 1, n do list[i] = null end
    t.eq(rpc(list), n)
  end
  finish(t, rpc)
end)

story.test("RP-23 handles are results and events with handles=true only", function(t)
  local code = [[
    function give() local clone = require "moonfork.clone"
      local r, w = clone.pipe()
      w:write("inside") w:close()
      require "moonfork.rpc".event("event", r)
      return "result", r
    end
  ]]
  local events = {}
  local rpc = fork.new():eval(code):rpc("give", {handles = true,
    on_event = function(...) events[#events + 1] = {...} end})
  local name, r = t.got(rpc())
  t.eq(name, "result")
  t.eq(r:read "a", "inside")
  r:close()
  t.eq(events[1][1], "event")
  events[1][2]:close()
  finish(t, rpc)
  rpc = fork.new():eval(code):rpc("give", {on_event = print})
  local value, err = rpc()
  t.eq(value, nil)
  t.error(err, "EINVAL", "result 2: a handle")
  finish(t, rpc)
end)

story.test("what can't be sent is reported, with its path, on both sides", function(t)
  local rpc = fork.new():eval [[
    function f(what) local t = {t = {}} t.t.x = what == 1 and print or t return 1, t end
  ]]:rpc "f"
  local seen
  rpc(1, {t = {x = print}}, function(...) seen = table.pack(...) end)
  t.eq(seen, nil)
  fork.loop()
  t.eq(seen.n, 1)
  t.error(seen[1], "EINVAL", "argument 2%.t%.x: a function can't be sent")
  t.eq(seen[1].started, "no")
  local circle = {}
  circle[1] = circle
  local _, err = rpc(circle)
  t.error(err, "EINVAL", "argument 1%[1%]: a table that contains itself")
  _, err = rpc(1)
  t.error(err, "EINVAL", "result 2%.t%.x: a function can't be sent")
  t.eq(err.started, "unknown")
  _, err = rpc(2)
  t.error(err, "EINVAL", "result 2%.t%.x: a table that contains itself")
  finish(t, rpc)
end)

story.test("a chain that failed before answers every call with its error", function(t)
  local p = fork.new():send_fd(9999)
  local rpc = p:rpc "type"
  local value, err = rpc(1)
  t.eq(value, nil)
  t.error(err, "EINVAL", "9999")
  local later
  rpc(1, function(e) later = e end)
  fork.loop()
  t.error(later, "EINVAL")
  rpc:close()
  p:close()
  t.within(5, function() return true end)
end)

story.test("calls wait in coroutines, many at a time, under a waiter", function(t)
  local rpc, done = server(), 0
  local threads = {}
  fork.set_waiter(function()
    if coroutine.isyieldable() then coroutine.yield() else story.kit.msleep(1) end
  end)
  for i = 1, 20 do
    threads[i] = coroutine.create(function()
      for k = 1, 5 do t.eq(rpc(i, k), i) end
      done = done + 1
    end)
  end
  t.within(10, function()
    for i, thread in pairs(threads) do
      t.ok(coroutine.resume(thread))
      if coroutine.status(thread) == "dead" then threads[i] = nil end
    end
    return not next(threads)
  end)
  fork.set_waiter(nil)
  t.eq(done, 20)
  finish(t, rpc)
end)

story.test("RP-23 descriptors of what can't be sent are closed", function(t)
  for _, how in ipairs {"result", "event", "argument"} do
    local rpc = fork.new():eval [[
      local event = require "moonfork.rpc".event
      function f(how, ...)
        if how == "count" then
          local n = 0
          collectgarbage() -- the handles that came
          collectgarbage()
          for _ in pairs(require "testkit".fds()) do n = n + 1 end
          return n
        end
        local file = io.stdin
        if how == "result" then return file, {file, {file}}, print end
        if how == "event" then assert(not event(file, {file}, print)) end
      end
    ]]:rpc("f", {handles = true})
    local before = t.got(rpc "count")
    for _ = 1, 10 do
      local _, err = rpc(how, io.stdin, how == "argument" and {print} or nil)
      if how ~= "event" then t.error(err, "EINVAL") end
    end
    t.collect()
    t.eq(t.got(rpc "count"), before, how)
    finish(t, rpc)
  end
end)

story.done()
