-- every 4
-- Finalisers: order, resurrection, errors, of tables and userdata, called in the middle.
local order = {}
local function watched(name, extra)
  return setmetatable({name = name, extra = extra}, {__gc = function(o)
    order[#order + 1] = o.name
    local sum = 0
    for i = 1, 5 do sum = sum + i end
    if o.extra then o.extra(o) end
  end})
end
for i = 1, 12 do watched(i) end
collectgarbage()
assert(#order == 12)
for i = 1, 12 do assert(order[i] == 13 - i) end

local saved = {}
for i = 1, 6 do watched("r" .. i, function(o) saved[#saved + 1] = o end) end
collectgarbage()
assert(#saved == 6 and saved[1].name == "r6")
for _, o in ipairs(saved) do setmetatable(o, getmetatable(o)) end -- once more
local held = saved
saved, order = {}, {}
held = nil
collectgarbage()
assert(#saved == 6 and held == nil)

warn "@off"
for i = 1, 5 do watched("bad" .. i, function() error "in a finaliser" end) end
collectgarbage()
assert(order[#order] == "bad1")

-- userdata, which waits for its finaliser in a list of its own
local freed = 0
local meta = {__gc = function(u)
  freed = freed + 1
  assert(debug.getuservalue(u, 1)[1] == "kept")
end}
for round = 1, 6 do
  for i = 1, 10 do
    local u = hop.userdata(2, i * 3)
    debug.setuservalue(u, {"kept"}, 1)
    debug.setuservalue(u, u, 2)
    debug.setmetatable(u, meta)
  end
  collectgarbage(round % 2 == 0 and "step" or "collect")
end
collectgarbage()
assert(freed == 60)

-- a step of the collector calls some of them only
collectgarbage("incremental", 100, 50, 1)
order = {}
for i = 1, 40 do watched(i) end
local steps = 0
while #order < 40 do
  collectgarbage("step", 0)
  steps = steps + 1
  assert(steps < 5000)
end
collectgarbage("generational")
order = {}
for i = 1, 30 do watched(i); if i % 10 == 0 then collectgarbage "step" end end
collectgarbage()
assert(#order == 30)
collectgarbage("incremental")
local last = watched "at the end" -- called by lua_close
assert(last)
