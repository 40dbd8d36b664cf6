-- require "moonfork.nats": pools on many machines, over a NATS server (doc/nats.md). A node gives
-- the calls of a subject to a pool of this program; a pool of this module is all nodes of a subject.
-- Runs in the parent.
--
--   object -> raw service of moonfork.core -> object of moonfork.nats_core
--      '----> cell <---- the registry, until the service has ended

local core = require("moonfork.load").of(...)
local calls = require "moonfork.calls"
local check = require "moonfork.check"
local jobs = require "moonfork.nats_jobs"
local map = require "moonfork.map"
local reactor = require "moonfork.reactor"
local raw = core.part "moonfork.nats_core"

local nats = {}

local far_methods, node_methods, watch_methods = {}, {}, {}
local Far = { __index = far_methods, __name = "moonfork.nats.pool" }
local Node = { __index = node_methods, __name = "moonfork.nats.node" }
local Watch = { __index = watch_methods, __name = "moonfork.nats.watch" }

-- ---- options ----

local ENGINE = "name user password token creds ca cert key"
local valid = {
  pool = check.set(ENGINE .. " subject timeout queue_max silent serialiser strict_classes"),
  node = check.set(ENGINE .. " subject window beat jobs keep"),
  watch = check.set(ENGINE .. " silent"),
}

local bad = check.option_fail

local NAME_MAX, STREAM_MAX = 64, 64

local function text(where, given, name)
  local value = check.option_text(where, name, given[name])
  if value == "" then bad(where, name, "it is empty") end
  return value
end

local function subject(where, given)
  if where.f == "watch" then return nil end -- all of them
  if given.subject == nil then bad(where, "subject", "string expected, got nil") end
  local value = text(where, given, "subject")
  local fault = raw.subject_fault(value)
  if fault then bad(where, "subject", ("%q can't be used: %s"):format(value, fault)) end
  return value
end

-- A file that can't be read is found at once, and not by every attempt to connect.
local function file(where, given, name)
  local path = text(where, given, name)
  if not path then return nil end
  local handle, err = io.open(path, "rb")
  if not handle then return nil, core.error("ENGINE", ("option '%s': %s"):format(name, err)) end
  handle:close()
  return path
end

local function at_least_10_ms(where, given, name)
  local ms = check.option_duration(where, name, given[name])
  if ms and ms < 10 then bad(where, name, "it is shorter than 0.01 s") end
  return ms
end

-- The plain options of all, and an error of the world.
local function common(f, url, given)
  local at = f == "node" and 2 or 1 -- a pool stands before it
  check.name(at, f, url)
  if url == "" then check.fail(at, f, "the URL of a NATS server expected, got an empty string") end
  local fault = raw.url_fault(url)
  if fault then check.fail(at, f, ("the URL of a NATS server can't be used: %s"):format(fault)) end
  given = check.optional(at + 1, f, given, "table") or {}
  check.keys(at + 1, f, given, valid[f])
  local where, failure = { f = f, n = at + 1 }, nil
  local plain = { url = url, subject = subject(where, given), serialiser = "msgpack" }
  for name in ("name user password token"):gmatch "%S+" do plain[name] = text(where, given, name) end
  for name in ("creds ca cert key"):gmatch "%S+" do
    local err
    plain[name], err = file(where, given, name)
    failure = failure or err
  end
  if plain.name and #plain.name > NAME_MAX then
    bad(where, "name", ("it is longer than %d bytes"):format(NAME_MAX))
  end
  if plain.name and plain.name:find "[\0-\31\127]" then
    bad(where, "name", ("%q can't be used: it has a control character"):format(plain.name))
  end
  if plain.password and not plain.user then bad(where, "password", "there is no 'user'") end
  if (given.cert ~= nil) ~= (given.key ~= nil) then
    bad(where, given.cert and "cert" or "key", "'cert' and 'key' belong together")
  end
  return plain, where, given, failure
end

-- ---- making ----

local function object(meta, make, plain, cell, pool, failure)
  reactor.check()
  local made, err
  if not failure then made, err = core.foreign_new(make(plain), cell, plain, pool) end
  err = failure or err
  local self = setmetatable({ raw = made or nil, failure = err, cell = cell, url = plain.url,
    subject = plain.subject }, meta)
  reactor.touch()
  return self, err
end

-- nats.pool(url, options): calls wait until the engine and a node are there.
function nats.pool(url, given)
  local plain, where, failure
  plain, where, given, failure = common("pool", url, given)
  plain.timeout = check.option_duration(where, "timeout", given.timeout)
  plain.queue_max = check.option_count(where, "queue_max", given.queue_max, 0) or 65536
  plain.silent = at_least_10_ms(where, given, "silent")
  plain.serialiser = calls.serialiser(where, given)
  plain.strict_classes = given.strict_classes ~= nil
    and check.option_type(where, "strict_classes", given.strict_classes, "boolean") or false
  calls.check_classes(where, plain)
  local self = object(Far, raw.far, plain, { is_pool = true, noun = "pool" }, nil, failure)
  self.timeout, self.queue_max, self.serialiser = plain.timeout, plain.queue_max, plain.serialiser
  -- For map, see places. Whether the pool of a node has a call_timeout is not known here.
  self.async, self.message_max, self.max, self.load, self.call_timeout = false, math.maxinteger, 1, 1, true
  return self
end

-- nats.node(pool, url, options): a node, or nil, err.
function nats.node(pool, url, given)
  local meta = getmetatable(pool)
  if type(meta) ~= "table" or meta.__name ~= "moonfork.pool" then
    check.fail(1, "node", ("moonfork.pool expected, got %s"):format(check.type_name(pool)))
  end
  local plain, where, failure
  plain, where, given, failure = common("node", url, given)
  plain.window = check.option_count(where, "window", given.window, 1, 1 << 20)
  plain.beat = at_least_10_ms(where, given, "beat")
  plain.load = pool.load
  plain.jobs = text(where, given, "jobs")
  if plain.jobs and (#plain.jobs > STREAM_MAX or plain.jobs:find "[^%w_-]") then
    bad(where, "jobs", ("the name of a stream expected (letters, digits, - and _), got %q"):format(plain.jobs))
  end
  local keep = check.option_duration(where, "keep", given.keep)
  if keep then plain.keep = math.max(1, keep // 1000) end
  if pool.closed or not pool.raw then
    return nil, pool.failure or core.error("CLOSED", "the pool is closed")
  end
  local self, err = object(Node, raw.node, plain, { is_pool = true, noun = "node", pool = pool }, pool.raw, failure)
  if err then return nil, err end
  return self
end

-- nats.watch(url, options): all nodes of all subjects, for people. Or nil, err.
function nats.watch(url, given)
  local plain, where, failure
  plain, where, given, failure = common("watch", url, given)
  plain.silent = at_least_10_ms(where, given, "silent")
  local self, err = object(Watch, raw.watch, plain, { is_pool = true, noun = "watch" }, nil, failure)
  if err then return nil, err end
  return self
end

-- ---- all ----

local function is(self, meta, f, name)
  if getmetatable(self) ~= meta then check.self(f, name, meta.__name, self) end
end

local function peek(self)
  return self.raw and core.foreign_object(self.raw)
end

local function close_far(self)
  is(self, Far, "close", "pool")
  return calls.close(self)
end

local function close_node(self)
  is(self, Node, "close", "node")
  return calls.close(self)
end

local function close_watch(self)
  is(self, Watch, "close", "watch")
  return calls.close(self)
end

far_methods.close, Far.__close, Far.__gc = close_far, close_far, calls.gc
node_methods.close, Node.__close, Node.__gc = close_node, close_node, calls.gc
watch_methods.close, Watch.__close, Watch.__gc = close_watch, close_watch, calls.gc

-- ---- pools ----

function far_methods.call(self, ...)
  is(self, Far, "call", "pool")
  return calls.call(self, nil, ...)
end

Far.__call = far_methods.call

function far_methods.with(self, given)
  is(self, Far, "with", "pool")
  return calls.with(self, given, calls.WITH)
end

calls.is_mapped[Far] = true

function far_methods.map(self, ...)
  is(self, Far, "map", "pool")
  return map.new(self, { timeout = self.timeout }, ...)
end

-- ---- stored jobs ----

for name, method in pairs(jobs.methods) do
  far_methods[name] = function(self, ...)
    is(self, Far, name, "pool")
    return method(self, ...)
  end
end

local PLACES_MIN, PAYLOAD = 16, 1 << 20 -- before any node is known

-- For map: how many calls the nodes would take, their workers, and how long a message may be.
function far_methods.places(self)
  local object_ = peek(self)
  if not object_ then return PLACES_MIN, 1, PAYLOAD end
  local places, workers, bytes = raw.far_places(object_)
  return math.max(places, PLACES_MIN), workers, bytes
end

function far_methods.drain(self, timeout, done)
  is(self, Far, "drain", "pool")
  return calls.drain(self, timeout, done, function(_, ms, drained)
    return core.foreign_ask(self.raw, { timeout = ms, plain = true }, function(err)
      local object_ = peek(self)
      return drained(err, object_ and raw.far_drained(object_))
    end)
  end)
end

local ENDED = { state = "closed", engine = "closed", nodes = 0, workers = 0, queued = 0, running = 0 }
local ENDED_WATCH = { engine = "closed" }

-- What it said last, where it has ended.
local function stats(self, read, empty, ended)
  local object_ = peek(self)
  local now = object_ and read(object_)
  if now then
    self.last_stats = now
    return now
  end
  now = {}
  for key, value in pairs(self.last_stats or empty) do now[key] = value end
  for key, value in pairs(ended or ENDED) do now[key] = value end
  if self.failure then now.state, now.engine_reason = "failed", tostring(self.failure) end
  return now
end

local NO_CALLS = { calls = 0, done = 0, failed = 0, refused = 0, timeouts = 0, cancelled = 0, late = 0,
  retried = 0, lost = 0, bad = 0, connects = 0, bytes_in = 0, bytes_out = 0, p50 = 0, p90 = 0, p99 = 0,
  max = 0 }

local JOBS_SECONDS = 1 -- that stats waits for what the engine says of jobs, where they are used

function far_methods.stats(self)
  is(self, Far, "stats", "pool")
  local now = stats(self, raw.far_stats, NO_CALLS)
  if self.has_jobs and now.engine == "up" then self.last_jobs = self:jobs(JOBS_SECONDS) or self.last_jobs end
  now.jobs = self.last_jobs
  return now
end

-- The nodes that are known: a list of tables.
function far_methods.nodes(self)
  is(self, Far, "nodes", "pool")
  local object_ = peek(self)
  return object_ and raw.far_nodes(object_) or {}
end

-- ---- nodes ----

function node_methods.drain(self, timeout, done)
  is(self, Node, "drain", "node")
  local ok, err = calls.drain(self, timeout, done, function(_, ms, drained)
    return core.foreign_ask(self.raw, { timeout = ms, plain = true }, function(err) return drained(err) end)
  end)
  return ok, not ok and err or nil
end

local NO_ANSWERS = { window = 0, held = 0, calls = 0, answers = 0, errors = 0, refused = 0, undelivered = 0,
  bad = 0, connects = 0, bytes_in = 0, bytes_out = 0 }

function node_methods.stats(self)
  is(self, Node, "stats", "node")
  return stats(self, raw.node_stats, NO_ANSWERS)
end

-- ---- watches ----

-- groups(): a list of {subject =, nodes = a list as of nodes()}.
function watch_methods.groups(self)
  is(self, Watch, "groups", "watch")
  local object_ = peek(self)
  return object_ and raw.watch_groups(object_) or {}
end

-- jobs(subject [, timeout] [, callback]): as of a pool of that subject.
function watch_methods.jobs(self, name, ...)
  is(self, Watch, "jobs", "watch")
  check.name(1, "jobs", name)
  local fault = raw.subject_fault(name)
  if fault then check.fail(1, "jobs", ("%q can't be used: %s"):format(name, fault)) end
  return jobs.jobs_of(self, name, ...)
end

local NO_BEATS = { bad = 0, connects = 0, bytes_in = 0, bytes_out = 0 }

function watch_methods.stats(self)
  is(self, Watch, "stats", "watch")
  return stats(self, raw.watch_stats, NO_BEATS, ENDED_WATCH)
end

-- ---- texts ----

local function describe(self)
  local now = self:stats()
  return ("%s (%s, %s, engine %s)"):format(getmetatable(self).__name, self.subject,
    self.closed and "closed" or now.state, now.engine)
end

Far.__tostring, Node.__tostring = describe, describe

function Watch.__tostring(self)
  return ("%s (engine %s)"):format(Watch.__name, self:stats().engine)
end

return nats
