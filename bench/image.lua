-- Templates that begin as an image, and templates that are built: from the start of the program to the
-- first byte of a Lua function, one after the other. Memory: `private`, the pages that no other process has
-- mapped (Private_Clean and Private_Dirty); of them `written`, which alone takes memory that the kernel can't
-- drop (Private_Dirty). The first process stays until the end: what a process then has for itself is what another
-- one costs. The first one itself, while it is alone, also counts the pages of files that it has read.
--
--   image.lua make FILE MIB            an image with so many MiB of small tables
--   image.lua make FILE modules DIR    one with the 300 modules of DIR
--   image.lua load FILE COUNT
--   image.lua exec COUNT               an empty interpreter
--   image.lua hibernate FILE MIB COUNT  a clone of a template with so many MiB hibernates in a running
--                                      function, and COUNT processes go on with it
--   image.lua modules DIR COUNT        one that loads the modules
local fork = require "moonfork"
local what = arg[1]
local clock = require("moonfork.load").now
local GREET = "function greet(socket) socket:write 'x' socket:read 'a' end"
local NMODULES = 300

-- As its own figures: how long the save took, and how much more private memory the clone had then.
local HIBERNATE = [[
  function sleeper(socket, file)
    local own = {}
    for i = 1, 1000 do own[i] = {i} end
    socket:write "." socket:read(1)
    local how, new_socket = assert(require "moonfork.clone".hibernate(file))
    socket = new_socket or socket
    socket:write "x" socket:read(1)
  end
]]

local function load_modules(process, dir)
  return process:eval(([[
    package.path = %q .. "/?.lua;" .. package.path
    for i = 1, %d do require("bench_module" .. i) end
  ]]):format(dir, NMODULES))
end

if what == "make" then
  local process = fork.new_exec():eval(GREET)
  if arg[3] == "modules" then
    load_modules(process, arg[4])
  else
    process:eval(("data = {} for i = 1, %d do data[i] = {i} end"):format(tonumber(arg[3]) * 11000))
  end
  assert(process:save(arg[2]))
  process:close()
  fork.loop()
  return
end

local count = tonumber(arg[what == "exec" and 2 or what == "hibernate" and 4 or 3])
local times, private, written, saved = {}, 0, 0, ""
local alone, alone_written

-- KiB of pages that the process has written.
local function written_by(pid)
  local file <close> = assert(io.open(("/proc/%d/smaps_rollup"):format(pid)))
  return tonumber(file:read "a":match "Private_Dirty:%s*(%d+)")
end

if what == "hibernate" then
  local template = fork.new_exec():eval(HIBERNATE)
    :eval(("data = {} for i = 1, %d do data[i] = {i} end"):format(tonumber(arg[3]) * 11000))
  local clone = template:fork():send_arg(arg[2])
  local socket = assert(clone:run "sleeper")
  assert(socket:read(1) == ".")
  local before, start = assert(clone:memory()), clock()
  socket:write "x"
  assert(socket:read(1) == "x")
  local seconds = clock() - start
  saved = ("\nsave_s %.3f\nsave_private_kib %.0f"):format(seconds, (assert(clone:memory()).uss - before.uss) / 1024)
  socket:close()
  assert(clone:wait().code == 0)
  template:close()
end

local neighbour
for i = 1, count + 2 do
  local start = clock()
  local process
  if what == "load" or what == "hibernate" then
    process = fork.load(arg[2])
  else
    process = fork.new_exec()
    if what == "modules" then load_modules(process, arg[2]) end
    process:eval(GREET)
  end
  local socket
  if what == "hibernate" then
    socket = assert(process:run())
  else
    socket = assert(process:run "greet")
  end
  assert(socket:read(1) == "x")
  times[i] = clock() - start
  local memory = assert(process:memory())
  if not neighbour then
    neighbour = {process = process, socket = socket}
    alone, alone_written = memory.uss / 1024, written_by(process:pid())
  else
    private, written = math.max(private, memory.uss), math.max(written, written_by(process:pid()))
    socket:close()
    assert(process:wait().code == 0)
    process:close()
  end
end
neighbour.socket:close()
assert(neighbour.process:wait().code == 0)
neighbour.process:close()
times = table.move(times, 3, count + 2, 1, {}) -- the first two find cold pages
table.sort(times)
local seconds = 0
for _, t in ipairs(times) do seconds = seconds + t end
print(("calls %d\nseconds %.6f\np50_us %.1f\nprivate_kib %.0f\nwritten_kib %d\nalone_kib %.0f\nalone_written_kib %d%s")
  :format(count, seconds, times[count // 2 + 1] * 1e6, private / 1024, written, alone, alone_written, saved))
