-- The near end of a link, its command and the agent had every descriptor of the program that is not
-- close-on-exec, as all files of io.open and io.popen are. A pipe that the program had closed did not end
-- for its reader before the link did: `popen("sort", "w")`, a link, close: it waited for ever.
local story = require "story"
local fork = require "moonfork"
local remote = require "remote"
local kit = story.kit

local NUMBER = 57 -- above all that the library makes

story.test("a link has no descriptor of its program", function(t)
  local r, w = kit.pipe()
  t.eq(kit.dup2(w, NUMBER), NUMBER) -- not close-on-exec
  kit.close(w)
  local p = remote.over()
  local rpc = p:fork():eval "function add(a, b) return a + b end":rpc "add"
  t.eq(rpc(1, 2), 3)
  kit.close(NUMBER)
  local reader <close> = fork.socket.wrap(r)
  reader:settimeout(10)
  t.eq(reader:read(1), nil)
  t.eq(select(2, reader:read(1)), nil, "the end of the file, not of the time")
  t.eq(rpc(3, 4), 7, "the link lives")
  rpc:close()
end)

story.test("the command of a link that has not greeted has none either", function(t)
  local r, w = kit.pipe()
  t.eq(kit.dup2(w, NUMBER), NUMBER)
  kit.close(w)
  local file = t:tmp() .. "/begun"
  local p = fork.remote {command = {"sh", "-c", ("echo x >'%s'; exec sleep 1000"):format(file)}}
  p:on_exit(function() end)
  t.within(10, function() return t.read(file) == "x\n" end)
  kit.close(NUMBER)
  local reader <close> = fork.socket.wrap(r)
  reader:settimeout(10)
  t.eq(reader:read(1), nil)
  t.eq(select(2, reader:read(1)), nil)
  p:close()
  fork.loop()
end)

story.done()
