-- layers.lua: who may include whom. The table is the one in doc/design.md ("Layers"); this
-- program reads it there, so the page can't grow old, and looks at every #include below
-- src/. A row's third column lists folders (`base`, or one header of them: `os/fd`), the
-- words `lua`, `libuv` and `moonfork.h`, and single headers; what stands in parentheses or
-- after "never" is for the reader. A folder may always use itself. Each folder has a row, and
-- each row a folder that uses all of it.
--
-- A second table has the subfolders of the large folders; one uses those before it, and itself.
--
-- Everywhere: no circle of includes, where a file is X.c and X.h together, no file of more than
-- LINES_MAX lines (of lua/, test/ and the others neither), and no two files of one name: who searches for `failure.c`
-- finds one. So it is with a struct or enum of a header: no other file has one of that name
-- (src/serve, which is not linked with the rest, has its own). And every file of lua/ is installed.

local DESIGN = "doc/design.md"

-- What a word of the table means for <system> includes.
local SYSTEM = {
  ["lua.h"] = "lua", ["lauxlib.h"] = "lua", ["lualib.h"] = "lua", ["luaconf.h"] = "lua",
  ["uv.h"] = "libuv", ["msgpack/pack.h"] = "msgpack", ["http_parser.h"] = "http_parser",
  ["nats/nats.h"] = "libnats", ["moonfork/nats.h"] = "moonfork/nats.h", ["moonfork.h"] = "moonfork.h",
  ["moonfork/template.h"] = "moonfork/template.h",
}

local LINES_MAX = 700

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

-- "base, os, `os/fd`; never lua" -> { base = true, os = true, ["os/fd"] = true }
local function parse_words(column)
  local words = {}
  column = column:gsub("%b()", ""):gsub(";?%s*never.*$", "")
  for word in column:gmatch("[^,;]+") do
    word = word:gsub("`", ""):match("^%s*(.-)%s*$")
    word = word:gsub("^src/", "")
    words[word] = true
  end
  return words
end

-- { ["src/wire"] = words } from the page.
local function parse_table()
  local rows, inside = {}, false
  for line in read(DESIGN):gmatch("[^\n]*") do
    if line:match("^## ") then inside = line:match("^## Layers") ~= nil end
    local folder, column = line:match("^| `(src/%w+)` | [^|]* | ([^|]*) |$")
    if inside and folder then rows[folder] = parse_words(column) end
  end
  assert(next(rows), DESIGN .. ": no table of layers")
  return rows
end

-- "os/fd.h" is allowed by "os", "os/fd" and "os/fd.h".
local function allows(words, header)
  local folder = header:match("^([^/]+)/")
  local stem = header:gsub("%.h$", "")
  return words[header] or words[stem] or (folder and words[folder])
end

local function check_include(path, own, words, header, system)
  if not system then
    if header:match("^" .. own .. "/") or allows(words, header) then return end
    return complain("%s includes %s, which its layer may not", path, header)
  end
  local word = SYSTEM[header] or (header:match("^uv/") and "libuv")
  if not word or words[word] then return end
  -- a program that is a template implements that header; the parent implements its own
  if own == "template" and word == "moonfork/template.h" then return end
  if own == "parent" and word == "moonfork.h" then return end
  complain("%s includes <%s>, which its layer may not", path, header)
end

local function lines_of(command)
  local lines = {}
  local pipe = assert(io.popen(command, "r"))
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end

-- { [path] = text } of the files that the command lists.
local function read_all(command)
  local texts = {}
  for _, path in ipairs(lines_of(command)) do texts[path] = read(path) end
  return texts
end

-- { {"os/fd.h", system = false}, ... }
local function includes_of(text)
  local list = {}
  for open, header in text:gmatch('%f[^\n\0]%s*#%s*include%s*([<"])([^>"\n]+)[>"]') do
    list[#list + 1] = { header, system = open == "<" }
  end
  return list
end

-- The subfolders of the second table from the bottom up: { ["parent/loop"] = 4 }.
local function parse_subfolders()
  local ranks, n = {}, 0
  for subfolder in read(DESIGN):gmatch "\n| `src/([%w/]+)` | [^|\n]* |%f[\n]" do
    n = n + 1
    ranks[subfolder] = n
  end
  assert(n > 0, DESIGN .. ": no table of subfolders")
  return ranks
end

local function subfolder_of(path)
  return path:match "^(.*)/[^/]*$"
end

-- A subfolder uses itself and those above it in the table.
local function check_subfolders(texts)
  local ranks, seen = parse_subfolders(), {}
  for path, text in pairs(texts) do
    local subfolder = subfolder_of(path:match "^src/(.*)$")
    local layer = subfolder:match "^[^/]+"
    if ranks[layer] then
      seen[subfolder] = true
      if not ranks[subfolder] then complain("%s: its subfolder has no row in %s", path, DESIGN) end
      for _, include in ipairs(includes_of(text)) do
        local other = subfolder_of(include[1])
        if other and (other .. "/"):find(layer .. "/", 1, true) == 1 and
          (ranks[other] or 0) > (ranks[subfolder] or 0) then
          complain("%s includes %s, whose subfolder comes later in %s", path, include[1], DESIGN)
        end
      end
    end
  end
  for subfolder in pairs(ranks) do
    if not seen[subfolder] then complain("%s: there is no subfolder src/%s", DESIGN, subfolder) end
  end
end

-- What a row names, some file of the folder includes; so rows don't grow.
local function check_row(folder, words, included)
  words.libc, words.nothing = nil, nil
  for header, system in pairs(included) do
    local word = system and (SYSTEM[header] or header:match "^uv/" and "libuv")
    for _, name in ipairs { word or header, header, (header:gsub("%.h$", "")), header:match "^([^/]+)/" } do
      words[name] = nil
    end
  end
  for word in pairs(words) do complain("%s: %s may use %s, but does not", DESIGN, folder, word) end
end

local function check_folder(folder, words, texts)
  local own, included = folder:match("^src/(%w+)$"), {}
  for path, text in pairs(texts) do
    if path:sub(1, #folder + 1) == folder .. "/" then
      for _, include in ipairs(includes_of(text)) do
        check_include(path, own, words, include[1], include.system)
        included[include[1]] = include.system
      end
    end
  end
  check_row(folder, words, included)
end

-- { ["os/sock"] = { ["os/fd"] = true } }: what each file includes of ours.
local function graph_of(texts)
  local graph = {}
  for path in pairs(texts) do graph[path:match("^src/(.*)%.[ch]$")] = {} end
  for path, text in pairs(texts) do
    local from = path:match("^src/(.*)%.[ch]$")
    for _, include in ipairs(includes_of(text)) do
      local to = include[1]:match("^(.*)%.h$")
      if graph[to] and to ~= from then graph[from][to] = true end
    end
  end
  return graph
end

-- Calls found(list) for every set of files that include each other (Tarjan's algorithm).
local function each_circle(graph, found)
  local number, low, stack, on_stack, count = {}, {}, {}, {}, 0
  local function visit(file)
    count = count + 1
    number[file], low[file] = count, count
    stack[#stack + 1], on_stack[file] = file, true
    for other in pairs(graph[file]) do
      if not number[other] then
        visit(other)
        low[file] = math.min(low[file], low[other])
      elseif on_stack[other] then
        low[file] = math.min(low[file], number[other])
      end
    end
    if low[file] < number[file] then return end
    local circle = {}
    repeat
      local member = table.remove(stack)
      on_stack[member] = nil
      circle[#circle + 1] = member
    until member == file
    if #circle > 1 then
      table.sort(circle)
      found(circle)
    end
  end
  for file in pairs(graph) do
    if not number[file] then visit(file) end
  end
end

local function check_circles(texts)
  each_circle(graph_of(texts), function(circle)
    complain("a circle of includes: %s", table.concat(circle, ", "))
  end)
end

local function check_lengths(texts)
  for path, text in pairs(texts) do
    local _, n = text:gsub("\n", "")
    if n > LINES_MAX then complain("%s: %d lines, more than %d", path, n, LINES_MAX) end
  end
end

-- The name of a file, without its folder and ending, has one place.
local function check_names(texts)
  local places = {}
  for path in pairs(texts) do
    local place, name = path:match("^(.*/([^/]+))%.[ch]$")
    local other = places[name]
    if other and other ~= place then
      complain("%s and %s have the same name", other, place)
    end
    places[name] = place
  end
end

local function each_type(texts, found)
  for path, text in pairs(texts) do
    for kind, name in text:gmatch "%f[^\n](%l+) ([%w_]+) {" do
      if (kind == "struct" or kind == "enum") and not path:find "^src/serve/" then
        found(kind .. " " .. name, path)
      end
    end
  end
end

local function check_types(texts)
  local owners = {}
  each_type(texts, function(type, path)
    if path:find "%.h$" then owners[type] = path end
  end)
  each_type(texts, function(type, path)
    local owner = owners[type]
    if owner and owner ~= path then complain("%s and %s both define %s", owner, path, type) end
  end)
end

-- A module that is not installed is there in the tree only.
local function check_installed(texts)
  local build = read "lua/meson.build"
  for path in pairs(texts) do
    local name = path:match "^lua/(.*)$"
    if not build:find("'" .. name .. "'", 1, true) then complain("lua/meson.build does not install %s", name) end
  end
end

-- The two rules that matter most, whatever the page says.
local function check_foundations(rows)
  if rows["src/parent"].lua then complain("%s lets src/parent use lua", DESIGN) end
  if rows["src/template"].libuv then complain("%s lets src/template use libuv", DESIGN) end
end

local rows = parse_table()
check_foundations(rows)
local texts = read_all "find src -name '*.[ch]'"
local folders = {}
for _, folder in ipairs(lines_of "find src -mindepth 1 -maxdepth 1 -type d") do
  folders[folder] = true
  if rows[folder] then
    check_folder(folder, rows[folder], texts)
  elseif #lines_of("ls -A " .. folder) > 0 then
    complain("%s has no row in the table of %s", folder, DESIGN)
  end
end
for folder in pairs(rows) do
  if not folders[folder] then complain("%s: there is no folder %s", DESIGN, folder) end
end
check_circles(texts)
check_subfolders(texts)
check_lengths(texts)
check_lengths(read_all("find dev dev.d include test bench example packaging gdb " ..
  "-name '*.[ch]' -o -name '*.lua' -o -name '*.sh' -o -name '*.py' -o -name dev -type f"))
local modules = read_all "find lua -name '*.lua'"
check_lengths(modules)
check_installed(modules)
check_names(texts)
check_types(texts)
check.done()
