-- The file of a listener on a UNIX socket: whoever has made it takes it away at the end, unless another
-- server has put its own in the place. Runs in the parent.

local path = {}

local function id_of(name)
  local ok, core = pcall(require, "moonfork.serve_core") -- which is not on every system
  return ok and core.socket_id(name) or nil
end

--- remover(address): after listening there: a function that removes the file, if it is still the same.
function path.remover(address)
  local id = address:sub(1, 1) == "/" and id_of(address)
  return function()
    if id and id_of(address) == id then os.remove(address) end
    id = nil
  end
end

return path
