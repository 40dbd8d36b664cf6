-- fork.remote over a network that fails: TCP between two network namespaces which the file makes,
-- joined by a pair of virtual interfaces. Nothing of the machine's own network is touched. Needs root
-- and ip(8); the story of a lossy link needs nft(8) as well.
--
--   this process: near end -> relay in A ==10.77.0.1=========10.77.0.2== relay in B -> agent

local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local NEAR, FAR = "10.77.0.1", "10.77.0.2"
local preload = os.getenv "LD_PRELOAD" or ""
local lua = os.getenv "LUA" or "lua5.4"
local port = 4000

-- One end of the connection. Tools take no sanitizer (LD_PRELOAD), Lua does.
local RELAY = [[
local fork, kit = require "moonfork", require "testkit"
local function pump(from, to)
  for data in function() return kit.read(from, 65536) end do
    if data == "" then return end
    repeat
      local n = kit.write(to, data)
      if not n then return end
      data = data:sub(n + 1)
    until data == ""
  end
end
if arg[1] == "connect" then
  local socket = assert(fork.socket.connect(arg[2]))
  local fd = socket:fileno()
  kit.nonblocking(fd, false)
  local pid = kit.fork()
  if pid == 0 then
    pump(0, fd)
    socket:shutdown "w"
    kit.exit(0)
  end
  pump(fd, 1)
  kit.kill(pid, 9)
  kit.waitpid(pid)
else
  local listener = assert(fork.socket.listen(arg[2]))
  io.write "ready\n"
  io.flush()
  local socket = assert(listener:accept())
  listener:close()
  kit.dup2(socket:fileno(), 0)
  kit.dup2(socket:fileno(), 1)
  socket:close()
  os.execute(("exec '%s' agent '%s'"):format(os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE"))
end
]]

local function run(line)
  return os.execute("LD_PRELOAD= " .. line .. " >/dev/null 2>&1 </dev/null")
end

local function inside(space, words)
  return ("nsenter -t %d -n %s"):format(space.pid, words)
end

-- A namespace lives as long as the process that it was made for.
local function namespace(t)
  local file = io.popen("LD_PRELOAD= exec unshare --net sh -c 'echo $$; exec sleep 1000' 2>/dev/null")
  local space = setmetatable({ file = file, pid = file:read "n" }, { __close = function(space)
    if space.pid then kit.kill(space.pid, 9) end
    space.file:close()
  end })
  if not space.pid then t.skip "unshare --net does not work here" end
  return space
end

-- Two namespaces with a link between them: t.skip where there can't be one.
local function network(t, use)
  if not run "ip -V" then t.skip "ip is not installed" end
  local a <close> = namespace(t)
  local b <close> = namespace(t)
  if not run(inside(a, ("ip link add near type veth peer name far netns %d"):format(b.pid))) then
    t.skip "no virtual interfaces in this kernel"
  end
  for space, words in pairs { [a] = { "near", NEAR }, [b] = { "far", FAR } } do
    assert(run(inside(space, ("ip addr add %s/30 dev %s"):format(words[2], words[1]))))
    assert(run(inside(space, ("ip link set %s up"):format(words[1]))))
  end
  use(a, b)
end

local function set_link(b, state)
  assert(run(inside(b, "ip link set far " .. state)))
end

-- A remote process in the namespace b, and what waits for the end of its agent.
local function over(t, a, b, options)
  local script = t:file("relay.lua", RELAY)
  local address = ("%s:%d"):format(FAR, port)
  port = port + 1
  local words = ("env LD_PRELOAD='%s' %s %s"):format(preload, lua, script)
  local quiet = "LD_PRELOAD= exec 2>/dev/null "
  local far = io.popen(quiet .. inside(b, ("%s listen %s"):format(words, address)))
  t.eq(far:read "l", "ready")
  options.command = { "sh", "-c", quiet .. inside(a, ("%s connect %s"):format(words, address)) }
  options.path, options.cpath = package.path, package.cpath
  local p = fork.remote(options):eval [[
    local kit = require "testkit"
    function echo(text, ms) kit.msleep(ms or 0) return text end
    function spin(s) s:write "x" while true do end end
    function add(a, b) return a + b end
  ]]
  return p, far
end

story.test("a link that is down for less than three beats recovers, and nothing is lost",
  { root = true, deadline = 60 }, function(t)
  network(t, function(a, b)
    local p, far = over(t, a, b, { beat = 2 })
    local rpc, answers = p:fork():rpc "echo", {}
    t.eq(rpc "before", "before")
    for i = 1, 20 do
      rpc:call(i .. (":"):rep(10000), 20, function(err, text)
        t.eq(err, nil)
        answers[#answers + 1] = tonumber(text:match "^%d+")
      end)
    end
    t.within(20, function() return #answers >= 2 end, "the first answers")
    set_link(b, "down")
    local down = kit.now()
    t.within(20, function() return kit.now() - down >= 1.5 end, "1.5 s")
    t.ok(#answers < 20, "the link was up")
    set_link(b, "up")
    t.within(30, function() return #answers == 20 end, "all answers")
    for i = 1, 20 do t.eq(answers[i], i) end
    t.eq(rpc "after", "after")
    t.eq(t.ask(p:fork(), "return 'a fork'"), "a fork")
    rpc:close()
    p:close()
    fork.loop()
    far:close()
  end)
end)

story.test("a link that is down for good: both ends give up after three beats, and say so",
  { root = true, deadline = 60 }, function(t)
  network(t, function(a, b)
    local p, far = over(t, a, b, { beat = 0.5 })
    local clone = p:fork()
    local socket = t.got(clone:run "spin")
    t.eq(socket:read(1), "x")
    local rpc, failed = p:fork():rpc "echo", nil
    t.eq(rpc "before", "before")
    set_link(b, "down")
    local down = kit.now()
    rpc:call("under way", function(err) failed = err end)
    t.within(20, function() return failed end, "the call's error")
    t.error(failed, "CLONE_DIED", "nothing was heard from the other end for %d")
    t.eq(failed.started, "unknown")
    local took = kit.now() - down
    t.ok(took > 1 and took < 15, ("it took %.1f s"):format(took)) -- 1.5 s and one beat, on an idle machine
    t.eq(socket:read "a", "")
    t.eq(t.status(clone).unknown, true)
    local _, err = p:fork():run "spin"
    t.error(err, "TEMPLATE_DIED", "nothing was heard")
    t.eq(err.started, "no")
    rpc:close()
    -- The relay over there ends with the agent, which takes the clone with it.
    t.eq(far:read "a", "")
    far:close()
  end)
end)

story.test("a link that loses three packets in ten: calls are slow, and all are answered",
  { root = true, deadline = 120 }, function(t)
  network(t, function(a, b)
    local rules = t:file("rules.nft", "table inet lossy { chain input { type filter hook input priority 0;"
      .. " numgen random mod 100 < 30 drop; }; }\n")
    local p, far = over(t, a, b, { beat = 20 })
    local rpc = p:fork():rpc "echo"
    t.eq(rpc "before", "before")
    if not run(inside(a, "nft -f " .. rules)) or not run(inside(b, "nft -f " .. rules)) then
      t.note "nft is not installed, or its numgen not in this kernel: without loss"
    end
    local text, answered = ("payload "):rep(50), 0
    for _ = 1, 6 do
      rpc:call(text, function(err, back)
        t.eq({ err, back }, { nil, text })
        answered = answered + 1
      end)
    end
    t.within(90, function() return answered == 6 end, "all answers")
    run(inside(a, "nft flush ruleset"))
    run(inside(b, "nft flush ruleset"))
    rpc:close()
    p:close()
    fork.loop()
    far:close()
  end)
end)

story.test("a link on which nobody says anything stays", function(t)
  local p = remote.over(nil, { beat = 0.5 }):eval "function add(a, b) return a + b end"
  local rpc = p:fork():rpc "add"
  t.eq(rpc(1, 2), 3)
  fork.sleep(2.6) -- five beats; three without one end it
  t.eq(rpc(3, 4), 7)
  rpc:close()
end)

story.done()
