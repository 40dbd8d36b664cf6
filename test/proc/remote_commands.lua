-- fork.remote behind the commands that it is for: a real sshd on 127.0.0.1 with keys of its own, sudo,
-- bwrap, unshare, setpriv, and runc, which starts the containers of Docker and containerd. What is not
-- installed, or not allowed here, is skipped with a notice.

local host = require "host"
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local REMOTE, TEMPLATE = os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE"

local function has(program)
  return os.execute(("command -v %s >/dev/null 2>&1"):format(program))
end

-- Whether the command succeeds, and what it says.
local function succeeds(command)
  local pipe = io.popen(("LD_PRELOAD= %s 2>&1 </dev/null"):format(command))
  local said = pipe:read "a"
  return pipe:close(), said
end

-- Whether the command works here at all; and what it says where it does not.
local function works(command)
  return succeeds(command .. " true")
end

-- Without a preloaded sanitizer: such tools stop over one. What they start has its own.
local function behind(words)
  local command = { "env", "LD_PRELOAD=" }
  for word in words:gmatch "%S+" do command[#command + 1] = word end
  command[#command + 1], command[#command + 2], command[#command + 3] = REMOTE, "agent", TEMPLATE
  return fork.remote { command = command, path = package.path, cpath = package.cpath }
end

-- All that a process is for, once.
local function exercise(t, p)
  p:eval [[
    function add(a, b) if a == "die" then os.exit(5) end return a + b end
    function back(s, x) s:write(x, ":", s:read "a") end
    function spin(s) s:write "x" while true do end end
  ]]
  local clone = p:fork():fork():send_arg "deep"
  local socket = t.got(clone:run "back")
  socket:write(("z"):rep(100000))
  socket:shutdown "w"
  t.eq(#socket:read "a", 100005)
  t.eq(t.status(clone).code, 0)
  local rpc = p:fork():rpc "add"
  t.eq(rpc(1, 2), 3)
  local _, err = rpc("die", 1)
  t.error(err, "CLONE_DIED")
  t.eq(err.exit.code, 5)
  rpc:close()
  local spinning = p:fork()
  socket = t.got(spinning:run "spin")
  t.eq(socket:read(1), "x")
  t.eq(spinning:kill "KILL", true)
  t.eq(t.status(spinning).signal, kit.SIGKILL)
  t.eq(select(2, p:fork():run "nothing").code, "REMOTE")
end

story.test("unshare: namespaces of its own, where its numbers are small", { root = true }, function(t)
  if not works "unshare --net --pid --fork" then t.skip "unshare does not work here" end
  local p = behind "unshare --net --pid --fork --mount-proc"
  exercise(t, p)
  local sleeper = p:fork()
  t.got(sleeper:run "spin")
  t.ok(sleeper:pid() < 1000, "the number over there")
  t.ok(t.got(sleeper:memory()).rss > 0)
  sleeper:kill "TERM"
  t.eq(t.status(sleeper).signal, kit.SIGTERM)
end)

story.test("setpriv and sudo: another user", { root = true }, function(t)
  exercise(t, behind "setpriv --reuid=65534 --regid=65534 --clear-groups")
  if not has "sudo" or not works "sudo -n -u nobody" then
    t.note "sudo is not installed, or asks for a password: skipped"
    return
  end
  local environment = ("env LUA_PATH=%s LUA_CPATH=%s"):format(package.path, package.cpath)
  exercise(t, behind("sudo -n -u nobody " .. environment))
end)

story.test("bwrap: a sandbox", function(t)
  if not has "bwrap" then t.skip "bwrap is not installed" end
  -- Some containers forget how to mount proc, or to make a network or any namespace.
  local said = {}
  for _, options in ipairs {
    "--proc /proc --unshare-pid --unshare-net", "--ro-bind /proc /proc --unshare-pid --unshare-net",
    "--ro-bind /proc /proc --unshare-pid", "--ro-bind /proc /proc",
  } do
    local words = "bwrap --ro-bind / / --dev /dev " .. options
    local ok, why = works(words)
    if ok then return exercise(t, behind(words)) end
    said[#said + 1] = why
  end
  t.skip("bwrap does not work here: " .. table.concat(said))
end)

-- A container whose files are those of this machine, read only. What runs in it first is `words`.
local function bundle(t, words)
  local folder, mounts = t:tmp() .. "/bundle", {}
  os.execute(("mkdir -p '%s/rootfs'"):format(folder))
  local function mount(path, kind, options)
    mounts[#mounts + 1] = ('{"destination":"%s","type":"%s","source":"%s","options":[%s]}'):format(path, kind,
      kind == "bind" and path or kind, options)
  end
  mount("/proc", "proc", "")
  mount("/dev", "tmpfs", '"nosuid","mode=755","size=1m"')
  local seen = {}
  local function share(path)
    if path and path:sub(1, 1) == "/" and not seen[path] and os.execute(("test -d '%s'"):format(path)) then
      seen[path] = true
      mount(path, "bind", '"rbind","ro"')
    end
  end
  for path in ("/usr /bin /sbin /lib /lib64 /etc"):gmatch "%S+" do share(path) end
  share(REMOTE:match "^(.*)/src/")
  for path in (package.path .. ";" .. package.cpath):gmatch "[^;]+" do
    if not path:find "^/usr/" then share(path:match "^(/[^?]*)/%?") end
  end
  local args = {}
  for word in words:gmatch "%S+" do args[#args + 1] = '"' .. word .. '"' end
  t:file("bundle/config.json", ([[{"ociVersion":"1.0.2","root":{"path":"rootfs"},"hostname":"story",
    "process":{"args":[%s],"cwd":"/","env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"user":{"uid":0,"gid":0},
      "noNewPrivileges":true},
    "mounts":[%s],"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},
      {"type":"mount"}]}}]]):format(table.concat(args, ","), table.concat(mounts, ",")))
  return folder
end

story.test("runc: a container of its own, and one that runs already, as docker exec", { root = true }, function(t)
  if not has "runc" then t.skip "runc is not installed" end
  local runc, name = ("runc --root %s/runc"):format(t:tmp()), ("story-%d"):format(kit.getpid())
  local agent = REMOTE .. " agent " .. TEMPLATE
  local ok, why = succeeds(("%s run --bundle %s %s"):format(runc, bundle(t, "/bin/true"), name))
  if not ok then t.skip("runc does not work here: " .. why) end
  local folder = bundle(t, agent)
  local command = { "env", "LD_PRELOAD=" }
  for word in ("%s run --bundle %s %s"):format(runc, folder, name):gmatch "%S+" do command[#command + 1] = word end
  local p = fork.remote { command = command, path = package.path, cpath = package.cpath }
  local rpc = p:fork():rpc "string:rep"
  t.eq(rpc("ab", 2), "abab")
  rpc:close()
  p:close()
  t.within(20, function() return not succeeds(("%s state %s"):format(runc, name)) end, "the container is gone")

  bundle(t, "/bin/sleep 600")
  t:defer(function() succeeds(("%s delete --force %s"):format(runc, name)) end)
  t.ok(os.execute(("LD_PRELOAD= %s run --detach --bundle %s %s >'%s/log' 2>&1 </dev/null"):format(runc, folder, name,
    t:tmp())))
  p = behind(("%s exec %s"):format(runc, name))
  exercise(t, p)
  local sleeper = p:fork()
  t.got(sleeper:run "spin")
  t.ok(sleeper:pid() < 1000, "the number over there")
  sleeper:kill "KILL"
  t.eq(t.status(sleeper).signal, kit.SIGKILL)
  p:close()
  t.within(20, function() -- what it was in the container is gone, too
    local _, list = succeeds(("%s ps --format json %s"):format(runc, name))
    return list:find "^%[%d+%]" -- the first process
  end)
end)

story.test("ssh: a real sshd on 127.0.0.1 with its own keys", { root = true, deadline = 60 }, function(t)
  local sshd = "/usr/sbin/sshd"
  if not has "ssh" or not has "ssh-keygen" or not os.execute("test -x " .. sshd) then
    t.skip "sshd is not installed"
  end
  local folder = t:tmp()
  os.execute(("mkdir -p /run/sshd; chmod 755 '%s'"):format(folder))
  for _, name in ipairs { "host", "user" } do
    assert(os.execute(("ssh-keygen -q -t ed25519 -N '' -f '%s/%s'"):format(folder, name)))
  end
  os.execute(("cp '%s/user.pub' '%s/authorized'"):format(folder, folder))
  local config = t:file("sshd_config", ([[
    HostKey DIR/host
    AuthorizedKeysFile DIR/authorized
    StrictModes no
    UsePAM no
    PasswordAuthentication no
    PermitRootLogin prohibit-password
  ]]):gsub("DIR", folder))
  -- `sshd -i` serves one connection on its standard input and output: no port is needed.
  local ssh = ("ssh -F none -T -i %s/user -o IdentitiesOnly=yes -o BatchMode=yes"
    .. " -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"):format(folder)
  local proxy = t:file("proxy", ("#!/bin/sh\nexec %s -i -e -f '%s' 2>>'%s/log'\n"):format(sshd, config, folder))
  os.execute("chmod 755 " .. proxy)
  local words = ("%s -o ProxyCommand=%s 127.0.0.1"):format(ssh, proxy)
  if not works(words) then t.skip("sshd does not work here: " .. (t.read(folder .. "/log") or "")) end
  exercise(t, behind(words))
  local _, err = behind(words:gsub("/user", "/host", 1)):run "f" -- the wrong key
  t.error(err, "TEMPLATE_START", "status 255")
  t.match(err.message, "denied")
end)

-- Lua's own path does not lead to what is installed under a prefix of one's own, here and there.
story.test("modules over there are looked for where `moonfork agent` looks for them", function(t)
  local program = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork"
  local folder, out, log = t:tmp(), t:file("out", ""), t:tmp() .. "/log"
  t:file("elsewhere.lua", "return {name = function() return 'there' end, twice = function(x) return 2 * x end}")
  local agent = ("exec env -u LUA_PATH_5_4 LUA_PATH='%s/?.lua;%s' '%s' agent --program '%s'"):format(folder,
    package.path, program, TEMPLATE)
  local p = fork.remote {command = {"sh", "-c", agent}}
  local rpc = p:require "elsewhere":rpc "elsewhere:name"
  t.eq(rpc(), "there")
  rpc:close()
  p = fork.remote {command = {"sh", "-c", agent}, path = "/nowhere/?.lua"}
  t.error(select(2, p:require "elsewhere":run "f"), "REMOTE", "no file '/nowhere/elsewhere.lua'")
  local _, _, code = os.execute(("seq 3 | '%s' map --joblog '%s' --on \"%s\" -l elsewhere elsewhere:twice >'%s' 2>&1")
    :format(program, log, agent, out))
  t.eq(t.read(out), "2\n4\n6\n")
  t.eq(code, 0)
  t.match(t.read(log), "\n3\t")
end)

story.test("moonfork run --on: a connection that is lost is told", function(t)
  local program, out = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork", t:file "out"
  -- The agent is killed when the function runs.
  local script = t:file("command", ([[#!/bin/sh
    (for i in $(seq 1000); do grep -q x '%s' && break; sleep 0.02; done; kill -9 $$) >/dev/null 2>&1 </dev/null &
    exec '%s' agent '%s'
  ]]):format(out, REMOTE, TEMPLATE))
  local _, _, code = os.execute(("'%s' run --on 'sh %s # moonfork agent' -e '%s' f >'%s' 2>'%s.err'"):format(
    program, script, "function f(s) s:write \"x\\n\" while true do end end", out, out))
  t.eq(code, 1)
  t.match(t.read(out .. ".err"), "clone 1: how it ended is not known: the connection to its machine is lost")
end)

-- A terminal sends SIGINT to all in its foreground: to the near end, ssh and what it starts, too.
story.test("Ctrl-C: moonfork map --on finishes the lines that were begun, as without", function(t)
  local program = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork"
  local out, begun, group, code = t:file("out", ""), t:file("begun", ""), t:file("group", ""), t:file("code", "")
  local code_of_f = ([[function f(x)
    io.open("%s", "a"):write("x"):close()
    os.execute "sleep 0.3"
    return x
  end]]):format(begun)
  os.execute(("(seq 1000 | setsid sh -c 'echo $$ >\"$1\"; shift; exec \"$@\"' sh '%s' '%s' map -j 2 "
    .. "--on \"exec '%s' agent '%s' #\" -e '%s' f >'%s' 2>'%s.err'; echo $? >'%s') &"):format(group, program,
    REMOTE, TEMPLATE, code_of_f, out, out, code))
  t.outside(20, function() return #t.read(begun) >= 3 end, "the third line has begun")
  local leader = assert(math.tointeger(tonumber(t.read(group))))
  assert(leader > 1)
  os.execute("kill -INT -" .. leader)
  t.outside(20, function() return t.read(code) ~= "" end, "it ends")
  t.eq(t.read(code), "130\n")
  t.eq(t.read(out .. ".err"), "")
  local _, lines = t.read(out):gsub("\n", "")
  t.eq(lines, #t.read(begun))
end)

-- Until the agent has greeted there is no far process that a signal could be sent to: it was remembered
-- for one, and the command went on asking for its password.
story.test("a kill during a login ends the command", function(t)
  for _, signal in ipairs {"TERM", "KILL"} do
    local pid = t:file("pid", "")
    local p = fork.remote {command = {"sh", "-c", ("echo $$ >'%s'; exec sleep 100"):format(pid)}}
    local err
    p:run("f", function(e) err = e end)
    t.within(20, function() return t.read(pid):find "\n" end, "the command runs")
    t.eq(p:kill(0), true) -- asks only
    t.eq(p:kill(signal), true)
    t.within(20, function() return err end, "run is told")
    t.error(err, "CLONE_DIED", "it was ended here")
    t.eq(err.started, "no")
    t.eq(t.status(p).signal, kit["SIG" .. signal]) -- as one here that is killed before its birth
    t.within(20, function() return not t.alive(math.tointeger(tonumber(t.read(pid)))) end, "the command has ended")
    p:close()
  end
end)

-- Leads to no agent. Writes its six numbers; one of them is a daemon's, which is not the command's.
local function stray(pids)
  return {"sh", "-c", ([[
    setsid sh -c 'echo $$ >>"$1"; exec sleep 100' sh '%s' &
    sh -c 'echo $$ >>"$1"; trap "" TERM; sleep 100 & echo $! >>"$1"; wait; wait; sleep 100' sh '%s' &
    sleep 100 & echo $! >>'%s'
    (sleep 100 & echo $! >>'%s')
    echo $$ >>'%s'
    wait]]):format(pids, pids, pids, pids, pids)}
end

local function numbers(t, pids)
  local all = {}
  for pid in t.read(pids):gmatch "%d+%s" do all[#all + 1] = math.tointeger(tonumber(pid)) end
  return all
end

local function daemon_of(all)
  for _, pid in ipairs(all) do
    if kit.getsid(pid) ~= kit.getsid() then return pid end
  end
end

-- All but the daemon, and then that one.
local function ends_without_daemon(t, within, all, daemon, why)
  within(20, function()
    for _, pid in ipairs(all) do
      if pid ~= daemon and t.alive(pid) then return false end
    end
    return true
  end, "all have ended: " .. why)
  t.ok(t.alive(daemon), "but the daemon")
  kit.kill(daemon, kit.SIGKILL)
  t.outside(20, function() return not t.alive(daemon) end)
end

-- The shell alone got the signal, and what it had started stayed: it looks at no end of input. A daemon is
-- not the command's.
story.test("a command that has not greeted ends with all that it has started", function(t)
  local ways = {
    close = function(p) p:close() end,
    kill = function(p)
      p:run("f", function() end)
      p:kill "KILL"
    end,
    timeout = function(p, told)
      p:run("f", function() end)
      t.within(20, told, "the time is over")
    end,
  }
  for way, finish in pairs(ways) do
    local pids = t:file("pids", "")
    local ended = false
    local p = fork.remote {timeout = way == "timeout" and 2 or nil, command = stray(pids)}
    p:on_exit(function() ended = true end)
    t.within(20, function() return #numbers(t, pids) == 6 end, "the command runs")
    local all = numbers(t, pids)
    local daemon = daemon_of(all)
    finish(p, function() return ended end)
    ends_without_daemon(t, t.within, all, daemon, way)
    if way ~= "close" then p:close() end
  end
end)

-- The near end is their parent: as zombies they would stay for as long as a login takes.
story.test("what has lost its parent during a login is reaped", function(t)
  local pids = t:file("pids", "")
  local p = fork.remote {command = {"sh", "-c",
    ("for i in 1 2 3; do (sh -c 'echo $$ >>\"$1\"' sh '%s' &); done; exec sleep 100"):format(pids)}}
  p:run("f", function() end)
  t.within(20, function() return #numbers(t, pids) == 3 end, "they have run")
  t.within(20, function()
    local processes = kit.processes()
    for _, pid in ipairs(numbers(t, pids)) do
      if processes[pid] then return false end
    end
    return true
  end, "they are no zombies either")
  p:close()
end)

-- Nothing was signalled but the shell.
story.test("the same on a kernel without pidfds", function(t)
  for _, errno in ipairs {"ENOSYS", "EPERM"} do
    local pids, go = t:file("pids", ""), t:file("go", "")
    local h <close> = host.start(t, ([[
      local p = fork.remote {command = {"sh", "-c", %q}}
      p:run("f", function() end)
      while io.open(%q):read(1) == nil do fork.sleep(0.02) end
      p:kill "KILL"
      p:wait(20)
    ]]):format(stray(pids)[3], go), {before = {host.tool(t, "seccomp_run"), errno, "pidfd_open"}})
    t.outside(20, function() return h:poll() or #numbers(t, pids) == 6 end, "the command runs")
    local all = numbers(t, pids)
    local daemon = daemon_of(all)
    t:file("go", "x")
    local how, number = h:ends(30)
    if number == 77 then t.skip "no filter of system calls can be set here" end
    t.eq({how, number}, {"exit", 0}, h:out() .. h:err())
    t.eq(#all, 6)
    ends_without_daemon(t, t.outside, all, daemon, errno)
  end
end)

-- So it was when the command had led to an agent: the shell got the signal, and what it had started after the
-- agent's end stayed.
story.test("a command that has led to an agent ends with all that it has started", function(t)
  local pids, daemon = t:file("pids", ""), t:file("daemon", "")
  local p = fork.remote{path = package.path, cpath = package.cpath, command = {"sh", "-c", ([[
    '%s' agent '%s'
    setsid sh -c 'echo $$ >>"$1"; exec sleep 100' sh '%s' &
    sh -c 'echo $$ >>"$1"; trap "" TERM; sleep 100 & echo $! >>"$1"; wait; wait; sleep 100' sh '%s' &
    echo $$ >>'%s'
    sleep 100]]):format(REMOTE, TEMPLATE, daemon, pids, pids)}}
  t.got(p:eval "function f(s) s:write 'x' end":fork():run "f"):close()
  p:close()
  t.within(20, function() return #numbers(t, pids) == 3 and #numbers(t, daemon) == 1 end, "the shell goes on")
  ends_without_daemon(t, t.within, numbers(t, pids), numbers(t, daemon)[1], "after an agent")
end)

-- Where bwrap works here: its words, with a pid namespace of its own. Or nil.
local function sandbox()
  for _, proc in ipairs {"--proc /proc", "--ro-bind /proc /proc"} do
    local words = "bwrap --bind / / --dev /dev --unshare-pid " .. proc
    if has "bwrap" and works(words) then return words end
  end
end

-- The program ends, so the command is signalled while the agent still has its processes. They are other
-- processes' children when the agent has ended: of process 1, or of one of the command's that adopts them, and
-- then they were killed with the command, or with the sandbox whose process 1 it is.
story.test("a function that is to be kept outlives its program, its link and the command", function(t)
  local adopts = t:file("adopts.lua", [[
    local kit = require "testkit"
    kit.subreaper(true)
    os.execute(table.concat(arg, " "))
    kit.msleep(100000)
  ]])
  local agent, words = ("'%s' agent '%s'"):format(REMOTE, TEMPLATE), sandbox()
  local commands = {
    ["a shell"] = agent .. "; sleep 100 & echo $! >>'%s'; wait",
    ["one that adopts"] = ("trap '' TERM; exec '%s' '%s' \"%s\""):format(os.getenv "LUA", adopts, agent),
    ["a sandbox"] = words and ("exec env LD_PRELOAD= %s %s"):format(words, agent),
  }
  for name, command in pairs(commands) do
    local beats, pids, stop = t:file("beats", ""), t:file("pids", ""), t:file("stop", "")
    local script = t:file("program.lua", [[
      local fork = require "moonfork"
      local beats, pids, stop, command = ...
      local p = fork.remote{path = package.path, cpath = package.cpath, command = {"sh", "-c",
        "echo $$ $PPID >>'" .. pids .. "'; " .. command:gsub("%%s", pids)}}
      p:eval [=[
        function f(s, beats, stop)
          local kit = require "testkit"
          local file = io.open(beats, "w")
          file:setvbuf "no"
          for i = 1, 3000 do
            file:write "x"
            kit.msleep(20)
            local h <close> = io.open(stop)
            if h:read(1) then break end
          end
          file:write "."
        end
      ]=]
      assert(p:fork{leash = "keep"}:send_arg(beats, stop):run "f")
    ]])
    t.ok(os.execute(("'%s' '%s' '%s' '%s' '%s' \"%s\""):format(os.getenv "LUA", script, beats, pids, stop,
      command:gsub('[$"]', "\\%0"))), name)
    t.within(20, function()
      for _, pid in ipairs(numbers(t, pids)) do
        if t.alive(pid) then return false end
      end
      return #numbers(t, pids) >= 2
    end, name .. ": the command and the near end have ended")
    local n = #t.read(beats)
    t.outside(20, function() return #t.read(beats) > n + 2 end, name .. ": the clone has not")
    t:file("stop", "x")
    t.outside(20, function() return t.read(beats):find "%." end, "now it has")
  end
end)

-- The signal may come as soon as the command runs. The shell has made the program ignore SIGINT (it is
-- in the background), so one that came before its handler was lost, and the near end alone heard it.
story.test("Ctrl-C during a login: the command ends, and nothing is said of the link", function(t)
  local program = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork"
  local pid, group, code, err = t:file("pid", ""), t:file("group", ""), t:file("code", ""), t:file("err", "")
  os.execute(("(setsid sh -c 'echo $$ >\"$1\"; shift; exec \"$@\"' sh '%s' '%s' run "
    .. "--on \"echo \\$\\$ >'%s'; exec sleep 100 #\" string.upper 2>'%s'; echo $? >'%s') &")
    :format(group, program, pid, err, code))
  t.outside(20, function() return t.read(pid):find "\n" end, "the command runs")
  local leader = assert(math.tointeger(tonumber(t.read(group))))
  assert(leader > 1)
  t.outside(20, function() -- again where it came before there was a handler: sh has it ignored here
    if t.read(code) ~= "" then return true end
    os.execute("kill -INT -" .. leader .. " 2>/dev/null; sleep 0.1")
  end, "it ends")
  t.eq({t.read(code), t.read(err)}, {"130\n", ""})
  t.outside(20, function() return not t.alive(math.tointeger(tonumber(t.read(pid)))) end, "so does the command")
end)

-- The message named the command alone, which was there.
story.test("a near end that is missing is named", function(t)
  kit.setenv("MOONFORK_REMOTE", "/no/such/remote")
  local _, err = fork.remote{command = {"/bin/sh", "-c", "true"}}:run "print"
  kit.setenv("MOONFORK_REMOTE", REMOTE)
  t.error(err, "TEMPLATE_START",
    "^/no/such/remote, which starts the command '/bin/sh %-c true', can't be started: No such")
  t.eq(err.started, "no")
end)

story.done()
