-- moonfork top: a live view of a server by its status address.

local cli = require "moonfork.cli"

local command = {
  name = "top",
  summary = "show what a server is at",
  description = [[
Shows the workers of a server, pool or node by its status address (`moonfork serve --status ADDRESS`):
process id, state, requests, durations, private and shared memory, and the last deaths. On a terminal
the view is renewed every second until Ctrl-C; elsewhere it is printed once.]],
  arguments = {{name = "ADDRESS", help = "The status address: host:port, /path or @name"}},
  options = {
    {short = "-d", long = "--delay", value = "S", kind = "seconds", default = "1",
     help = "Seconds between two looks"},
    {short = "-n", long = "--count", value = "N", kind = "count",
     help = "End after N looks", default = "1 without a terminal"},
  },
  examples = {{"moonfork top /run/app.status", "the server with that status socket"}},
}

local function bytes(n)
  if n >= 1 << 30 then return ("%.1fG"):format(n / (1 << 30)) end
  if n >= 1 << 20 then return ("%.1fM"):format(n / (1 << 20)) end
  return ("%.0fK"):format(n / 1024)
end

local function duration(s)
  if s == 0 then return "-" end
  if s < 0.001 then return ("%.0fus"):format(s * 1e6) end
  if s < 1 then return ("%.1fms"):format(s * 1e3) end
  if s < 120 then return ("%.1fs"):format(s) end
  if s < 7200 then return ("%.0fm"):format(s / 60) end
  return ("%.1fh"):format(s / 3600)
end

--- view(stats, before, seconds, columns): the lines of the view. before: the stats of the last look,
-- so many seconds ago, or nil.
function command.view(stats, before, seconds, columns)
  local lines = {}
  local function put(format, ...) lines[#lines + 1] = format:format(...):sub(1, columns) end
  local rate = before and (stats.requests - before.requests) / seconds
  put("%s, up %s, %d of %d workers, %d busy, %d requests%s, %d errors", stats.state, duration(stats.uptime),
    stats.running, stats.workers, stats.busy, stats.requests,
    rate and (" (%.0f/s)"):format(rate) or "", stats.errors)
  put("p50 %s, p90 %s, p99 %s, max %s; %d reloads, %d failed", duration(stats.latency.p50),
    duration(stats.latency.p90), duration(stats.latency.p99), duration(stats.latency.max), stats.reloads,
    stats.failed_reloads)
  put("%8s %-9s %9s %7s %8s %8s %8s %8s %8s", "PID", "STATE", "REQUESTS", "ERRORS", "P50", "P99", "PRIVATE",
    "SHARED", "AGE")
  for _, worker in ipairs(stats.per_worker) do
    put("%8d %-9s %9d %7d %8s %8s %8s %8s %8s", worker.pid, worker.state, worker.requests, worker.errors,
      duration(worker.p50), duration(worker.p99), bytes(worker.private), bytes(worker.shared),
      duration(worker.age))
  end
  if #stats.deaths > 0 then
    put "last ends:"
    for _, death in ipairs(stats.deaths) do
      put("  %s  %d  %s, %s", os.date("%H:%M:%S", death.time), death.pid, death.reason, death.status)
    end
  end
  return lines
end

-- JSON as serve_status writes it.
local function parse(text)
  local at = 1
  local value
  local function skip() at = text:find("[^%s]", at) or #text + 1 end
  local function string_()
    local finish = at + 1
    while true do
      local c = text:sub(finish, finish)
      if c == '"' then break end
      if c == "" then error "a string does not end" end
      finish = finish + (c == "\\" and 2 or 1)
    end
    local raw = text:sub(at + 1, finish - 1)
    at = finish + 1
    return (raw:gsub("\\u(%x%x%x%x)", function(hex) return utf8.char(tonumber(hex, 16)) end)
      :gsub("\\(.)", {n = "\n", t = "\t", r = "\r", ['"'] = '"', ["\\"] = "\\", ["/"] = "/"}))
  end
  local function members(close, one)
    local result = {}
    at = at + 1
    skip()
    while text:sub(at, at) ~= close do
      one(result)
      skip()
      if text:sub(at, at) == "," then at = at + 1 end
      skip()
      if at > #text then error "it does not end" end
    end
    at = at + 1
    return result
  end
  function value()
    skip()
    local c = text:sub(at, at)
    if c == '"' then return string_() end
    if c == "[" then return members("]", function(list) list[#list + 1] = value() end) end
    if c == "{" then
      return members("}", function(object)
        local key = string_()
        skip()
        at = at + 1
        object[key] = value()
      end)
    end
    local word = text:match("^[%w+.-]+", at) or error "no value"
    at = at + #word
    if word == "true" or word == "false" then return word == "true" end
    if word == "null" then return nil end
    return tonumber(word) or error("no value: " .. word)
  end
  return value()
end

local function look(fork, address)
  local socket, message = fork.socket.connect(address, 5)
  if not socket then return nil, ("can't connect to %s: %s"):format(address, message) end
  socket:settimeout(5)
  socket:limit(1 << 24)
  socket:write "GET /status HTTP/1.0\r\n\r\n"
  local text
  text, message = socket:read "a"
  socket:close()
  local body = text and text:match "^HTTP/1%.%d 200 .-\r\n\r\n(.*)$"
  if not body then return nil, ("%s gave no status (%s)"):format(address, message or "is it a status address?") end
  local ok, stats = pcall(parse, body)
  if not ok or type(stats) ~= "table" or not stats.per_worker then
    return nil, address .. " gave a status that can't be read"
  end
  return stats
end

function command.main(options)
  local fork = require "moonfork"
  local terminal = require "moonfork.cli.terminal"
  local interrupt = require "moonfork.cli.interrupt"
  local is_live = terminal.is_terminal(1)
  local count = options.count or (is_live and math.huge or 1)
  local delay = options.delay or 1
  local ended = false
  interrupt.watch(function() ended = true end, function() ended = true end)
  local before
  for i = 1, count do
    local stats, message = look(fork, options.address)
    if not stats then cli.fail(cli.FAILED, "%s", message) end
    local lines = command.view(stats, before, delay, is_live and terminal.columns(1) or math.maxinteger)
    if is_live then io.stdout:write "\27[H\27[2J" end
    io.stdout:write(table.concat(lines, "\n"), "\n")
    io.stdout:flush()
    before = stats
    if i < count then
      local slept = 0
      while slept < delay and not ended do
        fork.sleep(math.min(0.1, delay - slept))
        slept = slept + 0.1
      end
    end
    if ended then break end
  end
  return cli.OK
end

return command
