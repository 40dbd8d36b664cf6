-- A process attached a TCP socket with SO_LINGER and unsent data to what it sent, and closed
-- its own: the last close(2) was the parent's, inside of a read, and took seconds. Nothing
-- that another process sends may block the parent.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local LINGER = 3 -- seconds
local SEND = ([[
  hostile, kit, fkit = require "hostile", require "testkit", require "faultkit"
  -- Sends the bytes, and such a socket along, by the given descriptor.
  function attach(fd, bytes)
    local socket, other = fkit.lingering(%d)
    local n, text = fkit.sendfd(fd, bytes, socket)
    kit.close(socket)
    kept = other -- that nobody reads
    return n, text
  end
]]):format(LINGER)

-- The longest that one call of the reactor has blocked while predicate() is not true, at most so
-- many seconds.
local function worst(t, seconds, predicate)
  local last, longest = kit.now() + seconds * story.scale, 0
  repeat
    local before = story.slept()
    fork.step(0)
    longest = math.max(longest, story.slept() - before)
    kit.msleep(1)
  until predicate() or kit.now() > last
  t.ok(predicate(), "it came to an end")
  t.ok(longest < 0.5, ("one turn blocked for %.0f ms"):format(longest * 1000))
end

story.test("with a frame, before run is asked for", function(t)
  local p = fork.new():eval(SEND):eval [[
    local n, text = attach(hostile.control(), hostile.frame(hostile.DONE, 1))
    function tell(socket) socket:write(tostring(n), " ", tostring(text)) end
  ]]
  local first = kit.now()
  worst(t, 5, function() return p:pid() and kit.now() - first > 0.3 end)
  local socket, err = p:run("tell")
  if socket then -- Linux 6.16: who sends is told
    t.match(socket:read("a"), "not permitted")
  else
    t.error(err, "PROTOCOL")
  end
end)

story.test("with a frame, while run is under way", function(t)
  local p = fork.new():eval(SEND):eval "kit.msleep(50)" :eval [[
    attach(hostile.control(), hostile.frame(hostile.DONE, 1))
    kit.msleep(100)
  ]]
  local err
  p:run("type", function(e) err = e or "running" end)
  worst(t, 5, function() return err end)
  t.error(err, "PROTOCOL")
end)

story.test("to an rpc that takes no handles, and to one that takes other ones", function(t)
  for _, handles in ipairs{false, true} do
    local p = fork.new():eval(SEND):eval [[
      function noise()
        attach(hostile.control(), ("x"):rep(32))
        kit.msleep(200)
        return "?"
      end
    ]]
    local rpc = p:rpc("noise", {handles = handles})
    local err
    rpc(function(e) err = e or "answered" end)
    worst(t, 5, function() return err end)
    rpc:close()
    worst(t, 5, function() return p:pid() and not t.alive(p:pid()) end)
  end
end)

story.test("to a socket that is read, and to one that is closed unread", function(t)
  for _, reads in ipairs{true, false} do
    local p = fork.new():eval(SEND):eval [[
      function send(socket)
        for _ = 1, 20 do attach(socket:fileno(), "x") end
        socket:write("end")
        kit.msleep(60000) -- and keeps the other ends
      end
    ]]
    local socket = t.got(p:run("send"))
    kit.msleep(300)
    local before = story.slept()
    if reads then t.match(socket:read(23), "end$") end
    socket:close()
    t.collect()
    local slept = story.slept() - before
    t.ok(slept < 0.5, ("%s blocked for %.0f ms"):format(reads and "reading" or "closing",
      slept * 1000))
    p:kill(kit.SIGKILL)
  end
end)

story.test("one that was received is closed", function(t)
  local p = fork.new():eval(SEND):eval [[
    function send(socket)
      attach(socket:fileno(), "x")
      kit.msleep(60000)
    end
  ]]
  local socket = t.got(p:run("send"))
  local received = t.got(socket:recv_fd())
  kit.msleep(100)
  local before = story.slept()
  received:close()
  socket:close()
  t.ok(story.slept() - before < 0.5)
  p:kill(kit.SIGKILL)
end)

-- The kernel refuses descriptors on control sockets; a function's first act may send some.
story.test("a function that sends a handle at once", function(t)
  local p <close> = fork.new():eval [[
    function send(socket) assert(socket:send_fd(io.stdout, "x")) end
  ]]
  for _ = 1, 50 do
    local q = p:fork()
    local socket = t.got(q:run("send"))
    t.got(socket:recv_fd()):close()
    socket:close()
    t.eq(t.status(q).code, 0)
  end
  for _ = 1, 20 do -- not in one message with its fork
    local q = p:fork()
    t.within(5, function() return q:pid() end)
    local socket = t.got(q:run("send"))
    t.got(socket:recv_fd()):close()
    socket:close()
    t.eq(t.status(q).code, 0)
  end
end)

story.done()
