-- The contestant uv.spawn of lua5.4, by luv. Arguments and output: ../bench.h.
--
--   lua5.4 luv_spawn.lua spawn|first INFLIGHT
--
-- A new interpreter for each process; with "first" it writes to its standard output (a pipe).
-- It has ended when the end of that pipe and the exit have come.
local uv = require "luv"
local code, inflight = arg[1] == "first" and "io.write('x')" or "", tonumber(arg[2] or 1)

local function slice(n)
  local started, ended, samples, start = 0, 0, {}, nil
  local function finish(life)
    life.open = life.open - 1
    if life.open > 0 then return end
    ended = ended + 1
    samples[ended] = life.first and (life.first - life.begin) / 1000
    start()
  end
  function start()
    if started == n then return end
    started = started + 1
    local life, pipe, process = {open = 2, begin = uv.hrtime()}, uv.new_pipe(false), nil
    process = assert(uv.spawn("lua5.4", {args = {"-e", code}, stdio = {nil, pipe, nil}},
      function(status, signal)
        assert(status == 0 and signal == 0)
        process:close()
        finish(life)
      end))
    pipe:read_start(function(err, data)
      assert(not err, err)
      if data then life.first = uv.hrtime() return end
      pipe:close()
      finish(life)
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
