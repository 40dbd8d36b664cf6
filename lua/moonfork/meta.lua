---@meta moonfork
-- luacheck: ignore
-- Types for editors (LuaCATS). Never required by a program; doc/lua-api.md is the manual.

---@alias moonfork.code
---| "REMOTE"
---| "CLONE_DIED"
---| "TEMPLATE_START"
---| "TEMPLATE_DIED"
---| "FORK_FAILED"
---| "TIMEOUT"
---| "CANCELLED"
---| "CLOSED"
---| "EINVAL"
---| "LIMIT"
---| "PROTOCOL"
---| "NOMEM"
---| "UNSUPPORTED"

---@class moonfork.error
---@field code moonfork.code
---@field message string
---@field traceback? string of the other process
---@field started "no"|"unknown"
---@field exit? moonfork.exit
---@field value any what was raised over there, where it was no string and can be sent

---@class moonfork.rusage
---@field utime number seconds
---@field stime number seconds
---@field maxrss integer bytes

---@class moonfork.exit
---@field code? integer
---@field signal? integer
---@field core? boolean
---@field error? string
---@field unknown? true
---@field rusage? moonfork.rusage

---@class moonfork.memory
---@field pss integer
---@field uss integer
---@field rss integer
---@field shared integer
---@field lua integer

---@alias moonfork.handle integer|file*|moonfork.socket|table|userdata
---@alias moonfork.stream "inherit"|"null"|"socket"|moonfork.handle

---@class moonfork.options
---@field env? table<string, string|number|false>
---@field cwd? string
---@field stdin? moonfork.stream
---@field stdout? moonfork.stream
---@field stderr? moonfork.stream
---@field timeout? number
---@field session? "inherit"|"new"
---@field leash? "kill"|"term"|"keep"
---@field handles? "inherit"|"close"
---@field dumpable? boolean
---@field tree? boolean
---@field name? string

---@class moonfork.exec_options: moonfork.options
---@field program? string
---@field path? string
---@field cpath? string
---@field gc? "generational"|"incremental"|"stop"
---@field spares? {min?: integer, max?: integer}

---@class moonfork.limits
---@field cpu? integer|"unlimited"
---@field as? integer|"unlimited"
---@field nofile? integer|"unlimited"
---@field core? integer|"unlimited"
---@field fsize? integer|"unlimited"
---@field nproc? integer|"unlimited"

---@class moonfork.process
---@field fork fun(self, options?: moonfork.options): moonfork.process
---@field require fun(self, ...: string): moonfork.process
---@field eval fun(self, code: string, ...: string|number): moonfork.process
---@field rpc fun(self, name: string, options?: moonfork.rpc_options): moonfork.rpc
---@field pool fun(self, name: string, options?: moonfork.pool_options): moonfork.pool
---@field send_fd fun(self, ...: moonfork.handle): moonfork.process
---@field send_arg fun(self, ...: string|number): moonfork.process
---@field take_args fun(self): moonfork.process
---@field set fun(self, name: string, value: any): moonfork.process
---@field chdir fun(self, path: string): moonfork.process
---@field setenv fun(self, name: string, value?: string|number|false): moonfork.process
---@field limit fun(self, limits: moonfork.limits): moonfork.process
---@field seal fun(self, options?: {gc?: string, audit?: "off"|"warn"|"strict"}): moonfork.process
---@field pid fun(self): integer?
---@field kill fun(self, signal?: string|integer): true?, moonfork.error?
---@field on_exit fun(self, callback: fun(status: moonfork.exit)): moonfork.process
---@field wait fun(self, timeout?: number): moonfork.exit?, moonfork.error?
---@field close fun(self)
local process = {}

---@param name string "module:name" or a global
---@param callback? fun(err: moonfork.error?, socket: moonfork.socket?)
---@return moonfork.socket|moonfork.process|nil
---@return moonfork.error?
function process:run(name, callback) end

---@param callback? fun(err: moonfork.error?, socket: moonfork.socket?)
---@return moonfork.socket|moonfork.process|nil
---@return moonfork.error?
function process:to_fd(callback) end

---@param callback? fun(err: moonfork.error?, memory: moonfork.memory?)
---@return moonfork.memory|moonfork.process|nil
---@return moonfork.error?
function process:memory(callback) end

---@class moonfork.socket
---@field read fun(self, ...: integer|string): ...
---@field lines fun(self, format?: integer|string): fun(): string?
---@field write fun(self, ...: string|number): moonfork.socket?, string?, integer?, integer?
---@field flush fun(self): moonfork.socket
---@field close fun(self)
---@field accept fun(self): moonfork.socket?, string?, integer?
---@field shutdown fun(self, how?: string)
---@field address fun(self): string?, string?, integer?
---@field peer fun(self): string?, string?, integer?
---@field limit fun(self, bytes?: integer): moonfork.socket
---@field communicate fun(self, data?: string|number): string?, string?, integer?, integer?
---@field send_fd fun(self, handle: moonfork.handle, data?: string)
---@field recv_fd fun(self): moonfork.socket?, string
---@field option fun(self, name: string, value?: boolean|integer): any, string?, integer?
---@field settimeout fun(self, seconds?: number)
---@field fileno fun(self): integer
---@field detach fun(self): integer, string?
---@field dup fun(self): moonfork.socket
---@field file fun(self, mode?: string): file*
---@field getfd fun(self): integer
---@field pollfd fun(self): integer
---@field events fun(self): string
---@field timeout fun(self): number?
---@field dirty fun(self): boolean

---@class moonfork.listen_options
---@field backlog? integer connections that may wait to be accepted
---@field reuseport? boolean several processes may listen on the same port

---@class moonfork.sockets
---@field pair fun(): moonfork.socket?, moonfork.socket|string, integer?
---@field listen fun(address: string, options?: moonfork.listen_options|integer): moonfork.socket?, string?, integer?
---@field connect fun(address: string, timeout?: number): moonfork.socket?, string?, integer?
---@field poll fun(sockets: moonfork.handle[], timeout?: number): moonfork.handle[]?, string?, integer?
---@field open fun(path: string, mode?: string): moonfork.socket?, string?, integer?
---@field wrap fun(fd: integer): moonfork.socket?, string?, integer?

---@class moonfork.call
---@field cancel fun(self): boolean

---@class moonfork.calls
---@field call fun(self, ...): any a last argument that is a function is the callback
---@operator call: any

---@class moonfork.rpc_options
---@field async? boolean
---@field init? string
---@field on_event? fun(...)
---@field on_error? fun(err: moonfork.error)
---@field on_close? fun()
---@field on_drain? fun()
---@field serialiser? string
---@field timeout? number
---@field handles? boolean
---@field strict? boolean
---@field strict_classes? boolean
---@field message_max? integer
---@field grace? number

--- What require("moonfork.rpc") gives.
---@class moonfork.rpc_functions
---@field event fun(...): true?, string?, moonfork.code? in a process that serves
---@field flush fun(): boolean
---@field register fun(name: string, metatable?: table, pack?: (fun(object: any): any), unpack?: (fun(value: any): any))

---@class moonfork.rpc: moonfork.calls
---@field with fun(self, options: {timeout?: number}): moonfork.calls
---@field process fun(self): moonfork.process
---@field close fun(self)

---@class moonfork.pool_options: moonfork.rpc_options
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
---@field restart? {burst?: integer, period?: number}
---@field backoff? {min?: number, max?: number}
---@field on_worker? fun(event: "started"|"ended"|"killed"|"recycled", pid: integer, reason: string)

---@class moonfork.drain_report
---@field answered integer
---@field dropped integer
---@field interrupted integer
---@field killed integer

---@alias moonfork.drain_callback fun(err?: moonfork.error, ok?: true, report: moonfork.drain_report)

---@class moonfork.pool_times seconds
---@field p50 number
---@field p90 number
---@field p99 number
---@field max number
---@field total? number of a worker: all its calls together

---@class moonfork.pool_worker
---@field pid integer
---@field calls integer
---@field running integer
---@field run_time moonfork.pool_times

---@class moonfork.pool_stats
---@field state "running"|"failed"|"draining"|"closed"
---@field max integer
---@field workers integer
---@field idle integer
---@field starting integer
---@field leaving integer
---@field queued integer
---@field running integer
---@field calls integer
---@field done integer
---@field failed integer
---@field refused integer
---@field timeouts integer
---@field cancelled integer
---@field retried integer
---@field late integer
---@field events integer
---@field started integer
---@field deaths integer
---@field recycled integer
---@field retired integer
---@field killed integer
---@field templates integer
---@field template_starts integer
---@field reloads integer
---@field promotions integer
---@field memory integer
---@field p50 number
---@field p99 number
---@field queue_time moonfork.pool_times
---@field run_time moonfork.pool_times
---@field per_worker moonfork.pool_worker[]
---@field last {pid?: integer, age: number, reason: string, exit: table}[]

---@class moonfork.pool: moonfork.calls
---@field with fun(self, options: {timeout?: number, idempotent?: boolean}): moonfork.mapping_calls
---@field stats fun(self): moonfork.pool_stats
---@field pids fun(self): integer[]
---@field drain fun(self, timeout?: number, callback?: moonfork.drain_callback): true?, any, moonfork.drain_report?
---@field reload fun(self, process: moonfork.process, callback?: fun(err?: moonfork.error)): true?, moonfork.error?
---@field add fun(self, process: moonfork.process, callback?: fun(err?: moonfork.error)): true?, moonfork.error?
---@field promote fun(self, callback?: fun(err?: moonfork.error)): true?, moonfork.error?
---@field resize fun(self, max: integer): true?, moonfork.error?
---@field map fun(self, items: any[]|fun(): any, options?: moonfork.map_options): fun(): integer?, moonfork.error?, ...
---@field close fun(self)

---@class moonfork.mapping_calls: moonfork.calls
---@field map fun(self, items: any[]|fun(): any, options?: moonfork.map_options): fun(): integer?, moonfork.error?, ...

---@class moonfork.map_options
---@field chunk? integer|"auto"
---@field unordered? boolean
---@field unpack? boolean
---@field progress? fun(done: integer, failed: integer, total?: integer)

---@class moonfork.reactor
---@field pollfd fun(self): integer?, moonfork.error?
---@field getfd fun(self): integer?, moonfork.error?
---@field events fun(self): string
---@field timeout fun(self): number?
---@field dirty fun(self): boolean
---@field step fun(self, timeout?: number): boolean

---@class moonfork.timer
---@field close fun(self)

---@class moonfork
---@field _VERSION string
---@field reactor moonfork.reactor
---@field socket moonfork.sockets
---@field new fun(options?: moonfork.options): moonfork.process
---@field new_exec fun(options?: moonfork.exec_options): moonfork.process
---@field template fun(options?: moonfork.options): moonfork.process
---@field from_fd fun(handle: moonfork.handle, options?: moonfork.options): moonfork.process
---@field reset fun(): true?, moonfork.error?
---@field loop fun(): true?, moonfork.error?
---@field step fun(timeout?: number): boolean
---@field set_waiter fun(f?: fun(reactor: moonfork.reactor, timeout?: number))
---@field on_error fun(handler?: fun(error: any, traceback: string?))
---@field use_loop fun(pointer: lightuserdata): true?, moonfork.error?
---@field sleep fun(seconds: number): true?, moonfork.error?
---@field timer fun(seconds: number, callback: fun(), every?: number): moonfork.timer?, moonfork.error?
---@field signal fun(name: string|integer, callback?: fun(name: string)): true?, moonfork.error?
---@field ncpu fun(): integer
---@field dump fun(): string
---@field trace fun(path?: string): true?, moonfork.error?
local fork = {}

return fork
