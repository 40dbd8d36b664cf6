-- Faults of section B that only root can provoke: a limit of processes of a control group, a
-- machine without /proc, a root file system that can't be written. Runs in the parent; skipped
-- with a notice for ordinary users and where the facility is missing.
local crowd = require "crowd"
local host = require "host"
local kit = require "testkit"
local standing = require "standing"
local story = require "story"

local smoke = [[
  local fork, kit = require "moonfork", require "testkit"
  local template = fork.new_exec():require("actor"):eval("x = 41")
  local p = template:fork():send_arg("a"):eval(
    "function f(s, a) s:write(a, x + 1, s:read('l')) os.exit(5) end")
  local socket = assert(p:run("f"))
  socket:write("hello\n")
  assert(socket:read("a") == "a42hello")
  local status = assert(p:wait(5))
  assert(status.code == 5 or status.unknown, tostring(status.code))
  local victim = template:fork()
  local held = assert(victim:run("actor:hold"))
  assert(victim:kill("KILL"))
  status = assert(victim:wait(5))
  assert(status.signal == 9 or status.unknown, tostring(status.signal))
  held:close()
  local bad, err = template:fork():run("nope")
  assert(not bad and err.code == "REMOTE", tostring(err))
  assert(fork.new():run("type"))
  local ended
  template:on_exit(function(s) ended = s end)
  template:close()
  while not ended do fork.step(0.01) end
  assert(ended.code == 0 or ended.unknown)
  print("smoke passed")
]]

--- Runs the smoke job by a shell command, in which $SMOKE starts it.
local function run(t, shell)
  local out, err = t:file("smoke.out", ""), t:file("smoke.err", "")
  kit.setenv("SMOKE", ("timeout 20 '%s' '%s'"):format(os.getenv("LUA") or "lua5.4",
    t:file("smoke.lua", smoke)))
  local _, _, code = os.execute(("(%s) >'%s' 2>'%s' </dev/null"):format(shell, out, err))
  kit.setenv("SMOKE", nil)
  return code, t.read(out), t.read(err)
end

local function can(command)
  return os.execute(command .. " >/dev/null 2>&1 </dev/null") == true
end

local options = {root = true, stall = false, deadline = 40}

standing.test("root: without /proc it works all the same", options, function(t)
  if not can("unshare -m umount -l /proc") then t.skip("can't take /proc away here") end
  local code, out, err = run(t, [[unshare -m sh -c 'umount -l /proc && eval "$SMOKE"']])
  t.eq(code, 0, out .. err)
  t.eq(out, "smoke passed\n")
end)

standing.test("root: with a root file system that can't be written", options, function(t)
  if not can("unshare -m mount -o remount,ro,bind /") then
    t.skip("can't make the root file system read-only here")
  end
  -- What the job prints goes through descriptors that are open already.
  local code, out, err = run(t,
    [[unshare -m sh -c 'mount -o remount,ro,bind / && eval "$SMOKE"']])
  t.eq(code, 0, out .. err)
  t.eq(out, "smoke passed\n")
end)

local function cgroup(t, controller)
  local name = "moonfork-story-" .. kit.getpid()
  for _, base in ipairs{"/sys/fs/cgroup/" .. controller, "/sys/fs/cgroup"} do
    local usable = t.read(base .. "/cgroup.procs")
    local controllers = t.read(base .. "/cgroup.controllers")
    if usable and (not controllers or controllers:find(controller, 1, true)) then
      if controllers then
        local f = io.open(base .. "/cgroup.subtree_control", "w")
        if f then
          f:write("+" .. controller)
          f:close()
        end
      end
      local folder = base .. "/" .. name
      if kit.mkdir(folder) then
        return setmetatable({folder = folder, v2 = controllers ~= nil}, {__close = function()
          for _ = 1, 100 do
            if kit.rmdir(folder) then return end
            kit.msleep(20)
          end
        end})
      end
    end
  end
  t.skip("no control group of " .. controller .. " can be made here")
end

local function put(path, text)
  local f = io.open(path, "w")
  if not f then return false end
  f:setvbuf("no")
  local ok = f:write(text)
  f:close()
  return ok and true or false
end

standing.test("root: at the limit of a control group a fork fails, and recovers", options,
  function(t)
  local group <close> = cgroup(t, "pids")
  if not put(group.folder .. "/pids.max", "20") then t.skip("no pids.max") end
  local h <close> = host.start(t, [[
    local crowd = require "crowd"
    local f = assert(io.open((...) .. "/cgroup.procs", "w"))
    f:write(kit.getpid())
    f:close()
    local template = fork.new_exec():require("actor")
    pid_of(template)
    crowd.tell(template, crowd.ask(template))
  ]], {script = {group.folder}})
  crowd.check(t, h, 11, 19, 20)
  local events = t.read(group.folder .. "/pids.events") or "max 1"
  t.ok(tonumber(events:match("max (%d+)")) > 0, "the limit was hit")
end)

story.done()
