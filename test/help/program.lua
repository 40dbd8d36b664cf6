-- program.lua: the program `moonfork` of the build, run as from a shell. Needs no library.
--
--   local program = require "program"
--   local out, err, code = program.run("run -e 'function f() end' f")
--   local running = program.start(t, "run ... f")    running.pid, running:wait(), running.out()

local story = require "story"
local kit = story.kit

local program = {}

program.path = os.getenv "MOONFORK_BUILD" .. "/src/program/moonfork"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local function code_of(how, code)
  return how == "signal" and 128 + code or code
end

--- run(words, [options]): standard output, standard error, exit code. words as a shell reads them;
-- options: stdin (a text), env ("NAME=value ..."), after ("| head -1": what follows), seconds (30),
-- program (another one than the build's).
function program.run(words, options)
  options = options or {}
  local out, err, input = os.tmpname(), os.tmpname(), os.tmpname()
  local f = assert(io.open(input, "wb"))
  f:write(options.stdin or "")
  f:close()
  local command = ("exec <%s >%s 2>%s; %s timeout -k 2 %d '%s' %s %s"):format(input, out, err,
    options.env or "", math.ceil((options.seconds or 30) * story.scale), options.program or program.path,
    words, options.after or "")
  local _, how, code = os.execute(command)
  local result = {read(out), read(err), code_of(how, code)}
  for _, path in ipairs{out, err, input} do os.remove(path) end
  return table.unpack(result)
end

local started = 0

local Running = {}
Running.__index = Running

--- start(t, words, [options]): the program in the background: a table with pid, out() and err() (what
-- it has written so far) and wait() (its exit code). options as of run.
function program.start(t, words, options)
  options = options or {}
  local self = setmetatable({}, Running)
  started = started + 1
  local out, err, code, pid = t:file("out" .. started), t:file("err" .. started),
    t:file("code" .. started), t:file("pid" .. started)
  self.out = function() return t.read(out) or "" end
  self.err = function() return t.read(err) or "" end
  self.code_file = code
  local command = ("( sh -c 'echo $$ >%s; exec \"$@\"' sh %s '%s' %s <%s >%s 2>%s; "
    .. "echo $? >%s.new; mv %s.new %s ) &"):format(pid, options.env and "env " .. options.env or "env", program.path,
    words, options.stdin or "/dev/null", out, err, code, code, code)
  os.execute(command)
  t.outside(5, function() return (t.read(pid) or ""):match "%d" end, "the program has started")
  self.pid = tonumber(t.read(pid))
  self.t = t
  t:defer(function() -- of a story that failed
    if not self:ended() then kit.kill(self.pid, kit.SIGKILL) end
  end)
  return self
end

function Running:kill(signal)
  kit.kill(self.pid, signal)
end

--- ended(): whether it has.
function Running:ended()
  return (self.t.read(self.code_file) or "") ~= ""
end

--- wait([seconds]): the exit code.
function Running:wait(seconds)
  self.t.outside(seconds or 20, function() return (self.t.read(self.code_file) or "") ~= "" end,
    "the program ends")
  return tonumber(self.t.read(self.code_file))
end

--- nobody_left(t, mark): waits until no process has `mark` in its environment; else the story fails
-- and names those that stay behind.
function program.nobody_left(t, mark)
  local left
  local ok = pcall(t.outside, 10, function()
    left = {}
    for pid, process in pairs(kit.processes()) do
      if (t.read("/proc/" .. pid .. "/environ") or ""):find(mark, 1, true) then
        left[#left + 1] = ("%d of %d, %s, %s"):format(pid, process.ppid, process.state,
          (t.read("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " "))
      end
    end
    return #left == 0
  end)
  if not ok then t.fail("processes stay behind:\n%s", table.concat(left, "\n")) end
end

return program
