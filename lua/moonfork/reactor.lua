-- The reactor of this Lua state: turns the private loop of moonfork.core, calls what has
-- completed, and waits. Runs in the parent. Nothing here is for users directly; init.lua
-- hands out what is.
--
-- All of it is Lua, so that a waiting call can be yielded across: a waiter may suspend the
-- coroutine that waits, and so may a callback that waits in turn.

local check = require "moonfork.check"
local core = require("moonfork.load").of(...)

local reactor = {
  on_exit = nil, -- called with (cell, status) and (cell, error) of a process;
  on_failure = nil, -- process.lua puts them here, and
  on_ran = nil, -- (function, error, socket, object): a run that its object has to hear of
  on_service = nil, -- called with (kind, cell, error, values...); calls.lua's
  changed = nil, -- an adaptor's: work was given to the library
}

local running = coroutine.running
local NESTED_MAX = 50 -- waits inside each other's callbacks: each costs C stack

local waiter, handler
local kept = {} -- errors of callbacks that a foreign loop called: {error}
local innermost = setmetatable({}, { __mode = "k" }) -- by coroutine: the wait it is in
local waits = setmetatable({}, { __mode = "v" }) -- every wait under way, by number
local answered = setmetatable({}, { __mode = "k" }) -- those to be woken
local in_waiter = setmetatable({}, { __mode = "k" }) -- coroutines whose waiter is called
-- Functions, and errors to report, for later, which core could not take for lack of
-- descriptors or memory: what an operation has failed of must be told all the same.
local posted = {}

-- ---- errors of callbacks ----

local Raised = {}

local function with_traceback(err)
  local ok, text = pcall(tostring, err)
  return setmetatable({
    error = err,
    traceback = debug.traceback(ok and text or "(error without a message)", 2),
  }, Raised)
end

-- Gives it to the handler; where that can't be, raises it from here, which is inside the
-- call that drives the reactor. The handler's own failure is added where there is a text.
local function report(err, traceback)
  if not handler then error(err, 0) end
  local ok, failure = pcall(handler, err, traceback)
  if ok then return end
  if type(err) ~= "string" then error(err, 0) end
  error(("%s\nand the handler of on_error failed: %s"):format(err, tostring(failure)), 0)
end
reactor.report = report

local news = setmetatable({}, { __mode = "k" }) -- error object -> whether it is to be reported still

local function report_posted(err)
  local is_news = news[err]
  if not is_news or is_news() then report(err, err.traceback) end
end

-- What a callback raised, as with_traceback gives it.
local function raised(value)
  if getmetatable(value) ~= Raised then -- the traceback itself found no memory
    value = { error = value, traceback = tostring(value) }
  end
  report(value.error, value.traceback)
end

-- ---- turning ----

-- Calls f(...) as a callback; an error of its goes to the handler or is raised.
reactor.call = core.callback

-- What has completed and is for no function of the program's. An error comes from
-- post_failure.
local function tell(kind, target, err, ...)
  if kind == "call" then
    report_posted(target)
  elseif kind == "ran" then
    reactor.on_ran(target, err, ...)
  elseif kind == "exit" then
    reactor.on_exit(target, ...)
  elseif kind == "error" then
    reactor.on_failure(target, err)
  elseif kind == "trace" then
    if handler or not target then report(err) end
  else
    reactor.on_service(kind, target, err, ...)
  end
end
core.callback_handlers(with_traceback, raised, tell)

-- One turn, then what has completed by then, until `wait` has its answer. Callbacks may
-- wait and thereby take some of it. Gives the number of completions it told.
local function dispatch(wait)
  local n = 0
  for _ = 1, #posted do
    local it = table.remove(posted, 1)
    if not it then break end
    n = n + 1
    if type(it) == "function" then reactor.call(it) else report_posted(it) end
    if wait and wait.done then return n end
  end
  return n + core.step(0, wait)
end

-- ---- waiting ----

local function attend()
  core.attention(next(answered) ~= nil)
end

local Inside = {}

function Inside.__close(mark) in_waiter[mark.coroutine] = nil end

-- Marks the wait of a suspended coroutine: it has to look, for its time is up.
local function remind(number)
  local wait = waits[number]
  if wait and coroutine.status(wait.coroutine) == "suspended" then
    answered[wait] = true
    attend()
  end
end

-- The date of a wait that a waiter holds is the reactor's, too: who only watches its descriptor
-- resumes the coroutine in time. nil: there is none, or no descriptor for it.
local function reminder(left)
  local wait = innermost[running()]
  if not left or not wait then return nil end
  local number = wait.number
  return core.timer(left, function() remind(number) end, nil, "reminder")
end

-- A waiter that turns the reactor itself, by step or by a waiting call, gets there again: then
-- it is up to us to block.
local function pause(left)
  if posted[1] then return end
  local here = running()
  if not waiter or in_waiter[here] then return core.block(left) end
  local timeout = core.timeout()
  if left and (not timeout or left < timeout) then timeout = left end
  if timeout == math.huge then timeout = nil end
  local _ <close> = setmetatable({ coroutine = here }, Inside)
  local _ <close> = reminder(left)
  in_waiter[here] = true
  waiter(reactor.object, timeout)
end

-- A wait is referred to by the stack of its coroutine only: what is to settle it knows its
-- number. So it ends with its coroutine, however that ends: when it is left by an error or by
-- coroutine.close, when the coroutine died of an error (see sweep), or with the garbage. What
-- was asked for is cancelled then, for nobody would take the answer.
local Wait = {} -- of the main coroutine, which is never garbage
local Collectable = {} -- of others
local nwaits = 0
local may_sweep = false -- a wait was begun

local function wait_end(wait, collected)
  waits[wait.number] = nil
  if answered[wait] then
    answered[wait] = nil
    attend()
  end
  local cancel = wait.cancel
  wait.cancel = nil
  if cancel and not wait.done then cancel(collected, wait) end
end

function Wait.__close(wait)
  innermost[wait.coroutine] = wait.outer
  wait_end(wait, false)
end

Collectable.__close = Wait.__close

function Collectable.__gc(wait)
  pcall(wait_end, wait, true) -- fails only where the state is being closed, or in a copy
end

local function wait_begin(cancel)
  local here, main = running()
  nwaits = nwaits + 1
  local wait = setmetatable({ coroutine = here, outer = innermost[here], number = nwaits,
    cancel = cancel }, main and Wait or Collectable)
  innermost[here] = wait
  waits[nwaits] = wait
  may_sweep = true
  return wait
end

-- Its answer is there. Somebody else may have turned the reactor while a waiter holds the
-- coroutine: then the descriptor stays readable until that has looked.
local function settle(wait)
  wait.done = true
  if innermost[wait.coroutine] == wait and coroutine.status(wait.coroutine) == "suspended"
  then
    answered[wait] = true
    attend()
  end
end

local SWEEP_EVERY = 0.1
local sweep_at = 0

-- Ends the waits of coroutines that have died of an error: Lua closes nothing on such a stack.
-- There may be thousands of waits, so it looks now and then. nil, or when the next look is due.
local function sweep()
  if not may_sweep then return nil end
  may_sweep = next(waits) ~= nil
  if not may_sweep then return nil end
  local now = core.now()
  if now < sweep_at then return sweep_at - now end
  for _, wait in pairs(waits) do
    if coroutine.status(wait.coroutine) == "dead" then wait_end(wait, false) end
  end
  sweep_at = now + SWEEP_EVERY
  return nil
end

-- Waits of other coroutines: those of this one are below it on the stack.
local function others_wait()
  local here = running()
  for _, wait in pairs(waits) do
    if wait.coroutine ~= here and coroutine.status(wait.coroutine) ~= "dead" then
      return true
    end
  end
  return false
end

-- Without a waiter nobody resumes other coroutines while this one blocks: they don't count.
local function is_outstanding(core_knows)
  return core_knows or posted[1] ~= nil or waiter ~= nil and others_wait()
end

function reactor.outstanding()
  return is_outstanding(core.outstanding())
end

-- One round: a turn and what has completed; where nothing has, waits until something may have,
-- so many seconds at most, nil: for ever. How many it told, the seconds that are left, and
-- whether work is outstanding: without that, and without a wait, it does not wait.
local function round(seconds, wait)
  if not waiter and not posted[1] then
    local n, left, outstanding = core.step(seconds, wait)
    return n, left, is_outstanding(outstanding)
  end
  local deadline = seconds and core.now() + seconds
  local function left() return deadline and deadline - core.now() end
  local n = dispatch(wait)
  if n == 0 and (wait or reactor.outstanding()) and not (deadline and left() <= 0) then
    pause(left())
    if not (wait and wait.done) then n = dispatch(wait) end
  end
  return n, left(), reactor.outstanding()
end

-- Turns until the wait is settled: true, or false when the time is up.
local function drive(wait, timeout)
  local deadline = timeout and core.now() + timeout
  while not wait.done do
    local _, left = round(deadline and deadline - core.now(), wait)
    if not wait.done and left and left <= 0 then return false end
  end
  return true
end

local function too_deep()
  if core.callback_depth() <= NESTED_MAX then return nil end
  return core.error("LIMIT", ("more than %d waiting calls inside each other"):format(NESTED_MAX))
end

-- A wait, to be closed by its maker, that reactor.answer ends by its number and reactor.drive
-- waits for; or nil, err. Where it ends without an answer, cancel(collected, wait) is called,
-- once; collected: its coroutine is garbage.
function reactor.wait_new(cancel)
  local full = too_deep()
  if full then return nil, full end
  return wait_begin(cancel)
end

-- Leaves err and value in the wait with that number, if somebody waits there still.
function reactor.answer(number, err, value)
  local wait = waits[number]
  if not wait then return end
  wait.err, wait.value = err, value
  settle(wait)
end

reactor.drive = drive

-- Calls begin(callback) and waits for callback(err, value): value, or nil, err.
function reactor.await(begin, cancel, timeout)
  local begun, full = reactor.wait_new(cancel)
  if not begun then return nil, full end
  local wait <close> = begun
  local number = wait.number
  begin(function(e, v) reactor.answer(number, e, v) end)
  if not drive(wait, timeout) then
    return nil, core.error("TIMEOUT", ("timed out after %s s"):format(check.show(timeout)), true)
  end
  if wait.err then return nil, wait.err end
  return wait.value
end

-- Waits so many seconds: true, or nil, err.
function reactor.sleep(seconds)
  reactor.install()
  local begun, full = reactor.wait_new()
  if not begun then return nil, full end
  local wait <close> = begun
  local number = wait.number
  local timer <close>, err = core.timer(seconds, function() reactor.answer(number) end, nil,
    "sleep")
  if not timer then return nil, err end
  wait.cancel = function() timer:close() end -- of a coroutine that died of an error
  reactor.touch()
  drive(wait)
  if wait.err then return nil, wait.err end
  return true
end

-- f() later, and then every so many seconds: a timer, or nil, err.
function reactor.timer(seconds, f, every)
  reactor.install()
  local timer, err = core.timer(seconds, f, every)
  if timer then reactor.touch() end
  return timer, err
end

-- How a moonfork.socket waits: true to try again, false: time out.
local function wait_blocking(fd, events, timeout)
  if posted[1] and dispatch() > 0 then return true end
  local left = timeout
  while true do
    local n, rest, _, is_ready = core.step(left, nil, fd, events)
    -- A callback may have closed the socket, and its number may be another's: try again.
    if n > 0 or is_ready then return true end
    if rest and rest <= 0 then return false end
    left = rest
  end
end

-- A watch ends with the stack that it is on. Who waits for the reactor's own descriptor, as the
-- loop that resumes the others does, blocks: the reactor can't watch itself.
local function wait_with_waiter(fd, events, timeout)
  local wait <close> = wait_begin()
  wait.on_socket = true
  local number = wait.number
  local watch <close>, message, errno = core.watch(fd, events, function()
    local waiting = waits[number]
    if waiting then settle(waiting) end
  end)
  if watch then return drive(wait, timeout) end
  if watch == nil then return nil, message, errno end
  if message == "own" then return wait_blocking(fd, events, timeout) end
  return true -- of a kind that never makes anybody wait
end

-- A socket goes, and a kernel that watches it says nothing: all look again. It is rare that
-- one is closed which somebody waits for.
local function look_again()
  for _, wait in pairs(waits) do
    if wait.on_socket then settle(wait) end
  end
end

local function wait_for_socket(fd, events, timeout)
  if events == "" then return look_again() end
  local full = too_deep()
  if full then return nil, tostring(full) end
  return (waiter and wait_with_waiter or wait_blocking)(fd, events, timeout)
end

-- ---- for users ----

-- Raises what a callback raised while a foreign loop drove the reactor.
function reactor.check()
  if not kept[1] then return end
  error(table.remove(kept, 1)[1], 0)
end

function reactor.touch()
  if reactor.changed then reactor.changed() end
end

-- Calls f later, from the reactor.
function reactor.post(f)
  if not core.post(f) then posted[#posted + 1] = f end
  reactor.touch()
end

-- Reports the error object later, from the reactor; where is_news is given, if that gives true then.
function reactor.post_failure(err, is_news)
  news[err] = is_news
  reactor.post(err)
end

function reactor.loop()
  reactor.check()
  local full = too_deep()
  if full then return nil, full end
  while true do
    local _, _, outstanding = round(sweep())
    if not outstanding then return true end
  end
end

function reactor.step(timeout)
  reactor.check()
  local left = timeout or 0
  while true do
    sweep()
    local n, rest, outstanding = round(left)
    if n > 0 or not outstanding or rest <= 0 then
      if not may_sweep then return outstanding end
      sweep()
      return reactor.outstanding()
    end
    left = rest
  end
end

-- For foreign loops: f, but what it raises is kept for reactor.check.
function reactor.keep_errors(f)
  return function()
    local ok, err = pcall(f)
    if not ok then kept[#kept + 1] = { err } end
  end
end

reactor.embedded_step = reactor.keep_errors(dispatch)

function reactor.set_waiter(f)
  reactor.install()
  waiter = f
  core.has_waiter(f ~= nil)
end

function reactor.set_handler(f) handler = f end

local installed = false

-- Sockets wait by turning the reactor. In a program from the start; in templates and clones,
-- where they just block, before the first process, timer or waiter is made there.
function reactor.install()
  if installed then return end
  installed = true
  core.socket_wait(wait_for_socket)
end

-- In a copy of the interpreter. Sockets just block there, until somebody makes processes. What
-- others wait for is told in the original; here such a wait ends.
local function forget()
  kept = {}
  core.callback_forget()
  for _, wait in pairs(waits) do
    wait.err = core.error("CANCELLED", "the interpreter was copied meanwhile, and what is waited for is the original's")
    wait.done, wait.cancel = true, nil
  end
  for _, set in ipairs { innermost, waits, answered, in_waiter, posted } do
    for key in pairs(set) do set[key] = nil end
  end
  installed = false
  core.socket_wait(nil)
end

-- Templates and clones come from the template program, whose moonfork.clone is built in, or
-- are copies of this program.
local in_template = package.preload["moonfork.clone"] ~= nil
local has_hook = false

-- This interpreter is a copy: of a process that is a template now, or in an image, a clone in a
-- thread, a pseudo-process.
local function copied()
  in_template = true
  waiter, handler, reactor.changed = nil, nil, nil
  forget()
  core.has_waiter(false)
end

-- In each clone of a template whose own code has used this module, before any hook of on_fork,
-- which may use it again. The settings of that code hold there, too.
local function born()
  if not core.let_go() then return end
  forget()
  if waiter then reactor.install() end
end

-- Before a reactor is made.
local function making()
  if has_hook or not in_template then return end
  has_hook = pcall(require, "moonfork.clone") and core.on_birth(born) or false
end

-- What other loops poll; see doc/lua-api.md.
local object = {}

-- Its descriptor; or nil, err.
function object.pollfd() return core.fd() end

function object.getfd() return core.fd() end

function object.events() return "r" end

function object.timeout()
  core.turn()
  attend()
  return posted[1] and 0 or core.timeout()
end

function object.dirty() return object.timeout() == 0 end

reactor.object = setmetatable({}, { __index = object, __name = "moonfork.reactor" })

function object.step(self, timeout)
  if self ~= reactor.object then check.self("step", "reactor", "moonfork.reactor", self) end
  if timeout ~= nil then check.seconds(1, "step", timeout) end
  return reactor.step(timeout)
end

if not in_template then reactor.install() end
core.on_copied(copied)
core.on_making(making)

return reactor
