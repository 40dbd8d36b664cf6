-- What can be asked of a process that is not to be had any more: each call after each way to
-- get there. Misuse raises; that a process has died is the world's doing, and told by the call
-- that finishes the chain.
local story = require "story"
local fork = require "moonfork"

local SERVER = "function f(socket) socket:read(1) end"

local endings = {
  {name = "closed", make = function()
    local p = fork.new()
    p:close()
    return p
  end},
  {name = "in its function", make = function(t)
    local p = fork.new():eval(SERVER)
    return p, t.got(p:run "f")
  end},
  {name = "returned from its function", make = function(t)
    local p = fork.new():eval(SERVER)
    t.got(p:run "f"):close()
    t.status(p)
    return p
  end},
  {name = "given away", make = function(t)
    local p = fork.new()
    return p, t.got(p:to_fd())
  end},
  {name = "an rpc's", make = function()
    local p = fork.new()
    return p, p:rpc "print"
  end},
  {name = "killed when idle", make = function(t)
    local p = fork.new()
    t.got(p:memory())
    t.got(p:kill "KILL")
    p:wait()
    return p
  end},
  {name = "killed at work", make = function(t)
    local p = fork.new():eval "while true do end"
    t.within(5, function() return p:pid() end)
    t.got(p:kill "KILL")
    p:wait()
    return p
  end},
  {name = "failed", make = function()
    local p = fork.new():eval "error 'no luck'"
    p:wait()
    return p
  end},
  {name = "out of time", make = function()
    local p = fork.new {timeout = 0.01}
    p:wait()
    return p
  end},
}

local CLOSED, USED = "is closed", "was given run or to_fd %(rpc, pool%) already"

-- Of preparing calls: what they raise after each ending, or "self".
local work = {CLOSED, USED, USED, USED, USED, "self", "self", "self", "self"}
-- Of finishing calls: the code of the error.
local codes = {CLOSED, USED, USED, USED, USED, "CLONE_DIED", "CLONE_DIED", "REMOTE",
  "TIMEOUT"}

local function each(t, ask)
  for i, ending in ipairs(endings) do
    local p, kept = ending.make(t)
    ask(i, p, ending.name)
    p:close()
    if kept then kept:close() end
  end
end

story.test("preparing: raises, or is part of a chain that has failed", function(t)
  local calls = {
    {"require", "string"}, {"eval", "x = 1"}, {"send_fd", 0}, {"send_arg", "x"}, {"take_args"},
    {"chdir", "/"}, {"setenv", "X", "y"}, {"seal"}, {"limit", {core = 0}},
  }
  each(t, function(i, p, name)
    for _, call in ipairs(calls) do
      local f = p[call[1]]
      if work[i] == "self" then
        t.eq(f(p, table.unpack(call, 2)) == p, true, call[1] .. ", " .. name)
      else
        t.raises(work[i], f, p, table.unpack(call, 2))
      end
    end
  end)
end)

-- Of a clone asked of it: that its template has died.
local function for_a_clone(code)
  return code == "CLONE_DIED" and "TEMPLATE_DIED" or code
end

story.test("fork: a process that gets the same error", function(t)
  each(t, function(i, p, name)
    if codes[i] == CLOSED or codes[i] == USED then return t.raises(codes[i], p.fork, p) end
    local _, err = p:fork():run "f"
    t.eq({err.code, err.started}, {for_a_clone(codes[i]), "no"}, name)
  end)
end)

for _, call in ipairs {"run", "to_fd"} do
  story.test(call .. ": raises, or tells how it ended", function(t)
    each(t, function(i, p, name)
      local argument = call == "run" and "f" or nil
      if codes[i] == CLOSED or codes[i] == USED then
        return t.raises(codes[i], p[call], p, argument)
      end
      local value, err = p[call](p, argument)
      t.eq({value, err.code, err.started}, {nil, codes[i], "no"}, name)
    end)
  end)
end

for _, call in ipairs {"rpc", "pool"} do
  story.test(call .. ": raises, or every call tells how it ended", function(t)
    each(t, function(i, p, name)
      if codes[i] == CLOSED or codes[i] == USED then return t.raises(codes[i], p[call], p, "f") end
      local service = p[call](p, "f")
      local value, err = service(1)
      local code = call == "pool" and for_a_clone(codes[i]) or codes[i]
      t.eq({value, err.code, err.started}, {nil, code, "no"}, name)
      service:close()
    end)
  end)
end

story.test("pid, kill, on_exit, wait and memory stay until close", function(t)
  local lives = {false, true, false, true, true, false, false, false, false}
  each(t, function(i, p, name)
    if i == 1 then
      for _, call in ipairs {"pid", "kill", "on_exit", "wait", "memory"} do
        t.raises(CLOSED, p[call], p)
      end
      return
    end
    local m, err = p:memory()
    if lives[i] then
      t.ok(m.rss > 0, name)
      t.ok(p:kill(0), name)
      t.eq(select(2, p:wait(0.01)).code, "TIMEOUT", name)
    else
      t.eq({m, err.code}, {nil, codes[i] == USED and "CLONE_DIED" or codes[i]}, name)
      t.eq(select(2, p:kill()).code, "CLOSED", name)
      local status
      p:on_exit(function(s) status = s end)
      t.within(5, function() return status end)
    end
    t.ok(p:pid(), name)
  end)
end)

story.test("close: twice is harmless", function(t)
  each(t, function(_, p)
    p:close()
    p:close()
  end)
end)

-- The code CLOSED came from calls and resize, EINVAL from drain, and reload raised.
story.test("whatever is asked of a pool that is closed or drained is told CLOSED", function(t)
  local ways = {
    closed = function(pool) pool:close() end,
    drained = function(pool) t.got(pool:drain(5)) end,
    ["drained and closed"] = function(pool)
      t.got(pool:drain(5))
      pool:close()
    end,
    ["closed, and gone"] = function(pool)
      pool:close()
      fork.loop()
    end,
  }
  for name, way in pairs(ways) do
    local pool = fork.new():eval(SERVER):pool("tostring", {max = 1})
    t.got(pool(1))
    way(pool)
    local asked = {
      call = function(...) return pool(1, ...) end,
      with = function(...) return pool:with {timeout = 5}(1, ...) end,
      drain = function(...) return pool:drain(...) end,
      ["drain in time"] = function(...) return pool:drain(5, ...) end,
      reload = function(...) return pool:reload(fork.new(), ...) end,
    }
    for what, ask in pairs(asked) do
      local ok, err = ask()
      t.eq(ok, nil, what .. " when " .. name)
      t.error(err, "CLOSED", "the pool is closed")
      local told, e = 0, nil
      ask(function(given)
        told, e = told + 1, given
      end)
      t.eq(told, 0)
      t.within(2, function() return told > 0 end, what .. " when " .. name)
      t.error(e, "CLOSED", "the pool is closed")
      t.eq(told, 1)
    end
    local ok, err = pool:resize(2)
    t.eq(ok, nil)
    t.error(err, "CLOSED", "the pool is closed")
    pool:close()
  end
  local rpc = fork.new():rpc "tostring"
  rpc:close()
  t.error(select(2, rpc(1)), "CLOSED", "the rpc is closed")
end)

story.done()
