local pseudo = require "moonfork.pseudo" -- the program of threads.sh
local fork, waitpid = pseudo.fork, pseudo.waitpid

local function work(rounds)
  local t = {}
  for round = 1, rounds do
    for i = 1, 300 do t[i] = {i, tostring(i * round)} end
    collectgarbage(round % 2 == 0 and "generational" or "incremental")
    collectgarbage()
  end
  for i = 1, 300 do assert(t[i][2] == tostring(i * rounds)) end
end

local function child(f)
  local pid = assert(fork())
  if pid == 0 then f() end
  return pid
end

local pids = {}
for i = 1, 4 do
  pids[i] = child(function()
    work(3)
    pseudo.setenv("NUMBER", tostring(i))
    pseudo.chdir "/"
    pseudo.umask(18)
    local grandchild = child(function() work(1) pseudo.exit(3) end)
    assert(select(2, waitpid(grandchild)) == 3 and os.getenv "NUMBER" == tostring(i))
    local f = io.tmpfile()
    f:write "text"
    f:close()
    pseudo.exit(i)
  end)
end
work(3)
local reader = child(function() local r = pseudo.pipe() while true do r:read() end end)
assert(pseudo.kill(reader, "KILL"))
assert(select(3, waitpid(reader)) == 9)
for i = 1, 4 do assert(select(2, waitpid(pids[i])) == i) end
print "1 passed, 0 failed"
