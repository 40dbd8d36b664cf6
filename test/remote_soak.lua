-- Many short processes behind a command, 16 at a time; one in five fails. None of them may be told dead
-- that ran, and each end has its status: no report overtakes the bytes of its process.
--
--   ./dev run lua5.4 test/remote_soak.lua [COUNT]      COUNT: 100,000
--
-- Prints what was wrong, if anything, and a line; the exit status is 0 when all was right.
local fork = require "moonfork"

local total = tonumber(arg[1] or 100000)
local command = ("exec '%s' agent '%s'"):format(os.getenv "MOONFORK_REMOTE", os.getenv "MOONFORK_TEMPLATE")
local template = fork.remote { command = { "sh", "-c", command }, stderr = "null" }
template:eval "function good(s) s:write 'x' end function bad(s) s:write 'x' error 'as it is meant' end"

local begun, done, wrong = 0, 0, 0

local function complain(...)
  wrong = wrong + 1
  print(...)
end

local function go()
  begun = begun + 1
  local fails = begun % 5 == 0
  local process = template:fork()
  process:run(fails and "bad" or "good", function(err, socket)
    if err then return complain("run", err.code, err.started, err.message) end
    process:on_exit(function(status)
      local text = socket:read "a"
      if text ~= "x" then complain("bytes", text) end
      if status.code ~= (fails and 1 or 0) then complain("exit", status.code, status.signal, status.unknown) end
      if fails and not (status.error or ""):find "as it is meant" then complain("last words", status.error) end
      socket:close()
      process:close()
      done = done + 1
      if begun < total then go() end
    end)
  end)
end

for _ = 1, math.min(16, total) do go() end
while done + wrong < total do fork.step(1) end
print(("%d processes, %d wrong"):format(done, wrong))
os.exit(wrong == 0)
