-- The contestant threads of luv: a thread with an interpreter of its own for each "process", in
-- the same process. Arguments and output: ../bench.h.
--
--   lua5.4 luv_thread.lua spawn|first INFLIGHT
--
-- With "first" it writes one byte to a pipe. It has ended when the end of the pipe and the join
-- have come. What a thread does not give (an address space, an end without the others') costs
-- nothing here, so this is a bound, and no substitute.
local uv = require "luv"
local first, inflight = arg[1] == "first", tonumber(arg[2] or 1)

local function body(fd, writes)
  local thread_uv = require "luv"
  if writes then thread_uv.fs_write(fd, "x", -1) end
  thread_uv.fs_close(fd)
end

local function slice(n)
  local started, samples, start = 0, {}, nil
  function start()
    if started == n then return end
    started = started + 1
    local begin = uv.hrtime()
    local fds = uv.pipe({nonblock = true}, {})
    local pipe = uv.new_pipe(false)
    pipe:open(fds.read)
    local thread = assert(uv.new_thread(body, fds.write, first))
    pipe:read_start(function(err, data)
      assert(not err, err)
      if data then
        samples[#samples + 1] = (uv.hrtime() - begin) / 1000
        return
      end
      pipe:close()
      thread:join()
      start()
    end)
  end
  for _ = 1, inflight do start() end
  uv.run()
  return samples
end

for line in io.lines() do
  local begin = uv.hrtime()
  local samples = slice(tonumber(line))
  print((uv.hrtime() - begin) / 1000 .. " " .. table.concat(samples, " "))
  io.stdout:flush()
end
