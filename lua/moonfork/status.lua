-- The status page of a moonfork.server, a pool or a node: a few lines of HTTP/1.0 on a listener of its own.
-- /status is JSON, /metrics is the text format of Prometheus. Runs in the parent, between everything
-- else.

local fork = require "moonfork"
local core = require("moonfork.load").of(...)
local json = require "moonfork.json"

local status = {}

local CONNECTIONS_MAX = 16 -- at the same time; more wait
local REQUEST_MAX = 8192 -- bytes of a line
local LINES_MAX = 100
local SECONDS_MAX = 5 -- for a request and its answer

-- ---- Prometheus ----

local function label(text)
  return (tostring(text):gsub('[\\"\n]', {["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n"}))
end

local Text = {} -- what /metrics answers with, line by line
Text.__index = Text

-- rows: {labels or false, value}...
function Text:metric(name, kind, help, ...)
  local lines = self.lines
  lines[#lines + 1] = ("# HELP moonfork_%s %s\n# TYPE moonfork_%s %s"):format(name, help, name, kind)
  for _, row in ipairs{...} do
    lines[#lines + 1] = ("moonfork_%s%s %s"):format(name, row[1] or "", json.encode(row[2]))
  end
end

function Text:times(name, help, times)
  self:metric(name, "gauge", help, {'{quantile="0.5"}', times.p50}, {'{quantile="0.9"}', times.p90},
    {'{quantile="0.99"}', times.p99}, {'{quantile="1"}', times.max})
end

-- what: {name, key of a worker, help}...
function Text:workers(stats, what)
  for _, one in ipairs(what) do
    local rows = {}
    for i, worker in ipairs(stats.per_worker) do
      rows[i] = {('{pid="%d"}'):format(worker.pid), worker[one[2]]}
    end
    self:metric(one[1], "gauge", one[3], table.unpack(rows))
  end
end

local function server_metrics(text, stats)
  text:metric("uptime_seconds", "gauge", "Seconds since the server was started.", {false, stats.uptime})
  text:metric("workers", "gauge", "Workers that are wanted.", {false, stats.workers})
  text:metric("workers_running", "gauge", "Workers that exist.", {false, stats.running})
  text:metric("workers_busy", "gauge", "Workers that are at a request.", {false, stats.busy})
  text:metric("requests_total", "counter", "Requests that were served.", {false, stats.requests})
  text:metric("errors_total", "counter", "Requests whose function raised.", {false, stats.errors})
  text:metric("reloads_total", "counter", "Reloads that took over.", {false, stats.reloads})
  text:metric("failed_reloads_total", "counter", "Reloads that could not be loaded.",
    {false, stats.failed_reloads})
  local restarts = {}
  for reason, n in pairs(stats.restarts) do
    restarts[#restarts + 1] = {('{reason="%s"}'):format(label(reason)), n}
  end
  table.sort(restarts, function(a, b) return a[1] < b[1] end)
  text:metric("worker_ends_total", "counter", "Workers that ended, by reason.", table.unpack(restarts))
  text:times("request_seconds", "Durations of requests since the start.", stats.latency)
  text:workers(stats, {
    {"worker_private_bytes", "private", "Private memory of a worker."},
    {"worker_shared_bytes", "shared", "Memory that a worker shares with others."},
    {"worker_requests", "requests", "Requests that a worker has served."},
    {"worker_connections", "connections", "Connections that a worker has (with --http and --async)."},
    {"worker_request_p50_seconds", "p50", "Half of a worker's requests took no longer."},
    {"worker_request_p99_seconds", "p99", "99 % of a worker's requests took no longer."},
  })
end

local POOL_COUNTS = {
  {"calls", "Calls that were accepted."}, {"done", "Calls with a result."},
  {"failed", "Calls with an error."}, {"refused", "Calls that the full queue refused."},
  {"timeouts", "Calls that took too long."}, {"cancelled", "Calls that were cancelled."},
  {"retried", "Calls that ran again."}, {"started", "Workers that were started."},
  {"deaths", "Workers that died."}, {"recycled", "Workers that were replaced."},
  {"killed", "Workers that were killed."}, {"reloads", "Templates that took over."},
}

local function pool_metrics(text, stats)
  text:metric("pool_workers_max", "gauge", "Workers that the pool may have.", {false, stats.max})
  text:metric("pool_workers", "gauge", "Workers that exist.", {false, stats.workers})
  text:metric("pool_workers_idle", "gauge", "Workers without a call.", {false, stats.idle})
  text:metric("pool_queued", "gauge", "Calls that wait for a worker.", {false, stats.queued})
  text:metric("pool_running", "gauge", "Calls that workers are at.", {false, stats.running})
  for _, count in ipairs(POOL_COUNTS) do
    text:metric(("pool_%s_total"):format(count[1]), "counter", count[2], {false, stats[count[1]]})
  end
  text:times("pool_queue_seconds", "Waiting times of the latest calls.", stats.queue_time)
  text:times("pool_run_seconds", "Running times of the latest calls.", stats.run_time)
  text:workers(stats, {
    {"pool_worker_private_bytes", "memory", "Private memory of a worker."},
    {"pool_worker_shared_bytes", "shared", "Memory that a worker shares with others."},
    {"pool_worker_calls", "calls", "Calls that a worker has answered."},
  })
end

local NODE_COUNTS = {
  {"calls", "Calls that came from callers elsewhere."}, {"refused", "Calls that were sent back for want of room."},
  {"undelivered", "Answers that no connection took."}, {"connects", "Connections to the engine that were made."},
  {"jobs_done", "Tries of stored jobs with a result."}, {"jobs_failed", "Tries of stored jobs without one."},
  {"jobs_dead", "Stored jobs that were given up."}, {"jobs_redelivered", "Stored jobs that came again."},
}

local function node_metrics(text, stats)
  local node = stats.node
  text:metric("uptime_seconds", "gauge", "Seconds since the node was started.", {false, stats.uptime})
  text:metric("node_engine_up", "gauge", "1: the engine is reached.", {false, node.engine == "up" and 1 or 0})
  text:metric("node_window", "gauge", "Calls and jobs that the node may hold.", {false, node.window})
  text:metric("node_held", "gauge", "Calls and jobs that the node holds.", {false, node.held})
  for _, count in ipairs(NODE_COUNTS) do
    text:metric(("node_%s_total"):format(count[1]), "counter", count[2], {false, node[count[1]]})
  end
  pool_metrics(text, stats)
end

--- stats(source): of a server, a pool or a node, with `kind`, for JSON.
function status.stats(source)
  local stats = source:stats()
  stats.kind = stats.kind or "pool"
  for _, key in ipairs{"per_worker", "deaths", "last", "listen"} do
    if type(stats[key]) == "table" then json.list(stats[key]) end
  end
  return stats
end


local metrics_of = {server = server_metrics, pool = pool_metrics, node = node_metrics}

--- metrics(stats): the text.
function status.metrics(stats)
  local text = setmetatable({lines = {}}, Text)
  metrics_of[stats.kind](text, stats)
  return table.concat(text.lines, "\n") .. "\n"
end

-- ---- HTTP ----

local function answer(code, reason, kind, body)
  return ("HTTP/1.0 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n")
    :format(code, reason, kind, #body), body
end

local function respond(self, method, target)
  if method ~= "GET" and method ~= "HEAD" then
    return answer(405, "Method Not Allowed", "text/plain", "only GET and HEAD\n")
  end
  local path = target:match "^[^?]*"
  local head, body
  if path == "/status" then
    head, body = answer(200, "OK", "application/json", json.encode(status.stats(self.source)) .. "\n")
  elseif path == "/metrics" then
    head, body = answer(200, "OK", "text/plain; version=0.0.4", status.metrics(status.stats(self.source)))
  else
    head, body = answer(404, "Not Found", "text/plain", "there are /status and /metrics\n")
  end
  return head, method == "HEAD" and "" or body
end

local function finish(self, client)
  if client.closed then return end
  client.closed = true
  self.clients[client] = nil
  self.nclients = self.nclients - 1
  if client.timer then client.timer:close() end
  client.socket:close()
  self:attend()
end

-- Reads what is there; when the head is whole, answers.
local function step(self, client)
  if client.closed then return end
  local socket = client.socket
  while true do
    local line, message = socket:read "l"
    if not line then
      if message ~= "timed out" then return finish(self, client) end
      client.watch = core.watch(socket:fileno(), "r", function() step(self, client) end)
      if not client.watch then finish(self, client) end
      return
    end
    line = line:gsub("\r$", "")
    client.lines = client.lines + 1
    if client.lines == 1 then
      client.method, client.target = line:match "^(%u+) (%S+)"
      if not client.method then return finish(self, client) end
    elseif line == "" then
      local head, body = respond(self, client.method, client.target)
      socket:settimeout(SECONDS_MAX)
      socket:write(head, body)
      return finish(self, client)
    elseif client.lines > LINES_MAX then
      return finish(self, client)
    end
  end
end

local Status = {}
Status.__index = Status

function Status:attend()
  if self.closed or self.watch or self.nclients >= CONNECTIONS_MAX then return end
  self.watch = core.watch(self.listener:fileno(), "r", function()
    self.watch = nil
    local socket = not self.closed and self.listener:accept()
    if socket then
      local client = {socket = socket, lines = 0}
      self.clients[client] = true
      self.nclients = self.nclients + 1
      socket:settimeout(0)
      socket:limit(REQUEST_MAX)
      client.timer = fork.timer(SECONDS_MAX, function() finish(self, client) end)
      step(self, client)
    end
    self:attend()
  end, true)
end

--- close(): no more answers.
function Status:close()
  if self.closed then return end
  self.closed = true
  local watch <close> = self.watch -- luacheck: ignore
  for client in pairs(self.clients) do finish(self, client) end
  self.remove()
  self.listener:close()
end

--- start(source, address): answers there with what source:stats() gives, a server's, a pool's or a node's: an
-- object with close() and address(), or nil, message. It is no outstanding work: fork.loop() does not
-- wait for who may ask.
function status.start(source, address)
  local listener, message = fork.socket.listen(address)
  if not listener then return nil, ("can't listen on %s: %s"):format(address, message) end
  listener:settimeout(0)
  local self = setmetatable({source = source, listener = listener, clients = {}, nclients = 0,
    remove = require("moonfork.serve_path").remover(address)}, Status)
  self:attend()
  return self
end

function Status:address()
  return self.listener:address()
end

return status
