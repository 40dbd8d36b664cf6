---@meta moonfork.clone
-- luacheck: ignore
-- Types for editors (LuaCATS): what templates and clones require. See ../meta.lua.

---@class moonfork.clone_exec_options
---@field fds? table<integer, moonfork.handle> descriptors of the program
---@field env? table<string, string|number|false> changes to the environment; false removes
---@field cwd? string

---@class moonfork.finding
---@field kind string its name on the page doctor.md
---@field severity "note"|"warning"|"refuses"
---@field text string what was found
---@field why string why it matters
---@field remedy string what to do
---@field module? string who brought it
---@field fd? integer the descriptor

---@class moonfork.clone
local clone = {}

--- f() runs in every clone at its birth, before arguments are visible.
---@param f fun()
function clone.on_fork(f) end

--- f() runs in the template before each fork; `return false, reason` refuses that one.
---@param f fun(): boolean?, string?
function clone.before_fork(f) end

--- What the function would be given after the socket; forgets it.
---@return any ...
function clone.run_args() end

--- f() is called once after SIGTERM, in place of the end; nil takes it back.
---@param f? fun()
function clone.on_term(f) end

--- In the function of run: writes the interpreter as it stands to a file, atomically. "saved" in the
--- process that goes on; "loaded" in each that continues from the file by fork.load(file):run(), with
--- that process's socket and what was sent to it; nil and an error object (code, message) where it
--- can't be saved.
---@param file string
---@return "saved"|"loaded"|nil
---@return moonfork.socket|moonfork.error|nil
---@return any ...
function clone.hibernate(file) end

--- 128 random bits in hex, different in every process.
---@return string
function clone.id() end

--- Replaces the process by a program; returns where that fails.
---@param file string searched in PATH
---@param argv string[]
---@param options? moonfork.clone_exec_options
---@return nil
---@return string
---@return integer
function clone.exec(file, argv, options) end

--- Flushes files and leaves; with finalise the finalisers of objects made in this clone run first.
---@param code? integer|boolean
---@param finalise? boolean
function clone.exit(code, finalise) end

--- A major collection, at the price of a private copy of the sealed heap.
function clone.collect() end

--- The process title.
---@param text string
function clone.title(text) end

--- Seconds since 1970 with microseconds.
---@return number
function clone.time() end

--- In a template, what its audit says; then how many threads and open descriptors there are.
---@return moonfork.finding[]
---@return integer threads
---@return integer descriptors
function clone.findings() end

--- Plain fork: 0 in the child, its pid in the caller.
---@return integer?
---@return string?
---@return integer?
function clone.fork() end

--- Plain wait: the pid, how it ended, and by which code or signal; 0 with "nohang" while it runs.
---@param pid? integer
---@param options? "hang"|"nohang"
---@return integer?
---@return string?
---@return integer?
function clone.waitpid(pid, options) end

--- Plain kill.
---@param pid integer
---@param signal string|integer
---@return true?
---@return string?
---@return integer?
function clone.kill(pid, signal) end

--- The two ends: reading, writing.
---@return moonfork.socket?
---@return moonfork.socket|string
---@return integer?
function clone.pipe() end

---@return integer
function clone.pid() end

--- The parent's process id: that of the program.
---@return integer
function clone.ppid() end

--- Forks a child that runs f(reading end): its pid, and the writing end.
---@param f fun(socket: moonfork.socket)
---@return integer?
---@return moonfork.socket|string
---@return integer?
function clone.pipe_to_fork(f) end

--- Forks a child that runs f(writing end): its pid, and the reading end.
---@param f fun(socket: moonfork.socket)
---@return integer?
---@return moonfork.socket|string
---@return integer?
function clone.pipe_from_fork(f) end

return clone
