-- Any function of the Lua module with any values, from anywhere: a round of the random driver
-- for the Lua API. One seed, one interpreter; `rounds` (beside this file) runs many.
--
--   lua5.4 any.lua SEED        (the environment is that of test/run; ANY_TELL=1: each call)
--
-- Functions and methods are found in the module's own tables, so a new one takes part without
-- being named here; half of the calls have arguments that make sense (`sense`), half have any.
-- Calls are made from the main program, coroutines, callbacks, finalisers, <close>, and
-- comparators of C functions, with the collector under more or less stress. What must hold:
--
--   - a call returns values, or nil and an error object (sockets: a text), or raises an error
--     that is not the module's own mistake
--   - each accepted callback comes exactly once, and later
--   - everything closes in time, and fork.loop() ends at once then
--   - descriptors, references in the registry and children are as before
local fork = require "moonfork"
local kit = require "testkit"

local SEED = math.tointeger(tonumber(arg[1])) or 1
local STEPS = 250
local CALL_S = 0.3 -- the longest wait of a call
local CLOSE_S = 16 -- of the end: an rpc waits 10 s for its answers, then its template may hang
local scale = tonumber(os.getenv "STORY_SCALE" or "") or 1
local tells = os.getenv "ANY_TELL"
math.randomseed(SEED)
local random = math.random

local function one_in(n) return random(n) == 1 end
local function pick(list) return list[random(#list)] end

local function fail(...)
  io.stderr:write(string.format(...), "\n", debug.traceback(), "\n")
  os.exit(1, false)
end

local function tell(...)
  if tells then print(string.format(...)) end
end

-- ---- callbacks ----

local act, adopt -- below
local depth, inside, leaving = 0, 0, false
local ledger = {} -- what was accepted and is not told yet

local nexpected = 0

local function expect(kind)
  nexpected = nexpected + 1
  local what = ("%s #%d"):format(kind, nexpected)
  local entry = {what = what, kind = kind, times = 0}
  ledger[entry] = true
  local function callback(err, value)
    adopt(entry.kind, value)
    if inside > 0 and entry.running then fail("%s: told inside the call", what) end
    entry.times = entry.times + 1
    if entry.times > 1 then fail("%s: told twice", what) end
    ledger[entry] = nil
    tell("   told: %s %s", what, tostring(err))
    if not leaving and one_in(3) then act() end
  end
  entry.running = true
  return callback, entry
end

-- The call is over. Where it raised, or says that it was refused, nothing may come.
local function settle(entry, accepted)
  entry.running = false
  if accepted or entry.times > 0 then return end
  ledger[entry] = nil
end

-- ---- values ----

local things = {process = {}, rpc = {}, pool = {}, socket = {}, control = {}, call = {}, other = {}}
local closed = {} -- some of what was closed: use after close

local function keep(kind, value)
  local list = things[kind]
  list[#list + 1] = value
  return value
end

local function kind_of(value)
  local meta = debug.getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  if type(value) ~= "table" and type(value) ~= "userdata" then return nil end
  if name == "moonfork.process" then return "process" end
  if name == "moonfork.rpc" then return "rpc" end
  if name == "moonfork.pool" then return "pool" end
  if type(name) == "string" and name:find "socket" then return "socket" end
  if type(name) == "string" and name:find "^moonfork" then return "other" end
  if type(meta) == "table" and rawget(meta, "__metatable") == "moonfork.socket" then
    return "socket"
  end
end

local on_purpose = "on purpose"
local nasty = setmetatable({}, {
  __index = function() error(on_purpose) end,
  __tostring = function() error(on_purpose) end,
  __len = function() return -1 end,
  __pairs = function() error(on_purpose) end,
  __call = function() end,
  __name = "moonfork.process",
})
local cycle = {}
cycle[1] = cycle
local open_file = io.open("/dev/null", "r+")
local closed_file = io.open "/dev/null"
closed_file:close()

local function nothing() end

local function any_process() return #things.process > 0 and pick(things.process) or nil end
local function any_socket() return #things.socket > 0 and pick(things.socket) or nil end

-- Numbers of descriptors that are open would be taken from us: none is here.
local any_values = {
  function() return nil end,
  function() return one_in(2) end,
  function() return pick {0.5, -1, 99999, 1 << 31, math.mininteger, math.maxinteger, -0.0} end,
  function() return pick {0 / 0, math.huge, -math.huge, 1e300, 2 ^ 53} end,
  function() return pick {"", "x", "\0", "a\0b", "no.such:thing", "type", "%s", "1", "-1"} end,
  function() return ("y"):rep(random(70000)) end,
  function() return "/no/such/" .. random(9) end,
  function() return {} end,
  function() return {random(9), x = 1, [nasty] = 1} end,
  function() return pick {nasty, cycle} end,
  function() return pick {nothing, tostring, coroutine.wrap(nothing)} end,
  function() return coroutine.create(nothing) end,
  function() return pick {open_file, closed_file} end,
  function() return fork end,
  function() return any_process() end,
  function() return any_socket() end,
  function() return #closed > 0 and pick(closed) or nil end,
  function() return #things.rpc > 0 and pick(things.rpc) or nil end,
  function() return #things.pool > 0 and pick(things.pool) or nil end,
}

local function any() return pick(any_values)() end

local function any_arguments()
  local args = {n = random(0, 4)}
  for i = 1, args.n do args[i] = any() end
  return args
end

-- ---- arguments that make sense ----

local CODE = [[
  function quick() end
  function hold(s) s:read "a" end
  function say(s, ...) s:write("hello ", select("#", ...), "\n") end
  function fails() error "on purpose" end
  function throws() error {code = 7} end
  function exits() os.exit(3) end
  function spins() local t = os.clock() while os.clock() - t < 0.02 do end end
  function echo(...) return ... end
  function sometimes(...) if math.random(5) == 1 then error "no" end return ... end
  function events(...) require "moonfork.rpc".event(...) return ... end
  function cloned(s)
    local clone = require "moonfork.clone"
    for name, f in pairs(clone) do
      if type(f) == "function" and not UNSAFE[name] then
        pcall(f) pcall(f, -1) pcall(f, {}) pcall(f, "x", 2, {}) pcall(f, print, {})
      end
    end
    s:write "done"
  end
  UNSAFE = {exit = true, exec = true, fork = true, kill = true, pause = true, wait = true,
    spawn = true, daemon = true, sleep = true, abort = true, hibernate = true, close = true,
    waitpid = true, raise = true, dup2 = true, setuid = true, setgid = true, setsid = true}
]]

local HANG = "while true do end" -- closing it ends it all the same

local function some_options()
  local opts = {stderr = "null"} -- where functions print their errors
  if one_in(4) then opts.env = {A = "1", B = false, C = 2} end
  if one_in(6) then opts.cwd = pick {"/", "/tmp", "/no/such"} end
  if one_in(6) then opts.stdin = pick {"null", "socket", "inherit", open_file} end
  if one_in(6) then opts.stdout = pick {"null", "socket"} end
  if one_in(8) then opts.timeout = random() * 0.3 end
  if one_in(8) then opts.handles = pick {"close", "inherit"} end
  if one_in(8) then opts.name = "a name" end
  if one_in(8) then opts.leash = pick {"kill", "term"} end
  if one_in(8) then opts.session = "new" end
  if one_in(4) then opts.tree = one_in(2) end
  if one_in(8) then opts.dumpable = one_in(2) end
  return opts
end

local function exec_options()
  local opts = some_options()
  if one_in(6) then opts.program = pick {"/no/such/program", "/bin/true"} end
  if one_in(4) then opts.spares = {min = random(0, 2), max = random(2, 3)} end
  if one_in(6) then opts.gc = pick {"generational", "incremental", "stop"} end
  return opts
end

local function service_options()
  local opts = {on_error = nothing}
  if one_in(3) then opts.serialiser = pick {"msgpack", "string", "raw", "no.such.module"} end
  if one_in(3) then opts.handles = true end
  if one_in(3) then opts.on_event = function() if one_in(4) and not leaving then act() end end end
  if one_in(6) then opts.timeout = random() * 0.2 + 0.001 end
  if one_in(8) then opts.init = pick {"quick", "nothing"} end
  return opts
end

local function pool_options()
  local opts = service_options()
  opts.max, opts.grace = random(3), 0.3
  if one_in(3) then opts.load = random(3) end
  if one_in(3) then opts.tree = one_in(2) end
  if one_in(3) then opts.max_calls = random(20) end
  if one_in(3) then opts.call_timeout = 0.05 + random() / 10 end
  if one_in(3) then opts.on_worker = function() if one_in(4) and not leaving then act() end end end
  return opts
end

local function values()
  return pick {1, "text", 2.5, true, {1, {2}}, ("z"):rep(random(5000)), {x = {y = "z"}}, nil}
end

local function maybe(f) return one_in(3) and f or nil end -- else the call waits

local function_names = {"quick", "hold", "say", "fails", "throws", "exits", "spins", "cloned",
  "nothing", "string:format", "no.module:f"}
local service_names = {"echo", "echo", "sometimes", "events", "nothing"}

-- name -> arguments; `done` is an expected callback, or nil where the call should wait
local sense = {
  new = function() return some_options() end,
  new_exec = function() return exec_options() end,
  template = function() return some_options() end,
  from_fd = function()
    local list = things[one_in(5) and "socket" or "control"]
    return #list > 0 and table.remove(list, random(#list)) or -1
  end,
  step = function() return pick {0, 0.001, nil} end,
  set_waiter = function() return nil end,
  on_error = function() return nil end,
  reset = nothing, ncpu = nothing,
  sleep = function() return random() / 50 end,
  timer = function(done) return random() / 50, done or nothing end,
  fork = function() return some_options() end,
  require = function() return pick {"string", "moonfork.clone", "no.such.module"} end,
  eval = function()
    return pick {"x = ...", CODE, "return", "error 'no'", "error {}", "x =", "os.exit(3)",
      "require'moonfork.clone'.on_fork(function() y = 1 end)",
      one_in(4) and HANG or "x = 2", "t = {} for i = 1, 9e3 do t[i] = {} end"},
      values() and "argument"
  end,
  -- Never one that leads to a process: those that hold their own or each other's would live for ever.
  send_fd = function() return pick {0, open_file, (fork.socket.pair())} end,
  send_arg = function() return "a", 1, 2.5, ("b"):rep(random(6000)) end,
  run = function(done) return pick(function_names), done end,
  to_fd = function(done) return done end,
  memory = function(done) return done end,
  on_exit = function(done) return done or nothing end,
  wait = function() return random() / 20 end,
  kill = function() return pick {"TERM", "KILL", 0, "USR1", 9} end,
  seal = function() return pick {{gc = "stop"}, {}, {audit = "warn"}} end,
  limit = function() return {core = 0, nofile = 256} end,
  chdir = function() return pick {"/", "/tmp", "/no/such"} end,
  setenv = function() return pick {"A", "B"}, pick {"1", 2, false} end,
  rpc = function() return pick(service_names), service_options() end,
  pool = function() return pick(service_names), pool_options() end,
  call = function(done) return values(), done end,
  with = function() return {timeout = 0.1} end,
  drain = function(done) return random() / 3, done end,
  reload = function(done) return any_process(), done end,
  add = function(done) return any_process(), done end,
  promote = function(done) return done end,
  resize = function() return random(0, 4) end,
  map = function() return {1, 2, 3, "x"} end,
  close = nothing, pid = nothing, take_args = nothing, stats = nothing, pids = nothing,
  read = function() return pick {"l", "a", "n", "L", 0, 10} end,
  write = function() return "text", 1, ("w"):rep(random(20000)) end,
  lines = function() return "l" end,
  settimeout = function() return random() / 20 end,
  shutdown = function() return pick {"r", "w", "rw"} end,
  recv_fd = nothing, accept = nothing, flush = nothing, dup = nothing, file = nothing,
  pair = nothing,
  listen = function() return pick {"127.0.0.1:0", "@any" .. random(1 << 30), "/no/such/x"} end,
  connect = function() return pick {"127.0.0.1:1", "@nobody", "/no/such/x", "localhost:1"} end,
  open = function() return "/dev/null", pick {"r", "w"} end,
}
-- The callbacks that are counted; other functions may be called never, or often.
local counted = {run = true, to_fd = true, memory = true, on_exit = true, call = true,
  drain = true, reload = true, add = true, promote = true}
-- Not for us: they take what is not ours, or change how this program runs.
local excluded = {use_loop = true, loop = true, wrap = true, template = true, detach = true,
  remote = true, load = true, save = true, trace = true, signal = true, poll = true}

-- ---- calls ----

local CODES = {}
for code in ([[REMOTE CLONE_DIED TEMPLATE_START TEMPLATE_DIED FORK_FAILED TIMEOUT CANCELLED
  CLOSED EINVAL LIMIT PROTOCOL NOMEM UNSUPPORTED ENGINE]]):gmatch "%S+" do CODES[code] = true end

local function check_failure(what, err, errno)
  if type(err) == "string" then
    if errno ~= nil and type(errno) ~= "number" then fail("%s: nil, %q, %s", what, err, errno) end
    return
  end
  local ok, code = pcall(function() return err.code end)
  if not ok or not CODES[code] then fail("%s: nil and no error object: %s", what, tostring(err)) end
  if type(err.message) ~= "string" then fail("%s: a message of type %s", what, type(err.message)) end
  if type(tostring(err)) ~= "string" then fail "an error object without a text" end
end

local function check_raised(what, err)
  if type(err) ~= "string" then
    return -- an error object, or something of ours
  end
  if err:find(on_purpose, 1, true) or err:find "not enough memory" then return end
  if err:find "moonfork/[%a_]+%.lua:%d+: attempt" or
     err:find "moonfork/[%a_]+%.lua:%d+: bad argument #%d to '[^']*core" or
     err:find "assertion failed" then
    fail("%s: a mistake of the module: %s", what, err)
  end
end

-- What a call gave is kept, and used. A command socket is only given back: what else is
-- written to it is a command, and a process that got hold of its own would live for ever.
function adopt(what, ...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    local kind = value ~= nil and kind_of(value)
    if kind == "socket" and what == "to_fd" then kind = "control" end
    if kind then
      local known = false
      for _, other in ipairs(things[kind]) do known = known or rawequal(other, value) end
      if not known then keep(kind, value) end
    elseif io.type(value) == "file" and value ~= open_file then
      value:close()
    end
  end
end

local deadline -- of the call under way

-- The waiter of all waiting calls: short steps, and past the deadline it raises.
local function waiter(reactor, timeout)
  kit.poll(reactor:pollfd(), "r", math.ceil(math.min(timeout or 0.01, 0.01) * 1000))
  if deadline and kit.now() > deadline then error("too long " .. on_purpose, 0) end
end

local function finish(what, entry, ok, first, second, third, ...)
  inside = inside - 1
  tell("   %s -> %s %s %s", what, tostring(ok), pcall(tostring, first) and tostring(first),
    second ~= nil and pcall(tostring, second) and tostring(second))
  if entry then settle(entry, ok and not (first == nil and second ~= nil)) end
  if not ok then
    check_raised(what, first)
  elseif first == nil and second ~= nil and what ~= "call" then -- its results are anybody's
    check_failure(what, second, third)
  end
  adopt(what, first, second, third, ...)
  return ok
end

local function invoke(name, f, self, sensible)
  local args, entry, done
  if sensible and sense[name] then
    local want = (name == "on_exit" or name == "timer") or maybe(true)
    if want and counted[name] then done, entry = expect(name) else done = want and nothing end
    args = table.pack(sense[name](done))
  else
    args = any_arguments()
    if name == "new" or name == "new_exec" or name == "fork" then -- what it prints is ours
      local opts = args[1]
      if opts == nil or type(opts) == "table" and not rawequal(opts, nasty) and
        not rawequal(opts, cycle) and next(opts) == nil then args = {some_options(), n = 1} end
    end
  end
  if entry and name == "call" and args.n == 0 then args.n = 1 end
  inside = inside + 1
  local outer = deadline
  deadline = math.min(outer or math.huge, kit.now() + CALL_S * scale)
  tell("%s%s%s%s of %s", ("  "):rep(depth), name, sensible and "" or " (any)",
    entry and " " .. entry.what or "", pcall(tostring, self) and tostring(self))
  local ok
  if self ~= nil then
    ok = finish(name, entry, pcall(f, self, table.unpack(args, 1, args.n)))
  else
    ok = finish(name, entry, pcall(f, table.unpack(args, 1, args.n)))
  end
  deadline = outer
  return ok
end

local function names_of(t)
  local names = {}
  while type(t) == "table" do
    for name, f in pairs(t) do
      if type(name) == "string" and type(f) == "function" and not name:find "^__" and
         not excluded[name] then
        names[#names + 1] = name
      end
    end
    local meta = debug.getmetatable(t)
    t = meta and rawget(meta, "__index")
  end
  table.sort(names)
  return names
end

local function methods_of(value)
  local meta = debug.getmetatable(value)
  return meta and rawget(meta, "__index")
end

local fork_names, socket_names = names_of(fork), names_of(fork.socket)

local function call_method(kind)
  local list = things[kind]
  if #list == 0 then return end
  local value = list[random(#list)]
  local methods = methods_of(value)
  if type(methods) ~= "table" then return end
  local name = pick(names_of(methods))
  if name == "close" and not one_in(4) then return end
  if kind == "socket" and (name == "fileno" or name == "pollfd" or name == "getfd") then return end
  local f = methods[name]
  -- Sometimes the object is not one.
  invoke(name, f, one_in(25) and (any() or false) or value, not one_in(3))
  if name == "close" then
    for i, other in ipairs(list) do
      if rawequal(other, value) then table.remove(list, i) break end
    end
    closed[random(4)] = value
    if not closed[1] then closed = {value} end
  end
end

local function call_service(kind)
  local list = things[kind]
  if #list == 0 then return end
  local service = list[random(#list)]
  if one_in(3) then return invoke("call", service, nil, false) end
  invoke("call", service, nil, true)
end

local function plain_act()
  local n = random(20)
  if n <= 3 then
    local name = pick(fork_names)
    if name == "reset" and not one_in(6) then return end
    invoke(name, fork[name], nil, not one_in(3))
    if name == "set_waiter" or name == "on_error" then
      fork.set_waiter(waiter)
      fork.on_error(nothing)
    end
  elseif n <= 5 then
    local name = pick {"new", "new", "new_exec"}
    if #things.process < 10 and invoke(name, fork[name], nil, true) then
      local p = things.process[#things.process]
      if p then pcall(p.eval, p, CODE) end
    end
  elseif n <= 6 then
    local name = pick(socket_names)
    if type(fork.socket[name]) == "function" then invoke(name, fork.socket[name], nil, not one_in(3)) end
  elseif n <= 12 then
    call_method "process"
  elseif n <= 14 then
    call_method(pick {"rpc", "pool"})
  elseif n <= 17 then
    call_service(pick {"rpc", "pool"})
  elseif n <= 19 then
    call_method "socket"
  else
    call_method "other"
  end
end

-- Where the call comes from.
local function in_coroutine()
  local co = coroutine.create(plain_act)
  local ok, err = coroutine.resume(co)
  if not ok then error(err, 0) end
  -- A waiting call never suspends it here: there is no scheduler.
  if coroutine.status(co) ~= "dead" and one_in(2) then coroutine.close(co) end
end

local function in_finaliser()
  setmetatable({}, {__gc = function()
    if leaving then return end
    local ok, err = pcall(plain_act)
    if not ok then fail("in a finaliser: %s", tostring(err)) end
  end})
  collectgarbage() -- inside another finaliser it does nothing, and this one comes later
end

local contexts = {
  plain_act, plain_act, plain_act,
  in_coroutine,
  in_finaliser,
  function() local _ <close> = setmetatable({}, {__close = plain_act}) end,
  function() table.sort({2, 1}, function(a, b) plain_act() return a < b end) end,
  function() string.gsub("x", ".", function() plain_act() end) end,
  function() return setmetatable({}, {__index = function() plain_act() end}).x end,
  function() xpcall(error, function() plain_act() end) end,
}

function act()
  if depth > 3 then return end
  depth = depth + 1
  local ok, err = pcall(pick(contexts))
  depth = depth - 1
  if not ok then check_raised("a context", err) end
end

-- ---- what must be as before ----

local function count_kinds()
  local kinds = {}
  for _, target in pairs(kit.fds()) do
    local kind = target:gsub("%[%d+%]", ""):gsub("^/proc/%d+", "/proc/N")
    kinds[kind] = (kinds[kind] or 0) + 1
  end
  return kinds
end

local function references()
  local n = 0
  for key, value in pairs(debug.getregistry()) do
    if type(key) == "number" and type(value) ~= "number" then n = n + 1 end
  end
  return n
end

local function children()
  local n, me, text = 0, kit.getpid(), ""
  for pid, p in pairs(kit.processes()) do
    if p.ppid == me then
      n = n + 1
      text = ("%s %d %s %s"):format(text, pid, p.state, p.comm)
    end
  end
  return n, text
end

local function warm_up()
  for _, make in ipairs {fork.new, fork.new_exec} do
    local p = make {stderr = "null"}
    local socket = assert(p:run "type")
    socket:close()
    assert(p:wait(20))
    p:close()
  end
  local rpc = fork.new {stderr = "null"}:eval(CODE):rpc "echo"
  assert(rpc(1) == 1)
  rpc:close()
end

local function difference(before)
  local nchildren, who = children()
  local now = {kinds = count_kinds(), references = references(), children = nchildren}
  for kind, n in pairs(now.kinds) do
    if n > (before.kinds[kind] or 0) then
      return ("%d of %s, %d before"):format(n, kind, before.kinds[kind] or 0)
    end
  end
  for _, what in ipairs {"references", "children"} do
    if now[what] > before[what] then
      return ("%d %s, %d before:%s"):format(now[what], what, before[what],
        what == "children" and who or "")
    end
  end
end

-- Turns the reactor until it says nil, which is asked now and then.
local function within(seconds, what, wrong)
  local last = kit.now() + seconds * scale
  repeat
    collectgarbage()
    local ok, err = pcall(fork.step, 0.005)
    if not ok then check_raised("step", err) end
    local text = wrong()
    if not text then return end
    if kit.now() > last then fail("%s: %s", what, text) end
    kit.msleep(2)
  until false
end

local function close_all()
  leaving = true
  for _, kind in ipairs {"socket", "control", "rpc", "pool", "process", "call", "other"} do
    for _, value in ipairs(things[kind]) do
      local ok, err = pcall(function() return value:close() end)
      if not ok then check_raised("close", err) end
    end
    things[kind] = {}
  end
  closed = {}
end

-- Rpcs and pools whose calls never end are not there, so each call is answered in time.
local function the_end(before)
  close_all()
  fork.set_waiter(nil)
  fork.reset()
  within(CLOSE_S, "outstanding", function()
    local entry = next(ledger)
    close_all() -- what callbacks brought
    if entry then return "the callback of " .. entry.what .. " has not come" end
    local _, outstanding = pcall(fork.step, 0)
    return outstanding and "the reactor says that work is outstanding" or nil
  end)
  local began = kit.now()
  fork.loop()
  if kit.now() - began > 1 * scale then fail "fork.loop() waited" end
  warm_up()
  within(5, "left over", function() return difference(before) end)
end

-- ---- the round ----

local stress = {
  function() end,
  function() collectgarbage("incremental", 100, 1000) end,
  function() collectgarbage("generational", 1, 1) end,
  function() debug.sethook(function() collectgarbage "step" end, "", 500) end,
  function() debug.sethook(function() collectgarbage() end, "", 20000) end,
}

fork.new({stderr = "null"}):close()
warm_up()
warm_up()
within(5, "warm-up", function() return children() > 1 and "children" or nil end)
local before = {kinds = count_kinds(), references = references(), children = (children())}
fork.on_error(nothing)
fork.set_waiter(waiter)
pick(stress)()
for _ = 1, STEPS do
  act()
  if one_in(3) then
    local ok, err = pcall(fork.step, random() / 100)
    if not ok then check_raised("step", err) end
  end
end
debug.sethook()
collectgarbage "incremental"
the_end(before)
if one_in(2) then os.exit(0, true) end
