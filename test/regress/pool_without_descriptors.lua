-- A pool whose template could not be forked, because the program had no descriptor left, said
-- that the template had ended and could not be started again: it was sent handles, or too much.
-- None of it was true, and the cause may pass.
local story = require "story"

local HEAD = [[
  local fork, kit = require "moonfork", require "testkit"
  local template = fork.new():send_arg "given":eval "function f(x) return x, ARG end"
  template:eval "ARG = require'moonfork.clone'.run_args()"
  assert(template:memory())
  local held = {}
  local function take()
    while true do
      local h = fork.socket.open("/dev/null", "r")
      if not h then return end
      held[#held + 1] = h
    end
  end
  local function let_go()
    while held[1] do table.remove(held):close() end
  end
]]

local function run(t, source)
  local out, code, err = t:lua(HEAD .. source, {shell = "ulimit -n 40"})
  t.eq({code, err}, {0, ""})
  return out
end

story.test("such a pool tries again, and has what the template was given", function(t)
  t.eq(run(t, [[
    take()
    local pool = template:fork():fork():eval "local g = f function f(x) return g(x + 1) end"
      :pool("f")
    local answer
    pool:call(1, function(...) answer = table.pack(...) end)
    local last = kit.now() + 0.1
    while kit.now() < last do fork.step(0.01) end
    print(answer == nil)
    let_go()
    fork.loop()
    print(table.unpack(answer, 1, answer.n))
    print(pool:stats().state, pool:stats().template_starts > 0, pool(2))
    pool:close()
    fork.loop()
  ]]), "true\nnil\t2\tgiven\nrunning\ttrue\t3\tgiven\n")
end)

story.test("when there is none for long, it fails with the reason", function(t)
  local out = run(t, [[
    take()
    local pool = template:fork():pool "f"
    local _, err = pool(1)
    print(err.code, err.started, err)
    let_go()
    _, err = pool(1)
    print(err.code)
    assert(pool:reload(template))
    print(pool(1))
  ]])
  t.match(out, "^FORK_FAILED\tno\tthe pool has failed; the last reason: "
    .. "the socket of the new process can't be made: Too many open files\nFORK_FAILED\n1\tgiven\n$")
end)

story.test("one that can't be started again says the reason, too", function(t)
  local out = run(t, [[
    local a, b = fork.socket.pair()
    template:send_fd(a)
    assert(template:memory())
    take()
    local _, err = template:fork():pool "f"(1)
    print(err.code, err)
  ]])
  t.match(out, "^FORK_FAILED\t.*Too many open files\n$")
end)

story.done()
