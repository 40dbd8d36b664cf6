-- A node that a C program makes of its own pool: libmoonfork-nats with libmoonfork, no Lua of the host.
-- Calls, one that is cancelled, a stored job, mf_dump, the drain, and an end at which nothing is left.
local story = require "story"
local helper = require "nats"
story.census = false -- the node is a program of its own

helper.test("a pool of a C program serves calls and jobs", function(t, nats)
  local server = helper.start(t, {jetstream = true})
  local path = t:tmp() .. "/out"
  local pipe <close> = assert(io.popen(("exec '%s/test/help/nats_worker' '%s' s JOBS >'%s' 2>&1"):format(
    os.getenv "MOONFORK_BUILD", server.url, path), "w"))
  local function said(pattern)
    t.outside(30, function() return (t.read(path) or ""):find(pattern) end, pattern .. " in what the node says")
  end
  said "^up\n"

  local far <close> = t.got(nats.pool(server.url, {subject = "s"}))
  t.eq({far:call("x", 1)}, {"did", "x", 1})
  t.eq({far:result(t.got(far:post({}, "y")), 30)}, {"did", "y"})
  local _, err = far:with{timeout = 0.5}:call "loop"
  t.eq(err.code, "TIMEOUT")
  pipe:write "look\n"
  pipe:flush()
  said "jobs\n$"
  local text = t.read(path)
  t.match(text, '\n  node "[^\n]*" of "s": open, engine [^\n]* UP,')
  t.match(text, "\n[23] calls, %d answers, 1 jobs\n$")

  t.eq({pipe:close()}, {true, "exit", 0})
  t.match(t.read(path), "\ndrained: all\nclosed\n$")
end)

story.done()
