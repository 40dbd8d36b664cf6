-- A limit on descriptors may be lower than what a process holds: so it opens nothing more.
-- Linux then refuses to poll more descriptors than the limit, also those that are open. The
-- template asked again and again, used all of a processor, and lived on without its parent.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- Processor time in seconds.
local function used(pid)
  local f <close> = io.open("/proc/" .. pid .. "/stat")
  local user, system = f:read "a":match("%)" .. (" %S+"):rep(11) .. " (%d+) (%d+)")
  return (user + system) / 100
end

for nofile = 0, 2 do
  story.test(("nofile=%d: the process waits in peace and says what it can't"):format(nofile),
    function(t)
      local p = fork.new():eval "function f(s) s:read(1) return 1 end"
      local before = p:fork()
      t.got(before:run "f")
      p:limit {nofile = nofile}
      local start = used(p:pid())
      kit.msleep(400)
      t.ok(used(p:pid()) - start < 0.1, "no spin")
      local socket, err = p:fork():run "f"
      t.eq(socket, nil)
      t.error(err, "LIMIT")
      before:kill()
      t.eq(t.status(before).signal, 15, "clones are looked after")
      local ended
      p:on_exit(function(status) ended = status end)
      p:close()
      t.within(5, function() return ended end, "it ends when it is closed")
      t.eq(ended.code, 0)
    end)

  story.test(("nofile=%d: a function waits, with a time and without, and opens nothing")
    :format(nofile), function(t)
    local p = fork.new():limit {nofile = nofile}
    p:eval [[
      function f(s)
        s:settimeout(0.05)
        local _, why = s:read(1)
        s:settimeout(5)
        s:write(why, ", ", tostring(io.open "/dev/null"), ", ")
        s:write(s:read "l", ", ", tostring(s:read "l"), "\n")
      end
    ]]
    local socket = t.got(p:run "f")
    t.eq(socket:read(16), "timed out, nil, ")
    socket:write "a line\n"
    socket:shutdown "w"
    t.eq(socket:read "l", "a line, nil")
    local status = t.status(p)
    t.eq(status.code, 0, status.error)
    t.ok(status.rusage.utime + status.rusage.stime < 0.1, "no spin")
  end)
end

-- A limit and what follows it are often read together, the descriptors with them: then the limit had not been
-- set when they came, and did not hold for them.
for nofile = 0, 2 do
  story.test(("nofile=%d: it holds for what is asked in the same moment"):format(nofile), function(t)
    local function refused(p)
      local socket, err = p:run "f"
      t.eq(socket, nil)
      t.error(err, "LIMIT")
    end
    local limit, code = {nofile = nofile}, "function f(s) s:write 'x' end"
    local p = fork.new_exec():eval(code):limit(limit)
    refused(p:fork())
    refused(p:fork():fork())
    p:close()
    local template <close> = fork.new_exec():eval(code)
    t.got(template:memory())
    local null <close> = io.open "/dev/null"
    refused(template:fork():limit(limit):fork())
    refused(template:fork():limit(limit):send_fd(null))
    refused(template:fork():limit(limit):set("handle", null))
    t.eq(t.got(template:fork():send_fd(null):limit(limit):run "f"):read "a", "x")
    t.eq(t.got(template:fork():limit {nofile = 1000}:send_fd(null):run "f"):read "a", "x")
    refused(template:limit(limit):fork())
  end)
end

local HOST = [[
  local fork, kit = require "moonfork", require "testkit"
  local nofile = {nofile = ...}
  local function say(p) print(assert(p):pid()) end
  local template = fork.new_exec():eval "function f(s) while true do end end"
  local reaper = fork.new_exec():eval "function f(s) while true do end end"
  local clone = reaper:fork()
  kept = {assert(clone:run "f")}
  clone:close() -- else run would bring a descriptor, for reports about it
  for _, how in ipairs {"kill", "term"} do
    local p = template:fork {leash = how}:limit(nofile)
    kept[#kept + 1] = assert(p:run "f")
    say(p)
  end
  say(reaper:limit(nofile))
  kept[#kept + 1] = assert(reaper:run "f")
  say(reaper)
  local p = template:limit(nofile)
  p:memory()
  say(p)
  io.stdout:flush()
  kit.kill(kit.getpid(), kit.SIGKILL)
]]

for nofile = 0, 1 do
  story.test(("nofile=%d: what is limited so ends with its parent"):format(nofile), function(t)
    local text, code = t:lua((HOST:gsub("%.%.%.", nofile)))
    t.eq(code, 137, text)
    local n = 0
    for pid in text:gmatch "%d+" do
      pid, n = math.tointeger(pid), n + 1
      t.outside(2, function() return not t.alive(pid) end, "process " .. n .. " has ended")
    end
    t.eq(n, 5)
  end)
end

story.done()
