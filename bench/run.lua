-- Runs the contestants against each other, and makes the tables and the plots. bench.h tells how
-- they are called and what they print. `moonfork bench` (lua/moonfork/cli/bench.lua) loads it with
-- a table:
--
--   here      the folder of this file
--   programs  the folder of the compiled contestants; program: moonfork itself, as a shell calls it
--   names     the measurements, in order; wanted: a set of them, or nil for all
--   quick     a look
--   output    a folder for results.md and the plots, or nil; samples: one for what programs print
--   say       say(line) for each line of the report
--
-- and gets {lines of the report}.
--
-- Processes a second, growth and spares: the contestants are coprocesses and take turns in small slices (A B C A B
-- C ...), so that the machine's moods meet all of them alike. A ratio is the median over the
-- turns of a slice against the yardstick's slice of the same turn, with quartiles. Where a
-- control group for processor time can be made, each contestant has its own; then a turn in
-- which strangers took more, in one of the two, than in its contestant's median slice does not
-- count. Counters come from
-- runs of their own: what 200 processes more cost.
--
-- The other cases run whole programs by turns, round by round; a ratio is the median of the
-- rounds' ratios, p50 and p99 are those of all samples together.
local settings = ...
local here, programs, quick = settings.here, settings.programs, settings.quick
local process = dofile(here .. "/process.lua")
local figure = dofile(here .. "/figure.lua")
local capture = process.capture

local rounds = quick and 2 or 5
local report = {}

local function say(format, ...)
  local line = select("#", ...) > 0 and format:format(...) or format
  report[#report + 1] = line
  settings.say(line)
end

-- Makes a file in a folder that the user named.
local function write_file(folder, name, text)
  local path = folder .. "/" .. name
  local f, message = io.open(path, "w")
  if not f then error({message = message}, 0) end
  local ok
  ok, message = f:write(text)
  if ok then ok, message = f:close() end
  if not ok then error({message = path .. ": " .. message}, 0) end
end

-- Makes a plot, where results are kept: make() gives the SVG.
local function plot(name, make)
  if settings.output then write_file(settings.output, name .. ".svg", make()) end
end

-- ---- the contestants ----

local peer = here .. "/peer/"
local raw = programs .. "/raw"
local contestants = { -- label, command, processes in a slice, how to see that it is installed
  raw = {"raw C fork", raw, 60},
  c = {"moonfork, C", programs .. "/host", 60},
  lua = {"moonfork, Lua", "lua5.4 " .. here .. "/moonfork.lua", 60, "lua5.4 -e 'require \"moonfork\"'"},
  anyevent = {"AnyEvent::Fork, EV", "perl " .. peer .. "anyevent.pl", 30,
              "perl -MEV -MAnyEvent::Fork -e 1"},
  python = {"Python forkserver", "python3 " .. peer .. "forkserver.py", 4,
            "python3 -c 'import multiprocessing.forkserver'"},
  luv_spawn = {"luv uv.spawn lua5.4", "lua5.4 " .. peer .. "luv_spawn.lua", 16,
               "lua5.4 -e 'require \"luv\"'"},
  luv_thread = {"luv threads", "lua5.4 " .. peer .. "luv_thread.lua", 60,
                "lua5.4 -e 'require \"luv\"'"},
}
local left_out = {}
for key, c in pairs(contestants) do
  c.key, c.label, c.command, c.slice, c.check = key, table.unpack(c, 1, 4)
  c.there = process.succeeds(c.check or "test -x " .. c.command)
  if not c.there then left_out[#left_out + 1] = c.label end
end
table.sort(left_out)

local function present(keys)
  local list = {}
  for _, key in ipairs(keys) do
    if contestants[key].there then list[#list + 1] = contestants[key] end
  end
  return list
end

-- ---- numbers ----

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  if n == 0 then return 0 / 0 end
  return n % 2 == 1 and sorted[n // 2 + 1] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
end

local function quantile(list, q)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return sorted[math.max(1, math.ceil(q * #sorted))] or 0 / 0
end

-- One run of a program: its samples and its named figures.
local function run(command, name)
  local text, ok = process.run(command)
  if not ok or text == "" then return nil end
  local samples, figures = {}, {}
  for line in text:gmatch "[^\n]+" do
    local key, value = line:match("^(%a[%w_]*) ([%d.]+)$")
    if key then
      figures[key] = tonumber(value)
    elseif line:find " " then -- a slice; the last one counts
      samples = {}
      for us in line:gmatch "[%d.]+" do samples[#samples + 1] = tonumber(us) end
      figures.total = table.remove(samples, 1) / 1e6
    else
      samples[#samples + 1] = tonumber(line)
    end
  end
  if settings.samples then
    write_file(settings.samples, name .. ".txt", "# " .. command .. "\n" .. text)
  end
  return samples, figures
end

-- cells: {key, label, command}. Takes turns; gives for each {rates, p50s, all samples}.
local function take_turns(name, cells, nrounds)
  for _, cell in ipairs(cells) do cell.rates, cell.p50s, cell.all, cell.figures = {}, {}, {}, {} end
  for round = 1, nrounds or rounds do
    for _, cell in ipairs(cells) do
      if not cell.failed then
        local samples, figures =
          run(cell.command, ("%s-%s-%d"):format(name, cell.key:gsub("%W", "_"), round))
        if not samples then
          cell.failed = true
          say("Failed: `%s`", cell.command)
        else
          cell.rates[round] = figures.total and #samples / figures.total
          cell.p50s[round] = median(samples)
          cell.figures[round] = figures
          table.move(samples, 1, #samples, #cell.all + 1, cell.all)
        end
      end
    end
  end
  local good = {}
  for _, cell in ipairs(cells) do if not cell.failed then good[#good + 1] = cell end end
  return good
end

local function ratio(cell, other, field)
  if not other then return 0 / 0 end
  local list = {}
  for round, value in pairs(cell[field]) do
    if other[field][round] then list[#list + 1] = value / other[field][round] end
  end
  return median(list)
end

local function find(cells, key)
  for _, cell in ipairs(cells) do if cell.key == key then return cell end end
end

local slices = assert(loadfile(here .. "/slices.lua")){process = process, median = median,
  quantile = quantile}
local group_new, group_cpu = slices.group_new, slices.group_cpu
local take_slices, quartiles, middle = slices.take, slices.quartiles, slices.middle

-- What a process costs in page faults, context switches and system calls, of all that takes part.
local function counters(contestant, mode)
  local file = process.room() .. "/count"
  local function total(command, n)
    local figures = {}
    if not process.succeeds(('printf "20\\n%d\\n" | %s %s %s 1'):format(n, command:format(file),
        contestant.command, mode)) then
      return figures
    end
    for line in io.lines(file) do
      local key, value = line:match "^(%a[%w_]*) (%d+)$"
      if key then figures[key] = tonumber(value) end
      figures.calls = tonumber(line:match "^100%.00%s+%S+%s+%S+%s+(%d+).* total$") or figures.calls
    end
    return figures
  end
  local row = {}
  for _, command in ipairs {raw .. " count %s", "strace -f -qq -c -o %s"} do
    if command:find "raw" or process.succeeds "strace -V" then
      local few, more = total(command, 1), total(command, 201)
      for key, value in pairs(more) do row[key] = (value - (few[key] or 0)) / 200 end
    end
  end
  return row
end

local function number(x, format) return x ~= x and "-" or format:format(x) end

-- ---- goals ----

-- bound: "least" or "most"; a value that is no number was not measured.
local goals = {}
local function goal(what, bound, limit, value, format)
  local met = value == value and (bound == "least" and value >= limit or
                                  bound == "most" and value <= limit)
  goals[#goals + 1] = ("| %s | %s %s | %s | %s |"):format(what, bound == "least" and "at least" or
    "at most", format:format(limit), number(value, format),
    value ~= value and "not measured" or met and "yes" or "**no**")
end

local function say_goals()
  if #goals == 0 then return end
  say("")
  say("## Goals")
  say("")
  say("| what | goal | reached | |")
  say("| --- | ---: | ---: | --- |")
  for _, line in ipairs(goals) do say("%s", line) end
end

-- ---- the cases ----

local cases = {}

function cases.rate()
  local list = present {"raw", "c", "lua", "anyevent", "luv_thread", "luv_spawn", "python"}
  local seconds = quick and 6 or 60
  local one = take_slices(list, "spawn", 1, seconds)
  local many = take_slices(list, "spawn", 16, seconds)
  local first = take_slices(list, "first", 1, seconds)
  local function with_quartiles(side, yard, field)
    local q2, q1, q3 = quartiles(side, yard, field)
    if field == "us" then q1, q2, q3 = 1 / q3, 1 / q2, 1 / q1 end
    return q2 ~= q2 and "-" or ("%.2f (%.2f..%.2f)"):format(q2, q1, q3)
  end
  say("")
  say("## Processes per second, processor time, and the first byte")
  say("")
  say("Ratios to raw C of the same turn: median (quartiles). The function does nothing, or writes " ..
      "the first byte. %d, %d and %d turns.", #one[1].slices, #many[1].slices, #first[1].slices)
  say("")
  say("| | 1 in flight, per second | x raw C | CPU us per process | CPU x raw C " ..
      "| 16 in flight, per second | x raw C | CPU x raw C | first byte, p50 us | x raw C |")
  say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
  local bars = {}
  for i, side in ipairs(one) do
    local rate1, rate16 = 1e6 / middle(side, "us"), 1e6 / middle(many[i], "us")
    say("| %s | %.0f | %s | %s | %s | %.0f | %s | %s | %.0f | %s |", side.label, rate1,
        with_quartiles(side, one[1], "us"), number(middle(side, "cpu"), "%.0f"),
        number(quartiles(side, one[1], "cpu"), "%.2f"), rate16,
        with_quartiles(many[i], many[1], "us"),
        number(quartiles(many[i], many[1], "cpu"), "%.2f"), middle(first[i], "first"),
        with_quartiles(first[i], first[1], "first"))
    bars[i] = {side.label, rate1, rate16}
  end
  local function rate_ratio(sides, key)
    return 1 / quartiles(find(sides, key), sides[1], "us")
  end
  for _, key in ipairs {"c", "lua"} do
    local label = key == "c" and "C" or "Lua"
    goal(label .. ": processes per second, one at a time, x raw C", "least", 0.95,
         rate_ratio(one, key), "%.2f")
    goal(label .. ": 16 in flight, x raw C", "least", 1, rate_ratio(many, key), "%.2f")
    goal(label .. ": fork() to the first byte, x raw C with the same child", "most", 1.05,
         (quartiles(find(first, key), first[1], "first")), "%.2f")
  end
  for _, sides in ipairs {one, many} do
    local other, own = find(sides, "anyevent"), find(sides, "lua")
    goal("Lua, with exit status: x AnyEvent::Fork, " .. (sides == one and "one at a time" or
         "16 in flight"), "least", 4,
         other and 1 / quartiles(own, other, "us") or 0 / 0,
         "%.1f")
  end
  say("")
  say("| counters of one process, all that takes part | page faults | context switches | system calls |")
  say("| --- | ---: | ---: | ---: |")
  for _, c in ipairs(present {"raw", "c", "lua"}) do
    for _, mode in ipairs {"spawn", "first"} do
      local row = counters(c, mode)
      if mode == "spawn" and c.key ~= "raw" then
        goal(c.label:match "%a+$" .. ": page faults of a process", "most", 16,
             row.faults or 0 / 0, "%.1f")
      end
      say("| %s, %s | %s | %s | %s |", c.label, mode == "first" and "writes a byte" or "does nothing",
          number(row.faults or 0 / 0, "%.1f"), number(row.switches or 0 / 0, "%.1f"),
          number(row.calls or 0 / 0, "%.1f"))
    end
  end
  plot("rate", function()
    return figure.bars{rows = bars, series = {"1 in flight", "16 in flight"},
      x = "processes per second, of a function that does nothing"}
  end)
end

function cases.growth()
  dofile(here .. "/growth.lua"){quick = quick, say = say, number = number, quantile = quantile, goal = goal,
    slices = slices, present = present, take_turns = take_turns, find = find, ratio = ratio,
    capture = capture, plot = plot, figure = figure}
end

function cases.spares()
  local function variant(key, label, spares, pause)
    local c = contestants[key]
    return c.there and {key = label, label = label, command = c.command, slice = c.slice, spares = spares,
      pause = pause}
  end
  local list = {}
  for _, c in ipairs {
    variant("raw", "raw C fork"),
    variant("c", "moonfork, C"),
    variant("c", "moonfork, C, 32 spares", 32),
    variant("raw", "raw C fork, 1 ms between", 0, 1000),
    variant("c", "moonfork, C, 1 ms between", 0, 1000),
    variant("c", "moonfork, C, 32 spares, refilled between", 32, 1000),
    variant("anyevent", "AnyEvent::Fork, EV") or nil,
  } do
    list[#list + 1] = c
  end
  local sides = take_slices(list, "first", 1, quick and 6 or 60)
  say("")
  say("## Spares: clones forked ahead")
  say("")
  say("From fork() to the first byte; x raw: of the same turn, after the same pause, median (quartiles) of " ..
      "%d turns.", #sides[1].slices)
  say("")
  say("| | per second | x AnyEvent::Fork | p50 us | p99 us | x raw, p50 |")
  say("| --- | ---: | ---: | ---: | ---: | ---: |")
  local others = find(sides, "AnyEvent::Fork, EV")
  for _, side in ipairs(sides) do
    local samples = {}
    for _, s in ipairs(side.slices) do table.move(s.samples, 1, #s.samples, #samples + 1, samples) end
    local yard = find(sides, side.label:find "between" and "raw C fork, 1 ms between" or "raw C fork")
    local q2, q1, q3 = quartiles(side, yard, "first")
    say("| %s | %.0f | %s | %.0f | %.0f | %.2f (%.2f..%.2f) |", side.label, 1e6 / middle(side, "us"),
        number(others and 1 / quartiles(side, others, "us") or 0 / 0, "%.2f"), middle(side, "first"),
        quantile(samples, 0.99), q2, q1, q3)
    if side.label:find "refilled" then
      goal("32 spares, refilled between: fork() to the first byte, x raw C after the same pause", "most",
           0.35, q2, "%.2f")
    end
  end
end

function cases.memory()
  local cells = {
    {key = "c", label = "moonfork", command = programs .. "/host memory 84 2000000"},
    {key = "c0", label = "moonfork, empty template", command = programs .. "/host memory 0 1"},
    {key = "raw", label = "raw C fork", command = raw .. " memory 84 2000000"},
  }
  if contestants.anyevent.there then
    cells[4] = {key = "anyevent", label = "AnyEvent::Fork, empty template",
                command = contestants.anyevent.command .. " memory 0"}
  end
  say("")
  say("## Private memory of a clone, KiB: idle, and after 2,000,000 small tables over 84 MiB")
  say("")
  say("| | idle | afterwards |")
  say("| --- | ---: | ---: |")
  for _, cell in ipairs(take_turns("memory", cells, 3)) do
    local idle, worked = {}, {}
    for _, f in pairs(cell.figures) do
      idle[#idle + 1], worked[#worked + 1] = f.idle, f.worked
    end
    local shows_work = cell.key == "c" or cell.key == "raw"
    say("| %s | %.0f | %s |", cell.label, median(idle) / 1024,
        shows_work and ("%.0f"):format(median(worked) / 1024) or "-")
    if cell.key == "c" then
      goal("private memory of an idle clone, KiB", "most", 200, median(idle) / 1024, "%.0f")
      goal("the same after two million tables, KiB", "most", 8192, median(worked) / 1024, "%.0f")
    end
  end
end

function cases.exec()
  local n = quick and 20 or 100
  local cells = {
    {key = "lua", label = "`lua5.4 -e ''`, spawned and waited for",
     command = raw .. " exec " .. n},
    {key = "c", label = "moonfork, C: mf_new_exec to ready",
     command = ("%s/host exec %d"):format(programs, n)},
  }
  if contestants.anyevent.there then
    cells[3] = {key = "anyevent", label = "AnyEvent::Fork: new_exec to the first byte",
                command = contestants.anyevent.command .. " exec " .. n // 4}
  end
  cells = take_turns("exec", cells)
  say("")
  say("## Start by exec (us)")
  say("")
  say("| | p50 | p99 | x `lua5.4 -e ''` |")
  say("| --- | ---: | ---: | ---: |")
  for _, cell in ipairs(cells) do
    say("| %s | %.0f | %.0f | %s |", cell.label, quantile(cell.all, 0.5),
        quantile(cell.all, 0.99), number(ratio(cell, find(cells, "lua"), "p50s"), "%.2f"))
  end
  goal("new_exec to ready, x lua5.4 -e ''", "most", 1.3,
       ratio(find(cells, "c"), find(cells, "lua"), "p50s"), "%.2f")
end

function cases.clones()
  local n = quick and 500 or 8000
  local _, f = run(programs .. "/host clones " .. n, "clones")
  say("")
  say("## Idle clones at once")
  say("")
  if not f or not f.clones then
    say("%d clones: failed (limits on processes or descriptors?)", n)
    return
  end
  if f.clones < n then
    say("%d clones were to run at once. Each needs two descriptors here, and the hard limit of this process is " ..
        "%.0f: these are %d. Raise it (`ulimit -Hn`, LimitNOFILE= of a service) for all of them.", n, f.nofile,
        f.clones)
    say("")
  end
  say("%d clones of one template run and wait, after %.1f s (%.0f per second). Private memory of " ..
      "the first: %.0f KiB, of the last: %.0f KiB. All ended and reported %.1f s later.", f.clones,
      f.seconds, f.clones / f.seconds, f.private_first / 1024, f.private_last / 1024,
      f.end_seconds)
end

function cases.calls()
  local scale = quick and 0.2 or 1
  local function cell(key, label, program, ...)
    local words = {program}
    for i, word in ipairs {...} do words[i + 1] = tostring(word) end
    return {key = key, label = label, command = table.concat(words, " ")}
  end
  local c, lua = programs .. "/calls", "lua5.4 " .. here .. "/calls.lua"
  local n, big = math.floor(50000 * scale), math.floor(400 * scale)
  local cells = take_turns("calls", {
    cell("raw", "raw socketpair echo, C, 64 bytes", c .. " echo", n, 64),
    cell("c1", "mf_rpc, C, 64 bytes, one at a time", c .. " rpc", n, 1, 64),
    cell("lua1", "rpc, Lua, 64 bytes, one at a time", lua, n, 1, 64),
    cell("c64", "mf_rpc, C, 64 bytes, 64 in flight", c .. " rpc", n * 10, 64, 64),
    cell("lua64", "rpc, Lua, 64 bytes, 64 in flight", lua, n * 4, 64, 64),
    cell("rawbig", "raw socketpair echo, C, 1 MiB", c .. " echo", big, 1 << 20),
    cell("cbig", "mf_rpc, C, 1 MiB, one at a time", c .. " rpc", big, 1, 1 << 20),
    cell("pool1", "pool, one worker, processor-bound", c .. " pool", big * 2, 1),
    cell("pool2", "pool, two workers, the same", c .. " pool", big * 2, 2),
  })
  for _, x in ipairs(cells) do
    for round, f in pairs(x.figures) do x.rates[round] = f.calls / f.seconds end
  end
  local against = {c1 = "raw", lua1 = "raw", c64 = "raw", lua64 = "raw", cbig = "rawbig",
                   pool2 = "pool1"}
  say("")
  say("## Calls of a Lua function in a process that stays")
  say("")
  say("| | calls per second | x |")
  say("| --- | ---: | --- |")
  for _, x in ipairs(cells) do
    local other = against[x.key] and find(cells, against[x.key])
    say("| %s | %.0f | %s |", x.label, median(x.rates),
        other and ("%.2f x %s"):format(ratio(x, other, "rates"), other.label) or "")
  end
  goal("C: calls of 64 bytes, one at a time, x raw echo", "least", 0.8,
       ratio(find(cells, "c1"), find(cells, "raw"), "rates"), "%.2f")
  goal("C: the same per second, 64 in flight", "least", 6 * 165000,
       median(find(cells, "c64").rates), "%.0f")
  goal("two workers, processor-bound, x one", "least", 1.9,
       ratio(find(cells, "pool2"), find(cells, "pool1"), "rates"), "%.2f")
end

-- The same programs in a template here and behind `sh -c`: what the link costs.
function cases.remote()
  local scale = quick and 0.2 or 1
  local agent = ("'%s agent'"):format(settings.program)
  local work = {
    {"one", "a call of 64 bytes, one at a time", 0.45, "calls", math.floor(20000 * scale), 1, 64},
    {"many", "the same, 64 in flight", 0.6, "calls", math.floor(200000 * scale), 64, 64},
    {"big", "a call of 1 MiB, one at a time", 0.25, "calls", math.floor(300 * scale), 1, 1 << 20},
    {"forks", "a fork that has entered its function", 1.0, "forks", math.floor(1500 * scale)},
    {"forks16", "such a fork, 16 in flight", 1.0, "forks", math.floor(4000 * scale), 16},
  }
  local calls, forks, cells = {}, {}, {}
  for _, w in ipairs(work) do
    local group = w[4] == "forks" and forks or calls
    for _, where in ipairs {"local", "remote"} do
      group[#group + 1] = {key = w[1] .. where, label = w[2], command = ("lua5.4 %s/remote.lua %s %s"):format(
        here, where == "local" and "local" or agent, table.concat(w, " ", 4))}
    end
  end
  -- where the system places the five processes of a fork decides much: more turns
  for _, group in ipairs {take_turns("remote", calls), take_turns("remote", forks, 3 * rounds)} do
    table.move(group, 1, #group, #cells + 1, cells)
  end
  for _, x in ipairs(cells) do
    for round, f in pairs(x.figures) do x.rates[round] = f.calls / f.seconds end
  end
  say("")
  say("## Behind a command: `sh -c` on this machine")
  say("")
  say("| | here, per second | behind `sh -c` | x here |")
  say("| --- | ---: | ---: | ---: |")
  for _, w in ipairs(work) do
    local near, far = find(cells, w[1] .. "local"), find(cells, w[1] .. "remote")
    local x = near and far and ratio(far, near, "rates") or 0 / 0
    if near and far then
      say("| %s | %.0f | %.0f | %s |", w[2], median(near.rates), median(far.rates), number(x, "%.2f"))
    end
    goal("remote: " .. w[2] .. ", x here", "least", w[3], x, "%.2f")
  end
end

local kit = {here = here, programs = programs, process = process, quick = quick, say = say, number = number,
  take_turns = take_turns, find = find, ratio = ratio, median = median, goal = goal}
cases.nats = assert(loadfile(here .. "/nats_case.lua"))(kit)
cases.threads = assert(loadfile(here .. "/threads_case.lua"))(kit)
cases.image = assert(loadfile(here .. "/image_case.lua"))(kit)

function cases.map()
  local scale = quick and 0.2 or 1
  local script = "lua5.4 " .. here .. "/map.lua "
  say("")
  say("## Many items: pool:map with two workers")
  say("")
  say("An x of more than 1 is faster. An item is a string, its work a loop in Lua; for `moonfork map` and " ..
      "GNU parallel it is a line of a file, and their start counts.")
  say("")
  say("| items | pool:map, x a loop without a pool | x chunk = 1 | x GNU parallel --pipe -j2 " ..
      "| `moonfork map`, x a loop | x GNU parallel |")
  say("| --- | ---: | ---: | ---: | ---: | ---: |")
  local parallel = capture("parallel --version"):find("GNU parallel", 1, true)
  for _, row in ipairs {{"3 us", 3, 100000}, {"13 us", 13, 100000}, {"100 us", 100, 10000},
                        {"10 ms", 10000, 200}} do
    local label, us, n = row[1], row[2], math.floor(row[3] * scale)
    local repeats = capture(script .. "calibrate " .. us)
    local cells = {}
    for _, mode in ipairs {"plain", "map", "single", "program", parallel and "parallel"} do
      cells[#cells + 1] = {key = mode, label = mode,
        command = ("%s%s %d %s %s"):format(script, mode, n, repeats, settings.program)}
    end
    cells = take_turns("map-" .. us, cells)
    for _, x in ipairs(cells) do
      for round, f in pairs(x.figures) do x.rates[round] = f.items / f.seconds end
    end
    local own = find(cells, "map") or {rates = {}}
    local program = find(cells, "program") or {rates = {}}
    local function times(one, other) return number(ratio(one, find(cells, other), "rates"), "%.2f") end
    say("| %d of %s | %s | %s | %s | %s | %s |", n, label, times(own, "plain"), times(own, "single"),
      times(own, "parallel"), times(program, "plain"), times(program, "parallel"))
  end
end

-- When it pays: the same items by a loop, a process for each, calls and map. The speed-up is taken
-- from processor time, which others on the machine don't change: two processors of one's own need
-- at least half of all of it, and at least what this process, or one of two workers, needs alone.
function cases.pays()
  local script = "lua5.4 " .. here .. "/map.lua "
  local modes = {{"map", "map"}, {"single", "map, chunk = 1"}, {"call", "call, 16 in flight"},
                 {"run", "run, 2 in flight"}}
  local function least_time(f, idle)
    local others = math.max(0, f.others - idle)
    return math.max((f.own + others) / 2, f.own, others / 2) / f.items
  end
  local idle, series = {}, {}
  for _, mode in ipairs(modes) do
    local _, figures = run(script .. mode[1] .. " 1 1", "pays-idle")
    idle[mode[1]] = figures and figures.others or 0
    series[#series + 1] = {label = mode[2], key = mode[1]}
  end
  say("")
  say("## When it pays")
  say("")
  say("How many times as fast as a loop in one process, on two processors, by the work of an item. " ..
      "First from processor time, as two idle processors would give it at best; then by the clock, " ..
      "as it was here (load below).")
  say("")
  say("| work of an item | map | chunk = 1 | call | run |")
  say("| --- | ---: | ---: | ---: | ---: |")
  for _, us in ipairs {1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000} do
    local repeats = capture(script .. "calibrate " .. us)
    local enough = math.floor((quick and 0.05 or 0.4) * 1e6 / us)
    local cells = {{key = "plain", label = "plain",
      command = ("%splain %d %s"):format(script, math.min(enough, 100000), repeats)}}
    for _, mode in ipairs(modes) do
      local n = math.max(8, math.min(enough, mode[1] == "run" and 1500 or 100000))
      cells[#cells + 1] = {key = mode[1], label = mode[2],
        command = ("%s%s %d %s"):format(script, mode[1], n, repeats)}
    end
    cells = take_turns("pays-" .. us, cells, quick and 1 or 3)
    local plain, columns = find(cells, "plain"), {}
    for round, f in pairs(plain.figures) do
      plain.rates[round] = f.items / f.own
      plain.clock = plain.clock or {}
      plain.clock[round] = f.items / f.seconds
    end
    for _, line in ipairs(series) do
      local x = find(cells, line.key)
      x.clock = {}
      for round, f in pairs(x.figures) do
        x.rates[round] = 1 / least_time(f, idle[line.key])
        x.clock[round] = f.items / f.seconds
      end
      local by_time, by_clock = ratio(x, plain, "rates"), ratio(x, plain, "clock")
      line[#line + 1] = {us, by_time}
      columns[#columns + 1] = ("%s (%s)"):format(number(by_time, "%.2f"), number(by_clock, "%.2f"))
    end
    say("| %s | %s |", figure.duration(us), table.concat(columns, " | "))
  end
  plot("pays", function()
    return figure.lines{series = series, x = "work of an item", y = "times as fast as a loop",
      x_text = figure.duration, y_least = 0.05, even = 1}
  end)
end

function cases.http()
  dofile(here .. "/http.lua"){here = here, process = process, program = settings.program, quick = quick,
    say = say, number = number, median = median, goal = goal, group_new = group_new, group_cpu = group_cpu}
end

-- ---- all together ----

local function begin()
  say("# Results")
  say("")
  say("%s. Made by `moonfork bench`; what is measured and how to read it: " ..
      "bench/README.md of the sources.", os.date("!%Y-%m-%d %H:%M UTC"))
  say("")
  say("- machine: %s processors, %s, %s MiB", capture "nproc",
      capture "sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1",
      capture "awk '/MemTotal/{print int($2/1024)}' /proc/meminfo")
  say("- kernel: %s; huge pages: %s", capture "uname -sr",
      capture "cat /sys/kernel/mm/transparent_hugepage/enabled")
  say("- %s; libuv %s; %s; %s; AnyEvent::Fork %s, EV %s; %s", capture "gcc --version | head -1",
      capture "pkg-config --modversion libuv", capture "lua5.4 -v", capture "python3 --version",
      capture "perl -MAnyEvent::Fork -e 'print $AnyEvent::Fork::VERSION'",
      capture "perl -MEV -e 'print $EV::VERSION'",
      capture "perl -e 'print \"Perl $^V\"'")
  say("- load before: %s", capture "cut -d' ' -f1-3 /proc/loadavg")
  if #left_out > 0 then say("- left out, not installed: %s", table.concat(left_out, ", ")) end
end

local function all()
  begin()
  for _, name in ipairs(settings.names) do
    if not settings.wanted or settings.wanted[name] then cases[name]() end
  end
  say_goals()
  say("")
  say("Load afterwards: %s.", capture "cut -d' ' -f1-3 /proc/loadavg")
  if settings.output then
    write_file(settings.output, "results.md", table.concat(report, "\n") .. "\n")
  end
end

return {run = all, stop = process.stop, close = process.close, report = report}
