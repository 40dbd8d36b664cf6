-- Clones in threads against clones that are processes, and how long one that was made ahead takes inside
-- of the template's process. run.lua gives its kit.
local kit = ...
local here, programs, quick, say, take_turns, median = kit.here, kit.programs, kit.quick, kit.say, kit.take_turns,
  kit.median

local function measure()
  local cells = {}
  for _, w in ipairs {{"first0", "the first byte, small template", "first", 0, 1000},
                      {"whole0", "to the exit status, small template", "whole", 0, 1000},
                      {"first8", "the first byte, 8 MiB of tables", "first", 8, 200}} do
    for _, isolation in ipairs {"process", "thread"} do
      local script = ("lua5.4 %s/threads.lua %s "):format(here, isolation)
      cells[#cells + 1] = {key = w[1] .. isolation, label = w[2], command = script .. ("%s %d %d"):format(
        w[3], w[4], math.floor(w[5] * (quick and 0.2 or 1)))}
    end
  end
  local probe = programs .. "/first_byte.so"
  cells[#cells + 1] = {key = "inside", label = "inside", command = ("env LD_PRELOAD=%s FIRST_BYTE=%s lua5.4 " ..
    "%s/threads.lua thread inside 0 %d"):format(probe, probe, here, quick and 400 or 2000)}
  cells = take_turns("threads", cells)
  local inside = table.remove(cells)
  say("\n## Clones in threads, one at a time from Lua\n")
  say("| | a process, us | a thread, us | best of a thread, us |")
  say("| --- | ---: | ---: | ---: |")
  local function of_all(cell, name)
    local all = {}
    for _, f in pairs(cell.figures) do all[#all + 1] = f[name] end
    return median(all)
  end
  for at = 1, #cells, 2 do
    local forked, thread = cells[at], cells[at + 1]
    say("| %s | %.0f | %.0f | %.0f |", forked.label, of_all(forked, "p50_us"), of_all(thread, "p50_us"),
      of_all(thread, "best_us"))
  end
  say("")
  say(("From the moment that the template's process has the command to the first byte, in a clone made ahead: " ..
       "%.1f us, the best %.1f us."):format(of_all(inside, "p50_us"), of_all(inside, "best_us")))
end

return measure
