-- Large templates: what their clones share, and that sharing never shows. Frozen memory
-- (src/template/heap/memfd_map.h) begins at some MiB; these have ten times that.
local story = require "story"
local fork = require "moonfork"

local MIB = 1024 * 1024
local build = [[
  big = {}
  for i = 1, 300000 do big[i] = {x = i, y = tostring(i)} end
  text = ("a long string "):rep(20000)
  function sum(socket)
    local n = 0
    for i = 1, #big do n = n + big[i].x end
    socket:write(n, "\n", #text, "\n")
    return socket
  end
  function look(socket) sum(socket):read "a" end
  function change(socket)
    for i = 1, #big do big[i].x = -1 end
    big[#big + 1], text = {x = 0}, text .. "grows"
    look(socket)
  end
]]
local CHANGED = {"-300000", tostring(14 * 20000 + 5)}
local SUM, LENGTH = tostring(300000 * 300001 // 2), tostring(14 * 20000)

-- Runs f in a clone, and gives its two lines and what memory it had then.
local function look(t, template, f)
  local p = template:fork()
  local socket = t.got(p:run(f))
  local a, b = socket:read "l", socket:read "l"
  local memory = t.got(p:memory())
  socket:close()
  t.eq(t.status(p).code, 0)
  return {a, b}, memory
end
local function small(t, memory)
  if story.is_sanitized then return end
  t.ok(memory.uss < 2 * MIB, "own: " .. memory.uss)
  t.ok(memory.shared > 20 * MIB, "shared: " .. memory.shared)
end

story.test("a clone reads all of it and has nothing of its own; what it writes is its own",
  {deadline = 60}, function(t)
    local template = fork.new_exec():eval(build):seal()
    for _ = 1, 2 do
      local got, memory = look(t, template, "look")
      t.eq(got, {SUM, LENGTH})
      small(t, memory)
      t.eq(look(t, template, "change"), CHANGED)
    end
    template:close()
  end)

story.test("a large template is changed and sealed again; older clones keep what they saw",
  {deadline = 60}, function(t)
    local template = fork.new_exec():eval(build):seal()
    local old = template:fork()
    local first = old:fork()
    local before = t.got(first:run "look")
    for round = 1, 4 do
      template:eval "for i = 1, 300000 do big[i].x = big[i].x + 1 end"
      if round % 2 == 0 then -- enough for a collection of everything
        template:eval "more = {} for i = 1, 200000 do more[i] = {i} end"
      end
      t.eq(look(t, template, "look")[1], tostring(300000 * 300001 // 2 + round * 300000))
    end
    t.eq({before:read "l", before:read "l"}, {SUM, LENGTH})
    before:close()
    t.eq(t.status(first).code, 0)
    local got, memory = look(t, old, "look")
    t.eq(got, {SUM, LENGTH})
    small(t, memory)
    old:close()
    template:close()
  end)

story.test("clones of a clone share with their grandparent, also when it is gone",
  {deadline = 60}, function(t)
    local template = fork.new_exec():eval(build):seal()
    local child = template:fork():eval "big[1].x = 2 extra = {} for i = 1, 1e5 do extra[i] = {i} end"
    t.got(child:memory())
    template:close()
    local got, memory = look(t, child, "look")
    t.eq(got, {tostring(300000 * 300001 // 2 + 1), LENGTH})
    small(t, memory)
    t.eq(look(t, child, "change"), CHANGED)
    child:close()
  end)

-- The sanitizer's own reservation counts as address space.
story.test("limits on memory and files leave a large template what it has",
  {deadline = 60, skip = story.is_sanitized and "address space is the sanitizer's" or nil}, function(t)
    local template = fork.new_exec():eval(build):seal()
    template:limit {as = 256 * MIB, fsize = 4096}
    t.eq(look(t, template, "look"), {SUM, LENGTH})
    template:eval "more = {} for i = 1, 400000 do more[i] = {i} end" -- sealed, under the limits
    t.eq(look(t, template, "look"), {SUM, LENGTH})
    local p = template:fork():eval [[
      function fill(socket)
        local ok, err = pcall(function() local t = {} for i = 1, 1e8 do t[i] = {i} end end)
        socket:write(tostring(ok), "\n", tostring(err), "\n")
      end
    ]]
    local socket = t.got(p:run "fill")
    t.eq({socket:read "l", socket:read "l"}, {"false", "not enough memory"})
    socket:close()
    t.eq(t.status(p).code, 0)
    template:close()
  end)

story.done()
