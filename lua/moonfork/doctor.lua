-- moonfork.doctor: whether modules may be loaded in a template (the audit of p:seal{audit=}, asked of
-- a template made for it), what this system offers, and whether the parts of the installation belong
-- together. `moonfork doctor` prints what these functions give. Runs in the parent.

local fork = require "moonfork"
local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local clone = require "moonfork.clone"
local ended_by = require "moonfork.ended_by"
local log = require "moonfork.serve_log"

local doctor = {}

local TIMEOUT = 30 -- seconds for a module
local START_TIMEOUT = 60 -- seconds for everything else that the template does
local SLICE = 0.2 -- the template may be gone although something that it started holds the socket
local OUTPUT_MAX = 4096 -- bytes that are kept of what modules print
local LINE_MAX = 1 << 20
local TURNS_MAX = 1000 -- of reading what a module has printed, in case that it has a thread that goes on
local READS_MAX = 1000 -- of what a module prints, before the time is looked at again

local SEVERITIES = {note = true, warning = true, refuses = true}

local MAIN = [[-- =moonfork.doctor
local report = require("moonfork.clone").run_args()
require("moonfork.doctor_worker").main(report, ...)
]]

-- ---- what the template reports ----

local function one_line(text)
  return text:match "^([^\n]* not found):\n" or log.one_line(text)
end

local UNESCAPES = {n = "\n", t = "\t", ["\\"] = "\\"}

local function parse(line)
  local word, rest = line:match "^(%l+)\t?(.*)$"
  local fields = {}
  for name, value in (rest or ""):gmatch "(%l+)=([^\t]*)" do
    fields[name] = value:gsub("\\(.)", UNESCAPES)
  end
  return word, fields
end

local function add(state, kind, text, module)
  local finding = core.finding_kinds()[kind]
  finding.text, finding.module = text, module
  state.findings[#state.findings + 1] = finding
end

-- What the template prints on one of its two streams, of which the beginning is kept; false at the
-- end of file. Then whether there may be more.
local function read_output(state, name)
  local socket, is_open, reads = state.output[name], true, 0
  for _, format in ipairs{"L", 1} do -- lines, then what has no end yet
    while reads < READS_MAX do
      reads = reads + 1
      local text, message = socket:read(format)
      if not text and message == "line too long" then text, message = socket:read(LINE_MAX) end
      if not text then
        is_open = message == "timed out"
        break
      end
      if #state[name] < OUTPUT_MAX then state[name] = (state[name] .. text):sub(1, OUTPUT_MAX) end
    end
  end
  return is_open, reads == READS_MAX
end

local readers = {}

function readers.loading(state, fields)
  state.loading = fields.module
  state.deadline = clone.time() + state.timeout
end

function readers.module(state, fields)
  for _ = 1, TURNS_MAX do -- what it has printed is there already
    local _, has_more = read_output(state, "stdout")
    if not has_more then break end
  end
  if state.stdout ~= "" then
    add(state, "output", ("module '%s' prints while it is loaded (%s)"):format(fields.name,
      one_line(state.stdout):sub(1, 60)), fields.name)
    state.stdout = ""
  end
  local module = {name = fields.name}
  for _, name in ipairs{"seconds", "lua", "memory", "threads", "descriptors"} do
    module[name] = tonumber(fields[name]) or 0
  end
  state.loading = nil
  state.deadline = clone.time() + START_TIMEOUT
  state.modules[#state.modules + 1] = module
end

function readers.finding(state, fields)
  fields.fd = tonumber(fields.fd)
  if SEVERITIES[fields.severity] then state.findings[#state.findings + 1] = fields end
end

function readers.finalised(state, fields)
  add(state, "finalised", ("module '%s' made an object with a finaliser that nothing refers to (%s)"):format(
    fields.module, fields.place), fields.module)
end

-- What to do about a module that is not there.
local function advice(name, message)
  if not message:find(("module '%s' not found"):format(name), 1, true) then return "" end
  if name:find "/" or name:find "%.lua$" then
    return "; a module is named as for require: app, app.parser; not by its file"
  end
  return "; LUA_PATH and LUA_CPATH say where modules are looked for"
end

function readers.unusable(state, fields)
  state.err = core.error("REMOTE", ("the module '%s' can't be loaded: %s%s"):format(fields.module,
    one_line(fields.message), advice(fields.module, fields.message)))
end

function readers.done(state)
  state.done = true
end

-- Everything that is there; false at the end of file.
local function read_report(state)
  while not state.err and not state.done do
    local line, message = state.report:read "l"
    if not line then return message == "timed out" end
    local word, fields = parse(line)
    if readers[word] then readers[word](state, fields) end
  end
  return true
end

-- ---- the ends of a template that does not get through ----

-- Without room or descriptors for it there has been no template.
local NEVER_THERE = {LIMIT = true, NOMEM = true}

-- The template has ended by itself, or was none.
local function ended(state, err)
  local what = state.loading and ended_by.while_loading(state.loading) or "the template ended"
  local status, why = state.process:wait(5)
  err = err or why
  if err and err.code == "TEMPLATE_START" then return err end
  if err and NEVER_THERE[err.code] then
    return core.error(err.code, "the template can't be started: " .. err.message)
  end
  if status and (status.signal or status.code) then what = ended_by.text(what, status)
  elseif err then what = what .. ": " .. err.message end
  return core.error("TEMPLATE_DIED", what)
end

-- Where Lua code is at that does not come to its end, as the template itself says (SIGUSR2).
local function place_of_hang(state)
  local before = #state.stderr
  if not state.process:kill "USR2" then return nil end
  local till = clone.time() + 0.5
  repeat
    fork.socket.poll({state.output.stderr}, till - clone.time())
    if not read_output(state, "stderr") then break end
  until state.stderr:find("runs again:\n.-\n", before + 1) or clone.time() >= till
  for line in state.stderr:sub(before + 1):gmatch "moonfork:%s+([^\n]+)" do
    if line:find ":%d+:" then return (line:gsub("%s+$", "")) end
  end
end

local function hung(state)
  local place = place_of_hang(state)
  if not state.loading then
    return core.error("TEMPLATE_START", ("the template was not ready within %d s%s"):format(START_TIMEOUT,
      place and "; it is at " .. place or ""))
  end
  return core.error("TIMEOUT", ("the module '%s' was not loaded within %s s%s"):format(state.loading,
    core.number(state.timeout), place and "; it is at " .. place or ""))
end

-- ---- the audit ----

-- Ours and the template's end.
local function pair()
  local ours, theirs = fork.socket.pair()
  if not ours then error(core.error("LIMIT", "no socket for the template's report: " .. theirs)) end
  return ours, theirs
end

local function start(state, names)
  local theirs, out, err
  state.report, theirs = pair()
  state.output.stdout, out = pair()
  state.output.stderr, err = pair()
  -- What modules start ends with the template, where the system allows that.
  state.process = fork.new_exec{stdin = "null", stdout = out, stderr = err, session = "new",
    tree = core.file "/proc/self" ~= nil}
  state.process:send_fd(theirs):eval(MAIN, table.unpack(names))
  state.process:memory(function(failure) state.failure = state.failure or failure end)
  for _, socket in ipairs{theirs, out, err} do socket:close() end
  for _, socket in ipairs{state.report, state.output.stdout, state.output.stderr} do
    socket:settimeout(0)
    socket:limit(LINE_MAX)
  end
end

-- Until everything is reported, or an error.
local function follow(state)
  local open = {state.report, state.output.stdout, state.output.stderr}
  while not state.done do
    if state.stop and state.stop() then return core.error("CANCELLED", "interrupted") end
    local left = state.deadline - clone.time()
    if left <= 0 then return hung(state) end
    fork.socket.poll(open, math.min(left, SLICE))
    local is_open = read_report(state)
    for i = #open, 2, -1 do
      local name = open[i] == state.output.stdout and "stdout" or "stderr"
      if not read_output(state, name) then table.remove(open, i) end
    end
    if state.err then return state.err end
    if state.failure and not state.done then
      if state.failure.code == "REMOTE" then return state.failure end
      return ended(state, state.failure)
    end
    if not is_open and not state.done then return ended(state) end
  end
end

local function refuses(state)
  for _, finding in ipairs(state.findings) do
    if finding.severity == "refuses" then return true end
  end
  return false
end

-- Forks a clone really: hooks and limits may refuse what the audit allows.
local function try_fork(state)
  local begin = clone.time()
  local process = state.process:fork{timeout = state.timeout}
  local socket, err = process:run "moonfork.doctor_worker:trial"
  if not socket then
    add(state, "fork-failed", "a fork failed: " .. one_line(err.message))
    return
  end
  state.fork_seconds = clone.time() - begin
  socket:settimeout(state.timeout)
  local parent = tonumber(socket:read "l" or "")
  socket:close()
  process:wait(state.timeout)
  if not parent then
    add(state, "fork-failed", "a clone was forked and did not run its function")
  end
  state.flat = parent == core.identity().pid
end

local function close(state)
  for _, socket in pairs{state.report, state.output.stdout, state.output.stderr} do socket:close() end
  if state.process then
    state.process:kill "KILL"
    state.process:close()
  end
end

local function audit(state, names)
  start(state, names)
  local err = follow(state)
  if err then return nil, err end
  if not refuses(state) then try_fork(state) end
  local strict = true
  for _, finding in ipairs(state.findings) do strict = strict and finding.severity == "note" end
  local safe = not refuses(state)
  return {modules = state.modules, findings = state.findings, safe = safe, safe_strictly = safe and strict,
    fork_seconds = state.fork_seconds, flat = state.flat, stderr = state.stderr}
end

--- audit(names [, options]): loads the modules in a new template and tells what it finds; or nil, err.
-- Options: timeout (30: seconds for a module), stop (a function that is asked now and then; true ends
-- it).
function doctor.audit(names, options)
  check.type(1, "audit", names, "table")
  options = check.optional(2, "audit", options, "table") or {}
  check.keys(2, "audit", options, {timeout = true, stop = true})
  local where = {n = 2, f = "audit"}
  check.option_duration(where, "timeout", options.timeout)
  if options.stop ~= nil then check.option_callback(where, "stop", options.stop) end
  for i, name in ipairs(names) do
    if type(name) ~= "string" then
      check.fail(1, "audit", ("item %d: a module's name expected, got %s"):format(i, check.show(name)))
    end
  end
  local state = {modules = {}, findings = {}, output = {}, stdout = "", stderr = "", stop = options.stop,
    timeout = options.timeout or TIMEOUT}
  state.deadline = clone.time() + START_TIMEOUT
  local ok, result, err = pcall(audit, state, names)
  close(state)
  if ok then return result, err end
  if type(result) == "table" and result.code then return nil, result end
  error(result, 0)
end

--- system(): what this system offers: a list of {name=, state=, text=, missing=}.
function doctor.system()
  return require("moonfork.doctor_system").look()
end

--- installation(): the parts of this installation and what is wrong with them: two lists,
-- {part=, path=, version=, text=} and {severity="error"|"warning"|"note", text=}.
function doctor.installation()
  return require("moonfork.doctor_installation").look()
end

return doctor
