-- The status page of a pool (moonfork.status, `moonfork map --status`) and `moonfork top`. The page of
-- a server is in program_serve.lua. JSON by itself, as it is written and read for all of that.
local story = require "story"
local fork = require "moonfork"
local json = require "moonfork.json"
local status = require "moonfork.status"
local program = require "program"
local kit = story.kit

local FUNCTIONS = [[
  function echo(...) return ... end
  function die() require("moonfork.clone").kill(require("moonfork.clone").pid(), 9) end
]]

-- One request, while the reactor turns.
local function get(t, address, request)
  local client = assert(fork.socket.connect(address, 5))
  client:settimeout(0)
  client:write(request)
  local parts = {}
  t.within(10, function()
    local part, message, rest = client:read(4096)
    part = part or rest
    if part and part ~= "" then parts[#parts + 1] = part end
    return not part and message == "closed" or part == "" or part == nil and message ~= "timed out"
  end)
  client:close()
  return table.concat(parts)
end

story.test("a pool's status: JSON and metrics, and no reason to stay", function(t)
  local pool = fork.new():eval(FUNCTIONS):pool("echo", {max = 2, idle = 1})
  for i = 1, 3 do t.eq(pool:call(i), i) end
  local address = t:file "status"
  local page = assert(status.start(pool, address))
  local answer = get(t, address, "GET /status HTTP/1.0\r\n\r\n")
  local head, body = answer:match "^(.-\r\n\r\n)(.*)$"
  t.match(head, "^HTTP/1.0 200 OK\r\n.*application/json")
  local stats = t.got(json.decode(body))
  t.eq(stats.kind, "pool")
  t.eq(stats.state, "running")
  t.eq(stats.done, 3)
  t.eq(stats.per_worker[1].calls + (stats.per_worker[2] and stats.per_worker[2].calls or 0), 3)
  t.match(body, '"last":%[%]')
  t.within(10, function() -- a worker says it with an answer, once a second at most
    pool:call(1)
    local w = pool:stats().per_worker[1]
    return w.memory > 0 and w.shared > 0
  end)
  answer = get(t, address, "GET /metrics HTTP/1.0\r\n\r\n")
  t.match(answer, "\nmoonfork_pool_workers_max 2\n")
  t.match(answer, "\n# TYPE moonfork_pool_calls_total counter\n")
  t.match(answer, '\nmoonfork_pool_worker_private_bytes{pid="%d+"} %d+\n')
  t.match(answer, '\nmoonfork_pool_run_seconds{quantile="0.99"} [%d.]+\n')
  t.match(get(t, address, "GET /nothing HTTP/1.0\r\n\r\n"), "^HTTP/1.0 404 ")
  t.eq(fork.loop(), true) -- with the page open: it waits for nobody
  t.got(pool:drain(10))
  pool:close()
  answer = get(t, address, "GET /status HTTP/1.0\r\n\r\n")
  t.match(answer, '"state":"closed"')
  t.match(answer, '"per_worker":%[%]')
  page:close()
end)

story.test("top shows a pool, and what has died there", function(t)
  local address = t:file "status"
  local out = t:file "out"
  local ready, go = t:file "ready", t:file "go"
  local source = FUNCTIONS .. ([[ function f(line)
    if line == "die" then die() end
    if line == "wait" then
      io.open("%s", "w"):close()
      while not io.open("%s") do os.execute "sleep 0.01" end
    end
    return line
  end]]):format(ready, go)
  local input = t:file("input", "a\ndie\nwait\n")
  local running = program.start(t, ("map -j 1 --chunk 1 --keep-going --status %s -e '%s' f %s"):format(address,
    source:gsub("'", "'\\''"), input))
  t.within(10, function() return t.read(ready) end)
  local text, err, code = program.run("top " .. address)
  t.eq(err, "")
  t.eq(code, 0)
  t.match(text, "^running, 1 of 1 workers, 0 idle, 0 queued, 1 running, 3 calls, 1 failed\n")
  t.match(text, "\nrunning: p50 ")
  t.match(text, "\n +%d+ busy +%d")
  t.match(text, "\nlast deaths:\n  .- ago  %d+  ")
  t.file(t, "go", "")
  t.eq(running:wait(), 1)
  t.match(running.out(), "^a\nwait\n$")
  t.match(running.err(), "line 2: ")
  text, err, code = program.run("top " .. address)
  t.eq(text, "")
  t.match(err, "^moonfork top: can't connect to ")
  t.eq(code, 1)
  os.remove(out)
end)

story.test("what is no status is told", function(t)
  local listener = assert(fork.socket.listen(t:file "other"))
  local running = program.start(t, "top " .. t:file "other")
  local client = assert(listener:accept())
  t.match(client:read "l", "^GET /status ") -- a close with unread bytes would reset it
  repeat local line = client:read "l" until not line or line:match "^\r?$"
  client:write("HTTP/1.0 200 OK\r\n\r\n{\"kind\":\"soup\"}")
  client:close()
  t.eq(running:wait(), 1)
  t.match(running.err(), "^moonfork top: .- gave a status that can't be read\n$")
  listener:close()
  local out, err, code = program.run(("map --status %s -e 'function f() end' f"):format(t:file "no/where"))
  t.eq(out, "")
  t.match(err, "^moonfork map: can't listen on .-\n$")
  t.eq(code, 126)
end)

-- It ended only when it had the status, or had waited for it long enough.
story.test("top ends at a signal while it waits for a status", function(t)
  local listener = assert(fork.socket.listen(t:file "mute"))
  local running = program.start(t, "top " .. t:file "mute")
  local client = assert(listener:accept())
  t.match(client:read "l", "^GET /status ")
  running:kill(kit.SIGTERM)
  t.eq({running:wait(), running.out(), running.err()}, {143, "", ""})
  client:close()
  listener:close()
end)

story.test("JSON is written and read", function(t)
  local function back(value) return t.got(json.decode(json.encode(value))) end
  t.eq(json.encode{b = {1, 2.5, true}, a = "\"\\\n\0\xe4", c = json.list{}, d = {}, e = 0 / 0, f = 1 / 3},
    [[{"a":"\"\\\n\u0000ä","b":[1,2.5,true],"c":[],"d":{},"e":null,"f":0.333333}]])
  t.eq(back{a = {b = {"x"}}}.a.b[1], "x")
  t.eq(math.type(back(2^53 | 0)), "integer")
  t.eq(back(-1.5e-3), -0.0015)
  t.eq(json.decode [[ "\ud83d\ude00\u00e4\/\b\ud800x" ]], "\u{1f600}ä/\b\u{fffd}x")
  t.eq(#json.decode "[1,[],{},\"\",null]", 4)
  for _, bad in ipairs{"", "[", "[1", "[1,]", "{", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", '"', '"\n"', '"\\x"',
    '"\\u12"', "nul", "tru", "0x10", "1 2", "[1]]", "-", "1..2", ("["):rep(1000)} do
    local value, message = json.decode(bad)
    t.eq(value, nil)
    t.match(message, " at byte %d+$")
  end
end)

story.done()
