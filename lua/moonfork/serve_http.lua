-- The engine of `moonfork serve --http`: f(request) -> status, headers, body. Runs in a worker.
-- Connections and requests are http_core's, which calls the function, and counts on the board. With
-- --async the function runs in a coroutine; http_core goes on with others while it is suspended.

local core = require("moonfork.load").part "moonfork.http_core"
local clone = require "moonfork.clone"
local log = require "moonfork.serve_log"

local http = {}

local function with_traceback(err)
  return debug.traceback(tostring(type(err) == "table" and err.message or err), 2)
end

-- ---- functions that run in coroutines ----

-- The records of requests, one each, of which http_core hears later.
local Later = {}
Later.__index = Later

local function new_later()
  return setmetatable({suspended = {}, ended = {}, first = 1, last = 0}, Later)
end

function Later:is_empty()
  return self.first > self.last
end

function Later:push(record)
  if record.is_forgotten then return end
  self.last = self.last + 1
  self.ended[self.last] = record
end

-- The next one that nobody has forgotten meanwhile; nil: there is none.
function Later:pop()
  while not self:is_empty() do
    local record = self.ended[self.first]
    self.ended[self.first] = nil
    self.first = self.first + 1
    if not record.is_forgotten then
      self.suspended[record.connection] = nil
      return record
    end
  end
end

function Later:suspend(record)
  self.suspended[record.connection] = record
end

function Later:forget(connection)
  local record = self.suspended[connection]
  self.suspended[connection] = nil
  record.is_forgotten = true
  return record
end

-- A body that is a function runs in a coroutine, too, and may wait. http_core asks for a piece: it
-- gets it, or false, and is told by result() when it shall ask again.
local function pieces(later, record, body)
  local is_under_way, is_told_later, is_there, succeeded, piece = false, false, false, nil, nil
  local function take()
    is_there, is_told_later = false, false
    if not succeeded then error(piece, 0) end
    return piece or nil
  end
  local co = coroutine.create(function()
    repeat
      succeeded, piece = xpcall(body, with_traceback)
      is_under_way, is_there = false, true
      if is_told_later then later:push(record) end
      local is_last = not succeeded or not piece
      coroutine.yield()
    until is_last
  end)
  record.co, record.is_streaming = co, true
  return function()
    if is_there then return take() end
    if not is_under_way then
      is_under_way = true
      assert(coroutine.resume(co))
      if is_there then return take() end
    end
    is_told_later = true
    later:suspend(record)
    return false
  end
end

local function answer_of(later, record)
  local body = record.body
  if type(body) == "function" then body = pieces(later, record, body) end
  return record.status or nil, record.headers, body
end

-- What http_core asks for there.
local function in_coroutines(worker, options)
  local loop = require("moonfork.serve_coroutines").new(worker)
  local f, timeout = worker.f, worker.settings.timeout
  local later, events = new_later(), {}

  local function run(record)
    record.succeeded, record.status, record.headers, record.body = xpcall(f, with_traceback, record.request)
    record.is_finished = true
    if record.is_suspended then later:push(record) end
  end

  function options.call(request, connection)
    local record = {request = request, connection = connection}
    record.co = coroutine.create(run)
    assert(coroutine.resume(record.co, record))
    if not record.is_finished then
      record.is_suspended = true
      later:suspend(record)
      return false
    end
    if not record.succeeded then error(record.status, 0) end
    return answer_of(later, record)
  end

  function options.traceback(err) return err end -- it has one

  function options.coroutines(is_ready)
    for i = 1, is_ready and loop.loop:wait(0, events) or 0 do loop:is_ready(events[2 * i - 1], events[2 * i]) end
    loop:turn()
    worker:idle()
    if later:is_empty() then return loop:timeout() end
    return 0
  end

  function options.result()
    local record = later:pop()
    if not record then return nil end
    if record.is_streaming then return record.connection end
    if not record.succeeded then return record.connection, false, record.request, record.status end
    return record.connection, true, record.request, answer_of(later, record)
  end

  function options.forget(connection, is_late)
    local record = later:forget(connection)
    if not is_late then return end
    worker:failed_late(record.co, record.request.peer, timeout)
    pcall(coroutine.close, record.co)
  end

  options.coroutines_fd, options.timeout = loop.loop:fileno(), timeout
end

--- run(worker): answers requests until the worker has to end (serve_worker.lua).
function http.run(worker)
  local pid, settings = clone.pid(), worker.settings
  local numbers = {}
  for i, listener in ipairs(worker.listeners) do numbers[i] = listener:fileno() end

  local function done(request, status, bytes, us)
    log.write("info", "request", {pid = pid, peer = request.peer, request = request.method .. " " .. request.target,
      status = status, bytes = bytes, seconds = us / 1e6})
  end

  local options = {
    control = worker.control:fileno(), listeners = numbers, row = worker.board:row(worker.row),
    max_requests = settings.max_requests, connections = settings.connections, bodies_max = settings.bodies,
    call = worker.f, traceback = with_traceback, done = settings.access and done or nil,
    failed = function(message) worker:failed(message) end,
    tick = function() return worker.draining end,
  }
  if settings.async then in_coroutines(worker, options) end
  assert(core.serve(options) == nil)
end

return http
