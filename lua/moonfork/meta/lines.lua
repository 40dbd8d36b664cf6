---@meta moonfork.lines
-- luacheck: ignore
-- Types for editors (LuaCATS): a function over the lines of files (doc/lines.md). See ../meta.lua.

---@class moonfork.lines_options
---@field files? string[] paths; "-" is standard input (default: it alone)
---@field write fun(text: string) gets the answers, many of them in one text, each with its line end
---@field others? moonfork.process[] further templates, whose workers share the lines
---@field workers? integer default: the processors
---@field chunk? integer lines that travel together; default: as many as take some milliseconds
---@field unordered? boolean answers are written as they come
---@field keep_going? boolean go on after lines that fail
---@field max_failures? integer end after so many failures
---@field retry? integer how often a failed line is repeated (0)
---@field timeout? number seconds that one call may take
---@field json? boolean a line of input and of output is a JSON value
---@field null? boolean lines end in NUL bytes
---@field tag? boolean each answer begins with its line and a tab
---@field joblog? string the path of a job log
---@field resume? string the path of the job log of the run that this one continues
---@field idle? fun() called before the run waits
---@field on_failure? fun(number: integer, err: moonfork.error) for each line that failed

---@class moonfork.lines_report
---@field done integer lines
---@field failed integer
---@field skipped integer
---@field given_up? boolean it ended before the input did

---@class moonfork.lines_state
---@field done integer lines
---@field failed integer
---@field skipped integer
---@field workers integer
---@field bytes integer of the input that were read
---@field total? integer the size of the input, where it is known

---@class moonfork.lines_run
local run = {}

--- Works to the end of the input.
---@return moonfork.lines_report?
---@return moonfork.error?
function run:wait() end

--- Reads no more; calls that run finish.
function run:stop() end

--- Ends the workers now.
function run:kill() end

---@return moonfork.lines_state
function run:state() end

---@class moonfork.lines
local lines = {}

--- Calls the function `name` in the workers of a pool for each line; the process is their template.
---@param process moonfork.process
---@param name string
---@param options moonfork.lines_options
---@return moonfork.lines_run?
---@return moonfork.error?
function lines.map(process, name, options) end

return lines
