-- Rpcs and pools: options, calls with and without a callback, what they tell besides. Runs in
-- the parent.
--
--   object -> raw service of moonfork.core
--      '----> cell <---- the registry, until the service has ended
--
-- The cell has the callbacks. An object that is collected closes its service, and what is
-- outstanding then finishes; the cell is still told.

local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local map = require "moonfork.map"
local process_options = require "moonfork.options"
local rules = require "moonfork.option_rules"
local reactor = require "moonfork.reactor"

local calls = {
  take = nil, -- process.lua's: (n, f, process) -> raw process; or nil, err
  give_back = nil, -- process.lua's: (process), which was not taken after all
}

local shared = {} -- methods of both
local rpc_methods = setmetatable({}, { __index = shared })
local pool_methods = setmetatable({}, { __index = shared })
local Rpc = { __index = rpc_methods, __name = "moonfork.rpc" }
local Pool = { __index = pool_methods, __name = "moonfork.pool" }
local With = { __index = {}, __name = "moonfork.rpc.with" }
local mapped = { [Pool] = true } -- the metatables of what has map

local MESSAGE_MAX = (64 << 20) + 1024 -- a string of 64 MiB: to make a longer one holds the loop

-- ---- options ----

local set, bad = check.set, check.option_fail

local RPC = "async init on_event on_error on_close on_drain serialiser timeout handles strict"
  .. " message_max grace strict_classes"
local POOL = rules.POOL .. " isolation lazy"
local valid = {
  rpc = set(RPC),
  pool = set((RPC:gsub(" on_drain ", " "):gsub(" strict ", " ")) .. " " .. POOL),
  with_rpc = set "timeout",
  with_pool = set "timeout idempotent",
}

local function flag(where, given, name)
  local value = given[name]
  if value == nil or type(value) == "boolean" then return value or false end
  bad(where, name, "boolean expected, got " .. check.type_name(value))
end

local function text(where, given, name)
  local value = given[name]
  if value == nil then return nil end
  if type(value) ~= "string" or value == "" or value:find("\0", 1, true) then
    bad(where, name, "a name expected, got "
      .. (type(value) == "string" and ("%q"):format(value) or check.type_name(value)))
  end
  return value
end

local function callback(where, given, name)
  return check.option_callback(where, name, given[name])
end

local function duration(where, given, name, zero)
  return check.option_duration(where, name, given[name], zero)
end

local function count(where, given, name, least, most)
  return check.option_count(where, name, given[name], least, most)
end

local BUILT_IN = { msgpack = true, string = true, raw = true }

-- A module is loaded here, before anything has been changed.
local function serialiser(where, given)
  local name = text(where, given, "serialiser") or "msgpack"
  if BUILT_IN[name] then return name end
  local ok, module = pcall(require, name)
  if not ok then bad(where, "serialiser", tostring(module)) end
  if type(module) ~= "table" or type(module.encode) ~= "function"
    or type(module.decode) ~= "function" then
    bad(where, "serialiser", ("module '%s' is not a table with the functions encode and decode")
      :format(name))
  end
  return name
end

function calls.check_classes(where, plain)
  if plain.strict_classes and plain.serialiser ~= "msgpack" then
    bad(where, "strict_classes", ("only 'msgpack' knows classes, and the serialiser is '%s'")
      :format(plain.serialiser))
  end
end

-- The plain options and the cell that both kinds have.
local function common(where, given)
  local plain = {
    async = flag(where, given, "async"),
    handles = flag(where, given, "handles"),
    strict_classes = flag(where, given, "strict_classes"),
    init = text(where, given, "init"),
    serialiser = serialiser(where, given),
    timeout = duration(where, given, "timeout"),
    message_max = count(where, given, "message_max", 16, 1 << 32) or MESSAGE_MAX,
    grace = duration(where, given, "grace", true),
  }
  calls.check_classes(where, plain)
  local cell = {
    on_event = callback(where, given, "on_event"),
    on_error = callback(where, given, "on_error"),
    on_close = callback(where, given, "on_close"),
  }
  plain.events = cell.on_event ~= nil
  plain.tells_end = cell.on_close ~= nil
  return plain, cell
end

local function begin(f, name, given)
  check.name(1, f, name)
  if name == "" then check.fail(1, f, "the name of a function expected") end
  given = check.optional(2, f, given, "table") or {}
  check.keys(2, f, given, valid[f])
  return { f = f, n = 2 }, given
end

function calls.rpc_options(name, given)
  local where
  where, given = begin("rpc", name, given)
  local plain, cell = common(where, given)
  plain.strict = flag(where, given, "strict")
  if plain.strict and plain.async then
    bad(where, "strict", "not with async: several calls are under way there, and each may have begun")
  end
  cell.on_drain = callback(where, given, "on_drain")
  plain.drain = cell.on_drain ~= nil
  return plain, cell
end

local checked = rules.of(check)

function calls.pool_options(name, given)
  local where
  where, given = begin("pool", name, given)
  local plain, cell = common(where, given)
  cell.is_pool = true
  cell.on_worker = callback(where, given, "on_worker")
  plain.workers = cell.on_worker ~= nil
  plain.max, plain.load, plain.queue_max = core.ncpu(), 2, 65536
  checked.pool(where, given, plain)
  if given.isolation ~= nil then
    plain.isolation = checked.choice(where, "isolation", given.isolation, rules.CHOICES.isolation)
  end
  plain.lazy = process_options.lazy(where, given.lazy, plain.isolation)
  return plain, cell
end

-- ---- what services tell besides answers ----

local function post_error(target, err)
  reactor.post(function() return target(err) end)
end

-- The failure of the process that was made an rpc or a pool, which no call may ever report.
-- Of a pool only what its template failed at: that a template or a worker dies is the pool's
-- business.
local function unreported(cell)
  if cell.told then return nil end
  return cell.chain or not cell.is_pool and cell.err or nil
end

local function tell_unreported(cell)
  local err = unreported(cell)
  if not err then return end
  cell.told = true
  reactor.post_failure(err)
end

local DEATHS = { CLONE_DIED = true, TEMPLATE_DIED = true, FORK_FAILED = true, PROTOCOL = true }

-- For process.lua: the process that a pool has has failed.
function calls.chain_failed(cell, err)
  if DEATHS[err.code] then return end
  cell.chain = err
  if cell.closed then tell_unreported(cell) end
end

-- RP-10: on_error, else on_event("error", text). A pool's workers may die without anybody
-- asking; an rpc whose end nobody was told of is reported when it is closed.
local function trouble(cell, err)
  if err.code ~= "CANCELLED" then cell.err = err end -- else it was closed: no news
  if cell.on_error then
    cell.told = true
    reactor.call(cell.on_error, err)
  elseif cell.on_event and not cell.is_pool then
    cell.told = true
    reactor.call(cell.on_event, "error", err.code .. ": " .. tostring(err))
  elseif cell.closed then
    tell_unreported(cell)
  end
end

function reactor.on_service(kind, cell, err, ...)
  if kind == "trouble" or err then
    trouble(cell, err)
  elseif kind == "event" then
    if cell.on_event then reactor.call(cell.on_event, ...) end
  elseif kind == "closed" then
    if cell.on_close then reactor.call(cell.on_close) end
  elseif kind == "drain" then
    if cell.on_drain then reactor.call(cell.on_drain) end
  elseif kind == "worker" then
    if cell.on_worker then reactor.call(cell.on_worker, ...) end
  end
end

-- ---- making ----

-- A service that never came to be answers every call with the reason. Who hears of it from a
-- callback is not told a second time when it is closed before that.
local function object(meta, process, raw, err, cell)
  local self = setmetatable({ raw = raw, failure = err, cell = cell, p = process }, meta)
  cell.chain = err
  if err and (cell.on_error or cell.on_event and not cell.is_pool) then
    cell.told = true
    reactor.post(function() return trouble(cell, err) end)
  end
  reactor.touch()
  return self
end

local function make(meta, new, process, raw, err, name, plain, cell)
  if raw then
    local ok, made, refusal = pcall(new, raw, name, cell, plain)
    if not ok or not made then calls.give_back(process.object) end
    if not ok then error(made, 0) end -- no memory, for one
    raw, err = made, refusal
  end
  local self = object(meta, process, raw or nil, err, cell)
  self.name = name
  return self
end

function calls.rpc(process, raw, err, name, plain, cell)
  return make(Rpc, core.rpc_new, process, raw, err, name, plain, cell)
end

function calls.pool(process, raw, err, name, plain, cell)
  local self = make(Pool, core.pool_new, process, raw, err, name, plain, cell)
  self.max, self.load, self.queue_max = plain.max, plain.load, plain.queue_max
  self.async, self.message_max = plain.async, plain.message_max
  self.timeout, self.call_timeout = plain.timeout, plain.call_timeout -- milliseconds
  return self
end

-- ---- calls ----

local function is_rpc(self, f)
  if getmetatable(self) ~= Rpc then check.self(f, "rpc", "moonfork.rpc", self) end
end

local function is_pool(self, f)
  if getmetatable(self) ~= Pool then check.self(f, "pool", "moonfork.pool", self) end
end

local Refused = { __index = { cancel = function() return false end }, __name = "moonfork.call" }

local function reason(self)
  return self.failure or core.error("CLOSED",
    ("the %s is closed"):format(self.cell.noun or self.cell.is_pool and "pool" or "rpc"))
end

-- The service takes no calls.
local function refuse(self, ...)
  local n = select("#", ...)
  local last = n > 0 and select(n, ...) or nil
  if self.failure then self.cell.told = true end
  if type(last) ~= "function" then return nil, reason(self) end
  post_error(last, reason(self))
  return setmetatable({}, Refused)
end

local function give_up(_, wait)
  if wait.under_way then core.cancel(wait.raw, wait.under_way) end
end

-- As reactor.await does, but with one function and one table a call.
local function wait(self, options, ...)
  local begun, full = reactor.wait_new(give_up)
  if not begun then return nil, full end
  local here <close> = begun
  local number = here.number
  here.raw = self.raw
  here.under_way = core.call_with(self.raw, options, function(e, ...)
    reactor.answer(number, e, not e and table.pack(...))
  end, ...)
  reactor.touch()
  reactor.drive(here)
  if here.err then return nil, here.err end
  local results = here.value
  return table.unpack(results, 1, results.n)
end

local function call(self, options, ...)
  reactor.check()
  if self.closed or not self.raw then return refuse(self, ...) end
  local under_way = core.call(self.raw, options, ...)
  if not under_way then return wait(self, options, ...) end
  if reactor.changed then reactor.changed() end
  return under_way
end

function shared.call(self, ...)
  local meta = getmetatable(self)
  if meta ~= Rpc and meta ~= Pool then
    check.self("call", "rpc", "moonfork.rpc or moonfork.pool", self)
  end
  return call(self, nil, ...)
end

local function with(self, given, keys)
  check.type(1, "with", given, "table")
  check.keys(1, "with", given, keys)
  local where = { f = "with", n = 1 }
  local timeout = duration(where, given, "timeout")
  local idempotent = keys.idempotent and flag(where, given, "idempotent") or false
  return setmetatable({ service = self, options = core.call_options(timeout, idempotent),
    timeout = timeout or self.timeout, idempotent = idempotent }, With)
end

function rpc_methods.with(self, given)
  is_rpc(self, "with")
  return with(self, given, valid.with_rpc)
end

function pool_methods.with(self, given)
  is_pool(self, "with")
  return with(self, given, valid.with_pool)
end

function With.__index.call(self, ...)
  if getmetatable(self) ~= With then check.self("call", "with", "moonfork.rpc.with", self) end
  return call(self.service, self.options, ...)
end

With.__call = With.__index.call
Rpc.__call, Pool.__call = shared.call, shared.call

-- ---- ending ----

local function close(self)
  if self.closed then return end
  self.closed, self.cell.closed = true, true
  tell_unreported(self.cell)
  if self.raw then core.service_close(self.raw) end
  reactor.touch()
end

function shared.close(self)
  local meta = getmetatable(self)
  if meta ~= Rpc and meta ~= Pool then
    check.self("close", "rpc", "moonfork.rpc or moonfork.pool", self)
  end
  return close(self)
end

Rpc.__close, Pool.__close = shared.close, shared.close

function Rpc.__gc(self)
  if self.closed then return end
  self.cell.closed = true
  pcall(tell_unreported, self.cell)
end

Pool.__gc = Rpc.__gc

function rpc_methods.process(self)
  is_rpc(self, "process")
  return self.p.object
end

-- ---- pools ----

-- Starts start(done) and calls back, or waits: true, or nil, err.
local function do_or_wait(done, start, cancel)
  if not done then return reactor.await(start, cancel) end
  start(done)
  return true
end

-- A function of the core that refuses tells so at once, its callback is told later.
local function told_later(done, ok, err)
  if ok == nil then post_error(done, err) end
  reactor.touch()
end

-- drain(timeout, done) of a pool, or of what drains like one. start(self, milliseconds, f) begins
-- it, and f(err, report) is called; or gives nil, err. true, and the report where it waits.
local function drain(self, timeout, done, start)
  if done == nil and timeout ~= nil and type(timeout) ~= "number" then
    timeout, done = nil, timeout
  end
  local at = timeout == nil and 1 or 2
  done = check.callback(at, "drain", done)
  local ms = timeout ~= nil and duration({ f = "drain", n = 1 }, { timeout = timeout },
    "timeout", true) or nil
  reactor.check()
  local report = { answered = 0, dropped = 0, interrupted = 0, killed = 0 }
  local ok, err = do_or_wait(done, function(finished)
    local function drained(e, told)
      report = told or report
      return finished(e, not e or nil, report)
    end
    if self.closed then return told_later(drained, nil, reason(self)) end
    if not self.raw then return told_later(drained) end
    told_later(drained, start(self, ms, drained))
  end)
  if done then return true end
  if ok then return true, report end
  return nil, err, report
end

function pool_methods.drain(self, timeout, done)
  is_pool(self, "drain")
  return drain(self, timeout, done, function(_, ms, drained)
    return core.pool_drain(self.raw, ms, drained)
  end)
end

-- What gives the pool a template: f is its name, start the function of the core.
local function give_template(self, f, start, process, done)
  is_pool(self, f)
  done = check.callback(2, f, done)
  reactor.check()
  local raw, err
  if self.closed then
    err = reason(self)
  else
    raw, err = calls.take(1, f, process)
  end
  local request
  return do_or_wait(done, function(finished)
    local function given(e) return finished(e, not e or nil) end
    if not raw or not self.raw then
      if raw then calls.give_back(process) end
      return told_later(given, nil, err or self.failure)
    end
    request, err = start(self.raw, raw, given)
    if not request then calls.give_back(process) end
    told_later(given, request, err)
  end, function()
    if self.raw and request then core.pool_cancel_reload(self.raw, request) end
  end)
end

function pool_methods.reload(self, process, done)
  return give_template(self, "reload", core.pool_reload, process, done)
end

function pool_methods.add(self, process, done)
  return give_template(self, "add", core.pool_add, process, done)
end

function pool_methods.promote(self, done)
  is_pool(self, "promote")
  done = check.callback(1, "promote", done)
  reactor.check()
  local request
  return do_or_wait(done, function(finished)
    local function promoted(e) return finished(e, not e or nil) end
    if self.closed or not self.raw then return told_later(promoted, nil, reason(self)) end
    local err
    request, err = core.pool_promote(self.raw, promoted)
    told_later(promoted, request, err)
  end, function()
    if self.raw and request then core.pool_cancel_reload(self.raw, request) end
  end)
end

function pool_methods.resize(self, max)
  is_pool(self, "resize")
  check.type(1, "resize", max, "number")
  local n = math.tointeger(max)
  if not n or n < 0 or n > 100000 then
    check.fail(1, "resize", "a whole number from 0 to 100000 expected, got " .. check.show(max))
  end
  reactor.check()
  if self.closed or not self.raw then return nil, reason(self) end
  self.max = n
  local ok, err = core.pool_resize(self.raw, n)
  reactor.touch()
  return ok, err
end

local ENDED = { state = "closed", workers = 0, idle = 0, starting = 0, leaving = 0, queued = 0,
  running = 0 }

local function no_stats()
  local function times() return { p50 = 0, p90 = 0, p99 = 0, max = 0 } end
  return { done = 0, failed = 0, started = 0, deaths = 0, p50 = 0, p99 = 0, queue_time = times(),
    run_time = times(), last = {} }
end

function pool_methods.stats(self)
  is_pool(self, "stats")
  local stats = self.raw and core.pool_stats(self.raw)
  if stats then
    self.last_stats = stats
    return stats
  end
  stats = {}
  for key, value in pairs(self.last_stats or no_stats()) do stats[key] = value end
  for key, value in pairs(ENDED) do stats[key] = value end
  stats.per_worker = {}
  if self.failure then stats.state = "failed" end
  return stats
end

-- The pids of the workers.
function pool_methods.pids(self)
  is_pool(self, "pids")
  return self.raw and core.pool_pids(self.raw) or {}
end

-- ---- map ----

map.call = call

function pool_methods.map(self, ...)
  is_pool(self, "map")
  return map.new(self, { timeout = self.timeout }, ...)
end

function With.__index.map(self, ...)
  if getmetatable(self) ~= With then check.self("map", "with", "moonfork.rpc.with", self) end
  if not mapped[getmetatable(self.service)] then
    error("bad self of 'map': only pools have it, and this is an rpc's", 2)
  end
  return map.new(self.service, self, ...)
end

-- ---- for pools of other modules (nats.lua) ----

calls.is_mapped = mapped
calls.WITH = valid.with_pool
calls.call, calls.with, calls.close, calls.drain = call, with, close, drain
calls.gc = Rpc.__gc
calls.serialiser = serialiser

-- ---- texts ----

-- "moonfork.rpc (worker:f, pid 4711, 3 pending)"
function Rpc.__tostring(self)
  local raw = self.p and self.p.raw
  local pid = raw and not core.inert(raw) and core.pid(raw)
  local state = self.closed and "closed" or self.cell.err and "failed" or "open"
  return ("moonfork.rpc (%s%s, %s)"):format(self.name, pid and ", pid " .. pid or "", state)
end

function Pool.__tostring(self)
  local stats = self.raw and core.pool_stats(self.raw)
  local state = self.closed and "closed" or stats and stats.state or self.failure and "failed"
    or "closed"
  if not stats then return ("moonfork.pool (%s, %s)"):format(self.name, state) end
  return ("moonfork.pool (%s, %s, workers: %d, running: %d, queued: %d)"):format(self.name,
    state, stats.workers, stats.running, stats.queued)
end

function With.__tostring(self)
  return ("moonfork.rpc.with (%s)"):format(tostring(self.service))
end

return calls
