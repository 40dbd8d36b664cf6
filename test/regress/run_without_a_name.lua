-- run "" was refused at once, but nobody told the process: it stayed as it was, so wait(),
-- which is to give the remembered error, waited for ever.
local story = require "story"
local fork = require "moonfork"

story.test("a process whose run is refused here ends as after any failure", function(t)
  for _, make in ipairs {fork.new, fork.new_exec} do
    local p = make()
    local socket, err = p:run ""
    t.eq(socket, nil)
    t.error(err, "EINVAL")
    t.eq(err.started, "no")
    local status, again = p:wait(5)
    t.eq(status, nil)
    t.ok(rawequal(again, err), "the remembered error")
    t.eq(err.exit.code, 1)
    p:close()
  end
end)

story.test("its callback comes once, and nothing is reported besides", function(t)
  local told, other = 0, nil
  fork.on_error(function(err) other = err end)
  local p = fork.new()
  p:run("", function(err)
    told = told + 1
    t.error(err, "EINVAL")
  end)
  t.eq(told, 0, "not inside the call")
  local exit
  p:on_exit(function(status) exit = status end)
  t.within(5, function() fork.step(0.01) return exit end)
  p:close()
  fork.loop()
  fork.on_error(nil)
  t.eq(told, 1)
  t.eq(exit.code, 1)
  t.eq(other, nil)
end)

story.done()
