-- Many items: map.lua MODE COUNT REPEAT [PROGRAM]. MODE: plain (a loop without a pool), map (pool:map as
-- it is), single (chunk = 1), call (calls of a pool, 16 in flight), run (a process for each, two in
-- flight), program (`moonfork map`, the program PROGRAM), parallel (GNU parallel --pipe -j2), lines
-- (what that runs). Prints also the processor time: `own` of this process, `others` of its children
-- (template and workers).
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

if mode == "lines" then
  for line in io.lines() do print(work(line, count)) end
  return
end

local clock = require("moonfork.load").now
local function seconds_since(began) return clock() - began end

if mode == "calibrate" then
  local best, n = math.huge, 1000
  for _ = 1, 50 do
    local began = clock()
    for _ = 1, 20 do work("line 12345", n) end
    best = math.min(best, (clock() - began) * 1e9 / 20 / n)
  end
  print(math.max(1, math.floor(count * 1000 / best)))
  return
end

local function text(i) return "line " .. i end

local sum, told, began, seconds, own_began = 0, 0, nil, nil, nil
local function begin() began, own_began = clock(), os.clock() end
if mode == "parallel" or mode == "program" then
  local name = (os.getenv "TMPDIR" or "/tmp") .. "/lines"
  local f <close> = assert(io.open(name, "w"))
  for i = 1, count do f:write(text(i), "\n") end
  f:close()
  local command = ("parallel --will-cite --pipe -j2 lua5.4 %s lines %d <%s"):format(arg[0], repeats, name)
  if mode == "program" then
    command = ("%s map -j2 -e '%s local plain = work function work(line) return plain(line, %d) end' work %s")
      :format(arg[4], CODE, repeats, name)
  end
  begin()
  local out <close> = assert(io.popen(command))
  for line in out:lines() do sum, told = sum + tonumber(line), told + 1 end
  os.remove(name)
elseif mode == "plain" then
  begin()
  for i = 1, count do sum, told = sum + work(text(i), repeats), told + 1 end
elseif mode == "run" then
  local fork = require "moonfork"
  local template <close> = fork.new():eval(CODE .. ([[
    function run(socket, line) socket:write(work(line, line == "warm" and 0 or %d)) end]]):format(repeats))
  assert(template:fork():send_arg("warm"):run "run"):close()
  local started, oldest = {}, 1
  local function start(i)
    template:fork():send_arg(text(i)):run("run", function(err, socket)
      started[i] = assert(socket, err)
    end)
  end
  begin()
  for i = 1, math.min(2, count) do start(i) end
  while oldest <= count do
    while not started[oldest] do fork.step(1) end
    sum, told = sum + started[oldest]:read "n", told + 1
    started[oldest]:close()
    started[oldest] = nil
    if oldest + 2 <= count then start(oldest + 2) end
    oldest = oldest + 1
  end
else
  local fork = require "moonfork"
  local pool <close> = fork.new():eval(CODE .. ([[
    local plain = work
    function work(line) return plain(line, line == "warm" and 0 or %d) end]]):format(repeats))
    :pool("work", {max = 2, idle = 2})
  for _ = 1, 4 do pool("warm") end
  local i = 0
  local function lines()
    i = i + 1
    return i <= count and text(i) or nil
  end
  begin()
  if mode == "call" then
    local function ask()
      local line = lines()
      if not line then return end
      pool(line, function(err, x)
        if err then error(err) end
        sum, told = sum + x, told + 1
        ask()
      end)
    end
    for _ = 1, 16 do ask() end
    while told < count do fork.step(1) end
  else
    for _, err, x in pool:map(lines, mode == "single" and {chunk = 1} or nil) do
      if err then error(err) end
      sum, told = sum + x, told + 1
    end
  end
  seconds = seconds_since(began)
  pool:drain() -- its processes are waited for, and counted
end
seconds = seconds or seconds_since(began)
assert(told == count, told)

-- Of children that were waited for; in clock ticks of a hundredth of a second.
local function time_of_others()
  local f <close> = assert(io.open "/proc/self/stat")
  local fields = {}
  for field in f:read("a"):match("%) (.*)"):gmatch "%S+" do fields[#fields + 1] = field end
  return (fields[14] + fields[15]) / 100
end

local own = os.clock() - own_began
if mode ~= "plain" and mode ~= "parallel" and mode ~= "program" then require("moonfork").reset() end
print(("items %d\nseconds %.6f\nsum %d\nown %.4f\nothers %.2f"):format(count, seconds, sum, own,
  time_of_others()))
