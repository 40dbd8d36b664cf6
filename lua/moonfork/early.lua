-- require "moonfork.early", the first thing a program does: forks the interpreter while it
-- is still small. The copy waits; it becomes the default template of the first loop that
-- asks for one, and serves fork.new_exec without an exec. Where that can't be, require raises
-- an error object, and may be tried again. Runs in the parent.

local core = require("moonfork.load").of(...)

local ok, err = core.early()
if not ok then
  err.message = "moonfork.early: " .. err.message
  error(err, 0)
end

return require "moonfork"
