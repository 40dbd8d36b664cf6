-- descendants: what the function of a clone starts, of every kind, for stories about the option
-- tree. Runs in templates and clones; descendants.gone and descendants.cull in the test.
local clone = require "moonfork.clone"

local descendants = {}

-- Each says its pid in a line, then lasts. What a shell leaves behind by & is the shell's
-- orphan: a fork of a fork.
local KINDS = {
  plain = "echo $$; exec sleep 600",
  child = "sleep 600 & echo $!; exec sleep 600",
  stubborn = "trap '' TERM HUP INT QUIT; echo $$; exec sleep 600",
  orphan = "(sh -c 'echo $$; exec sleep 600' &)",
  pipeline = "sh -c 'echo $$ >&2; exec sleep 600' 2>&1 | sh -c 'cat; exec sleep 600'",
  left = "(exec setsid sh -c 'echo $$; exec sleep 600' &)",
}
descendants.names = { "plain", "child", "stubborn", "orphan", "pipeline", "forked" }

local kept = {}

--- Starts one of each kind (or those that are named) and returns name -> pid. left has left
--- the process group on purpose.
function descendants.start(names)
  local pids = {}
  for _, name in ipairs(names or { "left", table.unpack(descendants.names) }) do
    if name == "forked" then -- a copy of the clone itself
      local pid = assert(clone.fork())
      if pid == 0 then
        while true do require("testkit").msleep(60000) end
      end
      pids[name] = pid
    else
      local pipe = assert(io.popen(KINDS[name], "r"))
      kept[#kept + 1] = pipe
      pids[name] = assert(math.tointeger(pipe:read "l"), name)
    end
  end
  return pids
end

--- "pid name=pid ...": of this process and what it has started.
function descendants.line(names)
  local line = { tostring(clone.pid()) }
  for name, pid in pairs(descendants.start(names)) do line[#line + 1] = name .. "=" .. pid end
  return table.concat(line, " ") .. "\n"
end

--- The same of what a template can start.
function descendants.own()
  return descendants.line { "left", "plain", "child", "stubborn", "orphan", "pipeline" }
end

--- The function of a clone: starts all (or the one that is named), says who they are, and
--- does as it is told by a line.
function descendants.main(socket, name)
  socket:write(descendants.line(name and { name }))
  local order = socket:read "l"
  if order == "raise" then error "as told" end
  if order == "exit" then os.exit(7) end
  if order == "hang" then while true do end end
end

--- Starts all (or as start), writes the line to a file, and hangs in a program.
function descendants.hang(path, start)
  local f = assert(io.open(path .. ".part", "w"))
  assert(f:write((start or descendants.line)()))
  assert(f:close())
  os.rename(path .. ".part", path)
  os.execute "sleep 600"
end

--- For calls: "start" answers with the line, anything else hangs in a program.
function descendants.call(what)
  if what == "start" then return descendants.line() end
  os.execute "sleep 600"
end

--- Reads such a line: the pid of the process, and name -> pid of the others.
function descendants.parse(line)
  local pids = {}
  for name, pid in line:gmatch "(%w+)=(%d+)" do pids[name] = math.tointeger(pid) end
  return math.tointeger(line:match "^%d+"), pids
end

return descendants
