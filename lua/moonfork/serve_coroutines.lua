-- The coroutines of a worker of `serve --async`: who waits for which socket, and luv's loop beside
-- them. Runs in a worker; the engines (serve_async, serve_http) have the main loop and call it.
--
--   a socket would block   wait(): the coroutine is suspended, and resumed when it is ready
--   luv's own handles      uv.run "nowait" whenever its descriptor is ready or a timer is due
--
-- A function that is in no coroutine (a callback of luv) and waits for a socket blocks the worker.

local core = require "moonfork.serve_core"

local coroutines = {}

local FLAGS = {r = 1, w = 2, rw = 3}

local Coroutines = {}
Coroutines.__index = Coroutines

--- new(worker): worker:busy() is called before code of users runs, worker:failed(message) for a
-- coroutine of theirs that raises.
function coroutines.new(worker)
  local uv = require("moonfork.serve_luv").load()
  local self = setmetatable({worker = worker, uv = uv, waits = {}, input = {}, soon = {}, loop = assert(core.loop()),
    backend = uv.backend_fd()}, Coroutines)
  assert(self.loop:keep(self.backend, true))
  core.set_wait(function(fd, events, timeout) return self:wait(fd, events, timeout) end)
  return self
end

-- ---- waiting for sockets ----

-- Tells the kernel what the coroutines that wait for it want. true, false or nil, message, errno.
function Coroutines:arm(fd)
  local flags = 0
  for _, waiter in ipairs(self.waits[fd]) do flags = flags | waiter.flags end
  return self.loop:want(fd, flags)
end

local function forget(waiter)
  local self, list = waiter.owner, waiter.owner.waits[waiter.fd]
  if waiter.timer then
    waiter.timer:stop()
    waiter.timer:close()
    waiter.timer = nil
  end
  for i, other in ipairs(list or {}) do
    if other == waiter then
      table.remove(list, i)
      if #list == 0 then self.waits[waiter.fd] = nil end
      return
    end
  end
end

-- However the wait ends: the coroutine may be closed by its time limit.
local Waiter = {__close = forget}

-- wait(fd, events, timeout) -> true: try again; false: the time is over; nil, message, errno.
function Coroutines:wait(fd, events, timeout)
  if events == "" then return self:wake(fd) end
  local co, is_main = coroutine.running()
  if is_main or not coroutine.isyieldable() then return core.poll(fd, FLAGS[events], timeout) end
  if timeout == 0 then return core.poll(fd, FLAGS[events], 0) end
  local waiter <close> = setmetatable({owner = self, co = co, fd = fd, flags = FLAGS[events]}, Waiter)
  local list = self.waits[fd] or {}
  self.waits[fd] = list
  list[#list + 1] = waiter
  local ok, message, errno = self:arm(fd)
  if ok == false then return true end -- a file: it never makes anybody wait
  if not ok then return nil, message, errno end
  if timeout then
    waiter.timer = self.uv.new_timer()
    waiter.timer:start(math.ceil(timeout * 1000), 0, function()
      waiter.is_late = true
      forget(waiter)
      self:resume(co)
    end)
  end
  local record = events == "r" and self.input[fd]
  if record then record:rest() end
  coroutine.yield()
  if record then record:go_on() end
  return not waiter.is_late
end

--- expect_input(fd, record): who waits to read from it waits for a client, not for the function:
-- record:rest() and record:go_on() are called before and after.
function Coroutines:expect_input(fd, record)
  self.input[fd] = record
end

--- forget_input(fd, record): no more; the number may be another connection's by now.
function Coroutines:forget_input(fd, record)
  if self.input[fd] == record then self.input[fd] = nil end
end

-- A socket goes: those who wait for it look again, and see that.
function Coroutines:wake(fd)
  for _, waiter in ipairs(self.waits[fd] or {}) do self.soon[#self.soon + 1] = waiter.co end
  self.waits[fd] = nil
  return true
end

--- resume(co): gives it a turn. Coroutines of connections catch what their function raises.
function Coroutines:resume(co)
  if coroutine.status(co) ~= "suspended" then return end
  self.worker:busy()
  local ok, err = coroutine.resume(co)
  if not ok then self.worker:failed(debug.traceback(co, tostring(err))) end
end

-- ---- turns ----

--- is_ready(fd, flags): a descriptor that the loop told of; false where it is none of ours.
function Coroutines:is_ready(fd, flags)
  if fd == self.backend then
    self.uv_is_ready = true
    return true
  end
  local list = self.waits[fd]
  if not list then return false end
  local ready, others = {}, {}
  for _, waiter in ipairs(list) do
    local to = waiter.flags & flags ~= 0 and ready or others
    to[#to + 1] = waiter
  end
  self.waits[fd] = #others > 0 and others or nil
  if #others > 0 then self:arm(fd) end
  for _, waiter in ipairs(ready) do self:resume(waiter.co) end
  return true
end

--- turn(): what is due apart from sockets.
function Coroutines:turn()
  local soon, uv = self.soon, self.uv
  if #soon > 0 then
    self.soon = {}
    for _, co in ipairs(soon) do self:resume(co) end
  end
  if not self.uv_is_ready and not uv.loop_alive() then return end
  self.uv_is_ready = nil
  self.worker:busy()
  uv.run "nowait"
end

--- timeout(): milliseconds until the next turn is due; -1: none is.
function Coroutines:timeout()
  if #self.soon > 0 then return 0 end
  local uv = self.uv
  uv.update_time()
  return uv.loop_alive() and uv.backend_timeout() or -1
end

return coroutines
