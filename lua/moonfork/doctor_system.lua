-- What this system offers to moonfork, and what it means for a program: for moonfork.doctor. Asked by
-- trying (core.features), by limits, and of files of /proc and /sys where only these tell.

local core = require("moonfork.load").of(...)
local fork = require "moonfork"
local units = require "moonfork.units"

local system = {}

local function read(path)
  local file = io.open(path)
  local text = file and file:read "a"
  if file then file:close() end
  return text
end

local function word(path)
  local text = read(path)
  return text and text:match "%S+"
end

-- "always [madvise] never" -> "madvise"
local function chosen(path)
  local text = read(path)
  return text and text:match "%[(.-)%]"
end

local function count(n)
  return n == math.huge and "unlimited" or ("%.0f"):format(n)
end

-- ---- control groups ----

-- The folders of this process's group of a controller, its own first, then those above it: version 2,
-- or version 1.
local function group_folders(controller)
  local folders = {}
  for line in (read "/proc/self/cgroup" or ""):gmatch "[^\n]+" do
    local names, path = line:match "^%d+:([^:]*):(.*)$"
    local base = names == "" and "/sys/fs/cgroup" or
      ("," .. (names or "") .. ","):find("," .. controller .. ",", 1, true) and "/sys/fs/cgroup/" .. controller
    while base and path do
      folders[#folders + 1] = base .. path
      if path == "/" or path == "" then break end
      path = path:match "^(.*)/[^/]*$"
    end
  end
  return folders
end

-- The lowest limit, or nil.
local function group_limit(controller, files)
  local lowest
  for _, folder in ipairs(group_folders(controller)) do
    for _, name in ipairs(files) do
      local n = tonumber(word(folder .. "/" .. name) or "")
      if n and n < 1 << 60 and (not lowest or n < lowest) then lowest = n end
    end
  end
  return lowest
end

-- ---- NATS ----

local LIBNATS, NATS_SERVER = {3, 3}, {2, 9} -- the least: doc/nats-jobs.md, "Versions"

local function is_older(version, least)
  local major, minor = version:match "^(%d+)%.(%d+)"
  major, minor = tonumber(major or 0), tonumber(minor or 0)
  return major < least[1] or major == least[1] and minor < least[2]
end

-- The version of the program in PATH; nil: there is none, or it does not say.
local function server_version()
  local pipe <close> = io.popen "nats-server --version 2>/dev/null"
  return pipe and pipe:read("a"):match "v(%d+%.%d+[%w.-]*)"
end

local function look_at_nats()
  local found, part = pcall(function()
    require "moonfork.nats"
    return core.part "moonfork.nats_core"
  end)
  if not found then return "no", "calls and stored jobs over NATS need moonfork.nats, which is built with libnats" end
  local server = server_version()
  local state = ("libnats %s, %s"):format(part.libnats, server and "nats-server " .. server or "no nats-server")
  if is_older(part.libnats, LIBNATS) or server and is_older(server, NATS_SERVER) then
    return state, ("stored jobs need libnats %d.%d and nats-server %d.%d or newer"):format(LIBNATS[1], LIBNATS[2],
      NATS_SERVER[1], NATS_SERVER[2]), true
  end
  return state, server and "calls and stored jobs over NATS; --engine local starts that server"
    or "calls and stored jobs over NATS, by a server elsewhere: --engine local has none to start"
end

-- ---- the list ----

-- A row: name, what it is for, and look(features, limits, who): state, and what follows from it; missing
-- where the second is a loss.
local function try(feature, good, bad)
  return function(features)
    if features[feature] then return "yes", good end
    return "no", bad, true
  end
end

local rows = {
  {"pidfd", try("pidfd", "signals never reach a process number that was used again",
    "the program looks at its children every 50 ms, and needs libuv's SIGCHLD handler")},
  {"exit status by pidfd", try("pidfd_exit", "processes taken up by from_fd have their exit status, too",
    "the exit status of a process taken up by from_fd is unknown")},
  {"memfd", try("memfd", "a fork takes the same time whatever the size of the heap",
    "a fork takes longer the larger the template's heap is")},
  {"close_range", try("close_range", "descriptors are closed in one call",
    "descriptors are closed one by one: templates start more slowly")},
  {"PR_SET_PDEATHSIG", try("pdeathsig", "clones end with the program, however it ends",
    "the leash is a pipe: one more descriptor for each template, and it needs /proc")},
  {"epoll", try("epoll", "many sockets can be waited for at once",
    "waiting takes longer the more sockets there are")},
  {"/proc", try("proc", "memory figures, and an audit that sees threads and descriptors",
    "no memory figures, the audit sees no threads or descriptors, and the option tree is refused")},
  {"huge pages", function(features)
    local setting = chosen "/sys/kernel/mm/transparent_hugepage/enabled"
    if features.collapse then
      return "yes", "a clone of a large template needs few page faults"
    elseif setting and setting ~= "never" then
      return setting, "huge pages only where some are ready: clones of large templates may start more slowly", true
    end
    return "no", "a clone of a large template needs a page fault for every 4 KiB that it touches", true
  end},
  {"process 1", function(_, _, who)
    if who.pid ~= 1 then return "no", "clones can be children of the program itself" end
    return "yes", "clones are children of their template, and the program has to reap strangers' orphans", true
  end},
  {"SIGCHLD", function(_, _, who)
    if who.sigchld == "default" then return "default", "exit statuses are kept until they are asked for" end
    return who.sigchld, "whoever started this program ignores SIGCHLD: exit statuses may be unknown", true
  end},
  {"seccomp", function()
    local mode = (read "/proc/self/status" or ""):match "Seccomp:%s*(%d)"
    if mode == nil then return "unknown", "the system does not tell" end
    if mode == "0" then return "no", "no filter refuses system calls" end
    return "yes", "a filter may refuse system calls: what it takes away is missing above, or makes modules fail", true
  end},
  {"processors", function()
    local n = fork.ncpu()
    return ("%d"):format(n), ("a pool has %d worker%s, unless its option max says otherwise"):format(n,
      n == 1 and "" or "s")
  end},
  {"open files", function(_, limits)
    local soft, hard = table.unpack(limits.nofile or {math.huge, math.huge})
    local most = soft == math.huge and "any number of" or ("about %.0f"):format(math.max((soft - 20) // 2, 0))
    return count(soft), ("%s clones at a time, with two descriptors each in the program (hard limit %s; ulimit -n)")
      :format(most, count(hard)), soft < 1024
  end},
  {"processes", function(_, limits, who)
    local soft = (limits.nproc or {math.huge})[1]
    local group = group_limit("pids", {"pids.max"})
    local most = math.min(who.uid == 0 and math.huge or soft, group or math.huge)
    local whose = group and group == most and "of its control group (pids.max)"
      or who.uid == 0 and "for root" or "of this user (ulimit -u)"
    if most == math.huge then return "unlimited", "forks are not limited by number " .. whose end
    return count(most), ("forks fail with FORK_FAILED beyond so many processes and threads %s"):format(whose),
      most < 256
  end},
  {"address space", function(_, limits)
    local soft = (limits.as or {math.huge})[1]
    if soft == math.huge then return "unlimited", "a template reserves 64 GiB of addresses, which cost nothing" end
    return units.bytes(soft),
      "it limits a template's heap (ulimit -v); process:limit{as=} counts usable memory instead", true
  end},
  {"locked memory", function(_, limits)
    local soft = (limits.memlock or {math.huge})[1]
    return soft == math.huge and "unlimited" or units.bytes(soft),
      "what a process may lock (ulimit -l); moonfork locks nothing"
  end},
  {"memory", function()
    local group = group_limit("memory", {"memory.max", "memory.limit_in_bytes"})
    if not group then return "unlimited", "no control group limits it" end
    return units.bytes(group), "the kernel kills a process of the control group beyond it: give pools max_memory"
  end},
  {"overcommit", function()
    local mode = word "/proc/sys/vm/overcommit_memory"
    if not mode then return "unknown", "the system does not tell" end
    if mode ~= "2" then return mode, "a fork needs no memory for what clones only share" end
    return mode, "each fork counts as a copy of the template (vm.overcommit_memory): large ones fail with FORK_FAILED",
      true
  end},
  {"NATS", look_at_nats},
}

--- look(): the rows, each {name=, state=, text=, missing=}: missing where something is lost.
function system.look()
  local features, limits, who = core.features(), core.rlimits(), core.identity()
  local list = {}
  for i, row in ipairs(rows) do
    local state, text, missing = row[2](features, limits, who)
    list[i] = {name = row[1], state = state, text = text, missing = missing or false}
  end
  return list, who.system
end

return system
