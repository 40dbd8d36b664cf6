-- Figures as SVG that follow the reader's choice of light or dark: lines over two logarithmic
-- axes, and bars. No program but Lua is needed. bench/run.lua calls figure.lines and figure.bars.
local figure = {}

-- Letters of 16 units in a width of 600: they can be read on a page of 400 pixels.
local WIDTH, HEIGHT = 600, 430
local LEFT, RIGHT, TOP, BOTTOM = 84, 156, 20, 62

local STYLE = [[
  .back { fill: #ffffff } text { fill: #24292f; font: 16px sans-serif }
  .grid { stroke: #d8dee4 } .axis { stroke: #57606a } .even { stroke: #57606a; stroke-dasharray: 4 3 }
  path { fill: none; stroke-width: 2 }
  .s1 { stroke: #0550ae; fill: #0550ae } .s2 { stroke: #1a7f37; fill: #1a7f37 }
  .s3 { stroke: #9a6700; fill: #9a6700 } .s4 { stroke: #a40e26; fill: #a40e26 }
  path.s1, path.s2, path.s3, path.s4 { fill: none } text.s1, text.s2, text.s3, text.s4 { stroke: none }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 }
    .grid { stroke: #30363d } .axis { stroke: #8b949e } .even { stroke: #8b949e }
    .s1 { stroke: #79c0ff; fill: #79c0ff } .s2 { stroke: #7ee787; fill: #7ee787 }
    .s3 { stroke: #e3b341; fill: #e3b341 } .s4 { stroke: #ff7b72; fill: #ff7b72 }
  }
]]

-- "30 us", "1 ms": of microseconds.
function figure.duration(us)
  if us >= 1000 then return ("%g ms"):format(us / 1000) end
  return ("%g us"):format(us)
end

-- A scale from values to places: log(least) at `from`, log(most) at `to`.
local function scale(least, most, from, to)
  return function(value)
    return from + (to - from) * (math.log(value) - math.log(least)) / (math.log(most) - math.log(least))
  end
end

-- 1, 2, 5, 10 ... from least to most; every == 10: powers of ten only.
local function ticks(least, most, every)
  local list = {}
  for power = -6, 9 do
    for _, digit in ipairs(every == 10 and {1} or {1, 2, 5}) do
      local value = digit * 10.0 ^ power
      if value >= least * 0.999 and value <= most * 1.001 then list[#list + 1] = value end
    end
  end
  return list
end

-- Labels at the ends of the lines, pushed apart where they would lie on each other.
local function spread(labels)
  table.sort(labels, function(a, b) return a.y < b.y end)
  for i = 2, #labels do labels[i].y = math.max(labels[i].y, labels[i - 1].y + 19) end
end

-- "1,024", "0.05"
local function plain(value)
  local text = ("%g"):format(value)
  if value >= 1e5 then text = ("%.0f"):format(value) end
  local grouped = text:gsub("^(%d+)(%d%d%d)$", "%1,%2")
  return grouped
end

local function begin(width, height, title)
  local out = {}
  local function add(format, ...) out[#out + 1] = format:format(...) end
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">',
    width, height, width, height)
  add('<title>%s</title>\n<style>\n%s</style>', title, STYLE)
  add('<rect class="back" width="%d" height="%d"/>', width, height)
  return out, add
end

local function finish(out)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

local function limits(series, least_y)
  local least_x, most_x, most_y = math.huge, 0, 0
  local lowest = math.huge
  for _, line in ipairs(series) do
    for _, point in ipairs(line) do
      least_x, most_x = math.min(least_x, point[1]), math.max(most_x, point[1])
      if point[2] == point[2] then
        lowest, most_y = math.min(lowest, point[2]), math.max(most_y, point[2])
      end
    end
  end
  return least_x, most_x, least_y or lowest / 1.2, most_y * 1.2
end

--- lines(what): what.series: lists of {x, y}, each with a `label`; what.x and what.y: titles;
-- what.x_text(x), what.y_text(y): for the axes; what.y_least; what.even: a y that is marked.
function figure.lines(what)
  local least_x, most_x, least_y, most_y = limits(what.series, what.y_least)
  local x_text, y_text = what.x_text or plain, what.y_text or plain
  local right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
  local x, y = scale(least_x, most_x, LEFT, right), scale(least_y, most_y, bottom, TOP)
  local out, add = begin(WIDTH, HEIGHT, ("%s, by the %s"):format(what.y, what.x))
  for _, value in ipairs(ticks(least_x, most_x, 10)) do
    add('<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>', x(value), x(value), TOP, bottom)
    add('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', x(value), bottom + 22, x_text(value))
  end
  for _, value in ipairs(ticks(least_y, most_y, most_y / least_y > 100 and not what.even and 10 or nil)) do
    add('<line class="%s" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>', value == what.even and "even" or "grid",
      LEFT, right, y(value), y(value))
    add('<text x="%d" y="%.1f" text-anchor="end">%s</text>', LEFT - 8, y(value) + 5, y_text(value))
  end
  add('<path class="axis" d="M%d %d V%d H%d"/>', LEFT, TOP, bottom, right)
  add('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', (LEFT + right) / 2, HEIGHT - 12, what.x)
  add('<text transform="translate(16 %.1f) rotate(-90)" text-anchor="middle">%s</text>',
    (TOP + bottom) / 2, what.y)
  local labels = {}
  for i, line in ipairs(what.series) do
    local steps = {}
    for _, point in ipairs(line) do
      if point[2] == point[2] and point[2] >= least_y then
        steps[#steps + 1] = ("%s%.1f %.1f"):format(#steps == 0 and "M" or "L", x(point[1]), y(point[2]))
        add('<circle class="s%d" cx="%.1f" cy="%.1f" r="3"/>', i, x(point[1]), y(point[2]))
        labels[i] = {class = i, x = x(point[1]) + 10, y = y(point[2]) + 5, text = line.label}
      end
    end
    if steps[1] then add('<path class="s%d" d="%s"/>', i, table.concat(steps, " ")) end
  end
  local shown = {}
  for i = 1, #what.series do shown[#shown + 1] = labels[i] end
  spread(shown)
  for _, label in ipairs(shown) do
    add('<text class="s%d" x="%.1f" y="%.1f">%s</text>', label.class, label.x, label.y, label.text)
  end
  return finish(out)
end

local BAR, GAP, NAMES = 18, 12, 170

--- bars(what): what.rows: lists of {name, value...}; what.series: the names of the values; what.x: the
-- title.
function figure.bars(what)
  local most = 0
  for _, row in ipairs(what.rows) do
    for i = 2, #row do most = math.max(most, row[i]) end
  end
  local step = #what.series * BAR + GAP
  local top = 16 + #what.series * 22
  local width, height = WIDTH, top + #what.rows * step + 40
  local out, add = begin(width, height, what.x)
  local right = width - 70
  for i, name in ipairs(what.series) do
    add('<rect class="s%d" x="%d" y="%d" width="12" height="12"/>', i, NAMES, i * 22 - 8)
    add('<text x="%d" y="%d">%s</text>', NAMES + 18, i * 22 + 4, name)
  end
  for i, row in ipairs(what.rows) do
    local y = top + (i - 1) * step + GAP
    add('<text x="%d" y="%.1f" text-anchor="end">%s</text>', NAMES - 8, y + (step - GAP) / 2 + 5, row[1])
    for k = 2, #row do
      local length = most > 0 and row[k] / most * (right - NAMES) or 0
      local at = y + (k - 2) * BAR
      add('<rect class="s%d" x="%d" y="%.1f" width="%.1f" height="%d"/>', k - 1, NAMES, at, length, BAR - 1)
      add('<text x="%.1f" y="%.1f">%s</text>', NAMES + length + 5, at + 14, plain(math.floor(row[k] + 0.5)))
    end
  end
  add('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', (NAMES + right) / 2, height - 12, what.x)
  return finish(out)
end

return figure
