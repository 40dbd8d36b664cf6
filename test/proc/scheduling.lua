-- How processes are scheduled. A template that waits for commands does not preempt whoever sends it
-- one: it has SCHED_BATCH between its forks. On an idle machine the new process began on another
-- processor otherwise, and a process took a fifth more time. Nobody else has that policy: neither
-- user code, in templates and clones, nor what it starts. It is not taken where somebody has chosen
-- another one, nor where a filter of system calls might kill for it.
local story = require "story"
local host = require "host"

-- The policy and the nice value of a process, from the words of /proc/PID/stat after the name.
local STAT = [[
  function scheduling(path, file)
    file = file or assert(io.open(path or "/proc/self/stat"))
    local text, words = file:read "a", {}
    file:close()
    for word in text:match ".*%) (.*)":gmatch "%S+" do words[#words + 1] = word end
    return words[39] .. " " .. words[17]
  end
]]

-- What each of them has, a line each: the host, clones, a clone's child, user code of a template, that
-- code's child, a hook, the function that a template runs itself. In between it is seen that the template
-- has what it should, which holds for its first four forks, however long it waits for a processor.
local SCRIPT = STAT .. [[
  local fork = require "moonfork"
  local template, pid
  local function new_template()
    template = fork.new_exec():eval(]] .. ("%q"):format(STAT .. [[
    function child()
      return scheduling(nil, io.popen "LD_PRELOAD= exec cat /proc/self/stat")
    end
    function own(s) s:write(scheduling()) end
    function of_child(s) s:write(child()) end
    function noted(s) s:write(note) end
    function in_hook(s) s:write(hook) end
  ]]) .. [[)
    pid = template:pid()
  end
  local function ask(name)
    local s = assert(template:fork():run(name))
    local answer = s:read "a"
    s:close()
    return answer
  end
  local function await()
    local wanted = arg[1] and arg[1] .. " " .. scheduling():match "%S+$" or scheduling()
    local last = kit.now() + 30
    while scheduling("/proc/" .. pid .. "/stat") ~= wanted do
      if kit.now() > last then error("the template has not " .. wanted) end
      kit.msleep(1)
    end
  end
  new_template()
  print(scheduling())
  print(ask "own")
  await()
  print(ask "own")
  print(ask "of_child")
  await()
  template:eval "note = scheduling()"
  print(ask "noted")
  await()
  template:eval "note = child()"
  print(ask "noted")
  template:close()
  new_template()
  template:eval "require 'moonfork.clone'.before_fork(function() hook = scheduling() end)"
  print(ask "in_hook")
  await()
  print(ask "in_hook")
  await()
  local s = assert(template:run "own")
  print(s:read "a")
  s:close()
  template:close()
]]

-- wanted: the template's policy between forks; nil: the host's.
local function compare(t, wanted, before, expected)
  local h <close> = host.start(t, "arg = {" .. (wanted or "nil") .. "}" .. SCRIPT,
    { before = before })
  local how, number = h:ends(60)
  if number == 77 then t.skip "no filter of system calls can be set here" end
  t.eq({ how, number }, { "exit", 0 }, h:out() .. h:err())
  t.eq(h:out(), (expected .. "\n"):rep(9))
end

local function read(path)
  local f = io.open(path)
  local text = f and f:read "a"
  if f then f:close() end
  return text
end

assert(load(STAT))()
local here = scheduling() -- luacheck: ignore 113
local BATCH, OTHER = 3, 0

story.test("a template gives way, and nobody else does", function(t)
  if not read "/proc/self/schedstat" or not read "/proc/self/status":match "Seccomp:%s+0" or
    not here:match "^0 " then
    t.skip "nothing tells how long a process waits, or something filters system calls"
  end
  compare(t, BATCH, { "nice", "-n", "1" }, ("0 %d"):format(math.min(19, here:match "%-?%d+$" + 1)))
end)

for name, option in pairs { BATCH = "-b", IDLE = "-i" } do
  story.test(("a chosen policy stays: SCHED_%s"):format(name), function(t)
    if not os.execute(("chrt %s 0 true 2>/dev/null"):format(option)) then
      t.skip "chrt can't set it here"
    end
    local nice = here:match "%-?%d+$"
    compare(t, nil, { "chrt", option, "0" }, (name == "BATCH" and 3 or 5) .. " " .. nice)
  end)
end

story.test("with a filter of system calls no policy is asked for", function(t)
  compare(t, OTHER, { host.tool(t, "seccomp_run"), "ENOSYS", "pidfd_open" }, here)
  compare(t, OTHER, { host.tool(t, "seccomp_run"), "KILL",
    "sched_getscheduler,sched_setscheduler" }, here)
end)

story.done()
