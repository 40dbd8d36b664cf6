-- An error's text ended at its first NUL, and of a status with such an error, or with a message
-- as long as the room for last words, nothing was left of the traceback.
local story = require "story"
local fork = require "moonfork"

local RAISE = "local text = ... function f() error(text, 0) end"

story.test("a NUL in an error's text is shown, and the rest follows", function(t)
  local p = fork.new {stderr = "null"}:eval(RAISE, "a\0b\0")
  local q = p:fork()
  t.got(q:run "f")
  t.match(t.status(q).error, "^a\\0b\\0\nstack traceback:\n.*function 'f'")
  local rpc = p:rpc "f"
  local _, err = rpc()
  t.eq(t.error(err, "REMOTE").message, "a\\0b\\0")
  t.match(err.traceback, "function 'f'")
  rpc:close()
  _, err = fork.new():eval "error('\0', 0)":run "f"
  t.eq(t.error(err, "REMOTE").message, "\\0")
end)

story.test("a NUL in an error's text is shown on standard error, too", function(t)
  local path = t:file "stderr"
  local p = fork.new {stderr = assert(io.open(path, "w"))}:eval(RAISE, "x\0y")
  t.got(p:run "f")
  t.eq(t.status(p).code, 1)
  t.match(t.read(path), "^moonfork: x\\0y\nstack traceback:")
end)

story.test("a long message leaves room for the traceback", function(t)
  for _, unit in ipairs {"z", "\0"} do
    for _, n in ipairs {4096, 8100, 8192, 1000000} do
      local p = fork.new {stderr = "null"}
      p:eval("-- =e\nlocal unit, n = ... function f() error(unit:rep(n), 0) end", unit, n)
      t.got(p:run "f")
      local text = t.status(p).error
      t.match(text, "\nstack traceback:\n.*in function 'f'$", n)
      t.match(text, unit == "z" and "^zz" or "^\\0\\0", n)
      t.ok(#text > 4096 and #text <= 8192, #text)
      t.eq(text:find("... (cut)\nstack", 1, true) ~= nil, unit == "\0" or n > 8100, n)
    end
  end
end)

story.test("a long traceback leaves room for the message", function(t)
  local p = fork.new {stderr = "null"}:eval [[
    f = function() error(("m"):rep(6000), 0) end
    for i = 1, 20 do -- a line of the traceback has the global name of its function
      local inner = f
      f = function() return inner(), 1 end
      _G[("n"):rep(400) .. i] = f
    end
  ]]
  t.got(p:run "f")
  local text = t.status(p).error
  t.match(text, "^" .. ("m"):rep(100))
  t.match(text, "stack traceback:")
  t.eq(#text, 8192)
end)

story.done()
