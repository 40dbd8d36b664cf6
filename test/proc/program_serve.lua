-- `moonfork serve`: listeners, workers, reloads, signals, limits, systemd, status. The program is run
-- as a service manager runs it; the clients are ours.
local story = require "story"
local kit = story.kit
local program = require "program"
local fork = require "moonfork"
story.census = false

local nmarks, marked = 0, nil
local function mark()
  nmarks = nmarks + 1
  marked = ("PROGRAM_STORY=serve%d.%d."):format(kit.getpid(), nmarks)
  return marked
end

local function nobody_left(t) program.nobody_left(t, marked) end

local UPPER = [[-e 'function up(c) local l = c:read "l" if l then c:write(l:upper(), "\n") end end' up]]

local function connect(path)
  local socket, why = fork.socket.connect(path)
  if socket then socket:settimeout(10 * story.scale) end
  return socket, why
end

-- The answer, or nil and why there is none.
local function ask(path, text)
  local socket, why = connect(path)
  if not socket then return nil, "connect: " .. why end
  local sent, answer
  sent, why = socket:write(text, "\n")
  if not sent then why = "write: " .. why
  else
    answer, why = socket:read "l"
    if not answer then why = "read: " .. (why or "end of file") end
  end
  socket:close()
  return answer, why
end

-- A server on a UNIX socket that has told that it is ready.
local function serve(t, words, options)
  options = options or {}
  local path = t:file("socket" .. (options.name or ""))
  options.env = mark() .. " " .. (options.env or "")
  local listen = options.listen == false and "" or "--listen " .. path .. " "
  local running = program.start(t, "serve --log text " .. listen .. words, options)
  running.path = path
  t.outside(15, function() return running.out():find " ready " or running:ended() end)
  if not running.out():find " ready " then t.fail("it did not start:\n%s", running.err()) end
  return running
end

local function stop(t, running)
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  nobody_left(t)
end

local function started(running)
  local pids = {}
  for pid in running.out():gmatch " started pid=(%d+)" do pids[#pids + 1] = tonumber(pid) end
  return pids
end

story.test("workers answer on several listeners; SIGTERM ends them", function(t)
  local second = t:file "second"
  local running = serve(t, "-n 2 --listen " .. second .. " " .. UPPER)
  for i = 1, 20 do t.eq(ask(i % 2 == 0 and running.path or second, "word " .. i), "WORD " .. i) end
  t.eq(#started(running), 2)
  stop(t, running)
  t.eq(running.err(), "")
  t.eq(select(2, running.out():gsub(" connection ", "")), 20)
end)

story.test("over TCP, with the address of the peer in the log", function(t)
  local running = serve(t, "-n 1 --listen 127.0.0.1:0 " .. UPPER)
  t.eq(ask(running.out():match "127%.0%.0%.1:%d+", "tcp"), "TCP")
  t.outside(5, function() return running.out():find "connection pid=%d+ peer=127%.0%.0%.1:%d+ status=ok" end)
  stop(t, running)
end)

-- A peer chooses its abstract name, and a terminal did what was in it.
story.test("control characters are escaped in the log", function(t)
  local out = t:lua [[require("moonfork.serve_log").configure "text"
    require("moonfork.serve_log").write("info", "connection", {peer = "@\27[2J"})]]
  t.match(out, 'connection peer="@\\u001b%[2J"\n')
end)

story.test("a function that raises costs its connection, and is told", function(t)
  local running = serve(t, [[-n 1 -e 'function f(c) if c:read "l" == "bad" then error "it is bad" end
    c:write "good\n" end' f]])
  t.eq(ask(running.path, "bad"), nil)
  t.eq(ask(running.path, "fine"), "good")
  t.eq(#started(running), 1)
  stop(t, running)
  t.match(running.err(), "error failed [^\n]*it is bad")
end)

story.test("a worker that dies is replaced, with a growing delay if it served nothing", function(t)
  local running = serve(t, "-n 2 " .. UPPER)
  for round = 1, 3 do
    local pids = started(running)
    kit.kill(pids[#pids], kit.SIGKILL)
    t.outside(10, function() return #started(running) == 2 + round end)
    t.eq(ask(running.path, "on"), "ON")
  end
  stop(t, running)
  t.match(running.err(), "error ended pid=%d+ status=\"signal 9\" reason=died")
end)

story.test("--max-requests replaces workers", function(t)
  local running = serve(t, "-n 1 --max-requests 5 " .. UPPER)
  for i = 1, 23 do t.eq(ask(running.path, "r" .. i), "R" .. i) end
  t.outside(5, function() return #started(running) >= 4 end)
  stop(t, running)
  t.match(running.out(), "reason=max%-requests")
  t.eq(running.err(), "")
end)

story.test("--max-memory replaces a worker that has grown", {deadline = 40}, function(t)
  local running = serve(t, [[-n 1 --max-memory 20M -e 'kept = {} function f(c) kept[#kept + 1] = ("x"):rep(3e7)
    c:read "l" c:write "grown\n" end' f]])
  local first = started(running)[1]
  t.eq(ask(running.path, ""), "grown")
  t.outside(15, function() return running.out():find("ended pid=" .. first .. "[^\n]*reason=max%-memory") end)
  stop(t, running)
  t.eq(running.err(), "")
end)

-- The kernel resets a connection that is closed with unread input, and drops what it has not sent.
story.test("a close with unread input takes no answer back", function(t)
  local running = serve(t, [[-n 1 -e 'function f(c)
    local n = c:read "n" c:read "l" c:write(("x"):rep(n), "\n") end' f]])
  for _, size in ipairs{10, 3000000} do
    local client = connect(running.path)
    t.got(client:write(size, "\n", ("z"):rep(100000))) -- of which one line is read
    local other = connect(running.path)
    other:write "3\n"
    local answer, why = client:read "l"
    t.eq(why, nil)
    t.eq(#answer, size)
    t.eq(client:read "a", "")
    t.eq(other:read "a", "xxx\n") -- the first client does not hold up the worker
    other:close()
    client:close()
  end
  -- One that does not close: it is dropped after some time, and when there are too many of its kind.
  local many = {}
  for i = 1, 70 do
    many[i] = connect(running.path)
    many[i]:write("2\n", "never read\n")
    t.eq(many[i]:read "l", "xx")
  end
  local answers = ask(running.path, "4")
  t.eq(answers, "xxxx")
  for _, socket in ipairs(many) do socket:close() end
  stop(t, running)
  t.eq(running.err(), "")
end)

story.test("without free descriptors a worker waits, and uses no processor time", function(t)
  for _, mode in ipairs{"plain", "async", "http"} do
    local path = t:file(mode)
    local template = function()
      return fork.new_exec():limit{nofile = 60}:eval [[local kept = {}
        local function take(word)
          repeat local file = io.open "/dev/null" kept[#kept + 1] = file until not file
          if word == "keep" then return end
          for _, file in ipairs(kept) do file:close() end
          kept = {}
        end
        local clone = require "moonfork.clone"
        function plain(c)
          take(c:read "l")
          c:write(clone.pid(), "\n")
        end
        async = plain
        function http(r)
          take(r.path:sub(2))
          return 200, {["content-type"] = "text/plain"}, clone.pid() .. "\n"
        end]]
    end
    local needs = ({async = "luv", http = "moonfork.http_core"})[mode]
    local function send(socket, word)
      socket:write(mode == "http" and ("GET /%s HTTP/1.0\r\n\r\n"):format(word) or word .. "\n")
    end
    local function answer(socket) return tonumber(t.got(socket:read "a"):match "(%d+)\n$") end
    if not needs or package.searchpath(needs, package.cpath) then
      local instance = t.got(require("moonfork.server").new{template = template, name = mode, listen = {path},
        workers = 1, async = mode == "async", http = mode == "http"})
      instance:start()
      t.outside(10, function() fork.step(0.05) return instance.state == "running" end)
      local first = connect(path)
      send(first, "keep")
      local pid = answer(first)
      local waiting = {connect(path), connect(path)} -- there is one descriptor for them: the first one's
      local function cpu()
        local stat = t.read("/proc/" .. pid .. "/stat"):match("^.*%)" .. (" %S+"):rep(11) .. " (%d+ %d+)")
        local user, system = stat:match "(%d+) (%d+)"
        return user + system
      end
      local before = cpu()
      kit.msleep(300)
      t.ok(cpu() - before <= 4, mode .. ": " .. cpu() - before .. " ticks")
      for _, socket in ipairs(waiting) do
        send(socket, "free")
        t.eq(answer(socket), pid)
      end
      for _, socket in ipairs{first, waiting[1], waiting[2]} do socket:close() end
      instance:stop()
      t.outside(10, function() fork.step(0.05) return instance.state == "stopped" end)
    end
  end
end)

story.test("--timeout: the log shows where a function hangs; the others serve on", {deadline = 40}, function(t)
  local running = serve(t, [[-n 2 --timeout 0.5 -e 'local function deep() while true do end end
    function f(c) local l = c:read "l" if l == "hang" then deep() end c:write(l, "\n") end' f]])
  local hanging = connect(running.path)
  hanging:write "hang\n"
  t.eq(ask(running.path, "fine"), "fine")
  t.eq(hanging:read "l", nil) -- when it is killed
  t.outside(10, function() return running.err():find "reason=timeout" end)
  t.match(running.err(), "error timeout pid=%d+[^\n]*\nthe function was here:\nstack traceback:.*upvalue 'deep'")
  t.outside(10, function() return #started(running) == 3 end)
  t.eq(ask(running.path, "again"), "again")
  stop(t, running)
end)

story.test("--timeout: a function that waits for a silent client, and one that is deaf", {deadline = 40}, function(t)
  local running = serve(t, [[-n 1 --timeout 0.4 -e 'function f(c)
    if c:read "l" == "deaf" then require("moonfork.clone").on_term(function() end) while true do end end end' f]])
  local silent = connect(running.path)
  t.eq(silent:read "l", nil)
  t.outside(10, function() return #started(running) == 2 end)
  local deaf = connect(running.path)
  deaf:write "deaf\n"
  t.eq(deaf:read "l", nil)
  t.outside(10, function() return #started(running) == 3 end)
  stop(t, running)
end)

story.test("SIGHUP takes new code, and keeps the old where the new is broken", {deadline = 60}, function(t)
  local folder = t:tmp()
  local function write(source)
    local f = assert(io.open(folder .. "/served.lua.new", "w"))
    f:write(source)
    f:close()
    os.rename(folder .. "/served.lua.new", folder .. "/served.lua")
  end
  local source = "return {f = function(c) c:read 'l' c:write('%d\\n') end}"
  write(source:format(0))
  local running = serve(t, "-n 2 -l served served:f",
    {env = "LUA_PATH='" .. folder .. "/?.lua;" .. package.path .. "'"})
  t.eq(ask(running.path, ""), "0")
  local broken = {"return {f = ", "error 'not today'", "return {}"}
  local version, reloads, failures = 0, 0, 0
  -- The load generator: every connection is answered by a version that was current meanwhile.
  local function some_load()
    for _ = 1, 15 do
      local before = version
      local answer, why = ask(running.path, "")
      if not answer then t.fail("a connection was refused or reset: %s\n%s", why, running.err()) end
      local got = tonumber(answer)
      t.ok(got >= before - 1 and got <= version + 1, ("%d answered while %d was current"):format(got, before))
    end
  end
  for i = 1, 20 do
    if i % 2 == 0 then
      write(broken[i // 2 % 3 + 1])
      failures = failures + 1
    else
      version = version + 1
      write(source:format(version))
      reloads = reloads + 1
    end
    running:kill(kit.SIGHUP)
    t.outside(10, function()
      some_load()
      return select(2, running.out():gsub(" reloaded ", "")) == reloads and
        select(2, running.err():gsub(" not reloaded ", "")) == failures
    end, "reload " .. i)
    t.outside(5, function() return ask(running.path, "") == tostring(version) end)
  end
  t.match(running.err(), "not reloaded message=[^\n]*not today")
  t.match(running.err(), "the module 'served' has no function 'f'")
  stop(t, running)
end)

story.test("a drain lets a request finish; a second signal does not wait", {deadline = 40}, function(t)
  local running = serve(t, [[-n 1 -e 'function f(c) c:write "begun\n" local l = c:read "l" c:write(l, "\n") end' f]])
  local slow = connect(running.path)
  t.eq(slow:read "l", "begun")
  running:kill(kit.SIGTERM)
  t.outside(5, function() return running.out():find "stopping" end)
  t.eq(running:ended(), false)
  slow:write "finished\n"
  t.eq(slow:read "l", "finished")
  t.eq(running:wait(), 143)
  nobody_left(t)
  running = serve(t, [[-n 1 -e 'function f(c) c:write "begun\n" c:read "l" end' f]], {name = "2"})
  slow = connect(running.path)
  t.eq(slow:read "l", "begun")
  running:kill(kit.SIGINT)
  t.outside(5, function() return running.out():find "stopping" end)
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  nobody_left(t)
end)

story.test("SIGTTIN and SIGTTOU add and remove a worker", function(t)
  local running = serve(t, "-n 1 " .. UPPER)
  running:kill(kit.SIGTTIN)
  t.outside(5, function() return #started(running) == 2 end)
  running:kill(kit.SIGTTIN)
  t.outside(5, function() return #started(running) == 3 end)
  running:kill(kit.SIGTTOU)
  t.outside(5, function() return running.out():find "reason=resize" end)
  t.eq(ask(running.path, "x"), "X")
  stop(t, running)
end)

story.test("--raw: the function accepts by itself", function(t)
  local running = serve(t, [[-n 1 --raw -e 'function f(s, listener) while true do local c = listener:accept()
    c:read "l" c:write "raw\n" c:close() end end' f]])
  t.eq(ask(running.path, ""), "raw")
  running:kill(kit.SIGTERM)
  t.outside(5, function() return running.out():find "stopping" end)
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  nobody_left(t)
end)

-- Without the delay there would be hundreds.
story.test("what ends at once is replaced with a growing delay, also where it ended well", {deadline = 40}, function(t)
  for _, words in ipairs{"-e 'function f() end' f", "-e 'function f() os.exit(0) end' f",
    "-e 'function f() os.exit(1) end' f", "-e 'function f() os.execute \"kill $PPID\" end' f"} do
    local running = serve(t, "-n 1 --raw " .. words, {name = tostring(#words)})
    t.outside(20, function() return #started(running) >= 5 end)
    local times = {}
    for h, m, s in running.out():gmatch "(%d+):(%d+):([%d.]+) started" do
      times[#times + 1] = h * 3600 + m * 60 + s
    end
    t.ok((times[5] - times[1]) % 86400 > 0.7, words) -- 0.05 + 0.1 + 0.2 + 0.4
    stop(t, running)
  end
end)

story.test("--max-memory does not replace a worker for what its template has", {deadline = 40}, function(t)
  local running = serve(t, "-n 1 --max-memory 1K " .. UPPER)
  t.eq(ask(running.path, "a"), "A")
  t.outside(15, function() return #started(running) >= 2 end)
  t.eq(ask(running.path, "b"), "B")
  stop(t, running)
  local first, out = started(running)[1], running.out()
  local function seconds(pattern)
    local h, m, s = out:match("(%d+):(%d+):([%d.]+) " .. pattern)
    return h * 3600 + m * 60 + s
  end
  local served = out:match("ended pid=" .. first .. " [^\n]*reason=max%-memory requests=(%d)\n")
  local age = (seconds("ended pid=" .. first) - seconds("started pid=" .. first)) % 86400
  t.ok(served == "1" or age > 4.9, out)
end)

story.test("--watch reloads when a source changes", {deadline = 40}, function(t)
  local folder = t:tmp() .. "/src"
  kit.mkdir(folder)
  local function write(n)
    local f = assert(io.open(folder .. "/watched.lua", "w"))
    f:write("return {f = function(c) c:read('l') c:write('", n, "\\n') end}")
    f:close()
  end
  write(1)
  local running = serve(t, "-n 1 -l watched --watch " .. folder .. " watched:f",
    {env = "LUA_PATH='" .. folder .. "/?.lua;" .. package.path .. "'"})
  t.eq(ask(running.path, ""), "1")
  write(2)
  t.outside(10, function() return ask(running.path, "") == "2" end)
  stop(t, running)
end)

story.test("--watch: the folder itself is replaced", {deadline = 60}, function(t)
  local top = t:tmp()
  local function release(n)
    local folder = top .. "/release" .. n
    kit.mkdir(folder)
    t:file("release" .. n .. "/released.lua",
      ("return {f = function(c) c:read('l') c:write('%s', '\\n') end}"):format(n))
    return folder
  end
  local function shell(...) t.ok(os.execute(("cd %s && "):format(top) .. (...):format(select(2, ...)))) end
  release(1)
  shell "ln -s release1 current"
  local running = serve(t, ("-n 1 -l released --watch %s/current released:f"):format(top),
    {env = "LUA_PATH='" .. top .. "/current/?.lua;" .. package.path .. "'"})
  t.eq(ask(running.path, ""), "1")
  local function takes(n) t.outside(10, function() return ask(running.path, "") == n end) end
  release(2)
  shell "ln -sfn release2 current"
  takes "2"
  shell "rm current release2/released.lua && rmdir release2" -- tells what can't be loaded
  t.outside(10, function() return running.err():find "not reloaded" end)
  release(3)
  shell "mv release3 current"
  takes "3"
  stop(t, running)
end)

story.test("--pid writes the process id, and takes the file away", function(t)
  local file = t:file "server.pid"
  local running = serve(t, "-n 1 --pid " .. file .. " " .. UPPER)
  t.eq(tonumber(t.read(file)), running.pid)
  stop(t, running)
  t.eq(t.read(file), nil)
end)

story.test("--pid: a server that can't start leaves the file of the one that runs", function(t)
  local file = t:file "server.pid"
  local running = serve(t, "-n 1 --pid " .. file .. " " .. UPPER)
  local words = ("serve --listen %s --status %s --pid %s %s"):format(t:file "other", running.path, file, UPPER)
  local _, err, code = program.run(words)
  t.eq({err, code}, {"moonfork serve: can't listen on " .. running.path .. ": Address already in use\n", 126})
  t.eq(tonumber(t.read(file)), running.pid)
  local f = assert(io.open(file, "w")) -- a server that runs on, and took the file
  f:write("1\n")
  f:close()
  stop(t, running)
  t.eq(t.read(file), "1\n")
end)

story.test("--pid on a full disk", function(t)
  local full = t:file "full"
  assert(os.execute("ln -s /dev/full " .. full))
  local _, err, code = program.run(("serve --listen %s --pid %s %s"):format(t:file "socket", full, UPPER))
  t.eq({err, code}, {("moonfork serve: %s can't be written: No space left on device\n"):format(full), 126})
end)

local function http(address, text)
  local socket = connect(address)
  socket:write(text)
  local head, body = (socket:read "a"):match "^(.-)\r\n\r\n(.*)$"
  socket:close()
  return head, body
end

-- Workers that logged to a pipe whose reader had left were ended by SIGPIPE, one for each connection,
-- and nobody said that lines were lost.
story.test("what reads the log leaves and comes back: told once, and the server goes on", {deadline = 40}, function(t)
  local fifo, err, pid_file, path = t:file "fifo", t:file "err", t:file "pid", t:file "logged"
  os.execute("mkfifo " .. fifo)
  os.execute(([[( exec env %s '%s' serve -n 2 --log text --pid %s --listen %s %s >%s 2>%s </dev/null ) &]])
    :format(mark(), program.path, pid_file, path, UPPER, fifo, err))
  local reader = io.open(fifo) -- when the server has opened it, which must not have this end
  local line
  repeat line = reader:read "l" until line:find " ready "
  local pid = tonumber(t.read(pid_file))
  reader:close()
  for _ = 1, 5 do t.eq(ask(path, "lost"), "LOST") end
  t.outside(10, function() return t.read(err):find "\n" end)
  t.match(t.read(err), '^[%d:. -]+ error log not written message="standard output: [^\n]*"\n$')
  reader = io.open(fifo, "r+") -- it waits for no writer
  for _ = 1, 5 do t.eq(ask(path, "kept"), "KEPT") end
  repeat line = reader:read "l" until line:find " connection "
  t.outside(10, function() return t.read(err):find "again lost=%d+\n" end)
  t.eq(select(2, t.read(err):gsub("\n", "")), 2, t.read(err))
  kit.kill(pid, kit.SIGTERM)
  nobody_left(t)
  reader:close()
end)

story.test("the file of a UNIX socket goes with the server, unless it is another's", function(t)
  local status = t:file "status"
  local running = serve(t, "--status " .. status .. " " .. UPPER)
  t.ok(t.read(running.path) == nil and os.rename(running.path, running.path), "it is there")
  stop(t, running)
  for _, path in ipairs{running.path, status} do t.ok(not os.rename(path, path), path .. " is still there") end
  running = serve(t, UPPER)
  os.remove(running.path)
  local other = assert(fork.socket.listen(running.path))
  stop(t, running)
  t.ok(os.rename(running.path, running.path), "the other's is gone")
  other:close()
  os.remove(running.path)
  -- A server that does not start takes away what it has made.
  local _, _, code = program.run(("serve --listen %s --status /no/such/status %s"):format(running.path, UPPER))
  t.eq(code, 126)
  t.ok(not os.rename(running.path, running.path))
end)

story.test("--status: JSON and Prometheus text", function(t)
  local address = t:file "status"
  local running = serve(t, "-n 2 --status " .. address .. " " .. UPPER)
  for i = 1, 5 do ask(running.path, "r" .. i) end
  local head, body
  t.outside(5, function() -- the last answer comes before it is counted
    head, body = http(address, "GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
    return body:find '"requests":5[,}]'
  end)
  t.match(head, "^HTTP/1%.0 200 OK")
  t.match(body, '"workers":2[,}]')
  t.match(body, '"per_worker":%[{.*"state":"idle".*}%]')
  local page
  t.outside(5, function() -- the memory is asked for when a worker is ready
    page = t.got(require("moonfork.json").decode(select(2, http(address, "GET /status HTTP/1.0\r\n\r\n"))))
    return page.per_worker[1].private > 0 and page.per_worker[2].private > 0
  end)
  t.ok(page.latency.p50 > 0 and page.latency.p50 <= page.latency.p99 and page.latency.p99 <= page.latency.max)
  for _, worker in ipairs(page.per_worker) do
    t.ok(worker.shared > 0 and worker.age > 0 and worker.p50 <= worker.p99)
  end
  kit.kill(page.per_worker[1].pid, kit.SIGKILL)
  t.outside(10, function()
    page = t.got(require("moonfork.json").decode(select(2, http(address, "GET /status HTTP/1.0\r\n\r\n"))))
    return page.restarts.died == 1 and page.running == 2
  end)
  t.eq({page.deaths[1].reason, page.deaths[1].status, page.requests}, {"died", "signal 9", 5})
  head, body = http(address, "GET /metrics HTTP/1.0\r\n\r\n")
  t.match(head, "text/plain; version=0%.0%.4")
  t.match(body, "\nmoonfork_requests_total 5\n")
  t.match(body, '\nmoonfork_worker_ends_total{reason="died"} 1\n')
  for _, name in ipairs{"request_seconds{quantile=\"0.99\"}", "worker_private_bytes{", "worker_shared_bytes{",
    "worker_request_p50_seconds{", "worker_request_p99_seconds{", "worker_connections{"} do
    t.ok(body:find("\nmoonfork_" .. name, 1, true), name)
  end
  for line in body:gmatch "[^\n]+" do
    t.ok(line:match "^# %u+ moonfork_%w+" or line:match '^moonfork_[%w_]+{[%w_]+="[^"]*"} [%d.]+$'
      or line:match "^moonfork_[%w_]+ [%d.]+$", line)
  end
  t.match(http(address, "GET /other HTTP/1.0\r\n\r\n"), "^HTTP/1%.0 404")
  t.match(http(address, "POST /status HTTP/1.0\r\n\r\n"), "^HTTP/1%.0 405")
  -- A client that says nothing holds up nobody.
  local silent = connect(address)
  t.match(http(address, "GET /status HTTP/1.0\r\n\r\n"), "200 OK")
  silent:close()
  stop(t, running)
end)

story.test("moonfork top shows the workers, and their last ends", function(t)
  local address = t:file "status"
  local running = serve(t, "-n 2 --status " .. address .. " " .. UPPER)
  for i = 1, 3 do ask(running.path, "r" .. i) end
  kit.kill(started(running)[1], kit.SIGKILL)
  t.outside(10, function() return #started(running) == 3 end)
  local out, err, code = program.run("top " .. address)
  t.eq({err, code}, {"", 0})
  t.match(out, "^running, up [%d.]+%l+, 2 of 2 workers, 0 busy, [0-3] requests, 0 errors\n")
  for pid in out:gmatch "\n +(%d+) idle " do t.ok(tonumber(pid) ~= started(running)[1]) end
  t.eq(select(2, out:gsub(" idle ", "")), 2)
  for line in out:match "(.-)last ends:":gmatch "[^\n]+" do
    t.ok(#line <= 80, "a terminal of 80 columns showed 646.0m in place of 646.0ms: " .. line)
  end
  t.match(out, "last ends:\n +%d+:%d+:%d+ +" .. started(running)[1] .. " +died, signal 9")
  out, err, code = program.run("top " .. address .. " -d 0.05 -n 3")
  t.eq({err, code}, {"", 0})
  t.eq(select(2, out:gsub("2 of 2 workers", "")), 3)
  t.match(out, "requests %(0/s%)")
  stop(t, running)
  out, err, code = program.run("top " .. address)
  t.eq({out, code}, {"", 1})
  t.match(err, "^moonfork top: can't connect to [^\n]*\n$")
  out, err, code = program.run("top " .. running.path)
  t.eq({out, code}, {"", 1})
  t.match(err, "^moonfork top: [^\n]*\n$")
  out, err, code = program.run("top nonsense")
  t.eq({out, code}, {"", 2})
  t.match(err, "^moonfork top: can't connect to nonsense: [^\n]*\n$")
end)

story.test("systemd: sockets that were passed, and what it is told", function(t)
  local notify, path = t:file "notify", t:file "passed"
  local inbox = t.got(fork.socket.listen("unixgram:" .. notify))
  inbox:settimeout(10 * story.scale)
  local listener = fork.socket.listen(path)
  local server = fork.new{stdout = "null", env = {NOTIFY_SOCKET = notify, LISTEN_FDS = 1, WATCHDOG_USEC = 400000}}
    :eval [[function go(_, listener, program, code)
      local clone = require "moonfork.clone"
      error(clone.exec(program, {"moonfork", "serve", "-n", "1", "-e", code, "up"}, {fds = {[3] = listener}}))
    end]]:send_fd(listener):send_arg(program.path, UPPER:match "'(.*)'")
  t.got(server:run "go"):close()
  local function told() return inbox:read "a" end
  t.outside(10, function() -- on a slow machine a sign of life comes before
    local word = told()
    return word == "READY=1" or t.eq(word, "WATCHDOG=1")
  end)
  t.eq(ask(path, "passed"), "PASSED")
  t.eq(told(), "WATCHDOG=1")
  server:kill "HUP"
  local seen = {}
  t.outside(10, function()
    seen[#seen + 1] = told()
    return seen[#seen] == "READY=1"
  end)
  t.match(table.concat(seen, " "), "RELOADING=1\nMONOTONIC_USEC=%d+")
  server:kill "TERM"
  t.outside(10, function() return told() == "STOPPING=1" end)
  t.eq(t.status(server).code, 143)
  listener:close()
  inbox:close()
end)

story.test("LISTEN_FDS that names what is no listening socket", function(t)
  local _, err, code = program.run("serve " .. UPPER .. " 3</dev/null", {env = "LISTEN_FDS=1"})
  t.eq(code, 126)
  t.match(err, "^moonfork serve: descriptor 3 of LISTEN_FDS is no listening socket[^\n]*\n$")
end)

story.test("--user as one who is not root", {root = true}, function(t)
  local _, err, code = program.run(("serve --listen @moonfork-not-root --user root %s"):format(UPPER),
    {env = "exec setpriv --reuid 65534 --regid 65534 --clear-groups"})
  t.eq({err, code}, {"moonfork serve: can't become user 'root': only root may\n", 126})
end)

story.test("--user and --group", {root = true}, function(t)
  local folder = t:tmp()
  kit.chmod(folder, 511)
  local running = serve(t, [[-n 1 --user nobody -e 'function f(c) c:read "l"
    local s = io.open("/proc/self/status"):read "a"
    c:write(s:match "Uid:%s*(%d+)", " ", s:match "Gid:%s*(%d+)", "\n") end' f]])
  t.eq(ask(running.path, ""), "65534 65534")
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
end)

story.test("what can't be used is one line and 126; wrong usage is 2", function(t)
  local path = t:file "s"
  for _, case in ipairs{
    {"--listen " .. path .. " nix", 126, "there is no global function 'nix'"},
    {"--listen /no/such/dir/s " .. UPPER, 126, "can't listen on /no/such/dir/s: No such file or directory"},
    {"--listen nonsense " .. UPPER, 2, "can't listen on nonsense"}, -- was 126, as of a file
    {"--listen " .. path .. " --status :99999 " .. UPPER, 2, "can't listen on :99999"},
    -- was 126, and is 1 of run and map
    {"--listen " .. path .. [[ -e 'require"moonfork.clone".before_fork(function() return false, "not now" end)' print]],
      1, "not now"},
    -- these were ignored
    {"--listen " .. path .. " --connections 5 " .. UPPER, 2, "%-%-connections needs %-%-http or %-%-async"},
    {"--listen " .. path .. " --raw --timeout 5 " .. UPPER, 2, "%-%-raw and %-%-timeout exclude"},
    {"--listen " .. path .. " --raw --max-requests 5 " .. UPPER, 2, "%-%-raw and %-%-max%-requests exclude"},
    {"--listen " .. path .. " --async --max-bodies 5 " .. UPPER, 2, "%-%-max%-bodies needs %-%-http"},
    {UPPER, 2, "%-%-listen is missing"},
    {"--listen " .. path .. " --log xml " .. UPPER, 2, "%-%-log takes one of text, json, not 'xml'"},
    {"--listen " .. path .. " --max-memory much " .. UPPER, 2, "%-%-max%-memory takes bytes"},
    {"--listen " .. path .. " --watch /no/such " .. UPPER, 126, "/no/such: No such file or directory"},
    {"--listen " .. path .. " --pid /no/such/pid " .. UPPER, 126, "/no/such/pid: No such file"},
    {"--listen " .. path .. " --user nosuchuser " .. UPPER, 126, "there is no user 'nosuchuser'"},
  } do
    local out, err, code = program.run("serve " .. case[1])
    t.eq(out, "")
    t.match(err, "^moonfork serve: [^\n]*\n$")
    t.match(err, case[3])
    t.eq(code, case[2], case[1])
  end
end)

story.test("without --log and a terminal nothing is printed", function(t)
  local path = t:file "s"
  local running = program.start(t, "serve -n 1 --listen " .. path .. " " .. UPPER, {env = mark()})
  t.outside(10, function() return ask(path, "x") == "X" end)
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  t.eq({running.out(), running.err()}, {"", ""})
end)

story.done()
