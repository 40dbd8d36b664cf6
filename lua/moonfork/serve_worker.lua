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

local Worker = {}
Worker.__index = Worker

-- A request is begun and ended on the board; what hangs in between, the server sees.
function Worker:begin()
  self.board:set(self.row + cells.SINCE, core.now())
  self.board:set(self.row + cells.BUSY, 1)
end

function Worker:done(failed)
  local row, board = self.row, self.board
  local us = core.now() - board:get(row + cells.SINCE)
  board:set(row + cells.BUSY, 0)
  board:add(row + cells.REQUESTS)
  if failed then board:add(row + cells.ERRORS) end
  board:record(row + cells.LATENCY, us)
  self.left = self.left - 1
  return us
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
  local peer = connection:peer()
  self:begin()
  local ok, err = xpcall(self.f, with_traceback, connection)
  local closed = connection:getfd() < 0
  if not closed then connection:close() end
  local us = self:done(not ok)
  if not ok then log.write("error", "failed", {pid = clone.pid(), peer = peer, message = err}) end
  if self.settings.access then
    log.write("info", "connection", {pid = clone.pid(), peer = peer, seconds = us / 1e6,
      status = ok and "ok" or "error"})
  end
end

-- True when this worker has to end.
function Worker:is_told()
  local line = self.control:read "l"
  return line == nil or line == "drain"
end

function Worker:loop()
  local control = self.control
  local sockets = table.move(self.listeners, 1, #self.listeners, 2, {control})
  while not self.draining and self.left > 0 do
    for _, ready in ipairs(assert(poll(sockets))) do
      if ready == control then
        if self:is_told() then return end
      else
        local connection = ready:accept() -- nil where another worker was faster
        if connection then
          connection:settimeout(nil)
          self:serve_connection(connection)
          if self.draining or self.left <= 0 then break end
        end
      end
    end
  end
end

--- main(control, board, listener..., row, cells, function, settings): the worker's life. settings is
-- Lua source of a table.
function worker.main(control, board_file, ...)
  local given = table.pack(...)
  local settings = load("return " .. given[given.n])()
  local self = setmetatable({control = control, settings = settings}, Worker)
  self.row = math.tointeger(tonumber(given[given.n - 3]))
  self.board = assert(core.map(board_file:fileno(), math.tointeger(tonumber(given[given.n - 2]))))
  board_file:close()
  self.f = resolve(given[given.n - 1])
  self.listeners = table.move(given, 1, given.n - 4, 1, {})
  self.left = settings.max_requests or math.huge
  log.configure(settings.log)
  self.board:set(self.row + cells.PID, clone.pid())
  clone.on_term(function() self:on_term() end)
  if settings.engine == "raw" then
    return self.f(control, table.unpack(self.listeners))
  end
  for _, listener in ipairs(self.listeners) do listener:settimeout(0) end
  if settings.engine then
    return require(settings.engine).run(self)
  end
  self:loop()
end

return worker
