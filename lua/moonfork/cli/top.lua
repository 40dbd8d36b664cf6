-- moonfork top: a live view of a server, a pool or a node by its status address; or of the nodes and the
-- stored jobs of a NATS subject, or of all.

local cli = require "moonfork.cli"
local engine = require "moonfork.cli.engine"
local json = require "moonfork.json"
local units = require "moonfork.units"

local command = {
  name = "top",
  summary = "show what the workers of a server, a pool or nodes do",
  description = [[
Shows the workers of a server, a pool or a node by its status address (`moonfork serve --status
ADDRESS`, the same of `moonfork map` and `moonfork node`, or
`require("moonfork.status").start(pool, ADDRESS)` in a program): process id, state, requests or calls,
durations, private and shared memory, and the last deaths. On a terminal the view is renewed every
second until Ctrl-C; elsewhere it is printed once.

With --engine instead: the nodes of a NATS server with their room, by subject, and the stored jobs of each
subject: how many wait for a node or for their time, are being worked at, were delivered again, have
results, or are dead. With --subject only those of that subject, also if it has no node. Without it all
nodes that announce themselves; for that the user needs the right to subscribe to beats (subjects that
end in `.beat`).]],
  arguments = {{name = "ADDRESS", help = "The status address: host:port, /path, ./path or @name", optional = true}},
  options = {
    {short = "-d", long = "--delay", value = "S", kind = "seconds", default = "1",
     help = "Seconds between two looks"},
    {short = "-n", long = "--count", value = "N", kind = "count",
     help = "End after N looks", default = "1 without a terminal"},
    engine.url,
    engine.subject,
    table.unpack(engine.access),
  },
  examples = {
    {"moonfork top /run/app.status", "the server with that status socket"},
    {"moonfork top --engine nats://nats.example", "nodes and stored jobs of all subjects"},
    {"moonfork top --engine nats://nats.example --subject mail", "those of one"},
  },
}

local function bytes(n) return units.bytes(n, true) end

local function duration(s)
  if s == 0 then return "-" end
  if s < 0.001 then return ("%.0fus"):format(s * 1e6) end
  if s < 1 then return ("%.1fms"):format(s * 1e3) end
  if s < 120 then return ("%.1fs"):format(s) end
  if s < 7200 then return ("%.0fm"):format(s / 60) end
  return ("%.1fh"):format(s / 3600)
end

-- ---- what there is to see, by kind ----

local View = {}
View.__index = View

function View:put(format, ...)
  self.lines[#self.lines + 1] = cli.cut(cli.printable_line(format:format(...)), self.columns)
end

-- " (12/s)", where there was a look before this one.
function View:rate(key)
  if not self.before then return "" end
  return (" (%.0f/s)"):format((self.stats[key] - self.before[key]) / self.seconds)
end

function View:times(what, times)
  self:put("%s p50 %s, p90 %s, p99 %s, max %s", what, duration(times.p50), duration(times.p90),
    duration(times.p99), duration(times.max))
end

local views = {}

function views.server(view, stats)
  view:put("%s, up %s, %d of %d workers, %d busy, %d requests%s, %d errors", stats.state,
    duration(stats.uptime), stats.running, stats.workers, stats.busy, stats.requests,
    view:rate "requests", stats.errors)
  view:times("requests:", stats.latency)
  view:put("%d reloads, %d failed", stats.reloads, stats.failed_reloads)
  view:put("%7s %-9s %9s %7s %8s %8s %8s %8s %8s", "PID", "STATE", "REQUESTS", "ERRORS", "P50", "P99",
    "PRIVATE", "SHARED", "AGE")
  for _, worker in ipairs(stats.per_worker) do
    view:put("%7d %-9s %9d %7d %8s %8s %8s %8s %8s", worker.pid, worker.state, worker.requests,
      worker.errors, duration(worker.p50), duration(worker.p99), bytes(worker.private),
      bytes(worker.shared), duration(worker.age))
  end
  if #stats.deaths > 0 then view:put "last ends:" end
  for _, death in ipairs(stats.deaths) do
    view:put("  %s  %d  %s, %s", os.date("%H:%M:%S", death.time), death.pid, death.reason, death.status)
  end
end

function views.pool(view, stats)
  view:put("%s, %d of %d workers, %d idle, %d queued, %d running, %d calls%s, %d failed", stats.state,
    stats.workers, stats.max, stats.idle, stats.queued, stats.running, stats.calls, view:rate "calls",
    stats.failed)
  view:times("waiting:", stats.queue_time)
  view:times("running:", stats.run_time)
  view:put("%8s %-5s %9s %8s %8s %8s %8s", "PID", "STATE", "CALLS", "P50", "P99", "PRIVATE", "SHARED")
  for _, worker in ipairs(stats.per_worker) do
    view:put("%8d %-5s %9d %8s %8s %8s %8s", worker.pid, worker.running > 0 and "busy" or "idle",
      worker.calls, duration(worker.run_time.p50), duration(worker.run_time.p99), bytes(worker.memory),
      bytes(worker.shared))
  end
  if #stats.last > 0 then view:put "last deaths:" end
  for _, death in ipairs(stats.last) do
    view:put("  %s ago  %s  %s", duration(death.age), death.pid or "-", death.reason)
  end
end

function views.node(view, stats)
  local node = stats.node
  view:put("node %s, up %s, engine %s%s, holds %d of %d", node.name, duration(stats.uptime), node.engine,
    node.engine_reason and " (" .. node.engine_reason .. ")" or "", node.held, node.window)
  view:put("jobs: %d here, %d done, %d failed tries, %d redelivered, %d dead%s", node.jobs_held, node.jobs_done,
    node.jobs_failed, node.jobs_redelivered, node.jobs_dead, node.jobs_reason and "; " .. node.jobs_reason or "")
  views.pool(view, stats)
end

local function put_jobs(view, jobs)
  if not jobs then return end
  view:put("jobs of %s: %d wait, %d wait for their time, %d at work, %d redelivered, %d results, %d dead%s",
    jobs.stream, jobs.waiting, jobs.delayed, jobs.running, jobs.redelivered, jobs.results, jobs.dead,
    jobs.leftover > 0 and (", %d left over by the engine"):format(jobs.leftover) or "")
end

local NAME_LENGTH = 24

local function put_nodes(view, nodes)
  view:put("%s %7s %5s %5s %5s %9s %7s %s", cli.padded("NODE", NAME_LENGTH), "WORKERS", "HOLDS", "ROOM", "OF",
    "CALLS", "BEAT", "STATE")
  for _, node in ipairs(nodes) do
    view:put("%s %7d %5d %5d %5d %9d %7s %s", cli.padded(node.name, NAME_LENGTH), node.workers, node.held,
      node.room, node.window, node.calls, duration(node.beat),
      node.draining and "draining" or node.failed and "failed" or "-")
  end
end

local function count_workers(nodes)
  local workers = 0
  for _, node in ipairs(nodes) do workers = workers + node.workers end
  return workers
end

local function engine_state(stats)
  return stats.engine .. (stats.engine_reason and " (" .. stats.engine_reason .. ")" or "")
end

function views.engine(view, stats)
  view:put("%s, engine %s, %d nodes, %d workers", stats.subject, engine_state(stats), #stats.nodes, stats.workers)
  put_jobs(view, stats.jobs)
  put_nodes(view, stats.nodes)
end

function views.groups(view, stats)
  local nodes, workers = 0, 0
  for _, group in ipairs(stats.groups) do
    nodes, workers = nodes + #group.nodes, workers + count_workers(group.nodes)
  end
  view:put("engine %s, %d subjects, %d nodes, %d workers", engine_state(stats), #stats.groups, nodes, workers)
  for _, group in ipairs(stats.groups) do
    view:put ""
    view:put("%s, %d nodes, %d workers", group.subject, #group.nodes, count_workers(group.nodes))
    put_jobs(view, group.jobs)
    put_nodes(view, group.nodes)
  end
end

--- view(stats, before, seconds, columns): the lines of the view. before: the stats of the last look,
-- so many seconds ago, or nil.
function command.view(stats, before, seconds, columns)
  local view = setmetatable({stats = stats, before = before, seconds = seconds, columns = columns,
    lines = {}}, View)
  views[stats.kind](view, stats)
  return view.lines
end

local OF_ENGINE = {engine = true, groups = true}

local function look(fork, address)
  local socket, message = fork.socket.connect(address, 5)
  if not socket then return nil, ("can't connect to %s: %s"):format(address, message) end
  socket:settimeout(5)
  socket:limit(1 << 24)
  socket:write "GET /status HTTP/1.0\r\n\r\n"
  local text
  text, message = socket:read "a"
  socket:close()
  local body = text and text:match "^HTTP/1%.%d 200 .-\r\n\r\n(.*)$"
  if not body then return nil, ("%s gave no status (%s)"):format(address, message or "is it a status address?") end
  local stats = json.decode(body)
  if type(stats) ~= "table" or not views[stats.kind] or OF_ENGINE[stats.kind] then
    return nil, address .. " gave a status that can't be read"
  end
  return stats
end

local FIRST_BEAT = 2 -- seconds that a node has to be heard
local ALL_BEATS = 1 -- that all have, three times what is between two beats of one
local JOBS = 0.5 -- that the engine has to count jobs

local function by(key)
  return function(a, b) return a[key] < b[key] end
end

local function fail_engine(stats)
  return nil, ("the engine can't be reached: %s"):format(stats.engine_reason or stats.engine)
end

-- What is known of a subject. The first look waits until somebody was heard.
local function look_at_engine(fork, pool, options)
  local waited = 0
  while not pool.seen and waited < FIRST_BEAT and #pool.far:nodes() == 0 do
    fork.sleep(0.05)
    waited = waited + 0.05
  end
  pool.seen = true
  local stats = pool.far:stats()
  stats.kind, stats.subject, stats.nodes = "engine", options.subject, pool.far:nodes()
  table.sort(stats.nodes, by "name")
  if stats.engine ~= "up" then return fail_engine(stats) end
  stats.jobs = pool.far:jobs(JOBS)
  return stats
end

-- Of all groups at once; that of one that is late is what was told last.
local function count_jobs(fork, seen, groups)
  local left = 0
  for _, group in ipairs(groups) do
    left = left + 1
    seen.watch:jobs(group.subject, JOBS, function(err, jobs)
      left = left - 1
      if jobs or err.code ~= "TIMEOUT" then seen.jobs[group.subject] = jobs end
    end)
  end
  while left > 0 do fork.step(1) end
  for _, group in ipairs(groups) do group.jobs = seen.jobs[group.subject] end
end

-- What is known of all subjects. The first look waits until all had time to be heard.
local function look_at_all(fork, seen)
  local watch, waited = seen.watch, 0
  while not seen.before and waited < FIRST_BEAT and watch:stats().engine ~= "up" do
    fork.sleep(0.05)
    waited = waited + 0.05
  end
  local stats = watch:stats()
  if stats.engine ~= "up" then return fail_engine(stats) end
  if not seen.before then fork.sleep(ALL_BEATS) end
  seen.before = true
  stats = watch:stats()
  stats.kind, stats.groups = "groups", watch:groups()
  table.sort(stats.groups, by "subject")
  for _, group in ipairs(stats.groups) do table.sort(group.nodes, by "name") end
  count_jobs(fork, seen, stats.groups)
  return stats
end

-- What gives the stats, again and again.
local function source_of(fork, options)
  if not options.engine then
    if not options.address then
      cli.fail(cli.USAGE, "a status address, or --engine, expected; see moonfork top --help")
    end
    return function() return look(fork, options.address) end
  end
  if options.address then
    cli.fail(cli.USAGE, "a status address and --engine exclude each other; see moonfork top --help")
  end
  engine.check_store(options, "top")
  local nats = engine.load()
  local url, access = engine.open(fork, options)
  if not options.subject then
    local watch, failure = nats.watch(url, access)
    if not watch then cli.fail(cli.FAILED, "%s", failure.message) end
    cli.defer(function() watch:close() end)
    local seen = {watch = watch, jobs = {}}
    return function() return look_at_all(fork, seen) end
  end
  local far, err = nats.pool(url, access)
  if err then cli.fail(cli.FAILED, "%s", err.message) end
  cli.defer(function() far:close() end)
  local pool = {far = far}
  return function() return look_at_engine(fork, pool, options) end
end

function command.main(options)
  local fork = require "moonfork"
  local output = require "moonfork.cli.output"
  local terminal = require "moonfork.cli.terminal"
  local interrupt = require "moonfork.cli.interrupt"
  local is_live = terminal.is_terminal(1)
  local count = options.count or (is_live and math.huge or 1)
  local delay = options.delay or 1
  local function quit() cli.quit(interrupt.code) end -- from whatever it waits for
  interrupt.watch(quit, quit)
  local source = source_of(fork, options)
  local before
  for i = 1, count do
    local stats, message = source()
    if not stats then cli.fail_at({options.address}, cli.FAILED, message) end
    local lines = command.view(stats, before, delay, is_live and terminal.columns(1) or math.maxinteger)
    if is_live then output.write "\27[H\27[2J" end
    output.write(table.concat(lines, "\n") .. "\n")
    output.flush()
    before = stats
    if i < count then fork.sleep(delay) end
  end
  return cli.OK
end

return command
