-- Clones in threads against clones that are processes, and how long one that was made ahead takes inside
-- of the template's process. run.lua gives its kit.
local kit = ...
local here, programs, quick, say, take_turns, median = kit.here, kit.programs, kit.quick, kit.say, kit.take_turns,
  kit.median

local function of_all(cell, name)
  local all = {}
  for _, f in pairs(cell.figures) do all[#all + 1] = f[name] end
  return median(all)
end

local function cell(kind, what, mib, count)
  return {key = what .. mib .. kind, label = what, command = ("lua5.4 %s/threads.lua %s %s %d %d"):format(here, kind,
    what, mib, math.max(math.floor(count * (quick and 0.2 or 1)), 3))}
end

local function measure_small()
  local cells = {}
  for _, w in ipairs {{"first", 0, 1000}, {"whole", 0, 1000}, {"first", 8, 200}} do
    for _, kind in ipairs {"process", "thread"} do cells[#cells + 1] = cell(kind, table.unpack(w)) end
  end
  local probe = programs .. "/first_byte.so"
  cells[#cells + 1] = {key = "inside", label = "inside", command = ("env LD_PRELOAD=%s FIRST_BYTE=%s lua5.4 " ..
    "%s/threads.lua thread inside 0 %d"):format(probe, probe, here, quick and 400 or 2000)}
  cells = take_turns("threads", cells)
  local inside = table.remove(cells)
  say("\n## Clones in threads, one at a time from Lua\n")
  say("| | a process, us | a thread, us | best of a thread, us |")
  say("| --- | ---: | ---: | ---: |")
  for i, label in ipairs {"the first byte, small template", "to the exit status, small template",
                          "the first byte, 8 MiB of tables"} do
    local forked, thread = cells[2 * i - 1], cells[2 * i]
    say("| %s | %.0f | %.0f | %.0f |", label, of_all(forked, "p50_us"), of_all(thread, "p50_us"),
      of_all(thread, "best_us"))
  end
  say("")
  say(("From the moment that the template's process has the command to the first byte, in a clone made ahead: " ..
       "%.1f us, the best %.1f us."):format(of_all(inside, "p50_us"), of_all(inside, "best_us")))
end

-- A process, all at once, and as it is touched.
local function measure_large()
  local ROWS = {{"first", 64, 60, "the first byte"}, {"ten", 64, 60, "ten places read before"},
                {"quarter", 64, 20, "a quarter read before"}, {"all", 64, 10, "all read before"},
                {"first", 512, 15, "the first byte"}, {"ten", 512, 15, "ten places read before"}}
  say("\n## Clones of a large template, one at a time from Lua\n")
  if not os.execute(("lua5.4 %s/threads.lua lazy first 2 1 >/dev/null 2>&1"):format(here)) then
    return say("This user can't have page faults served (doc/thread-clones.md), so there are none that are lazy.")
  end
  local cells = {}
  for _, row in ipairs(ROWS) do
    for _, kind in ipairs {"process", "thread", "lazy"} do cells[#cells + 1] = cell(kind, row[1], row[2], row[3]) end
  end
  cells = take_turns("large threads", cells)
  say("| | a process, us | a thread, us | a thread that is lazy, us | its best, us |")
  say("| --- | ---: | ---: | ---: | ---: |")
  for i, row in ipairs(ROWS) do
    local of = {table.unpack(cells, 3 * i - 2, 3 * i)}
    say("| %d MiB of tables, %s | %.0f | %.0f | %.0f | %.0f |", row[2], row[4], of_all(of[1], "p50_us"),
      of_all(of[2], "p50_us"), of_all(of[3], "p50_us"), of_all(of[3], "best_us"))
  end
end

local function measure()
  measure_small()
  measure_large()
end

return measure
