-- Calls over NATS: nats.lua serve URL SUBJECT WORKERS is a node until SIGTERM;
-- nats.lua call URL SUBJECT COUNT INFLIGHT SIZE; nats.lua local COUNT INFLIGHT SIZE WORKERS: a pool here;
-- nats.lua map URL SUBJECT COUNT CHUNK SIZE; nats.lua maplocal COUNT CHUNK SIZE WORKERS: the same by map.
local fork = require "moonfork"
local clock = require("moonfork.load").now
local what = arg[1]

local function echo_pool(workers)
  return fork.new_exec():eval "function echo(text) return text end":pool("echo", {max = workers, idle = workers,
    load = 32})
end

if what == "serve" then
  local nats = require "moonfork.nats"
  local pool = echo_pool(tonumber(arg[4]))
  local node = assert(nats.node(pool, arg[2], {subject = arg[3]}))
  fork.signal("TERM", function()
    node:close()
    pool:close()
    os.exit(0)
  end)
  while true do fork.sleep(3600) end
end

local function map(pool, count, chunk, size)
  local text, seconds = ("x"):rep(size), nil
  for _, n in ipairs{count // 5 + 1, count} do -- the first to warm up
    local i, began = 0, clock()
    for _, err, answer in pool:map(function() i = i + 1 return i <= n and text or nil end,
      {chunk = tonumber(chunk) or chunk}) do
      assert(not err, err)
      assert(#answer == size)
    end
    seconds = clock() - began
  end
  print(("calls %d\nseconds %.6f"):format(count, seconds))
  pool:close()
  fork.loop()
  os.exit(0)
end

if what == "map" then
  map(require "moonfork.nats".pool(arg[2], {subject = arg[3]}), tonumber(arg[4]), arg[5], tonumber(arg[6]))
elseif what == "maplocal" then
  map(echo_pool(tonumber(arg[5])), tonumber(arg[2]), arg[3], tonumber(arg[4]))
end

local pool, count, inflight, size
if what == "local" then
  pool, count, inflight, size = echo_pool(tonumber(arg[5])), tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])
else
  pool = require "moonfork.nats".pool(arg[2], {subject = arg[3]})
  count, inflight, size = tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6])
end

local text, warmup, began = ("x"):rep(size), count // 5 + 1, nil
if inflight == 1 then
  for i = 1, warmup + count do
    if i == warmup + 1 then began = clock() end
    assert(#assert(pool:call(text)) == size)
  end
else
  local asked, answered = 0, 0
  local function ask()
    asked = asked + 1
    pool:call(text, function(err)
      assert(not err, err)
      answered = answered + 1
      if answered == warmup then began = clock() end
      if asked < warmup + count then ask() end
    end)
  end
  for _ = 1, inflight do ask() end
  while answered < warmup + count do fork.step(1) end
end
print(("calls %d\nseconds %.6f"):format(count, clock() - began))
pool:close()
fork.loop()
