-- Handles of clones: whose they are, what they share. Rows PF-12 to 15 and 21 to 23. Runs in
-- the parent.
local kit = require "testkit"
local story = require "story"
local fork = require "moonfork"

story.test("PF-12 a handle closed in one process stays open in the others", function(t)
  local near, far = fork.socket.pair()
  local template = fork.new():eval [[
    function closes(socket, handle) handle:close() end
    function uses(socket, handle)
      socket:read("l")
      handle:write("sibling\n")
    end
  ]]
  local user, closer = template:fork():send_fd(far), template:fork():send_fd(far)
  local socket = t.got(user:run("uses"))
  local other = t.got(closer:run("closes"))
  t.eq(t.status(closer).code, 0)
  far:write("app\n")
  t.eq(near:read("l"), "app")
  socket:write("go\n")
  t.eq(near:read("l"), "sibling")
  t.status(user)
  for _, handle in ipairs{near, far, socket, other} do handle:close() end
  template:close()
end)

story.test("PF-13 passed and inherited descriptors share their offset", function(t)
  local path = t:file("shared", ("0123456789"):rep(100))
  local fd = assert(kit.open(path))
  t.ask(fork.new():send_fd(fd), [[
    local socket, handle = ...
    return require("testkit").lseek(handle:fileno(), 100, "set")
  ]])
  t.eq(kit.lseek(fd, 0, "cur"), 100, "a passed one")
  kit.close(fd)
  local template = fork.new_exec():eval([[ inherited = require("testkit").open((...)) ]], path)
  t.ask(template:fork(), "return require('testkit').lseek(inherited, 42, 'set')")
  t.eq((t.ask(template:fork(), "return require('testkit').lseek(inherited, 0, 'cur')")), 42,
    "an inherited one")
  template:close()
end)

story.test("PF-14 a file opened by name has an offset of its own", function(t)
  local path = t:file("named", ("0123456789"):rep(100))
  local fd = assert(kit.open(path))
  kit.lseek(fd, 7, "set")
  local start, moved = t.ask(fork.new():send_arg(path), [[
    local socket, path = ...
    local file = io.open(path)
    return file:seek(), file:seek("set", 100)
  ]])
  t.eq({start, moved}, {0, 100})
  t.eq(kit.lseek(fd, 0, "cur"), 7)
  kit.close(fd)
end)

story.test("PF-15 a directory opened in the clone, or passed as a descriptor, is fresh",
  function(t)
  t:file("before", "")
  local folder = t:tmp()
  local fd = assert(kit.open(folder, "dir"))
  local p = fork.new():require("faultkit"):send_arg(folder):send_fd(fd)
  local socket = t.got(p:eval [[
    function list(socket, folder, handle)
      socket:read("l")
      local names = table.concat(require("testkit").ls(folder), " ")
      local fresh = require("faultkit").listdirat(handle:fileno())
      socket:write(names, "\n", table.concat(fresh, " "), "\n")
    end
  ]]:run("list"))
  t:file("after", "")
  socket:write("go\n")
  for _, how in ipairs{"by name", "by descriptor"} do
    local names = " " .. socket:read("l") .. " "
    t.match(names, " before ", how)
    t.match(names, " after ", how)
  end
  socket:close()
  kit.close(fd)
end)

story.test("PF-21 the app feeds a function's standard input", function(t)
  local path = t:file("seen")
  local p = fork.new():fork{stdin = "socket"}:send_arg(path):eval [[
    function count(socket, path)
      local out = assert(io.open(path, "w"))
      for line in io.lines() do out:write("<", line, ">") end
      out:close()
    end
  ]]
  local socket = t.got(p:run("count"))
  socket:write("one\ntwo\nthree\n")
  socket:close()
  t.eq(t.status(p).code, 0)
  t.eq(t.read(path), "<one><two><three>")
end)

story.test("PF-21 a clone feeds a process that it forks itself", function(t)
  local path = t:file("seen")
  local ok = t.ask(fork.new():send_arg(path), [[
    local clone = require "moonfork.clone"
    local _, path = ...
    local pid, near = clone.pipe_to_fork(function()
      local out = assert(io.open(path, "w"))
      for line in io.lines() do out:write("<", line, ">") end
      out:close()
    end)
    near:write("one\ntwo\nthree\n")
    near:close()
    return clone.waitpid(pid) ~= nil
  ]])
  t.eq(ok, true)
  t.eq(t.read(path), "<one><two><three>")
end)

story.test("PF-22 the app reads what a function prints", function(t)
  local p = fork.new{stdout = "socket"}:eval [[
    function prints()
      for i = 1, 1024 do io.write(("%08d"):format(i):rep(128)) end
    end
  ]]
  local socket = t.got(p:run("prints"))
  local text = socket:read("a")
  t.eq(#text, 1024 * 1024)
  t.eq(text:sub(1, 8) .. text:sub(-8), "0000000100001024")
  t.eq(socket:read(1), nil, "then the end of file")
  t.eq(t.status(p).code, 0)
  socket:close()
end)

story.test("PF-22 a clone reads what a process that it forks itself prints", function(t)
  local length, same = t.ask(fork.new(), [[
    local clone = require "moonfork.clone"
    local pid, near = clone.pipe_from_fork(function()
      io.write(("x"):rep(1024 * 1024))
    end)
    local text = near:read("a")
    near:close()
    clone.waitpid(pid)
    return #text, text == ("x"):rep(1024 * 1024)
  ]])
  t.eq({length, same}, {1024 * 1024, true})
end)

story.test("PF-23 end of file comes when the intended holder has ended", function(t)
  local template = fork.new_exec():eval [[ function hold(socket) socket:read("a") end ]]
  local read, write = kit.pipe()
  local processes, sockets = {}, {}
  for i = 1, 10 do
    processes[i] = template:fork()
    if i == 5 then processes[i]:send_fd(write) end
    sockets[i] = t.got(processes[i]:run("hold"))
  end
  kit.close(write)
  t.eq((kit.poll(read, "r", 50)), 0, "no end of file while it lives")
  sockets[5]:close()
  t.eq(t.status(processes[5]).code, 0)
  t.eq((kit.poll(read, "r", 2000)), 1)
  t.eq(kit.read(read, 1), "", "end of file")
  for i = 1, 10 do
    if i ~= 5 then t.ok(t.alive(processes[i]:pid()), "sibling " .. i) end
  end
  t.ok(t.alive(template:pid()), "the template")
  kit.close(read)
  for _, socket in ipairs(sockets) do socket:close() end
  template:close()
end)

story.done()
