-- `moonfork doctor`: what it prints of the installation, the system and modules, its exit codes, broken
-- installations, and modules that hang, crash or print. What the audit finds has stories of its own
-- (audit.lua). The program is run as a shell runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
local json = require "json"
story.census = false

local marked = "PROGRAM_STORY=doctor" .. kit.getpid()
local source = os.getenv "MOONFORK_SOURCE" .. "/lua/"
local build = os.getenv "MOONFORK_BUILD"

-- The program with the stories' modules, and with other variables.
local library = build .. "/src/parent"
local variables = ("%s LUA_PATH_5_4='%s' LUA_CPATH_5_4='%s' LD_LIBRARY_PATH='%s'"):format(marked, package.path,
  package.cpath, library)

local function run(words, options)
  options = options or {}
  options.env = ("env %s %s"):format(variables, options.env or "")
  return program.run("doctor " .. words, options)
end

local function nobody_left(t) program.nobody_left(t, marked) end

local function last_line(text)
  return text:match "([^\n]*)\n$"
end

local version = run(""):match "^moonfork (%S+), "

story.test("without modules: the parts, the system, a trial", function(t)
  local out, err, code = run ""
  t.eq(err, "")
  t.eq(code, 0)
  for _, part in ipairs{"program", "modules", "C module", "library", "template"} do
    t.match(out, "\n  " .. part .. " +" .. version:gsub("%p", "%%%0") .. " +/[^\n]+\n")
  end
  for _, name in ipairs{"pidfd", "memfd", "close_range", "PR_SET_PDEATHSIG", "epoll", "/proc", "huge pages",
    "seccomp", "open files", "processes", "address space", "locked memory", "memory", "overcommit", "NATS"} do
    t.match(out, "\n  " .. name:gsub("%p", "%%%0") .. " +%S[^\n]* %l[^\n]+\n")
  end
  t.match(out, "a clone of this template was forked and ran its function after [%d.]+ ms\n")
  t.eq(last_line(out), "safe to fork")
  t.ok(not out:find "\27", "no colours without a terminal")
end)

story.test("a line for each finding, then the verdict", function(t)
  t:module("doctor_seeded", "math.randomseed(42)")
  local out, err, code = run "doctor_seeded"
  t.eq(err, "")
  t.eq(code, 0)
  t.match(out, "\n  doctor_seeded +[%d.]+ ms, %-?%d+ KiB %(%-?%d+ KiB in Lua%), 0 threads, 0 descriptors\n")
  t.match(out, "\n  warning +module 'doctor_seeded' gave math.randomseed a fixed seed %([^\n]*doctor_seeded.lua:1%); "
    .. "[^\n]+; [^\n]+ %[fixed%-seed%]\n")
  t.eq(last_line(out), "safe to fork")
  out, err, code = run "--strict doctor_seeded"
  t.eq(err, "")
  t.eq(code, 1)
  t.eq(last_line(out), "not safe to fork")
  out, err, code = run "unsafe.thread"
  t.eq(err, "")
  t.eq(code, 1)
  t.match(out, "\n  error +the process has 2 threads, the last of module 'unsafe.thread'; ")
  t.eq(last_line(out), "not safe to fork")
end)

story.test("control characters in the name of a module are shown as question marks", function(t)
  t:module("doctor\u{9b}2J\27c", "math.randomseed(42)")
  local out, err, code = run "'doctor\u{9b}2J\27c'"
  t.eq({err, code}, {"", 0})
  t.match(out, "\n  doctor%?2J%?c +[%d.]+ ms")
  t.match(out, "\n  warning +module 'doctor%?2J%?c' gave")
  t.eq(out:find "\u{9b}", nil)
end)

story.test("--json is one object, whatever happens", function(t)
  t:module("doctor_json", [[math.randomseed(1) print "not JSON" io.stderr:write "neither\n"]])
  local out, err, code = run "--json --strict doctor_json"
  t.eq(err, "")
  t.eq(code, 1)
  local result = json.read(out)
  t.eq(result.version, version)
  t.eq(result.safe, false)
  t.eq(result.modules[1].name, "doctor_json")
  t.eq(#result.modules, 1)
  local kinds = {}
  for _, finding in ipairs(result.findings) do kinds[finding.kind] = finding end
  t.eq(kinds["fixed-seed"].severity, "warning")
  t.eq(kinds["fixed-seed"].module, "doctor_json")
  t.match(kinds.output.text, "not JSON")
  t.ok(#result.system > 10)
  t.eq(result.installation[1].part, "program")

  result = json.read((run "--json"))
  t.eq(result.safe, true)
  t.eq(#result.modules, 0)
  t.eq(#result.problems, 0)
  out, err, code = run "--json doctor_nowhere"
  t.match(err, "^moonfork doctor: [^\n]+\n$")
  t.eq(code, 126)
  t.match(json.read(out).error, "doctor_nowhere")
end)

story.test("what can't be loaded is one line and 126", function(t)
  t:module("doctor_syntax", "this is no Lua")
  t:module("doctor_raises", "error 'out\\nof order'")
  t:module("doctor_exits", "os.exit(0)")
  t:module("doctor_hangs", "while true do end")
  for _, case in ipairs{
    {"doctor_nowhere", "module 'doctor_nowhere' not found; LUA_PATH and LUA_CPATH say where "},
    {"doctor_syntax", "doctor_syntax.lua:1: syntax error near 'is'\n"},
    {"doctor_nowhere.lua", "a module is named as for require"}, {"doctor_raises", "doctor_raises.lua:1: out\n"},
    {"doctor_exits", "'doctor_exits' ended the template while it was loaded: exit code 0"},
    {"unsafe.crash", "'unsafe.crash' ended the template while it was loaded: SIGSEGV\n"},
    {"--timeout 0.1 doctor_hangs", "'doctor_hangs' was not loaded within 0.1 s; it is at .*%.lua:1:.*; %-%-timeout"},
  } do
    local out, err, code = run(case[1])
    t.match(err, "^moonfork doctor: [^\n]*\n$")
    t.match(err, case[2])
    t.eq(code, 126, case[1])
    t.ok(not out:find "safe to fork", case[1])
  end
  nobody_left(t)
end)

story.test("wrong usage is 2", function(t)
  for _, case in ipairs{{"--bla", "unknown option"}, {"--timeout 0 string", "seconds, a number above 0"}} do
    local out, err, code = run(case[1])
    t.eq(out, "")
    t.match(err, case[2])
    t.eq(code, 2)
  end
end)

story.test("a template program that can't be used is named, with 1", function(t)
  local plain = t:file("template", "#!/bin/sh\n")
  for _, case in ipairs{
    {t:tmp() .. "/none", "can't be used: No such file or directory"},
    {plain, "can't be executed; allow it with chmod"}, {t:tmp(), "is a directory"},
  } do
    local out, err, code = run("", {env = "MOONFORK_TEMPLATE=" .. case[1]})
    t.match(out, "\n  error +the template program " .. case[1]:gsub("%p", "%%%0") .. " %(MOONFORK_TEMPLATE%) "
      .. case[2])
    t.match(err, "^moonfork doctor: " .. case[1]:gsub("%p", "%%%0") .. "[^\n]*\n$")
    t.eq(last_line(out), "not safe to fork")
    t.eq(code, 1)
  end
end)

-- A copy of the files with another version in them.
local function older(t, name)
  local folder = t:tmp() .. "/" .. name
  os.execute(("mkdir -p '%s/moonfork'"):format(folder))
  local f = assert(io.open(folder .. "/moonfork/load.lua", "w"))
  f:write((t.read(source .. "moonfork/load.lua"):gsub('VERSION = "[^"]*"', 'VERSION = "0.0.1"')))
  f:close()
  return folder
end

story.test("modules of another version are named", function(t)
  local folder = older(t, "old")
  local out, err, code = run("", {env = ("LUA_PATH_5_4='%s/?.lua;%s'"):format(folder, package.path)})
  t.eq(out, "")
  t.match(err, "^moonfork doctor: [^\n]*\n$")
  t.match(err, "the Lua files in package.path are of moonfork 0.0.1, and .* is of moonfork " .. version)
  t.eq(code, 1)
end)

story.test("a template program of another version is named", function(t)
  local path = t:tmp() .. "/moonfork-template"
  local f = assert(io.open(path, "w"))
  f:write "#!/bin/sh\n# moonfork 0.0.1 for Lua 5.4.4\n$WAIT\n"
  f:close()
  os.execute("chmod +x " .. path)
  -- It may end before it is spoken to, or later.
  for _, wait in ipairs{"", "WAIT='sleep 0.2' "} do
    local out, err, code = run("", {env = wait .. "MOONFORK_TEMPLATE=" .. path})
    t.match(out, "\n  error +the template %([^\n]*moonfork%-template%) is moonfork 0.0.1, and the C module ")
    t.match(err, "^moonfork doctor: [^\n]*\n$")
    t.eq(code, 1)
  end
end)

story.test("what the shell, scripts and C programs find instead is told", function(t)
  local prefix = t:tmp() .. "/installed"
  local function sh(...) t.eq((os.execute((...):format(select(2, ...)))), true, (...)) end
  sh("mkdir -p '%s/bin' '%s/share/lua/5.4' '%s/lib/lua/5.4/moonfork' '%s/other'", prefix, prefix, prefix, prefix)
  sh("cp '%s' '%s/bin'", program.path, prefix)
  sh("ln -s '%smoonfork' '%s/share/lua/5.4'", source, prefix)
  sh("ln -s '%s/moonfork/core.so' '%s/lib/lua/5.4/moonfork'", build, prefix)
  sh("printf '#!/bin/sh\\necho moonfork 0.0.2, Lua 5.4\\n' >'%s/other/moonfork'; chmod +x '%s/other/moonfork'",
    prefix, prefix)
  local installed = {run = function(env)
    local own = program.path
    program.path = prefix .. "/bin/moonfork"
    local result = {run("", {env = env})}
    program.path = own
    return table.unpack(result)
  end}
  local out, err, code = installed.run(("PATH='%s/bin':$PATH"):format(prefix))
  t.eq(err, "")
  t.ok(not out:find "\n  warning", out)
  t.eq(code, 0)
  t.match(out, "\n  program +%S+ +[^\n]*/installed/bin/moonfork\n")
  out = installed.run(("PATH='%s/other':$PATH"):format(prefix))
  t.match(out, "\n  warning +the shell finds another program, [^\n]*/other/moonfork %(moonfork 0.0.2%), before ")
  out, err, code = installed.run(("LUA_PATH_5_4='%s/?.lua;%s'"):format(older(t, "old"), package.path))
  t.eq(err, "")
  t.eq(code, 0)
  t.match(out, "\n  warning +scripts find [^\n]*/old/moonfork/load.lua of moonfork 0.0.1, but this is ")
  sh("ln -s '%s/test/help/other_library.so' '%s/other/libmoonfork.so.0'", build, prefix)
  out = installed.run(("LD_LIBRARY_PATH='%s/other'"):format(prefix))
  t.match(out, "\n  warning +C programs get [^\n]*/other/libmoonfork.so.0, which is moonfork 0.0.3, but this is "
    .. "[^\n]*; correct LD_LIBRARY_PATH ")
  out = installed.run "LUA_PATH_5_4='/nowhere/?.lua;;'"
  t.match(out, "\n  note +scripts don't find the module %(LUA_PATH%); set LUA_PATH=")
end)

story.test("Ctrl-C ends a load that hangs, and all that it started", function(t)
  t:module("doctor_waits", "io.popen('sleep 1000'):read 'a'")
  local running = program.start(t, "doctor doctor_waits", {env = variables})
  t.outside(10, function() return running.out():find "overcommit" end)
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  t.eq(running.err(), "")
  nobody_left(t)
end)

story.test("a reader that leaves ends it quietly", function(t)
  t:module("doctor_quiet", "return {}")
  local out, err = run("doctor_quiet", {after = "| head -n 1"})
  t.match(out, "^moonfork %S+, [^\n]+\n$")
  t.eq(err, "")
  nobody_left(t)
  local _, message, code = run("", {after = "> /dev/full"})
  t.match(message, "^moonfork doctor: standard output: No space left on device\n$")
  t.eq(code, 1)
end)

story.test("what a sandbox takes away is told, each with its consequence", function(t)
  local out, err, code = run("string", {env = build .. "/test/fault/seccomp_run ENOSYS "
    .. "pidfd_open,close_range,clone_parent,memfd_create,prctl"})
  if code == 77 then t.skip(err) end
  t.eq(err, "")
  t.eq(code, 0)
  for _, name in ipairs{"pidfd", "exit status by pidfd", "memfd", "close_range", "PR_SET_PDEATHSIG"} do
    t.match(out, "\n  " .. name .. " +no +%l[^\n]+\n")
  end
  t.match(out, "\n  seccomp +yes +%l[^\n]+\n")
  t.match(out, "forked and ran its function after [%d.]+ ms; it is a child of its template, ")
  t.eq(last_line(out), "safe to fork")
end)

story.test("without /proc it says what it can't see", {root = true}, function(t)
  if story.is_sanitized then t.skip "the sanitizer needs /proc" end
  local without = {env = "unshare -m sh -c 'umount -l /proc && exec \"$@\"' sh"}
  local out, err, code = run("string", without)
  if err:find "unshare" then t.skip "mount namespaces are not allowed here" end
  t.eq(err, "")
  t.match(out, "\n  /proc +no +no memory figures, ")
  t.match(out, "there is no /proc; threads, descriptors and mappings can't be seen")
  t.eq(last_line(out), "safe to fork")
  t.eq(code, 0)
  out, err, code = run("--strict string", without)
  t.eq(err, "")
  t.eq(last_line(out), "not safe to fork")
  t.eq(code, 1)
end)

story.done()
