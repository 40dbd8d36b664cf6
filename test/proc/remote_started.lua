-- What is said of a function whose process is over there when the link is lost, or nobody waits any longer,
-- before anything was heard of that process: it may have run.

local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local AGENT = ("'%s' agent '%s'"):format(os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE")

local function over(script, window)
  local command = { "sh", "-c", script }
  return fork.remote { command = command, path = package.path, cpath = package.cpath, beat = 10, window = window }
end

local function near_end()
  for id, process in pairs(kit.processes()) do
    local is_one = process.comm == "moonfork-remote" and process.state ~= "Z"
    if process.ppid == kit.getpid() and is_one then return id end
  end
end

-- What the agent tells is held up, so that nobody here knows of the birth when the link is lost.
story.test("the function of a sent fork may have run before its birth is told", function(t)
  local ways = {
    ["without a socket"] = function(clone, done) clone:run("mark", done) end,
    ["with a handle"] = function(clone, done) clone:send_fd((fork.socket.pair())):run("mark", done) end,
    ["told later what to run"] = function(clone, done)
      fork.step(0)
      clone:run("mark", done)
    end,
  }
  for way, begin in pairs(ways) do
    local file = t:file("ran", "")
    local relay = t:file("relay", "")
    local p = over(("cat | %s | sh -c 'echo $$ >%s; exec cat'"):format(AGENT, relay)):eval(([[
      function mark() io.open(%q, "a"):write("x"):close() end
    ]]):format(file))
    t.got(p:fork():run("mark")):close() -- slots are known from here on
    t.within(10, function() return t.read(file) == "x" end)
    local near = near_end()
    local held_up = assert(math.tointeger(tonumber(t.read(relay))))
    kit.kill(held_up, kit.SIGSTOP)
    local failed, unsent
    begin(p:fork(), function(err) failed = err end)
    t.within(10, function() return t.read(file) == "xx" end, way .. ": it runs")
    t.eq(failed, nil)
    local late, closed
    begin(p:fork { timeout = 1 }, function(err) late = err end)
    t.within(10, function() return late end)
    t.eq({ way, late.code, late.started }, { way, "TIMEOUT", "unknown" })
    local clone, ran = p:fork(), #t.read(file)
    begin(clone, function(err) closed = err end)
    t.within(10, function() return #t.read(file) > ran end, way .. ": that runs, too")
    clone:close()
    t.within(10, function() return closed end)
    t.eq({ way, closed.code, closed.started }, { way, "CANCELLED", "unknown" })
    kit.kill(assert(near), kit.SIGKILL)
    t.within(10, function() return failed end, way .. ": it is told")
    t.error(failed, "TEMPLATE_DIED", "the connection is lost: ")
    t.eq({ way, failed.started }, { way, "unknown" })
    p:fork():run("mark", function(err) unsent = err end)
    t.within(10, function() return unsent end)
    t.eq({ unsent.code, unsent.started }, { "TEMPLATE_DIED", "no" })
    kit.kill(held_up, kit.SIGCONT)
    t.within(10, function() return not t.alive(held_up) end)
  end
end)

story.test("forks that are given up again and again, while the near end does not run, fit into its window", function(t)
  local name = ("long"):rep(25)
  local p = over("exec " .. AGENT, 4096):eval(("function %s() end"):format(name))
  t.got(p:fork():run(name)):close()
  local near, told = assert(near_end()), 0
  kit.kill(near, kit.SIGSTOP)
  for round = 1, 4 do
    for _ = 1, 14 do
      p:fork({ timeout = 0.05 }):run(name, function() told = told + 1 end)
    end
    t.within(10, function() return told == 14 * round end)
  end
  kit.kill(near, kit.SIGCONT)
  t.got(p:fork():run(name)):close()
end)

story.done()
