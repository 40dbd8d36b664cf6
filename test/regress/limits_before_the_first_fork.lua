-- At its first fork the template program moves its code to a file in memory. Under a limit on the
-- size of files that was a signal (SIGXFSZ), and the template died of it; each limit must let it
-- fork, with its code where it is.
local story = require "story"
local fork = require "moonfork"

for name, limits in pairs {
  ["the size of files"] = { fsize = 4096 },
  ["no files at all"] = { fsize = 0 },
  ["address space"] = { as = 256 << 20 },
  ["descriptors"] = { nofile = 16 },
} do
  story.test("a template forks under a limit on " .. name, function(t)
    if limits.as and story.is_sanitized then
      t.skip "the sanitizer needs more address space"
    end
    local template = fork.new_exec():limit(limits):eval "function f(s) s:write 'here' end"
    local p = template:fork()
    local s = t.got(p:run "f")
    t.eq(s:read "a", "here")
    s:close()
    t.eq(t.got(p:wait()).code, 0)
    template:close()
  end)
end

story.done()
