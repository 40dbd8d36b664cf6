-- moonfork for other Lua versions: LuaJIT and Lua 5.1 to 5.3 as parents (doc/other-lua.md).
-- Templates and clones are Lua 5.4 all the same. Runs in the parent.
--
--   this file --> moonfork.ffi_luajit, where there is an ffi --> libmoonfork
--            `--> moonfork.ffi51 ... ffi53, the C part       -->
--
-- Both back ends are raw and alike (src/otherlua/otherlua.h). An object is a table with a cell,
-- which is all that is known of it, and a guard, whose finaliser closes what nobody refers to.
-- The back end knows numbers only: a token for each completion, which is the key of a function
-- here. So no C code ever refers to a Lua value, and nothing of Lua runs inside a callback.
-- In the syntax of every Lua.

local jit = rawget(_G, "jit")
local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

if _VERSION ~= "Lua 5.1" and _VERSION ~= "Lua 5.2" and _VERSION ~= "Lua 5.3" then
  error("moonfork.ffi is for LuaJIT and Lua 5.1 to 5.3, and this interpreter is " .. _VERSION ..
    ": it uses require \"moonfork\"", 0)
end

-- A compiled trace may take an object for garbage before a call that was given it has returned.
if jit then jit.off(true, true) end

local VERSION = "0.1.0"

local function load_core()
  if jit and pcall(require, "ffi") then return require "moonfork.ffi_luajit" end
  return require("moonfork.ffi" .. _VERSION:match("(%d)%.") .. _VERSION:match("%.(%d)"))
end

local core = load_core()
if core.version ~= VERSION then
  error("moonfork.ffi: the Lua files in package.path are of moonfork " .. VERSION ..
    ", and its library is of moonfork " .. core.version .. "; both have to be of one version", 0)
end

local fork = { _VERSION = "moonfork " .. VERSION }

local NESTED_MAX = 50
local FOREVER = 0xffffffff
local MILLISECONDS_MAX = 0x7fffffff
local COUNT_MAX = 0x7fffffff

local function pack(...)
  return { n = select("#", ...), ... }
end

-- ---- checks: misuse raises with the position of the program's own call ----

local source = debug.getinfo(1, "S").source

local function raise(text)
  local level = 2
  while true do
    local info = debug.getinfo(level, "S")
    if not info then return error(text, 0) end
    if info.what ~= "C" and info.what ~= "tail" and info.source ~= source then
      error(text, level)
    end
    level = level + 1
  end
end

local function type_name(value)
  local meta = type(value) == "table" and getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or type(value)
end

local function fail(n, f, text)
  raise(("bad argument #%d to '%s' (%s)"):format(n, f, text))
end

local function check_type(n, f, value, expected)
  if type(value) == expected then return value end
  fail(n, f, ("%s expected, got %s"):format(expected,
    value == nil and "no value" or type_name(value)))
end

local function check_name(n, f, value)
  check_type(n, f, value, "string")
  if value:find("%z") or value:find("\0", 1, true) then
    fail(n, f, "string contains a zero byte")
  end
  return value
end

local function callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

local function check_callback(n, f, value)
  if value == nil or callable(value) then return value end
  fail(n, f, "function expected, got " .. type_name(value))
end

local function set(list)
  local keys = {}
  for name in list:gmatch("%S+") do keys[name] = true end
  return keys
end

local function check_keys(n, f, options, valid)
  for key in pairs(options) do
    if not valid[key] then
      local names = {}
      for name in pairs(valid) do names[#names + 1] = name end
      table.sort(names)
      fail(n, f, ("unknown option '%s' (valid: %s)"):format(tostring(key),
        table.concat(names, ", ")))
    end
  end
end

-- where = { f = function, n = argument }
local function bad(where, name, text)
  fail(where.n, where.f, ("option '%s': %s"):format(name, text))
end

local function option_type(where, name, value, kind)
  if type(value) ~= kind then
    bad(where, name, ("%s expected, got %s"):format(kind, type_name(value)))
  end
  return value
end

local function option_text(where, name, value)
  if value == nil then return nil end
  option_type(where, name, value, "string")
  if value:find("%z") or value:find("\0", 1, true) then
    bad(where, name, "string contains a zero byte")
  end
  return value
end

local function option_count(where, name, value, least, most)
  if value == nil then return nil end
  if type(value) ~= "number" or value ~= math.floor(value) or value < least
    or value > (most or COUNT_MAX) then
    bad(where, name, ("a whole number from %d expected, got %s"):format(least, tostring(value)))
  end
  return value
end

-- Seconds, as milliseconds, rounded up. Zero only where it means something.
local function option_duration(where, name, value, zero)
  if value == nil then return nil end
  option_type(where, name, value, "number")
  if value ~= value or value < 0 or (value == 0 and not zero) then
    bad(where, name, ("a %s number of seconds expected, got %s"):format(
      zero and "non-negative" or "positive", tostring(value)))
  end
  if value == math.huge then return FOREVER end
  return math.ceil(math.min(value * 1000, MILLISECONDS_MAX))
end

local function option_flag(where, name, value)
  if value == nil then return 0 end
  return option_type(where, name, value, "boolean") and 1 or 0
end

local function option_callback(where, name, value)
  if value == nil or callable(value) then return value end
  bad(where, name, "function expected, got " .. type_name(value))
end

-- ---- numbers as text: exact, whatever the locale is; nil where it is none (nan) ----

local math_type = rawget(math, "type")
local is_integer = math_type and function(x) return math_type(x) == "integer" end
  or function(x) return x == math.floor(x) and x > -2 ^ 53 and x < 2 ^ 53 end

local function number_text(x)
  if x ~= x then return nil end
  if x == math.huge then return "1e999" end
  if x == -math.huge then return "-1e999" end
  if is_integer(x) then return ("%d"):format(x) end
  for digits = 14, 17 do
    local text = ("%." .. digits .. "g"):format(x)
    if digits == 17 or tonumber(text) == x then
      text = text:gsub("[^%d%-+e]", ".")
      return text:find("[.e]") and text or text .. ".0"
    end
  end
end

-- ---- errors ----

local Error = { __name = "moonfork.error" }

function Error.__tostring(err)
  if not err.traceback then return tostring(err.message) end
  return tostring(err.message) .. "\n" .. err.traceback
end

local function message_of(value)
  return getmetatable(value) == Error and value.message or value
end

function Error.__concat(a, b)
  return message_of(a) .. message_of(b)
end

-- Codes that the system's own errors have in Lua; all others are EINVAL. By name, for numbers
-- differ between systems.
local SYSTEM = { EMFILE = "LIMIT", ENFILE = "LIMIT", E2BIG = "LIMIT", EAGAIN = "LIMIT",
  ENOBUFS = "LIMIT", ENOMEM = "NOMEM", ENOSYS = "UNSUPPORTED" }
local NAMES = set("REMOTE CLONE_DIED TEMPLATE_START TEMPLATE_DIED FORK_FAILED TIMEOUT CANCELLED "
  .. "CLOSED LIMIT PROTOCOL NOMEM UNSUPPORTED")

local function error_name(code)
  local name = core.error_name(code)
  return NAMES[name] and name or SYSTEM[name] or "EINVAL"
end

local function new_error(code, message, started)
  return setmetatable({ code = code, message = message, started = started or "no" }, Error)
end

local function code_error(code)
  return new_error(error_name(code), core.error_text(code))
end

-- From the table of a completion.
local function to_error(raw)
  if not raw then return nil end
  raw.code = error_name(raw.code)
  raw.started = raw.started == 0 and "no" or "unknown"
  return setmetatable(raw, Error)
end

-- ---- the reactor ----

local targets = {} -- token -> f(err, value)
local keeps = {} -- tokens that are told more than once
local due = 0 -- completions that loop() waits for
local last_token = 0
local posted = {} -- functions that are called at the next turn
local handler -- of what callbacks raise
local depth = 0
local closing = false -- the Lua state is

local function new_token(f, is_kept)
  last_token = last_token + 1
  targets[last_token], keeps[last_token] = f, is_kept
  return last_token
end

local function drop_token(token)
  targets[token], keeps[token] = nil, nil
end

-- A token whose completion loop() waits for.
local function due_token(f)
  due = due + 1
  return new_token(function(err, value)
    due = due - 1
    return f(err, value)
  end)
end

local function cancel_due(token)
  due = due - 1
  drop_token(token)
end

local function post(f)
  posted[#posted + 1] = f
end

local function with_traceback(err)
  return { err, debug.traceback(tostring(err), 2) }
end

-- Calls a function of the program's.
local function call_user(f, ...)
  if not handler then
    f(...)
    return
  end
  local args = pack(...)
  local ok, failure = xpcall(function() f(unpack(args, 1, args.n)) end, with_traceback)
  if ok then return end
  if not handler then error(failure[1], 0) end
  handler(failure[1], failure[2])
end

local function post_failure(err)
  post(function()
    if not handler then error(err, 0) end
    handler(err, err.traceback)
  end)
end

-- One turn without waiting, and all that has completed. How many were told.
local function dispatch()
  core.turn()
  local n = 0
  for _ = 1, #posted do -- a waiting call inside of one may have told the others
    local f = table.remove(posted, 1)
    if not f then break end
    n = n + 1
    f()
  end
  while true do
    local token, err, value = core.pop()
    if not token then return n end
    n = n + 1
    local target = targets[token]
    if not keeps[token] then drop_token(token) end
    if target then target(to_error(err), value) end
  end
end

local function too_deep()
  if depth < NESTED_MAX then return nil end
  return new_error("LIMIT", ("more than %d waiting calls inside each other"):format(NESTED_MAX))
end

local function pause(seconds)
  core.block(posted[1] and 0 or seconds)
end

-- begin(done) starts what calls done(err, ...) once; waits for it: ..., or nil, err. When it
-- waits no longer before that (time, an error in a callback), cancel() is called.
local function await(begin, cancel, timeout)
  local full = too_deep()
  if full then return nil, full end
  local answer
  begin(function(...) answer = pack(...) end)
  local deadline = timeout and core.now() + timeout
  depth = depth + 1
  local ok, failure = pcall(function()
    while not answer do
      local left = deadline and deadline - core.now()
      if dispatch() == 0 then
        if left and left <= 0 then return end
        pause(left)
      end
    end
  end)
  depth = depth - 1
  if not answer and cancel then cancel() end
  if not ok then error(failure, 0) end
  if not answer then
    return nil, new_error("TIMEOUT", ("timed out after %s s"):format(tostring(timeout)), "unknown")
  end
  if answer[1] ~= nil then return nil, answer[1] end
  return unpack(answer, 2, answer.n)
end

-- The ends of these processes are awaited although nobody asked: so they leave no zombie. They
-- keep libuv's loop alive, which then says nothing of the commands of others.
local unasked = {}

local function outstanding()
  if due > 0 or posted[1] ~= nil then return true end
  return core.outstanding(next(unasked) ~= nil)
end

-- Runs until nothing is outstanding.
function fork.loop()
  local full = too_deep()
  if full then return nil, full end
  while true do
    local n = dispatch()
    if not outstanding() then return true end
    if n == 0 then pause() end
  end
end

-- Waits up to timeout seconds (0), dispatches, tells whether work is outstanding.
function fork.step(timeout)
  if timeout ~= nil then
    check_type(1, "step", timeout, "number")
    if timeout ~= timeout or timeout < 0 then
      fail(1, "step", "a duration in seconds expected, got " .. tostring(timeout))
    end
  end
  local deadline = core.now() + (timeout or 0)
  local n = dispatch()
  while n == 0 and outstanding() do
    local left = deadline - core.now()
    if left <= 0 then break end
    pause(left)
    n = dispatch()
  end
  return outstanding()
end

-- handler(error, traceback) gets what callbacks raise; nil: the driving call raises it.
function fork.on_error(f)
  handler = check_callback(1, "on_error", f)
end

-- ---- collecting ----

-- Something whose collection calls f.
local newproxy = rawget(_G, "newproxy")
local function guard(f)
  if not newproxy then return setmetatable({}, { __gc = f }) end
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = f
  return proxy
end

-- ---- options of processes ----

local COMMON = "env cwd stdin stdout stderr timeout session leash handles name dumpable tree"
local valid_process = {
  new = set(COMMON),
  fork = set(COMMON),
  new_exec = set(COMMON .. " program path cpath gc spares"),
}

local choices = { -- the numbers are those of moonfork.h
  session = { inherit = 0, new = 1 },
  leash = { kill = 0, term = 1, keep = 2 },
  handles = { inherit = 0, close = 1 },
  gc = { generational = 0, incremental = 1, stop = 2 },
}
local STREAMS = { inherit = 0, null = 1, socket = 2 }
local STREAM_IS_FD, YES, NO = 3, 1, 2

local function choice(where, name, value)
  if choices[name][value] then return choices[name][value] end
  local names = {}
  for known in pairs(choices[name]) do names[#names + 1] = ("'%s'"):format(known) end
  table.sort(names)
  bad(where, name, ("one of %s expected, got %s"):format(table.concat(names, ", "),
    type(value) == "string" and ("'%s'"):format(value) or type_name(value)))
end

local function environment(where, changes)
  local list, failure = {}, nil
  for name, value in pairs(option_type(where, "env", changes, "table")) do
    if type(name) ~= "string" or name == "" or name:find("=", 1, true) then
      bad(where, "env", "not the name of a variable: " .. tostring(name))
    end
    option_text(where, "env", name)
    if value == false then
      list[#list + 1] = name
    elseif type(value) == "number" then
      local text = number_text(value)
      failure = not text and new_error("EINVAL",
        ("option 'env.%s': it is not a number (nan)"):format(name)) or failure
      list[#list + 1] = name .. "=" .. (text or "")
    elseif type(value) == "string" then
      list[#list + 1] = name .. "=" .. option_text(where, "env." .. name, value)
    else
      bad(where, "env." .. name, "string, number or false expected, got " .. type_name(value))
    end
  end
  table.sort(list)
  return list, failure
end

local function is_fd(value)
  return type(value) == "number" and value == math.floor(value) and value > -2 ^ 31
    and value < 2 ^ 31
end

local function stream(where, plain, name, value)
  if STREAMS[value] then
    plain[name] = STREAMS[value]
  elseif is_fd(value) then
    plain[name], plain[name .. "_fd"] = STREAM_IS_FD, value
  else
    bad(where, name, "'inherit', 'null', 'socket' or a descriptor's number expected, got "
      .. (type(value) == "string" and "'" .. value .. "'" or type_name(value)))
  end
end

local function spares(where, plain, value)
  option_type(where, "spares", value, "table")
  for key in pairs(value) do
    if key ~= "min" and key ~= "max" then
      bad(where, "spares", ("unknown field '%s' (valid: max, min)"):format(tostring(key)))
    end
  end
  local min = option_count(where, "spares.min", value.min, 0, 2 ^ 20)
  local max = option_count(where, "spares.max", value.max, 0, 2 ^ 20)
  if not min and not max then bad(where, "spares", "min or max expected") end
  plain.spares_min, plain.spares_max = min or max, max or min
  if plain.spares_min > plain.spares_max then
    bad(where, "spares", ("min (%d) is greater than max (%d)"):format(plain.spares_min,
      plain.spares_max))
  end
end

-- An option that is true, false, or as in what the process is made from.
local function option_choice(where, name, value)
  if value == nil then return nil end
  return option_type(where, name, value, "boolean") and YES or NO
end

-- The plain options; then an error, if they can't be used.
local function process_options(f, given)
  local where = { f = f, n = 1 }
  if given == fork then
    fail(1, f, ("the module itself is no options table; use a dot: fork.%s(...)"):format(f))
  end
  if given ~= nil then check_type(1, f, given, "table") end
  given = given or {}
  check_keys(1, f, given, valid_process[f])
  local plain, failure = {}, nil
  for _, name in ipairs { "path", "cpath", "program", "cwd", "name" } do
    plain[name] = option_text(where, name, given[name])
  end
  local timeout = option_duration(where, "timeout", given.timeout)
  plain.timeout = timeout ~= FOREVER and timeout or nil
  for name in pairs(choices) do
    if given[name] ~= nil then plain[name] = choice(where, name, given[name]) end
  end
  for _, name in ipairs { "dumpable", "tree" } do plain[name] = option_choice(where, name, given[name]) end
  if given.spares ~= nil then spares(where, plain, given.spares) end
  if given.env ~= nil then plain.env, failure = environment(where, given.env) end
  for _, name in ipairs { "stdin", "stdout", "stderr" } do
    if given[name] ~= nil then stream(where, plain, name, given[name]) end
  end
  return plain, failure
end

-- ---- processes ----

local methods = {}
local Process = { __index = methods, __name = "moonfork.process" }

local raws = {} -- what of the back end's is not closed: handle -> "process" or "service"

-- A failure is told once. What a clone's run reported is its source's failure, too.
local function mark_told(cell, err)
  while cell do
    cell.told[err.message] = true
    cell = cell.source
  end
end

local function was_told(cell, err)
  while cell do
    if cell.told[err.message] then return true end
    cell = cell.source
  end
  return false
end

local function tell_unreported(cell, err)
  if was_told(cell, err) then return end
  mark_told(cell, err)
  post_failure(err)
end

-- The chain has failed on this side of the socket. The process is made to fail as well, so that
-- it ends as it would after a failure over there.
local function set_failed(cell, err)
  if cell.err then return end
  if cell.name then err.message = cell.name .. ": " .. err.message end
  cell.err = err
  if cell.raw then
    cell.is_spoiled = true
    core.eval(cell.raw, "error((...), 0)", err.message)
  end
end

-- What a clone of a failed process is told.
local function inherited(err)
  if not err or err.code ~= "CLONE_DIED" then return err end
  local death = new_error("TEMPLATE_DIED", err.message)
  death.traceback, death.exit = err.traceback, err.exit
  return death
end

local function release(cell)
  if cell.raw and not cell.service then
    cell.known_pid = core.pid(cell.raw)
    raws[cell.raw] = nil
    core.close(cell.raw)
  end
  cell.raw = nil
  if cell.error_token then drop_token(cell.error_token) end
end

local function note_unasked(cell)
  unasked[cell] = cell.is_watched and not cell.status and not cell.watchers or nil
end

local function ended(cell, status)
  if cell.status then return end
  cell.status = status
  note_unasked(cell)
  if cell.err and not cell.err.exit then cell.err.exit = status end
  if cell.closed then release(cell) end
  local watchers = cell.watchers
  cell.watchers = nil
  local failure
  for _, watcher in ipairs(watchers or {}) do
    local ok, err = pcall(watcher, status)
    if not ok then failure = failure or { err } end
  end
  if failure then error(failure[1], 0) end
end

-- Asks the library for the end, once. true; or nil, code.
local function watch(cell)
  if cell.is_watched or cell.status then return true end
  local token = new_token(function(_, status) return ended(cell, status) end)
  local ok, code = core.on_exit(cell.raw, token)
  if not ok then
    drop_token(token)
    return nil, code
  end
  cell.is_watched = true
  note_unasked(cell)
  return true
end

local function let_go(cell)
  if cell.service then return end -- the rpc or pool has it, and tells of it
  if cell.err then tell_unreported(cell, cell.err) end
  if cell.raw and not cell.status then -- released when the end is told
    local ends = cell.state == "finished" or cell.state == "serving" and core.finish(cell.raw)
    if ends and watch(cell) then return end
  end
  release(cell)
  if cell.watchers and not cell.is_watched then ended(cell, { unknown = true }) end
end

local function collected(cell)
  if cell.closed or closing then return end
  cell.closed = true
  let_go(cell)
end

local function failed_over_there(cell, err)
  cell.error_token = nil
  if cell.is_spoiled or cell.err then return end
  cell.err = err
  if cell.service then return cell.service.chain_failed(cell, err) end
  if cell.closed then tell_unreported(cell, err) end
end

local function create(f, given, origin)
  local plain, err = process_options(f, given)
  local cell = { state = "serving", told = {}, source = origin, name = plain.name }
  err = err or origin and inherited(origin.err)
  if not err then
    local ok, code = core.open()
    if ok then
      local token = new_token(function(failure) return failed_over_there(cell, failure) end)
      ok, code = core.make(origin and origin.raw, f, plain, token)
      if ok then
        cell.raw, cell.error_token, raws[ok] = ok, token, "process"
      else
        drop_token(token)
      end
    end
    if not ok then
      err = code_error(code)
      if cell.name then err.message = cell.name .. ": " .. err.message end
    end
  end
  cell.err = err
  local self = setmetatable({ cell = cell }, Process)
  self.guard = guard(function() return collected(cell) end)
  return self
end

-- A process forked from the default template, which is started on first use and kept.
function fork.new(given)
  return create("new", given)
end

-- A process in a newly executed interpreter.
function fork.new_exec(given)
  return create("new_exec", given)
end

-- ---- checks of state: they are given the object and give its cell ----

local function state(self, f)
  if getmetatable(self) == Process then return self.cell end
  raise(("calling '%s' on bad self (moonfork.process expected, got %s; use a colon: "
    .. "process:%s(...))"):format(f, self == nil and "no value" or type_name(self), f))
end

local function open(self, f)
  local cell = state(self, f)
  if cell.closed then raise(("'%s': the process is closed"):format(f)) end
  return cell
end

local function serving(self, f)
  local cell = open(self, f)
  if cell.state ~= "serving" then
    raise(("'%s': the process was given run (rpc, pool) already and takes no more commands")
      :format(f))
  end
  return cell
end

-- ---- preparing ----

function methods.fork(self, given)
  return create("fork", given, serving(self, "fork"))
end

local function command(self, f, ...)
  local cell = self.cell
  if cell.err then return self end
  local ok, code = f(cell.raw, ...)
  if not ok then set_failed(cell, code_error(code)) end
  return self
end

function methods.require(self, ...)
  local cell = serving(self, "require")
  for i = 1, select("#", ...) do check_name(i, "require", (select(i, ...))) end
  for i, module in ipairs { ... } do
    if module == "" then
      set_failed(cell, new_error("EINVAL", ("argument #%d of 'require' is empty"):format(i)))
    end
    command(self, core.require, module)
  end
  return self
end

-- All as strings; or nil and the error of the first that can't be sent.
local function arguments(f, first, ...)
  local texts, err = pack(...), nil
  for i = 1, texts.n do
    local value, n = texts[i], first + i - 1
    if type(value) == "number" then
      texts[i] = number_text(value)
      if not texts[i] and not err then
        err = new_error("EINVAL", ("argument #%d of '%s' is not a number (nan)"):format(n, f))
      end
    elseif type(value) ~= "string" then
      fail(n, f, "string or number expected, got " .. type_name(value))
    end
  end
  if err then return nil, err end
  return texts
end

function methods.eval(self, code, ...)
  local cell = serving(self, "eval")
  check_type(1, "eval", code, "string")
  local args, err = arguments("eval", 2, ...)
  if not args then
    set_failed(cell, err)
    return self
  end
  return command(self, core.eval, code, unpack(args, 1, args.n))
end

function methods.send_arg(self, ...)
  local cell = serving(self, "send_arg")
  local args, err = arguments("send_arg", 1, ...)
  if not args then
    set_failed(cell, err)
    return self
  end
  for i = 1, args.n do command(self, core.send_arg, args[i]) end
  return self
end

function methods.send_fd(self, ...)
  local cell = serving(self, "send_fd")
  local n = select("#", ...)
  for i = 1, n do
    local fd = select(i, ...)
    if not is_fd(fd) then
      fail(i, "send_fd", "a descriptor's number expected, got "
        .. (type(fd) == "number" and tostring(fd) or type_name(fd)))
    end
  end
  for i = 1, n do
    local fd = select(i, ...)
    if cell.err then return self end
    local ok, code = core.send_fd(cell.raw, fd)
    if not ok then
      local err = code_error(code)
      err.message = ("argument #%d of 'send_fd': %s"):format(i, err.code == "EINVAL"
        and ("%d is not an open descriptor"):format(fd) or err.message)
      set_failed(cell, err)
    end
  end
  return self
end

-- ---- running ----

local function finished(cell, err)
  cell.state = "finished"
  if not err then return end
  cell.err = cell.err or err
  mark_told(cell, err)
end

-- done(err, fd), later.
local function start(self, cell, name, done)
  local err = cell.err
  if not err and name == "" then err = new_error("EINVAL", "argument #1 of 'run' is empty") end
  if not err then
    local token
    token = due_token(function(failure, fd)
      finished(cell, failure)
      return done(failure, fd, self) -- self: the object stays until now
    end)
    local ok, code = core.run(cell.raw, name, token)
    if not ok then
      cancel_due(token)
      err = code_error(code)
    end
  end
  if err then
    set_failed(cell, err)
    post(function()
      finished(cell, err)
      return done(err)
    end)
  end
  cell.state = "finishing"
end

-- Enters the function. The value is the number of a descriptor, which is the caller's.
function methods.run(self, name, callback)
  local cell = serving(self, "run")
  check_name(1, "run", name)
  check_callback(2, "run", callback)
  if callback then
    start(self, cell, name, function(err, fd) return call_user(callback, err, fd) end)
    return self
  end
  local is_dropped = false
  return await(function(done)
    start(self, cell, name, function(err, fd)
      if is_dropped and fd then return core.close_fd(fd) end
      return done(err, fd)
    end)
  end, function() is_dropped = true end)
end

-- ---- asking ----

function methods.pid(self)
  local cell = open(self, "pid")
  if cell.raw then cell.known_pid = core.pid(cell.raw) or cell.known_pid end
  return cell.known_pid
end

local function signal_number(value)
  if value == nil then return core.signals.TERM end
  if type(value) == "string" then
    local number = core.signals[(value:upper():gsub("^SIG", ""))]
    return number or fail(1, "kill", ("unknown signal '%s'"):format(value))
  end
  if not is_fd(value) or value < 0 or value > 64 then
    fail(1, "kill", "the name or number of a signal expected, got "
      .. (type(value) == "number" and tostring(value) or type_name(value)))
  end
  return value
end

-- Why the process can't be asked.
local function out_of_reach(cell)
  if cell.service and cell.service.is_pool then
    return new_error("UNSUPPORTED", "the process is the template of a pool, which starts it again "
      .. "when it ends")
  end
  return new_error("CLOSED", cell.status and "the process has ended"
    or "the process has not been started")
end

function methods.kill(self, signal)
  local cell = open(self, "kill")
  local number = signal_number(signal)
  if not cell.raw then return nil, out_of_reach(cell) end
  local ok, code = core.kill(cell.raw, number)
  if not ok then return nil, code_error(code) end
  return true
end

-- watcher(status), once, later.
local function tell_end(cell, watcher)
  if not cell.status and cell.raw then
    local ok = watch(cell)
    if ok then
      cell.watchers = cell.watchers or {}
      table.insert(cell.watchers, watcher)
      note_unasked(cell)
      return
    end
  end
  local status = cell.status or { unknown = true }
  post(function() return watcher(status) end)
end

function methods.on_exit(self, callback)
  local cell = open(self, "on_exit")
  if callback == nil then check_type(1, "on_exit", callback, "function") end
  check_callback(1, "on_exit", callback)
  tell_end(cell, function(status) return call_user(callback, status) end)
  return self
end

-- Waits for the end: its status; or nil, err.
function methods.wait(self, timeout)
  local cell = open(self, "wait")
  if timeout ~= nil then
    check_type(1, "wait", timeout, "number")
    if timeout ~= timeout or timeout < 0 then
      fail(1, "wait", "a duration in seconds expected, got " .. tostring(timeout))
    end
    if timeout == math.huge then timeout = nil end
  end
  if not cell.raw and cell.service and cell.service.is_pool then return nil, out_of_reach(cell) end
  local watcher
  local status, err = await(function(done)
    watcher = function(exit) return done(nil, exit) end
    tell_end(cell, watcher)
  end, function()
    for i, other in ipairs(cell.watchers or {}) do
      if other == watcher then
        table.remove(cell.watchers, i)
        break
      end
    end
    if cell.watchers and not cell.watchers[1] then cell.watchers = nil end
    note_unasked(cell)
  end, timeout)
  if not status then return nil, err end
  if not cell.err then return status end
  mark_told(cell, cell.err)
  if cell.err.code == "CLONE_DIED" then return status end
  return nil, cell.err
end

-- ---- ending ----

function methods.close(self)
  local cell = state(self, "close")
  if cell.closed then return end
  cell.closed = true
  return let_go(cell)
end

function Process.__tostring(self)
  local cell = self.cell
  local pid = cell.raw and core.pid(cell.raw) or cell.known_pid
  local words = cell.closed and "closed" or cell.status and "ended" or cell.err and "failed"
    or cell.service and "used by " .. (cell.service.is_pool and "a pool" or "an rpc")
    or ({ finished = "running", finishing = "starting" })[cell.state] or "serving"
  return ("moonfork.process (%s%s, %s)"):format(cell.name and cell.name .. ", " or "",
    pid and "pid " .. pid or "no pid yet", words)
end

-- ---- rpcs and pools: strings there and back ----

local shared = {}
local rpc_methods = setmetatable({}, { __index = shared })
local pool_methods = setmetatable({}, { __index = shared })
local Rpc = { __index = rpc_methods, __name = "moonfork.rpc" }
local Pool = { __index = pool_methods, __name = "moonfork.pool" }
local With = { __index = {}, __name = "moonfork.rpc.with" }

local RPC = "async init on_event on_error on_close serialiser timeout message_max grace"
local POOL = "max idle load start stop queue_max max_calls call_timeout max_memory restart backoff "
  .. "tree"
local valid_service = {
  rpc = set(RPC .. " strict"),
  pool = set(RPC .. " " .. POOL),
  with_rpc = set "timeout",
  with_pool = set "timeout idempotent",
  restart = set "burst period",
  backoff = set "min max",
}

local char, byte = string.char, string.byte

-- Each string is its length (32 bits, the lowest byte first) and its bytes.
local function encode(what, ...)
  local parts = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "number" then value = number_text(value) or value end
    if type(value) ~= "string" then
      return nil, new_error("EINVAL", ("%s %d: a %s can't be sent by this serialiser"):format(what,
        i, type_name(value)))
    end
    local n = #value
    if n >= 2 ^ 32 - 1 then
      return nil, new_error("LIMIT", ("%s %d: the string is too long"):format(what, i))
    end
    parts[2 * i - 1] = char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256,
      math.floor(n / 16777216))
    parts[2 * i] = value
  end
  return table.concat(parts)
end

-- The strings, packed; nil: it is no such message.
local function decode(bytes)
  local values, at, n = {}, 1, 0
  while at <= #bytes do
    local a, b, c, d = byte(bytes, at, at + 3)
    if not d then return nil end
    local length = a + b * 256 + c * 65536 + d * 16777216
    if length > #bytes - at - 3 then return nil end
    n = n + 1
    values[n] = bytes:sub(at + 4, at + 3 + length)
    at = at + 4 + length
  end
  values.n = n
  return values
end

local function option_name(where, name, value)
  if option_text(where, name, value) == "" then bad(where, name, "a name expected, got \"\"") end
  return value
end

local function inner(where, given, name)
  if given[name] == nil then return {} end
  check_keys(where.n, where.f, option_type(where, name, given[name], "table"), valid_service[name])
  return given[name]
end

local function pool_options(where, given, plain)
  local function count(name, least, most)
    plain[name] = option_count(where, name, given[name], least, most)
  end
  count("max", 0, 100000)
  count("idle", 0)
  count("load", 1)
  count("queue_max", 0)
  count("max_calls", 1)
  count("max_memory", 1, 2 ^ 53)
  plain.start = option_duration(where, "start", given.start, true)
  plain.stop = option_duration(where, "stop", given.stop, true)
  plain.call_timeout = option_duration(where, "call_timeout", given.call_timeout)
  plain.tree = option_choice(where, "tree", given.tree)
  if plain.idle and plain.max and plain.idle > plain.max then
    bad(where, "idle", ("%d is more than max (%d)"):format(plain.idle, plain.max))
  end
  local restart = inner(where, given, "restart")
  plain.burst = option_count(where, "burst", restart.burst, 0, 1000)
  plain.period = option_duration(where, "period", restart.period)
  local backoff = inner(where, given, "backoff")
  plain.backoff_min = option_duration(where, "min", backoff.min, true)
  plain.backoff_max = option_duration(where, "max", backoff.max, true)
  if plain.backoff_min and plain.backoff_max and plain.backoff_min > plain.backoff_max then
    bad(where, "backoff", ("min (%s) is more than max (%s)"):format(tostring(backoff.min),
      tostring(backoff.max)))
  end
end

local function service_options(f, name, given)
  local where = { f = f, n = 2 }
  check_name(1, f, name)
  if name == "" then fail(1, f, "the name of a function expected") end
  if given ~= nil then check_type(2, f, given, "table") end
  given = given or {}
  check_keys(2, f, given, valid_service[f])
  if given.serialiser ~= nil and given.serialiser ~= "string" then
    bad(where, "serialiser", "'string' expected, the only one here, got "
      .. (type(given.serialiser) == "string" and ("'%s'"):format(given.serialiser)
        or type_name(given.serialiser)))
  end
  local plain = {
    serialiser = "string",
    async = option_flag(where, "async", given.async),
    strict = option_flag(where, "strict", given.strict),
    init = option_name(where, "init", given.init),
    timeout = option_duration(where, "timeout", given.timeout),
    message_max = option_count(where, "message_max", given.message_max, 16, 2 ^ 32),
    grace = option_duration(where, "grace", given.grace, true),
  }
  local service = {
    name = name,
    is_pool = f == "pool",
    on_event = option_callback(where, "on_event", given.on_event),
    on_error = option_callback(where, "on_error", given.on_error),
    on_close = option_callback(where, "on_close", given.on_close),
  }
  if f == "pool" then pool_options(where, given, plain) end
  return plain, service
end

-- ---- what services tell besides answers ----

local DEATHS = { CLONE_DIED = true, TEMPLATE_DIED = true, FORK_FAILED = true, PROTOCOL = true }

-- Of a pool only what its template failed at: that a template or a worker dies is its business.
local function tell_service(service)
  local err = service.chain or not service.is_pool and service.err
  if service.is_told or not err then return end
  service.is_told = true
  tell_unreported(service.process, err)
end

local function trouble(service, err)
  if err.code ~= "CANCELLED" then service.err = err end -- else it was closed: no news
  if service.on_error then
    service.is_told = true
    mark_told(service.process, err)
    return call_user(service.on_error, err)
  end
  if service.closed then tell_service(service) end
end

local function event(service, bytes)
  local values = bytes and decode(bytes)
  if values then return call_user(service.on_event, unpack(values, 1, values.n)) end
  return trouble(service, new_error("PROTOCOL", "an event that is not made of strings", "unknown"))
end

-- Nothing follows this.
local function over(service)
  for _, token in ipairs(service.tokens) do drop_token(token) end
  raws[service.raw] = nil
  service.raw = nil
  for _, cell in ipairs(service.cells) do
    if cell.error_token then drop_token(cell.error_token) end
    cell.raw = nil
    if not cell.status and cell.watchers then ended(cell, { unknown = true }) end
  end
end

-- ---- making ----

-- The process is the service's from now on. Nothing may be asked of a pool's template: it is the
-- pool that closes it.
local function take(service, cell)
  raws[cell.raw] = nil
  cell.service = service
  service.cells[#service.cells + 1] = cell
  if service.is_pool then cell.raw = nil end
end

local finish

local function begin_service(self, f, name, given)
  local cell = serving(self, f)
  local plain, service = service_options(f, name, given)
  service.process, service.cells, service.tokens = cell, {}, {}
  function service.chain_failed(failed, err)
    if DEATHS[err.code] or failed ~= cell then return end -- a reload tells of its own
    service.chain = err
    if service.closed then tell_service(service) end
  end
  local function kept(target)
    local token = new_token(target, true)
    table.insert(service.tokens, token)
    return token
  end
  local err = cell.err
  if not err then
    plain.event = service.on_event and kept(function(_, bytes) return event(service, bytes) end)
      or 0
    plain.trouble = kept(function(e) return trouble(service, e) end)
    plain.notice = kept(function()
      if service.on_close then return call_user(service.on_close) end
    end)
    plain.over = kept(function() return over(service) end)
    local raw, code = core.serve(f, cell.raw, name, plain)
    if not raw then
      for _, token in ipairs(service.tokens) do drop_token(token) end
      err = code_error(code)
      service.failure = err
    else
      service.raw, raws[raw] = raw, "service"
      take(service, cell)
    end
  else
    mark_told(cell, err)
    service.failure = f == "pool" and inherited(err) or err
    service.chain = service.failure
    if service.on_error then
      local failure = service.failure
      post(function() return trouble(service, failure) end)
    end
  end
  if service.raw or cell.err then cell.state = "finished" end
  local object = setmetatable({ service = service, process_object = f == "rpc" and self or nil },
    f == "rpc" and Rpc or Pool)
  object.guard = guard(function()
    if service.closed or closing then return end
    return finish(service)
  end)
  return object
end

function methods.rpc(self, name, given)
  return begin_service(self, "rpc", name, given)
end

function methods.pool(self, name, given)
  return begin_service(self, "pool", name, given)
end

-- ---- calls ----

local function service_of(self, f, expected)
  local meta = getmetatable(self)
  if (meta == Rpc or meta == Pool) and (not expected or meta == expected) then
    return self.service
  end
  raise(("calling '%s' on bad self (%s expected, got %s; use a colon: %s:%s(...))"):format(f,
    expected == Pool and "moonfork.pool" or expected == Rpc and "moonfork.rpc"
      or "moonfork.rpc or moonfork.pool", self == nil and "no value" or type_name(self),
    expected == Pool and "pool" or "rpc", f))
end

local function reason(service)
  return service.failure or new_error("CLOSED",
    service.is_pool and "the pool is closed" or "the rpc is closed")
end

local Call = { __index = {}, __name = "moonfork.call" }

-- The callback gets CANCELLED. Whether the call was still waiting.
function Call.__index.cancel(call)
  if not call.raw or not call.service.raw then return false end
  return core.cancel(call.service.raw, call.raw) == true
end

local function failed_call(done, err)
  post(function() return done(err) end)
  return setmetatable({}, Call)
end

-- done(err, results...), later. Gives what can be cancelled.
local function begin_call(self, options, done, ...)
  local service = self.service
  if service.closed or not service.raw then
    local err = reason(service)
    if service.failure then
      service.is_told = true
      mark_told(service.process, err)
    end
    return failed_call(done, err)
  end
  local bytes, err = encode("argument", ...)
  if not bytes then return failed_call(done, err) end
  local call = setmetatable({ service = service }, Call)
  local token = due_token(function(failure, reply)
    call.raw = nil
    if failure then
      mark_told(service.process, failure)
      if failure.started == "no" or DEATHS[failure.code] then service.is_told = true end
      return done(failure, nil, self) -- self: the object stays until now
    end
    local values = decode(reply)
    if not values then
      return done(new_error("PROTOCOL", "a result that is not made of strings", "unknown"))
    end
    return done(nil, unpack(values, 1, values.n))
  end)
  local raw, code = core.call(service.raw, bytes, options.timeout or 0, options.idempotent or false,
    token)
  if not raw then
    cancel_due(token)
    return failed_call(done, code_error(code))
  end
  call.raw = raw
  return call
end

local NO_OPTIONS = {}

local function call(self, options, ...)
  local n = select("#", ...)
  local callback = n > 0 and select(n, ...) or nil
  if type(callback) ~= "function" then
    local args, under_way = pack(...), nil
    return await(function(done)
      under_way = begin_call(self, options, done, unpack(args, 1, args.n))
    end, function() under_way:cancel() end)
  end
  local args = pack(...)
  return begin_call(self, options, function(...) return call_user(callback, ...) end,
    unpack(args, 1, n - 1))
end

function shared.call(self, ...)
  service_of(self, "call")
  return call(self, NO_OPTIONS, ...)
end

Rpc.__call, Pool.__call = shared.call, shared.call

function shared.with(self, given)
  local service = service_of(self, "with")
  check_type(1, "with", given, "table")
  check_keys(1, "with", given, valid_service[service.is_pool and "with_pool" or "with_rpc"])
  local where = { f = "with", n = 1 }
  return setmetatable({ target = self, options = {
    timeout = option_duration(where, "timeout", given.timeout),
    idempotent = option_flag(where, "idempotent", given.idempotent) == 1,
  } }, With)
end

function With.__index.call(self, ...)
  if getmetatable(self) ~= With then
    raise("calling 'call' on bad self (moonfork.rpc.with expected)")
  end
  return call(self.target, self.options, ...)
end

With.__call = With.__index.call

-- ---- ending ----

function finish(service)
  service.closed = true
  tell_service(service)
  if not service.raw then return end
  if service.process.raw then watch(service.process) end -- the library closes it then
  core.finish_service(service.raw)
end

-- No more calls; those under way finish.
function shared.close(self)
  local service = service_of(self, "close")
  if service.closed then return end
  return finish(service)
end

function rpc_methods.process(self)
  service_of(self, "process", Rpc)
  return self.process_object
end

-- ---- pools ----

-- begin(token) -> true; or nil, code. done(err, true), later.
local function told_later(done, begin)
  local token = due_token(function(err) return done(err, not err or nil) end)
  local ok, code = begin(token)
  if ok then return end
  cancel_due(token)
  post(function() return done(code_error(code)) end)
end

local function do_or_wait(callback, begin)
  if not callback then return await(begin) end
  begin(function(err, value) return call_user(callback, err, value) end)
  return true
end

function pool_methods.drain(self, timeout, callback)
  local service = service_of(self, "drain", Pool)
  if callback == nil and timeout ~= nil and type(timeout) ~= "number" then
    timeout, callback = nil, timeout
  end
  check_callback(2, "drain", callback)
  local ms = option_duration({ f = "drain", n = 1 }, "timeout", timeout, true)
  return do_or_wait(callback, function(done)
    if service.closed or not service.raw then
      local err = reason(service)
      return post(function() return done(err) end)
    end
    return told_later(done, function(token) return core.drain(service.raw, ms, token) end)
  end)
end

-- New workers are forked from the process.
function pool_methods.reload(self, process, callback)
  local service = service_of(self, "reload", Pool)
  if getmetatable(process) ~= Process then
    fail(1, "reload", "moonfork.process expected, got " .. type_name(process))
  end
  check_callback(2, "reload", callback)
  local cell = serving(process, "reload")
  return do_or_wait(callback, function(done)
    local err = (service.closed or not service.raw) and reason(service) or inherited(cell.err)
    if err then
      if cell.err then mark_told(cell, err) end
      return post(function() return done(err) end)
    end
    return told_later(done, function(token)
      local ok, code = core.reload(service.raw, cell.raw, token)
      if ok then
        cell.state = "finished"
        take(service, cell)
      end
      return ok, code
    end)
  end)
end

function pool_methods.resize(self, max)
  local service = service_of(self, "resize", Pool)
  check_type(1, "resize", max, "number")
  if max ~= math.floor(max) or max < 0 or max > 100000 then
    fail(1, "resize", "a whole number from 0 expected, got " .. tostring(max))
  end
  if service.closed or not service.raw then return nil, reason(service) end
  local ok, code = core.resize(service.raw, max)
  if not ok then return nil, code_error(code) end
  return true
end

function pool_methods.stats(self)
  local service = service_of(self, "stats", Pool)
  local stats = service.raw and core.stats(service.raw)
  if stats then
    service.last_stats = stats
    return stats
  end
  stats = {}
  for key, value in pairs(service.last_stats or { done = 0, failed = 0, started = 0, deaths = 0,
    p50 = 0, p99 = 0, queue_time = { p50 = 0, p90 = 0, p99 = 0, max = 0 },
    run_time = { p50 = 0, p90 = 0, p99 = 0, max = 0 } }) do
    stats[key] = value
  end
  for _, key in ipairs { "workers", "idle", "starting", "leaving", "queued", "running" } do
    stats[key] = 0
  end
  stats.state = service.failure and "failed" or "closed"
  return stats
end

-- The pids of the workers.
function pool_methods.pids(self)
  local service = service_of(self, "pids", Pool)
  return service.raw and core.pids(service.raw) or {}
end

function Rpc.__tostring(self)
  local service = self.service
  return ("moonfork.rpc (%s, %s)"):format(service.name, service.closed and "closed"
    or (service.err or service.failure) and "failed" or "open")
end

function Pool.__tostring(self)
  return ("moonfork.pool (%s, %s)"):format(self.service.name, self:stats().state)
end

-- ---- descriptors: a number is all that run gives, and these Luas can't read from one ----

local function is_again(code)
  local name = core.error_name(code)
  return name == "EAGAIN" or name == "EINTR"
end

-- Waits until the descriptor is ready or the time is over, and drives the reactor.
local function wait_for(fd, events, deadline)
  depth = depth + 1
  local ok, is_ready = pcall(function()
    while true do
      if dispatch() > 0 then return true end -- a callback may have used it: try again
      local left = deadline and deadline - core.now()
      if core.block(posted[1] and 0 or left and math.max(left, 0), fd, events) then return true end
      if left and left <= 0 then return false end
    end
  end)
  depth = depth - 1
  if not ok then error(is_ready, 0) end
  return is_ready
end

local function transfer(fd, events, timeout, attempt)
  local full = too_deep()
  if full then return nil, full end
  local deadline = timeout and core.now() + timeout
  while true do
    local value, code = attempt()
    if value then return value end
    if not is_again(code) then return nil, code_error(code) end
    if not wait_for(fd, events, deadline) then
      return nil, new_error("TIMEOUT", ("timed out after %s s"):format(tostring(timeout)))
    end
  end
end

local function check_fd(f, fd)
  if not is_fd(fd) then
    fail(1, f, "a descriptor's number expected, got "
      .. (type(fd) == "number" and tostring(fd) or type_name(fd)))
  end
end

local function check_timeout(n, f, timeout)
  if timeout == nil then return end
  check_type(n, f, timeout, "number")
  if timeout ~= timeout or timeout < 0 then
    fail(n, f, "a duration in seconds expected, got " .. tostring(timeout))
  end
end

-- As soon as there are some, up to n bytes (65536): a string; "" at the end. Or nil, err.
function fork.read(fd, n, timeout)
  check_fd("read", fd)
  n = option_count({ f = "read", n = 2 }, "n", n, 1, 2 ^ 30) or 65536
  check_timeout(3, "read", timeout)
  return transfer(fd, "r", timeout, function() return core.read(fd, n) end)
end

-- Writes all: true; or nil, err.
function fork.write(fd, data, timeout)
  check_fd("write", fd)
  check_type(2, "write", data, "string")
  check_timeout(3, "write", timeout)
  local at = 1
  while at <= #data do
    local n, err = transfer(fd, "w", timeout, function() return core.write(fd, data, at) end)
    if not n then return nil, err end
    at = at + n
  end
  return true
end

-- true; or nil, err.
function fork.close(fd)
  check_fd("close", fd)
  local ok, code = core.close_fd(fd)
  if not ok then return nil, code_error(code) end
  return true
end

-- ---- the end of the Lua state: after all objects, for it was made first ----

Process.all = guard(function()
  closing = true
  for raw, kind in pairs(raws) do
    if kind == "process" then
      core.close(raw)
    else
      core.abort(raw)
      core.finish_service(raw)
    end
  end
  core.shutdown()
end)

return fork
