-- Reloads when sources change: a watch over folders, and a pause, because editors and installers
-- change several files in a row.

local fork = require "moonfork"
local core = require("moonfork.load").of(...)
local serve_core = core.part "moonfork.serve_core"

local watch = {}

local PAUSE = 0.2 -- seconds without a change
local PERIOD = 1 -- seconds between two looks whether a folder itself is another one

local function is_source(name)
  return not (name:match "^%." or name:match "~$" or name:match "%.sw%w$" or name:match "^%d+$")
end

--- start(folders, changed): changed() some time after files below one of them changed: an object
-- with close(), or nil, message.
function watch.start(folders, changed)
  local self = {closed = false, fds = {}, ids = {}, watches = {}, timer = nil}

  local function settle()
    if self.timer then self.timer:close() end
    self.timer = fork.timer(PAUSE, function()
      self.timer = nil
      changed()
    end)
  end

  local attend
  -- Where folders have come, the whole tree is watched anew. Where it is not there, look() waits for it.
  local function renew(i)
    local id, fd = serve_core.folder_id(folders[i]), serve_core.watch_tree(folders[i])
    self.ids[i] = fd and id
    if not fd then return false end
    self.fds[i]:close()
    self.fds[i] = fork.socket.wrap(fd)
    return true
  end

  function attend(i)
    self.watches[i] = core.watch(self.fds[i]:fileno(), "r", function()
      if self.closed then return end
      local names, folders_changed = serve_core.tree_changed(self.fds[i]:fileno())
      if folders_changed then renew(i) end
      for _, name in ipairs(names) do
        if is_source(name) then
          settle()
          break
        end
      end
      if folders_changed and #names == 0 then settle() end
      attend(i)
    end)
  end

  -- A folder is replaced by renaming, or as a symbolic link that then names another one: a watch
  -- stays with the old one.
  local function look()
    for i, folder in ipairs(folders) do
      local id = serve_core.folder_id(folder)
      if id and id ~= self.ids[i] then
        do local w <close> = self.watches[i] end -- luacheck: ignore
        if renew(i) then settle() end
        attend(i)
      end
    end
  end

  for i, folder in ipairs(folders) do
    self.ids[i] = serve_core.folder_id(folder)
    local fd, message = serve_core.watch_tree(folder)
    if not fd then return nil, message end
    self.fds[i] = fork.socket.wrap(fd)
    attend(i)
  end
  self.looks = fork.timer(PERIOD, look, PERIOD)

  function self.close()
    self.closed = true
    self.looks:close()
    if self.timer then self.timer:close() end
    for i in ipairs(self.fds) do
      local w <close> = self.watches[i] -- luacheck: ignore
      self.fds[i]:close()
    end
  end
  return self
end

return watch
