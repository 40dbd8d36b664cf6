-- Clones that are threads and clones that are processes, of a template with so many MiB of small tables:
-- threads.lua process|thread first|whole|inside MIB COUNT. One at a time: to the first byte of its function,
-- or to its end; inside: from the moment that the template's process has the command to the first byte,
-- with first_byte.so preloaded (FIRST_BYTE: its path). In figures: the time of each, sorted.
local fork = require "moonfork"
local isolation, what, mib, count = arg[1], arg[2], tonumber(arg[3]), tonumber(arg[4])
local template = fork.new_exec():eval(([[
  data = {}
  for i = 1, %d do data[i] = {i} end
  function f(socket) socket:write "x" end
  local since = %q ~= "" and assert(package.loadlib(%q, "first_byte_ns"))
  function inside(socket)
    socket:write "x"
    socket:write(since() or "")
  end
]]):format(mib * 11000, os.getenv "FIRST_BYTE" or "", os.getenv "FIRST_BYTE" or ""))
local name = what == "inside" and "inside" or "f"
local clock = require("moonfork.load").now
local options = { isolation = isolation }
local warmup, times = count // 5 + 1, {}
local began
for i = 1, warmup + count do
  if i == warmup + 1 then began = clock() end
  local start = clock()
  local clone = template:fork(options)
  local socket = assert(clone:run(name))
  assert(socket:read(1) == "x")
  if what == "first" then times[i] = clock() - start end
  if what == "inside" then times[i] = (tonumber(socket:read "a") or 0) / 1e9 end
  socket:close()
  assert(clone:wait().code == 0)
  clone:close()
  if what == "whole" then times[i] = clock() - start end
end
local seconds = clock() - began
times = table.move(times, warmup + 1, warmup + count, 1, {})
table.sort(times)
print(("calls %d\nseconds %.6f\np50_us %.1f\nbest_us %.1f"):format(count, seconds, times[count // 2 + 1] * 1e6,
  times[1] * 1e6))
template:close()
fork.loop()
