-- stop(pid): SIGSTOP. A signal stops a process a little later than kill returns, thread by thread: this returns
-- when all of it stands still.
local kit = require "testkit"

local SECONDS = 20
local scale = tonumber(os.getenv("STORY_SCALE") or "") or 1

local function stat_of(path)
  local f = io.open(path .. "/stat")
  local text = f and f:read("a")
  if f then f:close() end
  return text or ") X"
end

local function is_stopped(pid)
  local tasks = "/proc/" .. pid .. "/task/"
  for _, task in ipairs(kit.ls(tasks) or {}) do
    if not stat_of(tasks .. task):find "%) [TX]" then return false end
  end
  return true
end

return function(pid)
  local last = kit.now() + SECONDS * scale
  kit.kill(pid, kit.SIGSTOP)
  while not is_stopped(pid) do
    if kit.now() > last then error(("process %d does not stop"):format(pid), 2) end
    kit.msleep(1)
  end
end
