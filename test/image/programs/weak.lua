-- every 15
-- Weak tables of all kinds, ephemerons, and what becomes of their entries.
local strong = {}
for _, gc in ipairs {"incremental", "generational", "incremental"} do
  collectgarbage(gc)
  local weak_keys = setmetatable({}, {__mode = "k"})
  local weak_values = setmetatable({}, {__mode = "v"})
  local weak_both = setmetatable({}, {__mode = "kv"})
  for i = 1, 40 do
    local object = {i}
    weak_keys[object] = {"of", i}
    weak_values[i], weak_values["n" .. i] = object, object
    weak_both[object] = object
    if i % 3 == 0 then strong[#strong + 1] = object end
    if i % 10 == 0 then collectgarbage "step" end
  end
  collectgarbage()
  collectgarbage()
  local n = 0
  for key, value in pairs(weak_keys) do
    n = n + 1
    assert(key[1] % 3 == 0 and value[2] == key[1])
  end
  assert(n == 13)
  for i = 1, 40 do
    assert((weak_values[i] ~= nil) == (i % 3 == 0))
    assert(weak_values[i] == weak_values["n" .. i])
  end
  for object, same in pairs(weak_both) do assert(object == same and object[1] % 3 == 0) end
  strong = {}
end

-- chains of ephemerons: each value is the next key
collectgarbage "incremental"
local chain = setmetatable({}, {__mode = "k"})
local first = {0}
local key = first
for i = 1, 30 do
  local nextkey = {i}
  chain[key] = nextkey
  key = nextkey
end
key = nil
for _ = 1, 3 do
  collectgarbage()
  local at, n = first, 0
  while chain[at] do
    at = chain[at]
    n = n + 1
    assert(at[1] == n)
  end
  assert(n == 30)
end
first = nil
collectgarbage()
assert(next(chain) == nil)

-- memoising
local memo = setmetatable({}, {__mode = "v"})
local function squares(n)
  local t = memo[n]
  if not t then
    t = {}
    for i = 1, n do t[i] = i * i end
    memo[n] = t
  end
  return t
end
for round = 1, 4 do
  for n = 1, 15 do assert(squares(n)[n] == n * n) end
  if round % 2 == 0 then collectgarbage() end
end
