-- A worker of moonfork.server: accepts on the listeners that it was given, and calls a function for
-- each connection. Runs in a clone.
--
--   control   the process's socket: "drain" and the end of the server come over it
--   board     a row of numbers that the server reads: state, since when, counts, durations
--
-- One request at a time; what else is asked of it is looked for between two of them.

local clone = require "moonfork.clone"
local core = require "moonfork.serve_core"
local poll = require("moonfork").socket.poll
local log = require "moonfork.serve_log"
local cells = core.cells
local resolve = require "moonfork.function_name"

local worker = {}

local LINGER_SECONDS, LINGER_BYTES = 2, 1 << 20 -- of a connection that is closed with unread input
local LINGERING_MAX = 64
local PAUSE = 0.1 -- seconds without accepting where descriptors are used up

local Worker = {}
Worker.__index = Worker

-- A request is begun and ended on the board; what hangs in between, the server sees.
function Worker:busy()
  self.board:set(self.row + cells.SINCE, core.now())
  self.board:set(self.row + cells.BUSY, 1)
end

function Worker:idle()
  self.board:set(self.row + cells.BUSY, 0)
end

function Worker:count(us, failed)
  local row, board = self.row, self.board
  board:add(row + cells.REQUESTS)
  if failed then board:add(row + cells.ERRORS) end
  board:record(row + cells.LATENCY, us)
  self.left = self.left - 1
end

function Worker:set_open(n)
  self.board:set(self.row + cells.OPEN, n)
end

-- ---- the log ----

function Worker:failed(message, peer) -- luacheck: no self
  log.write("error", "failed", {pid = clone.pid(), peer = peer, message = message})
end

-- A coroutine took longer than it may: where it is.
function Worker:failed_late(co, peer, seconds) -- luacheck: no self
  log.write("error", "timeout", {pid = clone.pid(), peer = peer, seconds = seconds,
    traceback = debug.traceback(co, "the function was here:")})
end

function Worker:log_connection(peer, began, failed)
  if not self.settings.access then return end
  log.write("info", "connection", {pid = clone.pid(), peer = peer, seconds = (core.now() - began) / 1e6,
    status = failed and "error" or "ok"})
end

-- ---- closing ----

-- Who closes a connection with input that nobody has read makes the kernel reset it, and take back
-- what of the answer is not delivered yet. So our end is shut, and what comes is dropped until the
-- client closes too, within limits. wait(fd, seconds): false when the time is over.
function Worker:linger(connection, wait) -- luacheck: no self
  local fd = connection:getfd()
  if fd < 0 or core.unread(fd) == 0 or not connection:shutdown "write" then return end
  local until_then, left = core.now() + LINGER_SECONDS * 1e6, LINGER_BYTES
  while left > 0 and connection:getfd() == fd do
    local n = core.discard(fd)
    local seconds = (until_then - core.now()) / 1e6
    if not n or seconds <= 0 then return end
    left = left - n
    if n == 0 and wait(fd, seconds) == false then return end
  end
end

-- SIGTERM: from the server when a request took too long, else from a person who wants this worker
-- to end. It comes at a safe point of whatever runs, so the traceback shows where that is.
function Worker:on_term()
  self.draining = true
  self.board:set(self.row + cells.DRAINING, 1)
  if self.board:get(self.row + cells.TIMED_OUT) == 0 then return end
  log.write("error", "timeout", {pid = clone.pid(), seconds = self.settings.timeout,
    traceback = debug.traceback("the function was here:", 2)})
  clone.exit(1)
end

local function with_traceback(err)
  return debug.traceback(tostring(type(err) == "table" and err.message or err), 2)
end

function Worker:serve_connection(connection)
  local peer, began = connection:peer(), core.now()
  self:busy()
  local ok, err = xpcall(self.f, with_traceback, connection)
  local us = core.now() - began
  self:idle()
  self:count(us, not ok)
  if not ok then self:failed(err, peer) end
  self:log_connection(peer, began, not ok)
  self:close(connection)
end

-- Closes it, or lets it linger (see Worker:linger) in a coroutine beside the loop.
function Worker:close(connection)
  if connection:getfd() < 0 then return end
  local list = self.lingering
  local co = coroutine.create(function()
    self:linger(connection, coroutine.yield)
    if connection:getfd() >= 0 then connection:close() end
  end)
  local _, fd, seconds = coroutine.resume(co)
  if coroutine.status(co) == "dead" then return end
  if #list >= LINGERING_MAX then table.remove(list, 1).connection:close() end
  list[#list + 1] = {co = co, connection = connection, fd = fd, until_then = core.now() + seconds * 1e6}
end

-- Gives those that linger a turn; when they end: the others, and seconds until the first is late.
function Worker:look_at_lingering()
  local first
  for i = #self.lingering, 1, -1 do
    local one, now = self.lingering[i], core.now()
    if one.connection:getfd() >= 0 and coroutine.status(one.co) == "suspended" then
      coroutine.resume(one.co, now < one.until_then)
    end
    if coroutine.status(one.co) == "dead" then
      table.remove(self.lingering, i)
    else
      first = math.min(first or math.huge, one.until_then)
    end
  end
  return first and math.max(0, (first - core.now()) / 1e6)
end

-- True when this worker has to end.
function Worker:is_told()
  local line = self.control:read "l"
  return line == nil or line == "drain"
end

-- One of the listeners is ready. False when this worker shall not go on.
function Worker:accept(listener)
  local connection, _, errno = listener:accept()
  if connection then
    connection:settimeout(nil)
    self:serve_connection(connection)
  elseif core.is_shortage(errno) then
    poll({self.control}, PAUSE) -- else another worker was faster
  end
  return not self.draining and self.left > 0
end

function Worker:loop()
  local control, sockets = self.control, {}
  while not self.draining and self.left > 0 do
    local seconds = self:look_at_lingering()
    for i = #sockets, 1, -1 do sockets[i] = nil end
    sockets[1] = control
    table.move(self.listeners, 1, #self.listeners, 2, sockets)
    for _, one in ipairs(self.lingering) do sockets[#sockets + 1] = one.connection end
    for _, ready in ipairs(assert(poll(sockets, seconds))) do
      if ready == control then
        if self:is_told() then return end
      elseif self.is_listener[ready] and not self:accept(ready) then
        return
      end
    end
  end
end

-- Before the process ends, and its descriptors with it.
function Worker:end_lingering()
  while true do
    local seconds = self:look_at_lingering()
    if not seconds then return end
    local sockets = {}
    for i, one in ipairs(self.lingering) do sockets[i] = one.connection end
    poll(sockets, seconds)
  end
end

--- main(control, board, listener..., row, cells, function, settings): the worker's life. settings is
-- Lua source of a table.
function worker.main(control, board_file, ...)
  local given = table.pack(...)
  local settings = load("return " .. given[given.n])()
  local self = setmetatable({control = control, settings = settings}, Worker)
  self.row = math.tointeger(tonumber(given[given.n - 3]))
  local ncells = math.tointeger(tonumber(given[given.n - 2]))
  self.board = assert(core.map(board_file:fileno(), ncells))
  board_file:close()
  self.f = resolve(given[given.n - 1])
  self.listeners = table.move(given, 1, given.n - 4, 1, {})
  self.left = settings.max_requests or math.huge
  log.configure(settings.log, self.board, ncells - 1)
  self.board:set(self.row + cells.PID, clone.pid())
  clone.on_term(function() self:on_term() end)
  if settings.engine == "raw" then
    return self.f(control, table.unpack(self.listeners))
  end
  self.lingering, self.is_listener = {}, {}
  for _, listener in ipairs(self.listeners) do
    listener:settimeout(0)
    self.is_listener[listener] = true
  end
  if settings.engine then
    return require(settings.engine).run(self)
  end
  self:loop()
  self:end_lingering()
end

return worker
