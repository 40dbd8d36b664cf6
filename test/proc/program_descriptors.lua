-- The program with few descriptors: with each limit it either does its work or says in one line that
-- there are too many open files, and what to do, with exit code 1; it never hangs and leaves nobody
-- behind. How many each part of a command needs is not for a test to know: the limit grows until all
-- is well. `doctor` said in two ways what the cause was, `run` and `serve` said 126, as if the
-- function were at fault, and `map` waited for a worker for ever.
local story = require "story"
local program = require "program"
local nats = require "nats"
local kit = story.kit
story.census = false

local LEAST, MOST = 8, 80 -- below, the program can't even be loaded
local PATIENCE = 8 -- seconds, then only each fourth limit is tried: sanitizers and loaded machines take their time
local ONE_LINE = "^moonfork %l+: [^\n]*Too many open files[^\n]*; `ulimit %-n` sets [^\n]*\n$"

local marked = "PROGRAM_STORY=descriptors" .. kit.getpid()
local env = ("env %s LUA_PATH_5_4='%s' LUA_CPATH_5_4='%s'"):format(marked, package.path, package.cpath)

-- The program under a limit. Only what `streams` says is open: it is what a shell begins with.
local function run(limit, streams, words)
  return program.run(
    ([[-c 'exec %s 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; ulimit -n %d; exec "$0" "$@"' '%s' %s]]):format(streams,
      limit, program.path, words), {env = env, stdin = "1\n2\n", program = "/bin/sh"})
end

-- options: expected (standard output), streams, code (of success: 0)
local function rises_to_success(t, words, options)
  options = options or {}
  local refused, limit, begun = 0, LEAST, kit.now()
  while limit <= MOST do
    local out, err, code = run(limit, options.streams or "", words)
    if code == (options.code or 0) then
      t.eq({err, out}, {"", options.expected or out}, "with " .. limit)
      t.ok(refused > 0, "there are limits at which it can't work")
      program.nobody_left(t, marked)
      return
    end
    refused = refused + 1
    t.eq(code, 1, ("with %d: %s"):format(limit, err))
    t.match(err, ONE_LINE)
    limit = limit + (kit.now() - begun > PATIENCE and 4 or 1)
  end
  t.fail("it does not work with %d descriptors", MOST)
end

story.test("doctor", {deadline = 60}, function(t)
  rises_to_success(t, "doctor string")
end)

story.test("run, without standard input", {deadline = 60}, function(t)
  rises_to_success(t, [[run -e "function f(s) s:write(1) end" f]], {expected = "1", streams = "<&-"})
end)

-- Six workers at once are as many as may fail.
story.test("map", {deadline = 60}, function(t)
  rises_to_success(t, [[map -j 6 -e "function f(x) return x * 2 end" f]], {expected = "2\n4\n"})
end)

-- Here the near end, the command and the agent may miss them, too.
story.test("map, behind a command", {deadline = 60}, function(t)
  local agent = ("exec '%s' agent '%s' #"):format(os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE")
  rises_to_success(t, ([[map -j 2 --on "%s" -e "function f(x) return x * 2 end" f]]):format(agent),
    {expected = "2\n4\n"})
end)

-- A worker ends the server, as Ctrl-C does.
story.test("serve, on a socket that another one left behind", {deadline = 60}, function(t)
  local path = t:file "left"
  t:lua(([[require("moonfork").socket.listen(%q) os.exit(0)]]):format(path))
  rises_to_success(t, ([=[serve -n 2 --raw --listen %s -e "local c = require [[moonfork.clone]]
    function f() c.kill(c.ppid(), 2) end" f]=]):format(path), {code = 130})
end)

-- It said that no server answers: libnats had no descriptor for a socket.
nats.test("call", function(t)
  local server = nats.start(t)
  local words = ("--engine %s --subject s"):format(server.url)
  local node = program.start(t, "node " .. words .. " -n 1 -e 'function f(x) return x end' f")
  t.outside(30, function() return node.out():find " ready " or node:ended() end, "the node")
  rises_to_success(t, ("call %s --timeout 20 x"):format(words), {expected = "x\n"})
end)

story.done()
