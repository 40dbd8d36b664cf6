-- The engine of `moonfork serve --http`: f(request) -> status, headers, body. Runs in a worker.
-- The connections are http_core's; here a request meets the function.

local core = require "moonfork.http_core"
local clone = require "moonfork.clone"
local log = require "moonfork.serve_log"

local http = {}

local function with_traceback(err)
  return debug.traceback(tostring(type(err) == "table" and err.message or err), 2)
end

--- run(worker): answers requests until the worker has to end (serve_worker.lua).
function http.run(worker)
  local f, access = worker.f, worker.settings.access
  local pid = clone.pid()
  local started = 0

  local function failed(message)
    log.write("error", "failed", {pid = pid, message = message})
  end

  local events = {}

  function events.request(request)
    worker:begin()
    local ok, status, headers, body = xpcall(f, with_traceback, request)
    if not ok then
      failed(status)
      status = nil
    elseif status == nil then
      failed "the function returned no status"
    end
    started = worker:done(not ok)
    return status, headers, body, worker.left <= 0 or worker.draining
  end

  events.failed = failed

  function events.done(request, status, bytes)
    if not access then return end
    log.write("info", "request", {pid = pid, peer = request.peer, request = request.method .. " " .. request.target,
      status = status, bytes = bytes, seconds = started / 1e6})
  end

  local numbers = {}
  for i, listener in ipairs(worker.listeners) do numbers[i] = listener:fileno() end
  assert(core.serve(worker.control:fileno(), numbers,
    function(event, ...) return events[event](...) end,
    function() return worker.draining end, worker.settings.http or {}) == nil)
end

return http
