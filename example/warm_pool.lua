-- warm_pool.lua: a pool whose workers learn while they work, watched: what one of them has built
-- becomes the template's, so that later workers begin with it and share its memory.

local fork = require "moonfork"

local template = fork.new():eval [[
  cache = {}
  -- A costly answer that is worth to be kept: how many steps of Collatz's, up to n.
  function steps(n)
    if not cache[n] then
      local longest = 0
      for i = 1, n do
        local count, k = 0, i
        while k ~= 1 do k, count = k % 2 == 0 and k // 2 or 3 * k + 1, count + 1 end
        longest = math.max(longest, count)
      end
      cache[n] = longest
    end
    return cache[n], require("moonfork.clone").pid()
  end
]]

local pool = template:pool("steps", {
  max = 1, load = 1,
  on_worker = function(event, _, reason) print("a worker has " .. event .. ": " .. reason) end,
})

local longest, first = assert(pool(20000))
print("the longest has " .. longest .. " steps")
assert(pool:promote())

-- Other workers, which have never worked it out.
assert(pool:resize(0))
while pool:stats().workers > 0 do fork.step(1) end
assert(pool:resize(2))
local again, second = assert(pool(20000))
assert(again == longest and second ~= first)

local stats = pool:stats()
for _, worker in ipairs(stats.per_worker) do
  if worker.pid == second then
    local quick = worker.run_time.max * 10 < stats.run_time.max
    print("a new worker took " .. (quick and "next to no time" or "as long"))
  end
end

local _, report = assert(pool:drain(10))
print(("drained: %d calls dropped, %d workers killed"):format(report.dropped, report.killed))
