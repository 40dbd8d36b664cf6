-- Many short clones in threads of one template, 16 at a time and one at a time: none fails, and the template does not
-- grow. Also what `./dev tsan` runs, with fewer.
--
--   ./dev run lua5.4 test/thread_soak.lua [COUNT [PROGRAM [lazy]]]      COUNT: 1,000,000
--
-- PROGRAM is the template program; "" is the built one. lazy: of a template of 2 MiB, copied as they are touched,
-- where that can be. Prints what was wrong, if anything, and a line; the exit status is 0
-- when all was right.
local fork = require "moonfork"

local total, program = tonumber(arg[1] or 1000000), arg[2] ~= "" and arg[2] or nil
local lazy = arg[3] == "lazy" and "try" or nil
local template = fork.new_exec { program = program }
template:eval [[
  numbers = {}
  for i = 1, 1000 do numbers[i] = {i} end
  function work(s)
    for i = 1, 100 do numbers[i] = {tostring(i)} end
    if numbers[500][1] == 500 then s:write "x" end
  end
  function collects(n)
    local all = {}
    for i = 1, 500 do all[i] = {i, numbers[i]} end
    collectgarbage()
    return n + #all
  end
]]

if lazy then template:eval "more = {} for i = 1, 20000 do more[i] = {i} end" end

local begun, done, wrong = 0, 0, 0

local function complain(...)
  wrong = wrong + 1
  print(...)
end

-- KiB of the template's process, and its threads.
local function look()
  local text = assert(io.open("/proc/" .. template:pid() .. "/status")):read "a"
  return tonumber(text:match "VmRSS:%s*(%d+)"), tonumber(text:match "Threads:%s*(%d+)")
end

local function go()
  begun = begun + 1
  local clone = template:fork { isolation = "thread", lazy = lazy }
  clone:run("work", function(err, socket)
    if err then return complain("run", err.code, err.message) end
    clone:on_exit(function(status)
      if socket:read "a" ~= "x" then complain "bytes" end
      if status.code ~= 0 then complain("exit", status.code, status.signal, status.unknown) end
      socket:close()
      clone:close()
      done = done + 1
      if begun < total then go() end
    end)
  end)
end

local function run(n, at_a_time)
  local upto = begun + n
  local all = total
  total = upto
  for _ = 1, math.min(at_a_time, n) do go() end
  fork.loop()
  total = all
end

local alone = total // 20 -- each finds one ready
run(math.max(total // 20, 1), 16)
run(alone, 1)
local before = look()
run(total - begun - alone, 16)
run(total - begun, 1)
if done ~= total then complain(("%d of %d ended"):format(done, total)) end
local after, threads = look()
for _ = 1, 100 do -- the last thread may be on its way out of the kernel
  if threads <= (lazy and 3 or 2) then break end -- one is ready for the next clone, and serves it
  fork.sleep(0.05)
  after, threads = look()
end
if threads > (lazy and 3 or 2) and not program then complain(threads .. " threads are left") end
if after > before + 2048 and not program then complain(("%d KiB, before %d KiB"):format(after, before)) end
local pid = template:pid()
local pool = template:pool("collects", { isolation = "thread", lazy = lazy, max = 4 })
for i = 1, 200 do
  local sum, err = pool:call(i)
  if sum ~= i + 500 then complain("call", sum, err and err.message) end
end
local drained, err = pool:drain(30)
if not drained then complain("drain", err.message) end
pool:close()
print(("%d clones in threads of process %d, %d KiB, %d wrong"):format(done, pid, after, wrong))
os.exit(wrong == 0, true)
