-- The option tree where the system or the host is not as usual: old kernels, sandboxes, hosts
-- that do not care for their children, programs between host and template, no /proc, and
-- numbers that are given again. Runs in the parent.
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"

-- Three ends: by kill, by a stranger, and by itself; then the default template's.
local SMOKE = [[
  local descendants = require "descendants"
  local function gone(pids, left)
    kit.kill(left, 9)
    pids.left = nil
    local last = kit.now() + 10
    for name, pid in pairs(pids) do
      while true do
        local p = kit.processes()[pid]
        if not p or p.state == "Z" then break end
        if kit.now() > last then error(name .. " lives") end
        fork.step(0.01)
        kit.msleep(2)
      end
    end
  end
  local function try(p, finish)
    local s = assert(p:run "descendants:main")
    local pid, pids = descendants.parse(assert(s:read "l"))
    finish(p, s, pid)
    p:wait(10)
    gone(pids, pids.left)
    s:close()
  end
  local function kill(p) assert(p:kill()) end
  local template = fork.new_exec():require "descendants"
  try(template:fork { tree = true }, kill)
  try(template:fork { tree = true }, function(_, _, pid) kit.kill(pid, 9) end)
  try(template:fork { tree = true }, function(_, s) s:write "return\n" end)
  try(fork.new_exec { tree = true }:require "descendants", kill)
  try(fork.new_exec { tree = true }:require "descendants":fork(), kill)
  print "smoke passed"
]]

local function smoke(t, options, before)
  local h <close> = host.start(t, (before or "") .. SMOKE, options)
  local how, number = h:ends(30)
  if number == 77 then t.skip("no filter of system calls can be set here") end
  t.eq({how, number}, {"exit", 0}, h:out() .. h:err())
  t.match(h:out(), "smoke passed")
  t.eq(h:err(), "", "and without a word on standard error")
end

for _, errno in ipairs{"ENOSYS", "EPERM"} do
  for _, calls in ipairs{"pidfd_send_signal", "pidfd_open,pidfd_send_signal", "prctl",
    "clone_parent", "memfd_create"} do
    standing.test(("a tree without %s (%s)"):format(calls, errno), {stall = false}, function(t)
      -- Clones that are no children of the host are reached by pidfds alone.
      smoke(t, {before = {host.tool(t, "seccomp_run"), errno, calls}})
    end)
  end
end

for _, how in ipairs{"ignore", "count"} do
  standing.test("a tree in a host that does not care for its children: SIGCHLD is " .. how,
    {stall = false}, function(t)
    smoke(t, nil, ("kit.disposition(kit.SIGCHLD, %q)\n"):format(how))
  end)
end

standing.test("a tree whose program is started through another one", {stall = false},
  function(t)
  local program = t:file("wrapper", '#!/bin/sh\n"$REAL_TEMPLATE" "$@"\nexit $?\n')
  kit.chmod(program, tonumber("755", 8))
  local h <close> = host.start(t, ([[
    kit.setenv("REAL_TEMPLATE", os.getenv "MOONFORK_TEMPLATE")
    local descendants = require "descendants"
    local p = fork.new_exec { tree = true, program = %q }:require "descendants"
    local s1 = assert(p:fork():run "descendants:main")
    print("clone", s1:read "l")
    local s = assert(p:run "descendants:main")
    print("wrapped", p:pid(), s:read "l")
    if not io.read "l" then return end
    assert(p:kill())
    fork.sleep(600)
  ]]):format(program))
  local _, pids1 = require("descendants").parse(h:says "clone\t([^\n]+)\n")
  local wrapper, line = h:says "wrapped\t(%d+)\t([^\n]+)\n"
  local pid, pids = require("descendants").parse(line)
  pids.wrapper, pids.process, pids1.process = math.tointeger(wrapper), pid, nil
  h:kill(9)
  for _, each in ipairs{pids, pids1} do
    kit.kill(each.left, 9)
    t.outside(10, function()
      for name, other in pairs(each) do
        if name ~= "left" and t.alive(other) then return false end
      end
      return true
    end, "all are gone: " .. story.show(each))
  end
end)

local root = {root = true, stall = false, deadline = 40}

local function can(command)
  return os.execute(command .. " >/dev/null 2>&1 </dev/null") == true
end

standing.test("root: without /proc there is no tree, and it is said why", root, function(t)
  if not can("unshare -m umount -l /proc") then t.skip("can't take /proc away here") end
  if story.is_sanitized then t.skip("a sanitizer's runtime reads /proc") end
  local h <close> = host.start(t, [[
    local template = fork.new_exec():eval [=[function f(s) s:write "hello\n" end]=]
    local s = assert(template:fork():run "f")
    assert(s:read "l" == "hello")
    for _, p in ipairs { template:fork { tree = true }, fork.new_exec { tree = true } } do
      local none, err = p:run "f"
      assert(not none)
      print(err.code, err)
    end
    s = assert(template:fork():run "f")
    assert(s:read "l" == "hello")
  ]], {before = {"unshare", "-m", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"}})
  h:succeeds()
  t.match(h:out(), "^UNSUPPORTED\t[^\n]*option tree: it needs /proc[^\n]*\n" ..
    "UNSUPPORTED\t[^\n]*option tree: it needs /proc[^\n]*\n$")
end)

for _, reaches in ipairs{"by pidfd", "by number"} do
  standing.test("root: no group that has the number of an ended one is signalled, " .. reaches,
    root, function(t)
    if not can("unshare -p -f --mount-proc true") then
      t.skip("no process namespace can be made here")
    end
    if not can("test -w /proc/sys/kernel/ns_last_pid") then t.skip("no ns_last_pid") end
    -- The shell is process 1, and reaps the orphans.
    local before = {"unshare", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c",
      '"$@"; exit $?', "sh"}
    if reaches == "by number" then
      table.move({host.tool(t, "seccomp_run"), "ENOSYS", "pidfd_send_signal"}, 1, 3,
        #before + 1, before)
    end
    local h <close> = host.start(t, [[
      local template = fork.new_exec():eval [=[
        function f(s)
          kept = io.popen "echo started; exec sleep 600"
          s:write(kept:read "l", "\n")
          s:read "a"
        end
      ]=]
      local function next_pid(pid)
        local file = assert(io.open("/proc/sys/kernel/ns_last_pid", "w"))
        file:write(pid - 1)
        file:close()
      end
      local reused = 0
      for round = 1, 12 do
        local p = template:fork { tree = true }
        local s = assert(p:run "f")
        assert(s:read "l" == "started")
        local pid = p:pid()
        if round % 3 == 0 then p:kill() else kit.kill(pid, 9) end
        assert(p:wait(10))
        local victim -- the leader of a group with that number
        local last = kit.now() + 2
        repeat
          next_pid(pid)
          victim = fkit.spawn({"setsid", "sleep", "600"}, {})
          if victim ~= pid then
            kit.kill(victim, 9)
            kit.waitpid(victim)
            victim = nil
            kit.msleep(2) -- what was left of the group is on its way
          end
        until victim or kit.now() > last
        if victim then
          while kit.getpgid(victim) ~= victim do kit.msleep(1) end
          reused = reused + 1
          assert(not p:kill("KILL"), "a kill of a process that has ended succeeded")
          assert(not p:kill("TERM"))
          p:close()
          p, s = nil, nil
          collectgarbage()
          for _ = 1, 20 do fork.step(0.001) end
          assert(kit.waitpid(victim, true) == 0, "the victim was signalled")
          kit.kill(victim, 9)
          kit.waitpid(victim)
        end
      end
      print("reused " .. reused)
    ]], {before = before})
    local number = h:says("reused (%d+)", 30)
    h:succeeds()
    t.ok(tonumber(number) >= 8, "numbers that were given again: " .. number)
  end)
end

story.done()
