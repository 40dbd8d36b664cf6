-- The engine of `moonfork serve --async`: f(connection) in a coroutine for each connection. Runs in a
-- worker, in one thread: while a function waits for its socket or for luv, others go on.

local core = require "moonfork.serve_core"
local coroutines = require "moonfork.serve_coroutines"

local async = {}

local ACCEPTS = 16 -- at one wake-up, so that other workers have some too
local PAUSE = 100 -- milliseconds without accepting where descriptors are used up

local function with_traceback(err)
  return debug.traceback(tostring(type(err) == "table" and err.message or err), 2)
end

local Engine = {}
Engine.__index = Engine

-- ---- connections ----
-- One whose function runs, or waits for something else than its client, is in a list in the order of
-- its time limit: it began to do so later than those before it.

local Record = {}
Record.__index = Record

function Record:rest()
  if not self.next then return end
  self.next.prev, self.prev.next = self.prev, self.next
  self.next, self.prev = nil, nil
end

function Record:go_on()
  if self.next or self.is_finished then return end
  local head = self.list
  self.since = core.now()
  self.next, self.prev = head, head.prev
  head.prev.next, head.prev = self, self
end

local function finish(self, record, failed)
  record.is_finished = true
  record:rest()
  self.coroutines:forget_input(record.fd, record)
  self.worker:count(core.now() - record.began, failed)
  self.worker:log_connection(record.peer, record.began, failed)
end

local function leave(self, record)
  if record.has_left then return end
  record.has_left = true
  if record.connection:getfd() >= 0 then record.connection:close() end
  self.open = self.open - 1
  self.worker:set_open(self.open)
end

-- What a connection's coroutine runs.
local function serve(self, record)
  local worker, connection = self.worker, record.connection
  local ok, err = xpcall(worker.f, with_traceback, connection)
  if not ok then worker:failed(err, record.peer) end
  finish(self, record, not ok)
  worker:linger(connection, function(fd, seconds) return self.coroutines:wait(fd, "r", seconds) end)
  leave(self, record)
end

function Engine:start(connection)
  connection:settimeout(nil)
  local record = setmetatable({connection = connection, peer = connection:peer(), began = core.now(),
    fd = connection:fileno(), list = self.list}, Record)
  self.open = self.open + 1
  self.worker:set_open(self.open)
  record.co = coroutine.create(serve)
  if self.limit then
    record:go_on()
    self.coroutines:expect_input(record.fd, record)
  end
  self.worker:busy()
  assert(coroutine.resume(record.co, self, record))
end

function Engine:accept(listener)
  for _ = 1, ACCEPTS do
    if self.open >= self.connections_max or not self:wants_more() then return end
    local connection, _, errno = listener:accept()
    if not connection then
      if core.is_shortage(errno) then self.pause_until = core.now() + PAUSE * 1000 end
      return -- else another worker was faster
    end
    self:start(connection)
  end
end

-- ---- the time limit of functions that wait ----

local function expire(self, record)
  local worker = self.worker
  worker:failed_late(record.co, record.peer, self.limit)
  finish(self, record, true)
  pcall(coroutine.close, record.co)
  leave(self, record)
end

-- Milliseconds until the next one is late; -1: none will be.
function Engine:look_at_deadlines()
  local record = self.list.next
  while record ~= self.list do
    local left = record.since + self.limit * 1e6 - core.now()
    if left > 0 then return math.ceil(left / 1000) end
    expire(self, record)
    record = self.list.next
  end
  return -1
end

-- ---- the loop ----

-- Whether this worker serves further connections.
function Engine:wants_more()
  return not self.worker.draining and self.worker.left - self.open > 0
end

function Engine:watch_listeners()
  local now = self.pause_until and core.now() or 0
  if self.pause_until and now >= self.pause_until then self.pause_until = nil end
  local wanted = not self.pause_until and self.open < self.connections_max and self:wants_more()
  if wanted == self.accepting then return end
  self.accepting = wanted
  for fd in pairs(self.listeners) do assert(self.coroutines.loop:keep(fd, wanted, true)) end
end

local function earlier(a, b)
  if a < 0 or b < 0 then return math.max(a, b) end
  return math.min(a, b)
end

function Engine:timeout()
  local timeout = self.coroutines:timeout()
  if self.limit then timeout = earlier(timeout, self:look_at_deadlines()) end
  if self.pause_until then timeout = earlier(timeout, PAUSE) end
  return timeout
end

function Engine:turn(events)
  local worker, loop = self.worker, self.coroutines.loop
  local timeout = self:timeout()
  worker:idle()
  local n = loop:wait(timeout, events)
  self.coroutines.uv.update_time()
  for i = 1, n do
    local fd, flags = events[2 * i - 1], events[2 * i]
    if fd == self.control then
      if worker:is_told() then
        worker.draining = true
        loop:keep(fd, false)
      end
    elseif self.listeners[fd] then
      self:accept(self.listeners[fd])
    else
      self.coroutines:is_ready(fd, flags)
    end
  end
  self.coroutines:turn()
end

--- run(worker): serves until the worker has to end (serve_worker.lua).
function async.run(worker)
  local settings = worker.settings
  local self = setmetatable({worker = worker, coroutines = coroutines.new(worker), open = 0, accepting = false,
    connections_max = settings.connections, limit = settings.timeout, list = {},
    control = worker.control:fileno(), listeners = {}}, Engine)
  self.list.next, self.list.prev = self.list, self.list
  for _, listener in ipairs(worker.listeners) do self.listeners[listener:fileno()] = listener end
  assert(self.coroutines.loop:keep(self.control, true))
  local events = {}
  while self.open > 0 or self:wants_more() do
    self:watch_listeners()
    self:turn(events)
  end
end

return async
