-- The first failure of a chain goes to the call that finishes it; one that no such call ever
-- reports goes to on_error when the process is closed or collected, once. Processes that had
-- been made an rpc or a pool lost theirs.
local story = require "story"
local fork = require "moonfork"

-- What on_error gets of what f leaves behind, as messages.
local function unreported(t, f, expected)
  local got = {}
  fork.on_error(function(err)
    got[#got + 1] = err.message
    t.ok(err.code and err.started, "an error object")
  end)
  f()
  for _ = 1, 3 do collectgarbage() end
  fork.loop()
  if expected > 0 then t.within(5, function() return #got >= expected end) end
  fork.step(0.1)
  for _ = 1, 3 do collectgarbage() end
  fork.loop()
  fork.on_error(nil)
  t.eq(#got, expected, table.concat(got, "; "))
  return got[1]
end

local BREAK = {
  there = function() return fork.new():eval "error('lost', 0)" end,
  here = function() return fork.new():send_arg(0 / 0) end,
}

for where, broken in pairs(BREAK) do
  local text = where == "there" and "lost" or "argument #1"
  local function case(name, f)
    story.test(("%s, a failure %s: told once"):format(name, where), function(t)
      t.match(unreported(t, function() f(t, broken()) end, 1), text)
    end)
  end
  local function quiet(name, f)
    story.test(("%s, a failure %s: not told again"):format(name, where), function(t)
      unreported(t, function() f(t, broken()) end, 0)
    end)
  end

  case("closed", function(_, p) p:close() end)
  case("collected", function() end)
  case("closed with a clone", function(_, p)
    p:fork():close()
    p:close()
  end)
  case("an rpc closed", function(_, p) p:rpc "type":close() end)
  case("an rpc collected", function(_, p) p:rpc "type" end)
  case("an rpc of a clone closed", function(_, p)
    p:fork():rpc "type":close()
    fork.loop()
    p:close()
  end)
  if where == "here" then case("a pool closed", function(_, p) p:pool("type"):close() end) end
  case("a pool that had begun closed", function(t, p)
    local pool = p:pool("type", {idle = 1})
    if where == "there" then t.within(5, function() return pool:stats().state == "failed" end) end
    pool:close()
  end)

  quiet("run", function(t, p)
    t.eq(p:run "type", nil)
    p:close()
  end)
  quiet("run with a callback", function(_, p) p:run("type", function() end) end)
  quiet("run with a callback, closed at once", function(_, p)
    p:run("type", function() end)
    p:close()
  end)
  if where == "there" then
    story.test("there, a failure after the coroutine of its run is gone: told once", function(t)
      local gate = t:tmp() .. "/gate"
      os.execute(("mkfifo '%s'"):format(gate))
      t.match(unreported(t, function()
        local p = fork.new():eval(("io.open(%q):close() error('lost', 0)"):format(gate))
        fork.set_waiter(coroutine.yield)
        local waiting = coroutine.create(function() p:run "type" end)
        coroutine.resume(waiting)
        fork.set_waiter(nil)
        t.eq(coroutine.status(waiting), "suspended")
        coroutine.close(waiting)
        io.open(gate, "w"):close()
        local ended
        p:on_exit(function() ended = true end)
        t.within(10, function() return ended end)
        p:close()
      end, 1), text)
    end)
  end
  quiet("run of a clone", function(t, p)
    t.eq(p:fork():run "type", nil)
    p:close()
  end)
  -- It was told at the close of a process whose failure came to be known later, and by its clone's run as well:
  -- so it was with the usual chain, whose first objects nobody has kept.
  quiet("run of a clone with a callback, closed at once", function(_, p)
    p:fork():run("type", function() end)
    p:close()
  end)
  quiet("run of a clone of a clone with a callback, nothing kept", function(_, p)
    p:fork():fork():run("type", function() end)
    p = nil -- luacheck: ignore
    for _ = 1, 3 do collectgarbage() end
  end)
  if where == "there" then -- else it was known at the close already
    quiet("run of a clone, closed before", function(t, p)
      local q = p:fork()
      p:close()
      t.eq(q:run "type", nil)
    end)
  end
  quiet("a call of a clone, closed before", function(t, p)
    local rpc = p:fork():rpc "type"
    p:close()
    t.eq(rpc:call(), nil)
    rpc:close()
  end)
  quiet("wait", function(t, p)
    t.eq(p:wait(), nil)
    p:close()
  end)
  quiet("to_fd", function(t, p) t.eq(p:to_fd(), nil) end)
  quiet("save", function(t, p)
    local ok, err = p:save(t:file "image")
    t.eq(ok, nil)
    t.match(err.message, text)
    p:close()
  end)
  quiet("save of a clone, with a callback", function(t, p)
    local told
    local q = p:fork():save(t:file "image", function(err) told = err end)
    t.within(5, function() return told end)
    t.match(told.message, text)
    q:close()
    p:close()
  end)
  quiet("a call", function(t, p)
    local rpc = p:rpc "type"
    t.eq(rpc:call(), nil)
    rpc:close()
  end)
  quiet("a call of a clone", function(t, p)
    local rpc = p:fork():rpc "type"
    t.eq(rpc:call(), nil)
    rpc:close()
    fork.loop()
    p:close()
  end)
  quiet("a pool's call", function(t, p)
    local pool = p:pool "type"
    t.eq(pool:call(), nil)
    pool:close()
  end)
  quiet("a pool's call of a clone", function(t, p)
    local pool = p:fork():pool "type"
    t.eq(pool:call(), nil)
    pool:close()
    fork.loop()
    p:close()
  end)
  quiet("on_error of an rpc", function(t, p)
    local told
    local rpc = p:rpc("type", {on_error = function(err) told = err end})
    t.within(5, function() return told end)
    rpc:close()
  end)
  quiet("on_error of a pool", function(t, p)
    local told
    local pool = p:pool("type", {idle = 1, on_error = function(err) told = err end})
    t.within(5, function() return told end)
    pool:close()
  end)
  quiet("reload", function(t, p)
    local pool = fork.new():pool "type"
    t.eq(pool:reload(p), nil)
    pool:close()
  end)
end

-- Failures were told apart by their words: that of a clone which failed by itself was dropped if its template
-- had failed with the same ones, and the other way round.
-- A clone and its template, each of which has been forked, and then fails; the first of them has failed when the
-- second one begins to.
local function two_failures(t, order)
  local p = fork.new():eval "function fails() error('lost', 0) end"
  local pair = {template = p, clone = p:fork()}
  for _, process in pairs(pair) do t.within(5, function() return process:pid() end) end
  for _, name in ipairs(order) do
    local ended
    pair[name]:on_exit(function() ended = true end)
    pair[name]:eval "fails()"
    t.within(10, function() return ended end)
  end
  return pair.template, pair.clone
end

local ORDERS = {["the template first"] = {"template", "clone"}, ["the clone first"] = {"clone", "template"}}
for name, order in pairs(ORDERS) do
  local function twice(what, expected, f)
    story.test(("a clone fails with its template's words, %s, %s: each is told"):format(name, what), function(t)
      unreported(t, function() f(t, two_failures(t, order)) end, expected)
    end)
  end
  twice("both closed", 2, function(_, p, clone)
    p:close()
    clone:close()
  end)
  twice("both closed, the clone first", 2, function(_, p, clone)
    clone:close()
    p:close()
  end)
  twice("both collected", 2, function() end)
  twice("the clone's run reports", 1, function(t, p, clone)
    t.error(select(2, clone:run "type"), "REMOTE", "lost")
    p:close()
  end)
  twice("the template's run reports", 1, function(t, p, clone)
    t.error(select(2, p:run "type"), "REMOTE", "lost")
    clone:close()
  end)
  twice("a call of the clone reports", 1, function(t, p, clone)
    local rpc = clone:rpc "type"
    t.error(select(2, rpc:call()), "REMOTE", "lost")
    rpc:close()
    p:close()
  end)
end

-- What a clone's run had told was kept at its template, which had not failed, and the template's own failure was
-- taken for that. (A clone's failure that is its template's, too, is never told before the template's is known.)
story.test("a template fails with the words of a fork that it has refused: it is told", function(t)
  t.eq(unreported(t, function()
    local p = fork.new():eval [[require "moonfork.clone".before_fork(function() return false, "no room" end)]]
    t.error(select(2, p:fork():run "type"), "FORK_FAILED", "^no room$")
    p:eval "error('no room', 0)":close()
  end, 1), "no room")
end)

story.test("a worker that dies and a template that is started again are no failure of the chain", function(t)
  unreported(t, function()
    local pool = fork.new():eval "function f(x) if x then os.exit(1) end return 1 end":pool("f", {max = 1})
    t.eq(pool:call(true), nil)
    t.eq(pool:call(), 1)
    pool:close()
  end, 0)
end)

story.done()
