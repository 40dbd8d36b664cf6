-- The status page of a moonfork.server: a few lines of HTTP/1.0 on a listener of its own. /status is
-- JSON, /metrics is the text format of Prometheus. Runs in the parent, between everything else.

local fork = require "moonfork"
local core = require "moonfork.load"
local json = require("moonfork.serve_log").json

local status = {}

local CONNECTIONS_MAX = 16 -- at the same time; more wait
local REQUEST_MAX = 8192 -- bytes of a line
local LINES_MAX = 100
local SECONDS_MAX = 5 -- for a request and its answer

-- ---- Prometheus ----

local function label(text)
  return (tostring(text):gsub('[\\"\n]', {["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n"}))
end

local function number(value)
  return json(value)
end

--- metrics(stats): the text.
function status.metrics(stats)
  local lines = {}
  local function metric(name, kind, help, rows)
    lines[#lines + 1] = ("# HELP moonfork_%s %s\n# TYPE moonfork_%s %s"):format(name, help, name, kind)
    for _, row in ipairs(rows) do
      lines[#lines + 1] = ("moonfork_%s%s %s"):format(name, row[1] or "", number(row[2]))
    end
  end
  metric("uptime_seconds", "gauge", "Seconds since the server was started.", {{nil, stats.uptime}})
  metric("workers", "gauge", "Workers that are wanted.", {{nil, stats.workers}})
  metric("workers_running", "gauge", "Workers that exist.", {{nil, stats.running}})
  metric("workers_busy", "gauge", "Workers that are at a request.", {{nil, stats.busy}})
  metric("requests_total", "counter", "Requests that were served.", {{nil, stats.requests}})
  metric("errors_total", "counter", "Requests whose function raised.", {{nil, stats.errors}})
  metric("reloads_total", "counter", "Reloads that took over.", {{nil, stats.reloads}})
  metric("failed_reloads_total", "counter", "Reloads that could not be loaded.", {{nil, stats.failed_reloads}})
  local restarts = {}
  for reason, n in pairs(stats.restarts) do
    restarts[#restarts + 1] = {('{reason="%s"}'):format(label(reason)), n}
  end
  table.sort(restarts, function(a, b) return a[1] < b[1] end)
  metric("worker_ends_total", "counter", "Workers that ended, by reason.", restarts)
  local latency = stats.latency
  metric("request_seconds", "gauge", "Durations of requests since the start.",
    {{'{quantile="0.5"}', latency.p50}, {'{quantile="0.9"}', latency.p90},
      {'{quantile="0.99"}', latency.p99}, {'{quantile="1"}', latency.max}})
  local private, shared, requests = {}, {}, {}
  for i, worker in ipairs(stats.per_worker) do
    local who = ('{pid="%d"}'):format(worker.pid)
    private[i], shared[i], requests[i] = {who, worker.private}, {who, worker.shared}, {who, worker.requests}
  end
  metric("worker_private_bytes", "gauge", "Private memory of a worker.", private)
  metric("worker_shared_bytes", "gauge", "Memory that a worker shares with others.", shared)
  metric("worker_requests", "gauge", "Requests that a worker has served.", requests)
  return table.concat(lines, "\n") .. "\n"
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
    head, body = answer(200, "OK", "application/json", json(self.source:stats()) .. "\n")
  elseif path == "/metrics" then
    head, body = answer(200, "OK", "text/plain; version=0.0.4", status.metrics(self.source:stats()))
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
  end)
end

--- close(): no more answers.
function Status:close()
  self.closed = true
  local watch <close> = self.watch -- luacheck: ignore
  for client in pairs(self.clients) do finish(self, client) end
  self.listener:close()
end

--- start(source, address): answers there with source:stats(): an object with close() and address(),
-- or nil, message.
function status.start(source, address)
  local listener, message = fork.socket.listen(address)
  if not listener then return nil, ("can't listen on %s: %s"):format(address, message) end
  listener:settimeout(0)
  local self = setmetatable({source = source, listener = listener, clients = {}, nclients = 0}, Status)
  self:attend()
  return self
end

function Status:address()
  return self.listener:address()
end

return status
