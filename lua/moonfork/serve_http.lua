-- The engine of `moonfork serve --http`: f(request) -> status, headers, body. Runs in a worker.
-- Connections and requests are http_core's, which calls the function, and counts on the board.

local core = require "moonfork.http_core"
local clone = require "moonfork.clone"
local log = require "moonfork.serve_log"

local http = {}

local function with_traceback(err)
  return debug.traceback(tostring(type(err) == "table" and err.message or err), 2)
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

  assert(core.serve{
    control = worker.control:fileno(), listeners = numbers, row = worker.board:row(worker.row),
    max_requests = settings.max_requests,
    call = worker.f, traceback = with_traceback, done = settings.access and done or nil,
    failed = function(message) log.write("error", "failed", {pid = pid, message = message}) end,
    tick = function() return worker.draining end,
  } == nil)
end

return http
