-- The n-th allocation, duplicate or socket pair of every call of the Lua module fails, once,
-- for each n. What the call answers must be a value, an error object, or, where
-- Lua itself has no memory, a Lua error; and it must leave nothing: no reference in the
-- registry, no descriptor, no work outstanding; and the next call works. Runs in a parent of
-- its own, with the shim preloaded.
local host = require "host"
local standing = require "standing"
local story = require "story"

local PROGRAM = [[
local fork, kit, fkit = require "moonfork", require "testkit", require "faultkit"
local MOST = %d
assert(fkit.shim_arm("none", 1), "the shim is not loaded")
fkit.shim_disarm()

local function nothing() end
local long = ("x"):rep(10000)
local held = {} -- what has to be closed after the call

local function keep(value, err)
  held[#held + 1] = value or nil
  return value, err
end

local function begun(code) -- a process that is up and whose clones exist at once
  local p = keep(fork.new())
  if code then p:eval(code) end
  while not p:pid() do fork.step(0.01) end
  return p
end

-- name, what is there before (may give a value), the call
local calls = {
  {"new", nil, function() return keep(fork.new()) end},
  {"new with options", nil, function()
    return keep(fork.new {env = {A = "1", B = false}, cwd = "/", stdin = 0, name = "n"})
  end},
  {"new_exec", nil, function() return keep(fork.new_exec {gc = "stop"}) end},
  {"fork", begun, function(p) return keep(p:fork {stdout = "null"}) end},
  {"fork of what has run", function()
    local p = begun()
    keep(p:run "type")
    return p
  end, function(p) return pcall(p.fork, p) end},
  {"require", begun, function(p) return p:require "string" end},
  {"eval", begun, function(p) return p:eval("x = ...", 1, long) end},
  {"set of limits", begun, function(p) return p:limit {core = 0}:chdir "/":setenv("A", "1") end},
  {"seal", begun, function(p) return p:seal() end},
  {"send_arg", begun, function(p) return p:send_arg("short", 2.5) end},
  {"send_arg, lent", begun, function(p) return p:send_arg(long, long) end},
  {"send_fd", begun, function(p) return p:send_fd(0, io.stdin):take_args() end},
  {"run", begun, function(p) return p:run("type", function(_, s) keep(s) end) end},
  {"run, waiting", begun, function(p) return keep(p:run "type") end},
  {"run without a name", begun, function(p) return p:run("", nothing) end},
  {"to_fd", begun, function(p) return p:to_fd(function(_, s) keep(s) end) end},
  {"to_fd of a clone that can't be born", function()
    local q = keep(begun [==[
      require "moonfork.clone".on_fork(function() require "testkit".msleep(5) error "the hook fails" end)
    ]==]:fork())
    fork.step(0) -- the fork is written by itself
    return q
  end, function(q)
    local s, err = q:to_fd()
    if keep(s) then error "the socket of a clone that has failed" end
    return nil, err
  end},
  {"from_fd", function() return keep(assert(begun():to_fd())) end,
    function(s) return keep(fork.from_fd(s)) end},
  {"from_fd of another handle", function() return keep(fork.socket.listen "127.0.0.1:0") end,
    function(s) return keep(fork.from_fd(s)) end},
  {"memory", begun, function(p) return p:memory(nothing) end},
  {"on_exit", begun, function(p) return p:on_exit(nothing) end},
  {"kill", begun, function(p) return p:kill(0) end},
  {"wait", begun, function(p) return p:wait(0) end},
  {"close", begun, function(p) return p:close() end},
  {"reset", nil, fork.reset},
  {"rpc", begun, function(p) return keep(p:rpc "type") end},
  {"rpc of what is watched", function() return begun():on_exit(nothing) end,
    function(p) return keep(p:rpc "type") end},
  {"pool of what is watched", function() return begun():on_exit(nothing) end,
    function(p) return keep(p:pool("type", {max = 1})) end},
  {"rpc call", function() return keep(begun():rpc "type") end,
    function(rpc) return rpc(long, {1, 2}, nothing) end},
  {"rpc call of what can't be sent", function() return keep(begun():rpc "type") end,
    function(rpc) return rpc(print, nothing) end},
  {"rpc call, waiting", function() return keep(begun():rpc("type", {serialiser = "string"})) end,
    function(rpc) return rpc(long) end},
  {"rpc close", function() return keep(begun():rpc "type") end,
    function(rpc) return rpc:close(nothing) end},
  {"pool", begun, function(p) return keep(p:pool("type", {max = 1})) end},
  {"pool call", function() return keep(begun():pool("type", {max = 1})) end,
    function(pool) return pool(long, nothing) end},
  {"pool stats", function() return keep(begun():pool("type", {max = 1})) end,
    function(pool) return pool:stats(), pool:pids() end},
  {"pool drain", function() return keep(begun():pool("type", {max = 1})) end,
    function(pool) return pool:drain(1) end},
  {"step", nil, function() return fork.step(0) end},
  {"socket.pair", nil, function()
    local a, b = fork.socket.pair()
    return keep(a), a and keep(b) or b
  end},
  {"socket.connect", nil, function() return keep(fork.socket.connect "127.0.0.1:1") end},
  {"socket.listen", nil, function() return keep(fork.socket.listen "127.0.0.1:0") end},
}

local function close_all()
  repeat
    for i = #held, 1, -1 do
      local value = held[i]
      held[i] = nil
      if value then value:close() end
    end
    fork.loop()
  until #held == 0 -- callbacks may have got more
end

local function references()
  local numbered = 0
  for key, value in pairs(debug.getregistry()) do
    if type(key) == "number" and type(value) ~= "number" then numbered = numbered + 1 end
  end
  return numbered
end

local function nfds()
  local n = 0
  for _ in pairs(kit.fds()) do n = n + 1 end
  return n
end

-- Closes what is held and waits until no more references and descriptors are there than
-- that; gives how many too many. Idle processes that were closed end some time later.
local function settle(refs, fds, seconds)
  close_all()
  local last, more_refs, more_fds = kit.now() + (seconds or 3)
  repeat
    collectgarbage()
    collectgarbage()
    fork.step(0)
    kit.msleep(1)
    more_refs, more_fds = references() - refs, nfds() - fds
  until more_refs <= 0 and more_fds <= 0 or kit.now() > last
  return more_refs, more_fds
end

local runs, bad = 0, 0
local function wrong(...)
  bad = bad + 1
  print(string.format(...))
end

local function acceptable(ok, value, err)
  if not ok then
    local text = tostring(value)
    return text:find "not enough memory" or text:find "descriptors" or
      type(value) == "table" and value.code, text
  end
  if value == nil and err ~= nil and type(err) ~= "string" then return err.code, tostring(err) end
  return true
end

local complaints = 0
fork.on_error(function(err) -- of chains that nobody finished; they are error objects, too
  if type(err) == "table" and err.code or tostring(err):find "not enough memory" then return end
  complaints = complaints + 1
  wrong("on_error: %%s", tostring(err))
end)

local function try(call, kind, at)
  local before = call[2] and call[2]()
  fkit.shim_arm(kind, at, 0, true)
  local ok, value, err = pcall(call[3], before)
  local hits = fkit.shim_disarm()
  local good, text = acceptable(ok, value, err)
  if not good then wrong("%%s, %%s number %%d: %%s", call[1], kind, at, text) end
  runs = runs + 1
  return hits
end

local refs, fds
local function check(...)
  local more_refs, more_fds = settle(refs, fds)
  if more_refs <= 0 and more_fds <= 0 then return end
  refs, fds = refs + math.max(0, more_refs), fds + math.max(0, more_fds)
  wrong("%%s: %%d references and %%d descriptors are left", string.format(...), more_refs,
    more_fds)
end

local function sweep(call, kind)
  local at = 0
  repeat
    at = at + 1
    local hits = try(call, kind, at)
    check("%%s, %%s number %%d", call[1], kind, at)
  until hits == 0 or at == MOST
end

-- What is made at first use and kept is there now.
keep(fork.new():run "type")
for _, call in ipairs(calls) do try(call, "none", 1) end
close_all()
settle(0, 0, 0.3)
refs, fds = references(), nfds()
for _, call in ipairs(calls) do
  for _, kind in ipairs {"malloc", "calloc", "realloc", "dup", "socketpair", "fcntl", "eventfd"} do
    sweep(call, kind)
  end
  local socket = keep(assert(fork.new():eval "function f(s) s:write 'works' end":run "f"))
  assert(socket:read "a" == "works")
end
print(("%%d runs, %%d bad"):format(runs, bad))
os.exit(bad == 0, true)
]]

standing.test("the n-th allocation of each call of the module fails", {
  deadline = host.nightly and 1800 or 90}, function(t)
  local shim = host.tool(t, "shim.so")
  if story.is_sanitized then
    t.skip "the shim and the sanitizer wrap the same calls"
  end
  local out, code, err = t:lua(PROGRAM:format(host.rounds(40, 1000)), {
    before = ("LD_PRELOAD='%s'"):format(shim),
    deadline = host.nightly and 1700 or 80})
  t.eq({code, err}, {0, ""}, out)
  t.note("%s", out:match "[^\n]*\n?$")
end)

story.done()
