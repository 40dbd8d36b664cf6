-- With one or two free descriptors the first call of a program ended it (libuv aborts in its
-- first loop), with none or three to five it raised. Socket methods that wait in a waiter span
-- for ever where nothing was left to watch with. Now every call gives a value, or nil and an
-- error, with any number of free descriptors, when it is the first one and later, and works as
-- soon as there are descriptors again.
--
-- Each case is a process of its own (a raw fork of this one before it has used the library),
-- whose table of descriptors is full but for n.
local story = require "story"
local kit = story.kit

story.census = false -- this process must not use the library itself

local FREE_MAX = 20

local fork = require "moonfork"

-- Ends a chain: true; or nil, err.
local function finish(p)
  local socket, err = p:run "type"
  if socket then socket:close() end
  p:close()
  return socket and true, err
end

-- What a socket function gave: true; or nil, message, errno.
local function closed(socket, message, errno)
  if not socket then return nil, message, errno end
  socket:close()
  return true
end

local function waits_in_a_waiter()
  local a, message, errno = fork.socket.pair()
  if not a then return nil, message, errno end
  fork.set_waiter(function(reactor) kit.poll(reactor:pollfd(), "r", 10) end)
  a:settimeout(0.03)
  local line
  line, message, errno = a:read "l"
  fork.set_waiter(nil)
  a:close()
  return line or message == "timed out", message, errno
end

-- cqueues' own loop, made before; ours is the one to find nothing left.
local function make_cqueues()
  local ok, cqueues = pcall(require, "cqueues")
  return ok and cqueues.new()
end

local function waits_with_cqueues(cq)
  if not cq then return true end
  local cqueues = require "cqueues"
  local done, err
  cq:wrap(function()
    fork.set_waiter(function(reactor, timeout) cqueues.poll(reactor, timeout) end)
    done, err = finish(fork.new())
    fork.set_waiter(nil)
  end)
  local looped, message, errno = cq:loop()
  return looped and done, looped and err or message, errno
end

local entries = {
  { "new", function() return finish(fork.new()) end },
  { "new_exec", function() return finish(fork.new_exec()) end },
  { "template", function() return finish(fork.template()) end },
  { "send_fd", function() return finish(fork.new():send_fd(1, 1)) end },
  { "stdio", function()
    return finish(fork.new { stdin = "null", stdout = "socket", stderr = 1 })
  end },
  { "fork", function()
    local p <close> = fork.new()
    return finish(p:fork())
  end },
  { "spares", function() return finish(fork.new_exec { spares = { min = 1, max = 2 } }:fork()) end },
  { "rpc", function()
    local rpc <close> = fork.new():rpc "math.max"
    return rpc:call(1, 2)
  end },
  { "rpc init", function()
    local rpc <close> = fork.new():rpc("math.max", { init = "collectgarbage" })
    return rpc:call(1, 2)
  end },
  { "pool", function()
    local pool <close> = fork.new():pool("math.max", { max = 2 })
    return pool:call(1, 2)
  end },
  { "to_fd, from_fd", function()
    local p <close> = fork.new()
    local socket, err = p:to_fd()
    if not socket then return nil, err end
    return finish(fork.from_fd(socket))
  end },
  { "from_fd", function()
    local q <close> = fork.from_fd(0)
    local _, err = q:run "type"
    return nil, err
  end, always = "EINVAL" },
  { "wait", function()
    local p = fork.new():eval "os.exit(3)"
    local status, err = p:wait(10)
    p:close()
    return status, err
  end },
  { "memory", function()
    local p <close> = fork.new()
    return p:memory()
  end },
  { "callback", function()
    local failure, came
    local p = fork.new():run("type", function(err, socket)
      failure, came = err, true
      if socket then socket:close() end
    end)
    fork.loop()
    p:close()
    if not came then return nil, "the callback has not come" end
    return not failure, failure
  end },
  { "reset", function() return fork.reset() end },
  { "loop", function() return fork.loop() end },
  { "step", function() return fork.step(0) == false end },
  { "reactor", function() return fork.reactor:getfd() end },
  { "waiter", waits_in_a_waiter },
  { "cqueues", waits_with_cqueues, before = make_cqueues },
  { "pair", function() return closed(fork.socket.pair()) end },
  { "listen", function() return closed(fork.socket.listen "127.0.0.1:0") end },
  { "connect", function()
    local ok, message, errno = closed(fork.socket.connect "127.0.0.1:1")
    return ok or message:find "refused" and true, message, errno
  end },
  { "connect by name", function()
    local ok, message, errno = closed(fork.socket.connect "localhost:1")
    return ok or message:find "refused" and true, message, errno
  end },
  { "open", function() return closed(fork.socket.open("/dev/null", "r")) end },
  -- What is required has to be read: the files are loaded before.
  { "luv", function(loaded) return loaded() and true end, raises = true, before = function()
    return loadfile(package.searchpath("moonfork.luv", package.path))
  end },
  { "early", function(loaded) return loaded() and true end, raises = true, before = function()
    return loadfile(package.searchpath("moonfork.early", package.path))
  end },
}

-- nil, or what is wrong with what the entry gave.
local function wrong(entry, ok, value, err, errno)
  if not ok and not entry.raises then return "raised " .. tostring(value) end
  if not ok then err, value = value, nil end
  if value and not entry.always then return nil end
  if type(err) == "string" and math.type(errno) == "integer" then return nil end
  if type(err) ~= "table" or not err.code then
    return ("gave %s, %s"):format(tostring(value), tostring(err))
  end
  return nil
end

-- What such a process says: nothing, or what is wrong.
local function try(entry, nfree, later)
  local prepared = entry.before and entry.before()
  if later then entry[2](prepared) end
  kit.setrlimit("nofile", 60)
  local held = {}
  while true do
    local fd = kit.open "/dev/null"
    if not fd then break end
    held[#held + 1] = fd
  end
  for _ = 1, nfree do kit.close(table.remove(held)) end
  local said = table.pack(pcall(entry[2], prepared))
  local text = wrong(entry, table.unpack(said, 1, said.n))
  for _, number in ipairs(held) do kit.close(number) end
  if text then return text end
  if entry.raises and said[1] then return nil end -- it is there: once is enough
  local ok, value, err = pcall(entry[2], prepared)
  if ok and value then return nil end
  if ok and entry.always and err.code == entry.always then return nil end
  return "with descriptors again: " .. tostring(ok and err or value)
end

local function try_apart(t, entry, nfree, later)
  local out, into = t.got(kit.pipe())
  local pid = t.got(kit.fork())
  if pid == 0 then
    kit.deadline(math.ceil(10 * story.scale), 5)
    kit.dup2(kit.open("/dev/null", "w"), 2) -- what functions that failed print is not asked for
    fork.on_error(function() end)
    kit.write(into, "died\n" .. (try(entry, nfree, later) or "ok"))
    kit.exit(0)
  end
  kit.close(into)
  local said = ""
  while true do
    local part = kit.read(out, 4096) or ""
    if part == "" then break end
    said = said .. part
  end
  kit.close(out)
  local _, how, number = kit.waitpid(pid)
  if said == "died\nok" then return end
  t.fail("%s with %d free descriptors, %s: %s", entry[1], nfree,
    later and "later" or "as the first call",
    said == "" and how .. " " .. number or said:gsub("^died\n", ""))
end

for _, entry in ipairs(entries) do
  story.test(entry[1] .. " with 0 to 20 free descriptors", { deadline = 60 }, function(t)
    for nfree = 0, FREE_MAX do
      try_apart(t, entry, nfree, false)
      if not entry.raises then try_apart(t, entry, nfree, true) end
    end
  end)
end

story.done()
