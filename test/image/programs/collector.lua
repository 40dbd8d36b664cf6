-- every 15
-- The collector in each of its phases, incremental and generational, with everything alive.
local fin = 0
local function garbage(n)
  local keep = {}
  for i = 1, n do
    local t = setmetatable({i, {i}, tostring(i)}, {__gc = function() fin = fin + 1 end})
    if i % 4 == 0 then keep[#keep + 1] = t end
  end
  return keep
end
local function whole(keep)
  for i, t in ipairs(keep) do assert(t[1] == i * 4 and t[2][1] == i * 4 and t[3] == tostring(i * 4)) end
end

collectgarbage("incremental", 100, 100, 1)
local kept = {}
for round = 1, 8 do
  kept[round] = garbage(40)
  for _ = 1, 30 do
    collectgarbage("step", 0)
    local x = {}
    for k = 1, 4 do x[k] = k end
  end
  for _, k in ipairs(kept) do whole(k) end
end
assert(fin > 0)

collectgarbage("generational", 5, 20)
local old = {}
for round = 1, 25 do
  local keep = garbage(24)
  old[round] = keep
  if round > 3 then -- old objects that are given young ones
    old[round - 3].young = {round, {}}
    old[round - 3][1].again = old[round - 3].young
  end
  collectgarbage "step"
  for i, k in ipairs(old) do
    whole(k)
    if k.young then assert(k.young[1] == i + 3 and k[1].again == k.young) end
  end
  if round % 8 == 0 then old[round - 5] = {} end
end
collectgarbage()
for _, k in ipairs(old) do whole(k) end

-- back and forth
for round = 1, 6 do
  collectgarbage(round % 2 == 0 and "incremental" or "generational")
  local k = garbage(16)
  collectgarbage "step"
  whole(k)
end
collectgarbage "incremental"
collectgarbage "stop"
local before = collectgarbage "count"
local k = garbage(50)
assert(collectgarbage "count" > before and not collectgarbage "isrunning")
collectgarbage "restart"
whole(k)
local now = fin
k, kept, old = nil, nil, nil
collectgarbage()
collectgarbage()
assert(fin > now + 50)
