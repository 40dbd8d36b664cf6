-- other_lua.lua: LuaJIT or Lua 5.1 to 5.3 as the parent. What runs over there is Lua 5.4. Try
--
--   ./dev run luajit example/other_lua.lua
--
local fork = require "moonfork.ffi"

local template = fork.new():eval [[
  function hello(socket, name) socket:write("hello ", name, " from ", _VERSION) end
  function count(text)
    local words = 0
    for _ in text:gmatch "%w+" do words = words + 1 end
    return words
  end
]]

-- A clone for each name; `run` gives the number of a descriptor.
for _, name in ipairs { "one", "two", "three" } do
  local fd = assert(template:fork():send_arg(name):run "hello")
  io.write(assert(fork.read(fd)), "\n")
  fork.close(fd)
end

-- A pool of workers: strings there and back.
local pool = template:pool("count", { max = 2 })
local total = 0
for i = 1, 1000 do
  pool(("word "):rep(i), function(err, words)
    if err then error(err) end
    total = total + tonumber(words)
  end)
end
fork.loop() -- until every call is answered
print(total .. " words")
assert(pool:drain())
