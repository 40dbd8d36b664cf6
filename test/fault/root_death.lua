-- Faults of section C that only root can provoke: a pid that is given again, a host that is
-- process 1, a control group out of memory. Runs in the parent; skipped with a notice for
-- ordinary users and where the facility is missing.
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"

local options = {root = true, stall = false, deadline = 40}

local function can(command)
  return os.execute(command .. " >/dev/null 2>&1 </dev/null") == true
end

local function need_namespace(t)
  if not can("unshare -p -f --mount-proc true") then
    t.skip("no process namespace can be made here")
  end
end

standing.test("PF-02 root: a kill through a stale handle never hits a reused pid", options,
  function(t)
  need_namespace(t)
  if not can("test -w /proc/sys/kernel/ns_last_pid") then t.skip("no ns_last_pid") end
  local h <close> = host.start(t, [[
    local template = fork.new_exec():require("actor")
    pid_of(template)
    local function next_pid(pid)
      local f = assert(io.open("/proc/sys/kernel/ns_last_pid", "w"))
      f:write(pid - 1)
      f:close()
    end
    local hits, reused = 0, 0
    for round = 1, 20 do
      local p = template:fork()
      local socket = assert(p:run("actor:hold"))
      local pid, told = p:pid(), false
      if round % 2 == 0 then p:on_exit(function() told = true end) end
      -- Killed from outside; the handle knows it at once, later, or not yet.
      kit.kill(pid, 9)
      if round % 4 < 2 then assert(p:wait(5)) end
      local victim
      local last = kit.now() + 2
      repeat
        next_pid(pid)
        victim = fkit.spawn({"sleep", "30"}, {})
        if victim == pid then break end
        kit.kill(victim, 9)
        kit.waitpid(victim)
        victim = nil
        if round % 4 >= 2 then break end -- not reaped before it was told: can't be reused
        kit.msleep(5)
      until kit.now() > last
      if victim then reused = reused + 1 end
      local ok, err = p:kill("KILL")
      if victim then
        assert(not ok and err, "a kill of a process that has ended succeeded")
        kit.msleep(20)
        if kit.waitpid(victim, true) ~= 0 then hits = hits + 1 end
        kit.kill(victim, 9)
        kit.waitpid(victim)
      end
      socket:close()
      assert(p:wait(5).signal == 9)
      assert(not p:kill("KILL"))
      if round % 2 == 0 then
        while not told do fork.step(0.01) end
      end
    end
    template:close()
    print("reused " .. reused .. " hits " .. hits)
  ]], {before = {"unshare", "-p", "-f", "--mount-proc", "--kill-child"}})
  local reused, hits = h:says("reused (%d+) hits (%d+)", 30)
  h:succeeds()
  t.ok(tonumber(reused) >= 8, "pids that were given again: " .. reused)
  t.eq(hits, "0", "victims that were signalled")
end)

-- Since Linux 6.14 a process namespace has a pid_max of its own; before, it is everybody's.
local function own_pid_max(t)
  local major, minor = t.read("/proc/sys/kernel/osrelease"):match("^(%d+)%.(%d+)")
  return tonumber(major) > 6 or tonumber(major) == 6 and tonumber(minor) >= 14
end

standing.test("root: pids wrap around, and handles keep to their processes", options,
  function(t)
  need_namespace(t)
  if not own_pid_max(t) then t.skip("pid_max is the whole system's before Linux 6.14") end
  local h <close> = host.start(t, [[
    local f = assert(io.open("/proc/sys/kernel/pid_max", "w"))
    f:write("500\n")
    f:close()
    local template = fork.new_exec():require("actor")
    local victims, stale, wraps, last = {}, {}, 0, 0
    for i = 1, 30 do victims[i] = fkit.spawn({"sleep", "60"}, {}) end
    for i = 1, math.tointeger(tonumber((...))) do
      local p = template:fork()
      local socket = assert(p:run("actor:hold"))
      local pid = p:pid()
      if pid < last then wraps = wraps + 1 end
      last = pid
      socket:close()
      assert(p:wait(5).code == 0)
      stale[#stale + 1] = p
      if i % 7 == 0 then -- new ones take what has become free
        local n = i // 7 % 30 + 1
        kit.kill(victims[n], 9)
        kit.waitpid(victims[n])
        victims[n] = fkit.spawn({"sleep", "60"}, {})
      end
      if #stale > 100 then
        for _, old in ipairs(stale) do assert(not old:kill("KILL")) end
        stale = {}
      end
    end
    local alive = 0
    for _, pid in ipairs(victims) do
      if kit.waitpid(pid, true) == 0 then alive = alive + 1 end
      kit.kill(pid, 9)
      kit.waitpid(pid)
    end
    template:close()
    print("wraps " .. wraps .. " alive " .. alive)
  ]], {before = {"unshare", "-p", "-f", "--mount-proc", "--kill-child"},
    script = {tostring(host.rounds(1500, 40000))}})
  local wraps, alive = h:says("wraps (%d+) alive (%d+)", 35)
  h:succeeds()
  t.ok(tonumber(wraps) > 0, "pids have not wrapped")
  t.eq(alive, "30", "bystanders")
end)

standing.test("root: a host that is process 1 collects no zombies", options, function(t)
  need_namespace(t)
  local h <close> = host.start(t, [[
    assert(kit.getpid() == 1, "we are process 1")
    local function zombies()
      local n = 0
      for _, process in pairs(kit.processes()) do
        if process.state == "Z" then n = n + 1 end
      end
      return n
    end
    for round = 1, 5 do
      local template = fork.new_exec():require("actor")
      local held = {}
      for i = 1, 4 do
        local p = template:fork()
        held[i] = {assert(p:run("actor:echo")), p}
      end
      kit.kill(template:pid(), 9)
      assert(template:wait(5).signal == 9)
      for _, pair in ipairs(held) do
        pair[1]:write("alive\n")
        assert(pair[1]:read("l") == "alive")
        pair[1]:close()
      end
      for _, pair in ipairs(held) do assert(pair[2]:wait(5)) end
      local last = kit.now() + 2
      while zombies() > 0 and kit.now() < last do fork.step(0.02) kit.msleep(5) end
      print("round " .. round .. " zombies " .. zombies())
    end
    local p = fork.new():require("actor")
    local socket = assert(p:run("actor:echo"))
    socket:write("next\n")
    assert(socket:read("l") == "next")
    print("works")
  ]], {before = {"unshare", "-p", "-f", "--mount-proc", "--kill-child"}})
  h:says("works", 30)
  h:succeeds()
  local counts = {}
  for n in h:out():gmatch("zombies (%d+)") do counts[#counts + 1] = tonumber(n) end
  t.eq(#counts, 5)
  t.note("zombies after each round: %s", table.concat(counts, " "))
  t.eq(counts[5], 0, "orphans are reaped")
end)

local function memory_group(t)
  local base = "/sys/fs/cgroup/memory"
  local file = "memory.limit_in_bytes"
  if not t.read(base .. "/cgroup.procs") then
    base, file = "/sys/fs/cgroup", "memory.max"
    if not (t.read(base .. "/cgroup.controllers") or ""):find("memory", 1, true) then
      t.skip("no control group of memory here")
    end
    os.execute("echo +memory >" .. base .. "/cgroup.subtree_control 2>/dev/null")
  end
  local folder = base .. "/moonfork-story-" .. kit.getpid()
  if not kit.mkdir(folder) then t.skip("no control group of memory can be made here") end
  local group = setmetatable({folder = folder}, {__close = function()
    for _ = 1, 100 do
      if kit.rmdir(folder) then return end
      kit.msleep(20)
    end
  end})
  if not can(("sh -c 'echo %d >%s/%s'"):format(192 << 20, folder, file)) then
    group = nil
    kit.rmdir(folder)
    t.skip("the limit can't be set")
  end
  -- Where swap counts apart, there must be none, or nothing is ever out of memory.
  can(("sh -c 'echo 0 >%s/memory.swap.max'"):format(folder))
  can(("sh -c 'echo 0 >%s/memory.swappiness'"):format(folder))
  return group
end

standing.test("root: out of memory in a control group ends the clone that grows", options,
  function(t)
  local group <close> = memory_group(t)
  local h <close> = host.start(t, [[
    local f = assert(io.open((...) .. "/cgroup.procs", "w"))
    f:write(kit.getpid())
    f:close()
    local template = fork.new_exec():require("faultkit"):require("actor"):eval(
      "function grow(s) s:read('l') while true do require('faultkit').touch(4 << 20) end end")
    local sibling, p = template:fork(), template:fork()
    local held = assert(sibling:run("actor:echo"))
    local socket = assert(p:run("grow"))
    socket:write("go\n")
    local status = assert(p:wait(20))
    print("clone " .. tostring(status.signal))
    held:write("alive\n")
    print("sibling " .. tostring(held:read("l")))
    print("next " .. tostring(template:fork():run("type") ~= nil))
    print("template " .. tostring(template:pid()))
  ]], {script = {group.folder}})
  t.eq(h:says("clone (%S+)", 30), "9")
  t.eq(h:says("sibling (%S+)"), "alive")
  t.eq(h:says("next (%S+)"), "true")
  h:succeeds()
end)

standing.test("root: out of memory in the template is its death, not the host's", options,
  function(t)
  local group <close> = memory_group(t)
  local h <close> = host.start(t, [[
    local f = assert(io.open((...) .. "/cgroup.procs", "w"))
    f:write(kit.getpid())
    f:close()
    local template = fork.new_exec():require("faultkit"):eval(
      "while true do require('faultkit').touch(4 << 20) end")
    local status
    template:on_exit(function(s) status = s end)
    local socket, err = template:run("type")
    print("run " .. tostring(socket) .. " " .. tostring(err and err.code))
    while not status do fork.step(0.01) end
    print("status " .. tostring(status.signal))
    print("next " .. tostring(fork.new():run("type") ~= nil))
  ]], {script = {group.folder}})
  local run, code = h:says("run (%S+) (%S+)", 30)
  t.eq(run, "nil")
  t.ok(code == "CLONE_DIED" or code == "TEMPLATE_DIED", code)
  t.eq(h:says("status (%S+)"), "9")
  t.eq(h:says("next (%S+)"), "true")
  h:succeeds()
end)

story.done()
