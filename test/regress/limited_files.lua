-- Files in memory count as files: where a limit on their size (ulimit -f, process:limit) is
-- lower than what one of ours needs, to make it is a signal that ends the process. The heap
-- minded that; a host died at its first fork, and a limited template at its next one.
local story = require "story"
local fork = require "moonfork"

-- (What the host prints goes to a file, too.)
for _, limit in ipairs {1024, 4096, 100000} do
  story.test(("a host that may write files of %d bytes"):format(limit), function(t)
    local out, code = t:lua([[
      local fork = require "moonfork"
      local template = fork.new():eval "function f(socket) socket:write 'here' end"
      local p = template:fork()
      io.write(p:run "f":read "a", " ", p:wait().code)
    ]], {before = "prlimit --fsize=" .. limit})
    t.eq({out, code}, {"here 0", 0})
  end)

  story.test(("a template that may write files of %d bytes"):format(limit), function(t)
    for _, make in ipairs {fork.new, fork.new_exec} do
      local template = make():limit {fsize = limit}
      template:eval "function f(socket) socket:write 'here' end"
      for _ = 1, 2 do
        local p = template:fork():fork()
        t.eq(t.got(p:run "f"):read "a", "here")
        t.eq(t.status(p).code, 0)
      end
      template:close()
    end
  end)
end

story.done()
