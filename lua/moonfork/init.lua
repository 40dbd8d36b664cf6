-- moonfork: template processes for Lua. A template loads modules once and forks on command;
-- each clone runs a named function with a socket, handles and strings. This module is the
-- parent's side (doc/lua-api.md); what runs in a clone requires "moonfork.clone".

local core = require "moonfork.load"
local check = require "moonfork.check"
local process = require "moonfork.process"
local reactor = require "moonfork.reactor"

local fork = {
  _VERSION = "moonfork " .. core.version,
  socket = core.socket,
  reactor = reactor.object,
  new = process.new,
  new_exec = process.new_exec,
  template = process.template,
  from_fd = process.from_fd,
}

-- Drops the default template; the next fork.new takes a fresh snapshot. true, or nil, err.
function fork.reset()
  reactor.check()
  return core.reset()
end

-- Runs until nothing is outstanding.
function fork.loop()
  return reactor.loop()
end

-- Waits up to timeout seconds (0), dispatches, tells whether work is outstanding.
function fork.step(timeout)
  if timeout ~= nil then check.seconds(1, "step", timeout) end
  return reactor.step(timeout)
end

-- f(reactor, timeout) instead of blocking; nil: block again.
function fork.set_waiter(f)
  reactor.set_waiter(check.callback(1, "set_waiter", f))
end

-- handler(error, traceback) gets what callbacks raise; nil: the driving call raises it.
function fork.on_error(handler)
  reactor.set_handler(check.callback(1, "on_error", handler))
end

-- Callbacks run from the turns of the host's uv_loop_t (light userdata). true; or nil, err.
function fork.use_loop(pointer)
  check.type(1, "use_loop", pointer, "userdata")
  local ok, done, err = pcall(core.use_loop, pointer, reactor.guest_step)
  if not ok then check.raise(done) end
  return done, err
end

-- A text for a person: every process, rpc and pool with its state, what is under way, ages.
function fork.dump()
  return core.dump()
end

-- Usable processors.
function fork.ncpu()
  return core.ncpu()
end

return fork
