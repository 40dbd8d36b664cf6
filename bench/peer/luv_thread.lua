-- The contestant threads of luv: a thread with an interpreter of its own for each life, in the
-- same process. Arguments and output: ../bench.h.
--
--   lua5.4 luv_thread.lua life COUNT INFLIGHT
--
-- It writes one octet to a pipe and ends; a life ends with the end of the pipe and the join.
-- What a thread does not give (an address space, an end without the others') costs nothing
-- here, so this is a bound, and no substitute.
local uv = require "luv"
local count, inflight = tonumber(arg[2]), tonumber(arg[3] or 1)
local warmup = math.max(count // 5, 20)
local all, started, ended, total_from = warmup + count, 0, 0, nil
local samples = {}

local function body(fd)
  local thread_uv = require "luv"
  thread_uv.fs_write(fd, "x", -1)
  thread_uv.fs_close(fd)
end

local start
function start()
  if started == all then return end
  started = started + 1
  local begin, first = uv.hrtime(), nil
  local fds = uv.pipe({nonblock = true}, {})
  local pipe = uv.new_pipe(false)
  pipe:open(fds.read)
  local thread = assert(uv.new_thread(body, fds.write))
  pipe:read_start(function(err, data)
    assert(not err, err)
    if data then first = uv.hrtime() return end
    pipe:close()
    thread:join()
    if ended >= warmup then samples[#samples + 1] = (first - begin) / 1000 end
    ended = ended + 1
    if ended == warmup then total_from = uv.hrtime() end
    start()
  end)
end

for _ = 1, inflight do start() end
uv.run()
local total = uv.hrtime() - total_from
for _, us in ipairs(samples) do print(("%.1f"):format(us)) end
print(("total %.6f"):format(total / 1e9))
