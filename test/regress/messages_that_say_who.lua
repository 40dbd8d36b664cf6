-- Messages that did not say what they were about: the option name was in some and not in
-- others; an empty argument and a handle that is no process had the words of their code only.
local story = require "story"
local fork = require "moonfork"

local function message(t, p, code, name)
  local socket, err = p:run(name or "nothing")
  t.eq(socket, nil)
  return t.error(err, code).message
end

story.test("every message about a process with a name begins with it", function(t)
  local named = {name = "painter"}
  local function new() return fork.new(named) end
  for code, p in pairs {
    REMOTE = new():eval "error('no', 0)",
    EINVAL = new():chdir "/nowhere",
    CLONE_DIED = new():eval "os.exit(2)",
    TIMEOUT = fork.new {name = "painter", timeout = 0.1}:eval "while true do end",
    TEMPLATE_START = fork.new_exec {name = "painter", program = "/nowhere"},
    FORK_FAILED = fork.new():eval "require'moonfork.clone'.before_fork(function() return false end)"
      :fork(named),
  } do
    t.match(message(t, p, code), "^painter: ", code)
  end
  t.eq(message(t, new():eval "error('no', 0)", "REMOTE"), "painter: no")
  t.match(message(t, new(), "EINVAL", ""), "^painter: ")
  t.match(message(t, new():send_arg(0 / 0), "EINVAL"), "^painter: argument #1")
end)

story.test("a clone of a failed process has its message, with one name", function(t)
  for _, break_it in ipairs {
    function(p) return p:eval "error('no', 0)" end,
    function(p) return p:send_arg(0 / 0) end,
  } do
    local p = break_it(fork.new {name = "painter"})
    local _, err = p:fork {name = "child"}:run "nothing"
    t.match(err.message, "^painter: ")
    t.ok(not err.message:find("painter.*painter"), err.message)
    p:close()
  end
end)

story.test("the text on standard error has the name, too", function(t)
  local path = t:file "stderr"
  local p = fork.new {name = "painter", stderr = assert(io.open(path, "w"))}
  t.got(p:eval "function f() error('no', 0) end":run "f")
  t.match(t.status(p).error, "^no\n")
  t.match(t.read(path), "^moonfork: painter: no\n")
end)

story.test("an empty argument is named", function(t)
  t.eq(message(t, fork.new(), "EINVAL", ""), "argument #1 of 'run' is empty")
  t.eq(message(t, fork.new():chdir "", "EINVAL"), "argument #1 of 'chdir' is empty")
  t.eq(message(t, fork.new():require("string", ""), "EINVAL"), "argument #2 of 'require' is empty")
end)

story.test("an option that is an empty string is named, and so is the string", function(t)
  t.eq(message(t, fork.new_exec {program = ""}, "TEMPLATE_START"),
    "the option program is empty: the path of a template program expected")
  t.match(message(t, fork.new_exec {cwd = ""}, "EINVAL"), "option cwd '': ")
  for name, text in pairs {gc = "got ''", stdin = "got ''", env = "table expected, got string"} do
    t.raises("option '" .. name .. "': .*" .. text, fork.new_exec, {[name] = ""})
  end
  t.raises("not the name of a variable: ''", fork.new, {env = {[""] = "x"}})
  local p = fork.new()
  t.raises("'nofile': a whole number .* expected, got ''", p.limit, p, {nofile = ""})
  t.raises("'nofile': a whole number .* expected, got table", p.limit, p, {nofile = {}})
  for _, name in ipairs {"max", "load", "queue_max", "isolation"} do
    t.raises("option '" .. name .. "': .* expected, got ''", p.pool, p, "f", {[name] = ""})
  end
  t.raises("unknown option 'depth'", fork.new, {depth = ""})
  p:close()
end)

-- It was said of this program itself that it had been killed.
story.test("from_fd of a socket on which others speak says that it closed it", function(t)
  local ours, theirs = t.got(fork.socket.pair())
  theirs:write "GET / HTTP/1.0\r\n\r\n"
  local text = message(t, fork.from_fd(ours), "TEMPLATE_START")
  t.match(text, "does not speak moonfork's protocol %(.*%), and the socket was closed$")
  local program = t:file("noisy", "#!/bin/sh\necho this is no frame of the protocol >&3\nexec sleep 100\n")
  t.ok(os.execute("chmod +x '" .. program .. "'"))
  t.match(message(t, fork.new_exec {program = program}, "TEMPLATE_START"), "noisy .*%(.*%), and was killed$")
end)

story.test("from_fd of what can't be a process says so", function(t)
  local listener = t.got(fork.socket.listen(t:file "listener"))
  for what, handle in pairs {
    file = assert(io.open(t:file("file", "text"))),
    null = assert(io.open "/dev/null"),
    listener = listener,
  } do
    t.match(message(t, fork.from_fd(handle), "EINVAL"), "no process", what)
  end
end)

story.test("the audit says where the fixed seed is, and no more", function(t)
  local p = fork.new():eval "\n math.randomseed(42)":seal {audit = "strict"}
  t.match(message(t, p, "FORK_FAILED"), "fixed seed %(eval at [^%s]*messages_that_say_who.lua:%d+:2%);")
end)

story.done()
