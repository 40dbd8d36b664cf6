-- The contestant moonfork in Lua. Arguments and output: bench.h.
--
--   lua5.4 moonfork.lua spawn|first INFLIGHT HEAP_MIB SPARES
--
-- One in flight is written as people write it, with waiting calls; more of them with callbacks.
-- A process has ended when the end of its socket and its exit status have come.
local fork = require "moonfork"
local now = require("moonfork.load").now
local function clock() return now() * 1e6 end -- microseconds

local first = arg[1] == "first"
local inflight, heap, spares = tonumber(arg[2] or 1), tonumber(arg[3] or 0), tonumber(arg[4] or 0)
local name = first and "first" or "nothing"

local options = spares > 0 and {spares = {min = math.max(spares // 2, 1), max = spares}} or nil
local template = fork.new_exec(options)
  :eval("function nothing() end function first(socket) socket:write('x') end")
if heap > 0 then
  template:eval("big = {} for i = 1, " .. heap * 1048576 // 136 ..
                " do big[i] = {x = i, y = i} end")
end
assert(template:seal():memory())

local function one_by_one(n, samples)
  for i = 1, n do
    local begin = clock()
    local p = template:fork()
    local s = assert(p:run(name))
    if first then
      assert(s:read(1) == "x")
      samples[i] = clock() - begin
    end
    assert(s:read(1) == nil)
    s:close()
    assert(assert(p:wait()).code == 0)
  end
end

local function many(n, samples)
  local started, ended = 0, 0
  local function start()
    if started == n then return end
    started = started + 1
    local begin, open = clock(), 2
    local p = template:fork()
    local function finish()
      open = open - 1
      if open > 0 then return end
      ended = ended + 1
      start()
    end
    p:on_exit(function(status)
      assert(status.code == 0)
      finish()
    end)
    p:run(name, function(err, s)
      assert(not err, err)
      if first then
        assert(s:read(1) == "x")
        samples[#samples + 1] = clock() - begin
      end
      assert(s:read(1) == nil)
      s:close()
      finish()
    end)
  end
  for _ = 1, inflight do start() end
  while ended < n do fork.step(1) end
end

for line in io.lines() do
  local samples, begin = {}, clock()
  if inflight == 1 then one_by_one(tonumber(line), samples) else many(tonumber(line), samples) end
  table.insert(samples, 1, clock() - begin)
  for i, us in ipairs(samples) do samples[i] = ("%.1f"):format(us) end
  print(table.concat(samples, " "))
  io.stdout:flush()
end
template:close()
