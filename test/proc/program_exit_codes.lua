-- The exit codes of every command of `moonfork`, and what it says then: one line that says what to do on
-- standard error, nothing else. The program is run as a shell runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
local cli = require "moonfork.cli"
story.census = false

local GOOD = [[-e 'function f(x) return x end function g(s) s:write "hi\n" end function bad(x) error("no", 0) end' ]]

-- Exit codes that a command can have, each with words that give it.
local NOWHERE = "--engine nats://127.0.0.1:1 " -- where no server is
local CODES = {
  run = {
    {0, GOOD .. "g"}, {1, GOOD .. "bad"}, {3, [[-e 'function f() os.exit(3) end' f]]},
    {126, GOOD .. "nothing"}, {126, "-l no_such_module f"}, {2, ""}, {2, "-n 0 f"}, {2, "-n x f"}, {2, "-e"},
    {2, "''"}, {2, "-l '' print"}, {2, "--trace '' print"}, {0, GOOD .. "-e '' g ''"},
    {126, "-e 'os.exit(3)' print"}, {126, "--on /no/such/program print"},
  },
  map = {
    {0, GOOD .. "f"}, {1, GOOD .. "bad", "1\n"}, {126, GOOD .. "nothing"}, {126, GOOD .. "f /no/such/file"},
    {126, GOOD .. "f /"}, {126, GOOD .. "--resume /no/such/file f"}, {126, GOOD .. "--joblog /no/such/folder/x f"},
    {2, ""}, {2, "--retry -1 f"}, {2, "--timeout 0 f"}, {2, "--chunk 1.5 f"},
    {2, "''"}, {2, "--joblog '' tostring"}, {2, "--resume '' tostring"}, {2, "--status '' tostring"},
    {2, "tostring ''"}, {126, "-e 'os.exit(3)' tostring"},
  },
  serve = {
    {126, GOOD .. "--listen /no/such/folder/socket g"}, {126, GOOD .. "--listen @moonfork-exit-codes nothing"},
    {2, GOOD .. "g"}, {2, "--listen @moonfork-exit-codes"}, {2, "--log xml --listen @moonfork-exit-codes g"},
    {2, "--listen '' print"}, {2, "--listen @moonfork-exit-codes --user '' print"},
    {2, "--listen @moonfork-exit-codes --pid '' print"},
  },
  top = {{1, "/no/such/socket"}, {2, ""}, {2, "''"}, {2, "--delay 0 /no/such/socket"}},
  node = {
    {2, ""}, {2, "tostring"}, {2, NOWHERE}, {2, NOWHERE .. "--subject '' tostring"}, {2, "--subject s tostring"},
    {2, NOWHERE .. "--subject 'a b' tostring"}, {2, NOWHERE .. "--subject s -n 0 tostring"},
    {126, NOWHERE .. "--subject s nothing"}, {126, NOWHERE .. "--subject s -e 'os.exit(3)' tostring"},
  },
  call = {
    {2, ""}, {2, NOWHERE}, {2, "--subject s"}, {2, "--engine '' --subject s"}, {2, NOWHERE .. "--subject 'a b' x"},
    {2, NOWHERE .. "--subject s --timeout 0"}, {1, NOWHERE .. "--subject s --timeout 0.2 x"},
  },
  image = {
    {2, ""}, {2, "-o ''"}, {126, "-o /no/such/folder/x"}, {126, "-o /no/such/folder/x -l no_such_module"},
    {126, "-o /no/such/folder/x -e 'error(1)'"}, {126, "--check /no/such/file"}, {126, "--info /no/such/file"},
  },
  bench = {{2, "speed"}, {126, "--output /dev/null/x exec"}},
  agent = {{2, ""}, {2, "x"}, {2, "--program /no/such/file"}, {2, "--none"}},
  doctor = {{0, "string"}, {2, "''"}, {2, "--timeout none"}},
}

local function is_one_line(t, err, what)
  t.match(err, "^moonfork[^\n]*: [^\n]+\n$", what)
end

story.test("each command: the codes it can have, with a line where something is wrong", {deadline = 120}, function(t)
  for _, name in ipairs(cli.commands) do
    t.ok(CODES[name], "there are rows for " .. name)
    for _, row in ipairs(CODES[name]) do
      local what = name .. " " .. row[2]
      local out, err, code = program.run(what, {stdin = row[3] or ""})
      t.eq(code, row[1], what .. ": " .. err)
      if code == 0 then
        t.eq(err, "", what)
      elseif code == 3 then
        t.eq(err, "", what) -- the function's own code
      elseif name == "run" and code == 1 then
        t.match(err, "no\n", what) -- with the traceback of the clone
      else
        is_one_line(t, err, what)
        if name ~= "map" then t.eq(out, "", what) end
      end
    end
  end
end)

story.test("each command: --help with an example, and a wrong option", {deadline = 60}, function(t)
  for _, name in ipairs(cli.commands) do
    local out, err, code = program.run(name .. " --help")
    t.eq({err, code}, {"", 0}, name)
    t.match(out, "^Usage: moonfork " .. name, name)
    t.match(out, "\nExamples:\n   # [^\n]+\n   [^\n]*moonfork " .. name, name)
    for line in out:gmatch "[^\n]+" do t.ok(#line <= 120, name .. ": " .. line) end
    out, err, code = program.run(name .. " --no-such-option x")
    t.eq({out, code}, {"", 2}, name)
    is_one_line(t, err, name)
    t.match(err, "see moonfork " .. name .. " %-%-help\n$", name)
  end
end)

-- They reached the terminal as they were: an error of a function could clear it, or set its title.
story.test("control characters in a message are shown as question marks", function(t)
  for words, expected in pairs{
    ["run '\27[31mred'"] = "no global function '?[31mred'", ["'\27[31mred'"] = "no command '?[31mred'",
    ["map tostring '/no/such\27[2J'"] = "/no/such?[2J: No such file",
    [ [[map -e 'function f() error("\27]0;title\7x", 0) end' f]] ] = "line 1: ?]0;title?x",
    [ [[map -k -e 'function f() error("\27[2Jx", 0) end' f]] ] = "line 1: ?[2Jx",
    [ [[map -k -e 'function f() error("\u{9b}2J \u{e9}", 0) end' f]] ] = "line 1: ?2J \u{e9}", -- of eight bits
  } do
    local out, err = program.run(words, {stdin = "a\n"})
    t.eq(out, "")
    t.ok(err:find(expected, 1, true), err)
    t.eq(err:find "[^%C\n]", nil, words)
  end
end)

-- Names and reasons come from other machines.
story.test("top shows control characters of what others say as question marks", function(t)
  local lines = require("moonfork.cli.top").view({kind = "engine", subject = "s", engine = "up", workers = 1, nodes = {
    {name = "n\27[2J\n\u{9b}", workers = 1, held = 0, room = 1, window = 1, calls = 0, beat = 1}}}, nil, 1, 80)
  t.match(lines[3], "^n%?%[2J%?%?  ")
end)

-- They were padded and cut by bytes.
story.test("top counts the characters of a name, not its bytes", function(t)
  local nodes = {}
  for i, name in ipairs{"node", "n\u{f6}de", "\u{65e5}\u{672c}", "n\xf6de"} do
    nodes[i] = {name = name, workers = 1, held = 0, room = 1, window = 1, calls = 0, beat = 1}
  end
  local function view(columns)
    return require("moonfork.cli.top").view({kind = "engine", subject = "s", engine = "up", workers = 4, nodes = nodes},
      nil, 1, columns)
  end
  local lines = view(80)
  for i, node in ipairs(nodes) do t.eq(lines[2 + i], node.name .. (" "):rep(24 - (utf8.len(node.name) or #node.name))
    .. lines[3]:sub(25)) end
  lines = view(2)
  t.eq({table.unpack(lines, 2)}, {"NO", "no", "n\u{f6}", "\u{65e5}\u{672c}", "n\xf6"})
end)

story.test("no colour where there is no terminal, whatever the environment says", function(t)
  for _, words in ipairs{"--help", "--version", "nonsense", "map " .. GOOD .. "bad", "doctor"} do
    local out, err = program.run(words, {stdin = "1\n", env = "TERM=xterm-256color FORCE_COLOR=1"})
    t.ok(not (out .. err):find("\27", 1, true), words)
  end
end)

story.test("NO_COLOR on a terminal: the line of progress has no colour, without it the failures are red", function(t)
  local lines = {}
  for i = 1, 40 do lines[i] = i end
  local input = t:file("in", table.concat(lines, "\n") .. "\n")
  local command = ([[%s map -j 1 --keep-going -e "function f(x) local t = os.clock()
    while os.clock() < t + 0.02 do end error(1, 0) end" f %s]]):format(program.path, input)
  for _, case in ipairs{{"", true}, {"NO_COLOR=1 ", false}, {"TERM=dumb ", false}} do
    local pipe = io.popen(("TERM=xterm %sscript -qec '%s' /dev/null </dev/null"):format(case[1], command))
    local said = pipe:read "a"
    pipe:close()
    t.match(said, "%d+ lines, %d+/s, [^\n]*1 worker, [^\n]*%d+ failed", case[1])
    t.eq(said:find("\27%[31m%d+ failed") ~= nil, case[2], case[1])
  end
end)

story.test("SIGINT and SIGTERM: 130 and 143, of every command that goes on", {deadline = 60}, function(t)
  local status = t:file "status.sock"
  local server = program.start(t, ("serve --listen @moonfork-exit-%d --status %s %s g"):format(kit.getpid(), status,
    GOOD))
  t.outside(20, function() return os.execute(("test -S %s"):format(status)) == true end, "the server is ready")
  local COMMANDS = {
    {"top --count 1000 " .. status, "workers"},
    {[[run -e 'function f(s) s:write "in\n" while true do end end' f]], "in"},
    {[[map --chunk 1 -e 'function f(x) return x end' f]], "y", "/dev/fd/0"},
    {"bench clones", "Results"},
  }
  for _, case in ipairs(COMMANDS) do
    for signal, code in pairs{[kit.SIGINT] = 130, [kit.SIGTERM] = 143} do
      local stdin
      if case[3] then
        stdin = t:file("fifo" .. signal)
        os.execute(("mkfifo %s; { while echo y; do sleep 0.01; done; } >%s 2>/dev/null &"):format(stdin, stdin))
      end
      local running = program.start(t, case[1], {stdin = stdin})
      t.outside(20, function() return running.out():find(case[2], 1, true) end, case[1] .. " is at work")
      running:kill(signal)
      t.eq(running:wait(), code, case[1])
      t.eq(running.err(), "", case[1])
    end
  end
  server:kill(kit.SIGINT)
  t.eq(server:wait(), 130)
end)

story.test("standard output that is full or closed: 1 and a line, also of --help", function(t)
  for _, words in ipairs{"--help", "map --help", "--version", "run " .. GOOD .. "g", "doctor"} do
    local pipe = io.popen(("%s %s 2>&1 >/dev/full; echo \"code $?\""):format(program.path, words))
    local said = pipe:read "a"
    pipe:close()
    t.match(said, "^moonfork[^\n]*: standard output: [^\n]+\ncode 1\n$", words)
  end
  local address = t:file "status"
  local server = program.start(t, ("serve -n 1 --listen %s --status %s -e '' print"):format(t:file "socket", address))
  t.outside(10, function() return select(3, program.run("top " .. address)) == 0 end)
  local _, err, code = program.run("top " .. address .. " >/dev/full")
  t.eq({err, code}, {"moonfork top: standard output: No space left on device\n", 1})
  server:kill(kit.SIGTERM)
  t.eq(server:wait(), 143)
end)

story.done()
