-- The templates that are children of this process, by their titles. (A clone's parent is the
-- program, so clones don't tell which template they come from.)
local kit = require "testkit"

local templates = {}

--- A sorted list of their pids.
function templates.list()
  local found = {}
  for pid, process in pairs(kit.processes()) do
    local file = process.ppid == kit.getpid() and process.state ~= "Z"
      and io.open(("/proc/%d/cmdline"):format(pid))
    if file then
      if file:read("a"):find("moonfork: template", 1, true) then found[#found + 1] = pid end
      file:close()
    end
  end
  table.sort(found)
  return found
end

--- The one that is there after start() and was not before; or nil.
function templates.started_by(start)
  local before = {}
  for _, pid in ipairs(templates.list()) do before[pid] = true end
  start()
  for _, pid in ipairs(templates.list()) do
    if not before[pid] then return pid end
  end
  return nil
end

return templates
