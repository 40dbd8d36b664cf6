-- moonfork with all its templates behind a command: stories that were written for
-- processes of this machine run once more over fork.remote (test/run --remote). new_exec
-- without a program of its own, and new, whose default template is one of these.

-- This folder is in the way of the real one only here: what is started finds that.
package.path = package.path:gsub("[^;]*/over_command/[^;]*;", "")

local real = assert(package.searchpath("moonfork", package.path))
local fork = assert(loadfile(real))("moonfork", real)

local command = { "sh", "-c", assert(os.getenv "STORY_REMOTE") }
local new_exec, default = fork.new_exec, nil

local function remote(given)
  local options = {}
  for name, value in pairs(given or {}) do options[name] = value end
  options.command = command
  options.path = options.path or package.path
  options.cpath = options.cpath or package.cpath
  return fork.remote(options)
end

function fork.new_exec(given)
  if type(given or {}) ~= "table" or (given and given.program) then return new_exec(given) end
  return remote(given)
end

function fork.new(given)
  if not default then
    local own = remote()
    default = own
    own:on_exit(function() default = default ~= own and default or nil end)
  end
  return default:fork(given)
end

function fork.reset()
  if default then default:close() end
  default = nil
end

return fork
