-- fork.dump: a program hangs, and its author wants to see what waits for what. The text is for
-- a person, so its form is free; but each process, rpc and pool has to be there, with its
-- state, what is under way and ages.
local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

-- The line of the text that has all of these words.
local function line_with(text, ...)
  for line in text:gmatch "[^\n]+" do
    local all = true
    for _, word in ipairs {...} do all = all and line:find(word, 1, true) end
    if all then return line end
  end
end

story.test("dump before anything was made, also without the reactor", function(t)
  t.eq(type(fork.dump()), "string")
  local out = t:lua([[io.write(require "moonfork".dump())]])
  t.ok(out:find "no processes", out)
end)

story.test("dump: a process with its pid, name, state, source and age", function(t)
  local p = fork.new_exec{name = "mother"}:eval "function hang() require'testkit'.msleep(1e6) end"
  local q = p:fork{name = "child"}
  q:run "hang"
  kit.msleep(120)
  local text = fork.dump()
  local mother, child = line_with(text, '"mother"'), line_with(text, '"child"')
  t.ok(mother and mother:find("pid " .. p:pid(), 1, true) and mother:find "SERVING", text)
  t.ok(child and child:find("pid " .. q:pid(), 1, true) and child:find "RUNNING", text)
  t.ok(#child:match "^ *" > #mother:match "^ *", "a clone stands below its source")
  local state, age = child:match "for (%d+%.%d+) s.*made (%d+%.%d+) s ago"
  t.ok(tonumber(state) >= 0.12 and tonumber(age) >= tonumber(state), child)
  q:kill "KILL"
  q:wait()
  p:close()
  t.within(10, function() -- what is over and closed is gone
    fork.step(0.05)
    return not line_with(fork.dump(), '"mother"')
  end)
end)

story.test("dump: what is under way", function(t)
  local p = fork.new_exec():eval "require'testkit'.msleep(400)"
  p:run("type", function() end)
  t.ok(line_with(fork.dump(), "commands not confirmed", "run under way"), fork.dump())
  fork.loop()
  t.ok(not line_with(fork.dump(), "run under way"), fork.dump())
end)

story.test("dump: an rpc with its calls, and how long the oldest has waited", function(t)
  local rpc = fork.new():eval "function nap() require'testkit'.msleep(500) end":rpc("nap", {timeout = 60})
  local n = 0
  for _ = 1, 3 do rpc:call(function() n = n + 1 end) end
  fork.step(0.2)
  local line = line_with(fork.dump(), "rpc in process", "3 calls wait")
  t.ok(line and tonumber(line:match "the oldest since (%d+%.%d+) s"), fork.dump())
  local left = tonumber(line:match "its timeout in (%d+%.%d+) s")
  t.ok(left and left > 40 and left < 60, line)
  t.within(10, function() fork.step(0.1) return n == 3 end)
  t.ok(line_with(fork.dump(), "rpc in process", "0 calls wait", "3 answers"), fork.dump())
  rpc:close()
  fork.loop()
  t.ok(not line_with(fork.dump(), "rpc in process"))
end)

story.test("dump: a pool with its workers, what they do and what is queued", function(t)
  local pool = fork.new():eval "function nap() require'testkit'.msleep(700) end"
    :pool("nap", {max = 1, load = 1})
  local n = 0
  for _ = 1, 3 do pool:call(function() n = n + 1 end) end
  t.within(10, function() fork.step(0.1) return line_with(fork.dump(), "worker: at work") end)
  local text = fork.dump()
  local line = line_with(text, 'pool of "nap"', "running", "at most 1")
  t.ok(line and tonumber(line:match "(%d+) calls queued") >= 1, text)
  t.ok(line_with(text, "worker: at work", "the oldest since"), text)
  t.ok(line_with(text, "rpc in process", "pid " .. pool:pids()[1]), text)
  pool:close()
  fork.loop()
  t.ok(not line_with(fork.dump(), "pool of"))
end)

story.test("dump: names are shown so that a terminal does not obey them", function(t)
  local p = fork.new_exec{name = 'a"\27[2J\n\255b'}
  local text = fork.dump()
  t.ok(text:find('"a\\"\\x1b[2J\\x0a\\xffb"', 1, true), text)
  t.ok(not text:find "\27")
  p:close()
  fork.loop()
end)

story.test("dump: why a process failed, until that was asked for", function(t)
  local p = fork.new_exec():eval "error 'no luck today'"
  t.within(10, function() fork.step(0.1) return line_with(fork.dump(), "no luck today") end)
  t.ok(line_with(fork.dump(), "REMOTE"), fork.dump())
  p:run "type"
  p:close()
  fork.loop()
end)

-- Debug builds, those with sanitizers among them, know the line of each error.
story.test("an error of a template says where it was made, if that is asked for", function(t)
  local function failure(prepare)
    local p = fork.new_exec{env = {MOONFORK_DEBUG = "origin"}}
    prepare(p)
    local s, err = p:fork():run "f"
    t.eq(s, nil)
    return err.message
  end
  local broken = fork.new_exec{program = "/dev/null/none"}
  local is_debug = fork.dump():find "made at [%w_]+%.c:%d" ~= nil
  broken:run "f"
  local ours = failure(function(p) p:chdir "/dev/null/none" end)
  t.match(ours, "^chdir /dev/null/none: ")
  t.eq(ours:find " %[commands%.c:%d+%]$" ~= nil, is_debug)
  t.eq(failure(function(p) p:eval "error('mine', 0)" end), "mine")
end)

story.test("dump inside a callback", function(t)
  local text
  fork.new():run("type", function() text = fork.dump() end)
  fork.loop()
  t.ok(line_with(text, "process", "made"), text)
end)

-- What nobody reads here stops its channel only, and is seen in the text.
story.test("dump: a link with its channels, their credit and its last sign of life", function(t)
  local silent = fork.remote{command = {"sh", "-c", "exec sleep 1000"}}
  local p = remote.over(nil, {beat = 0.5, name = "far"})
  t.ok(line_with(fork.dump(), "link: no agent has greeted"), fork.dump())
  p:eval "function flood(s) s:write(('x'):rep(1000000)) end"
  local socket = assert(p:fork():run "flood")
  t.within(10, function()
    fork.step(0.05)
    return line_with(fork.dump(), "channel", "262144 bytes not read here")
  end)
  local text = fork.dump()
  local line = line_with(text, "link: connected", "a beat every 0.500 s", "window 262144 bytes")
  t.ok(line and tonumber(line:match "last sign of life (%d+%.%d+) s ago"), text)
  t.ok(#line_with(text, '"far"'):match "^ *" < #line:match "^ *", "a link stands below its process")
  t.ok(line_with(text, "channel 1 (the template's)", "bytes may be sent"), text)
  socket:close()
  silent:close()
  p:kill "KILL"
  t.within(10, function()
    fork.step(0.05)
    return not line_with(fork.dump(), "262144 bytes not read here")
  end)
  p:close()
  fork.loop()
end)

story.done()
