-- `moonfork serve --async`: a coroutine for each connection, luv in the workers. Whoever waits, for a
-- client, a timer or another server, holds up nobody; what fails costs its own connection.
local story = require "story"
local kit = story.kit
local program = require "program"
local fork = require "moonfork"
story.census = false

local has_luv = package.searchpath("luv", package.cpath)
local needs = {skip = not has_luv and "luv is not installed" or nil, deadline = 40}

-- luv is loaded in the template, as a module's `local uv = require "luv"` does.
local APP = [[-e 'local uv = require "luv"
  local clone = require "moonfork.clone"
  function sleep(ms)
    local co, timer = coroutine.running(), uv.new_timer()
    timer:start(ms, 0, function() timer:close() assert(coroutine.resume(co)) end)
    coroutine.yield()
  end
  function app(c)
    for l in c:lines() do
      local word, rest = l:match "^(%w+) ?(.*)$"
      if word == "sleep" then sleep(tonumber(rest)) c:write "slept\n"
      elseif word == "pid" then c:write(clone.pid(), "\n")
      elseif word == "raise" then error "it is broken"
      elseif word == "hang" then coroutine.yield()
      elseif word == "spin" then local function deep() while true do end end deep()
      elseif word == "large" then c:write(("x"):rep(tonumber(rest)), "\n")
      elseif word == "late" then
        c:settimeout(tonumber(rest))
        local _, why = c:read "l"
        c:write(why, "\n")
        c:settimeout(nil)
      elseif word == "ask" then
        local s = assert(require("moonfork").socket.connect(rest))
        s:write "pid\n"
        c:write(s:read "l", "\n")
        s:close()
      elseif word == "quit" then return
      else c:write(l:upper(), "\n") end
    end
  end' app]]

local nstarted = 0
local function serve(t, words, app)
  nstarted = nstarted + 1
  local path = t:file("socket" .. nstarted)
  local running = program.start(t, ("serve --async --log text --listen %s %s %s"):format(path, words, app or APP))
  running.path = path
  t.outside(15, function() return running.out():find " ready " or running:ended() end)
  if not running.out():find " ready " then t.fail("it did not start:\n%s", running.err()) end
  return running
end

local function connect(running)
  local socket = assert(fork.socket.connect(running.path))
  socket:settimeout(10 * story.scale)
  return socket
end

local function ask(socket, text)
  socket:write(text, "\n")
  return socket:read "l"
end

local function ask_once(running, text)
  local socket <close> = connect(running)
  return ask(socket, text)
end

local function stop(t, running)
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

story.test("50 connections and 2 workers: whoever waits holds up nobody", needs, function(t)
  local status = t:file "status"
  local running = serve(t, "-n 2 --status " .. status)
  local list = {}
  for i = 1, 50 do
    list[i] = connect(running)
    t.eq(ask(list[i], "word " .. i), "WORD " .. i)
  end
  list[1]:write "sleep 300\n"
  list[2]:write "large 3000000\n" -- and does not read
  for i = 3, 50 do t.eq(ask(list[i], "again"), "AGAIN") end
  t.eq(ask_once(running, "new"), "NEW")
  local function connections()
    local page = connect{path = status}
    page:write "GET /status HTTP/1.0\r\n\r\n"
    local n = 0
    for number in (page:read "a"):gmatch '"connections":(%d+)' do n = n + tonumber(number) end
    page:close()
    return n
  end
  t.outside(5, function() return connections() == 50 end)
  t.eq(list[1]:read "l", "slept")
  t.eq(#list[2]:read "l", 3000000)
  -- Idle connections use no processor time.
  local function cpu()
    local ticks = 0
    for pid in running.out():gmatch " started pid=(%d+)" do
      local user, system = t.read("/proc/" .. pid .. "/stat"):match("^.*%)" .. (" %S+"):rep(11) .. " (%d+) (%d+)")
      ticks = ticks + user + system
    end
    return ticks
  end
  local before = cpu()
  kit.msleep(200)
  t.ok(cpu() - before <= 1, cpu() - before .. " ticks")
  for _, socket in ipairs(list) do socket:close() end
  t.outside(5, function() return connections() == 0 end)
  stop(t, running)
  t.eq(running.err(), "")
end)

story.test("a function that raises costs its connection only", needs, function(t)
  local running = serve(t, "-n 1")
  local other, bad = connect(running), connect(running)
  local pid = ask(other, "pid")
  bad:write "raise\n"
  t.eq(bad:read "a", "")
  t.outside(5, function() return running.err():find "it is broken" end)
  t.match(running.err(), "error failed pid=%d+ [^\n]*it is broken\\nstack traceback:.*in function 'app'")
  t.eq(ask(other, "pid"), pid)
  other:close()
  stop(t, running)
end)

story.test("sockets: time limits, other servers, large answers", needs, function(t)
  local running = serve(t, "-n 1")
  local one, two = connect(running), connect(running)
  one:write "late 0.05\n"
  t.eq(ask(two, "meanwhile"), "MEANWHILE")
  t.eq(one:read "l", "timed out")
  t.eq(ask(one, "goes on"), "GOES ON")
  -- The worker asks itself: its function for the other connection runs meanwhile.
  t.eq(ask(one, "ask " .. running.path), ask(two, "pid"))
  -- The answer is there although the client has sent what nobody reads.
  two:write("large 500000\nquit\n", ("z"):rep(100000), "\n")
  t.eq(#t.got(two:read "l"), 500000)
  t.eq(two:read "a", "")
  two:close()
  one:close()
  stop(t, running)
end)

story.test("--timeout: one that hangs is closed, with its traceback; idle ones stay", needs, function(t)
  local running = serve(t, "-n 1 --timeout 0.3")
  local idle, hanging = connect(running), connect(running)
  local pid = ask(idle, "pid")
  hanging:write "hang\n"
  t.eq(hanging:read "a", "")
  hanging:close()
  t.outside(5, function() return running.err():find "error timeout" end)
  t.match(running.err(), "error timeout pid=%d+[^\n]*\nthe function was here:\nstack traceback:.*"
    .. "'coroutine.yield'.*in function 'app'")
  t.eq(ask(idle, "pid"), pid)
  -- One that computes blocks its worker, which is replaced.
  local spinning = connect(running)
  spinning:write "spin\n"
  t.eq(spinning:read "a", "")
  t.outside(10, function() return running.err():find "reason=timeout" end)
  t.match(running.err(), "the function was here:\nstack traceback:.*in local 'deep'.*in function 'app'")
  t.outside(10, function() return count(running.out(), " started ") == 2 end)
  t.eq(ask_once(running, "anew"), "ANEW")
  stop(t, running)
end)

story.test("reloads under load, and a drain, lose no connection", needs, function(t)
  local running = serve(t, "-n 2 --grace 20")
  local staying = connect(running)
  t.eq(ask(staying, "here"), "HERE")
  for i = 1, 4 do
    running:kill(kit.SIGHUP)
    t.outside(10, function()
      for _ = 1, 10 do t.eq(ask_once(running, "load"), "LOAD") end
      return count(running.out(), " reloaded ") == i
    end)
  end
  t.eq(ask(staying, "still here"), "STILL HERE") -- its worker drains, and it is what that is at
  running:kill(kit.SIGTERM)
  t.outside(5, function() return running.out():find "stopping" end)
  t.eq(running:ended(), false)
  t.eq(ask(staying, "the last"), "THE LAST")
  staying:close()
  t.eq(running:wait(), 143)
  t.eq(running.err(), "")
end)

story.test("--max-requests, --connections, SIGTTIN and SIGTTOU", needs, function(t)
  local running = serve(t, "-n 1 --max-requests 3 --connections 2")
  local one, two, three = connect(running), connect(running), connect(running)
  local pid = ask(one, "pid")
  t.eq(ask(two, "pid"), pid)
  three:write "pid\n"
  three:settimeout(0.1)
  t.eq(select(2, three:read "l"), "timed out") -- it waits for a place
  three:settimeout(10 * story.scale)
  one:close()
  t.ok(three:read "l")
  two:close()
  three:close()
  local other
  t.outside(10, function()
    other = ask_once(running, "pid")
    return other ~= pid
  end)
  running:kill(kit.SIGTTIN)
  t.outside(5, function() return running.out():find "resize workers=2" end)
  running:kill(kit.SIGTTOU)
  t.outside(5, function() return running.out():find "reason=resize" end)
  t.ok(ask_once(running, "pid"))
  stop(t, running)
end)

-- ---- with --http ----

local HTTP = [[--http -e 'local uv = require "luv"
  local function wait(ms)
    local co, timer = coroutine.running(), uv.new_timer()
    timer:start(ms, 0, function() timer:close() assert(coroutine.resume(co)) end)
    coroutine.yield()
  end
  function app(r)
    if r.path == "/meet" then
      met = met or {}
      met[#met + 1] = coroutine.running()
      if #met < tonumber(r.query) then coroutine.yield() return 200, nil, "met" end
      for i = 1, #met - 1 do
        local timer = uv.new_timer()
        timer:start(0, 0, function() timer:close() assert(coroutine.resume(met[i])) end)
      end
      return 200, nil, "met"
    end
    if r.path == "/wait" then wait(tonumber(r.query)) return 200, nil, "waited " .. r.query end
    if r.path == "/raise" then wait(1) error "it is broken" end
    if r.path == "/nothing" then wait(1) return end
    if r.path == "/hang" then coroutine.yield() end
    if r.path == "/long" then local n = 0
      return 200, nil, function()
        n = n + 1
        if n <= tonumber(r.query) then return ("x"):rep(8192) end
        kept = coroutine.running()
        coroutine.yield()
        return "y"
      end
    end
    if r.path == "/is-kept" then return 200, nil, tostring(kept ~= nil) end
    if r.path == "/resume" then local co = kept kept = nil return 200, nil, tostring(coroutine.resume(co)) end
    if r.path == "/ticks" then local n = 0
      return 200, nil, function() n = n + 1 if n <= 5 then wait(n % 2 * 20) return "tick" .. n end end end
    if r.path == "/stalls" then local n = 0
      return 200, nil, function() n = n + 1 if n > 1 then coroutine.yield() end return "one" end end
    if r.path == "/breaks" then local n = 0
      return 200, nil, function() n = n + 1 wait(1) if n > 1 then error "in the middle" end return "one" end end
    if r.path == "/pieces" then wait(1) local n = 0
      return 200, nil, function() n = n + 1 if n < 4 then return ("p"):rep(n) end end end
    return 200, nil, r.method .. " " .. r.path .. r.body
  end' app]]

local function read_response(socket)
  local line = socket:read "l"
  if not line then return nil end
  local status, size = tonumber(line:match "^HTTP/1%.1 (%d+) "), 0
  for field in socket:lines() do
    size = tonumber(field:lower():match "^content%-length: (%d+)") or size
    if field == "\r" then break end
  end
  return status, size > 0 and socket:read(size) or ""
end

local function get(running, path, rest)
  local socket = connect(running)
  socket:write("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n", rest or "")
  return socket
end

story.test("--http --async: requests that wait hold up nobody", needs, function(t)
  local running = serve(t, "-n 1 --timeout 20", HTTP)
  local waiting = {} -- none of them is answered before the last has come
  for i = 1, 19 do waiting[i] = get(running, "/meet?20") end
  local quick = get(running, "/quick")
  t.eq({read_response(quick)}, {200, "GET /quick"})
  waiting[20] = get(running, "/meet?20")
  for i = 1, 20 do t.eq({read_response(waiting[i])}, {200, "met"}) end
  -- Pipelined requests are answered in their order, whether their functions wait or not.
  quick:write("GET /wait?20 HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST /wait?1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /d HTTP/1.1\r\nHost: x\r\n\r\n")
  for _, body in ipairs{"waited 20", "GET /b", "waited 1", "GET /d"} do
    t.eq({read_response(quick)}, {200, body})
  end
  t.eq({read_response(get(running, "/raise"))}, {500, "500 Internal Server Error\n"})
  t.eq({read_response(get(running, "/nothing"))}, {500, "500 Internal Server Error\n"})
  t.outside(5, function() return running.err():find "it is broken" and running.err():find "no status" end)
  local pieces = connect(running)
  pieces:write "GET /pieces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
  t.match(pieces:read "a", "\r\n\r\n1\r\np\r\n2\r\npp\r\n3\r\nppp\r\n0\r\n\r\n$")
  -- Bodies whose functions wait, too.
  local ticks = connect(running)
  ticks:write "GET /ticks HTTP/1.1\r\nHost: x\r\n\r\nGET /then HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
  local text = ticks:read "a"
  t.match(text, "\r\n\r\n5\r\ntick1\r\n5\r\ntick2\r\n5\r\ntick3\r\n5\r\ntick4\r\n5\r\ntick5\r\n0\r\n\r\nHTTP")
  t.match(text, "GET /then$")
  ticks:close()
  local breaks = get(running, "/breaks")
  t.match(breaks:read "a", "\r\n\r\n3\r\none\r\n$") -- no last chunk
  t.outside(5, function() return running.err():find "in the middle" end)
  for _ = 1, 5 do
    local gone = get(running, "/ticks")
    gone:read(20)
    gone:close()
  end
  -- Clients that go while their function waits.
  for _ = 1, 10 do get(running, "/wait?50"):close() end
  for _ = 1, 10 do get(running, "/wait?50", ("GET /x HTTP/1.1\r\nHost: x\r\n\r\n"):rep(10)):close() end
  t.eq({read_response(get(running, "/wait?100"))}, {200, "waited 100"})
  quick:close()
  pieces:close()
  for i = 1, 20 do waiting[i]:close() end
  -- A drain waits for functions that wait.
  local last = get(running, "/wait?200")
  t.eq({read_response(get(running, "/is-read"))}, {200, "GET /is-read"})
  running:kill(kit.SIGTERM)
  t.eq({read_response(last)}, {200, "waited 200"})
  last:close()
  t.eq(running:wait(), 143)
end)

-- The piece is for a client of which nothing is left: the worker would write into memory that it has freed.
story.test("--http --async: a function that another request resumes when its client has gone", needs, function(t)
  local running = serve(t, "-n 1", HTTP)
  local other = get(running, "/first")
  t.eq({read_response(other)}, {200, "GET /first"})
  local pid = tonumber(running.out():match " started pid=(%d+)")
  local function ask_other(path)
    other:write("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n")
    local _, body = read_response(other)
    return body
  end
  -- It reads nothing. With this number of pieces, and no more, the function is asked for the next one, and
  -- waits; the last ones wait for room in the socket.
  local function start(npieces)
    local gone = get(running, "/long?" .. npieces)
    for _ = 1, 3 do
      if ask_other "/is-kept" == "true" then return gone end
    end
    gone:close()
  end
  local npieces = 200
  repeat
    local gone = start(npieces)
    if not gone then npieces = npieces - 1 end
  until gone
  t.ok(npieces > 8)
  ask_other "/resume"
  for _ = 1, 3 do
    local gone = t.ok(start(npieces), "it waits again")
    t.eq(kit.kill(pid, kit.SIGSTOP), true)
    t.outside(5, function() return kit.processes()[pid].state:lower() == "t" end)
    other:write "GET /resume HTTP/1.1\r\nHost: x\r\n\r\n"
    gone:close()
    kit.kill(pid, kit.SIGCONT)
    t.eq({read_response(other)}, {200, "true"})
  end
  t.eq({read_response(get(running, "/last"))}, {200, "GET /last"})
  other:close()
  stop(t, running)
  t.eq(count(running.out(), " started "), 1)
end)

story.test("--http --async --timeout: a function that hangs is a 503", needs, function(t)
  local running = serve(t, "-n 1 --timeout 0.3", HTTP)
  local idle, hanging = get(running, "/a"), get(running, "/hang")
  t.eq({read_response(idle)}, {200, "GET /a"})
  t.eq({read_response(hanging)}, {503, "503 Service Unavailable\n"})
  t.eq(hanging:read "a", "")
  t.match(running.err(), "error timeout pid=%d+[^\n]*\nthe function was here:\nstack traceback:.*in function 'app'")
  local stalls = get(running, "/stalls")
  t.match(stalls:read "a", "\r\n\r\n3\r\none\r\n$")
  stalls:close()
  idle:write "GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
  t.eq({read_response(idle)}, {200, "GET /b"})
  idle:close()
  hanging:close()
  stop(t, running)
  t.eq(count(running.out(), " started "), 1)
end)

story.test("without luv: one line that says what to install", function(t)
  local words = ("serve --async --listen %s -e 'package.cpath = \"/no/such/?.so\" function f() end' f")
    :format(t:file "s")
  local out, err, code = program.run(words)
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork serve: [^\n]*async needs luv, [^\n]*lua%-luv[^\n]*\n$")
  out, err, code = program.run("serve --async --raw --listen x -e 'function f() end' f")
  t.eq({out, code}, {"", 2})
  t.match(err, "%-%-raw and %-%-async exclude each other")
end)

story.test("from Lua: server.new{async = true}", needs, function(t)
  local path = t:file "s"
  local instance = assert(require("moonfork.server").new{
    template = function()
      return fork.new_exec():eval [[require("moonfork.serve_luv").defer()]]:eval(APP:match "^%-e '(.*)' app$")
    end,
    name = "app", listen = {path}, workers = 1, async = true, connections = 5})
  instance:start()
  t.outside(10, function() fork.step(0.05) return instance.state == "running" end)
  local one, two = connect{path = path}, connect{path = path}
  t.eq(ask(one, "a"), "A")
  t.eq(ask(two, "b"), "B")
  t.eq(ask(one, "c"), "C")
  one:close()
  two:close()
  instance:stop()
  t.outside(10, function() fork.step(0.05) return instance.state == "stopped" end)
end)

story.done()
