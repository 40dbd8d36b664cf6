-- fork.reset() while the default template waited for its restart forgot who waited for a process:
-- their callbacks never came and fork.loop() never ended. Whatever is asked of a template that
-- has no process yet is answered exactly once: while its restart is put off, while its program
-- starts, and where that never says anything.
local story = require "story"

local HEAD = [[
  local fork, kit = require "moonfork", require "testkit"
  local state, act, good = %q, %q, os.getenv "MOONFORK_TEMPLATE"
  fork.on_error(function() end)
  local function program(text)
    local path = %q .. "/program"
    local f = assert(io.open(path, "w"))
    f:write("#!/bin/sh\n", text, "\n")
    f:close()
    os.execute("chmod +x " .. path)
    kit.setenv("MOONFORK_TEMPLATE", path)
  end
  if state:find "backoff" then
    kit.setenv("MOONFORK_TEMPLATE", "/bin/false")
    for _ = 1, 6 do assert(not fork.new():run "print") end
    if state == "backoff, then good" then kit.setenv("MOONFORK_TEMPLATE", good) end
  elseif state == "slow" then
    program("sleep 0.5; exec " .. good .. ' "$@"')
  else
    program "exec sleep 60"
  end

  local names, told, what = {}, {}, {}
  local function once(name)
    names[#names + 1], told[name] = name, 0
    return function(first, second)
      told[name] = told[name] + 1
      what[name] = type(first) == "table" and first.code or "done"
      if type(second) == "userdata" and second.close then second:close() end
    end
  end
  local open = {}
  local function new(options)
    local p = fork.new(options)
    open[#open + 1] = p
    return p
  end

  new():run("type", once "run")
  local p = new():on_exit(once "exit of a run")
  p:run("type", once "run with exit")
  p = new()
  open[#open + 1] = p:fork()
  open[#open]:run("type", once "run of a fork")
  p:eval "x = 1":on_exit(once "exit of a template")
  p = new()
  p:on_exit(once "exit of a killed one")
  p:run("type", once "run of a killed one")
  assert(p:kill "KILL")
  p = new { timeout = 0.2 }
  p:on_exit(once "exit at a timeout")
  p:run("type", once "timeout")
  p = new()
  p:memory(once "memory")
  p:to_fd(once "to_fd")
  p = new()
  p:memory(once "memory of a run")
  p:run("type", once "run with memory")
  local rpc = new():rpc("type", { grace = 1 })
  rpc(1, once "call")
  local pool = new():pool("type", { max = 1, grace = 1, restart = { burst = 0 } })
  pool(1, once "call of a pool")
  p = fork.new():on_exit(once "exit of a closed one"):eval "x = 1"
  p:close()
  p = fork.new():on_exit(once "exit of a closed run")
  p:run("type", once "closed run")
  p:close()
  assert(select(2, new():wait(0.01)).code == "TIMEOUT")
  p = nil
  if act == "turn" then fork.step(0.05) end
  if act ~= "close" then fork.reset() end
  if act == "twice" then
    fork.reset()
    new():run("type", once "run after the reset")
    fork.reset()
  end
  if act == "collect" then
    open, rpc, pool = {}, nil, nil
    collectgarbage()
    collectgarbage()
  else
    if act ~= "turn" and act ~= "twice" or state == "never" then rpc:close() pool:close() end
    for i = 1, #open do
      if act == "close" or state == "never" then open[i]:close() end
    end
  end
  local t0 = kit.now()
  -- A template that stays is closed in the end; what it was asked for counts.
  while kit.now() < t0 + 8 do
    fork.step(0.05)
    local all = true
    for _, name in ipairs(names) do
      all = all and (told[name] > 0 or name == "exit of a template" and act ~= "close")
    end
    if all then break end
  end
  for _, p in ipairs(open) do p:close() end
  if rpc then rpc:close() end
  if pool then pool:close() end
  fork.loop()
  for _, name in ipairs(names) do
    if told[name] ~= 1 then print(name, "told " .. told[name] .. " times") end
  end
  print(kit.now() - t0 < 8 and "in time" or "too late", what.run, what.timeout, what["closed run"])
]]

local outcomes = {
  ["backoff, then good"] = "done",
  ["backoff, then bad"] = "TEMPLATE_START",
  slow = "done",
  never = "CANCELLED",
}

for state, outcome in pairs(outcomes) do
  for _, act in ipairs {"reset", "turn", "twice", "close", "collect"} do
    -- What is collected is still waited for: thirty seconds where nothing comes.
    local test = act == "collect" and state == "never" and function() end or story.test
    test(("%s, %s: everything is told once"):format(state, act), {deadline = 40}, function(t)
      local out, code, err = t:lua(HEAD:format(state, act, t:tmp()), {deadline = 20})
      t.eq({code, err}, {0, ""})
      t.eq(out:match "^[^\t]*\t[^\t\n]*",
        "in time\t" .. (act == "close" and "CANCELLED" or outcome), out)
    end)
  end
end

story.done()
