---@meta moonfork.ffi
-- luacheck: ignore
-- Types for editors (LuaCATS): the parent's side for LuaJIT and Lua 5.1 to 5.3; doc/other-lua.md. See
-- ../meta.lua.

---@class moonfork.ffi.options: moonfork.options
---@class moonfork.ffi.exec_options: moonfork.options
---@field program? string the template program
---@field path? string package.path there
---@field cpath? string package.cpath there
---@field gc? "generational"|"incremental"|"stop" the collector once sealed
---@field spares? {min?: integer, max?: integer} clones kept forked ahead

---@class moonfork.ffi.process
local process = {}

--- A new process, forked from this one at this point of its commands.
---@param options? moonfork.ffi.options
---@return moonfork.ffi.process
function process:fork(options) end

---@param ... string
---@return moonfork.ffi.process
function process:require(...) end

---@param code string Lua 5.4
---@param ... string|number
---@return moonfork.ffi.process
function process:eval(code, ...) end

---@param ... integer numbers of descriptors
---@return moonfork.ffi.process
function process:send_fd(...) end

---@param ... string|number
---@return moonfork.ffi.process
function process:send_arg(...) end

--- The value is the descriptor of its socket, to be closed by the caller.
---@param name string
---@param callback? fun(err: moonfork.error?, fd: integer?)
---@return integer|moonfork.ffi.process|nil
---@return moonfork.error?
function process:run(name, callback) end

---@param name string
---@param options? moonfork.ffi.rpc_options
---@return moonfork.ffi.rpc
function process:rpc(name, options) end

---@param name string
---@param options? moonfork.ffi.pool_options
---@return moonfork.ffi.pool
function process:pool(name, options) end

---@return integer?
function process:pid() end

---@param signal? string|integer
---@return true?
---@return moonfork.error?
function process:kill(signal) end

---@param callback fun(status: moonfork.exit)
---@return moonfork.ffi.process
function process:on_exit(callback) end

---@param timeout? number seconds
---@return moonfork.exit?
---@return moonfork.error?
function process:wait(timeout) end

function process:close() end

---@class moonfork.ffi.call
local call = {}

---@return boolean
function call:cancel() end

---@class moonfork.ffi.calls
---@operator call(any): any
local calls = {}

--- Arguments and results are strings. A last argument that is a function is the callback.
---@param ... string|number|function
---@return any ...
function calls:call(...) end

---@class moonfork.ffi.service_options
---@field async? boolean
---@field init? string
---@field on_event? fun(...: string)
---@field on_error? fun(err: moonfork.error)
---@field on_close? fun()
---@field serialiser? "string"
---@field timeout? number
---@field message_max? integer
---@field grace? number

---@class moonfork.ffi.rpc_options: moonfork.ffi.service_options
---@field strict? boolean

---@class moonfork.ffi.pool_options: moonfork.ffi.service_options
---@field max? integer
---@field idle? integer
---@field load? integer
---@field start? number
---@field stop? number
---@field queue_max? integer
---@field max_calls? integer
---@field call_timeout? number
---@field max_memory? integer
---@field tree? boolean
---@field restart? {burst?: integer, period?: number, starts?: integer}
---@field backoff? {min?: number, max?: number}
---@field on_worker? fun(event: "started"|"ended"|"killed"|"recycled", pid: integer, reason: string)

---@class moonfork.ffi.rpc: moonfork.ffi.calls
local rpc = {}

---@param options moonfork.with_options
---@return moonfork.ffi.calls
function rpc:with(options) end

---@return moonfork.ffi.process
function rpc:process() end

function rpc:close() end

---@class moonfork.ffi.pool: moonfork.ffi.calls
local pool = {}

---@param options moonfork.pool_with_options
---@return moonfork.ffi.calls
function pool:with(options) end

---@return moonfork.pool_stats
function pool:stats() end

---@return integer[]
function pool:pids() end

---@param max integer
---@return true?
---@return moonfork.error?
function pool:resize(max) end

---@param process moonfork.ffi.process
---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:reload(process, callback) end

---@param process moonfork.ffi.process
---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:add(process, callback) end

---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:promote(callback) end

---@param timeout? number seconds
---@param callback? moonfork.drain_callback
---@return true?
---@return moonfork.error|moonfork.drain_report?
---@return moonfork.drain_report?
function pool:drain(timeout, callback) end

function pool:close() end

---@class moonfork.ffi
---@field _VERSION string
local fork = {}

---@param options? moonfork.ffi.options
---@return moonfork.ffi.process
function fork.new(options) end

---@param options? moonfork.ffi.exec_options
---@return moonfork.ffi.process
function fork.new_exec(options) end

---@return true?
---@return moonfork.error?
function fork.loop() end

---@param timeout? number seconds
---@return boolean
function fork.step(timeout) end

---@param handler? fun(error: any, traceback: string?)
function fork.on_error(handler) end

--- Up to n bytes (65,536) as soon as there are some; "" at the end.
---@param fd integer
---@param n? integer
---@param timeout? number seconds
---@return string?
---@return moonfork.error?
function fork.read(fd, n, timeout) end

--- Writes all.
---@param fd integer
---@param data string
---@param timeout? number seconds
---@return true?
---@return moonfork.error?
function fork.write(fd, data, timeout) end

---@param fd integer
---@return true?
---@return moonfork.error?
function fork.close(fd) end

return fork
