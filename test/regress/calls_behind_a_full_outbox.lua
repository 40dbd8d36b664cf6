-- An asynchronous server stops reading calls while more than 4 MiB of its answers wait. When
-- a single write took all of them (the parent read as fast as it wrote, or the socket has a
-- large buffer, as here) it slept on calls that it had read before, until something else
-- woke it: their answers never came.
local story = require "story"
local fork = require "moonfork"

story.test("calls that were read are entered when all answers went at once", {needs = "luv"},
  function(t)
    local rpc = fork.new():eval [[
      local kit, faults = require "testkit", require "faultkit"
      local answer = ("x"):rep(1 << 20)
      function f(done, what)
        if what ~= "widen" then return done(answer) end
        local widest = 0
        for fd in pairs(kit.fds()) do
          widest = math.max(widest, faults.sndbuf(fd, 16 << 20) or 0)
        end
        done(widest)
      end
    ]]:rpc("f", {async = true})
    if t.got(rpc "widen") < 8 << 20 then t.skip "needs the right to make buffers large" end
    local n = 0
    for _ = 1, 20 do
      rpc("answer", function(err) n = n + (err and 0 or 1) end)
    end
    t.within(10, function() return n == 20 end)
    rpc:close()
    fork.loop()
  end)

story.done()
