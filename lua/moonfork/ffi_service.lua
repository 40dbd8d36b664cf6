-- The rpc and pool objects of moonfork.ffi. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local core = require "moonfork.ffi_core"
local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"
local message = require "moonfork.ffi_message"
local options = require "moonfork.ffi_options"
local process = require "moonfork.ffi_process"
local reactor = require "moonfork.ffi_reactor"

local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

local shared = {}
local rpc_methods = setmetatable({}, { __index = shared })
local pool_methods = setmetatable({}, { __index = shared })
local Rpc = { __index = rpc_methods, __name = "moonfork.rpc" }
local Pool = { __index = pool_methods, __name = "moonfork.pool" }
local With = { __index = {}, __name = "moonfork.rpc.with" }

-- ---- what services tell besides answers ----

local DEATHS = { CLONE_DIED = true, TEMPLATE_DIED = true, FORK_FAILED = true, PROTOCOL = true }

-- Of a pool only what its template failed at: that a template or a worker dies is its business.
local function tell_service(service)
  local err = service.chain or not service.is_pool and service.err
  if service.is_told or not err then return end
  service.is_told = true
  process.tell_unreported(service.process, err)
end

local function trouble(service, err)
  if err.code ~= "CANCELLED" then service.err = err end -- else it was closed: no news
  if service.on_error then
    service.is_told = true
    process.mark_told(service.process, err)
    return reactor.call_user(service.on_error, err)
  end
  if service.closed then tell_service(service) end
end

local function event(service, bytes)
  local values = bytes and message.decode(bytes)
  if values then return reactor.call_user(service.on_event, unpack(values, 1, values.n)) end
  return trouble(service, errors.new("PROTOCOL", "an event that is not made of strings", "unknown"))
end

-- Nothing follows this.
local function over(service)
  for _, token in ipairs(service.tokens) do reactor.drop_token(token) end
  process.raws[service.raw] = nil
  service.raw = nil
  for _, cell in ipairs(service.cells) do
    if cell.error_token then reactor.drop_token(cell.error_token) end
    cell.raw = nil
    if not cell.status and cell.watchers then process.ended(cell, { unknown = true }) end
  end
end

-- ---- making ----

-- The process is the service's from now on. Nothing may be asked of a pool's template: it is the
-- pool that closes it.
local function take(service, cell)
  process.raws[cell.raw] = nil
  cell.service = service
  service.cells[#service.cells + 1] = cell
  if service.is_pool then cell.raw = nil end
end

local finish

local function begin_service(self, f, name, given)
  local cell = process.serving(self, f)
  local plain, service = options.of_service(f, name, given)
  service.process, service.cells, service.tokens = cell, {}, {}
  function service.chain_failed(failed, err)
    if DEATHS[err.code] or failed ~= cell then return end -- a reload tells of its own
    service.chain = err
    if service.closed then tell_service(service) end
  end
  local function kept(target)
    local token = reactor.new_token(target, true)
    table.insert(service.tokens, token)
    return token
  end
  local err = cell.err
  if not err then
    plain.event = service.on_event and kept(function(_, bytes) return event(service, bytes) end)
      or 0
    plain.trouble = kept(function(e) return trouble(service, e) end)
    plain.notice = kept(function()
      if service.on_close then return reactor.call_user(service.on_close) end
    end)
    plain.worker = service.on_worker and kept(function(_, worker)
      return reactor.call_user(service.on_worker, worker.event, worker.pid, worker.reason)
    end) or 0
    plain.over = kept(function() return over(service) end)
    local raw, code = core.serve(f, cell.raw, name, plain)
    if not raw then
      for _, token in ipairs(service.tokens) do reactor.drop_token(token) end
      err = errors.of_code(code)
      service.failure = err
    else
      service.raw, process.raws[raw] = raw, "service"
      take(service, cell)
    end
  else
    process.mark_told(cell, err)
    service.failure = f == "pool" and process.inherited(err) or err
    service.chain = service.failure
    if service.on_error then
      local failure = service.failure
      reactor.post(function() return trouble(service, failure) end)
    end
  end
  if service.raw or cell.err then cell.state = "finished" end
  local object = setmetatable({ service = service, process_object = f == "rpc" and self or nil },
    f == "rpc" and Rpc or Pool)
  object.guard = reactor.guard(function()
    if service.closed or reactor.closing then return end
    return finish(service)
  end)
  return object
end

function process.methods.rpc(self, name, given)
  return begin_service(self, "rpc", name, given)
end

function process.methods.pool(self, name, given)
  return begin_service(self, "pool", name, given)
end

-- ---- calls ----

local function service_of(self, f, expected)
  local meta = getmetatable(self)
  if (meta == Rpc or meta == Pool) and (not expected or meta == expected) then
    return self.service
  end
  check.raise(("calling '%s' on bad self (%s expected, got %s; use a colon: %s:%s(...))"):format(f,
    expected == Pool and "moonfork.pool" or expected == Rpc and "moonfork.rpc"
      or "moonfork.rpc or moonfork.pool", self == nil and "no value" or check.type_name(self),
    expected == Pool and "pool" or "rpc", f))
end

local function reason(service)
  return service.failure or errors.new("CLOSED",
    service.is_pool and "the pool is closed" or "the rpc is closed")
end

local Call = { __index = {}, __name = "moonfork.call" }

-- The callback gets CANCELLED. Whether the call was still waiting.
function Call.__index.cancel(call)
  if not call.raw or not call.service.raw then return false end
  return core.cancel(call.service.raw, call.raw) == true
end

local function failed_call(done, err)
  reactor.post(function() return done(err) end)
  return setmetatable({}, Call)
end

-- done(err, results...), later. Gives what can be cancelled.
local function begin_call(self, given, done, ...)
  local service = self.service
  if service.closed or not service.raw then
    local err = reason(service)
    if service.failure then
      service.is_told = true
      process.mark_told(service.process, err)
    end
    return failed_call(done, err)
  end
  local bytes, err = message.encode("argument", ...)
  if not bytes then return failed_call(done, err) end
  local call = setmetatable({ service = service }, Call)
  local token = reactor.due_token(function(failure, reply)
    call.raw = nil
    if failure then
      process.mark_told(service.process, failure)
      if failure.started == "no" or DEATHS[failure.code] then service.is_told = true end
      return done(failure, nil, self) -- self: the object stays until now
    end
    local values = message.decode(reply)
    if not values then
      return done(errors.new("PROTOCOL", "a result that is not made of strings", "unknown"))
    end
    return done(nil, unpack(values, 1, values.n))
  end)
  local raw, code = core.call(service.raw, bytes, given.timeout or 0, given.idempotent or false,
    token)
  if not raw then
    reactor.cancel_due(token)
    return failed_call(done, errors.of_code(code))
  end
  call.raw = raw
  return call
end

local NO_OPTIONS = {}

local function call(self, given, ...)
  local n = select("#", ...)
  local callback = n > 0 and select(n, ...) or nil
  if type(callback) ~= "function" then
    local args, under_way = reactor.pack(...), nil
    return reactor.await(function(done)
      under_way = begin_call(self, given, done, unpack(args, 1, args.n))
    end, function() under_way:cancel() end)
  end
  local args = reactor.pack(...)
  return begin_call(self, given, function(...) return reactor.call_user(callback, ...) end,
    unpack(args, 1, n - 1))
end

function shared.call(self, ...)
  service_of(self, "call")
  return call(self, NO_OPTIONS, ...)
end

Rpc.__call, Pool.__call = shared.call, shared.call

function shared.with(self, given)
  local service = service_of(self, "with")
  return setmetatable({ target = self, options = options.of_calls(service.is_pool, given) }, With)
end

function With.__index.call(self, ...)
  if getmetatable(self) ~= With then
    check.raise("calling 'call' on bad self (moonfork.rpc.with expected)")
  end
  return call(self.target, self.options, ...)
end

With.__call = With.__index.call

-- ---- ending ----

function finish(service)
  service.closed = true
  tell_service(service)
  if not service.raw then return end
  if service.process.raw then process.watch(service.process) end -- the library closes it then
  core.finish_service(service.raw)
end

-- No more calls; those under way finish.
function shared.close(self)
  local service = service_of(self, "close")
  if service.closed then return end
  return finish(service)
end

function rpc_methods.process(self)
  service_of(self, "process", Rpc)
  return self.process_object
end

-- ---- pools ----

-- begin(token) -> true; or nil, code. done(err, true, value), later.
local function told_later(done, begin)
  local token = reactor.due_token(function(err, value) return done(err, not err or nil, value) end)
  local ok, code = begin(token)
  if ok then return end
  reactor.cancel_due(token)
  reactor.post(function() return done(errors.of_code(code)) end)
end

local function do_or_wait(callback, begin)
  if not callback then return reactor.await(begin) end
  begin(function(...) return reactor.call_user(callback, ...) end)
  return true
end

local function refuse(done, err)
  return reactor.post(function() return done(err) end)
end

function pool_methods.drain(self, timeout, callback)
  local service = service_of(self, "drain", Pool)
  if callback == nil and timeout ~= nil and type(timeout) ~= "number" then
    timeout, callback = nil, timeout
  end
  check.callback(2, "drain", callback)
  local ms = check.option_duration({ f = "drain", n = 1 }, "timeout", timeout, true)
  local report = { answered = 0, dropped = 0, interrupted = 0, killed = 0 }
  local ok, err = do_or_wait(callback, function(done)
    local function drained(failure, _, value)
      report = value or report
      return done(failure, not failure or nil, report)
    end
    if service.closed or not service.raw then return refuse(drained, reason(service)) end
    return told_later(drained, function(token) return core.drain(service.raw, ms, token) end)
  end)
  if callback then return true end
  if ok then return true, report end
  return nil, err, report
end

-- What gives the pool a template.
local function give_template(self, f, give, template, callback)
  local service = service_of(self, f, Pool)
  if getmetatable(template) ~= process.Process then
    check.fail(1, f, "moonfork.process expected, got " .. check.type_name(template))
  end
  check.callback(2, f, callback)
  local cell = process.serving(template, f)
  return do_or_wait(callback, function(done)
    local err = (service.closed or not service.raw) and reason(service) or process.inherited(cell.err)
    if err then
      if cell.err then process.mark_told(cell, err) end
      return refuse(done, err)
    end
    return told_later(function(failure, ok) return done(failure, ok) end, function(token)
      local ok, code = give(service.raw, cell.raw, token)
      if ok then
        cell.state = "finished"
        take(service, cell)
      end
      return ok, code
    end)
  end)
end

-- New workers are forked from the process.
function pool_methods.reload(self, template, callback)
  return give_template(self, "reload", core.reload, template, callback)
end

-- From the process, too.
function pool_methods.add(self, template, callback)
  return give_template(self, "add", core.add, template, callback)
end

-- From a copy of the worker with the most answers.
function pool_methods.promote(self, callback)
  local service = service_of(self, "promote", Pool)
  check.callback(1, "promote", callback)
  return do_or_wait(callback, function(done)
    if service.closed or not service.raw then return refuse(done, reason(service)) end
    return told_later(function(failure, ok) return done(failure, ok) end,
      function(token) return core.promote(service.raw, token) end)
  end)
end

function pool_methods.resize(self, max)
  local service = service_of(self, "resize", Pool)
  check.type(1, "resize", max, "number")
  if max ~= math.floor(max) or max < 0 or max > 100000 then
    check.fail(1, "resize", "a whole number from 0 to 100000 expected, got " .. tostring(max))
  end
  if service.closed or not service.raw then return nil, reason(service) end
  local ok, code = core.resize(service.raw, max)
  if not ok then return nil, errors.of_code(code) end
  return true
end

function pool_methods.stats(self)
  local service = service_of(self, "stats", Pool)
  local stats = service.raw and core.stats(service.raw)
  if stats then
    service.last_stats = stats
    return stats
  end
  stats = {}
  for key, value in pairs(service.last_stats or { done = 0, failed = 0, started = 0, deaths = 0,
    p50 = 0, p99 = 0, queue_time = { p50 = 0, p90 = 0, p99 = 0, max = 0 },
    run_time = { p50 = 0, p90 = 0, p99 = 0, max = 0 } }) do
    stats[key] = value
  end
  for _, key in ipairs { "workers", "idle", "starting", "leaving", "queued", "running" } do
    stats[key] = 0
  end
  stats.per_worker, stats.last = {}, stats.last or {}
  stats.state = service.failure and "failed" or "closed"
  return stats
end

-- The pids of the workers.
function pool_methods.pids(self)
  local service = service_of(self, "pids", Pool)
  return service.raw and core.pids(service.raw) or {}
end

function Rpc.__tostring(self)
  local service = self.service
  return ("moonfork.rpc (%s, %s)"):format(service.name, service.closed and "closed"
    or (service.err or service.failure) and "failed" or "open")
end

function Pool.__tostring(self)
  return ("moonfork.pool (%s, %s)"):format(self.service.name, self:stats().state)
end
