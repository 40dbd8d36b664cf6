-- every 4
-- Upvalues: open, closed, shared, of enclosing functions, of loops, of coroutines.
local function pair()
  local n = 0
  local function get() return n end
  local function set(v) n = v end
  set(1)
  assert(get() == 1)
  return get, set
end
local pairs_made = {}
for i = 1, 20 do pairs_made[i] = {pair()} end
for i, p in ipairs(pairs_made) do p[2](i * 3) end
for i, p in ipairs(pairs_made) do assert(p[1]() == i * 3) end

local loops = {}
for i = 1, 20 do
  local k = i * 2
  loops[i] = function(d) k = k + d; return i, k end
end
for i = 1, 20 do
  local a, b = loops[i](1)
  assert(a == i and b == i * 2 + 1)
end

local function deep(n)
  local here = n
  local function inner()
    here = here + 1
    if n > 0 then return deep(n - 1) + here end
    return here
  end
  return inner()
end
assert(deep(30) == 31 * 32 / 2)

-- many open upvalues of one stack at once, closed one after the other
local function many()
  local a, b, c, d, e = 1, 2, 3, 4, 5
  local fs = {function() a = a + 1 return a end, function() b = b + 1 return b end,
    function() c = c + 1 return c end, function() d = d + 1 return d end,
    function() e = e + 1 return e end}
  do
    local inner = 10
    fs[6] = function() inner = inner + a return inner end
    assert(fs[6]() == 11)
  end
  for i = 1, 5 do assert(fs[i]() == i + 1) end
  assert(a == 2 and e == 6 and fs[6]() == 13)
  return fs
end
for _ = 1, 10 do
  local fs = many()
  for i = 1, 5 do assert(fs[i]() == i + 2) end
end

-- an upvalue in the stack of a coroutine, used from outside while it is open and afterwards
local cos = {}
for i = 1, 12 do
  local co = coroutine.create(function()
    local secret = i
    coroutine.yield(function(d) secret = secret + d return secret end)
    return secret
  end)
  local _, f = coroutine.resume(co)
  cos[i] = {co, f}
end
for i, c in ipairs(cos) do assert(c[2](100) == i + 100) end
collectgarbage()
for i, c in ipairs(cos) do
  assert(c[2](1) == i + 101)
  if i % 2 == 0 then assert(select(2, coroutine.resume(c[1])) == i + 101)
  else coroutine.close(c[1]) end
  assert(c[2](1) == i + 102)
end

-- joined and looked at by debug
local f1, f2 = pair()
local g1 = pair()
f2(5)
debug.upvaluejoin(g1, 1, f1, 1)
assert(g1() == 5 and debug.upvalueid(g1, 1) == debug.upvalueid(f1, 1))
assert(debug.setupvalue(f1, 1, 9) == "n" and g1() == 9)
local again = hop.counter {"held"}
for i = 1, 40 do
  local n, held = again()
  assert(n == i and held[1] == "held")
end
