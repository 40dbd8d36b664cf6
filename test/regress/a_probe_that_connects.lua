-- listen("/path") where somebody listens looked whether he lives by connecting to him: his
-- accept then returned a connection that nobody had made.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

story.test("a second listen on a path leaves no trace in the first", function(t)
  local path = t:file "s"
  local listener = t.got(fork.socket.listen(path))
  listener:settimeout(0.1)
  for _ = 1, 3 do
    local second, message, errno = fork.socket.listen(path)
    t.eq(second, nil)
    t.match(message, "in use")
    t.eq(errno, 98)
  end
  local connection, message = listener:accept()
  t.eq(connection, nil, "nobody has connected")
  t.match(message, "timed out")
  local client = t.got(fork.socket.connect(path))
  t.got(listener:accept()):write "hello"
  t.eq(client:read(5), "hello")
end)

story.test("an abandoned path is still taken over, another file is not", function(t)
  local path = t:file "s"
  t.got(fork.socket.listen(path)):close()
  t.ok(kit.ls(t:tmp())[1], "the path has stayed")
  local listener = t.got(fork.socket.listen(path))
  local client = t.got(fork.socket.connect(path))
  t.got(listener:accept())
  client:close()
  local second, message = fork.socket.listen(t:file("plain", "text"))
  t.eq(second, nil)
  t.match(message, "in use")
  t.eq(t.read(t:file "plain"), "text")
end)

story.done()
