-- The process objects of moonfork.ffi. An object is a table with a cell, which is all that is known of
-- it, and a guard, whose finaliser closes what nobody refers to. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local core = require "moonfork.ffi_core"
local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"
local message = require "moonfork.ffi_message"
local options = require "moonfork.ffi_options"
local reactor = require "moonfork.ffi_reactor"

local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

local process = {}

process.methods = {}
process.Process = { __index = process.methods, __name = "moonfork.process" }

process.raws = {} -- what of the back end's is not closed: handle -> "process" or "service"

-- A failure is told once, and clones inherit that of their source: what a clone's run reported is
-- told of the source, too, and the other way round. What a clone fails of by itself is no news of
-- its source, and of no other clone: who has been a process has not inherited its failure
-- (process_record.lua).
local INHERITED = { TEMPLATE_DIED = true, TEMPLATE_START = true }

local function is_own(cell, err)
  return not INHERITED[err.code] and (cell.known_pid or cell.raw and core.pid(cell.raw)) and true or false
end

local function concerns(cell, err)
  return cell.err and cell.err.message == err.message or INHERITED[err.code]
end

-- how: true, or "posted" until on_error gets it: it is no news any more where a call has reported it
-- meanwhile.
local function mark(cell, err, how)
  cell.told[err.message] = how
  if is_own(cell, err) then return end
  cell = cell.source
  while cell do
    if concerns(cell, err) then cell.told[err.message] = how == true or cell.told[err.message] or how end
    cell = cell.source
  end
end

function process.mark_told(cell, err) mark(cell, err, true) end

-- is_heard: it has reached somebody, and is not only on its way.
local function has_told(cell, err, is_heard)
  local told = cell.told[err.message]
  return told == true or told and not is_heard
end

local function was_told(cell, err, is_heard)
  if has_told(cell, err, is_heard) then return true end
  if is_own(cell, err) then return false end
  cell = cell.source
  while cell do
    if concerns(cell, err) and has_told(cell, err, is_heard) then return true end
    cell = cell.source
  end
  return false
end

function process.tell_unreported(cell, err)
  if was_told(cell, err) then return end
  mark(cell, err, "posted")
  reactor.post_failure(err, function()
    local is_news = not was_told(cell, err, true)
    process.mark_told(cell, err)
    return is_news
  end)
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
function process.inherited(err)
  if not err or err.code ~= "CLONE_DIED" then return err end
  local death = errors.new("TEMPLATE_DIED", err.message)
  death.traceback, death.exit = err.traceback, err.exit
  return death
end

local function release(cell)
  if cell.raw and not cell.service then
    cell.known_pid = core.pid(cell.raw)
    process.raws[cell.raw] = nil
    core.close(cell.raw)
  end
  cell.raw = nil
  if cell.error_token then reactor.drop_token(cell.error_token) end
end

local function note_unasked(cell)
  reactor.unasked[cell] = cell.is_watched and not cell.status and not cell.watchers or nil
end

function process.ended(cell, status)
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
function process.watch(cell)
  if cell.is_watched or cell.status then return true end
  local token = reactor.new_token(function(_, status) return process.ended(cell, status) end)
  local ok, code = core.on_exit(cell.raw, token)
  if not ok then
    reactor.drop_token(token)
    return nil, code
  end
  cell.is_watched = true
  note_unasked(cell)
  return true
end

local function let_go(cell)
  if cell.service then return end -- the rpc or pool has it, and tells of it
  if cell.err then process.tell_unreported(cell, cell.err) end
  if cell.raw and not cell.status then -- released when the end is told
    local ends = cell.state == "finished" or cell.state == "serving" and core.finish(cell.raw)
    if ends and process.watch(cell) then return end
  end
  release(cell)
  if cell.watchers and not cell.is_watched then process.ended(cell, { unknown = true }) end
end

local function collected(cell)
  if cell.closed or reactor.closing then return end
  cell.closed = true
  let_go(cell)
end

local function failed_over_there(cell, err)
  cell.error_token = nil
  if cell.is_spoiled or cell.err then return end
  cell.err = err
  if cell.service then return cell.service.chain_failed(cell, err) end
  if cell.closed then process.tell_unreported(cell, err) end
end

function process.create(f, given, origin)
  local plain, err = options.of_process(f, given)
  local cell = { state = "serving", told = {}, source = origin, name = plain.name }
  err = err or origin and process.inherited(origin.err)
  if not err then
    local ok, code = core.open()
    if ok then
      local token = reactor.new_token(function(failure) return failed_over_there(cell, failure) end)
      ok, code = core.make(origin and origin.raw, f, plain, token)
      if ok then
        cell.raw, cell.error_token, process.raws[ok] = ok, token, "process"
      else
        reactor.drop_token(token)
      end
    end
    if not ok then
      err = errors.of_code(code)
      if cell.name then err.message = cell.name .. ": " .. err.message end
    end
  end
  cell.err = err
  local self = setmetatable({ cell = cell }, process.Process)
  self.guard = reactor.guard(function() return collected(cell) end)
  return self
end

-- ---- checks of state: they are given the object and give its cell ----

local function state(self, f)
  if getmetatable(self) == process.Process then return self.cell end
  check.raise(("calling '%s' on bad self (moonfork.process expected, got %s; use a colon: "
    .. "process:%s(...))"):format(f, self == nil and "no value" or check.type_name(self), f))
end

local function open(self, f)
  local cell = state(self, f)
  if cell.closed then check.raise(("'%s': the process is closed"):format(f)) end
  return cell
end

function process.serving(self, f)
  local cell = open(self, f)
  if cell.state ~= "serving" then
    check.raise(("'%s': the process was given run (rpc, pool) already and takes no more commands")
      :format(f))
  end
  return cell
end

-- ---- preparing ----

function process.methods.fork(self, given)
  return process.create("fork", given, process.serving(self, "fork"))
end

local function command(self, f, ...)
  local cell = self.cell
  if cell.err then return self end
  local ok, code = f(cell.raw, ...)
  if not ok then set_failed(cell, errors.of_code(code)) end
  return self
end

function process.methods.require(self, ...)
  local cell = process.serving(self, "require")
  for i = 1, select("#", ...) do check.name(i, "require", (select(i, ...))) end
  for i, module in ipairs { ... } do
    if module == "" then
      set_failed(cell, errors.new("EINVAL", ("argument #%d of 'require' is empty"):format(i)))
    end
    command(self, core.require, module)
  end
  return self
end

-- All as strings; or nil and the error of the first that can't be sent.
local function arguments(f, first, ...)
  local texts, err = reactor.pack(...), nil
  for i = 1, texts.n do
    local value, n = texts[i], first + i - 1
    if type(value) == "number" then
      texts[i] = message.number_text(value)
      if not texts[i] and not err then
        err = errors.new("EINVAL", ("argument #%d of '%s' is not a number (nan)"):format(n, f))
      end
    elseif type(value) ~= "string" then
      check.fail(n, f, "string or number expected, got " .. check.type_name(value))
    end
  end
  if err then return nil, err end
  return texts
end

function process.methods.eval(self, code, ...)
  local cell = process.serving(self, "eval")
  check.type(1, "eval", code, "string")
  local args, err = arguments("eval", 2, ...)
  if not args then
    set_failed(cell, err)
    return self
  end
  return command(self, core.eval, code, unpack(args, 1, args.n))
end

function process.methods.send_arg(self, ...)
  local cell = process.serving(self, "send_arg")
  local args, err = arguments("send_arg", 1, ...)
  if not args then
    set_failed(cell, err)
    return self
  end
  for i = 1, args.n do command(self, core.send_arg, args[i]) end
  return self
end

function process.methods.send_fd(self, ...)
  local cell = process.serving(self, "send_fd")
  local n = select("#", ...)
  for i = 1, n do
    local fd = select(i, ...)
    check.fd(i, "send_fd", fd)
  end
  for i = 1, n do
    local fd = select(i, ...)
    if cell.err then return self end
    local ok, code = core.send_fd(cell.raw, fd)
    if not ok then
      local err = errors.of_code(code)
      err.message = ("argument #%d of 'send_fd': %s"):format(i, err.code == "EINVAL"
        and ("%d is not an open descriptor, or is a socket of the library's own"):format(fd) or err.message)
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
  process.mark_told(cell, err)
end

-- done(err, fd), later.
local function start(self, cell, name, done)
  local err = cell.err
  if not err and name == "" then err = errors.new("EINVAL", "argument #1 of 'run' is empty") end
  if not err then
    local token
    token = reactor.due_token(function(failure, fd)
      finished(cell, failure)
      return done(failure, fd, self) -- self: the object stays until now
    end)
    local ok, code = core.run(cell.raw, name, token)
    if not ok then
      reactor.cancel_due(token)
      err = errors.of_code(code)
    end
  end
  if err then
    set_failed(cell, err)
    reactor.post(function()
      finished(cell, err)
      return done(err)
    end)
  end
  cell.state = "finishing"
end

-- Enters the function. The value is the number of a descriptor, which is the caller's.
function process.methods.run(self, name, callback)
  local cell = process.serving(self, "run")
  check.name(1, "run", name)
  check.callback(2, "run", callback)
  if callback then
    start(self, cell, name, function(err, fd) return reactor.call_user(callback, err, fd) end)
    return self
  end
  local is_dropped = false
  return reactor.await(function(done)
    start(self, cell, name, function(err, fd)
      if is_dropped and fd then return core.close_fd(fd) end
      return done(err, fd)
    end)
  end, function() is_dropped = true end)
end

-- ---- asking ----

function process.methods.pid(self)
  local cell = open(self, "pid")
  if cell.raw then cell.known_pid = core.pid(cell.raw) or cell.known_pid end
  return cell.known_pid
end

local function signal_number(value)
  if value == nil then return core.signals.TERM end
  if type(value) == "string" then
    local number = core.signals[(value:upper():gsub("^SIG", ""))]
    return number or check.fail(1, "kill", ("unknown signal '%s'"):format(value))
  end
  if not check.is_fd(value) or value < 0 or value > 64 then
    check.fail(1, "kill", "the name or number of a signal expected, got "
      .. (type(value) == "number" and tostring(value) or check.type_name(value)))
  end
  return value
end

-- Why the process can't be asked.
local function out_of_reach(cell)
  if cell.service and cell.service.is_pool then
    return errors.new("UNSUPPORTED", "the process is the template of a pool, which starts it again "
      .. "when it ends")
  end
  return errors.new("CLOSED", cell.status and "the process has ended"
    or "the process has not been started")
end

function process.methods.kill(self, signal)
  local cell = open(self, "kill")
  local number = signal_number(signal)
  if not cell.raw then return nil, out_of_reach(cell) end
  local ok, code = core.kill(cell.raw, number)
  if not ok then return nil, errors.of_code(code) end
  return true
end

-- watcher(status), once, later.
local function tell_end(cell, watcher)
  if not cell.status and cell.raw then
    local ok = process.watch(cell)
    if ok then
      cell.watchers = cell.watchers or {}
      table.insert(cell.watchers, watcher)
      note_unasked(cell)
      return
    end
  end
  local status = cell.status or { unknown = true }
  reactor.post(function() return watcher(status) end)
end

function process.methods.on_exit(self, callback)
  local cell = open(self, "on_exit")
  if callback == nil then check.type(1, "on_exit", callback, "function") end
  check.callback(1, "on_exit", callback)
  tell_end(cell, function(status) return reactor.call_user(callback, status) end)
  return self
end

-- Waits for the end: its status; or nil, err.
function process.methods.wait(self, timeout)
  local cell = open(self, "wait")
  check.seconds(1, "wait", timeout)
  if timeout == math.huge then timeout = nil end
  if not cell.raw and cell.service and cell.service.is_pool then return nil, out_of_reach(cell) end
  local watcher
  local status, err = reactor.await(function(done)
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
  process.mark_told(cell, cell.err)
  if cell.err.code == "CLONE_DIED" then return status end
  return nil, cell.err
end

-- ---- ending ----

function process.methods.close(self)
  local cell = state(self, "close")
  if cell.closed then return end
  cell.closed = true
  return let_go(cell)
end

function process.Process.__tostring(self)
  local cell = self.cell
  local pid = cell.raw and core.pid(cell.raw) or cell.known_pid
  local words = cell.closed and "closed" or cell.status and "ended" or cell.err and "failed"
    or cell.service and "used by " .. (cell.service.is_pool and "a pool" or "an rpc")
    or ({ finished = "running", finishing = "starting" })[cell.state] or "serving"
  return ("moonfork.process (%s%s, %s)"):format(cell.name and cell.name .. ", " or "",
    pid and "pid " .. pid or "no pid yet", words)
end

return process
