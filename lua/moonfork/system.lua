-- What the machine allows this process. Runs in the parent.

local core = require "moonfork.load"

local system = {}

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- Processors that a control group's quota comes to, or nil: no quota. The tightest of the
-- group and those around it counts. (cgroup v2; v1 has the controller in a folder.)
local function quota_v2(path)
  local least
  while path do
    local max, period = (read("/sys/fs/cgroup" .. path .. "/cpu.max") or "")
      :match("^(%d+) (%d+)")
    if max then least = math.min(least or math.huge, max / period) end
    path = path:match("^(.*)/[^/]*$")
  end
  return least
end

local function quota_v1(path)
  local folder = "/sys/fs/cgroup/cpu" .. path
  local max = tonumber(read(folder .. "/cpu.cfs_quota_us"))
  local period = tonumber(read(folder .. "/cpu.cfs_period_us"))
  return max and period and max > 0 and period > 0 and max / period or nil
end

local function quota()
  local groups = read("/proc/self/cgroup") or ""
  local v2 = groups:match("0::([^\n]*)")
  local v1 = groups:match("%d+:[^:\n]*%f[%w]cpu%f[^%w][^:\n]*:([^\n]*)")
  return v2 and quota_v2(v2) or v1 and quota_v1(v1) or nil
end

function system.ncpu()
  local n, limit = core.ncpu(), quota()
  if limit then n = math.min(n, math.ceil(limit)) end
  return math.max(1, n)
end

return system
