-- The same work in a template of this machine, and in one behind `sh -c`:
-- remote.lua local|COMMAND calls COUNT INFLIGHT SIZE, or remote.lua local|COMMAND forks COUNT
-- [INFLIGHT].
-- COMMAND: what leads to `moonfork agent`.
local fork = require "moonfork"
local where, what, count = arg[1], arg[2], tonumber(arg[3])
local inflight, size = tonumber(arg[4] or 1), tonumber(arg[5] or 64)
local template = where == "local" and fork.new_exec() or
  fork.remote { command = { "sh", "-c", where } }
template:eval "function echo(text) return text end function leave() end"
local clock = require("moonfork.load").now
local warmup = count // 5 + 1
local began

if what == "forks" and inflight > 1 then
  local asked, entered = 0, 0
  local function ask()
    asked = asked + 1
    local process = template:fork()
    process:run("leave", function(err, socket)
      assert(not err, err)
      socket:close()
      process:close()
      entered = entered + 1
      if entered == warmup then began = clock() end
      if asked < warmup + count then ask() end
    end)
  end
  for _ = 1, inflight do ask() end
  while entered < warmup + count do fork.step(1) end
elseif what == "forks" then
  for i = 1, warmup + count do
    if i == warmup + 1 then began = clock() end
    local process = template:fork()
    assert(process:run "leave"):close()
    process:close()
  end
else
  local text = ("x"):rep(size)
  local rpc = template:fork():rpc "echo"
  local asked, answered = 0, 0
  local function ask()
    asked = asked + 1
    rpc:call(text, function(err)
      assert(not err, err)
      answered = answered + 1
      if answered == warmup then began = clock() end
      if asked < warmup + count then ask() end
    end)
  end
  for i = 1, inflight == 1 and warmup + count or 0 do
    if i == warmup + 1 then began = clock() end
    assert(#rpc(text) == size)
  end
  if inflight > 1 then
    for _ = 1, inflight do ask() end
    while answered < warmup + count do fork.step(1) end
  end
  print(("calls %d\nseconds %.6f"):format(count, clock() - began))
  rpc:close()
end
if what == "forks" then print(("calls %d\nseconds %.6f"):format(count, clock() - began)) end
template:close()
fork.loop()
