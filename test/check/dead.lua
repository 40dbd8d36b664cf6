-- dead.lua: is there code that nobody uses? A function that a header of src/ declares is called, or
-- its address taken, somewhere in src/ (the compiler looks after static ones), and a function that a
-- file of lua/ puts into a table is named a second time in lua/ or src/, or in a page of doc/.
local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

-- Programs end without them; the tests don't, and count what is left.
local FOR_TESTS = { mux_deinit = true, turn_deinit = true }

local function files(folder, pattern)
  local list = {}
  local find <close> = assert(io.popen(("find %s -type f -name '%s' | sort"):format(folder, pattern)))
  for path in find:lines() do list[#list + 1] = path end
  assert(#list > 0, folder)
  return list
end

-- ---- C ----

local function without_comments(text)
  return (text:gsub("/%*.-%*/", " "))
end

-- name -> the header that declares it; definitions and declarations begin at a line's begin,
-- uses never do.
local declared, used = {}, {}

local function look(path, is_header)
  for line in without_comments(read(path)):gmatch "[^\n]+" do
    local name = line:match "^%l[%w_ *]-[ *]([%l_][%w_]*)%("
    if not name then
      for word in line:gmatch "[%a_][%w_]*" do used[word] = true end
    elseif is_header and not line:find "^static " and not line:find "^typedef " then
      declared[name] = path
    end
  end
end

for _, path in ipairs(files("src", "*.h")) do look(path, true) end
for _, path in ipairs(files("src", "*.c")) do look(path, false) end

local function sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local nfunctions = 0
for _, name in ipairs(sorted(declared)) do
  nfunctions = nfunctions + 1
  if not used[name] and not FOR_TESTS[name] then
    complain("%s declares %s, which nothing in src/ uses", declared[name], name)
  elseif used[name] and FOR_TESTS[name] then
    complain("%s is used: take it off the list of test/check/dead.lua", name)
  end
end
assert(nfunctions > 1000, "this check does not understand the headers any more")

-- ---- Lua ----

local counts = {}
for _, set in ipairs { files("lua", "*.lua"), files("src", "*.c"), files("doc", "*.md") } do
  for _, path in ipairs(set) do
    for word in read(path):gmatch "[%a_][%w_]*" do counts[word] = (counts[word] or 0) + 1 end
  end
end
for _, path in ipairs(files("lua", "*.lua")) do
  local text = "\n" .. read(path)
  for name in text:gmatch "\n%s*function [%w_.]+[.:]([%w_]+)%(" do
    if counts[name] < 2 then complain("%s: nothing uses %s", path, name) end
  end
  for name in text:gmatch "\n%s*[%a_][%w_]*%.([%w_]+) = function" do
    if counts[name] < 2 then complain("%s: nothing uses %s", path, name) end
  end
end

check.done()
