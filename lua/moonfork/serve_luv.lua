-- luv for the workers of `serve --async`. luv makes its loop when it is loaded, and a loop must not be
-- shared by processes; but modules that a template loads say `local uv = require "luv"`. So in the
-- template they get a table whose functions load luv when they are called first: in a worker.

local serve_luv = {}

local luv

local function load()
  if not luv then
    local path = assert(package.searchpath("luv", package.cpath))
    luv = assert(package.loadlib(path, "luaopen_luv"))("luv", path)
  end
  return luv
end

--- is_installed(): whether load() finds it.
function serve_luv.is_installed()
  return package.searchpath("luv", package.cpath) ~= nil
end

--- defer(): from now on `require "luv"` gives that table; in a template, before other modules.
function serve_luv.defer()
  package.preload.luv = function()
    return setmetatable({}, {__index = function(_, name)
      if luv then return luv[name] end
      return function(...) return load()[name](...) end
    end})
  end
end

--- load(): luv itself; in a worker.
function serve_luv.load()
  return package.preload.luv and load() or require "luv"
end

return serve_luv
