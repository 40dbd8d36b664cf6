-- Many items: map.lua MODE COUNT REPEAT. MODE: plain (a loop without a pool), map (pool:map as it
-- is), single (chunk = 1), parallel (GNU parallel --pipe -j2), lines (what that runs).
-- map.lua calibrate US prints the REPEAT whose item takes so many microseconds.
local mode, count, repeats = arg[1], math.tointeger(arg[2]), math.tointeger(arg[3])

local CODE = [[
  function work(line, repeats)
    local x = 0
    for i = 1, repeats do x = (x + #line * i) % 1000003 end
    return x
  end
]]
local work = load(CODE .. " return work", "=work", "t", {})()

local clock = require("luv").hrtime
local function seconds_since(began) return (clock() - began) / 1e9 end

if mode == "calibrate" then
  local best, n = math.huge, 1000
  for _ = 1, 50 do
    local began = clock()
    for _ = 1, 20 do work("line 12345", n) end
    best = math.min(best, (clock() - began) / 20 / n)
  end
  print(math.max(1, math.floor(count * 1000 / best)))
  return
elseif mode == "lines" then
  for line in io.lines() do print(work(line, count)) end
  return
end

local function text(i) return "line " .. i end

local sum, told, began = 0, 0, nil
if mode == "parallel" then
  local name = os.tmpname()
  local f <close> = assert(io.open(name, "w"))
  for i = 1, count do f:write(text(i), "\n") end
  f:close()
  began = clock()
  local out <close> = assert(io.popen(("parallel --will-cite --pipe -j2 lua5.4 %s lines %d <%s")
    :format(arg[0], repeats, name)))
  for line in out:lines() do sum, told = sum + tonumber(line), told + 1 end
  os.remove(name)
elseif mode == "plain" then
  began = clock()
  for i = 1, count do sum, told = sum + work(text(i), repeats), told + 1 end
else
  local fork = require "moonfork"
  local pool <close> = fork.new():eval(CODE .. ([[
    local plain = work
    function work(line) return plain(line, %d) end]]):format(repeats)):pool("work", {max = 2, idle = 2})
  for _ = 1, 4 do pool("warm") end
  local i = 0
  local function lines()
    i = i + 1
    return i <= count and text(i) or nil
  end
  began = clock()
  for _, err, x in pool:map(lines, mode == "single" and {chunk = 1} or nil) do
    if err then error(err) end
    sum, told = sum + x, told + 1
  end
end
local seconds = seconds_since(began)
assert(told == count, told)
print(("items %d\nseconds %.6f\nsum %d"):format(count, seconds, sum))
