-- Draws the pictures of the documentation that show how things hang together:
--
--   lua5.4 doc/pictures/pictures.lua           writes its SVG files beside itself
--   lua5.4 doc/pictures/pictures.lua --check   whether they are what it would write
--
-- They follow the reader's choice of light or dark, and their letters, 16 units of a width of 600, can be
-- read on a page of 400 pixels.
local here = arg[0]:match "^(.*)/" or "."

local STYLE = [[
  .back { fill: #ffffff } text { fill: #1f2328; font: 16px sans-serif } .small { font-size: 15px; fill: #59636e }
  .bold { font-weight: bold } .box { fill: #f3f5f7; stroke: #59636e; stroke-width: 1.5 }
  .shared { fill: #cfe2f7; stroke: #0550ae; stroke-width: 1.5 }
  .own { fill: #f8d9b0; stroke: #9a6700; stroke-width: 1.5 }
  .copy { fill: #f6cdd1; stroke: #a40e26; stroke-width: 1.5 }
  .parent { stroke: #59636e } .fork { stroke: #1a7f37; stroke-dasharray: 6 4 } .socket { stroke: #0550ae }
  .parent, .fork, .socket { fill: none; stroke-width: 2 } .parent-text { fill: #59636e } .fork-text { fill: #1a7f37 }
  .socket-text { fill: #0550ae } .tip { stroke: none } .tip-parent { fill: #59636e } .tip-fork { fill: #1a7f37 }
  .tip-socket { fill: #0550ae }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 }
    .box { fill: #1c2129; stroke: #9198a1 } .shared { fill: #1c3a5e; stroke: #79c0ff }
    .own { fill: #5a4117; stroke: #e3b341 }
    .copy { fill: #5c2429; stroke: #ff7b72 }
    .parent { stroke: #9198a1 } .fork { stroke: #7ee787 } .socket { stroke: #79c0ff }
    .parent-text { fill: #9198a1 } .fork-text { fill: #7ee787 } .socket-text { fill: #79c0ff }
    .tip-parent { fill: #9198a1 } .tip-fork { fill: #7ee787 } .tip-socket { fill: #79c0ff }
  }
]]

local function picture(width, height, title)
  local self = {lines = {}}
  function self.put(format, ...) self.lines[#self.lines + 1] = format:format(...) end
  self.put('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">',
    width, height, width, height)
  self.put('<title>%s</title>\n<style>\n%s</style>', title, STYLE)
  self.put('<rect class="back" width="%d" height="%d"/>', width, height)
  function self.text(x, y, text, class, anchor)
    self.put('<text x="%d" y="%d"%s%s>%s</text>', x, y, class and (' class="%s"'):format(class) or "",
      anchor and (' text-anchor="%s"'):format(anchor) or "", text)
  end
  -- A box with lines of text in its middle; the first one is bold.
  function self.box(x, y, w, h, class, ...)
    self.put('<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="6"/>', class, x, y, w, h)
    local n = select("#", ...)
    for i = 1, n do
      self.text(x + w // 2, y + h // 2 + 6 + math.floor((i - (n + 1) / 2) * 20), (select(i, ...)),
        i == 1 and "bold" or "small", "middle")
    end
  end
  -- A line through points {x, y, x, y...}, with a tip at its end.
  function self.arrow(class, points)
    local n, steps = #points, {}
    for i = 1, n, 2 do steps[#steps + 1] = ("%s%d %d"):format(i == 1 and "M" or "L", points[i], points[i + 1]) end
    self.put('<path class="%s" d="%s"/>', class, table.concat(steps, " "))
    local x, y, fx, fy = points[n - 1], points[n], points[n - 3], points[n - 2]
    local length = math.sqrt((x - fx) ^ 2 + (y - fy) ^ 2)
    local dx, dy = (x - fx) / length, (y - fy) / length
    self.put('<path class="tip tip-%s" d="M%d %d L%.1f %.1f L%.1f %.1f Z"/>', class, x, y,
      x - 11 * dx + 5 * dy, y - 11 * dy - 5 * dx, x - 11 * dx - 5 * dy, y - 11 * dy + 5 * dx)
  end
  function self.finish()
    self.lines[#self.lines + 1] = "</svg>\n"
    return table.concat(self.lines, "\n")
  end
  return self
end

-- The program, a template and its clones: who is whose parent, who is forked from whom.
local function processes()
  local p = picture(600, 400, "The processes: the program is the parent of the template and of every clone; clones are "
    .. "forked from the template; each has a socket to the program")
  p.box(10, 150, 150, 90, "box", "your program", "Lua, or C", "with libuv")
  p.box(230, 20, 160, 90, "box", "template", "Lua, your modules,", "waits")
  local clones = {{"clone", "runs f(socket)"}, {"clone", "runs f(socket)"}, {"clone", "a template, too"},
    {"its clone", "runs g(socket)"}}
  for i, clone in ipairs(clones) do p.box(440, 20 + (i - 1) * 84, 150, 58, "box", clone[1], clone[2]) end
  p.arrow("parent", {110, 150, 110, 65, 230, 65})
  for i = 1, 3 do
    local y = 20 + (i - 1) * 84 + 29
    p.arrow("fork", {390, 65, 440, y - 8})
  end
  p.arrow("fork", {535, 246, 535, 272})
  for i = 1, 4 do
    local y = 20 + (i - 1) * 84 + 42
    p.put('<path class="socket" d="M160 %d C 390 %d, 370 %d, 440 %d"/>', 170 + i * 12, 170 + i * 12, y, y)
  end
  p.arrow("parent", {30, 350, 80, 350})
  p.text(90, 355, "is the parent of (here, and of every clone)", "parent-text")
  p.put '<path class="fork" d="M30 374 H80"/>'
  p.text(90, 379, "fork", "fork-text")
  p.put '<path class="socket" d="M200 374 H250"/>'
  p.text(260, 379, "socket: commands, then yours", "socket-text")
  return p.finish()
end

-- The sealed heap is there once; what a process writes is its own.
local function memory()
  local p = picture(600, 400, "Memory: the sealed heap is there once, for the template and all of its clones; what a "
    .. "clone writes is its own")
  local names = {"template", "clone 1", "clone 2", "clone 3"}
  for i, name in ipairs(names) do
    local x = 10 + (i - 1) * 148
    p.text(x + 68, 30, name, "bold", "middle")
    p.put('<rect class="box" x="%d" y="42" width="136" height="200" rx="6"/>', x)
    if i > 1 then
      p.box(x + 8, 50, 120, 66, "own", i == 3 and "1.2 MB" or "52 KiB", "of its own")
    else
      p.text(x + 68, 88, "waits", "small", "middle")
    end
  end
  p.box(4, 132, 592, 96, "shared", "the sealed heap, once: 84 MiB",
    "modules, data, code: one file in memory, in huge pages", "nobody writes to it, so nobody copies it")
  p.text(10, 276, "After two million small tables in a clone of that template, of its own:")
  p.put '<rect class="own" x="10" y="290" width="4" height="30"/>'
  p.text(24, 311, "moonfork: 1.2 MB")
  p.put '<rect class="copy" x="10" y="332" width="580" height="30"/>'
  p.text(24, 353, "a clone by fork() alone: 183 MB")
  return p.finish()
end

-- Two machines: the program and its near end here; the agent, a template and clones there.
local function remote()
  local p = picture(600, 400, "fork.remote: the program has its sockets to the near end here, which carries them over "
    .. "the standard input and output of a command to the agent there, the parent of the template and the clones")
  p.text(10, 26, "this machine", "parent-text")
  p.text(590, 26, "the far side", "parent-text", "end")
  p.put '<rect class="parent" x="4" y="36" width="172" height="296" rx="6"/>'
  p.put '<rect class="parent" x="264" y="36" width="332" height="296" rx="6"/>'
  p.box(14, 50, 152, 84, "box", "your program", "Lua, or C", "with libuv")
  p.box(14, 236, 152, 84, "shared", "near end", "moonfork-remote")
  p.box(276, 236, 128, 84, "shared", "agent", "moonfork agent")
  p.box(440, 50, 128, 66, "box", "template", "your modules")
  p.box(440, 152, 128, 66, "box", "clone", "runs f(socket)")
  p.box(440, 254, 128, 66, "box", "clone", "runs g(socket)")
  for i = 0, 2 do
    local from, to = 288 + i * 10, 92 + i * 106
    p.put('<path class="socket" d="M%d 134 V236"/>', 60 + i * 30)
    p.put('<path class="socket" d="M404 %d C 425 %d, 415 %d, 440 %d"/>', from, from, to, to)
  end
  p.put '<path class="socket" d="M166 278 H276" style="stroke-width: 7"/>'
  p.text(220, 264, "the link", "socket-text", "middle")
  p.text(220, 304, "ssh, sudo,", "small", "middle")
  p.text(220, 322, "docker ...", "small", "middle")
  p.arrow("parent", {340, 236, 340, 72, 440, 72})
  p.arrow("parent", {340, 236, 340, 174, 440, 174})
  p.arrow("parent", {404, 268, 440, 268})
  p.arrow("fork", {504, 116, 504, 152})
  p.arrow("fork", {568, 84, 586, 84, 586, 287, 568, 287})
  p.arrow("parent", {20, 356, 70, 356})
  p.text(80, 361, "is the parent of", "parent-text")
  p.put '<path class="fork" d="M230 356 H280"/>'
  p.text(290, 361, "fork", "fork-text")
  p.put '<path class="socket" d="M360 356 H410"/>'
  p.text(420, 361, "sockets, one each", "socket-text")
  p.text(20, 388, "The link carries the sockets over the command's input and output.", "small")
  return p.finish()
end

-- Callers, the engine, and nodes with their workers: what each sends where.
local function nats()
  local p = picture(600, 400, "moonfork.nats: callers send calls through the NATS server to one node that has "
    .. "room; stored jobs wait in the server until a node takes them; each node gives both to the workers of its pool")
  p.box(10, 60, 140, 66, "box", "caller", "nats.pool(url)")
  p.box(10, 216, 140, 66, "box", "caller", "nats.pool(url)")
  p.put '<rect class="shared" x="222" y="36" width="136" height="272" rx="6"/>'
  p.text(290, 62, "the engine", "bold", "middle")
  p.text(290, 84, "nats-server", "small", "middle")
  p.box(232, 216, 116, 78, "own", "stored jobs", "and results")
  for i = 0, 1 do
    local y = 36 + i * 146
    p.box(420, y, 80, 126, "box", "node", "a pool", "window")
    for k = 0, 2 do p.box(520, y + k * 44, 76, 38, "copy", "worker") end
    for k = 0, 2 do p.put('<path class="parent" d="M500 %d L520 %d"/>', y + 63, y + k * 44 + 19) end
    p.arrow("fork", {420, y + 26, 358, y + 26})
    p.arrow("socket", {358, y + 70, 420, y + 70})
  end
  p.arrow("fork", {222, 78, 150, 78})
  p.arrow("socket", {150, 106, 222, 106})
  p.arrow("socket", {150, 254, 232, 254})
  p.arrow("fork", {20, 340, 70, 340})
  p.text(80, 345, "beats: I am here, with room for so many", "fork-text")
  p.arrow("socket", {20, 366, 70, 366})
  p.text(80, 371, "a call, to one node with room; a job, to be stored", "socket-text")
  p.text(20, 394, "Answers and results come back the same way.", "small")
  return p.finish()
end

local check, bad = arg[1] == "--check", false
for name, draw in pairs{processes = processes, memory = memory, remote = remote, nats = nats} do
  local path = here .. "/" .. name .. ".svg"
  local file = io.open(path, check and "r" or "w")
  if not check then
    assert(file:write(draw()))
  elseif not file or file:read "a" ~= draw() then
    print(path .. " is not what doc/pictures/pictures.lua draws; run it")
    bad = true
  end
  if file then file:close() end
end
os.exit(not bad)
