-- `moonfork node`, `call` and `top --engine`: with a real nats-server, and with one of the node's own.
local story = require "story"
local kit = story.kit
local program = require "program"
local nats = require "nats"
story.census = false

if not package.searchpath("moonfork.nats_core", package.cpath) then
  story.test("a node", function(t) t.skip "built without NATS" end)
  story.done()
end

local WORK = [[-e 'function f(...) if ... == "raise" then error "it is bad" end
  if ... == "list" then return 1, {2} end return "did", ... end' f]]

-- A node that serves; words: its engine.
local function node(t, words, options)
  local running = program.start(t, "node " .. words .. " -n 2 " .. WORK, options)
  t.outside(30, function() return running.out():find " ready " or running:ended() end)
  if not running.out():find " ready " then t.fail("it did not start:\n%s", running.err()) end
  return running
end

story.test("call prints what a node's function returns; top shows the node; TERM drains", function(t)
  local server = nats.start(t, {jetstream = true})
  local engine = ("--engine %s --subject a.b"):format(server.url)
  local status = t:file "status"
  local running = node(t, engine .. " --jobs JOBS --name first --status " .. status)
  t.eq({program.run("call " .. engine .. " x 'y z'")}, {"did\tx\ty z\n", "", 0})
  local out, err, code = program.run("call " .. engine .. " raise")
  t.eq({out, code}, {"", 1})
  t.match(err, "^moonfork call: .*it is bad\nstack traceback")
  out, err, code = program.run("top " .. engine)
  t.eq({err, code}, {"", 0})
  t.match(out, "^a%.b, engine up, 1 nodes, 2 workers\njobs of JOBS: 0 wait")
  t.match(out, "\nfirst +2 +0 +20 +20 +2 ")
  out, err, code = program.run("top " .. status)
  t.eq({err, code}, {"", 0})
  t.match(out, "^node first, up .*, engine up, holds 0 of 20\njobs: 0 here")
  out, err, code = program.run("top --engine " .. server.url)
  t.eq({err, code}, {"", 0})
  t.match(out, "^engine up, 1 subjects, 1 nodes, 2 workers\n\na%.b, 1 nodes, 2 workers\njobs of JOBS: 0 wait")
  t.match(out, "\nfirst +2 +0 +20 +20 +2 ")
  running:kill(kit.SIGHUP)
  t.outside(20, function() return running.out():find " reloaded" end)
  t.eq({program.run("call " .. engine .. " again")}, {"did\tagain\n", "", 0})
  out, err, code = program.run("call " .. engine .. " list")
  t.eq({out, code}, {"", 1})
  t.match(err, "^moonfork call: result 2 is a table, which a line of text can't show: ")
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  t.match(running.out(), " stopped\n$")
  out, err, code = program.run("call --timeout 0.3 " .. engine .. " x")
  t.eq({out, code}, {"", 1})
  t.match(err, "timed out")
end)

story.test("--image begins with a template from a file; HUP takes the one that is there then", function(t)
  local server = nats.start(t)
  local engine = ("--engine %s --subject s"):format(server.url)
  local image = t:file "image"
  local function save(answer)
    return program.run(("image -o '%s' -e 'function f() return %q end'"):format(image, answer))
  end
  local _, err, code = save "first"
  if code == 1 and err:find("can't be saved: ", 1, true) then t.skip(err) end
  t.eq({err, code}, {"", 0})
  local running = program.start(t, ("node %s -n 1 --image '%s' f"):format(engine, image))
  t.outside(30, function() return running.out():find " ready " or running:ended() end)
  t.eq({program.run("call " .. engine)}, {"first\n", "", 0})
  save "second"
  running:kill(kit.SIGHUP)
  t.outside(20, function() return running.out():find " reloaded" end)
  t.eq({program.run("call " .. engine)}, {"second\n", "", 0})
  os.remove(image)
  running:kill(kit.SIGHUP)
  t.outside(20, function() return running.err():find " not reloaded" end)
  t.eq({program.run("call " .. engine)}, {"second\n", "", 0})
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  local out
  out, err, code = program.run(("node %s --image '%s' f"):format(engine, image))
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork node: [^\n]*No such file[^\n]*\n$")
end)

story.test("passwords and tokens come from files; wrong usage is told", function(t)
  local server = nats.start(t, {user = "u", password = "p"})
  local engine = ("--engine %s --subject s --user u --password-file %s"):format(server.url, t:file("secret", "p\n"))
  local running = node(t, engine)
  t.eq({program.run("call " .. engine .. " x")}, {"did\tx\n", "", 0})
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  engine = ("--engine nats://u:p@%s --subject s"):format(server.url:match "//(.*)")
  running = node(t, engine)
  t.eq({program.run("call " .. engine .. " x")}, {"did\tx\n", "", 0})
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  t.match(running.out(), " ready engine=" .. server.url:gsub("%p", "%%%0"))
  t.ok(not running.out():find("u:p", 1, true), "the log tells a password")
  for words, message in pairs{
    ["call --engine http://u:p@h --subject s"] = "--engine: 'http://h' can't be used: it begins neither",
    ["node --engine nats://u:p@h:0,a --subject s print"] = "--engine: 'nats://h:0,a' can't be used: its port",
    ["top --engine http://h"] = "--engine: 'http://h'", ["doctor --engine http://h"] = "--engine: 'http://h'",
    ["call"] = "--engine is missing", ["call --subject s"] = "--subject needs --engine",
    ["node --engine local f"] = "--subject is missing",
    ["top"] = "a status address, or --engine", ["top a --engine local"] = "exclude each other",
    ["top a --subject s"] = "--subject needs --engine", ["top a --user u"] = "--user needs --engine", -- were ignored
    ["doctor --subject s"] = "--subject needs --engine", ["doctor --engine nats://h --store s"] = "of --engine local",
    ["node --engine local --subject s --keep 5 print"] = "--keep needs --jobs",
  } do
    local _, err, code = program.run(words)
    t.ok(err:find(message, 1, true), err)
    t.eq(code, 2, words)
  end
  for _, name in ipairs{"creds", "ca", "cert", "key", "password-file", "token-file"} do -- some were 1
    local _, err, code = program.run(("call --engine nats://127.0.0.1:1 --subject s --%s /no/such"):format(name))
    t.eq({err, code}, {"moonfork call: /no/such: No such file or directory\n", 126}, name)
    _, err, code = program.run(("call --engine nats://127.0.0.1:1 --subject s --%s /"):format(name))
    t.match(err, "^moonfork call: /: [^\n]*Is a directory")
    t.eq(code, 126, name)
  end
  local _, err, code = program.run("node --engine nats://127.0.0.1:1 --subject s nothing")
  t.match(err, "there is no global function 'nothing'")
  t.eq(code, 126)
end)

-- They went on for two seconds, and then said that the engine can't be reached.
story.test("top and doctor end at a signal while they wait for the engine", function(t)
  local fork = require "moonfork"
  for _, words in ipairs{"top", "top --subject s", "doctor"} do
    local listener = t.got(fork.socket.listen "127.0.0.1:0")
    local running = program.start(t, words .. " --engine nats://" .. listener:address())
    listener:settimeout(30)
    local client = t.got(listener:accept())
    running:kill(kit.SIGTERM)
    t.eq({running:wait(), running.out(), running.err()}, {143, "", ""})
    client:close()
    listener:close()
  end
end)

story.test("a local server starts with the node, comes back when it dies, and ends with it", function(t)
  nats.program(t)
  local words = ("--engine local --store %s --subject s"):format(t:file "store")
  local out, err, code = program.run("call " .. words .. " x")
  t.eq({out, code}, {"", 1})
  t.match(err, "no server was started in ")
  local running = node(t, words .. " --jobs J")
  t.eq({program.run("call " .. words .. " x")}, {"did\tx\n", "", 0})
  -- of the whole machine only the child of this node
  local function server()
    for pid, process in pairs(kit.processes()) do
      if process.ppid == running.pid and process.comm == "nats-server" and process.state ~= "Z" then return pid end
    end
  end
  local first = t.ok(server())
  kit.kill(first, kit.SIGKILL)
  t.outside(20, function() return server() and server() ~= first end)
  t.eq({program.run("call " .. words .. " again")}, {"did\tagain\n", "", 0})
  local last = server()
  running:kill(kit.SIGKILL)
  t.eq(running:wait(), 137)
  t.outside(10, function() return not t.alive(last) end)
  local mode = io.popen(("stat -c %%a '%s' '%s/engine'"):format(t:file "store", t:file "store"))
  t.eq(mode:read "a", "700\n600\n")
  mode:close()
end)

-- Two that started at once each started a server, and both wrote into the one store.
story.test("Ctrl-C ends a node that waits for a store that another server has", function(t)
  nats.program(t)
  local store = t:tmp() .. "/store"
  assert(os.execute(("mkdir -m 700 '%s' && touch '%s/lock'"):format(store, store)))
  local holder = io.popen(("echo $$; exec flock -F '%s/lock' sh -c 'echo held; exec sleep 100'"):format(store))
  local pid = holder:read "n"
  t:defer(function()
    kit.kill(pid, kit.SIGKILL)
    holder:close()
  end)
  t.eq(holder:read "l", "")
  t.eq(holder:read "l", "held")
  local running = program.start(t, ("node --engine local --store '%s' --subject s -n 1 string.upper"):format(store))
  t.outside(20, function()
    for _, name in ipairs(kit.ls(store)) do
      if name:find "^conf%-" then return true end
    end
  end, "it has tried to start a server")
  local began = kit.now()
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  t.ok(kit.now() - began < 10 * story.scale, "it did not wait for the store")
  t.eq(running.err(), "")
end)

story.test("nodes that start at once share one local server; a later one takes its place", function(t)
  nats.program(t)
  local json, fork = require "moonfork.json", require "moonfork"
  local store = t:file "store"
  local function start(i)
    return program.start(t, ("node --engine local --store %s --subject s%d -n 1 %s"):format(store, i, WORK))
  end
  local function is_ready(one) return one.out():find " ready " end
  local function call(i)
    return (program.run(("call --timeout 20 --engine local --store %s --subject s%d x"):format(store, i)))
  end
  local function engine() return json.decode(t.read(store .. "/engine")) end
  local nodes = {start(1), start(2), start(3)}
  for i, one in ipairs(nodes) do
    t.outside(30, function() return is_ready(one) or one:ended() end, "node " .. i)
    t.ok(is_ready(one), one.err() .. one.out())
  end
  local owner
  for _, process in pairs(kit.processes()) do
    for i, one in ipairs(nodes) do
      if process.ppid == one.pid and process.comm == "nats-server" then
        t.eq(owner, nil, "two servers")
        owner = i
      end
    end
  end
  for i = 1, 3 do t.eq(call(i), "did\tx\n") end
  local first = engine()
  nodes[owner]:kill(kit.SIGKILL)
  nodes[owner]:wait()
  nodes[owner] = start(owner)
  t.outside(30, function() return is_ready(nodes[owner]) end, "the node that is started again")
  t.eq(engine(), first, "port and token stay")
  for i = 1, 3 do t.eq(call(i), "did\tx\n") end
  for _, one in ipairs(nodes) do one:kill(kit.SIGTERM) end
  for _, one in ipairs(nodes) do t.eq(one:wait(), 143) end
  local listener = t.got(fork.socket.listen("127.0.0.1:" .. first.port)) -- somebody else has the port meanwhile
  local last = start(1)
  t.outside(30, function() return is_ready(last) or last:ended() end, "a node with another port")
  t.ok(engine().port ~= first.port)
  t.eq(call(1), "did\tx\n")
  last:kill(kit.SIGTERM)
  t.eq(last:wait(), 143)
  listener:close()
end)

story.test("a node says why its jobs stand still, and where a store was given for nothing", function(t)
  local server = nats.start(t)
  local engine = ("--engine %s --subject s"):format(server.url)
  local running = node(t, engine .. " --jobs JOBS")
  t.outside(20, function() return running.err():find "jobs stand still" end)
  t.match(running.err(), 'error jobs stand still message="jobs of stream JOBS: .* %(start nats%-server with %-js%)"')
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  local out, err, code = program.run("node " .. engine .. " --store /nowhere string.upper")
  t.eq({out, code}, {"", 2})
  t.match(err, "^moonfork node: %-%-store is the folder of %-%-engine local")
  local english = {env = "LC_ALL=C"} -- what mkdir says
  out, err, code = program.run("node --engine local --subject s --store /proc/nowhere string.upper", english)
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork node: %-%-engine local: the folder of the server can't be written %(%-%-store%): "
    .. ".*/proc/nowhere.*: No such file or directory\n$")
  local store = t:file "store"
  t.ok(os.execute(("mkdir -p '%s/engine'"):format(store)))
  out, err, code = program.run(("node --engine local --subject s --store %s string.upper"):format(store), english)
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork node: %-%-engine local: the folder of the server can't be written %(%-%-store%): "
    .. ".*/engine.*: Is a directory\n$")
end)

story.test("a local server is started again, also when another node has taken its configuration away", function(t)
  nats.program(t)
  local store = t:file "store"
  local running = program.start(t, ("node --engine local --store %s --subject s -n 1 %s"):format(store, WORK))
  t.outside(30, function() return running.out():find " ready " end, "the node")
  local function server()
    for pid, process in pairs(kit.processes()) do
      if process.ppid == running.pid and process.comm == "nats-server" then return pid end
    end
  end
  local first = t.got(server())
  t.ok(os.execute(("rm '%s'/conf-*"):format(store)))
  kit.kill(first, kit.SIGKILL)
  t.outside(30, function()
    local now = server()
    return now and now ~= first
  end, "the server that takes its place")
  t.eq(program.run(("call --timeout 20 --engine local --store %s --subject s x"):format(store)), "did\tx\n")
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
end)

story.test("doctor looks at an engine, and at what its streams have kept", function(t)
  local fork, far_nats = require "moonfork", require "moonfork.nats"
  local server = nats.start(t, {jetstream = true})
  local engine = ("--engine %s --subject s"):format(server.url)
  local running = node(t, engine .. " --jobs JOBS")
  local far = far_nats.pool(server.url, {subject = "s", timeout = 20})
  local _, err = far:result(t.got(far:post({tries = 1}, "raise")))
  t.error(err, "REMOTE")
  t.got(far:post({delay = 1000}, "later"))
  t.within(20, function() return far:jobs().dead == 1 end)
  far:close()
  t.ok(fork.loop())
  local out, message, code = program.run("doctor --engine " .. server.url)
  t.eq({message, code}, {"", 0})
  t.match(out, "\n  engine +- +reached, 1 nodes of 1 subjects\n")
  t.match(out, "\n  note +stream JOBS_dead keeps 1 jobs whose tries are used up")
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  out, message, code = program.run("doctor --strict " .. engine)
  t.eq({message, code}, {"", 1})
  t.match(out, "\n  warning +1 jobs of s wait, and no node works at them; start one with %-%-jobs JOBS\n")
  server:kill()
  out, message, code = program.run("doctor --engine " .. server.url)
  t.eq({message, code}, {"", 1})
  t.match(out, "\n  error +the engine can't be reached: no server answers at nats://127.0.0.1")
end)

story.done()
