-- Handles and strings on their way to clones, and what a clone and a template hold open:
-- the rows AF-12 (part), AF-13, AF-21 to AF-25, AF-42, AF-43, AF-52.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("AF-21 handles are duplicated at call time", function(t)
  local r, w = kit.pipe()
  local file = io.tmpfile()
  file:write "content"
  file:flush()
  file:seek "set"
  local p = fork.new():send_fd(w, file)
  kit.close(w)
  file:close()
  t.eq(t.ask(p, [[
    local _, pipe, file = ...
    pipe:write "from the clone"
    return file:read "a"
  ]]), "content")
  t.eq(kit.read(r, 100), "from the clone")
  kit.close(r)
end)

story.test("AF-21 what is no open descriptor is an error of that process only", function(t)
  for _, bad in ipairs {999999, 1000000, -1, -2147483649} do
    local p = fork.new():send_fd(bad)
    local socket, err = p:run "type"
    t.eq(socket, nil)
    t.error(err, "EINVAL", tostring(bad))
    t.eq(err.started, "no")
    t.got(fork.new():run "type")
  end
  local closed = io.tmpfile()
  closed:close()
  local p = fork.new()
  local ok, err = pcall(p.send_fd, p, closed)
  if ok then t.error(select(2, p:run "type"), "EINVAL") else t.match(err, "closed") end
  p:close()
end)

story.test("handles may be anything that answers fileno, getfd, pollfd or fd", function(t)
  local r, w = kit.pipe()
  local socket = fork.socket.wrap(kit.dup(w))
  local objects = {w, socket}
  for _, method in ipairs {"fileno", "getfd", "pollfd", "fd"} do
    objects[#objects + 1] = setmetatable({}, {__index = {[method] = function() return w end}})
  end
  local p = fork.new():send_fd(table.unpack(objects))
  local id = kit.fstat(w)
  t.eq(t.ask(p, [[
    local out = {}
    for i = 2, select("#", ...) do
      out[#out + 1] = require"testkit".fstat((select(i, ...)):fileno())
    end
    return out
  ]]), {id, id, id, id, id, id})
  t.eq(kit.getfd(w) ~= nil, true, "the caller's own is untouched")
  socket:close()
  kit.close(w)
  kit.close(r)
  local q = fork.new()
  t.raises("send_fd", q.send_fd, q, {})
  t.raises("send_fd", q.send_fd, q, "0")
  t.raises("send_fd", q.send_fd, q, 1.5)
  q:close()
end)

story.test("AF-22 many handles in one call arrive in order, close-on-exec", function(t)
  local handles, ids = {}, {}
  for i = 1, 200 do
    handles[i] = assert(kit.open(t:file("f" .. i, "x"), "r"))
    ids[i] = kit.fstat(handles[i])
  end
  local p = fork.new():send_fd(table.unpack(handles))
  for _, fd in ipairs(handles) do kit.close(fd) end
  local got, cloexec = t.ask(p, [[
    local kit = require "testkit"
    local ids, all = {}, true
    for i = 2, select("#", ...) do
      local fd = (select(i, ...)):fileno()
      ids[#ids + 1] = kit.fstat(fd)
      all = all and kit.cloexec(fd)
    end
    return ids, all
  ]])
  t.eq(got, ids)
  t.eq(cloexec, true)
end)

story.test("AF-23 a template can forget what it was sent", function(t)
  local r, w = kit.pipe()
  local p = fork.new_exec():require("actor"):send_fd(w):send_arg "gone"
  kit.close(w)
  local q = p:fork()
  local holder = t.got(q:run "actor:hold")
  p:take_args():send_arg "new"
  local again = t.got(p:fork():run "actor:given")
  t.eq(table.pack(t.unpack(again:read "a")), {"new", n = 1})
  t.eq(kit.poll(r, "r", 0), 0, "one clone holds the pipe")
  holder:close()
  t.within(5, function() return kit.poll(r, "r", 0) > 0 end, "end of file")
  t.eq(kit.read(r, 10), "")
  kit.close(r)
  p:close()
end)

story.test("AF-24 strings arrive as they are, of any bytes and length", function(t)
  local all = {}
  for i = 0, 255 do all[#all + 1] = string.char(i) end
  local bytes = table.concat(all)
  local sent = {"", "\0", "abc", bytes, ("x"):rep(300), "", bytes:rep(40), ("y"):rep(3000000)}
  local p = fork.new():send_arg():send_arg(table.unpack(sent)):send_arg()
  p:eval [[
    function f(socket, ...)
      for i = 1, select("#", ...) do
        local s = select(i, ...)
        socket:write(#s, "\n", s)
      end
    end
  ]]
  local socket = t.got(p:run "f")
  for i, text in ipairs(sent) do
    local n = math.tointeger(socket:read "l")
    t.eq(n, #text, "length of " .. i)
    t.ok((n == 0 and "" or socket:read(n)) == text, "text " .. i)
  end
  t.eq(socket:read "l", nil)
end)

story.test("AF-24 lengths around the powers of two", {deadline = 40}, function(t)
  local p, sum = fork.new(), 0
  for power = 0, 17 do
    for delta = -1, 1 do
      local text = string.char(97 + power):rep((1 << power) + delta)
      p:send_arg(text)
      sum = sum + #text
    end
  end
  t.eq(t.ask(p, [[
    local sum, bad = 0, 0
    for i = 2, select("#", ...) do
      local s = select(i, ...)
      local power = (i - 2) // 3
      if s ~= string.char(97 + power):rep((1 << power) + (i - 2) % 3 - 1) then bad = bad + 1 end
      sum = sum + #s
    end
    return {sum, bad}
  ]]), {sum, 0})
end)

story.test("AF-24 numbers are converted exactly", function(t)
  local numbers = {
    0, -1, (1 << 53) + 1, math.maxinteger, math.mininteger, 0.1, -0.0, 1e308, 5e-324, 2 ^ 53,
    1 / 3, math.pi, 1e15, 1e16 + 2.0, 123456789.125, math.huge, -math.huge,
  }
  local p = fork.new():send_arg(table.unpack(numbers))
  local got = t.ask(p, "return {select(2, ...)}")
  for i, n in ipairs(numbers) do
    t.eq(type(got[i]), "string")
    local back = tonumber(got[i])
    t.eq(string.format("%a", back), string.format("%a", n), got[i])
    t.eq(math.type(back), math.type(n), got[i])
  end
end)

story.test("AF-25 what cannot be sent is refused in the call", function(t)
  local p = fork.new()
  for _, bad in ipairs {{}, print, true, io.stdout, coroutine.create(print)} do
    t.raises("send_arg", p.send_arg, p, bad)
    t.raises("send_arg", p.send_arg, p, "good", bad)
    t.raises("eval", p.eval, p, "x = 1", bad)
    t.raises("eval", p.eval, p, bad)
    t.raises("require", p.require, p, bad)
    t.raises("run", p.run, p, bad)
  end
  t.raises("send_arg", p.send_arg, p, nil)
  t.eq(t.ask(p, "return select('#', ...) - 1"), 0, "nothing was queued")
end)

story.test("AF-13 a template owns 0, 1, 2 and its socket; signals are as at boot", function(t)
  local out, code, err = t:lua [[
    local kit = require "testkit"
    assert(kit.dup2(0, 57) == 57)
    kit.block(kit.SIGUSR1)
    kit.disposition(kit.SIGINT, "ignore")
    kit.disposition(kit.SIGUSR2, "count")
    kit.disposition(kit.SIGCHLD, "count")
    local actor, fork = require "actor", require "moonfork"
    local function bits(pid)
      return {actor.status_bits("SigBlk", pid), actor.status_bits("SigIgn", pid),
        actor.status_bits("SigCgt", pid)}
    end
    local before = table.concat(bits(), " ")
    for _, make in ipairs {"new", "new_exec"} do
      local p = fork[make]()
      p:eval [=[
        function f(socket)
          local actor = require "actor"
          socket:write(actor.pack(actor.descriptors(), socket:fileno(),
            actor.status_bits "SigBlk", actor.status_bits "SigIgn", actor.status_bits "SigCgt"))
        end
      ]=]
      local s = assert(p:run "f")
      local fds, own, blocked, ignored, caught = actor.unpack(s:read "a")
      local extra = 0
      for _, d in ipairs(fds) do
        assert(d.fd ~= 57, "57 was inherited")
        assert(d.cloexec, make .. ": not close-on-exec: " .. d.fd .. " " .. d.target)
        if d.fd ~= own then
          extra = extra + 1
          assert(not d.target:find "^socket", make .. ": a socket: " .. d.fd)
        end
      end
      assert(extra <= 2, make .. ": " .. extra .. " descriptors of the library")
      assert(blocked == 0, make .. ": mask " .. blocked)
      assert(ignored == 0, make .. ": ignored " .. ignored)
      assert(caught == 0 or caught & (caught - 1) == 0, make .. ": caught " .. caught)
    end
    local p = fork.new_exec()
    local q = p:fork()
    assert(q:run "type")
    for fd, target in pairs(kit.fds(p:pid())) do
      assert(fd ~= 57, "57 in the template")
    end
    assert(bits(p:pid())[2] == 0, "ignored in the template")
    assert(table.concat(bits(), " ") == before, "the host's signals")
    io.write "clean"
  ]]
  t.eq({out, code, err}, {"clean", 0, ""})
end)

story.test("clones never hold the template's socket, or anything of a sibling", function(t)
  local p = fork.new_exec():require "actor"
  local first = t.got(p:fork():run "actor:hello")
  first:read "l"
  local q = p:fork()
  local fds, own = t.ask(q, [[
    local socket = ...
    return require"actor".descriptors(), socket:fileno()
  ]])
  local sockets = 0
  for _, d in ipairs(fds) do
    if d.target:find "^socket" then
      sockets = sockets + 1
      t.eq(d.fd, own)
    end
  end
  t.eq(sockets, 1)
  first:close()
  p:close()
end)

story.test("AF-42 a program: output on a passed file, errors on the socket", function(t)
  local p = fork.new():eval [[
    local clone = require "moonfork.clone"
    function f(socket, out)
      clone.exec("sh", {"sh", "-c", "echo text; echo trouble >&2; ls /proc/self/fd; echo $$"},
        {fds = {[1] = out, [2] = socket}})
    end
  ]]
  for _, how in ipairs {"kill", "keep"} do
    local path = t:file(how)
    local fd = kit.open(path, "w")
    local q = p:fork {leash = how}:send_fd(fd)
    kit.close(fd)
    local socket = t.got(q:run "f")
    t.eq(socket:read "a", "trouble\n")
    t.eq(t.status(q).code, 0)
    -- ls itself opens the folder, as descriptor 3; the leash may be one more.
    local text = t.read(path)
    local fds = text:match("^text\n(.*)" .. q:pid() .. "\n$")
    t.ok(fds, text)
    local numbers = {}
    for n in fds:gmatch "%d+" do numbers[#numbers + 1] = math.tointeger(n) end
    table.sort(numbers)
    if how == "kill" then numbers[5] = nil end
    t.eq(numbers, {0, 1, 2, 3}, how)
  end
  p:close()
end)

story.test("AF-43 threads of the caller do not matter", {deadline = 60}, function(t)
  t.got(fork.new():run "type")
  kit.threads(8, "busy")
  local ok, err = pcall(function()
    local entered, ended = 0, 0
    for i = 1, 1000 do
      local p = fork.new()
      p:run("type", function(e)
        t.eq(e, nil)
        entered = entered + 1
      end)
      p:on_exit(function(status)
        t.eq(status.code, 0)
        ended = ended + 1
      end)
      if i % 50 == 0 then t.within(30, function() return ended == i end) end
    end
    t.eq(entered, 1000)
  end)
  kit.threads_stop()
  if not ok then error(err, 0) end
end)

story.test("AF-52 a pre-forked server: all accept on one listening socket", {deadline = 60},
  function(t)
    local listener = t.got(fork.socket.listen(t:file "listener"))
    local p = fork.new():send_fd(listener):eval [[
      function serve(socket, listener, id)
        socket:close()
        while true do
          local c = listener:accept()
          c:write(id)
          c:close()
        end
      end
    ]]
    listener:close()
    local workers = {}
    for i = 1, 10 do
      workers[i] = p:fork():send_arg(i)
      t.got(workers[i]:run "serve"):close()
    end
    local seen, kinds = 0, 0
    local by = {}
    for _ = 1, 1000 do
      local c = t.got(fork.socket.connect(t:file "listener"))
      local id = c:read "a"
      c:close()
      t.match(id, "^%d+$")
      seen = seen + 1
      if not by[id] then kinds = kinds + 1 end
      by[id] = true
    end
    t.eq(seen, 1000)
    t.ok(kinds > 1, "more than one answered")
    for _, worker in ipairs(workers) do
      t.ok(t.alive(worker:pid()), "closing its socket did not end it")
      t.got(worker:kill())
      t.eq(t.status(worker).signal, kit.SIGTERM)
    end
    p:close()
  end)

story.done()
