-- The reactor of moonfork.ffi: tokens of completions, callbacks of the program, waiting calls. The
-- back end knows numbers only: a token is the key of a function here. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local core = require "moonfork.ffi_core"
local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"

local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

local reactor = { closing = false } -- the Lua state is

local NESTED_MAX = 50

local function pack(...)
  return { n = select("#", ...), ... }
end
reactor.pack = pack

local targets = {} -- token -> f(err, value)
local keeps = {} -- tokens that are told more than once
local due = 0 -- completions that loop() waits for
local last_token = 0
local posted = {} -- functions that are called at the next turn
local handler -- of what callbacks raise
local depth = 0

function reactor.new_token(f, is_kept)
  last_token = last_token + 1
  targets[last_token], keeps[last_token] = f, is_kept
  return last_token
end

function reactor.drop_token(token)
  targets[token], keeps[token] = nil, nil
end

-- A token whose completion loop() waits for.
function reactor.due_token(f)
  due = due + 1
  return reactor.new_token(function(err, value)
    due = due - 1
    return f(err, value)
  end)
end

function reactor.cancel_due(token)
  due = due - 1
  reactor.drop_token(token)
end

function reactor.post(f)
  posted[#posted + 1] = f
end

local function with_traceback(err)
  return { err, debug.traceback(tostring(err), 2) }
end

-- Calls a function of the program's.
function reactor.call_user(f, ...)
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

-- Where is_news is given, if that gives true then.
function reactor.post_failure(err, is_news)
  reactor.post(function()
    if is_news and not is_news() then return end
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
    if not keeps[token] then reactor.drop_token(token) end
    if target then target(errors.of_raw(err), value) end
  end
end

local function too_deep()
  if depth < NESTED_MAX then return nil end
  return errors.new("LIMIT", ("more than %d waiting calls inside each other"):format(NESTED_MAX))
end

local function pause(seconds)
  core.block(posted[1] and 0 or seconds)
end

-- begin(done) starts what calls done(err, ...) once; waits for it: ..., or nil, err. When it
-- waits no longer before that (time, an error in a callback), cancel() is called.
function reactor.await(begin, cancel, timeout)
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
    return nil, errors.new("TIMEOUT", ("timed out after %s s"):format(tostring(timeout)), "unknown")
  end
  if answer[1] ~= nil then return nil, answer[1] end
  return unpack(answer, 2, answer.n)
end

-- The ends of these processes are awaited although nobody asked: so they leave no zombie. They
-- keep libuv's loop alive, which then says nothing of the commands of others.
reactor.unasked = {}

local function outstanding()
  if due > 0 or posted[1] ~= nil then return true end
  return core.outstanding(next(reactor.unasked) ~= nil)
end

-- Runs until nothing is outstanding.
function reactor.loop()
  local full = too_deep()
  if full then return nil, full end
  while true do
    local n = dispatch()
    if not outstanding() then return true end
    if n == 0 then pause() end
  end
end

-- Waits up to timeout seconds (0), dispatches, tells whether work is outstanding.
function reactor.step(timeout)
  check.seconds(1, "step", timeout)
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
function reactor.on_error(f)
  handler = check.callback(1, "on_error", f)
end

-- ---- descriptors ----

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

-- Does what attempt() does as soon as the descriptor lets it: its value; or nil, err.
function reactor.transfer(fd, events, timeout, attempt)
  local full = too_deep()
  if full then return nil, full end
  local deadline = timeout and core.now() + timeout
  while true do
    local value, code = attempt()
    if value then return value end
    if not is_again(code) then return nil, errors.of_code(code) end
    if not wait_for(fd, events, deadline) then
      return nil, errors.new("TIMEOUT", ("timed out after %s s"):format(tostring(timeout)))
    end
  end
end

-- ---- collecting ----

-- Something whose collection calls f.
local newproxy = rawget(_G, "newproxy")
function reactor.guard(f)
  if not newproxy then return setmetatable({}, { __gc = f }) end
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = f
  return proxy
end

return reactor
