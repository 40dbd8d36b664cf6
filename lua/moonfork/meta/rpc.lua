---@meta moonfork.rpc
-- luacheck: ignore
-- Types for editors (LuaCATS): what the function of an rpc requires, and both sides for classes. See
-- ../meta.lua.

---@class moonfork.rpc_functions
local rpc = {}

--- Sends an event to on_event of the parent. Where it can't be sent: nil, a text and a code.
---@param ... any
---@return true?
---@return string?
---@return moonfork.code?
function rpc.event(...) end

--- Waits until all is written; false: the parent is gone.
---@return boolean
function rpc.flush() end

--- Objects with that metatable travel as name and what pack(object) gives, and arrive as what unpack
--- makes of it. nil takes the name back.
---@param name string
---@param metatable? table
---@param pack? fun(object: any): any
---@param unpack? fun(value: any): any
function rpc.register(name, metatable, pack, unpack) end

return rpc
