-- Values as they travel in calls, results and events (doc/rpc.md), by the codec alone: what
-- goes in comes out, and what can't be sent is named by its path. A stock interpreter with
-- the shim beside this file.
local story = require "story"
package.cpath = os.getenv "MOONFORK_BUILD" .. "/test/lua/?.so;" .. package.cpath
local codec = require "codec_shim"

local function there_and_back(t, ...)
  local text = t.got(codec.pack(...))
  local results = table.pack(codec.unpack(text))
  t.eq(results[1], select("#", ...), results[2])
  return table.unpack(results, 2, results.n)
end

local function bits(x) return ("<d"):pack(x) end

story.test("integers and floats come back exactly", function(t)
  for _, x in ipairs {0, 1, -1, 127, 128, -128, 1 << 53, (1 << 53) + 1, math.maxinteger,
    math.mininteger} do
    t.eq(there_and_back(t, x), x)
  end
  for _, x in ipairs {1.0, -0.0, 0.1, 2^53 + 1, 1e308, 5e-324, 1/0, -1/0, 0/0} do
    local y = there_and_back(t, x)
    t.eq(math.type(y), "float")
    t.eq(bits(y), bits(x))
  end
end)

story.test("every byte passes in a string", function(t)
  local all = {}
  for i = 0, 255 do all[#all + 1] = string.char(i) end
  local text = table.concat(all):rep(300)
  t.eq(there_and_back(t, text), text)
  t.eq(there_and_back(t, ""), "")
end)

story.test("nils count, at the end too", function(t)
  t.eq(select("#", there_and_back(t)), 0)
  t.eq(select("#", there_and_back(t, nil)), 1)
  t.eq(select("#", there_and_back(t, 1, nil, nil)), 3)
end)

story.test("tables keep their shape, arrays with holes too", function(t)
  for _, value in ipairs {
    {}, {1, 2, 3}, {1, nil, 3}, {nil, 2}, {[0] = 1, [1] = 2}, {a = {b = {c = {}}}},
    {[1.5] = "x", [true] = "y", [-3] = "z"}, {1, 2, 3, n = 3},
  } do
    t.eq(there_and_back(t, value), value)
  end
  local array = {}
  for i = 1, 1000 do array[i] = i end
  for i = 1, 1000, 7 do array[i] = nil end
  t.eq(there_and_back(t, array), array)
end)

story.test("tables may be nested 128 deep and no deeper", function(t)
  local value = 1
  for _ = 1, 128 do value = {value} end
  t.eq(there_and_back(t, value), value)
  local text, message = codec.pack {value}
  t.eq(text, nil)
  t.match(message, "nested too deeply")
end)

story.test("what can't be sent is named by its path", function(t)
  local circle = {}
  circle.x = {y = circle}
  for _, row in ipairs {
    {"^argument 2%.t%.x: a function can't be sent$", 1, {t = {x = print}}},
    {"^argument 1: a thread can't be sent$", coroutine.create(print)},
    {"^argument 1%[3%]: a function can't be sent$", {1, 2, print}},
    {"^argument 1%.x%.y: a table that contains itself can't be sent$", circle},
    {"^argument 3: a handle", nil, nil, io.stdout},
  } do
    local text, message = codec.pack(table.unpack(row, 2, 4))
    t.eq(text, nil)
    t.match(message, row[1])
  end
end)

story.test("one table in two places is no cycle", function(t)
  local shared = {1}
  t.eq(there_and_back(t, {shared, shared}), {{1}, {1}})
end)

story.test("mutated messages never do harm", function(t)
  math.randomseed(11)
  local good = t.got(codec.pack({a = {1, 2, {x = "text"}}, [1] = 2.5}, "some text", nil, -70000))
  for _ = 1, 20000 do
    local bytes = {good:byte(1, -1)}
    for _ = 1, math.random(3) do bytes[math.random(#bytes)] = math.random(0, 255) end
    local n, message = codec.unpack(string.char(table.unpack(bytes, 1, math.random(#bytes))))
    t.ok(n or type(message) == "string")
  end
end)

story.done()
