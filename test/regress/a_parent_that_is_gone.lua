-- After os.exit or kill -9 of the parent, with answers that it had not read, each worker printed
-- "moonfork.rpc: Connection reset by peer" with a traceback. A parent that is gone is a normal
-- end, in every mode and at every moment: nothing is printed, and who can still end by itself
-- ends with 0.
local story = require "story"
local kit = story.kit

local SCRIPT = [[
  local fork, kit = require "moonfork", require "testkit"
  local mode, finish, ms, options = %q, %q, %d, {max = 2, start = 0, idle = 2}
  local is_settled = %s
  local p = fork.new {leash = %q}:eval(...)
  local function nothing() end
  if mode:find "async" then options.async = true end
  if mode:find "events" then options.on_event = nothing end
  if mode:find "init" then options.init = "init" end
  if mode:find "handles" then options.handles = true end
  if mode:find "strict" then options.strict = true end
  local name = mode:find "async" and "later" or mode:find "events" and "noisy" or "echo"
  if mode:find "pool" then
    options.strict = nil
  else
    options.max, options.start, options.idle = nil, nil, nil
  end
  if mode:find "run" then
    local n = 0
    fork.step(0.01)
    for _ = 1, 10 do p:fork():run("echo", function() n = n + 1 end) end
    while is_settled and n < 10 do fork.step(0.1) end
  else
    local server = mode:find "pool" and p:pool(name, options) or p:rpc(name, options)
    if is_settled and mode:find "pool" then
      repeat fork.step(0.01) until server:stats().idle == 2
    elseif is_settled or ms %% 3 == 0 then
      assert(server "first")
    end
    local text = ("x"):rep(ms %% 2 == 0 and 10 or 20000)
    for _ = 1, 100 do server(text, nothing) end
  end
  fork.step(0)
  kit.msleep(ms)
  if finish == "exit" then os.exit(0) end
  if finish == "state" then os.exit(0, true) end
  kit.kill(kit.getpid(), 9)
]]

local FUNCTIONS = [[
  local rpc = require "moonfork.rpc"
  function echo(...) return ... end
  function init() for i = 1, 200 do rpc.event(i, ("y"):rep(1000)) end end
  function noisy(...) for i = 1, 20 do rpc.event(i) end return ... end
  function later(done, ...)
    local uv, args = require "luv", table.pack(...)
    local timer = uv.new_timer()
    timer:start(math.random(0, 3), 0, function()
      timer:close()
      pcall(rpc.event, "some", "thing")
      rpc.event "more"
      done(table.unpack(args, 1, args.n))
    end)
  end
]]

local seed = tonumber(os.getenv "STORY_SEED" or "") or os.time()
math.randomseed(seed)

for _, mode in ipairs {"rpc", "rpc strict", "rpc async", "rpc events", "rpc init events",
  "rpc async events init", "rpc handles", "pool", "pool async", "pool events", "run"} do
  story.test("nothing is printed by what its parent leaves: " .. mode, {deadline = 60,
    needs = mode:find "async" and "luv"}, function(t)
    t.note("STORY_SEED=%d", seed)
    for _, finish in ipairs {"exit", "state", "killed"} do
      for _ = 1, 6 do
        local leash = math.random(2) == 1 and "keep" or "kill"
        local source = ("local function main(...) %s end main(%q)"):format(
          SCRIPT:format(mode, finish, math.random(0, 30), "false", leash), FUNCTIONS)
        local out, code, err = t:lua(source)
        t.eq({out, err}, {"", ""}, finish)
        t.eq(code, finish == "killed" and 137 or 0)
      end
    end
    kit.msleep(100)
    for _, name in ipairs(kit.ls(t:tmp())) do -- what came after its end
      if name:find "%.err$" then t.eq(t.read(t:tmp() .. "/" .. name), "", name) end
    end
  end)
end

local function children()
  local found = {}
  for pid, p in pairs(kit.processes()) do
    if p.ppid == kit.getpid() then found[pid] = true end
  end
  return found
end

-- This process takes up the orphans, and so sees how they end. They have entered their functions
-- by then: who is in user code before that is killed.
story.test("who can end by itself because the parent is gone has the exit status 0",
{deadline = 60, census = false}, function(t)
  local own = children()
  kit.subreaper(true)
  for _, mode in ipairs {"rpc", "rpc async", "rpc init events", "pool", "run"} do
    if not mode:find "async" or package.searchpath("luv", package.cpath) then
      local source = ("local function main(...) %s end main(%q)"):format(
        SCRIPT:format(mode, "exit", 30, "true", "keep"), FUNCTIONS)
      t:lua(source)
      local n, left = 0, nil
      t.outside(5, function()
        left = nil
        for pid in pairs(children()) do
          if not own[pid] then
            local ended, how, code = kit.waitpid(pid, true)
            if ended == pid then
              t.eq({how, code}, {"exit", 0}, mode)
              n = n + 1
            end
            left = pid
          end
        end
        return not left
      end, mode)
      t.ok(n >= 1, mode)
    end
  end
  kit.subreaper(false)
end)

story.done()
