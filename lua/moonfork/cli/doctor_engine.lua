-- What `moonfork doctor --engine` says of a NATS server: whether it is reached, and what its streams of
-- jobs have kept that nobody will take.

local engine = require "moonfork.cli.engine"

local UP = 2 -- seconds to be reached
local BEATS = 1 -- in which all nodes say something
local COUNT = 2 -- in which the engine counts jobs

local found = {}

local function wait_up(fork, watch)
  local waited = 0
  while waited < UP do
    local stats = watch:stats()
    if stats.engine == "up" then return true end
    fork.sleep(0.05)
    waited = waited + 0.05
  end
  return nil, watch:stats().engine_reason or "it does not answer"
end

-- What is being removed at this moment is gone a little later.
local function count(fork, watch, subject)
  local jobs = watch:jobs(subject, COUNT)
  if jobs and jobs.leftover > 0 then
    fork.sleep(COUNT / 2)
    jobs = watch:jobs(subject, COUNT)
  end
  return jobs
end

local function look_at_jobs(group, jobs, add)
  local waiting = jobs.waiting + jobs.delayed
  if jobs.leftover > 0 then
    add("warning", ("stream %s keeps %d messages that no node will be given: a server that was killed forgot them; "
      .. "they only use space, and can be deleted by their numbers"):format(jobs.stream, jobs.leftover))
  end
  if jobs.dead > 0 then
    add("note", ("stream %s_dead keeps %d jobs whose tries are used up; look at them and delete them")
      :format(jobs.stream, jobs.dead))
  end
  if waiting > 0 and #group.nodes == 0 then
    add("warning", ("%d jobs of %s wait, and no node works at them; start one with --jobs %s"):format(waiting,
      group.subject, jobs.stream))
  end
end

--- look(options): a line, and a list of problems {severity =, text =}.
function found.look(options)
  local fork, nats = require "moonfork", engine.load()
  local problems = {}
  local function add(severity, text) problems[#problems + 1] = {severity = severity, text = text} end
  local url, access = engine.open(fork, options)
  access.subject = nil
  local watch, err = nats.watch(url, access)
  local ok, reason
  if watch then ok, reason = wait_up(fork, watch) else reason = err.message end
  if not ok then
    if watch then watch:close() end
    add("error", ("the engine can't be reached: %s"):format(reason))
    return "not reached", problems
  end
  fork.sleep(BEATS)
  local groups, nodes, seen = watch:groups(), 0, {}
  for _, group in ipairs(groups) do seen[group.subject] = true end
  if options.subject and not seen[options.subject] then
    groups[#groups + 1] = {subject = options.subject, nodes = {}}
  end
  for _, group in ipairs(groups) do
    nodes = nodes + #group.nodes
    local jobs = count(fork, watch, group.subject)
    if jobs then look_at_jobs(group, jobs, add) end
  end
  watch:close()
  return ("reached, %d nodes of %d subjects"):format(nodes, #groups), problems
end

return found
