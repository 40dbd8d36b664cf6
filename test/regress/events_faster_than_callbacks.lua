-- Several clones sent events without a pause. A turn took in as much of each as it does of one alone, and
-- called as many callbacks as it does for one: so the rest grew, by tens of megabytes a second, and the
-- answer of another clone came behind all of it.
local story = require "story"
local fork = require "moonfork"

local function resident()
  local file <close> = assert(io.open("/proc/self/statm"))
  return select(2, file:read("n", "n")) * 4096
end

local skip = story.is_sanitized and "the sanitizer keeps what is freed" or nil

local function check(t, turn)
  local template = fork.new_exec():eval [[
    local rpc = require "moonfork.rpc"
    function flood() while true do rpc.event "e" end end
    function add(a, b) return a + b end
  ]]
  fork.on_error(function() end) -- those that flood are killed
  local other, told, floods = template:fork():rpc "add", 0, {}
  t.eq(t.got(other(1, 2)), 3)
  local before = resident()
  for i = 1, 4 do
    floods[i] = template:fork():rpc("flood", {on_event = function()
      told = told + 1
      for _ = 1, 2000 do end -- it has something to do
    end})
    floods[i]:call(function() end)
  end
  t.within(80, function() turn() return told > 100000 end)
  local more = resident() - before
  t.ok(more < 40 << 20, ("%d bytes more after %d events"):format(more, told))
  t.eq(t.got(other(2, 3)), 5)
  for _, flood in ipairs(floods) do
    flood:process():kill "KILL"
    flood:close()
  end
  other:close()
  template:close()
  fork.loop()
  fork.on_error(nil)
end

story.test("events that come faster than they are told don't pile up", {deadline = 90, skip = skip}, function(t)
  check(t, function() end)
end)

-- It asks for the descriptor, and that turned without a look at what waits.
story.test("nor do they in a program that has another loop", {deadline = 90, skip = skip}, function(t)
  check(t, function()
    assert(fork.reactor:pollfd())
    fork.reactor:step()
  end)
end)

story.done()
