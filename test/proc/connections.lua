-- The sockets of many forks under way: connections to a listening socket that the template was given
-- (src/parent/process/listener.h), so that none is in a message. Nobody notices, whatever happens
-- to the template meanwhile.
local story = require "story"
local host = require "host"
local fork = require "moonfork"
local kit = story.kit

local CODE = [[
  function nothing() end
  function echo(socket, word)
    socket:write(word, "\n")
    local heard = socket:read "l"
    socket:write(heard, "\n")
  end
]]

local function new_template(t)
  local template = fork.new_exec():eval(CODE)
  t.eq(template:fork():run "nothing":read "a", "")
  return template
end

-- n clones of it, so many at once, each of which is to say what it was given and what it is sent.
local function talk(t, template, n, at_once)
  local living, nended, fault = 0, 0, nil
  local function one(i)
    living = living + 1
    local p = template:fork():send_arg("w" .. i)
    p:run("echo", function(err, socket)
      if err then
        fault, living = fault or err, living - 1
        return
      end
      socket:write("s", i, "\n")
      local said = socket:read "a"
      if said ~= ("w%d\ns%d\n"):format(i, i) then fault = fault or said end
      socket:close()
      living, nended = living - 1, nended + 1
    end)
  end
  for i = 1, n do
    one(i)
    t.within(20, function() return living < at_once or fault end)
  end
  t.within(20, function() return living == 0 or fault end)
  t.eq(fault, nil)
  t.eq(nended, n)
end

local function fds_of(pid)
  local n = 0
  for _ in pairs(kit.fds(pid)) do n = n + 1 end
  return n
end

-- The descriptors of a clone in its function.
local function fds_of_clone(t, template, options)
  local p = template:fork(options):send_arg "w"
  local socket = p:run "echo"
  t.eq(socket:read "l", "w")
  local n = fds_of(p:pid())
  socket:write "\n"
  t.eq(p:wait().code, 0)
  socket:close()
  return n
end

story.test("many at once have sockets of their own", function(t)
  local template = new_template(t)
  local before, clone = fds_of(template:pid()), fds_of_clone(t, template)
  talk(t, template, 400, 16)
  t.eq(fds_of(template:pid()), before + 1, "a socket where it listens")
  t.eq(fds_of_clone(t, template), clone, "which clones don't have")
  template:eval "changed = true"
  talk(t, template, 100, 16)
  template:close()
end)

-- It is stopped, so that forks wait for it; what is not born then never is, and says so.
story.test("a template killed meanwhile: whoever was not forked fails, and all end", function(t)
  local template = new_template(t)
  talk(t, template, 200, 16)
  template:kill "STOP"
  t.within(10, function() return kit.processes()[template:pid()].state == "T" end)
  local ntold, errors, processes = 0, {}, {}
  for i = 1, 100 do
    local p = template:fork()
    processes[i] = p
    p:run("nothing", function(err, socket)
      ntold = ntold + 1
      if err then errors[#errors + 1] = err else socket:close() end
    end)
  end
  fork.step(0)
  template:kill "KILL"
  t.within(20, function() return ntold == 100 end)
  t.eq(#errors, 100)
  for _, err in ipairs(errors) do -- by a connection or in a message, the same
    t.eq({ err.code, err.started, tostring(err) }, { errors[1].code, "no", tostring(errors[1]) })
  end
  for _, p in ipairs(processes) do p:close() end
  template:close()
end)

-- Those that were given up before the template took them must not become the others' sockets.
story.test("forks that are given up meanwhile leave the others their sockets", function(t)
  local template = new_template(t)
  talk(t, template, 200, 16)
  for _ = 1, 3 do
    template:kill "STOP"
    t.within(10, function() return kit.processes()[template:pid()].state == "T" end)
    for _ = 1, 20 do
      local p = template:fork()
      p:run("nothing", function(_, socket) if socket then socket:close() end end)
      p:close()
    end
    fork.step(0)
    template:kill "CONT"
    talk(t, template, 40, 16)
  end
  template:close()
end)

-- By two templates; what was killed or closed must not shift the others' connections. Some have a handle
-- besides, which goes in the message.
story.test("each process has its own socket, whatever ends meanwhile", {deadline = 120}, function(t)
  local null <close> = assert(io.open "/dev/null")
  local templates = { new_template(t), new_template(t) }
  local nforking, heard, open, fault = 0, 0, {}, nil

  local function hear()
    local one = table.remove(open, 1)
    local all = ("w%d\ns%d\n"):format(one.number, one.number)
    one.socket:write("s", one.number, "\n")
    local said = one.socket:read "a" or ""
    one.socket:close()
    if said == all then heard = heard + 1 end
    local fits = one.may_end and all:sub(1, #said) == said or said == all
    if not fits then fault = fault or ("%d: %q"):format(one.number, said) end
  end

  local function begin(i)
    local what, which = math.random(100), math.random(2)
    local p = templates[which]:fork():send_arg("w" .. i)
    local may_end = what <= 10
    if what > 95 then p:send_fd(null) end
    nforking = nforking + 1
    p:run("echo", function(err, socket)
      nforking = nforking - 1
      if socket and what > 90 and what <= 95 then
        socket:close()
      elseif socket then
        open[#open + 1] = { socket = socket, number = i, may_end = may_end }
      elseif not may_end then
        fault = fault or tostring(err)
      end
    end)
    if what <= 5 then p:kill "KILL" end
    if what > 5 and what <= 10 then p:close() end
    if what == 50 then templates[which]:eval "changed = not changed" end
  end

  for i = 1, 4000 do
    while nforking + #open >= 200 do
      if open[1] then hear() else fork.step(1) end
    end
    begin(i)
  end
  while nforking > 0 or open[1] do
    if open[1] then hear() else fork.step(1) end
  end
  t.eq(fault, nil)
  t.ok(heard > 3000, heard)
  for _, template in ipairs(templates) do template:close() end
end)

-- A process of it would keep it open when the template has ended.
story.test("clones in threads don't have what the template listens at", function(t)
  local template = new_template(t)
  local options = { isolation = "thread" }
  if not template:fork(options):run "nothing" then t.skip "no clones in threads here" end
  local before = fds_of_clone(t, template, options)
  talk(t, template, 400, 16)
  t.eq(fds_of_clone(t, template, options), before)
  template:close()
end)

local function names_of_listeners()
  local names = {}
  for line in io.lines "/proc/net/unix" do names[#names + 1] = line:match "(@moonfork/.*)" end
  return names
end

-- Between the connections of ours, and until there is room for none any more.
story.test("strangers that connect change nothing", function(t)
  local other, template = new_template(t), new_template(t)
  other:eval [[
    local fork = require "moonfork"
    function connect(socket, n, ...)
      local kept = {}
      for _, name in ipairs { ... } do
        for _ = 1, n do kept[#kept + 1] = assert(fork.socket.connect(name)) end
      end
      socket:write(#kept, "\n")
      socket:read "a"
    end
  ]]
  local known = {}
  for _, name in ipairs(names_of_listeners()) do known[name] = true end
  talk(t, template, 200, 16)
  local own = {}
  for _, name in ipairs(names_of_listeners()) do
    if not known[name] then own[#own + 1] = name end
  end
  if #own ~= 1 then t.skip "others make such sockets, or nobody does" end
  for _, n in ipairs { 1, 3, 65 } do
    local socket = other:fork():send_arg(n):send_arg(own[1]):run "connect"
    t.eq(socket:read "l", tostring(n))
    talk(t, template, 100, 16)
    socket:close()
    talk(t, template, 100, 16)
  end
  other:close()
  template:close()
end)

local function run_under_filter(t, ...)
  local h <close> = host.start(t, ("local CODE = %q"):format(CODE) .. [[
    local template = fork.new_exec():eval(CODE)
    local living, nended = 0, 0
    for _ = 1, 300 do
      while living >= 16 do fork.step(1) end
      living = living + 1
      template:fork():run("nothing", function(err, socket)
        assert(not err and socket:read "a" == "")
        socket:close()
        living, nended = living - 1, nended + 1
      end)
    end
    while living > 0 do fork.step(1) end
    print(nended)
    template:close()
  ]], { before = { host.tool(t, "seccomp_run"), ... } })
  local how, number = h:ends(60)
  if number == 77 then t.skip "no filter of system calls can be set here" end
  t.eq({ how, number }, { "exit", 0 }, h:out() .. h:err())
  t.eq(h:out(), "300\n")
end

story.test("a filter of system calls: the template accepts nothing", function(t)
  run_under_filter(t, "KILL", "accept4")
end)

story.test("a filter of system calls: the host connects to nothing", function(t)
  run_under_filter(t, "KILL", "bind,listen,connect")
end)

story.done()
