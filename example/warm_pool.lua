-- warm_pool.lua: a pool whose workers learn while they work, watched: what one of them has built
-- becomes the template's, so that later workers begin with it and share its memory.

local fork = require "moonfork"

local template = fork.new():eval [[
  cache = {}
  -- A costly answer that is worth to be kept: how many steps of Collatz's, up to n.
  function steps(n)
    local known = cache[n] ~= nil
    if not known then
      local longest = 0
      for i = 1, n do
        local count, k = 0, i
        while k ~= 1 do k, count = k % 2 == 0 and k // 2 or 3 * k + 1, count + 1 end
        longest = math.max(longest, count)
      end
      cache[n] = longest
    end
    return cache[n], known, require("moonfork.clone").pid()
  end
]]

local pool = template:pool("steps", {
  max = 1, load = 1,
  on_worker = function(event, _, reason) print("a worker has " .. event .. ": " .. reason) end,
})

local longest, _, first = assert(pool(20000))
print("the longest has " .. longest .. " steps")
assert(pool:promote())

-- Other workers, which have never worked it out.
assert(pool:resize(0))
while pool:stats().workers > 0 do fork.step(1) end
assert(pool:resize(2))
local again, known, second = assert(pool(20000))
assert(again == longest and second ~= first)
print("a new worker " .. (known and "knew it" or "worked it out"))

local stats = pool:stats()
for _, worker in ipairs(stats.per_worker) do
  if worker.pid == second then
    print(("its call took %.0f us, the first one %.0f us"):format(worker.run_time.max * 1e6, stats.run_time.max * 1e6))
  end
end

local _, report = assert(pool:drain(10))
print(("drained: %d calls dropped, %d workers killed"):format(report.dropped, report.killed))
