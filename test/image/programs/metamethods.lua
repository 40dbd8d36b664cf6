-- every 4
-- Every metamethod, with the program moved inside of it.
local log
local function work(...)
  local t = {}
  for i = 1, 4 do t[i] = {...} end
  return #t
end
local mt = {}
local function num(n) return setmetatable({n = n}, mt) end
local function value(x) return type(x) == "table" and x.n or x end
for name, f in pairs {
  add = function(a, b) return a + b end, sub = function(a, b) return a - b end,
  mul = function(a, b) return a * b end, div = function(a, b) return a / b end,
  mod = function(a, b) return a % b end, pow = function(a, b) return a ^ b end,
  idiv = function(a, b) return a // b end, band = function(a, b) return a & b end,
  bor = function(a, b) return a | b end, bxor = function(a, b) return a ~ b end,
  shl = function(a, b) return a << b end, shr = function(a, b) return a >> b end,
} do
  mt["__" .. name] = function(a, b) work(a, b); log = name; return num(f(value(a), value(b))) end
end
mt.__unm = function(a) work(a); return num(-a.n) end
mt.__bnot = function(a) work(a); return num(~a.n) end
mt.__concat = function(a, b) work(a); return value(a) .. "|" .. value(b) end
mt.__len = function(a) work(a); return a.n end
mt.__eq = function(a, b) work(a, b); return a.n == b.n end
mt.__lt = function(a, b) work(a, b); return value(a) < value(b) end
mt.__le = function(a, b) work(a, b); return value(a) <= value(b) end
mt.__call = function(a, ...) work(...); return a.n, ... end
mt.__tostring = function(a) return "num " .. a.n end
mt.__name = "num"
for i = 1, 4 do
  local a, b = num(12), num(5)
  assert((a + b).n == 17 and log == "add" and (a - 2).n == 10 and (3 * b).n == 15)
  assert((a / b).n == 2.4 and (a % b).n == 2 and (b ^ 2).n == 25.0 and (a // b).n == 2)
  assert((a & b).n == 4 and (a | b).n == 13 and (a ~ 5).n == 9 and (a << 2).n == 48 and (a >> 1).n == 6)
  assert((-a).n == -12 and (~a).n == -13 and #a == 12 and a .. b == "12|5" and 1 .. a == "1|12")
  assert(a ~= b and a == num(12) and a > b and b <= a and a >= num(12) and b < 6 and 4 < b)
  assert(select("#", a(1, nil, i)) == 4 and tostring(a) == "num 12")
end

local reads, writes = 0, 0
local store = {}
local proxy = setmetatable({}, {
  __index = function(_, k) reads = reads + work(k) // 4; return store[k] end,
  __newindex = function(_, k, v) writes = writes + work(k, v) // 4; store[k] = v end,
  __pairs = function() return function(_, k) work(k); return next(store, k) end, nil, nil end,
})
for i = 1, 20 do proxy["k" .. i] = i; assert(proxy["k" .. i] == i) end
assert(reads == 20 and writes == 20)
local n = 0
for k, v in pairs(proxy) do n = n + 1; assert(store[k] == v) end
assert(n == 20)

-- a chain of prototypes
local class = {}
local last = class
for i = 1, 12 do last = setmetatable({["m" .. i] = function() return i end}, {__index = last}) end
for i = 1, 12 do assert(last["m" .. i]() == i) end
class.late = "late"
assert(last.late == "late" and rawget(last, "late") == nil)
