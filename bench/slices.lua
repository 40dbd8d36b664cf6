-- Turns of slices for bench/run.lua: contestants are coprocesses, each in a control group for
-- processor time where one can be made. Is called with {process=, median=, quantile=} of run.lua.
local given = ...
local process, median, quantile = given.process, given.median, given.quantile

-- Processor time of a control group in us. Two hierarchies: cpuacct of version 1, and version 2.
local group_root, group_file, group_unit = "/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e-3
if not process.succeeds("test -w " .. group_root) then
  group_root, group_file, group_unit = "/sys/fs/cgroup", "cpu.stat", 1
end
local groups = 0
local group_name = ("%s/moonfork-bench.%d"):format(group_root, require("moonfork.clone").pid())
local function group_new()
  groups = groups + 1
  local folder = ("%s.%d"):format(group_name, groups)
  if process.succeeds(("mkdir %s && test -f %s/%s -a -w %s/cgroup.procs"):format(folder, folder,
      group_file, folder)) then
    process.defer(function()
      local _, _, errno = os.remove(folder)
      return errno ~= 16 -- EBUSY: processes are left
    end)
    return folder
  end
end
local function group_cpu(folder)
  local f = folder and io.open(folder .. "/" .. group_file)
  if not f then return end
  local text = f:read "a"
  f:close()
  return tonumber(text:match "%d+") * group_unit
end

-- A contestant as a coprocess; heap, spares, pause: what it is told so of its template (bench.h).
local function coprocess(contestant, arguments)
  local group = group_new()
  local enter = group and ("echo $$ >%s/cgroup.procs; "):format(group) or ""
  return {key = contestant.key, label = contestant.label, group = group, slices = {},
    pair = process.pair(("%sexec %s %s %d %d %d"):format(enter, contestant.command, arguments,
      contestant.heap or 0, contestant.spares or 0, contestant.pause or 0))}
end
local function slice(self, n)
  local cpu, all = group_cpu(self.group), group_cpu(group_root)
  local line = self.pair:ask(n)
  if not line then error({message = "it ended instead of answering: " .. self.label}, 0) end
  local samples = {}
  for us in line:gmatch "[%d.]+" do samples[#samples + 1] = tonumber(us) end
  local total = table.remove(samples, 1)
  local s = {us = total / n, samples = samples, first = samples[1] and median(samples)}
  if cpu then
    cpu = group_cpu(self.group) - cpu
    s.cpu, s.strangers = cpu / n, (group_cpu(group_root) - all - cpu) / total
  end
  return s
end
local function close(self)
  self.pair:close()
  if self.group then os.remove(self.group) end
end

-- Turns of slices for so many seconds, by new coprocesses every ten: each start has other
-- addresses, and with them so many page tables and pages that faults bring along; that is up to
-- 5 us of a process. The first of the list is the yardstick.
local function take_slices(list, mode, inflight, seconds)
  local sides, starts = {}, math.max(1, seconds // 10)
  for _ = 1, starts do
    for i, c in ipairs(list) do
      local before = sides[i]
      sides[i] = coprocess(c, mode .. " " .. inflight)
      sides[i].slices = before and before.slices or {}
      sides[i].n = inflight > 1 and c.slice * 8 // 3 or c.slice
      slice(sides[i], sides[i].n) -- warms up
    end
    local deadline = os.time() + math.max(1, seconds // starts)
    repeat
      for _, side in ipairs(sides) do side.slices[#side.slices + 1] = slice(side, side.n) end
    until os.time() >= deadline
    for _, side in ipairs(sides) do close(side) end
  end
  for _, side in ipairs(sides) do
    local strangers = {}
    for i, s in ipairs(side.slices) do strangers[i] = s.strangers end
    side.limit = #strangers > 0 and median(strangers) or math.huge
  end
  return sides
end

-- The quartiles of this side's `field` against the yardstick's, turn by turn.
local function quartiles(side, yard, field)
  local list = {}
  for turn, s in ipairs(side.slices) do
    local y = yard.slices[turn]
    if s[field] and (s.strangers or 0) <= side.limit and (y.strangers or 0) <= yard.limit then
      list[#list + 1] = s[field] / y[field]
    end
  end
  return quantile(list, 0.5), quantile(list, 0.25), quantile(list, 0.75), #list
end
local function middle(side, field)
  local list = {}
  for _, s in ipairs(side.slices) do list[#list + 1] = s[field] end
  return median(list)
end

return {group_new = group_new, group_cpu = group_cpu, take = take_slices, quartiles = quartiles,
  middle = middle}
