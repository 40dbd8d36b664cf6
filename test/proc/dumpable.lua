-- The option dumpable=false: no process of the same user can look into a template, take its
-- command socket or answer in its place; what else the template does is the same. The user that
-- may do everything to everybody (root) is not kept out, so each story runs as somebody else.
local story = require "story"
local kit = story.kit

story.census = false -- this process makes no other process than the interpreters below

local HEAD = [[
  local fork, kit = require "moonfork", require "testkit"
  local CODE = [=[
    kit = require "testkit"
    -- What another process gives away: how many descriptors, and whether its memory can be read.
    function attack(pid)
      local taken, refused = 0, nil
      for fd = 0, 30 do
        local got, message = kit.steal(pid, fd)
        if got then taken = taken + 1 kit.close(got) else refused = message end
      end
      local memory = io.open("/proc/" .. pid .. "/mem", "rb")
      if memory then memory:close() end
      return taken, memory ~= nil, refused
    end
    function attacked(pid) return { attack(pid) } end
    function dumpable() return kit.dumpable() end
    function stay(socket) socket:write "here\n" socket:read "a" end
  ]=]
  local function calls(p, f) local rpc = p:rpc(f) return function(...)
    return assert(rpc:call(...))
  end end
]]

local function run(t, source, expected)
  local options = {}
  kit.chmod(t:tmp(), 493)
  if kit.getuid() == 0 then options.before = "setpriv --reuid=65534 --regid=65534 --clear-groups" end
  local out, code, err = t:lua(HEAD .. source, options)
  t.eq({ code, err }, { expected or 0, "" }, out)
  return out
end

story.test("without it a clone can take its template's descriptors", function(t)
  local out = run(t, [[
    local template = fork.new_exec():eval(CODE)
    template:memory()
    local got = calls(template:fork(), "attacked")(template:pid())
    print(got[1], got[2])
  ]])
  -- A system that lets nobody trace anybody else (Yama) has nothing for the option to prevent.
  if out == "0\tfalse\n" then t.skip "this system prevents it for all processes" end
  t.ok(tonumber(out:match "^%d+") > 3, out)
end)

story.test("with it neither its clones can, nor they each other's", function(t)
  t.eq(run(t, [[
    local template = fork.new_exec { dumpable = false }:eval(CODE)
    template:memory()
    local victim = template:fork()
    local socket = assert(victim:run "stay")
    socket:read "l"
    local call = calls(template:fork(), "attacked")
    for _, p in ipairs { template, victim } do
      local got = call(p:pid())
      print(got[1], got[2], got[3])
    end
    socket:close()
  ]]), ("0\tfalse\tOperation not permitted\n"):rep(2))
end)

story.test("it is inherited by forks, and by forks of forks; a fork may be told otherwise", function(t)
  t.eq(run(t, [[
    local template = fork.new_exec { dumpable = false }:eval(CODE)
    print(calls(template:fork(), "dumpable")())
    print(calls(template:fork():fork(), "dumpable")())
    print(calls(template:fork { dumpable = true }, "dumpable")())
    local other = fork.new_exec():eval(CODE)
    print(calls(other:fork(), "dumpable")())
    print(calls(other:fork { dumpable = false }, "dumpable")())
    print(calls(other:fork { dumpable = false }:fork(), "dumpable")())
    local spare = fork.new_exec { spares = { min = 1, max = 1 } }:eval(CODE)
    print(calls(spare:fork { dumpable = false }, "dumpable")())
  ]]), "0\n0\n1\n1\n0\n0\n0\n")
end)

story.test("the first new with it starts such a default template; template() can be one", function(t)
  t.eq(run(t, [[
    local first = fork.new { dumpable = false }:eval(CODE)
    print(calls(first, "dumpable")())
    print(calls(fork.new():eval(CODE), "dumpable")())
    fork.reset()
    print(calls(fork.new():eval(CODE), "dumpable")())
    print(calls(fork.template { dumpable = false }:eval(CODE), "dumpable")())
    print(kit.dumpable())
  ]]), "0\n0\n1\n0\n1\n")
end)

story.test("such a template does all that others do", function(t)
  t.eq(run(t, [[
    local clone = "require 'moonfork.clone'"
    local template = fork.new_exec { dumpable = false, handles = "close", session = "new",
      stdin = "null" }:require "string":eval(CODE):eval [=[
      function say(socket, fd, text) socket:write(text, " ", fd:read "l", "\n") os.exit(7) end
      function run(socket) require "moonfork.clone".exec("/bin/echo", { "echo", "executed" },
        { fds = { [1] = socket } }) end
    ]=]
    local a, b = fork.socket.pair()
    b:write "handle\n"
    local p = template:fork { cwd = "/", env = { X = "1" } }:send_fd(a):send_arg "text"
    print(assert(p:run "say"):read "l")
    print(p:wait().code)
    print(assert(template:fork():run "run"):read "l")
    local memory = assert(template:memory())
    print(memory.rss > 0)
    local q = template:fork()
    local socket = assert(q:run "stay")
    socket:read "l"
    print(q:kill "KILL", q:wait().signal)
    local pool = template:pool("dumpable", { max = 2 })
    print(pool:call(), pool:call())
    pool:close()
    fork.loop()
  ]]), "text handle\n7\nexecuted\ntrue\ntrue\t9\n0\t0\n")
end)

story.test("its clones end with the parent, as others do", function(t)
  local pids = run(t, [[
    local template = fork.new_exec { dumpable = false }:eval(CODE)
    local p = template:fork()
    assert(p:run "stay"):read "l"
    local busy = template:fork():eval "function spin(s) s:write 'x' while true do end end"
    assert(busy:run "spin"):read(1)
    print(template:pid(), p:pid(), busy:pid())
    io.stdout:flush()
    kit.kill(kit.getpid(), kit.SIGKILL)
  ]], 128 + kit.SIGKILL)
  local n = 0
  for pid in pids:gmatch "%d+" do
    n = n + 1
    t.outside(2, function() return not t.alive(tonumber(pid)) end, pid)
  end
  t.eq(n, 3, pids)
end)

story.test("misuse raises", function(t)
  local fork = require "moonfork"
  t.raises("option 'dumpable': boolean expected, got number", fork.new_exec, { dumpable = 1 })
end)

story.done()
