-- rpc and pool with a serialiser that is missing raised, left the process alive and unusable, and
-- its end was never reported. A call that raises, or returns an error, has changed nothing.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local function echo() return fork.new():eval "function f(...) return select('#', ...), ... end" end

-- The process serves as before, and its end is told.
local function is_whole(t, p, ...)
  local rpc = p:rpc "f"
  t.eq({rpc("x", ...)}, {1 + select("#", ...), "x", ...})
  local status
  p:on_exit(function(s) status = s end)
  rpc:close()
  t.within(5, function() return status end)
  t.eq(status.code, 0)
  p:close()
end

story.test("rpc and pool with a serialiser that can't be used", function(t)
  t:module("no_serialiser", "return {encode = print}")
  t:module("broken_serialiser", "error 'broken'")
  for _, method in ipairs {"rpc", "pool"} do
    for _, name in ipairs {"not.there", "no_serialiser", "broken_serialiser"} do
      local p = echo()
      t.raises("serialiser", p[method], p, "f", {serialiser = name})
      is_whole(t, p)
    end
  end
end)

story.test("one that is lost between the check and its use", function(t)
  for _, method in ipairs {"rpc", "pool"} do
    t:module("fleeting", "return {encode = print, decode = print}")
    local loaded = require "fleeting"
    setmetatable(package.loaded, {__index = function() end})
    local given = setmetatable({}, {__index = function(_, key)
      if key == "timeout" then loaded.encode = nil end -- read after the serialiser
      return nil
    end})
    given.serialiser = "fleeting"
    local p = echo()
    local ok = pcall(p[method], p, "f", given)
    setmetatable(package.loaded, nil)
    package.loaded.fleeting = nil
    t.eq(ok, false)
    is_whole(t, p)
  end
end)

story.test("bad options of rpc, pool, fork and run", function(t)
  local p = echo()
  for _, options in ipairs {{nope = 1}, {timeout = -1}, {init = 5}, {on_event = 3}, {async = 1},
    {message_max = 1}, {grace = -1}} do
    t.raises("option", p.rpc, p, "f", options)
    t.raises("option", p.pool, p, "f", options)
  end
  for _, options in ipairs {{max = -1}, {idle = 3, max = 2}, {restart = 5}, {backoff = {min = -1}},
    {load = 0}, {restart = {burst = -1}}} do
    t.raises("option", p.pool, p, "f", options)
  end
  t.raises("", p.rpc, p, "")
  t.raises("", p.pool, p, 5)
  for _, options in ipairs {{nope = 1}, {env = 5}, {stdin = "what"}, {leash = "long"},
    {timeout = -1}, {cwd = 7}, {env = {[1] = "x"}}} do
    t.raises("option", p.fork, p, options)
    t.raises("option", fork.new, options)
    t.raises("option", fork.new_exec, options)
  end
  t.raises("", p.run, p, 5)
  t.raises("", p.run, p, "f", 5)
  t.raises("", p.to_fd, p, 5)
  is_whole(t, p)
end)

story.test("one bad value among good ones: nothing of it is sent", function(t)
  local a, b = fork.socket.pair()
  local p = echo():eval "given = {} function f(...) return select('#', ...), ... end"
  p:eval "function count() return select('#', require 'moonfork.clone'.run_args()) end"
  t.raises("#2 .*handle", p.send_fd, p, a, {}, b)
  t.raises("#3 .*handle", p.send_fd, p, a, b, nil)
  t.raises("#2 .*string", p.send_arg, p, "x", {}, "y")
  t.raises("#3", p.eval, p, "x = 1", "y", {})
  t.raises("#2", p.require, p, "string", 5)
  t.raises("option", p.limit, p, {nofile = 5, nope = 1})
  t.raises("option", p.limit, p, {nofile = 5, cpu = "much"})
  t.raises("", p.setenv, p, "A", {})
  t.raises("", p.setenv, p, "A=B", "c")
  t.raises("option", p.seal, p, {gc = "stop", audit = "none"})
  local c = p:fork():rpc "f"
  t.eq({c()}, {0})
  local counted = p:fork():eval [[
    n = select("#", require "moonfork.clone".run_args())
    function f() return n, os.getenv "A", x end
  ]]:rpc "f"
  t.eq(table.pack(counted()), {0, nil, nil, n = 3})
  c:close()
  counted:close()
  a:close()
  b:close()
  is_whole(t, p)
end)

story.test("a process that a pool does not take in a reload goes on", function(t)
  local pool, p = echo():pool("f", {max = 1}), echo()
  t.raises("", pool.reload, pool, 5)
  t.raises("", pool.reload, pool, p, 5)
  pool:close()
  local ok, err = pool:reload(p)
  t.eq(ok, nil)
  t.error(err, "CLOSED")
  is_whole(t, p)
end)

story.test("from_fd leaves a handle that is no process as it was", function(t)
  local path = t:file("text", "hello")
  local file = fork.socket.open(path, "r")
  local p = fork.from_fd(file)
  local status, err = p:wait(1)
  t.eq(status, nil)
  t.error(err, "EINVAL")
  t.eq(file:read "a", "hello")
  p:close()
  p = fork.from_fd(file:fileno())
  t.error(select(2, p:wait(1)), "EINVAL")
  t.ok(file:fileno())
  t.ok(kit.fds()[file:fileno()])
  p:close()
  t.raises("option", fork.from_fd, file, {nope = 1})
  t.ok(kit.fds()[file:fileno()])
  file:close()
  local q = echo()
  local socket = t.got(q:to_fd())
  t.raises("option", fork.from_fd, socket, {nope = 1})
  local taken = fork.from_fd(socket)
  t.raises("closed", socket.read, socket, 1)
  is_whole(t, taken)
  q:close()
end)

story.done()
