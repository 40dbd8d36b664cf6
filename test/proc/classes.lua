-- Objects keep their class on the way: moonfork.rpc's register (doc/rpc.md, "Classes").
local story = require "story"
local fork = require "moonfork"
local register = require "moonfork.rpc".register

-- Points: a module that both sides load, and that registers its class itself.
local POINT = [[
  local Point = {}
  Point.__index = Point
  function Point.new(x, y) return setmetatable({x = x, y = y, cache = print}, Point) end
  function Point:norm() return self.x * self.x + self.y * self.y end
  require("moonfork.rpc").register("point", Point,
    function(p) return {p.x, p.y} end,
    function(v) return Point.new(v[1], v[2]) end)
  return Point
]]

local FUNCTIONS = [[
  local rpc = require "moonfork.rpc"
  local Point = package.loaded.point
  function echo(...) return ... end
  function norm(p) return p:norm() end
  function kind(p) return Point and getmetatable(p) == Point, type(p), p[1], p.x end
  function make(x, y) return {p = Point.new(x, y)} end
  function tell(...) rpc.event(...) end
  function fail(x) error(x) end
]]

-- A process where objects of these classes are boxes of what they were packed to.
local function boxes(...)
  return fork.new():eval(FUNCTIONS):eval([[
    for _, name in ipairs {...} do
      local Box = {}
      require("moonfork.rpc").register(name, Box, function(o) return o[1] end,
        function(v) return setmetatable({v}, Box) end)
    end
  ]], ...)
end

local function unregister(...)
  for _, name in ipairs {...} do register(name, nil) end
end

-- A template that knows points, and the class here.
local function points(t)
  t:module("point", POINT)
  package.loaded.point = nil
  local Point = require "point"
  return Point, fork.new():require "point":eval(FUNCTIONS)
end

story.test("objects keep their class in calls and results, at any depth", function(t)
  local Point, p = points(t)
  local rpc <close> = p:rpc "echo"
  local norm <close> = fork.new():require "point":eval(FUNCTIONS):rpc "norm"
  t.eq(t.got(norm(Point.new(3, 4))), 25)
  local a, list, key = t.got(rpc(Point.new(1, 2), { 7, { at = Point.new(3, 4) } },
    { [Point.new(5, 6)] = true }))
  t.eq({ getmetatable(a) == Point, a.x, a.y, a:norm() }, { true, 1, 2, 5 })
  t.eq(list[2].at:norm(), 25)
  t.eq(next(key):norm(), 61)
  t.eq(getmetatable((t.got(rpc { x = 1 }))), nil)
  unregister "point"
end)

story.test("objects travel in events, errors, p:set and map", function(t)
  local Point, p = points(t)
  local events = {}
  local rpc <close> = p:fork():rpc("tell", { on_event = function(...) events[#events + 1] = { ... } end })
  t.got(rpc(1, Point.new(1, 1)) == nil)
  t.within(5, function() return events[1] end)
  t.eq({ events[1][1], events[1][2]:norm() }, { 1, 2 })
  local failing <close> = p:fork():rpc "fail"
  local _, err = failing(Point.new(2, 3))
  t.error(err, "REMOTE")
  t.eq({ getmetatable(err.value) == Point, err.value:norm() }, { true, 13 })
  _, err = p:fork():set("bad", Point.new(2, 2)):eval "error(bad)":run "echo"
  t.error(err, "REMOTE")
  t.eq(err.value:norm(), 8)
  local q = p:fork():set("origin", { Point.new(4, 3) })
  t.eq({ t.ask(q:fork(), "return origin[1]:norm(), getmetatable(origin[1]) == require 'point'") },
    { 25, true })
  local pool = p:pool("norm", { max = 2 })
  local items, sum = {}, 0
  for i = 1, 500 do items[i] = Point.new(i, 0) end
  for i, e, n in pool:map(items) do
    t.eq({ e, n }, { nil, i * i })
    sum = sum + 1
  end
  t.eq(sum, 500)
  t.got(pool:drain(10))
  unregister "point"
end)

story.test("a side that does not know the class gets what it was packed to", function(t)
  local Point, p = points(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "kind"
  t.eq({ rpc(Point.new(8, 9)) }, { nil, "table", 8, nil })
  local make <close> = p:rpc "make"
  unregister "point"
  local got = t.got(make(1, 2))
  t.eq({ getmetatable(got.p), got.p[1], got.p[2] }, { nil, 1, 2 })
end)

story.test("with strict_classes that is EINVAL, with name and path", function(t)
  local Point, p = points(t)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc("echo", { strict_classes = true })
  local r, err = rpc(1, { at = { Point.new(8, 9) } })
  t.eq(r, nil)
  t.error(err, "EINVAL", "argument 2%.at%[1%]: the class 'point' is not registered here")
  t.eq(err.started, "no")
  t.eq(t.got(rpc(5)), 5)
  local pool = p:pool("make", { strict_classes = true, max = 1 })
  t.eq(t.got(pool(3, 4)).p:norm(), 25)
  unregister "point"
  r, err = pool(1, 2)
  t.eq(r, nil)
  t.error(err, "EINVAL", "result 1%.p: the class 'point' is not registered here")
  for _, e in pool:map { 1, 2, 3 } do t.error(e, "EINVAL", "'point'") end
  t.got(pool:drain(10))
end)

story.test("what pack and unpack raise names class and path", function(t)
  local Bad = {}
  register("bad", Bad, function() error "no packing" end, function() end)
  local rpc <close> = boxes("bad"):rpc "echo"
  local _, err = rpc(1, { list = { setmetatable({}, Bad) } })
  t.error(err, "EINVAL", "argument 2%.list%[1%]: the class 'bad' can't pack it: .*no packing")
  t.eq(err.started, "no")
  register("bad", Bad, function() error(setmetatable({}, { __tostring = function() return "text" end })) end, print)
  t.error(select(2, rpc(setmetatable({}, Bad))), "EINVAL", "argument 1: .*can't pack it: text$")
  register("bad", Bad, function() error() end, print)
  t.error(select(2, rpc(setmetatable({}, Bad))), "EINVAL", "can't pack it: nil$")
  register("bad", Bad, function() return print end, print)
  t.error(select(2, rpc { setmetatable({}, Bad) }), "EINVAL", "argument 1%[1%]: a function can't be sent")
  register("bad", Bad, function() return { x = { print } } end, print)
  t.error(select(2, rpc { setmetatable({}, Bad) }), "EINVAL", "argument 1%[1%]%.x%[1%]: a function")
  register("bad", Bad, function() return 5 end, function() error "no unpacking" end)
  t.error(select(2, rpc { k = setmetatable({}, Bad) }), "EINVAL",
    "result 1%.k: the class 'bad' can't unpack it: .*no unpacking")
  local there <close> = fork.new():eval([[
    require("moonfork.rpc").register("bad", {}, print, function() error("not here", 0) end)
  ]]):eval(FUNCTIONS):rpc "echo"
  local r
  r, err = there(nil, { { k = setmetatable({}, Bad) } })
  t.eq(r, nil)
  t.error(err, "EINVAL", "argument 2%[1%]%.k: the class 'bad' can't unpack it: not here")
  t.eq(err.started, "no")
  t.eq(t.got(there(7)), 7)
  unregister "bad"
end)

story.test("a class that is packed to objects of itself ends at depth 128, and loops are found",
  function(t)
    local Chain, Same = {}, {}
    register("chain", Chain, function() return setmetatable({}, Chain) end, print)
    register("same", Same, function(o) return { o } end, print)
    local rpc <close> = boxes("deep"):rpc "echo"
    t.error(select(2, rpc(setmetatable({}, Chain))), "EINVAL", "nested too deeply %(128 at most%)")
    t.error(select(2, rpc(setmetatable({}, Same))), "EINVAL", "contains itself")
    local Deep, n = {}, 0
    register("deep", Deep, function() n = n - 1 return n > 0 and setmetatable({}, Deep) or "end" end,
      function(v) n = n + 1 return v end)
    n = 128
    t.eq(t.got(rpc(setmetatable({}, Deep))), "end")
    t.eq(n, 128)
    n = 129
    t.error(select(2, rpc(setmetatable({}, Deep))), "EINVAL", "nested too deeply")
    unregister("chain", "same", "deep")
  end)

story.test("registering again replaces; nil takes back; the last name of a metatable is used",
  function(t)
    local A, B = {}, {}
    local rpc <close> = boxes("a", "new"):rpc "echo"
    local function trip(meta) return (t.got(rpc(setmetatable({ 1 }, meta)))) end
    register("a", A, function() return "packed" end, function(v) return v .. " a" end)
    t.eq(trip(A), "packed a")
    register("a", A, function() return "again" end, function(v) return v .. " a2" end)
    t.eq(trip(A), "again a2")
    register("a", B, function() return "b's" end, function(v) return v .. " b" end)
    t.eq({ trip(B), trip(A)[1] }, { "b's b", 1 })
    register("new", B, function() return "b's" end, function(v) return v .. " new" end)
    t.eq(trip(B), "b's new")
    register("new", nil)
    t.eq(trip(B)[1], 1)
    register("a", nil)
    register("a", nil)
    register("never", nil)
    t.eq(trip(A)[1], 1)
  end)

story.test("misuse of register raises", function(t)
  local f = function() end
  t.raises("#1 to .-string expected, got number", register, 1, {}, f, f)
  t.raises("#1 to .-string expected, got no value", register)
  t.raises("#1 to .-1 to 255 bytes", register, "", {}, f, f)
  t.raises("#1 to .-1 to 255 bytes", register, ("x"):rep(256), {}, f, f)
  t.raises("#2 to .-value expected", register, "x")
  t.raises("#2 to .-table expected, got number", register, "x", 1, f, f)
  t.raises("#3 to .-function expected, got no value", register, "x", {})
  t.raises("#4 to .-function expected, got string", register, "x", {}, f, "f")
  local callable = setmetatable({}, { __call = function(_, v) return { v[1] } end })
  local M = {}
  register(("x"):rep(255), M, callable, callable)
  local rpc <close> = boxes(("x"):rep(255)):rpc "echo"
  t.eq(t.got(rpc(setmetatable({ 6 }, M)))[1], 6)
  unregister(("x"):rep(255))
end)

story.test("clones, nested templates and a copy of this program inherit what is registered",
  function(t)
    local Point, p = points(t)
    local rpc <close> = p:fork():fork():rpc "norm"
    t.eq(t.got(rpc(Point.new(3, 4))), 25)
    local copy <close> = fork.template()
    local other <close> = copy:fork():eval(FUNCTIONS):rpc "make"
    t.eq(t.got(other(6, 8)).p:norm(), 100)
    unregister "point"
  end)

story.test("userdata of a registered metatable travels, too; a class goes before a handle", function(t)
  local file = assert(io.open "/dev/null")
  register("file", getmetatable(file), function() return "a file" end, function(v) return { v } end)
  local rpc <close> = boxes("file"):rpc "echo"
  t.eq(t.got(rpc(file))[1], "a file")
  unregister "file"
  file:close()
end)

story.test("objects among handles: both arrive", function(t)
  local Point, p = points(t)
  local near, far = fork.socket.pair()
  local Pair = {}
  register("pair", Pair, function(o) return { o.socket, o.point } end, print)
  local rpc <close> = p:eval [[
    function write(list) list[1]:write(list[2]:norm(), "\n") return #list end
  ]]:rpc "write"
  t.eq(t.got(rpc(setmetatable({ socket = far, point = Point.new(1, 2) }, Pair))), 2)
  t.eq(near:read "l", "5")
  near:close()
  far:close()
  unregister("point", "pair")
end)

story.test("pack may make calls of its own, also of the same rpc; it can't wait", function(t)
  local Busy, answers = {}, {}
  local rpc <close> = boxes("busy"):rpc("echo", { handles = true })
  local near, far = fork.socket.pair()
  register("busy", Busy, function()
    rpc("inner", far, function(_, v) answers[#answers + 1] = v end)
    return { "outer", far }
  end, function(v) return v end)
  local got, last = t.got(rpc({ far, setmetatable({}, Busy), "last" }))
  t.eq({ #got, got[2][1], got[3], last }, { 3, "outer", "last" })
  t.within(5, function() return answers[1] end)
  t.eq(answers, { "inner" })
  for _, s in ipairs { got[1], got[2][2], near, far } do s:close() end
  for _, wait in ipairs { function() return rpc(1) end, function() return fork.step() end,
    function() return fork.sleep(0.1) end, function() return fork.new():run "type" end } do
    register("busy", Busy, wait, print)
    t.error(select(2, rpc(setmetatable({}, Busy))), "EINVAL", "'busy' can't pack it: .*can't wait")
    register("busy", Busy, function() return 1 end, wait)
    t.error(select(2, rpc(setmetatable({}, Busy))), "EINVAL", "'busy' can't unpack it: .*can't wait")
  end
  register("busy", Busy, function() rpc:close() return 1 end, print)
  t.error(select(2, rpc(setmetatable({}, Busy))), "CLOSED")
  unregister "busy"
  t.collect()
end)

-- A message under way lay where the next one of the same rpc was made, so this one came
-- apart; and with objects the length of one was written behind its end.
story.test("methods of handles and finalisers may make calls, too", function(t)
  local rpc <close> = boxes("box"):rpc "echo"
  local Box, inner = {}, 0
  local function ask(v) rpc(("y"):rep(v), function(err) if not err then inner = inner + 1 end end) end
  local near, far = fork.socket.pair()
  local handle = setmetatable({}, { __index = { fileno = function() ask(1) return near:fileno() end } })
  register("box", Box, function(o) return { ("x"):rep(1000), handle, o[1] } end, function(v) return v end)
  local _, err = rpc { setmetatable({ "end" }, Box), 7 }
  t.error(err, "EINVAL", "result 1%[1%]%[2%]: a handle can't be sent")
  local count <close> = boxes("box"):eval "function count(v) return #v[1][1][1], v[1][1][3], v[2] end":rpc "count"
  t.eq({ t.got(count { setmetatable({ "end" }, Box), 7 }) }, { 1000, "end", 7 })
  t.within(5, function() return inner == 2 end)
  local garbage = setmetatable({}, { __mode = "k" })
  for i = 1, 300 do
    garbage[setmetatable({}, { __gc = function() ask(3) end })] = true
    local plain = setmetatable({ i, ("z"):rep(2000) .. i }, {})
    local got = t.got(rpc({ plain, plain, plain }))
    t.eq({ got[3][1], got[2][2] }, { i, ("z"):rep(2000) .. i })
  end
  t.collect()
  near:close()
  far:close()
  unregister "box"
end)

story.test("a table that pack changes is refused, or sent as one of its states", function(t)
  local Evil, parent = {}, nil
  register("evil", Evil, function()
    for k in pairs(parent) do parent[k] = nil end
    for i = 1, 100 do parent["new" .. i] = i end
    return 1
  end, function(v) return v end)
  local rpc <close> = fork.new():eval(FUNCTIONS):rpc "echo"
  for n = 1, 20 do
    parent = {}
    for i = 1, n do parent["key" .. i] = setmetatable({}, Evil) end
    local _, err = rpc(parent)
    if err then t.error(err, "EINVAL", "argument 1: the table was changed") end
  end
  t.eq(t.got(rpc(5)), 5)
  unregister "evil"
end)

story.test("long messages of many objects are read in steps", function(t)
  local Point, p = points(t)
  local rpc <close> = p:rpc "echo"
  local list = {}
  for i = 1, 20000 do list[i] = Point.new(i, i) end
  local got = t.got(rpc(list))
  t.eq({ #got, got[20000]:norm() }, { 20000, 2 * 20000 * 20000 })
  unregister "point"
end)

story.done()
