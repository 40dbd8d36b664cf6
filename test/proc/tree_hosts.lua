-- The leash of processes with the option tree, at moments that nobody chose: parents that
-- make such processes all the time are killed, some of their processes by themselves or by
-- others at the same time, and nothing of what these had started may be left.
local story = require "story"
local host = require "host"
local kit = story.kit
story.census = false -- the parents end on purpose; what they leave is looked for by its mark

local rounds = host.rounds(20, 200)

-- Who has this mark among its arguments or in its environment.
local function marked(mark)
  local found = {}
  for pid, p in pairs(kit.processes()) do
    if p.state ~= "Z" and p.state ~= "X" then
      for _, name in ipairs { "environ", "cmdline" } do
        local f = io.open(("/proc/%d/%s"):format(pid, name), "rb")
        local text = f and f:read "a"
        if f then f:close() end
        if text and text:find(mark, 1, true) then found[#found + 1] = pid .. " " .. p.comm end
      end
    end
  end
  return found
end

local SOURCE = [[
  local template = fork.new_exec { env = { BROOD_MARK = arg[1] } }:eval [=[
    local clone = require "moonfork.clone"
    function f(s, how)
      kept = { io.popen("sleep 600 | sleep 600"), io.popen("trap '' TERM; sleep 600; sleep 600"),
        io.popen("(sleep 600 &)") }
      if how == "forks" then
        if clone.fork() == 0 then while true do os.execute "sleep 600" end end
      elseif how == "dies" then
        clone.kill(clone.pid(), "KILL")
      elseif how == "is killed" then
        os.execute("kill -9 " .. clone.pid())
      elseif how == "ends" then
        return
      end
      s:write "here\n"
      os.execute "sleep 600"
    end
  ]=]
  local hows = { "forks", "dies", "is killed", "ends", "stays" }
  local kept = {}
  print "ready"
  for i = 1, 1000 do
    local p = template:fork { tree = true }:send_arg(hows[i % #hows + 1])
    p:run("f", function(_, s) kept[#kept + 1] = s end)
    fork.step(0.001)
    if i % 20 == 0 then
      for _, s in ipairs(kept) do s:close() end
      kept = {}
    end
  end
  fork.sleep(600)
]]

story.test(("%d parents killed at random moments leave nothing"):format(rounds),
  { deadline = 20 + 2 * rounds }, function(t)
  local seed = tonumber(os.getenv "FAULT_SEED") or os.time()
  t.note("seed %d", seed)
  math.randomseed(seed)
  for round = 1, rounds do
    local mark = ("descendants-%d-%d-%d"):format(kit.getpid(), seed, round)
    do
      local h <close> = host.start(t, SOURCE, { script = { mark } })
      h:says "ready"
      kit.msleep(math.random(0, 60))
      h:kill(9)
    end
    local left
    local ok = pcall(t.outside, 10, function()
      left = marked(mark)
      return #left == 0
    end)
    if not ok then t.fail("round %d has left: %s", round, table.concat(left, ", ")) end
  end
end)

story.done()
