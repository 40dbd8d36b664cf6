-- The contestant moonfork in Lua. Arguments and output: bench.h.
--
--   lua5.4 moonfork.lua life COUNT INFLIGHT HEAP_MIB SPARES
--
-- One in flight is written as people write it, with waiting calls; more of them with callbacks.
-- A life ends with the end of the socket and the exit status.
local fork = require "moonfork"
local socket = fork.socket.pair()
local clock = {}
do -- a clock of microseconds without another library: the one of luv where it is there
  local ok, uv = pcall(require, "luv")
  clock.us = ok and function() return uv.hrtime() / 1000 end
    or function() return os.clock() * 1e6 end
  if not ok then io.stderr:write("no luv: times are processor times\n") end
end
socket:close()

local count, inflight = tonumber(arg[2]), tonumber(arg[3] or 1)
local heap, spares = tonumber(arg[4] or 0), tonumber(arg[5] or 0)
local warmup = math.max(count // 5, 20)
local all = warmup + count
local samples, total_from = {}, nil

local options = spares > 0 and {spares = {min = math.max(spares // 2, 1), max = spares}} or nil
local template = fork.new_exec(options)
  :eval("function octet(socket) socket:write('x') end")
if heap > 0 then
  template:eval("big = {} for i = 1, " .. heap * 1048576 // 136 ..
                " do big[i] = {x = i, y = i} end")
end
assert(template:seal():memory())

local function note(i, begin, first)
  if i > warmup then samples[#samples + 1] = first - begin end
  if i == warmup then total_from = clock.us() end
end

local function one_by_one()
  for i = 1, all do
    local begin = clock.us()
    local p = template:fork()
    local s = assert(p:run("octet"))
    assert(s:read(1) == "x")
    local first = clock.us()
    assert(s:read(1) == nil)
    s:close()
    assert(assert(p:wait()).code == 0)
    note(i, begin, first)
  end
end

local function many()
  local started, ended = 0, 0
  local start
  function start()
    if started == all then return end
    started = started + 1
    local begin, first, open = clock.us(), nil, 2
    local p = template:fork()
    local function finish()
      open = open - 1
      if open > 0 then return end
      ended = ended + 1
      note(ended, begin, first)
      start()
    end
    p:on_exit(function(status)
      assert(status.code == 0)
      finish()
    end)
    p:run("octet", function(err, s)
      assert(not err, err)
      assert(s:read(1) == "x")
      first = clock.us()
      s:close()
      finish()
    end)
  end
  for _ = 1, inflight do start() end
  while ended < all do fork.step(1) end
end

if inflight == 1 then one_by_one() else many() end
local total = clock.us() - total_from
for _, us in ipairs(samples) do print(("%.1f"):format(us)) end
print(("total %.6f"):format(total / 1e6))
template:close()
