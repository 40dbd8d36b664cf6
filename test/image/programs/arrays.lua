-- every 15
-- Arrays that grow, shrink, have holes and lengths that are guessed.
local function filled(n)
  local t = {}
  for i = 1, n do t[i] = i * i end
  return t
end

for _, n in ipairs {0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 100, 130} do
  local t = filled(n)
  assert(#t == n)
  local sum = 0
  for i, v in ipairs(t) do sum = sum + v - i * i end
  assert(sum == 0)
  for _ = 1, n do table.remove(t) end
  assert(#t == 0 and next(t) == nil)
end

local holes = filled(64)
for i = 2, 64, 2 do holes[i] = nil end
for i = 64, 40, -1 do holes[i] = nil end
assert(holes[#holes] ~= nil or #holes == 0)
for i = 1, 39, 2 do assert(holes[i] == i * i) end

-- from hash part to array part and back
local t = {}
for i = 50, 1, -1 do t[i] = {i} end
for i = 1, 50 do assert(t[i][1] == i) end
for i = 51, 80 do t[i] = {i} end
for i = 1, 70 do t[i] = nil end
t.x, t.y = "x", "y"
for i = 71, 80 do assert(t[i][1] == i) end
assert(t.x == "x" and t.y == "y")

local packed = table.pack(table.unpack(filled(200)))
assert(packed.n == 200 and packed[200] == 40000)
local moved = table.move(packed, 50, 120, 2, {})
assert(moved[2] == 2500 and moved[72] == 14400)
local text = table.concat(filled(60), ",")
assert(#text > 100 and text:sub(1, 8) == "1,4,9,16")

-- a limit that is only a hint: the border lies in the middle of the array
local hint = filled(100)
for i = 100, 60, -1 do hint[i] = nil; assert(#hint == i - 1) end
for i = 60, 128 do hint[i] = i end
assert(#hint == 128)
local matrix = {}
for i = 1, 12 do
  matrix[i] = {}
  for k = 1, 12 do matrix[i][k] = i * k end
end
for i = 1, 12 do for k = 1, 12 do assert(matrix[i][k] == matrix[k][i]) end end
