-- hello.lua: what `moonfork serve` calls for each connection, in the examples of this folder.

local hello = {}

function hello.handle(connection)
  connection:settimeout(10)
  local name = connection:read("l")
  if name then connection:write("hello ", name, "\n") end
end

return hello
