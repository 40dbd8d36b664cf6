-- Negative controls: a suite that can't fail proves nothing. Each story plants a fault of its
-- own into a run of help/standing.lua, which must then say "not ok", and name the assertion.
local story = require "story"

local planted = {
  {"A1: completions", "s:submit('x', function() end)"},
  {"A1: completions", "s:submit('x', function(callback) keep = callback end) keep() keep()"},
  {"A1: inside the call", "s:submit('x', function(callback) callback() end)"},
  {"A2: own descriptors", "kit.open('/dev/null')"},
  {"A2: descriptors of", "kept = t.ask(fork.new(), 'return 1') " ..
    "s.watched[kit.getppid()] = {[0] = 'nowhere'}"},
  {"A5: .* memory", "kept = ('x'):rep(1 << 20)"},
  {"A5: references", "for i = 1, 20 do debug.getregistry()[{}] = i end"},
  {"A6", "fork.new():run('type', function(_, socket) socket:close() kit.msleep(400) end) " ..
    "t.within(5, function() return not fork.step(0.01) end)"},
  {"A7", "kit.disposition(kit.SIGUSR2, 'ignore')"},
  {"left over", "require('faultkit').spawn({'sleep', '20'}, {})"},
  {"A4: orphans", "local pid = require('faultkit').spawn({'sh', '-c', 'sleep 20 & echo'}, {}) " ..
    "kit.waitpid(pid)"},
}

for i, row in ipairs(planted) do
  story.test(("a planted fault is found: %s (%d)"):format(row[1], i), {deadline = 30},
    function(t)
    local out = t:lua([[
      local standing, story = require "standing", require "story"
      local fork, kit = require "moonfork", require "testkit"
      standing.test("planted", function(t, s)
        local _ = fork, kit, t, s
        ]] .. row[2] .. [[

      end)
      for pid, process in pairs(kit.processes()) do
        if process.comm == "sleep" then
          local f = io.open("/proc/" .. pid .. "/environ")
          local text = f and f:read("a") or ""
          if f then f:close() end
          if text:find("MOONFORK_STORY=" .. (os.getenv "MOONFORK_STORY"), 1, true) then
            kit.kill(pid, 9)
          end
        end
      end
      story.done()
    ]])
    t.match(out, "not ok 1 %- planted")
    t.match(out, row[1])
  end)
end

story.test("a run without a planted fault passes", function(t)
  local out, code, err = t:lua [[
    require("standing").test("clean", function() end)
    require("story").done()
  ]]
  t.eq(code, 0, out .. err)
end)

story.done()
