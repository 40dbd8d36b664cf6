-- crowd: more clones than a limit of processes allows, asked for at once. The first half runs in a host
-- (host.lua), the second in the test's process.
--
--   host:  local crowd = require "crowd"
--          local clones = crowd.ask(template)       of the template, which has required "actor"
--          crowd.leave(clones)
--          crowd.tell(template, clones)             prints what has become of them, and tries once more
--   test:  crowd.check(t, h, fewest, most, seconds) so many have started, the others are FORK_FAILED
local crowd = {}

local ASKED = 50

--- ask(template): {started = list of {socket, process}, failed = number, errors = kind -> text}.
function crowd.ask(template)
  local fork = require "moonfork"
  local clones = {started = {}, failed = 0, errors = {}}
  for _ = 1, ASKED do
    local p = template:fork()
    p:run("actor:hold", function(err, socket)
      if socket then
        clones.started[#clones.started + 1] = {socket, p}
      else
        clones.failed = clones.failed + 1
        clones.errors[err.code .. " " .. err.started] = tostring(err)
      end
    end)
  end
  fork.loop()
  return clones
end

function crowd.leave(clones)
  for _, pair in ipairs(clones.started) do
    pair[1]:close()
    assert(pair[2]:wait(5))
  end
end

function crowd.tell(template, clones)
  print("started " .. #clones.started .. " failed " .. clones.failed)
  for kind, text in pairs(clones.errors) do print("error " .. kind .. ": " .. text) end
  crowd.leave(clones)
  local socket, err = template:fork():run("actor:hold")
  print("again " .. tostring(socket and "works" or err))
end

function crowd.check(t, h, fewest, most, seconds)
  local started, failed = h:says("started (%d+) failed (%d+)", seconds)
  started, failed = tonumber(started), tonumber(failed)
  t.eq(started + failed, ASKED)
  t.ok(started >= fewest and started <= most, started .. " have started")
  local errors = {}
  for kind, text in h:out():gmatch("error (%S+ %S+): ([^\n]*)") do errors[kind] = text end
  t.match(errors["FORK_FAILED no"], "temporarily unavailable")
  t.eq(next(errors, "FORK_FAILED no"), nil, "and no other error")
  h:says("again works")
  h:succeeds()
end

return crowd
