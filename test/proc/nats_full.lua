-- A store that is full: what post says, that nothing is lost that was accepted, that nodes live, and that
-- all goes on when there is room again. By a limit of the stream, a limit of the server, and a disk.
local story = require "story"
local kit = story.kit
local fork = require "moonfork"
local nats_server = require "nats"

if not nats_server.IS_BUILT then
  story.test("a full store", function(t) t.skip "built without NATS" end)
  story.done()
end

local nats = require "moonfork.nats"

local CODE = "function work(n, text) return n, #text end"
local BIG = 20000

local count = 0

-- A server, a pool, and a pool elsewhere; nodes come later.
local function world(t, options)
  count = count + 1
  local w = {server = nats_server.start(nil, options), subject = ("full.%d"):format(count), stream = "FULL"}
  w.pool = fork.new_exec():eval(CODE):pool("work", {max = 2})
  w.far = t.got(nats.pool(w.server.url, {subject = w.subject, timeout = 20 * story.scale}))
  function w.start_node() w.node = t.got(nats.node(w.pool, w.server.url, {subject = w.subject, jobs = w.stream})) end
  t:defer(function()
    w.far:close()
    if w.node then w.node:close() end
    w.pool:close()
    fork.loop()
    w.server:close()
  end)
  return w
end

-- Posts until one is refused: how many were accepted, and the error.
local function fill(w, o)
  o = o or {}
  for n = 1, 2000 do
    local id, err = w.far:post({id = "job " .. n, timeout = o.timeout}, n, ("x"):rep(BIG))
    if not id then return n - 1, err end
  end
  error "it is never full"
end

-- All of them have their results.
local function check_results(t, w, n)
  for i = 1, n do t.eq(table.pack(w.far:result("job " .. i, 30 * story.scale)), {i, BIG, n = 2}, "job " .. i) end
  local jobs
  t.within(20, function()
    jobs = t.got(w.far:jobs())
    return jobs.waiting + jobs.running + jobs.leftover == 0
  end)
  t.eq(jobs.results, n)
end

-- As an operator makes one: {"name": ..., "max_bytes": ...}, by a connection of our own.
local function ask_server(t, server, subject, json)
  local socket = t.got(fork.socket.connect("127.0.0.1:" .. server.port))
  socket:settimeout(10)
  assert(socket:read "l")
  socket:write("CONNECT {\"verbose\":false}\r\nSUB _INBOX.story 1\r\n",
    ("PUB %s _INBOX.story %d\r\n%s\r\n"):format(subject, #json, json))
  local size
  repeat
    local line = assert(socket:read "l")
    size = line:match "^MSG %S+ 1 (%d+)"
  until size
  local answer = socket:read(tonumber(size))
  socket:close()
  t.ok(not answer:find '"error"', answer)
end

local function is_full(t, err)
  t.error(err, "ENGINE", "the store is full")
  t.match(err.message, "raise the limit")
  t.eq(err.started, "no")
end

story.test("a stream with max_bytes refuses, and takes jobs again when nodes have worked", function(t)
  local w = world(t, {jetstream = true})
  ask_server(t, w.server, "$JS.API.STREAM.CREATE.FULL", ([[{"name":"FULL","subjects":["%s.job.*.*","%s.later.*.*"],
    "retention":"workqueue","storage":"file","num_replicas":1,"discard":"new","max_bytes":200000}]]):format(w.subject,
    w.subject))
  ask_server(t, w.server, "$JS.API.STREAM.CREATE.FULL_done", ([[{"name":"FULL_done","subjects":["%s.done.*"],
    "retention":"limits","storage":"file","num_replicas":1,"allow_direct":true}]]):format(w.subject))
  local n, err = fill(w)
  t.ok(n >= 5 and n < 10, n .. " were accepted")
  is_full(t, err)
  t.eq(t.got(w.far:post({id = "job 1"}, 1, "")), "job 1") -- what is there is still known
  w.start_node()
  check_results(t, w, n)
  t.eq(t.got(w.far:post({id = "job " .. n + 1}, n + 1, ("x"):rep(BIG))), "job " .. n + 1)
  check_results(t, w, n + 1)
  t.eq(w.node:stats().jobs_reason, nil)
end)

-- Results have no room either: the node holds them, and says why, until there is some.
story.test("a server without room for results: the node says so, and goes on when there is room", function(t)
  local folder = assert(kit.mkdtemp())
  local w = world(t, {lines = {("jetstream { store_dir: '%s', max_file_store: 1000000 }"):format(folder)}})
  w.start_node()
  t.eq(select("#", t.got(w.far:result(t.got(w.far:post({}, 0, "")))), 1), 2)
  t.ok(w.node:drain())
  w.node:close()
  local n, err = fill(w)
  is_full(t, err)
  w.start_node()
  t.within(20, function() return (w.node:stats().jobs_reason or ""):find "the store is full" end, "no reason is told")
  t.ok(w.node:stats().jobs_held > 0)
  t.eq(w.far:result("job 1", 0), nil) -- nothing is made up
  t.eq(t.got(w.far:cancel("job " .. n)), true) -- its place is enough
  t.error(select(2, w.far:result("job " .. n)), "CANCELLED")
  for i = 1, n - 1 do t.eq(t.got(w.far:result("job " .. i, 30 * story.scale)), i) end
  t.within(20, function() return not w.node:stats().jobs_reason end, "the reason stays")
  t.eq(t.got(w.far:call(7, "abc")), 7)
end)

local function mount(t)
  if kit.getuid() ~= 0 then t.skip "only root can mount a small file system" end
  local folder = assert(kit.mkdtemp())
  if not os.execute(("LD_PRELOAD= mount -t tmpfs -o size=10m tmpfs '%s' 2>/dev/null"):format(folder)) then
    t.skip "no file system can be mounted here"
  end
  return folder
end

story.test("a disk that is full: what was accepted has its result once there is room", {deadline = 120}, function(t)
  local folder = mount(t)
  t:defer(function() os.execute(("LD_PRELOAD= umount -l '%s'"):format(folder)) end)
  local w = world(t, {lines = {("jetstream { store_dir: '%s/store' }"):format(folder)}, ping_interval = 1,
    ping_max = 2}) -- so that a server that stands still is noticed
  w.start_node()
  t.got(w.far:result(t.got(w.far:post({}, 0, ""))))
  t.ok(w.node:drain())
  w.node:close()
  local filler = assert(io.open(folder .. "/filler", "wb"))
  filler:setvbuf "no"
  filler:write(("x"):rep(8500000))
  filler:close()
  local n, err = fill(w, {timeout = 1})
  t.ok(err.code == "ENGINE" or err.code == "TIMEOUT", err.code) -- nats-server 2.9 stands still
  t.note("%d were accepted, then: %s", n, err.message)
  os.remove(folder .. "/filler")
  w.server:restart()
  w.start_node()
  for i = 1, n do t.eq(t.got(w.far:result("job " .. i, 60 * story.scale)), i) end
  t.got(w.far:post({}, 0, ""))
end)

story.done()
