-- moonfork.server: workers that accept on common listeners; what `moonfork serve` does, for
-- programs. Runs in the parent.
--
--   generation  a template and the workers forked from it; a reload makes the next one
--   worker      starting -> ready -> leaving -> gone
--   board       a row of numbers for each worker, which it writes and the server reads
--
-- States of a generation: the current one is refilled when workers end. A new one becomes the
-- current one when all of its workers have entered their function; until then the old one serves,
-- and stays if the new one fails. Workers of an old one are told to drain: they finish what they
-- are at and accept nothing more. The listeners are open all the time, so nobody is refused.

local fork = require "moonfork"
local core = require("moonfork.load").of(...)
local serve_core = core.part "moonfork.serve_core"
local check = require "moonfork.check"
local log = require "moonfork.serve_log"
local remover = require("moonfork.serve_path").remover
local cells = serve_core.cells

local server = {}

local ROWS = 1024 -- the first for workers of before, the others for workers at the same time, those that leave included
local CELLS = ROWS * cells.ROW + 1 -- the last one: lines of the log that could not be written
local LOST = CELLS - 1
local BACKOFF_MIN, BACKOFF_MAX = 0.05, 5 -- seconds before a worker is replaced that was of no use
local KILL_AFTER = 0.5 -- seconds between SIGTERM and SIGKILL for a function that hangs
local JITTER = 0.1 -- of max_requests, so that workers are not replaced all at once
local CONNECTIONS_MAX = 10000 -- of a worker at the same time, with http and async
local COUNT_MAX = {workers = ROWS // 2, connections = 1000000, max_bodies = 1 << 53,
  max_requests = 1 << 53, max_memory = 1 << 53}
local WANTED = {reload = true, resize = true, stop = true} -- ends for reasons that are no worker's
local MEMORY_PERIOD = 1 -- seconds between two looks at the memory of workers

local Server = {}
Server.__index = Server

local valid = check.set("template name listen sockets workers raw http async connections max_bodies "
  .. "max_requests max_memory timeout grace log access on_state")

local function now()
  return serve_core.now() / 1e6
end

-- ---- listeners ----

-- True, or nil, err.
function Server:open_listeners()
  for i, socket in ipairs(self.options.sockets or {}) do self.listeners[i] = socket end
  for _, address in ipairs(self.options.listen or {}) do
    local socket, message = fork.socket.listen(address)
    if not socket then
      self:close_listeners()
      return nil, core.error("EINVAL", ("can't listen on %s: %s"):format(address, message))
    end
    self.listeners[#self.listeners + 1] = socket
    self.removers[#self.removers + 1] = remover(address)
  end
  if #self.listeners == 0 then return nil, core.error("EINVAL", "nothing to listen on") end
  return true
end

function Server:close_listeners()
  for _, remove in ipairs(self.removers) do remove() end
  for _, listener in ipairs(self.listeners) do listener:close() end
end

local function check_options(options)
  local where = {f = "new", n = 1}
  check.type(1, "new", options, "table")
  check.keys(1, "new", options, valid)
  check.option_callback(where, "template", options.template)
  check.option_type(where, "name", options.name, "string")
  for _, name in ipairs{"listen", "sockets"} do
    if options[name] ~= nil then check.option_type(where, name, options[name], "table") end
  end
  for _, name in ipairs{"workers", "connections", "max_bodies", "max_requests", "max_memory"} do
    check.option_count(where, name, options[name], 1, COUNT_MAX[name])
  end
  check.option_duration(where, "timeout", options.timeout)
  check.option_duration(where, "grace", options.grace, true)
  if options.on_state ~= nil then check.option_callback(where, "on_state", options.on_state) end
  if options.log ~= nil and options.log ~= "text" and options.log ~= "json" then
    check.option_fail(where, "log", "\"text\" or \"json\" expected")
  end
  for _, name in ipairs{"http", "async", "timeout", "max_requests"} do -- requests of a raw worker are not seen
    if options.raw and options[name] then check.fail(1, "new", "raw excludes " .. name) end
  end
  if options.connections and not options.http and not options.async then
    check.option_fail(where, "connections", "without http or async there is one at a time")
  end
  if options.max_bodies and not options.http then check.option_fail(where, "max_bodies", "it needs http") end
end

--- new(options): a server that does not run yet, or nil, err. doc/serve.md has the options.
function server.new(options)
  check_options(options)
  local self = setmetatable({options = options, workers = {}, wanted = options.workers or fork.ncpu(),
    free_rows = {}, restarts = {}, served = 0, errors = 0, began = now(), deaths = {}, backoff = 0,
    old_requests = 0, old_errors = 0, reloads = 0, failed_reloads = 0, state = "starting",
    listeners = {}, removers = {}}, Server)
  local ok, err = self:open_listeners()
  if not ok then return nil, err end
  self.board, err = serve_core.board(CELLS)
  if not self.board then
    self:close_listeners()
    return nil, core.error("LIMIT", err)
  end
  for row = ROWS, 2, -1 do self.free_rows[#self.free_rows + 1] = (row - 1) * cells.ROW end
  log.configure(options.log, self.board, LOST)
  return self
end

function Server:addresses()
  local list = {}
  for i, listener in ipairs(self.listeners) do list[i] = listener:address() end
  return list
end

-- ---- workers ----

-- What has the main loop of a worker; nil: serve_worker itself, one connection at a time.
local function engine_of(options)
  if options.raw then return "raw" end
  return options.http and "moonfork.serve_http" or options.async and "moonfork.serve_async" or nil
end

function Server:settings()
  local options = self.options
  local max = options.max_requests
  if max then
    local spread = max * JITTER
    max = math.max(1, math.floor(max - spread + math.random() * 2 * spread + 0.5))
  end
  local engine, timeout = engine_of(options), options.timeout
  if timeout == math.huge then timeout = nil end
  return ("{timeout=%s,max_requests=%s,access=%s,log=%s,engine=%s,async=%s,connections=%d,bodies=%s}"):format(
    timeout and ("%d/1e6"):format(math.ceil(timeout * 1e6)) or "nil", max or "nil",
    tostring(options.access or false), options.log and ("%q"):format(options.log) or "nil",
    engine and ("%q"):format(engine) or "nil", tostring(options.async or false),
    options.connections or CONNECTIONS_MAX, options.max_bodies or "nil")
end

local function how_it_ended(status)
  if status.unknown then return "unknown" end
  if status.signal then return "signal " .. status.signal end
  return "exit " .. status.code
end

local function tell_to_drain(worker)
  worker.socket:settimeout(0)
  worker.socket:write "drain\n" -- it is empty but for this: it never blocks
end

-- The worker finishes what it is at and ends; after the grace it is killed.
local function drain_worker(worker, reason)
  if worker.state == "leaving" then return end
  worker.state, worker.reason, worker.leaves_at = "leaving", reason, now()
  if worker.socket then tell_to_drain(worker) end
end

function Server:start_worker(generation)
  local row = table.remove(self.free_rows)
  if not row then return nil end
  self.board:clear(row, cells.ROW)
  local worker = {generation = generation, row = row, state = "starting", began = now()}
  local process = generation.template:fork{name = "server"}
  worker.process = process
  process:send_fd(self.board:fileno(), table.unpack(self.listeners))
  process:send_arg(tostring(row), tostring(CELLS), self.options.name, self:settings())
  self.workers[worker] = true
  generation.count = generation.count + 1
  process:on_exit(function(status) self:worker_ended(worker, status) end)
  process:run("moonfork.serve_worker:main", function(err, socket)
    if err then
      worker.error = err
      return self:worker_failed(worker, err)
    end
    worker.socket, worker.pid = socket, process:pid()
    if worker.state == "leaving" then return tell_to_drain(worker) end
    worker.state = "ready"
    log.write("info", "started", {pid = worker.pid})
    self:look_at_memory(worker) -- the status page has it from the beginning
    self:worker_ready(worker)
  end)
  return worker
end

function Server:worker_ready(worker)
  local generation = worker.generation
  generation.nready = generation.nready + 1
  if generation == self.next and generation.nready >= generation.target then
    self:take_over(generation)
  end
  self:look_ready()
end

function Server:look_ready()
  if self.state == "starting" and self.current and self.current.nready >= self.wanted then
    self.state = "running"
    log.write("info", "ready", {workers = self.wanted, listen = table.concat(self:addresses(), " ")})
    self:tell_state "READY"
  end
end

-- The function was not entered: of a reload that is the end, of the first start too.
function Server:worker_failed(worker, err)
  local generation = worker.generation
  if generation == self.next then return self:reload_failed(err) end
  if self.state == "starting" then
    self.failure = err
    return self:kill()
  end
  if self.state == "stopping" then return end -- they don't start because it ends
  log.write("error", "worker not started", {message = log.one_line(err.message)})
end

local function note_death(self, worker, status, reason)
  local list = self.deaths
  table.insert(list, 1, {pid = worker.pid, time = os.time(), reason = reason, status = how_it_ended(status)})
  list[11] = nil
  self.restarts[reason] = (self.restarts[reason] or 0) + 1
end

-- Whether the worker has served something, or has lived for a while: a raw one does not tell what it
-- serves. The place of one that was of no use is not filled at once, whatever its end was, or a
-- function that returns at once would be started over and over.
function Server:was_of_use(worker)
  return self.board:get(worker.row + cells.REQUESTS) > 0 or now() - worker.began >= BACKOFF_MAX
end

local function reason_of(worker, status, options)
  if worker.reason then return worker.reason end
  if status.code == 0 then
    if options.raw then return "returned" end
    return options.max_requests and "max-requests" or "died" -- the function called os.exit
  end
  if status.signal == 15 then return "asked" end
  return "died"
end

function Server:worker_ended(worker, status)
  if not self.workers[worker] then return end
  self.workers[worker] = nil
  local board, row, generation = self.board, worker.row, worker.generation
  local served, was_of_use = board:get(row + cells.REQUESTS), self:was_of_use(worker)
  self.old_requests = self.old_requests + served
  self.old_errors = self.old_errors + board:get(row + cells.ERRORS)
  board:merge(cells.LATENCY, row + cells.LATENCY)
  self.free_rows[#self.free_rows + 1] = row
  generation.count = generation.count - 1
  if worker.state == "ready" then generation.nready = generation.nready - 1 end
  if worker.socket then worker.socket:close() end
  worker.process:close()
  if worker.error then return self:refill() end
  local reason = reason_of(worker, status, self.options)
  note_death(self, worker, status, reason)
  local wrong = reason == "died" or reason == "timeout" or reason == "killed"
  log.write(wrong and "error" or "info", "ended", {pid = worker.pid, reason = reason,
    status = how_it_ended(status), requests = served})
  if was_of_use or WANTED[reason] then self.backoff = 0
  else self.backoff = math.min(BACKOFF_MAX, math.max(BACKOFF_MIN, self.backoff * 2)) end
  self:refill()
end

-- Keeps as many workers of the current generation as are wanted.
function Server:refill()
  if self.state == "stopping" then
    if next(self.workers) == nil then self:finish() end
    return
  end
  local current = self.current
  if not current or self.refilling then return end
  if self.backoff > 0 then
    self.refilling = fork.timer(self.backoff, function()
      self.refilling = nil
      self:fill(current)
    end)
    return
  end
  self:fill(current)
end

function Server:count(generation)
  local n = 0
  for worker in pairs(self.workers) do
    if worker.generation == generation and worker.state ~= "leaving" then n = n + 1 end
  end
  return n
end

function Server:fill(generation)
  if self.state == "stopping" or generation ~= self.current then return self:refill() end
  for _ = self:count(generation) + 1, self.wanted do
    if not self:start_worker(generation) then break end
  end
  local surplus = self:count(generation) - self.wanted
  for worker in pairs(self.workers) do
    if surplus <= 0 then break end
    if worker.generation == generation and worker.state == "ready" then
      drain_worker(worker, "resize")
      surplus = surplus - 1
    end
  end
end

-- ---- generations ----

-- The template checks the function and loads what workers need, so that they share it.
local PREPARE = [[-- =moonfork
local name, is_async = ...
if is_async == "async" and not require("moonfork.serve_luv").is_installed() then
  error("async needs luv, and there is no module 'luv' (Debian: lua-luv; LuaRocks: luv)", 0)
end
require "moonfork"
require "moonfork.serve_worker"
if require("moonfork.function_name")(name) == nil then
  error(("there is no function '%s'"):format(name), 0)
end
]]

function Server:new_generation()
  local template = self.options.template()
  template:eval(PREPARE, self.options.name, self.options.async and "async" or "")
  local engine = engine_of(self.options)
  if engine and engine ~= "raw" then template:require(engine) end
  template:seal()
  return {template = template, count = 0, nready = 0, target = self.wanted}
end

-- callback(err) when its code is loaded.
local function when_loaded(generation, callback)
  generation.template:memory(function(err)
    if not err then return callback(nil) end
    generation.template:run("failed", callback) -- the end of the chain: its failure counts as told
  end)
end

function Server:take_over(generation)
  local old = self.current
  self.next, self.current = nil, generation
  self.reloads = self.reloads + 1
  log.write("info", "reloaded", {workers = generation.nready})
  for worker in pairs(self.workers) do
    if worker.generation == old then drain_worker(worker, "reload") end
  end
  old.template:close()
  self:tell_state "READY"
  self:refill()
  if self.reload_again then
    self.reload_again = nil
    self:reload()
  end
end

function Server:reload_failed(err)
  local generation = self.next
  if not generation then return end
  self.next = nil
  self.failed_reloads = self.failed_reloads + 1
  log.write("error", "not reloaded", {message = log.one_line(err.message)})
  for worker in pairs(self.workers) do
    if worker.generation == generation then
      worker.reason = "reload"
      worker.state = "leaving"
      worker.process:kill "KILL"
    end
  end
  generation.template:close()
  self:tell_state "READY"
  if self.reload_again then
    self.reload_again = nil
    self:reload()
  end
end

--- reload(): a new template takes over when its workers are ready. One that comes while another is
-- under way follows it.
function Server:reload()
  if self.state ~= "running" then return end
  if self.next then
    self.reload_again = true
    return
  end
  log.write("info", "reload", {})
  self:tell_state "RELOADING"
  local generation = self:new_generation()
  self.next = generation
  when_loaded(generation, function(err)
    if self.next ~= generation then return end
    if err then return self:reload_failed(err) end
    generation.target = self.wanted
    for _ = 1, self.wanted do
      if not self:start_worker(generation) then
        return self:reload_failed(core.error("LIMIT", "too many workers are still leaving"))
      end
    end
  end)
end

--- resize(n): as many workers from now on, at least one.
function Server:resize(n)
  self.wanted = math.max(1, math.min(n, ROWS // 2))
  log.write("info", "resize", {workers = self.wanted})
  if self.current and self.state == "running" then self:fill(self.current) end
end

-- ---- looking after workers ----

function Server:look_at(worker, at)
  local options = self.options
  if worker.state == "leaving" and worker.leaves_at and at > worker.leaves_at + (options.grace or 30) then
    worker.process:kill "KILL"
    worker.leaves_at = math.huge
  end
  local board, row = self.board, worker.row
  if options.timeout and worker.pid and board:get(row + cells.BUSY) == 1 then
    local since = board:get(row + cells.SINCE) / 1e6
    if worker.timed_out then
      if at > worker.timed_out + KILL_AFTER then worker.process:kill "KILL" end
    elseif at > since + options.timeout then
      worker.timed_out, worker.reason = at, "timeout"
      board:set(row + cells.TIMED_OUT, 1)
      log.write("error", "timeout", {pid = worker.pid, seconds = at - since})
      worker.process:kill "TERM"
    end
  end
end

function Server:look_at_memory(worker)
  if worker.asks or worker.state ~= "ready" then return end
  worker.asks = true
  worker.process:memory(function(err, memory)
    worker.asks = nil
    if err or not self.workers[worker] then return end
    worker.memory = memory
    if self.options.max_memory and memory.uss > self.options.max_memory and worker.state == "ready"
      and self:was_of_use(worker) then -- a new one would be as large
      log.write("info", "too large", {pid = worker.pid, bytes = memory.uss})
      drain_worker(worker, "max-memory")
      self:refill()
    end
  end)
end

function Server:look()
  local at = now()
  for worker in pairs(self.workers) do self:look_at(worker, at) end
  if at >= (self.memory_at or 0) then
    self.memory_at = at + (self.options.max_memory and MEMORY_PERIOD or 5 * MEMORY_PERIOD)
    for worker in pairs(self.workers) do self:look_at_memory(worker) end
  end
end

-- ---- the server's life ----

function Server:tell_state(state)
  if self.options.on_state then self.options.on_state(state, self) end
end

--- start(): the first workers; then the server works while the reactor turns.
function Server:start()
  local period = math.min(0.25, (self.options.timeout or 1) / 4)
  self.ticker = fork.timer(period, function() self:look() end, period)
  self.current = self:new_generation()
  when_loaded(self.current, function(err)
    if err then
      self.failure = err
      return self:kill()
    end
    if self.state == "starting" then self:refill() end
  end)
end

--- stop(): workers finish what they are at; then run() returns.
function Server:stop()
  if self.state == "stopping" then return end
  self.state = "stopping"
  log.write("info", "stopping", {})
  self:tell_state "STOPPING"
  if self.refilling then self.refilling:close() end
  for worker in pairs(self.workers) do drain_worker(worker, "stop") end
  if next(self.workers) == nil then self:finish() end
end

--- kill(): the same at once.
function Server:kill()
  self:stop()
  for worker in pairs(self.workers) do
    worker.reason = "stop"
    worker.process:kill "KILL"
  end
end

function Server:finish()
  if self.state == "stopped" then return end
  self.state = "stopped"
  if self.ticker then self.ticker:close() end
  for _, generation in ipairs{self.current or false, self.next or false} do
    if generation then generation.template:close() end
  end
  self:close_listeners()
  log.write("info", "stopped", {requests = self.old_requests})
  log.configure(self.options.log)
  self.board:close()
end

--- run(): start(), and the reactor until the server has stopped: true, or nil, err where the first
-- workers could not be started.
function Server:run()
  self:start()
  while self.state ~= "stopped" do fork.step(60) end
  if self.failure then return nil, self.failure end
  return true
end

-- ---- figures ----

--- stats(): what the server is at, for status pages.
function Server:stats()
  local board, rows, list = self.board, {cells.LATENCY}, {}
  local requests, errors, busy, at = self.old_requests, self.old_errors, 0, serve_core.now()
  for worker in pairs(self.workers) do
    local row = worker.row
    rows[#rows + 1] = row + cells.LATENCY
    local own = board:percentiles({row + cells.LATENCY}, {0.5, 0.99})
    local is_busy = board:get(row + cells.BUSY) == 1
    if is_busy then busy = busy + 1 end
    requests = requests + board:get(row + cells.REQUESTS)
    errors = errors + board:get(row + cells.ERRORS)
    local memory = worker.memory or {}
    list[#list + 1] = {pid = worker.pid or 0,
      state = worker.state == "ready" and (is_busy and "busy" or "idle") or worker.state,
      requests = board:get(row + cells.REQUESTS), errors = board:get(row + cells.ERRORS),
      connections = board:get(row + cells.OPEN), p50 = own[1] / 1e6, p99 = own[2] / 1e6,
      busy_for = is_busy and (at - board:get(row + cells.SINCE)) / 1e6 or 0,
      private = memory.uss or 0, shared = memory.shared or 0, age = at / 1e6 - worker.began}
  end
  table.sort(list, function(a, b) return a.pid < b.pid end)
  local all = board:percentiles(rows, {0.5, 0.9, 0.99, 1})
  return {kind = "server", state = self.state, uptime = at / 1e6 - self.began, workers = self.wanted, running = #list,
    busy = busy, requests = requests, errors = errors, reloads = self.reloads,
    failed_reloads = self.failed_reloads, restarts = self.restarts,
    latency = {p50 = all[1] / 1e6, p90 = all[2] / 1e6, p99 = all[3] / 1e6, max = all[4] / 1e6},
    per_worker = list, deaths = self.deaths, listen = self:addresses()}
end

return server
