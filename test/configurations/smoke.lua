-- smoke.lua: what each configuration has to do with its own Lua: processes, descriptors, arguments,
-- calls, a pool, a process in a new interpreter, an error with its place, and the end.
local fork = require "moonfork"

local template = fork.new():eval [[
  function hello(socket, name) socket:write("hello ", name) end
  function double(n) return 2 * n end
  function fail() error "on purpose" end
  function die() os.exit(7) end
]]
for i = 1, 50 do
  local socket = assert(template:fork():send_arg(tostring(i)):run "hello")
  assert(socket:read "a" == "hello " .. i)
  socket:close()
end

local rpc = assert(template:fork():rpc "double")
for i = 1, 200 do assert(rpc:call(i) == 2 * i) end
assert(rpc:call(("x"):rep(0) .. "21") == 42)
rpc:close()

local _, err = assert(template:fork():rpc "fail"):call()
assert(tostring(err):find("on purpose", 1, true), err)

local process = template:fork()
assert(process:run "die"):close()
assert(assert(process:wait()).code == 7)

local fresh = fork.new_exec():eval "function version(socket) socket:write(_VERSION) end"
local socket = assert(fresh:run "version")
assert(socket:read "a" == _VERSION)
socket:close()
local pool = assert(template:pool("double", { start = 2, max = 2 }))
local sum = 0
for i = 1, 5 do sum = sum + assert(pool:call(i)) end
assert(sum == 30, sum)
pool:close()
print "smoke: ok"
