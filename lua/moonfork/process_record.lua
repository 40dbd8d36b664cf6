-- What is known of a process: the remembered failure, who is told about the end, and when the
-- library's process behind it is let go. Runs in the parent.
--
--   object -> cell -> raw process of moonfork.core
--               ^--------- the registry, until the raw process is closed
--
-- The object is a userdata with the methods (process.lua); all that is known of it is its state
-- table, made here (`p` in what follows). An object from fork() has none as long as it stays on the
-- common path of src/bind/process_object.c, which calls the methods in Lua for all that it does not
-- do itself.
--
-- The raw process lives as long as somebody may have to be told of it; the object may be
-- collected before. Events arrive for the cell and find the object, if there is one.
-- Collecting an object is the same as closing it: its finaliser revives it, and it stays in
-- `ending` until its end has been told.

local core = require("moonfork.load").of(...)
local calls = require "moonfork.calls"
local check = require "moonfork.check"
local options = require "moonfork.options"
local reactor = require "moonfork.reactor"

local record = {}

local owners = setmetatable({}, { __mode = "v" }) -- cell -> object
-- Closed objects whose end is not known yet: kept, nothing more.
local ending = {} -- luacheck: ignore
-- Lists of functions that are still to be told of the end of a function that runs. What they refer to
-- lives as long: their object, too, if one of them has it. (An idle process that only its own on_exit
-- refers to ends: nobody can ask it for anything any more.)
local watched = {} -- luacheck: ignore


-- ---- failures ----

-- A failure is told once, and clones inherit that of their source: what a clone's run reported is
-- told of the source, too, and the other way round. `fate` chains to the source's. What a clone
-- fails of by itself is no news of its source, and of no other clone, though the words may be
-- the same: who has been a process has not inherited its failure (`own`). Of others, which failed
-- before they were known to be one, the words decide.

-- What processes only fail of because their source does.
local INHERITED = { TEMPLATE_DIED = true, TEMPLATE_START = true }

local function has_been(p)
  return p.had_pid or p.raw and not core.inert(p.raw) and core.pid(p.raw) ~= nil
end

function record.set_failure(p, err)
  p.err = err
  p.fate.failure = err and err.message
  p.fate.own = p.fate.own or err and not INHERITED[err.code] and has_been(p)
end

local function concerns(fate, err)
  return fate.failure == err.message or INHERITED[err.code]
end

-- how: true, or "posted" until on_error gets it: it is no news any more where a call has reported it
-- meanwhile, as the run of a clone does that is told just after the failure of its closed source.
local function mark(p, err, how)
  p.fate.told[err.message] = how
  if p.fate.own then return end
  local fate = p.fate.source
  while fate do
    if concerns(fate, err) then fate.told[err.message] = how == true or fate.told[err.message] or how end
    fate = fate.source
  end
end

function record.mark_told(p, err) mark(p, err, true) end

-- What an rpc or a pool tells its calls, it has told for the process that it was made of, too.
function record.follow_service(p, cell)
  local fate = p.fate
  while fate do
    fate.services[cell] = p
    fate = fate.source
  end
end

local function service_told(fate, message)
  for cell, p in pairs(fate.services) do
    local err = cell.chain or cell.err
    if cell.told and err and err.message == message
      and (p.fate == fate or INHERITED[err.code] or not has_been(p)) then return true end
  end
  return false
end

-- is_heard: it has reached somebody, and is not only on its way.
local function has_told(fate, message, is_heard)
  local told = fate.told[message]
  return told == true or told and not is_heard or service_told(fate, message)
end

local function was_told(p, err, is_heard)
  if has_told(p.fate, err.message, is_heard) then return true end
  if p.fate.own then return false end
  local fate = p.fate.source
  while fate do
    if concerns(fate, err) and has_told(fate, err.message, is_heard) then return true end
    fate = fate.source
  end
  return false
end

local function tell_unreported(p, err)
  if was_told(p, err) then return end
  mark(p, err, "posted")
  reactor.post_failure(err, function()
    local is_news = not was_told(p, err, true)
    record.mark_told(p, err)
    return is_news
  end)
end

-- Messages begin with the process's name; those from over there have it already.
local function named(p, err)
  if p.name then err.message = p.name .. ": " .. err.message end
  return err
end

-- The chain has failed on this side of the socket. The process is made to fail as well, so
-- that it ends as it would after a failure over there.
function record.fail(p, err)
  if p.err then return end
  p.err, p.fate.own = err, true
  if p.raw then
    p.spoiled = true
    core.eval(p.raw, "moonfork", "error((...), 0)", err.message)
  end
  record.set_failure(p, named(p, err))
end

-- ---- the end ----

local function release(p)
  p.had_pid = has_been(p)
  if p.raw then core.close(p.raw) end
  p.raw, p.cell.raw = false, false
  owners[p.cell], ending[p] = nil, nil
end

function record.ended(p, status)
  local watchers = p.watchers
  p.status, p.watchers = status, nil
  if watchers then watched[watchers] = nil end
  if p.err and not p.err.exit then p.err.exit = status end
  if p.closed then release(p) end
  local failed, failure
  for _, watcher in ipairs(watchers or {}) do
    local ok, err = pcall(reactor.call, watcher, status)
    if not ok and not failed then failed, failure = true, err end
  end
  if failed then error(failure, 0) end
end

function reactor.on_exit(cell, status)
  local p = owners[cell]
  cell.status = status
  if p then record.ended(p, status) end
end

local function failed_over_there(p, err)
  if p.spoiled or p.err then return end
  record.set_failure(p, err)
  if p.closed then tell_unreported(p, err) end
end

function reactor.on_failure(cell, err)
  if cell.pool then return calls.chain_failed(cell.pool, err) end
  local p = owners[cell]
  cell.failure = err
  if p then failed_over_there(p, err) end
end

-- Its state has changed, or somebody waits for its end.
function record.keep(p)
  if p.watchers and p.state ~= "serving" then watched[p.watchers] = true end
end

function record.watch(p, watcher)
  p.watchers = p.watchers or {}
  table.insert(p.watchers, watcher)
  record.keep(p)
  core.watch_exit(p.raw)
  reactor.touch()
end

-- The last one takes with it that the end is waited for.
function record.unwatch(p, watcher)
  for i, w in ipairs(p.watchers or {}) do
    if w == watcher then table.remove(p.watchers, i) end
  end
  if not p.watchers or p.watchers[1] then return end
  watched[p.watchers] = nil
  p.watchers = nil
  if p.raw then core.watch_exit(p.raw, true) end
end

-- Nothing more is sent: it sees the end of its socket. Watchers are told of an unknown end.
local function cut_short(p)
  if not p.watchers then return release(p) end
  ending[p] = true
  core.close(p.raw)
  p.raw = false
end

-- What close() and the finaliser share. p.closed is set.
function record.let_go(p)
  if p.err then tell_unreported(p, p.err) end
  if not p.raw or p.status then
    release(p)
  elseif p.state == "serving" then
    ending[p] = true
    if core.finish(p.raw) then
      core.watch_exit(p.raw, not p.watchers)
    else
      cut_short(p) -- no memory for the command that ends it
    end
  elseif p.state == "finished" and (p.watchers or p.direct) then
    ending[p] = true -- a child of ours is watched, so that it leaves no zombie
    core.watch_exit(p.raw, not p.watchers)
  else -- run or to_fd may be under way, and gets CANCELLED
    cut_short(p)
  end
  reactor.touch()
end

-- ---- making ----

-- What a clone of a failed process is told: the failure; that the process has died is the
-- death of a template to it.
function record.inherited(err)
  if not err or err.code ~= "CLONE_DIED" then return err end
  local death = core.error("TEMPLATE_DIED", err.message)
  death.started, death.traceback, death.value = "no", err.traceback, err.value
  death.exit = err.exit
  return death
end

local function blank(source, name)
  local cell = { raw = false, status = false, failure = false }
  local p = {
    cell = cell,
    object = nil, -- the userdata
    raw = false,
    state = "serving", -- "finishing": run or to_fd under way; "finished"
    closed = false,
    name = name,
    fate = { told = {}, services = setmetatable({}, { __mode = "k" }),
      source = source and source.fate },
  }
  owners[cell] = p
  return p
end

-- Takes an object over from the common path.
local function take_over(object)
  local p = blank()
  p.object = object
  local raw, state, fate, status, err, watcher = core.object_open(object, p.cell, p)
  p.raw, p.state, p.fate.source = raw or false, state, fate
  p.cell.raw = p.raw
  p.closed = not raw
  p.status, p.cell.status = status, status or false
  if watcher then p.watchers = { watcher } end
  record.keep(p)
  if err then
    p.cell.failure = err
    failed_over_there(p, err)
  end
  return p
end

-- The state of an object; nil: it is none.
function record.state_of(object)
  local p = core.object_state(object)
  if p == false then p = take_over(object) end
  return p
end

-- A new object; make(cell, plain options) gives the raw process or nil, err.
function record.create(f, n, given, source, make)
  reactor.check()
  reactor.install()
  local plain, err = options.read(f, n, given)
  local p = blank(source, plain and plain.name)
  p.object = core.object_new(p)
  err = err and named(p, err)
  err = source and record.inherited(source.err) or err
  local raw
  if not err then
    raw, err = make(p.cell, plain)
    err = err and named(p, err)
  end
  if raw then
    p.raw, p.cell.raw = raw, raw
  else
    record.set_failure(p, err)
  end
  reactor.touch()
  return p.object, p
end

-- What happened while nobody could be told is told now.
local function revive(p)
  local cell = p.cell
  owners[cell] = p
  if cell.failure then failed_over_there(p, cell.failure) end
  if not cell.status or (p.status and not p.watchers) then return record.let_go(p) end
  if p.err then tell_unreported(p, p.err) end
  reactor.post(function() return record.ended(p, cell.status) end)
end

function record.collected(object)
  local p = record.state_of(object)
  if p.closed or (p.raw and core.inert(p.raw)) then return end
  p.closed = true
  pcall(revive, p) -- fails only where the state is being closed
end

local function ending_text(status)
  if status.unknown then return "ended" end
  if status.signal then return ("ended by signal %d"):format(status.signal) end
  return ("exited with %d"):format(status.code)
end

-- serving: it takes commands; a command under way is no state of its own.
local function state_text(p)
  if p.closed then return "closed" end
  if p.status then return ending_text(p.status) end
  if p.err then return "failed" end
  if p.used_by then return "used by " .. p.used_by end
  if p.state == "finished" then return p.given and "given away" or "running" end
  return p.state == "finishing" and "starting" or "serving"
end

-- "moonfork.process (painter, pid 4711, serving)"
function record.text(object)
  local p = record.state_of(object)
  if not p then check.self("__tostring", "process", "moonfork.process", object) end
  local parts = {}
  if p.name then parts[#parts + 1] = p.name end
  local inert = p.raw and core.inert(p.raw)
  local pid = p.raw and not inert and core.pid(p.raw)
  parts[#parts + 1] = pid and "pid " .. pid or p.raw and not inert and "no pid yet" or nil
  parts[#parts + 1] = inert and "of another process" or state_text(p)
  return ("moonfork.process (%s)"):format(table.concat(parts, ", "))
end

return record
