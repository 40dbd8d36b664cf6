-- moonfork serve: a pre-forked server.

local cli = require "moonfork.cli"
local service = require "moonfork.cli.service"
local template = require "moonfork.cli.template"

local command = {
  name = "serve",
  summary = "run a pre-forked server",
  description = [[
N workers, forked from one template, accept on common listeners and call FUNCTION(connection) for
each connection, one at a time in each worker; when it returns the connection is closed. Workers
that end are replaced, with a growing delay if they had served nothing.

Without --listen the sockets that systemd passes (LISTEN_FDS) are used.]],
  arguments = {template.argument},
  options = {
    {long = "--listen", value = "ADDRESS", many = true,
     help = "host:port, [v6]:port, *:port, /path, ./path or @name; several times for several listeners"},
    {short = "-n", long = "--workers", value = "N", kind = "count", default = "the processors",
     help = "Worker processes"},
    template.options[1],
    template.options[2],
    template.image,
    {long = "--raw", help = "Call FUNCTION(socket, listener...) once in each worker, which accepts by itself"},
    {long = "--http", help = "Speak HTTP/1.1: FUNCTION(request) returns status, headers, body"},
    {long = "--async", help = "Call FUNCTION in a coroutine for each connection (with --http: each request):"
       .. " while one waits for its connection or for luv, others go on"},
    {long = "--connections", value = "N", kind = "count", default = "10000", needs = {"--http", "--async"},
     help = "With --http and --async: connections that a worker has at the same time; further ones wait"},
    {long = "--max-bodies", value = "BYTES", kind = "bytes", default = "256M", needs = {"--http"},
     help = "With --http: bodies of requests that a worker has at the same time; beyond, 503 (K, M, G)"},
    {long = "--max-requests", value = "N", kind = "count",
     help = "Replace a worker after N requests, a tenth more or less"},
    {long = "--max-memory", value = "BYTES", kind = "bytes",
     help = "Replace a worker whose private memory is larger (K, M, G)"},
    {long = "--timeout", value = "S", kind = "seconds",
     help = "Seconds that one request may take; then the log shows where the function hangs, and its worker"
       .. " is replaced"},
    {long = "--grace", value = "S", kind = "seconds", default = "30",
     help = "Seconds that workers have to finish at a reload and at the end"},
    {long = "--user", value = "NAME", help = "Run template and workers as this user"},
    {long = "--group", value = "NAME", help = "Run template and workers with this group"},
    {long = "--pid", value = "FILE", kind = "file", help = "Write the process id of the server to FILE"},
    {long = "--watch", value = "DIR", kind = "file", many = true,
     help = "Reload when a file below DIR changes"},
    {long = "--log", value = "FORMAT", kind = {"text", "json"},
     help = "Log events and connections to standard output: text or json"},
    {long = "--status", value = "ADDRESS",
     help = "Answer HTTP there: /status is JSON, /metrics is Prometheus text"},
    {long = "--trace", value = "FILE", kind = "file",
     help = "Write a timeline for Perfetto (ui.perfetto.dev)"},
  },
  notes = {
    {"HTTP", [[
With --http a request is a table with method, target, path, query, headers (names in lower case),
body, peer and version. The function returns a status, a table of headers or nil, and a body: a
string, nil, or a function whose strings become a chunked answer. Idle and slow connections hold no
worker.]]},
    {"Coroutines", [[
With --async a worker has any number of connections. The methods of a connection that have to wait
(read, write, accept, ...) suspend the function's coroutine, as do those of other moonfork.sockets;
timers and handles of luv can be used, whose loop runs beside. A function that computes, or waits
in another way, holds up the other connections of its worker. It needs luv.]]},
    {"Signals", [[
SIGHUP loads a new template. Its workers take over when all of them are ready, while the old ones
finish their requests. Where it can't be loaded, the old ones go on.

SIGTERM and SIGINT: workers finish their requests, then the server ends. A second one ends it at
once.

SIGTTIN and SIGTTOU add a worker and remove one.]]},
    {"systemd", [[
With Type=notify-reload the server tells when it is ready, reloads and stops, and answers the
watchdog (WatchdogSec). Sockets of a socket unit are used without --listen.]]},
  },
  examples = {
    {[[moonfork serve --listen :7000 -e 'function up(c) c:write(c:read("L"):upper()) end' up]],
     "a server in one line"},
    {"moonfork serve --listen /run/app.sock -n 8 -l app --timeout 30 --log json app:handle",
     "eight workers on a UNIX socket"},
    {[[moonfork serve --http --listen :8080 -e 'function hi(r) return 200, nil, "hi\n" end' hi]],
     "an HTTP server"},
    {"moonfork serve --async --listen :7000 \\\n"
      .. "  -e 'function f(c) for l in c:lines \"L\" do c:write(l) end end' f",
     "any number of clients that stay"},
  },
}

-- The sockets that systemd passes, as sd_listen_fds(3) says; nil where there are none.
local function passed_sockets(fork, serve_core)
  local pid, n = os.getenv "LISTEN_PID", tonumber(os.getenv "LISTEN_FDS" or "")
  if not n or n < 1 then return nil end
  if pid and tonumber(pid) ~= require("moonfork.clone").pid() then return nil end
  local sockets = {}
  for fd = 3, 2 + math.min(n, 64) do
    local socket, message = fork.socket.wrap(fd)
    if not socket then cli.fail(cli.UNUSABLE, "descriptor %d of LISTEN_FDS: %s", fd, message) end
    if not serve_core.is_listener(fd) then
      cli.fail(cli.UNUSABLE, "descriptor %d of LISTEN_FDS is no listening socket (in a socket unit: "
        .. "ListenStream=, and not Accept=yes)", fd)
    end
    sockets[#sockets + 1] = socket
  end
  return sockets
end

local BECOME = [[-- =moonfork
local user, group = ...
assert(require("moonfork.serve_core").become(user ~= "" and user or nil, group ~= "" and group or nil))
]]

local function make_template(fork, options)
  return function()
    local process = fork.new_exec{session = "new", image = options.image}
    if options.user or options.group then process:eval(BECOME, options.user or "", options.group or "") end
    if options.async then process:eval [[require("moonfork.serve_luv").defer()]] end
    return template.fill(process, options)
  end
end

function command.main(options)
  local fork = require "moonfork"
  local interrupt = require "moonfork.cli.interrupt"
  local server = require "moonfork.server"
  local serve_core = require "moonfork.serve_core"
  if options.trace then template.trace(options.trace) end
  local sockets = not options.listen and passed_sockets(fork, serve_core) or nil
  if not options.listen and not sockets then
    cli.fail(cli.USAGE, "--listen is missing, and no sockets were passed (LISTEN_FDS); see moonfork serve --help")
  end
  for _, name in ipairs{"http", "async", "timeout", "max-requests"} do
    if options.raw and options[(name:gsub("%-", "_"))] then
      cli.fail(cli.USAGE, "--raw and --%s exclude each other; see moonfork serve --help", name)
    end
  end
  if options.http and not package.searchpath("moonfork.http_core", package.cpath) then
    cli.fail(cli.UNUSABLE, "this moonfork was built without HTTP (Debian: libhttp-parser-dev)")
  end
  local notify = service.notifier(fork)
  local watchdog = tonumber(os.getenv "WATCHDOG_USEC" or "")
  local instance, err = server.new{
    template = make_template(fork, options), name = options["function"], listen = options.listen,
    sockets = sockets, workers = options.workers, raw = options.raw,
    http = options.http, async = options.async, connections = options.connections,
    max_bodies = options.max_bodies, max_requests = options.max_requests,
    max_memory = options.max_memory, timeout = options.timeout, grace = options.grace, log = options.log,
    access = options.log ~= nil,
    on_state = function(state)
      if state == "RELOADING" then
        notify(("RELOADING=1\nMONOTONIC_USEC=%d"):format(serve_core.now()))
      else
        notify(state .. "=1")
      end
    end,
  }
  if not instance then cli.fail_at(options.listen or {}, cli.UNUSABLE, template.first_line(err)) end
  cli.defer(function() instance:close_listeners() end)
  local status
  if options.status then
    status, err = require("moonfork.status").start(instance, options.status)
    if not status then cli.fail_at({options.status}, cli.UNUSABLE, err) end
    cli.defer(function() status:close() end)
  end
  if options.watch then
    local ok
    ok, err = require("moonfork.serve_watch").start(options.watch, function() instance:reload() end)
    if not ok then cli.fail(cli.UNUSABLE, "%s", err) end
  end
  if options.pid then service.write_pid_file(options.pid) end -- the last that can fail: it may be another server's
  interrupt.watch(function() instance:stop() end, function() instance:kill() end)
  assert(fork.signal("HUP", function() instance:reload() end))
  assert(fork.signal("TTIN", function() instance:resize(instance.wanted + 1) end))
  assert(fork.signal("TTOU", function() instance:resize(instance.wanted - 1) end))
  if watchdog then fork.timer(watchdog / 2e6, function() notify "WATCHDOG=1" end, watchdog / 2e6) end
  local ok
  ok, err = instance:run()
  if not ok then
    cli.fail(err.code == "FORK_FAILED" and cli.FAILED or cli.UNUSABLE, "%s", template.first_line(err))
  end
  return interrupt.code or cli.OK
end

return command
