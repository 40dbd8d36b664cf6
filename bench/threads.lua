-- Clones that are threads and clones that are processes, of a template with so many MiB of small tables:
-- threads.lua process|thread|lazy WHAT MIB COUNT [PAUSE]. One at a time, each begun PAUSE seconds after the one
-- before. WHAT: first, to the first byte of its function; ten, the same of one that looks at ten places before;
-- quarter, or all, of one that reads so much of it; whole, to its end; inside, from the moment that the template's
-- process has the command to the first byte, with first_byte.so preloaded (FIRST_BYTE: its path). In figures: the
-- time of each, sorted.
local fork = require "moonfork"
local kind, what, mib, count, pause = arg[1], arg[2], tonumber(arg[3]), tonumber(arg[4]), tonumber(arg[5] or 0)
local template = fork.new_exec():eval(([[
  data = {}
  for i = 1, %d do data[i] = {i} end
  function f(socket) socket:write "x" end
  local function reads(n, step)
    local sum = 0
    for i = 1, n, step do sum = sum + data[i][1] end
  end
  function ten(socket) reads(#data, #data // 10) socket:write "x" end
  function quarter(socket) reads(#data // 4, 1) socket:write "x" end
  function all(socket) reads(#data, 1) socket:write "x" end
  local since = %q ~= "" and assert(package.loadlib(%q, "first_byte_ns"))
  function inside(socket)
    socket:write "x"
    socket:write(since() or "")
  end
]]):format(mib * 11000, os.getenv "FIRST_BYTE" or "", os.getenv "FIRST_BYTE" or ""))
local name = ({first = "f", whole = "f"})[what] or what
local clock = require("moonfork.load").now
local options = { isolation = kind ~= "process" and "thread" or "process", lazy = kind == "lazy" }
local warmup, times = count // 5 + 1, {}
local began
for i = 1, warmup + count do
  if i == warmup + 1 then began = clock() end
  local start = clock()
  local clone = template:fork(options)
  local socket = assert(clone:run(name))
  assert(socket:read(1) == "x")
  if what ~= "whole" then times[i] = clock() - start end
  if what == "inside" then times[i] = (tonumber(socket:read "a") or 0) / 1e9 end
  socket:close()
  assert(clone:wait().code == 0)
  clone:close()
  if what == "whole" then times[i] = clock() - start end
  if pause > 0 then fork.sleep(pause) end
end
local seconds = clock() - began
times = table.move(times, warmup + 1, warmup + count, 1, {})
table.sort(times)
print(("calls %d\nseconds %.6f\np50_us %.1f\nbest_us %.1f"):format(count, seconds, times[count // 2 + 1] * 1e6,
  times[1] * 1e6))
template:close()
fork.loop()
