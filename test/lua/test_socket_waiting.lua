-- moonfork.socket: how it waits, for one and for several.
-- luacheck: globals TestWaiting TestPoll
local kit = require "socket_kit"
local lu, shim, socket = kit.lu, kit.shim, kit.socket
local need_shim, pair, counted = kit.need_shim, kit.pair, kit.counted
local fresh_name = kit.fresh_name

---- waiting ----

TestWaiting = counted {}

function TestWaiting.test_wait_function_may_yield()
  need_shim()
  shim.set_wait(function(...) return coroutine.yield(...) end)
  local a, b = pair()
  local reader = coroutine.wrap(function() return b:read("l", "n", 3) end)
  local fd, events, timeout = reader()
  lu.assertEquals({fd, events, timeout}, {b:fileno(), "r", nil})
  a:write("li")
  lu.assertEquals(reader(true), fd)
  a:write("ne\n1")
  lu.assertEquals(reader(true), fd)
  a:write("2 a")
  reader(true)
  a:write("bc")
  lu.assertEquals({reader(true)}, {"line", 12, " ab"})
  lu.assertEquals(coroutine.wrap(function() return b:read(1) end)(), "c")
  a:close()
  b:close()
end

function TestWaiting.test_lines_may_yield()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  local t = {}
  local reader = coroutine.wrap(function()
    for line in b:lines() do t[#t + 1] = line end
    return "end"
  end)
  reader()
  a:write("x\ny\nz")
  reader(true)
  lu.assertEquals(t, {"x", "y"})
  a:close()
  lu.assertEquals(reader(true), "end")
  lu.assertEquals(t, {"x", "y", "z"})
  b:close()
end

function TestWaiting.test_answers_of_the_wait_function()
  need_shim()
  local a, b = pair()
  shim.set_wait(function() return nil, "the sky fell", 42 end)
  lu.assertEquals({b:read(1)}, {nil, "the sky fell", 42})
  shim.set_wait(function() end)
  lu.assertEquals(select(2, b:read(1)), "the wait function returned nothing")
  shim.set_wait(function(_, _, timeout)
    shim.sleep(timeout)
    return false, "timed out"
  end)
  b:settimeout(0.01)
  lu.assertEquals({b:read(1)}, {nil, "timed out", 110})
  shim.set_wait(function() error("oh") end)
  lu.assertErrorMsgContains("oh", b.read, b, 1)
  a:close()
  b:close()
end

function TestWaiting.test_closed_while_waiting()
  need_shim()
  shim.set_wait(coroutine.yield)
  local a, b = pair()
  local reader = coroutine.wrap(function() return b:read(1) end)
  reader()
  b:close()
  lu.assertEquals({reader(true)}, {nil, "Bad file descriptor", 9})
  a:close()
end

function TestWaiting.test_non_blocking_underneath_with_a_reactor()
  need_shim()
  shim.set_wait(function() return false end)
  local a, b = pair()
  lu.assertTrue(shim.nonblocking(a:fileno()))
  lu.assertFalse(shim.nonblocking(b:fileno()))
  a:close()
  b:close()
end

-- The kernel says nothing to who watches a descriptor that is closed: the wait function does.
function TestWaiting.test_a_close_tells_who_waits()
  need_shim()
  local told = {}
  shim.set_wait(function(fd, events)
    if events == "" then told[#told + 1] = fd return end
    return coroutine.yield(fd)
  end)
  for _, give in ipairs {"close", "detach", "file"} do
    for _, wait in ipairs {function(s) return s:read(1) end, function(s, t) return socket.poll({t, s}) end} do
      local a, b = pair()
      local fd = b:fileno()
      local waiting = coroutine.wrap(wait)
      waiting(b, a)
      told = {}
      local result = b[give](b)
      lu.assertEquals(told, {fd})
      lu.assertEquals({waiting(true)}, {nil, "Bad file descriptor", 9})
      if give == "detach" then shim.close(result) elseif give == "file" then result:close() end
      a:close()
      lu.assertEquals(#told, 1) -- nobody waits for that one any more
    end
  end
  local a, b = pair()
  a:write("x")
  b:read(1)
  told = {}
  a:close()
  b:close()
  lu.assertEquals(told, {})
end

---- several at once ----

TestPoll = counted {}

function TestPoll.test_those_that_can_be_read()
  local a, b = pair()
  local c, d = pair()
  lu.assertEquals(socket.poll({a, b, c, d}, 0), {})
  a:write("x")
  local ready = socket.poll({a, b, c, d})
  lu.assertEquals(#ready, 1)
  lu.assertIs(ready[1], b)
  c:close() -- an end can be read, too
  ready = socket.poll({d, a, b}, math.huge)
  lu.assertEquals(#ready, 2)
  lu.assertIs(ready[1], d)
  lu.assertIs(ready[2], b)
  for _, s in ipairs {a, b, d} do s:close() end
end

function TestPoll.test_a_listener_and_what_was_read_ahead()
  local l = assert(socket.listen("127.0.0.1:0"))
  local a, b = pair()
  a:write("one\ntwo\n")
  lu.assertEquals(b:read(), "one")
  lu.assertEquals(socket.poll({l, b}, 0), {b})
  lu.assertEquals(b:read(), "two")
  lu.assertEquals(socket.poll({l, b}, 0), {})
  local c = assert(socket.connect(l:address()))
  lu.assertEquals(socket.poll({l, b}, 5), {l})
  l:accept():close()
  a:send_fd(0, "line\n")
  lu.assertEquals(b:read(), "line")
  lu.assertEquals(socket.poll({l, b}, 0), {b}) -- its descriptor waits
  for _, s in ipairs {a, b, c, l} do s:close() end
end

function TestPoll.test_time_out_is_an_empty_list()
  need_shim()
  local a, b = pair()
  local t0 = shim.now()
  lu.assertEquals(socket.poll({a, b}, 0.05), {})
  lu.assertTrue(shim.now() - t0 >= 0.05)
  b:settimeout(0) -- is of no account
  t0 = shim.now()
  lu.assertEquals(socket.poll({b}, 0.02), {})
  lu.assertTrue(shim.now() - t0 >= 0.02)
  a:close()
  b:close()
end

-- A program that has closed the last one of its list still has its pause.
function TestPoll.test_an_empty_list_waits_for_the_time()
  need_shim()
  lu.assertEquals(socket.poll({}, 0), {})
  local t0 = shim.now()
  lu.assertEquals(socket.poll({}, 0.05), {})
  lu.assertTrue(shim.now() - t0 >= 0.05)
end

function TestPoll.test_misuse()
  local a, b = pair()
  b:close()
  lu.assertErrorMsgContains("entry 2: a closed moonfork.socket", socket.poll, {a, b}, 0)
  lu.assertErrorMsgContains("entry 1", socket.poll, {"x"}, 0)
  lu.assertErrorMsgContains("entry 1", socket.poll, {{}}, 0)
  lu.assertErrorMsgContains("entry 2", socket.poll, {a, 99999}, 0)
  lu.assertErrorMsgContains("no socket to wait for, and no timeout", socket.poll, {})
  lu.assertErrorMsgContains("no socket to wait for, and no timeout", socket.poll, {}, math.huge)
  lu.assertErrorMsgContains("table", socket.poll, a, 0)
  lu.assertErrorMsgContains("not a number of seconds", socket.poll, {a}, 0/0)
  lu.assertErrorMsgContains("number", socket.poll, {a}, "soon")
  lu.assertError(socket.poll)
  a:close()
end

function TestPoll.test_all_kinds()
  need_shim()
  local rd, wr = shim.pipe()
  local r <close> = socket.wrap(rd)
  local w <close> = socket.wrap(wr)
  local path = os.tmpname()
  local f <close> = socket.open(path)
  lu.assertEquals(socket.poll({r, f}), {f}) -- a file never waits
  os.remove(path)
  lu.assertEquals(socket.poll({r, rd}, 0), {})
  w:write("x")
  lu.assertEquals(socket.poll({r, rd}), {r, rd})
  local foreign = setmetatable({}, {__index = {fileno = function() return rd end}})
  lu.assertEquals(socket.poll({foreign}), {foreign})
  r:read(1)
  lu.assertEquals(socket.poll({foreign}, 0), {})
  getmetatable(foreign).__index.dirty = function() return true end
  lu.assertEquals(socket.poll({foreign}, 0), {foreign})
end

-- Behind one descriptor, which is there only while it waits.
function TestPoll.test_with_a_reactor()
  need_shim()
  local a, b = pair()
  local c, d = pair()
  local before = shim.count_fds()
  shim.set_wait(coroutine.yield)
  local list = {b, d, b}
  local poller = coroutine.wrap(function() return socket.poll(list) end)
  local fd, events, timeout = poller()
  lu.assertEquals({events, timeout}, {"r", nil})
  lu.assertTrue(shim.is_cloexec(fd))
  list[1] = nil -- it has its own
  lu.assertEquals(poller(true), fd)
  local gathered <close> = socket.wrap(shim.dup(fd))
  shim.set_wait(nil)
  lu.assertEquals(socket.poll({gathered}, 0), {})
  c:write("x")
  lu.assertEquals(socket.poll({gathered}), {gathered})
  shim.set_wait(coroutine.yield)
  gathered:close()
  lu.assertEquals(poller(true), {d})
  lu.assertEquals(shim.count_fds(), before)
  -- Time out: no failure. One socket alone, or no time at all, needs no descriptor.
  for _, args in ipairs {{{b, a}, 5}, {{b}, 5}, {{b, a}, 0}} do
    poller = coroutine.wrap(function() return socket.poll(args[1], args[2]) end)
    fd, events, timeout = poller()
    lu.assertEquals(events, "r")
    lu.assertTrue(timeout <= 5)
    lu.assertEquals(shim.is_open(fd), true)
    lu.assertEquals(fd == b:fileno(), #args[1] == 1 or args[2] == 0)
    if args[2] == 0 then
      lu.assertEquals(poller(false), {})
    else
      a:write("y")
      lu.assertEquals(poller(true), {b})
      b:read(1)
    end
    lu.assertEquals(shim.count_fds(), before)
  end
  -- Closed meanwhile, and a wait that failed.
  poller = coroutine.wrap(function() return socket.poll({a, b}) end)
  poller()
  lu.assertEquals({poller(nil, "no memory", 12)}, {nil, "no memory", 12})
  poller = coroutine.wrap(function() return socket.poll({a, b}) end)
  poller()
  b:close()
  lu.assertEquals({poller(true)}, {nil, "Bad file descriptor", 9})
  for _, s in ipairs {a, c, d} do s:close() end
end

function TestPoll.test_without_a_free_descriptor()
  need_shim()
  local a, b = pair()
  local restore = shim.limit_fds()
  shim.set_wait(function() return false end)
  local r, message, errno = socket.poll({a, b}, 1)
  local zero, one = socket.poll({a, b}, 0), socket.poll({a}, 0.001)
  shim.set_wait(nil)
  local blocking = socket.poll({a, b}, 0.001)
  local listener = table.pack(socket.listen("@" .. fresh_name()))
  shim.limit_fds(restore)
  lu.assertNil(r)
  lu.assertEquals(message, "Too many open files")
  lu.assertEquals(errno, 24)
  lu.assertEquals({zero, one, blocking}, {{}, {}, {}})
  lu.assertEquals(listener[3], 24)
  a:write("x")
  lu.assertEquals(socket.poll({a, b}), {b})
  a:close()
  b:close()
end

-- What a clone has to look after runs between two waits, and ends a poll.
function TestPoll.test_attending()
  need_shim()
  local a, b = pair()
  local calls, answers = 0, {false, true}
  shim.set_attend(function()
    calls = calls + 1
    return answers[calls]
  end)
  a:settimeout(5)
  lu.assertEquals(socket.poll({a, b}, 0.01), {}) -- looked once, then slept
  lu.assertEquals(calls, 1)
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(calls, 2)
  answers = {true, true, false}
  calls = 0
  local reader = function() b:settimeout(0.02) return select(2, b:read("l")) end
  lu.assertEquals(reader(), "timed out") -- others go on waiting
  lu.assertTrue(calls >= 3)
  shim.set_attend(function() error("from there", 0) end)
  b:settimeout(nil)
  lu.assertErrorMsgContains("from there", b.read, b, "l")
  lu.assertErrorMsgContains("from there", socket.poll, {a, b})
  lu.assertFalse(shim.is_blocked(15))
  shim.set_attend(nil)
  a:close()
  b:close()
end

-- It was done in Lua code, after the worker has looked at its flag and before it polls.
function TestPoll.test_attended_a_moment_before()
  need_shim()
  local a, b = pair()
  shim.end_next_poll()
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(socket.poll({a, b}, 0.001), {})
  shim.end_next_poll()
  a:write("x")
  lu.assertEquals(socket.poll({a, b}), {b}) -- what is ready comes first
  b:read(1)
  lu.assertEquals(socket.poll({a, b}), {})
  a:close()
  b:close()
end

-- A signal between the look and the sleep is not slept through.
function TestPoll.test_attending_to_a_signal_of_just_now()
  need_shim()
  local a, b = pair()
  local calls = 0
  shim.count_signal(15)
  shim.set_attend(function()
    calls = calls + 1
    if calls == 1 then shim.raise(15) end -- stays pending until the sleep
    return shim.count_signal() > 0
  end)
  lu.assertEquals(socket.poll({a, b}), {})
  lu.assertEquals(calls, 2)
  shim.set_attend(nil)
  a:close()
  b:close()
end

kit.run()
