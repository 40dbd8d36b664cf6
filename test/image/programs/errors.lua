-- every 4
-- Errors of every kind through every kind of frame, and what is left after them.
local function thrown(value)
  local ok, err = pcall(error, value, 0)
  assert(not ok)
  return err
end
for _, v in ipairs {"text", 42, 1.5, true, {}, print} do assert(thrown(v) == v) end
assert(thrown(nil) == nil or thrown(nil) == "<no error object>") -- since Lua 5.5

local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert(not ok)
  return tostring(err)
end
assert(message(function() local t; return t.x end):find "index a nil value %(local 't'%)")
assert(message(function() return {} .. "x" end):find "concatenate a table value")
assert(message(function() return 1 + {} end):find "arithmetic on a table value")
assert(message(function() return {} < {} end):find "compare two table values")
assert(message(function() return #5 end):find "get length of a number")
assert(message(function() return 1 // 0 end):find "divide by zero")
assert(message(function() return 2.5 | 1 end):find "no integer representation")
assert(message(string.rep):find "bad argument #1 to ")
assert(message(load, true):find "bad argument")
assert(load "x = = 1" == nil and select(2, load("x = = 1", "=c")):find "^c:1:")

-- handlers, nested, that fail themselves
local depth = 0
local function handler(m) depth = depth + 1; return {m, depth} end
for i = 1, 12 do
  local ok, e = xpcall(function(a, b) local _ = {a, b}; error(a .. b, 0) end, handler, "n", i)
  assert(not ok and e[1] == "n" .. i and e[2] == i)
end
local ok = xpcall(error, function() error "again" end, "x")
assert(not ok)
local function nested(n)
  if n == 0 then error("bottom", 0) end
  local fine, e = pcall(nested, n - 1)
  assert(not fine)
  error(e .. n, 0)
end
assert(message(nested, 12) == "bottom123456789101112")

local function hundred(n) if n == 0 then return 0 end return 1 + hundred(n - 1) end
assert(hundred(150) == 150)

-- C functions that may be left in the middle
for i = 1, 15 do
  local r = {hop.call(function(...) local t = {...}; for k = 1, 5 do t[k] = k end return #t, i end, 9)}
  assert(r[1] == 5 and r[2] == i)
  local fine, e = hop.protected(function() local x = {}; error({i, x}) end)
  assert(fine == false and e[1] == i)
  local fine2, a, b = pcall(hop.call, hop.protected, function(x) local _ = {x}; return x, i end, "x")
  assert(fine2 and a == "x" and b == i)
end
local tb = debug.traceback("here", 1)
assert(tb:find "^here\nstack traceback:" and tb:find "errors.lua")
