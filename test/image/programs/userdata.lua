-- every 4
-- Userdata with and without user values, pointers in their contents, light ones.
local made = {}
for nvalues = 0, 5 do
  for _, nbytes in ipairs {0, 1, 7, 8, 24, 100} do
    local u = hop.userdata(nvalues, nbytes)
    for i = 1, nvalues do assert(debug.setuservalue(u, {nvalues, nbytes, i}, i)) end
    assert(not debug.setuservalue(u, 1, nvalues + 1))
    made[#made + 1] = {u, nvalues, nbytes}
  end
end
collectgarbage()
for _, m in ipairs(made) do
  for i = 1, m[2] do
    local v = debug.getuservalue(m[1], i)
    assert(v[1] == m[2] and v[2] == m[3] and v[3] == i)
  end
end

local kept = {}
for i = 1, 20 do kept[i] = hop.keep(("text %d "):format(i):rep(i)) end
for round = 1, 3 do
  for i = 1, 20 do assert(hop.kept(kept[i]) == ("text %d "):format(i):rep(i)) end
  collectgarbage(round == 2 and "generational" or "incremental")
end
collectgarbage "incremental"

local t = {}
local l = hop.light_of(t)
for i = 1, 20 do
  assert(hop.is_light_of(l, t) and hop.light(i) == hop.light(i) and hop.light(i) ~= l)
end
local by_light = {[l] = "t", [hop.light(5)] = 5}
assert(by_light[hop.light_of(t)] == "t" and by_light[hop.light(5)] == 5)

debug.setmetatable(l, {__index = function(_, k) return k .. "!" end})
assert(l.x == "x!" and hop.light(9).y == "y!")
debug.setmetatable(l, nil)

-- metatables of the basic types
debug.setmetatable(1, {__call = function(n, m) return n * m end, __index = math})
debug.setmetatable(nil, {__index = function() return "of nil" end})
debug.setmetatable(true, {__len = function() return 1 end})
debug.setmetatable(print, {__concat = function() return "function" end})
debug.setmetatable(coroutine.create(print), {__tostring = function() return "thread" end})
for i = 1, 10 do
  local nothing
  assert((6)(i) == 6 * i and (2).sqrt(16) == 4 and nothing.x == "of nil" and #true == 1)
  assert(print .. 1 == "function" and tostring(coroutine.running()) == "thread")
end
for _, v in ipairs {1, true, print, (coroutine.running())} do debug.setmetatable(v, nil) end
debug.setmetatable(nil, nil)

-- many at once that the collector has seen and not gone through yet
local many = {}
for i = 1, 50 do
  many[i] = hop.userdata(2, 8)
  debug.setuservalue(many[i], {i}, 1)
end
for _, mode in ipairs {"incremental", "generational", "incremental"} do
  collectgarbage(mode)
  if mode == "incremental" then collectgarbage("incremental", 100, 50, 1) end
  for round = 1, 200 do
    collectgarbage("step", 0)
    local u = many[round % 50 + 1]
    assert(debug.getuservalue(u, 1)[1] == round % 50 + 1)
    debug.setuservalue(u, {round}, 2)
    assert(debug.getuservalue(u, 2)[1] == round)
  end
end

local f = assert(io.tmpfile())
for i = 1, 20 do f:write("line ", i, "\n") end
f:seek "set"
local n = 0
for line in f:lines() do
  n = n + 1
  assert(line == "line " .. n)
end
assert(n == 20 and io.type(f) == "file")
f:close()
assert(io.type(f) == "closed file")
