---@meta moonfork.pool
-- luacheck: ignore
-- Types for editors (LuaCATS): what the function of a worker requires. See ../meta.lua.

---@class moonfork.pool_functions
local pool = {}

--- This worker is replaced by a new one when it has answered what it has.
function pool.retire() end

return pool
