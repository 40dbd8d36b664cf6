-- What a process on the common path costs, in numbers that do not depend on the machine's speed or
-- load: page faults of all that take part, and how often its parent and its template sleep and are
-- woken. Each number is that of the best of some rounds, since others' work only adds to it.
local story = require "story"
local fork = require "moonfork"

local FAULTS_MAX = 10 -- parent, template and clone: 8 were counted
local PARENT_SLEEPS_MAX, TEMPLATE_SLEEPS_MAX = 3, 1.2 -- 1.1 to 1.9, and 0.8 to 1
local N, ROUNDS = 40, 10

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

-- Page faults of a process, and of its children that were waited for.
local function faults(pid)
  local words = {}
  for word in read("/proc/" .. pid .. "/stat"):match ".*%) (.*)":gmatch "%S+" do
    words[#words + 1] = tonumber(word) or word
  end
  return words[8], words[9]
end

local function sleeps(pid)
  return tonumber(read("/proc/" .. pid .. "/status"):match "\nvoluntary_ctxt_switches:%s+(%d+)")
end

local function by_waiting(template, name)
  local p = template:fork()
  local s = p:run(name)
  s:read "a"
  s:close()
  p:wait()
end

local function by_callbacks(template, name)
  local p, open = template:fork(), 2
  p:on_exit(function() open = open - 1 end)
  p:run(name, function(_, s)
    s:read "a"
    s:close()
    open = open - 1
  end)
  while open > 0 do fork.step(1) end
end

local function count(template, some, name)
  local pid = template:pid()
  local function now()
    local own, childrens = faults "self"
    return { faults = own + childrens + faults(pid), parent = sleeps "self", template = sleeps(pid) }
  end
  local best = {}
  for _ = 1, ROUNDS do
    local before = now()
    for _ = 1, N do some(template, name) end
    local after = now()
    for what, n in pairs(before) do
      best[what] = math.min(best[what] or math.huge, (after[what] - n) / N)
    end
  end
  return best
end

-- Where the kernel gives no huge pages, births fault the program's code in piece by piece.
local function has_huge_text(pid)
  local text = read("/proc/" .. pid .. "/smaps"):match "moonfork%-text.-VmFlags"
  return text and (tonumber(text:match "ShmemPmdMapped:%s+(%d+)" or 0) > 0 or
    tonumber(text:match "FilePmdMapped:%s+(%d+)" or 0) > 0)
end

for _, case in ipairs { { "by waiting calls", by_waiting }, { "by callbacks", by_callbacks } } do
  for _, name in ipairs { "nothing", "say" } do
    story.test(("a process %s: %s"):format(case[1], name), { busy = true }, function(t)
      if story.is_sanitized then t.skip "a sanitizer has pages of its own" end
      local template = fork.new_exec():eval
        "function nothing() end function say(s) s:write 'hello' end"
      assert(template:seal():memory())
      case[2](template, name)
      local best = count(template, case[2], name)
      if has_huge_text(template:pid()) then
        t.ok(best.faults <= FAULTS_MAX, best.faults .. " page faults")
      end
      t.ok(best.parent <= PARENT_SLEEPS_MAX, best.parent .. " sleeps of the parent")
      t.ok(best.template <= TEMPLATE_SLEEPS_MAX, best.template .. " sleeps of the template")
      template:close()
    end)
  end
end

story.done()
