-- moonfork.lines: a function over the lines of files, in the workers of a pool; what
-- `moonfork map` does, for programs. Runs in the parent.
--
--   files --reader--> pool:map(feed) --> told in input order --> write(text)
--                                                            '-> job log, behind what was written
--
-- Nothing here blocks while a pipe is slow: the reader looks, and a watch wakes the map.

local fork = require "moonfork"
local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local joined = require "moonfork.joined"
local map = require "moonfork.map"
local reactor = require "moonfork.reactor"

local lines = {}

local LINE_MAX = 1 << 26 -- bytes: what fits into a message
local PARTS_MAX = 1024 -- texts that are written together
local REPEATED_MAX = 64 -- calls that are repeated at the same time
local QUEUE_BYTES = 1 << 24 -- of answers that wait for a call that is repeated
local STARTS_MAX = 5 -- workers in a row that could not be started, before the run ends
local ANSWER_COST = 256 -- bytes of one in the queue, besides its text
local HEADER = "line\tstart\tduration\tworker\tstatus\thash\tmessage\n"

-- ---- input ----

local Reader = {}
Reader.__index = Reader

local function size_of(path)
  local file = io.open(path, "rb")
  local size = file and file:seek "end"
  if file then file:close() end
  return size
end

-- What a file is called in messages.
local function name_of(path)
  return path == "-" and "standard input" or path
end

-- Nil, or why a file that is open can't be read: a folder can be opened, for one. What is read of it
-- stays in the socket.
local function refusal_of(socket)
  local text, message = socket:read(0)
  if text == nil and message and message ~= "timed out" then return message end
end

-- Input that can't be used is told before anything has run.
local function new_reader(files, line_end)
  local self = setmetatable({at = 1, line_end = line_end, format = line_end == "\n" and "l" or "0",
    files = files, sockets = {}, bytes = 0,
    number = 0, total = 0}, Reader)
  for i, path in ipairs(files) do
    local socket, message
    if path == "-" then
      socket, message = fork.socket.wrap(0)
      path = "/dev/stdin"
    else
      socket, message = fork.socket.open(path, "r")
    end
    if socket then
      socket:settimeout(0)
      socket:limit(LINE_MAX)
      self.sockets[i] = socket
      message = refusal_of(socket)
    end
    if message then
      self:close()
      return nil, core.error("EINVAL", ("%s: %s"):format(name_of(files[i]), message:gsub("^.*: ", "")))
    end
    local size = self.total and size_of(path)
    self.total = size and self.total + size
  end
  return self
end

-- Standard input is the program's: the number stays open.
local function release(socket, path)
  if path == "-" then socket:detach() else socket:close() end
end

-- The file that is read; nil at the end.
function Reader:current()
  while not self.stopped do
    local socket = self.sockets[self.at]
    if socket then return socket end
    self.at = self.at + 1
    if not self.files[self.at] then return nil end
  end
end

function Reader:finish_current()
  release(self.sockets[self.at], self.files[self.at])
  self.sockets[self.at] = false
end

function Reader:fail(message)
  if message == "line too long" then message = ("a line is longer than %d MiB"):format(LINE_MAX >> 20) end
  self.failure = core.error("EINVAL", ("%s, after line %d: %s"):format(name_of(self.files[self.at]),
    self.number, message))
  self.stopped = true
end

-- Whether self.more() will be called when there is more; else it has to be waited for.
function Reader:can_watch(socket)
  self.watch = core.watch(socket:fileno(), "r", function()
    self.watch = nil
    self.more()
  end)
  if self.watch then return true end
  socket:settimeout(nil)
  return false
end

-- The next line; nil at the end; map.LATER, and then self.more() is called once.
function Reader:next()
  local socket = self:current()
  while socket do
    local line, message = socket:read(self.format)
    if line then
      self.bytes, self.number = self.bytes + #line + 1, self.number + 1
      return line
    end
    if not message then
      self:finish_current()
    elseif message ~= "timed out" then
      return self:fail(message)
    elseif self:can_watch(socket) then
      return map.LATER
    end
    socket = self:current()
  end
end

-- The same for many lines, put into a chunk of pool:map (map.feed).
function Reader:fill(chunk, items, bytes_max)
  local added, socket = 0, self:current()
  while socket do
    local n, bytes, state, message = core.chunk_read(chunk, socket, self.line_end, items, bytes_max)
    added, self.number, self.bytes = added + n, self.number + n, self.bytes + bytes
    if state == nil then return added end
    if state == "end" then
      self:finish_current()
    elseif state == "failed" then
      self:fail(message)
    elseif self:can_watch(socket) then
      return added, "later"
    elseif added > 0 then
      return added
    else
      local line = self:next() -- waits
      if line == nil then return added, "end" end
      if line == map.LATER then return added, "later" end
      core.chunk_add(chunk, line)
      added = added + 1
    end
    socket = self:current()
  end
  return added, "end"
end

function Reader:close()
  self.stopped = true
  local watch <close> = self.watch -- luacheck: ignore
  self.watch = nil
  for i, socket in pairs(self.sockets) do
    if socket then release(socket, self.files[i]) end
    self.sockets[i] = false
  end
end

-- ---- the job log ----

local REST = {"<I1", "<I2", "<I3", "<I4", "<I5", "<I6", "<I7"} -- formats of less than a word

-- Of a line's bytes, so that a log is not continued with another input: FNV-1a over words of
-- eight bytes.
local function hash_of(line)
  local size, unpack = #line, string.unpack
  local hash, rest = 0xcbf29ce484222325 ~ size, size & 7
  for at = 1, size - 7, 8 do
    hash = (hash ~ unpack("<i8", line, at)) * 0x100000001b3
  end
  if rest > 0 then hash = (hash ~ unpack(REST[rest], line, size - rest + 1)) * 0x100000001b3 end
  return hash
end

local Log = {}
Log.__index = Log

local function no_log(path)
  return nil, core.error("EINVAL", path .. " is not a job log of moonfork")
end

-- Whether the file begins as a log does. No more of it is read: another file may have no line end.
local function is_log(file)
  return file:read(#HEADER) == HEADER
end

-- What a log records as done: number -> hash.
local function read_log(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, core.error("EINVAL", message) end
  local done = {}
  if file:read(0) and not is_log(file) then
    file:close()
    return no_log(path)
  end
  for row in file:lines() do
    local number, status, hash = row:match("^(%d+)\t[^\t]*\t[^\t]*\t[^\t]*\t(%l+)\t(%x+)\t")
    if number and #hash == 16 and status == "ok" then
      done[tonumber(number)] = math.tointeger(tonumber("0x" .. hash))
    end
  end
  file:close()
  return done
end

-- A file with anything else in it is the user's: nothing is written there.
local function open_log(path)
  local file, message = io.open(path, "a+b")
  if not file then return nil, core.error("EINVAL", message) end
  local size = file:seek "end"
  if not size or size == 0 then -- a pipe has no size, and would block who reads
    file:write(HEADER)
  else
    file:seek "set"
    if not is_log(file) then
      file:close()
      return no_log(path)
    end
    file:seek("end", -1)
    if file:read(1) ~= "\n" then file:write "\n" end -- a run that was killed while it wrote
  end
  return setmetatable({file = file, rows = {}}, Log)
end

local STATUS = {REMOTE = "error", CLONE_DIED = "died", TIMEOUT = "timeout"}

function Log:add(number, line, err, start, seconds, worker)
  if not err then -- nearly all
    self.rows[#self.rows + 1] = ("%d\t%.6f\t%.6f\t%d\tok\t%016x\t\n"):format(number, start, seconds,
      worker, hash_of(line))
    return
  end
  local message = err.message:match "^[^\n]*":gsub("%c", " ")
  self.rows[#self.rows + 1] = ("%d\t%s\t%s\t%s\t%s\t%016x\t%s\n"):format(number,
    start and ("%.6f"):format(start) or "-", seconds and ("%.6f"):format(seconds) or "-",
    worker or "-", STATUS[err.code] or "error", hash_of(line), message)
end

-- Writes the rows: only now, because what they record as done has been written by now.
function Log:flush()
  if #self.rows == 0 then return true end
  local rows = table.concat(self.rows)
  self.rows = {}
  return self.file:write(rows) and self.file:flush()
end

-- ---- the run ----

local Run = {}
Run.__index = Run

local valid = check.set("files others workers chunk unordered keep_going max_failures retry timeout json "
  .. "null tag joblog resume write idle on_failure")
local WORKERS_MAX = 100000 -- as a pool's

-- Wrong ones raise before anything is begun.
local function check_options(options)
  local where = {f = "map", n = 3}
  check.type(3, "map", options, "table")
  check.keys(3, "map", options, valid)
  for _, name in ipairs {"files", "others"} do
    if options[name] ~= nil then check.option_type(where, name, options[name], "table") end
  end
  for i, file in ipairs(options.files or {}) do check.option_text(where, ("files[%d]"):format(i), file) end
  for _, name in ipairs {"joblog", "resume"} do check.option_text(where, name, options[name]) end
  check.option_count(where, "workers", options.workers, 1, WORKERS_MAX)
  if options.chunk ~= "auto" then check.option_count(where, "chunk", options.chunk, 1) end
  check.option_count(where, "max_failures", options.max_failures, 1, math.maxinteger)
  check.option_count(where, "retry", options.retry, 0, math.maxinteger)
  check.option_duration(where, "timeout", options.timeout)
  if options.write == nil then check.option_fail(where, "write", "function expected, got nil") end
  for _, name in ipairs {"write", "idle", "on_failure"} do check.option_callback(where, name, options[name]) end
end

--- map(process, name, options): calls the function `name` of the template `process` (consumed) for
-- each line of options.files (a list of paths, "-" is standard input), and options.write(text) for
-- each answer, in input order. doc/lines.md has the options. Gives a run:
--   run:wait()    works until the input is at its end: a report, or nil, err
--   run:stop()    reads no more; what is under way is finished
--   run:kill()    ends it now
--   run:state()   {done, failed, skipped, workers, bytes, total}
function lines.map(process, name, options)
  check_options(options)
  local self = setmetatable({options = options, done = 0, failed = 0, skipped = 0, held = {}}, Run)
  local err
  self.separator = options.null and "\0" or "\n"
  local resume, joblog = options.resume, options.joblog or options.resume
  if resume then
    self.recorded, err = read_log(resume)
    if not self.recorded then return nil, err end
  end
  self.reader, err = new_reader(options.files or {"-"}, self.separator)
  if not self.reader then return nil, err end
  if joblog then
    self.log, err = open_log(joblog)
    if not self.log then
      self.reader:close()
      return nil, err
    end
  end
  if self.log or options.json then
    for _, template in ipairs {process, table.unpack(options.others or {})} do
      template:eval([[require("moonfork.lines_worker").prepare(...)]], name,
        table.unpack({options.json and "json"}))
    end
    name = "moonfork.lines_worker:" .. (self.log and "timed" or "call")
  end
  self.workers = options.workers or fork.ncpu()
  self.pool = process:pool(name, {
    max = self.workers, idle = self.workers, call_timeout = options.timeout,
    restart = {burst = 1000, period = 1, starts = STARTS_MAX}, -- a line may end its worker
  })
  for _, template in ipairs(options.others or {}) do
    local added, failure = self.pool:add(template)
    if not added then
      self.pool:close()
      self.reader:close()
      return nil, failure
    end
  end
  return self
end

function Run:is_recorded(line)
  local recorded = self.recorded
  local hash = recorded and recorded[self.reader.number]
  if not hash then return false end
  if hash ~= hash_of(line) then
    self.reader.failure = core.error("EINVAL", ("%s is the job log of another input: line %d differs")
      :format(self.options.resume, self.reader.number))
    self.reader.stopped = true
    return false
  end
  self.skipped = self.skipped + 1
  return true
end

-- The next line that has to be called, and its number kept for when its answer comes.
function Run:next_line()
  local reader = self.reader
  while true do
    local line = reader:next()
    if line == nil or line == map.LATER then return line end
    if not self:is_recorded(line) then
      if reader.failure then return nil end
      self.given = self.given + 1
      if self.keeps_lines then self.held[self.given] = {reader.number, line} end
      return line
    end
  end
end

-- Answers are collected and written together.
function Run:put(text)
  local n = self.nparts + 1
  self.parts[n], self.nparts = text, n
  if n > PARTS_MAX then self:settle() end
end

function Run:write()
  local n = self.nparts
  if n == 0 then return end
  self.nparts = 0
  return self.options.write(table.concat(self.parts, "", 1, n))
end

-- Before the map waits, and when there is much: what there is goes out, and then into the log.
function Run:settle()
  self:write()
  if self.options.idle then self.options.idle() end
  if self.log and not self.log:flush() then
    self.reader.failure = core.error("EINVAL", ("%s can't be written (is the disk full?)")
      :format(self.options.joblog or self.options.resume))
    self:halt()
  end
end

-- Reads no more, and looks at once.
function Run:halt()
  self.reader.stopped = true
  if self.reader.more then self.reader.more() end
end

-- Writes an answer, and records it.
function Run:tell(call)
  self.done = self.done + 1
  local parts, n = self.parts, self.nparts
  if self.options.tag then
    parts[n + 1], parts[n + 2] = call.line, "\t"
    n = n + 2
  end
  parts[n + 1], self.nparts = call.text, n + 1
  self:put(self.separator)
  if self.log then self.log:add(call.number, call.line, nil, call.start, call.seconds, call.worker) end
end

function Run:tell_failure(call)
  local options, err = self.options, call.err
  self.failed = self.failed + 1
  if self.log then self.log:add(call.number, call.line, err, call.start, call.seconds, call.worker) end
  if options.on_failure then options.on_failure(call.number, err) end
  if not options.keep_going and self.failed >= (options.max_failures or 1)
    or self.failed >= (options.max_failures or math.huge) then
    self.given_up = true
    self:halt()
  end
end

-- ---- answers in order ----
--
-- A call that is repeated holds up those behind it, in a queue, unless the order is free:
--
--   take --> queue --> told        queue: calls, and {text =, n =} for n answers in one

-- A pool that has failed has no worker for any line: that is no fault of the line which learns it first.
function Run:end_with_pool(err)
  self.reader.failure = self.reader.failure or err
  self.given_up = true
  self:halt()
end

-- Into call: text or err, and with a log start, seconds and worker. In a run with a log the worker
-- catches what the function raises.
function Run:note(call, err, ...)
  call.err = err
  if err and err.started == "no" and self.pool:stats().state == "failed" then self:end_with_pool(err) end
  if err then return end
  if not self.log then
    local ok, text = pcall(joined, ...)
    if ok then
      call.text = text
    else
      call.err = core.error("REMOTE", text)
    end
    return
  end
  local text, start, seconds, worker, message = ...
  call.text, call.start, call.seconds, call.worker = text, start, seconds, worker
  call.err = message and core.error("REMOTE", message) or nil
end

function Run:tell_queued(call)
  if self.given_up or self.killed then return end
  if call.n then
    self.done = self.done + call.n
    return self:put(call.text)
  end
  if call.err then return self:tell_failure(call) end
  return self:tell(call)
end

function Run:advance_queue()
  local queue = self.queue
  while queue.first <= queue.last and not queue[queue.first].repeating do
    local call = queue[queue.first]
    queue[queue.first], queue.first = nil, queue.first + 1
    queue.bytes = queue.bytes - call.bytes
    self:tell_queued(call)
  end
end

-- The map waits for answers of its own; a call that was repeated ends that, so that it is told.
function Run:finish_repeated(call)
  call.repeating = nil
  self.repeated = self.repeated - 1
  if self.options.unordered then self:tell_queued(call) else self:advance_queue() end
  local waiting = self.waiting
  if waiting then
    self.waiting = nil
    return waiting(nil, true)
  end
  if self.reader.more then self.reader.more() end
end

local CAN_BE_REPEATED = {REMOTE = true, CLONE_DIED = true, TIMEOUT = true}

function Run:can_be_repeated(call, tries)
  return call.err and tries > 0 and CAN_BE_REPEATED[call.err.code] and not self.killed
    and not self.given_up
end

function Run:repeat_call(call, tries)
  self.pool:call(call.line, function(...)
    self:note(call, ...)
    if self:can_be_repeated(call, tries - 1) then return self:repeat_call(call, tries - 1) end
    return self:finish_repeated(call)
  end)
end

-- Waits until `is_enough()`, while calls are repeated.
function Run:wait_for_repeated(is_enough)
  while not is_enough() and self.repeated > 0 and not self.killed and not self.given_up do
    self:settle()
    local ok, err = reactor.await(function(done) self.waiting = done end)
    self.waiting = nil
    if not ok then error(err, 0) end
  end
end

function Run:enqueue(call)
  local queue = self.queue
  if self.options.unordered or (queue.first > queue.last and not call.repeating) then
    if not call.repeating then self:tell_queued(call) end
    return
  end
  queue.last = queue.last + 1
  queue[queue.last] = call
  call.bytes = ANSWER_COST + (call.text and #call.text or 0)
  queue.bytes = queue.bytes + call.bytes
end

-- Not too much waits for calls that are repeated, and not too many are.
function Run:wait_for_room()
  local queue = self.queue
  return self:wait_for_repeated(function()
    return self.repeated < REPEATED_MAX and queue.bytes < QUEUE_BYTES
  end)
end

function Run:take(call, ...)
  self:note(call, ...)
  local tries = self.options.retry or 0
  local repeats = self:can_be_repeated(call, tries)
  if not call.line and (repeats or self.log or self.options.tag) then call.line = self.feed:item() end
  if repeats then
    call.repeating, self.repeated = true, self.repeated + 1
    self:repeat_call(call, tries)
  end
  return self:enqueue(call)
end

-- ---- the work ----

-- An answer as the map's iterator gives it: false at the end.
function Run:take_next(index, ...)
  if index == nil then return false end
  local kept = self.held[index]
  self.held[index] = nil
  self:take(kept and {number = kept[1], line = kept[2]} or {number = index}, ...)
  return true
end

function Run:work()
  local options, reader = self.options, self.reader
  self.given, self.parts, self.nparts = 0, {}, 0
  self.repeated, self.queue = 0, {first = 1, last = 0, bytes = 0}
  -- Where lines are left out, which have been called already, those that are called are kept with
  -- their numbers; else they go from the file to the chunk, many at once, and so do texts from the chunk
  -- to the output where nothing is recorded of them.
  local keeps_lines = self.recorded
  local between = options.tag and "\t" or nil
  self.keeps_lines = keeps_lines
  local next_line = keeps_lines and function() return self:next_line() end
    or function() return reader:next() end
  local fill = not keeps_lines and function(...) return reader:fill(...) end or nil
  local feed = map.feed(next_line, function() self:settle() end, fill)
  self.feed = feed
  reader.more = function() feed:more() end
  local next_answer, _, _, closing = self.pool:map(feed,
    {chunk = options.chunk, unordered = options.unordered})
  local guard <close> = closing -- luacheck: ignore
  local going = true
  while going and not self.given_up and not self.killed do
    local text, n = "", 0
    if not self.log then text, n = feed:text(self.separator, between) end
    if n > 0 then
      self:enqueue{text = text, n = n}
    else
      going = self:take_next(next_answer())
    end
    if self.repeated > 0 then self:wait_for_room() end
  end
  self:wait_for_repeated(function() return false end)
end

--- wait(): {done=, failed=, skipped=, given_up=}, or nil, err where input, output or log failed.
function Run:wait()
  self:work()
  self.reader:close()
  local ok, err = true, nil
  if not self.killed then
    ok, err = pcall(self.settle, self)
    self.pool:drain(self.given_up and 0 or nil)
  end
  if self.log then self.log.file:close() end
  self.pool:close()
  if not ok then error(err, 0) end
  if self.reader.failure then return nil, self.reader.failure end
  return {done = self.done, failed = self.failed, skipped = self.skipped, given_up = self.given_up}
end

function Run:stop()
  self:halt()
end

function Run:kill()
  self.killed = true
  self:halt()
  self.pool:drain(0, function() end)
  local waiting = self.waiting
  self.waiting = nil
  if waiting then waiting(nil, true) end
end

function Run:state()
  local stats = self.pool:stats()
  return {done = self.done, failed = self.failed, skipped = self.skipped, workers = stats.workers,
    bytes = self.reader.bytes, total = self.reader.total}
end

return lines
