-- moonfork.lines: a function over the lines of files, in the workers of a pool; what
-- `moonfork map` does, for programs. Runs in the parent.
--
--   files --reader--> pool:map(feed) --> told in input order --> write(text)
--                                                            '-> job log, behind what was written
--
-- Nothing here blocks while a pipe is slow: the reader looks, and a watch wakes the map.

local fork = require "moonfork"
local core = require "moonfork.load"
local check = require "moonfork.check"
local map = require "moonfork.map"

local lines = {}

local LINE_MAX = 1 << 26 -- bytes: what fits into a message
local PARTS_MAX = 1024 -- texts that are written together
local HEADER = "line\tstart\tduration\tworker\tstatus\thash\tmessage\n"

local Error = getmetatable(core.error("EINVAL", ""))

-- ---- input ----

local Reader = {}
Reader.__index = Reader

local function size_of(path)
  local file = io.open(path, "rb")
  local size = file and file:seek "end"
  if file then file:close() end
  return size
end

-- Input that can't be opened is told before anything has run.
local function new_reader(files, format)
  local self = setmetatable({at = 0, format = format, files = files, sockets = {}, bytes = 0,
    number = 0, total = 0}, Reader)
  for i, path in ipairs(files) do
    local socket, message
    if path == "-" then
      socket, message = fork.socket.wrap(0)
      path = "/dev/stdin"
    else
      socket, message = fork.socket.open(path, "r")
    end
    if not socket then
      self:close()
      return nil, core.error("EINVAL", ("%s: %s"):format(files[i], message:gsub("^.*: ", "")))
    end
    socket:settimeout(0)
    socket:limit(LINE_MAX)
    self.sockets[i] = socket
    local size = self.total and size_of(path)
    self.total = size and self.total + size
  end
  return self
end

-- Standard input is the program's: the number stays open.
local function release(socket, path)
  if path == "-" then socket:detach() else socket:close() end
end

-- The next line; nil at the end; map.LATER, and then self.more() is called once.
function Reader:next()
  while not self.stopped do
    local socket = self.sockets[self.at]
    if not socket then
      self.at = self.at + 1
      if not self.sockets[self.at] then return nil end
    else
      local line, message = socket:read(self.format)
      if line then
        self.bytes, self.number = self.bytes + #line + 1, self.number + 1
        return line
      end
      if message == "timed out" then
        self.watch = core.watch(socket:fileno(), "r", function()
          self.watch = nil
          self.more()
        end)
        if self.watch then return map.LATER end
        socket:settimeout(nil) -- it can't be watched: then it is waited for
      elseif message then
        self.failure = core.error("EINVAL", ("%s, after line %d: %s"):format(self.files[self.at],
          self.number, message))
        return nil
      else
        self.sockets[self.at] = false
        release(socket, self.files[self.at])
        self.at = self.at + 1
        if not self.sockets[self.at] then return nil end
      end
    end
  end
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

-- Of a line's bytes, so that a log is not continued with another input: FNV-1a over words of
-- eight bytes.
local function hash_of(line)
  local hash = 0xcbf29ce484222325 ~ #line
  local unpack = string.unpack
  local at, last = 1, #line - 7
  while at <= last do
    hash = (hash ~ unpack("<i8", line, at)) * 0x100000001b3
    at = at + 8
  end
  if at <= #line then
    hash = (hash ~ unpack("<i8", line:sub(at) .. ("\0"):rep(8))) * 0x100000001b3
  end
  return hash
end

local Log = {}
Log.__index = Log

-- What a log records as done: number -> hash.
local function read_log(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, core.error("EINVAL", message) end
  local done = {}
  local first = file:read "L"
  if first and first ~= HEADER then
    file:close()
    return nil, core.error("EINVAL", path .. " is not a job log of moonfork")
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

local function open_log(path)
  local file, message = io.open(path, "a+b")
  if not file then return nil, core.error("EINVAL", message) end
  file:setvbuf "full"
  local size = file:seek "end"
  if size == 0 then
    file:write(HEADER)
  else
    file:seek("end", -1)
    if file:read(1) ~= "\n" then file:write "\n" end -- a run that was killed while it wrote
  end
  return setmetatable({file = file}, Log)
end

local STATUS = {REMOTE = "error", CLONE_DIED = "died", TIMEOUT = "timeout"}

function Log:add(number, line, err, start, seconds, worker)
  local message = err and err.message:match "^[^\n]*":gsub("%c", " ") or ""
  self.file:write(("%d\t%s\t%s\t%s\t%s\t%016x\t%s\n"):format(number,
    start and ("%.6f"):format(start) or "-", seconds and ("%.6f"):format(seconds) or "-",
    worker or "-", err and (STATUS[err.code] or "error") or "ok", hash_of(line), message))
end

-- ---- the run ----

local Run = {}
Run.__index = Run

local valid = check.set("files workers chunk unordered keep_going max_failures retry timeout json "
  .. "null tag joblog resume write idle on_failure")

--- map(process, name, options): calls the function `name` of the template `process` (consumed) for
-- each line of options.files (a list of paths, "-" is standard input), and options.write(text) for
-- each answer, in input order. doc/lines.md has the options. Gives a run:
--   run:wait()    works until the input is at its end: a report, or nil, err
--   run:stop()    reads no more; what is under way is finished
--   run:kill()    ends it now
--   run:state()   {done, failed, skipped, workers, bytes, total}
function lines.map(process, name, options)
  check.type(3, "map", options, "table")
  check.keys(3, "map", options, valid)
  local self = setmetatable({options = options, done = 0, failed = 0, skipped = 0, held = {}}, Run)
  local err
  self.separator = options.null and "\0" or "\n"
  local resume, joblog = options.resume, options.joblog or options.resume
  if resume then
    self.recorded, err = read_log(resume)
    if not self.recorded then return nil, err end
  end
  self.reader, err = new_reader(options.files or {"-"}, options.null and "0" or "l")
  if not self.reader then return nil, err end
  if joblog then
    self.log, err = open_log(joblog)
    if not self.log then
      self.reader:close()
      return nil, err
    end
  end
  if self.log or options.json then
    process:eval([[require("moonfork.lines_worker").prepare(...)]], name,
      table.unpack({options.json and "json"}))
    name = "moonfork.lines_worker:" .. (self.log and "timed" or "call")
  end
  self.workers = options.workers or fork.ncpu()
  self.pool = process:pool(name, {
    max = self.workers, idle = self.workers, call_timeout = options.timeout,
    restart = {burst = 1000, period = 1},
  })
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

local function joined(n, ...)
  local texts = {...}
  for i = 1, n do texts[i] = texts[i] == nil and "" or tostring(texts[i]) end
  return table.concat(texts, "\t", 1, n)
end

-- Answers are collected and written together.
function Run:put(line, text)
  local parts, n = self.parts, self.nparts
  if self.options.tag then
    parts[n + 1], parts[n + 2] = line, "\t"
    n = n + 2
  end
  parts[n + 1], parts[n + 2] = text, self.separator
  self.nparts = n + 2
  if n > PARTS_MAX then self:write() end
end

function Run:write()
  local n = self.nparts
  if n == 0 then return end
  self.nparts = 0
  return self.options.write(table.concat(self.parts, "", 1, n))
end

-- Writes an answer, and records it.
function Run:tell(number, line, text, start, seconds, worker)
  self.done = self.done + 1
  self:put(line, text)
  if self.log then self.log:add(number, line, nil, start, seconds, worker) end
end

function Run:tell_failure(number, line, err, ...)
  local options = self.options
  self.failed = self.failed + 1
  if self.log then self.log:add(number, line, err, ...) end
  if options.on_failure then options.on_failure(number, err) end
  if not options.keep_going and self.failed >= (options.max_failures or 1)
    or self.failed >= (options.max_failures or math.huge) then
    self.given_up = true
  end
end

-- In a run with a log the worker catches what the function raises: text, error, and when.
function Run:outcome(err, ...)
  if err then return nil, err end
  if not self.log then
    local n = select("#", ...)
    return n == 0 and "" or joined(n, ...)
  end
  local text, start, seconds, worker, message = ...
  return text, message and core.error("REMOTE", message), start, seconds, worker
end

local CAN_BE_REPEATED = {REMOTE = true, CLONE_DIED = true, TIMEOUT = true}

-- What pool:call gives, as pool:map tells it.
local function answered(...)
  local first, err = ...
  if first == nil and getmetatable(err) == Error then return err end
  return nil, ...
end

function Run:take(number, line, ...)
  local text, failure, start, seconds, worker = self:outcome(...)
  local tries = self.options.retry or 0
  while failure and tries > 0 and not self.killed and CAN_BE_REPEATED[failure.code] do
    tries = tries - 1
    text, failure, start, seconds, worker = self:outcome(answered(self.pool:call(line)))
  end
  if self.killed then return end
  if failure then return self:tell_failure(number, line, failure, start, seconds, worker) end
  return self:tell(number, line, text, start, seconds, worker)
end

-- Before the map waits: what there is goes out, and then into the log.
function Run:settle()
  self:write()
  if self.options.idle then self.options.idle() end
  if self.log and not self.log.file:flush() then
    self.reader.failure = core.error("EINVAL", "the job log can't be written (is the disk full?)")
    self.reader.stopped = true
  end
end

function Run:take_held(index, ...)
  local kept = self.held[index]
  self.held[index] = nil
  if kept then return self:take(kept[1], kept[2], ...) end
  return self:take(index, nil, ...)
end

function Run:work()
  local options, reader = self.options, self.reader
  self.given, self.parts, self.nparts = 0, {}, 0
  -- What an answer needs of its line; without, the line is not kept.
  self.keeps_lines = options.tag or self.log or self.recorded or (options.retry or 0) > 0
  local plain = not (self.log or self.recorded or options.tag)
  local next_line = self.keeps_lines and function() return self:next_line() end
    or function() return reader:next() end
  local feed = map.feed(next_line, function() self:settle() end)
  reader.more = function() feed:more() end
  local held, separator, parts = self.held, self.separator, self.parts
  local function take(index, err, first, ...)
    if index == nil then return false end
    if plain and err == nil and type(first) == "string" and select("#", ...) == 0 then
      local n = self.nparts -- the usual answer
      parts[n + 1], parts[n + 2] = first, separator
      self.nparts, self.done, held[index] = n + 2, self.done + 1, nil
      if n > PARTS_MAX then self:write() end
    else
      self:take_held(index, err, first, ...)
    end
    return not (self.given_up or self.killed)
  end
  local next_answer, _, _, closing = self.pool:map(feed,
    {chunk = options.chunk, unordered = options.unordered})
  local guard <close> = closing -- luacheck: ignore
  repeat until not take(next_answer())
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
  self.reader.stopped = true
  if self.reader.more then self.reader.more() end
end

function Run:kill()
  self.killed = true
  self:stop()
  self.pool:drain(0, function() end)
end

function Run:state()
  local stats = self.pool:stats()
  return {done = self.done, failed = self.failed, skipped = self.skipped, workers = stats.workers,
    bytes = self.reader.bytes, total = self.reader.total}
end

return lines
