---@meta moonfork.nats
-- luacheck: ignore
-- Types for editors (LuaCATS): pools on many machines, over a NATS server. See ../meta.lua.

---@class moonfork.nats_functions
local nats = {}

---@class moonfork.nats_options
---@field subject string words with dots between them
---@field name? string for people
---@field user? string
---@field password? string
---@field token? string
---@field creds? string a file
---@field ca? string a PEM file; asks for TLS
---@field cert? string a PEM file, with key
---@field key? string

---@class moonfork.nats_pool_options: moonfork.nats_options
---@field timeout? number seconds from call to answer
---@field queue_max? integer calls that wait when no node has room: 65,536
---@field silent? number seconds without a sign of life after which a node is gone: 1.5
---@field serialiser? string
---@field strict_classes? boolean

---@class moonfork.nats_node_options: moonfork.nats_options
---@field window? integer calls held: workers x load + 16
---@field beat? number seconds between two signs of life: 0.3
---@field jobs? string name of a stream: also stored jobs
---@field keep? number seconds that results of jobs are kept: 86,400

--- Gives the calls of options.subject to the pool; connects in the background.
---@param pool moonfork.pool
---@param url string
---@param options moonfork.nats_node_options
---@return moonfork.nats.node?
---@return moonfork.error?
function nats.node(pool, url, options) end

--- All nodes of options.subject; calls wait until the engine and a node are there.
---@param url string
---@param options moonfork.nats_pool_options
---@return moonfork.nats.pool
function nats.pool(url, options) end

---@class moonfork.nats_watch_options
---@field name? string for people
---@field user? string
---@field password? string
---@field token? string
---@field creds? string a file
---@field ca? string a PEM file; asks for TLS
---@field cert? string a PEM file, with key
---@field key? string
---@field silent? number seconds without a sign of life after which a node is gone: 1.5

--- All nodes of all subjects, by what they say of themselves; for people.
---@param url string
---@param options? moonfork.nats_watch_options
---@return moonfork.nats.watch?
---@return moonfork.error?
function nats.watch(url, options) end

---@class moonfork.nats.node_stats
---@field id string
---@field name string
---@field state "running" | "draining" | "closed"
---@field engine "connecting" | "up" | "down" | "closed"
---@field engine_reason? string
---@field window integer
---@field held integer
---@field calls integer
---@field answers integer
---@field errors integer
---@field refused integer
---@field undelivered integer
---@field jobs_held integer stored jobs that are here; held has them, too
---@field jobs_done integer
---@field jobs_failed integer
---@field jobs_dead integer
---@field jobs_redelivered integer
---@field bad integer
---@field connects integer
---@field bytes_in integer
---@field bytes_out integer

---@class moonfork.nats.node
local node = {}

--- Takes no more calls and answers what it has.
---@param timeout? number
---@param callback? fun(err?: moonfork.error, ok?: true)
---@return true?
---@return moonfork.error?
function node:drain(timeout, callback) end

---@return moonfork.nats.node_stats
function node:stats() end

function node:close() end

---@class moonfork.nats.pool_node
---@field id string
---@field name string
---@field room integer
---@field window integer
---@field held integer
---@field workers integer
---@field running integer
---@field calls integer
---@field draining boolean
---@field failed boolean
---@field beat number seconds since its last sign of life

---@class moonfork.nats.pool_stats
---@field state "running" | "draining" | "closed" | "failed"
---@field engine "connecting" | "up" | "down" | "closed"
---@field engine_reason? string
---@field nodes integer
---@field workers integer
---@field queued integer
---@field running integer
---@field calls integer
---@field done integer
---@field failed integer
---@field refused integer
---@field timeouts integer
---@field cancelled integer
---@field late integer
---@field retried integer
---@field lost integer
---@field bad integer
---@field connects integer
---@field bytes_in integer
---@field bytes_out integer
---@field p50 number
---@field p90 number
---@field p99 number
---@field max number

---@class moonfork.nats.job_options
---@field id? string the same id twice is one job
---@field delay? number seconds
---@field tries? integer 5
---@field lease? number seconds, renewed while it works: 30
---@field timeout? number seconds until it is stored

---@class moonfork.nats.job_counts
---@field stream string
---@field waiting integer
---@field delayed integer
---@field running integer
---@field redelivered integer
---@field results integer
---@field dead integer
---@field leftover integer

---@class moonfork.nats.pool
---@operator call(any): any
local pool = {}

---@param ... any
---@return any
function pool:call(...) end

---@param options moonfork.pool_with_options
---@return moonfork.mapping_calls
function pool:with(options) end

---@param items any
---@param options? moonfork.map_options
---@return function
function pool:map(items, options) end

--- Takes no more calls and lets those it has finish.
---@param timeout? number
---@param callback? fun(err?: moonfork.error, ok?: true)
---@return true?
---@return moonfork.error|moonfork.drain_report|nil
---@return moonfork.drain_report?
function pool:drain(timeout, callback) end

---@return moonfork.nats.pool_stats
function pool:stats() end

---@return moonfork.nats.pool_node[]
function pool:nodes() end

function pool:close() end

--- A stored job: its id once it is stored.
---@param options? moonfork.nats.job_options
---@param ... any
---@return string?
---@return moonfork.error?
function pool:post(options, ...) end

--- A job's result.
---@param id string
---@param timeout? number
---@param callback? fun(err?: moonfork.error, ...: any)
---@return any
function pool:result(id, timeout, callback) end

--- Takes a waiting job away: true, or false where it does not wait.
---@param id string
---@param callback? fun(err?: moonfork.error, taken?: boolean)
---@return boolean?
---@return moonfork.error?
function pool:cancel(id, callback) end

---@param timeout? number
---@param callback? fun(err?: moonfork.error, counts?: moonfork.nats.job_counts)
---@return moonfork.nats.job_counts?
---@return moonfork.error?
function pool:jobs(timeout, callback) end

--- Told of each job that used up its tries.
---@param f? fun(id: string, tries: integer, err: moonfork.error)
---@return moonfork.nats.pool
function pool:on_dead(f) end

---@class moonfork.nats.group
---@field subject string
---@field nodes moonfork.nats.pool_node[]

---@class moonfork.nats.watch_stats
---@field engine "connecting" | "up" | "down" | "closed"
---@field engine_reason? string
---@field bad integer messages that are none of ours
---@field connects integer
---@field bytes_in integer
---@field bytes_out integer

---@class moonfork.nats.watch
local watch = {}

--- Those that were heard.
---@return moonfork.nats.group[]
function watch:groups() end

---@param subject string
---@param timeout? number
---@param callback? fun(err?: moonfork.error, counts?: moonfork.nats.job_counts)
---@return moonfork.nats.job_counts?
---@return moonfork.error?
function watch:jobs(subject, timeout, callback) end

---@return moonfork.nats.watch_stats
function watch:stats() end

function watch:close() end

return nats
