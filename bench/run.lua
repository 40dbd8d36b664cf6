-- Runs the contestants against each other, and writes the table and the plots. It runs in a
-- process of its own and starts every contestant as a program; bench.h tells how they are
-- called and what they print. `./dev bench [NAME...]` installs, builds and calls this:
--
--   lua5.4 bench/run.lua BUILD_FOLDER [--quick] [--results FOLDER] [NAME...]
--
-- NAME: rate, growth, spares, memory, exec, clones, calls; none: all of them.
--
-- In a case the contestants take turns, round by round (A B C A B C ...), so that the machine's
-- moods meet all of them alike. A rate is the median of the rounds; p50 and p99 are those of
-- all samples together; a ratio is the median of the rounds' ratios, each within its round.
-- Every round warms up first (a fifth of its lives, at least 20, not counted).
local here = arg[0]:match("^(.*)/") or "."
local build = table.remove(arg, 1)
local quick, results, wanted = false, here .. "/results", {}
do
  local i = 1
  while arg[i] do
    if arg[i] == "--quick" then quick = true
    elseif arg[i] == "--results" then i = i + 1; results = arg[i]
    else wanted[arg[i]] = true end
    i = i + 1
  end
end
if not build then error("usage: run.lua BUILD_FOLDER [--quick] [--results FOLDER] [NAME...]") end

local rounds = quick and 2 or 5
local samples_folder = build .. "/bench/samples"
local report = {}

local function say(format, ...)
  local line = select("#", ...) > 0 and format:format(...) or format
  report[#report + 1] = line
  print(line)
end

local function capture(command)
  local f = assert(io.popen(command .. " 2>/dev/null"))
  local text = f:read("a")
  f:close()
  return (text:gsub("%s+$", ""))
end

-- ---- the contestants ----

local peer = "cd " .. here .. "/peer && "
local contestants = {
  raw_fork = {"raw C fork", build .. "/bench/raw fork"},
  raw_lua = {"raw C fork, Lua in the child", build .. "/bench/raw lua"},
  c = {"moonfork, C", build .. "/bench/host life"},
  lua = {"moonfork, Lua", "lua5.4 " .. here .. "/moonfork.lua life"},
  anyevent = {"AnyEvent::Fork, EV", peer .. "perl anyevent.pl life",
              "perl -MEV -MAnyEvent::Fork -e 1"},
  python = {"Python forkserver", peer .. "python3 forkserver.py life",
            "python3 -c 'import multiprocessing.forkserver'"},
  luv_spawn = {"luv uv.spawn lua5.4", "lua5.4 " .. here .. "/peer/luv_spawn.lua life",
               "lua5.4 -e 'require \"luv\"'"},
  luv_thread = {"luv threads", "lua5.4 " .. here .. "/peer/luv_thread.lua life",
                "lua5.4 -e 'require \"luv\"'"},
}
for key, c in pairs(contestants) do
  c.key, c.label, c.command, c.check = key, c[1], c[2], c[3]
  c.there = not c.check or os.execute(c.check .. " >/dev/null 2>&1") == true
  if not c.there then print("skipped, not installed: " .. c.label) end
end

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

-- One run of a program: its samples, the total in seconds, and its named figures.
local function run(command, name)
  local f = assert(io.popen("timeout 120 sh -c '" .. command .. "'"))
  local samples, figures, lines = {}, {}, {}
  for line in f:lines() do
    lines[#lines + 1] = line
    local key, value = line:match("^(%a[%w_]*) ([%d.]+)$")
    if key then figures[key] = tonumber(value) else samples[#samples + 1] = tonumber(line) end
  end
  if not f:close() or #lines == 0 then return nil end
  local out = assert(io.open(samples_folder .. "/" .. name .. ".txt", "w"))
  out:write("# ", command, "\n", table.concat(lines, "\n"), "\n")
  out:close()
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
          print("failed: " .. cell.command)
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

local function lives(list, count, inflight, heap, spares, pause)
  local cells = {}
  for _, c in ipairs(list) do
    local n = count[c.key] or count[1]
    cells[#cells + 1] = {key = c.key, label = c.label,
      command = ("%s %d %d %d %d %d"):format(c.command, n, inflight, heap or 0, spares or 0,
                                             pause or 0)}
  end
  return cells
end

local function number(x, format) return x ~= x and "-" or format:format(x) end

-- ---- plots ----

local function plot(name, script)
  local f = io.popen("gnuplot 2>&1", "w")
  f:write("set terminal svg size 720,400 font 'sans,11' background 'white'\n",
          "set output '", results, "/", name, ".svg'\nset grid ytics lc rgb '#dddddd'\n", script)
  if not f:close() then print("no plot " .. name .. ": gnuplot failed") end
end

-- ---- the cases ----

local cases, order = {}, {"rate", "growth", "spares", "memory", "exec", "clones",
                      "calls"}

function cases.rate()
  local names = {"raw_fork", "raw_lua", "c", "lua", "anyevent", "luv_thread", "luv_spawn", "python"}
  local scale = quick and 0.2 or 1
  local count = {math.floor(2000 * scale), anyevent = math.floor(1000 * scale),
                 luv_spawn = math.floor(400 * scale), python = math.floor(120 * scale)}
  local one = take_turns("rate-1", lives(present(names), count, 1))
  local many = take_turns("rate-16", lives(present(names), count, 16))
  say("")
  say("## Processes a second, and from fork() to the first octet")
  say("")
  say("| | 1 in flight, a second | x raw | p50 us | p99 us | x raw with Lua, p50 " ..
      "| 16 in flight, a second | x raw |")
  say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
  for _, cell in ipairs(one) do
    local at16 = find(many, cell.key)
    say("| %s | %.0f | %s | %.0f | %.0f | %s | %s | %s |", cell.label, median(cell.rates),
        number(ratio(cell, find(one, "raw_fork"), "rates"), "%.2f"), quantile(cell.all, 0.5),
        quantile(cell.all, 0.99), number(ratio(cell, find(one, "raw_lua"), "p50s"), "%.2f"),
        at16 and ("%.0f"):format(median(at16.rates)) or "-",
        at16 and number(ratio(at16, find(many, "raw_fork"), "rates"), "%.2f") or "-")
  end
  local data = {"$d << EOD"}
  for _, cell in ipairs(one) do
    local at16 = find(many, cell.key)
    data[#data + 1] = ("%q %.0f %.0f"):format(cell.label, median(cell.rates),
                                              at16 and median(at16.rates) or 0)
  end
  data[#data + 1] = "EOD\n"
  plot("rate", table.concat(data, "\n") ..
    "set style data histogram\nset style histogram clustered gap 1\nset style fill solid 0.85\n" ..
    "set xtics rotate by -25\nset ylabel 'lives a second'\nset yrange [0:*]\n" ..
    "set title 'A process that writes one octet and ends'\n" ..
    "plot $d using 2:xtic(1) title '1 in flight' lc rgb '#4477aa', " ..
    "'' using 3 title '16 in flight' lc rgb '#ee8866'\n")
end

function cases.growth()
  local sizes = quick and {1, 64} or {1, 16, 64, 141, 256, 512, 717, 1024, 1434}
  local names = {"c", "raw_lua", "anyevent", "python"}
  local rows = {}
  -- Sizes within a round, so that growth is a ratio within one round, too.
  local cells = {}
  for _, size in ipairs(sizes) do
    for _, c in ipairs(present(names)) do
      local slow = c.key ~= "c"
      if not (slow and size > 560 or c.key == "python" and size > 64) then
        local n = c.key == "python" and 20 or (slow and size > 100) and 30 or 200
        local cell = lives({c}, {n}, 1, size)[1]
        cell.size, cell.name = size, c.key
        cell.key = c.key .. "-" .. size
        cells[#cells + 1] = cell
      end
    end
  end
  cells = take_turns("growth", cells, quick and 1 or 3)
  say("")
  say("## From fork() to the first octet, against what the template holds (p50, us)")
  say("")
  say("| Lua tables, MiB as malloc counts | moonfork, C | growth | raw C fork, Lua | growth " ..
      "| AnyEvent::Fork | growth | Python forkserver |")
  say("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
  local data = {"$d << EOD"}
  for _, size in ipairs(sizes) do
    local row = {size}
    for i, key in ipairs(names) do
      local cell = find(cells, key .. "-" .. size)
      rows[i] = cell and ("%.0f"):format(quantile(cell.all, 0.5)) or "-"
      row[#row + 1] = cell and ("%.1f"):format(quantile(cell.all, 0.5)) or "NaN"
      rows[key] = number(cell and ratio(cell, find(cells, key .. "-1"), "p50s") or 0 / 0, "%.2f")
    end
    say("| %d | %s | %s | %s | %s | %s | %s | %s |", size, rows[1], rows.c, rows[2], rows.raw_lua,
        rows[3], rows.anyevent, rows[4])
    data[#data + 1] = table.concat(row, " ")
  end
  data[#data + 1] = "EOD\n"
  plot("growth", table.concat(data, "\n") ..
    "set logscale xy\nset xlabel 'MiB of small tables in the template'\n" ..
    "set ylabel 'us from fork() to the first octet, p50'\nset key left top\n" ..
    "set title 'A clone of a large template'\n" ..
    "plot $d using 1:4 with linespoints title 'AnyEvent::Fork' lc rgb '#bbbbbb' pt 9, " ..
    "'' using 1:5 with linespoints title 'Python forkserver' lc rgb '#aa7744' pt 11, " ..
    "'' using 1:3 with linespoints title 'raw C fork, Lua' lc rgb '#ee8866' pt 5, " ..
    "'' using 1:2 with linespoints title 'moonfork' lc rgb '#4477aa' lw 2 pt 7\n")
end

function cases.spares()
  local n = quick and 200 or 1000
  local cells = lives(present {"raw_fork", "raw_lua", "c", "anyevent"}, {n}, 1)
  local function variant(key, label, ...)
    local cell = lives(present {"c"}, {n}, 1, 0, ...)[1]
    cell.key, cell.label = key, label
    cells[#cells + 1] = cell
  end
  variant("c-spares", "moonfork, C, 32 spares", 32)
  variant("c-pause", "moonfork, C, 1 ms between", 0, 1000)
  variant("c-spares-pause", "moonfork, C, 32 spares, refilled between", 32, 1000)
  cells = take_turns("spares", cells)
  say("")
  say("## Spares: clones forked ahead")
  say("")
  say("| | a second | x AnyEvent::Fork | p50 us | p99 us | x raw with Lua, p50 |")
  say("| --- | ---: | ---: | ---: | ---: | ---: |")
  for _, cell in ipairs(cells) do
    say("| %s | %.0f | %s | %.0f | %.0f | %s |", cell.label, median(cell.rates),
        number(ratio(cell, find(cells, "anyevent"), "rates"), "%.2f"), quantile(cell.all, 0.5),
        quantile(cell.all, 0.99), number(ratio(cell, find(cells, "raw_lua"), "p50s"), "%.2f"))
  end
end

function cases.memory()
  local cells = {
    {key = "c", label = "moonfork", command = build .. "/bench/host memory 84 2000000"},
    {key = "c0", label = "moonfork, empty template", command = build .. "/bench/host memory 0 1"},
    {key = "raw", label = "raw C fork, Lua", command = build .. "/bench/raw memory 84 2000000"},
  }
  if contestants.anyevent.there then
    cells[4] = {key = "anyevent", label = "AnyEvent::Fork, empty template",
                command = peer .. "perl anyevent.pl memory 0"}
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
  end
end

function cases.exec()
  local n = quick and 20 or 100
  local cells = {
    {key = "lua", label = "`lua5.4 -e ''`, spawned and waited for",
     command = ("%s/bench/raw exec %d"):format(build, n)},
    {key = "c", label = "moonfork, C: mf_new_exec to ready",
     command = ("%s/bench/host exec %d"):format(build, n)},
  }
  if contestants.anyevent.there then
    cells[3] = {key = "anyevent", label = "AnyEvent::Fork: new_exec to the first octet",
                command = ("%sperl anyevent.pl exec %d"):format(peer, n // 4)}
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
end

function cases.clones()
  local n = quick and 500 or 8000
  local _, f = run(build .. "/bench/host clones " .. n, "clones")
  say("")
  say("## Idle clones at once")
  say("")
  if not f or not f.clones then
    say("%d clones: failed (limits on processes or descriptors?)", n)
    return
  end
  say("%d clones of one template run and wait, after %.1f s (%.0f a second). Private memory of " ..
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
  local c, lua = build .. "/bench/calls", "lua5.4 " .. here .. "/calls.lua"
  local n, big = math.floor(50000 * scale), math.floor(400 * scale)
  local cells = take_turns("calls", {
    cell("raw", "raw socketpair echo, C, 64 octets", c .. " echo", n, 64),
    cell("c1", "mf_rpc, C, 64 octets, one at a time", c .. " rpc", n, 1, 64),
    cell("lua1", "rpc, Lua, 64 octets, one at a time", lua, n, 1, 64),
    cell("c64", "mf_rpc, C, 64 octets, 64 in flight", c .. " rpc", n * 10, 64, 64),
    cell("lua64", "rpc, Lua, 64 octets, 64 in flight", lua, n * 4, 64, 64),
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
  say("| | calls a second | x |")
  say("| --- | ---: | --- |")
  for _, x in ipairs(cells) do
    local other = against[x.key] and find(cells, against[x.key])
    say("| %s | %.0f | %s |", x.label, median(x.rates),
        other and ("%.2f x %s"):format(ratio(x, other, "rates"), other.label) or "")
  end
end

-- ---- all together ----

os.execute("mkdir -p " .. results .. " " .. samples_folder)
say("# Results")
say("")
say("%s, %d rounds, taking turns. Made by `./dev bench`; what is measured and how to read it: " ..
    "[../README.md](../README.md).", os.date("!%Y-%m-%d %H:%M UTC"), rounds)
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
local any = next(wanted) ~= nil
for name in pairs(wanted) do
  if not cases[name] then
    io.stderr:write("bench: there is nothing named ", name, "; there are: ",
                    table.concat(order, " "), "\n")
    os.exit(2)
  end
end
for _, name in ipairs(order) do
  if not any or wanted[name] then cases[name]() end
end
say("")
say("Load afterwards: %s.", capture "cut -d' ' -f1-3 /proc/loadavg")

if not quick and not any then
  local out = assert(io.open(results .. "/results.md", "w"))
  out:write(table.concat(report, "\n"), "\n")
  out:close()
end
