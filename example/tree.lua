-- tree.lua: a function that runs programs, under a time limit. With tree=true the programs
-- belong to the worker: when a call takes too long, the worker, its shell and everything that
-- this has started are gone. The next call has a new worker.

local fork = require "moonfork"

local WORKER = [[
  function run(command)
    local pipe <close> = io.popen(command)
    return pipe:read "a"
  end
]]

local pool = fork.new():eval(WORKER):pool("run", { max = 1, call_timeout = 2, tree = true })

io.write(assert(pool:call "echo one"))
-- Two processes of the shell's, one of them in its background, and none minds SIGTERM.
local result, err = pool:call "trap '' TERM; sleep 6543 & sleep 6543; echo never"
print(result, err.code)
pool:close()

while os.execute 'ps -eo args | grep -q "^sleep 654[3]"' do fork.sleep(0.01) end
print "nothing of it is left"
