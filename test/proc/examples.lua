-- The examples, each run as its reader would run it, and what it has to print. They are
-- processes of their own, so nothing here uses the library, and there is no census.
local story = require "story"
story.census = false

local source = os.getenv "MOONFORK_SOURCE"

-- Runs example/run NAME; fails the story unless it ends with 0 and prints every pattern. One that
-- may be late ends with 1 when a frame took too long, as on a machine with other work.
local function example(t, name, patterns, may_be_late)
  local command = ("exec timeout -k 2 %d '%s/example/run' %s </dev/null 2>&1"):format(
    60 * story.scale, source, name)
  local pipe = assert(io.popen(command, "r"))
  local text = pipe:read("a")
  local _, how, code = pipe:close()
  if how ~= "exit" or code > (may_be_late and 1 or 0) then t.fail("%s ended with %s %d:\n%s", name, how, code, text) end
  for _, pattern in ipairs(patterns) do t.match(text, pattern) end
end

local function test(name, options, patterns)
  options.deadline = 70
  story.test("example " .. name, options, function(t) example(t, name, patterns, options.may_be_late) end)
end

test("single_file", {}, { "7 x 1 = 7\n", "7 x 5 = 35\n" })
test("nested_templates", {}, { "^MOON\nmoon\nFORK\nfork\n$" })
test("exec_redirect", {}, { "^dog\ncat\n$" })
test("pass_process", {}, { "who%? asked of a process", "where%? asked of a process" })
test("shared_values", {}, { "^be do question\ten\nbe do question day\ten\n$" })
test("classes", {}, { "^the worker says: 16%.50 EUR\nand one more makes 20%.00 EUR\n",
  "amounts of different currencies can't be added\n$" })
test("warm_pool", {}, { "the longest has 278 steps\n", "a worker has started: promote\n",
  "a new worker knew it\nits call took %d+ us, the first one %d+ us\n",
  "drained: 0 calls dropped, 0 workers killed\n$" })
test("hibernate", { skip = not io.open "/proc/self/maps" and "images are there on Linux alone" or nil }, {
  "^process 1: 1000 primes, good night\n", "\nprocess 2: good morning; the last prime was 7919\n2000 primes",
  "\nprocess 3: good morning; the last prime was 17389\n2262 primes in all\n" })
test("wordcount", {}, { "%d+ words, %d+ different", "%d+ the\n" })
test("prefork_server", {}, { "20 connections, answered by %d+ of %d+ processes" })
test("drain_server", {}, { "two clients of 127%.0%.0%.1:%d+ were served",
  "a client is told: STILL HERE", "all workers have ended by themselves" })
test("tree", {
  skip = story.is_sanitized and "ps does not bear a sanitizer's runtime" or nil,
}, { "^one\nnil\tTIMEOUT\nnothing of it is left\n$" })
local another = os.execute "{ command -v luajit || command -v lua5.3 || command -v lua5.1; } >/dev/null"
test("other_lua", { skip = not another and "needs luajit, lua5.3 or lua5.1" or nil },
  { "hello one from Lua 5%.4\n", "hello three from", "\n500500 words\n" })
test("with_luv", { needs = "luv" }, { "the clone says: done\n", "went on meanwhile" })
test("with_cqueues", { needs = "cqueues" }, { "another one ticked: true" })
test("with_luasocket", { needs = "socket" }, { "the clone connected and said: knock knock" })

test("with_lpeg", { needs = "lpeg" }, { '^1\t{[^\n]*"status":200', '\n2\t{[^\n]*"path":"\\/nothing"',
  "\n3\tno line of a log: rotated\n$" })
test("with_sqlite", { needs = "luasql.sqlite3" }, { "^30 people, the last is Anne O'Neill 9\n$" })
test("http_server", {}, { "^HTTP/1%.1 200 OK\n", "\nGET of /one by process (%d+)\n.*\nGET of /two by process %1\n$" })

local copas = io.open "/usr/share/lua/5.2/copas.lua"
test("with_copas", { needs = "socket", skip = not copas and "needs copas" or nil },
  { "three threads waited at once: one, three, two" })
if copas then copas:close() end

test("host", {}, { "Hello, C, says", "Hello, Lua, says", "the loop is empty" })
test("host_busy", {
  skip = story.is_sanitized and "measures, so without sanitizers" or nil,
}, { "200 processes", "longest: %d" })

test("game_server", {
  may_be_late = true,
  skip = story.is_sanitized and "measures, so without sanitizers" or nil,
}, { "^%d+ calls, %d+ answered, %d+ errors, %d+ workers killed", "\n180 frames, longest",
  "the stuck script was stopped [1-9]%d* times, the buggy one raised [1-9]%d* times\n$" })

-- After `./dev demo` the build folder has no C examples yet.
story.test("a C example that was not built is built first", function(t)
  local folder = t:tmp()
  local function put(name, text)
    local f = assert(io.open(folder .. "/" .. name, "w"))
    f:write(text)
    f:close()
  end
  assert(os.execute(("cd '%s' && mkdir example && cp '%s/example/run' '%s/example/host.c' example"):format(folder,
    source, source)))
  put("dev", [[
#!/bin/sh
cd "$(dirname "$0")"
echo "dev $1"
[ "$1" = run ] || { mkdir -p build/example; echo 'echo the host' >build/example/host; chmod +x build/example/host; }
[ "$1" = build ] || "$2"
]])
  local pipe = assert(io.popen(("cd '%s' && chmod +x dev && env -u MOONFORK_BUILD example/run host 2>&1 && " ..
    "env -u MOONFORK_BUILD example/run host 2>&1"):format(folder)))
  local text = pipe:read "a"
  pipe:close()
  t.eq(text, "dev build\ndev run\nthe host\ndev run\nthe host\n")
end)

test("demo", {}, { "(%d+) of %1 answers were right", "and the same counts" })

story.done()
