-- figures.lua: the figures of README.md are those of bench/results/results.md, rounded. Each row below
-- names a cell of a table of README.md, and where its figure is in the results: a section, the first
-- cell of a row, a column. What is not in a table there (the idle clones) is found by a pattern. Pages
-- of doc/ that repeat a table of the results have its rows, or its figures in the same order.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

local README, RESULTS = "README.md", "bench/results/results.md"
local results = read(RESULTS)

-- The cells of a line of a table: "| a | 1,234 us |" -> {"a", "1,234 us"}.
local function cells_of(line)
  local cells = {}
  for cell in line:gmatch "|([^|]*)%f[|]" do cells[#cells + 1] = cell:match "^%s*(.-)%s*$" end
  return cells
end

-- The lines of the text that are rows of tables, by their first cell; the first of a name counts.
local function rows_of(text)
  local rows = {}
  for line in text:gmatch "[^\n]+" do
    local cells = line:find "^|" and cells_of(line)
    if cells and not rows[cells[1]] then rows[cells[1]] = cells end
  end
  return rows
end

local function section(title)
  local from = results:find("\n## " .. title, 1, true)
  if not from then return complain("%s has no section '%s'", RESULTS, title) end
  return results:sub(from, (results:find("\n## ", from + 4, true) or 0) - 1)
end

-- The i-th number of a text, and how many digits it shows.
local function number_in(text, i)
  for number in (text or ""):gmatch "%d[%d,]*%.?%d*" do
    i = i - 1
    if i == 0 then
      local plain = number:gsub(",", "")
      return tonumber(plain), #(plain:match "%.(%d+)$" or "")
    end
  end
end

-- Whether `shown`, with so many digits behind the point, is `measured` rounded, to three digits that
-- count or more.
local function is_rounded(shown, digits, measured)
  local unit = 10.0 ^ -digits
  while digits == 0 and measured >= 1000 * unit and shown % (unit * 10) == 0 do unit = unit * 10 end
  return math.abs(shown - measured) <= unit / 2 + measured * 1e-9
end

local processes, growth = "Processes per second", "From fork() to the first byte"
local memory, calls = "Private memory of a clone", "Calls of a Lua function"
local images, many, http = "Images:", "Many items", "HTTP:"

-- {row of README, its column or {column, which number of the cell}, section, row, column[, divisor]}
local figures = {}
for name, in_results in pairs {
  ["raw C fork"] = "raw C fork", ["moonfork, C"] = "moonfork, C", ["moonfork, Lua"] = "moonfork, Lua",
  ["AnyEvent::Fork with EV"] = "AnyEvent::Fork, EV", ["luv `uv.spawn` of lua5.4"] = "luv uv.spawn lua5.4",
  ["Python's fork server"] = "Python forkserver",
} do
  for column, from in pairs {[2] = 2, [3] = 3, [4] = 6, [5] = 7, [6] = 10} do
    figures[#figures + 1] = {name, column, processes, in_results, from}
  end
end
for column, size in pairs {[2] = "1", [3] = "64", [4] = "512", [5] = "1024"} do
  figures[#figures + 1] = {"moonfork, C", column, growth, size, 2, second = true}
  if size ~= "1024" then
    figures[#figures + 1] = {"raw C fork, Lua in the child", column, growth, size, 4}
    figures[#figures + 1] = {"AnyEvent::Fork with EV", column, growth, size, 6, second = true}
  end
end
local KIB = 1024
local tables = "private memory of a clone that has made two million tables, for a template of 84 MiB"
local one, many_calls = "calls per second to a clone that stays, one at a time",
  "calls per second to a clone that stays, 64 at a time"
local start = "from the start of a program to its first Lua function, with an image of 512 MiB"
local lines = "100,000 lines of 3 us of work: `moonfork map` with two workers, relative to a loop"
local requests = "requests per second of `serve --http`, 20 connections, two workers"
table.move({
  {"private memory of an idle clone", 2, memory, "moonfork", 2},
  {"private memory of an idle clone", 3, memory, "raw C fork", 2},
  {tables, 2, memory, "moonfork", 3, KIB},
  {tables, 3, memory, "raw C fork", 3, KIB},
  {one, {2, 1}, calls, "mf_rpc, C, 64 bytes, one at a time", 2},
  {one, {2, 2}, calls, "rpc, Lua, 64 bytes, one at a time", 2},
  {one, 3, calls, "raw socketpair echo, C, 64 bytes", 2},
  {many_calls, {2, 1}, calls, "mf_rpc, C, 64 bytes, 64 in flight", 2},
  {many_calls, {2, 2}, calls, "rpc, Lua, 64 bytes, 64 in flight", 2},
  {"work that two workers of a pool do, relative to one", 2, calls, "pool, two workers, the same", 3},
  {start, 2, images, "an image of 512 MiB of tables", 2},
  {start, 3, images, "an empty interpreter", 2},
  {lines, 2, many, "100000 of 3 us", 5},
  {requests, 2, http, "moonfork serve --http", 5},
  {requests, 3, http, "nginx with Lua", 5},
}, 1, 15, #figures + 1, figures)

-- Rows of the first table of README's, and of the later ones.
local page = read(README)
local first, later = page:match "(## How fast.-)\n| time from fork.-\n(.-)\n## "
first, later = rows_of(first or ""), rows_of(later or "")

local function compare(figure)
  local row, place, title, name, column, divisor = table.unpack(figure, 1, 6)
  local cells = not figure.second and first[row] or later[row]
  local from = rows_of(section(title) or "")[name]
  if not cells then return complain("%s has no row '%s'", README, row) end
  if not from then return complain("%s has no row '%s' under '%s'", RESULTS, name, title) end
  local at, which = place, 1
  if type(place) == "table" then at, which = place[1], place[2] end
  -- "20,400 from C, 21,000 from Lua": which of them; the cell's other digits are no figures
  local shown, digits = number_in(cells[at]:gsub("64 at a time", ""), which)
  local measured = number_in(from[column], 1)
  if not shown or not measured then return complain("%s, '%s': no figure", README, row) end
  measured = measured / (divisor or 1)
  if not is_rounded(shown, digits, measured) then
    complain("%s, '%s', column %d: %s, but %s has %s ('%s', '%s')", README, row, at, cells[at], RESULTS,
      from[column], title, name)
  end
end
for _, figure in ipairs(figures) do compare(figure) end

local idle = number_in((later["clones that start and stay, per second"] or {})[2], 1)
local measured = tonumber(results:match "run and wait, after [%d.]+ s %((%d+) per second%)")
if not idle or not measured or not is_rounded(idle, 0, measured) then
  complain("%s: %s clones that start and stay, but %s has %s", README, idle, RESULTS, measured)
end

-- Every row of the section stands on the page, as it is.
for line in section("When it pays"):gmatch "\n(| %d+ %ls |[^\n]*)" do
  if not read("doc/when-it-pays.md"):find(line, 1, true) then
    complain("doc/when-it-pays.md lacks a row of %s: %s", RESULTS, line)
  end
end

-- The figures of these rows, thousands with a comma, in a line of the page that matches.
local function commas(number)
  while number:find "^%d%d%d%d" do number = number:gsub("^(%d+)(%d%d%d)", "%1,%2") end
  return number
end
local function repeated(path, pattern, title, row, columns)
  local line = read(path):match(pattern)
  if not line then return complain("%s has no line like %s", path, pattern) end
  local cells = rows_of(section(title) or "")[row] or {}
  for _, column in ipairs(columns) do
    local figure = commas(cells[column] or "nothing")
    if not line:find("%f[%d]" .. figure:gsub("%p", "%%%0") .. "%f[^%d]") then
      complain("%s: %s\nlacks %s (%s, '%s')", path, line, figure, RESULTS, row)
    end
  end
end
local threads = "Clones in threads"
local page_of_threads = "doc/thread-clones.md"
repeated(page_of_threads, "\n(| to the first byte, small[^\n]*)", threads, "the first byte, small template",
  {2, 3, 4})
repeated(page_of_threads, "\n(| to the exit[^\n]*)", threads, "to the exit status, small template",
  {2, 3, 4})
repeated(page_of_threads, "\n(| to the first byte, 8[^\n]*)", threads, "the first byte, 8 MiB of tables",
  {2, 3, 4})
local large = "Clones of a large template"
for size in ("64 512"):gmatch "%d+" do
  for _, what in ipairs {"the first byte", "ten places read before", "a quarter read before", "all read before"} do
    if size == "64" or what == "the first byte" or what == "ten places read before" then
      repeated(page_of_threads, "\n(| " .. size .. " MiB, " .. what .. " |[^\n]*)", large,
        size .. " MiB of tables, " .. what, {2, 3, 4, 5})
    end
  end
end
for _, row in ipairs {"an empty interpreter", "an image of 84 MiB of tables", "an image of 512 MiB of tables",
  "an image with 300 modules", "300 modules, loaded by require"} do
  repeated("doc/images.md", "\n(| " .. row .. " |[^\n]*)", images, row, {2, 4})
end
local over_nats = "\n(In one run:[^\n]*per second one at a time[^\n]*)"
repeated("doc/nats.md", over_nats, "Over NATS", "one at a time", {3, 4})
repeated("doc/nats.md", over_nats, "Over NATS", "64 in flight", {3, 4})
check.done()
