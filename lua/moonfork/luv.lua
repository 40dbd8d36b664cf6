-- require "moonfork.luv": the reactor embedded in luv's loop. Three luv handles watch its
-- descriptor; they are referenced only while work is outstanding, so that uv.run() returns
-- when there is none. Runs in the parent.
--
-- luv ends the program when a callback raises. So nothing here does: what a callback of
-- moonfork's raised is kept, and the next call of moonfork raises it.

local core = require("moonfork.load").of(...)
local fork = require "moonfork"
local reactor = require "moonfork.reactor"

-- luv makes its loop when it is loaded, and libuv aborts where the first one finds too few
-- descriptors: so what both need is asked for before. What is raised is an error object.
local fd, err = fork.reactor:getfd()
if fd and not package.loaded.luv then
  local room
  room, err = core.loop_room()
  fd = room and fd
end
if not fd then
  err.message = "moonfork.luv: " .. err.message
  error(err, 0)
end
local uv = require "luv"

local poll = assert(uv.new_poll(fd))
local timer = assert(uv.new_timer())
local prepare = assert(uv.new_prepare())

local function set_alive(alive)
  local set = alive and uv.ref or uv.unref
  set(poll)
  set(timer)
end

-- Before luv's loop sleeps: what we changed reaches the kernel, and when we want a turn.
local function on_prepare()
  local timeout = fork.reactor:timeout()
  if timeout then
    timer:start(math.ceil(timeout * 1000), 0, reactor.embedded_step)
  else
    timer:stop()
  end
  set_alive(reactor.outstanding())
end

prepare:start(reactor.keep_errors(on_prepare))
prepare:unref()
poll:start("r", reactor.embedded_step)
set_alive(reactor.outstanding())

-- Work given to the library between two turns keeps the loop alive until the next prepare.
function reactor.changed()
  set_alive(true)
end

return fork
