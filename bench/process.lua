-- Starts the programs of a measurement and ends them. Each is executed by a clone that has a process
-- group of its own (`tree`): when its time is up, at Ctrl-C, and however the caller ends, nothing
-- that it has started stays behind. Runs in the process that measures.
local fork = require "moonfork"

local process = {
  interrupted = nil, -- true: nothing more is started, and what runs is ended
}

local SECONDS_MAX = 120 -- of a program that is run to its end

local running = {} -- process -> true
local template, room
local deferred = {} -- functions

-- Lua programs find the modules of this one, and temporary files have a folder that is removed.
local function new_template()
  local made = fork.new_exec{session = "new", env = {LUA_PATH_5_4 = package.path,
    LUA_CPATH_5_4 = package.cpath, TMPDIR = room}}
  return made:eval [[
    local clone = require "moonfork.clone"
    function execute(_, command)
      clone.exec("/bin/sh", {"sh", "-c", command})
    end
  ]]
end

local function prepare()
  local pipe = assert(io.popen "mktemp -d")
  room = pipe:read "l"
  pipe:close()
  if not room then error({message = "mktemp can't make a folder for temporary files"}, 0) end
  template = new_template()
end

local function start(command, stdin, own)
  if process.interrupted then error({interrupted = true}, 0) end
  if not template then prepare() end
  local made = (own or template):fork{tree = true, stdin = stdin, stdout = "socket"}
  running[made] = true -- before the wait: an interrupt may come in it
  local socket, err = made:send_arg(command):run "execute"
  if socket and not process.interrupted then return made, socket end
  made:kill "KILL"
  running[made] = nil
  error(process.interrupted and {interrupted = true} or err.message, 0)
end

local function finish(made, socket)
  socket:close()
  local status = made:wait()
  running[made] = nil
  if process.interrupted then error({interrupted = true}, 0) end
  return status and status.code == 0
end

--- run(command): its standard output, and whether it ended with 0 in time. The command is for a
-- shell.
function process.run(command)
  local made, socket = start(command, "null")
  local timer = fork.timer(SECONDS_MAX, function() made:kill "KILL" end)
  local text = socket:read "a" or ""
  timer:close()
  return text, finish(made, socket)
end

--- succeeds(command): whether it ends with 0; what it prints is dropped.
function process.succeeds(command)
  local _, ok = process.run("exec >/dev/null 2>&1; " .. command)
  return ok
end

--- capture(command): its standard output without the white space at the end.
function process.capture(command)
  local text = process.run("exec 2>/dev/null; " .. command)
  return (text:gsub("%s+$", ""))
end

--- room(): the folder of temporary files.
function process.room()
  if not template then prepare() end
  return room
end

local Pair = {}
Pair.__index = Pair

--- pair(command): a program that is asked and answers, a line each.
function process.pair(command)
  local made, socket = start(command, "socket")
  return setmetatable({process = made, socket = socket}, Pair)
end

--- ask(question): the answer; nil when it has ended.
function Pair:ask(question)
  self.socket:write(question, "\n")
  local answer = self.socket:read "l"
  if process.interrupted then error({interrupted = true}, 0) end
  return answer
end

function Pair:close()
  self.socket:shutdown "write"
  self.socket:read "a"
  return finish(self.process, self.socket)
end

local Server = {}
Server.__index = Server

--- serve(command): a program that runs until stop(); what it prints is dropped. It has a session of
-- its own, because the kernel shares out the processors by sessions (autogroup).
function process.serve(command)
  if not template then prepare() end
  local own <close> = new_template()
  local made, socket = start("exec >/dev/null 2>&1; " .. command, "null", own)
  socket:close()
  return setmetatable({process = made}, Server)
end

--- stop(): SIGTERM, and SIGKILL to everything that is left five seconds later.
function Server:stop()
  self.process:kill "TERM"
  if not self.process:wait(5) then self.process:kill "KILL" end
  self.process:wait()
  running[self.process] = nil
end

--- stop(): at an interrupt. What runs ends, and the call that waits for it raises
-- {interrupted = true}.
function process.stop()
  process.interrupted = true
  for made in pairs(running) do made:kill "KILL" end
end

--- defer(f): close() calls f() until it gives true, for a second at most.
function process.defer(f)
  deferred[#deferred + 1] = f
end

--- close(): ends what is left, and removes the temporary files.
function process.close()
  process.interrupted = true
  for made in pairs(running) do
    if made:kill "KILL" then made:wait() end
  end
  for _, f in ipairs(deferred) do
    local tries = 0
    while not f() and tries < 100 do
      fork.sleep(0.01) -- what was killed is on its way out
      tries = tries + 1
    end
  end
  if template then template:close() end
  if room then os.execute(("rm -rf '%s'"):format(room)) end
  template, room = nil, nil
end

return process
