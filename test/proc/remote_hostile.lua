-- fork.remote with one end that does not keep to the protocol: an agent that is a file of frames, and
-- a near end that is one. The other end is disconnected or takes no notice: it does not crash, its
-- descriptors do not become more, and no process of this machine is signalled. (test_mux.c and
-- fuzz_link.c have the frames of channels.)

local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local REMOTE, TEMPLATE = os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE"
local LINK_VERSION, BUILD = 5, fork._VERSION:match "%d+%.%d+%.%d+"
local HELLO, DATA, WINDOW_MORE, KILL, TREE, DROP, BORN, GONE = 1, 2, 3, 6, 7, 8, 9, 10
local MEASURED, MEMORY, RECORD_STOP, RETURNED, CLONE = 13, 15, 16, 18, 19
local UNKNOWN = 99

local function frame(type, body, channel, ndescriptors)
  return ("<I4I1I1I2I4"):pack(#body, type, ndescriptors or 0, 0, channel or 0) .. body
end

local function numbers(...)
  return ("I4"):rep(select("#", ...)), ...
end

local function words(type, ...)
  return frame(type, ("<" .. numbers(...)):pack(...))
end

local function descriptor(id, count, kind)
  return ("<I4I4I1I1I2"):pack(id, count, kind, 0, 0)
end

local HUGE = ("<I4I1I1I2I4"):pack(0xffffffff, DATA, 0, 0, 1)

-- A process of this machine that is nobody's business.
local function bystander()
  local file = io.popen "echo $$; exec sleep 1000"
  return file:read "n", file
end

-- ---- an agent of that kind ----

local count = 0

local function agent(t, frames)
  count = count + 1
  local hello = frame(HELLO, ("<I2I2s4"):pack(LINK_VERSION, 0, BUILD))
  local file = t:file("frames" .. count, "\1MOONFORK-AGENT\n" .. hello .. frames)
  return fork.remote { command = { "sh", "-c", ("cat '%s'; exec sleep 1000"):format(file) } }
end

local gone = ("<I4I4I8I8I8s4"):pack(7, 0, 0, 0, 0, "")

local LIES = {
  ["a frame that is longer than any"] = HUGE,
  ["a type that there is not"] = frame(UNKNOWN, ""),
  ["a frame of the near end's"] = words(KILL, 0, 9, 0),
  ["a fork"] = frame(CLONE, ("<I4I4"):pack(1, 0) .. ("x"):rep(16), 4),
  ["another hello"] = frame(HELLO, ("<I2I2s4"):pack(LINK_VERSION, 0, BUILD)),
  ["the end of somebody who was not born"] = frame(GONE, gone),
  ["a return without its number"] = words(RETURNED, 7, 1),
  ["two far templates"] = words(BORN, 0, 0, 0, 100):rep(2),
  ["a birth in no table that is not the template's"] = words(BORN, 0, 0, 5, 100),
  ["a birth that is cut short"] = words(BORN, 0, 0),
  ["memory of a record past its end"] = frame(MEMORY, ("<I4I4"):pack(1, 0xfffffff0) .. ("x"):rep(100)),
  ["more room than the window"] = frame(WINDOW_MORE, ("<I4"):pack(0x7fffffff), 1),
  ["a descriptor of a leash"] = frame(DATA, descriptor(0, 0, 4) .. "x", 1, 1),
  ["a descriptor of slots"] = frame(DATA, descriptor(1, 8, 5) .. "x", 1, 1),
  ["a descriptor of a record"] = frame(DATA, descriptor(1, 0, 7) .. "x", 1, 1),
  ["a channel with a number of ours"] = frame(DATA, descriptor(5, 0, 1) .. "x", 1, 1),
  ["more descriptors than the body has"] = frame(DATA, descriptor(4, 0, 1), 1, 200),
}

story.test("an agent that lies is disconnected, and nothing else happens", function(t)
  local agents = {} -- all at once: it takes less time
  for name, frames in pairs(LIES) do agents[name] = agent(t, frames) end
  for name, p in pairs(agents) do
    local ended
    p:on_exit(function(status) ended = status end)
    local _, err = p:fork():run "f"
    t.ok(err.code == "TEMPLATE_START" or err.code == "TEMPLATE_DIED", name .. ": " .. tostring(err))
    t.match(err.message, "keep to the protocol", name)
    -- It has greeted: whether it got the fork, and what it made of that, nobody knows.
    t.ok(err.started == "no" or err.started == "unknown", name)
    t.within(10, function() return ended end, name)
    t.eq(ended.unknown, true, name)
    p:close()
  end
  fork.loop()
end)

story.test("numbers that an agent tells are never signalled here", function(t)
  local victim, sleeper = bystander()
  local p = agent(t, words(BORN, 0, 0, 0, victim))
  t.within(10, function() return p:pid() == victim end, "what it says is shown")
  t.eq(p:kill "KILL", true)
  local clone = p:fork { tree = true }
  clone:kill "KILL"
  p:close()
  clone:close()
  fork.loop()
  t.match(t.read(("/proc/%d/stat"):format(victim)), "%) [SR] ")
  kit.kill(victim, 9)
  sleeper:close()
end)

story.test("what an agent tells of nobody is not kept", function(t)
  local flood = (words(BORN, 77, 3, 5, 100) .. frame(MEASURED, ("<I4"):rep(10):pack(5, 0, 0, 0, 0, 0, 0, 0, 0, 0)) ..
    words(RETURNED, 6, 1, 0))
    :rep(20000)
  local before = collectgarbage "count"
  local p = agent(t, words(BORN, 0, 0, 0, 100) .. flood .. words(UNKNOWN, 1))
  local _, err = p:fork():run "f"
  t.match(err.message, "keep to the protocol")
  p:close()
  fork.loop()
  t.ok(collectgarbage "count" < before + 10000)
end)

-- ---- a near end of that kind ----

local GREETING = frame(HELLO, ("<I2I2s4I4I4"):pack(LINK_VERSION, 0, BUILD, 1000, 262144))

-- What the agent says to these frames, and how it ends.
local function near(t, frames, hello)
  local input, output = t:file("input", (hello or GREETING) .. frames), t:tmp() .. "/output"
  assert(os.execute(("LD_PRELOAD= cat '%s' | { '%s' agent '%s'; echo $? >'%s.code'; } 2>/dev/null | cat >'%s'")
    :format(input, REMOTE, TEMPLATE, output, output)))
  return t.read(output), tonumber(t.read(output .. ".code"))
end

story.test("a near end that lies is disconnected, and the agent ends with all that is its", function(t)
  local cases = {
    ["a frame that is longer than any"] = HUGE,
    ["a type that there is not"] = frame(UNKNOWN, ""),
    ["a frame of the agent's"] = words(BORN, 0, 0, 0, 1),
    ["another hello"] = GREETING,
    ["a signal that there is not"] = words(KILL, 0, 5000, 0),
    ["a kill that is cut short"] = words(KILL, 0),
    ["a tree in a step that there can't be"] = words(TREE, 3, 12345, 0),
    ["a tree past the end of its step"] = words(TREE, 3, 8, 0xffffffff),
    ["a table that is cut short"] = words(DROP),
    ["slots of a size that there is not"] = frame(DATA, descriptor(1, 12345, 5) .. "x", 1, 1),
    ["a kind that there is not"] = frame(DATA, descriptor(1, 0, 200) .. "x", 1, 1),
    ["a fork without a header"] = frame(CLONE, ("<I4I4"):pack(1, 0), 3),
    ["a fork that is longer than any"] = frame(CLONE, ("<I4I4"):pack(1, 0) .. ("x"):rep(161), 3),
    ["a fork with a channel of the agent's"] = frame(CLONE, ("<I4I4"):pack(1, 0) .. ("x"):rep(16), 4),
    ["a fork with a channel that is used"] = frame(CLONE, ("<I4I4"):pack(1, 0) .. ("x"):rep(16), 3):rep(2),
    ["a channel with an even number"] = frame(DATA, descriptor(6, 0, 1) .. "x", 1, 1),
    ["more room than the window"] = frame(WINDOW_MORE, ("<I4"):pack(0x7fffffff), 1),
  }
  for name, frames in pairs(cases) do
    local said, code = near(t, frames)
    t.eq(code, 1, name)
    t.match(said, "keep to the protocol", name)
  end
  for name, hello in pairs {
    ["no beat"] = frame(HELLO, ("<I2I2s4I4I4"):pack(LINK_VERSION, 0, BUILD, 0, 262144)),
    ["a window without bounds"] = frame(HELLO, ("<I2I2s4I4I4"):pack(LINK_VERSION, 0, BUILD, 1000, 0x7fffffff)),
    ["no hello at all"] = words(KILL, 0, 9, 0),
  } do
    local said, code = near(t, "", hello)
    t.eq(code, 1, name)
    t.match(said, "keep to the protocol", name)
  end
end)

story.test("the agent signals nobody but its own, and takes no notice of what is nobody's", function(t)
  local victim, sleeper = bystander()
  local frames = {}
  for _, serial in ipairs { 1, 2, victim, 0x7fffffff, 0xffffffff } do
    frames[#frames + 1] = words(KILL, serial, 9, 0) .. words(KILL, serial, 9, 1)
  end
  frames[#frames + 1] = words(DROP, 5) .. words(RECORD_STOP, 9) .. frame(DATA, "x", 4711)
  local said, code = near(t, table.concat(frames))
  t.eq(code, 0)
  t.match(said, "^\1MOONFORK%-AGENT\n")
  t.match(t.read(("/proc/%d/stat"):format(victim)), "%) [SR] ")
  kit.kill(victim, 9)
  sleeper:close()
end)

story.done()
