-- The measurement `image` of run.lua: templates that begin as an image against an empty interpreter, and
-- against loading the modules. kit: what run.lua has for it.
local kit = ...
local here, process, say = kit.here, kit.process, kit.say
local GOAL_START, GOAL_KIB = 1.1, 256

local function write_modules(dir)
  process.capture(("mkdir -p '%s'"):format(dir))
  for i = 1, 300 do
    local file <close> = assert(io.open(("%s/bench_module%d.lua"):format(dir, i), "w"))
    file:write("local format, concat = string.format, table.concat\nlocal M = {}\n")
    for j = 1, 20 do
      file:write(("function M.f%d(a, b) return format('%%s %%s', a, b) .. concat({a, b}, ',') end\n"):format(j))
    end
    file:write("return M\n")
  end
end

return function()
  local dir = os.tmpname()
  os.remove(dir)
  process.capture(("mkdir -p '%s'"):format(dir))
  write_modules(dir .. "/modules")
  local script = ("lua5.4 %s/image.lua "):format(here)
  local n = kit.quick and 10 or 60
  local sizes = kit.quick and {84} or {84, 512}
  local function make(name, words)
    local file = ("%s/%s.image"):format(dir, name)
    process.capture(("%s make %s %s"):format(script, file, words))
    return file
  end
  local cells = {{key = "empty", label = "an empty interpreter", command = script .. "exec " .. n}}
  for _, mib in ipairs(sizes) do
    cells[#cells + 1] = {key = "load" .. mib, label = ("an image of %d MiB of tables"):format(mib),
      command = ("%s load %s %d"):format(script, make(tostring(mib), mib), n)}
  end
  cells[#cells + 1] = {key = "imaged", label = "an image with 300 modules",
    command = ("%s load %s %d"):format(script, make("modules", "modules " .. dir .. "/modules"), n)}
  cells[#cells + 1] = {key = "loading", label = "300 modules, loaded by require",
    command = ("%s modules %s %d"):format(script, dir .. "/modules", n)}
  local largest = sizes[#sizes]
  cells[#cells + 1] = {key = "hibernated", label = ("a function that goes on, with %d MiB of tables"):format(largest),
    command = ("%s hibernate %s/function.image %d %d"):format(script, dir, largest, n)}
  cells = kit.take_turns("image", cells)
  local function of_all(cell, name)
    local all = {}
    for _, f in pairs(cell.figures) do all[#all + 1] = f[name] end
    return kit.median(all)
  end
  say("\n## Images: from the start of the program to the first byte of a Lua function\n")
  say("Private memory: pages that no other process has mapped (`Private_Clean` and `Private_Dirty` of the kernel's")
  say("`smaps_rollup`), of a process beside another one like it, with which it shares the pages of all files; of these")
  say("the pages that it has written (`Private_Dirty`). A process alone: the same where no other one has the files")
  say("mapped; pages that it has only read are the kernel's cache of them, and can be dropped at any time.\n")
  say("| the template | ms | x an empty interpreter | private memory, KiB | of it written | alone, KiB "
    .. "| of it written |")
  say("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
  local empty = kit.find(cells, "empty")
  for _, cell in ipairs(cells) do
    local x = of_all(cell, "p50_us") / of_all(empty, "p50_us")
    say("| %s | %.2f | %.2f | %.0f | %.0f | %.0f | %.0f |", cell.label, of_all(cell, "p50_us") / 1000, x,
      of_all(cell, "private_kib"), of_all(cell, "written_kib"), of_all(cell, "alone_kib"),
      of_all(cell, "alone_written_kib"))
    if cell.key:find "^load%d" then
      kit.goal("image: " .. cell.label .. ", x an empty interpreter", "most", GOAL_START, x, "%.2f")
      kit.goal("image: " .. cell.label .. ", private KiB of one beside another", "most", GOAL_KIB,
        of_all(cell, "private_kib"), "%.0f")
    end
  end
  local hibernated = kit.find(cells, "hibernated")
  say("\n`clone.hibernate` of that function, a clone's: %.2f s, and %.0f KiB more of private memory afterwards.",
    of_all(hibernated, "save_s"), of_all(hibernated, "save_private_kib"))
  process.capture(("rm -rf '%s'"):format(dir))
end
