-- moonfork: template processes for Lua. A template loads modules once and forks on command;
-- each clone runs a named function with a socket, handles and strings. This module is the
-- parent's side (doc/lua-api.md); what runs in a clone requires "moonfork.clone".

local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local process = require "moonfork.process"
local reactor = require "moonfork.reactor"

-- SIGKILL and SIGSTOP never come; SIGCHLD belongs to who waits for children.
local SIGNALS_THAT_COME = setmetatable({ [0] = false }, { __index = function() return true end })
for _, name in ipairs { "CHLD", "KILL", "STOP" } do
  SIGNALS_THAT_COME[core.signals()[name]] = false
end

local fork = {
  _VERSION = "moonfork " .. core.version,
  socket = core.socket,
  reactor = reactor.object,
  new = process.new,
  new_exec = process.new_exec,
  load = process.load,
  remote = process.remote,
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

local checked -- the newest timeout of step: mostly it is the same one again

-- Waits up to timeout seconds (0), dispatches, tells whether work is outstanding.
function fork.step(timeout)
  if timeout ~= checked then
    if timeout ~= nil then check.seconds(1, "step", timeout) end
    checked = timeout
  end
  return reactor.step(timeout)
end

-- Waits so many seconds, and drives the reactor: true, or nil, err.
function fork.sleep(seconds)
  reactor.check()
  return reactor.sleep(check.seconds(1, "sleep", seconds))
end

-- callback() after so many seconds, and then every so many until it is closed: a timer with
-- close(); or nil, err.
function fork.timer(seconds, callback, every)
  reactor.check()
  check.seconds(1, "timer", seconds)
  if callback == nil then check.type(2, "timer", callback, "function") end
  callback = check.callback(2, "timer", callback)
  if every ~= nil and check.seconds(3, "timer", every) == 0 then
    check.fail(3, "timer", "a positive number of seconds expected, got 0")
  end
  return reactor.timer(seconds, callback, every)
end

-- callback(name) for each such signal of this process; nil takes it back. true, or nil, err.
function fork.signal(name, callback)
  reactor.check()
  local number = check.signal(1, "signal", name)
  if not SIGNALS_THAT_COME[number] then
    check.fail(1, "signal", ("%s can't be watched"):format(check.show(name)))
  end
  reactor.install()
  return core.signal(number, check.callback(2, "signal", callback))
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
  reactor.install()
  local ok, done, err = pcall(core.use_loop, pointer, reactor.embedded_step)
  if not ok then check.raise(done) end
  return done, err
end

-- A text for a person: every process, rpc and pool with its state, what is under way, ages.
function fork.dump()
  return core.dump()
end

-- A timeline of what happens from now on, in a file for Perfetto; nil ends it. true; or nil, err.
function fork.trace(path)
  reactor.check()
  if path ~= nil then check.name(1, "trace", path) end
  if path == "" then check.fail(1, "trace", "the path is empty") end
  return core.trace(path)
end

-- Usable processors.
function fork.ncpu()
  return core.ncpu()
end

return fork
