---@meta moonfork.pseudo
-- luacheck: ignore
-- Types for editors (LuaCATS): require "moonfork.pseudo"

---fork() of the running interpreter inside its process. The first line of a script requires it.
---@class moonfork.pseudo
---@field _VERSION string
local pseudo = {}

---A copy of the whole interpreter goes on from here as well. `nil, err`: a C function is in the way, or
---something that can't be in two interpreters; the message names it.
---@return integer? pid # 0 in the copy, its number in the caller
---@return moonfork.error? err
function pseudo.fork() end

---Waits for any child to end.
---@return integer? pid
---@return integer|moonfork.error|nil code # nil when a signal has ended it; the error when there is no child
---@return integer? signal
function pseudo.wait() end

---Waits for this child to end.
---@param pid integer # -1: any
---@param nohang? boolean # true: 0 at once while it runs
---@return integer? pid
---@return integer|moonfork.error|nil code
---@return integer? signal
function pseudo.waitpid(pid, nohang) end

---Ends this pseudo-process. Nothing of it runs any more.
---@param code? integer # 0
function pseudo.exit(code) end

---@return integer pid
function pseudo.getpid() end

---@return integer pid # 0: the parent has ended, or this is the first one
function pseudo.getppid() end

---Ends a pseudo-process at the next safe point of its code.
---@param pid integer
---@param signal "KILL"|"TERM"|"SIGKILL"|"SIGTERM"|integer # 0: asks whether it is there
---@return true? done
---@return moonfork.error? err
function pseudo.kill(pid, signal) end

---@param name string
---@return string? value
function pseudo.getenv(name) end

---@param name string
---@param value? string # nil: removes it
---@return true? done
---@return moonfork.error? err
function pseudo.setenv(name, value) end

---@param path string
---@return true? done
---@return moonfork.error? err
function pseudo.chdir(path) end

---@return string? path
---@return moonfork.error? err
function pseudo.getcwd() end

---@param mask? integer # nil: it stays
---@return integer before
function pseudo.umask(mask) end

---What is written to the second file can be read from the first.
---@return file*? reads
---@return file*|moonfork.error writes
function pseudo.pipe() end

return pseudo
