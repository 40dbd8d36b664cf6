-- every 15
-- Keys of every kind; entries that are removed while somebody iterates over them.
local function f() end
local co = coroutine.create(f)
local ud = hop.userdata(0, 8)
local long = ("key"):rep(40)
local keys = {1.5, -0.25, "a", "b", long, true, false, {}, {}, f, print, co, ud, io.stdout,
  math.maxinteger, math.mininteger, 2^53, 1e300, hop.light(4711), hop.light_of(ud), math.huge}
local t = {}
for round = 1, 6 do
  for i, k in ipairs(keys) do t[k] = {i, round} end
  for i, k in ipairs(keys) do assert(t[k][1] == i and t[k][2] == round) end
  local n = 0
  for k, v in pairs(t) do n = n + 1; assert(keys[v[1]] == k) end
  assert(n == #keys)
  for i = round, #keys, 2 do t[keys[i]] = nil end
  for i, k in ipairs(keys) do assert((t[k] == nil) == (i >= round and (i - round) % 2 == 0)) end
end
assert(t[("key"):rep(40)] == t[long])

-- removing while iterating, with collections: dead keys are still found by next
for _, mode in ipairs {"incremental", "generational"} do
  collectgarbage(mode)
  local objects, seen = {}, 0
  for i = 1, 60 do objects[{}] = i; objects["name" .. i .. mode] = i end
  for k, v in next, objects do
    seen = seen + v
    objects[k] = nil
    if seen % 5 == 0 then collectgarbage "step" end
    if seen % 7 == 0 then collectgarbage() end
  end
  assert(seen == 60 * 61 and next(objects) == nil)
end
collectgarbage "incremental"

-- collisions and free positions: fill to the last entry of each power of two
for power = 0, 7 do
  local h = {}
  for i = 1, 2 ^ power do h["k" .. i] = i end
  for i = 1, 2 ^ power do assert(h["k" .. i] == i) end
  for i = 1, 2 ^ power, 3 do h["k" .. i] = nil end
  for i = 1, 2 ^ power do h["z" .. i] = -i end
  for i = 1, 2 ^ power do assert(h["z" .. i] == -i) end
end

-- the same with few insertions between moves
local slow = {}
for i = 1, 100 do
  slow[i + 0.5] = i
  local x = 0
  for k = 1, 8 do x = x + k end
  assert(slow[i + 0.5] == i and x == 36)
end
for i = 1, 100 do assert(slow[i + 0.5] == i) end
