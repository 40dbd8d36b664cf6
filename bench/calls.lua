-- Calls by the Lua module: calls.lua COUNT INFLIGHT SIZE. As bench/calls.c's rpc.
local fork = require "moonfork"
local count, inflight, size = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3] or 64)
local warmup = count // 5 + 1
local text = ("x"):rep(size)
local rpc = fork.new_exec():eval("function echo(text) return text end"):rpc("echo")

local clock = require("moonfork.load").now
local began
if inflight == 1 then
  for i = 1, warmup + count do
    if i == warmup + 1 then began = clock() end
    assert(#rpc(text) == size)
  end
else
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
  for _ = 1, inflight do ask() end
  while answered < warmup + count do fork.step(1) end
end
local seconds = clock() - began
print(("calls %d\nseconds %.6f"):format(count, seconds))
rpc:close()
fork.loop()
