-- `moonfork bench`: one quick measurement stands for all. The program is run as a shell runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
story.census = false

local function bench(words, options) return program.run("bench " .. words, options) end

local marked = "PROGRAM_STORY=bench" .. kit.getpid()
-- Whether there is one; title: a pattern of its title. Not how many: the measurement has 8,000, which
-- take a loaded machine long to read.
local function one_is_marked(t, title)
  for pid in pairs(kit.processes()) do
    local found = not title or (t.read("/proc/" .. pid .. "/cmdline") or ""):find(title)
    if found and (t.read("/proc/" .. pid .. "/environ") or ""):find(marked, 1, true) then return true end
  end
  return false
end

local function files_of(folder)
  local pipe <close> = assert(io.popen("ls -A '" .. folder .. "'"))
  return pipe:read "a"
end

story.test("a name gives that measurement, a missing peer is left out and named, nothing is written",
  function(t)
    local room, tools = t:file "room", t:file "tools"
    os.execute(("mkdir '%s' '%s'; cd '%s'; for tool in timeout sh mktemp rm sed awk cut uname nproc cat lua5.4; do "
      .. "ln -s \"$(command -v $tool)\" .; done"):format(room, tools, tools))
    local out, err, code = bench("--quick exec", {env = ("TMPDIR='%s' PATH='%s'"):format(room, tools)})
    t.eq(err, "")
    t.eq(code, 0)
    t.match(out, "\n%- left out, not installed: AnyEvent::Fork, EV, Python forkserver\n")
    t.match(out, "\n## Start by exec %(us%)\n")
    t.match(out, "\n| moonfork, C: mf_new_exec to ready | %d+ | %d+ | [%d.]+ |\n")
    t.ok(not out:find("AnyEvent::Fork: new_exec", 1, true))
    t.ok(not out:find("## Processes per second", 1, true))
    t.eq(files_of(room), "", "temporary files are removed")
  end)

story.test("--json is one JSON value, --output has the report", function(t)
  local room = t:file "output"
  local out, err, code = bench(("--quick --json --output '%s/a b' exec"):format(room))
  t.eq(err, "")
  t.eq(code, 0)
  local value = require("cjson").decode(out)
  t.eq(value.tables[1].title, "Start by exec (us)")
  t.eq(value.tables[1].columns[2], "p50")
  t.eq(value.tables[1].rows[2][1], "moonfork, C: mf_new_exec to ready")
  t.eq(#value.tables[1].rows[2], 4)
  t.match(t.read(room .. "/a b/results.md"), "\n## Start by exec %(us%)\n")
end)

story.test("an interrupt ends it with 130, and nothing stays behind", {deadline = 90}, function(t)
  local room = t:file "room"
  os.execute("mkdir " .. room)
  -- On a loaded machine all clones have ended before this program has found one; then the next
  -- measurement is interrupted.
  local running = program.start(t, "bench clones calls", {env = marked .. " TMPDIR=" .. room})
  t.outside(40, function() return one_is_marked(t, "^%d+ moonfork: [^t]") end, "clones are running")
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  t.outside(40, function() return not one_is_marked(t) end, "no process stays behind")
  t.eq(files_of(room), "")
  t.eq(running.err(), "")
end)

-- The measurement failed, and the report guessed why. A system that gives all of 1,024 descriptors is usual.
story.test("so many clones at once as the hard limit of descriptors allows, and the report says so", function(t)
  local few = "sh -c 'ulimit -n 800; exec \"$@\"' sh"
  local out, err, code = bench("--quick clones", {env = few})
  t.eq(err, "")
  t.eq(code, 0)
  local wanted, limit, count =
    out:match "\n(%d+) clones were to run at once%..* of this process is (%d+): these are (%d+)%."
  t.eq({wanted, limit}, {"500", "800"}, out)
  t.match(out, ("\n%s clones of one template run and wait, after [%%d.]+ s "):format(count))
end)

-- It came while the process that executes the program was waited for, which was not known to run yet:
-- nobody ended it, and the measurement waited for the program, up to two minutes.
story.test("an interrupt while a program is started ends it, too", function(t)
  local process = dofile(os.getenv "MOONFORK_SOURCE" .. "/bench/process.lua")
  t:defer(process.close)
  local started = kit.now()
  require("moonfork").timer(0, process.stop)
  local ok, err = pcall(process.run, "sleep 60")
  t.eq({ok, err.interrupted}, {false, true})
  t.ok(kit.now() - started < 30, "the program was not waited for")
  process.close()
end)

story.test("wrong usage: 2 and a line that lists the names; a folder that can't be made: 126", function(t)
  local out, err, code = bench "speed"
  t.eq({out, code}, {"", 2})
  t.match(err, "^moonfork bench: there is no measurement 'speed' %(there are: rate, .*http%); "
    .. "see moonfork bench %-%-help\n$")
  local file = t:file("file", "x")
  out, err, code = bench("--output " .. file .. "/x exec")
  t.eq({out, code}, {"", 126})
  t.match(err, "can't make the folder .*/file/x")
end)

story.done()
