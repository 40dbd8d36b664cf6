-- `moonfork bench growth`: from fork() to the first byte, against what the template holds. run.lua calls
-- this and has the tools.
--
-- The sizes of moonfork's template take turns in slices, as the contestants of the rate table do: what is
-- looked for is a few microseconds. The others grow by multiples, and run as a whole, round by round.
return function(tools)
  local quick, say, number, quantile = tools.quick, tools.say, tools.number, tools.quantile
  local slices, present = tools.slices, tools.present
  local OTHERS = {"raw", "anyevent", "python"}

  -- All templates are there at once: not more than half of the memory that is free.
  local function sizes()
    local free = (tonumber(tools.capture "awk '/^MemAvailable/{print $2}' /proc/meminfo") or 0) // 1024
    local list, sum = {}, 0
    for _, size in ipairs(quick and {1, 64} or {1, 16, 64, 141, 256, 512, 717, 1024, 1434}) do
      sum = sum + size
      if sum <= free // 2 or size == 1 then list[#list + 1] = size end
    end
    return list
  end

  local function take_own(list)
    local c = present {"c"}[1]
    local contestants = {}
    for i, size in ipairs(list) do
      contestants[i] = {key = "c-" .. size, label = c.label, command = c.command, slice = c.slice, heap = size}
    end
    return slices.take(contestants, "first", 1, quick and 6 or 60)
  end

  local function take_others(list)
    local cells = {}
    for _, size in ipairs(list) do
      for _, c in ipairs(present(OTHERS)) do
        if size <= (c.key == "python" and 64 or 560) then
          local n = c.key == "python" and 20 or size > 100 and 30 or 200
          cells[#cells + 1] = {key = c.key .. "-" .. size, label = c.label, -- the first slice warms up
            command = ('printf "%d\\n%d\\n" | %s first 1 %d'):format(math.max(n // 5, 20), n, c.command, size)}
        end
      end
    end
    return tools.take_turns("growth", cells, quick and 1 or 3)
  end

  local list = sizes()
  local own, cells = take_own(list), take_others(list)
  say("")
  say("## From fork() to the first byte, against what the template holds (p50, us)")
  say("")
  say("Growth is the ratio to the first row: of moonfork, of the same turn (%d turns): median (quartiles).",
      #own[1].slices)
  say("")
  say("| Lua tables, MiB as malloc counts | moonfork, C | growth | raw C fork | growth " ..
      "| AnyEvent::Fork | growth | Python forkserver |")
  say("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
  local lines = {{label = "moonfork, C"}, {label = "raw C fork"}, {label = "AnyEvent::Fork"},
    {label = "Python forkserver"}}
  for i, size in ipairs(list) do
    local q2, q1, q3 = slices.quartiles(own[i], own[1], "first")
    local p50, growth = {}, {}
    for k, key in ipairs(OTHERS) do
      local cell = tools.find(cells, key .. "-" .. size)
      p50[k] = cell and ("%.0f"):format(quantile(cell.all, 0.5)) or "-"
      growth[k] = number(cell and tools.ratio(cell, tools.find(cells, key .. "-1"), "p50s") or 0 / 0, "%.2f")
      if cell then table.insert(lines[k + 1], {size, quantile(cell.all, 0.5)}) end
    end
    local first = slices.middle(own[i], "first")
    table.insert(lines[1], {size, first})
    say("| %d | %.0f | %.2f (%.2f..%.2f) | %s | %s | %s | %s | %s |", size, first, q2, q1, q3, p50[1],
        growth[1], p50[2], growth[2], p50[3])
    if size == 512 or size == 1024 then
      tools.goal(("growth of the first byte with %d MiB in the template"):format(size), "most", 1.1, q2, "%.2f")
    end
  end
  tools.plot("growth", function()
    return tools.figure.lines{series = lines, x = "MiB of small tables in the template",
      y = "time from fork() to the first byte", y_text = tools.figure.duration}
  end)
end
