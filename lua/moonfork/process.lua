-- The process object: the functions that make one, and its methods. Runs in the parent.

local core = require("moonfork.load").of(...)
local calls = require "moonfork.calls"
local check = require "moonfork.check"
local reactor = require "moonfork.reactor"
local options = require "moonfork.options"
local record = require "moonfork.process_record"

local methods = {}
local create = record.create

local function is_empty(n, f)
  return core.error("EINVAL", ("argument #%d of '%s' is empty"):format(n, f))
end

local function create_child(...) -- of this process itself
  local object, p = create(...)
  p.direct = true
  return object
end

local make = {}

function make.new(given)
  return (create("new", 1, given, nil, core.new))
end

-- What is made without an image, and saved as one for the next time, where it runs. The error: why it
-- could not be saved; the process is as good.
local function build_image(f, n, given, plain, new, start)
  local own = {}
  for name, value in pairs(given) do own[name] = value end
  own.image, own.verify, own.rebuild = nil, nil, nil
  local object = new(f, n, own, nil, start)
  given.rebuild(object)
  local ok, err = object:save(plain.image)
  return object, not ok and err or nil
end

-- f: the function whose argument #n the options are; new makes its object, start its process.
local function make_exec(f, n, given, new, start)
  local plain
  local object = new(f, n, given, nil, function(cell, read)
    plain = read
    return start(cell, read)
  end)
  local p = record.state_of(object)
  if not (given and given.rebuild and p.raw) then return object end
  local memory, err = object:memory()
  if memory or (err.code ~= "EINVAL" and err.code ~= "UNSUPPORTED") then return object end
  record.mark_told(p, err)
  object:close()
  return build_image(f, n, given, plain, new, start)
end

function make.new_exec(given)
  return make_exec("new_exec", 1, given, create_child, core.new_exec)
end

function make.load(file, given)
  return make_exec("load", 2, options.of_load(file, given), create_child, core.new_exec)
end

local function create_far(...)
  return (create(...))
end

function make.remote(given)
  return make_exec("remote", 1, given, create_far, core.remote)
end

function make.template(given)
  return create_child("template", 1, given, nil, core.template)
end

-- The descriptor to hand over: of a moonfork.socket and an integer their own, which is consumed
-- unless it is refused; of other handles a duplicate. Gives it and whether to duplicate it.
local function offered(handle)
  local ok, fd, message = pcall(core.handle, handle)
  if not ok then
    check.fail(1, "from_fd", "a handle expected, got " .. check.type_name(handle))
  end
  if not fd then return nil, core.error("EINVAL", message) end
  return fd, math.type(handle) ~= "integer" and getmetatable(handle) ~= "moonfork.socket"
end

function make.from_fd(handle, given)
  check.optional(2, "from_fd", given, "table")
  return (create("from_fd", 2, given, nil, function(cell, plain)
    local fd, copy = offered(handle)
    if not fd then return nil, copy end
    local raw, err, kept = core.from_fd(cell, plain, fd, copy)
    if not kept and getmetatable(handle) == "moonfork.socket" then handle:detach() end
    return raw, err
  end))
end

-- ---- checks of state ----

-- They are given the object and give its state.
local function state(object, f)
  local p = record.state_of(object)
  if not p then check.self(f, "process", "moonfork.process", object) end
  return p
end

local function open(object, f)
  local p = state(object, f)
  reactor.check()
  if p.closed then check.raise(("'%s': the process is closed"):format(f)) end
  return p
end

local function serving(object, f)
  local p = open(object, f)
  if p.state ~= "serving" then
    check.raise(("'%s': the process was given run or to_fd (rpc, pool) already and takes no more "
      .. "commands"):format(f))
  end
  return p
end

-- What a clone in a thread can't have, and why.
local OF_PROCESSES = {
  kill = "a signal would be its whole process's",
  limit = "limits are its process's",
  setenv = "the environment is its process's",
  to_fd = "nobody else could be told of its end",
}

local function thread_error(f)
  return core.error("UNSUPPORTED", ("'%s': not for a clone that is a thread (isolation): %s")
    :format(f, OF_PROCESSES[f]))
end

-- ---- preparing ----

local function refuse(p, f)
  if not p.err then record.fail(p, thread_error(f)) end
  return p.object
end

local function command(p, f, ...)
  if p.err then return p.object end
  local ok, err = f(p.raw, ...)
  if not ok then record.fail(p, err) end
  reactor.touch()
  return p.object
end

function methods.fork(p, given)
  p = serving(p, "fork")
  local object, made = create("fork", 1, given, p, function(cell, plain)
    return core.fork(p.raw, cell, plain)
  end)
  made.is_thread = given ~= nil and given.isolation == "thread"
  return object
end

function methods.require(p, ...)
  p = serving(p, "require")
  for i = 1, select("#", ...) do check.name(i, "require", (select(i, ...))) end
  for i, module in ipairs { ... } do
    if module == "" then record.fail(p, is_empty(i, "require")) end
    command(p, core.require, module)
  end
  return p.object
end

-- A string argument; nil where the number has no text (nan).
local function argument(n, f, value)
  if type(value) == "string" then return value end
  if math.type(value) then return check.number_text(value) end
  check.fail(n, f, "string or number expected, got " ..
    (value == nil and "nil" or check.type_name(value)))
end

-- All arguments as strings, or nil and the error of the first that can't be sent.
local function arguments(f, first, ...)
  local texts, err = table.pack(...), nil
  for i = 1, texts.n do
    local n = first + i - 1
    texts[i] = argument(n, f, texts[i])
    if not texts[i] and not err then
      err = core.error("EINVAL", ("argument #%d of '%s' is not a number (nan)"):format(n, f))
    end
  end
  if err then return nil, err end
  return texts
end

function methods.eval(p, code, ...)
  p = serving(p, "eval")
  check.type(1, "eval", code, "string")
  local args, err = arguments("eval", 2, ...)
  if not args then
    record.fail(p, err)
    return p.object
  end
  return command(p, core.eval, "eval at " .. check.place(), code,
    table.unpack(args, 1, args.n))
end

function methods.send_arg(p, ...)
  p = serving(p, "send_arg")
  local args, err = arguments("send_arg", 1, ...)
  if not args then
    record.fail(p, err)
    return p.object
  end
  for i = 1, args.n do command(p, core.send_arg, args[i]) end
  return p.object
end

-- All of them or none: the descriptors of the handles, or nil and the error of the first that
-- can't be used. Raises for what is no handle.
local function descriptors(...)
  local fds, err = {}, nil
  for n = 1, select("#", ...) do
    local handle = select(n, ...)
    local ok, fd, message = pcall(core.handle, handle)
    if not ok then
      check.fail(n, "send_fd", "a handle expected, got " .. check.type_name(handle))
    end
    fds[n] = fd or false
    err = err or not fd
      and core.error("EINVAL", ("argument #%d of 'send_fd': %s"):format(n, message)) or nil
  end
  if err then return nil, err end
  return fds
end

function methods.send_fd(p, ...)
  p = serving(p, "send_fd")
  local fds, err = descriptors(...)
  if not fds then record.fail(p, err) end
  for _, fd in ipairs(fds or {}) do command(p, core.send_fd, fd) end
  return p.object
end

function methods.take_args(p)
  return command(serving(p, "take_args"), core.take_args)
end

function methods.chdir(p, path)
  p = serving(p, "chdir")
  if check.name(1, "chdir", path) == "" then record.fail(p, is_empty(1, "chdir")) end
  return command(p, core.chdir, path)
end

function methods.setenv(p, name, value)
  p = serving(p, "setenv")
  check.name(1, "setenv", name)
  if name == "" or name:find("=", 1, true) then
    check.fail(1, "setenv", "not the name of a variable: '" .. name .. "'")
  end
  local args, err
  if math.type(value) then
    args, err = arguments("setenv", 2, value)
    value = args and args[1]
  end
  if err then
    record.fail(p, err)
    return p.object
  end
  if value then check.name(2, "setenv", value) end
  if p.is_thread then return refuse(p, "setenv") end
  return command(p, core.setenv, name, value or nil)
end

-- "a" or "a.b": no part is empty.
local function is_dotted(name)
  return not ("." .. name .. "."):find("..", 1, true)
end

function methods.set(p, name, ...)
  p = serving(p, "set")
  check.name(1, "set", name)
  if select("#", ...) == 0 then check.fail(2, "set", "value expected") end
  if name == "" then record.fail(p, is_empty(1, "set")) end
  if not is_dotted(name) then
    record.fail(p, core.error("EINVAL", ("argument #1 of 'set' has an empty part: '%s'"):format(name)))
  end
  return command(p, core.set, name, (...))
end

local SEAL_GC = { generational = 0, incremental = 1, stop = 2 }
local SEAL_AUDIT = { off = 1, warn = 2, strict = 3 }

local function seal_choice(opts, key, values)
  local value = opts[key]
  if value == nil then return 0 end
  if values[value] then return values[value] end
  local names = {}
  for name in pairs(values) do names[#names + 1] = ("'%s'"):format(name) end
  table.sort(names)
  check.fail(1, "seal", ("option '%s': one of %s expected, got %s"):format(key,
    table.concat(names, ", "), check.show(value)))
end

function methods.seal(p, opts)
  p = serving(p, "seal")
  opts = check.optional(1, "seal", opts, "table") or {}
  check.keys(1, "seal", opts, { gc = true, audit = true })
  return command(p, core.seal, seal_choice(opts, "gc", SEAL_GC),
    seal_choice(opts, "audit", SEAL_AUDIT))
end

local LIMITS = core.limits()
local INFINITY = -1

local function limit_value(name, value)
  if value == math.huge or value == "unlimited" then return INFINITY end
  local n = math.type(value) and math.tointeger(value)
  if not n or n < 0 then
    check.fail(1, "limit", ("option '%s': a whole number or \"unlimited\" expected, got %s")
      :format(name, check.show(value)))
  end
  return n
end

function methods.limit(p, limits)
  p = serving(p, "limit")
  check.type(1, "limit", limits, "table")
  check.keys(1, "limit", limits, LIMITS)
  local list = {}
  for name, value in pairs(limits) do
    list[#list + 1] = name
    list[#list + 1] = limit_value(name, value)
  end
  if #list == 0 then return p.object end
  if p.is_thread then return refuse(p, "limit") end
  return command(p, core.limit, list)
end

-- ---- finishing ----

-- untold: nobody hears of err from the call that it is the answer to.
local function finished(p, err, untold)
  p.state = "finished"
  record.keep(p)
  if not err then return end
  record.set_failure(p, p.err or err)
  if not untold then record.mark_told(p, err) end
end

-- The callback of a run that the common path has asked for.
function reactor.on_ran(callback, err, socket, object)
  finished(record.state_of(object), err)
  return reactor.call(callback, err, socket)
end

-- Starts run or to_fd: start(raw, done). The callback gets err, value. Gives a function that
-- makes it nobody's: the answer is dropped, with its socket, and nothing of it keeps the
-- object or counts as outstanding. waits: that may happen, so nobody may be told.
local function finish(p, callback, start, waits)
  local function done(err, value)
    finished(p, err)
    return callback(err, value)
  end
  local function told(...) return done(...) end
  local err = p.err
  if not err then
    local _
    _, err = start(p.raw, told)
    if err then record.fail(p, err) end -- it could not even be sent: the process has to end too
  end
  p.state = "finishing" -- not before: what raises has changed nothing
  record.keep(p)
  if err then
    if not waits then record.mark_told(p, err) end -- it will be, also where p is closed before
    reactor.post(function() return told(err) end)
  end
  reactor.touch()
  return function()
    local weak = setmetatable({ p }, { __mode = "v" })
    if p.raw then core.run_quiet(p.raw) end
    done = function(e, socket)
      if socket then socket:close() end
      if weak[1] then finished(weak[1], e, true) end
    end
  end
end

local function finish_or_wait(p, callback, start)
  if callback then
    finish(p, callback, start)
    return p.object
  end
  local drop
  return reactor.await(function(done) drop = finish(p, done, start, true) end,
    function() if drop then drop() end end)
end

-- Goes on with a waiting run of the common path, whose answer is told to somebody else first, or
-- which has failed.
local function go_on(object, completion)
  local p = record.state_of(object)
  p.err = nil -- of the run itself, which is told now
  return finish_or_wait(p, nil, function(_, told)
    core.run_told(completion, told)
    return true
  end)
end

function methods.run(p, name, callback)
  p = serving(p, "run")
  if p.raw and core.may_go_on(p.raw) and (name == nil or type(name) == "function" and callback == nil) then
    name, callback = nil, name or callback -- the function that clone.hibernate has suspended
  else
    check.name(1, "run", name)
  end
  callback = check.callback(2, "run", callback)
  return finish_or_wait(p, callback, function(raw, told)
    if name == "" then return nil, is_empty(1, "run") end
    return core.run(raw, name, told)
  end)
end

function methods.to_fd(p, callback)
  p = serving(p, "to_fd")
  callback = check.callback(1, "to_fd", callback)
  local err = not p.err and (p.is_thread and thread_error "to_fd" or p.raw and core.to_fd_refusal(p.raw))
  if err then -- nothing has changed
    if not callback then return nil, err end
    reactor.post(function() callback(err) end)
    return p.object
  end
  p.given = true
  return finish_or_wait(p, callback, core.to_fd)
end

-- The raw process for an rpc or a pool, which has it from now on; or nil, err.
local function take(p, f)
  p.state, p.used_by = "finished", f == "rpc" and "an rpc" or "a pool"
  if not p.err then return p.raw end
  record.mark_told(p, p.err)
  return nil, p.err
end

-- The same for a pool, whose template it is to be.
local function take_template(p, f)
  local raw, err = take(p, f)
  return raw, record.inherited(err)
end

-- For pool:reload(process) and pool:add(process): the process, or raises.
function calls.take(n, f, object)
  if not record.state_of(object) then
    check.fail(n, f, "moonfork.process expected, got " .. check.type_name(object))
  end
  return take_template(serving(object, f), f)
end

-- The pool did not take it: nothing has changed.
function calls.give_back(object)
  local p = record.state_of(object)
  p.state, p.used_by = "serving", nil
end

function methods.rpc(p, name, opts)
  p = serving(p, "rpc")
  local plain, cell = calls.rpc_options(name, opts)
  local raw, err = take(p, "rpc")
  local rpc = calls.rpc(p, raw, err, name, plain, cell)
  record.follow_service(p, cell)
  return rpc
end

function methods.pool(p, name, opts)
  p = serving(p, "pool")
  local plain, cell = calls.pool_options(name, opts)
  local err = plain.isolation == 1 and (options.thread_error { tree = opts.tree }
    or p.raw and core.is_remote(p.raw)
      and core.error("UNSUPPORTED", "option 'isolation': a remote process has no clones in threads"))
  local raw
  if not err then raw, err = take_template(p, "pool") end
  local pool = calls.pool(p, raw, err, name, plain, cell)
  if p.state ~= "serving" then p.cell.pool = cell end -- else it was given back
  record.follow_service(p, cell)
  return pool
end

-- ---- asking ----

function methods.pid(p)
  p = open(p, "pid")
  return p.raw and core.pid(p.raw) or nil
end

function methods.kill(p, signal)
  p = open(p, "kill")
  local number = check.signal(1, "kill", signal == nil and "TERM" or signal)
  if not p.raw then return nil, core.error("CLOSED", "the process has not been started") end
  if p.is_thread then return nil, thread_error "kill" end
  return core.kill(p.raw, number)
end

local function tell_end(p, callback)
  if p.status then
    reactor.post(function() return callback(p.status) end)
  elseif p.raw then
    record.watch(p, callback)
  else
    reactor.post(function() return callback { unknown = true } end)
  end
end

function methods.on_exit(p, callback)
  p = open(p, "on_exit")
  callback = check.callback(1, "on_exit", callback)
  if not callback then check.type(1, "on_exit", callback, "function") end
  tell_end(p, callback)
  return p.object
end

function methods.wait(p, timeout)
  p = open(p, "wait")
  if timeout ~= nil then check.seconds(1, "wait", timeout) end
  if timeout == math.huge then timeout = nil end
  local watcher
  local status, err = reactor.await(function(done)
    watcher = function(exit) done(nil, exit) end
    tell_end(p, watcher)
  end, function() record.unwatch(p, watcher) end, timeout)
  if not status then return nil, err end
  if not p.err then return status end
  record.mark_told(p, p.err)
  -- That it ended instead of answering is no other news than how it ended.
  if p.err.code == "CLONE_DIED" then return status end
  return nil, p.err
end

function methods.memory(p, callback)
  p = open(p, "memory")
  callback = check.callback(1, "memory", callback)
  local request
  local function start(done)
    local err = not p.raw and p.err
    if not err then
      request, err = core.memory(p.raw, done)
    end
    if err then reactor.post(function() return done(err) end) end
    reactor.touch()
  end
  if not callback then
    return reactor.await(start, function()
      if request and p.raw then core.memory_quiet(p.raw, request) end
    end)
  end
  start(callback)
  return p.object
end

--- save(file [, opts] [, callback]): writes the interpreter as an image. true, or nil, err.
function methods.save(p, file, opts, callback)
  p = serving(p, "save")
  check.type(1, "save", file, "string")
  if type(opts) ~= "table" then
    callback = check.callback(2, "save", opts)
  else
    check.keys(2, "save", opts, {})
    callback = check.callback(3, "save", callback)
  end
  local path, failed = options.image_path(file, p.raw and core.is_remote(p.raw))
  local function start(done)
    local function told(err, ok)
      if err then record.mark_told(p, err) end
      return done(err, ok or nil)
    end
    local err = p.err or failed
    if not err then
      local ok
      ok, err = core.save(p.raw, path, told)
      if ok then err = nil end
    end
    if err then reactor.post(function() return told(err) end) end
    reactor.touch()
  end
  if not callback then return reactor.await(start) end
  start(callback)
  return p.object
end

-- ---- ending ----

function methods.close(p)
  p = state(p, "close")
  if p.closed then return end
  p.closed = true
  if p.raw and core.inert(p.raw) then return end
  if p.raw then core.memory_cancel(p.raw) end -- garbage is still answered
  record.let_go(p)
end


core.object_class(methods, {
  fork = methods.fork, run = methods.run, wait = methods.wait, on_exit = methods.on_exit,
  close = methods.close, __close = methods.close, __gc = record.collected, __tostring = record.text,
  go_on = go_on,
})

return make
