-- every 4
-- To-be-closed variables: at the end of blocks, in errors, in loops, in coroutines.
local log = {}
local function closer(name, fails)
  return setmetatable({}, {__close = function(_, err)
    log[#log + 1] = name .. (err and "!" or "")
    if fails then error(name .. " fails", 0) end
  end})
end
local function take()
  local s = table.concat(log, " ")
  log = {}
  return s
end

for _ = 1, 10 do
  do
    local a <close> = closer "a"
    local b <close> = closer "b"
    local none <close> = nil
    local c <const> = 5
    assert(a and b and not none and c == 5)
  end
  assert(take() == "b a")
  local ok, err = pcall(function()
    local a <close> = closer "a"
    local b <close> = closer("b", true)
    local c <close> = closer "c"
    for i = 1, 10 do local _ = {i} end
    error("first", 0)
  end)
  assert(not ok and err == "b fails" and take() == "c! b! a!")
end

local function returning(...)
  local a <close> = closer "a"
  local n = select("#", ...)
  for i = 1, n do local _ = i end
  return ...
end
assert(select("#", returning(1, nil, 3, nil)) == 4 and take() == "a")

local function pairs_closing(t)
  return next, t, nil, closer "loop"
end
for k in pairs_closing {1, 2, 3} do if k == 2 then break end end
assert(take() == "loop")
for k in pairs_closing {x = 1} do
  local inner <close> = closer(k)
  goto continue
  ::continue::
end
assert(take() == "x loop")

local co = coroutine.create(function()
  local a <close> = closer "co a"
  local b <close> = closer "co b"
  coroutine.yield(1)
  local c <close> = closer "co c"
  coroutine.yield(2)
end)
coroutine.resume(co)
for i = 1, 20 do local _ = {i} end
coroutine.resume(co)
assert(coroutine.close(co) and take() == "co c co b co a")
local failing = coroutine.wrap(function()
  local a <close> = closer "fa"
  coroutine.yield()
  error "x"
end)
failing()
assert(not pcall(failing) and take() == "fa!")

-- deep: one in each frame
local function deep(n)
  local x <close> = closer(tostring(n))
  if n > 0 then return (deep(n - 1)) end
  return "bottom"
end
assert(deep(15) == "bottom" and take():find "^0 1 2 3 .* 15$")
assert(not pcall(function() local x <close> = closer "o"; return deep(3) + 1 end))
assert(take() == "0 1 2 3 o!")
