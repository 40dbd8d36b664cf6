-- Stored jobs of a pool of moonfork.nats (doc/nats.md): its methods post, result, cancel, on_dead and
-- jobs. Runs in the parent.

local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local reactor = require "moonfork.reactor"
local raw = core.part "moonfork.nats_core"

local methods = {}

local ID_MAX = 128
local LEASE_MIN, LEASE_MAX = 100, 24 * 3600 * 1000 -- milliseconds
local TRIES_MAX = 1000000
local COUNT_MS = 10000 -- of a watch, which has no time limit of its own
local valid = check.set "id delay tries lease timeout"
local bad = check.option_fail

-- Starts a request and calls back, or waits: its values, or nil, err.
local function ask(self, request, done, ...)
  reactor.check()
  if self.closed or not self.raw then
    local err = self.failure or core.error("CLOSED", ("the %s is closed"):format(self.cell.noun))
    if not done then return nil, err end
    reactor.post(function() return done(err) end)
    return true
  end
  if done then
    core.foreign_ask(self.raw, request, done, ...)
    reactor.touch()
    return true
  end
  local begun, full = reactor.wait_new()
  if not begun then return nil, full end
  local here <close> = begun
  local number = here.number
  core.foreign_ask(self.raw, request, function(e, ...)
    reactor.answer(number, e, not e and table.pack(...))
  end, ...)
  reactor.touch()
  reactor.drive(here)
  if here.err then return nil, here.err end
  local values = here.value
  return table.unpack(values, 1, values.n)
end

local function id_of(n, f, value)
  check.type(n, f, value, "string")
  if value == "" or #value > ID_MAX then
    check.fail(n, f, ("an id of 1 to %d bytes expected, got %d"):format(ID_MAX, #value))
  end
  return value
end

local function post_options(given)
  given = check.optional(1, "post", given, "table") or {}
  check.keys(1, "post", given, valid)
  local where = { f = "post", n = 1 }
  local request = { what = "post", plain = true }
  if given.id ~= nil then
    check.option_type(where, "id", given.id, "string")
    if given.id == "" or #given.id > ID_MAX then
      bad(where, "id", ("1 to %d bytes expected, got %d"):format(ID_MAX, #given.id))
    end
    request.id = given.id
  end
  request.delay = check.option_duration(where, "delay", given.delay, true)
  request.tries = check.option_count(where, "tries", given.tries, 1, TRIES_MAX)
  request.lease = check.option_duration(where, "lease", given.lease)
  if request.lease and (request.lease < LEASE_MIN or request.lease > LEASE_MAX) then
    bad(where, "lease", ("0.1 to 86,400 seconds expected, got %s"):format(tostring(given.lease)))
  end
  request.timeout = check.option_duration(where, "timeout", given.timeout)
  return request
end

-- post(options, value... [, callback]): the job's id once it is stored; or nil, err.
function methods.post(self, given, ...)
  local request = post_options(given)
  self.has_jobs = true
  local n = select("#", ...)
  local last = n > 0 and select(n, ...) or nil
  if type(last) ~= "function" then return ask(self, request, nil, ...) end
  local values = table.pack(...)
  return ask(self, request, last, table.unpack(values, 1, n - 1))
end

-- result(id [, timeout] [, callback]): what the function returned; or nil, err.
function methods.result(self, id, timeout, done)
  if done == nil and timeout ~= nil and type(timeout) ~= "number" then
    timeout, done = nil, timeout
  end
  done = check.callback(timeout == nil and 2 or 3, "result", done)
  local ms = check.option_duration({ f = "result", n = 2 }, "timeout", timeout, true) or self.timeout
  self.has_jobs = true
  return ask(self, { what = "result", id = id_of(1, "result", id), timeout = ms }, done)
end

local function taken(text) return text == "1" end

-- cancel(id [, callback]): true where the job waited and is gone, else false; or nil, err.
function methods.cancel(self, id, done)
  done = check.callback(2, "cancel", done)
  self.has_jobs = true
  local request = { what = "cancel", plain = true, id = id_of(1, "cancel", id) }
  if done then
    return ask(self, request, function(err, text)
      if err then return done(err) end
      return done(nil, taken(text))
    end)
  end
  local text, err = ask(self, request)
  if not text then return nil, err end
  return taken(text)
end

local COUNTS = { "waiting", "delayed", "running", "redelivered", "results", "dead", "leftover" }

local function counts_of(text)
  local counts, words = {}, {}
  for word in text:gmatch "%S+" do words[#words + 1] = word end
  for i, name in ipairs(COUNTS) do counts[name] = math.tointeger(tonumber(words[i])) end
  counts.stream = words[#COUNTS + 1]
  return counts
end

local function count(self, request, done)
  if done then
    return ask(self, request, function(err, text) return done(err, not err and counts_of(text) or nil) end)
  end
  local text, err = ask(self, request)
  if not text then return nil, err end
  return counts_of(text)
end

-- Numbers of arguments: where `timeout` stands, n.
local function count_arguments(n, timeout, done)
  if done == nil and timeout ~= nil and type(timeout) ~= "number" then
    timeout, done = nil, timeout
  end
  done = check.callback(timeout == nil and n or n + 1, "jobs", done)
  return check.option_duration({ f = "jobs", n = n }, "timeout", timeout), done
end

-- jobs([timeout] [, callback]): how many jobs there are, a table; or nil, err.
function methods.jobs(self, timeout, done)
  local ms
  ms, done = count_arguments(1, timeout, done)
  return count(self, { what = "count", plain = true, timeout = ms }, done)
end

-- on_dead(f): f(id, tries, err) for each job whose tries are used up from now on; nil: no more.
function methods.on_dead(self, f)
  f = check.callback(1, "on_dead", f)
  reactor.check()
  local object = self.raw and core.foreign_object(self.raw)
  self.cell.on_event = f and function(letter)
    local id, tries, code, message, traceback = ("<s4s4s4s4s4"):unpack(letter)
    local err = core.error(code, message, true)
    if traceback ~= "" then err.traceback = traceback end
    return f(id, math.tointeger(tonumber(tries)), err)
  end or nil
  if object then raw.far_listen(object, f and self.serialiser or nil) end
  reactor.touch()
  return self
end

--- jobs_of(watch, subject [, timeout] [, callback]): the same of any subject, for a watch.
local function jobs_of(self, subject, timeout, done)
  local ms
  ms, done = count_arguments(2, timeout, done)
  return count(self, { plain = true, subject = subject, timeout = ms or COUNT_MS }, done)
end

return { methods = methods, jobs_of = jobs_of }
