-- The templates that are children of this process, by their titles. (A clone's parent is the
-- program, so clones don't tell which template they come from.)
--
-- A process sets its title when it has nothing else to do, which may be after the first clone
-- of a new template has answered. Until then its command line is the one it was executed with.
local kit = require "testkit"

local templates = {}

local TITLE, PROGRAM = "moonfork: template", "moonfork-template"
local PATIENCE = 10 -- seconds; a process that is stopped or in user code gets no title

local function command_line(pid)
  local file = io.open(("/proc/%d/cmdline"):format(pid))
  if not file then return "" end -- it is gone
  local text = file:read "a" or ""
  file:close()
  return text
end

--- A sorted list of their pids, and how many children have no title yet.
function templates.list()
  local found, untitled = {}, 0
  for pid, process in pairs(kit.processes()) do
    if process.ppid == kit.getpid() and process.state ~= "Z" then
      local text = command_line(pid)
      if text:find(TITLE, 1, true) then
        found[#found + 1] = pid
      elseif text:match("^[^\0]*"):find(PROGRAM, 1, true) then
        untitled = untitled + 1
      end
    end
  end
  table.sort(found)
  return found, untitled
end

local function settled()
  local last = kit.now() + PATIENCE
  while true do
    local found, untitled = templates.list()
    if untitled == 0 or kit.now() > last then return found end
    kit.msleep(1)
  end
end

--- The one that this program has, or will soon have: a copy of the program itself (early)
--- cannot be told from a clone before its title is set.
function templates.first()
  local last = kit.now() + PATIENCE
  repeat
    local found = templates.list()
    if found[1] then return found[1] end
    kit.msleep(1)
  until kit.now() > last
  error("no template has set its title")
end

--- The one that is there after start() and was not before; or nil where it started none.
function templates.started_by(start)
  local before = {}
  for _, pid in ipairs(settled()) do before[pid] = true end
  start()
  for _, pid in ipairs(settled()) do
    if not before[pid] then return pid end
  end
  return nil
end

return templates
