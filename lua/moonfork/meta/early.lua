---@meta moonfork.early
-- luacheck: ignore
-- Types for editors (LuaCATS): require "moonfork.early"
-- forks the interpreter at once; the copy becomes the default template. It gives what require "moonfork" gives.

---@type moonfork
local fork

return fork
