-- Long replies are read in steps, and each that is begun holds the record of the rpc's process. The second of two
-- was begun when both rpc and process were closed: their record had been freed, was freed once more at
-- the end of that reply, and the next processes then shared one. Their callbacks were mixed up: a call
-- got another call's answer, and the program sometimes ended in free().

local story = require "story"
local fork = require "moonfork"

local SIZES = { 1500000, 20000, 20000 } -- values

story.test("long replies that are read after the end of the rpc and its process leave others alone", function(t)
  local p = fork.new_exec():eval [[
    function many(n)
      local list = {}
      for i = 1, n do list[i] = i end
      return list
    end
    function nothing() end
  ]]
  local is_closed, lengths = false, {}
  do
    local rpc = p:fork():rpc("many", { on_close = function() is_closed = true end })
    for i, n in ipairs(SIZES) do -- all others come, and the end, while the first is read
      rpc:call(n, function(err, list)
        assert(not err, err)
        lengths[i] = #list
        fork.step(0) -- lets go of what is freed
      end)
    end
    rpc:close()
  end
  t.within(60, function()
    collectgarbage()
    fork.step(0)
    return is_closed
  end, "all replies, and the end")
  t.eq(table.concat(lengths, " "), table.concat(SIZES, " "))
  local ended, processes, pids = 0, {}, {}
  for i = 1, 4 do
    processes[i] = p:fork():run("nothing", function(err, socket)
      assert(not err, err)
      socket:close()
    end)
    processes[i]:on_exit(function(status)
      assert(status.code == 0)
      ended = ended + 1
    end)
  end
  t.within(10, function() return ended == 4 end, "each tells its end")
  for i = 1, 4 do
    local pid = processes[i]:pid()
    t.eq(pids[pid], nil)
    pids[pid] = i
    processes[i]:close()
  end
  p:close()
end)

story.done()
