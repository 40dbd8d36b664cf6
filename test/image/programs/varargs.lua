-- every 4
-- Varargs, multiple results, tail calls, gotos, numeric loops of all kinds.
local function count(...) return select("#", ...), ... end
local function pass(...)
  local t = table.pack(...)
  for i = 1, t.n do t[i] = t[i] end
  return ...
end
for n = 0, 12 do
  local args = {}
  for i = 1, n do args[i] = i end
  local r = {count(pass(table.unpack(args, 1, n)))}
  assert(r[1] == n and r[n + 1] == (n > 0 and n or 0))
  local fixed = (function(a, b, ...) local x = a; return x, b, select("#", ...) end)
  local a, b, m = fixed(pass(table.unpack(args, 1, n)))
  assert(a == args[1] and b == args[2] and m == math.max(0, n - 2))
end
assert(select(-1, pass(1, 2, 3)) == 3 and #{pass(1, 2, pass(3, 4))} == 4 and (pass(7, 8)) == 7)

local function tail(n, acc) if n == 0 then return acc end return tail(n - 1, acc + n) end
assert(tail(300, 0) == 45150)
local function vtail(n, ...) if n == 0 then return ... end return vtail(n - 1, n, ...) end
assert(select("#", vtail(50)) == 50 and (vtail(50)) == 1)

do
  local i = 1
  ::again::
  if i <= 30 then
    local k = i
    local f = function() return k end
    i = i + 1
    if f() % 2 == 0 then goto again end
    goto again
  end
  assert(i == 31)
end
for i = 1, 3 do
  for k = 1, 3 do
    if k == 2 then goto next_i end
    local _ = {i, k}
  end
  ::next_i::
end

local steps = 0
for i = 10, 1, -3 do steps = steps + i end
assert(steps == 10 + 7 + 4 + 1)
for i = 1.0, 2.0, 0.25 do steps = steps + i end
assert(steps == 22 + 7.5)
for i = math.maxinteger - 2, math.maxinteger do steps = steps + (i > 0 and 1 or 0) end
assert(steps == 32.5)
local w, r = 0, 0
while true do w = w + 1; if w > 40 then break end end
repeat local done = r >= 40; r = r + 1 until done
assert(w == 41 and r == 41)

local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
assert(fib(12) == 144)
local function ack(m, n)
  if m == 0 then return n + 1 end
  if n == 0 then return ack(m - 1, 1) end
  return ack(m - 1, ack(m, n - 1))
end
assert(ack(2, 4) == 11)
local wide = {}
for i = 1, 120 do wide[i] = i end
local function sum(...) local s = 0; for _, v in ipairs {...} do s = s + v end return s end
assert(sum(table.unpack(wide)) == 7260)
