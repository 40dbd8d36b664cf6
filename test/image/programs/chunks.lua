-- every 4
-- load, dump, strip, require, debug information of what was loaded.
for i = 1, 12 do
  local f = assert(load("local a, b = ...; local function g(x) return x + a end return g(b), " .. i, "=chunk" .. i))
  local x, y = f(10, 5)
  assert(x == 15 and y == i and debug.getinfo(f, "S").source == "=chunk" .. i)
  local d = assert(load(string.dump(f), "d", "b"))
  assert(select(2, d(1, 2)) == i)
  local stripped = assert(load(string.dump(f, true), "s", "b", {}))
  assert(stripped(3, 4) == 7 and debug.getlocal(stripped, 1) == nil)
end

local pieces = {"return ", "function(...) ", "local t = {...} ", "return #t ", "end"}
local at = 0
local made = assert(load(function() at = at + 1; return pieces[at] end, "=pieces"))
assert(made()(1, 2, 3) == 3)

-- many constants, nested functions, long distances between lines
local source = {"local r = 0\n"}
for i = 1, 120 do source[#source + 1] = ("r = r + %d.5 * #'%s'\n"):format(i, "constant " .. i) end
source[#source + 1] = ("\n"):rep(300) ..
  "local function outer(n) local function inner() return r + n end return inner end\n"
source[#source + 1] = "return outer"
local outer = assert(load(table.concat(source), "=long"))()
assert(outer(1)() == outer(0)() + 1)
assert(debug.getinfo(outer, "S").linedefined > 400 and debug.getinfo(outer, "L").activelines)
local r2 = assert(load("local x = nil\n" .. ("\n"):rep(200) .. "return x.field", "=lines"))
assert(select(2, pcall(r2)):find "^lines:202:.*'x'")

-- environments
local env = {assert = assert}
local inside = load("v = 1; local _ENV = {w = v}; return w", "=env", "t", env)
assert(inside() == 1 and env.v == 1 and v == nil)

package.preload["made.here"] = function(name, extra) return {name = name, extra = extra} end
local m, where = require "made.here"
assert(m.name == "made.here" and m.extra == ":preload:" and where == ":preload:" and require "made.here" == m)
assert(not pcall(require, "is.not.there"))

-- debug: locals, names, hooks of lines
local function probe()
  local first, second = 11, "twelve"
  local name, v = debug.getlocal(1, 2)
  for i = 1, 10 do local _ = {i, first} end
  return name, v, debug.getinfo(1, "n").name, debug.getinfo(1, "l").currentline, second
end
local name, v2, called, line = probe()
assert(name == "second" and v2 == "twelve" and called == "probe" and line > 0)
local co = coroutine.create(function() local hidden = 5; coroutine.yield(hidden) return hidden end)
coroutine.resume(co)
assert(debug.getlocal(co, 1, 1) == "hidden" and debug.setlocal(co, 1, 1, 6) == "hidden")
assert(select(2, coroutine.resume(co)) == 6)
local lines = 0
local hooked = coroutine.create(function() local a = 1
  local b = a
  return b end)
debug.sethook(hooked, function() lines = lines + 1 end, "l")
coroutine.resume(hooked)
assert(lines >= 3 and debug.gethook(hooked) ~= nil)
