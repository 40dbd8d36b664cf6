-- The contestant uv.spawn of lua5.4, by luv. Arguments and output: ../bench.h.
--
--   lua5.4 luv_spawn.lua life COUNT INFLIGHT
--
-- A new interpreter for each life, which writes to its standard output (a pipe). A life ends
-- with the end of that pipe and with the exit.
local uv = require "luv"
local count, inflight = tonumber(arg[2]), tonumber(arg[3] or 1)
local warmup = math.max(count // 5, 20)
local all, started, ended, total_from = warmup + count, 0, 0, nil
local samples = {}

local start
local function finish(life)
  life.open = life.open - 1
  if life.open > 0 then return end
  if ended >= warmup then samples[#samples + 1] = (life.first - life.begin) / 1000 end
  ended = ended + 1
  if ended == warmup then total_from = uv.hrtime() end
  start()
end

function start()
  if started == all then return end
  started = started + 1
  local life, pipe, process = {open = 2, begin = uv.hrtime()}, uv.new_pipe(false), nil
  process = assert(uv.spawn("lua5.4", {
    args = {"-e", "io.write('x')"},
    stdio = {nil, pipe, nil},
  }, function(code, signal)
    assert(code == 0 and signal == 0)
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
local total = uv.hrtime() - total_from
for _, us in ipairs(samples) do print(("%.1f"):format(us)) end
print(("total %.6f"):format(total / 1e9))
