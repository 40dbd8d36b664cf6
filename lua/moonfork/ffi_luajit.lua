-- The back end of moonfork.ffi for LuaJIT: src/otherlua, in Lua, by ffi on libmoonfork. Runs in
-- the parent. What each function means is said there.
--
-- What C holds is a number (the token of a completion) or memory of its own: the loop is from
-- calloc, strings and structures are borrowed for the call alone. Completions are tables, made
-- before the call that asks for them.
--
-- The library calls back from uv_run only. A few callbacks are made once and serve all; they
-- never raise, fill in the completion and put it into the queue. Compiled code must not be on
-- the stack meanwhile: nothing of this file is compiled, and neither are the others of moonfork.ffi.
local ffi = require "ffi"
require("jit").off(true, true)
require "moonfork.ffi_cdef"

local C = ffi.C
local UV_ASYNC, UV_RUN_NOWAIT = 1, 2
local POLLIN, POLLOUT = 1, 4
local IS_LINUX = ffi.os == "Linux"
local MSG_NOSIGNAL = IS_LINUX and 0x4000 or ffi.os == "OSX" and 0x80000 or 0x20000
local ENOTSOCK = IS_LINUX and 88 or 38
local NO_TIMEOUT = 0xffffffff
local NOMEM, CLOSED = -20012, -20008

-- ---- the library ----

-- Beside this file, as it is installed; then where MOONFORK_LIBRARY says, and where the dynamic
-- linker looks.
local function load_library()
  local name = IS_LINUX and "libmoonfork.so.0" or ffi.os == "OSX" and "libmoonfork.0.dylib"
    or "libmoonfork.so.0"
  local places = { os.getenv "MOONFORK_LIBRARY" }
  local folder = debug.getinfo(1, "S").source:match "^@(.*/)[^/]*$"
  local ok, installed = pcall(require, "moonfork.ffi_place")
  if ok then
    if folder then places[#places + 1] = folder .. installed.beside .. "/" .. name end
    places[#places + 1] = installed.folder .. "/" .. name
  end
  places[#places + 1] = name
  local reasons = {}
  for _, place in ipairs(places) do
    local found, library = pcall(ffi.load, place)
    if found then return library, place end
    reasons[#reasons + 1] = "\n\t" .. tostring(library)
  end
  error("moonfork.ffi: the library of moonfork is not found; install it, or name the file in the "
    .. "environment variable MOONFORK_LIBRARY:" .. table.concat(reasons), 0)
end

local lib, lib_path = load_library()

local core = { library = { ffi.string(lib.mf_version_string()), lib_path } }

local COMMON_SIGNALS = { HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, SEGV = 11, PIPE = 13,
  ALRM = 14, TERM = 15 }
local LINUX_SIGNALS = { USR1 = 10, USR2 = 12, CHLD = 17, CONT = 18, STOP = 19, TSTP = 20,
  TTIN = 21, TTOU = 22, URG = 23, XCPU = 24, WINCH = 28 }
local BSD_SIGNALS = { URG = 16, STOP = 17, TSTP = 18, CONT = 19, CHLD = 20, TTIN = 21, TTOU = 22,
  XCPU = 24, WINCH = 28, USR1 = 30, USR2 = 31 }
core.signals = IS_LINUX and LINUX_SIGNALS or BSD_SIGNALS
for name, number in pairs(COMMON_SIGNALS) do core.signals[name] = number end

local function result(code)
  if code >= 0 then return true end
  return nil, code
end

local function errno()
  return lib.uv_translate_sys_error(ffi.errno())
end

-- ---- completions ----

-- { token =, next =, err =, value =, has_* }: all fields are there from the start, so that the
-- callbacks make no table bigger.
local pending = {} -- token -> completion
local first, last

local function completion(token)
  local c = { token = token, next = false, err = false, value = false }
  pending[token] = c
  return c
end

local function push(c)
  if last then last.next = c else first = c end
  last = c
end

local function text(s)
  return s ~= nil and ffi.string(s) or nil
end

local function exit_table(status)
  if status.known == 0 then return { unknown = true } end
  local t = { core = status.core ~= 0, error = text(status.error) }
  if status.signal ~= 0 then t.signal = status.signal else t.code = status.code end
  if status.has_rusage ~= 0 then
    t.rusage = { utime = tonumber(status.utime_us) / 1e6, stime = tonumber(status.stime_us) / 1e6,
      maxrss = tonumber(status.maxrss_bytes) }
  end
  return t
end

local function error_table(err)
  return { code = err.code, message = text(err.message) or ffi.string(lib.mf_strerror(err.code)),
    traceback = text(err.traceback), started = err.started,
    exit = err.exit ~= nil and exit_table(err.exit[0]) or nil }
end

local no_memory = { code = NOMEM, message = "not enough memory", started = 1 }

-- Into the completion: the error, or the value that make(argument) gives. What raises here is the
-- lack of memory.
local function fill(c, err, make, argument)
  if err ~= nil then
    c.err = error_table(err[0])
  elseif make then
    c.value = make(argument)
  end
end

local function complete(c, err, make, argument)
  if not pcall(fill, c, err, make, argument) then c.err = no_memory end
  push(c)
end

local function token_of(data)
  return tonumber(ffi.cast("intptr_t", data))
end

local function data_of(token)
  return ffi.cast("void *", ffi.cast("intptr_t", token))
end

local function take_pending(data)
  local token = token_of(data)
  local c = pending[token]
  pending[token] = nil
  return c
end

local function bytes_of(message)
  return ffi.string(message.data, message.length)
end

-- pop() -> token, error or nil, value or nil; or nothing
function core.pop()
  local c = first
  if not c then return nil end
  first = c.next or nil
  if not first then last = nil end
  return c.token, c.err or nil, c.value or nil
end

-- ---- the loop ----

local loop, wake
local nhandles = 0 -- processes, rpcs and pools that are not closed

local on_wake = ffi.cast("uv_handle_cb", function() end)
local is_woken = false
local on_wake_closed = ffi.cast("uv_handle_cb", function() is_woken = true end)

-- libuv aborts where its first loop finds too few descriptors: three pipes are as many.
local function loop_room()
  local fds, n, code = ffi.new("int[6]"), 0, 0
  while n < 6 and code == 0 do
    if C.pipe(fds + n) == 0 then n = n + 2 else code = errno() end
  end
  for i = 0, n - 1 do C.close(fds[i]) end
  return code
end

function core.open()
  if loop then return true end
  local code = loop_room()
  if code < 0 then return nil, code end
  local l = ffi.cast("struct uv_loop_s *", C.calloc(1, lib.uv_loop_size()))
  local w = C.calloc(1, lib.uv_handle_size(UV_ASYNC))
  code = (l == nil or w == nil) and NOMEM or lib.uv_loop_init(l)
  if code == 0 then
    code = lib.uv_async_init(l, w, on_wake)
    if code < 0 then lib.uv_loop_close(l) end
  end
  if code < 0 then
    C.free(l)
    C.free(w)
    return nil, code
  end
  lib.uv_unref(w)
  loop, wake = l, w
  return true
end

local function turn()
  lib.uv_ref(wake) -- a loop that only has idle things would not look at them
  lib.uv_run(loop, UV_RUN_NOWAIT)
  lib.uv_unref(wake)
end

function core.turn()
  if loop then turn() end
end

function core.outstanding(is_queue_alone)
  return first ~= nil or (not is_queue_alone and loop ~= nil and lib.uv_loop_alive(loop) ~= 0)
end

local function loop_timeout()
  if first then return 0 end
  if not loop then return -1 end
  lib.uv_update_time(loop)
  lib.uv_ref(wake)
  local ms = lib.uv_backend_timeout(loop)
  lib.uv_unref(wake)
  return ms
end

local polled = ffi.new("struct mf_pollfd[2]")

function core.block(seconds, fd, events)
  local ms = loop_timeout()
  if seconds then
    local most = math.max(0, math.min(math.ceil(seconds * 1000), 1000000000))
    if ms < 0 or most < ms then ms = most end
  end
  polled[0].fd, polled[0].events, polled[0].revents = -1, POLLIN, 0
  polled[1].fd, polled[1].events, polled[1].revents = fd or -1, POLLIN, 0
  if loop then polled[0].fd = lib.uv_backend_fd(loop) end
  if events == "w" then polled[1].events = POLLOUT end
  return C.poll(polled, 2, ms) > 0 and polled[1].revents ~= 0
end

function core.now()
  return tonumber(lib.uv_hrtime()) / 1e9
end

function core.shutdown()
  if not loop then return end
  lib.mf_reset(loop)
  for _ = 1, 5000 do
    if nhandles == 0 then break end
    turn()
    if nhandles > 0 then C.poll(nil, 0, 1) end
  end
  lib.uv_close(wake, on_wake_closed)
  for _ = 1, 5000 do
    lib.uv_run(loop, UV_RUN_NOWAIT)
    if is_woken and lib.uv_loop_close(loop) == 0 then
      C.free(wake) -- else it is still in use: leave it
      C.free(loop)
      break
    end
    C.poll(nil, 0, 1)
  end
  loop, wake = nil, nil
  while first do
    local c = first
    if c.is_socket and c.value then C.close(c.value) end
    first = c.next or nil
  end
end

-- ---- processes ----

-- A process is a table with the pointer, so that it is a key of its own.
local function on_close(_, data)
  pending[token_of(data)] = nil -- the failure that never came
  nhandles = nhandles - 1
end

local function on_error(_, err, data)
  local c = take_pending(data)
  if c then complete(c, err) end
end

local function on_run(_, err, fd, data)
  local c = take_pending(data)
  if err == nil then c.value = fd end
  complete(c, err)
end

local function on_exit(_, status, data)
  complete(take_pending(data), nil, exit_table, status[0])
end

local close_cb = ffi.cast("mf_close_cb", on_close)
local error_cb = ffi.cast("mf_error_cb", on_error)
local run_cb = ffi.cast("mf_run_cb", on_run)
local exit_cb = ffi.cast("mf_exit_cb", on_exit)

-- The options' names in plain tables, and the fields: src/bind/option_fields.h, which the check
-- ffi.lua compares.
local PROCESS_STRINGS = { program = "program", cwd = "cwd", name = "name", path = "lua_path",
  cpath = "lua_cpath", image = "image" }
local PROCESS_NUMBERS = { gc = "gc", leash = "leash", handles = "handles", session = "new_session",
  timeout = "timeout_ms", spares_min = "spares_min", spares_max = "spares_max", dumpable = "dumpable",
  tree = "tree", beat = "beat_ms", window = "window", isolation = "isolation", lazy = "lazy",
  verify = "image_verify" }
local RPC_STRINGS = { init = "init", serialiser = "serialiser" }
local RPC_FLAGS = { async = "async", handles = "handles", strict = "strict",
  strict_classes = "strict_classes" }
local RPC_NUMBERS = { timeout = "timeout_ms", grace = "grace_ms", message_max = "message_max" }
local POOL_NUMBERS = { max = "max", idle = "idle", load = "load", start = "start_ms",
  stop = "stop_ms", queue_max = "queue_max", max_calls = "max_calls",
  call_timeout = "call_timeout_ms", max_memory = "max_memory", burst = "restart_burst",
  period = "restart_period_ms", starts = "restart_starts", grace = "grace_ms",
  backoff_min = "backoff_min_ms", backoff_max = "backoff_max_ms", tree = "tree",
  isolation = "isolation", lazy = "lazy" }

-- A struct keeps the address of a string, and the table the string.
local function set_fields(options, names, plain)
  for name, field in pairs(names) do
    if plain[name] then options[field] = plain[name] end
  end
end

-- Its pointers lead into the table and what that keeps.
local function options_of(plain)
  local options = ffi.new "mf_options"
  lib.mf_options_init(options)
  options.loop = loop
  set_fields(options, PROCESS_STRINGS, plain)
  set_fields(options, PROCESS_NUMBERS, plain)
  for i, name in ipairs { "stdin", "stdout", "stderr" } do
    if plain[name] then
      options.stdio[i - 1].kind, options.stdio[i - 1].fd = plain[name], plain[name .. "_fd"] or 0
    end
  end
  if plain.env then
    plain.env_pointers = ffi.new("const char *[?]", #plain.env + 1)
    for i, change in ipairs(plain.env) do plain.env_pointers[i - 1] = change end
    options.env = plain.env_pointers
  end
  return options
end

function core.make(source, how, plain, token)
  local options = options_of(plain)
  local room = ffi.new "mf_process *[1]"
  local code
  if source then
    code = lib.mf_fork_options(source.mf, options, room)
  elseif how == "new_exec" then
    code = lib.mf_new_exec(options, room)
  else
    code = lib.mf_new(options, room)
  end
  if code < 0 then return nil, code end
  nhandles = nhandles + 1
  completion(token)
  lib.mf_on_error(room[0], error_cb, data_of(token))
  return { mf = room[0], token = token }
end

function core.require(p, module)
  return result(lib.mf_require(p.mf, module))
end

function core.eval(p, code, ...)
  local n = select("#", ...)
  local texts = { ... }
  local argv, lengths = ffi.new("const char *[?]", n + 1), ffi.new("size_t[?]", n + 1)
  for i = 1, n do argv[i - 1], lengths[i - 1] = texts[i], #texts[i] end
  return result(lib.mf_eval(p.mf, code, #code, n, argv, lengths))
end

function core.send_arg(p, s)
  return result(lib.mf_send_arg(p.mf, s, #s))
end

function core.send_fd(p, fd)
  return result(lib.mf_send_fd(p.mf, fd))
end

-- Calls f with the token as data; forgets the completion when it refuses.
local function asked(token, code)
  if code < 0 then pending[token] = nil end
  return result(code)
end

function core.run(p, name, token)
  completion(token).is_socket = true
  return asked(token, lib.mf_run(p.mf, name, run_cb, data_of(token)))
end

function core.on_exit(p, token)
  if not p.mf then return nil, CLOSED end -- an rpc had it, whose end is about to be told
  completion(token)
  return asked(token, lib.mf_on_exit(p.mf, exit_cb, data_of(token)))
end

function core.finish(p)
  return result(lib.mf_finish(p.mf))
end

function core.kill(p, number)
  return result(p.mf and lib.mf_kill(p.mf, number) or CLOSED)
end

function core.pid(p)
  local pid = p.mf and lib.mf_pid(p.mf) or -1
  return pid >= 0 and pid or nil
end

function core.close(p)
  lib.mf_close(p.mf, close_cb, data_of(p.token))
end

-- ---- descriptors ----

function core.read(fd, n)
  local buffer = ffi.new("char[?]", n)
  local got = tonumber(C.read(fd, buffer, n))
  if got < 0 then return nil, errno() end
  return ffi.string(buffer, got)
end

-- MSG_NOSIGNAL: a peer that is gone is no reason to end.
function core.write(fd, data, from)
  local start, length = ffi.cast("const char *", data) + (from - 1), #data - from + 1
  local n = tonumber(C.send(fd, start, length, MSG_NOSIGNAL))
  if n < 0 and ffi.errno() == ENOTSOCK then n = tonumber(C.write(fd, start, length)) end
  if n < 0 then return nil, errno() end
  return n
end

function core.close_fd(fd)
  return result(C.close(fd) < 0 and errno() or 0)
end

-- ---- rpcs and pools ----

-- A service is a table: { rpc = or pool =, tokens of news, procs }. C has the token of its last
-- completion, which is its key here.
local services = {}

local function news(data, name, err, make, argument)
  local s = services[token_of(data)]
  local c = { token = s[name], next = false, err = false, value = false }
  return complete(c, err, make, argument)
end

-- What raises is the lack of memory: the news is lost then.
local function on_event(message, data)
  pcall(news, data, "event", nil, bytes_of, message[0])
end

local function on_trouble(err, data)
  pcall(news, data, "trouble", err)
end

local function on_notice(data)
  pcall(news, data, "notice")
end

local function on_reply(err, reply, data)
  complete(take_pending(data), err, reply ~= nil and bytes_of or nil, reply ~= nil and reply[0])
end

local EVENTS = { [0] = "started", "ended", "killed", "recycled" }
local told = { event = 0, pid = 0, reason = 0 } -- to on_worker

local function worker_table()
  return { event = EVENTS[told.event], pid = told.pid, reason = text(told.reason) }
end

local function on_worker(event, pid, reason, data)
  told.event, told.pid, told.reason = event, pid, reason
  pcall(news, data, "worker", nil, worker_table)
end

local drain_report = ffi.new "mf_drain_report"
drain_report.size = ffi.sizeof "mf_drain_report"

local function report_table(pool)
  lib.mf_pool_drain_report(pool, drain_report)
  return { answered = tonumber(drain_report.answered), dropped = tonumber(drain_report.dropped),
    interrupted = tonumber(drain_report.interrupted), killed = drain_report.killed }
end

local function on_drained(pool, err, data)
  local c = take_pending(data)
  local ok, report = pcall(report_table, pool)
  c.value = ok and report
  complete(c, err)
end

local function on_pool(_, err, data)
  complete(take_pending(data), err)
end

local function on_over(_, data)
  local token = token_of(data)
  local s = services[token]
  services[token], s.is_over = nil, true
  for _, p in ipairs(s.procs) do
    pending[p.token], p.mf = nil, nil
    nhandles = nhandles - 1
  end
  nhandles = nhandles - 1
  push(take_pending(data))
end

local event_cb = ffi.cast("mf_event_cb", on_event)
local trouble_cb = ffi.cast("mf_trouble_cb", on_trouble)
local notice_cb = ffi.cast("mf_notice_cb", on_notice)
local reply_cb = ffi.cast("mf_reply_cb", on_reply)
local pool_cb = ffi.cast("mf_pool_cb", on_pool)
local drained_cb = ffi.cast("mf_pool_cb", on_drained)
local worker_cb = ffi.cast("mf_worker_cb", on_worker)
local rpc_over_cb = ffi.cast("mf_rpc_close_cb", on_over)
local pool_over_cb = ffi.cast("mf_pool_close_cb", on_over)

function core.serve(kind, p, name, plain)
  local options = ffi.new "mf_rpc_options"
  lib.mf_rpc_options_init(options)
  set_fields(options, RPC_STRINGS, plain)
  set_fields(options, RPC_FLAGS, plain)
  set_fields(options, RPC_NUMBERS, plain)
  if plain.event > 0 then options.on_event = event_cb end
  options.on_error, options.on_close = trouble_cb, notice_cb
  options.data = data_of(plain.over)
  local s = { event = plain.event, trouble = plain.trouble, notice = plain.notice,
    worker = plain.worker, token = plain.over, procs = { p } }
  services[plain.over] = s
  completion(plain.over)
  local code
  if kind == "pool" then
    local pool_options, room = ffi.new "mf_pool_options", ffi.new "mf_pool *[1]"
    lib.mf_pool_options_init(pool_options)
    pool_options.rpc = options
    set_fields(pool_options, POOL_NUMBERS, plain)
    if plain.worker > 0 then pool_options.on_worker = worker_cb end
    pool_options.worker_data = data_of(plain.over)
    code = lib.mf_pool_new(p.mf, name, pool_options, room)
    s.pool = room[0]
  else
    local room = ffi.new "mf_rpc *[1]"
    code = lib.mf_rpc_new(p.mf, name, options, room)
    s.rpc = room[0]
  end
  if code < 0 then
    services[plain.over], pending[plain.over] = nil, nil
    return nil, code
  end
  s.is_pool = kind == "pool"
  nhandles = nhandles + 1
  return s
end

local request, call_options = ffi.new "mf_message", ffi.new "mf_call_options"
local call_id = ffi.new "uint64_t[1]"

function core.call(s, bytes, timeout, is_idempotent, token)
  local c = completion(token)
  request.data, request.length = ffi.cast("const char *", bytes), #bytes
  call_options.size, call_options.timeout_ms = ffi.sizeof "mf_call_options", timeout
  call_options.idempotent = is_idempotent and 1 or 0
  local f = s.is_pool and lib.mf_pool_call or lib.mf_rpc_call
  local code = f(s.is_pool and s.pool or s.rpc, request, call_options, reply_cb, data_of(token),
    call_id)
  if code < 0 then return asked(token, code) end
  c.call = call_id[0]
  return c
end

function core.cancel(s, c)
  if s.is_over then return nil, CLOSED end
  return result(s.is_pool and lib.mf_pool_cancel(s.pool, c.call)
    or not s.is_pool and lib.mf_rpc_cancel(s.rpc, c.call))
end

function core.drain(s, ms, token)
  completion(token)
  return asked(token, lib.mf_pool_drain(s.pool, ms or NO_TIMEOUT, drained_cb, data_of(token)))
end

local function give_template(give, s, p, token)
  completion(token)
  local ok, code = asked(token, give(s.pool, p.mf, pool_cb, data_of(token)))
  if ok then s.procs[#s.procs + 1] = p end
  return ok, code
end

function core.reload(...)
  return give_template(lib.mf_pool_reload, ...)
end

function core.add(...)
  return give_template(lib.mf_pool_add, ...)
end

function core.promote(s, token)
  completion(token)
  return asked(token, lib.mf_pool_promote(s.pool, pool_cb, data_of(token)))
end

function core.resize(s, max)
  return result(lib.mf_pool_resize(s.pool, max))
end

local STATES = { [0] = "running", "failed", "draining", "closed" }
local COUNTS = { "max", "workers", "idle", "starting", "leaving", "queued", "running", "calls",
  "done", "failed", "refused", "timeouts", "cancelled", "retried", "late", "started", "deaths",
  "recycled", "retired", "killed", "templates", "template_starts", "reloads", "promotions", "events",
  "memory" }

local function times(t)
  return { p50 = tonumber(t.p50_us) / 1e6, p90 = tonumber(t.p90_us) / 1e6,
    p99 = tonumber(t.p99_us) / 1e6, max = tonumber(t.max_us) / 1e6 }
end

local function deaths(info)
  local list = {}
  for i = 1, info.nlast do
    local d = info.last[i - 1]
    list[i] = { pid = d.pid >= 0 and d.pid or nil, age = tonumber(d.age_ms) / 1e3,
      reason = ffi.string(d.reason), exit = exit_table(d.exit) }
  end
  return list
end

local function workers(pool)
  local size = ffi.sizeof "mf_pool_worker"
  local n = tonumber(lib.mf_pool_workers(pool, nil, size, 0))
  local found, list = ffi.new("mf_pool_worker[?]", n + 1), {}
  n = math.min(n, tonumber(lib.mf_pool_workers(pool, found, size, n)))
  for i = 1, n do
    local w = found[i - 1]
    local run_time = times(w.run_time)
    run_time.total = tonumber(w.run_us) / 1e6
    list[i] = { pid = w.pid, calls = tonumber(w.calls), running = w.running,
      memory = tonumber(w.memory), shared = tonumber(w.shared), run_time = run_time }
  end
  return list
end

function core.stats(s)
  if s.is_over then return nil, CLOSED end
  local info = ffi.new "mf_pool_info"
  info.size = ffi.sizeof "mf_pool_info"
  local code = lib.mf_pool_stats(s.pool, info)
  if code < 0 then return nil, code end
  local stats = { state = STATES[info.state], p50 = tonumber(info.p50_us) / 1e6,
    p99 = tonumber(info.p99_us) / 1e6, queue_time = times(info.queue_time),
    run_time = times(info.run_time), per_worker = workers(s.pool), last = deaths(info) }
  for _, name in ipairs(COUNTS) do stats[name] = tonumber(info[name]) end
  return stats
end

function core.pids(s)
  if s.is_over then return {} end
  local n = tonumber(lib.mf_pool_pids(s.pool, nil, 0))
  local room, list = ffi.new("int[?]", n + 1), {}
  local now = tonumber(lib.mf_pool_pids(s.pool, room, n))
  for i = 1, math.min(n, now) do list[i] = room[i - 1] end
  return list
end

function core.abort(s)
  if s.is_over then return end
  if s.is_pool then lib.mf_pool_abort(s.pool) else lib.mf_rpc_abort(s.rpc) end
end

function core.finish_service(s)
  if s.is_ending then return end
  s.is_ending = true
  if s.is_pool then
    lib.mf_pool_close(s.pool, pool_over_cb, data_of(s.token))
  else
    lib.mf_rpc_close(s.rpc, rpc_over_cb, data_of(s.token))
  end
end

-- ---- texts ----

function core.error_name(code)
  return ffi.string(lib.mf_errname(code))
end

function core.error_text(code)
  return ffi.string(lib.mf_strerror(code))
end

return core
