-- moonfork node: a pool that works for callers elsewhere, over a NATS server.

local cli = require "moonfork.cli"
local engine = require "moonfork.cli.engine"
local service = require "moonfork.cli.service"
local template = require "moonfork.cli.template"

local command = {
  name = "node",
  summary = "give the calls of a NATS subject to a pool",
  description = [[
Workers, forked from one template, call FUNCTION for callers elsewhere: those of `moonfork call` and
of nats.pool in programs. Any number of nodes may have one subject; a call goes to one that has
announced room. With --jobs the node also works at stored jobs (pool:post), which outlive their
caller.]],
  arguments = {template.argument},
  options = {
    engine.url,
    engine.subject,
    {long = "--jobs", value = "STREAM", help = "Also work at stored jobs; the stream is made where it is missing"},
    {long = "--keep", value = "S", kind = "seconds", default = "86400", needs = {"--jobs"},
     help = "With --jobs: seconds that the results of jobs are kept"},
    {short = "-n", long = "--workers", value = "N", kind = "count", default = "the processors",
     library = "max", help = "Worker processes"},
    template.options[1],
    template.options[2],
    template.image,
    {long = "--name", value = "NAME", help = "Name of the node, for people", default = "host and process"},
    {long = "--timeout", value = "S", kind = "seconds",
     help = "Seconds that one call may take; then its worker is killed and replaced"},
    {long = "--max-calls", value = "N", kind = "count", help = "Replace a worker after N calls"},
    {long = "--max-memory", value = "BYTES", kind = "bytes",
     help = "Replace a worker whose private memory is larger (K, M, G)"},
    {long = "--window", value = "N", kind = "count", default = "twice the workers, and 16",
     help = "Calls that the node may hold"},
    {long = "--grace", value = "S", kind = "seconds", default = "30",
     help = "Seconds that calls have to finish at the end"},
    {long = "--log", value = "FORMAT", kind = {"text", "json"}, default = "text",
     help = "Log events to standard output: text or json"},
    {long = "--status", value = "ADDRESS",
     help = "Answer HTTP there, for `moonfork top`: /status is JSON, /metrics is Prometheus text"},
    {long = "--pid", value = "FILE", kind = "file", help = "Write the process id of the node to FILE"},
    table.unpack(engine.access),
  },
  notes = {
    engine.note,
    {"Signals", [[
SIGTERM and SIGINT: callers are told, calls and jobs that are at work finish, then the node ends. A
second one ends it at once.

SIGHUP loads a new template, with --image the image that is there now; its workers take over. Where
it can't be loaded, the old ones go on.]]},
    {"systemd", "With Type=notify the node tells when it serves, and when it stops."},
  },
  examples = {
    {"moonfork node --engine local --subject thumbs -l thumbs thumbs:make", "with a server of its own"},
    {"moonfork node --engine local --subject thumbs --image thumbs.image thumbs:make",
     "with the template that `moonfork image -o thumbs.image -l thumbs` has made"},
    {"moonfork node --engine tls://nats.example:4222 --creds node.creds --subject mail \\\n"
      .. "  --jobs MAIL -n 8 -l mail mail:send", "a node for calls and stored jobs"},
  },
}

local GRACE = 30

local function make_template(options)
  return template.make(options)
end

--- What a status page shows of a node: its pool's numbers and its own.
local function status_source(pool, node, began)
  return {stats = function()
    local stats, own = pool:stats(), node:stats()
    stats.kind, stats.node = "node", own
    stats.uptime = require("moonfork.clone").time() - began
    return stats
  end}
end

-- Says why stored jobs are not worked at, where the server gives a reason for two looks, and when they are
-- again.
local function job_watcher(log)
  local was, told
  return function(own)
    local reason = own.engine == "up" and own.jobs_reason or nil
    if reason and reason == was and reason ~= told then
      log("error", "jobs stand still", {message = reason})
      told = reason
    elseif told and not reason and own.engine == "up" then
      log("info", "jobs go on", {})
      told = nil
    end
    was = reason
  end
end

-- Says when the engine is reached, and when it is lost.
local function watch_engine(fork, node, log, on_up)
  local was, is_told
  local look_at_jobs = job_watcher(log)
  local function look()
    local own = node:stats()
    look_at_jobs(own)
    if own.engine == was and was == "up" then return end
    if own.engine == "up" then
      log("info", "connected", {})
      if on_up then on_up() end
      on_up = nil
      is_told = false
    elseif not is_told and own.engine == "down" then -- after an attempt
      is_told = true
      log("error", "engine can't be reached", {message = own.engine_reason})
    end
    was = own.engine
  end
  return fork.timer(0.1, look, 0.25)
end

function command.main(options)
  engine.check(options, "node")
  local nats = engine.load()
  local fork = require "moonfork"
  local interrupt = require "moonfork.cli.interrupt"
  local serve_log = require "moonfork.serve_log"
  local began = require("moonfork.clone").time()
  serve_log.configure(options.log or "text")
  local log, notify = serve_log.write, service.notifier(fork)
  local ended, node, pool, server = false, nil, nil, nil
  local process = make_template(options)

  local function kill() ended = true end
  local function drain()
    if not node then
      process:kill "KILL"
      ended = true
      return
    end
    log("info", "stopping", {})
    notify "STOPPING=1"
    local grace = options.grace or GRACE
    local last = require("moonfork.clone").time() + grace
    node:drain(grace, function(err)
      if err then log("error", "not drained", {message = template.first_line(err)}) end
      local left = math.max(0, last - require("moonfork.clone").time())
      pool:drain(left, function() ended = true end)
    end)
  end
  interrupt.watch(drain, kill)
  cli.defer(function()
    if node then node:close() end
    if pool then pool:drain(0) end
    if server then server:close() end
  end)

  local loaded, err = template.wait_loaded(process)
  if interrupt.code then return interrupt.code end
  if not loaded then template.unusable(err) end
  local url, access
  url, access, server = engine.open(fork, options, log)
  if interrupt.code then return interrupt.code end
  pool = process:pool(options["function"], {
    max = options.workers, idle = options.workers or fork.ncpu(), call_timeout = options.timeout,
    max_calls = options.max_calls, max_memory = options.max_memory, grace = options.grace,
    on_error = function(failure) log("error", "worker died", {message = template.first_line(failure)}) end,
    on_worker = function(event, pid, reason) log("info", "worker " .. event, {pid = pid, reason = reason}) end,
  })
  access.jobs, access.keep, access.name, access.window = options.jobs, options.keep, options.name, options.window
  node, err = nats.node(pool, url, access)
  if not node then cli.fail(cli.UNUSABLE, "%s", template.first_line(err)) end
  local status
  if options.status then
    status, err = require("moonfork.status").start(status_source(pool, node, began), options.status)
    if not status then cli.fail_at({options.status}, cli.UNUSABLE, err) end
  end
  if options.pid then service.write_pid_file(options.pid) end
  local watch = watch_engine(fork, node, log, function()
    log("info", "ready", {subject = options.subject, engine = engine.shown(url), workers = pool:stats().max})
    notify "READY=1"
  end)
  assert(fork.signal("HUP", function()
    log("info", "reload", {})
    pool:reload(make_template(options), function(failure)
      if failure then
        log("error", "not reloaded", {message = template.first_line(failure)})
      else
        log("info", "reloaded", {})
      end
    end)
  end))
  while not ended do fork.step(10) end
  watch:close()
  if status then status:close() end
  log("info", "stopped", {})
  return interrupt.code or cli.OK
end

return command
