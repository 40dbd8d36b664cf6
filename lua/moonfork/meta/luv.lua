---@meta moonfork.luv
-- luacheck: ignore
-- Types for editors (LuaCATS): require "moonfork.luv"
-- attaches the reactor to luv's loop, so that uv.run() drives both. It gives what require "moonfork" gives.

---@type moonfork
local fork

return fork
