-- timeline: draws a trace of moonfork as a picture, for the documentation. It shows rows, spans and
-- marks of some milliseconds; Perfetto shows all of a trace, and lets you look closer.
--
--   lua5.4 doc/pictures/timeline.lua trace.json >timeline.svg
package.path = (arg[0]:match "^(.*)doc/pictures/" or "") .. "test/help/?.lua;" .. package.path
local json = require "json"

-- Letters of 16 units in a width of 600: they can be read on a page of 400 pixels.
local WIDTH, LABEL, ROW, GAP, TOP = 600, 72, 24, 12, 18
local COLOURS = {process = "a", start = "b", fork = "c", load = "d", seal = "e", run = "f",
  call = "g", ["end"] = "h"}

local function read_rows(path)
  local file = assert(io.open(path, "rb"))
  local events = json.read(file:read "a")
  file:close()
  local rows, list, order = {}, {}, {}
  for i, e in ipairs(events) do order[e] = i end
  table.sort(events, function(a, b)
    if a.ts ~= b.ts then return a.ts < b.ts end
    return order[a] < order[b]
  end)
  for _, e in ipairs(events) do
    local row = rows[e.pid]
    if not row then
      row = {spans = {}, marks = {}, open = {}, depth = 0, order = 0}
      rows[e.pid] = row
      list[#list + 1] = row
    end
    if e.ph == "M" then
      if e.name == "process_name" then row.name = e.args.name end
      if e.name == "process_sort_index" then row.order = e.args.sort_index end
    elseif e.ph == "B" then
      local span = {name = e.name, cat = e.cat, from = e.ts, to = math.huge, depth = #row.open}
      row.open[#row.open + 1] = span
      row.spans[#row.spans + 1] = span
      row.depth = math.max(row.depth, #row.open)
    elseif e.ph == "E" then
      table.remove(row.open).to = e.ts
    elseif e.ph == "i" then
      row.marks[#row.marks + 1] = e
    end
  end
  table.sort(list, function(a, b) return a.order < b.order end)
  return list
end

local function bounds(rows)
  local first, last = math.huge, 0
  for _, row in ipairs(rows) do
    for _, s in ipairs(row.spans) do
      first = math.min(first, s.from)
      last = math.max(last, s.to < math.huge and s.to or s.from)
    end
  end
  return first, last
end

local function escape(text)
  return (text:gsub("[&<>]", {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;"}))
end

local rows = read_rows(assert(arg[1], "usage: timeline.lua TRACE.json >PICTURE.svg"))
local first, last = bounds(rows)
local scale = (WIDTH - LABEL - 10) / (last - first)
local function x_of(ts) return LABEL + (ts - first) * scale end

local out = {}
local function put(form, ...) out[#out + 1] = form:format(...) end

local function draw_span(s, y)
  local from, to = x_of(s.from), x_of(math.min(s.to, last))
  local width = math.max(to - from, 1)
  put('<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"><title>%s, %.1f ms</title></rect>',
    COLOURS[s.cat] or "a", from, y, width, ROW - 2, escape(s.name), (math.min(s.to, last) - s.from) / 1000)
  local room = (width - 6) // 8.5
  if room >= #s.name then
    put('<text x="%.1f" y="%d">%s</text>', from + 4, y + ROW - 7, escape(s.name))
  end
end

local y = TOP + ROW
for _, row in ipairs(rows) do
  if #row.spans > 0 or #row.marks > 0 then
    put('<text class="label" x="4" y="%d">%s</text>', y + ROW - 7, escape(row.name))
    for _, s in ipairs(row.spans) do draw_span(s, y + s.depth * ROW) end
    local height = math.max(row.depth, 1) * ROW
    for _, m in ipairs(row.marks) do
      local x = x_of(m.ts)
      put('<path class="mark" d="M%.1f %d v%d"><title>%s</title></path>', x, y - 3, height + 3, escape(m.name))
      if m.name ~= "death" then
        put('<text class="mark-text" x="%.1f" y="%d">%s</text>', x + 3, y + height + 12, escape(m.name))
      end
    end
    y = y + height + GAP
  end
end

local step = 10000
while (last - first) / step > 6 do step = step * 2 end
for ts = first, last, step do
  table.insert(out, 1, ('<path class="grid" d="M%.1f %d V%d"/><text class="time" x="%.1f" y="%d">%d ms</text>')
    :format(x_of(ts), TOP + 4, y, x_of(ts) + 2, TOP, (ts - first) // 1000))
end

print(([[<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">
<title>A timeline of moonfork's processes</title>
<style>
text { font: 16px sans-serif; fill: #1a1a1a } .label { font-weight: bold }
.time { fill: #666666 } .grid { stroke: #dddddd } .mark { stroke: #c0392b; stroke-width: 1.5 }
.mark-text { fill: #c0392b }
.background { fill: #ffffff }
.a { fill: #d9dee7 } .b { fill: #f3c98b } .c { fill: #b7d7a8 } .d { fill: #f4e19c }
.e { fill: #d5c1e8 } .f { fill: #a9c9ee } .g { fill: #6fa8dc } .h { fill: #c9c9c9 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e6e6 } .background { fill: #1b1e23 } .grid { stroke: #3a3f47 } .time { fill: #9aa0a8 }
  .mark { stroke: #ff7b6b } .mark-text { fill: #ff7b6b }
  .a { fill: #3c4351 } .b { fill: #8a6426 } .c { fill: #45703a } .d { fill: #7d6a1d }
  .e { fill: #60467f } .f { fill: #2f5d8f } .g { fill: #3f7fbf } .h { fill: #555555 }
}
</style>
<rect class="background" width="100%%" height="100%%"/>]]):format(WIDTH, y, WIDTH, y))
print(table.concat(out, "\n"))
print "</svg>"
