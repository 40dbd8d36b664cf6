-- remote.lua: interpreters behind a command, for stories: the agent of this build, with the paths of
-- this program.
local fork = require "moonfork"

local remote = {}

-- The agent, as words of a shell.
remote.AGENT = ("'%s' agent '%s'"):format(os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE")

-- A process behind `sh -c script`; nil: a shell that becomes the agent.
function remote.over(script, options)
  local own = { command = { "sh", "-c", script or "exec " .. remote.AGENT }, path = package.path,
    cpath = package.cpath }
  for name, value in pairs(options or {}) do own[name] = value end
  return fork.remote(own)
end

return remote
