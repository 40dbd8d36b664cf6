---@meta moonfork
-- luacheck: ignore
-- Types of the module for editors that read LuaCATS annotations (doc/editors.md); those of sockets, of
-- moonfork.clone and of the other modules are in the files of meta/. Never required by a program;
-- doc/lua-api.md is the manual. test/proc/annotations.lua compares all of it with the module.

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
---| "ENGINE"

---@class moonfork.error
---@field code moonfork.code
---@field message string
---@field traceback? string of the other process
---@field started "no"|"unknown"
---@field exit? moonfork.exit
---@field value any what was raised over there, where it was no string and can be sent
---@field errno? integer of process:save: the system's number, where the file was the reason

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

--- What new processes are made with; doc/lua-api.md, "Options".
---@class moonfork.options
---@field env? table<string, string|number|false> changes to the environment; false removes
---@field cwd? string the working directory
---@field stdin? moonfork.stream
---@field stdout? moonfork.stream
---@field stderr? moonfork.stream
---@field timeout? number seconds from the creation until run must have entered the function
---@field session? "inherit"|"new" "new": away from the terminal and its signals
---@field leash? "kill"|"term"|"keep" what the end of the parent does to a running function
---@field handles? "inherit"|"close" descriptors that the template's own code has opened
---@field dumpable? boolean whether other processes of the same user may look into it
---@field tree? boolean what the function starts by io.popen and the like belongs to it
---@field name? string appears in titles and messages

---@class moonfork.fork_options: moonfork.options
---@field isolation? "process"|"thread" "thread": a copy of the interpreter in the template's process
---@field lazy? boolean|"try" of a thread: memory of a large template is copied when it is touched

---@class moonfork.taken_options
---@field timeout? number seconds from now until run must have entered the function
---@field name? string appears in titles and messages

---@class moonfork.exec_options: moonfork.options
---@field program? string the template program
---@field path? string package.path there
---@field cpath? string package.cpath there
---@field gc? "generational"|"incremental"|"stop" the collector once sealed
---@field spares? {min?: integer, max?: integer} clones kept forked ahead
---@field image? string the file of an image that it begins as
---@field verify? boolean compare all of the image with its checksum
---@field rebuild? fun(process: moonfork.process) fills a new process where the image can't be used

--- Options of fork.remote: those of new_exec but `program`.
---@class moonfork.remote_options: moonfork.options
---@field command string[] a program and its arguments that lead to `moonfork agent`
---@field image? string the file over there of an image that it begins as
---@field verify? boolean compare all of the image with its checksum
---@field rebuild? fun(process: moonfork.process) fills a new process where the image can't be used
---@field beat? number seconds between signs of life; three without one end the link
---@field window? integer bytes of one stream that may be under way
---@field path? string package.path there; default: its own
---@field cpath? string package.cpath there; default: its own
---@field gc? "generational"|"incremental"|"stop" the collector once sealed
---@field spares? {min?: integer, max?: integer} clones kept forked ahead

---@class moonfork.seal_options
---@field gc? "generational"|"incremental"|"stop"
---@field audit? "off"|"warn"|"strict" what findings of the audit do

--- Resource limits: a whole number, or "unlimited".
---@class moonfork.limits
---@field cpu? integer|"unlimited" seconds of processor time
---@field as? integer|"unlimited" bytes of usable memory
---@field nofile? integer|"unlimited" descriptors
---@field core? integer|"unlimited" bytes of a core file
---@field fsize? integer|"unlimited" bytes of a file that is written
---@field nproc? integer|"unlimited" processes of the user

--- A process: a template, or a clone. What prepares it returns it, so that calls chain; the first
--- failure is reported by the call that finishes the chain.
---@class moonfork.process
local process = {}

--- A new process, forked from this one at this point of its commands.
---@param options? moonfork.fork_options
---@return moonfork.process
function process:fork(options) end

--- Loads modules, in order.
---@param ... string
---@return moonfork.process
function process:require(...) end

--- Runs Lua source; what stands after it arrives as the chunk's `...`, as strings.
---@param code string
---@param ... string|number
---@return moonfork.process
function process:eval(code, ...) end

--- Sets a global of the process, or a field of what there is, to a value, which is packed now.
---@param name string "a" or "a.b"
---@param value any
---@return moonfork.process
function process:set(name, value) end

--- Sends handles to the function; they are duplicated now.
---@param ... moonfork.handle
---@return moonfork.process
function process:send_fd(...) end

--- Sends strings of any bytes to the function; numbers become exact texts.
---@param ... string|number
---@return moonfork.process
function process:send_arg(...) end

--- Forgets the handles and arguments sent so far.
---@return moonfork.process
function process:take_args() end

--- The working directory.
---@param path string
---@return moonfork.process
function process:chdir(path) end

--- The environment; nil or false removes.
---@param name string
---@param value? string|number|false
---@return moonfork.process
function process:setenv(name, value) end

--- Resource limits of it and of its future clones.
---@param limits moonfork.limits
---@return moonfork.process
function process:limit(limits) end

--- Settles the heap now, so that clones share it; otherwise the first fork after new code does.
---@param options? moonfork.seal_options
---@return moonfork.process
function process:seal(options) end

--- Enters the function. The value is the parent's end of its socket; with a callback the process is
--- returned.
---@param name? string "module:name", or the name of a global; nil: the function that
--- clone.hibernate has suspended goes on
---@param callback? fun(err: moonfork.error?, socket: moonfork.socket?)
---@return moonfork.socket|moonfork.process|nil
---@return moonfork.error?
function process:run(name, callback) end

--- Makes it a server of one function.
---@param name string
---@param options? moonfork.rpc_options
---@return moonfork.rpc
function process:rpc(name, options) end

--- Makes it the template of workers.
---@param name string
---@param options? moonfork.pool_options
---@return moonfork.pool
function process:pool(name, options) end

--- Waits until all commands are executed, then gives the control socket away.
---@param callback? fun(err: moonfork.error?, socket: moonfork.socket?)
---@return moonfork.socket|moonfork.process|nil
---@return moonfork.error?
function process:to_fd(callback) end

--- Its process id, once it is known: at the latest when run has succeeded.
---@return integer?
function process:pid() end

--- Sends a signal, "TERM" by default; never to another process that got the number later.
---@param signal? string|integer
---@return true?
---@return moonfork.error?
function process:kill(signal) end

--- Tells its end, once, also when that has been before.
---@param callback fun(status: moonfork.exit)
---@return moonfork.process
function process:on_exit(callback) end

--- Waits for its end.
---@param timeout? number seconds
---@return moonfork.exit?
---@return moonfork.error?
function process:wait(timeout) end

--- What it uses, in bytes; with a callback the process is returned.
---@param callback? fun(err: moonfork.error?, memory: moonfork.memory?)
---@return moonfork.memory|moonfork.process|nil
---@return moonfork.error?
function process:memory(callback) end

--- Writes its interpreter as an image; with a callback the process is returned.
---@param file string
---@param options? table there are none yet; may be left out
---@param callback? fun(err: moonfork.error?, done: boolean?) second where there are no options
---@return boolean|moonfork.process|nil
---@return moonfork.error?
function process:save(file, options, callback) end

--- Ends a process that runs nothing; forgets one that does.
function process:close() end

--- A call under way that has a callback.
---@class moonfork.call
local call = {}

--- Its callback gets CANCELLED: true; or false where it is decided.
---@return boolean
function call:cancel() end

--- Something to call: as calls(...), or calls:call(...).
---@class moonfork.calls
---@operator call(any): any
local calls = {}

--- A last argument that is a function is the callback `callback(err, results...)`, and a
--- moonfork.call is returned; else it waits: `results...`, or `nil, err`.
---@param ... any
---@return any ...
function calls:call(...) end

---@class moonfork.with_options
---@field timeout? number seconds from the call to its answer

---@class moonfork.pool_with_options: moonfork.with_options
---@field idempotent? boolean may run again when its worker dies

--- Of rpcs and pools; doc/lua-api.md, "Calls".
---@class moonfork.service_options
---@field async? boolean the function is called as f(done, ...), calls beside each other, on luv
---@field init? string the name of a function that is called once, first
---@field on_event? fun(...) for each event of the other side
---@field on_error? fun(err: moonfork.error) the process died, or broke the protocol
---@field on_close? fun() once, last, after an orderly end
---@field serialiser? string "msgpack", "string", or a module with encode and decode
---@field timeout? number seconds from a call to its answer
---@field handles? boolean results and events may carry handles
---@field strict_classes? boolean an object of an unknown class is EINVAL
---@field message_max? integer bytes of the longest message
---@field grace? number seconds that a closing one waits for the next answer

---@class moonfork.rpc_options: moonfork.service_options
---@field strict? boolean every answer is written before the next call is entered
---@field on_drain? fun() there is room again after LIMIT

--- One function of a process that stays.
---@class moonfork.rpc: moonfork.calls
local rpc = {}

--- Something to call with options of its own.
---@param options moonfork.with_options
---@return moonfork.calls
function rpc:with(options) end

---@return moonfork.process
function rpc:process() end

--- Takes no more calls, lets those it has finish, then ends.
function rpc:close() end

---@class moonfork.pool_options: moonfork.service_options
---@field max? integer most workers; default: fork.ncpu()
---@field idle? integer workers kept although they have nothing to do
---@field load? integer calls under way in one worker
---@field start? number seconds between two new workers while calls wait
---@field stop? number seconds between two that are stopped
---@field queue_max? integer calls that may wait
---@field max_calls? integer calls after which a worker is replaced
---@field call_timeout? number seconds from the start in a worker, which is killed then
---@field max_memory? integer private bytes after which a worker is replaced
---@field tree? boolean as of a process
---@field isolation? "process"|"thread" whether workers are threads of the template's process
---@field lazy? boolean|"try" of such workers: as of a fork
---@field restart? {burst?: integer, period?: number, starts?: integer} when it becomes failed
---@field backoff? {min?: number, max?: number} seconds before such a worker is replaced
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
---@field memory integer
---@field shared integer

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

---@alias moonfork.items any[]|(fun(): any)|table a list, an iterator, or {f, s, v}

--- One function of workers that come and go.
---@class moonfork.pool: moonfork.calls
local pool = {}

--- Something to call with options of its own.
---@param options moonfork.pool_with_options
---@return moonfork.mapping_calls
function pool:with(options) end

--- Calls the function with each item: `for index, err, results... in pool:map(items)`.
---@param items moonfork.items
---@param options? moonfork.map_options
---@return fun(): integer?, moonfork.error?, ...
function pool:map(items, options) end

---@return moonfork.pool_stats
function pool:stats() end

--- The process ids of the workers, 256 at most.
---@return integer[]
function pool:pids() end

--- As close, and tells when the last worker has ended; what is left after timeout is killed.
---@param timeout? number seconds
---@param callback? moonfork.drain_callback
---@return true?
---@return any
---@return moonfork.drain_report?
function pool:drain(timeout, callback) end

--- Another template, without losing a call.
---@param process moonfork.process
---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:reload(process, callback) end

--- One more template.
---@param process moonfork.process
---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:add(process, callback) end

--- A copy of the worker with the most answers becomes the template.
---@param callback? fun(err?: moonfork.error)
---@return true?
---@return moonfork.error?
function pool:promote(callback) end

---@param max integer
---@return true?
---@return moonfork.error?
function pool:resize(max) end

--- Takes no more calls, lets those it has finish, then ends.
function pool:close() end

--- What pool:with gives.
---@class moonfork.mapping_calls: moonfork.calls
local mapping = {}

---@param items moonfork.items
---@param options? moonfork.map_options
---@return fun(): integer?, moonfork.error?, ...
function mapping:map(items, options) end

---@class moonfork.map_options
---@field chunk? integer|"auto" items that travel in one message
---@field unordered? boolean results as they complete
---@field unpack? boolean an item is a list of arguments
---@field progress? fun(done: integer, failed: integer, total?: integer)

--- fork.reactor: for other loops.
---@class moonfork.reactor
local reactor = {}

---@return integer?
---@return moonfork.error?
function reactor:pollfd() end

---@return integer?
---@return moonfork.error?
function reactor:getfd() end

---@return string
function reactor:events() end

--- Seconds until it wants a turn; nil: none.
---@return number?
function reactor:timeout() end

---@return boolean
function reactor:dirty() end

--- As fork.step.
---@param timeout? number seconds
---@return boolean
function reactor:step(timeout) end

---@class moonfork.timer
local timer = {}

function timer:close() end

---@class moonfork
---@field _VERSION string
---@field reactor moonfork.reactor
---@field socket moonfork.sockets
local fork = {}

--- A process forked from the default template.
---@param options? moonfork.options
---@return moonfork.process
function fork.new(options) end

--- A process with an interpreter of its own, newly executed.
---@param options? moonfork.exec_options
---@return moonfork.process
---@return moonfork.error? # a built image could not be saved (option rebuild)
function fork.new_exec(options) end

--- A process that begins as an image: new_exec with the option image.
---@param file string
---@param options? moonfork.exec_options
---@return moonfork.process
---@return moonfork.error? # a built image could not be saved (option rebuild)
function fork.load(file, options) end

--- A process whose interpreter is started by any command that leads to `moonfork agent`.
---@param options moonfork.remote_options
---@return moonfork.process
---@return moonfork.error? # a built image could not be saved (option rebuild)
function fork.remote(options) end

--- Forks the interpreter that is running, and returns the copy as a process.
---@param options? moonfork.options
---@return moonfork.process
function fork.template(options) end

--- A process from what to_fd gave.
---@param handle moonfork.handle
---@param options? moonfork.taken_options
---@return moonfork.process
function fork.from_fd(handle, options) end

--- Drops the default template: the next new starts one with the environment of then.
---@return true?
---@return moonfork.error?
function fork.reset() end

--- Runs until nothing is outstanding.
---@return true?
---@return moonfork.error?
function fork.loop() end

--- Waits up to timeout seconds (0), dispatches, returns whether work is outstanding.
---@param timeout? number seconds
---@return boolean
function fork.step(timeout) end

--- f is called instead of blocking; nil: block again.
---@param f? fun(reactor: moonfork.reactor, timeout?: number)
function fork.set_waiter(f) end

--- handler gets what callbacks raise; nil: the call that drives the reactor raises it.
---@param handler? fun(error: any, traceback: string?)
function fork.on_error(handler) end

--- Callbacks run from the turns of the host's uv_loop_t.
---@param pointer lightuserdata
---@return true?
---@return moonfork.error?
function fork.use_loop(pointer) end

--- Waits so many seconds, and drives the reactor.
---@param seconds number
---@return true?
---@return moonfork.error?
function fork.sleep(seconds) end

--- callback() after so many seconds, and then every so many until it is closed.
---@param seconds number
---@param callback fun()
---@param every? number
---@return moonfork.timer?
---@return moonfork.error?
function fork.timer(seconds, callback, every) end

--- callback(name) for each such signal of this process; nil takes it back.
---@param name string|integer
---@param callback? fun(name: string)
---@return true?
---@return moonfork.error?
function fork.signal(name, callback) end

--- Usable processors.
---@return integer
function fork.ncpu() end

--- A readable text: every process, rpc and pool with its state.
---@return string
function fork.dump() end

--- Writes what happens from now on into that file, as a timeline for Perfetto; nil ends it.
---@param path? string
---@return true?
---@return moonfork.error?
function fork.trace(path) end

return fork
