-- require "moonfork.early", the first thing a program does: forks the interpreter while it
-- is still small. The copy waits; it becomes the default template of the first loop that
-- asks for one, and serves fork.new_exec without an exec. Runs in the parent.

local core = require "moonfork.core"

local ok, err = core.early()
if not ok then error("moonfork.early: " .. tostring(err), 0) end

return require "moonfork"
