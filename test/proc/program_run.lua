-- `moonfork run` and what all commands have in common: help, versions, wrong usage, exit codes,
-- interrupts, a reader that leaves. The program is run as a shell runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
story.census = false

local run = program.run

local marked = "PROGRAM_STORY=" .. kit.getpid()
local function nobody_left(t) program.nobody_left(t, marked) end

local HELLO = [[-e 'function hi(socket, ...) socket:write("hi ", table.concat({...}, ","), "\n") end' hi]]

story.test("--help lists the commands and the exit codes", function(t)
  local out, err, code = run "--help"
  t.eq(code, 0)
  t.eq(err, "")
  t.match(out, "Usage: moonfork")
  t.match(out, "\n +run +run a function in clones of a template")
  t.match(out, "126 +a function, a module or a file can't be used")
end)

story.test("COMMAND --help shows options, arguments and examples", function(t)
  local out, err, code = run "run --help"
  t.eq(code, 0)
  t.eq(err, "")
  for _, text in ipairs{"  -l, --load MODULE  ", "  -n, --count N  ", "FUNCTION", "Examples:", "default: 1"} do
    t.ok(out:find(text, 1, true), text)
  end
end)

-- A line that is too long is broken by argparse, and a shell would take its second half for a command.
story.test("the examples of a command are printed as they are typed", function(t)
  local cli = require "moonfork.cli"
  for _, name in ipairs(cli.commands) do
    local out = run(name .. " --help")
    for _, example in ipairs(cli.definition(name).examples) do
      for line in example[1]:gmatch "[^\n]+" do
        t.ok(out:find("\n   " .. line .. "\n", 1, true), line)
      end
    end
  end
end)

story.test("--version", function(t)
  local out, err, code = run "--version"
  t.eq(code, 0)
  t.eq(err, "")
  t.match(out, "^moonfork %d+%.%d+%.%d+, Lua 5%.4[.%d]*\n$")
end)

story.test("wrong usage is one line and 2", function(t)
  for _, case in ipairs{
    {"", "a command is missing"}, {"bla", "there is no command 'bla' %(there are: run"},
    {"--bla", "unknown option '%-%-bla'"}, {"run", "missing argument 'FUNCTION'"},
    {"run --bla f", "unknown option '%-%-bla'"}, {"run -n 0 f", "%-%-count takes a whole number from 1 on, not '0'"},
    {"run -n x f", "not 'x'"}, {"run -n", "option '%-n' requires an argument"},
    -- a word that is nearly right brings the right one, in whatever way it is wrong
    {"serv", "'serve'%?%); see moonfork %-%-help"}, {"mpa", "'map'%?"}, {"--hepl", "'%-%-help'%?"},
    {"--versoin", "'%-%-version'%?"}, {"run --cuont 3 f", "'%-%-count'%?%); see moonfork run"},
    {"map --keep f", "'%-%-keep%-going'%?"}, {"map --jobslog=x f", "'%-%-joblog'%?"},
    -- and no other one is brought
    {"-V", "unknown option '%-V'; see"}, {"run --xyzzy", "unknown option '%-%-xyzzy'; see"},
  } do
    local out, err, code = run(case[1])
    t.eq(out, "")
    t.match(err, "^moonfork[ %l]*: [^\n]*; see moonfork[ %l]* %-%-help\n$")
    t.match(err, case[2])
    t.eq(code, 2, case[1])
  end
end)

story.test("what can't be used is one line and 126", function(t)
  for _, case in ipairs{
    {"run nix", "there is no global function 'nix'"},
    {"run string:nix", "the module 'string' has no function 'nix'"},
    {"run math.pi", "'math.pi'.*it is a number"},
    {"run -l no.such f", "module 'no%.such' not found"},
    {"run -e 'x = = 1' f", "%(%-e%):1: unexpected symbol near '='"},
    {[[run -e 'y = 1' -e 'error "not today"' f]], "%(%-e 2%):1: not today"},
  } do
    local out, err, code = run(case[1])
    t.eq(out, "")
    t.match(err, "^moonfork run: [^\n]*\n$")
    t.match(err, case[2])
    t.eq(code, 126, case[1])
  end
end)

story.test("arguments arrive as they are, those with a minus too", function(t)
  local out, err, code = run("run " .. HELLO .. " a -n 3 --help -- 'b c' ''")
  t.eq(err, "")
  t.eq(out, "hi a,-n,3,--help,--,b c,\n")
  t.eq(code, 0)
end)

story.test("-l and -e are executed in their order", function(t)
  t:module("prepared", "answer = (before or 'nothing') .. ' before'; return {}")
  local path = "LUA_PATH='" .. package.path .. "'"
  local out, err = run([[run -e 'before = "code"' -l prepared -e 'function f(s) s:write(answer) end' f]],
    {env = path})
  t.eq(err, "")
  t.eq(out, "code before")
end)

story.test("several clones: whole lines, and each one's output", function(t)
  local out, err, code = run([[run -n 5 -e 'function f(s) for i = 1, 2000 do s:write("line ", i, " ")
    s:write("of ", require("moonfork.clone").pid(), "\n") end end' f]])
  t.eq(err, "")
  t.eq(code, 0)
  local counts, n = {}, 0
  for i, pid in out:gmatch "line (%d+) of (%d+)\n" do
    counts[pid] = (counts[pid] or 0) + 1
    t.eq(tonumber(i), counts[pid])
    n = n + 1
  end
  t.eq(n, 10000)
  t.eq(select(2, out:gsub("\n", "")), 10000)
end)

story.test("bytes without a newline arrive, more than a buffer holds", function(t)
  local out, err, code = run([[run -e 'function f(s) s:write(("\0x\255"):rep(1000000)) end' f]])
  t.eq(err, "")
  t.eq(code, 0)
  t.ok(out == ("\0x\255"):rep(1000000))
end)

story.test("the exit code is the worst clone's", function(t)
  t.eq(select(3, run "run -n 3 -e 'function f() os.exit(7) end' f"), 7)
  t.eq(select(3, run [[run -e 'local c = require "moonfork.clone" function f() c.kill(c.pid(), 9) end' f]]), 137)
  local out, err, code = run [[run -e 'function f(s) s:write "before\n" error "it broke" end' f]]
  t.eq(out, "before\n")
  t.match(err, "it broke\nstack traceback:")
  t.eq(code, 1)
end)

story.test("a reader that leaves ends it quietly", function(t)
  local out, err = run([[run -n 2 -e 'function f(s) while true do s:write "more\n" end end' f]],
    {env = marked, after = "| head -n 1"})
  t.eq(out, "more\n")
  t.eq(err, "")
  nobody_left(t)
end)

story.test("standard output that is full is told", function(t)
  local out, err, code = run([[run -e 'function f(s) s:write "more\n" end' f]], {after = "> /dev/full"})
  t.eq(out, "")
  t.match(err, "^moonfork run: standard output: No space left on device\n$")
  t.eq(code, 1)
end)

story.test("a function that reads from its socket is at the end", function(t)
  local out, err, code = run [[run -e 'function f(s) s:write(tostring(s:read "a"), tostring(s:read "l"), "\n") end' f]]
  t.eq({out, err, code}, {"nil\n", "", 0})
end)

local WAITS = [['function f(s) local c = require "moonfork.clone" c.on_term(function() term = true end)
  s:write "ready\n" while not term do os.execute "sleep 0.02" end s:write "asked\n" end']]

story.test("the first interrupt asks the clones to end", function(t)
  for signal, code in pairs{[kit.SIGINT] = 130, [kit.SIGTERM] = 143} do
    local running = program.start(t, "run -n 2 -e " .. WAITS .. " f", {env = marked})
    t.outside(10, function() return running.out() == "ready\nready\n" end)
    running:kill(signal)
    t.eq(running:wait(), code)
    t.eq(running.out(), "ready\nready\nasked\nasked\n")
    t.eq(running.err(), "")
    nobody_left(t)
  end
end)

story.test("the second interrupt kills them", function(t)
  local running = program.start(t, [[run -e 'function f(s) require("moonfork.clone").on_term(print)
    s:write "ready\n" while true do s:read(1) end end' f]], {env = marked})
  t.outside(10, function() return running.out() == "ready\n" end)
  running:kill(kit.SIGINT)
  kit.msleep(100)
  t.eq(kit.kill(running.pid, 0) and true, true)
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  nobody_left(t)
end)

story.test("an interrupt ends it while the template is still loading", function(t)
  for _, words in ipairs{"run", "map", "run -n 3"} do
    local running = program.start(t, words .. [[ -e 'io.stderr:write "loads" while true do end' f]], {env = marked})
    t.outside(10, function() return running.err() == "loads" end, "it loads")
    running:kill(kit.SIGTERM)
    t.eq(running:wait(), 143, words)
    t.eq(running.err(), "loads", words)
    nobody_left(t)
  end
end)

story.test("a module that ends the template is named, by each command", function(t)
  t:module("run_exits", "os.exit(3)")
  local env = ("env LUA_PATH_5_4='%s'"):format(package.path)
  for _, command in ipairs{"run", "map", "serve --listen " .. t:file "socket"} do
    for code, words in pairs{["the module 'run_exits' ended the template while it was loaded: exit code 3"] =
        "-l string -l run_exits -l run_nowhere",
      ["the code of -e 2 ended the template: exit code 0"] = "-e x=1 -e 'os.exit(0)'"} do
      local _, err, status = run(("%s %s -e 'function f() end' f"):format(command, words), {env = env})
      t.eq({err, status}, {("moonfork %s: %s (os.exit or exit)\n"):format(command:match "%l+", code), 126})
    end
  end
end)

-- It was called as the library calls it, and `--max` is no option of these commands.
story.test("a number that only the library refuses is told with the name of the option", function(t)
  local socket = t:file "socket"
  for words, text in pairs {
    ["map -j 1000000"] = "map: --jobs: a whole number from 1 to 100000 expected, got 1000000",
    ["map --chunk 99999999999"] = "map: --chunk: a whole number from 1 to 2147483647 expected, got 99999999999",
    ["map --retry 99999999999999999999"] =
      "map: --retry takes a whole number from 0 to 9223372036854775807, not '99999999999999999999'",
    ["serve --listen " .. socket .. " --max-memory 4503599627370496K"] =
      "serve: --max-memory: a whole number from 1 to 9007199254740992 expected, got 4611686018427387904",
  } do
    local out, err, code = run(words .. " -e 'function f() end' f")
    t.eq({out, code}, {"", 2})
    t.eq(err, ("moonfork %s; see moonfork %s --help\n"):format(text, text:match "^%l+"))
  end
end)

-- With workers = 0 it waited for ever, and what was no number was found in the middle of the run.
story.test("moonfork.lines refuses numbers that can't be meant, before it begins", function(t)
  local lines = require "moonfork.lines"
  local log = t:file "log"
  for name, value in pairs {workers = 0, chunk = 0, max_failures = 0.5, retry = -1, timeout = 0 / 0, files = "-",
    idle = "x"} do
    local p = require("moonfork").new():eval "function f() end"
    local options = {files = {"/dev/null"}, write = function() end, joblog = log}
    options[name] = value
    t.raises("bad argument #3 to 'map' %(option '" .. name .. "': ", lines.map, p, "f", options)
    t.raises("option 'write': function expected, got nil", lines.map, p, "f", {})
    p:close()
  end
  t.eq(io.open(log), nil)
end)

story.test("the value of an option may begin with a minus", function(t)
  local out, err, code = run [[run -e '-- a comment
    function f(s, a) s:write(a, "\n") end' f -e]]
  t.eq({out, err, code}, {"-e\n", "", 0})
  out, err, code = run "map --retry -1 f"
  t.eq({out, code}, {"", 2})
  t.match(err, "^moonfork map: %-%-retry takes a whole number from 0 on, not '%-1'; see moonfork map %-%-help\n$")
  out, err, code = run "run -e"
  t.eq({out, code}, {"", 2})
  t.match(err, "^moonfork run: [^\n]*'%-e'[^\n]*\n$")
end)

story.test("nobody is left where the program is killed", function(t)
  local running = program.start(t, "run -n 3 -e " .. WAITS .. " f", {env = marked})
  t.outside(10, function() return #running.out() == 18 end)
  running:kill(kit.SIGKILL)
  t.eq(running:wait(), 137)
  nobody_left(t)
end)

story.test("what a function has started ends with it, however the program ends", function(t)
  local code = ("'function f() io.stdout:write \"up\\n\" io.stdout:flush() "
    .. "os.execute \"%s sleep 1000\" end'"):format(marked)
  local run_it, map_it = "run -e " .. code .. " f", "map -e " .. code .. " f " .. t:file("in", "a\n")
  for _, case in ipairs{{run_it, kit.SIGINT, 130}, {run_it, kit.SIGKILL, 137}, {map_it, kit.SIGKILL, 137}} do
    local words, signal, status = table.unpack(case)
    local running = program.start(t, words, {env = marked})
    t.outside(10, function() return running.out() == "up\n" end)
    running:kill(signal)
    t.eq(running:wait(), status, words)
    nobody_left(t)
  end
end)

story.test("manual pages and completion know every command and option", function(t)
  local build = os.getenv "MOONFORK_BUILD" .. "/src/program/"
  local main = t.read(build .. "moonfork.1")
  if not main then t.skip "built without manual pages" end
  for command in main:gmatch "%.BR moonfork\\%-(%l+) " do
    local page = t.read(build .. "moonfork-" .. command .. ".1")
    local help = run(command .. " --help")
    for option in help:gmatch "%-%-[%l-]+" do
      t.ok(page:find((option:gsub("%-", "\\-")), 1, true), command .. " " .. option)
    end
    for _, shell in ipairs{"moonfork.bash", "_moonfork", "moonfork.fish"} do
      t.ok(t.read(build .. shell):find(command, 1, true), shell .. " " .. command)
    end
  end
end)

story.done()
