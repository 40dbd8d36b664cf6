-- A process that the caller killed before its program had said hello was reported as a program that
-- could not be started: `wait` gave TEMPLATE_START and not the status, and so did on_error. A
-- moment later it was neither.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local makers = {
  new_exec = fork.new_exec,
  template = fork.template,
  remote = function() return fork.remote {command = {"sh", "-c", "exec moonfork agent"}} end,
  commands = function() return fork.new_exec():eval "x = 1" end,
}

for name, make in pairs(makers) do
  story.test("a " .. name .. " that is killed at once has a status", function(t)
    local reports = {}
    fork.on_error(function(err) reports[#reports + 1] = tostring(err) end)
    for _, signal in ipairs {"KILL", "TERM"} do
      local p = make()
      t.eq(p:kill(signal), true)
      local status, err = p:wait(20)
      t.eq(err, nil)
      t.eq(status.signal, kit["SIG" .. signal])
      p:close()

      local ended
      local q = make():on_exit(function(s) ended = s end)
      t.eq(q:kill(signal), true)
      t.within(20, function() return ended end, "the end is told")
      t.eq(ended.signal, kit["SIG" .. signal])
      q:close()
    end
    fork.loop()
    fork.on_error(nil)
    t.eq(table.concat(reports, "\n"), "")
  end)
end

story.test("run, and what is forked from it, are told that it died", function(t)
  local p <close> = fork.new_exec()
  local q <close> = p:fork()
  p:kill "KILL"
  local _, err = q:run "type"
  t.error(err, "TEMPLATE_DIED", "signal 9")
  t.eq(err.started, "no")
  _, err = p:run "type"
  t.error(err, "CLONE_DIED", "signal 9")
  t.eq(err.started, "no")
  t.eq(err.exit.signal, 9)
end)

story.done()
