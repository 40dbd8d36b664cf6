-- The option tree=true: what a function starts by io.popen, os.execute and clone.fork belongs
-- to its process. Signals, time limits and the leash reach all of it, and the end of the
-- process, however it comes, is the end of all of it; unless a program leaves its process
-- group on purpose (here: setsid).
local story = require "story"
local descendants = require "descendants"
local host = require "host"
local kit = story.kit
local fork = require "moonfork"

-- Orphans are nobody's descendants, so the census does not see them: each story looks for its
-- own by pid. These end what has left its group.
local strays = {}

local function parse(line)
  local pid, pids = descendants.parse(line)
  strays[#strays + 1] = pids.left
  local left = pids.left
  pids.left = nil
  return pid, pids, left
end

local function living(t, pids)
  for name, pid in pairs(pids) do t.ok(t.alive(pid), name .. " lives") end
end

local function gone(t, pids, what, wait)
  local function all()
    for _, pid in pairs(pids) do
      if t.alive(pid) then return false end
    end
    return true
  end
  (wait or t.outside)(10, all, "all are gone: " .. story.show(pids) .. (what or ""))
end

local function cull()
  for _, pid in ipairs(strays) do kit.kill(pid, kit.SIGKILL) end
  strays = {}
end

local function test(name, options, f)
  if not f then options, f = {}, options end
  story.test(name, options, function(t)
    local ok, err = pcall(f, t)
    cull()
    if not ok then error(err, 0) end
  end)
end

-- Runs descendants.main; gives the socket, the pids, and the one that has left.
local function run(t, p, name)
  if name then p:send_arg(name) end
  local s = t.got(p:run "descendants:main")
  local pid, pids, left = parse(t.got(s:read "l"))
  t.eq(pid, p:pid())
  return s, pids, left
end

local template = fork.new_exec():require "descendants"

-- ---- kill ----

for _, how in ipairs { "TERM", "KILL" } do
  test("kill " .. how .. " reaches all, who ignores it too, but not who has left", function(t)
    local p = template:fork { tree = true }
    local _ <close>, pids, left = run(t, p)
    living(t, pids)
    for _, pid in pairs(pids) do t.eq(kit.getpgid(pid), p:pid()) end
    t.ok(p:kill(how))
    t.eq(t.status(p).signal, kit["SIG" .. how])
    gone(t, pids)
    t.ok(t.alive(left), "who has left lives")
    t.eq((p:kill(how)), nil)
  end)
end

test("other signals reach all, once", function(t)
  local p = template:fork { tree = true }
  local _ <close>, pids = run(t, p, "plain")
  t.ok(p:kill "STOP")
  t.outside(10, function()
    local all = kit.processes()
    return all[p:pid()].state == "T" and all[pids.plain].state == "T"
  end, "both are stopped")
  t.ok(p:kill "CONT")
  t.outside(10, function()
    local all = kit.processes()
    return all[p:pid()].state ~= "T" and all[pids.plain].state ~= "T"
  end, "both are continued")
  p:kill()
  t.status(p)
  local counting = template:fork { tree = true }:eval [[
    function count(s)
      local kit = require "testkit"
      kit.disposition(10, "count")
      s:write "ready\n"
      s:read "l"
      s:write(kit.nsignals(), "\n")
    end
  ]]
  local c <close> = t.got(counting:run "count")
  t.eq(c:read "l", "ready")
  t.ok(counting:kill "USR1")
  kit.msleep(20)
  c:write "\n"
  t.eq(c:read "l", "1")
end)

test("without tree only the process itself", function(t)
  local p = template:fork()
  local _ <close>, pids = run(t, p, "plain")
  t.eq(kit.getpgid(p:pid()), kit.getpgid(kit.getpid()))
  p:kill()
  t.status(p)
  t.ok(t.alive(pids.plain))
  kit.kill(pids.plain, kit.SIGKILL)
end)

test("a process that has left its own group is reached all the same, and so is the group",
  function(t)
  local p = template:fork { tree = true }:eval [[
    function leave(s)
      local descendants = require "descendants"
      s:write(descendants.line { "stubborn" })
      s:write(tostring(require("testkit").setpgid(0, tonumber(s:read "l"))), "\n")
      s:read "a"
    end
  ]]
  local s <close> = t.got(p:run "leave")
  local pid, pids = parse(s:read "l")
  s:write(kit.getpgid(kit.getpid()), "\n")
  t.eq(s:read "l", "true")
  t.eq(kit.getpgid(pid), kit.getpgid(kit.getpid()))
  t.ok(p:kill())
  t.eq(t.status(p).signal, kit.SIGTERM)
  gone(t, pids)
end)

-- ---- the end of the process ----

local ends = {
  { "a stranger kills it", function(_, p) kit.kill(p:pid(), kit.SIGKILL) end },
  { "its function returns", function(s) s:write "return\n" end },
  { "its function raises", { stderr = "null" }, function(s) s:write "raise\n" end },
  { "os.exit", function(s) s:write "exit\n" end },
}
for _, case in ipairs(ends) do
  local options, finish = case[3] and case[2] or {}, case[3] or case[2]
  options.tree = true
  test("the end of the process is the end of all: " .. case[1], function(t)
    local p = template:fork(options)
    local s <close>, pids, left = run(t, p)
    finish(s, p)
    local status = t.status(p)
    t.ok(status.code or status.signal)
    gone(t, pids)
    t.ok(t.alive(left))
  end)
end

test("the same of one that was closed while it ran", function(t)
  local p = template:fork { tree = true }
  local s <close>, pids = run(t, p)
  local pid = p:pid()
  p:close()
  fork.step(0.01)
  living(t, pids)
  s:write "return\n"
  pids.process = pid
  gone(t, pids, "", t.within)
end)

test("clone.exec: the program takes the place of the process", function(t)
  local p = template:fork { tree = true }:eval [[
    function become(s)
      local descendants = require "descendants"
      s:write(descendants.line())
      require("moonfork.clone").exec("sleep", { "sleep", "600" })
    end
  ]]
  local s <close> = t.got(p:run "become")
  local _, pids = parse(s:read "l")
  t.outside(10, function() return kit.processes()[p:pid()].comm == "sleep" end)
  t.ok(p:kill())
  t.eq(t.status(p).signal, kit.SIGTERM)
  gone(t, pids)
end)

-- ---- time limits ----

test("timeout: a process whose preparation hangs in a program", function(t)
  local path, seconds, pids, _ = t:file "line", 0.25, nil, nil
  repeat -- until the time was enough to start them
    local p = template:fork { tree = true, timeout = seconds }:send_arg(path):eval [[
      local descendants = require "descendants"
      descendants.hang(require("moonfork.clone").run_args(), descendants.own)
    ]]
    local s, err = p:run "descendants:main"
    t.eq(s, nil)
    t.error(err, "TIMEOUT")
    seconds = seconds * 2
    local line = t.read(path)
    if line then _, pids = parse(line) end
  until pids
  gone(t, pids)
end)

test("rpc: a closing one that does not answer within its grace", function(t)
  local rpc = template:fork { tree = true }:rpc("descendants:call", { grace = 0.1 })
  local _, pids = parse(t.got(rpc:call "start"))
  local failed
  rpc:call("hang", function(err) failed = err end)
  rpc:close()
  t.within(10, function() return failed end)
  gone(t, pids)
end)

test("pool: call_timeout, for a pool's own option and for its template's", function(t)
  for _, where in ipairs { "pool", "template" } do
    local source = template:fork(where == "template" and { tree = true } or nil)
    local pool = source:pool("descendants:call", { max = 1, idle = 1, call_timeout = 0.5,
      tree = where == "pool" or nil })
    local line
    repeat line = pool:call "start" until line
    local _, pids = parse(line)
    local result, err = pool:call "hang"
    t.eq(result, nil)
    t.error(err, "TIMEOUT")
    gone(t, pids, where)
    pool:close()
  end
end)

test("pool: drain kills what is left, and all of it", function(t)
  local pool = template:fork():pool("descendants:call", { max = 1, idle = 1, tree = true })
  local _, pids = parse(t.got(pool:call "start"))
  pool:call("hang", function() end)
  local ok, err = pool:drain(0.1)
  t.eq(ok, nil)
  t.error(err, "TIMEOUT")
  gone(t, pids)
end)

test("pool: tree=false keeps the workers of a template with a tree out of it", function(t)
  local pool = template:fork { tree = true }:pool("descendants:line", { max = 1, tree = false })
  local pid, pids = parse(t.got(pool:call { "plain" }))
  kit.kill(pid, kit.SIGKILL)
  t.within(10, function() return pool:stats().deaths == 1 end)
  t.ok(t.alive(pids.plain))
  kit.kill(pids.plain, kit.SIGKILL)
  pool:close()
end)

-- ---- templates, and what is made from them ----

test("a template with a tree: clones have one each, and outlive it", function(t)
  local source = template:fork { tree = true }:eval "own = require('descendants').own()"
  local first <close> = t.got(source:fork():eval "function say(s) s:write(own) end":run "say")
  local pid, pids, left = parse(first:read "l")
  t.eq(source:pid(), pid)
  local one, other = source:fork(), source:fork()
  local _ <close>, pids1 = run(t, one)
  local _ <close>, pids2 = run(t, other)
  t.eq(kit.getpgid(one:pid()), one:pid())
  t.eq(kit.getpgid(other:pid()), other:pid())
  one:kill()
  t.status(one)
  gone(t, pids1)
  living(t, pids2)
  living(t, pids)
  source:close()
  gone(t, pids, " of the template", t.within)
  t.ok(t.alive(left))
  living(t, pids2)
  other:kill()
  t.status(other)
  gone(t, pids2)
end)

test("a template that ends right behind a fork takes no new clone along", function(t)
  for round = 1, 60 do
    local source = template:fork { tree = true }
    if round % 2 == 0 then source:eval "kept = io.popen('sleep 600')" end
    local p = source:fork()
    source:close()
    local s <close> = t.got(p:run "actor:hello")
    t.eq(math.tointeger(s:read "l"), p:pid())
    s:close()
    t.eq(t.status(p).code, 0, round)
  end
end)

test("spares of a template with a tree; and tree asked of a template with spares", function(t)
  for _, where in ipairs { "template", "fork", "both" } do
    local source = fork.new_exec { spares = { min = 1, max = 2 }, tree = where ~= "fork" or nil }
      :require "descendants"
    t.within(10, function() return fork.dump():find "2 spares" end, "there are spares")
    local p = source:fork(where ~= "template" and { tree = true } or nil)
    local _ <close>, pids = run(t, p)
    t.eq(kit.getpgid(p:pid()), p:pid())
    p:kill()
    t.status(p)
    gone(t, pids, " " .. where)
    source:close()
  end
end)

test("new, new_exec and template(), and a template that its pool starts again", function(t)
  local makers = {
    new = function(o) return fork.new(o) end,
    new_exec = function(o) return fork.new_exec(o) end,
    template = function(o) return fork.template(o) end,
    new_session = function(o)
      o.session = "new"
      return fork.new_exec(o)
    end,
    fork_session = function(o)
      o.session = "new"
      return template:fork(o)
    end,
  }
  for name, make in pairs(makers) do
    local p = make { tree = true }:require "descendants"
    local _ <close>, pids, left = run(t, p)
    t.eq(kit.getpgid(p:pid()), p:pid(), name)
    t.ok(p:kill())
    t.eq(t.status(p).signal, kit.SIGTERM, name)
    gone(t, pids, " " .. name)
    t.ok(t.alive(left))
  end
  local source = fork.new_exec { tree = true }:require "descendants"
  local pool = source:pool("descendants:line", { max = 1, idle = 1 })
  local pid, pids = parse(t.got(pool:call()))
  local again
  for pid_of_template in fork.dump():gmatch "pid (%d+)[^\n]*with all that it starts" do
    if math.tointeger(pid_of_template) ~= pid then again = math.tointeger(pid_of_template) end
  end
  kit.kill(t.ok(again), kit.SIGKILL)
  kit.kill(pid, kit.SIGKILL)
  gone(t, pids, "", t.within)
  local pid2, pids2 = parse(t.got(pool:with { idempotent = true }:call()))
  t.ok(pid2 ~= pid)
  pool:drain(5)
  gone(t, pids2)
end)

test("pool: a promoted worker's copy is a template with a tree of its own", function(t)
  local pool = template:fork():pool("descendants:line", { max = 1, idle = 1, tree = true })
  local worker, pids = parse(t.got(pool:call { "plain" }))
  t.got(pool:promote())
  kit.kill(worker, kit.SIGKILL)
  gone(t, pids, "", t.within)
  local another, pids2 = parse(t.got(pool:with { idempotent = true }:call { "plain" }))
  t.ok(another ~= worker)
  local leaders = 0
  for pid in fork.dump():gmatch "pid (%d+)[^\n]*with all that it starts" do
    pid = math.tointeger(pid)
    if t.alive(pid) then
      t.eq(kit.getpgid(pid), pid)
      leaders = leaders + 1
    end
  end
  t.ok(leaders >= 2, "the copy, and its clone")
  living(t, pids2)
  pool:drain(5)
  gone(t, pids2)
end)

test("session=new after a fork of a template with a tree", function(t)
  local source = template:fork { tree = true }
  local p = source:fork { session = "new" }
  local _ <close>, pids = run(t, p)
  t.eq(kit.getsid(p:pid()), p:pid())
  p:kill()
  t.status(p)
  gone(t, pids)
  source:close()
end)

test("handles=close leaves the leash in place", function(t)
  local h <close> = host.start(t, [[
    local p = fork.new_exec():require "descendants":fork { tree = true, handles = "close" }
    s = assert(p:run "descendants:main")
    print(s:read "l")
    fork.sleep(600)
  ]])
  local pid, pids = parse(h:says "(%d[^\n]+)\n")
  h:kill(9)
  pids.process = pid
  gone(t, pids)
end)

-- ---- from_fd ----

test("from_fd: kill and the end reach all; and the leash is the new owner's", function(t)
  local source = template:fork { tree = true }:eval "own = require('descendants').own()"
  local near, far = fork.socket.pair()
  local h <close> = host.start(t, [[
    local lines = fork.socket.wrap(0)
    local p = fork.from_fd((assert(lines:recv_fd())))
    local early = p:fork() -- before it is known what p is
    local s1 = assert(early:eval "function say(s) s:write(own) s:read 'a' end":run "say")
    print("template", s1:read "l")
    local q = p:fork()
    local s2 = assert(q:run "descendants:main")
    print("clone", s2:read "l")
    lines:read "l"
    assert(q:kill())
    assert(q:wait(10))
    print "killed"
    local r = p:fork()
    local s3 = assert(r:run "descendants:main")
    print("another", s3:read "l")
    fork.sleep(600)
  ]], { stdin = far:fileno() })
  far:close()
  t.ok(near:send_fd(t.got(source:to_fd())))
  local pid, pids = parse(h:says "template\t([^\n]+)\n")
  local _, pids1 = parse(h:says "clone\t([^\n]+)\n")
  living(t, pids1)
  near:write "go\n"
  h:says "killed"
  gone(t, pids1, " of the clone")
  local pid2, pids2 = parse(h:says "another\t([^\n]+)\n")
  living(t, pids)
  h:kill(9)
  t.within(10, function() return not t.alive(pid) and not t.alive(pid2) end)
  gone(t, pids2, " of the other clone")
  gone(t, pids, " of the template")
  near:close()
end)

-- ---- the leash ----

local HOST = [[
  local template = fork.new_exec():require "descendants"
  local p = template:fork { tree = true, leash = LEASH }
  if arg[1] then p:send_arg(arg[1]) end
  s = assert(p:run "descendants:main")
  print(s:read "l")
]]

for _, case in ipairs {
  { "is killed", function(h) h:kill(9) end },
  { "ends by itself", function() end, "os.exit(0)" },
  { "is killed and its function is stopped", function(h, pid)
    kit.kill(pid, kit.SIGSTOP)
    h:kill(9)
  end },
  { "is killed right behind its function", function(h, pid)
    kit.kill(pid, kit.SIGKILL)
    h:kill(9)
  end },
  { "is killed right before its function", function(h, pid)
    h:kill(9)
    kit.kill(pid, kit.SIGKILL)
  end },
  { "is stopped, its function killed, then it is killed", function(h, pid)
    h:kill(kit.SIGSTOP)
    kit.kill(pid, kit.SIGKILL)
    while kit.processes()[pid].state ~= "Z" do kit.msleep(1) end
    h:kill(9)
  end, only = "plain" }, -- a copy of the process would have the leash by itself
} do
  test("leash: the parent " .. case[1], function(t)
    local h <close> = host.start(t, HOST:gsub("LEASH", "nil")
      .. (case[3] or "fork.sleep(600)"), { script = { case.only } })
    local pid, pids, left = parse(h:says "(%d[^\n]+)\n")
    case[2](h, pid)
    pids.process = pid
    gone(t, pids)
    if not case.only then t.ok(t.alive(left)) end
  end)
end

test("leash=term: all get it, and who ignores it stays, as the function itself would",
  function(t)
  local h <close> = host.start(t, HOST:gsub("LEASH", "'term'") .. "fork.sleep(600)")
  local pid, pids = parse(h:says "(%d[^\n]+)\n")
  h:kill(9)
  local stubborn = pids.stubborn
  pids.stubborn, pids.process = nil, pid
  gone(t, pids)
  t.ok(t.alive(stubborn))
  kit.kill(stubborn, kit.SIGKILL)
end)

test("leash=keep: nobody is touched, and what was started before run neither", function(t)
  local h <close> = host.start(t, [[
    local p = fork.new_exec { tree = true, leash = "keep" }
      :eval "before = require('descendants').line { 'plain' }"
      :eval [=[
        function f(s)
          s:write(before, require("descendants").line { "plain" })
          s:read "a"
          while true do require("testkit").msleep(1000) end
        end
      ]=]
    s = assert(p:run "f")
    print(s:read "l")
    print(s:read "l")
    fork.sleep(600)
  ]])
  local pid, before = parse(h:says "(%d[^\n]+)\n")
  local _, pids = parse(h:says "\n(%d[^\n]+)\n")
  h:kill(9)
  h:ends()
  kit.msleep(200)
  living(t, { process = pid, before = before.plain, now = pids.plain })
  for _, each in ipairs { pid, before.plain, pids.plain } do kit.kill(each, kit.SIGKILL) end
end)

test("leash: what the code of an idle template has started", function(t)
  local h <close> = host.start(t, [[
    local p = fork.new_exec { tree = true }:eval "own = require('descendants').own()"
    local s = assert(p:fork():eval "function say(s) s:write(own) end":run "say")
    print(s:read "l")
    fork.sleep(600)
  ]])
  local pid, pids = parse(h:says "(%d[^\n]+)\n")
  h:kill(9)
  pids.process = pid
  gone(t, pids)
end)

-- ---- the descriptors ----

test("a clone with a tree holds one descriptor of the library's", function(t)
  local p = template:fork { tree = true }
  local fds = t.ask(p, [[
    local kit, count = require "testkit", 0
    local socket = ...
    for fd, target in pairs(kit.fds()) do
      if fd > 2 and fd ~= socket:fileno() and target:find "^pipe:" then count = count + 1 end
    end
    return count
  ]])
  t.eq(fds, 1)
end)

test("without a free descriptor it says so, and the template goes on", function(t)
  local source = template:fork():eval "function hello(s) s:write 'hello\\n' end"
  t.got(source:fork():run "hello"):close() -- its descriptors are what they will be
  local refused, entered = 0, 0
  for nofile = 4, 14 do
    local p = source:fork():limit { nofile = nofile }
    t.got(p:memory()) -- the limit is set before the fork and its descriptors come
    local q = p:fork { tree = true }
    local s, err = q:run "hello"
    if s then
      entered = entered + 1
      t.eq(s:read "l", "hello", nofile)
      s:close()
      t.eq(t.status(q).code, 0, nofile)
    else
      refused = refused + 1
      t.error(err, "LIMIT")
    end
    p:close()
  end
  t.ok(refused > 0 and entered > 0, refused .. " refused, " .. entered .. " entered")
end)

-- ---- misuse ----

test("misuse names the option", function(t)
  for _, make in ipairs { fork.new, fork.new_exec, fork.template } do
    t.raises("option 'tree': boolean expected, got number", make, { tree = 1 })
  end
  t.raises("option 'tree': boolean expected, got string", template.fork, template, { tree = "yes" })
  t.raises("option 'tree': boolean expected, got table", template.pool, template, "f",
    { tree = {} })
end)

story.done()
