---@meta moonfork.server
-- luacheck: ignore
-- Types for editors (LuaCATS): servers for programs (doc/serve.md). See ../meta.lua.

---@class moonfork.request what the function of `http` gets
---@field method string
---@field target string as sent
---@field path string before the first "?", not decoded
---@field query string behind it
---@field headers table<string, string> names in lower case
---@field body string
---@field peer string the client's address; "" on a UNIX socket
---@field version "1.1"|"1.0"

---@class moonfork.server_options
---@field template fun(): moonfork.process gives a new process; called again for each reload
---@field name string the function, as for `run`
---@field listen? string[] addresses
---@field sockets? moonfork.socket[] listeners that are open already; the server closes them
---@field workers? integer default: the processors
---@field raw? boolean call the function once in each worker, which accepts by itself
---@field http? boolean call it for each request of HTTP/1.1
---@field async? boolean call it in a coroutine
---@field connections? integer of a worker at the same time, with http and async (10,000)
---@field max_bodies? integer bytes of the bodies of requests that a worker has at the same time, with http (256 MiB)
---@field max_requests? integer replace a worker after so many, a tenth more or less
---@field max_memory? integer replace a worker whose private bytes are more
---@field timeout? number seconds that a request may take
---@field grace? number seconds that workers have to finish at a reload and at the end (30)
---@field log? "text"|"json"
---@field access? boolean log each connection or request, too
---@field on_state? fun(state: "READY"|"RELOADING"|"STOPPING", server: moonfork.server)

---@class moonfork.server_latency seconds
---@field p50 number
---@field p90 number
---@field p99 number
---@field max number

---@class moonfork.server_worker
---@field pid integer
---@field state "starting"|"idle"|"busy"|"leaving"
---@field requests integer
---@field errors integer
---@field connections integer with http and async
---@field p50 number seconds
---@field p99 number seconds
---@field busy_for number seconds
---@field private integer bytes
---@field shared integer bytes
---@field age number seconds

---@class moonfork.server_death
---@field pid? integer
---@field time integer seconds since 1970
---@field reason string
---@field status string

---@class moonfork.server_stats
---@field kind "server"
---@field state "starting"|"running"|"stopping"|"stopped"
---@field uptime number seconds
---@field workers integer wanted
---@field running integer
---@field busy integer
---@field requests integer
---@field errors integer
---@field reloads integer
---@field failed_reloads integer
---@field restarts table<string, integer> by reason
---@field latency moonfork.server_latency
---@field per_worker moonfork.server_worker[]
---@field deaths moonfork.server_death[] the last ten
---@field listen string[]

---@class moonfork.server
local server = {}

--- The addresses of its listeners.
---@return string[]
function server:addresses() end

--- Starts the first workers; the server works while the reactor turns.
function server:start() end

--- start(), and the reactor until the server has stopped.
---@return true?
---@return moonfork.error?
function server:run() end

--- Starts a new template, whose workers take over when all of them are ready.
function server:reload() end

--- As many workers from now on, at least one.
---@param n integer
function server:resize(n) end

--- Workers finish their requests; then the server has stopped.
function server:stop() end

--- Ends the workers now.
function server:kill() end

---@return moonfork.server_stats
function server:stats() end

---@class moonfork.server_module
local module = {}

--- A server that does not run yet.
---@param options moonfork.server_options
---@return moonfork.server?
---@return moonfork.error?
function module.new(options) end

return module
